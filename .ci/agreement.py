"""Compare the features of two precisions, and the accuracies on them.

    python .ci/agreement.py float32.h5 int8.h5 --runs RUNS

For each pooling, the script prints the mean and the minimum cosine between the two rows of a photo.
For each run of `float32.h5` in RUNS (from `bilinear train --output RUNS`), it prints top-1 on the
test photos, and the difference from it for three other models:

- the corresponding run of `int8.h5`, with C chosen on its own folds;
- a model on `int8.h5` with the C and the label smoothing of the first run, which is trained here;
- the model of the first run on the rows of `int8.h5`.

Each difference has its 95 % interval over pairs of photos.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from bilinear_cli.run import load_model, read_metrics, train
from bilinear_cli.store import FeatureFile
from bilinear_cli.training.options import TrainOptions

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("exact", type=Path)
parser.add_argument("near", type=Path)
parser.add_argument("--runs", type=Path, required=True)
asked = parser.parse_args()


def difference(right: np.ndarray, wrong: np.ndarray) -> str:
    """Return the mean difference of two bool arrays (n,), and its interval."""
    paired = right.astype(float) - wrong
    half = 1.96 * paired.std() / np.sqrt(len(paired))
    return f"{paired.mean():+.4f} ({paired.mean() - half:+.4f} to {paired.mean() + half:+.4f})"


def is_right(run: Path, photos: np.ndarray) -> np.ndarray:
    """Return whether the predictions of a run for these test photos are correct, bool (n,)."""
    with np.load(run / "test.npz") as scored:
        assert (scored["photo"] == photos).all()
        return scored["scores"].argmax(axis=1) == scored["labels"]


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
        made, photos = read_metrics(run), near.photo[test]
        spec, like = made["pooling"], run.name.replace(exact.path.stem, near.path.stem, 1)
        how = TrainOptions(
            classifier=made["classifier"], C=made["C"], label_smoothing=made["label_smoothing"]
        )
        with tempfile.TemporaryDirectory() as folder:
            same = is_right(Path(train(near, spec, how, Path(folder))["run"]), photos)
        exactly, tuned = is_right(run, photos), is_right(run.with_name(like), photos)
        scores = load_model(run).scores({spec: near.read(spec, test)})
        only = scores.argmax(axis=1) == near.labels[test]
        print(
            f"{run.name}: top-1 {exactly.mean():.4f}; trained and tested in the other "
            f"{difference(tuned, exactly)}; with the same C {difference(same, exactly)}; "
            f"only tested {difference(only, exactly)}",
            flush=True,
        )
