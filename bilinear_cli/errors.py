"""What can go wrong, as one clear line: what is wrong, where, and what to do next."""

from collections.abc import Collection, Iterable
from difflib import get_close_matches


class BilinearError(Exception):
    """A fault in the data or at run time; the command line prints it and exits with 1."""

    exit_code = 1


class UsageError(BilinearError):
    """A command that cannot be meant; exits with 2."""

    exit_code = 2


class BadPhotoError(BilinearError):
    """A file that cannot be read as a photo."""


class FeatureFileError(BilinearError):
    """A feature file that is missing, damaged, incomplete, or not ours."""


class InUseError(FeatureFileError):
    """A feature file that another run is writing: waiting may help."""


def validate_choice(kind: str, word: str, known: Collection[str]) -> str:
    """Return `word` if it is in `known`.

    Raises:
        UsageError: `word` is unknown; the message names the nearest known one.
    """
    if word in known:
        return word
    near = nearest(word, known)
    hint = f"did you mean {near!r}? " if near else ""
    raise UsageError(f"no {kind} is called {word!r}: {hint}(there are {', '.join(known)})")


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the one of `known` that `word` is a misspelling of; empty if it is of none."""
    return next(iter(get_close_matches(word, list(known), n=1, cutoff=0.5)), "")


def abbreviate(names: Iterable[str], most: int = 5) -> str:
    """Return the first few of `names`, and how many more there are, for a message."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def truncate(text: str, most: int = 60) -> str:
    """Return text of strangers cut to so many characters, for a table."""
    return text if len(text) <= most else text[: most - 1] + "…"


def printable(text: str) -> str:
    """Return text of strangers fit for a terminal: what steers it, and new lines, as `?`."""
    return "".join(c if c.isprintable() else "?" for c in text)
