"""Say how far features in one precision are from those in another, and what it costs in accuracy.

    python .ci/agreement.py float32.h5 int8.h5 --runs RUNS

For each pooling the mean and the least cosine of a photo's two rows. For each run of `float32.h5`
in RUNS, as `bilinear train --output RUNS` made it, top-1 on the test photos; and, less that, top-1
of the like run of `int8.h5`, and of the first run on the rows of `int8.h5`, each with its 95 %
interval over pairs of photos.
"""

import argparse
from pathlib import Path

import numpy as np

from bilinear_cli.classify.model import load_model
from bilinear_cli.report import read_metrics
from bilinear_cli.store import FeatureFile

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("exact", type=Path)
parser.add_argument("near", type=Path)
parser.add_argument("--runs", type=Path, required=True)
asked = parser.parse_args()


def difference(right: np.ndarray, wrong: np.ndarray) -> str:
    """Return the mean of the first less the second, bool (n,), and its interval."""
    paired = right.astype(float) - wrong
    half = 1.96 * paired.std() / np.sqrt(len(paired))
    return f"{paired.mean():+.4f} ({paired.mean() - half:+.4f} to {paired.mean() + half:+.4f})"


with FeatureFile(asked.exact) as exact, FeatureFile(asked.near) as near:
    assert exact.sha256.tolist() == near.sha256.tolist()
    rows = np.arange(len(exact.labels))
    for spec in exact.shapes:
        cosines = []
        for start in range(0, len(rows), 256):
            pair = [file.read(spec, rows[start : start + 256]) for file in (exact, near)]
            a, b = (x.reshape(len(x), -1).astype(np.float64) for x in pair)
            lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
            cosines.append(np.einsum("ij,ij->i", a, b) / lengths)
        found = np.concatenate(cosines)
        print(f"{spec}: cosine {found.mean():.5f}, least {found.min():.5f}")
    test = rows[near.split == "test"]
    for run in sorted(asked.runs.glob(f"{exact.path.stem}-*")):
        spec, other = (
            read_metrics(run)["pooling"],
            run.name.replace(exact.path.stem, near.path.stem, 1),
        )
        right = []
        for name in (run, run.with_name(other)):
            with np.load(name / "test.npz") as scored:
                assert (scored["photo"] == near.photo[test]).all()
                right.append(scored["scores"].argmax(axis=1) == scored["labels"])
        scores = load_model(run).scores({spec: near.read(spec, test)})
        right.append(scores.argmax(axis=1) == near.labels[test])
        print(
            f"{run.name}: top-1 {right[0].mean():.4f}; trained and tested in the other "
            f"{difference(right[1], right[0])}; only tested {difference(right[2], right[0])}"
        )
