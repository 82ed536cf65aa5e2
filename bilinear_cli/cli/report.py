"""The command that compares runs: report."""

from pathlib import Path

import click

from bilinear_cli.cli.base import cli
from bilinear_cli.errors import UsageError
from bilinear_cli.files import atomic_write


@cli.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Page to write."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["html", "md"]),
    help="Of the report.  [default: by the suffix of --output; without it, a table alone]",
)
def report(runs: tuple[Path, ...], output: Path | None, form: str | None) -> None:
    """Print a table of runs, or write a report of them.

    The report, one file, has the table; and of the best run by out-of-fold accuracy: what is
    confused with what, photos, the surest mistakes, calibration, and how it was made.

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
            raise UsageError(f"{output}: name a file that ends in .html or .md, or give --format")
    if not form:
        click.echo(table([read_metrics(run) for run in runs]))
        return
    text = render(runs, form)
    if not output:
        click.echo(text.encode("utf-8", "replace"), nl=False)
        return
    with atomic_write(output) as new:
        new.write_text(text, encoding="utf-8", errors="replace")
    click.echo(output)
