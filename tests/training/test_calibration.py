"""Tests of temperatures, and of the metrics of calibration."""

import numpy as np
import pytest
from scipy.special import softmax

from bilinear_cli.training.metrics import bins, calibration, fit_temperature, log_loss_from_scores
from bilinear_cli.training.model import to_probabilities


def random_scores(n: int, factor: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return scores, and labels that are drawn by the probabilities softmax(scores / factor)."""
    rng = np.random.default_rng(seed)
    scores = 3 * factor * rng.normal(size=(n, 4))
    chances = softmax(scores / factor, axis=1)
    return scores, np.array([rng.choice(4, p=p) for p in chances])


@pytest.mark.parametrize("factor", [0.01, 0.5, 1, 20, 300])
def test_the_temperature_is_that_by_which_labels_were_drawn(factor: float) -> None:
    scores, labels = random_scores(3000, factor)
    result = fit_temperature(scores, labels)
    assert result == pytest.approx(factor, rel=0.1)
    for other in (0.9 * result, 1.1 * result):
        assert log_loss_from_scores(scores / result, labels) < log_loss_from_scores(
            scores / other, labels
        )


def test_without_photos_the_temperature_is_one() -> None:
    assert fit_temperature(np.empty((0, 4)), np.empty(0, int)) == 1
    np.testing.assert_allclose(to_probabilities(np.array([[0.0, np.log(3)]]), 1), [[0.25, 0.75]])


def test_the_temperature_changes_no_predicted_class() -> None:
    scores, _ = random_scores(50, 1)
    for temperature in (0.01, 1, 100):
        result = to_probabilities(scores, temperature)
        np.testing.assert_array_equal(result.argmax(axis=1), scores.argmax(axis=1))
        np.testing.assert_allclose(result.sum(axis=1), 1)


def test_metrics_are_those_computed_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.8, 0.2]])
    labels = np.array([0, 1, 1, 0])
    result = calibration(probabilities, labels)
    assert result["log_loss"] == pytest.approx(-np.log([0.9, 0.4, 0.7, 0.8]).mean())
    assert result["brier"] == pytest.approx(2 * np.square([0.1, 0.6, 0.3, 0.2]).mean())
    # four photos are four bins: 0.6 is wrong, the others are correct
    assert result["ece"] == pytest.approx((0.6 + 0.3 + 0.2 + 0.1) / 4)
    low, high = result["ece_ci95"]
    assert low <= result["ece"] <= high
    assert [b["count"] for b in result["bins"]] == [1, 1, 1, 1]
    certain = calibration(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 1]))  # and once wrong
    assert 100 < certain["log_loss"] < 1000


def test_the_interval_holds_a_small_error() -> None:
    scores, labels = random_scores(585, 1, seed=8)
    result = calibration(to_probabilities(scores, 1), labels)
    low, high = result["ece_ci95"]
    assert 0 <= low < result["ece"] < high < 0.1


def test_few_photos_do_not_lead_to_an_extreme_temperature() -> None:
    scores = np.eye(4)
    for labels, (low, high) in (
        (np.arange(4), (0.05, 0.9)),  # all correct
        (np.roll(np.arange(4), 1), (1.5, 20)),  # all wrong
    ):
        assert low < fit_temperature(scores, labels) < high


def test_bins_have_equal_mass() -> None:
    confidence = np.random.default_rng(0).random(100)
    result = bins(confidence, confidence > 0.5)
    assert len(result) == 15
    assert {count for *_, count in result} == {6, 7}
    assert [c for c, *_ in result] == sorted(c for c, *_ in result)
    assert sum(accuracy * n for _, accuracy, n in result) == pytest.approx((confidence > 0.5).sum())


@pytest.mark.slow
def test_calibrated_scores_have_a_small_error() -> None:
    scores, labels = random_scores(4000, 5)
    before = calibration(to_probabilities(scores, 1), labels)
    after = calibration(to_probabilities(scores, fit_temperature(scores, labels)), labels)
    assert after["ece"] < 0.03 < before["ece"]
    assert after["log_loss"] < before["log_loss"]
    assert after["brier"] < before["brier"]
    assert calibration(to_probabilities(scores, 1), labels) == before  # a seeded bootstrap


def test_a_fuller_bin_weighs_more() -> None:
    probabilities = np.tile([0.6, 0.4], (16, 1))
    labels = np.repeat([1, 0], [2, 14])  # the first of 15 bins holds two, both wrong
    assert calibration(probabilities, labels)["ece"] == pytest.approx((2 * 0.6 + 14 * 0.4) / 16)


@pytest.mark.parametrize("wrong", [1, 3])
def test_the_interval_stays_between_zero_and_one(wrong: int) -> None:
    labels = np.repeat([1, 0], [wrong, 4 - wrong])
    low, high = calibration(np.tile([0.9, 0.1], (4, 1)), labels)["ece_ci95"]
    assert (low == 0) == (wrong == 1)
    assert (high == 1) == (wrong == 3)


def test_the_interval_does_not_depend_on_how_many_samples_are_sorted_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scores, labels = random_scores(30, 1)
    together = calibration(to_probabilities(scores, 1), labels)
    monkeypatch.setattr("bilinear_cli.training.metrics.BLOCK", 1)
    assert calibration(to_probabilities(scores, 1), labels) == together


@pytest.mark.slow
def test_the_interval_is_as_wide_as_samples_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [random_scores(400, 1, seed) for seed in range(60)]
    low, high = calibration(to_probabilities(samples[0][0], 0.5), samples[0][1])["ece_ci95"]
    monkeypatch.setattr("bilinear_cli.training.metrics.N_RESAMPLES", 1)
    errors = [calibration(to_probabilities(x, 0.5), labels)["ece"] for x, labels in samples]
    assert high - low == pytest.approx(2 * 1.96 * np.std(errors), rel=0.3)
