"""`bilinear extract --scheduler`, and what becomes of it without a scheduler."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import distributed
import pytest
from distributed import Client
from support.commands import run_command, start_python
from support.dask_processes import end_scheduler, forked_scheduler_and_worker, wait_for
from support.errors import raises
from support.photos import class_folders
from support.shards import ONE_BY_ONE, TINY, OnWorkers, assert_same
from support.thin_network import end_thin_networks, start_thin_networks, thin_networks
from support.worker_network import WorkerNetwork

from bilinear_cli.cluster import extract as extract_module
from bilinear_cli.cluster.shards_folder import shards_folder
from bilinear_cli.errors import BilinearError
from bilinear_cli.photos.photo_set import PhotoSet
from bilinear_cli.store import FeatureFile

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.fixture
def _thin_networks(address: str) -> Iterator[None]:
    """Let the command and the workers run a VGG16 with few channels."""
    with thin_networks(), Client(address) as client:
        client.run(start_thin_networks)
        yield
        client.run(end_thin_networks)


@pytest.mark.usefixtures("_thin_networks")
def test_the_command_prints_the_folder_of_shards_or_the_file(
    address: str, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract_module, "SHARDS_PER_WORKER", 1)
    photos = class_folders(tmp_path / "birds", {"tit": 6, "wren": 6})
    shards = shards_folder(output)
    words = ["extract", "--data", photos, *TINY, "--engine", "ncnn"]
    on_workers = [*words, "--scheduler", address, "-o", output]
    assert run_command(*on_workers, "--no-merge").stdout == f"{shards}\n"
    assert not output.exists()
    assert [path.name for path in sorted(shards.iterdir())] == ["001of002.h5", "002of002.h5"]
    assert "rows " in run_command("info", shards).stdout
    run_command("train", "--features", shards, "--pooling", "max", "-o", tmp_path / "runs")
    assert (tmp_path / "runs" / "x-max-softmax").is_dir()
    assert run_command(*on_workers).stdout == f"{output}\n"
    alone = tmp_path / "one" / "y.h5"
    run_command(*words, "-o", alone)
    assert_same(output, alone)
    with FeatureFile(output) as file:
        assert file.recipe.engine == "ncnn"


def test_a_scheduler_that_is_killed_during_a_shard_is_one_line(
    birds: PhotoSet, output: Path, network: WorkerNetwork, tmp_path: Path
) -> None:
    network.gate.touch()
    network = replace(network, load_fault="wait")
    file = tmp_path / "scheduler.json"

    def kill() -> None:
        wait_for(network.loaded_by)
        end_scheduler(process, distributed.default_client())

    with forked_scheduler_and_worker(file) as process:
        killing = threading.Thread(target=kill)
        killing.start()
        with raises(BilinearError, "scheduler"):
            OnWorkers(str(file), output, network).extract_shards(birds, ONE_BY_ONE)
        killing.join()
    assert network.loaded_by()


INTERRUPTED = """
import sys
from pathlib import Path
import pytest
from bilinear_cli.cli import main
from support.worker_network import WorkerNetwork, use_network
notes, gate = map(Path, sys.argv[1:3])
del sys.argv[1:3]
with pytest.MonkeyPatch.context() as patch:
    use_network(patch, WorkerNetwork("vgg16", "random", notes, gate, "wait"))
    main()
"""


def test_ctrl_c_is_one_line(birds: PhotoSet, output: Path, network: WorkerNetwork) -> None:
    network.gate.touch()
    words = [network.notes, network.gate, "extract", "--data", birds.root, *TINY]
    words += ["--engine", "tensorflow", "--scheduler", "local:1", "-o", output]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with start_python(INTERRUPTED, *words, start_new_session=True, **options) as client:
        wait_for(network.loaded_by)
        os.killpg(client.pid, signal.SIGINT)  # as a terminal does: to the workers, too
        network.gate.unlink()
        stdout, stderr = client.communicate()
    assert client.returncode == 130, stderr
    assert stdout == ""
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1].startswith("Error: ")
