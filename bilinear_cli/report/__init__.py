"""Feature files and runs for people: tables, facts, reports."""

from bilinear_cli.report.describe import describe, describe_run
from bilinear_cli.report.table import confused, name_of, table

__all__ = ["confused", "describe", "describe_run", "name_of", "table"]
