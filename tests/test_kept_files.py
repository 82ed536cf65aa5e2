"""Reading, training, predicting and loading with files of version 0.1 still give the same results.

`data_files/make.py` wrote the files. `expected.json` has the results of that version.
"""

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from support.commands import run_command
from support.feature_files import all_rows
from support.thin_network import VGG16, thin_networks

import bilinear_cli.layers  # noqa: F401  (Keras finds the layers of the exported model)
from bilinear_cli.store import FeatureFile

KEPT = Path(__file__).parent / "data_files" / "v0.1"
EXPECTED = json.loads((KEPT / "expected.json").read_text("utf-8"))
RUNS = sorted(EXPECTED["predicted"])
POOLINGS = {
    *("max", "avg", "sum", "bilinear", "bilinear-plain", "covariance", "matrix-sqrt"),
    *("compact:16", "bilinear:4"),
}
WITH_KERAS = ("mlp", "conv1x1")
TOLERANCE = 1e-4  # other CPUs and versions add in another order
TRAINING_TOLERANCE = 1e-3  # likewise; a log loss differs by 1.1e-4 with OpenBLAS for Nehalem


@pytest.fixture(autouse=True)
def _in_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(KEPT)


@pytest.fixture(scope="module")
def network() -> Iterator[None]:
    with thin_networks(layers=VGG16):
        yield


def assert_same_rows(
    path: Path, expected: Path, views: Sequence[str] = (), removed: Sequence[str] = ()
) -> None:
    """Compare the poolings of a file with those of a file that may have more."""
    with FeatureFile(path) as file, FeatureFile(expected) as reference:
        rows = np.isin(reference.view, views or file.view) & ~np.isin(reference.paths, removed)
        for column in ("photo", "view", "labels", "paths", "sha256", "split", "group"):
            assert getattr(file, column).tolist() == getattr(reference, column)[rows].tolist()
        assert file.class_names.tolist() == reference.class_names.tolist()
        for name, array in file.parameters.items():
            np.testing.assert_array_equal(array, reference.parameters[name])
        for spec in file.shapes:
            stored = all_rows(reference, spec)[rows]
            atol = TOLERANCE * np.abs(stored).max()
            np.testing.assert_allclose(all_rows(file, spec), stored, TOLERANCE, atol, err_msg=spec)


# Feature files ---------------------------------------------------------------------------


def test_columns_and_keys_of_feature_files() -> None:
    with FeatureFile(Path("birds.h5")) as file:
        assert set(file.shapes) == POOLINGS
        assert file.class_names.tolist() == ["jay", "tit", "wren"]
        assert file.view.tolist() == ["original", "flip"] * 18
        assert file.split.tolist() == ["train"] * 24 + ["test"] * 12
        assert file.labels.tolist() == [0] * 8 + [1] * 8 + [2] * 8 + [0] * 4 + [1] * 4 + [2] * 4
    with h5py.File("maps.h5") as file:
        assert [*file["features"]] == ["conv5"]  # the key of version 0.1


def test_stored_maps_are_pooled_to_the_stored_rows(tmp_path: Path) -> None:
    poolings = [word for spec in sorted(POOLINGS) for word in ("--pooling", spec)]
    options = ["--maps", "maps.h5", "--projection", "birds.h5", *poolings]
    run_command("extract", *options, "-o", tmp_path / "x.h5")
    assert_same_rows(tmp_path / "x.h5", Path("birds.h5"), views=("original",))


@pytest.mark.slow
@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("removed", [[], ["test/wren/5.png"]], ids=["all photos", "one less"])
def test_an_unfinished_file_is_resumed(
    removed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy("begun.h5.partial", tmp_path)
    shutil.copytree("photos", tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    for path in removed:
        Path("photos", path).unlink()
    with FeatureFile(Path("begun.h5.partial"), allow_partial=True) as file:
        assert (file.rows_done, len(file.photo)) == (16, 36)
        words = json.loads(file.attributes["command"])
        first = {spec: file.read_stored(spec, np.arange(16)).tobytes() for spec in file.shapes}
    run_command(*words[1:])
    assert_same_rows(Path("begun.h5"), KEPT / "birds.h5", removed=removed)
    with FeatureFile(Path("begun.h5")) as file:
        assert set(file.shapes) == POOLINGS
        for spec, rows in first.items():
            assert file.read_stored(spec, np.arange(16)).tobytes() == rows


def test_shards_are_merged(tmp_path: Path) -> None:
    run_command("merge", "shard-1.h5", "shard-2.h5", "-o", tmp_path / "x.h5")
    assert_same_rows(tmp_path / "x.h5", Path("birds.h5"))
    with FeatureFile(tmp_path / "x.h5") as file:
        assert set(file.shapes) == {"max", "bilinear:4"}


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(line, marks=[pytest.mark.slow] * any(name in line for name in WITH_KERAS))
        for line in EXPECTED["trained"]
    ],
)
def test_training_gives_the_same_metrics(
    options: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in make.py: the default is too small for so few photos.
    monkeypatch.setattr("bilinear_cli.training.conv1x1.LEARNING_RATE", 0.03)
    words = ["train", "--json", "-o", tmp_path, "--features", *options.split()]
    (metrics,) = json.loads(run_command(*words).stdout)["results"]
    expected = dict(EXPECTED["trained"][options])
    best_c = expected.pop("C")
    assert metrics["C"] == (best_c and pytest.approx(best_c, rel=0.01))  # C has three digits
    metrics = {name: metrics[name] for name in expected}
    assert metrics == pytest.approx(expected, abs=TRAINING_TOLERANCE)


# Run folders -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("run", RUNS)
def test_predictions_of_runs(run: str) -> None:
    stdout = run_command("predict", run, "photos/test", "--json", "--weights", "random").stdout
    lines = [json.loads(line) for line in stdout.splitlines()]
    assert [line["path"] for line in lines] == [*EXPECTED["predicted"][run]]
    for line in lines:
        names = {name["name"]: name["probability"] for name in line["names"]}
        assert names == pytest.approx(EXPECTED["predicted"][run][line["path"]], abs=TOLERANCE)


@pytest.mark.usefixtures("network")
def test_an_explanation_of_a_run(tmp_path: Path) -> None:
    words = ["explain", "runs/birds-bilinear-softmax", "photos/test/wren/4.png", "--class", "wren"]
    stdout = run_command(*words, "-o", tmp_path / "x.png", "--weights", "random").stdout
    values = [float(x) for x in re.findall(r"-?\d+\.\d{4}", stdout)[:3]]
    expected = EXPECTED["score, intercept, places"]  # with four decimals
    assert values == pytest.approx(expected, abs=5 * TOLERANCE)


def test_runs_as_a_table() -> None:
    stdout = run_command("report", *RUNS).stdout
    for run in RUNS:
        metrics = json.loads(Path(run, "metrics.json").read_text("utf-8"))
        assert f"{metrics['top1']:.4f}" in stdout
        assert metrics["pooling"].split(":")[0] in stdout


# The exported model ----------------------------------------------------------------------


@pytest.mark.slow
def test_keras_loads_the_exported_model() -> None:
    pixels = np.arange(2 * 32 * 32 * 3).reshape(2, 32, 32, 3) % 251
    network = keras.models.load_model("birds.keras")
    assert network.layers[-1].class_names == ["jay", "tit", "wren"]
    np.testing.assert_allclose(network(pixels), EXPECTED["exported"], 0, TOLERANCE)
