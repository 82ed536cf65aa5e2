"""The command `predict`: the classes of photos, named with a trained run."""

import logging
import sys
from collections.abc import Callable, Iterable
from io import BufferedIOBase
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import click

from bilinear_cli.cli.base import cli, progress_bar
from bilinear_cli.cli.options import (
    PATH,
    POSITIVE,
    SHARE,
    SPEC,
    boxes_option,
    engine_option,
    min_confidence_option,
    mix_option,
    no_box_option,
    run_backbone_option,
    weights_option,
)
from bilinear_cli.cli.streams import print_json
from bilinear_cli.errors import BilinearError, UsageError
from bilinear_cli.messages import escape_bytes, printable
from bilinear_cli.recipe import CHOICES

if TYPE_CHECKING:
    from bilinear_cli.predict import Prediction

log = logging.getLogger(__name__)


@cli.command()
@click.argument("run", type=PATH)
@click.argument("photos", nargs=-1, required=True, type=SPEC, metavar="PHOTO|FOLDER|-...")
@click.option("--top", type=POSITIVE, default=3, help="Number of classes to print for each photo.")
@click.option(
    "--min-probability",
    type=SHARE,
    default=0.0,
    metavar="P",
    help="Print the answer before the classes: the most probable class, or unknown if its "
    "probability is below P.",
)
@click.option(
    "--unknown",
    type=SHARE,
    metavar="P",
    help="Print the answer before the classes: unknown if at most this share of photos of the "
    "run's classes is as unusual, for example 0.05.",
)
@click.option("--json", "form", flag_value="json", help="Print one JSON object for each photo.")
@click.option("--csv", "form", flag_value="csv", help="Print a table with a row for each class.")
@click.option(
    "--precision",
    type=click.Choice(CHOICES["precision"]),
    help="Precision of the network.  [default: that of the run's features]",
)
@mix_option
@engine_option
@run_backbone_option
@weights_option
@boxes_option
@no_box_option
@min_confidence_option
def predict(
    run: Path,
    photos: tuple[str, ...],
    top: int,
    min_probability: float,
    unknown: float | None,
    form: str | None,
    precision: str | None,
    allow_precision_mix: bool,
    engine: str,
    backbone: Path | None,
    weights: str,
    boxes: str | None,
    no_box: str,
    min_confidence: float,
) -> None:
    """Print the most probable classes of photos.

    A folder stands for all photos in it, and - reads paths from standard input: one in each line,
    or as find -print0 writes them. The last column tells how unusual a photo is: 1 in 200 means
    that one in 200 photos of the run's classes is as unusual. A species that is not among these
    classes gets the name of another one, unless --unknown reports it. With --boxes, there is a line
    for each box. If photos are missing or cannot be read, the others are still classified, and the
    exit code is 1.

    \b
    bilinear predict runs/birds-bilinear-softmax new.jpg
    bilinear predict runs/birds-bilinear-softmax photos --csv > names.csv
    find . -name '*.jpg' | bilinear predict runs/birds-bilinear-softmax - --unknown 0.05
    """
    from bilinear_cli.photos.boxes.options import box_options
    from bilinear_cli.predict import check_unknown, crop_photos
    from bilinear_cli.predict import predict as predict_classes
    from bilinear_cli.run import load_model
    from bilinear_cli.run_network import load_run_network, prediction_recipe

    options = box_options(boxes, no_box=no_box, min_confidence=min_confidence)
    model = load_model(run)
    if unknown is not None:
        check_unknown(run, model, unknown)
    paths, n_paths = _paths(photos)
    cropped = crop_photos(run, paths, options)
    if isinstance(cropped, list):
        n_paths = len(cropped)
    recipe = prediction_recipe(run, precision, allow_precision_mix, engine)  # loads TensorFlow
    forward = load_run_network(run, recipe, weights, backbone).load(recipe)
    predictions = predict_classes(model, recipe, cropped, forward, top=top)
    n_done, n_bad = _print(predictions, n_paths, form, Limits(min_probability, unknown))
    if n_bad:
        raise BilinearError(f"{n_bad} of {n_done} files cannot be read as photos, see above")


def _print(
    predictions: "Iterable[Prediction]", n_paths: int, form: str | None, limits: "Limits"
) -> tuple[int, int]:
    """Print predictions as they come; return how many there are, and how many are errors."""
    from bilinear_cli.photos.lists.manifest import warn_of_formulas

    n_done = n_bad = 0
    has_warned = False
    with progress_bar("predicting", "photo") as progress:
        for prediction in predictions:
            if prediction.error:
                log.warning("%s", prediction.error)
                n_bad += 1
            if form == "csv" and not n_done:
                click.echo("path,rank,name,probability,unknown,error,box,rarity")
            if form == "csv" and not has_warned:
                cells = [str(prediction.photo), *(name for name, _ in prediction.top)]
                has_warned = warn_of_formulas("--csv", cells)
            WRITERS[form](prediction, limits)
            n_done += 1
            if n_paths != 1:
                progress(n_done, n_paths)
    return n_done, n_bad


def _paths(photos: tuple[str, ...]) -> tuple[Iterable[Path], int]:
    """Return the paths of photos, and their number; 0 if standard input lists them.

    Raises:
        UsageError: there is nothing to predict.
    """
    from bilinear_cli.photos.lists.paths import photos_of, read_paths

    if "-" in photos:
        if len(photos) > 1:
            raise UsageError("- (standard input) cannot be combined with photos or folders")
        listed = read_paths(cast(BufferedIOBase, sys.stdin.buffer))
        first = next(listed, None)
        if not first:
            raise UsageError("standard input has no paths: write one in each line")
        return chain([first], listed), 0
    lists, faults = zip(*(photos_of(Path(photo)) for photo in photos), strict=True)
    if all(faults):
        raise UsageError(faults[0])
    for paths, fault in zip(lists, faults, strict=True):
        if not paths:  # other faults get a line among the predictions
            log.warning("%s", fault)
    return [*chain.from_iterable(lists)], sum(map(len, lists))


class Limits(NamedTuple):
    """What makes a photo unknown."""

    min_probability: float  # 0 to name every photo
    max_rarity: float | None  # None to name every photo

    def are_set(self) -> bool:
        """Return whether an answer is asked for."""
        return self.min_probability > 0 or self.max_rarity is not None

    def is_unknown(self, prediction: "Prediction") -> bool:
        """Return whether a photo is uncertain, or too unusual."""
        is_rare = self.max_rarity is not None and (prediction.rarity or 1) <= self.max_rarity
        return is_rare or prediction.probability < self.min_probability


def _write_line(prediction: "Prediction", limits: Limits) -> None:
    from bilinear_cli.photos.photo_set import entry_key
    from bilinear_cli.report.text import format_rarity

    if prediction.error:
        return
    key = entry_key(str(prediction.photo), prediction.box[:4] if prediction.box else ())
    answer = "unknown" if limits.is_unknown(prediction) else prediction.name
    answers = [answer] if limits.are_set() else []
    names = [f"{name} {p:.3f}" for name, p in prediction.top]
    rarity = [format_rarity(prediction.rarity)] if prediction.rarity else []
    click.echo("\t".join(map(printable, [key, *answers, *names, *rarity])))


def _write_json(prediction: "Prediction", limits: Limits) -> None:
    answer: dict[str, Any] = {"path": escape_bytes(prediction.photo)}
    if prediction.box:
        answer["box"] = [*prediction.box[:4]]
    if prediction.error:
        answer["error"] = escape_bytes(prediction.error)
    else:
        answer["unknown"] = limits.is_unknown(prediction)
        answer["rarity"] = prediction.rarity and round(prediction.rarity, 6)
        names = [{"name": name, "probability": round(p, 6)} for name, p in prediction.top]
        answer["names"] = names
    print_json(answer)


def _write_csv(prediction: "Prediction", limits: Limits) -> None:
    from bilinear_cli.photos.lists.manifest import csv_text

    path = escape_bytes(prediction.photo)
    box = " ".join(f"{x:.6g}" for x in prediction.box[:4]) if prediction.box else ""
    if prediction.error:
        rows = [(path, "", "", "", "", escape_bytes(prediction.error), box, "")]
    else:
        unknown = str(limits.is_unknown(prediction)).lower()
        rarity = f"{prediction.rarity:.6f}" if prediction.rarity else ""
        rows = [
            (path, str(rank), name, f"{p:.6f}", unknown, "", box, rarity)
            for rank, (name, p) in enumerate(prediction.top, 1)
        ]
    click.echo(csv_text(rows), nl=False)


WRITERS: dict[str | None, Callable[["Prediction", Limits], None]] = {
    None: _write_line,
    "json": _write_json,
    "csv": _write_csv,
}
