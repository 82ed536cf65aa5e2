"""What a check found, as plain facts (for JSON), and those as text."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from bilinear_cli.errors import printable
from bilinear_cli.photos.audit import Audit
from bilinear_cli.photos.photo_set import PhotoSet, count_photos
from bilinear_cli.photos.similar_names import alike

FEW = 5  # training photos: fewer than the folds of `train`
SHOWN = 10  # lines of a list
ENDS = 3  # classes shown at either end of the table


def facts(photo_set: PhotoSet, found: Audit) -> dict[str, Any]:
    """Return what was found as lists and dictionaries, fit for JSON."""
    names = np.array(photo_set.class_names)
    counts = count_photos(names[photo_set.labels], photo_set.split, names)
    return {
        "data": photo_set.spec,
        "photos": len(photo_set),
        "split": "its own" if photo_set.split_seed is None else f"seed {photo_set.split_seed}",
        "classes": counts,
        "small_classes": [name for name, n in counts.items() if n["train"] < FEW],
        "untested_classes": [name for name, n in counts.items() if not n["test"]],
        "alike_classes": alike(photo_set.class_names),
        "unreadable": _reasons(photo_set, found.unreadable),
        "exact_duplicates": [_set(photo_set, part) for part in found.exact],
        "near_duplicates": [_set(photo_set, part) for part in found.near],
        "odd": _reasons(photo_set, found.odd),
        "reading_seconds": round(found.seconds, 1),
    }


def _reasons(photo_set: PhotoSet, reasons: dict[int, str]) -> list[dict[str, str]]:
    return [{"path": str(photo_set.paths[i]), "reason": why} for i, why in reasons.items()]


def _set(photo_set: PhotoSet, part: np.ndarray) -> dict[str, Any]:
    """Describe a set of duplicates; across splits it is a leak, across classes a wrong label."""
    photos = [
        {
            "path": str(photo_set.paths[i]),
            "label": photo_set.class_names[photo_set.labels[i]],
            "split": str(photo_set.split[i]),
        }
        for i in part
    ]
    return {
        "across_splits": len({photo["split"] for photo in photos}) > 1,
        "across_classes": len({photo["label"] for photo in photos}) > 1,
        "photos": photos,
    }


def as_text(facts: dict[str, Any]) -> str:
    """Return facts as lines to read; names of strangers made fit for a terminal."""
    lists = {
        "photos that cannot be read, where extract stops": _why(facts["unreadable"]),
        f"classes of fewer than {FEW} training photos": facts["small_classes"],
        "classes without a test photo": facts["untested_classes"],
        "pairs of class names that look alike": [*map(" | ".join, facts["alike_classes"])],
        "sets of the same file": _duplicates(facts["exact_duplicates"]),
        "sets of nearly the same photo": _duplicates(facts["near_duplicates"]),
        "odd photos": _why(facts["odd"]),
    }
    lines = [*_classes(facts)]
    for title, items in lists.items():
        if items:
            lines += ["", f"{title}: {len(items):,}", *(f"  {item}" for item in items[:SHOWN])]
        if len(items) > SHOWN:
            lines.append(f"  and {len(items) - SHOWN:,} more, see --json")
    none = [title for title, items in lists.items() if not items]
    lines += ["", f"none: {'; '.join(none)}"] if none else []
    return "\n".join(map(printable, lines))


def _classes(facts: dict[str, Any]) -> Iterator[str]:
    rows = sorted(facts["classes"].items(), key=lambda row: sum(row[1].values()))
    train, test = (sum(n[split] for _, n in rows) for split in ("train", "test"))
    yield (
        f"{facts['photos']:,} photos of {len(rows):,} classes: {train:,} to train on, "
        f"{test:,} to test (split: {facts['split']})"
    )
    if len(rows) > 2 * ENDS + 1:
        rows = [*rows[:ENDS], ("...", {}), *rows[-ENDS:]]
    width = max(len(name) for name, _ in rows)
    yield ""
    for name, n in [("class", {"train": "train", "test": "test"}), *rows]:
        yield f"{name:{width}}  {n.get('train', ''):>6}  {n.get('test', ''):>6}".rstrip()


def _why(photos: list[dict[str, str]]) -> list[str]:
    pairs = [(photo["path"], photo["reason"]) for photo in photos]
    return [reason if path in reason else f"{path}: {reason}" for path, reason in pairs]


def _duplicates(sets: list[dict[str, Any]]) -> list[str]:
    """Tell of duplicates, the worst first: wrong labels, then leaks."""
    lines = []
    for one in sorted(sets, key=lambda s: (not s["across_classes"], not s["across_splits"])):
        photos = [f"{p['path']} ({p['label']}, {p['split']})" for p in one["photos"]]
        across = [what.upper() for what in ("classes", "splits") if one[f"across_{what}"]]
        note = f"ACROSS {' AND '.join(across)}: " if across else ""
        more = [f"{len(photos) - 4} more"] if len(photos) > 4 else []
        lines.append(note + " = ".join(photos[:4] + more))
    return lines
