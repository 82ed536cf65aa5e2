"""What to extract, from what, and with which versions of packages."""

import logging
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from PIL import features as pillow_features

from bilinear_cli.errors import BadPhotoError, UsageError
from bilinear_cli.machine import package_versions
from bilinear_cli.poolings.parameters import Parameters
from bilinear_cli.recipe import Recipe
from bilinear_cli.store import FeatureFile, Header

log = logging.getLogger(__name__)

PACKAGES = ("bilinear-cli", "tensorflow", "keras", "numpy", "h5py", "pillow")

PooledRows = dict[str, np.ndarray]
Shapes = dict[str, tuple[int, ...]]


class Batch(NamedTuple):
    """Rows of some photos.

    Attributes:
        sha256: of the photos' files, hexadecimal; empty for a bad photo.
        errors: for each photo None, or why its rows are invalid.
        rows: spec -> rows in the stored dtype, all views of a photo together.
    """

    sha256: Sequence[str]
    errors: Sequence[BadPhotoError | None]
    rows: PooledRows

    def split(self, n_photos: int) -> tuple["Batch", "Batch"]:
        """Return a batch of the first photos, and a batch of the others."""
        n_rows = n_photos * len(next(iter(self.rows.values()))) // len(self.errors)

        def take(photos: slice, rows: slice) -> Batch:
            columns = (self.sha256[photos], self.errors[photos])
            return Batch(*columns, {spec: x[rows] for spec, x in self.rows.items()})

        rest = take(slice(n_photos, None), slice(n_rows, None))
        return take(slice(n_photos), slice(n_rows)), rest


class Source(Protocol):
    """Photos or stored maps, opened for one recipe.

    Attributes:
        keys: str (photos,): paths, and boxes of cropped photos, see `photo_set.entry_keys`.
    """

    keys: np.ndarray

    def sha256(self, keys: Sequence[str]) -> Sequence[str]:
        """Return the SHA-256 of the photos' files, hexadecimal; empty for an unreadable one."""

    def header(self, existing: FeatureFile | None = None) -> Header:
        """Return the header of the feature file; the SHA-256 of a photo may be empty.

        If the split is drawn, the photos of an `existing` unfinished file keep theirs.
        """

    def fit_parameters(self, existing: Parameters) -> dict[str, np.ndarray]:
        """Return the parameters that the poolings take, from `existing` or newly fitted."""

    def compile(self, parameters: Parameters) -> Shapes:
        """Prepare the poolings with these parameters; return spec -> shape of a row."""

    def batches(self, keys: Sequence[str]) -> Iterator[Batch]:
        """Yield the rows of photos in batches, in order."""

    def read_error(self, key: str) -> str:
        """Return why a photo is unreadable."""


class Input(Protocol):
    """Opens a source; can be sent to another process."""

    def open(self, recipe: Recipe, skip_bad: bool) -> AbstractContextManager[Source]:
        """Open the source; with `skip_bad` it leaves out unreadable photos."""


AnyInput = TypeVar("AnyInput", bound=Input, covariant=True)


@dataclass(frozen=True)
class Job(Generic[AnyInput]):
    """What to extract.

    Attributes:
        input: photos and a network, see `from_photos.py`, or stored maps, see `from_maps.py`.
        recipe: precision `auto` and batch size 0 are resolved from an existing file, or for the
            machine.
        output: the feature file.
        parameters: of the poolings; missing ones are fitted.
        reuse: feature file, finished or not, whose rows are copied for photos of the same bytes.
        allow_precision_mix: the reused rows may have another precision.
        attributes: more root attributes.
        overwrite: replace an existing output, finished or not.
        skip_bad: leave out unreadable photos, instead of stopping.
    """

    input: AnyInput
    recipe: Recipe
    output: Path
    parameters: Parameters = field(default_factory=dict)
    reuse: Path | None = None
    allow_precision_mix: bool = False
    attributes: Mapping[str, Any] = field(default_factory=dict)
    overwrite: bool = False
    skip_bad: bool = False


def installed_versions(recipe: Recipe) -> str:
    """Return the installed versions that decide a recipe's numbers, as `name version, ...`."""
    packages = package_versions(PACKAGES + recipe.packages)
    jpeg = pillow_features.version_codec("jpg")
    return f"python {platform.python_version()}, {packages}, libjpeg {jpeg}"


def warn_if_versions_differ(file: FeatureFile) -> None:
    """Warn if other versions made the rows of a file."""
    versions = file.attributes.get("versions")
    if versions != installed_versions(file.recipe):
        message = "%s was made with other versions (%s). New rows may differ in the last digits."
        log.warning(message, file.path, versions)


def shard_slice(shard: str, n_photos: int, batch_size: int) -> slice:
    """Return the slice of photos in a shard: whole batches, except for the last.

    Raises:
        UsageError: the shard is not `I/N` with I from 1 to N, or the set has fewer than N batches.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    i, n = map(int, match.groups()) if match else (0, 0)
    if not 1 <= i <= n:
        raise UsageError(f"{shard!r} is not a shard: write, for instance, 2/4 for the second of 4")
    n_batches = -(-n_photos // batch_size)
    if n > n_batches:
        batches = "is only 1 batch" if n_batches == 1 else f"are only {n_batches} batches"
        raise UsageError(
            f"cannot cut {n_photos} photos into {n} shards: at a batch size of {batch_size} there "
            f"{batches}. Use fewer shards or a smaller --batch-size"
        )
    start, stop = (k * n_batches // n * batch_size for k in (i - 1, i))
    return slice(start, min(stop, n_photos))
