"""A feature file with maps -> the accuracy of every variant; each result is stored immediately.

The vectors of a variant are written to a temporary feature file. Training is the same as for any
feature file: a softmax, with C and label smoothing chosen on five folds of the training photos.
The test photos are scored once.
"""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from vectors import BASELINE, FULL, UNRELATED, VARIANTS, Variant

from bilinear_cli.files import atomic_write
from bilinear_cli.poolings.registry import MAPS, storage_dtype
from bilinear_cli.store import FeatureFile, Header, create
from bilinear_cli.store.checks import ROW_COLUMNS
from bilinear_cli.training.metrics import average_views
from bilinear_cli.training.options import TrainOptions
from bilinear_cli.training.rows import Rows, select_rows
from bilinear_cli.training.train import fit_model

BATCH_SIZE = 64  # maps
TOP_ENTRIES = (100, 300, 1_000, 3_000, 10_000, 20_000, 60_000)  # numbers of entries to keep
PHOTOS_PER_CLASS = (2, 5, 10, 20)  # training photos per class
N_DRAWS = 5  # for each number of photos
SUBSAMPLED_VARIANTS = (FULL, UNRELATED, BASELINE)  # variants that are also trained on these draws


@dataclass(frozen=True)
class Trial:
    """One training: a variant, the entries of its vectors and the training photos."""

    variant: str  # its key
    seed: int = 0  # of the shuffle, or of the draw of photos
    top: int | None = None  # number of entries with the highest variance; None: all
    photos: int | None = None  # number drawn per class, or all if the class has fewer; None: all

    @property
    def key(self) -> str:
        """The key of its result."""
        amount = f"top{self.top}/" if self.top else f"photos{self.photos}/" if self.photos else ""
        return f"{self.variant}/{amount}{self.seed}"


def plan(n_entries: int, n_photos: int) -> Iterator[tuple[Variant, int, list[Trial]]]:
    """Yield variants, the seed of their shuffle, and the trials on their vectors.

    The number of entries is that of a bilinear matrix, the number of photos that of the largest
    class in the training set.
    """
    for variant in VARIANTS.values():
        for seed in range(variant.seeds):
            trials = [Trial(variant.key, seed)]
            if variant.key == FULL:
                trials += [Trial(FULL, top=top) for top in TOP_ENTRIES if top < n_entries]
            if variant.key in SUBSAMPLED_VARIANTS:
                counts = [n for n in PHOTOS_PER_CLASS if n < n_photos]
                trials += [Trial(variant.key, s, photos=n) for n in counts for s in range(N_DRAWS)]
            yield variant, seed, trials


def measure(file: FeatureFile, results: dict[str, Any], path: Path) -> None:
    """Add missing trials to `results["trials"]`, and write a JSON file after each training.

    The folder of the JSON file also holds the temporary file of vectors.
    """
    trials_done = results["trials"]
    first = np.unique(file.photo, return_index=True)[1]
    n_photos = int(np.bincount(file.labels[first][file.split[first] == "train"]).max())
    channels = file.shapes[MAPS][-1]
    vectors_path = path.with_name("vectors.h5")
    for variant, seed, trials in plan(channels**2, n_photos):
        missing = [trial for trial in trials if trial.key not in trials_done]
        if not missing:
            continue
        write_vectors(file, variant, seed, vectors_path)
        with FeatureFile(vectors_path) as vectors:
            for trial in missing:
                trials_done[trial.key] = result = run(vectors, trial)
                save(results, path)
                print(f"{trial.key}: {result['top1']:.4f}", file=sys.stderr)
        vectors_path.unlink()


def save(results: dict[str, Any], path: Path) -> None:
    """Write results as JSON, atomically."""
    with atomic_write(path) as temporary:
        text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
        temporary.write_text(text, encoding="utf-8")


def write_vectors(file: FeatureFile, variant: Variant, seed: int, path: Path) -> None:
    """Write a feature file with the vectors of all maps of a file."""
    writer = None
    for batch, maps in file.batches(MAPS, np.arange(len(file.labels)), BATCH_SIZE):
        rows = variant.rows(maps, np.random.default_rng([seed, batch.start]))
        shape = rows.shape[1:]
        if writer is None:
            columns = {name: getattr(file, name) for name in ROW_COLUMNS}
            header = Header(columns, file.class_names, file.attributes)
            writer = create(path, {variant.spec: shape}, header)
        writer.append({variant.spec: rows.astype(storage_dtype(shape))})
    assert writer, "a feature file has rows"
    with writer:
        writer.finish()


def run(vectors: FeatureFile, trial: Trial) -> dict[str, Any]:
    """Train and test.

    Returns:
        The result. `hits` has one bit per test photo, in order: 1 for a correct prediction.
    """
    start = time.perf_counter()
    variant = VARIANTS[trial.variant]
    rows = select_rows(vectors, None, 2)
    train, test = (rows.take(rows.split == split) for split in ("train", "test"))
    if trial.photos:
        train = draw(train, trial.photos, trial.seed)
    options = TrainOptions(normalize=variant.normalize, top_variance=trial.top)
    tuning, model = fit_model(vectors, [variant.spec], train, options)
    first, scores = average_views(test.photo, model.score_rows(vectors, test.indices))
    hits = scores.argmax(axis=1) == test.labels[first]
    return {
        "top1": float(hits.mean()),
        "numbers": sum(transform.n_features for transform in model.transforms),
        **{name: tuning.to_metrics()[name] for name in ("C", "label_smoothing", "oof_top1")},
        "seconds": round(time.perf_counter() - start, 2),
        "hits": np.packbits(hits).tobytes().hex(),
    }


def draw(rows: Rows, n_photos: int, seed: int) -> Rows:
    """Return the rows of `n_photos` per class; a larger draw contains the smaller ones."""
    rng, photos = np.random.default_rng(seed), []
    for label in np.unique(rows.labels):
        photos.append(rng.permutation(np.unique(rows.photo[rows.labels == label]))[:n_photos])
    return rows.take(np.isin(rows.photo, np.concatenate(photos)))
