"""The command that fits classifiers on stored features: train."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from bilinear_cli.cli.base import bar, cli
from bilinear_cli.errors import UsageError, validate_choice
from bilinear_cli.networks.load import import_tensorflow
from bilinear_cli.training import registry
from bilinear_cli.training.options import TrainOptions

if TYPE_CHECKING:
    from bilinear_cli.store import FeatureFile
    from bilinear_cli.training.reducers import Workers

log = logging.getLogger(__name__)

DEFAULTS = TrainOptions()


class Auto(click.ParamType):
    """A number, or `auto` (None)."""

    name = "auto|number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse it."""
        if value is None or value == "auto":
            return None
        return click.FLOAT.convert(value, param, ctx)


@cli.command()
@click.option(
    "--features",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path),
    help="Feature file of bilinear extract, or folder of its shards; repeatable, for all shards.",
)
@click.option(
    "--pooling",
    multiple=True,
    help="Of the file; several side by side as max+sum; repeatable.  [default: each in turn]",
)
@click.option(
    "--classifier",
    type=click.Choice([*registry.CLASSIFIERS]),
    default=DEFAULTS.classifier,
    help="conv1x1: of maps, their projection trained too.",
)
@click.option(
    "--solver",
    type=click.Choice(["auto", "gram", "stream"]),
    default="auto",
    help="gram: reduced, in memory; stream: by passes over the file; auto: gram if it fits.",
)
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Have Dask's workers take the sums over rows: tcp://host:8786, a scheduler file, or "
    "local[:WORKERS].",
)
@click.option(
    "--normalize",
    type=click.Choice(["auto", "none", "standard", "sqrt-l2"]),
    default="auto",
    help="auto: standard for max, avg and sum, none for what is normalised already.",
)
@click.option(
    "--top-variance",
    type=click.IntRange(1),
    metavar="K",
    help="Keep the K entries of the whole matrix that vary most over the training rows.",
)
@click.option(
    "-C", "--C", "C", type=Auto(), default="auto", help="Weight of the losses; auto: by the folds."
)
@click.option(
    "--label-smoothing", type=Auto(), default="auto", help="auto: 0 or 0.1, by the same folds."
)
@click.option(
    "--folds", type=click.IntRange(2), default=DEFAULTS.folds, help="Of the cross-validation."
)
@click.option("--hidden", type=click.IntRange(1), default=DEFAULTS.hidden, help="Units of the mlp.")
@click.option(
    "--dropout", type=click.FloatRange(0, 0.99), default=DEFAULTS.dropout, help="Of the mlp."
)
@click.option(
    "--channels", type=click.IntRange(1), default=DEFAULTS.channels, help="Of the conv1x1."
)
@click.option("--frozen", is_flag=True, help="Leave the conv1x1's projection untrained.")
@click.option(
    "--refit-all", is_flag=True, help="After the test, fit the final model on the test photos too."
)
@click.option("--data", metavar="SPEC", help="Take labels, split and groups from there.")
@click.option("--split-seed", type=int, default=0, help="For a --data that has no split.")
@click.option(
    "--min-photos",
    type=click.IntRange(1),
    default=DEFAULTS.min_photos,
    help="Smaller classes stay out.",
)
@click.option("--seed", type=int, default=0, help="Of the folds, mlp and conv1x1.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("runs"), help="Run folders."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def train(
    features: tuple[Path, ...],
    pooling: tuple[str, ...],
    data: str | None,
    split_seed: int,
    scheduler: str | None,
    output: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a classifier on stored features and report its accuracy on the test photos.

    \b
    bilinear train --features x.h5
    bilinear train --features x.h5 --pooling bilinear --top-variance 20000 --json
    bilinear train --features a.h5 --features b.h5
    bilinear train --features x.h5 --scheduler tcp://host:8786
    """
    from bilinear_cli.photos.photo_set import load_photo_set
    from bilinear_cli.poolings.registry import MAPS
    from bilinear_cli.report import confused, table
    from bilinear_cli.run import train as run
    from bilinear_cli.store import open_features

    classifier = registry.get_classifier(options["classifier"])
    for name in {*registry.SPECIFIC} - {*classifier.options}:
        if not _typed(name):  # but in a config or the environment, which all classifiers share
            options[name] = getattr(DEFAULTS, name)
    chosen = TrainOptions(**options)
    if scheduler and not classifier.distributed:
        raise UsageError(f"--scheduler is not for --classifier {classifier.name}")
    if classifier.tensorflow:
        import_tensorflow()
    photo_set = load_photo_set(data, split_seed=split_seed) if data else None
    results, command = [], json.dumps(["bilinear", *sys.argv[1:]])
    with open_features(features) as file, _workers(scheduler, file) as workers:
        maps = classifier.on_maps
        specs = pooling or [name for name in file.shapes if (name == MAPS) == maps]
        if not specs:
            wanted = "no maps: extract --pooling maps"
            wanted = wanted if maps else "maps alone: train --classifier conv1x1 on them"
            raise UsageError(f"{file.path} holds {wanted}")
        for name in (name for spec in specs for name in spec.split("+")):
            validate_choice(f"pooling in {file.path}", name, file.shapes)  # before the first fit
        for spec in specs:
            with bar(spec, "step") as progress:
                result = run(
                    file,
                    spec,
                    chosen,
                    output,
                    photo_set=photo_set,
                    command=command,
                    progress=progress,
                    workers=workers,
                )
            results.append(result)
    if as_json:
        click.echo(json.dumps({"results": results}, ensure_ascii=False))
        return
    click.echo(table(results))
    for result in results:
        click.echo(confused(result))


def _typed(name: str) -> bool:
    """Say whether an option is on the command line itself."""
    source = click.get_current_context().get_parameter_source(name)
    return source is ParameterSource.COMMANDLINE


@contextmanager
def _workers(scheduler: str | None, file: "FeatureFile") -> "Iterator[Workers | None]":
    """Give who takes the sums over a file's rows, if not this process."""
    if scheduler is None:
        yield None
        return
    from bilinear_cli.cluster.connect import connect

    with connect(scheduler) as client:  # says so if Dask is not installed
        from bilinear_cli.cluster.reducer import Workers

        yield Workers(client, file)
