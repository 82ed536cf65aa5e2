"""Tests of docs/why: vectors, identities, intervals, and the script."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import figures
import matches
import measure
import numpy as np
import pytest
import vectors
import why
from measure import Trial
from support.errors import raises
from support.feature_files import write_features

from bilinear_cli.poolings.functions import pool_function
from bilinear_cli.run import train
from bilinear_cli.store import FeatureFile
from bilinear_cli.training.options import TrainOptions
from bilinear_cli.training.rows import select_rows

bilinear_pool = pool_function("bilinear", {})
N_CLASSES, N_PHOTOS, CHANNELS = 3, 8, 16  # five of eight photos for training


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """Return a feature file of small maps; each class has its own pair of equal channels."""
    rng, n = np.random.default_rng(0), N_CLASSES * N_PHOTOS
    labels = np.arange(n) % N_CLASSES
    maps = rng.exponential(size=(n, 3, 3, CHANNELS)) * (rng.random((n, 3, 3, CHANNELS)) < 0.5)
    for photo, label in zip(maps, labels, strict=True):
        photo[..., 2 * label] = photo[..., 2 * label + 1]
    split = np.where(np.arange(n) // N_CLASSES < 5, "train", "test")
    attributes = {"data": "../birds of mine", "image_size": 224}
    return write_features(tmp_path / "x.h5", {"maps": maps}, labels, split, attributes=attributes)


# The vectors -------------------------------------------------------------------------------------


@pytest.fixture
def maps() -> np.ndarray:
    """Return maps of numbers that float16 can hold, (3, 4, 4, 6), many of them zero."""
    values = np.maximum(np.random.default_rng(0).normal(size=(3, 4, 4, 6)), 0)
    return values.astype(np.float16).astype(np.float32)


def orders(shuffle: Callable) -> np.ndarray:
    """Return the locations that the values of each channel come from, (photos, channels, 16)."""
    locations = np.broadcast_to(np.arange(16).reshape(4, 4, 1), (3, 4, 4, 6))
    shuffled = shuffle(locations, np.random.default_rng(0))
    return shuffled.reshape(3, 16, 6).transpose(0, 2, 1)


def test_shuffled_channels_keep_their_values_and_lose_their_products(maps: np.ndarray) -> None:
    shuffled = vectors.shuffled(maps, np.random.default_rng(0))
    before, after = (x.reshape(3, 16, 6) for x in (maps, shuffled))
    # The maximum, mean and sum of each channel are the same.
    np.testing.assert_array_equal(np.sort(after, axis=1), np.sort(before, axis=1))
    np.testing.assert_allclose(vectors.diagonal(shuffled), vectors.diagonal(maps), rtol=1e-6)
    assert np.abs(bilinear_pool(shuffled) - bilinear_pool(maps)).max() > 0.05
    assert len(np.unique(orders(vectors.shuffled).reshape(18, 16), axis=0)) == 18


def test_channels_shuffled_together_change_nothing(maps: np.ndarray) -> None:
    shuffled = vectors.shuffled_together(maps, np.random.default_rng(0))
    first, *others = orders(vectors.shuffled_together).swapaxes(0, 1)  # one order per photo
    assert (others == first).all()
    assert len(np.unique(first, axis=0)) == 3
    assert (np.sort(first) == np.arange(16)).all()
    np.testing.assert_allclose(bilinear_pool(shuffled), bilinear_pool(maps), atol=1e-6)


def test_matrices_by_hand() -> None:
    # Channels 1 2 0 1 and 0 1 3 0: sums of squares 6 and 10, sum of products 2, means 1 and 1.
    maps = np.array([[[[1, 0], [2, 1]], [[0, 3], [1, 0]]]], np.float32)
    by_hand = {
        vectors.mean_product: [[1.5, 0.5], [0.5, 2.5]],
        vectors.diagonal: [1.5, 2.5],
        vectors.off_diagonal: [[0, 0.5], [0.5, 0]],
        vectors.product_of_means: [[1, 1], [1, 1]],
        vectors.unrelated: [[1.5, 1], [1, 2.5]],
    }
    for matrix, expected in by_hand.items():
        np.testing.assert_allclose(matrix(maps)[0], expected, rtol=1e-6, err_msg=matrix.__name__)


def test_norms_by_hand() -> None:
    matrices = np.array([[[9, 4], [4, 0]]], np.float32)
    by_hand = {
        "plain": np.array([9, 4 * np.sqrt(2), 0]),
        "root": np.array([3, 2 * np.sqrt(2), 0]),
        "l2": np.array([9, 4 * np.sqrt(2), 0]) / np.sqrt(113),
        "both": np.array([3, 2 * np.sqrt(2), 0]) / np.sqrt(17),
    }
    assert set(by_hand) == set(vectors.NORMS)
    for norm, expected in by_hand.items():
        row = vectors.normalized(matrices, norm)[0]
        np.testing.assert_allclose(row, expected, rtol=1e-6, err_msg=norm)


def test_the_program_computes_the_same_bilinear_vector(maps: np.ndarray) -> None:
    rows = vectors.VARIANTS[vectors.FULL].rows(maps, np.random.default_rng(0))
    np.testing.assert_allclose(rows, bilinear_pool(maps), atol=1e-6)


# The identities ----------------------------------------------------------------------------------


def test_matches_by_hand() -> None:
    x, y = np.array([[1.0, 0], [0, 2]]), np.array([[1.0, 1], [0, 1]])  # matches 1 0 2 2
    products = matches.expected_products(x, y)
    assert (products["sum"], products["bilinear"]) == (5, 9)


def test_identities_hold(features: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matches, "N_PAIRS", 10)
    with FeatureFile(features) as file:
        checks = matches.measure_matches(file)
    assert checks["pairs"] == 10
    assert len(checks["identities"]) == 4
    assert max(checks["identities"].values()) < 1e-6
    assert checks["moved"]["max"] == checks["moved"]["sum"] == 0
    assert checks["moved"]["bilinear"] < 1e-6 < checks["moved"]["bilinear, each channel"]


def test_shares_of_the_strongest_matches() -> None:
    equal = matches.shares_of_strongest(np.ones(1000))
    np.testing.assert_allclose(equal, np.ceil(1000 * matches.SHARES) / 1000)
    dominated = matches.shares_of_strongest(np.array([99.0] + [1 / 99] * 99))
    assert dominated[matches.ONE_PER_CENT] == pytest.approx(0.99)
    assert dominated[-1] == 1


# The intervals -----------------------------------------------------------------------------------


def random_hits(rate: float, n: int, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random((1, n)) < rate).astype(np.float32)


@pytest.mark.slow
def test_an_interval_has_the_width_of_the_normal_approximation() -> None:
    n = 2000
    mean, low, high = figures.accuracy(random_hits(0.8, n, 0))
    assert low < mean < high
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(0.16 / n), rel=0.1)


def test_differences_are_paired() -> None:
    hits = random_hits(0.8, 2000, 0)
    assert figures.difference(hits, hits) == (0, 0, 0)
    similar = hits.copy()
    similar[0, :20] = 0
    mean, low, high = figures.difference(hits, similar)
    assert mean == pytest.approx((hits - similar).mean())
    assert high - low < 0.01
    _, low, high = figures.difference(hits, random_hits(0.8, 2000, 1))
    assert high - low > 0.04


def test_intervals_are_wider_if_trainings_differ() -> None:
    same = np.repeat(random_hits(0.7, 1000, 0), 5, axis=0)
    widths = []
    for rates in ([0.7] * 5, [0.5, 0.6, 0.7, 0.8, 0.9]):
        hits = np.concatenate([random_hits(rate, 1000, i) for i, rate in enumerate(rates)])
        _, low, high = figures.difference(hits, same)
        widths.append(high - low)
    assert widths[1] > 2 * widths[0]


def test_hits_agree_with_train(features: Path, tmp_path: Path) -> None:
    path = tmp_path / "v.h5"
    with FeatureFile(features) as file:
        measure.write_vectors(file, vectors.VARIANTS[vectors.FULL], 0, path)
    with FeatureFile(path) as file:
        result = measure.run(file, Trial(vectors.FULL))
        metrics = train(file, "bilinear", TrainOptions(normalize="none"), tmp_path / "runs")
    with np.load(Path(metrics["run"]) / "test.npz") as test:
        expected = test["scores"].argmax(axis=1) == test["labels"]
    results = {"made": {"n_test": len(expected)}, "trials": {f"{vectors.FULL}/0": result}}
    np.testing.assert_array_equal(figures.hits(results, vectors.FULL), [expected])
    assert result["top1"] == metrics["top1"]


def test_trials_are_in_order_of_their_seeds() -> None:
    keys = ("x/photos2/10", "x/photos2/9", "x/photos20/1", "x/0", "xx/1")
    results = {"trials": {key: {"key": key} for key in keys}}
    for prefix, expected in {"x/photos2": ["x/photos2/9", "x/photos2/10"], "x": ["x/0"]}.items():
        assert [trial["key"] for trial in figures.trials(results, prefix)] == expected


def test_larger_draws_contain_the_smaller_ones(features: Path) -> None:
    with FeatureFile(features) as file:
        rows = select_rows(file, None, 2)
    two, four = (measure.draw(rows, n, seed=1) for n in (2, 4))
    assert np.bincount(two.labels).tolist() == [2, 2, 2]
    assert set(two.photo) < set(four.photo)
    assert set(two.photo) != set(measure.draw(rows, 2, seed=2).photo)


# The script --------------------------------------------------------------------------------------


def run_script(features: Path, folder: Path) -> dict[str, Any]:
    """Run the script, and return its results."""
    (folder / "docs" / "why").mkdir(parents=True, exist_ok=True)
    options = ["--work", str(folder / "work"), "--docs", str(folder / "docs")]
    why.main(["--features", str(features), *options])
    return json.loads((folder / "docs" / "why" / "birds-of-mine.json").read_text("utf-8"))


@pytest.mark.slow
def test_an_interrupted_run_resumes_and_writes_complete_pages(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "PHOTOS_PER_CLASS", (2,))
    monkeypatch.setattr(measure, "N_DRAWS", 2)
    monkeypatch.setattr(matches, "N_PAIRS", 5)
    run, keys, interruptions = measure.run, [], [KeyboardInterrupt]

    def count_and_run(file: FeatureFile, trial: Trial) -> dict[str, Any]:
        if len(keys) == 11 and interruptions:
            raise interruptions.pop()
        keys.append(trial.key)
        return run(file, trial)

    monkeypatch.setattr(measure, "run", count_and_run)
    with pytest.raises(KeyboardInterrupt):
        run_script(features, tmp_path)
    results = run_script(features, tmp_path)
    assert sorted(keys) == sorted(set(keys)) == sorted(results["trials"])
    page = (tmp_path / "docs" / "why.md").read_text("utf-8")
    assert "{{" not in page
    assert "| birds-of-mine |" in page
    for path in (tmp_path / "docs").rglob("*.md"):
        for target in re.findall(r"\]\(([^):#]+)\)", path.read_text("utf-8")):
            assert (path.parent / target).exists(), target
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["birds-of-mine.json"]


def test_results_of_other_photos_are_not_reused(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(why, "measure", lambda *_: None)
    monkeypatch.setattr(matches, "N_PAIRS", 2)
    with FeatureFile(features) as file:
        stored = {"name": "x", "made": why.describe_inputs(file), "checks": {}, "trials": {"y": 1}}
        measure.save(stored, tmp_path / "x.json")
        assert why.measure_file(file, "x", tmp_path) == stored
        stored["made"]["photos_sha256"] = "0"
        measure.save(stored, tmp_path / "x.json")
        assert why.measure_file(file, "x", tmp_path)["trials"] == {}


def test_results_of_another_version_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "why" / "old.json"
    measure.save({"trials": {"bilinear-both/0": {}}}, path)
    with raises(SystemExit, path, "max-standard/0", "make why"):
        why.main(["--docs", str(tmp_path)])


def test_pages_without_results(tmp_path: Path) -> None:
    (tmp_path / "why").mkdir()
    why.main(["--docs", str(tmp_path)])
    assert "{{" not in (tmp_path / "why.md").read_text("utf-8")
