"""What was guessed or left out when photos were read: one warning a reason, and not one a photo."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from os import PathLike
from typing import Any, NamedTuple

log = logging.getLogger(__name__)


class Note(NamedTuple):
    """What a person should know about the way a photo was read.

    Attributes:
        reason: the same text for all photos that it applies to.
        detail: the figure of this photo, or empty.
    """

    reason: str
    detail: str = ""

    def __str__(self) -> str:
        """Return the reason and the detail."""
        return f"{self.reason} ({self.detail})" if self.detail else self.reason


class PhotoNotes:
    """The notes of many photos: for each reason the first photo, and the number of photos."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[str, Note]] = {}
        self._counts: Counter[str] = Counter()

    def add(self, photo: Any, notes: Iterable[Note]) -> None:
        """Add the notes of a photo: a path, or an array or an image without a name."""
        name = str(photo) if isinstance(photo, str | PathLike) else "an image"
        for note in notes:
            self._first.setdefault(note.reason, (name, note))
            self._counts[note.reason] += 1

    def log(self) -> None:
        """Log a warning for each reason."""
        for reason, (name, note) in self._first.items():
            n_more = self._counts[reason] - 1
            more = f". The same applies to {n_more} more photos" if n_more else ""
            log.warning("%s: %s%s", name, note, more)


@contextmanager
def logged_notes() -> Iterator[PhotoNotes]:
    """Yield an empty collection of notes, which is logged at the end."""
    notes = PhotoNotes()
    try:
        yield notes
    finally:
        notes.log()
