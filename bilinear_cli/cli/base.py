"""What commands share: the group, errors as one line, log lines and progress bars."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import click

from bilinear_cli.cli.config import add_environment, read_config, warn_of_unknown_variables
from bilinear_cli.cli.options import PathType
from bilinear_cli.errors import BilinearError
from bilinear_cli.messages import encoding_fault, printable, reason_of
from bilinear_cli.progress import Progress
from bilinear_cli.validation import validate_choice

log = logging.getLogger(__name__)

NO_MEMORY = (
    "not enough memory. End other programs, or raise the limit of this shell or job (ulimit -v). "
    "For extract, you can also use --overwrite --batch-size N."
)


class BilinearCommand(click.Command):
    """A command. Its errors say where an option of the group and the value of an option belong."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if not any(error.option_name in option.opts for option in cli.params):
                raise
            advice = f"Write it before the command: bilinear {error.option_name} {self.name}"
            raise click.UsageError(f"{error.message} {advice}", ctx) from error
        except click.UsageError as error:
            has_arguments = any(isinstance(param, click.Argument) for param in self.params)
            if has_arguments or type(error) is not click.UsageError:
                raise
            advice = f"Write an option such as {self.params[0].opts[0]} before each value"
            raise click.UsageError(f"{error.message}. {advice}", ctx) from error


class BilinearGroup(click.Group):
    """The group of all commands. It prints an error of the library as one line."""

    command_class = BilinearCommand

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the options of the group, and read the config."""
        with _one_line():
            return super().make_context(*args, **kwargs)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Return the command, with defaults of the environment; suggest the nearest name."""
        if args and not args[0].startswith("-"):
            validate_choice("command", args[0], self.list_commands(ctx))
        name, command, rest = super().resolve_command(ctx, args)
        if name and command and not ctx.resilient_parsing:
            defaults = (ctx.default_map or {}).get(name, {})
            ctx.default_map = {name: add_environment(name, command, defaults)}
        return name, command, rest

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _one_line():
            return super().invoke(ctx)


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived. It ends a command in the same tidy way as ctrl-C."""


def raise_terminated(*_: object) -> None:
    """Handle SIGTERM."""
    raise Terminated


def _is_of_memory(error: Exception) -> bool:
    """Return whether memory is missing, also in the words of what does not raise a MemoryError.

    Under `ulimit -v`, these are the loader of libraries, TensorFlow and a thread that starts.
    """
    words = ("failed to map segment", "annot allocate memory", "start new thread", "OOM when")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


@contextmanager
def _one_line() -> Iterator[None]:
    """Turn an error that a user can act on into one line and an exit code."""
    try:
        yield
        return
    except BilinearError as error:
        line, exit_code = str(error), error.exit_code
    except BrokenPipeError:  # click ends quietly when the reader of a pipe has gone
        raise
    except OSError as error:  # for instance a full disk, or a folder without permission
        path = f"{error.filename}: " if error.filename else ""
        line = NO_MEMORY if _is_of_memory(error) else f"{path}{reason_of(error)}"
        exit_code = 1
    except UnicodeEncodeError as error:  # of a path in a feature file, for instance
        line, exit_code = encoding_fault(error.object, error.encoding), 1
    except Terminated as error:
        line, exit_code = str(error) or "ended by SIGTERM", 143
    except KeyboardInterrupt as error:
        line, exit_code = str(error) or "interrupted", 130
    except Exception as error:
        if _is_of_memory(error):
            line, exit_code = NO_MEMORY, 1
        elif isinstance(error, ImportError) and isinstance(error.__cause__, KeyboardInterrupt):
            # a module in C++ turns ctrl-C into this error while it is imported
            line, exit_code = "interrupted", 130
        else:
            raise
    exception = click.ClickException(printable(line))
    exception.exit_code = exit_code  # type: ignore[misc]
    raise exception


def set_defaults(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Set the defaults of options from a config, see `read_config`."""
    if path:
        assert isinstance(ctx.command, click.Group)
        ctx.default_map = read_config(path, ctx.command.commands)


@click.group(
    cls=BilinearGroup,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "show_default": True,
        "max_content_width": 100,
    },
)
@click.version_option(package_name="bilinear-cli", message="%(version)s")
@click.option(
    "--config",
    type=PathType(dir_okay=False, path_type=Path),
    envvar="BILINEAR_CONFIG",
    show_envvar=True,
    callback=set_defaults,
    is_eager=True,
    expose_value=False,
    help="Read options from a TOML file with a table for each command. The environment and the "
    "command line override it.",
)
@click.option(
    "-q",
    "--quiet",
    is_flag=True,
    envvar="BILINEAR_QUIET",
    show_envvar=True,
    help="Print only results, warnings and errors.",
)
def cli(quiet: bool) -> None:
    """Recognise bird species and other look-alikes in photos.

    extract computes bilinear features of photos with VGG16 or another network. train fits a
    classifier on them. predict names the class of new photos.

    \b
    bilinear extract --data photos/ -o birds.h5
    bilinear train --features birds.h5
    bilinear predict runs/birds-bilinear-softmax new.jpg
    """
    logger = logging.getLogger("bilinear_cli")
    logger.handlers = [_TqdmHandler()]
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Pillow warns of noise in EXIF, and of photos of half the size that it refuses.
    warnings.filterwarnings("ignore", module="PIL")
    warn_of_unknown_variables(cli)


class _TqdmHandler(logging.Handler):
    """Print log lines on stderr, above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        try:
            tqdm.write(printable(self.format(record)), file=sys.stderr)
        except Exception:
            self.handleError(record)


def is_quiet() -> bool:
    """Return whether only results, warnings and errors are printed, by --quiet."""
    return not log.isEnabledFor(logging.INFO)


def progress_bar(label: str, unit: str) -> AbstractContextManager[Progress]:
    """Return a context with a progress callback, which draws a bar on stderr, unless quiet."""
    from bilinear_cli.api.progress import progress_bar as bar

    return bar(label, unit, show=not is_quiet())
