"""Extraction on Dask's workers, which are real processes with a small network."""

import logging
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client, Worker
from support.commands import environment
from support.dask_processes import wait_for
from support.errors import raises
from support.shards import (
    MAX,
    ONE_BY_ONE,
    RECIPE,
    assert_same,
    extract_here,
    extract_on_workers,
    extract_shards,
    photo_set,
)
from support.worker_network import OTHER_SHA256, WEIGHTS_VARIABLE, WorkerNetwork

from bilinear_cli.cluster import extract as extract_module
from bilinear_cli.cluster.shards_folder import is_complete, shards_folder
from bilinear_cli.errors import BadPhotoError, BilinearError, FeatureFileError, InUseError
from bilinear_cli.extraction.from_photos import Photos
from bilinear_cli.extraction.job import Job
from bilinear_cli.photos.photo_set import PhotoSet
from bilinear_cli.store import FeatureFile, locked, partial_path

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.fixture(autouse=True)
def _few_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut a set into four shards, since a worker compiles the network anew for each."""
    monkeypatch.setattr(extract_module, "SHARDS_PER_WORKER", 2)


@pytest.fixture
def ten_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut 32 photos into ten shards of three or four.

    Dask gives so many to both workers alike, and keeps some back for workers that come later.
    """
    monkeypatch.setattr(extract_module, "SHARDS_PER_WORKER", 5)


def messages(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    """Return the program's lines of a level."""
    records = [record for record in caplog.records if record.name.startswith("bilinear_cli")]
    return [record.getMessage() for record in records if record.levelno == level]


# The rows ----------------------------------------------------------------------------------


def test_rows_are_those_of_a_single_run(
    address: str,
    output: Path,
    network: WorkerNetwork,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    birds = photo_set(tmp_path / "birds", 6, 5)
    bad = [birds.root / birds.paths[i] for i in (3, 4, 5, 10)]  # one shard, and one of another
    for path in bad:
        path.write_text(f"no photo {path}")
    recipe = replace(RECIPE, views=("original", "flip"))
    options: dict[str, Any] = {"skip_bad": True, "attributes": {"limit": 0}}
    steps: list[tuple[int, int]] = []
    extract_on_workers(
        address,
        birds,
        recipe,
        output,
        network,
        progress=lambda *step: steps.append(step),
        **options,
    )
    warnings = messages(caplog, logging.WARNING)
    assert all(any(str(path) in line for line in warnings) for path in bad)
    caplog.clear()
    assert_same(output, extract_here(birds, recipe, tmp_path / "one" / "y.h5", **options))
    assert steps == sorted(steps)
    assert steps[-1] == (11, 11)
    assert len(network.loaded_by()) == len(set(network.loaded_by())) <= 2


def test_auto_precision_and_batch_size_are_those_that_suit_the_workers(
    address: str, birds: PhotoSet, output: Path, network: WorkerNetwork
) -> None:
    from bilinear_cli.networks.backbone import resolve_batch_size, resolve_precision

    extract_on_workers(
        address, birds, replace(MAX, precision="auto", batch_size=0), output, network
    )
    with FeatureFile(output) as file:
        assert file.attributes["precision"] == resolve_precision("auto")
        assert file.attributes["batch_size"] == resolve_batch_size(32)


def test_rows_of_an_earlier_file_are_reused_with_their_projection(
    address: str, birds: PhotoSet, output: Path, network: WorkerNetwork, tmp_path: Path
) -> None:
    old = extract_here(birds.limit(8), RECIPE, tmp_path / "one" / "old.h5")
    extract_on_workers(address, birds, RECIPE, output, network, reuse=old)
    assert len(network.batches()) <= 3  # for 3 of 11 photos
    assert_same(output, extract_here(birds, RECIPE, tmp_path / "two" / "y.h5", reuse=old))


def test_a_set_without_a_readable_photo_is_refused(
    address: str, output: Path, network: WorkerNetwork, tmp_path: Path
) -> None:
    birds = photo_set(tmp_path / "birds", 2, 2)
    for path in birds.paths:
        (birds.root / path).write_text(f"no photo {path}")
    with raises(BadPhotoError):
        extract_on_workers(address, birds, MAX, output, network, skip_bad=True)
    assert not output.exists()


def test_large_sets_have_shards_for_workers_that_come_later(
    address: str,
    birds: PhotoSet,
    output: Path,
    network: WorkerNetwork,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(extract_module, "MOST_IN_SHARD", 2)
    shards = extract_shards(address, birds, ONE_BY_ONE, output, network)
    assert shards
    assert len(shards) == 6  # of 11 photos


# A run that is repeated ---------------------------------------------------------------------


def test_a_killed_worker_loses_its_batch_alone(
    address: str,
    flock: PhotoSet,
    flock_rows: Path,
    output: Path,
    network: WorkerNetwork,
    ten_shards: None,
) -> None:
    network.gate.write_text("8")
    killed: list[int] = []

    def kill(*_: int) -> None:
        """Kill a worker in the middle of a shard, and wait for the one after it."""
        if killed:
            return
        wait_for(lambda: len(network.batches()) == 10)  # both workers are at the gate
        begun = Counter(network.computed_by())
        killed.append(next(pid for pid, n in begun.items() if (n - 1) % 3))
        os.kill(killed[0], signal.SIGKILL)
        wait_for(lambda: len(set(network.loaded_by())) == 3)
        network.gate.unlink()

    extract_on_workers(address, flock, ONE_BY_ONE, output, network, progress=kill)
    assert len(set(network.loaded_by()) - {*killed}) == 2
    assert sorted(Counter(network.batches()).values()) == [1] * 31 + [2]
    assert_same(output, flock_rows)


CLIENT = """
import sys
from pathlib import Path
from bilinear_cli.cluster import extract
from bilinear_cli.photos.photo_set import load_photo_set
from support.shards import ONE_BY_ONE, extract_shards
from support.worker_network import WorkerNetwork
extract.SHARDS_PER_WORKER = 5
address, photos, output, notes, gate = sys.argv[1:]
network = WorkerNetwork("small", "random", Path(notes), Path(gate))
extract_shards(address, load_photo_set(photos), ONE_BY_ONE, Path(output), network)
"""


def executing(dask_worker: Worker) -> int:
    return sum(task.state == "executing" for task in dask_worker.state.tasks.values())


def tasks_of_worker(dask_worker: Worker) -> int:
    return len(dask_worker.state.tasks)


def test_tasks_of_a_killed_client_stop_and_no_batch_is_computed_twice(
    address: str, flock: PhotoSet, flock_rows: Path, output: Path, network: WorkerNetwork
) -> None:
    network.gate.write_text("5")
    words = [address, flock.spec, output, network.notes, network.gate]
    command = [sys.executable, "-c", CLIENT, *map(str, words)]
    with subprocess.Popen(command, env=environment()) as killed:
        wait_for(lambda: len(network.batches()) == 7)  # both workers are at the gate
        killed.kill()
    with Client(address) as client:
        wait_for(lambda: not any(client.run(executing).values()))
        network.gate.unlink()
        wait_for(lambda: not any(client.run(tasks_of_worker).values()))
    folder = shards_folder(output)
    assert not [*folder.glob("*.lock")]
    assert len(network.batches()) == 7
    assert [*folder.glob("*.h5.partial")]
    steps: list[int] = []
    extract_on_workers(
        address,
        flock,
        ONE_BY_ONE,
        output,
        network,
        progress=lambda done, _: steps.append(done),
    )
    assert steps[0] >= 7
    assert len(network.batches()) == len(set(network.batches())) == 32
    assert_same(output, flock_rows)


def test_a_bad_photo_ends_the_run_and_rows_are_kept(
    address: str, flock: PhotoSet, flock_rows: Path, output: Path, network: WorkerNetwork
) -> None:
    bad = flock.root / flock.paths[14]
    photo = bad.read_bytes()
    bad.write_text("no photo")
    try:
        with raises(BadPhotoError, bad, "--skip-bad"):
            extract_on_workers(address, flock, ONE_BY_ONE, output, network)
    finally:
        bad.write_bytes(photo)
    assert not output.exists()
    extract_on_workers(address, flock, ONE_BY_ONE, output, network)
    assert len(network.batches()) == len(set(network.batches())) == 32
    assert_same(output, flock_rows)


def test_a_complete_file_needs_no_workers(
    birds: PhotoSet, output: Path, network: WorkerNetwork, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    extract_here(birds, MAX, output)
    caplog.clear()
    auto = replace(MAX, precision="auto", batch_size=0)
    assert extract_shards("nowhere", birds, auto, output, network) is None
    assert [str(output) in line for line in messages(caplog, logging.INFO)] == [True]
    with raises(FeatureFileError, output, "resize", "squash", "pad", "--output", "--overwrite"):
        extract_shards("nowhere", birds, replace(MAX, resize="pad"), output, network)
    output.rename(partial_path(output))
    with raises(FeatureFileError, partial_path(output), "--scheduler", "--output", "--overwrite"):
        extract_shards("nowhere", birds, MAX, output, network)


def test_earlier_shards_decide(
    address: str,
    birds: PhotoSet,
    output: Path,
    network: WorkerNetwork,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(extract_module, "SHARDS_PER_WORKER", 1)
    recipe = replace(RECIPE, poolings=("max", "bilinear:3"))
    shards = extract_shards(address, birds, recipe, output, network)
    assert shards
    assert [path.name for path in shards] == ["001of002.h5", "002of002.h5"]
    shards[1].unlink()
    monkeypatch.setattr(extract_module, "SHARDS_PER_WORKER", 2)
    for name, earlier, now in (
        ("resize", "squash", "pad"),
        ("batch_size", 3, 2),
        ("precision", "float32", "bfloat16"),
    ):
        with raises(FeatureFileError, shards[0], name.replace("_", "-"), earlier, now, "--output"):
            extract_shards(address, birds, replace(recipe, **{name: now}), output, network)
    labels = replace(birds, labels=1 - birds.labels)
    with raises(FeatureFileError, shards[0], "--output", "--overwrite"):
        extract_shards(address, labels, recipe, output, network)
    with raises(FeatureFileError, shards[0], "limit", 5, "--output", "--overwrite"):
        extract_shards(address, birds, recipe, output, network, attributes={"limit": 5})
    auto, before = replace(recipe, precision="auto", batch_size=0), len(network.batches())
    assert extract_shards(address, birds, auto, output, network) == shards
    assert len(network.batches()) == before + 2  # of the shard, and none for a projection
    with FeatureFile(shards[1]) as again, FeatureFile(shards[0]) as earlier:
        projections = [file.parameters["projection-3"] for file in (again, earlier)]
    np.testing.assert_array_equal(*projections)
    extract_shards(address, birds, recipe, output, network, overwrite=True)
    assert len([*shards[0].parent.iterdir()]) == 4


def test_shards_older_than_the_output_do_not_replace_it(
    address: str,
    birds: PhotoSet,
    output: Path,
    network: WorkerNetwork,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shards = extract_shards(address, birds, MAX, output, network)
    assert shards
    extract_here(birds, replace(MAX, resize="pad"), output)
    with raises(FeatureFileError, output, "resize", "pad", "squash"):
        extract_shards("nowhere", birds, MAX, output, network)
    for shard in shards:
        shard.unlink()
    partial_path(shards[0]).touch()
    assert not is_complete(Job(Photos(birds, network), MAX, output))
    extract_on_workers(address, birds, MAX, output, network, overwrite=True)
    with FeatureFile(output) as file:
        assert file.attributes["resize"] == "squash"
    shards[0].parent.mkdir()
    shards[0].touch()
    os.utime(shards[0], (0, 0))
    caplog.set_level(logging.INFO)
    caplog.clear()
    assert extract_shards("nowhere", birds, MAX, output, network) is None
    (line,) = [x for x in messages(caplog, logging.INFO) if str(shards[0].parent) in x]
    assert str(output) in line.replace(str(shards[0].parent), "")


MERGE = """
import os, sys
from pathlib import Path
from bilinear_cli.cluster.extract import merge_shards
output, *shards = map(Path, sys.argv[1:])
merge_shards(shards, output, lambda *_: os.kill(os.getpid(), 9))
"""


def test_a_client_that_is_killed_while_it_merges_merges_again(
    address: str, birds: PhotoSet, output: Path, network: WorkerNetwork, tmp_path: Path
) -> None:
    shards = extract_shards(address, birds, MAX, output, network)
    assert shards
    command = [sys.executable, "-c", MERGE, *map(str, (output, *shards))]
    assert subprocess.run(command, env=environment()).returncode == -signal.SIGKILL
    assert not output.exists()
    before = len(network.batches())
    extract_on_workers(address, birds, MAX, output, network)
    assert len(network.batches()) == before
    assert_same(output, extract_here(birds, MAX, tmp_path / "one" / "y.h5"))


def test_overwriting_keeps_shards_until_the_workers_are_checked(
    address: str,
    birds: PhotoSet,
    output: Path,
    network: WorkerNetwork,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shards = extract_shards(address, birds, MAX, output, network)
    assert shards
    monkeypatch.setenv(WEIGHTS_VARIABLE, OTHER_SHA256)  # of the client
    other = replace(MAX, weights_sha256=OTHER_SHA256)
    with raises(BilinearError, OTHER_SHA256, network.sha256()):
        extract_shards(address, birds, other, output, network, overwrite=True)
    assert all(shard.exists() for shard in shards)


def test_workers_ignore_warnings_of_pillow(
    address: str, birds: PhotoSet, output: Path, network: WorkerNetwork
) -> None:
    def warns(module: str) -> bool:
        with warnings.catch_warnings(record=True) as caught:
            warnings.warn_explicit("Corrupt EXIF data", UserWarning, "x.py", 1, module)
        return bool(caught)

    extract_on_workers(address, birds, MAX, output, network)
    with Client(address) as client:
        assert False in client.run(warns, "PIL.TiffImagePlugin").values()
        assert False not in client.run(warns, "bilinear_cli").values()


def test_a_shard_in_use_is_waited_for(
    address: str,
    birds: PhotoSet,
    output: Path,
    network: WorkerNetwork,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shard = shards_folder(output) / "002of004.h5"
    arguments = (address, birds, MAX, output, network)
    extraction = threading.Thread(target=extract_on_workers, args=arguments)
    with locked(shard):
        extraction.start()
        wait_for(lambda: messages(caplog, logging.WARNING))
        with raises(InUseError, shard.parent):
            extract_shards(*arguments)
        assert not output.exists()
    extraction.join()
    assert output.exists()
    (line,) = messages(caplog, logging.WARNING)
    assert str(shard) in line
    assert f"{os.getpid()}" in line


# A process of a worker ----------------------------------------------------------------------


def test_a_worker_with_several_threads_makes_one_shard_at_a_time(
    address: str,
    flock: PhotoSet,
    flock_rows: Path,
    output: Path,
    network: WorkerNetwork,
    ten_shards: None,
) -> None:
    network.gate.write_text("0")
    n_shards: list[int] = []

    def open_gate(*_: int) -> None:
        """Open the gate when each worker has two tasks, and one of the two a batch."""
        if n_shards:
            return
        wait_for(lambda: len(network.batches()) >= 2)
        with Client(address) as client:
            wait_for(lambda: [*client.run(executing).values()] == [2, 2])
        n_shards.append(len([*shards_folder(output).glob("*.lock")]))
        network.gate.unlink()

    extract_on_workers(address, flock, ONE_BY_ONE, output, network, progress=open_gate)
    assert n_shards == [2]
    assert len(network.batches()) == len(set(network.batches())) == 32  # no two at a time
    assert_same(output, flock_rows)
