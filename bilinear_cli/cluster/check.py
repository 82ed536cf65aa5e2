"""Whether workers are such as the program takes them to be: its versions, its files."""

from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING

from bilinear_cli import __version__
from bilinear_cli.errors import BilinearError

if TYPE_CHECKING:
    from distributed import Client

Facts = Mapping[str, str]
PACKAGES = ("numpy", "scipy")


def versions() -> Facts:
    """Return what a worker must have as the client has it."""
    return {"bilinear": __version__} | {name: version(name) for name in PACKAGES}


def refuse_differing(client: "Client", facts: Callable[[], Facts]) -> None:
    """Compare what workers say with what is the case here.

    Args:
        client: of the workers.
        facts: returns name -> value; called here and, by its name, on each worker.

    Raises:
        BilinearError: a worker differs; the message names it, and in what.
    """
    here = facts()
    for worker, there in client.run(facts, on_error="return").items():
        compare(worker, here, there)


def compare(worker: str, here: Facts, there: Facts | Exception) -> None:
    """Raise BilinearError if what is the case on a worker is not what is the case here."""
    if isinstance(there, Exception):
        said = " ".join(str(there).split())
        raise BilinearError(f"the worker {worker} cannot work for this program: {said}")
    for name, value in here.items():
        if there.get(name) != value:
            raise BilinearError(
                f"the worker {worker} is not as this process: {name} is {there.get(name)} there "
                f"and {value} here"
            )
