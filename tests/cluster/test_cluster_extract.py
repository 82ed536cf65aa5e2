"""Extraction on Dask's workers, which are real processes with a small network."""

import logging
import os
import signal
import threading
import warnings
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client, Worker
from support.commands import start_python
from support.dask_processes import wait_for
from support.errors import messages, raises
from support.shards import (
    MAX,
    ONE_BY_ONE,
    RECIPE,
    OnWorkers,
    assert_same,
    extract_locally,
    photo_set,
)
from support.worker_network import OTHER_SHA256, WEIGHTS_VARIABLE

from bilinear_cli.cluster import extract as extract_module
from bilinear_cli.cluster import lag
from bilinear_cli.cluster import shards_folder as shards_module
from bilinear_cli.cluster.shards_folder import begin_replacing, is_complete, shards_folder
from bilinear_cli.errors import BadPhotoError, BilinearError, FeatureFileError, InUseError
from bilinear_cli.extraction.from_photos import PhotoInput
from bilinear_cli.extraction.job import Job, installed_versions
from bilinear_cli.networks.engines import MEASURED_ENGINES
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

    Dask gives both workers some of so many tasks, and keeps the rest for workers that join later.
    """
    monkeypatch.setattr(extract_module, "SHARDS_PER_WORKER", 5)


# The rows ----------------------------------------------------------------------------------


def test_rows_are_those_of_a_single_run(
    on_workers: OnWorkers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    birds = photo_set(tmp_path / "birds", 6, 5)
    bad = [birds.root / birds.paths[i] for i in (3, 4, 5, 10)]  # one shard, and one of another
    for path in bad:
        path.write_text(f"no photo {path}")
    recipe = replace(RECIPE, views=("original", "flip"))
    options: dict[str, Any] = {"skip_bad": True, "attributes": {"limit": 0}}
    steps: list[tuple[int, int]] = []
    caplog.set_level(logging.INFO)
    on_workers.extract(birds, recipe, lambda *step: steps.append(step), **options)
    sampled = np.count_nonzero(birds.split == "train")
    assert any(f"{sampled} of {sampled}" in line for line in messages(caplog, logging.INFO))
    warnings = messages(caplog, logging.WARNING)
    assert all(any(str(path) in line for line in warnings) for path in bad)
    caplog.clear()
    rows = extract_locally(birds, recipe, tmp_path / "one" / "y.h5", **options)
    assert_same(on_workers.output, rows)
    assert steps == sorted(steps)
    assert steps[-1] == (11, 11)
    loaded_by = on_workers.network.loaded_by()
    assert len(loaded_by) == len(set(loaded_by)) <= 2


def test_auto_is_what_suits_the_workers(on_workers: OnWorkers, birds: PhotoSet) -> None:
    from bilinear_cli.networks import backbone

    auto = replace(MAX, precision="float32", engine="auto", batch_size=0)
    on_workers.extract(birds, auto)
    with FeatureFile(on_workers.output) as file:
        recipe = file.recipe
        assert file.attributes["versions"] == installed_versions(recipe)
    assert recipe.engine == backbone.resolve_engine("auto", "vgg16", recipe.precision)
    assert recipe.batch_size == backbone.resolve_batch_size(32, 700 * 32**2)


@pytest.mark.parametrize("engine", ["tensorflow", "ncnn"])
def test_rows_of_an_earlier_file_are_reused_with_their_projection(
    engine: str,
    on_workers: OnWorkers,
    birds: PhotoSet,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    recipe = replace(RECIPE, engine=engine)
    earlier = extract_locally(birds.limit(8), RECIPE, tmp_path / "one" / "x.h5")
    on_workers.extract(birds, recipe, reuse=earlier)
    lines = [x for x in messages(caplog, logging.INFO) if MEASURED_ENGINES in x]
    assert len(lines) == (engine == "ncnn")
    assert len(on_workers.network.batches()) <= 3  # for 3 of 11 photos
    expected = extract_locally(birds, recipe, tmp_path / "two" / "y.h5", reuse=earlier)
    assert_same(on_workers.output, expected)


def test_a_set_without_a_readable_photo_is_refused(on_workers: OnWorkers, tmp_path: Path) -> None:
    birds = photo_set(tmp_path / "birds", 2, 2)
    for path in birds.paths:
        (birds.root / path).write_text(f"no photo {path}")
    with raises(BadPhotoError, birds.root):
        on_workers.extract(birds, MAX, skip_bad=True)
    assert not on_workers.output.exists()


# A run that is repeated ---------------------------------------------------------------------


def test_a_killed_worker_loses_its_batch_alone(
    on_workers: OnWorkers, flock: PhotoSet, flock_rows: Path, ten_shards: None
) -> None:
    network = on_workers.network
    network.gate.write_text("8")
    killed: list[int] = []

    def kill(*_: int) -> None:
        """Kill a worker in the middle of a shard, and wait for the one after it."""
        if killed:
            return
        wait_for(lambda: len(network.batches()) == 10)  # both workers are at the gate
        n_batches = Counter(network.computed_by())
        killed.append(next(pid for pid, n in n_batches.items() if (n - 1) % 3))
        os.kill(killed[0], signal.SIGKILL)
        wait_for(lambda: len(set(network.loaded_by())) == 3)
        network.gate.unlink()

    on_workers.extract(flock, ONE_BY_ONE, kill)
    assert len(set(network.loaded_by()) - {*killed}) == 2
    assert sorted(Counter(network.batches()).values()) == [1] * 31 + [2]
    assert_same(on_workers.output, flock_rows)


CLIENT = """
import sys
from pathlib import Path
from bilinear_cli.cluster import extract
from bilinear_cli.photos.photo_set import load_photo_set
from support.shards import ONE_BY_ONE, OnWorkers
from support.worker_network import WorkerNetwork
extract.SHARDS_PER_WORKER = 5
address, photos, output, notes, gate = sys.argv[1:]
network = WorkerNetwork("vgg16", "random", Path(notes), Path(gate))
OnWorkers(address, Path(output), network).extract_shards(load_photo_set(photos), ONE_BY_ONE)
"""


def states(dask_worker: Worker) -> list[str]:
    return [task.state for task in dask_worker.state.tasks.values()]


def test_tasks_of_a_killed_client_stop_and_no_batch_is_computed_twice(
    on_workers: OnWorkers, flock: PhotoSet, flock_rows: Path
) -> None:
    network, output = on_workers.network, on_workers.output
    network.gate.write_text("5")
    arguments = [on_workers.address, flock.spec, output, network.notes, network.gate]
    with start_python(CLIENT, *arguments) as killed:
        wait_for(lambda: len(network.batches()) == 7)  # both workers are at the gate
        killed.kill()
    with Client(on_workers.address) as client:
        wait_for(lambda: not any("executing" in tasks for tasks in client.run(states).values()))
        network.gate.unlink()
        wait_for(lambda: not any(client.run(states).values()))
    folder = shards_folder(output)
    assert not [*folder.glob("*.lock")]
    assert len(network.batches()) == 7
    assert [*folder.glob("*.h5.partial")]
    steps: list[int] = []
    on_workers.extract(flock, ONE_BY_ONE, lambda n_done, _: steps.append(n_done))
    assert steps[0] >= 7
    assert len(network.batches()) == len(set(network.batches())) == 32
    assert_same(output, flock_rows)


def test_a_bad_photo_ends_the_run_and_rows_are_kept(
    on_workers: OnWorkers, flock: PhotoSet, flock_rows: Path
) -> None:
    bad = flock.root / flock.paths[14]
    photo = bad.read_bytes()
    bad.write_text("no photo")
    try:
        with raises(BadPhotoError, bad, "--skip-bad"):
            on_workers.extract(flock, ONE_BY_ONE)
    finally:
        bad.write_bytes(photo)
    assert not on_workers.output.exists()
    on_workers.extract(flock, ONE_BY_ONE)
    batches = on_workers.network.batches()
    assert len(batches) == len(set(batches)) == 32
    assert_same(on_workers.output, flock_rows)


def test_a_complete_file_needs_no_workers(
    on_workers: OnWorkers, birds: PhotoSet, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere, output = replace(on_workers, address="nowhere"), on_workers.output
    caplog.set_level(logging.INFO)
    extract_locally(birds, MAX, output)
    caplog.clear()
    assert nowhere.extract_shards(birds, replace(MAX, precision="auto", batch_size=0)) is None
    assert [str(output) in line for line in messages(caplog, logging.INFO)] == [True]
    with raises(FeatureFileError, output, "resize", "squash", "pad", "--output", "--overwrite"):
        nowhere.extract_shards(birds, replace(MAX, resize="pad"))
    output.rename(partial_path(output))
    with raises(FeatureFileError, partial_path(output), "--scheduler", "--output", "--overwrite"):
        nowhere.extract_shards(birds, MAX)


def test_new_shards_must_suit_existing_ones(
    on_workers: OnWorkers, birds: PhotoSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract_module, "SHARDS_PER_WORKER", 1)
    recipe = replace(RECIPE, specs=("max", "bilinear:3"))
    shards = on_workers.extract_shards(birds, recipe)
    assert [path.name for path in shards] == ["001of002.h5", "002of002.h5"]
    shards[1].unlink()
    monkeypatch.setattr(extract_module, "SHARDS_PER_WORKER", 2)
    for name, earlier, now in (
        ("resize", "squash", "pad"),
        ("batch_size", 3, 2),
        ("precision", "float32", "bfloat16"),
    ):
        with raises(FeatureFileError, shards[0], name.replace("_", "-"), earlier, now, "--output"):
            on_workers.extract_shards(birds, replace(recipe, **{name: now}))
    with raises(FeatureFileError, shards[0], "--output", "--overwrite"):
        on_workers.extract_shards(replace(birds, labels=1 - birds.labels), recipe)
    with raises(FeatureFileError, shards[0], "limit", 5, "--output", "--overwrite"):
        on_workers.extract_shards(birds, recipe, attributes={"limit": 5})
    n_batches = len(on_workers.network.batches())
    auto = replace(recipe, precision="auto", batch_size=0)
    assert on_workers.extract_shards(birds, auto) == shards
    # Two batches of the shard, and none for a projection.
    assert len(on_workers.network.batches()) == n_batches + 2
    with FeatureFile(shards[1]) as resumed, FeatureFile(shards[0]) as earlier:
        projections = [file.parameters["projection-3"] for file in (resumed, earlier)]
    np.testing.assert_array_equal(*projections)
    on_workers.extract_shards(birds, recipe, overwrite=True)
    assert len([*shards[0].parent.iterdir()]) == 4


def test_what_is_newer_is_decided_by_content_and_not_by_times(
    on_workers: OnWorkers, birds: PhotoSet, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere, output = replace(on_workers, address="nowhere"), on_workers.output
    job = Job(PhotoInput(birds, on_workers.network), MAX, output)
    shards = on_workers.extract_shards(birds, MAX)
    extract_locally(birds, MAX, output)
    for newer in (0, 1 << 40):  # the shards were made before the output, whatever a clock says
        os.utime(shards[0], (newer, newer))
        caplog.set_level(logging.INFO)
        caplog.clear()
        assert nowhere.extract_shards(birds, MAX) is None
        (line,) = [x for x in messages(caplog, logging.INFO) if str(shards[0].parent) in x]
        assert str(output) in line.replace(str(shards[0].parent), "")
    with raises(FeatureFileError, output, "resize", "pad", "squash"):
        nowhere.extract_shards(birds, replace(MAX, resize="pad"))
    begin_replacing(output)
    assert is_complete(job)  # a run with --overwrite was stopped before its first shard
    partial_path(shards[0]).touch()
    os.utime(partial_path(shards[0]), (0, 0))
    assert not is_complete(job)  # and after it
    extract_locally(birds, MAX, output, overwrite=True, attributes={"command": "another"})
    assert is_complete(job)  # the output that it was to replace has gone
    on_workers.extract(birds, replace(MAX, resize="pad"), overwrite=True)
    with FeatureFile(output) as file:
        assert file.attributes["resize"] == "pad"
    assert [path.name for path in output.parent.iterdir()] == [output.name]


@pytest.mark.parametrize("looks", [2, 1000], ids=["lags", "never"])
def test_a_finished_shard_that_this_machine_does_not_see_yet_is_waited_for(
    looks: int, on_workers: OnWorkers, birds: PhotoSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lag of the shared folder is simulated."""
    blind = iter([False] * looks)
    monkeypatch.setattr(shards_module, "is_visible", lambda path: next(blind, True))
    monkeypatch.setattr(lag, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(lag, "LAG_SECONDS", 0.1)
    seen = looks < 100
    with nullcontext() if seen else raises(FeatureFileError, "001of004.h5", "4"):
        on_workers.extract(birds, MAX)
    assert on_workers.output.exists() == seen


MERGE = """
import os, sys
from pathlib import Path
from bilinear_cli.cluster.extract import merge_shards
output, *shards = map(Path, sys.argv[1:])
merge_shards(shards, output, lambda *_: os.kill(os.getpid(), 9))
"""


def test_a_client_that_is_killed_while_it_merges_merges_again(
    on_workers: OnWorkers, birds: PhotoSet, tmp_path: Path
) -> None:
    shards = on_workers.extract_shards(birds, MAX)
    assert start_python(MERGE, on_workers.output, *shards).wait() == -signal.SIGKILL
    assert not on_workers.output.exists()
    n_batches = len(on_workers.network.batches())
    on_workers.extract(birds, MAX)
    assert len(on_workers.network.batches()) == n_batches
    assert_same(on_workers.output, extract_locally(birds, MAX, tmp_path / "one" / "y.h5"))


def test_overwriting_keeps_shards_until_the_workers_are_checked(
    on_workers: OnWorkers, birds: PhotoSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = on_workers.extract_shards(birds, MAX)
    monkeypatch.setenv(WEIGHTS_VARIABLE, OTHER_SHA256)  # of the client
    recipe = replace(MAX, weights_sha256=OTHER_SHA256)
    with raises(BilinearError, OTHER_SHA256, on_workers.network.sha256()):
        on_workers.extract_shards(birds, recipe, overwrite=True)
    assert all(shard.exists() for shard in shards)


def test_workers_ignore_warnings_of_pillow(on_workers: OnWorkers, birds: PhotoSet) -> None:
    def warns(module: str) -> bool:
        with warnings.catch_warnings(record=True) as caught:
            warnings.warn_explicit("Corrupt EXIF data", UserWarning, "x.py", 1, module)
        return bool(caught)

    on_workers.extract(birds, MAX)
    with Client(on_workers.address) as client:
        assert False in client.run(warns, "PIL.TiffImagePlugin").values()
        assert False not in client.run(warns, "bilinear_cli").values()


def test_shards_in_use_are_waited_for_and_hold_up_no_others(
    on_workers: OnWorkers, birds: PhotoSet, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shards_folder(on_workers.output)
    in_use, others = ([folder / f"00{i}of004.h5" for i in pair] for pair in ((1, 2), (3, 4)))
    extraction = threading.Thread(target=on_workers.extract, args=(birds, MAX))
    with locked(in_use[0]), locked(in_use[1]):  # one for each worker
        extraction.start()
        wait_for(lambda: len(messages(caplog, logging.WARNING)) == 2)
        wait_for(lambda: all(shard.exists() for shard in others))
        with raises(InUseError, folder):
            on_workers.extract_shards(birds, MAX)
        assert not on_workers.output.exists()
    extraction.join()
    assert on_workers.output.exists()
    lines = sorted(messages(caplog, logging.WARNING))
    assert all(str(shard) in line for shard, line in zip(in_use, lines, strict=True))
    assert all(f"{os.getpid()}" in line for line in lines)


# A process of a worker ----------------------------------------------------------------------


def test_a_worker_with_several_threads_extracts_one_shard_at_a_time(
    on_workers: OnWorkers, flock: PhotoSet, flock_rows: Path, ten_shards: None
) -> None:
    network = on_workers.network
    network.gate.write_text("0")
    n_shards: list[int] = []

    def open_gate(*_: int) -> None:
        """Open the gate when each worker has two tasks, and one of the two a batch."""
        if n_shards:
            return
        wait_for(lambda: len(network.batches()) >= 2)
        with Client(on_workers.address) as client:
            wait_for(lambda: [x.count("executing") for x in client.run(states).values()] == [2, 2])
        n_shards.append(len([*shards_folder(on_workers.output).glob("*.lock")]))
        network.gate.unlink()

    on_workers.extract(flock, ONE_BY_ONE, open_gate)
    assert n_shards == [2]
    assert len(network.batches()) == len(set(network.batches())) == 32  # no two at a time
    assert_same(on_workers.output, flock_rows)
