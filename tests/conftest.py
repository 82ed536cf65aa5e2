"""What holds for all tests: a cache of their own, little memory, VGG16's weights, `--no-skips`."""

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # before anything imports TensorFlow
# Dask's profiler reads all threads' frames. Up to CPython 3.11 that can freeze a process when the
# collector then frees one of TensorFlow's graphs (issue 106883).
os.environ["DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED"] = "False"

import hypothesis
import psutil
import pytest
from filelock import FileLock
from support.commands import environment
from threadpoolctl import threadpool_limits

from bilinear_cli.errors import BilinearError
from bilinear_cli.networks.weights import Weights, load_vgg16_weights

# A shell's job in the background ignores ctrl-C, and so would the commands that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

GARBAGE = 16 << 20  # bytes that a test may leave behind
CACHE_BEFORE = os.environ.get("BILINEAR_CACHE")

# TensorFlow's first call is slow, and a test should fail for everyone or for no one.
hypothesis.settings.register_profile(
    "tests", deadline=None, derandomize=True, database=None, max_examples=30
)
hypothesis.settings.load_profile("tests")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests, and the processes they start, away from the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BILINEAR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def real_weights(_own_cache: None) -> Weights:
    """Return VGG16's published weights; what is made of them stays in the tests' own cache."""
    with pytest.MonkeyPatch.context() as patch:
        _restore_cache(patch)
        try:
            return load_vgg16_weights()
        except BilinearError as error:
            pytest.skip(f"VGG16's weights are neither in the cache nor on a host: {error}")


@pytest.fixture(scope="session")
def int8_network(
    real_weights: Weights, tmp_path_factory: pytest.TempPathFactory, worker_id: str
) -> Path:
    """Return the cache file of VGG16 in 8 bits up to conv5.

    A process of its own makes it, since the conversion takes 2.5 GB. All processes that share the
    tests use the same file.
    """
    folder = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        folder = folder.parent
    folder = folder / "int8"
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            _make_int8_network(real_weights, folder)
    (path,) = folder.glob("*.tflite")
    return path


def _make_int8_network(real_weights: Weights, folder: Path) -> None:
    code = (
        "import sys\n"
        "from bilinear_cli.networks.load import import_tensorflow\n"
        "import_tensorflow()\n"
        "from bilinear_cli.networks.backbone import load_backbone\n"
        "from bilinear_cli.networks.weights import load_vgg16_weights\n"
        "load_backbone(load_vgg16_weights(sys.argv[1]).tensors, 'vgg16', 'block5_conv3', 'int8')\n"
    )
    command = [sys.executable, "-c", code, str(real_weights.path)]
    subprocess.run(command, check=True, env=environment(BILINEAR_CACHE=str(folder)))


@pytest.fixture
def users_cache(monkeypatch: pytest.MonkeyPatch, real_weights: Weights) -> None:
    """Give a test the user's own cache, where the real weights are."""
    _restore_cache(monkeypatch)


def _restore_cache(patch: pytest.MonkeyPatch) -> None:
    if CACHE_BEFORE is None:
        patch.delenv("BILINEAR_CACHE")
    else:
        patch.setenv("BILINEAR_CACHE", CACHE_BEFORE)


@pytest.fixture(autouse=True)
def _little_memory() -> Iterator[None]:
    """Collect garbage after a test that leaves much of it.

    Networks and graphs are in reference cycles. Python's collector counts objects and not bytes, so
    that it leaves gigabytes of a few large ones.
    """
    before = psutil.Process().memory_info().rss
    yield
    if psutil.Process().memory_info().rss - before > GARBAGE:
        gc.collect()


@pytest.fixture(autouse=True, scope="module")
def _one_blas_thread() -> Iterator[None]:
    """Keep BLAS from waiting for its threads: the matrices are small, other jobs use the cores."""
    with threadpool_limits(1, user_api="blas"):
        yield


def pytest_collection_finish() -> None:
    """Exempt what is imported by now from collections, which makes each far faster."""
    gc.collect()
    gc.freeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer `--no-skips`, for a machine that must be able to run all tests."""
    parser.addoption("--no-skips", action="store_true", help="fail if a test is skipped")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a session with skipped tests, if `--no-skips` asks for it."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if session.config.getoption("no_skips") and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
