"""Rows of an earlier feature file, for photos that it has already."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np

from bilinear_cli.errors import FeatureFileError
from bilinear_cli.extraction.stored import kept, recipe_of_file, stored_recipe
from bilinear_cli.networks.precision import PRECISION, difference, mixed_with
from bilinear_cli.recipe import Recipe, check_same
from bilinear_cli.store import FeatureFile

log = logging.getLogger(__name__)

BUT = ("poolings", "shard")  # may differ
ADVICE = "its rows cannot be reused"
UNLESS = f"{ADVICE} without --allow-precision-mix"


def allow_mix(recipe: Recipe, reuse: Path, output: Path | None) -> Recipe:
    """Return the recipe, if need be with what lets rows of another precision be reused.

    Args:
        recipe: of what is to be written.
        reuse: the file with the rows.
        output: what is to be written, or gone on with; None if what is there does not count.
    """
    old = stored_recipe(None, reuse)
    assert old
    made = kept(recipe, stored_recipe(output, reuse))
    mixed = mixed_with(made.attributes(), [old.attributes()])
    if mixed:
        log.warning("rows of %s are in %s; %s", reuse, mixed, difference(*mixed.split()))
    return replace(recipe, mixed_with=mixed)


class StoredPhotos:
    """The photos of a feature file, finished or not, by their SHA-256; a context manager.

    Attributes:
        path: the file.
        versions: of what made it, as it says.
        precision: of its rows.
        parameters: of its poolings.
    """

    def __init__(self, path: Path, recipe: Recipe) -> None:
        """Open a file.

        Raises:
            FeatureFileError: it cannot be read, or was made with other recipe.
        """
        self._file = FeatureFile(path, allow_partial=True)
        self.path, self._specs = self._file.path, recipe.poolings
        try:
            made = recipe_of_file(self._file)
            check_same(made, recipe, self.path, ADVICE, but=(*BUT, *PRECISION))
            if not recipe.mixed_with:
                check_same(made, recipe, self.path, UNLESS, but=BUT)
            lacking = set(self._specs) - self._file.shapes.keys()
            if lacking:
                raise FeatureFileError(f"{self.path} has no {', '.join(sorted(lacking))} to reuse")
        except FeatureFileError:
            self._file.close()
            raise
        self.precision = made.precision
        self.versions = self._file.attributes.get("versions")
        self.parameters = self._file.parameters
        n_views = self._file.n_views
        photo = self._file.photo[: self._file.rows_done : n_views]
        sha256 = self._file.sha256[::n_views]
        self._first = {sha256[i]: i * n_views for i in np.flatnonzero(photo >= 0)}
        self._views = np.arange(n_views)

    def check_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise a FeatureFileError if rows have other shapes than those of spec -> (rows, ...)."""
        for spec in self._specs:
            there, wanted = self._file.shapes[spec][1:], shapes[spec][1:]
            if there != wanted:
                raise FeatureFileError(f"a row of {spec} is {there} in {self.path}, not {wanted}")

    def find(self, sha256: np.ndarray) -> np.ndarray:
        """Return int (n,), the first row of each photo, or -1 for one that is not there."""
        return np.array([self._first.get(digest, -1) for digest in sha256], np.int64)

    def rows(self, first: np.ndarray) -> dict[str, np.ndarray]:
        """Return spec -> all rows, as they are stored, of the photos whose first rows these are."""
        which = (first[:, None] + self._views).ravel()
        return {spec: self._file.read_raw(spec, which) for spec in self._specs}

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *raised: object) -> None:
        """Close the file."""
        self._file.close()
