"""Tests of the metrics, against examples computed by hand."""

import numpy as np
import pytest

from bilinear_cli.training.metrics import average_views, evaluate, log_loss_from_scores, top1

NAMES = np.array(["auk", "crow", "kite", "tern"])


def scores_for(predicted: list[int]) -> np.ndarray:
    """Return scores whose highest is at `predicted`."""
    return np.eye(4)[predicted]


def test_top1_and_log_loss() -> None:
    scores = np.log([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]) + np.array([[3], [-5]])
    assert top1(scores, np.array([0, 0])) == 0.5
    assert log_loss_from_scores(scores, np.array([0, 2])) == pytest.approx(
        (np.log(2) + np.log(10)) / 2
    )


def test_scores_are_averaged_over_the_views_of_a_photo() -> None:
    """One view of photo 9 is just right, the other is wrong by far."""
    photo = np.array([9, 4, 9, 4, 2])
    scores = np.array([[1.0, 0.9], [3, 1], [0, 2], [1, 1], [5, 0]])
    first, mean = average_views(photo, scores)
    np.testing.assert_array_equal(first, [0, 1, 4])  # as the photos come, not sorted
    np.testing.assert_allclose(mean, [[0.5, 1.45], [2.0, 1.0], [5.0, 0.0]])
    assert top1(mean, np.array([1, 0, 0])) == 1


@pytest.mark.parametrize(("hits", "n"), [(0, 3), (7, 9), (9, 9), (2031, 2903)])
def test_the_interval_is_wilsons(hits: int, n: int) -> None:
    predicted = [0] * hits + [1] * (n - hits)
    metrics = evaluate(scores_for(predicted), np.zeros(n, int), NAMES)
    p, z = hits / n, 1.959963984540054
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    assert metrics["top1"] == p
    assert metrics["top1_ci95"] == pytest.approx([centre - half, centre + half], abs=1e-9)


def test_top5_counts_labels_that_fewer_than_five_scores_beat() -> None:
    for k, top5 in ((2, 1), (4, 1), (5, 1), (7, 5 / 7)):
        scores = np.tile(np.arange(k)[::-1], (k, 1))  # class 0 has the highest score, then class 1
        metrics = evaluate(scores, np.arange(k), np.arange(k).astype(str))
        assert metrics["top5"] == pytest.approx(top5)
        assert metrics["top1"] == pytest.approx(1 / k)


def test_the_mean_over_classes_counts_each_class_once_and_leaves_out_absent_ones() -> None:
    labels = np.array([0, 0, 0, 0, 1, 2, 2])  # no tern
    predicted = [0, 0, 0, 1, 3, 2, 0]
    metrics = evaluate(scores_for(predicted), labels, NAMES)
    assert metrics["mean_per_class_accuracy"] == pytest.approx((3 / 4 + 0 + 1 / 2) / 3)
    assert metrics["top1"] == pytest.approx(4 / 7)


def test_the_ten_most_confused_pairs_in_descending_order() -> None:
    labels = np.array([0] * 6 + [2] * 3 + [3])
    predicted = [0, 0, 0, 1, 1, 3, 0, 0, 0, 3]
    assert evaluate(scores_for(predicted), labels, NAMES)["confused"] == [
        {"count": 3, "true": "kite", "predicted": "auk"},
        {"count": 2, "true": "auk", "predicted": "crow"},
        {"count": 1, "true": "auk", "predicted": "tern"},
    ]
    assert evaluate(scores_for([0, 1]), np.array([0, 1]), NAMES)["confused"] == []
    labels = np.repeat(np.arange(4), 3)
    predicted = [k for label in range(4) for k in range(4) if k != label]  # twelve pairs
    assert len(evaluate(scores_for(predicted), labels, NAMES)["confused"]) == 10
