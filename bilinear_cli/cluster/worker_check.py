"""Whether every worker is as it must be: asked of all at the start, and again by their tasks."""

import asyncio
from typing import TYPE_CHECKING, Protocol

from bilinear_cli.errors import BilinearError

if TYPE_CHECKING:
    from distributed import Client, Worker


class Requirements(Protocol):
    """What must be the same on every worker as on the client; it is sent to them."""

    def fault(self) -> str | None:
        """Return what this process lacks, to be said after a worker's name; or None."""


def check_workers(client: "Client", requirements: Requirements) -> None:
    """Raise a BilinearError that names the first worker that is not as it must be."""
    found = client.run(_check_beside_tasks, requirements, on_error="return")
    for address, fault in found.items():
        if isinstance(fault, BilinearError):
            raise fault
        if isinstance(fault, Exception):  # as if this program were not there
            said = " ".join(str(fault).split())
            raise BilinearError(f"worker {address} does not run this program: {said}")


async def _check_beside_tasks(requirements: Requirements, dask_worker: "Worker") -> None:
    """Check this worker, all of whose task threads may be busy."""
    await asyncio.to_thread(check, requirements, dask_worker)


def check(requirements: Requirements, worker: "Worker") -> None:
    """Raise a BilinearError that names this process's worker unless it is as it must be."""
    fault = requirements.fault()
    if fault:
        raise BilinearError(f"{_called(worker.name, worker.address)} {fault}")


def _called(name: object, address: str) -> str:
    return f"worker {address}" if name == address else f"worker {name} at {address}"


def differing(there: str, here: str) -> str | None:
    """Return which of versions `name version, ...` differ, to be said after a worker's name."""
    a, b = (dict(one.rsplit(" ", 1) for one in versions.split(", ")) for versions in (there, here))
    names = [name for name in {**a, **b} if a.get(name) != b.get(name)]
    if not names:
        return None
    said = (f"{name} {a.get(name, 'missing')} (here {b.get(name, 'none')})" for name in names)
    return f"has {', '.join(said)}: install the same"
