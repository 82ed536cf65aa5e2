"""Workers that an extraction refuses, or that die of it."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from distributed import Client
from support.dask_processes import IMPATIENT, end, start
from support.errors import raises
from support.shards import MAX, ONE_BY_ONE, RECIPE, OnWorkers
from support.worker_network import (
    OTHER_SHA256,
    SHA256,
    WEIGHTS_VARIABLE,
    WorkerNetwork,
    set_weights,
)

from bilinear_cli.cluster import extract as extract_module
from bilinear_cli.cluster.connect import connect
from bilinear_cli.errors import BilinearError
from bilinear_cli.photos.photo_set import PhotoSet

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_a_worker_unlike_the_client_is_refused_by_name(
    on_workers: OnWorkers, birds: PhotoSet
) -> None:
    with Client(on_workers.address) as client:
        workers = client.scheduler_info(n_workers=-1)["workers"]
        (odd,) = [worker for worker, info in workers.items() if info["name"] == "odd"]
        client.run(set_weights, OTHER_SHA256, workers=[odd])
        try:
            with raises(BilinearError, "odd", odd, OTHER_SHA256, SHA256):
                on_workers.extract_shards(birds, RECIPE)
        finally:
            client.run(set_weights, SHA256, workers=[odd])
    assert not on_workers.network.loaded_by()
    assert [*on_workers.output.parent.iterdir()] == []


def test_a_worker_that_comes_later_is_checked_too(
    on_workers: OnWorkers, flock: PhotoSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With two threads a worker, Dask keeps shards back for later workers only if there are many.
    monkeypatch.setattr(extract_module, "SHARDS_PER_WORKER", 5)
    on_workers.network.gate.write_text("0")
    late: list[subprocess.Popen] = []

    def join(*_: int) -> None:
        if not late:
            words = (on_workers.address, "--name", "late", "--nthreads", "1", "--no-nanny")
            words += ("--preload", IMPATIENT)
            late.append(start("worker", *words, **{WEIGHTS_VARIABLE: OTHER_SHA256}))

    try:
        with raises(BilinearError, "late", "tcp://", OTHER_SHA256, SHA256):
            on_workers.extract_shards(flock, ONE_BY_ONE, join)
    finally:
        on_workers.network.gate.unlink()
        for worker in late:
            end(worker)


def test_workers_that_die_of_a_shard_are_one_line(
    birds: PhotoSet, output: Path, network: WorkerNetwork
) -> None:
    network = replace(network, load_fault="kill")
    facts = ("2", "extract_shard-", "tcp://127.0.0.1:", "--overwrite", "--batch-size")
    with connect("local:1") as client:
        client.cluster.scheduler.allowed_failures = 1
        with raises(BilinearError, *facts):
            OnWorkers(client.scheduler.address, output, network).extract_shards(birds, MAX)
    assert len(set(network.loaded_by())) == 2
