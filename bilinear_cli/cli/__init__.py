"""The command line: one file per command. Only this package prints, and turns errors into lines."""

import signal

# Each of these modules adds its commands to the group.
from bilinear_cli.cli import (
    check,
    explain,
    export,
    extract,
    info,
    merge,
    predict,
    report,
    train,
    weights,
)
from bilinear_cli.cli.base import cli, raise_terminated

__all__ = [
    "check",
    "cli",
    "explain",
    "export",
    "extract",
    "info",
    "main",
    "merge",
    "predict",
    "report",
    "train",
    "weights",
]


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGTERM, raise_terminated)
    cli(prog_name="bilinear")
