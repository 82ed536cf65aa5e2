"""Tests of the benchmark of training: it runs what it times."""

from pathlib import Path

import numpy as np
import pytest
from bench_training import FOLDS_WITHIN, WITHIN, run_case
from support.feature_files import write_features


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small file of bilinear features: 8 channels, 3 classes, 60 photos."""
    rng, n = np.random.default_rng(0), 60
    labels = np.arange(n) % 3
    x = np.abs(rng.normal(size=(3, 36))[labels] + rng.normal(size=(n, 36))).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    split = np.where(np.arange(n) % 5, "train", "test")
    return write_features(tmp_path_factory.mktemp("bench") / "x.h5", {"bilinear": x}, labels, split)


def test_ours_and_the_peer_reach_the_same_objective(features: Path) -> None:
    ours = run_case(features, "ours", classifier="softmax", tuned=False)
    for square, columns in ((True, 64), (False, 36)):
        peer = run_case(features, "peer", square=square, optimum=ours["objective"])
        assert ours["objective"] <= peer["objective"] * (1 + 1e-4)
        assert peer["objective"] <= ours["objective"] * (1 + WITHIN)
        assert peer["columns"] == columns


def test_the_reduced_peer_tries_the_same_c_and_reaches_the_same_objective(
    features: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sklearn import linear_model

    grids: list[list[float]] = []

    class Recorded(linear_model.LogisticRegressionCV):
        def fit(self, x: np.ndarray, y: np.ndarray) -> "Recorded":
            grids.append(self.Cs)
            return super().fit(x, y)

    monkeypatch.setattr(linear_model, "LogisticRegressionCV", Recorded)
    optimum = run_case(features, "ours", classifier="softmax", tuned=False)["objective"]
    ours = run_case(features, "ours", classifier="softmax", tuned=True)
    peer = run_case(features, "reduced_peer", Cs=ours["Cs"], optimum=optimum)
    assert len(ours["Cs"]) > 1
    assert grids == [ours["Cs"]]
    assert peer["C"] in ours["Cs"]
    assert optimum * (1 - 1e-4) <= peer["objective"] <= optimum * (1 + FOLDS_WITHIN)
    assert 0 <= peer["top1"] <= 1
    assert {"seconds", "reduction", "tuning", "gib"} <= peer.keys()


@pytest.mark.parametrize("classifier", ["softmax", "svm", "ridge"])
def test_a_share_of_the_rows_is_tuned_on(features: Path, classifier: str) -> None:
    figures = run_case(features, "ours", 0.5, classifier=classifier, tuned=True)
    assert (figures["rows"], figures["classes"]) == (24, 3)
    assert figures["C"] > 0
    assert {"seconds", "reduction", "tuning", "gib"} <= figures.keys()
