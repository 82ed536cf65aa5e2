"""Stored maps -> poolings: a source of rows that needs no network."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bilinear_cli.extraction.job import Batch, Shapes, installed_versions
from bilinear_cli.networks.network import import_tensorflow
from bilinear_cli.poolings.parameters import (
    Parameters,
    make_parameters,
    sample_indices,
    second_moment,
)
from bilinear_cli.poolings.registry import MAPS
from bilinear_cli.recipe import Recipe
from bilinear_cli.store import FeatureFile, Header

log = logging.getLogger(__name__)

N_SAMPLED = 1000  # maps that a projection is fitted on; they need no network


@dataclass(frozen=True)
class MapInput:
    """A feature file with maps."""

    path: Path

    @contextmanager
    def open(self, recipe: Recipe, skip_bad: bool) -> Iterator["_MapsSource"]:
        """Open the file."""
        with FeatureFile(self.path) as file:
            yield _MapsSource(file, recipe)


class _MapsSource:
    """The maps of a complete feature file, see `job.Source`."""

    def __init__(self, file: FeatureFile, recipe: Recipe) -> None:
        self._file, self._recipe = file, recipe
        self.keys = file.keys[:: file.n_views]
        self._index = {key: i for i, key in enumerate(self.keys.tolist())}

    def sha256(self, keys: Sequence[str]) -> list[str]:
        return [str(self._file.sha256[self._index[key] * self._file.n_views]) for key in keys]

    def header(self, existing: FeatureFile | None = None) -> Header:
        """Return the header of the maps' file with the new recipe and versions."""
        header, recipe = self._file.header(), self._recipe
        attributes = {name: x for name, x in header.attributes.items() if name != "created"}
        attributes |= {**recipe.attributes(), "versions": installed_versions(recipe)}
        return replace(header, attributes=attributes)

    def fit_parameters(self, existing: Parameters) -> dict[str, np.ndarray]:
        channels = self._file.shapes[MAPS][-1]
        return make_parameters(self._recipe, channels, existing, self._sample)

    def _sample(self) -> tuple[np.ndarray, list[str]]:
        """Return the second moment of some training maps, and the SHA-256 of their photos."""
        file, train = self._file, np.flatnonzero(self._file.split == "train")
        sample = sample_indices(train, N_SAMPLED, self._recipe.seed)
        log.info("fitting the projection of channels on %d training maps", len(sample))
        batches = file.batches(MAPS, sample, self._recipe.batch_size)
        return second_moment(x for _, x in batches), file.sha256[sample].tolist()

    def compile(self, parameters: Parameters) -> Shapes:
        import_tensorflow()
        from bilinear_cli.extraction.graph import compile_maps

        shape = self._file.shapes[MAPS][1:]
        self._compute, shapes = compile_maps(self._recipe.specs, shape, parameters)
        return shapes

    def batches(self, keys: Sequence[str]) -> Iterator[Batch]:
        n_views, n = self._file.n_views, self._recipe.batch_size
        first = np.array([self._index[key] for key in keys], int) * n_views
        indices = (first[:, None] + np.arange(n_views)).ravel()
        for span, maps in self._file.batches(MAPS, indices, n * n_views):
            sha256 = self._file.sha256[indices[span][::n_views]].tolist()
            yield Batch(sha256, [None] * len(sha256), self._compute(maps))

    def read_error(self, key: str) -> str:
        """Raise a KeyError: stored maps have no unreadable photos."""
        raise KeyError(key)
