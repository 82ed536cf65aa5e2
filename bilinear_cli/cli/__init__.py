"""The command line: options, printing, and the one translation of errors. A file a command."""

import signal

# each adds its command to the group
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
from bilinear_cli.cli.base import cli, end_tidily

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
    signal.signal(signal.SIGTERM, end_tidily)
    cli(prog_name="bilinear")
