"""Names of photos and classes: which can be stored, and which a person takes for the same."""

import logging
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from itertools import combinations

from bilinear_cli.errors import BilinearError
from bilinear_cli.messages import encoding_fault

log = logging.getLogger(__name__)

# Cyrillic and Greek letters, and hyphens -> what they look like in most fonts
LATIN = str.maketrans(
    "АВЕЅІЈКМНОРСТУХаесѕіјорухһԁӏΑΒΕΖΗΙΚΜΝΟΡΤΥΧο‐‑",  # noqa: RUF001
    "ABESIJKMHOPCTYXaecsijopyxhdlABEZHIKMNOPTYXo--",
)
MAX_POINTS = 6  # of a name, in a message


def check_names(names: Iterable[str], spec: str) -> None:
    """Raise if a name cannot be stored in a feature file."""
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            reason = encoding_fault(name, sys.getfilesystemencoding())
            raise BilinearError(f"{spec}: {reason}") from None


def warn_of_lookalikes(names: Iterable[str], spec: str) -> None:
    """Warn of classes that a person cannot tell apart by their names."""
    if pairs := same_looking(names):
        more = f" (and {len(pairs) - 1} more)" if len(pairs) > 1 else ""
        message = "%s: %s look the same but are different classes%s. Rename one of them."
        log.warning(message, spec, show_difference(*pairs[0]), more)


def same_looking(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return the pairs of different names that look the same."""
    names_of: dict[str, set[str]] = defaultdict(set)
    for name in names:
        names_of[appearance(name)].add(name)
    return [pair for same in names_of.values() for pair in combinations(sorted(same), 2)]


def appearance(name: str) -> str:
    """Return a text that is the same for all names that look like this one.

    It has composed accents, one kind of blank, no blanks at its ends, nothing that is not visible,
    and Latin letters for those of other alphabets that look like them.
    """
    visible = (c for c in name if c.isspace() or unicodedata.category(c) not in ("Cc", "Cf"))
    text = unicodedata.normalize("NFC", " ".join("".join(visible).split()))
    return text.translate(LATIN)


def show_difference(first: str, second: str) -> str:
    """Return two names, each with the code points of the part in which they differ."""
    start = _n_common(first, second)
    ends = first[start:], second[start:]
    n_same = _n_common(*(end[::-1] for end in ends))
    differing = (end[: len(end) - n_same] for end in ends)
    return " and ".join(map(_with_code_points, (first, second), differing))


def _n_common(first: str, second: str) -> int:
    """Return with how many common characters two texts begin."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


def _with_code_points(name: str, differing: str) -> str:
    points = " ".join(f"U+{ord(c):04X}" for c in differing[:MAX_POINTS])
    more = "..." if len(differing) > MAX_POINTS else ""
    return f"{name!r} ({points}{more})" if differing else repr(name)
