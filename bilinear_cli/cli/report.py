"""The command `report`: a table of runs, or a report."""

import logging
from pathlib import Path

import click

from bilinear_cli.cli.base import cli
from bilinear_cli.cli.options import PATH, PathType
from bilinear_cli.messages import printable

log = logging.getLogger(__name__)


@cli.command()
@click.argument("runs", nargs=-1, required=True, type=PATH)
@click.option(
    "-o",
    "--output",
    type=PathType(dir_okay=False, path_type=Path),
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
    accuracy: accuracy by class, most confused pairs, calibration, and how the run was made. An HTML
    report also shows the confusion matrix, photos, and the most confident errors.

    \b
    bilinear report runs/*
    bilinear report runs/* -o report.html
    bilinear report runs/birds-bilinear-softmax --format md
    """
    from bilinear_cli.report.text import OTHER_PHOTOS, have_same_photos, table
    from bilinear_cli.report.write import render, write_report
    from bilinear_cli.run import read_metrics

    if output:
        write_report(runs, output, form or "")
        click.echo(output)
    elif form:
        click.echo(render(runs, form).encode("utf-8", "replace"), nl=False)
    else:
        metrics = [read_metrics(run) for run in runs]
        click.echo(table(metrics, [printable(str(run)) for run in runs]))
        if not have_same_photos(metrics):
            log.warning(OTHER_PHOTOS)
