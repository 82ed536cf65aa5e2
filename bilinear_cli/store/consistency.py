"""Check that the columns, the features and the parameters of a feature file fit each other."""

from typing import TYPE_CHECKING

import numpy as np

from bilinear_cli.poolings import registry
from bilinear_cli.poolings.parameter_kinds import parameter_channels
from bilinear_cli.store.checks import INTEGER_COLUMNS, ROW_COLUMNS

if TYPE_CHECKING:
    from bilinear_cli.store.reading import FeatureFile


def check_consistency(file: "FeatureFile") -> None:
    """Raise a ValueError if parts of an open file contradict each other."""
    _check_columns(file)
    _check_views(file)
    _check_features(file)


def _check_columns(file: "FeatureFile") -> None:
    """Raise unless each column has a valid value for each row."""
    n = len(file.labels)
    shapes = {name: getattr(file, name).shape for name in ROW_COLUMNS}
    shapes |= {f"features/{spec}": shape[:1] for spec, shape in file.shapes.items()}
    shapes |= {f"crc32/{spec}": file._dataset("crc32", spec).shape for spec in file.shapes}
    for name, shape in shapes.items():
        if shape != (n,):
            raise ValueError(f"{name} should have {n} rows")
    for name in ROW_COLUMNS:
        if getattr(file, name).dtype.kind != ("i" if name in INTEGER_COLUMNS else "U"):
            raise ValueError(f"{name} has values of the wrong kind")
    if file.box is not None:
        is_valid = file.box.shape == (n, 4) and file.box.dtype == np.float64
        if not is_valid or not np.isfinite(file.box).all():
            raise ValueError("box should have four finite numbers for each row")
    if n and not 0 <= file.labels.min() <= file.labels.max() < len(file.class_names):
        raise ValueError("labels are outside class_names")
    if not set(file.split) <= {"train", "test"}:
        raise ValueError("split has values other than train and test")
    if not 0 <= file.rows_done <= n or (file.attributes["complete"] and file.rows_done < n):
        raise ValueError(f"rows_done is {file.rows_done} of {n}")


def _check_views(file: "FeatureFile") -> None:
    names = file._view_names()
    partial_photos = len(file.view) % len(names) or file.rows_done % len(names)
    if partial_photos or (file.view.reshape(-1, len(names)) != names).any():
        raise ValueError(f"its rows are not the views {' '.join(names)} of photos")
    if np.diff(file.photo.reshape(-1, len(names))).any():
        raise ValueError("the views of a photo are not in consecutive rows")


def _check_features(file: "FeatureFile") -> None:
    """Raise unless the shapes of rows and parameters fit their poolings and each other."""
    channels = {parameter_channels(*item) for item in file.parameters.items()}
    for spec, (_, *shape) in file.shapes.items():
        pooling = registry.get_pooling(spec) if registry.is_known_pooling(spec) else None
        if not (pooling.is_valid_row_shape(tuple(shape)) if pooling else all(shape)):
            raise ValueError(f"features/{spec} has rows of shape {shape}")
        channels |= {shape[-1]} if pooling and pooling.ndim > 1 else set()
    if len(counts := sorted(n for n in channels if n)) > 1:
        raise ValueError(f"its poolings are of maps of {counts} channels")
