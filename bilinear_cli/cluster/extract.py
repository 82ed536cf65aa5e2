"""Stage 1 on Dask's distributed scheduler: the client, which cuts, follows, and merges.

The photos are cut into shards, and each is a task that runs `extract` as it is. What makes that
robust is the shard's file, not Dask: whoever takes a shard up goes on where it stopped, whether its
worker died or the client did, and its lock keeps two from writing it.
"""

import contextlib
import logging
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from distributed import Client, Future, KilledWorker

from bilinear_cli.cluster.connect import connect
from bilinear_cli.cluster.folder import Begun, begun_in, clear, shards_folder, shared_folder
from bilinear_cli.cluster.worker import (
    Job,
    Network,
    Premises,
    called,
    check_worker,
    fit,
    make_shard,
    resolve_on_worker,
    same,
)
from bilinear_cli.data.dataset import Dataset
from bilinear_cli.errors import BadPhotoError, BilinearError, FeatureFileError
from bilinear_cli.features.extract import record_of
from bilinear_cli.features.parameters import Parameters, agreed, lacks_projection
from bilinear_cli.features.resume import begun_with, versions
from bilinear_cli.features.reuse import StoredPhotos
from bilinear_cli.features.settings import Settings, check_same, kept, shard_photos, stored_settings
from bilinear_cli.features.views import sizes_of
from bilinear_cli.store import OWN, FeatureFile, merge, partial_path

log = logging.getLogger(__name__)

SHARDS_PER_WORKER = 4  # so that all end at about the same time, and there is work for latecomers
LOOK_SECONDS = 5
OTHERWISE = "give another --output, or --overwrite"
Progress = Callable[[int, int], None]


def extract_shards(
    address: str,
    dataset: Dataset,
    settings: Settings,
    output: Path,
    network: Network,
    *,
    reuse: Path | None = None,
    parameters: Parameters | None = None,
    attributes: dict[str, Any] | None = None,
    overwrite: bool = False,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> list[Path] | None:
    """Write the shards of a photo set's feature file on a cluster, or go on with them.

    Args:
        address: where the workers are, see `connect`.
        dataset: the photos, in a folder that all workers see.
        settings: what to make of them. A precision `auto` and a batch size 0 are left open: they
            become what an earlier run took, or what suits the workers.
        output: the file that the shards are to be merged to, in a folder that all workers see.
        network: where each worker takes its network from.
        reuse, parameters, attributes, overwrite, skip_bad: see `features.extract.extract`.
        progress: told (photos done, photos in all).

    Returns:
        The shards' files, in their order; None if the output is there and complete.

    Raises:
        BadPhotoError: a photo cannot be read; what is done is kept.
        BilinearError: no workers, or one is not as it must be, or several died; or see `extract`.
        FeatureFileError: what is there was made otherwise, or cannot be written.
        InUseError: another run writes the shards of this output.
    """
    folder, given = shards_folder(output).resolve(), parameters or {}
    if not overwrite and _is_complete(dataset, settings, output, given):
        return None
    with shared_folder(output) as (token_file, token), connect(address) as client:
        if overwrite:
            clear(folder)
        begun = begun_in(folder)
        premises = Premises(
            token_file,
            token,
            dataset.root,
            _a_photo(dataset),
            versions(),
            network,
            settings.weights_sha256,
        )
        _check_workers(client, premises)
        settings = _settled(
            client, settings, begun.settings if begun else stored_settings(None, reuse)
        )
        record = attributes or {}
        if begun:
            _check_begun(begun, settings, record_of(dataset, settings) | record)
            given = agreed(given, begun.parameters, begun.path)
        job = Job(
            premises,
            dataset,
            settings,
            begun.n_shards if begun else _n_shards(client, dataset, settings),
            folder,
            f"bilinear-{secrets.token_hex(8)}",
            given,
            reuse.resolve() if reuse else None,
            record,
            skip_bad,
        )
        job = _with_projection(client, job)
        _run(client, job, begun.done if begun else {}, progress)
    return [job.output(number) for number in range(1, job.n_shards + 1)]


def merge_shards(shards: list[Path], output: Path, progress: Progress | None = None) -> None:
    """Write the shards to one file, as a single run would have made it, and remove them.

    Args:
        shards: as `extract_shards` returns them.
        output: the file; one that is there is replaced.
        progress: told (rows done, rows in all).

    Raises:
        BadPhotoError: not one photo could be read.
        FeatureFileError: a shard is damaged, or the output cannot be written.
    """
    if not any(_n_rows(shard) for shard in shards):
        raise BadPhotoError("not one file of the photo set can be read as a photo")
    merge(shards, output, overwrite=True, progress=progress)
    for shard in shards:
        shard.unlink()
    with contextlib.suppress(OSError):  # something else is in it
        shards[0].parent.rmdir()


def _n_rows(shard: Path) -> int:
    with FeatureFile(shard) as file:
        return file.rows_done


# Before the workers begin ------------------------------------------------------------------


def _is_complete(dataset: Dataset, settings: Settings, output: Path, given: Parameters) -> bool:
    """Say whether there is nothing to do; raise if what is there is something else."""
    if partial_path(output).exists():
        raise FeatureFileError(
            f"{partial_path(output)} was begun without --scheduler: finish it so, or {OTHERWISE}"
        )
    shards = shards_folder(output)
    if not output.exists() or (shards.is_dir() and any(shards.glob("*.h5*"))):
        return False  # shards beside a file were begun after it
    settings = kept(settings, stored_settings(output))
    sha256 = dict(zip(dataset.paths, dataset.sha256(), strict=True))
    return begun_with(output, settings, sha256, given, overwrite=False) is None


def _a_photo(dataset: Dataset) -> tuple[Path, int] | None:
    """Return a photo that can be seen from here, and its size."""
    for path in dataset.paths:
        with contextlib.suppress(OSError):
            return dataset.root / path, (dataset.root / path).stat().st_size
    return None


def _check_workers(client: Client, premises: Premises) -> None:
    """Raise a BilinearError that names the first worker that is not as it must be."""
    known = client.scheduler_info()["workers"]
    found = client.run(check_worker, premises, on_error="return")
    for address, fault in found.items():
        if isinstance(fault, BilinearError):
            raise fault
        if isinstance(fault, Exception):  # as if this program were not there
            name = called(known.get(address, {}).get("name", address), address)
            raise BilinearError(f"{name} does not run this program: {fault}")


def _settled(client: Client, settings: Settings, stored: Settings | None) -> Settings:
    """Return the settings with a precision and a batch size that suit all workers."""
    settings = kept(settings, stored)
    if settings.precision != "auto" and settings.batch_size:
        return settings
    size = max(sizes_of(settings.shown))
    found = [*client.run(resolve_on_worker, settings.precision, size).values()]
    precisions = {precision for precision, _ in found}
    precision = precisions.pop() if len(precisions) == 1 else "float32"
    batch_size = settings.batch_size or min(batch_size for _, batch_size in found)
    return replace(settings, precision=precision, batch_size=batch_size)


def _check_begun(begun: Begun, settings: Settings, record: dict[str, Any]) -> None:
    """Raise a FeatureFileError if shards made now would not belong together with earlier ones."""
    check_same(begun.settings, settings, begun.path, OTHERWISE, but=("shard",))
    for name, value in record.items():
        was = begun.attributes.get(name)
        if name in OWN or was == value:
            continue
        if name == "data_sha256":
            raise FeatureFileError(
                f"the photos, their labels or split are not those that {begun.path} was begun "
                f"with: {OTHERWISE}"
            )
        raise FeatureFileError(
            f"{begun.path} was begun with {name} {was}, and now it is {value}: {OTHERWISE}"
        )


def _n_shards(client: Client, dataset: Dataset, settings: Settings) -> int:
    n_workers = len(client.scheduler_info()["workers"])
    n_batches = -(-len(dataset) // settings.batch_size)
    return min(SHARDS_PER_WORKER * max(1, n_workers), n_batches)


def _with_projection(client: Client, job: Job) -> Job:
    """Return the job with the projection, which all shards must share to the last digit.

    It is fitted on one worker, once, and from then on it is data: Dask may run a task again.
    """
    given = job.parameters
    if job.reuse:
        with StoredPhotos(job.reuse, job.settings) as old:
            given = agreed(given, old.parameters, old.path)
    job = replace(job, parameters=given)
    if lacks_projection(job.settings.poolings, given):
        log.info("fitting the projection of channels on a worker")
        future = client.submit(fit, job, key=f"{job.topic}-fit")
        job = replace(job, parameters=_result(future, "the projection"))
    return job


# While they run ----------------------------------------------------------------------------


def _run(client: Client, job: Job, begun: dict[int, int | None], progress: Progress | None) -> None:
    """Let the workers make all shards; tell how far they are."""
    n_photos, of = len(job.dataset), job.n_shards
    cuts = [shard_photos(f"{i}/{of}", n_photos, job.settings.batch_size) for i in range(1, of + 1)]
    sizes = [cut.stop - cut.start for cut in cuts]
    done = {i: sizes[i - 1] if n is None else n for i, n in begun.items()}
    events: SimpleQueue = SimpleQueue()
    client.subscribe_topic(job.topic, events.put)
    futures = _submit(client, job)
    for future in futures:
        future.add_done_callback(events.put)
    told = -1
    try:
        for number, n_done in _follow(client, events, futures, of):
            done[number] = sizes[number - 1] if n_done is None else n_done
            if progress and sum(done.values()) != told:
                told = sum(done.values())
                progress(told, n_photos)
    finally:
        client.unsubscribe_topic(job.topic)
        client.cancel([*futures])


def _submit(client: Client, job: Job) -> dict[Future, int]:
    """Submit all shards; return the number of each."""
    log.info(
        "%d shards on %d workers, %s, %d photos a batch",
        job.n_shards,
        len(client.scheduler_info()["workers"]),
        job.settings.precision,
        job.settings.batch_size,
    )
    shared = client.submit(same, job, key=f"{job.topic}-job")
    return {
        client.submit(
            make_shard, shared, number, key=f"{job.topic}-{number}", priority=-number
        ): number
        for number in range(1, job.n_shards + 1)
    }


def _follow(
    client: Client, events: SimpleQueue, futures: dict[Future, int], of: int
) -> Iterator[tuple[int, int | None]]:
    """Yield the number of a shard and how many photos of it are done, or None for all."""
    waiting = set(futures)
    alone = False
    while waiting:
        try:
            event = events.get(timeout=LOOK_SECONDS)
        except Empty:
            alone = _say_if_alone(client, alone)
            continue
        if isinstance(event, Future):
            waiting.discard(event)
            _result(event, f"shard {futures[event]} of {of}")
            yield futures[event], None
            continue
        _, message = event
        if "warning" in message:
            log.warning("%s", message["warning"])
        else:
            yield message["shard"], message["done"]


def _say_if_alone(client: Client, said: bool) -> bool:
    """Say once if no worker is left; return whether none is."""
    alone = not client.scheduler_info()["workers"]
    if alone and not said:
        log.warning("no worker is left: start one, it will go on")
    return alone


def _result(future: Future, what: str) -> Any:
    """Return what a task did, or raise what it raised."""
    try:
        return future.result()
    except KilledWorker as error:
        raise BilinearError(
            f"{error.allowed_failures + 1} workers died over {what}, the last of them "
            f"{error.last_worker.address}: see their logs; if it was for memory, give them more, "
            "or begin again (--overwrite) with a smaller --batch-size; what is done is kept"
        ) from error
    except CancelledError as error:
        raise BilinearError(
            "the scheduler has gone; what is done is kept, and the same command goes on"
        ) from error
