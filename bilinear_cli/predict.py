"""A run folder and photos -> names and probabilities."""

import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice, tee
from pathlib import Path
from typing import Any

import numpy as np

from bilinear_cli.errors import BadPhotoError, BilinearError
from bilinear_cli.networks.load import Network
from bilinear_cli.networks.precision import measured_difference, with_precision
from bilinear_cli.photos.images import empty_batch, fill_batch, read_batches, read_photo
from bilinear_cli.poolings.parameters import check_channels
from bilinear_cli.recipe import Recipe, differences
from bilinear_cli.run import load_model, read_recipe
from bilinear_cli.training.model import to_probabilities
from bilinear_cli.views import distinct_sizes

log = logging.getLogger(__name__)


def prediction_recipe(run: Path, precision: str | None, allow_mix: bool) -> Recipe:
    """Return the recipe of features that a run's model is used on.

    Args:
        run: a run folder.
        precision: of the network; None: that of the run's features.
        allow_mix: they may differ in precision.

    Raises:
        BilinearError: they differ, or the folder is no run.
    """
    trained = read_recipe(run)
    asked = with_precision(trained, precision or trained.precision)
    if differences(trained.comparable_attributes(), asked.comparable_attributes(), "predict"):
        mix = f"{run} was trained on features in {trained.precision}, not in this {precision}"
        if differences(
            trained.comparable_attributes(), asked.comparable_attributes(), "predict", allow_mix
        ):
            raise BilinearError(f"{mix}: only with --allow-precision-mix")
        log.warning("%s: %s", mix, measured_difference(trained.precision, asked.precision))
    return asked


def load_run_network(run: Path, recipe: Recipe, weights: str) -> Network:
    """Return the network of a run's features.

    Args:
        run: a run folder.
        recipe: of its features.
        weights: where the weights come from, see `Network`.

    Raises:
        BilinearError: those are other weights.
    """
    network = Network(recipe.backbone, weights)
    if network.sha256() != recipe.weights_sha256:
        raise BilinearError(f"{run} was trained on features of other weights: give --weights")
    return network


def predict(
    run: Path,
    photos: Iterable[Path],
    forward: Callable[[Any], Any],
    *,
    top: int = 5,
) -> Iterator[tuple[Path, list[tuple[str, float]] | BadPhotoError]]:
    """Name photos as the run's training would have it.

    Args:
        run: a run folder.
        photos: files; taken as they are named, so that there may be any number.
        forward: the network, as for `extract`.
        top: how many names to give.

    Yields:
        The photo, and the likeliest classes with their probabilities (0 to 1), likeliest first,
        from the mean scores of its views; or the error that reading it raised.
    """
    from bilinear_cli.extraction.graph import compile_pooling, count_channels  # loads TensorFlow

    model, recipe = load_model(run), read_recipe(run)
    coming = iter(photos)
    first = [*islice(coming, recipe.batch_size)]
    if not first:
        return
    size = len(first)
    for view in recipe.parsed_views:
        check_channels(model.parameters, count_channels(forward, view.size))
    compute, _ = compile_pooling(
        forward, recipe.poolings, size, recipe.parsed_views, model.parameters
    )
    sizes = distinct_sizes(recipe.parsed_views)

    def read(path: Path) -> list[np.ndarray]:
        return read_photo(path, sizes, recipe.resize)

    pixels = empty_batch(sizes, size)
    ahead, asked = tee(chain(first, coming))
    for batch in read_batches(ahead, size, read):
        fill_batch(pixels, batch)
        scores = model.scores(compute(pixels)).reshape(size, len(recipe.views), -1)
        probabilities = to_probabilities(scores.mean(axis=1), model.temperature)
        for i, photo in enumerate(batch):
            best = np.argsort(-probabilities[i], kind="stable")[:top]
            names = [(str(model.class_names[k]), float(probabilities[i, k])) for k in best]
            yield next(asked), photo if isinstance(photo, BadPhotoError) else names
