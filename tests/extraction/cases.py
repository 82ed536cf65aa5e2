"""What the tests of extraction share: a recipe, a network that counts, and runs that stop."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import tensorflow as tf
from support.feature_files import contents
from support.network import extract_photos, random_kernel, small_network

from bilinear_cli.photos.photo_set import PhotoSet
from bilinear_cli.progress import Progress
from bilinear_cli.recipe import Recipe
from bilinear_cli.store import FeatureFile, partial_path

BATCH = 3
POOLINGS = ("max", "bilinear", "maps")
RECIPE = Recipe(POOLINGS, "block5_conv3", 32, "squash", "float32", BATCH, "0" * 64)
COLUMNS = ("paths", "labels", "split", "group")  # of a photo set


class Network:
    """The small network, which counts its uses.

    Attributes:
        kernel: of the convolution.
        at_batch: called before a batch is computed, by the batch's number from 1.
        loaded, batches: how often it is loaded, and how many batches it computes.
        photos: the photos that it computes.
    """

    def __init__(
        self,
        kernel: np.ndarray | None = None,
        at_batch: dict[int, Callable[[], Any]] | None = None,
        **options: Any,
    ) -> None:
        self.kernel = random_kernel() if kernel is None else kernel
        self.at_batch, self.options = at_batch or {}, options
        self.loaded = self.batches = 0
        self.photos: set[bytes] = set()

    def load(self) -> Callable[[tf.Tensor], tf.Tensor]:
        self.loaded += 1
        return small_network(self._watch, kernel=self.kernel, **self.options)

    def _watch(self, batch: np.ndarray) -> None:
        self.batches += 1
        self.photos.update(photo.tobytes() for photo in batch if photo.any())
        self.at_batch.get(self.batches, int)()


def run(photo_set: PhotoSet, output: Path, recipe: Recipe = RECIPE, **options: Any) -> Network:
    """Extract with a new network and return it."""
    network = options.pop("network", None) or Network()
    extract_photos(photo_set, recipe, output, network.load, **options)
    return network


def after(n_photos: int, action: Callable[[], Any]) -> Progress:
    """Return a progress callback that calls a function when so many photos are done."""
    return lambda done, _: action() if done == n_photos else None


def stop_at(n_photos: int) -> Progress:
    """Return a progress callback that interrupts a run when so many photos are done."""
    return after(n_photos, Mock(side_effect=KeyboardInterrupt))


def interrupt(photo_set: PhotoSet, output: Path, n_photos: int, **options: Any) -> Path:
    """Stop a run when so many photos are done, and return the unfinished file."""
    with pytest.raises(KeyboardInterrupt):
        run(photo_set, output, progress=stop_at(n_photos), **options)
    with FeatureFile(partial_path(output), allow_partial=True) as file:
        assert file.photos_done == n_photos
    return partial_path(output)


def assert_uninterrupted(
    photo_set: PhotoSet, output: Path, recipe: Recipe = RECIPE, **options: Any
) -> None:
    """Compare a file with that of a run without interruption and reuse, to the byte."""
    expected = output.with_name("expected.h5")
    run(photo_set, expected, recipe, **options)
    assert contents(output) == contents(expected)
