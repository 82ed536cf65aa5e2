"""Paths that a user gives, and the feature files at them."""

from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from bilinear_cli import store
from bilinear_cli.errors import UsageError
from bilinear_cli.home import expand_path, expand_spec
from bilinear_cli.store import FeatureFile

StrPath = str | Path


def optional_spec(spec: StrPath | None, name: str) -> str | None:
    """Return what `expand_spec` returns; None for None."""
    return None if spec is None else expand_spec(spec, name)


def optional_path(path: StrPath | None, name: str) -> Path | None:
    """Return what `expand_path` returns; None for None."""
    return None if path is None else expand_path(path, name)


def open_features(path: StrPath | Sequence[StrPath]) -> FeatureFile:
    """Open a feature file, or all shards of a photo set as one file.

        with bilinear_cli.open_features("x.h5") as features:
            X, y = features.X("bilinear", "train"), features.y("train")

    Raises:
        FeatureFileError: a file cannot be read, or the files do not belong together.
        UsageError: this is no path and no list of paths, such as an array.
    """
    paths: list[Any] = [path]
    if isinstance(path, Iterable) and not isinstance(path, str | PathLike):
        paths = [*path]
    if not paths or not all(isinstance(x, str | PathLike) for x in paths):
        kind = type(path).__name__ if paths else "an empty list"
        raise UsageError(
            "features is the path of a feature file, or a list of the paths of its shards, and not "
            f"{kind}. For arrays, use bilinear_cli.estimators.SoftmaxClassifier."
        )
    return store.open_features([expand_path(x) for x in paths])
