"""The summary of an audit as text, grouped by what to do, and pairs of similar class names."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from bilinear_cli.messages import abbreviate, printable
from bilinear_cli.photos.names import appearance, show_difference
from bilinear_cli.photos.photo_set import MAX_CLASS_RATIO

MIN_TRAIN = 5  # training photos of a class: the folds of `train`
MIN_LETTERS = 4  # of similar names: cat and bat differ in one letter
SMALL, LONG, ONE_COLOUR = RANKED = ("small", "long", "one colour")  # kinds of odd photos
# Limits of the text: a set with every kind of problem fits on one screen of 40 lines.
MAX_FINDINGS = 5  # of a group
MAX_EXAMPLES = 3  # of the findings of a group, on lines of their own
MAX_NAMES = 3  # on one line, and at each end of the classes
MAX_PHOTOS = 2  # of a set of duplicates
MAX_NAME = 48  # characters of a path or the name of a class
MAX_REASON = 120  # characters


class Finding(NamedTuple):
    """What the audit found of one kind of problem."""

    kind: str
    text: str  # how many, and which; empty: there is no such problem
    examples: Sequence[str] = ()


def format_audit(summary: dict[str, Any]) -> str:
    """Return the summary as lines for a terminal; see `printable`."""
    groups = {
        "Repair or remove (extract stops at these)": [_unreadable(summary)],
        "Decide which label or which name is right": [*_contradictions(summary)],
        "Keep together (--groups FILE.csv writes a photo set that does)": [_duplicates(summary)],
        "Collect more photos": [*_class_sizes(summary)],
        "Look at these photos": [*_odd(summary)],
        "Left out of the photo set": [*_left_out(summary)],
    }
    lines = [*_class_lines(summary), ""]
    for title, findings in groups.items():
        lines += _group_lines(title, [finding for finding in findings if finding.text])
    every = [finding for findings in groups.values() for finding in findings]
    if fine := [finding.kind for finding in every if not finding.text]:
        lines.append(f"No problem of these kinds: {'; '.join(fine)}")
    if len(fine) < len(every):
        lines.append("For complete lists, give --json.")
    return "\n".join(map(printable, lines))


def _group_lines(title: str, findings: list[Finding]) -> list[str]:
    """Return the findings of a group that have a text; the more there are, the fewer examples."""
    if not findings:
        return []
    n_shown = MAX_FINDINGS if len(findings) <= MAX_FINDINGS else MAX_FINDINGS - 1
    lines = [f"{title}:"]
    for kind, text, examples in findings[:n_shown]:
        lines.append(f"  {kind}: {text}")
        lines += [f"    {example}" for example in examples[: MAX_EXAMPLES // len(findings)]]
    if more := [finding.kind for finding in findings[n_shown:]]:
        lines.append(f"  and {len(more)} more kinds: {abbreviate(more)}")
    return lines


def _class_lines(summary: dict[str, Any]) -> Iterator[str]:
    rows = sorted(
        ((n["train"], n["test"], name) for name, n in summary["classes"].items()), reverse=True
    )
    train, test = (sum(row[i] for row in rows) for i in range(2))
    yield (
        f"{summary['photos']:,} photos of {len(rows):,} classes: {train:,} for training, "
        f"{test:,} for testing (split: {summary['split']})"
    )
    cells = [f"{_cut(name)} ({train:,} + {test:,})" for train, test, name in rows]
    if len(cells) <= 2 * MAX_NAMES:
        yield f"classes (training + test photos): {', '.join(cells)}"
    else:
        yield f"largest classes (training + test photos): {', '.join(cells[:MAX_NAMES])}"
        yield f"smallest classes: {', '.join(cells[-MAX_NAMES:])}"


def _unreadable(summary: dict[str, Any]) -> Finding:
    photos = summary["unreadable"]
    lines = []
    for path, reason in ((photo["path"], photo["reason"]) for photo in photos):
        _, has_path, rest = reason.rpartition(path)  # the reason starts with the absolute path
        text = rest.removeprefix(" as a photo") if has_path else f": {reason}"
        lines.append(_cut(path) + _cut(text, MAX_REASON))
    return Finding("unreadable photos", _count(photos), lines)


def _contradictions(summary: dict[str, Any]) -> Iterator[Finding]:
    sets = [x for x in _all_duplicates(summary) if x["across_classes"]]
    lines = [_duplicates_line(x, "label") for x in sets]
    yield Finding("sets of duplicates in several classes", _count(sets), lines)
    pairs = [_pair(*pair) for pair in summary["alike_classes"]]
    yield Finding("pairs of class names that look alike", _count(pairs), pairs)


def _pair(first: str, second: str) -> str:
    if appearance(first) == appearance(second):
        return _cut(show_difference(first, second), MAX_REASON)
    return f"{_cut(first)} | {_cut(second)}"


def _duplicates(summary: dict[str, Any]) -> Finding:
    sets = _all_duplicates(summary)
    # The worst first; sets in several classes are examples of another finding.
    sets.sort(key=lambda x: (not x["across_splits"], x["across_classes"]))
    n_leaks = sum(x["across_splits"] for x in sets)
    n_identical = len(summary["exact_duplicates"])
    note = f"{n_leaks:,} across train and test, {n_identical:,} of identical files"
    text = f"{len(sets):,} ({note})" if sets else ""
    return Finding("sets of duplicates", text, [_duplicates_line(x, "split") for x in sets])


def _all_duplicates(summary: dict[str, Any]) -> list[dict[str, Any]]:
    return [*summary["exact_duplicates"], *summary["near_duplicates"]]


def _duplicates_line(duplicates: dict[str, Any], key: str) -> str:
    """Return photos of a set of duplicates, at first one of each `label`, or of each `split`."""
    first = {photo[key]: photo for photo in reversed(duplicates["photos"])}
    photos = sorted(duplicates["photos"], key=lambda photo: photo is not first[photo[key]])
    texts = [f"{_cut(x['path'])} ({_cut(x['label'])}, {x['split']})" for x in photos]
    return abbreviate(texts, MAX_PHOTOS)


def _class_sizes(summary: dict[str, Any]) -> Iterator[Finding]:
    unequal = ""
    if summary["unequal_classes"]:
        smallest, largest = summary["unequal_classes"]
        n_smallest, n_largest = (summary["classes"][x]["train"] for x in (smallest, largest))
        unequal = (
            f"{_cut(largest)} has {n_largest:,} training photos, {_cut(smallest)} has "
            f"{n_smallest:,}: more than {MAX_CLASS_RATIO} : 1"
        )
    advice = (
        "Top-1 hides errors on small classes: look at the mean class accuracy, and try "
        "train --class-weight balanced"
    )
    yield Finding("unequal classes", unequal, [advice])
    for key, kind in (
        ("small_classes", f"classes with fewer than {MIN_TRAIN} training photos"),
        ("untested_classes", "classes without a test photo"),
    ):
        yield Finding(kind, _count_and_names(summary[key]))


def _odd(summary: dict[str, Any]) -> Iterator[Finding]:
    """Return a finding for each kind of odd photo, the most frequent first; or one without text."""
    counts = Counter(photo["kind"] for photo in summary["odd"])
    worst = {photo["kind"]: photo for photo in reversed(summary["odd"])}
    for kind, n_photos in counts.most_common():
        path, reason = _cut(worst[kind]["path"]), worst[kind]["reason"]
        measure = f" ({_cut(reason, MAX_REASON)})" if reason != kind else ""
        which = "the worst is" if kind in RANKED else "such as"
        yield Finding(kind, f"{n_photos:,}; {which} {path}{measure}")
    if not counts:
        yield Finding("unusual photos", "")


def _left_out(summary: dict[str, Any]) -> Iterator[Finding]:
    for row in summary["left_out"]:
        yield Finding(row["reason"], _count_and_names(row["paths"]))
    if not summary["left_out"]:
        yield Finding("files that are left out", "")


def _count(items: Sequence[Any]) -> str:
    return f"{len(items):,}" if items else ""


def _count_and_names(names: Sequence[str]) -> str:
    return f"{len(names):,} ({abbreviate(map(_cut, names), MAX_NAMES)})" if names else ""


def _cut(text: str, length: int = MAX_NAME) -> str:
    """Return a text of at most `length` characters: its middle is left out."""
    n_first = length // 3
    return text if len(text) <= length else f"{text[:n_first]}…{text[n_first + 1 - length :]}"


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
