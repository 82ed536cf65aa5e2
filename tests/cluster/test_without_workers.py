"""What holds of clusters without any: checks of a worker, refused words, the sharing of work."""

import errno
import gc
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest
from support.commands import error_line, run_command
from support.errors import assert_names, raises
from support.feature_files import write_features
from support.shards import RECIPE, TINY
from support.worker_network import OTHER_SHA256, SHA256, WorkerNetwork, use_network

from bilinear_cli.cluster import connect as connect_module
from bilinear_cli.cluster import reducer, worker, worker_check
from bilinear_cli.cluster.connect import connect
from bilinear_cli.cluster.preflight import on_workers
from bilinear_cli.cluster.reducer import gram_tiles
from bilinear_cli.cluster.requirements import ExtractRequirements
from bilinear_cli.cluster.shards_folder import shards_folder
from bilinear_cli.errors import BilinearError
from bilinear_cli.extraction import versions as versions_module
from bilinear_cli.extraction.versions import installed_versions
from bilinear_cli.networks.load import Network
from bilinear_cli.photos.photo_set import PhotoSet
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
    client = SimpleNamespace(run=lambda *_: dict(enumerate(workers)))
    recipe = on_workers(client, replace(RECIPE, precision="auto", batch_size=0))
    assert (recipe.precision, recipe.batch_size) == chosen


@pytest.mark.parametrize(("version", "collects"), [((3, 11), False), ((3, 12), True)])
def test_frames_are_taken_without_garbage_collection_before_python_3_12(
    version: tuple[int, int], collects: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    collecting: list[bool] = []
    python = SimpleNamespace(
        version_info=version, _current_frames=lambda: collecting.append(gc.isenabled()) or {}
    )
    monkeypatch.setattr(worker, "sys", python)
    worker._keep_from_freezing.cache_clear()
    try:
        worker._keep_from_freezing()
        once = python._current_frames
        worker._keep_from_freezing()
    finally:
        worker._keep_from_freezing.cache_clear()
    assert python._current_frames is once
    assert once() == {}
    assert collecting == [collects]
    assert gc.isenabled()


# What a worker needs -----------------------------------------------------------------------


@pytest.fixture
def requirements(birds: PhotoSet, network: WorkerNetwork, output: Path) -> ExtractRequirements:
    """Return what this process has."""
    folder = shards_folder(output)
    folder.mkdir(parents=True)
    (folder / "token").write_text("abc")
    photo = birds.root / birds.paths[0]
    size = photo.stat().st_size
    return ExtractRequirements(
        folder / "token", "abc", birds.root, (photo, size), installed_versions(), network, SHA256
    )


def test_a_worker_must_see_that_the_folder_is_locked(requirements: ExtractRequirements) -> None:
    folder = requirements.token_file.parent
    assert_names(str(requirements.fault()), folder)
    with locked(folder):
        assert requirements.fault() is None


def test_a_worker_looks_at_all_that_it_needs(
    requirements: ExtractRequirements, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, none = requirements.token_file.parent, tmp_path / "none"
    assert requirements.photo
    photo, size = requirements.photo
    changes: list[tuple[dict[str, Any], tuple[Any, ...]]] = [
        ({"token": "abd"}, (folder, "--output")),
        ({"token_file": folder / "none"}, (folder, "--output")),
        ({"root": none}, (none,)),
        ({"photo": (photo, 1)}, (photo,)),
        ({"photo": (none, size)}, (none,)),
        ({"weights_sha256": OTHER_SHA256}, (SHA256, OTHER_SHA256, "--weights")),
        ({"network": Network("vgg16", str(none))}, (none,)),
    ]
    in_int8 = replace(requirements, precision="int8", versions=installed_versions("int8"))
    with locked(folder):
        for change, facts in changes:
            assert_names(str(replace(requirements, **change).fault()), *facts)
        assert in_int8.fault() is None
        monkeypatch.setattr(versions_module, "INT8_PACKAGES", ("no-such-package",))
        assert_names(str(in_int8.fault()), "no-such-package")


def test_a_worker_must_be_able_to_write(
    requirements: ExtractRequirements, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = os.strerror(errno.ENOSPC)

    def no_space(**_: Any) -> None:
        raise OSError(errno.ENOSPC, reason)

    monkeypatch.setattr("tempfile.TemporaryFile", no_space)
    assert_names(str(requirements.fault()), requirements.token_file.parent, reason)


def test_a_worker_without_the_program_is_named() -> None:
    class Strange:
        """A client of a worker that cannot read what it is sent."""

        def run(self, *_: Any, **__: Any) -> dict[str, Exception]:
            return {"tcp://a:1": ModuleNotFoundError("No module named 'bilinear_cli'")}

    with raises(BilinearError, "tcp://a:1", "bilinear_cli"):
        worker_check.check_workers(Strange(), ANY)


# Addresses and options that are refused ----------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "facts"),
    [(b"", ["0.2 s"]), (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", [])],
    ids=["nothing", "something else"],
)
@pytest.mark.slow
def test_who_is_no_scheduler_is_one_line(
    answer: bytes, facts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect_module, "CONNECT_SECONDS", 0.2)
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = "tcp://{}:{}".format(*server.getsockname())

        def serve() -> None:
            visitor, _ = server.accept()
            with visitor:
                visitor.sendall(answer)
                over.wait()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with raises(BilinearError, address, *facts):
                connect(address).__enter__()
        finally:
            over.set()
            thread.join()


def test_a_protocol_that_is_not_set_up_is_one_line() -> None:
    with raises(BilinearError, "tls://127.0.0.1:1", "TLS"):
        connect("tls://127.0.0.1:1").__enter__()


@pytest.fixture
def refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, birds: PhotoSet, network: WorkerNetwork
) -> Callable[..., None]:
    """Return what runs a command that is refused in one line, which names these facts."""
    monkeypatch.chdir(tmp_path)
    use_network(monkeypatch, network)

    def run(words: list[str], facts: tuple[str, ...], code: int) -> None:
        command = ["extract", "--data", birds.root, *TINY, "-o", "x.h5", *words]
        result = run_command(*command, code=code)
        assert_names(error_line(result), *facts)
        assert len(result.stderr.splitlines()) == 1
        assert not [*tmp_path.glob("x.h5*")]

    return run


@pytest.mark.slow
def test_a_scheduler_that_is_not_there_is_one_line(
    refused: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect_module, "CONNECT_SECONDS", 0.25)
    refused(["--scheduler", "tcp://127.0.0.1:1"], ("tcp://127.0.0.1:1", "0.25 s"), 1)


@pytest.mark.parametrize("content", ["", "[1]", '{"cluster_id": 1}', '{"address": 1}', "\x89HDF"])
def test_a_file_that_is_no_scheduler_file_is_refused(
    content: str, refused: Callable[..., None], tmp_path: Path
) -> None:
    (tmp_path / "scheduler.json").write_text(content, "latin-1")
    refused(["--scheduler", "scheduler.json"], ("scheduler.json",), 1)


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        (["--scheduler", "local:0"], ("--scheduler", "local:0")),
        (["--scheduler", "local:x"], ("--scheduler", "local:x")),
        (["--scheduler", ""], ("--scheduler", "tcp://", "local")),
        (["--scheduler", "none.json"], ("--scheduler", "none.json", "tcp://", "local")),
        (["--scheduler", "local", "--shard", "1/2"], ("--scheduler", "--shard")),
        (["--no-merge"], ("--no-merge", "--scheduler")),
        (["--scheduler", "local", "--maps", "m.h5"], ("--maps", "--data")),
    ],
)
def test_options_that_cannot_be_meant_are_refused(
    words: list[str], facts: tuple[str, ...], refused: Callable[..., None]
) -> None:
    refused(words, facts, 2)


def test_a_projection_is_not_trained_by_workers(tmp_path: Path) -> None:
    path = write_features(tmp_path / "x.h5", {"max": np.eye(8)}, [0, 1] * 4, ["train"] * 8)
    words = ["train", "--features", path, "--classifier", "conv1x1", "--scheduler", "local:2"]
    facts = ("--scheduler", "--classifier", "conv1x1")
    assert_names(error_line(run_command(*words, code=2)), *facts)


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
