"""Options from a TOML file, and the cache folder.

A config has a table for each command. Its keys are the names of long options:

    [extract]
    pooling = ["max", "bilinear"]
    image-size = 448
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs

from bilinear_cli.errors import BilinearError, UsageError, validate_choice


def cache_folder() -> Path:
    """Return `$BILINEAR_CACHE`, else the user's cache folder; it may not exist yet.

    It keeps weights, and photos that were drawn or unpacked.
    """
    return Path(os.environ.get("BILINEAR_CACHE") or platformdirs.user_cache_path("bilinear"))


def read_config(path: Path, options: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, Any]]:
    """Return the defaults in a TOML file, in the form of click's `default_map`.

    Args:
        path: the TOML file.
        options: command -> long option without dashes (`image-size`) -> name of its parameter.

    Returns:
        command -> name of a parameter -> value.

    Raises:
        BilinearError: the file cannot be read, or it names an unknown command or option.
    """
    defaults = {}
    try:
        for command, table in tomllib.loads(path.read_text(encoding="utf-8")).items():
            known = options[validate_choice("command", command, sorted(options))]
            if not isinstance(table, dict):
                raise UsageError(f"{command!r} has to be a table, [{command}]")
            for key in table:
                validate_choice(f"option of {command}", key, sorted(known))
            defaults[command] = {known[key]: value for key, value in table.items()}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BilinearError(f"cannot read the config {path}: {error}") from error
    except UsageError as error:
        raise BilinearError(f"{path}: {error}") from error
    return defaults
