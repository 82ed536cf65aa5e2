"""Tests of what a report shows: scores, confusions, commands, thumbnails and drawings."""

import io
import os
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image
from support.pages import parse
from support.photos import make_photo
from support.runs import make_run, report_html

from bilinear_cli.report import plots
from bilinear_cli.report.data import class_metrics, class_order, read_report_data
from bilinear_cli.report.page import MAX_JPEG_BYTES, thumbnails
from bilinear_cli.report.text import commands
from bilinear_cli.training.metrics import confused_pairs


def test_confused_classes_are_neighbours() -> None:
    matrix = 10 * np.eye(6, dtype=int)
    pairs = ((0, 3), (1, 4), (2, 5))
    for i, j in pairs:
        matrix[i, j] = matrix[j, i] = 5
    order = class_order(matrix).tolist()
    assert sorted(order) == [0, 1, 2, 3, 4, 5]
    assert {frozenset(order[i : i + 2]) for i in (0, 2, 4)} == set(map(frozenset, pairs))


def test_the_share_of_a_class_makes_neighbours() -> None:
    matrix = np.diag([90, 100, 1, 3])
    matrix[[0, 2, 3], 1] = 10, 1, 2  # of 100, of 2, of 5
    order = class_order(matrix).tolist()
    assert {order[order.index(1) + step] for step in (-1, 1)} == {2, 3}


def test_figures_by_class() -> None:
    matrix = np.array([[3, 1, 0], [2, 0, 2], [0, 0, 0]])
    rows = class_metrics(matrix, np.array(["a", "b", "c"]))
    keys = ("n_photos", "n_correct", "accuracy", "confused_with", "n_confused")
    assert [tuple(row[key] for key in keys) for row in rows] == [
        (4, 3, 0.75, "b", 1),
        (4, 0, 0.0, "a", 2),
        (0, 0, None, "", 0),
    ]
    assert confused_pairs(matrix, 20) == [(2, 1, 0), (2, 1, 2), (1, 0, 1)]


def test_views_of_a_photo_are_one_row(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", photos=False)
    with np.load(run / "test.npz") as arrays:
        twice = {name: np.repeat(array, 2, axis=0) for name, array in arrays.items()}
    np.savez(run / "test.npz", **twice)
    photos = read_report_data([run]).predictions
    assert photos.paths[photos.split == "test"].tolist() == [f"test {i}.png" for i in range(12)]


@pytest.mark.parametrize(
    ("recorded", "typed"),
    [
        ('["bilinear", "train", "-o", "x y"]', ["bilinear train -o 'x y'"]),
        ("rm -rf *", ["rm -rf *"]),
        ("[1, 2]", ["[1, 2]"]),
        ("[]", []),
    ],
)
def test_commands_are_shown_as_typed(recorded: str, typed: list[str]) -> None:
    extraction = {"command": '["bilinear", "extract", "-o", "x y.h5"]'}
    metrics = {"extraction": extraction, "command": recorded}
    assert commands(metrics) == ["bilinear extract -o 'x y.h5'", *typed]


# Thumbnails -------------------------------------------------------------------------------------


def pixels_of(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(b64decode(uri.split(",", 1)[1]))))


def test_thumbnails_are_small_and_show_the_whole_photo(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (160, 160, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    (tmp_path / "text.jpg").write_text("no photo")
    os.mkfifo(tmp_path / "pipe.jpg")
    make_photo(tmp_path / "wide.png", (320, 80), colour="red")
    paths = ["noise.png", "wide.png", "text.jpg", "pipe.jpg", "missing.jpg", "nul\0.jpg"]
    uris = thumbnails(tmp_path, paths)
    assert [*uris] == ["noise.png", "wide.png"]
    assert all(len(b64decode(uri.split(",", 1)[1])) <= MAX_JPEG_BYTES for uri in uris.values())
    wide = pixels_of(uris["wide.png"])
    assert wide.shape == (160, 160, 3)
    assert [int(wide[y, 80, 0] > 128) for y in (10, 80, 150)] == [0, 1, 0]


def test_a_thumbnail_shows_its_own_photo(tmp_path: Path) -> None:
    colours = {"r.png": (255, 0, 0), "g.png": (0, 255, 0), "b.png": (0, 0, 255)}
    for name, colour in colours.items():
        make_photo(tmp_path / name, (50, 50), colour=colour)
    for name, uri in thumbnails(tmp_path, colours).items():
        np.testing.assert_allclose(pixels_of(uri)[80, 80], colours[name], atol=5)


# Drawings ---------------------------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Axes]:
    """Return a list of all axes that are drawn from now on, in place of their SVG."""
    axes: list[Axes] = []

    monkeypatch.setattr(plots, "_svg", lambda figure, _: axes.extend(figure.axes) or "")
    return axes


def test_each_label_smoothing_is_a_line(drawn: list[Axes]) -> None:
    keys = ("label_smoothing", "C", "top1")
    points = [(0.0, 1.0, 0.5), (0.1, 1.0, 0.6), (0.0, 10.0, 0.7), (0.1, 10.0, 0.65)]
    plots.curve_plot([dict(zip(keys, point, strict=True)) for point in points], (10.0, 0.1))
    lines = [[[float(x) for x in xy] for xy in line.get_data()] for line in drawn[0].lines]
    assert lines == [[[1, 10], [0.5, 0.7]], [[1, 10], [0.6, 0.65]], [[10], [0.65]]]


def test_the_chosen_point_is_circled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points: list[tuple[float, float]] = []
    monkeypatch.setattr(plots, "curve_plot", lambda _, chosen: points.append(chosen) or "")
    report_html(make_run(tmp_path / "run", photos=False, C=10.0, label_smoothing=0.1))
    assert points == [(10.0, 0.1)]


def test_a_large_matrix_is_drawn_row_by_row(drawn: list[Axes]) -> None:
    plots.matrix_plot(np.array([[1, 3, 0], [0, 2, 0], [0, 0, 0]]))
    pixels = np.asarray(drawn[0].images[0].get_array())
    share = (pixels[..., 3] - plots.MIN_OPACITY) / (1 - plots.MIN_OPACITY)
    none = -plots.MIN_OPACITY / (1 - plots.MIN_OPACITY)
    expected = [[0.5, 0.75**0.5, none], [none, 1, none], [none, none, none]]
    np.testing.assert_allclose(share, expected)
    assert pixels[0, 0, :3].tolist() == [*plots.RIGHT]
    assert pixels[0, 1, :3].tolist() == [*plots.WRONG]


@pytest.mark.slow
def test_a_large_matrix_is_a_picture_in_the_order_of_its_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrices: list[np.ndarray] = []
    draw = plots.matrix_plot
    monkeypatch.setattr(
        plots, "matrix_plot", lambda matrix: matrices.append(matrix) or draw(matrix)
    )
    names = [f"class {i:02}" for i in range(40)]
    run = make_run(tmp_path / "run", names, photos=False)
    html = report_html(run)
    assert 'href="data:image/png;base64,' in html
    section = parse(html).section("matrix")
    assert not section.all("table")
    (picture,) = (element for element in section if element.attributes.get("role") == "img")
    assert "40" in picture["aria-label"]
    order = [names.index(item.text) for item in section.one("ol").all("li")]
    assert sorted(order) == [*range(40)] != order
    matrix = read_report_data([run]).matrix
    np.testing.assert_array_equal(matrices[0], matrix[np.ix_(order, order)])
