"""Compare the features of two precisions or engines, and the accuracies on them.

    python .ci/agreement.py float32.h5 int8.h5 --runs RUNS

For each pooling, the script prints the mean and the minimum cosine between the two rows of a photo,
and how far the stored numbers are apart, in steps from one number of the stored dtype to the next.
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
parser.add_argument("reference", type=Path)
parser.add_argument("other", type=Path)
parser.add_argument("--runs", type=Path, help="without it, only features are compared")
options = parser.parse_args()


def difference(hits: np.ndarray, baseline: np.ndarray) -> str:
    """Return the mean difference of two bool arrays (n,), and its interval."""
    gains = hits.astype(float) - baseline
    mean, half = gains.mean(), 1.96 * gains.std() / np.sqrt(len(gains))
    return f"{mean:+.4f} ({mean - half:+.4f} to {mean + half:+.4f})"


def steps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the distance of finite numbers of one dtype, in numbers of this dtype, int64."""
    signed = np.dtype(f"i{a.dtype.itemsize}")

    def order(x: np.ndarray) -> np.ndarray:
        bits = x.view(signed).astype(np.int64)
        return np.where(bits < 0, np.iinfo(signed).min - bits, bits)

    return np.abs(order(a) - order(b))


def hits_of(run: Path, photos: np.ndarray) -> np.ndarray:
    """Return whether the predictions of a run for these test photos are correct, bool (n,)."""
    with np.load(run / "test.npz") as test:
        assert (test["photo"] == photos).all()
        return test["scores"].argmax(axis=1) == test["labels"]


with FeatureFile(options.reference) as reference, FeatureFile(options.other) as other:
    assert reference.sha256.tolist() == other.sha256.tolist()
    rows = np.arange(len(reference.labels))
    for spec in reference.shapes:
        cosines, distances = [], []
        for start in range(0, len(rows), 256):
            files, batch = (reference, other), rows[start : start + 256]
            stored = [file.read_stored(spec, batch) for file in files]
            distance = steps(*stored)
            distances.append([(distance == 0).mean(), (distance <= 1).mean(), distance.max()])
            pair = [file.read(spec, batch) for file in files]
            a, b = (x.reshape(len(x), -1).astype(np.float64) for x in pair)
            norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
            cosines.extend(np.einsum("ij,ij->i", a, b) / norms)
        equal, near, largest = np.array(distances).T
        print(
            f"{spec}: cosine {np.mean(cosines):.8f}, least {min(cosines):.8f}; equal "
            f"{100 * equal.mean():.2f} %, within a step {100 * near.mean():.3f} %, at most "
            f"{largest.max():.0f} steps of {stored[0].dtype}"
        )
    test = rows[other.split == "test"]
    photos = other.photo[test]
    runs = options.runs.glob(f"{reference.path.stem}-*") if options.runs else ()
    for run in sorted(runs):
        metrics, hits = read_metrics(run), hits_of(run, photos)
        spec = metrics["pooling"]
        choices = {name: metrics[name] for name in ("classifier", "C", "label_smoothing")}
        with tempfile.TemporaryDirectory() as folder:
            trained = train(other, spec, TrainOptions(**choices), Path(folder))
            same_c = hits_of(Path(trained["run"]), photos)
        name = run.name.replace(reference.path.stem, other.path.stem, 1)
        tuned = hits_of(run.with_name(name), photos)
        scores = load_model(run).scores({spec: other.read(spec, test)})
        only_tested = scores.argmax(axis=1) == other.labels[test]
        print(
            f"{run.name}: top-1 {hits.mean():.4f}; trained and tested in the other "
            f"{difference(tuned, hits)}; with the same C {difference(same_c, hits)}; "
            f"only tested {difference(only_tested, hits)}",
            flush=True,
        )
