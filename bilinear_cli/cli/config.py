"""Defaults of options from a TOML file and from environment variables.

Both name options by their long form: `image-size` in the table `[extract]`, or
`BILINEAR_EXTRACT_IMAGE_SIZE`. Their values pass through the types of the options, so that an error
names the file and the key, or the variable.
"""

import logging
import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from bilinear_cli.errors import BilinearError, UsageError
from bilinear_cli.messages import closest_match, reason_of
from bilinear_cli.validation import validate_choice

log = logging.getLogger(__name__)

PREFIX = "BILINEAR_"
TEXT = (click.types.StringParamType, click.Path, click.Choice)  # types that take no number
TOML_NAMES = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a table",
}

Defaults = dict[str, Any]  # of a command: parameter -> value
Commands = Mapping[str, click.Command]


def read_config(path: Path, commands: Commands) -> dict[str, Defaults]:
    """Return the defaults of commands from a TOML file, which has a table for each of them.

    The keys of a table are the names of long options:

        [extract]
        pooling = ["max", "bilinear"]
        image-size = 448

    Raises:
        BilinearError: the file cannot be read, or it has an unknown command, an unknown option, or
            a value that the option does not take.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        not_utf8 = isinstance(error, UnicodeDecodeError)
        reason = "it is not in UTF-8. Save it as UTF-8" if not_utf8 else reason_of(error)
        raise BilinearError(f"cannot read the config {path}: {reason}") from error
    try:
        return {name: _read_table(name, table, commands) for name, table in tables.items()}
    except UsageError as error:
        raise BilinearError(f"{path}: {error}") from error


def _read_table(name: str, table: Any, commands: Commands) -> Defaults:
    """Return the defaults of a command from its table."""
    if name not in commands and not isinstance(table, dict):
        tables = ", ".join(f"[{command}]" for command in sorted(commands))
        raise UsageError(f"{name!r} is in no table. Write it below one of {tables}")
    options = long_options(commands[validate_choice("command", name, sorted(commands))])
    if not isinstance(table, dict):
        raise UsageError(f"{name!r} has to be a table, [{name}]")
    defaults: Defaults = {}
    for key, value in table.items():
        option = options[validate_choice(f"option of {name}", key, sorted(options))]
        with _errors_at(f"[{name}] {key}"):
            _set_default(defaults, option, _as_typed(option, value))
    return defaults


def add_environment(name: str, command: click.Command, defaults: Defaults) -> Defaults:
    """Return the defaults of a command, replaced by those of the environment.

    An empty variable counts as unset. The values of an option that may be repeated are separated by
    spaces, and those of paths like the folders in `PATH`.

    Raises:
        UsageError: a variable has a value that its option does not take.
    """
    defaults = dict(defaults)
    for key, option in long_options(command).items():
        variable = variable_of(name, key)
        if text := os.environ.get(variable):
            with _errors_at(variable):
                value = option.type.split_envvar_value(text) if option.multiple else text
                _set_default(defaults, option, value)
    return defaults


def warn_of_unknown_variables(group: click.Group) -> None:
    """Log a warning for each variable that begins with `BILINEAR_` and has no effect."""
    known = {"BILINEAR_CACHE", *(str(option.envvar) for option in group.params if option.envvar)}
    for name, command in group.commands.items():
        known |= {variable_of(name, key) for key in long_options(command)}
    for variable in sorted(os.environ):
        if variable.startswith(PREFIX) and variable not in known and os.environ[variable]:
            short = [name.removeprefix(PREFIX) for name in sorted(known)]
            nearest = closest_match(variable.removeprefix(PREFIX), short)
            hint = f" Did you mean {PREFIX}{nearest}?" if nearest else ""
            log.warning("the variable %s is unknown and has no effect.%s", variable, hint)


def long_options(command: click.Command) -> dict[str, click.Option]:
    """Return name, without dashes, -> option of all long names."""
    return {
        name.removeprefix("--"): option
        for option in command.params
        if isinstance(option, click.Option)
        for name in option.opts
        if name.startswith("--")
    }


def variable_of(command: str, key: str) -> str:
    """Return the environment variable of an option of a command."""
    return f"{PREFIX}{command}_{key}".upper().replace("-", "_")


@contextmanager
def _errors_at(place: str) -> Iterator[None]:
    """Raise errors of values as a UsageError that begins with the place of the value."""
    try:
        yield
    except click.UsageError as error:
        raise UsageError(f"{place}: {error.message}") from error


def _as_typed(option: click.Option, value: Any) -> Any:
    """Return a TOML value as the command line gives it to the option, or raise a BadParameter."""
    if option.is_flag:
        if isinstance(value, bool):
            return value
        raise _wrong_type("true or false", value)
    if not option.multiple:
        return _as_text(option, value)
    return [_as_text(option, x) for x in (value if isinstance(value, list) else [value])]


def _as_text(option: click.Option, value: Any) -> Any:
    takes_numbers = not isinstance(option.type, TEXT)
    if isinstance(value, (str, getattr(option.type, "toml_type", str))):
        return value
    if takes_numbers and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise _wrong_type("a number" if takes_numbers else "text in quotes", value)


def _wrong_type(expected: str, value: Any) -> click.BadParameter:
    return click.BadParameter(
        f"this has to be {expected}, not {TOML_NAMES.get(type(value), 'a date or time')}"
    )


def _set_default(defaults: Defaults, option: click.Option, value: Any) -> None:
    """Set a default, or raise a BadParameter if the option does not take the value."""
    if not option.is_flag:
        option.type_cast_value(click.Context(click.Command(None)), value)
        defaults[option.name] = value
        return
    try:
        is_on = click.BOOL.convert(value, option, None)
    except click.BadParameter as error:  # click lists all its words, also the empty one
        raise click.BadParameter(f"{value!r} is neither 1 nor 0") from error
    if option.is_bool_flag:
        defaults[option.name] = is_on
    elif is_on:  # one of several flags that set the same parameter, such as --json and --csv
        defaults[option.name] = option.flag_value
    elif defaults.get(option.name) == option.flag_value:
        del defaults[option.name]
