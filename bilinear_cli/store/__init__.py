"""The feature file between the two stages (HDF5, version 1; see `docs/feature-file.md`)."""

from bilinear_cli.store.checks import damage
from bilinear_cli.store.lock import locked
from bilinear_cli.store.reading import FeatureFile, partial_path
from bilinear_cli.store.shards import merge, open_features
from bilinear_cli.store.writing import FeatureWriter, create

__all__ = [
    "FeatureFile",
    "FeatureWriter",
    "create",
    "damage",
    "locked",
    "merge",
    "open_features",
    "partial_path",
]
