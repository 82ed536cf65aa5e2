"""The row of a photo set, and the CSV that the program writes: path,label,split,group."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class PhotoRecord(NamedTuple):
    """A photo of a photo set."""

    path: str  # POSIX, relative to the folder of the set
    label: str  # name of its class
    split: str = ""  # `train` or `test`; empty in all rows of a set that has no split of its own
    group: str = ""  # empty if the photo is a group of its own


def manifest_csv(rows: Iterable[Sequence[str]]) -> str:
    """Return rows of path, label, split and group as the text of a manifest."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([PhotoRecord._fields, *rows])
    return text.getvalue()
