"""What every worker must have and see, and the check of it, which runs on the worker."""

import asyncio
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from distributed import Worker

from bilinear_cli.errors import BilinearError
from bilinear_cli.features.extract import Forward
from bilinear_cli.features.network import load_network, load_tensorflow, load_weights
from bilinear_cli.features.resume import versions
from bilinear_cli.features.settings import Settings
from bilinear_cli.features.weights import Weights


@dataclass(frozen=True)
class Network:
    """Where every worker takes its network from.

    Attributes:
        backbone: its name.
        source: of its weights, see `load_weights`.
    """

    backbone: str
    source: str

    def sha256(self) -> str:
        """Return that of the weights."""
        return _weights(self).sha256

    def load(self, settings: Settings) -> Forward:
        """Return the network: uint8 photos -> float32 maps."""
        return load_network(_weights(self).tensors, settings)


@dataclass(frozen=True)
class Premises:
    """What must be the same on every worker as on the client.

    Attributes:
        token_file: a file in the shared folder.
        token: what is in it.
        root: the folder of the photos.
        photo: one of them, and its size in bytes; None if the client could read none.
        versions: see `resume.versions`.
        network: where it comes from.
        weights_sha256: of its weights.
        precision: of the rows; it decides whose versions count.
    """

    token_file: Path
    token: str
    root: Path
    photo: tuple[Path, int] | None
    versions: str
    network: Network
    weights_sha256: str
    precision: str = "float32"


@cache
def _weights(network: Network) -> Weights:
    return load_weights(network.backbone, network.source)


async def check_worker(premises: Premises, dask_worker: Worker) -> None:
    """Raise a BilinearError that names the worker unless it is as it must be.

    It is called beside the tasks, which may keep all task threads busy.
    """
    await asyncio.to_thread(check, premises, called(dask_worker.name, dask_worker.address))


async def resolve_on_worker(precision: str, size: int) -> tuple[str, int]:
    """Return the precision and the batch size that suit the worker, see `backbone.py`."""
    return await asyncio.to_thread(_resolve, precision, size)


def _resolve(precision: str, size: int) -> tuple[str, int]:
    load_tensorflow()
    from bilinear_cli.features.backbone import resolve_batch_size, resolve_precision

    return resolve_precision(precision), resolve_batch_size(size)


def called(name: object, address: str) -> str:
    """Return how a worker is called in messages."""
    return f"worker {address}" if name == address else f"worker {name} at {address}"


@lru_cache(maxsize=8)  # an exception is not kept
def check(premises: Premises, name: str) -> None:
    """Raise a BilinearError unless this process, of a worker of that name, is as it must be."""
    fault = fault_of(premises)
    if fault:
        raise BilinearError(f"{name} {fault}")


def fault_of(premises: Premises) -> str | None:
    """Return what this process lacks, or None."""
    folder = premises.token_file.parent
    try:
        token = premises.token_file.read_text()
    except OSError:
        token = ""
    if token != premises.token:
        return f"does not see {folder}: give an --output in a folder that all workers share"
    if not premises.root.is_dir():
        return f"does not see the photos in {premises.root}: put them where all workers see them"
    if premises.photo:
        path, size = premises.photo
        if not path.is_file() or path.stat().st_size != size:
            return f"does not see the photo {path} as it is here: put it where all workers see it"
    there = versions(premises.precision)
    if premises.versions != there:
        return f"has {_differing(there, premises.versions)}: install the same"
    try:
        sha256 = premises.network.sha256()
    except BilinearError as error:
        return f"has no weights: {error}"
    if sha256 != premises.weights_sha256:
        return f"has weights {sha256}, and here they are {premises.weights_sha256}: give --weights"
    return None


def _differing(there: str, here: str) -> str:
    """Return which versions differ, as `numpy 2.1 (here 2.2), ...`."""
    a, b = (dict(x.rsplit(" ", 1) for x in versions.split(", ")) for versions in (there, here))
    names = [name for name in {**a, **b} if a.get(name) != b.get(name)]
    return ", ".join(f"{name} {a.get(name, 'missing')} (here {b.get(name)})" for name in names)
