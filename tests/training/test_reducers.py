"""Tests of the choice of a solver, and of problems reduced from a file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.errors import assert_names, raises
from support.feature_files import write_features
from support.rows import LOSSES

from bilinear_cli.errors import UsageError
from bilinear_cli.store import FeatureFile
from bilinear_cli.training import feature_transform, reducers
from bilinear_cli.training.losses import one_hot
from bilinear_cli.training.reducers import (
    GramProblem,
    LocalReducer,
    PrimalProblem,
    bytes_needed,
    choose_solver,
)

N = 24
LABELS = np.arange(N) % 3
TRAIN = np.full(N, "train")


@pytest.mark.parametrize(
    ("n", "d", "k"), [(3000, 131_328, 100), (200_000, 512, 1000), (100_000, 131_328, 5)]
)
def test_auto_is_gram_while_it_fits(
    n: int, d: int, k: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    needed = bytes_needed(n, d, k)
    for share, solver, chosen, names_sizes in (
        (0.69, "auto", "gram", True),
        (0.69, "stream", "stream", False),
        (0.71, "auto", "stream", True),
        (0.71, "gram", "gram", True),
    ):
        monkeypatch.setattr(reducers, "free_memory", lambda share=share: int(needed / share))
        assert choose_solver(solver, n, d, k) == chosen
        record = caplog.records[-1]
        assert record.levelname == "INFO"
        sizes = [f"{size / 1e9:.1f} GB" for size in (needed, needed / share)]
        assert_names(record.getMessage(), f"{n:,}", f"{d:,}", *(sizes if names_sizes else []))
    with raises(UsageError, "'grem'", "'gram'", "stream", "auto"):
        choose_solver("grem", n, d, k)


def test_memory_grows_with_the_smaller_side() -> None:
    assert bytes_needed(3000, 131_328, 100) == bytes_needed(3000, 10**9, 100) < 1.5 * 2**30
    assert bytes_needed(20_000, 8192, 200) < 2.5 * 2**30
    assert bytes_needed(10**6, 512, 100) < 6 * 2**30
    assert bytes_needed(3000, 131_328, 1000) > bytes_needed(3000, 131_328, 100)


@pytest.mark.parametrize(("d", "form"), [(6, PrimalProblem), (40, GramProblem)])
def test_both_solvers_find_the_same_optimum_of_a_file(
    d: int, form: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_transform, "BLOCK_BYTES", 4 * N * 5)  # several blocks
    x = np.random.default_rng(0).normal(1, 1, (N, d)) + 2 * np.eye(3, d)[LABELS]
    rows = np.arange(N)[::-1].copy()
    targets, steps = one_hot(LABELS[rows], 3), [(0.01, 1e-6), (0.1, 1e-9)]
    figures = []
    with FeatureFile(write_features(tmp_path / "x.h5", {"max": x}, LABELS, TRAIN)) as file:
        transforms = feature_transform.fit_feature_transforms(file, ["max"], rows, normalize="none")
        for solver in ("gram", "stream"):
            calls: list[Any] = []
            features = feature_transform.Features(file, transforms)
            reducer = LocalReducer(features, rows, lambda *done, calls=calls: calls.append(done))
            problem: Any = reducer.reduce(solver)
            assert calls[-1][0] == calls[-1][1]
            assert isinstance(problem, form if solver == "gram" else PrimalProblem)
            assert problem.solver == solver
            *_, fit = problem.regularization_path(np.arange(N), targets, LOSSES["softmax"], steps)
            scores = problem.to_linear(fit)(x[rows].astype(np.float32))
            figures.append((problem.mean, problem.mean_squared_norm, scores))
    for gram, stream, tolerance in zip(*figures, (1e-5, 1e-5, 5e-3), strict=True):
        np.testing.assert_allclose(gram, stream, atol=tolerance * np.abs(gram).max())
