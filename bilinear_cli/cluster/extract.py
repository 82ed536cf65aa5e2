"""Stage 1 on Dask's distributed scheduler: the client, which cuts, follows, and merges.

The photos are cut into shards, and each is a task that runs `extract` as it is. What makes that
robust is the shard's file, not Dask: whoever takes a shard up goes on where it stopped, whether its
worker died or the client did, and its lock keeps two from writing it.
"""

import contextlib
import logging
import secrets
from dataclasses import replace
from pathlib import Path

from distributed import Client

from bilinear_cli.cluster.connect import connect
from bilinear_cli.cluster.preflight import (
    a_photo,
    check_shards,
    is_complete,
    on_workers,
)
from bilinear_cli.cluster.progress import run
from bilinear_cli.cluster.requirements import ExtractRequirements
from bilinear_cli.cluster.shards_folder import (
    ExistingShards,
    clear,
    find_existing_shards,
    shards_folder,
    shared_folder,
)
from bilinear_cli.cluster.worker import ShardedJob, fit
from bilinear_cli.cluster.worker_check import check_workers
from bilinear_cli.errors import BadPhotoError
from bilinear_cli.extraction.existing import check_reusable, open_reused, resolve_recipe
from bilinear_cli.extraction.from_photos import Photos, photo_set_attributes
from bilinear_cli.extraction.job import Job, Progress
from bilinear_cli.extraction.versions import installed_versions
from bilinear_cli.poolings.parameters import Parameters, merge_parameters, needs_projection_fit
from bilinear_cli.recipe import Recipe
from bilinear_cli.store import FeatureFile, locked, merge

log = logging.getLogger(__name__)

SHARDS_PER_WORKER = 4  # so that all end at about the same time
MOST_IN_SHARD = 2000  # photos; so that there is work for workers that come later


def extract_shards(
    job: Job[Photos], address: str, progress: Progress | None = None
) -> list[Path] | None:
    """Write the shards of a photo set's feature file on a cluster, or resume them.

    Args:
        job: as for `extraction.extract`. Photos and output are in folders that all workers see.
        address: where the workers are, see `connect`.
        progress: is called with (photos done, photos in all).

    Returns:
        The shards' files, in their order; None if the output is there and complete.

    Raises:
        BadPhotoError: a photo cannot be read; what is done is kept.
        BilinearError: no workers, or one is not as it must be, or several died; or see `extract`.
        FeatureFileError: what is there was made otherwise, or cannot be written.
        InUseError: another run writes the shards of this output.
    """
    if is_complete(job):
        return None
    folder = shards_folder(job.output).resolve()
    with (
        shared_folder(job.output) as (token_file, token),
        connect(address) as client,
        open_reused(job) as old,
    ):
        begun = None if job.overwrite else find_existing_shards(folder)
        of_begun, of_old = (file.recipe if file else None for file in (begun, old))
        open_recipe = resolve_recipe(job, of_begun, of_old, resolve=lambda recipe: recipe)
        requirements = _requirements(job, open_recipe, token_file, token)
        check_workers(client, requirements)
        if job.overwrite:
            clear(folder)
        job = replace(
            job,
            recipe=on_workers(client, open_recipe),
            reuse=job.reuse.resolve() if job.reuse else None,
            allow_mix=False,  # the recipe says by now what is mixed
            overwrite=False,
        )
        job = replace(job, parameters=_agreed_parameters(job, begun, old))
        n_shards = begun.n_shards if begun else _n_shards(client, job)
        sharded = ShardedJob(job, requirements, n_shards, folder, secrets.token_hex(8))
        sharded = _with_projection(client, sharded)
        run(client, sharded, begun.done if begun else {}, progress)
    return [sharded.output(number) for number in range(1, n_shards + 1)]


def _requirements(
    job: Job[Photos], recipe: Recipe, token_file: Path, token: str
) -> ExtractRequirements:
    """Return what every worker must have; `recipe` may have no batch size yet."""
    photo_set = job.origin.photo_set
    return ExtractRequirements(
        token_file,
        token,
        photo_set.root,
        a_photo(photo_set),
        installed_versions(recipe.precision),
        job.origin.network,
        recipe.weights_sha256,
        recipe.precision,
    )


def _agreed_parameters(
    job: Job[Photos], begun: ExistingShards | None, old: FeatureFile | None
) -> Parameters:
    """Return the parameters that there are; check that earlier shards and rows can be used."""
    parameters = job.parameters
    if begun:
        record = {**photo_set_attributes(job.origin.photo_set, job.recipe), **job.attributes}
        check_shards(begun, {**job.recipe.comparable_attributes(), **record})
        parameters = merge_parameters(parameters, begun.parameters, begun.path)
    if old:
        check_reusable(old, job.recipe)
        parameters = merge_parameters(parameters, old.parameters, old.path)
    return parameters


def merge_shards(shards: list[Path], output: Path, progress: Progress | None = None) -> None:
    """Write the shards to one file, as a single run would have made it, and remove them.

    Args:
        shards: as `extract_shards` returns them.
        output: the file; one that is there is replaced.
        progress: told (rows done, rows in all).

    Raises:
        BadPhotoError: not one photo could be read.
        FeatureFileError: a shard is damaged, or the output cannot be written.
        InUseError: another run is merging them, or writes the output.
    """
    folder = shards[0].parent
    merged = folder / "merged"  # so that what a killed process leaves of it is nobody else's
    with locked(folder), locked(output):
        if not any(_n_rows(shard) for shard in shards):
            raise BadPhotoError("not one file of the photo set can be read as a photo")
        merge(shards, merged, overwrite=True, progress=progress)
        merged.replace(output)
        for shard in shards:
            shard.unlink()
    with contextlib.suppress(OSError):  # something else is in it
        folder.rmdir()


def _n_rows(shard: Path) -> int:
    with FeatureFile(shard) as file:
        return file.rows_done


def _n_shards(client: Client, job: Job[Photos]) -> int:
    n_photos, n_workers = len(job.origin.photo_set), len(client.nthreads())
    n_batches = -(-n_photos // job.recipe.batch_size)
    n_shards = max(SHARDS_PER_WORKER * n_workers, -(-n_photos // MOST_IN_SHARD), 1)
    return min(n_shards, n_batches)


def _with_projection(client: Client, sharded: ShardedJob) -> ShardedJob:
    """Return the job with the projection, which all shards must share to the last digit.

    It is fitted on one worker, once, and from then on it is data: Dask may run a task again.
    """
    job = sharded.job
    if not needs_projection_fit(job.recipe.poolings, job.parameters):
        return sharded
    log.info("fitting the projection of channels on a worker")
    fitted = client.submit(fit, sharded, key=sharded.key("fit")).result()
    return replace(sharded, job=replace(job, parameters=fitted))
