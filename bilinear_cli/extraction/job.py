"""What is to be extracted: of what, how and where to. All ways to run it take the same `Job`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from bilinear_cli.errors import BadPhotoError
from bilinear_cli.poolings.parameters import Parameters
from bilinear_cli.recipe import Recipe
from bilinear_cli.store import Header

Rows = dict[str, np.ndarray]
Shapes = dict[str, tuple[int, ...]]
Progress = Callable[[int, int], None]


class Batch(NamedTuple):
    """Rows of some photos.

    Attributes:
        paths: of the photos.
        sha256: of their files, hexadecimal; empty for a bad photo.
        errors: for each photo None, or why its rows mean nothing.
        rows: spec -> rows as they are stored, photo by photo and of each its views.
    """

    paths: Sequence[str]
    sha256: Sequence[str]
    errors: Sequence[BadPhotoError | None]
    rows: Rows

    def split(self, n_photos: int) -> tuple["Batch", "Batch"]:
        """Return a batch of the first photos, and one of the others."""
        n_rows = n_photos * len(next(iter(self.rows.values()))) // len(self.paths)

        def part(photos: slice, rows: slice) -> Batch:
            columns = (self.paths[photos], self.sha256[photos], self.errors[photos])
            return Batch(*columns, {spec: x[rows] for spec, x in self.rows.items()})

        return part(slice(n_photos), slice(n_rows)), part(
            slice(n_photos, None), slice(n_rows, None)
        )


class Source(Protocol):
    """Where the maps come from that are pooled, opened for one recipe.

    Attributes:
        paths: str (photos,).
    """

    paths: np.ndarray

    def sha256(self, paths: Sequence[str]) -> Sequence[str]:
        """Return the SHA-256 of the photos' files, hexadecimal; empty for an unreadable one."""

    def test_sha256(self) -> np.ndarray:
        """Return the SHA-256 of the test photos, str."""

    def header(self) -> Header:
        """Return what a feature file says beside its features; SHA-256 to come are empty."""

    def parameters(self, have: Parameters) -> dict[str, np.ndarray]:
        """Return the parameters of the poolings: those that there are, and what is fitted now."""

    def compile(self, parameters: Parameters) -> Shapes:
        """Prepare to pool maps with these parameters; return spec -> shape of a row."""

    def batches(self, paths: Sequence[str]) -> Iterator[Batch]:
        """Yield the rows of photos, in order, a batch at a time."""

    def reason(self, path: str) -> str:
        """Return why a photo has no row."""


class Origin(Protocol):
    """What a source is opened from, and what can be sent to another process."""

    def open(self, recipe: Recipe, skip_bad: bool) -> AbstractContextManager[Source]:
        """Open the source; `skip_bad` leaves out what cannot be read as a photo."""


AnyOrigin = TypeVar("AnyOrigin", bound=Origin, covariant=True)


@dataclass(frozen=True)
class Job(Generic[AnyOrigin]):
    """What is to be extracted.

    Attributes:
        origin: photos and the network that they are shown to, or stored maps; see
            `from_photos.py` and `from_maps.py`.
        recipe: what to make of them. Precision `auto` and batch size 0 are left open: they become
            what an earlier run took, or what suits the machine.
        output: the feature file; until it is complete it is `partial_path(output)`.
        parameters: of the poolings, to be used as they are; those that are missing are fitted.
        reuse: a feature file, finished or not, whose rows are copied for the photos that it has.
        allow_mix: its rows may be of another precision.
        attributes: more root attributes, to keep a record.
        overwrite: begin again; what is there does not count.
        skip_bad: leave out what cannot be read as a photo, instead of stopping there.
    """

    origin: AnyOrigin
    recipe: Recipe
    output: Path
    parameters: Parameters = field(default_factory=dict)
    reuse: Path | None = None
    allow_mix: bool = False
    attributes: Mapping[str, Any] = field(default_factory=dict)
    overwrite: bool = False
    skip_bad: bool = False
