"""The command that names photos with a trained run: predict."""

import csv
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import click

from bilinear_cli.cli.base import bar, cli, mix_option, weights_option
from bilinear_cli.errors import BilinearError, UsageError, printable
from bilinear_cli.recipe import CHOICES

log = logging.getLogger(__name__)

UNKNOWN = "unknown"


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("photos", nargs=-1, required=True, metavar="PHOTO|FOLDER|-...")
@click.option("--top", type=click.IntRange(1), default=3, help="Names for a photo.")
@click.option(
    "--min-probability",
    type=click.FloatRange(0, 1),
    default=0.0,
    metavar="P",
    help="Say, before the names, which it is: the likeliest, or unknown if that is less probable.",
)
@click.option("--json", "form", flag_value="json", help="A JSON object a line for each photo.")
@click.option("--csv", "form", flag_value="csv", help="A table with a row for each name.")
@click.option(
    "--precision",
    type=click.Choice(CHOICES["precision"]),
    help="What the network multiplies in.  [default: as for the run's features]",
)
@mix_option
@weights_option
def predict(
    run: Path,
    photos: tuple[str, ...],
    top: int,
    min_probability: float,
    form: str | None,
    precision: str | None,
    allow_precision_mix: bool,
    weights: str,
) -> None:
    """Name photos with a trained run: a line a photo, with probabilities.

    Of a folder all photos are named, and - reads paths from standard input, one a line. A
    species that the run was not trained on gets the name of one that it was, unless
    --min-probability calls it unknown. Where one could not be read, the others are named and the
    exit code is 1.

    \b
    bilinear predict runs/birds-bilinear-softmax new.jpg
    bilinear predict runs/birds-bilinear-softmax photos --csv > names.csv
    find . -name '*.jpg' | bilinear predict runs/birds-bilinear-softmax - --min-probability 0.5
    """
    from bilinear_cli.predict import load_run_network, prediction_recipe
    from bilinear_cli.predict import predict as name_photos

    recipe = prediction_recipe(run, precision, allow_precision_mix)
    paths, n_paths = _paths(photos)
    forward = load_run_network(run, recipe, weights).load(recipe)
    write, done, bad = WRITERS[form], 0, 0
    with bar("naming", "photo") as progress:
        for path, names in name_photos(run, paths, forward, top=top):
            if isinstance(names, BilinearError):
                log.warning("%s", names)
                bad += 1
            write(path, names, min_probability, done == 0)
            done += 1
            if n_paths != 1:
                progress(done, n_paths)
    if bad:
        raise BilinearError(f"{bad} of {done} files could not be read")


def _paths(photos: tuple[str, ...]) -> tuple[Iterable[Path], int]:
    """Return the photos that are meant, and their number; of a list on stdin that is open: 0.

    Raises:
        UsageError: there is nothing to name.
    """
    from bilinear_cli.photos.listings import list_photos

    if "-" in photos:
        if len(photos) > 1:
            raise UsageError("- stands alone: give photos and folders, or a list of them")
        return _listed(), 0
    found = []
    for word in map(Path, photos):
        inside = list_photos(word) if word.is_dir() else [word]
        if not inside:
            raise UsageError(f"there are no photos in {word}")
        if not word.exists():
            raise UsageError(f"there is no photo or folder {word}")
        found += inside
    return found, len(found)


def _listed() -> Iterable[Path]:
    """Return the paths on stdin, one a line, as they come; the first is waited for.

    Raises:
        UsageError: there is none.
    """
    lines = (os.fsdecode(line.rstrip(b"\r\n")) for line in sys.stdin.buffer)
    paths = (Path(line) for line in lines if line.strip())
    first = next(paths, None)
    if not first:
        raise UsageError("there are no paths on standard input")
    return chain([first], paths)


def _text(said: object) -> str:
    """Return text or a path, what is no UTF-8 in it as question marks."""
    return os.fsencode(str(said)).decode("utf-8", "replace")


Names = list[tuple[str, float]] | BilinearError


def _write_line(path: Path, names: Names, least: float, first: bool) -> None:
    if isinstance(names, BilinearError):
        return
    said = [f"{printable(name)} {p:.3f}" for name, p in names]
    likeliest, p = names[0]
    answer = [UNKNOWN if p < least else printable(likeliest)] if least else []
    click.echo("\t".join([printable(_text(path)), *answer, *said]))


def _write_json(path: Path, names: Names, least: float, first: bool) -> None:
    answer: dict[str, Any] = {"path": _text(path)}
    if isinstance(names, BilinearError):
        answer["error"] = _text(names)
    else:
        answer["unknown"] = names[0][1] < least
        answer["names"] = [{"name": name, "probability": round(p, 6)} for name, p in names]
    click.echo(json.dumps(answer, ensure_ascii=False))


def _write_csv(path: Path, names: Names, least: float, first: bool) -> None:
    table = csv.writer(sys.stdout, lineterminator="\n")
    if first:
        table.writerow(["path", "rank", "name", "probability", "unknown", "error"])
    shown = _text(path)
    if isinstance(names, BilinearError):
        table.writerow([shown, "", "", "", "", _text(names)])
        return
    unknown = str(names[0][1] < least).lower()
    for rank, (name, p) in enumerate(names, 1):
        table.writerow([shown, rank, name, f"{p:.6f}", unknown, ""])


WRITERS: dict[str | None, Callable[[Path, Names, float, bool], None]] = {
    None: _write_line,
    "json": _write_json,
    "csv": _write_csv,
}
