"""Photos -> network -> poolings: a source of rows."""

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from threadpoolctl import threadpool_limits

from bilinear_cli.errors import BadPhotoError, BilinearError
from bilinear_cli.extraction.job import Batch, Shapes
from bilinear_cli.extraction.versions import installed_versions
from bilinear_cli.networks.load import Forward
from bilinear_cli.photos.images import (
    decode_photo,
    empty_batch,
    fill_batch,
    read_batches,
    read_bytes,
    read_photo,
)
from bilinear_cli.photos.photo_set import PhotoSet
from bilinear_cli.poolings.parameters import Parameters, make_parameters
from bilinear_cli.poolings.projection import sample_indices, second_moment
from bilinear_cli.poolings.registry import MAPS
from bilinear_cli.recipe import Recipe, shard_slice
from bilinear_cli.store import Header
from bilinear_cli.views import distinct_sizes

log = logging.getLogger(__name__)

N_SAMPLED = 256  # photos that a projection is fitted on


class MapNetwork(Protocol):
    """What makes maps of photos, see `networks.load.Network`."""

    def load(self, recipe: Recipe) -> Forward:
        """Return a function of uint8 photos -> float32 maps, in TensorFlow."""

    def sha256(self) -> str:
        """Return the SHA-256 of its weights."""

    def __hash__(self) -> int:
        """Return the same for all that load the same network."""


@dataclass(frozen=True)
class Photos:
    """A photo set, and the network that it is shown to."""

    photo_set: PhotoSet
    network: MapNetwork

    @contextmanager
    def open(self, recipe: Recipe, skip_bad: bool) -> Iterator["PhotoSource"]:
        """Open the recipe's shard of the photos."""
        yield PhotoSource(self, recipe, skip_bad)


class PhotoSource:
    """The photos of one shard, see `job.Source`. A photo is read once, and hashed as it is read."""

    def __init__(self, photos: Photos, recipe: Recipe, skip_bad: bool) -> None:
        self._all, self._network = photos.photo_set, photos.network
        self._recipe, self._skip_bad = recipe, skip_bad
        self._sizes = distinct_sizes(recipe.parsed_views)
        shard = shard_slice(recipe.shard, len(self._all), recipe.batch_size)
        self._photo = np.arange(shard.start, shard.stop)
        self._photo_set = self._all.take(self._photo)
        self._index = {path: i for i, path in enumerate(self._photo_set.paths.tolist())}
        self._sha256: dict[str, str] = {}
        self.paths = self._photo_set.paths
        # what --skip-bad must not leave out: photos that go bad while the run goes on
        self._before = {path: self._state(path) for path in self._index} if skip_bad else {}

    def sha256(self, paths: Sequence[str]) -> list[str]:
        """Return the SHA-256 of photos, each of which is read for it once."""
        unknown = [path for path in paths if path not in self._sha256]
        of_these = self._photo_set.take(np.array([self._index[path] for path in unknown], int))
        self._sha256 |= zip(unknown, of_these.sha256().tolist(), strict=True)
        return [self._sha256[path] for path in paths]

    def test_sha256(self) -> np.ndarray:
        """Return the SHA-256 of the shard's test photos."""
        return np.array(self.sha256(self.paths[self._photo_set.split == "test"].tolist()), str)

    def header(self) -> Header:
        """Return what a feature file says beside its features."""
        known = [self._sha256.get(path, "") for path in self.paths.tolist()]
        names = ("labels", "paths", "split", "group")
        photos = {name: getattr(self._photo_set, name) for name in names}
        photos |= {"photo": self._photo, "sha256": np.array(known, str)}
        views = self._recipe.views
        rows = {name: np.repeat(values, len(views)) for name, values in photos.items()}
        rows["view"] = np.tile(views, len(self.paths))
        return Header(rows, self._all.class_names, photo_set_attributes(self._all, self._recipe))

    def parameters(self, have: Parameters) -> dict[str, np.ndarray]:
        """Load the network, and fit on photos what the poolings need and is not there.

        Raises:
            BadPhotoError: a photo of the sample cannot be read.
            BilinearError: parameters that are there are for another number of channels.
            UsageError: a pooling does not suit the network's maps, or there is nothing to fit on.
        """
        self._forward = self._network.load(self._recipe)  # which imports TensorFlow quietly
        from bilinear_cli.extraction.graph import count_channels

        (channels,) = {count_channels(self._forward, size) for size in self._sizes}
        # one thread: the last digits depend on how many, and a worker of Dask's has one by default
        with threadpool_limits(1, user_api="blas"):
            return make_parameters(self._recipe, channels, have, self._sample)

    def _sample(self) -> tuple[np.ndarray, list[str]]:
        """Return the second moment of maps of some training photos, and the photos' SHA-256."""
        from bilinear_cli.extraction.graph import compile_pooling

        recipe, view = self._recipe, self._recipe.parsed_views[:1]
        sample = sample_indices(np.flatnonzero(self._all.split == "train"), N_SAMPLED, recipe.seed)
        log.info("fitting the projection of channels on %d training photos", len(sample))
        compute, _ = compile_pooling(self._forward, [MAPS], recipe.batch_size, view)
        pixels = empty_batch(distinct_sizes(view), recipe.batch_size)

        def read(path: str) -> list[np.ndarray]:
            return read_photo(self._all.root / path, distinct_sizes(view), recipe.resize)

        def maps() -> Iterator[np.ndarray]:
            for batch in read_batches(self._all.paths[sample].tolist(), recipe.batch_size, read):
                self._check_bad(batch)
                bad = fill_batch(pixels, batch)
                yield compute(pixels)[MAPS][np.setdiff1d(np.arange(len(batch)), bad)]

        return second_moment(maps()), self._all.take(sample).sha256().tolist()

    def _check_bad(self, batch: Sequence[object]) -> None:
        """Raise the first BadPhotoError of a batch, unless bad photos are left out."""
        bad = [photo for photo in batch if isinstance(photo, BadPhotoError)]
        if bad and not self._skip_bad:
            raise BadPhotoError(
                f"{bad[0]}: mend it and run again, or leave such files out with --skip-bad"
            )

    def compile(self, parameters: Parameters) -> Shapes:
        """Compile the network and the poolings; return spec -> shape of a row."""
        from bilinear_cli.extraction.graph import compile_pooling

        recipe = self._recipe
        self._compute, shapes = compile_pooling(
            self._forward, recipe.poolings, recipe.batch_size, recipe.parsed_views, parameters
        )
        return shapes

    def batches(self, paths: Sequence[str]) -> Iterator[Batch]:
        """Yield the rows of photos, in order, a batch at a time.

        Raises:
            BadPhotoError: a photo cannot be read, and bad ones are not left out.
            BilinearError: a photo cannot be read that has changed, or could be opened, when the
                first was read: a drive or another program is at fault, and no photo is left out
                for it.
        """
        n_views, n = len(self._recipe.views), self._recipe.batch_size
        pixels = empty_batch(self._sizes, n)

        def read(path: str) -> tuple[str, list[np.ndarray]]:
            file = self._all.root / path
            try:
                content = read_bytes(file)
                digest = hashlib.sha256(content).hexdigest()
                return digest, decode_photo(content, file, self._sizes, self._recipe.resize)
            except BadPhotoError as error:
                before = self._before.get(path)
                failed = isinstance(error.__cause__, OSError) and before
                if failed or (before and before != self._state(path)):
                    raise BilinearError(f"{error}; it was another when this run began") from error
                raise

        for i, photos in enumerate(read_batches(paths, n, read)):
            self._check_bad(photos)
            errors = [photo if isinstance(photo, BadPhotoError) else None for photo in photos]
            sha256 = ["" if isinstance(photo, BadPhotoError) else photo[0] for photo in photos]
            fill_batch(pixels, [p if isinstance(p, BadPhotoError) else p[1] for p in photos])
            rows = {k: x[: len(photos) * n_views] for k, x in self._compute(pixels).items()}
            yield Batch(paths[i * n : (i + 1) * n], sha256, errors, rows)

    def _state(self, path: str) -> tuple[int, int] | None:
        """Return size and time of a file; None if it cannot be opened."""
        file = self._all.root / path
        try:
            state = file.stat()
        except OSError:
            return None
        return (state.st_size, state.st_mtime_ns) if os.access(file, os.R_OK) else None

    def reason(self, path: str) -> str:
        """Return why a photo has no row."""
        try:
            read_photo(self._all.root / path, self._sizes, self._recipe.resize)
        except BadPhotoError as error:
            return str(error)
        return "could not be read when its turn came"


def photo_set_attributes(photo_set: PhotoSet, recipe: Recipe) -> dict[str, Any]:
    """Return the root attributes that say how a feature file is made."""
    return {
        **recipe.attributes(),
        "versions": installed_versions(recipe.precision),
        "data": photo_set.spec,
        "data_kind": photo_set.kind,
        "data_root": str(photo_set.root),
        "data_sha256": photo_set.fingerprint(),
        "split_seed": -1 if photo_set.split_seed is None else photo_set.split_seed,
    }
