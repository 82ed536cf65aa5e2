"""Photos -> network -> poolings: a source of rows."""

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from threadpoolctl import threadpool_limits

from bilinear_cli.errors import BadPhotoError, BilinearError
from bilinear_cli.extraction.job import Batch, Shapes, installed_versions, shard_slice
from bilinear_cli.networks.network import Forward
from bilinear_cli.photos.boxes.crops import make_crop
from bilinear_cli.photos.photo_set import PhotoSet
from bilinear_cli.photos.pixels import batches, images
from bilinear_cli.photos.pixels.notes import PhotoNotes, logged_notes
from bilinear_cli.poolings.parameters import (
    Parameters,
    make_parameters,
    sample_indices,
    second_moment,
)
from bilinear_cli.poolings.registry import MAPS
from bilinear_cli.progress import LOG_SECONDS, every
from bilinear_cli.recipe import UNSHARDED, Recipe, distinct_sizes
from bilinear_cli.store import BOX, FeatureFile, Header

log = logging.getLogger(__name__)

N_SAMPLED = 256  # photos that a projection is fitted on


class MapNetwork(Protocol):
    """Computes maps of photos, see `networks.network.Network`."""

    def load(self, recipe: Recipe) -> Forward:
        """Return a function of uint8 photos -> float32 maps, in TensorFlow."""

    def sha256(self) -> str:
        """Return the SHA-256 of the weights."""

    def measure_memory(self, layer: str, image_size: int) -> int | None:
        """Return the bytes that a photo of a batch takes, or None if they were not measured."""

    def __hash__(self) -> int:
        """Return equal hashes for equal networks."""


@dataclass(frozen=True)
class PhotoInput:
    """A photo set and a network."""

    photo_set: PhotoSet
    network: MapNetwork

    @contextmanager
    def open(self, recipe: Recipe, skip_bad: bool) -> Iterator["_PhotoSource"]:
        """Open the recipe's shard of the photos."""
        with logged_notes() as notes:
            yield _PhotoSource(self, recipe, skip_bad, notes)


class _PhotoSource:
    """The photos of one shard, see `job.Source`; a photo is read and hashed in one go."""

    def __init__(
        self, photos: PhotoInput, recipe: Recipe, skip_bad: bool, notes: PhotoNotes
    ) -> None:
        self._photos, self._recipe, self._skip_bad = photos, recipe, skip_bad
        self._notes = notes
        self._sizes = distinct_sizes(recipe.parsed_views)
        shard = shard_slice(recipe.shard, len(photos.photo_set), recipe.batch_size)
        self._indices = np.arange(shard.start, shard.stop)
        self._photo_set = photos.photo_set.take(self._indices)
        self.keys = self._photo_set.keys
        self._index = {key: i for i, key in enumerate(self.keys.tolist())}
        self._sha256: dict[str, str] = {}
        self._initial_states = {key: self._state(key) for key in self._index} if skip_bad else {}

    def sha256(self, keys: Sequence[str]) -> list[str]:
        unknown = [key for key in keys if key not in self._sha256]
        photos = self._photo_set.take(np.array([self._index[key] for key in unknown], int))
        self._sha256 |= zip(unknown, photos.sha256().tolist(), strict=True)
        return [self._sha256[key] for key in keys]

    def header(self, existing: FeatureFile | None = None) -> Header:
        photo_set = self._photos.photo_set
        seed = photo_set.split_seed
        if existing and seed is not None and existing.attributes.get("split_seed") == seed:
            photo_set = photo_set.keep_split(existing.group, existing.split)
        shard = photo_set.take(self._indices)
        sha256 = [self._sha256.get(key, "") for key in self.keys.tolist()]
        names = ("labels", "paths", "split", "group")
        photos = {name: getattr(shard, name) for name in names}
        photos |= {"photo": photo_set.photo[self._indices], "sha256": np.array(sha256, str)}
        photos |= {} if shard.box is None else {BOX: shard.box}
        views = self._recipe.views
        rows = {name: np.repeat(values, len(views), axis=0) for name, values in photos.items()}
        rows["view"] = np.tile(views, len(self.keys))
        return Header(rows, photo_set.class_names, photo_set_attributes(photo_set, self._recipe))

    def fit_parameters(self, existing: Parameters) -> dict[str, np.ndarray]:
        """Load the network, and fit the missing parameters on training photos."""
        self._forward = self._photos.network.load(self._recipe)  # which imports TensorFlow quietly
        from bilinear_cli.extraction.graph import count_channels

        (channels,) = {
            count_channels(self._forward, size, self._recipe.specs) for size in self._sizes
        }
        # the last digits depend on the number of threads; a worker of Dask has one by default
        with threadpool_limits(1, user_api="blas"):
            return make_parameters(self._recipe, channels, existing, self._sample)

    def _sample(self) -> tuple[np.ndarray, list[str]]:
        """Return the second moment of some training photos' maps, and the photos' SHA-256."""
        photo_set, recipe = self._photos.photo_set, self._recipe
        train = np.flatnonzero(photo_set.split == "train")
        sample = photo_set.take(sample_indices(train, N_SAMPLED, recipe.seed))
        log.info("fitting the projection of channels on %d training photos", len(sample))
        recipe = replace(recipe, specs=(MAPS,), views=recipe.views[:1], shard=UNSHARDED)
        photos, notes = replace(self._photos, photo_set=sample), PhotoNotes()
        source = _PhotoSource(photos, recipe, self._skip_bad, notes)
        source._forward = self._forward
        source.compile({})
        batches = _log_done(source.batches(sample.keys.tolist()), len(sample))
        maps = (batch.rows[MAPS][[not error for error in batch.errors]] for batch in batches)
        return second_moment(maps), sample.sha256().tolist()

    def compile(self, parameters: Parameters) -> Shapes:
        from bilinear_cli.extraction.graph import compile_pooling

        recipe = self._recipe
        self._compute, shapes = compile_pooling(
            self._forward, recipe.specs, recipe.batch_size, recipe.parsed_views, parameters
        )
        return shapes

    def batches(self, keys: Sequence[str]) -> Iterator[Batch]:
        n_views, n, remaining = len(self._recipe.views), self._recipe.batch_size, iter(keys)
        for photos in batches.read_batches(keys, n, self._read):
            errors = [photo if isinstance(photo, BadPhotoError) else None for photo in photos]
            if (bad := next(filter(None, errors), None)) and not self._skip_bad:
                is_shard = self._recipe.shard != UNSHARDED  # of a list that must stay
                mend = "Repair or replace it" if is_shard else "Repair, replace or remove it"
                raise BadPhotoError(
                    f"{bad}. {mend}, and run the same command again. Or use --skip-bad to leave "
                    "such files out."
                )
            sha256 = ["" if isinstance(photo, BadPhotoError) else photo[0] for photo in photos]
            decoded = [photo if isinstance(photo, BadPhotoError) else photo[1] for photo in photos]
            for photo, key in zip(decoded, remaining, strict=False):
                if not isinstance(photo, BadPhotoError):
                    self._notes.add(key, photo.notes)
            pixels = batches.stack_batch(decoded, self._sizes, n)
            rows = {k: x[: len(photos) * n_views] for k, x in self._compute(pixels).items()}
            yield Batch(sha256, errors, rows)

    def _read(self, key: str) -> tuple[str, images.DecodedPhoto]:
        """Return the SHA-256 of a photo's file, and its pixels in each size.

        A photo that becomes unreadable during the run is a BilinearError and never skipped: a drive
        or another program is at fault.
        """
        cannot_open = True
        try:
            content = images.read_bytes(self._file(key))
            cannot_open = False  # from here on, also an OSError is about the content
            photo = self._decode(key, content)
        except BadPhotoError as error:
            state = self._initial_states.get(key)
            if state and (cannot_open or state != self._state(key)):
                message = f"{error}. The file changed during the run. Restore it and run again."
                raise BilinearError(message) from error
            raise
        return hashlib.sha256(content).hexdigest(), photo

    def _file(self, key: str) -> Path:
        return self._photo_set.root / self._photo_set.paths[self._index[key]]

    def _decode(self, key: str, content: bytes) -> images.DecodedPhoto:
        recipe, crop = self._recipe, None
        if self._photo_set.box is not None:
            crop = make_crop(self._photo_set.box[self._index[key]], recipe.crop_options)
        geometry = (self._sizes, recipe.resize, recipe.colours, crop)
        return images.decode_photo(content, self._file(key), *geometry)

    def _state(self, key: str) -> tuple[int, int] | None:
        """Return the size and the time of a file; None if it cannot be opened."""
        file = self._file(key)
        try:
            state = file.stat()
        except OSError:
            return None
        return (state.st_size, state.st_mtime_ns) if os.access(file, os.R_OK) else None

    def read_error(self, key: str) -> str:
        try:
            self._decode(key, images.read_bytes(self._file(key)))
        except BadPhotoError as error:
            return str(error)
        return "could not be read when the run reached it"


def _log_done(batches: Iterator[Batch], n_photos: int) -> Iterator[Batch]:
    """Yield batches, and log every few seconds how many photos are done."""
    is_due, done = every(LOG_SECONDS), 0
    for batch in batches:
        yield batch
        done += len(batch.errors)
        if is_due():
            log.info("fitting the projection: %d of %d photos", done, n_photos)


def photo_set_attributes(photo_set: PhotoSet, recipe: Recipe) -> dict[str, Any]:
    """Return the root attributes of a feature file of these photos."""
    return {
        **recipe.attributes(),
        "versions": installed_versions(recipe),
        "data": photo_set.spec,
        "data_kind": photo_set.kind,
        "data_root": str(photo_set.root),
        "data_sha256": photo_set.fingerprint(),
        "split_seed": -1 if photo_set.split_seed is None else photo_set.split_seed,
    }
