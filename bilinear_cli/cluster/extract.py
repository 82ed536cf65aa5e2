"""Stage 1 on Dask's scheduler: the client cuts a photo set into shards, and workers extract them.

Each shard is a task that runs `extraction.extract`. Its file makes this robust, not Dask: a task
resumes the file where an earlier one stopped, whether a worker or the client died, and the file's
lock keeps two tasks from writing it.
"""

import logging
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from math import ceil
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from distributed import Client, Future

from bilinear_cli.cluster.connect import connect
from bilinear_cli.cluster.requirements import ExtractRequirements, check_workers, resolve_on_workers
from bilinear_cli.cluster.shards_folder import (
    begin_replacing,
    check_shards,
    check_visible,
    end_replacing,
    find_existing_shards,
    is_complete,
    shared_folder,
)
from bilinear_cli.cluster.watch import warn_of_silence
from bilinear_cli.cluster.worker import ShardedJob, extract_shard, fit_projection
from bilinear_cli.errors import BadPhotoError
from bilinear_cli.extraction.existing import (
    check_reusable,
    open_reused,
    resolve_recipe,
    with_mixed_engines,
)
from bilinear_cli.extraction.from_photos import PhotoInput
from bilinear_cli.extraction.job import Job
from bilinear_cli.poolings.parameters import Parameters, merge_parameters, needs_projection_fit
from bilinear_cli.progress import Progress
from bilinear_cli.store import FeatureFile, locked, merge, open_features

log = logging.getLogger(__name__)

SHARDS_PER_WORKER = 4  # so that all workers end at about the same time
MAX_PHOTOS_IN_SHARD = 2000  # photos; so that workers that join later find work
POLL_SECONDS = 1


def extract_shards(
    job: Job[PhotoInput], address: str, progress: Progress | None = None
) -> list[Path] | None:
    """Extract the shards of a feature file on a cluster, or resume them.

    Args:
        job: as for `extraction.extract`; all workers see its photos and its output's folder.
        address: of the scheduler, see `connect`.
        progress: called with (photos done, all photos).

    Returns:
        The files of the shards, in order; None if the output is complete.

    Raises:
        BadPhotoError: a photo cannot be read; finished rows are kept.
        BilinearError: see `connect`, `check_workers` and `extraction.extract`.
        FeatureFileError: existing files were made otherwise, or the folder is not writable.
        InUseError: another run writes the shards of this output.
    """
    if is_complete(job):
        return None
    with (
        shared_folder(job.output) as token,
        connect(address) as client,
        open_reused(job) as reused,
    ):
        folder = token.parent
        existing, n_done = (None, {}) if job.overwrite else find_existing_shards(folder)
        existing_recipe, reused_recipe = (x.recipe if x else None for x in (existing, reused))
        # the workers resolve what the files leave open
        recipe = resolve_recipe(job, existing_recipe, reused_recipe, lambda recipe, _: recipe)
        requirements = ExtractRequirements.from_job(job.input, recipe, token)
        check_workers(client, requirements.fault)
        if job.overwrite:
            begin_replacing(job.output)
        requirements = resolve_on_workers(client, requirements)
        job = replace(
            job,
            recipe=with_mixed_engines(requirements.recipe, reused_recipe, job.reuse),
            output=folder,
            reuse=job.reuse.resolve() if job.reuse else None,
            allow_precision_mix=False,  # `mixed_with` of the recipe has replaced it
            overwrite=False,
        )
        job = replace(job, parameters=_stored_parameters(job, existing, reused))
        n_shards = choose_n_shards(client, job, existing)
        sharded = ShardedJob(job, requirements, n_shards, secrets.token_hex(8))
        sharded = _with_projection(client, sharded)
        _run(client, sharded, n_done, progress)
    shards = [sharded.path(shard) for shard in range(1, n_shards + 1)]
    check_visible(shards)
    return shards


def merge_shards(shards: list[Path], output: Path, progress: Progress | None = None) -> None:
    """Merge the shards to the file that a single run would write, and remove them.

    Args:
        shards: as `extract_shards` returns them.
        output: the file; an existing one is replaced.
        progress: called with (rows done, all rows).

    Raises:
        BadPhotoError: no photo could be read.
        FeatureFileError: a shard is damaged, or the output is not writable.
        InUseError: another run merges them, or writes the output.
    """
    folder = shards[0].parent
    merged = folder / "merged"  # a killed process leaves its rest in the folder of the shards
    with locked(folder), locked(output):
        with open_features(shards) as file:
            if not file.rows_done:
                data = file.attributes["data"]
                raise BadPhotoError(f"no file of {data} can be read as a photo: check --data")
        merge(shards, merged, overwrite=True, progress=progress)
        merged.replace(output)
        for shard in shards:
            shard.unlink()
        end_replacing(output)
    with suppress(OSError):  # the folder has other files
        folder.rmdir()


def _stored_parameters(
    job: Job[PhotoInput], existing: FeatureFile | None, reused: FeatureFile | None
) -> Parameters:
    """Return the parameters of the job and of earlier files, which must suit the job."""
    if existing:
        check_shards(existing, job)
    if reused:
        check_reusable(reused, job.recipe)
    parameters = job.parameters
    for file in filter(None, (existing, reused)):
        parameters = merge_parameters(parameters, file.parameters, file.path)
    return parameters


def choose_n_shards(client: Client, job: Job[PhotoInput], existing: FeatureFile | None) -> int:
    """Return the number of shards, each of one batch or more."""
    if existing:
        return int(existing.recipe.shard.rpartition("/")[2])
    n_photos, n_workers = len(job.input.photo_set), len(client.nthreads())
    n_shards = max(SHARDS_PER_WORKER * n_workers, ceil(n_photos / MAX_PHOTOS_IN_SHARD), 1)
    return min(n_shards, ceil(n_photos / job.recipe.batch_size))


def _with_projection(client: Client, sharded: ShardedJob) -> ShardedJob:
    """Return the job with the projection, which one worker fits once, for all shards alike.

    From then on the projection is data of the job, since Dask may run a task again.
    """
    job = sharded.job
    if not needs_projection_fit(job.recipe.specs, job.parameters):
        return sharded
    log.info("fitting the projection of channels on a worker")
    (future,) = _follow(
        client, sharded.run_id, lambda: [client.submit(fit_projection, sharded, pure=False)]
    )
    return replace(sharded, job=replace(job, parameters=future.result()))


def _run(
    client: Client, sharded: ShardedJob, n_done: dict[int, int], progress: Progress | None
) -> None:
    """Extract all shards on the workers; `n_done` is shard -> photos that are already done."""
    n_photos = len(sharded.job.input.photo_set)
    progress = progress or (lambda done, total: None)

    def on_event(event: dict[str, int]) -> None:
        n_done[event["shard"]] = event["n_done"]
        progress(sum(n_done.values()), n_photos)

    _follow(client, sharded.run_id, partial(_submit, client, sharded), on_event)
    progress(n_photos, n_photos)  # a task reports nothing if another run has finished its shard


def _follow(
    client: Client,
    run_id: str,
    submit: Callable[[], list[Future]],
    on_event: Callable[[dict[str, Any]], None] = lambda event: None,
) -> list[Future]:
    """Wait for tasks, log their log lines, and pass on what else they report.

    Returns:
        The futures, after all tasks succeeded; the error of a task is raised at once.
    """
    events: SimpleQueue = SimpleQueue()
    running = set[Future]()
    logged = set[str]()  # a task that is repeated may say the same again
    client.subscribe_topic(run_id, events.put)
    try:
        futures = submit()
        running.update(futures)
        for future in futures:
            future.add_done_callback(events.put)
        with warn_of_silence("photo was finished") as heard:
            while running:
                event = _next(events)
                if isinstance(event, Future):
                    running.remove(event)
                    event.result()
                elif (message := event[1].get("message")) in logged:
                    continue
                elif message:
                    log.log(event[1]["level"], "%s", message)
                    logged.add(message)
                else:
                    on_event(event[1])
                heard()
        return futures
    finally:
        client.unsubscribe_topic(run_id)
        client.cancel([*running])


def _next(events: SimpleQueue) -> Any:
    """Return the next event. On Windows, ctrl-C does not end a wait that has no time limit."""
    while True:
        with suppress(Empty):
            return events.get(timeout=POLL_SECONDS)


def _submit(client: Client, sharded: ShardedJob) -> list[Future]:
    """Submit a task for each shard."""
    recipe, n_workers = sharded.job.recipe, len(client.nthreads())
    network = f"{recipe.precision} by {recipe.engine}"
    values = (sharded.n_shards, n_workers, network, recipe.batch_size)
    log.info("shards: %d, workers: %d, precision: %s, batch size: %d", *values)
    # A task returns a copy of the job, so that each worker receives the job once.
    shared = client.submit(replace, sharded, pure=False)
    # Dask groups tasks by the start of their keys, and gives many of a group out as workers become
    # free. A key must differ from those of earlier runs, whose tasks may still be running.
    key = f"extract_shard-{sharded.run_id}-"
    return [
        client.submit(extract_shard, shared, shard, key=f"{key}{shard}", priority=-shard)
        for shard in range(1, sharded.n_shards + 1)
    ]
