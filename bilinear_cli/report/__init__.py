"""What people read of runs: a table, lines, a page."""

from bilinear_cli.report.table import confused, describe, name_of, read_metrics, table

__all__ = ["confused", "describe", "name_of", "read_metrics", "table"]
