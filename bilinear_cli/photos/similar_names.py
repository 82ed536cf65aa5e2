"""Class names that look alike, and may be meant as one."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

SHORTEST = 4  # letters; one letter tells cat from bat


def alike(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs of names that are written alike.

    Those are names that differ in case, blanks, punctuation, accents or a leading number alone, or
    in one letter besides, or two neighbours swapped. Names whose numbers differ are not alike.
    """
    plain = {name: _plain(name) for name in names}
    at: dict[str, set[str]] = defaultdict(set)
    for name, text in plain.items():
        # two texts that differ in one letter share what is left without it
        shorter = [text[:i] + text[i + 1 :] for i in range(len(text)) if len(text) >= SHORTEST]
        for key in (text, *shorter):
            at[key].add(name)
    pairs = {pair for same in at.values() for pair in combinations(sorted(same), 2)}
    return sorted(pair for pair in pairs if _is_slip(*(plain[name] for name in pair)))


def _plain(name: str) -> str:
    """Return the letters and digits of a name, small, without accents or a leading number."""
    name = re.sub(r"^\d+[\W_]+(?=.*[^\W\d_])", "", name)
    letters = unicodedata.normalize("NFKD", name.casefold())
    return "".join(c for c in letters if c.isalnum()) or name


def _is_slip(first: str, second: str) -> bool:
    """Return whether two texts are the same, or a letter apart, or two neighbours swapped."""
    if re.sub(r"\D", "", first) != re.sub(r"\D", "", second):
        return False
    if len(first) != len(second):
        return True  # they share a text without one letter, which is then one of them
    differing = [i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b]
    if len(differing) < 2:
        return True
    i, j = differing[0], differing[-1]
    return j == i + 1 and first[i] == second[j] and first[j] == second[i]
