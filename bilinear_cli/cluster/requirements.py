"""What every worker must have. All workers are checked at the start, and again by each task."""

import asyncio
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from bilinear_cli.cluster.lag import is_visible, lasting_fault
from bilinear_cli.cluster.watch import warn_of_silence
from bilinear_cli.errors import BilinearError, InUseError
from bilinear_cli.extraction.existing import resolve_locally
from bilinear_cli.extraction.from_photos import MapNetwork, PhotoInput
from bilinear_cli.extraction.job import installed_versions
from bilinear_cli.messages import one_line
from bilinear_cli.networks.onnx_model import is_onnx
from bilinear_cli.recipe import ENGINE, Recipe
from bilinear_cli.store import locked

if TYPE_CHECKING:
    from distributed import Client, Worker


# Returns what is wrong with the process that calls it, as a phrase to follow its name, or None
Fault = Callable[[], str | None]


def check_workers(client: "Client", fault: Fault) -> None:
    """Raise a BilinearError that names the first worker with a fault."""
    run_on_workers(client, _check_beside_tasks, fault)


def run_on_workers(client: "Client", function: Callable[..., Any], *args: Any) -> dict[str, Any]:
    """Return address -> result of a function on each worker, except those that leave meanwhile.

    Raises:
        BilinearError: the function raised it on a worker, or does not run there.
    """
    from distributed.comm import CommClosedError

    while True:
        with warn_of_silence("answers from the workers"):
            answers = client.run(function, *args, on_error="return")
        if results := {k: x for k, x in answers.items() if not isinstance(x, CommClosedError)}:
            break
        client.wait_for_workers(1)
    for address, error in results.items():
        if isinstance(error, BilinearError):
            raise error
        if isinstance(error, Exception):  # this program is not installed there, or no one answers
            raise BilinearError(
                f"worker {address} cannot run bilinear ({one_line(error)}): install it there, or "
                "stop this worker"
            )
    return results


async def _check_beside_tasks(fault: Fault, dask_worker: "Worker") -> None:
    """Check a worker in a new thread, since tasks may occupy all task threads."""
    await asyncio.to_thread(check_worker, fault, dask_worker)


def check_worker(fault: Fault, worker: "Worker") -> None:
    """Raise a BilinearError if this process, which is the worker, has a fault."""
    if phrase := fault():
        name = "" if worker.name == worker.address else f"{worker.name} at "
        raise BilinearError(f"worker {name}{worker.address} {phrase}")


def version_fault(on_worker: str, needed: str) -> str | None:
    """Return a phrase that names the versions `name version, ...` that differ, or None."""
    lists = (versions.split(", ") for versions in (on_worker, needed))
    worker, expected = (dict(version.rsplit(" ", 1) for version in versions) for versions in lists)
    # what the client itself lacks, a worker may have: a network reports what is missing there
    names = [
        name
        for name in {**worker, **expected}
        if worker.get(name) != expected.get(name) and expected.get(name) != "missing"
    ]
    phrases = [
        f"{name} {worker.get(name, 'missing')} (needed: {expected.get(name, 'none')})"
        for name in names
    ]
    return f"has {', '.join(phrases)}: install the same versions" if names else None


@dataclass(frozen=True)
class ExtractRequirements:
    """What must be the same on every worker to extract shards of a feature file."""

    token: Path  # a file with a random name in the folder of the shards, which the client locked
    root: Path  # the folder of the photos
    photo: tuple[Path, int] | None  # path and size in bytes; None if the client can read none
    network: MapNetwork  # its weights must be the same
    recipe: Recipe  # it may leave precision, engine and batch size open
    versions: str  # of the packages that decide the numbers, see `extraction/job.py`

    @classmethod
    def from_job(cls, photos: PhotoInput, recipe: Recipe, token: Path) -> Self:
        """Return the requirements for extracting these photos."""
        root, photo = photos.photo_set.root, None
        for path in map(root.joinpath, photos.photo_set.paths):
            with suppress(OSError):
                photo = path, path.stat().st_size
                break
        versions = installed_versions(recipe)
        return cls(token, root, photo, photos.network, recipe, versions)

    def fault(self) -> str | None:
        """Return the first requirement that this process does not meet."""
        return (
            version_fault(installed_versions(self.recipe), self.versions)
            or lasting_fault(self._unseen_path)
            or self._folder_fault()
            or self._weights_fault()
        )

    def _unseen_path(self) -> str | None:
        try:
            if not is_visible(self.token):
                folder = self.token.parent
                return f"does not see {folder}: give an --output in a folder that all workers share"
            advice = "put the photos where all workers see them"
            if not self.root.is_dir():
                return f"does not see the photos in {self.root}: {advice}"
            if self.photo:
                path, size = self.photo
                if not path.is_file() or path.stat().st_size != size:
                    return f"does not see the client's photo {path}: {advice}"
        except OSError as error:  # the permission lacks, or NFS has a stale handle
            return f"cannot read {error.filename}: {error.strerror}"
        return None

    def _folder_fault(self) -> str | None:
        folder = self.token.parent
        try:
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            return f"cannot write to {folder}: {error.strerror}"
        with suppress(InUseError), locked(folder):
            return (
                f"does not see the client's lock of {folder}: file locks (flock) do not reach "
                "other machines. Give an --output on a file system where they do, such as NFS 4"
            )
        return None

    def _weights_fault(self) -> str | None:
        try:
            sha256 = self.network.sha256()
        except BilinearError as error:
            return f"has no weights: {error}"
        if sha256 == (expected := self.recipe.weights_sha256):
            return None
        option = "backbone" if is_onnx(self.recipe.backbone) else "weights"
        return (
            f"has other network weights ({sha256}) than the client ({expected}): put the "
            f"network into a shared folder and give its path as --{option}"
        )


def resolve_on_workers(client: "Client", requirements: ExtractRequirements) -> ExtractRequirements:
    """Return the requirements with a recipe that suits all workers, and its versions."""
    recipe = requirements.recipe
    if recipe.is_resolved:
        return requirements
    # in a thread, since importing TensorFlow would block a worker's event loop
    call = (asyncio.to_thread, _resolve_with_versions, recipe, requirements.network)
    results = run_on_workers(client, *call).values()
    recipes, engines = [recipe for recipe, _ in results], {(x.engine, v) for x, v in results}
    precisions = {recipe.precision for recipe in recipes}
    engine, versions = engines.pop() if len(engines) == 1 else (ENGINE, requirements.versions)
    recipe = replace(
        recipe,
        precision=precisions.pop() if len(precisions) == 1 else "float32",
        engine=engine,
        batch_size=min(recipe.batch_size for recipe in recipes),
    )
    return replace(requirements, recipe=recipe, versions=versions)


def _resolve_with_versions(recipe: Recipe, network: MapNetwork) -> tuple[Recipe, str]:
    recipe = resolve_locally(recipe, network)
    return recipe, installed_versions(recipe)
