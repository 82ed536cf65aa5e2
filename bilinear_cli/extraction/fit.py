"""Projections of channels, fitted on photos."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from bilinear_cli.errors import BadPhotoError
from bilinear_cli.photos.dataset import Dataset
from bilinear_cli.photos.images import empty_batch, lay_in, read_batches, read_photo
from bilinear_cli.poolings.parameters import Parameters, make_parameters
from bilinear_cli.poolings.projection import sample_of, second_moment
from bilinear_cli.recipe import Recipe
from bilinear_cli.views import sizes_of

log = logging.getLogger(__name__)

N_SAMPLED = 256  # photos that a projection is fitted on
Forward = Callable[[Any], Any]


def fit_parameters(
    dataset: Dataset, recipe: Recipe, forward: Forward, have: Parameters, skip_bad: bool
) -> dict[str, np.ndarray]:
    """Return the parameters of the poolings, those that are there and those still to be made.

    Args:
        dataset: all photos, of which a sample for training is looked at if need be.
        recipe: the poolings, and how photos are shown to the network.
        forward: the network: uint8 photos -> maps.
        have: parameters that are there.
        skip_bad: leave out what cannot be read as a photo.

    Raises:
        BadPhotoError: a photo of the sample cannot be read.
        BilinearError: parameters that are there are for another number of channels.
        UsageError: a pooling does not suit the network's maps, or there is nothing to take its
            projection from.
    """
    from bilinear_cli.extraction.graph import channels_of

    (channels,) = {channels_of(forward, size) for size in sizes_of(recipe.shown)}
    # one thread: the last digits depend on how many, and a worker of Dask's has one by default
    with threadpool_limits(1, user_api="blas"):
        return make_parameters(
            recipe, channels, have, lambda: _sample(dataset, recipe, forward, skip_bad)
        )


def _sample(
    dataset: Dataset, recipe: Recipe, forward: Forward, skip_bad: bool
) -> tuple[np.ndarray, list[str]]:
    """Return the second moment of maps of some training photos, and the SHA-256 of the photos."""
    from bilinear_cli.extraction.graph import compile_pooling

    sample = sample_of(np.flatnonzero(dataset.split == "train"), N_SAMPLED, recipe.seed)
    log.info("fitting the projection of channels on %d training photos", len(sample))
    view = recipe.shown[:1]
    compute, _ = compile_pooling(forward, ["conv5"], recipe.batch_size, view)
    pixels = empty_batch(sizes_of(view), recipe.batch_size)

    def read(photo: int) -> list[np.ndarray]:
        return read_photo(dataset.root / dataset.paths[photo], sizes_of(view), recipe.resize)

    def maps() -> Iterator[np.ndarray]:
        for batch in read_batches(sample.tolist(), recipe.batch_size, read):
            bad = lay_in(pixels, batch)
            for error in (photo for photo in batch if isinstance(photo, BadPhotoError)):
                if not skip_bad:
                    raise BadPhotoError(
                        f"{error}: mend it, or leave such files out with --skip-bad"
                    )
            yield compute(pixels)["conv5"][np.setdiff1d(np.arange(len(batch)), bad)]

    return second_moment(maps()), dataset.take(sample).sha256().tolist()
