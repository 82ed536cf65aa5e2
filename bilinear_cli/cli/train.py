"""The command `train`: classifiers fitted on stored features."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from bilinear_cli.cli.base import cli, is_quiet
from bilinear_cli.cli.options import (
    PATH,
    SPEC,
    class_level_option,
    columns_option,
    number_type,
    option_of,
    split_seed_option,
)
from bilinear_cli.cli.streams import print_json
from bilinear_cli.training import registry
from bilinear_cli.training.options import CLASS_WEIGHTS, NORMALIZE, RANGES, SOLVERS, TrainOptions
from bilinear_cli.validation import Range

DEFAULTS = TrainOptions()
option = option_of(DEFAULTS, RANGES)


class AutoOrNumber(click.ParamType):
    """A number of a range, or `auto`, which becomes None."""

    name = "auto|number"

    def __init__(self, numbers: Range) -> None:
        self._type = number_type(numbers)

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the number, or None."""
        return None if value == "auto" else self._type.convert(value, param, ctx)


@cli.command()
@option(
    "--features",
    required=True,
    multiple=True,
    type=PATH,
    help="Feature file, or the folder of its shards. Repeat the option to name each shard.",
)
@option(
    "--pooling",
    multiple=True,
    help="Pooling to train on. max+sum concatenates the features of several. Repeat the option for "
    "several runs.  [default: a run on each pooling in the file]",
)
@option(
    "--classifier",
    type=click.Choice([*registry.CLASSIFIERS]),
    help="Classifier. conv1x1 needs stored maps, and trains their projection too.",
)
@option(
    "--solver",
    type=click.Choice(SOLVERS),
    help="gram reads the features once and solves an equal problem in memory. stream reads the "
    "file again at each step, for sets that do not fit in memory. auto takes gram if it fits.",
)
@option(
    "--scheduler",
    type=SPEC,
    metavar="ADDRESS",
    help="Let the workers of a Dask scheduler compute the sums over rows: tcp://host:8786, a "
    "scheduler file, or local[:WORKERS].",
)
@option(
    "--normalize",
    type=click.Choice(NORMALIZE),
    help="Normalisation of the features. standard: subtract the mean and divide by the standard "
    "deviation of each feature. sqrt-l2: element-wise signed square root, then l2 norm. auto: "
    "standard for max, avg and sum, none for poolings that are already normalised.",
)
@option(
    "--top-variance",
    metavar="K",
    help="For bilinear and other matrix poolings: keep only the K matrix entries with the highest "
    "variance over the training rows. Two equal entries count as two.",
)
@option(
    "-C",
    "--C",
    "C",
    type=AutoOrNumber(RANGES["C"]),
    default="auto",
    help="Inverse regularisation strength. auto chooses it by cross-validation.",
)
@option(
    "--label-smoothing",
    type=AutoOrNumber(RANGES["label_smoothing"]),
    default="auto",
    help="Label smoothing, from 0 to below 1. auto chooses 0 or 0.1 by cross-validation.",
)
@option(
    "--class-weight",
    type=click.Choice(CLASS_WEIGHTS),
    help="Weight of the classes in the training. none: each photo counts once, so large classes "
    "count more. balanced: all classes count the same.",
)
@option("--folds", help="Number of cross-validation folds.")
@option("--hidden", help="Number of hidden units of the mlp.")
@option("--dropout", help="Dropout rate of the mlp.")
@option("--channels", help="Number of channels after the projection of conv1x1.")
@option("--frozen", help="Do not train the projection of conv1x1.")
@option("--refit-all", help="After the test, fit the final model on the test photos, too.")
@option(
    "--novelty",
    help="Measure how well photos of unknown classes are recognised: leave a fifth of "
    "the classes out of the training photos, five times.",
)
@option(
    "--data",
    type=SPEC,
    metavar="SPEC",
    help="Photo set whose labels, split and groups replace those in the feature file.",
)
@split_seed_option
@class_level_option
@columns_option
@option("--min-photos", help="Leave out classes with fewer photos than this.")
@option("--seed", help="Seed of the folds, mlp and conv1x1.")
@option("-o", "--output", type=PATH, default=Path("runs"), help="Folder for the run folders.")
@option("--json", "as_json", is_flag=True, help="Print the results as one JSON object.")
def train(
    features: tuple[Path, ...],
    pooling: tuple[str, ...],
    data: str | None,
    split_seed: int,
    class_level: int | None,
    columns: Mapping[str, str] | None,
    scheduler: str | None,
    output: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a classifier on stored features.

    The command prints the accuracy on the test photos and writes a run folder.

    \b
    bilinear train --features x.h5
    bilinear train --features x.h5 --pooling bilinear --top-variance 20000 --json
    bilinear train --features a.h5 --features b.h5
    bilinear train --features x.h5 --scheduler tcp://host:8786
    """
    from bilinear_cli.api.train import replacing_photo_set, train_on_poolings, trainable_poolings
    from bilinear_cli.report.text import confused_pairs_line, novelty_line, table
    from bilinear_cli.store import open_features

    classifier = registry.get_classifier(options["classifier"])
    context = click.get_current_context()
    for name in {*registry.CLASSIFIER_OPTIONS} - {*classifier.options}:
        # An option in a config or the environment is for those classifiers that take it.
        if context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            options[name] = getattr(DEFAULTS, name)
    train_options = TrainOptions(**options)
    photo_set = replacing_photo_set(
        data, split_seed=split_seed, class_level=class_level, columns=columns
    )
    with open_features(features) as file:
        runs = train_on_poolings(
            file,
            trainable_poolings(file, pooling, train_options),
            train_options,
            output,
            photo_set=photo_set,
            scheduler=scheduler,
            command=["bilinear", *sys.argv[1:]],
            show_progress=not is_quiet(),
        )
    if as_json:
        print_json({"results": runs})
    else:
        novelty_lines = [novelty_line(metrics) for metrics in runs if "novelty" in metrics]
        click.echo("\n".join([table(runs), *map(confused_pairs_line, runs), *novelty_lines]))
