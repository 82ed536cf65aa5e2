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
from typing import Any

from distributed import Client

from bilinear_cli.cluster.before import a_photo, check_begun, is_complete, settled
from bilinear_cli.cluster.check import check_workers
from bilinear_cli.cluster.connect import connect
from bilinear_cli.cluster.folder import begun_in, clear, shards_folder, shared_folder
from bilinear_cli.cluster.follow import Progress, run
from bilinear_cli.cluster.premises import Network, Premises
from bilinear_cli.cluster.worker import Job, fit
from bilinear_cli.errors import BadPhotoError
from bilinear_cli.extraction.extract import record_of
from bilinear_cli.extraction.resume import versions
from bilinear_cli.extraction.reuse import StoredPhotos
from bilinear_cli.extraction.stored import kept, stored_recipe
from bilinear_cli.photos.dataset import Dataset
from bilinear_cli.poolings.parameters import Parameters, agreed, lacks_projection
from bilinear_cli.recipe import Recipe
from bilinear_cli.store import FeatureFile, locked, merge

log = logging.getLogger(__name__)

SHARDS_PER_WORKER = 4  # so that all end at about the same time
MOST_IN_SHARD = 2000  # photos; so that there is work for workers that come later


def extract_shards(
    address: str,
    dataset: Dataset,
    recipe: Recipe,
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
        recipe: what to make of them. A precision `auto` and a batch size 0 are left open: they
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
    if not overwrite and is_complete(dataset, recipe, output, given):
        return None
    with shared_folder(output) as (token_file, token), connect(address) as client:
        begun = None if overwrite else begun_in(folder)
        stored = begun.recipe if begun else stored_recipe(None, reuse)
        recipe = kept(recipe, stored)
        premises = Premises(
            token_file,
            token,
            dataset.root,
            a_photo(dataset),
            versions(recipe.precision),
            network,
            recipe.weights_sha256,
            recipe.precision,
        )
        check_workers(client, premises)
        if overwrite:
            clear(folder)
        recipe = settled(client, recipe)
        record = attributes or {}
        if begun:
            check_begun(begun, recipe, record_of(dataset, recipe) | record)
            given = agreed(given, begun.parameters, begun.path)
        job = Job(
            premises,
            dataset,
            recipe,
            begun.n_shards if begun else _n_shards(client, dataset, recipe),
            folder,
            secrets.token_hex(8),
            given,
            reuse.resolve() if reuse else None,
            record,
            skip_bad,
        )
        job = _with_projection(client, job)
        run(client, job, begun.done if begun else {}, progress)
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


def _n_shards(client: Client, dataset: Dataset, recipe: Recipe) -> int:
    n_workers = len(client.nthreads())
    n_batches = -(-len(dataset) // recipe.batch_size)
    n_shards = max(SHARDS_PER_WORKER * n_workers, -(-len(dataset) // MOST_IN_SHARD), 1)
    return min(n_shards, n_batches)


def _with_projection(client: Client, job: Job) -> Job:
    """Return the job with the projection, which all shards must share to the last digit.

    It is fitted on one worker, once, and from then on it is data: Dask may run a task again.
    """
    given = job.parameters
    if job.reuse:
        with StoredPhotos(job.reuse, job.recipe) as old:
            given = agreed(given, old.parameters, old.path)
    job = replace(job, parameters=given)
    if lacks_projection(job.recipe.poolings, given):
        log.info("fitting the projection of channels on a worker")
        fitted = client.submit(fit, job, key=job.key("fit")).result()
        job = replace(job, parameters=fitted)
    return job
