"""Fixtures for all tests: a separate cache, limited memory, VGG16's weights; and `--no-skips`."""

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # before anything imports TensorFlow
# Dask's profiler reads the frames of all threads. Up to CPython 3.11, this can freeze a process if
# the garbage collector then frees a graph of TensorFlow (issue 106883).
os.environ["DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED"] = "False"

import hypothesis
import psutil
import pytest
from filelock import FileLock
from support.commands import run_python
from threadpoolctl import threadpool_limits

from bilinear_cli.errors import BilinearError
from bilinear_cli.home import cache_folder
from bilinear_cli.networks.weights import Weights, load_vgg16_weights

# Processes in the background of a shell ignore ctrl-C. The commands that tests interrupt must not.
signal.signal(signal.SIGINT, signal.default_int_handler)

CLUSTER = "tests/cluster/"
MAX_GARBAGE = 128 << 20  # bytes without a garbage collection
USERS_CACHE = str(cache_folder())
collected = {"bytes": 0}  # of this process after the last garbage collection

# No deadline, because TensorFlow's first call is slow. Fixed examples, so that a failure repeats.
hypothesis.settings.register_profile(
    "tests", deadline=None, derandomize=True, database=None, max_examples=30
)
hypothesis.settings.load_profile("tests")


@pytest.fixture(autouse=True, scope="session")
def _isolated_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give the tests, and the processes that they start, a cache that is not the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BILINEAR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def real_weights(_isolated_cache: None) -> Weights:
    """Return VGG16's published weights; files computed from them stay in the cache of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BILINEAR_CACHE", USERS_CACHE)
        try:
            return load_vgg16_weights()
        except BilinearError as error:
            pytest.skip(f"VGG16's weights are neither in the cache nor on the host: {error}")


@pytest.fixture(scope="session")
def int8_network(
    real_weights: Weights, tmp_path_factory: pytest.TempPathFactory, worker_id: str
) -> Path:
    """Return the cache file of VGG16 in 8 bits up to conv5.

    All test processes use the same file. A separate process writes it, because the conversion needs
    2.5 GB.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "int8"
    code = (
        "import sys\n"
        "from bilinear_cli.networks.network import import_tensorflow\n"
        "import_tensorflow()\n"
        "from bilinear_cli.networks.backbone import load_backbone\n"
        "from bilinear_cli.networks.weights import load_vgg16_weights\n"
        "load_backbone(load_vgg16_weights(sys.argv[1]).tensors, 'vgg16', 'block5_conv3', 'int8')\n"
    )
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            run_python(code, real_weights.path, BILINEAR_CACHE=str(folder))
    (path,) = folder.glob("*.tflite")
    return path


@pytest.fixture
def users_cache(monkeypatch: pytest.MonkeyPatch, real_weights: Weights) -> None:
    """Give a test the user's cache, which has the published weights."""
    monkeypatch.setenv("BILINEAR_CACHE", USERS_CACHE)


def resident_bytes() -> int:
    return psutil.Process().memory_info().rss


@pytest.fixture(autouse=True)
def _collect_garbage() -> Iterator[None]:
    """Collect garbage after tests that together leave much of it.

    Networks and graphs are in reference cycles. Python's collector counts objects, not bytes: a few
    large objects may take gigabytes before it runs.
    """
    yield
    if resident_bytes() - collected["bytes"] > MAX_GARBAGE:
        gc.collect()
        collected["bytes"] = resident_bytes()


@pytest.fixture(autouse=True, scope="module")
def _one_blas_thread() -> Iterator[None]:
    """Limit BLAS to one thread: the matrices are small, and other processes use the cores."""
    with threadpool_limits(1, user_api="blas"):
        yield


def pytest_collection_finish() -> None:
    """Exempt all imported objects from garbage collections, which makes these much faster."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give one process all tests of Dask's clusters: it starts each cluster once for all of them.

    By default a process gets a module at a time, and would start them anew for each.
    """
    from xdist.scheduler import LoadScopeScheduling

    class OneProcessForClusters(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return CLUSTER if nodeid.startswith(CLUSTER) else super()._split_scope(nodeid)

    return OneProcessForClusters(config, log) if config.option.dist == "loadscope" else None


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option `--no-skips`, for a machine that must be able to run all tests."""
    parser.addoption("--no-skips", action="store_true", help="fail if a test is skipped")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Make a session with skipped tests fail if it has the option `--no-skips`."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if session.config.getoption("no_skips") and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
