"""The summary of an audit as text, and pairs of similar class names."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

from bilinear_cli.errors import printable

MIN_TRAIN = 5  # training photos of a class: the folds of `train`
MAX_ITEMS = 10  # of each list in the text
MAX_PHOTOS = 4  # of each set of duplicates in the text
MAX_CLASSES = 3  # at each end of the table in the text
MIN_LETTERS = 4  # of similar names: cat and bat differ in one letter


def format_audit(summary: dict[str, Any]) -> str:
    """Return the summary as lines for a terminal; control characters in names become `?`."""
    lists = {
        "unreadable photos (extract stops at them)": _photo_lines(summary["unreadable"]),
        f"classes with fewer than {MIN_TRAIN} training photos": summary["small_classes"],
        "classes without a test photo": summary["untested_classes"],
        "pairs of class names that look alike": [*map(" | ".join, summary["alike_classes"])],
        "sets of identical files": _duplicate_lines(summary["exact_duplicates"]),
        "sets of near duplicates": _duplicate_lines(summary["near_duplicates"]),
        "unusual photos": _photo_lines(summary["odd"]),
    }
    lines = [*_class_lines(summary)]
    for title, items in lists.items():
        if items:
            lines += ["", f"{title}: {len(items):,}", *(f"  {item}" for item in items[:MAX_ITEMS])]
        if len(items) > MAX_ITEMS:
            lines.append(f"  and {len(items) - MAX_ITEMS:,} more, see --json")
    empty = [title.partition(" (")[0] for title, items in lists.items() if not items]
    lines += ["", f"no problem of these kinds: {'; '.join(empty)}"] if empty else []
    return "\n".join(map(printable, lines))


def _class_lines(summary: dict[str, Any]) -> Iterator[str]:
    rows = sorted(summary["classes"].items(), key=lambda row: sum(row[1].values()))
    train, test = (sum(n_photos[split] for _, n_photos in rows) for split in ("train", "test"))
    yield (
        f"{summary['photos']:,} photos of {len(rows):,} classes: {train:,} for training, "
        f"{test:,} for testing (split: {summary['split']})"
    )
    if len(rows) > 2 * MAX_CLASSES + 1:
        rows = [*rows[:MAX_CLASSES], ("...", {}), *rows[-MAX_CLASSES:]]
    width = max(len(name) for name, _ in rows)
    yield ""
    for name, cells in [("class", {"train": "train", "test": "test"}), *rows]:
        yield f"{name:{width}}  {cells.get('train', ''):>6}  {cells.get('test', ''):>6}".rstrip()


def _photo_lines(photos: list[dict[str, str]]) -> list[str]:
    pairs = [(photo["path"], photo["reason"]) for photo in photos]
    return [reason if path in reason else f"{path}: {reason}" for path, reason in pairs]


def _duplicate_lines(sets: list[dict[str, Any]]) -> list[str]:
    """Return a line per set of duplicates, the worst first: wrong labels, then leaks."""
    lines = []
    for x in sorted(sets, key=lambda x: (not x["across_classes"], not x["across_splits"])):
        photos = [f"{p['path']} ({p['label']}, {p['split']})" for p in x["photos"]]
        notes = {"IN SEVERAL CLASSES": x["across_classes"], "IN TRAIN AND TEST": x["across_splits"]}
        note = ", ".join(text for text, applies in notes.items() if applies)
        n_more = len(photos) - MAX_PHOTOS
        more = [f"{n_more} more"] if n_more > 0 else []
        lines.append((note and f"{note}: ") + " and ".join(photos[:MAX_PHOTOS] + more))
    return lines


def similar_names(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs of names that may be meant as one.

    Such names differ only in case, blanks, punctuation, accents or a leading number, and in at
    most one letter or two swapped neighbours. Names with different numbers are not similar.
    """
    texts = {name: _normalise(name) for name in names}
    names_of: dict[str, set[str]] = defaultdict(set)
    for name, text in texts.items():
        # texts that differ in one letter are the same text without this letter
        shorter = [text[:i] + text[i + 1 :] for i in range(len(text)) if len(text) >= MIN_LETTERS]
        for key in (text, *shorter):
            names_of[key].add(name)
    pairs = {pair for same in names_of.values() for pair in combinations(sorted(same), 2)}
    return sorted(pair for pair in pairs if _is_slip(*(texts[name] for name in pair)))


def _normalise(name: str) -> str:
    """Return the letters and digits of a name in lower case, without accents or leading number."""
    name = re.sub(r"^\d+[\W_]+(?=.*[^\W\d_])", "", name)
    letters = unicodedata.normalize("NFKD", name.casefold())
    return "".join(c for c in letters if c.isalnum()) or name


def _is_slip(first: str, second: str) -> bool:
    """Return whether two texts of a common key differ in one letter or two swapped neighbours."""
    if re.sub(r"\D", "", first) != re.sub(r"\D", "", second):
        return False
    if len(first) != len(second):
        return True  # one of them is the other without one letter
    i = next((i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b), 0)
    swapped = first[:i] + first[i : i + 2][::-1] + first[i + 2 :]
    return second in (swapped, first[:i] + second[i : i + 1] + first[i + 1 :])
