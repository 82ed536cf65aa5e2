"""Runs -> the text of a report."""

from collections.abc import Sequence
from pathlib import Path

from bilinear_cli.errors import BilinearError
from bilinear_cli.report.collect import find
from bilinear_cli.report.markdown import markdown

FORMATS = {".html": "html", ".md": "md"}  # suffix -> format


def render(runs: Sequence[Path], form: str) -> str:
    """Return a report of runs.

    Args:
        runs: folders.
        form: `html` or `md`.

    Raises:
        BilinearError: a folder is no run, or a package is missing.
    """
    found = find(runs)
    if form == "md":
        return markdown(found)
    try:
        from bilinear_cli.report.page import html
    except ImportError as error:
        raise BilinearError(
            f"a page needs {error.name}, which is not installed: pip install '.[report]', or give "
            "--format md"
        ) from error
    return html(found)
