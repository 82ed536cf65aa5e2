"""Run docs/tour.ipynb in an empty folder: bilinear pooling has to beat max pooling."""

import re
import tempfile
from pathlib import Path

import nbclient
import nbformat

NOTEBOOK = Path(__file__).parents[1] / "docs" / "tour.ipynb"

notebook = nbformat.read(NOTEBOOK, as_version=4)
with tempfile.TemporaryDirectory() as folder:
    resources = {"metadata": {"path": folder}}
    nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
accuracies = [float(x) for x in re.findall(r"top-1 (\d\.\d\d)", str(notebook.cells))]
print("docs/tour.ipynb: top-1 of max and bilinear:", *accuracies[:2])
assert accuracies[0] < accuracies[1]
