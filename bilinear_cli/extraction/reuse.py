"""What a run takes from earlier feature files: rows of photos, and projections of channels."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from bilinear_cli.errors import FeatureFileError, UsageError
from bilinear_cli.extraction.job import Batch, Job, Origin
from bilinear_cli.extraction.versions import warn_if_versions_differ
from bilinear_cli.poolings.registry import FITTED_ON, get_pooling
from bilinear_cli.recipe import Recipe, check_same, differences
from bilinear_cli.store import FeatureFile, partial_path

log = logging.getLogger(__name__)

ADVICE = "its rows cannot be reused"
NETWORK = ("backbone", "layer", "weights_sha256")  # what of a recipe decides what a channel is


def check_not_output(job: Job[Origin]) -> None:
    """Raise a UsageError if rows are to be copied from the file that is to be written."""
    if not job.reuse:
        return
    path = job.reuse if job.reuse.exists() else partial_path(job.reuse)
    if path.resolve() == partial_path(job.output).resolve():
        raise UsageError(f"--reuse {path} is what is to be written: name another --output")


@contextmanager
def open_reused(job: Job[Origin], complete: bool = False) -> Iterator[FeatureFile | None]:
    """Open the feature file, finished or not, whose rows are to be copied; None if there is none.

    Args:
        job: what is to be extracted.
        complete: the output is there. Then its recipe alone can matter, for what is mixed.

    Raises:
        FeatureFileError: it cannot be read.
    """
    if not job.reuse or (complete and not job.allow_mix):
        yield None
        return
    with FeatureFile(job.reuse, allow_partial=True) as file:
        yield file


def check_reusable(file: FeatureFile, recipe: Recipe) -> None:
    """Raise a FeatureFileError unless the rows of a file can be copied to a file of this recipe."""
    stored, wanted = file.recipe.comparable_attributes(), recipe.comparable_attributes()
    check_same(differences(stored, wanted, "reuse", allow_mix=True), file.path, ADVICE)
    if not recipe.mixed_with:
        advice = f"{ADVICE} without --allow-precision-mix"
        check_same(differences(stored, wanted, "reuse"), file.path, advice)
    missing = set(recipe.poolings) - file.shapes.keys()
    if missing:
        raise FeatureFileError(f"{file.path} has no {', '.join(sorted(missing))} to reuse")


class ReusedRows:
    """Rows of a feature file, finished or not, for photos of the same bytes.

    Attributes:
        sha256: path -> SHA-256 of the photos that were found; the paths are the new ones.
    """

    def __init__(self, file: FeatureFile, recipe: Recipe) -> None:
        """Take a file.

        Raises:
            FeatureFileError: it was made by another recipe, or lacks a pooling.
        """
        check_reusable(file, recipe)
        warn_if_versions_differ(file.path, file.attributes.get("versions"), file.recipe.precision)
        self._file, self._specs, self._batch_size = file, recipe.poolings, recipe.batch_size
        self.sha256: dict[str, str] = {}

    def check_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise a FeatureFileError if rows have other shapes than those of spec -> (rows, ...)."""
        for spec in self._specs:
            stored, wanted = self._file.shapes[spec][1:], shapes[spec][1:]
            if stored != wanted:
                raise FeatureFileError(
                    f"a row of {spec} is {stored} in {self._file.path}, not {wanted}"
                )

    def find(self, paths: Sequence[str], sha256: Sequence[str]) -> None:
        """Look up which of these photos the file has, by their SHA-256."""
        n_views = self._file.n_views
        photo = self._file.photo[: self._file.rows_done : n_views]
        stored = self._file.sha256[::n_views]
        self._first = {stored[i]: i * n_views for i in np.flatnonzero(photo >= 0)}
        pairs = zip(paths, sha256, strict=True)
        self.sha256 = {path: digest for path, digest in pairs if digest in self._first}
        log.info("%d of %d photos are in %s", len(self.sha256), len(paths), self._file.path)

    def batches(self, paths: Sequence[str]) -> Iterator[Batch]:
        """Yield the rows of photos that were found, as they are stored."""
        views = np.arange(self._file.n_views)
        for start in range(0, len(paths), self._batch_size):
            few = paths[start : start + self._batch_size]
            sha256 = [self.sha256[path] for path in few]
            first = np.array([self._first[digest] for digest in sha256])
            indices = (first[:, None] + views).ravel()
            rows = {spec: self._file.read_raw(spec, indices) for spec in self._specs}
            yield Batch(few, sha256, [None] * len(few), rows)


def read_projection(path: Path, recipe: Recipe) -> dict[str, np.ndarray]:
    """Return the projections that a feature file, finished or not, keeps.

    Raises:
        FeatureFileError: it cannot be read, lacks those that the poolings need, or is of another
            network.
    """
    projected = [kind for kind in map(get_pooling, recipe.poolings) if kind.is_projected]
    wanted = {name for kind in projected for name in kind.parameters}
    with FeatureFile(path, allow_partial=True) as file:
        for name in NETWORK:
            stored, expected = getattr(file.recipe, name), getattr(recipe, name)
            if stored != expected:
                raise FeatureFileError(
                    f"the projection of {path} is of another network: its {name} is {stored}, and "
                    f"here it is {expected}"
                )
        missing = sorted(wanted - file.parameters.keys() - {FITTED_ON})
        if missing or not wanted:
            what = ", ".join(missing) or "projection to be used: no --pooling takes one"
            raise FeatureFileError(f"{path} has no {what}")
        return {name: file.parameters[name] for name in wanted}
