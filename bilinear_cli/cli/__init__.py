"""The command line: options, printing, and the one translation of errors. Nothing else."""

import signal

# each adds its commands to the group
from bilinear_cli.cli import check, extract, photos, stage1, stage2
from bilinear_cli.cli.base import cli, end_tidily

__all__ = ["check", "cli", "extract", "main", "photos", "stage1", "stage2"]


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGTERM, end_tidily)
    cli(prog_name="bilinear")
