"""The run folder: metrics, labels, model and scores. Only this package writes and reads it.

A folder from anywhere is data: each file is compared with what `train` writes, in `metrics.py` and
`arrays.py`, and files are compared with each other. What does not fit is damaged, in one line.
"""

from bilinear_cli.run.model import load_model, require_novelty, save_model
from bilinear_cli.run.reading import (
    check_class_names,
    read_backbone_path,
    read_metrics,
    read_photo_rows,
    read_recipe,
    read_scores,
)
from bilinear_cli.run.writing import run_name, train

__all__ = [
    "check_class_names",
    "load_model",
    "read_backbone_path",
    "read_metrics",
    "read_photo_rows",
    "read_recipe",
    "read_scores",
    "require_novelty",
    "run_name",
    "save_model",
    "train",
]
