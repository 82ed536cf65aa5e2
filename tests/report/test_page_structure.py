"""Tests of the report's page: its parts, for people and for browsers."""

import json
import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

import pytest
from support.pages import EXTERNAL, Element, cells, numbers, parse
from support.runs import CLASSES, make_run, report_html

from bilinear_cli.report.page import MAX_JPEG_BYTES

SECTIONS = [
    "comparison",
    "classes",
    "matrix",
    "pairs",
    "errors",
    "unusual",
    "calibration",
    "curve",
    "provenance",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("page") / "birds-max")


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    return report_html(run)


@pytest.fixture(scope="module")
def page(html: str) -> Element:
    return parse(html)


def test_the_page_needs_nothing_else(html: str, page: Element) -> None:
    assert not EXTERNAL.findall(html)
    assert len(html.encode()) < 3_000_000
    (policy,) = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta.attributes]
    script = "".join(map(str, page.one("script").children))
    digest = b64encode(sha256(script.encode()).digest()).decode()
    assert dict(rule.split(" ", 1) for rule in policy.split("; ")) == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": "'unsafe-inline'",
        "script-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_sections_are_landmarks_with_headings(page: Element) -> None:
    ids = [element["id"] for element in page if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    assert [section["aria-labelledby"] for section in page.all("section")] == SECTIONS
    assert {heading["id"] for heading in page.all("h2")} == set(SECTIONS)
    assert [link["href"] for link in page.one("nav").all("a")] == [f"#{id_}" for id_ in SECTIONS]
    assert page.all("a", class_="skip")[0]["href"] == "#main"
    assert "main" in ids
    assert len(page.all("caption")) == len(page.all("table"))
    assert [len(page.all(tag)) for tag in ("main", "nav", "header", "h1")] == [1, 1, 1, 1]
    assert page.one("html").attributes == {"lang": "en"}


def test_pictures_have_alternative_texts(page: Element) -> None:
    images = page.all("img")
    assert len(images) > 10
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in images)
    for article in page.all("article"):
        true, predicted = (name.text for name in article.one("h3").all("bdi"))
        alts = [{name for name in CLASSES if name in image["alt"]} for image in article.all("img")]
        assert {true, predicted} in alts
        assert {predicted} in alts
        assert all(names in ({true, predicted}, {predicted}) for names in alts)
    for card in page.section("errors").all("li", class_="card"):
        names = [name["title"] for name in card.all("bdi")[:2]]
        assert all(name in card.one("img")["alt"] for name in names)
    drawings = [element for element in page if element.attributes.get("role") == "img"]
    assert len(drawings) == len(page.all("svg")) == 2
    assert all(drawing["aria-label"] for drawing in drawings)


def test_tables_sort_by_buttons(page: Element) -> None:
    heads = [head for head in page.all("th") if "aria-sort" in head.attributes]
    assert len(heads) == len(page.all("button", type="button")) == 20
    assert all(head.one("button").text for head in heads)


def test_the_facts_of_a_run_are_shown(page: Element, run: Path) -> None:
    section = page.section("provenance")
    terms, values = ([element.text for element in section.all(tag)] for tag in ("dt", "dd"))
    facts = dict(zip(terms, values, strict=True))
    assert (facts["n_features"], facts["features: data_root"]) == (
        "512",
        str(run.parent / "photos"),
    )
    assert not any("command" in term for term in terms)
    assert [line.text for line in section.all("code")] == [
        "bilinear extract -o 'x y.h5'",
        "bilinear train --features 'x y.h5'",
    ]
    (row,) = cells(page.section("comparison").one("table"))
    assert row[:2] + row[-4:] == ["birds-max", "0.7000", "max", "softmax", "512", "2,048"]


def test_drawings_are_in_the_colours_of_the_page(html: str) -> None:
    assert "currentColor" in html
    assert not re.findall(r"#01020[345]", html)
    for drawing in re.findall(r"<svg.*?</svg>", html, re.S):
        assert "var(--right)" in drawing
        used = set(re.findall(r'(?:href="#|url\(#)([\w-]+)', drawing))
        assert used <= set(re.findall(r'\bid="([^"]+)"', drawing))


def test_a_run_with_test_photos_is_measured_on_them(page: Element, run: Path) -> None:
    header = numbers(page.one("header"))
    metrics = json.loads((run / "metrics.json").read_text())
    accuracies = [metrics["top1"], *metrics["top1_ci95"], metrics["mean_per_class_accuracy"]]
    assert sorted(header) == sorted([3, 13, 12, 95, *(round(100 * x, 1) for x in accuracies)])
    assert 12 in numbers(page.section("classes").one("caption"))
    assert page.section("calibration").all("table")


def test_a_run_without_test_photos_is_measured_on_training_photos(tmp_path: Path) -> None:
    page = parse(report_html(make_run(tmp_path / "run", tested=False, photos=False, per_class=5)))
    assert sorted(numbers(page.one("header"))) == [0, 3, 16]
    classes = page.section("classes")
    assert 15 in numbers(classes.one("caption"))
    assert [row[3] for row in cells(classes.one("table"))] == ["5", "5", "5"]
    calibration = page.section("calibration")
    assert not calibration.all("table")
    assert not calibration.all("figure")
    assert calibration.all("p")


@pytest.mark.slow
def test_a_curve_needs_several_c(page: Element, tmp_path: Path) -> None:
    rows = cells(page.section("curve").one("table"))
    assert [row[:3] for row in rows] == [
        ["0", "1", "0.5000"],
        ["0", "10", "0.7000"],
        ["0.1", "1", "0.6000"],
        ["0.1", "10", "0.6500"],
    ]
    point = {"label_smoothing": 0.0, "epochs": 3, "top1": 0.5, "log_loss": 1.0}
    mlp = {"C": None, "classifier": "mlp", "hidden": 8, "dropout": 0.5, "curve": [point]}
    fixed = {
        "curve": [{"label_smoothing": 0.0, "C": 25.0, "top1": 0.5, "log_loss": 1.0}],
        "C": 25.0,
    }
    for name, metrics, expected in (("mlp", mlp, []), ("fixed", fixed, [25])):
        run = make_run(tmp_path / name, photos=False, **metrics)
        curve = parse(report_html(run)).section("curve")
        assert not curve.all("figure")
        assert numbers(curve) == expected
        assert curve.all("p")


@pytest.mark.slow
def test_the_largest_page_is_below_3_mb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    largest = "data:image/jpeg;base64," + "A" * (MAX_JPEG_BYTES * 4 // 3)
    monkeypatch.setattr(
        "bilinear_cli.report.page.thumbnails", lambda _, paths, *__: dict.fromkeys(paths, largest)
    )
    classes = [f"{i:03}" + "x" * 297 for i in range(200)]
    run = make_run(tmp_path / "run", classes, photos=False, per_class=8)
    assert 1_500_000 < len(report_html(run).encode()) < 3_000_000


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Element:
    """Return the page of three runs, of which run1 is the best by the folds and run0 by test."""
    folder = tmp_path_factory.mktemp("several")
    runs = [
        make_run(folder / f"run{i}", photos=False, oof_top1=oof, top1=1 - oof)
        for i, oof in enumerate((0.5, 0.8, 0.6))
    ]
    return parse(report_html(*runs))


def test_the_best_by_the_folds_is_shown_in_detail(several: Element, page: Element) -> None:
    best = several.one("tr", class_="best")
    assert best.one("bdi")["title"] == "run1"
    assert best.one("th").one("span").text
    assert [summary.text for summary in several.all("summary")[:2]] == ["run0", "run2"]
    assert not page.all("tr", class_="best")


def test_the_run_that_is_shown_in_detail_is_named(several: Element, page: Element) -> None:
    header = several.one("header")
    assert [name.text for name in header.all("bdi")] == ["run1"]
    assert "max, softmax" in header.text
    assert "run1" in several.one("title").text
    assert "3" in several.one("h1").text
    assert "birds-max" in page.one("h1").text


@pytest.mark.slow
def test_the_header_warns_of_runs_that_cannot_be_compared(several: Element, tmp_path: Path) -> None:
    assert not several.one("header").all("strong")
    runs = [make_run(tmp_path / str(folds), photos=False, folds=folds) for folds in (1, 5)]
    assert parse(report_html(*runs)).one("header").all("strong")
