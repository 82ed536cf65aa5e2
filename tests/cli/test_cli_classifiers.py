"""One registry entry is a classifier; a config's `-C` is for the classifiers that take it."""

from collections.abc import Sequence
from pathlib import Path
from unittest.mock import Mock

import click
import numpy as np
import pytest
from support.commands import error_line, run_command
from support.errors import assert_names
from support.feature_files import write_features
from support.network import use_untrained_networks

from bilinear_cli.cli import cli
from bilinear_cli.errors import UsageError
from bilinear_cli.run import load_model, read_metrics
from bilinear_cli.training import registry
from bilinear_cli.training.estimator import Estimator, TrainingData, Trials
from bilinear_cli.training.model import Model
from bilinear_cli.training.options import TrainOptions
from bilinear_cli.training.primal import Linear
from bilinear_cli.training.registry import CLASSIFIERS, Classifier
from bilinear_cli.training.tuning import Tuning

N, K = 24, 3
LABELS = np.arange(N) % K
SPLIT = np.where(np.arange(N) < 15, "train", "test")


class NearestMean(Estimator):
    """Names the class whose mean is nearest."""

    cross_validated = False

    def trials(
        self, data: TrainingData, val_folds: Sequence[np.ndarray], smoothing: float
    ) -> Trials:
        z = data.reduced.coordinates.z
        indices = np.setdiff1d(data.indices, val_folds[0])
        yield {"epochs": 1}, self._means(data, indices)(z)

    def fit(self, data: TrainingData, tuning: Tuning) -> Model:
        on_axes = self._means(data, data.indices)
        linear = data.reduced.linear_from_axes(on_axes)
        return Model(linear, None, data.transforms, data.rows.class_names)

    def _means(self, data: TrainingData, indices: np.ndarray) -> Linear:
        z, labels = data.reduced.coordinates.z, data.rows.labels
        means = np.stack([z[indices][labels[indices] == k].mean(axis=0) for k in range(K)])
        return Linear(means.T, -np.square(means).sum(axis=1) / 2)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 6)) + 4 * np.eye(K, 6)[LABELS]
    maps = np.abs(rng.normal(size=(N, 2, 2, 4)))
    return write_features(tmp_path / "x.h5", {"max": x, "conv5": maps}, LABELS, SPLIT)


def test_an_entry_is_all_that_a_new_classifier_needs(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = Classifier(
        "nearest-mean",
        f"{__name__}:NearestMean",
        (*registry.VECTOR_OPTIONS, "hidden"),
        in_folder_name=("hidden",),
        streamed=False,
        distributed=False,
    )
    monkeypatch.setitem(registry.CLASSIFIERS, entry.name, entry)
    (option,) = [param for param in cli.commands["train"].params if param.name == "classifier"]
    monkeypatch.setattr(option, "type", click.Choice([*registry.CLASSIFIERS]))  # as at its import
    words = ["train", "--features", file, "--pooling", "max", "--classifier", entry.name]
    run_command(*words, "--hidden", "7")
    run = Path("runs/x-max-nearest-mean-7")
    metrics = read_metrics(run)
    facts = {name: metrics[name] for name in ("classifier", "hidden", "C", "epochs", "folds")}
    assert facts == {"classifier": entry.name, "hidden": 7, "C": None, "epochs": 1, "folds": 1}
    assert metrics["top1"] > 0.8
    assert load_model(run).class_names.tolist() == [f"class {k}" for k in range(K)]
    assert entry.name in run_command("train", "--help").stdout
    for option, value in (("-C", 1), ("--scheduler", "local"), ("--solver", "stream")):
        error_line(run_command(*words, option, value, code=2), option, f"--classifier {entry.name}")


def test_an_unknown_classifier_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"'svc'.*'svm'"):
        TrainOptions(classifier="svc")


def test_maps_are_not_taken_beside_vectors(file: Path) -> None:
    for classifier in ("softmax", "conv1x1"):
        words = ["--pooling", "max+conv5", "--classifier", classifier, "-C", "auto"]
        line = error_line(run_command("train", "--features", file, *words, code=2))
        assert_names(line, "--pooling", "conv5", "--classifier", "conv1x1")


@pytest.mark.parametrize(("classifier", "spec"), [("mlp", "max"), ("conv1x1", "conv5")])
@pytest.mark.parametrize("source", ["config", "environment"])
def test_C_of_a_config_or_the_environment_is_for_classifiers_that_have_it(
    source: str, classifier: str, spec: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_untrained_networks(monkeypatch)
    import_tensorflow = Mock()
    monkeypatch.setattr("bilinear_cli.api.train.import_tensorflow", import_tensorflow)
    monkeypatch.delenv("BILINEAR_TRAIN_C")
    before = []
    if source == "config":
        Path("c.toml").write_text("[train]\nC = 0.5\n")
        before = ["--config", "c.toml"]
    else:
        monkeypatch.setenv("BILINEAR_TRAIN_C", "0.5")
    words = ["train", "--features", file, "--channels", 2, "--pooling"]
    run_command(*before, *words, spec, "--classifier", classifier)
    assert import_tensorflow.called == (classifier == "mlp")
    (run,) = Path("runs").iterdir()
    assert read_metrics(run)["C"] is None
    line = error_line(run_command(*words, spec, "--classifier", classifier, "-C", 1, code=2))
    assert_names(line, "-C", f"--classifier {classifier}")
    run_command(*before, *words, "max", "--classifier", "svm")
    assert read_metrics(Path("runs/x-max-svm"))["C"] == 0.5


def test_every_entry_names_an_estimator() -> None:
    for name, entry in CLASSIFIERS.items():
        assert entry.name == name
        assert isinstance(entry.load(), Estimator)
        assert {*entry.in_folder_name} <= {*entry.options}
