"""The folder beside an output that holds its shards: `x.h5.shards/003of016.h5`.

Its content decides whether an extraction on workers is new, resumed or complete.
"""

import logging
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from bilinear_cli.cluster.lag import is_visible, lasting_fault
from bilinear_cli.cluster.tasks import describe
from bilinear_cli.cluster.worker import retry_while_in_use
from bilinear_cli.errors import BilinearError, FeatureFileError, InUseError
from bilinear_cli.extraction.extract import extract
from bilinear_cli.extraction.from_photos import PhotoInput, photo_set_attributes
from bilinear_cli.extraction.job import Input, Job
from bilinear_cli.extraction.resume import RESUME_ADVICE
from bilinear_cli.files import atomic_write
from bilinear_cli.messages import abbreviate
from bilinear_cli.recipe import PRECISION_ATTRIBUTES, check_same, differences
from bilinear_cli.store import FeatureFile, locked, partial_path

log = logging.getLogger(__name__)

SHARD_FILE_NAME = re.compile(r"((\d+)of(\d+)\.h5)(\.partial)?")


def shards_folder(output: Path) -> Path:
    """Return the folder of an output's shards."""
    return output.with_name(output.name + ".shards")


def is_complete(job: Job[Input]) -> bool:
    """Return whether the output is complete, after a check that it is what the job asks for.

    Raises:
        FeatureFileError: the output was made otherwise, or without --scheduler and is unfinished.
    """
    output, folder = job.output, shards_folder(job.output)
    if job.overwrite:
        return False
    if partial_path(output).exists():
        raise FeatureFileError(
            f"{partial_path(output)} was started without --scheduler: leave out --scheduler to "
            f"finish it, or {RESUME_ADVICE}"
        )
    has_shards = any(folder.glob("*.h5*"))
    if not output.exists() or (has_shards and _is_to_be_replaced(output)):
        return False
    extract(job)  # which checks a complete file, and does no more
    if has_shards:
        log.info("the shards in %s are not for %s, and can be removed", folder, output)
    return True


def begin_replacing(output: Path) -> None:
    """Remove all shards, and record which output the new shards will replace."""
    end_replacing(output)
    for path in _shards_in(shards_folder(output)):
        retry_while_in_use(partial(_remove, path))
    if output.exists():
        with atomic_write(_record_path(output)) as path:
            path.write_bytes(describe(output).encode())


def end_replacing(output: Path) -> None:
    """Remove the record of `begin_replacing`."""
    _record_path(output).unlink(missing_ok=True)


def _is_to_be_replaced(output: Path) -> bool:
    """Return whether a run with --overwrite has begun shards to replace just this output.

    The record describes the content of the output. Times of files would be wrong on shared folders.
    """
    try:
        return _record_path(output).read_bytes() == describe(output).encode()
    except FileNotFoundError:
        return False


def _record_path(output: Path) -> Path:
    return shards_folder(output) / "replaces"


@contextmanager
def shared_folder(output: Path) -> Iterator[Path]:
    """Make and lock the folder, and yield a new file in it, which all workers must see.

    Raises:
        FeatureFileError: the folder is not writable.
        InUseError: another client has locked it.
    """
    folder = shards_folder(output).resolve()
    token = folder / f"token-{secrets.token_hex(16)}"
    with locked(folder):
        try:
            folder.mkdir(exist_ok=True)
            for leftover in folder.glob("token*"):  # of a killed client
                leftover.unlink(missing_ok=True)
            token.touch()
        except OSError as error:
            raise FeatureFileError(f"cannot write {token}: {error.strerror}") from error
        try:
            yield token
        finally:
            token.unlink(missing_ok=True)
            with suppress(OSError):  # the folder has shards
                folder.rmdir()


def find_existing_shards(folder: Path) -> tuple[FeatureFile | None, dict[int, int]]:
    """Return the shards that an earlier run left in a folder.

    If tasks of a killed client still write all of them, wait: those tasks stop after a batch.

    Returns:
        A shard or None, closed, so that only its header can be read; and shard, from 1 -> the
        number of its finished photos.

    Raises:
        BilinearError: the shards are of several extractions.
        FeatureFileError: a shard is damaged.
    """
    return retry_while_in_use(partial(_read_shards, folder))


def _read_shards(folder: Path) -> tuple[FeatureFile | None, dict[int, int]]:
    """Do as `find_existing_shards`; raise an InUseError if all shards are in use."""
    shards = _shards_in(folder)
    n_shards = {n for _, n in shards.values()}
    if len(n_shards) > 1:
        counts = " and ".join(map(str, sorted(n_shards)))
        raise BilinearError(
            f"{folder} has shards of several extractions, into {counts} "
            "shards: remove the folder, or use --overwrite to start again"
        )
    n_done: dict[int, int] = {}
    existing = in_use = None
    for path, (shard, _) in shards.items():
        try:
            with FeatureFile(path, allow_partial=True) as file:
                n_done[shard] = file.photos_done + len(file.skipped)
                existing = existing or file
        except InUseError as error:
            in_use = error
    if in_use and not existing:
        raise in_use
    return existing, n_done


def check_shards(existing: FeatureFile, job: Job[PhotoInput]) -> None:
    """Raise a FeatureFileError unless new shards of a job belong together with an existing one."""
    record = photo_set_attributes(job.input.photo_set, job.recipe)
    new = {**job.recipe.comparable_attributes(), **record, **job.attributes}
    attributes = existing.comparable_attributes()
    stored = {name: attributes.get(name, "") for name in (*new, *PRECISION_ATTRIBUTES)}
    differing = differences(stored, new, "merge")
    if differing and differing[0].name == "data_sha256":
        raise FeatureFileError(
            f"the photos, their labels or their split are not those of {existing.path}. All shards "
            f"must be cut from one list of photos: restore it, or {RESUME_ADVICE}"
        )
    check_same(differing, existing.path, RESUME_ADVICE)


def check_visible(shards: list[Path]) -> None:
    """Raise a FeatureFileError if this machine does not see shards that workers have finished."""
    if missing := lasting_fault(lambda: [shard for shard in shards if not is_visible(shard)]):
        raise FeatureFileError(
            f"workers have finished {abbreviate(map(str, missing))}, and this machine does not see "
            "it: run the same command again, which merges the shards"
        )


def _shards_in(folder: Path) -> dict[Path, tuple[int, int]]:
    """Return the files of shards, finished or not, by final name -> (shard from 1, n_shards)."""
    names = sorted(path.name for path in folder.iterdir())
    matches = [match for match in map(SHARD_FILE_NAME.fullmatch, names) if match]
    return {folder / match[1]: (int(match[2]), int(match[3])) for match in matches}


def _remove(shard: Path) -> None:
    with locked(shard):
        partial_path(shard).unlink(missing_ok=True)
        shard.unlink(missing_ok=True)
