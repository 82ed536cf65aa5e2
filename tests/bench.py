"""Time both stages against their floors, in one process, as ratios: `make bench`.

Stage 1 against the same compiled graph fed from memory; stage 2's reduction against reading the
features once. Medians of interleaved pairs, since other work on the machine comes and goes.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from bilinear_cli.classify import inputs
from bilinear_cli.classify.problem import pose
from bilinear_cli.data.dataset import load_dataset
from bilinear_cli.features.backbone import load_backbone, resolve_batch_size, resolve_precision
from bilinear_cli.features.extract import Settings, extract
from bilinear_cli.features.pooling import compile_pooling
from bilinear_cli.features.weights import load_weights
from bilinear_cli.store import FeatureFile

POOLINGS = ("max", "bilinear")


def main() -> None:
    """Run the benchmark and print a table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", default="sample")
    options.add_argument("--image-size", type=int, default=224)
    options.add_argument("--limit", type=int, default=160)
    options.add_argument("--pairs", type=int, default=5)
    asked = options.parse_args()
    dataset = load_dataset(asked.data).limit(asked.limit)
    batch_size = resolve_batch_size(None, asked.image_size)
    weights, precision = load_weights(), resolve_precision("auto")
    settings = Settings(
        POOLINGS,
        "block5_conv3",
        asked.image_size,
        "squash",
        precision,
        batch_size,
        weights.sha256,
    )
    forward = load_backbone(weights.tensors, settings.layer, precision)
    compute, _ = compile_pooling(forward, POOLINGS, batch_size, asked.image_size)
    batch = np.zeros((batch_size, asked.image_size, asked.image_size, 3), np.uint8)
    n_batches = -(-len(dataset) // batch_size)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "x.h5"

        def stage1() -> None:
            extract(dataset, settings, output, lambda: forward, overwrite=True)

        def network() -> None:
            for _ in range(n_batches):
                compute(batch)

        stage1_ratio = ratio(stage1, network, asked.pairs)
        with FeatureFile(output) as file:
            rows = np.arange(len(file.labels))
            parts = inputs.fit_parts(file, ["bilinear"], rows)

            def one_pass() -> None:
                for _ in inputs.columns(parts, file, rows):
                    pass

            stage2_ratio = ratio(lambda: pose(file, parts, rows, "gram"), one_pass, asked.pairs)
    print(f"{len(dataset)} photos at {asked.image_size} pixels, {precision}, batch {batch_size}")
    print(
        "extract / network and pooling fed from memory:  {:.3f} ({:.1f} s / {:.1f} s)".format(
            *stage1_ratio
        )
    )
    print(
        "reduction / one pass over the features:         {:.1f} ({:.2f} s / {:.2f} s)".format(
            *stage2_ratio
        )
    )


def ratio(
    slow: Callable[[], object], floor: Callable[[], object], pairs: int
) -> tuple[float, float, float]:
    """Return the medians of slow / floor pair by pair, of slow and of floor in seconds."""
    timed = [(seconds(slow), seconds(floor)) for _ in range(pairs + 1)][1:]  # the first warms up
    return (
        median(a / b for a, b in timed),
        median(a for a, _ in timed),
        median(b for _, b in timed),
    )


def seconds(work: Callable[[], object]) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
