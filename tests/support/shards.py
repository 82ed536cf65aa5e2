"""Feature files of the small network, made by workers or by this process, and their comparison."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bilinear_cli.cluster import extract
from bilinear_cli.cluster.extract import merge_shards
from bilinear_cli.extraction.from_photos import Photos
from bilinear_cli.extraction.job import Job, Progress
from bilinear_cli.photos.photo_set import PhotoSet, load_photo_set
from bilinear_cli.recipe import Recipe
from bilinear_cli.store import FeatureFile
from support.network import extract_photos
from support.photos import class_folders
from support.worker_network import SHA256, WorkerNetwork

POOLINGS = ("max", "bilinear", "bilinear:3", "compact:16", "maps")
RECIPE = Recipe(POOLINGS, "block5_conv3", 32, "squash", "float32", 3, SHA256)
MAX = replace(RECIPE, poolings=("max",))  # fits nothing on a sample of the photos
ONE_BY_ONE = replace(MAX, batch_size=1)
# Options of the real network, with random weights
TINY = ["--weights", "random", "--image-size", "32", "--batch-size", "2", "--precision", "float32"]
TINY += ["--pooling", "max", "--pooling", "bilinear:4"]
COLUMNS = ("photo", "view", "labels", "paths", "sha256", "split", "group")
OWN = ("created", "command")  # attributes


def photo_set(folder: Path, tits: int, wrens: int) -> PhotoSet:
    """Return a set of photos made on the spot."""
    return load_photo_set(str(class_folders(folder, {"tit": tits, "wren": wrens})))


def extract_here(photo_set: PhotoSet, recipe: Recipe, output: Path, **options: Any) -> Path:
    """Extract in this process, and return the file."""
    output.parent.mkdir(parents=True, exist_ok=True)
    extract_photos(photo_set, recipe, output, **options)
    return output


def extract_shards(
    address: str,
    photo_set: PhotoSet,
    recipe: Recipe,
    output: Path,
    network: WorkerNetwork,
    progress: Progress | None = None,
    **options: Any,
) -> list[Path] | None:
    """Extract on workers; `options` are those of a `Job`."""
    job = Job(Photos(photo_set, network), recipe, output, **options)
    return extract.extract_shards(job, address, progress)


def extract_on_workers(
    address: str,
    photo_set: PhotoSet,
    recipe: Recipe,
    output: Path,
    network: WorkerNetwork,
    **options: Any,
) -> None:
    """Extract on workers, and merge."""
    shards = extract_shards(address, photo_set, recipe, output, network, **options)
    assert shards
    merge_shards(shards, output)


def assert_same(output: Path, expected: Path) -> None:
    """Compare a file, which is alone in its folder, with another one to the bit.

    Only the time and the command may differ.
    """
    with FeatureFile(output) as one, FeatureFile(expected) as other:
        rows = np.arange(one.rows_done)
        assert one.shapes == other.shapes
        for name in COLUMNS:
            assert getattr(one, name).tolist() == getattr(other, name).tolist()
        for spec in one.shapes:
            assert one.read_raw(spec, rows).tobytes() == other.read_raw(spec, rows).tobytes()
        assert one.parameters.keys() == other.parameters.keys()
        for name, array in one.parameters.items():
            np.testing.assert_array_equal(array, other.parameters[name])
        assert one.skipped == other.skipped
        attributes = [
            {name: value for name, value in file.attributes.items() if name not in OWN}
            for file in (one, other)
        ]
        assert attributes[0] == attributes[1]
    assert [path.name for path in output.parent.iterdir()] == [output.name]
