"""Tests of the selection and normalisation of stored rows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from support.errors import raises

from bilinear_cli.errors import UsageError
from bilinear_cli.training import feature_transform
from bilinear_cli.training.feature_transform import Block, Features, FeatureTransform
from bilinear_cli.training.primal import array_blocks

N_CHANNELS = 5
D = N_CHANNELS * (N_CHANNELS + 1) // 2
TRAIN = np.array([0, 1, 2, 4, 5, 7, 8])
EVERY = np.arange(11)
TEST = np.setdiff1d(EVERY, TRAIN)


@pytest.fixture
def stored() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "max": rng.gamma(2, 3, (len(EVERY), 6)).astype(np.float32),
        "sum": rng.gamma(2, 500, (len(EVERY), 4)).astype(np.float32),
        "bilinear": rng.normal(0, 0.2, (len(EVERY), D)).astype(np.float16),
    }


class Memory:
    """What `Features` uses of a feature file, in memory."""

    def __init__(self, stored: Mapping[str, np.ndarray]) -> None:
        self.stored = stored
        self.shapes = {spec: x.shape for spec, x in stored.items()}

    def column_blocks(self, spec: str, indices: np.ndarray, step: int) -> Iterator[Block]:
        for span in spans(self.shapes[spec][1], step):
            yield span, self.stored[spec][indices, span].astype(np.float32)

    def batches(self, spec: str, indices: np.ndarray, step: int) -> Iterator[Block]:
        for span in spans(len(indices), step):
            yield span, self.stored[spec][indices[span]].astype(np.float32)


def spans(n: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


def fit_transforms(
    stored: Mapping[str, np.ndarray], train: np.ndarray, **options: Any
) -> list[FeatureTransform]:
    return feature_transform.fit_feature_transforms(Memory(stored), list(stored), train, **options)


def top_variance_columns(
    rows: np.ndarray, train: np.ndarray, n_entries: int, spec: str = "bilinear"
) -> np.ndarray:
    return feature_transform.top_variance_columns(Memory({spec: rows}), spec, train, n_entries)


def dense(
    transforms: Sequence[FeatureTransform], stored: dict[str, np.ndarray], indices: np.ndarray
) -> np.ndarray:
    """Return the features of a classifier in one array, the same by columns and by rows."""
    features = Features(Memory(stored), transforms)
    arrays = []
    for blocks, stack in (
        (list(features.columns(indices)), np.hstack),
        (list(features.rows(indices)), np.vstack),
    ):
        assert [span.start for span, _ in blocks[1:]] == [span.stop for span, _ in blocks[:-1]]
        assert all(block.dtype == np.float32 for _, block in blocks)
        arrays.append(stack([block for _, block in blocks]))
    np.testing.assert_allclose(arrays[1], arrays[0], rtol=1e-5, atol=1e-6)
    mean = arrays[0].mean(axis=0)
    centred = np.hstack([x for _, x in replace(features, mean=mean).columns(indices)])
    np.testing.assert_array_equal(centred, arrays[0] - mean)
    return arrays[0]


def expected(rows: np.ndarray, train: np.ndarray, normalize: str) -> np.ndarray:
    """Return all rows, normalised, in float64 and in one piece."""
    x = rows.astype(np.float64)
    if normalize == "standard":
        return (x - x[train].mean(0)) / x[train].std(0)
    if normalize == "sqrt-l2":
        x = np.sign(x) * np.sqrt(np.abs(x))
        return x / np.linalg.norm(x, axis=1, keepdims=True)
    return x


@pytest.mark.parametrize("block_bytes", [1, 4 * len(TRAIN) * 3, 1 << 28])
@pytest.mark.parametrize("spec", ["max", "bilinear"])
@pytest.mark.parametrize("normalize", ["none", "standard", "sqrt-l2"])
def test_blocks_are_a_direct_computation_whatever_their_size(
    stored: dict[str, np.ndarray],
    normalize: str,
    spec: str,
    block_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feature_transform, "BLOCK_BYTES", block_bytes)
    x = {spec: stored[spec]}
    transforms, d = fit_transforms(x, TRAIN, normalize=normalize), stored[spec].shape[1]
    n_blocks = len(list(Features(Memory(x), transforms).columns(TRAIN)))
    assert n_blocks == {1: d, 1 << 28: 1}.get(block_bytes, -(-d // 3))
    for indices in (TRAIN, EVERY, TEST[::-1]):
        rows = expected(stored[spec], TRAIN, normalize)[indices]
        np.testing.assert_allclose(dense(transforms, x, indices), rows, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("normalize", ["auto", "none", "standard", "sqrt-l2"])
@pytest.mark.parametrize(
    ("specs", "top_variance"),
    [(["max"], None), (["bilinear"], None), (["bilinear"], 9), (["max", "sum", "bilinear"], None)],
)
def test_test_rows_change_nothing_that_is_fitted(
    stored: dict[str, np.ndarray], specs: list[str], normalize: str, top_variance: int | None
) -> None:
    before = {spec: stored[spec] for spec in specs}
    after = {spec: x.copy() for spec, x in before.items()}
    for x in after.values():
        x[TEST] = 100 * x[TEST] + 7
    options = {"normalize": normalize, "top_variance": top_variance}
    fitted = [fit_transforms(x, TRAIN, **options) for x in (before, after)]
    for a, b in zip(*fitted, strict=True):
        for name in ("columns", "mean", "std", "factor"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    np.testing.assert_array_equal(dense(fitted[0], before, TRAIN), dense(fitted[1], after, TRAIN))


def test_auto_is_standard_for_plain_poolings_and_none_for_normalised_ones(
    stored: dict[str, np.ndarray],
) -> None:
    chosen = {x.spec: x.normalize for x in fit_transforms(stored, TRAIN)}
    assert chosen == {"max": "standard", "sum": "standard", "bilinear": "none"}
    assert {x.normalize for x in fit_transforms(stored, TRAIN, normalize="sqrt-l2")} == {"sqrt-l2"}


def test_a_constant_column_becomes_zero_not_infinite(stored: dict[str, np.ndarray]) -> None:
    x = {"max": stored["max"]}
    x["max"][TRAIN, 2] = 3.3
    x["max"][TEST, 2] = 5.3
    x_normalised = dense(fit_transforms(x, TRAIN), x, EVERY)
    np.testing.assert_array_equal(x_normalised[TRAIN, 2], 0)
    np.testing.assert_allclose(x_normalised[TEST, 2], 2, rtol=1e-6)


@pytest.mark.parametrize("normalize", ["none", "standard", "sqrt-l2"])
def test_a_row_of_zeros_stays_finite(stored: dict[str, np.ndarray], normalize: str) -> None:
    x = {"max": stored["max"], "sum": stored["sum"]}
    for values in x.values():
        values[4] = values[9] = 0
    x_normalised = dense(fit_transforms(x, TRAIN, normalize=normalize), x, EVERY)
    assert np.isfinite(x_normalised).all()
    if normalize != "standard":
        assert not x_normalised[[4, 9]].any()


@pytest.mark.parametrize("normalize", ["auto", "none", "sqrt-l2"])
def test_poolings_side_by_side_weigh_alike(stored: dict[str, np.ndarray], normalize: str) -> None:
    x_normalised = dense(fit_transforms(stored, TRAIN, normalize=normalize), stored, TRAIN)
    assert x_normalised.shape == (len(TRAIN), 6 + 4 + D)
    norms = [np.linalg.norm(x, axis=1).mean() for x in np.split(x_normalised, [6, 10], axis=1)]
    np.testing.assert_allclose(norms, 1, rtol=1e-5)


def test_one_pooling_or_a_pooling_of_zeros_keeps_its_scale(stored: dict[str, np.ndarray]) -> None:
    assert fit_transforms({"sum": stored["sum"]}, TRAIN)[0].factor == 1
    stored["sum"][TRAIN] = 0
    factors = {x.spec: x.factor for x in fit_transforms(stored, TRAIN, normalize="none")}
    assert factors["sum"] == 1 != factors["max"]


# Selection by variance --------------------------------------------------------------------


def whole_matrices(rows: np.ndarray) -> np.ndarray:
    """Return (n, c, c), the unscaled matrices that upper triangles stand for."""
    i, j = np.triu_indices(N_CHANNELS)
    matrices = np.zeros((len(rows), N_CHANNELS, N_CHANNELS))
    unscaled = np.where(i == j, 1, np.sqrt(0.5)) * rows.astype(np.float64)
    matrices[:, i, j] = matrices[:, j, i] = unscaled
    return matrices


def brute_force(rows: np.ndarray, n_entries: int) -> list[int]:
    """Rank all c² entries of the matrices; select numbers whose entries are all among the first."""
    variance = whole_matrices(rows).var(axis=0).ravel()
    first = np.argsort(-variance, kind="stable")[:n_entries]
    kept = {(k // N_CHANNELS, k % N_CHANNELS) for k in first}
    i, j = np.triu_indices(N_CHANNELS)
    return [k for k in range(D) if {(i[k], j[k]), (j[k], i[k])} <= kept]


@pytest.mark.parametrize("block_bytes", [1, 1 << 28])
@pytest.mark.parametrize("n_entries", [2, 3, 10, 16, 24, 25])
def test_top_variance_ranks_the_entries_of_the_whole_matrix(
    stored: dict[str, np.ndarray], n_entries: int, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_transform, "BLOCK_BYTES", block_bytes)
    rows = stored["bilinear"]
    columns = top_variance_columns(rows, TRAIN, n_entries)
    assert columns.tolist() == brute_force(rows[TRAIN], n_entries)
    assert columns.tolist() != brute_force(rows[TEST], n_entries) or n_entries == N_CHANNELS**2


def test_top_variance_halves_what_is_off_the_diagonal() -> None:
    """Stored variances 0.6, 1, 0.4 are 0.6, 0.5 (twice), 0.4 in the matrix [[a, b], [b, c]]."""
    rows = np.sqrt([0.6, 1, 0.4]) * np.array([[-1], [1]])
    chosen = {k: top_variance_columns(rows, np.arange(2), k) for k in (1, 3, 4)}
    assert {k: x.tolist() for k, x in chosen.items()} == {1: [0], 3: [0, 1], 4: [0, 1, 2]}
    assert top_variance_columns(rows, np.arange(2), 1, "max").tolist() == [1]


def test_top_variance_of_one_entry_of_a_pair_is_refused() -> None:
    rows = np.array([[0, -1, 0], [0, 1, 0.0]])
    with raises(UsageError, "--top-variance 1", 2):
        top_variance_columns(rows, np.arange(2), 1)


def test_columns_are_selected_before_they_are_normalised(stored: dict[str, np.ndarray]) -> None:
    x = {"bilinear": stored["bilinear"]}
    (transform,) = fit_transforms(x, TRAIN, normalize="sqrt-l2", top_variance=12)
    assert transform.columns is not None
    assert transform.n_features == len(transform.columns) < D
    rows = expected(stored["bilinear"][:, transform.columns], TRAIN, "sqrt-l2")
    np.testing.assert_allclose(dense([transform], x, EVERY), rows, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("spec", "n_entries"), [("bilinear", N_CHANNELS**2), ("max", 6)])
def test_more_entries_than_the_matrix_has_are_refused(
    stored: dict[str, np.ndarray], spec: str, n_entries: int
) -> None:
    x = {spec: stored[spec]}
    assert fit_transforms(x, TRAIN, top_variance=n_entries)[0].n_features == stored[spec].shape[1]
    with raises(UsageError, f"--top-variance {n_entries + 1}", n_entries):
        fit_transforms(x, TRAIN, top_variance=n_entries + 1)


def test_maps_stay_as_they_are_and_unknown_normalisations_are_refused(
    stored: dict[str, np.ndarray],
) -> None:
    (transform,) = fit_transforms({"maps": np.zeros((11, 2, 2, 3), np.float16)}, TRAIN)
    assert (transform.normalize, transform.columns, transform.n_features) == ("none", None, 3)
    with raises(UsageError, "'sqrt'", "sqrt-l2", "standard", "none", "auto"):
        fit_transforms(stored, TRAIN, normalize="sqrt")


def test_blocks_without_a_selected_column_are_left_out(
    stored: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_transform, "BLOCK_BYTES", 4 * len(EVERY) * 2)  # two columns
    transform = FeatureTransform("bilinear", np.array([0, 6, 7, 11]), 4, "none")
    columns, blocks = zip(*Features(Memory(stored), [transform]).columns(EVERY), strict=True)
    assert list(columns) == [slice(0, 1), slice(1, 3), slice(3, 4)]
    selected = stored["bilinear"][:, transform.columns].astype(np.float32)
    np.testing.assert_array_equal(np.hstack(blocks), selected)


def test_rows_of_an_array_are_copied_in_blocks_unless_they_are_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feature_transform, "BLOCK_BYTES", 4 * 6 * 5)  # five rows
    x = np.random.default_rng(0).normal(size=(24, 6)).astype(np.float32)
    order = np.random.default_rng(1).permutation(24)
    for indices, ends in ((order[:17], [5, 10, 15, 17]), (order, [5, 10, 15, 20, 24])):
        rows, blocks = zip(*array_blocks(x, indices), strict=True)
        assert [(span.start, span.stop) for span in rows] == list(pairwise([0, *ends]))
        np.testing.assert_array_equal(np.concatenate(blocks), x[indices])
    ((span, block),) = array_blocks(x, np.arange(24))
    assert span == slice(0, 24)
    assert block is x
