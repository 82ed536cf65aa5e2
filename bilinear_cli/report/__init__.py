"""What people read of files and runs: a table, lines, a page."""

from bilinear_cli.report.describe import describe, describe_run
from bilinear_cli.report.table import confused, name_of, table

__all__ = ["confused", "describe", "describe_run", "name_of", "table"]
