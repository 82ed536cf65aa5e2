"""The command line: options, printing, and the translation of errors into lines."""

import signal

# Each of these modules adds its commands to the group.
from bilinear_cli.cli import check, extract, files, predict, runs, train
from bilinear_cli.cli.base import cli, raise_terminated

__all__ = ["check", "cli", "extract", "files", "main", "predict", "runs", "train"]


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGTERM, raise_terminated)
    cli(prog_name="bilinear")
