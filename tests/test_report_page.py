"""Tests of the report: one page, whatever the photos and classes are called."""

import csv
import io
import json
import os
import re
import shutil
import stat
import sys
from base64 import b64decode
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Page, browser
from click.testing import CliRunner, Result

from bilinear_cli.classify.calibration import calibration
from bilinear_cli.classify.columns import Linear
from bilinear_cli.classify.metrics import evaluate
from bilinear_cli.classify.model import Model, probabilities_of, save_model
from bilinear_cli.cli import cli
from bilinear_cli.data.manifest import COLUMNS, manifest
from bilinear_cli.report.made import commands
from bilinear_cli.report.markdown import plain
from bilinear_cli.report.scored import by_class, clustered, confused_pairs, judged, read_scored
from bilinear_cli.report.thumbnails import MOST_BYTES, thumbnails

HOSTILE = [
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "‮kcalb\u2066 ʇ",
    "שחרור",
    "x" * 300,
    "../../etc/passwd",
    "a|b`c`*d*",
    "{{ 7 * 7 }}",
    "</bdi></table></script>",
]
MakeRun = Callable[..., Path]
EXTERNAL = re.compile(r"""https?:|(?:src|href|action)=["']//|url\((?!#)|@import""", re.I)


def scores_of(labels: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Return scores (n, k) that are right for about two thirds, and else one class further."""
    rng = np.random.default_rng(seed)
    named = np.where(rng.random(len(labels)) < 0.67, labels, (labels + 1) % k)
    return (4 * np.eye(k)[named] + rng.normal(0, 0.5, (len(labels), k))).astype(np.float32)


@pytest.fixture
def make_run(tmp_path: Path, make_photo: Callable[..., Path]) -> MakeRun:
    """Return make(name, classes, ...) -> a run folder as train writes it, its photos beside it."""

    def make(
        name: str = "run",
        classes: list[str] | None = None,
        *,
        photos: bool = True,
        tested: bool = True,
        each: int = 4,
        **others: Any,
    ) -> Path:
        names = np.array(classes or ["auk", "crow", "wren"])
        k, folder = len(names), tmp_path / name
        folder.mkdir()
        arrays = {}
        for part, n in (("oof", each * k), ("test", each * k if tested else 0)):
            labels = np.arange(n) % k
            paths = np.array([f"{part} {i}.png" for i in range(n)], str)
            for i, path in enumerate(paths if photos else []):
                make_photo(tmp_path / "photos" / str(path), seed=i)
            arrays[part] = (scores_of(labels, k, len(part)), labels, paths)
            columns = {"labels": labels, "paths": paths, "photo": np.arange(n)}
            np.savez(folder / f"{part}.npz", scores=arrays[part][0], **columns)  # type: ignore[arg-type]
        rows = [
            (str(path), names[label], part.replace("oof", "train"), f"group of {path}")
            for part, (_, labels, paths) in arrays.items()
            for path, label in zip(paths, labels, strict=True)
        ]
        rows.append(("in no fold.png", names[0], "train", "alone"))
        (folder / "labels.csv").write_text(manifest(rows), "utf-8")
        save_model(folder / "model.npz", Model(Linear(np.eye(k), np.zeros(k)), None, [], names))
        metrics = metrics_of(arrays, names, str(tmp_path / "photos")) | others
        (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
        return folder

    return make


def metrics_of(arrays: dict[str, Any], names: np.ndarray, root: str) -> dict[str, Any]:
    scores, labels, _ = arrays["test"]
    nothing = ("top1", "top1_ci95", "top5", "mean_per_class_accuracy", "log_loss")
    figures = {**dict.fromkeys(nothing), "confused": []}
    if len(labels):
        before, after = (calibration(probabilities_of(scores, t), labels) for t in (1, 0.5))
        figures = evaluate(scores, labels, names)
        figures["calibration"] = {"before": before, "after": after}
    points = [(0.0, 1.0, 0.5), (0.0, 10.0, 0.7), (0.1, 1.0, 0.6), (0.1, 10.0, 0.65)]
    keys = ("label_smoothing", "C", "top1", "log_loss")
    return {
        **figures,
        "temperature": 0.5,
        **{"classifier": "softmax", "pooling": "max", "normalize": "auto", "top_variance": None},
        **{"n_train": len(arrays["oof"][1]), "n_test": len(labels), "n_classes": len(names)},
        **{"n_features": 512, "bytes": 2048, "seed": 0, "versions": "numpy 2", "seconds": 1.0},
        **{"features_file": "x.h5", "fitted_on": "train", "run": "runs/x"},
        "command": '["bilinear", "train", "--features", "x y.h5"]',
        "extraction": {"data_root": root, "command": '["bilinear", "extract", "-o", "x y.h5"]'},
        **{"C": 10.0, "label_smoothing": 0.0, "folds": 5, "oof_top1": 0.7, "oof_log_loss": 1.0},
        "curve": [dict(zip(keys, (*point, 1.0), strict=True)) for point in points],
    }


def report(*words: object) -> Result:
    return CliRunner().invoke(cli, ["report", *map(str, words)])


def page_of(folder: Path, *others: Path) -> str:
    output = folder.parent / "report.html"
    result = report(folder, *others, "-o", output)
    assert result.exit_code == 0, result.output
    return output.read_text("utf-8")


class Elements(HTMLParser):
    """The elements of a page, and the text outside script and style."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


# The page -----------------------------------------------------------------------------------


def test_the_page_needs_nothing_else(make_run: MakeRun) -> None:
    page = page_of(make_run())
    assert not EXTERNAL.findall(page)
    assert len(page.encode()) < 3_000_000
    assert "default-src 'none'" in page


def test_sections_are_landmarks_with_headings(make_run: MakeRun) -> None:
    page = Elements(page_of(make_run()))
    ids = [attributes["id"] for _, attributes in page.found if attributes.get("id")]
    assert len(ids) == len(set(ids))
    labels = [section["aria-labelledby"] for section in page.all("section")]
    assert len(labels) == 8
    assert {f"#{label}" for label in labels} | {"#main"} == {a["href"] for a in page.all("a")} - {
        next(a["href"] for a in page.all("a") if "download" in a)
    }
    assert set(labels) <= set(ids)
    assert len(page.all("caption")) == len(page.all("table"))
    assert [len(page.all(tag)) for tag in ("main", "nav", "header", "h1")] == [1, 1, 1, 1]
    assert page.all("html") == [{"lang": "en"}]


def test_pictures_have_alternative_texts(make_run: MakeRun) -> None:
    page = Elements(page_of(make_run()))
    assert len(page.all("img")) > 10
    for image in page.all("img"):
        assert re.match(r"Photo (of|labelled) (auk|crow|wren), ", image["alt"] or "")
        assert (image["src"] or "").startswith("data:image/jpeg;base64,")
    drawings = [a for _, a in page.found if a.get("role") == "img"]
    assert len(drawings) == len(page.all("svg")) == 2
    assert all(drawing["aria-label"] for drawing in drawings)


def test_tables_sort_by_buttons(make_run: MakeRun) -> None:
    page = Elements(page_of(make_run()))
    heads = [head for head in page.all("th") if "aria-sort" in head]
    assert len(heads) == len([b for b in page.all("button") if b["type"] == "button"]) == 20


def test_a_page_of_strangers_names(make_run: MakeRun) -> None:
    made = make_run(classes=HOSTILE)
    page = page_of(made)
    plain_page = page_of(make_run("tame", [f"class {i}" for i in range(len(HOSTILE))]))
    hostile, tame = Elements(page), Elements(plain_page)
    tags = [[tag for tag, _ in p.found if tag != "wbr"] for p in (hostile, tame)]
    assert tags[0] == tags[1]  # not one element more
    assert not any(name.startswith("on") for _, a in hostile.found for name in a)
    text = "".join(hostile.text)
    assert all(name in text for name in HOSTILE if len(name) < 300)
    titles = [a["title"] for a in hostile.all("bdi") if "title" in a]
    assert set(HOSTILE) <= set(titles)
    assert not EXTERNAL.findall(page)


def test_paths_that_are_no_text(make_run: MakeRun, tmp_path: Path) -> None:
    made = make_run()
    with np.load(made / "oof.npz") as arrays:
        changed = dict(arrays)
    changed["paths"] = np.array([f"\udcff{i}<b>.png" for i in range(len(changed["paths"]))])
    np.savez(made / "oof.npz", **changed)
    assert re.search(r">\?\d+&lt;b&gt;.png</bdi>", page_of(made))


def test_photos_that_are_gone_are_named(make_run: MakeRun, tmp_path: Path) -> None:
    page = page_of(make_run(photos=False))
    assert not Elements(page).all("img")
    assert f"photos could not be read below <bdi>{tmp_path / 'photos'}</bdi>" in page
    assert re.search(r"<bdi>test \d+\.png</bdi>", page)
    assert "could not be read below" not in page_of(make_run("other"))


def test_a_run_without_test_photos(make_run: MakeRun) -> None:
    page = page_of(make_run(tested=False))
    assert "0 to test on" in page
    assert "Of 12 training photos, each by a fit that had not seen it." in page
    assert "Without test photos it was not measured." in page


def test_a_classifier_without_c(make_run: MakeRun) -> None:
    curve = [{"label_smoothing": 0.0, "epochs": 3, "top1": 0.5, "log_loss": 1.0}]
    page = page_of(make_run(C=None, classifier="mlp", hidden=8, dropout=0.5, curve=curve))
    assert "This classifier has no C." in page


def test_the_best_by_the_folds_is_looked_at(make_run: MakeRun) -> None:
    runs = [make_run(f"run{i}", oof_top1=x, top1=1 - x) for i, x in enumerate((0.5, 0.8, 0.6))]
    page = page_of(*runs)
    row = re.search(r'<tr class="best">(.*?)</tr>', page, re.S)
    assert row
    assert 'title="run1"' in row[1]
    assert re.findall(r"<summary><bdi>(\w+)</bdi></summary>", page) == ["run0", "run2"]


def test_many_classes_are_a_picture(make_run: MakeRun) -> None:
    made = make_run(classes=[f"class {i}" for i in range(40)], each=1)
    page = page_of(made)
    assert "Confusion matrix of 40 classes as a picture" in page
    assert 'href="data:image/png;base64,' in page
    assert 'class="matrix"' not in page


def test_the_largest_page_is_below_3_mb(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    worst = "data:image/jpeg;base64," + "A" * (MOST_BYTES * 4 // 3)
    monkeypatch.setattr(
        "bilinear_cli.report.page.thumbnails", lambda _, paths: dict.fromkeys(paths, worst)
    )
    made = make_run(classes=[f"{i:03}" + "x" * 297 for i in range(200)], photos=False, each=8)
    assert 1_500_000 < len(page_of(made).encode()) < 3_000_000


def test_mended_labels_come_with_the_page(make_run: MakeRun, tmp_path: Path) -> None:
    page = Elements(page_of(make_run(classes=HOSTILE)))
    (link,) = [a for a in page.all("a") if "download" in a]
    text = b64decode((link["href"] or "").split(",", 1)[1]).decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len({row["path"] for row in rows}) == len(rows) == 8 * len(HOSTILE) + 1
    assert {row["label"] for row in rows} == set(HOSTILE)
    assert {row["split"] for row in rows} == {"train", "test"}
    assert rows[-1] == dict(
        zip(COLUMNS, ("in no fold.png", HOSTILE[0], "train", "alone"), strict=True)
    )
    cards = re.findall(r"(?:test|oof) \d+\.png", "".join(page.text))[-40:]
    assert [row["path"] for row in rows[: len(cards)]] == cards
    command = f"bilinear train --features 'x y.h5' --data {tmp_path / 'photos' / 'mended.csv'}"
    assert command in "".join(page.text)


# The command --------------------------------------------------------------------------------


def test_without_output_a_table_alone(make_run: MakeRun) -> None:
    result = report(make_run())
    assert result.exit_code == 0
    assert result.stdout.startswith("| pooling | classifier |")
    assert len(result.stdout.splitlines()) == 3


def test_the_format_is_by_the_suffix(make_run: MakeRun, tmp_path: Path) -> None:
    made = make_run()
    assert report(made, "-o", tmp_path / "x.md").exit_code == 0
    assert (tmp_path / "x.md").read_text().startswith("# Report\n")
    assert report(made, "-o", tmp_path / "x.md", "--format", "html").exit_code == 0
    assert (tmp_path / "x.md").read_text().startswith("<!DOCTYPE html>")
    result = report(made, "-o", tmp_path / "x.htlm")
    assert result.exit_code == 2
    assert "did you mean '.html'?" in result.output


def test_markdown_keeps_its_tables(make_run: MakeRun) -> None:
    text = report(make_run(classes=HOSTILE), "--format", "md").stdout
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        bars = [len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()]
        assert len(set(bars)) == 1
    assert "<script>" not in text.replace("\\<", "")
    assert plain("a|b\n<c>*d*") == r"a\|b \<c\>\*d\*"


@pytest.mark.parametrize("name", ["test.npz", "oof.npz", "model.npz", "metrics.json"])
def test_a_damaged_run_is_one_line(name: str, make_run: MakeRun, tmp_path: Path) -> None:
    made = make_run()
    (made / name).write_bytes(b"PK")
    result = report(made, "-o", tmp_path / "x.html")
    assert result.exit_code == 1
    assert re.fullmatch(r"Error: .* is no (whole )?run.*\n", result.stderr)
    assert not (tmp_path / "x.html").exists()


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_missing_package_is_one_line(
    package: str, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("page", "plots"):  # as if never imported
        monkeypatch.delitem(sys.modules, f"bilinear_cli.report.{name}", raising=False)
        monkeypatch.delattr(f"bilinear_cli.report.{name}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    result = report(make_run(), "-o", tmp_path / "x.html")
    assert result.exit_code == 1
    assert f"needs {package}, which is not installed: pip install '.[report]'" in result.stderr


def test_an_earlier_report_stays_if_writing_fails(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    output = tmp_path / "out" / "x.html"
    output.parent.mkdir()
    output.write_text("earlier")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    result = report(make_run(), "-o", output)
    assert result.exit_code == 1
    assert result.stderr == f"Error: cannot write {output}: No space left on device\n"
    assert [*output.parent.iterdir()] == [output]
    assert output.read_text() == "earlier"


def test_others_may_read_it(make_run: MakeRun, tmp_path: Path) -> None:
    page_of(make_run())
    plain_file = tmp_path / "plain"
    plain_file.touch()
    modes = [stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "report.html", plain_file)]
    assert modes[0] == modes[1]


# What it is made of -------------------------------------------------------------------------


def test_the_classes_that_are_confused_are_neighbours() -> None:
    matrix = 10 * np.eye(6, dtype=int)
    for i, j in ((0, 3), (1, 4), (2, 5)):
        matrix[i, j] = matrix[j, i] = 5
    order = [int(k) for k in clustered(matrix)]
    assert sorted(order) == [0, 1, 2, 3, 4, 5]
    assert {frozenset(order[i : i + 2]) for i in (0, 2, 4)} == {
        frozenset(pair) for pair in ((0, 3), (1, 4), (2, 5))
    }


def test_figures_by_class_to_the_letter() -> None:
    matrix = np.array([[3, 1, 0], [2, 0, 2], [0, 0, 0]])
    rows = by_class(matrix, np.array(["a", "b", "c"]))
    assert [(r["photos"], r["right"], r["accuracy"]) for r in rows] == [
        (4, 3, 0.75),
        (4, 0, 0.0),
        (0, 0, None),
    ]
    assert [(r["taken_for"], r["times"]) for r in rows] == [("b", 1), ("a", 2), ("", 0)]
    assert confused_pairs(matrix, 20) == [(2, 1, 0), (2, 1, 2), (1, 0, 1)]


def test_figures_are_of_test_photos(make_run: MakeRun) -> None:
    assert {*judged(read_scored(make_run(), 0.5)).part} == {"test"}
    assert {*judged(read_scored(make_run("untested", tested=False), 0.5)).part} == {"train"}


def test_a_run_of_an_earlier_version_is_one_line(make_run: MakeRun, tmp_path: Path) -> None:
    made = make_run()
    (made / "labels.csv").unlink()
    result = report(made, "-o", tmp_path / "x.html")
    assert result.exit_code == 1
    assert re.fullmatch(r"Error: .* is no whole run: .*labels.csv.*: train again\n", result.stderr)


def test_views_of_a_photo_are_one(make_run: MakeRun) -> None:
    made = make_run()
    with np.load(made / "test.npz") as arrays:
        twice = {name: np.repeat(array, 2, axis=0) for name, array in arrays.items()}
    np.savez(made / "test.npz", **twice)
    assert int(np.sum(read_scored(made, 0.5).part == "test")) == 12


def test_thumbnails_are_small_and_whole(tmp_path: Path, make_photo: Callable[..., Path]) -> None:
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (400, 300, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    (tmp_path / "text.jpg").write_text("no photo")
    os.mkfifo(tmp_path / "pipe.jpg")
    make_photo(tmp_path / "wide.png", (320, 80), colour="red")
    paths = ["noise.png", "wide.png", "text.jpg", "pipe.jpg", "gone.jpg", "nul\0.jpg"]
    found = thumbnails(tmp_path, paths)
    assert [*found] == ["noise.png", "wide.png"]
    data = [b64decode(uri.split(",", 1)[1]) for uri in found.values()]
    assert all(len(jpeg) <= MOST_BYTES for jpeg in data)
    wide = np.asarray(Image.open(io.BytesIO(data[1])))
    assert wide.shape == (160, 160, 3)
    assert [int(wide[y, 80, 0] > 128) for y in (10, 80, 150)] == [0, 1, 0]


@pytest.mark.parametrize(
    ("recorded", "line"),
    [
        ('["bilinear", "train", "-C", "1", "--features", "x y.h5"]', "'x y.h5'"),
        ("rm -rf *", "rm -rf *"),
        ("[1, 2]", "[1, 2]"),
        ("[]", ""),
    ],
)
def test_a_command_is_told_as_typed(recorded: str, line: str, make_run: MakeRun) -> None:
    metrics = json.loads((make_run(command=recorded) / "metrics.json").read_text())
    extraction, *training = commands(metrics)
    assert extraction == "bilinear extract -o 'x y.h5'"
    assert bool(training) == bool(line)
    assert line in " ".join(training)


# In a browser -------------------------------------------------------------------------------


@pytest.fixture
def in_browser(make_run: MakeRun, tmp_path: Path) -> Iterator[Page]:
    """Give the page of a run with strangers' names, in Chromium."""
    page_of(make_run(classes=HOSTILE, each=5), make_run("second", oof_top1=0.1))
    with browser(tmp_path / "profile") as page:
        page.open(tmp_path / "report.html")
        yield page


FIRST_COLUMN = "[...document.querySelectorAll('#classes ~ .scroll tbody tr')].map(r => {})"


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs apt-get install chromium")
def test_in_a_browser(in_browser: Page) -> None:
    page = in_browser
    accuracy = FIRST_COLUMN.format("parseFloat(r.cells[1].textContent)")
    button = "document.querySelectorAll('#classes ~ .scroll th button')[1]"
    for order, direction in ((sorted, "ascending"), (lambda x: sorted(x)[::-1], "descending")):
        page.value(f"{button}.click()")
        values = page.value(accuracy)
        assert values == order(values)
        assert page.value(f"{button}.closest('th').getAttribute('aria-sort')") == direction
    assert len(set(values)) > 1
    for width in (390, 1280):
        for dark in (False, True):
            page.width(width, dark=dark)
            assert page.value("innerWidth") == width
            over = "scrollWidth - document.documentElement.clientWidth"
            assert page.value(f"document.documentElement.{over}") == 0
            ink, paper = page.value(
                "['color', 'backgroundColor'].map(x => parseInt("
                "getComputedStyle(document.body)[x].match(/\\d+/)[0]))"
            )
            assert (ink > paper) == dark
    assert page.value("[...document.images].every(i => i.alt)")
    said = [m for m, _ in page.events if m in ("Runtime.exceptionThrown", "Log.entryAdded")]
    said += [m for m, _ in page.events if m in ("Runtime.consoleAPICalled",)]
    assert not said
    asked = [p["request"]["url"] for m, p in page.events if m == "Network.requestWillBeSent"]
    assert {url.split(":")[0] for url in asked} <= {"file", "data"}
    assert [url for url in asked if url.startswith("file")] == asked[:1]
