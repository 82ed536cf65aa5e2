"""The feature file between the two stages (HDF5, version 1; see `docs/feature-file.md`)."""

from bilinear_cli.store.checks import BOX, ROW_COLUMNS, parameter_sha256, partial_path
from bilinear_cli.store.layout import Header
from bilinear_cli.store.lock import locked
from bilinear_cli.store.reading import FeatureFile
from bilinear_cli.store.shards import merge, open_features
from bilinear_cli.store.writing import FeatureWriter, create, remove_leftovers, restart

__all__ = [
    "BOX",
    "ROW_COLUMNS",
    "FeatureFile",
    "FeatureWriter",
    "Header",
    "create",
    "locked",
    "merge",
    "open_features",
    "parameter_sha256",
    "partial_path",
    "remove_leftovers",
    "restart",
]
