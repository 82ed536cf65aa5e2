"""What a check found, as plain facts (for JSON), and those as text."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from bilinear_cli.errors import printable
from bilinear_cli.photos.check import Survey
from bilinear_cli.photos.dataset import Dataset
from bilinear_cli.photos.names import alike

FEW = 5  # training photos: fewer than the folds of `train`
SHOWN = 10  # lines of a list
ENDS = 3  # classes shown at either end of the table


def facts(dataset: Dataset, found: Survey) -> dict[str, Any]:
    """Return what was found as lists and dictionaries, fit for JSON."""
    counts = _counts(dataset)
    return {
        "data": dataset.spec,
        "photos": len(dataset),
        "split": "its own" if dataset.split_seed is None else f"seed {dataset.split_seed}",
        "classes": counts,
        "small_classes": [name for name, n in counts.items() if n["train"] < FEW],
        "untested_classes": [name for name, n in counts.items() if not n["test"]],
        "alike_classes": alike(dataset.class_names),
        "unreadable": _reasons(dataset, found.unreadable),
        "exact_duplicates": [_set(dataset, part) for part in found.exact],
        "near_duplicates": [_set(dataset, part) for part in found.near],
        "odd": _reasons(dataset, found.odd),
        "reading_seconds": round(found.seconds, 1),
    }


def _counts(dataset: Dataset) -> dict[str, dict[str, int]]:
    n = len(dataset.class_names)
    parts = {
        part: np.bincount(dataset.labels[dataset.split == part], minlength=n).tolist()
        for part in ("train", "test")
    }
    return {
        name: {part: of[i] for part, of in parts.items()}
        for i, name in enumerate(dataset.class_names)
    }


def _reasons(dataset: Dataset, reasons: dict[int, str]) -> list[dict[str, str]]:
    return [{"path": str(dataset.paths[i]), "reason": why} for i, why in reasons.items()]


def _set(dataset: Dataset, part: np.ndarray) -> dict[str, Any]:
    """Describe a set of duplicates; across splits it is a leak, across classes a wrong label."""
    photos = [
        {
            "path": str(dataset.paths[i]),
            "label": dataset.class_names[dataset.labels[i]],
            "split": str(dataset.split[i]),
        }
        for i in part
    ]
    return {
        "across_splits": len({photo["split"] for photo in photos}) > 1,
        "across_classes": len({photo["label"] for photo in photos}) > 1,
        "photos": photos,
    }


def as_text(said: dict[str, Any]) -> str:
    """Return facts as lines to read; names of strangers made fit for a terminal."""
    lists = {
        "photos that cannot be read, where extract stops": [*_why(said["unreadable"])],
        f"classes of fewer than {FEW} training photos": said["small_classes"],
        "classes without a test photo": said["untested_classes"],
        "pairs of class names that look alike": [*map(" | ".join, said["alike_classes"])],
        "sets of the same file": _sets(said["exact_duplicates"]),
        "sets of nearly the same photo": _sets(said["near_duplicates"]),
        "odd photos": [*_why(said["odd"])],
    }
    lines = [*_classes(said)]
    for title, found in lists.items():
        lines += _listed(title, found) if found else []
    none = [title for title, found in lists.items() if not found]
    lines += ["", f"none: {'; '.join(none)}"] if none else []
    return "\n".join(map(printable, lines))


def _classes(said: dict[str, Any]) -> Iterator[str]:
    rows = sorted(said["classes"].items(), key=lambda row: sum(row[1].values()))
    sums = {part: sum(n[part] for _, n in rows) for part in ("train", "test")}
    yield (
        f"{said['photos']:,} photos of {len(rows):,} classes: {sums['train']:,} to train on, "
        f"{sums['test']:,} to test (split: {said['split']})"
    )
    if len(rows) > 2 * ENDS + 1:
        rows = [*rows[:ENDS], ("...", {}), *rows[-ENDS:]]
    width = max(len(name) for name, _ in rows)
    yield ""
    for name, n in [("class", {"train": "train", "test": "test"}), *rows]:
        yield f"{name:{width}}  {n.get('train', ''):>6}  {n.get('test', ''):>6}".rstrip()


def _why(reasons: list[dict[str, str]]) -> Iterator[str]:
    for found in reasons:
        path, why = found["path"], found["reason"]
        yield why if path in why else f"{path}: {why}"


def _sets(sets: list[dict[str, Any]]) -> list[str]:
    """Tell of duplicates, the worst first: wrong labels, then leaks."""
    ranked = sorted(sets, key=lambda s: (not s["across_classes"], not s["across_splits"]))
    return [*map(_photos, ranked)]


def _photos(found: dict[str, Any]) -> str:
    photos = found["photos"]
    across = [what for what in ("classes", "splits") if found[f"across_{what}"]]
    shown = [f"{photo['path']} ({photo['label']}, {photo['split']})" for photo in photos[:4]]
    more = [f"{len(photos) - 4} more"] if len(photos) > 4 else []
    note = f"ACROSS {' AND '.join(across).upper()}: " if across else ""
    return note + " = ".join(shown + more)


def _listed(title: str, found: list[str]) -> list[str]:
    """Return a title with a number, and the first few of what was found below it."""
    shown = [f"  {line}" for line in found[:SHOWN]]
    if len(found) > SHOWN:
        shown.append(f"  and {len(found) - SHOWN:,} more, see --json")
    return ["", f"{title}: {len(found):,}", *shown]
