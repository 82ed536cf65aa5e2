"""Settings from a TOML file, and the folder that is kept between runs.

A config has a table per command, with the long options' names as keys:

    [extract]
    pooling = ["max", "bilinear"]
    image-size = 448
"""

import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import platformdirs

from bilinear_cli.errors import BilinearError, validate_choice


def cache_folder() -> Path:
    """Return the folder for weights and drawn or unpacked photos: `$BILINEAR_CACHE` or the user's.

    It need not exist yet.
    """
    return Path(os.environ.get("BILINEAR_CACHE") or platformdirs.user_cache_path("bilinear"))


def read_config(path: Path, options: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, Any]]:
    """Read a config as click's `default_map`.

    Args:
        path: a TOML file.
        options: for each command, long option without dashes (`image-size`) -> name of its
            parameter.

    Returns:
        For each command in the file, parameter name -> value.

    Raises:
        BilinearError: the file cannot be read, or names a command or an option that is not there.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BilinearError(f"cannot read the config {path}: {error}") from error
    defaults: dict[str, dict[str, Any]] = {}
    for command, table in tables.items():
        _known(path, "command", command, options)
        if not isinstance(table, dict):
            raise BilinearError(f"{path}: {command!r} should be a table, [{command}]")
        for key in table:
            _known(path, f"option of {command}", key, options[command])
        defaults[command] = {options[command][key]: value for key, value in table.items()}
    return defaults


def _known(path: Path, kind: str, word: str, known: Iterable[str]) -> None:
    try:
        validate_choice(kind, word, sorted(known))
    except BilinearError as error:
        raise BilinearError(f"{path}: {error}") from error
