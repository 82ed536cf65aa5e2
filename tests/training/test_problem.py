"""Tests of the choice of a solver, and of problems posed from a file."""

from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import pytest
from support.errors import assert_names, raises
from support.feature_files import write_features
from support.rows import LOSSES

from bilinear_cli.errors import BilinearError, FeatureFileError, UsageError
from bilinear_cli.store import FeatureFile
from bilinear_cli.training import feature_transform, reducers
from bilinear_cli.training.losses import one_hot
from bilinear_cli.training.reducers import (
    GramProblem,
    PrimalProblem,
    Reading,
    bytes_needed,
    choose_solver,
    reduce,
)

N = 24
LABELS = np.arange(N) % 3


def with_memory(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reducers, "free_memory", lambda: free)


@pytest.mark.parametrize(
    ("n", "d", "k"), [(3000, 131_328, 100), (200_000, 512, 1000), (100_000, 131_328, 5)]
)
def test_auto_is_gram_while_it_fits(
    n: int, d: int, k: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    needed = bytes_needed(n, d, k)
    with_memory(int(needed / 0.69), monkeypatch)
    assert choose_solver("auto", n, d, k) == "gram"
    assert choose_solver("stream", n, d, k) == "stream"
    with_memory(int(needed / 0.71), monkeypatch)
    assert choose_solver("auto", n, d, k) == "stream"
    assert choose_solver("gram", n, d, k) == "gram"
    assert {record.levelname for record in caplog.records} == {"INFO"}
    messages = [record.getMessage() for record in caplog.records]
    sizes = [[f"{size / 1e9:.1f} GB" for size in (needed, needed / x)] for x in (0.69, 0.71)]
    for message, memory in zip(messages, (sizes[0], [], sizes[1], sizes[1]), strict=True):
        assert_names(message, f"{n:,}", f"{d:,}", *memory)
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
    path = write_features(tmp_path / "x.h5", {"max": x}, LABELS, np.full(N, "train"))
    rows = np.arange(N)[::-1].copy()
    targets = one_hot(LABELS[rows], 3)
    calls: list[Any] = []
    models = []
    with FeatureFile(path) as file:
        transforms = feature_transform.fit_transforms(file, ["max"], rows, normalize="none")
        for solver in ("gram", "stream"):
            calls.clear()
            reading = Reading(lambda *done: calls.append(done))
            problem: Any = reduce(file, transforms, rows, solver, reading)
            assert calls[-1][0] == calls[-1][1]
            assert isinstance(problem, form if solver == "gram" else PrimalProblem)
            steps = [(0.01, 1e-6), (0.1, 1e-9)]
            *_, fit = problem.regularization_path(np.arange(N), targets, LOSSES["softmax"], steps)
            linear = problem.linear(fit)
            models.append(
                (linear.weights, linear.intercept + problem.mean @ linear.weights, problem)
            )
    for one, other in zip(models[0][:2], models[1][:2], strict=True):
        np.testing.assert_allclose(one, other, atol=5e-3 * np.abs(one).max())
    assert models[0][2].mean_square == pytest.approx(models[1][2].mean_square, rel=1e-5)
    np.testing.assert_allclose(models[0][2].mean, models[1][2].mean, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("solver", ["gram", "stream"])
@pytest.mark.parametrize("d", [6, 40])
def test_bad_features_are_one_line(d: int, solver: str, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(N, d))
    x[5, 3] = np.nan
    same = np.ones((N, d))
    rows, photos = {"max": x, "sum": same}, [f"{letter}.png" for letter in ascii_lowercase[:N]]
    path = write_features(tmp_path / "x.h5", rows, LABELS, np.full(N, "train"), paths=photos)
    with FeatureFile(path) as file:
        for spec, error, facts in (
            ("max", FeatureFileError, (path, 5, "features/max", "f.png")),
            ("sum", BilinearError, ()),
        ):
            transforms = [feature_transform.FeatureTransform(spec, None, d, "none")]
            with raises(error, *facts):
                reduce(file, transforms, np.arange(N), solver)
