"""A run folder and photos -> class names and probabilities."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice, tee
from math import ceil
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from bilinear_cli.errors import BadPhotoError, BilinearError, FeatureFileError, UsageError
from bilinear_cli.networks.network import Forward
from bilinear_cli.photos.boxes.cropped_set import match_boxes
from bilinear_cli.photos.boxes.crops import Box, Crop, CroppedPhoto
from bilinear_cli.photos.boxes.options import BoxOptions
from bilinear_cli.photos.pixels.batches import read_batches, stack_batch
from bilinear_cli.photos.pixels.images import DecodedPhoto, read_any
from bilinear_cli.photos.pixels.notes import logged_notes
from bilinear_cli.recipe import Recipe, check_same, differences, distinct_sizes
from bilinear_cli.run import load_model, read_recipe, require_novelty
from bilinear_cli.store import FeatureFile
from bilinear_cli.training.metrics import average_views
from bilinear_cli.training.model import Model, to_probabilities
from bilinear_cli.validation import validate_choice

# Attributes of a feature file that must equal those of a run to predict from its rows
ROW_ATTRIBUTES = (
    *("backbone", "layer", "weights_sha256", "image_size", "resize", "views", "precision"),
    *("int8_sha256", "pooled_from", "seed", "colours", "crop"),
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of a photo, the most probable first.

    Attributes:
        photo: the photo as it was given; of a feature file its path.
        top: (name of a class, probability 0 to 1), in descending order; empty after an error.
        error: why the photo could not be read, or None.
        box: the part of the photo that was classified; None for the whole photo.
        rarity: the share of photos of the known classes that are as unusual as this one, above 0 to
            1, see `training/novelty.py`; None after an error, and of runs of earlier versions.
    """

    photo: Any
    top: list[tuple[str, float]]
    error: BadPhotoError | None = None
    box: Box | None = None
    rarity: float | None = None

    def __repr__(self) -> str:
        """Return the fields; of an array the dtype and the shape, and not the pixels."""
        is_array = isinstance(self.photo, np.ndarray)
        photo = f"<{self.photo.dtype} {self.photo.shape}>" if is_array else repr(self.photo)
        others = {name: value for name, value in vars(self).items() if name != "photo"}
        texts = [f"photo={photo}", *(f"{name}={value!r}" for name, value in others.items())]
        return f"Prediction({', '.join(texts)})"

    @property
    def name(self) -> str:
        """The name of the most probable class; raises the error of an unreadable photo."""
        return self._best[0]

    @property
    def probability(self) -> float:
        """The probability of the most probable class, 0 to 1; raises as `name`."""
        return self._best[1]

    @property
    def _best(self) -> tuple[str, float]:
        if self.error:
            raise self.error
        return self.top[0]


def predict(
    model: Model, recipe: Recipe, photos: Iterable[Any], forward: Forward, *, top: int = 5
) -> Iterator[Prediction]:
    """Predict the classes of photos with a trained model.

    Args:
        model: of a run, from `load_model`.
        recipe: of the features that it predicts from, from `prediction_recipe`.
        photos: paths, arrays or images of Pillow, see `images.read_any`, or a `CroppedPhoto` of
            these; any number. They are read while predictions are yielded.
        forward: uint8 photos -> maps, from `Network.load`.
        top: number of classes for each photo.

    Yields:
        The most probable classes of each photo or crop, from the mean scores of its views; or the
        error that reading the photo raised.
    """
    from bilinear_cli.extraction.graph import compile_pooling, count_channels  # loads TensorFlow

    views, sizes = recipe.parsed_views, distinct_sizes(recipe.parsed_views)
    remaining = map(_as_cropped, photos)
    first_batch = [*islice(remaining, recipe.batch_size)]
    if not first_batch:
        return
    batch_size = len(first_batch)
    for size in sizes:
        model.check_channels(count_channels(forward, size))
    compute, _ = compile_pooling(forward, recipe.specs, batch_size, views, model.parameters)
    to_read, photos_again = tee(chain(first_batch, remaining))
    read = partial(_read, sizes=sizes, recipe=recipe)
    with logged_notes() as notes:
        for batch in read_batches(to_read, batch_size, read):
            pixels = stack_batch(batch, sizes, batch_size)
            scores = model.scores(compute(pixels)).reshape(batch_size, len(views), -1)
            answers = zip(batch, *_best_and_rarity(model, scores.mean(axis=1), top), strict=False)
            for decoded, classes, rarity in answers:
                photo, crop = next(photos_again)
                box = crop.box if crop else None
                if isinstance(decoded, BadPhotoError):
                    yield Prediction(photo, [], decoded, box)
                else:
                    notes.add(photo, decoded.notes)
                    yield Prediction(photo, classes, None, box, rarity)


def _as_cropped(photo: Any) -> CroppedPhoto:
    return photo if isinstance(photo, CroppedPhoto) else CroppedPhoto(photo, None)


def _read(item: CroppedPhoto, sizes: Sequence[int], recipe: Recipe) -> DecodedPhoto:
    return read_any(item.photo, sizes, recipe.resize, recipe.colours, item.crop)


def crop_photos(
    run: Path, photos: Iterable[Any], options: BoxOptions | None
) -> Iterable[CroppedPhoto]:
    """Return an entry for each box of photos, with the margin that the run was trained with.

    Without options, the photos stay whole. Warn if the run was trained on the other kind.

    Raises:
        BilinearError: see `match_boxes`.
        UsageError: a photo is not a path, so it has no box.
    """
    crop_options = read_recipe(run).crop_options
    if not options:
        if crop_options:
            log.warning("%s was trained on photos that are cropped to boxes. Give --boxes.", run)
        return map(_as_cropped, photos)
    if not crop_options:
        log.warning("%s was trained on whole photos, and this prediction is of crops", run)
    photos = [*photos]
    if not all(isinstance(photo, str | PathLike) for photo in photos):
        raise UsageError("boxes are matched to photos by their paths: give paths, or crop arrays")
    margin = crop_options.margin if crop_options else options.margin
    names = [Path(photo).as_posix() for photo in photos]
    unit, indices, boxes = match_boxes(options, names, Path())
    return [
        CroppedPhoto(photos[i], Crop(box, unit, margin) if any(box[:4]) else None)
        for i, box in zip(indices, boxes, strict=True)
    ]


def check_unknown(run: Path, model: Model, max_rarity: float) -> None:
    """Warn if no photo can be as rare as `--unknown` asks for.

    Raises:
        BilinearError: the run's model has no novelty.
    """
    n_known = len(require_novelty(run, model, "--unknown").known)
    if max_rarity < 1 / (1 + n_known):
        log.warning(
            "--unknown %g names no photo unknown: %s compares photos with %d others, so none is "
            "rarer than 1 in %d. Give %.2f or more, or train on more photos.",
            *(max_rarity, run, n_known, 1 + n_known, ceil(100 / (1 + n_known)) / 100),
        )


def _best_and_rarity(
    model: Model, scores: np.ndarray, top: int
) -> tuple[list[list[tuple[str, float]]], list[float | None]]:
    """Return `best_classes` and the rarity of scores (n, classes), averaged over views.

    Raises:
        BilinearError: a score is not finite, because numbers of the model are too large.
    """
    if not np.isfinite(scores).all():
        raise BilinearError(
            "the scores of photos are not finite: the model of the run, or the features, are "
            "damaged. Train again."
        )
    rarity = model.novelty.rarity(scores).tolist() if model.novelty else [None] * len(scores)
    return best_classes(model, scores, top), rarity


def best_classes(model: Model, scores: np.ndarray, top: int) -> list[list[tuple[str, float]]]:
    """Return the most probable classes for each row of scores, averaged over views.

    Each is a name and a probability, in descending order.
    """
    probabilities = to_probabilities(scores, model.temperature)
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    return [
        [(str(model.class_names[k]), float(row[k])) for k in best]
        for row, best in zip(probabilities, order, strict=True)
    ]


def predict_rows(run: Path, path: Path, top: int = 5) -> Iterator[Prediction]:
    """Predict the classes of the photos whose rows a feature file has, as `predict` does.

    Raises:
        FeatureFileError: the file cannot be read, or its rows are not like those of the run.
    """
    model, recipe = load_model(run), read_recipe(run)
    with FeatureFile(path) as file:
        stored, trained = (
            {name: getattr(x, name) for name in ROW_ATTRIBUTES} for x in (file.recipe, recipe)
        )
        advice = f"extract the photos as for {run}"
        check_same(differences(stored, trained, "predict"), path, advice)
        for transform in model.transforms:
            validate_choice(f"pooling in {path}", transform.spec, file.shapes)
            if not transform.fits(file.shapes[transform.spec][-1]):
                raise FeatureFileError(
                    f"the rows of {transform.spec} in {path} have another length than those that "
                    f"{run} was trained on: {advice}"
                )
        scores = model.score_rows(file, np.arange(file.rows_done))
        first, scores = average_views(file.photo, scores)
        columns = (file.paths[first].tolist(), *_best_and_rarity(model, scores, top))
        for photo, classes, rarity in zip(*columns, strict=True):
            yield Prediction(photo, classes, rarity=rarity)
