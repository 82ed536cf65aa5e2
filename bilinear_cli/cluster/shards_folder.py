"""The folder beside an output where its shards grow: `x.h5.shards/003of016.h5`."""

import contextlib
import logging
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bilinear_cli.cluster.worker import shard_name, when_free
from bilinear_cli.errors import BilinearError, FeatureFileError, InUseError
from bilinear_cli.poolings.parameters import Parameters
from bilinear_cli.recipe import Recipe
from bilinear_cli.store import FeatureFile, locked, partial_path

log = logging.getLogger(__name__)

TOKEN = "token"
NAME = re.compile(r"(\d+)of(\d+)\.h5(\.partial)?")


@dataclass(frozen=True)
class ExistingShards:
    """What an earlier run left.

    Attributes:
        n_shards: in how many the set was cut.
        done: number of a shard -> its photos that are done; of a finished one None, for all.
        path: a shard that can be read.
        recipe, facts, parameters: what that says of itself.
    """

    n_shards: int
    done: dict[int, int | None]
    path: Path
    recipe: Recipe
    facts: dict[str, Any]
    parameters: Parameters


def shards_folder(output: Path) -> Path:
    """Return the folder of an output's shards."""
    return output.with_name(output.name + ".shards")


@contextmanager
def shared_folder(output: Path) -> Iterator[tuple[Path, str]]:
    """Make the folder, keep other clients from it, and put a token there for the workers.

    Yields:
        The token's file, and what is in it.

    Raises:
        FeatureFileError: the folder cannot be written to.
        InUseError: another client writes there.
    """
    folder, token = shards_folder(output).resolve(), secrets.token_hex(16)
    with locked(folder):
        file = folder / TOKEN
        try:
            folder.mkdir(exist_ok=True)
            file.write_text(token)
        except OSError as error:
            raise FeatureFileError(f"cannot write {file}: {error.strerror}") from error
        try:
            yield file, token
        finally:
            file.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # there are shards in it
                folder.rmdir()


def find_existing_shards(folder: Path) -> ExistingShards | None:
    """Return what an earlier run left in a folder; None if there is nothing.

    Tasks of a client that was killed may still be writing all there is: then wait, they will stop
    after a batch.

    Raises:
        BilinearError: there are shards of several runs.
        FeatureFileError: one is damaged.
    """
    found: list[ExistingShards] = []

    def read() -> None:
        found.extend(_read(folder))

    when_free(read)
    return found[0] if found else None


def _read(folder: Path) -> list[ExistingShards]:
    """Return what there is, none or one.

    Raises:
        InUseError: there are shards, and none can be read at the moment.
    """
    n_shards = _n_shards(folder)
    done: dict[int, int | None] = {}
    found: list[ExistingShards] = []
    in_use = None
    for number in range(1, n_shards + 1):
        path = folder / shard_name(number, n_shards)
        if not (path.exists() or partial_path(path).exists()):
            continue
        try:
            with FeatureFile(path, allow_partial=True) as file:
                done[number] = None if file.attributes["complete"] else file.photos_done
                stored = (file.recipe, file.comparable_attributes(), file.parameters)
                found = found or [ExistingShards(n_shards, done, file.path, *stored)]
        except InUseError as error:
            in_use = error
    if in_use and not found:
        raise in_use
    return found


def _n_shards(folder: Path) -> int:
    """Return in how many shards the set was cut whose shards are in a folder; 0 if none are."""
    names = [NAME.fullmatch(path.name) for path in folder.iterdir()]
    numbers = {int(name[2]) for name in names if name}
    if len(numbers) > 1:
        raise BilinearError(
            f"{folder} has shards of several runs, of {sorted(numbers)}: remove it, or --overwrite"
        )
    return max(numbers, default=0)


def clear(folder: Path) -> None:
    """Remove all shards from a folder, each when no task is writing it any more."""
    names = {path.name.removesuffix(".partial") for path in folder.iterdir()}
    for name in sorted(name for name in names if NAME.fullmatch(name)):

        def remove(path: Path = folder / name) -> None:
            with locked(path):
                partial_path(path).unlink(missing_ok=True)
                path.unlink(missing_ok=True)

        when_free(remove)
