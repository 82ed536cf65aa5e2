"""The commands that take a trained run to photos: predict, explain, export."""

import csv
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bilinear_cli.cli.base import bar, cli, weights_option
from bilinear_cli.errors import BilinearError, UsageError, printable
from bilinear_cli.features.network import load_network, load_tensorflow, load_weights
from bilinear_cli.files import whole

if TYPE_CHECKING:
    from bilinear_cli.features.settings import Settings
    from bilinear_cli.features.weights import Weights

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
    help="Photos whose likeliest name is less probable are called unknown.",
)
@click.option("--json", "form", flag_value="json", help="A JSON object a line for each photo.")
@click.option("--csv", "form", flag_value="csv", help="A table with a row for each name.")
@weights_option
def predict(
    run: Path,
    photos: tuple[str, ...],
    top: int,
    min_probability: float,
    form: str | None,
    weights: str,
) -> None:
    """Name photos with a trained run: a line a photo, with probabilities.

    Of a folder all photos are named, and - reads paths from standard input, one a line. A
    species that the run was not trained on gets the name of one that it was, unless
    --min-probability calls it unknown.

    \b
    bilinear predict runs/birds-bilinear-softmax new.jpg
    bilinear predict runs/birds-bilinear-softmax photos --csv > names.csv
    find . -name '*.jpg' | bilinear predict runs/birds-bilinear-softmax - --min-probability 0.5
    """
    from bilinear_cli.classify.predict import predict as name_photos
    from bilinear_cli.classify.predict import run_settings

    paths = list(_paths(photos))
    settings = run_settings(run)
    found = load_weights_of(run, settings, weights)
    forward = load_network(found.tensors, settings)
    write, bad = WRITERS[form], 0
    with bar("naming", "photo") as progress:
        for done, (path, names) in enumerate(name_photos(run, paths, forward, top=top), 1):
            if isinstance(names, BilinearError):
                log.warning("%s", names)
                bad += 1
            write(path, names, min_probability, done == 1)
            if len(paths) > 1:
                progress(done, len(paths))
    if bad:
        raise BilinearError(f"{bad} of {len(paths)} files could not be read")


def _paths(photos: tuple[str, ...]) -> Iterator[Path]:
    """Yield the photos that are meant: files as they are, those of folders, those on stdin."""
    from bilinear_cli.data.dataset import photos_in

    for word in photos:
        if word == "-":
            yield from (Path(line.rstrip("\n")) for line in sys.stdin if line.strip())
        elif Path(word).is_dir():
            found = photos_in(Path(word))
            if not found:
                raise UsageError(f"there are no photos in {word}")
            yield from found
        else:
            yield Path(word)


def _text(path: Path) -> str:
    """Return a path as text, what is no UTF-8 in it as question marks."""
    return os.fsencode(path).decode("utf-8", "replace")


Names = list[tuple[str, float]] | BilinearError


def _write_line(path: Path, names: Names, least: float, first: bool) -> None:
    if isinstance(names, BilinearError):
        return
    said = [f"{printable(name)} {p:.3f}" for name, p in names]
    unknown = [UNKNOWN] if names[0][1] < least else []
    click.echo("\t".join([printable(_text(path)), *unknown, *said]))


def _write_json(path: Path, names: Names, least: float, first: bool) -> None:
    answer: dict[str, Any] = {"path": _text(path)}
    if isinstance(names, BilinearError):
        answer["error"] = str(names)
    else:
        answer["unknown"] = names[0][1] < least
        answer["names"] = [{"name": name, "probability": round(p, 6)} for name, p in names]
    click.echo(json.dumps(answer, ensure_ascii=False))


def _write_csv(path: Path, names: Names, least: float, first: bool) -> None:
    table = csv.writer(sys.stdout, lineterminator="\n")
    if first:
        table.writerow(["path", "rank", "name", "probability", "error"])
    shown = _text(path)
    if isinstance(names, BilinearError):
        table.writerow([shown, "", "", "", names])
        return
    if names[0][1] < least:
        table.writerow([shown, 0, UNKNOWN, "", ""])
    for rank, (name, p) in enumerate(names, 1):
        table.writerow([shown, rank, name, f"{p:.6f}", ""])


WRITERS = {None: _write_line, "json": _write_json, "csv": _write_csv}


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("photo", type=click.Path(path_type=Path))
@click.option("--class", "name", help="To explain.  [default: the likeliest]")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Picture.  [default: PHOTO-explained.png, here]",
)
@weights_option
def explain(run: Path, photo: Path, name: str | None, output: Path | None, weights: str) -> None:
    """Show which places of a photo, and which pairs of channels, spoke for a class.

    In the picture that is written orange spoke for it, blue against it. The shares add up to the
    score exactly. For bilinear pooling with a linear classifier, and for conv1x1.

    \b
    bilinear explain runs/birds-bilinear-softmax new.jpg
    bilinear explain runs/birds-bilinear-softmax new.jpg --class wren -o why.png
    """
    from bilinear_cli.classify.explain import explain as shares
    from bilinear_cli.classify.explain import overlay
    from bilinear_cli.classify.predict import run_settings

    settings = run_settings(run)
    found = load_weights_of(run, settings, weights)
    why = shares(run, photo, load_network(found.tensors, settings), name)
    output = output or Path(f"{photo.stem}-explained.png")
    try:
        with whole(output) as new:
            overlay(why).save(new)
    except ValueError as error:  # no suffix of a picture
        raise UsageError(f"cannot write {output}: {error}") from error
    above = why.heat[why.heat > 0].sum()
    click.echo(f"{printable(why.name)} {why.probability:.3f}")
    click.echo(
        f"score {why.score:.4f} = intercept {why.intercept:.4f} + places {why.heat.sum():.4f}"
    )
    click.echo(f"places for it {above:.4f}, against it {why.heat.sum() - above:.4f}")
    for first, second, share in why.pairs:
        click.echo(f"channels {first} and {second}: {share:+.4f}")
    click.echo(output)


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL.keras")
@weights_option
@click.option("--overwrite", is_flag=True, help="Whatever is there.")
def export(run: Path, model: Path, weights: str, overwrite: bool) -> None:
    """Write a trained run as one Keras model, from pixels to probabilities.

    Its photos are RGB, 0 to 255, brought to size as for extraction; Keras loads it after
    `import bilinear_cli.layers`.

    \b
    bilinear export runs/birds-bilinear-softmax birds.keras
    """
    from bilinear_cli.classify.predict import run_settings

    settings = run_settings(run)
    found = load_weights_of(run, settings, weights)
    load_tensorflow()
    from bilinear_cli.export import export as write

    write(run, found.tensors, model, overwrite=overwrite)
    click.echo(model)
    size = settings.image_size
    log.info("it takes RGB pixels, 0 to 255, %d x %d (%s)", size, size, settings.resize)


def load_weights_of(run: Path, settings: "Settings", source: str) -> "Weights":
    """Return the weights of the network that a run's features are of."""
    found = load_weights(settings.backbone, source)
    if found.sha256 != settings.weights_sha256:
        raise BilinearError(f"{run} was trained on features of other weights: give --weights")
    return found
