"""Tests of the report's figures and photos: those of a run of which everything is known."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from support.commands import run_command
from support.errors import assert_names, warnings
from support.pages import Element, cells, markdown_cells, markdown_tables, numbers, parse
from support.photos import make_photo
from support.runs import CLASSES, TEMPERATURE, make_run, replace_photos, report_html

PHOTOS = {  # photo -> (label, predicted class, its score)
    "test": {
        **{"t0": (0, 1, 3), "t1": (0, 1, 5), "t2": (0, 0, 4), "t3": (0, 0, 6)},
        **{"t4": (1, 1, 2), "t5": (1, 1, 7), "t6": (2, 0, 1), "t7": (2, 2, 9)},
    },
    "oof": {"o0": (1, 2, 8), "o1": (0, 0, 9), "o2": (1, 1, 9), "o3": (0, 1, 9)},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run with the scores of `PHOTOS`; the photos are missing."""
    folder = make_run(tmp_path_factory.mktemp("facts") / "run", photos=False)
    for name, photos in PHOTOS.items():
        labels, predicted, score = map(np.array, zip(*photos.values(), strict=True))
        scores = (score[:, None] * np.eye(3)[predicted]).astype(np.float32)
        replace_photos(folder, name, scores, labels, [*photos])
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> Element:
    return parse(report_html(run))


@pytest.fixture
def calibration_rows(run: Path) -> list[list[str]]:
    """Return the figures before and after the temperature, as a report shows them."""
    calibration = json.loads((run / "metrics.json").read_text())["calibration"]
    return [
        [
            *(f"{calibration[when][name]:.4f}" for name in ("log_loss", "brier", "ece")),
            "{:.3f}-{:.3f}".format(*calibration[when]["ece_ci95"]),
        ]
        for when in ("before", "after")
    ]


def test_pairs_have_their_counts_and_photos(page: Element) -> None:
    pairs = []
    for article in page.section("pairs").all("article", class_="pair"):
        heading, sides = article.one("h3"), article.one("div", class_="sides").all("div")
        photos = [re.findall(r"\bt\d\b", side.text) for side in sides if side.all("p")]
        pairs.append(([name.text for name in heading.all("bdi")], numbers(heading), photos))
    assert pairs == [
        (["auk", "crow"], [2, 4], [["t1", "t0"], ["t5", "t4"]]),
        (["wren", "auk"], [1, 2], [["t6"], ["t3", "t2"]]),
    ]


def test_errors_are_ordered_by_probability(page: Element) -> None:
    photos = [
        ("auk", "crow", 9, "train", "o3"),
        ("crow", "wren", 8, "train", "o0"),
        ("auk", "crow", 5, "test", "t1"),
        ("auk", "crow", 3, "test", "t0"),
        ("wren", "auk", 1, "test", "t6"),
    ]
    cards = page.section("errors").all("li", class_="card")
    for card, (label, predicted, score, split, path) in zip(cards, photos, strict=True):
        total = np.exp(score / TEMPERATURE) + 2
        rows = [label, 1 / total], [predicted, np.exp(score / TEMPERATURE) / total]
        expected = [f"{name} {probability:.3f}" for name, probability in rows]
        assert [value.text for value in card.all("dd")] == [*expected, path]
        assert re.search(rf"\b{split}\b", card.all("dt")[2].text)


def test_classes_are_ordered_by_accuracy(page: Element) -> None:
    assert cells(page.section("classes").one("table")) == [
        ["auk", "0.500", "2", "4", "crow", "2"],
        ["wren", "0.500", "1", "2", "auk", "1"],
        ["crow", "1.000", "2", "2", "", ""],
    ]


def test_calibration_is_shown_before_and_after(
    page: Element, calibration_rows: list[list[str]]
) -> None:
    section = page.section("calibration")
    assert [row[1:] for row in cells(section.one("table"))] == calibration_rows
    (drawing,) = (element for element in section if element.attributes.get("role") == "img")
    assert all(f"{float(row[2]):.3f}" in drawing["aria-label"] for row in calibration_rows)
    assert f"{TEMPERATURE:g}" in section.text


def test_the_matrix_has_its_classes_beside_its_rows(page: Element) -> None:
    matrix = page.section("matrix").one("table", class_="matrix")
    order = [head["title"] for head in matrix.all("abbr")]
    assert sorted(order) == [*CLASSES]
    counts = {("auk", "auk"): 2, ("auk", "crow"): 2, ("crow", "crow"): 2}
    counts |= {("wren", "auk"): 1, ("wren", "wren"): 1}
    for i, (true, row) in enumerate(zip(order, matrix.one("tbody").all("tr"), strict=True)):
        assert row.one("th").text == f"{i + 1} {true}"
        for predicted, cell in zip(order, row.all("td"), strict=True):
            count = counts.get((true, predicted))
            kind = "right" if true == predicted else "wrong"
            assert cell.text == str(count or "")
            assert cell.attributes.get("class") == (f"cell {kind}" if count else None)


def test_markdown_has_the_same_figures(run: Path, calibration_rows: list[list[str]]) -> None:
    text = run_command("report", run, "--format", "md").stdout
    tables = [markdown_cells(lines[2:]) for lines in markdown_tables(text)]
    pairs, classes, calibration = tables[1:]
    assert pairs == [["auk", "crow", "2"], ["wren", "auk", "1"]]
    assert classes == [["auk", "4", "0.500"], ["wren", "2", "0.500"], ["crow", "2", "1.000"]]
    assert [row[1:] for row in calibration] == calibration_rows
    assert text.endswith(
        "    bilinear extract -o 'x y.h5'\n    bilinear train --features 'x y.h5'\n"
    )


@pytest.mark.slow
def test_pairs_and_errors_are_limited(tmp_path: Path) -> None:
    classes = [f"class {i}" for i in range(30)]
    run = make_run(tmp_path / "run", classes, photos=False, per_class=8)
    page = parse(report_html(run))
    assert len(page.all("article", class_="pair")) == 20
    assert len(page.all("li", class_="card")) == 40
    markdown = run_command("report", run, "--format", "md").stdout
    assert [len(lines) - 2 for lines in markdown_tables(markdown)[1:3]] == [10, 30]


def test_a_class_without_test_photos_is_last_on_the_page_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ["auk", "crow", "wren"], photos=False)
    scores = 9 * np.eye(3, dtype=np.float32)[[0, 0, 2]]
    replace_photos(run, "test", scores, [0, 0, 2], ["a", "b", "c"])
    rows = cells(parse(report_html(run)).section("classes").one("table"))
    assert [row[:4] for row in rows][2] == ["crow", "-", "0", "0"]
    text = run_command("report", run, "--format", "md").stdout
    assert [row[0] for row in markdown_cells(markdown_tables(text)[1][2:])] == ["auk", "wren"]


@pytest.mark.slow
def test_missing_photos_are_named(page: Element, run: Path, tmp_path: Path) -> None:
    assert not page.all("img")
    warning = page.section("pairs").one("strong")
    assert warning.one("bdi").text == str(run.parent / "photos")
    assert 9 in numbers(warning)  # all but t7, o1 and o2
    complete = parse(report_html(make_run(tmp_path / "complete")))
    assert not complete.section("pairs").all("strong")
    assert complete.all("img")


def test_a_photo_that_was_replaced_is_named_and_not_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run(tmp_path / "run")
    before = parse(report_html(run))
    shown = before.section("errors").all("img")
    first = before.section("errors").all("dd", class_="path")[0].text
    make_photo(tmp_path / "photos" / first, seed=99)
    assert not warnings(caplog)
    after = parse(report_html(run))
    assert_names(*warnings(caplog), tmp_path / "photos", 1)
    assert len(after.section("errors").all("img")) == len(shown) - 1
    assert 1 in numbers(after.section("pairs").one("strong"))
    for name in ("test", "oof"):  # a run of an earlier version cannot tell
        with np.load(run / f"{name}.npz") as file:
            np.savez(run / f"{name}.npz", **{x: file[x] for x in file if x != "sha256"})
    assert not parse(report_html(run)).section("pairs").all("strong")
