"""That the benchmark of training still runs what it says it times."""

import hashlib
from pathlib import Path
from typing import Any

import bench_training
import numpy as np
import pytest

from bilinear_cli.store import create


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """Return a small file of bilinear features: 8 channels, 3 classes, 60 photos."""
    rng, n = np.random.default_rng(0), 60
    labels = np.arange(n) % 3
    x = np.abs(rng.normal(size=(3, 36))[labels] + rng.normal(size=(n, 36))).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    paths = np.array([f"{i}.png" for i in range(n)])
    columns: dict[str, Any] = {"photo": np.arange(n), "labels": labels, "paths": paths}
    columns |= {"view": np.full(n, "original"), "group": paths}
    columns["sha256"] = np.array([hashlib.sha256(path.encode()).hexdigest() for path in paths])
    columns["split"] = np.where(np.arange(n) % 5, "train", "test")
    path = tmp_path / "x.h5"
    with create(path, {"bilinear": (36,)}, columns, ["a", "b", "c"], {}) as writer:
        writer.append({"bilinear": x})
        writer.finish()
    return path


def case(features: Path, kind: str, share: float = 1.0, **how: Any) -> dict[str, Any]:
    whole = {"features": str(features), "kind": kind, "share": share, "with": list(how), **how}
    return bench_training.run_case(whole)


def test_both_come_to_one_objective(features: Path) -> None:
    ours = case(features, "ours", classifier="softmax", tuned=False)
    for square, columns in ((True, 64), (False, 36)):
        peer = case(features, "peer", square=square, optimum=ours["objective"])
        assert ours["objective"] <= peer["objective"] * (1 + 1e-4)
        assert peer["objective"] <= ours["objective"] * (1 + bench_training.WITHIN)
        assert peer["columns"] == columns


@pytest.mark.parametrize("classifier", ["softmax", "svm", "ridge"])
def test_a_share_of_the_rows_is_tuned_on(features: Path, classifier: str) -> None:
    found = case(features, "ours", 0.5, classifier=classifier, tuned=True)
    assert (found["rows"], found["classes"]) == (24, 3)
    assert found["C"] > 0
    assert found["seconds"] > found["tuning"] > 0
