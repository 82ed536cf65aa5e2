"""Tests of the report: one page, whatever the photos and classes are called."""

import csv
import io
import json
import os
import re
import shutil
import stat
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Page, browser
from click.testing import CliRunner, Result
from matplotlib.figure import Figure
from PIL import Image

from bilinear_cli.classify.calibration import calibration
from bilinear_cli.classify.columns import Linear
from bilinear_cli.classify.metrics import evaluate
from bilinear_cli.classify.model import Model, probabilities_of, save_model
from bilinear_cli.cli import cli
from bilinear_cli.data.manifest import COLUMNS, manifest
from bilinear_cli.report import confused, plots
from bilinear_cli.report import page as page_module
from bilinear_cli.report.made import commands
from bilinear_cli.report.markdown import plain
from bilinear_cli.report.scored import (
    by_class,
    clustered,
    confused_pairs,
    judged,
    matrix_of,
    read_scored,
)
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
    (policy,) = [a["content"] for a in Elements(page).all("meta") if "http-equiv" in a]
    digest = b64encode(
        sha256(re.findall(r"<script>(.*?)</script>", page, re.S)[0].encode()).digest()
    )
    assert dict(rule.split(" ", 1) for rule in (policy or "").split("; ")) == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": "'unsafe-inline'",
        "script-src": f"'sha256-{digest.decode()}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


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


def test_strangers_words_of_every_other_kind(make_run: MakeRun) -> None:
    bold = "<b>'\""
    made = {"data_root": f"/{bold}", "data": bold, "command": json.dumps(["bilinear", bold])}
    others = {"pooling": bold, "classifier": bold, "versions": bold, "extraction": made}
    others["command"] = json.dumps(["bilinear", "train", bold])
    runs = [make_run(f"<b>{i}", HOSTILE, photos=False, **others) for i in range(2)]
    page = Elements(page_of(*runs))
    assert not page.all("b")
    assert not any("b" in attributes for _, attributes in page.found)
    text = "".join(page.text)
    for said in (f"below /{bold}", f"{bold}, {bold}", "bilinear '<b>'\"'\"'\"'", "--data '/<b>"):
        assert said in text


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
    assert "Of 12 training photos, each by a fit that had not seen it;" in page
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


def test_the_run_looked_at_is_named(make_run: MakeRun) -> None:
    runs = [make_run(f"run{i}", oof_top1=x) for i, x in enumerate((0.5, 0.8))]
    page = page_of(*runs)
    assert "<title>Report of run1</title>" in page
    assert "best by out-of-fold accuracy, <bdi>run1</bdi>: max, softmax" in page
    assert page.count("looked at below") == 1
    assert "<h1>Report of run0</h1>" in page_of(runs[0])


def test_runs_that_cannot_be_compared_are_told(make_run: MakeRun) -> None:
    one, same, other = make_run("one"), make_run("same"), make_run("other", folds=1)
    assert "Compare with care" not in page_of(one, same)
    assert "Compare with care" in page_of(one, other)


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
    assert "name a file that ends in .html or .md, or give --format" in result.output


def test_markdown_keeps_its_tables(make_run: MakeRun) -> None:
    text = report(make_run(classes=HOSTILE), "--format", "md").stdout
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        bars = [len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()]
        assert len(set(bars)) == 1
    assert "<script>" not in text.replace("\\<", "")
    assert plain("a|b\n<c>*d*") == r"a\|b \<c\>\*d\*"


@pytest.mark.parametrize("name", ["test.npz", "oof.npz", "model.npz", "metrics.json"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"PK",
        lambda whole: whole[:400],
        lambda whole: whole.replace(b"1", b"{").replace(b"PK", b"KP", 1),
    ],
    ids=["another", "short", "changed"],
)
def test_a_damaged_run_is_one_line(
    name: str, damage: Callable[[bytes], bytes], make_run: MakeRun, tmp_path: Path
) -> None:
    made = make_run()
    whole = (made / name).read_bytes()
    (made / name).write_bytes(damage(whole))
    result = report(made, "-o", tmp_path / "x.html")
    assert result.exit_code == 1
    assert re.fullmatch(r"Error: .* is no (whole )?run.*\n", result.stderr)
    assert not (tmp_path / "x.html").exists()


def test_figures_that_lack_something_are_one_line(make_run: MakeRun) -> None:
    made = make_run()
    figures = json.loads((made / "metrics.json").read_text())
    for name in ("top5", "n_features", "label_smoothing"):
        rest = {key: value for key, value in figures.items() if key != name}
        (made / "metrics.json").write_text(json.dumps(rest))
        for output in ([], ["--format", "md"]):
            result = report(made, *output)
            assert result.exit_code == 1
            assert result.stderr.endswith(f"its metrics.json lacks {name}\n")


def test_names_do_not_steer_the_terminal(make_run: MakeRun) -> None:
    made = make_run(classes=["a\x1b[31m", "b\u202e", "c"])
    shown = report(made, "--format", "md").stdout
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    confusion = {"true": "a\x1b[31m", "predicted": "b\u202e", "count": 1}
    said = confused(json.loads((made / "metrics.json").read_text()) | {"confused": [confusion]})
    assert "a?[31m as b? (1)" in said


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


def test_it_is_the_share_of_a_class_that_makes_neighbours() -> None:
    matrix = np.diag([90, 100, 1, 3])
    matrix[[0, 2, 3], 1] = 10, 1, 2  # of 100, of 2, of 5
    order = clustered(matrix).tolist()
    assert {order[order.index(1) + step] for step in (-1, 1)} == {2, 3}


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
    found = read_scored(made, 0.5)
    assert found.paths[found.part == "test"].tolist() == [f"test {i}.png" for i in range(12)]


def test_thumbnails_are_small_and_whole(tmp_path: Path, make_photo: Callable[..., Path]) -> None:
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


# What it says, to the letter ----------------------------------------------------------------

CERTAIN = {  # photo -> (label, taken for, score); of auk, crow and wren
    "test": {
        **{"t0": (0, 1, 3), "t1": (0, 1, 5), "t2": (0, 0, 4), "t3": (0, 0, 6)},
        **{"t4": (1, 1, 2), "t5": (1, 1, 7), "t6": (2, 0, 1), "t7": (2, 2, 9)},
    },
    "oof": {"o0": (1, 2, 8), "o1": (0, 0, 9), "o2": (1, 1, 9), "o3": (0, 1, 9)},
}


@pytest.fixture
def certain(make_run: MakeRun) -> Path:
    """Return a run of a few photos, of which all is known; they are gone."""
    made = make_run("certain", photos=False)
    for name, photos in CERTAIN.items():
        label, taken_for, score = map(np.array, zip(*photos.values(), strict=True))
        scores = (score[:, None] * np.eye(3)[taken_for]).astype(np.float32)
        columns = {"labels": label, "paths": np.array([*photos]), "photo": np.arange(len(photos))}
        np.savez(made / f"{name}.npz", scores=scores, **columns)
    return made


def section(page: str, name: str) -> str:
    """Return the text of a section of a page, its words a blank apart."""
    found = re.search(rf'<h2 id="{name}">(.*?)</section>', page, re.S)
    assert found
    inline = re.sub(r"</?(bdi|wbr)\b[^>]*>", "", found[1])
    return " ".join(re.sub(r"<[^>]*>", " ", inline).split())


def test_pairs_to_the_letter(certain: Path) -> None:
    said = section(page_of(certain), "pairs")
    assert said.partition("not shown. ")[2] == (
        "auk taken for crow: 2 of 4 Taken for crow, surest first t1 t0 "
        "crow, rightly named t5 t4 "
        "wren taken for auk: 1 of 2 Taken for auk, surest first t6 auk, rightly named t3 t2"
    )


def test_mistakes_to_the_letter(certain: Path) -> None:
    cards = section(page_of(certain), "mistakes").split(" labelled ")[1:]
    shown = [("auk", "crow", 9, "train", "o3"), ("crow", "wren", 8, "train", "o0")]
    shown += [("auk", "crow", 5, "test", "t1")]
    shown += [("auk", "crow", 3, "test", "t0"), ("wren", "auk", 1, "test", "t6")]
    wanted = []
    for label, taken_for, score, part, path in shown:
        sure = np.exp(score / 0.5) / (np.exp(score / 0.5) + 2)
        other = (1 - sure) / 2
        wanted.append(f"{label} {other:.3f} taken for {taken_for} {sure:.3f} {part} photo {path}")
    assert cards == wanted


def test_classes_to_the_letter(certain: Path) -> None:
    said = section(page_of(certain), "classes").partition(" times ")[2]
    assert said == "auk 0.500 2 4 crow 2 wren 0.500 1 2 auk 1 crow 1.000 2 2"


def test_calibration_to_the_letter(certain: Path) -> None:
    calibrated = json.loads((certain / "metrics.json").read_text())["calibration"]
    said = section(page_of(certain), "calibration")
    for when in ("before", "after"):
        found = calibrated[when]
        figures = [f"{found[name]:.4f}" for name in ("log_loss", "brier", "ece")]
        assert f"{when} {' '.join(figures)} {{:.3f}}-{{:.3f}}".format(*found["ece_ci95"]) in said


def test_the_matrix_has_its_classes_beside_its_rows(certain: Path) -> None:
    page = page_of(certain)
    order = re.findall(r'<abbr title="(\w+)">', page)
    counts = {("auk", "auk"): 2, ("auk", "crow"): 2, ("crow", "crow"): 2}
    counts |= {("wren", "auk"): 1, ("wren", "wren"): 1}
    rows = re.findall(r'<tr><th scope="row">\d (.*?)</th>(.*?)</tr>', page, re.S)
    assert [re.sub("<.*?>", "", name) for name, _ in rows] == order
    for true, (_, cells) in zip(order, rows, strict=True):
        for predicted, (kind, count) in zip(
            order, re.findall(r"<td(.*?)>(\d*)</td>", cells), strict=True
        ):
            assert count == str(counts.get((true, predicted), ""))
            assert (' right"' in kind) == (bool(count) and true == predicted)


def test_markdown_to_the_letter(certain: Path) -> None:
    text = report(certain, "--format", "md").stdout
    tables = re.findall(r"(?:^\|.*\n)+", text, re.M)
    bodies = [table.splitlines()[2:] for table in tables]
    assert bodies[1] == ["| auk | crow | 2 |", "| wren | auk | 1 |"]
    assert bodies[2] == ["| auk | 4 | 0.500 |", "| wren | 2 | 0.500 |", "| crow | 2 | 1.000 |"]
    calibrated = json.loads((certain / "metrics.json").read_text())["calibration"]
    for row, when in zip(bodies[3], ("before", "after"), strict=True):
        assert row.startswith(f"| {when} | {calibrated[when]['log_loss']:.4f} | ")
    assert text.endswith(
        "    bilinear extract -o 'x y.h5'\n    bilinear train --features 'x y.h5'\n"
    )


# Its drawings -------------------------------------------------------------------------------


def test_a_line_for_each_label_smoothing(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[list[float], list[float]]] = []

    def keep(name: str, draw: Callable[[Any], None], height: float) -> str:
        axes = Figure().add_subplot()
        draw(axes)
        drawn.extend((list(map(float, x)), list(map(float, y))) for x, y in map(points, axes.lines))
        return name

    def points(line: Any) -> tuple[Any, Any]:
        return line.get_xdata(), line.get_ydata()

    monkeypatch.setattr(plots, "_svg", keep)
    keys = ("label_smoothing", "C", "top1")
    tried = [(0.0, 1.0, 0.5), (0.1, 1.0, 0.6), (0.0, 10.0, 0.7), (0.1, 10.0, 0.65)]
    plots.curve_plot([dict(zip(keys, x, strict=True)) for x in tried], (10.0, 0.1))
    assert drawn == [([1, 10], [0.5, 0.7]), ([1, 10], [0.6, 0.65]), ([10], [0.65])]


def test_what_was_chosen_is_circled(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, float]] = []
    monkeypatch.setattr(plots, "curve_plot", lambda _, chosen: asked.append(chosen) or "")
    page_of(make_run(photos=False, C=10.0, label_smoothing=0.1))
    assert asked == [(10.0, 0.1)]


def test_a_large_matrix_is_drawn_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    images: list[np.ndarray] = []

    def keep(name: str, draw: Callable[[Any], None], height: float) -> str:
        axes = Figure().add_subplot()
        draw(axes)
        images.append(np.asarray(axes.images[0].get_array()))
        return name

    monkeypatch.setattr(plots, "_svg", keep)
    plots.matrix_plot(np.array([[1, 3, 0], [0, 2, 0], [0, 0, 0]]))
    (pixels,) = images
    share = (pixels[..., 3] - plots.FAINTEST) / (1 - plots.FAINTEST)
    none = -plots.FAINTEST / (1 - plots.FAINTEST)
    wanted = [[0.5, 0.75**0.5, none], [none, 1, none], [none, none, none]]
    np.testing.assert_allclose(share, wanted)
    assert pixels[0, 0, :3].tolist() == [*plots.RIGHT]
    assert pixels[0, 1, :3].tolist() == [*plots.WRONG]


def test_a_large_matrix_has_the_order_of_its_list(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[np.ndarray] = []
    monkeypatch.setattr(plots, "matrix_plot", lambda matrix: drawn.append(matrix) or "")
    names = [f"class {i:02}" for i in range(40)]
    made = make_run(classes=names, photos=False)
    listed = re.search(r"<ol>(.*?)</ol>", page_of(made), re.S)
    assert listed
    order = [names.index(name) for name in re.findall(r"class \d+", listed[1])]
    assert order != sorted(order)
    plain_matrix = matrix_of(judged(read_scored(made, 0.5)))
    np.testing.assert_array_equal(drawn[0], plain_matrix[np.ix_(order, order)])


def test_drawings_are_in_the_colours_of_the_page(make_run: MakeRun) -> None:
    page = page_of(make_run())
    assert "currentColor" in page
    assert not re.findall(r"#01020[345]", page)
    drawings = re.findall(r"<svg.*?</svg>", page, re.S)
    for drawing in drawings:
        assert "var(--right)" in drawing
        used = set(re.findall(r'(?:href="#|url\(#)([\w-]+)', drawing))
        assert used <= set(re.findall(r'\bid="([^"]+)"', drawing))


@pytest.mark.parametrize(("pairs", "mistakes"), [(20, 40)])
def test_at_most_so_many_are_shown(pairs: int, mistakes: int, make_run: MakeRun) -> None:
    made = make_run(classes=[f"class {i}" for i in range(30)], photos=False, each=8)
    page = page_of(made)
    assert page.count('<article class="pair">') == pairs
    assert page.count('<li class="card">') == mistakes
    text = report(made, "--format", "md").stdout
    assert text.partition("### Accuracy")[0].partition("### Most")[2].count("\n| class ") == 11


def test_a_long_list_of_labels_is_not_in_the_page(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bilinear_cli.report.page.MOST_CSV_BYTES", 10)
    page = page_of(make_run(photos=False))
    assert "download" not in page
    assert "Copy labels.csv from the run's folder" in page


def test_a_thumbnail_is_of_its_photo(tmp_path: Path, make_photo: Callable[..., Path]) -> None:
    colours = {"r.png": (255, 0, 0), "g.png": (0, 255, 0), "b.png": (0, 0, 255)}
    for name, colour in colours.items():
        make_photo(tmp_path / name, (50, 50), colour=colour)
    for name, uri in thumbnails(tmp_path, colours).items():
        pixels = np.asarray(Image.open(io.BytesIO(b64decode(uri.split(",", 1)[1]))))
        np.testing.assert_allclose(pixels[80, 80], colours[name], atol=5)


def test_a_file_of_a_long_name(make_run: MakeRun, tmp_path: Path) -> None:
    output = tmp_path / "not there" / ("x" * 250 + ".md")
    assert report(make_run(photos=False), "-o", output).exit_code == 0
    assert output.is_file()


# In a browser -------------------------------------------------------------------------------


@pytest.fixture
def in_browser(make_run: MakeRun, tmp_path: Path) -> Iterator[Page]:
    """Give the page of a run with strangers' names, in Chromium."""
    page_of(make_run(classes=HOSTILE, each=5), make_run("second", oof_top1=0.1))
    with browser(tmp_path / "profile") as page:
        page.open(tmp_path / "report.html")
        yield page


COLOURS = """(() => {
  const probe = document.body.appendChild(document.createElement("i"));
  const found = ["--paper", "--ink", "--quiet", "--link", "--right", "--wrong"].map(name => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color.match(/\\d+/g).map(Number);
  });
  probe.remove();
  return found;
})()"""


def _contrast(page: Page) -> float:
    """Return the least contrast of what is drawn to what it is drawn on, as WCAG has it."""
    rgb = np.array(page.value(COLOURS)) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    paper, *others = linear @ [0.2126, 0.7152, 0.0722] + 0.05
    return min(max(paper, other) / min(paper, other) for other in others)


FIRST_COLUMN = "[...document.querySelectorAll('#classes ~ .scroll tbody tr')].map(r => {})"


SORTED = "[...document.querySelectorAll('#t tbody tr')].map(r => r.cells[0].textContent)"
DIRECTIONS = "[...document.querySelectorAll('#t th')].map(h => h.getAttribute('aria-sort'))"


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs apt-get install chromium")
def test_columns_of_all_kinds_sort(tmp_path: Path) -> None:
    script = Path(page_module.__file__).with_name("sort.js").read_text("utf-8")
    cells = [("class 10", "1,200"), ("class 9", "-"), ("Class 1", "30"), ("", "0.5")]
    rows = "".join(f"<tr><td>{a}</td><td>{b}</td></tr>" for a, b in cells)
    heads = "<th aria-sort='none' data-words><button>a</button></th>"
    heads += "<th aria-sort='none'><button>b</button></th>"
    table = f"<table id=t><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    (tmp_path / "t.html").write_text(f"<!DOCTYPE html>{table}<script>{script}</script>")
    click = "document.querySelectorAll('#t th button')[{}].click()"
    with browser(tmp_path / "profile") as page:
        page.open(tmp_path / "t.html")
        for column, direction, wanted in (
            (0, "ascending", ["Class 1", "class 9", "class 10", ""]),
            (0, "descending", ["class 10", "class 9", "Class 1", ""]),
            (1, "ascending", ["", "Class 1", "class 10", "class 9"]),
            (1, "descending", ["class 10", "Class 1", "", "class 9"]),
        ):
            page.value(click.format(column))
            assert page.value(SORTED) == wanted
            directions = ["none", "none"]
            directions[column] = direction
            assert page.value(DIRECTIONS) == directions


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
    page.value(f"{button}.click()")
    assert page.value(f"{button}.closest('th').getAttribute('aria-sort')") == "ascending"
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
            assert _contrast(page) >= 4.5
    assert page.value("[...document.images].every(i => i.alt)")
    said = [m for m, _ in page.events if m in ("Runtime.exceptionThrown", "Log.entryAdded")]
    said += [m for m, _ in page.events if m in ("Runtime.consoleAPICalled",)]
    assert not said
    asked = [p["request"]["url"] for m, p in page.events if m == "Network.requestWillBeSent"]
    assert {url.split(":")[0] for url in asked} <= {"file", "data"}
    assert [url for url in asked if url.startswith("file")] == asked[:1]
