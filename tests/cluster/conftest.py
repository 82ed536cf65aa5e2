"""The two clusters that the tests of this folder share, each of two processes of this machine."""

import os
from collections.abc import Iterator
from pathlib import Path

import dask
import pytest
from distributed import Client, Nanny, Scheduler, SpecCluster
from distributed.utils import get_mp_context
from support.dask_processes import IMPATIENT, SmallBlocks, wait_for
from support.shards import ONE_BY_ONE, OnWorkers, extract_locally, photo_set
from support.worker_network import WorkerNetwork

from bilinear_cli.cluster.connect import LOCAL_DASK_CONFIG, connect, import_dask
from bilinear_cli.photos.photo_set import PhotoSet

# Modules of workers, whose import takes seconds
IMPORTED = ["distributed", "keras", "bilinear_cli.cluster.tasks", "bilinear_cli.cluster.worker"]


@pytest.fixture(autouse=True, scope="package")
def _forks() -> Iterator[None]:
    """Let Dask fork its workers from one process, which imports these modules once."""
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        get_mp_context().set_forkserver_preload(IMPORTED)
        yield


@pytest.fixture(scope="package")
def local_client() -> Iterator[Client]:
    """Return a client of `local:2`, although Dask's profiler is on and malloc has its default."""
    with (
        pytest.MonkeyPatch.context() as patch,
        dask.config.set({"distributed.worker.profile.enabled": True}),
        dask.config.set({"distributed.scheduler.work-stealing": False}),  # it depends on speed
    ):
        patch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
        with connect("local:2") as client:
            client.register_plugin(SmallBlocks())
            yield client


@pytest.fixture
def client(local_client: Client) -> Client:
    """Return the client of two workers without TensorFlow, as soon as both run."""
    wait_for(lambda: len(local_client.run(os.getpid, on_error="ignore")) == 2)
    return local_client


@pytest.fixture(scope="package")
def address() -> Iterator[str]:
    """Return the scheduler of two workers, `odd` and `even`, with two threads and TensorFlow."""
    import_dask()
    scheduler = {"host": "127.0.0.1", "dashboard": False}
    worker = {"cls": Nanny, "options": {"nthreads": 2, "preload": [IMPATIENT]}}
    with (
        dask.config.set(LOCAL_DASK_CONFIG),
        SpecCluster(
            scheduler={"cls": Scheduler, "options": scheduler},
            workers={"odd": worker, "even": worker},
        ) as cluster,
    ):
        yield cluster.scheduler_address


@pytest.fixture(scope="package")
def birds(tmp_path_factory: pytest.TempPathFactory) -> PhotoSet:
    """Return a set of 11 photos, which are three batches of 3 and one of 2."""
    return photo_set(tmp_path_factory.mktemp("birds"), 6, 5)


@pytest.fixture(scope="package")
def flock(tmp_path_factory: pytest.TempPathFactory) -> PhotoSet:
    """Return a set of 32 photos."""
    return photo_set(tmp_path_factory.mktemp("flock"), 16, 16)


@pytest.fixture(scope="package")
def flock_rows(flock: PhotoSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the feature file that one process extracts from the 32 photos, one by one."""
    return extract_locally(flock, ONE_BY_ONE, tmp_path_factory.mktemp("rows") / "x.h5")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Return the file to write, in a folder of its own."""
    return tmp_path / "shared" / "x.h5"


@pytest.fixture
def network(tmp_path: Path) -> WorkerNetwork:
    """Return the network, whose gate is open unless a test writes its file."""
    return WorkerNetwork("vgg16", "random", tmp_path / "notes", tmp_path / "gate")


@pytest.fixture
def on_workers(address: str, output: Path, network: WorkerNetwork) -> OnWorkers:
    """Return the extraction of that file by `odd` and `even`."""
    return OnWorkers(address, output, network)
