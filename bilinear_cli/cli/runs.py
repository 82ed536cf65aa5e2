"""The commands explain, export and report, which read the run folders of train."""

import logging
from pathlib import Path

import click

from bilinear_cli.cli.base import cli
from bilinear_cli.cli.options import PATH, overwrite_option, weights_option
from bilinear_cli.errors import UsageError, printable
from bilinear_cli.files import atomic_write
from bilinear_cli.networks.quiet import import_tensorflow

log = logging.getLogger(__name__)


@cli.command()
@click.argument("run", type=PATH)
@click.argument("photo", type=PATH)
@click.option("--class", "name", help="Class to explain.  [default: the most probable]")
@click.option(
    "-o",
    "--output",
    type=PATH,
    help="Picture to write.  [default: PHOTO-explained.png in the working folder]",
)
@weights_option
def explain(run: Path, photo: Path, name: str | None, output: Path | None, weights: str) -> None:
    """Show which parts of a photo raise or lower a class's score.

    The command writes a picture with the locations that raise the score in orange, and those that
    lower it in blue. It prints the shares of the locations and of pairs of channels, which add up
    to the score exactly. The run must be of bilinear pooling with softmax, svm or ridge, or of
    conv1x1.

    \b
    bilinear explain runs/birds-bilinear-softmax new.jpg
    bilinear explain runs/birds-bilinear-softmax new.jpg --class wren -o why.png
    """
    from bilinear_cli.explain import explain as compute_shares
    from bilinear_cli.explain import overlay
    from bilinear_cli.predict import load_run_network
    from bilinear_cli.run import read_recipe

    recipe = read_recipe(run)
    network = load_run_network(run, recipe, weights)
    shares = compute_shares(run, photo, lambda pixels: network.load(recipe)(pixels), name)
    if len(recipe.views) > 1:
        views = ", ".join(recipe.views)
        log.info("this explains the original view alone; predict takes the mean over %s", views)
    output = output or Path(f"{photo.stem}-explained.png")
    try:
        with atomic_write(output) as path:
            overlay(shares).save(path)
    except ValueError as error:  # Pillow knows no format of this suffix
        raise UsageError(f"cannot write {output}: {error}") from error
    total, positive = shares.heat.sum(), shares.heat[shares.heat > 0].sum()
    click.echo(f"{printable(shares.name)} {shares.probability:.3f}")
    click.echo(
        f"score {shares.score:.4f} = intercept {shares.intercept:.4f} + locations {total:.4f}"
    )
    click.echo(f"locations that raise it {positive:.4f}, that lower it {total - positive:.4f}")
    for first, second, share in shares.pairs:
        click.echo(f"channels {first} and {second}: {share:+.4f}")
    click.echo(output)


@cli.command()
@click.argument("run", type=PATH)
@click.argument("model", type=PATH, metavar="MODEL.keras")
@weights_option
@overwrite_option
def export(run: Path, model: Path, weights: str, overwrite: bool) -> None:
    """Write a run as one Keras model, from pixels to probabilities.

    The input of the model is RGB pixels, 0 to 255, resized as for extraction. Keras can load the
    model after `import bilinear_cli.layers`.

    \b
    bilinear export runs/birds-bilinear-softmax birds.keras
    """
    from bilinear_cli.predict import load_run_network
    from bilinear_cli.run import read_recipe

    recipe = read_recipe(run)
    tensors = load_run_network(run, recipe, weights).weights().tensors
    import_tensorflow()
    from bilinear_cli.export import export as write

    write(run, tensors, model, overwrite=overwrite)
    click.echo(model)
    size = recipe.image_size
    log.info("input: RGB pixels, 0 to 255, %d x %d (%s)", size, size, recipe.resize)


@cli.command()
@click.argument("runs", nargs=-1, required=True, type=PATH)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Report to write.  [default: print to standard output]",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["html", "md"]),
    help="Format of the report.  [default: by the suffix of --output; without one, only a table]",
)
def report(runs: tuple[Path, ...], output: Path | None, form: str | None) -> None:
    """Print a table of runs, or write a report about them.

    The report is one file. It has the table, and details of the run with the best out-of-fold
    accuracy: its confused classes, photos, most confident mistakes, calibration and provenance.

    \b
    bilinear report runs/*
    bilinear report runs/* -o report.html
    bilinear report runs/birds-bilinear-softmax --format md
    """
    from bilinear_cli.report import table
    from bilinear_cli.report.write import FORMATS, render
    from bilinear_cli.run import read_metrics

    if output and not form:
        form = FORMATS.get(output.suffix.lower())
        if not form:
            raise UsageError(f"{output} does not end in .html or .md: rename it, or give --format")
    if not form:
        click.echo(table([read_metrics(run) for run in runs]))
        return
    text = render(runs, form)
    if not output:
        click.echo(text.encode("utf-8", "replace"), nl=False)
        return
    with atomic_write(output) as path:
        path.write_text(text, encoding="utf-8", errors="replace")
    click.echo(output)
