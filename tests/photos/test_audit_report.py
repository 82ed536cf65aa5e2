"""Tests of the text of an audit, made from hand-written facts."""

from typing import Any

from bilinear_cli.photos.audit_report import format_audit

N_ODD = 700
KINDS = ("long", "one colour", "several pages", "small", "guessed bits", "colour profile")
LONG = "Very_long_name_of_a_folder_" * 9


def duplicates(i: int, across_splits: bool, across_classes: bool) -> dict[str, Any]:
    labels, splits = ("wren", "robin"), ("train", "test")
    photos = [
        {
            "path": f"{LONG}/{i} {copy}.jpg",
            "label": LONG + labels[copy == 8 and across_classes],
            "split": splits[copy == 8 and across_splits],
        }
        for copy in range(9)
    ]
    return {"across_splits": across_splits, "across_classes": across_classes, "photos": photos}


def facts(**changes: Any) -> dict[str, Any]:
    """Return the facts of a set with 20 classes and every kind of problem, many times."""
    paths = [f"{LONG}/{i}.jpg" for i in range(N_ODD)]
    classes = {f"{LONG}{i}": {"train": 20 * i + 1, "test": i} for i in range(20)}
    every_kind = [(a, b) for a in (False, True) for b in (False, True)]
    sets = [duplicates(i, *every_kind[i % 4]) for i in range(40)]
    return {
        "data": "birds",
        "photos": 9000,
        "split": "seed 0",
        "classes": classes,
        "unequal_classes": [f"{LONG}0", f"{LONG}19"],
        "small_classes": [*classes],
        "untested_classes": [*classes],
        "alike_classes": [[x, x] for x in classes],
        "left_out": [{"reason": f"reason {i}", "count": N_ODD, "paths": paths} for i in range(7)],
        "unreadable": [{"path": x, "reason": f"cannot read /{x}: {LONG}"} for x in paths],
        "exact_duplicates": sets[:20],
        "near_duplicates": sets[20:],
        "odd": [{"path": x, "kind": kind, "reason": LONG} for kind in KINDS for x in paths],
        "reading_seconds": 1.0,
        **changes,
    }


def test_a_set_with_every_problem_fits_on_a_screen() -> None:
    lines = format_audit(facts()).splitlines()
    assert len(lines) <= 40 - 3  # `check` prints three lines about the cost of extract
    assert max(map(len, lines)) < 300


def test_odd_photos_are_a_count_and_the_worst_of_each_kind() -> None:
    odd = [
        {"path": f"{i}.jpg", "kind": kind, "reason": f"{i} pixels"}
        for kind, n in (("long", 2), ("small", N_ODD))
        for i in range(n)
    ]
    lines = [x for x in format_audit(facts(odd=odd)).splitlines() if ".jpg (" in x and "0 p" in x]
    assert [(x.split(":")[0].strip(), x.count("0.jpg")) for x in lines] == [
        ("small", 1),
        ("long", 1),
    ]
    assert f" {N_ODD};" in lines[0]
    assert lines[0].count("worst") == 1


def test_of_a_kind_without_a_measure_one_photo_is_an_example() -> None:
    text = format_audit(facts(odd=[{"path": "a.tif", "kind": LONG, "reason": LONG}]))
    (line,) = (line for line in text.splitlines() if "a.tif" in line)
    assert line.count(LONG[:20]) == LONG.count(LONG[:20])
    assert "worst" not in line


def test_kinds_beyond_the_limit_are_named() -> None:
    text = format_audit(facts())
    assert all(kind in text for kind in KINDS)
    assert all(f"reason {i}" in text for i in range(7))


def test_the_worst_duplicates_are_shown_first() -> None:
    sets = [duplicates(0, False, False), duplicates(1, True, False), duplicates(2, False, True)]
    text = format_audit(facts(exact_duplicates=sets, near_duplicates=[]))
    decide, keep = text.split("sets of duplicates in several classes: 1")[1].split("--groups")
    assert decide.index("/2 0.jpg") < decide.index("/2 8.jpg")
    assert keep.index("/1 0.jpg") < keep.index("/1 8.jpg") < keep.index("/0 0.jpg")
    assert "3 (1 across train and test, 3 of identical files)" in keep


def test_groups_without_a_finding_are_one_line() -> None:
    keys = ("unequal_classes", "small_classes", "untested_classes", "alike_classes", "left_out")
    keys += ("unreadable", "exact_duplicates", "near_duplicates", "odd")
    _, _, _, blank, fine = format_audit(facts(**dict.fromkeys(keys, ()))).splitlines()
    assert blank == ""
    assert "--json" not in fine
