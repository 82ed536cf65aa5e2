"""A run folder that is damaged, or from elsewhere, is refused in one line or read correctly.

`make torture` does the same with 2,000 damages of runs of all kinds.
"""

import json
import os
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.commands import error_line, run_command
from support.damaged_runs import DAMAGES, REFUSED, RIGHT, Reader, judge, train_run
from support.errors import raises
from support.runs import change_metrics, remove_digests

from bilinear_cli.errors import BilinearError
from bilinear_cli.report.data import read_report_data
from bilinear_cli.run import load_model, read_metrics, read_photo_rows, read_scores
from bilinear_cli.training.options import TrainOptions


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Reader, dict[str, Any]]:
    """Return a run of this version, its reader, and what it reads."""
    run, reader = train_run(tmp_path_factory.mktemp("runs")), Reader()
    return run, reader, reader.answers(run)


@pytest.fixture
def run(kept: tuple[Path, Reader, dict[str, Any]], tmp_path: Path) -> Path:
    """Return a copy of the run that a test may damage, without digests of its files."""
    return remove_digests(shutil.copytree(kept[0], tmp_path / "run"))


def change_arrays(run: Path, name: str, **arrays: Any) -> Path:
    """Replace arrays of an npz file of a run; None removes one."""
    path = run / f"{name}.npz"
    with np.load(path) as file:
        changed = {**file, **arrays}
    np.savez(path, **{key: x for key, x in changed.items() if x is not None})
    return path


def test_a_run_is_read(kept: tuple[Path, Reader, dict[str, Any]]) -> None:
    run, _, answers = kept
    assert not [x for x in answers.values() if isinstance(x, BilinearError)]
    sha256 = read_scores(run, "test")["sha256"]
    assert {len(x) for x in sha256.tolist()} == {64}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_is_refused_or_right(
    damage: str, kept: tuple[Path, Reader, dict[str, Any]], tmp_path: Path
) -> None:
    source, reader, expected = kept
    for seed in range(4):
        run = shutil.copytree(source, tmp_path / str(seed))
        if seed % 2:
            remove_digests(run)
        DAMAGES[damage](run, np.random.default_rng(seed))
        outcomes = judge(reader.answers(run), expected)
        assert {*outcomes.values()} <= {REFUSED, RIGHT}, (seed, outcomes)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"top1": 1.5}, "top1"),
        ({"top1": None}, "top1"),
        ({"top1": float("nan")}, "top1"),
        ({"n_test": 5.0}, "n_test"),
        ({"n_classes": True}, "n_classes"),
        ({"temperature": 0}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"oof_top1": None}, "oof_top1"),
        ({"confused": [{"true": "jay"}]}, "confused"),
        ({"calibration": {}}, "calibration"),
        ({"curve": [{"C": 1.0}]}, "curve"),
        ({"curve": [[]]}, "curve"),
        ({"classifier": "mlp"}, "C"),
        ({"classifier": "mlp", "C": None, "curve": []}, "hidden"),
        ({"classifier": "soft"}, "soft"),
        ({"pooling": "bilinear+"}, "pooling"),
        ({"pooling": 7}, "pooling"),
        ({"seconds": 10**400}, "seconds"),
        ({"class_weight": None}, "class_weight"),
        ({"n_train_per_class": []}, "n_train_per_class"),
        ({"novelty": {"auroc": 2}}, "novelty"),
        ({"extraction": []}, "extraction"),
    ],
)
def test_a_wrong_figure_is_named(changes: dict[str, Any], fault: str, run: Path) -> None:
    change_metrics(run, **changes)
    with raises(BilinearError, run / "metrics.json", fault, "bilinear train"):
        read_metrics(run)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("image_size", 0), ("image_size", 10**9), ("views", ""), ("views", "flip flip")),
        *(("views", "0-flip"), ("crop", "all"), ("resize", "stretch"), ("command", 5)),
        *(("data_root", ["x"]), ("seed", float("inf")), ("note", {"x": 1})),
    ],
)
def test_a_wrong_attribute_of_the_extraction_is_refused(name: str, value: Any, run: Path) -> None:
    extraction = read_metrics(run)["extraction"]
    change_metrics(run, extraction=extraction | {name: value})
    with raises(BilinearError, run / "metrics.json"):
        read_metrics(run)


def test_a_run_without_metrics_is_damaged_and_no_other_run_is_suggested(run: Path) -> None:
    shutil.copytree(run, run.with_name(f"{run.name}2"))
    (run / "metrics.json").unlink()
    with raises(BilinearError, run, "metrics.json", "bilinear train") as caught:
        read_metrics(run)
    assert f"{run.name}2" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        *("[" * 10**5, "9" * 5000, "null", "", "{"),
        *(b"\xff{}", b"{\x00}", '{"top1": 1e999}'.encode("utf-16")),
    ],
)
def test_metrics_that_are_not_json_are_one_line(text: str | bytes, run: Path) -> None:
    data = text if isinstance(text, bytes) else text.encode()
    (run / "metrics.json").write_bytes(data)
    with raises(BilinearError, run / "metrics.json"):
        read_metrics(run)


@pytest.mark.parametrize("n_bytes", [0, -10, -1])
def test_labels_that_are_cut_off_are_refused(n_bytes: int, run: Path) -> None:
    path = run / "labels.csv"
    path.write_bytes(path.read_bytes()[:n_bytes])
    with raises(BilinearError, path, "bilinear train"):
        read_photo_rows(run)


def test_a_key_that_stands_twice_is_refused(run: Path) -> None:
    path = run / "metrics.json"
    path.write_text(path.read_text("utf-8").rstrip()[:-1] + ', "top1": 1.0}', "utf-8")
    with raises(BilinearError, path):
        read_metrics(run)


def test_a_byte_order_mark_of_an_editor_is_read(run: Path) -> None:
    metrics, rows = read_metrics(run), read_photo_rows(run)
    for name in ("metrics.json", "labels.csv"):
        (run / name).write_bytes(b"\xef\xbb\xbf" + (run / name).read_bytes())
    assert read_metrics(run) == metrics
    assert read_photo_rows(run) == rows


def test_a_changed_recipe_is_noticed(run: Path) -> None:
    extraction = read_metrics(run)["extraction"]
    change_metrics(run, extraction=extraction | {"colours": "srgb"})
    load_model(run)  # an attribute of a later version
    change_metrics(run, extraction=extraction | {"image_size": 33})
    with raises(BilinearError, run / "model.npz"):
        load_model(run)


def test_class_names_in_another_order_are_noticed_by_a_report(run: Path) -> None:
    path = change_arrays(run, "model", class_names=load_model(run).class_names[::-1])
    with raises(BilinearError, path, "class_names", "bilinear train"):
        read_report_data([run])


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8"])
def test_weights_of_another_float_type_or_order_are_read(dtype: str, run: Path) -> None:
    weights = load_model(run).first.weights.astype("f2").astype("f4")
    change_arrays(run, "model", weights=np.asfortranarray(weights.astype(dtype)))
    np.testing.assert_array_equal(load_model(run).first.weights, weights)
    assert load_model(run).first.weights.dtype.isnative


@pytest.mark.parametrize(
    ("name", "arrays"),
    [
        ("model", {"weights": np.ones((36, 1), "f4")}),
        ("model", {"weights": np.ones((1, 3), "f4")}),
        ("model", {"intercept": np.zeros(1, "f4")}),
        ("model", {"class_names": np.array(["jay", "jay", "wren"])}),
        ("model", {"temperature": np.array(-1.0)}),
        ("model", {"normalize0": np.array("sqrt-l2")}),
        ("model", {"factor0": np.array(0.0)}),
        ("model", {"poolings": np.array(["max"])}),
        ("model", {"n_features0": np.array(36.0)}),
        ("test", {"labels": np.full(12, 3)}),
        ("test", {"labels": np.zeros(12, int)}),
        ("test", {"scores": np.full((12, 3), np.nan, "f4")}),
        ("test", {"scores": np.zeros((12, 4), "f4")}),
        ("test", {"photo": np.zeros(12, int)}),
        ("test", {"paths": np.full(12, "x.png")}),
        ("oof", {"paths": np.full(24, "test/jay/4.png")}),
    ],
)
def test_wrong_arrays_are_refused(name: str, arrays: dict[str, np.ndarray], run: Path) -> None:
    path = change_arrays(run, name, **arrays)
    with raises(BilinearError, path, "bilinear train"):
        load_model(run) if name == "model" else read_scores(run, name)


@pytest.mark.parametrize(
    ("name", "array", "permute"),
    [
        ("model", "class_names", lambda x: x[::-1]),
        ("model", "weights", lambda x: x[:, ::-1]),
        ("test", "scores", lambda x: x[:, ::-1]),
        ("oof", "scores", lambda x: x[::-1]),
    ],
)
def test_possible_values_that_train_did_not_write_are_noticed(
    name: str, array: str, permute: Callable[[np.ndarray], np.ndarray], kept: Any, tmp_path: Path
) -> None:
    run = shutil.copytree(kept[0], tmp_path / "run")
    with np.load(run / f"{name}.npz") as file:
        path = change_arrays(run, name, **{array: permute(file[array])})
    with raises(BilinearError, path, "SHA-256", "bilinear train"):
        load_model(run) if name == "model" else read_scores(run, name)


def test_columns_beyond_the_row_are_refused(tmp_path: Path) -> None:
    run = train_run(tmp_path, options=TrainOptions("svm", C=1.0, top_variance=20))
    columns = load_model(run).transforms[0].columns
    assert columns is not None
    change_arrays(remove_digests(run), "model", columns0=np.append(columns[:-1], 36))
    with raises(BilinearError, 8):
        load_model(run).check_channels(8)
    answers = Reader().answers(run)
    assert all(isinstance(answers[x], BilinearError) for x in ("predict", "export", "explain"))


def test_an_archive_that_would_fill_the_memory_is_refused(run: Path) -> None:
    np.savez_compressed(run / "model.npz", weights=np.zeros(10**7))
    assert (run / "model.npz").stat().st_size < 10**5
    tracemalloc.start()
    with raises(BilinearError, run / "model.npz"):
        load_model(run)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**6


def test_a_file_that_cannot_be_opened_is_not_called_damaged(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The missing permission is simulated: it does not exist for the superuser."""

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(Path, "read_text", refuse)
    with raises(BilinearError, run / "metrics.json", "Permission denied") as caught:
        read_metrics(run)
    assert "bilinear train" not in str(caught.value)


def test_one_damaged_run_of_several_is_named(
    kept: tuple[Path, Reader, dict[str, Any]], run: Path
) -> None:
    (run / "model.npz").unlink()
    change_metrics(run, oof_top1=1.0)  # the best, which the report is about
    result = run_command("report", kept[0], run, "--format", "md", code=1)
    error_line(result, run / "model.npz", "bilinear train")
    (run / "metrics.json").write_text(json.dumps({"top1": 1}))
    error_line(run_command("report", kept[0], run, code=1), run / "metrics.json")
