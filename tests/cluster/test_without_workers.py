"""Clusters without workers: checks of a worker, invalid addresses and options, shares of work."""

import asyncio
import errno
import gc
import os
import socket
import threading
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from queue import Empty
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from support.commands import error_line, run_command
from support.errors import assert_names, raises
from support.shards import RECIPE, TINY
from support.worker_network import OTHER_SHA256, SHA256, WorkerNetwork, use_network

from bilinear_cli.cluster import connect as connect_module
from bilinear_cli.cluster import lag, reducer, tasks, worker
from bilinear_cli.cluster.connect import connect
from bilinear_cli.cluster.extract import _follow, choose_n_shards
from bilinear_cli.cluster.reducer import gram_tiles
from bilinear_cli.cluster.requirements import ExtractRequirements, check_workers, resolve_on_workers
from bilinear_cli.cluster.shards_folder import find_existing_shards
from bilinear_cli.cluster.tasks import SharedFiles
from bilinear_cli.errors import BilinearError
from bilinear_cli.extraction.from_photos import PhotoInput
from bilinear_cli.extraction.job import installed_versions
from bilinear_cli.machine import package_versions
from bilinear_cli.networks.network import Network
from bilinear_cli.photos.photo_set import PhotoSet
from bilinear_cli.recipe import Recipe
from bilinear_cli.store import locked


@pytest.mark.parametrize(
    ("workers", "chosen"),
    [
        ([("bfloat16", 16), ("bfloat16", 4)], ("bfloat16", 4)),
        ([("bfloat16", 4), ("float32", 16)], ("float32", 4)),
        ([("float32", 16), ("bfloat16", 16)], ("float32", 16)),
    ],
)
def test_auto_precision_and_batch_size_suit_workers_that_differ(
    workers: list[tuple[str, int]], chosen: tuple[str, int]
) -> None:
    recipes = [replace(RECIPE, precision=precision, batch_size=n) for precision, n in workers]
    recipe = resolve_auto(*[(recipe, "keras 3") for recipe in recipes]).recipe
    assert (recipe.precision, recipe.batch_size) == chosen


NCNN = ("float32", "ncnn", "keras 3, ncnn 1")
TENSORFLOW = ("float32", "tensorflow", "keras 3")


@pytest.mark.parametrize(
    ("workers", "chosen"),
    [
        ([NCNN, NCNN], NCNN),
        ([NCNN, ("float32", "ncnn", "keras 3, ncnn 2")], TENSORFLOW),
        ([NCNN, TENSORFLOW], TENSORFLOW),
        ([("bfloat16", "tensorflow", "keras 3"), NCNN], TENSORFLOW),
    ],
)
def test_auto_takes_ncnn_if_all_workers_have_the_same_version_of_it(
    workers: list[tuple[str, str, str]], chosen: tuple[str, str, str]
) -> None:
    requirements = resolve_auto(
        *[
            (replace(RECIPE, precision=precision, engine=engine), versions)
            for precision, engine, versions in workers
        ]
    )
    recipe = requirements.recipe
    assert (recipe.precision, recipe.engine, requirements.versions) == chosen


def resolve_auto(*workers: tuple[Recipe, str]) -> ExtractRequirements:
    """Resolve an open recipe by what each worker would take, and its versions."""
    client = SimpleNamespace(run=lambda *_, **__: dict(enumerate(workers)))
    recipe = replace(RECIPE, precision="auto", engine="auto", batch_size=0)
    network = Network("vgg16", "random")
    requirements = ExtractRequirements(Path(), Path(), None, network, recipe, "keras 3")
    return resolve_on_workers(client, requirements)


@pytest.mark.parametrize(
    ("n_photos", "n_workers", "batch_size", "n_shards"),
    [
        (1000, 2, 4, 8),  # four a worker
        (11, 2, 3, 4),  # a batch each
        (100_000, 2, 4, 50),  # 2,000 photos each, for workers that come later
    ],
)
def test_a_set_is_cut_into_shards(
    n_photos: int, n_workers: int, batch_size: int, n_shards: int
) -> None:
    client = SimpleNamespace(nthreads=lambda: range(n_workers))
    photos = SimpleNamespace(photo_set=range(n_photos))
    job = SimpleNamespace(input=photos, recipe=replace(RECIPE, batch_size=batch_size))
    assert choose_n_shards(client, job, None) == n_shards


def test_shards_of_several_extractions_are_refused(tmp_path: Path) -> None:
    for name in ("001of002.h5", "001of003.h5.partial"):
        (tmp_path / name).touch()
    with raises(BilinearError, tmp_path, "2", "3", "--overwrite"):
        find_existing_shards(tmp_path)


@pytest.mark.parametrize(("version", "collects"), [((3, 11), False), ((3, 12), True)])
def test_the_profiler_collects_no_garbage_before_python_3_12(
    version: tuple[int, int], collects: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = SimpleNamespace(version_info=version, _current_frames=gc.isenabled)
    monkeypatch.setattr(worker, "sys", python)
    worker._protect_from_profiler.cache_clear()
    try:
        worker._protect_from_profiler()
        current_frames = python._current_frames
        worker._protect_from_profiler()
    finally:
        worker._protect_from_profiler.cache_clear()
    assert python._current_frames is current_frames
    assert current_frames() is collects
    assert gc.isenabled()


# Requirements of a worker -----------------------------------------------------------------------


@pytest.fixture
def requirements(
    birds: PhotoSet, network: WorkerNetwork, output: Path, waits: list[float]
) -> ExtractRequirements:
    """Return requirements that this process meets, except for the lock of the folder."""
    token = output.parent / "token"
    token.parent.mkdir()
    token.touch()
    return ExtractRequirements.from_job(PhotoInput(birds, network), RECIPE, token)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return how long this process waits for a folder that lags, each time; it does not wait."""
    seconds = [0.0]
    time = SimpleNamespace(monotonic=lambda: sum(seconds), sleep=seconds.append)
    monkeypatch.setattr(lag, "time", time)
    return seconds


def test_a_worker_must_see_that_the_folder_is_locked(requirements: ExtractRequirements) -> None:
    folder = requirements.token.parent
    assert_names(str(requirements.fault()), folder)
    with locked(folder):
        assert requirements.fault() is None


def test_a_worker_checks_all_requirements_and_waits_only_for_files(
    requirements: ExtractRequirements,
    waits: list[float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, none = requirements.token.parent, tmp_path / "none"
    assert requirements.photo
    photo, size = requirements.photo
    versions, keras = installed_versions(RECIPE), version("keras")
    other_weights = replace(RECIPE, weights_sha256=OTHER_SHA256)
    changes: list[tuple[bool, dict[str, Any], tuple[Any, ...]]] = [
        (True, {"token": folder / "none"}, (folder, "--output")),
        (True, {"root": none}, (none,)),
        (True, {"photo": (photo, 1)}, (photo,)),
        (True, {"photo": (none, size)}, (none,)),
        (False, {"versions": versions.replace(keras, "0.0.1")}, ("keras", keras, "0.0.1")),
        (False, {"recipe": other_weights}, (SHA256, OTHER_SHA256, "--weights")),
        (False, {"network": Network("vgg16", str(none))}, (none,)),
    ]
    recipe = replace(RECIPE, precision="int8")
    in_int8 = replace(requirements, recipe=recipe, versions=installed_versions(recipe))
    with locked(folder):
        for may_lag, change, facts in changes:
            waits[:] = [0]
            assert_names(str(replace(requirements, **change).fault()), *facts)
            assert sum(waits) == (lag.LAG_SECONDS if may_lag else 0)
        assert in_int8.fault() is None
        monkeypatch.setattr("bilinear_cli.recipe.recipe.INT8_PACKAGES", ("no-such-package",))
        assert_names(str(in_int8.fault()), "no-such-package")


def test_a_worker_that_trains_waits_only_for_files(waits: list[float], tmp_path: Path) -> None:
    shared_files = SharedFiles((tmp_path / "x.h5",), ("a file",), package_versions(tasks.PACKAGES))
    assert_names(str(replace(shared_files, versions="scipy 0").fault()), "scipy", "0")
    assert waits == [0]
    assert_names(str(shared_files.fault()), tmp_path / "x.h5", "missing")
    assert sum(waits) == lag.LAG_SECONDS


def test_a_path_that_a_worker_may_not_read_is_named(
    requirements: ExtractRequirements, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulated: a superuser may read all."""
    error = PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(requirements.root))
    monkeypatch.setattr(Path, "is_dir", Mock(side_effect=error))
    assert_names(str(requirements.fault()), requirements.root, error.strerror)
    monkeypatch.setattr(Path, "exists", Mock(side_effect=error))
    assert_names(tasks.describe(tmp_path), error.strerror)


def test_a_worker_must_be_able_to_write(
    requirements: ExtractRequirements, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr("tempfile.TemporaryFile", Mock(side_effect=error))
    assert_names(str(requirements.fault()), requirements.token.parent, error.strerror)


def test_tasks_that_cannot_be_submitted_leave_nothing() -> None:
    client = Mock()
    with raises(ValueError, "too large"):
        _follow(client, "run", Mock(side_effect=ValueError("too large")))
    client.unsubscribe_topic.assert_called_once_with("run")


def test_ctrl_c_ends_the_wait_for_tasks_on_windows_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: on Windows, ctrl-C is seen only when a wait with a time limit ends."""
    events = Mock(get=Mock(side_effect=[Empty, KeyboardInterrupt]))
    monkeypatch.setattr("bilinear_cli.cluster.extract.SimpleQueue", lambda: events)
    with pytest.raises(KeyboardInterrupt):
        _follow(Mock(), "run", lambda: [Mock()])
    assert all(call.kwargs["timeout"] for call in events.get.call_args_list)


def test_a_worker_without_the_program_is_named() -> None:
    error = ModuleNotFoundError("No module named 'bilinear_cli'")
    with raises(BilinearError, "tcp://a:1", "bilinear_cli"):
        check_workers(Mock(run=Mock(return_value={"tcp://a:1": error})), Mock())


# Invalid addresses and options ----------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "facts"),
    [(b"", ["0.2 s"]), (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", ["program"])],
    ids=["nothing", "something else"],
)
@pytest.mark.slow
def test_a_server_that_is_no_scheduler_is_one_line(
    answer: bytes, facts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect_module, "CONNECT_SECONDS", 0.2)
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        server.settimeout(20)

        def serve() -> None:
            visitor, _ = server.accept()
            stack.enter_context(visitor).sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        address = "tcp://{}:{}".format(*server.getsockname())
        with raises(BilinearError, address, *facts):
            connect(address).__enter__()
        thread.join()


def test_a_scheduler_file_of_a_former_scheduler_is_named_even_in_the_event_loop_of_a_notebook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect_module, "CONNECT_SECONDS", 0.1)
    file = tmp_path / "scheduler.json"
    file.write_text('{"address": "tcp://127.0.0.1:1"}')

    async def cell() -> None:
        connect(str(file)).__enter__()

    with raises(BilinearError, file, "tcp://127.0.0.1:1", "0.1 s"):
        asyncio.run(cell())


def test_a_protocol_that_is_not_set_up_is_one_line() -> None:
    with raises(BilinearError, "tls://127.0.0.1:1", "TLS"):
        connect("tls://127.0.0.1:1").__enter__()


def test_workers_of_this_machine_that_do_not_start_are_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The system's refusal, which Dask raises as the cause of another error, is simulated."""
    error = RuntimeError("Nanny failed to start.")
    error.__cause__ = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    monkeypatch.setattr("distributed.LocalCluster", Mock(side_effect=error))
    with raises(BilinearError, "local:8", os.strerror(errno.EMFILE), "local:1", "__main__"):
        connect("local:8").__enter__()


NO_ADDRESS = ["", "[1]", '{"cluster_id": 1}', '{"address": 1}', "\x89HDF"]


@pytest.mark.parametrize(
    ("words", "facts", "code"),
    [
        (["--scheduler", "local:0"], ["--scheduler", "local:0"], 2),
        (["--scheduler", "local:x"], ["--scheduler", "local:x"], 2),
        (["--scheduler", "none.json"], ["--scheduler", "none.json", "tcp://", "local"], 2),
        (["--scheduler", "local", "--shard", "1/2"], ["--scheduler", "--shard"], 2),
        (["--scheduler", "local", "--maps", "m.h5"], ["--maps", "--data"], 2),
        (["--scheduler", "tcp://127.0.0.1:1"], ["tcp://127.0.0.1:1", "0.25 s"], 1),
        *[(["--scheduler", f"{i}.json"], [f"{i}.json"], 1) for i in range(len(NO_ADDRESS))],
    ],
)
def test_invalid_options_are_one_line(
    words: list[str],
    facts: list[str],
    code: int,
    birds: PhotoSet,
    network: WorkerNetwork,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(connect_module, "CONNECT_SECONDS", 0.25)
    use_network(monkeypatch, network)
    for i, content in enumerate(NO_ADDRESS):
        Path(f"{i}.json").write_text(content, "latin-1")
    command = ("-q", "extract", "--data", birds.root, *TINY, "-o", "x.h5", *words)
    result = run_command(*command, code=code)
    assert_names(error_line(result), *facts)
    assert len(result.stderr.splitlines()) == 1
    assert not [*tmp_path.glob("x.h5*")]


# Tiles of a Gram matrix ---------------------------------------------------------------------


@pytest.mark.parametrize("n_threads", [1, 2, 3, 8, 50])
@pytest.mark.parametrize("n", [1, 2, 61, 100_000])
def test_tiles_are_the_lower_half_and_share_the_work(n: int, n_threads: int) -> None:
    pairs = gram_tiles(n, n_threads)
    area = sum((a.stop - a.start) * (b.stop - b.start) * (1 if a is b else 2) for a, b in pairs)
    assert area == n * n
    assert all(b.stop <= a.start or a is b for a, b in pairs)
    assert all(0 < a.stop - a.start <= reducer.MAX_ROWS for pair in pairs for a in pair)
    largest = max((a.stop - a.start) * (b.stop - b.start) for a, b in pairs)
    if n > 1000:
        assert largest <= 1.01 * n * n / n_threads
    assert len(gram_tiles(60, 1)) == 1  # one worker reads once
