"""Tests of the report's drawings: what is drawn where."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from support.pages import parse
from support.runs import make_run, report_html

from bilinear_cli.report import plots
from bilinear_cli.report.data import read_report_data


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
