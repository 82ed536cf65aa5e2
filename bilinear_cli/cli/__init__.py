"""The command line: one file per command. Only this package prints, and turns errors into lines."""

import signal
from importlib import import_module
from pkgutil import iter_modules

from bilinear_cli.cli.base import cli, raise_terminated
from bilinear_cli.cli.streams import prepare_streams

for module in iter_modules(__path__):  # the module of a command adds it to the group
    import_module(f"{__name__}.{module.name}")


def main() -> None:
    """Run the command line."""
    prepare_streams()
    signal.signal(signal.SIGTERM, raise_terminated)
    cli(prog_name="bilinear")
