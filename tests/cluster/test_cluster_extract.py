"""Tests of extraction on Dask's workers, which are real processes, mostly with a small network."""

import errno
import gc
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from click.testing import CliRunner, Result
from distributed import LocalCluster, Nanny, Scheduler, SpecCluster
from networks import OTHER, SHA256, Small, noted
from processes import ENVIRONMENT, begun, end, start, wait_for

from bilinear_cli.cli import cli
from bilinear_cli.cluster import connect as connect_module
from bilinear_cli.cluster import extract as extract_module
from bilinear_cli.cluster import folder as folder_module
from bilinear_cli.cluster.before import is_complete, settled
from bilinear_cli.cluster.extract import extract_shards, merge_shards
from bilinear_cli.cluster.load import load_dask
from bilinear_cli.data.dataset import Dataset, load_dataset
from bilinear_cli.errors import BadPhotoError, BilinearError, FeatureFileError, InUseError
from bilinear_cli.features.extract import extract
from bilinear_cli.features.settings import Settings
from bilinear_cli.store import FeatureFile, locked, partial_path

POOLINGS = ("max", "bilinear", "bilinear:3", "compact:16", "conv5")
SETTINGS = Settings(POOLINGS, "block5_conv3", 32, "squash", "float32", 3, SHA256)
ROW = replace(SETTINGS, poolings=("max", "bilinear:3"), batch_size=1)  # a photo a batch
COLUMNS = ("photo", "view", "labels", "paths", "sha256", "split", "group")
MakePhoto = Callable[..., Path]


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    load_dask()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Return the address of a scheduler with two workers, which are begun anew when they die."""
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        yield cluster.scheduler_address


def one_worker(name: str = "odd", **options: Any) -> SpecCluster:
    """Return a cluster of one worker."""
    return SpecCluster(
        scheduler={"cls": Scheduler, "options": {"dashboard_address": ":0", "host": "127.0.0.1"}},
        workers={name: {"cls": Nanny, "options": {"nthreads": 1} | options}},
    )


@pytest.fixture
def birds(tmp_path: Path, class_folders: Callable[..., Path]) -> Dataset:
    """Return a set of 11 photos, which are three batches of 3 and one of 2."""
    return load_dataset(str(class_folders(tmp_path / "birds", {"tit": 6, "wren": 5})))


@pytest.fixture
def flock(tmp_path: Path, class_folders: Callable[..., Path]) -> Dataset:
    """Return a set of 32 photos."""
    return load_dataset(str(class_folders(tmp_path / "flock", {"tit": 16, "wren": 16})))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "shared" / "x.h5"


@pytest.fixture
def network(tmp_path: Path) -> Small:
    return Small("small", "random", tmp_path / "notes")


def single(dataset: Dataset, settings: Settings, output: Path, **options: Any) -> Path:
    """Extract in this process."""
    output.parent.mkdir(exist_ok=True)
    extract(dataset, settings, output, lambda: Small("small", "random").load(settings), **options)
    return output


def on_workers(
    address: str,
    dataset: Dataset,
    settings: Settings,
    output: Path,
    network: Small,
    **options: Any,
) -> None:
    """Extract on workers, and merge."""
    shards = extract_shards(address, dataset, settings, output, network, **options)
    assert shards
    merge_shards(shards, output)


def assert_same(a: Path, b: Path) -> None:
    """Compare two files to the bit, but for what says when and by whom they were made."""
    with FeatureFile(a) as one, FeatureFile(b) as other:
        every = np.arange(one.rows_done)
        assert one.shapes == other.shapes
        for name in COLUMNS:
            assert getattr(one, name).tolist() == getattr(other, name).tolist()
        for spec in one.shapes:
            assert one.read_raw(spec, every).tobytes() == other.read_raw(spec, every).tobytes()
        assert one.parameters.keys() == other.parameters.keys()
        for name, array in one.parameters.items():
            np.testing.assert_array_equal(array, other.parameters[name])
        assert one.skipped == other.skipped
        own = {"created", "command"}
        assert {k: v for k, v in one.attributes.items() if k not in own} == {
            k: v for k, v in other.attributes.items() if k not in own
        }
    assert [path.name for path in a.parent.iterdir()] == [a.name]


# What comes of it ------------------------------------------------------------------------


def test_rows_are_those_of_a_single_run(
    address: str,
    birds: Dataset,
    output: Path,
    network: Small,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for i in (3, 4, 5, 10):  # all of one shard, and one of another
        (birds.root / birds.paths[i]).write_text(f"no photo {i}")
    settings = replace(SETTINGS, views=("original", "flip"))
    steps: list[tuple[int, int]] = []
    on_workers(
        address,
        birds,
        settings,
        output,
        network,
        skip_bad=True,
        attributes={"limit": 0},
        progress=lambda *step: steps.append(step),
    )
    assert f"skipped: cannot read {birds.root / birds.paths[10]}" in caplog.text
    whole = single(
        birds, settings, tmp_path / "one" / "y.h5", skip_bad=True, attributes={"limit": 0}
    )
    assert_same(output, whole)
    assert steps == sorted(set(steps))
    assert steps[-1] == (11, 11)
    loaded, _ = noted(network.notes)
    assert len(loaded) == len(set(loaded)) <= 2


def test_what_is_open_is_what_suits_the_workers(
    address: str, birds: Dataset, output: Path, network: Small
) -> None:
    from bilinear_cli.features.backbone import resolve_batch_size, resolve_precision

    settings = replace(SETTINGS, precision="auto", batch_size=0, poolings=("max",))
    on_workers(address, birds, settings, output, network)
    with FeatureFile(output) as file:
        assert file.attributes["precision"] == resolve_precision("auto")
        assert file.attributes["batch_size"] == resolve_batch_size(32)


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ([("bfloat16", 16), ("bfloat16", 4)], ("bfloat16", 4)),
        ([("bfloat16", 4), ("float32", 16)], ("float32", 4)),
        ([("float32", 16), ("bfloat16", 16)], ("float32", 16)),
    ],
)
def test_what_is_open_is_what_suits_workers_that_differ(
    found: list[tuple[str, int]], wanted: tuple[str, int]
) -> None:
    class Differing:
        """A client of workers that answer otherwise."""

        def run(self, *_: Any) -> dict[int, tuple[str, int]]:
            return dict(enumerate(found))

    settings = settled(Differing(), replace(SETTINGS, precision="auto", batch_size=0))
    assert (settings.precision, settings.batch_size) == wanted


def test_rows_that_are_there_are_reused_with_their_projection(
    address: str, birds: Dataset, output: Path, network: Small, tmp_path: Path
) -> None:
    old = single(birds.limit(8), SETTINGS, tmp_path / "one" / "old.h5")
    on_workers(address, birds, SETTINGS, output, network, reuse=old)
    assert len(noted(network.notes)[1]) <= 3  # of 11 photos 3
    new = single(birds, SETTINGS, tmp_path / "two" / "y.h5", reuse=old)
    assert_same(output, new)


def test_a_set_without_one_photo(
    address: str, birds: Dataset, output: Path, network: Small
) -> None:
    for path in birds.paths:
        (birds.root / path).write_text(f"no photo {path}")
    settings = replace(SETTINGS, poolings=("max",))
    with pytest.raises(BadPhotoError, match="not one file of the photo set can be read"):
        on_workers(address, birds, settings, output, network, skip_bad=True)


# Going on --------------------------------------------------------------------------------


def test_a_worker_that_is_killed_loses_a_batch_at_most(
    address: str, flock: Dataset, output: Path, network: Small, tmp_path: Path
) -> None:
    settings = replace(ROW, poolings=("max",))  # and no sample is looked at
    network = replace(network, delay=0.15)
    killed: list[int] = []

    def kill(done: int, of: int) -> None:
        if done >= 6 and not killed:  # in the middle of two shards of four
            killed.append(int(network.notes.read_text().splitlines()[-1].split()[0]))
            os.kill(killed[0], signal.SIGKILL)

    on_workers(address, flock, settings, output, network, progress=kill)
    loaded, batches = noted(network.notes)
    assert killed
    assert len(set(loaded)) == 3  # two, and the one that was begun anew
    assert len(set(batches)) == 32
    assert len(batches) <= 33
    assert_same(output, single(flock, settings, tmp_path / "one" / "y.h5"))


CLIENT = """
import sys
from pathlib import Path
from test_cluster_extract import ROW, Small, extract_shards, load_dataset, replace
address, photos, output, notes = sys.argv[1:]
network = Small("small", "random", Path(notes), delay=0.5)
settings = replace(ROW, poolings=("max",))
extract_shards(address, load_dataset(photos), settings, Path(output), network)
"""


def test_tasks_of_a_client_that_is_killed_stop_and_nothing_is_done_twice(
    address: str,
    output: Path,
    network: Small,
    tmp_path: Path,
    class_folders: Callable[..., Path],
) -> None:
    flock = load_dataset(str(class_folders(tmp_path / "flock", {"tit": 32, "wren": 32})))
    words = [address, flock.spec, str(output), str(network.notes)]
    with subprocess.Popen([sys.executable, "-c", CLIENT, *words], env=ENVIRONMENT) as client:
        wait_for(lambda: len(noted(network.notes)[1]) >= 3)
        client.kill()
    before = len(noted(network.notes)[1])  # of shards of eight
    wait_for(lambda: not [*folder_module.shards_folder(output).glob("*.lock")])
    assert len(noted(network.notes)[1]) - before <= 4
    settings = replace(ROW, poolings=("max",))
    on_workers(address, flock, settings, output, network)
    _, batches = noted(network.notes)
    assert len(batches) == len(set(batches)) == 64
    assert_same(output, single(flock, settings, tmp_path / "one" / "y.h5"))


def test_the_first_bad_photo_ends_the_run_and_rows_are_kept(
    address: str, flock: Dataset, output: Path, network: Small, tmp_path: Path
) -> None:
    settings = replace(ROW, poolings=("max",))
    bad = flock.root / flock.paths[14]
    photo = bad.read_bytes()
    bad.write_text("no photo")
    with pytest.raises(BadPhotoError, match=rf"cannot read {bad} as a photo: .* with --skip-bad$"):
        on_workers(address, flock, settings, output, network)
    assert not output.exists()
    bad.write_bytes(photo)
    on_workers(address, flock, settings, output, network)
    _, batches = noted(network.notes)
    assert len(batches) == len(set(batches)) == 32
    assert_same(output, single(flock, settings, tmp_path / "one" / "y.h5"))


def test_a_finished_file_needs_no_workers(
    birds: Dataset, output: Path, network: Small, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    single(birds, SETTINGS, output)
    opened = replace(SETTINGS, precision="auto", batch_size=0)
    assert extract_shards("nowhere", birds, opened, output, network) is None
    assert f"{output} is complete: nothing to do" in caplog.text
    with pytest.raises(FeatureFileError, match="was made with resize squash, and pad is asked"):
        extract_shards("nowhere", birds, replace(SETTINGS, resize="pad"), output, network)
    output.rename(partial_path(output))
    with pytest.raises(FeatureFileError, match=r"x.h5.partial was begun without --scheduler"):
        extract_shards("nowhere", birds, SETTINGS, output, network)


def test_shards_that_are_there_decide(
    address: str, flock: Dataset, output: Path, network: Small, tmp_path: Path
) -> None:
    with one_worker() as cluster:  # another number of workers
        shards = extract_shards(cluster.scheduler_address, flock, ROW, output, network)
    assert shards
    assert [path.name for path in shards] == [f"00{i}of004.h5" for i in range(1, 5)]
    shards[2].unlink()
    for change, said in (
        ({"resize": "pad"}, "was made with resize squash, and pad is asked for: give another"),
        ({"batch_size": 2}, "was made with batch-size 1, and 2 is asked for"),
        ({"precision": "bfloat16"}, "was made with precision float32, and bfloat16 is asked for"),
    ):
        with pytest.raises(FeatureFileError, match=said):
            extract_shards(address, flock, replace(ROW, **change), output, network)
    labels = replace(flock, labels=1 - flock.labels)
    with pytest.raises(FeatureFileError, match="the photos, their labels or split are not those"):
        extract_shards(address, labels, ROW, output, network)
    with pytest.raises(FeatureFileError, match="was begun with limit None, and now it is 32"):
        extract_shards(address, flock, ROW, output, network, attributes={"limit": 32})
    opened = replace(ROW, precision="auto", batch_size=0)
    assert extract_shards(address, flock, opened, output, network) == shards
    with FeatureFile(shards[2]) as again, FeatureFile(shards[0]) as before:
        projections = [file.parameters["projection-3"] for file in (again, before)]
    np.testing.assert_array_equal(*projections)
    extract_shards(address, flock, ROW, output, network, overwrite=True)
    assert len({path.name for path in shards[0].parent.iterdir()}) == 8  # as suits two workers


def test_shards_older_than_the_output_do_not_replace_it(
    address: str, birds: Dataset, output: Path, network: Small, caplog: pytest.LogCaptureFixture
) -> None:
    settings = replace(SETTINGS, poolings=("max",))
    assert extract_shards(address, birds, settings, output, network)
    single(birds, replace(settings, resize="pad"), output)
    with pytest.raises(FeatureFileError, match="was made with resize pad, and squash is asked"):
        extract_shards("nowhere", birds, settings, output, network)
    for shard in folder_module.shards_folder(output).iterdir():
        shard.unlink()
    begun_anew = partial_path(folder_module.shards_folder(output) / "001of004.h5")
    begun_anew.touch()
    assert not is_complete(birds, settings, output, {})
    on_workers(address, birds, settings, output, network, overwrite=True)
    with FeatureFile(output) as file:
        assert file.attributes["resize"] == "squash"
    left = folder_module.shards_folder(output)
    left.mkdir()
    (left / "001of004.h5").touch()
    os.utime(left / "001of004.h5", (0, 0))
    caplog.set_level(logging.INFO)
    assert extract_shards("nowhere", birds, settings, output, network) is None
    assert f"{left} is older than {output}: it can be removed" in caplog.text


def test_a_client_that_is_killed_as_it_merges_merges_again(
    address: str, birds: Dataset, output: Path, network: Small, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, poolings=("max",))
    shards = extract_shards(address, birds, settings, output, network)
    assert shards
    dying = (
        "import os; from pathlib import Path\n"
        "from bilinear_cli.cluster.extract import merge_shards\n"
        f"merge_shards({shards}, {output!r}, lambda *_: os.kill(os.getpid(), 9))"
    ).replace("PosixPath", "Path")
    assert subprocess.run([sys.executable, "-c", dying], env=ENVIRONMENT).returncode == -9
    assert not output.exists()
    made = len(noted(network.notes)[1])
    on_workers(address, birds, settings, output, network)
    assert len(noted(network.notes)[1]) == made
    assert_same(output, single(birds, settings, tmp_path / "one" / "y.h5"))


def test_shards_are_kept_until_those_are_there_who_make_them_again(
    address: str,
    birds: Dataset,
    output: Path,
    network: Small,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = replace(SETTINGS, poolings=("max",))
    shards = extract_shards(address, birds, settings, output, network)
    assert shards
    monkeypatch.setenv(OTHER, "1" * 64)  # the workers' weights are others than the client's
    with pytest.raises(BilinearError, match="has weights"):
        extract_shards(
            address,
            birds,
            replace(settings, weights_sha256="1" * 64),
            output,
            network,
            overwrite=True,
        )
    assert all(shard.exists() for shard in shards)


def test_shards_are_small_enough_for_workers_that_come_later(
    address: str, flock: Dataset, output: Path, network: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract_module, "MOST_IN_SHARD", 3)
    shards = extract_shards(address, flock, replace(ROW, poolings=("max",)), output, network)
    assert shards
    assert len(shards) == 11  # of 32 photos


def test_a_shard_in_use_is_waited_for(
    address: str, birds: Dataset, output: Path, network: Small, caplog: pytest.LogCaptureFixture
) -> None:
    settings = replace(SETTINGS, poolings=("max",))
    shard = folder_module.shards_folder(output) / "002of004.h5"
    with locked(shard):
        thread = threading.Thread(
            target=on_workers, args=(address, birds, settings, output, network)
        )
        thread.start()
        wait_for(lambda: f"waiting: {shard} is in use by process {os.getpid()} on" in caplog.text)
        with pytest.raises(InUseError, match=r"x.h5.shards is in use by another program"):
            extract_shards(address, birds, settings, output, network)
        assert not output.exists()
    thread.join()
    assert output.exists()
    assert caplog.text.count("waiting: ") == 1


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="Python does so itself")
def test_frames_are_asked_for_without_collecting_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    from bilinear_cli.cluster import worker

    collecting = []
    monkeypatch.setattr(sys, "_current_frames", lambda: collecting.append(gc.isenabled()) or {})
    worker._keep_from_freezing.cache_clear()
    worker._keep_from_freezing()
    worker._keep_from_freezing()
    assert sys._current_frames() == {}
    assert collecting == [False]
    assert gc.isenabled()
    worker._keep_from_freezing.cache_clear()


def test_a_process_makes_one_shard_at_a_time(
    flock: Dataset, output: Path, network: Small, tmp_path: Path
) -> None:
    settings = replace(ROW, poolings=("max",))
    with one_worker(nthreads=4) as cluster:
        on_workers(cluster.scheduler_address, flock, settings, output, replace(network, delay=0.1))
    _, batches = noted(network.notes)
    assert "two at a time" not in batches
    assert len(batches) == 32
    assert_same(output, single(flock, settings, tmp_path / "one" / "y.h5"))


# Workers that are refused ----------------------------------------------------------------

BLIND = """
from pathlib import Path
def read_text(path, real=Path.read_text, **how):
    if path.name == "token":
        raise FileNotFoundError
    return real(path, **how)
Path.read_text = read_text
"""
OLD = """
from bilinear_cli.features import resume
resume.version = lambda name, real=resume.version: "0.0.1" if name == "keras" else real(name)
"""


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"preload": [BLIND]}, "does not see .*x.h5.shards: give an --output in a folder that all"),
        ({"preload": [OLD]}, r"has keras 0.0.1 \(here .*\): install the same"),
        ({"env": {OTHER: "1" * 64}}, f"has weights {'1' * 64}, and here they are {SHA256}"),
    ],
    ids=["folder", "version", "weights"],
)
def test_a_worker_that_is_not_as_it_must_be_is_refused_by_name(
    options: dict[str, Any], said: str, birds: Dataset, output: Path, network: Small
) -> None:
    with (
        one_worker(**options) as cluster,
        pytest.raises(BilinearError, match=rf"^worker odd at tcp://[\d.:]+ {said}.*$") as caught,
    ):
        extract_shards(cluster.scheduler_address, birds, SETTINGS, output, network)
    assert "\n" not in str(caught.value)
    assert not noted(network.notes)[1]
    assert [*output.parent.iterdir()] == []


def test_a_worker_that_comes_later_is_checked_too(
    address: str, flock: Dataset, output: Path, network: Small
) -> None:
    late: list[subprocess.Popen] = []

    def join(done: int, of: int) -> None:
        if not late:
            late.append(start("worker", address, "--name", "late", other=True))

    network = replace(network, delay=0.5)
    with pytest.raises(BilinearError, match=r"^worker late at tcp://[\d.:]+ has weights 1"):
        extract_shards(address, flock, ROW, output, network, progress=join)
    end(*late)


def test_workers_that_die_of_a_shard_are_one_line(
    birds: Dataset, output: Path, network: Small
) -> None:
    settings = replace(SETTINGS, poolings=("max",))
    network = replace(network, dies=True)
    said = r"^2 workers died over the task bilinear-shard-\w+-\d, the last of them tcp://\S+: "
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        one_worker() as cluster,
        pytest.raises(BilinearError, match=said),
    ):
        extract_shards(cluster.scheduler_address, birds, settings, output, network)


def no_space(**_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_what_a_worker_looks_at(
    birds: Dataset,
    tmp_path: Path,
    network: Small,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    from bilinear_cli.cluster.premises import Network, Premises
    from bilinear_cli.features import resume
    from bilinear_cli.features.resume import versions

    shared = tmp_path / "x.h5.shards"
    shared.mkdir()
    token, photo = shared / "token", birds.root / birds.paths[0]
    token.write_text("abc")
    size = photo.stat().st_size
    good = Premises(token, "abc", birds.root, (photo, size), versions(), network, SHA256)
    assert f"does not see that {shared} is locked: it needs a file system" in str(good.fault())
    held = locked(shared)  # by the client
    held.__enter__()
    request.addfinalizer(lambda: held.__exit__(None, None, None))
    assert good.fault() is None
    for change, said in (
        ({"token": "abd"}, f"does not see {shared}"),
        ({"token_file": shared / "none"}, f"does not see {shared}"),
        ({"root": tmp_path / "none"}, f"does not see the photos in {tmp_path / 'none'}"),
        ({"photo": (photo, 1)}, f"does not see the photo {photo} as it is here"),
        ({"photo": (photo.with_name("none"), size)}, "does not see the photo"),
        ({"weights_sha256": "2" * 64}, f"has weights {SHA256}, and here"),
        ({"network": Small("vgg16", "/none.npz")}, None),
        ({"network": Network("vgg16", "/none.npz")}, "has no weights: "),
    ):
        fault = replace(good, **change).fault()
        assert fault is None if said is None else said in str(fault)
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.TemporaryFile", no_space)
        assert good.fault() == f"cannot write to {shared}: No space left on device"
    in_int8 = replace(good, precision="int8", versions=versions("int8"))
    assert in_int8.fault() is None
    monkeypatch.setattr(resume, "OF_INT8", ("no-such-package",))
    assert re.search(r"has no-such-package missing \(here none\), .*: install", in_int8.fault())


# Schedulers ------------------------------------------------------------------------------


BILINEAR = [sys.executable, "-c", "from bilinear_cli.cli import main; main()", "extract"]
TINY = ["--weights", "random", "--image-size", "32", "--batch-size", "2", "--precision", "float32"]
TINY += ["--pooling", "max", "--pooling", "bilinear:4"]


def test_a_client_that_is_killed_goes_on_with_a_scheduler_that_lives(
    tmp_path: Path, class_folders: Callable[..., Path]
) -> None:
    photos = class_folders(tmp_path / "birds", {"tit": 24, "wren": 24})
    file, output = tmp_path / "scheduler.json", tmp_path / "shared" / "x.h5"
    shards = folder_module.shards_folder(output)
    plain = [*BILINEAR, "--data", photos, *TINY]
    command = [*plain, "--scheduler", file, "--no-merge", "-o", output]
    with begun(file):
        with subprocess.Popen(
            command, env=ENVIRONMENT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        ) as client:
            wait_for(lambda: list(shards.glob("002*.partial")))
            client.kill()
        assert not output.exists()
        done = invoke(*command[3:])
        assert done.stdout == f"{shards}\n"
        parts = [path.name for path in sorted(shards.iterdir())]
        assert parts == [f"00{i}of004.h5" for i in range(1, 5)]
        first = re.search(r"extracting: .*?(\d+)/48", done.stderr)
        assert first
        assert int(first[1]) >= 12
        assert "fitting the projection" not in done.stderr
        assert "rows " in invoke("info", shards).stdout
        invoke("train", "--features", shards, "--pooling", "max", "-o", tmp_path / "runs")
        assert (tmp_path / "runs" / "x-max-softmax").is_dir()
        command.remove("--no-merge")
        assert invoke(*command[3:]).stdout == f"{output}\n"
    whole = tmp_path / "one" / "y.h5"
    invoke(*plain[3:], "-o", whole)
    assert_same(output, whole)


def invoke(*arguments: str | Path) -> Result:
    """Run a command in this process."""
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result


@pytest.mark.parametrize("when", ["checking", "following"])
def test_a_scheduler_that_goes_is_one_line(
    when: str, flock: Dataset, output: Path, network: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect_module, "CONNECT_SECONDS", 2)  # it is looked for as long again
    file = output.parent.with_name("scheduler.json")
    settings, network = replace(ROW, poolings=("max",)), replace(network, delay=0.1)
    with begun(file) as processes:

        def kill(*_: Any) -> None:
            processes[0].kill()
            processes[0].wait()

        if when == "checking":
            monkeypatch.setattr(extract_module, "a_photo", kill)
        with pytest.raises(BilinearError, match=r"^the scheduler has gone: .* is kept, and"):
            extract_shards(str(file), flock, settings, output, network, progress=kill)


def test_ctrl_c_is_one_line_and_the_same_command_goes_on(
    tmp_path: Path, class_folders: Callable[..., Path]
) -> None:
    photos = class_folders(tmp_path / "birds", {"tit": 100, "wren": 100})
    output = tmp_path / "x.h5"
    command = [*BILINEAR, "--data", photos, *TINY, "--scheduler", "local:1", "-o", output]
    with subprocess.Popen(
        command,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as client:
        wait_for(lambda: list(folder_module.shards_folder(output).glob("*.partial")))
        os.killpg(client.pid, signal.SIGINT)  # as a terminal does: to the workers, too
        stdout, stderr = client.communicate()
    assert client.returncode == 130, stderr
    assert stdout == ""
    assert "Traceback" not in stderr
    last = stderr.splitlines()[-1]
    assert last == "Error: interrupted; the same command goes on from there"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, birds: Dataset) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: str | Path, code: int) -> str:
        words = ["extract", "--data", birds.root, *TINY, "-o", "x.h5", *arguments]
        result = CliRunner().invoke(cli, [str(word) for word in words])
        assert result.exit_code == code, result.output
        assert result.stdout == ""
        (line,) = result.stderr.splitlines()
        assert not [*tmp_path.glob("x.h5*")]
        return line

    return invoke


def test_a_scheduler_that_is_not_there_is_one_line_soon(run: Callable[..., str]) -> None:
    before = time.monotonic()
    line = run("--scheduler", "tcp://127.0.0.1:1", code=1)
    assert time.monotonic() - before < 15
    assert line.startswith("Error: no scheduler answers at tcp://127.0.0.1:1: ")


@pytest.mark.parametrize("content", ["", "[1]", '{"cluster_id": 1}', '{"address": 1}', "\x89HDF"])
def test_a_file_that_is_no_schedulers(
    content: str, run: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "scheduler.json").write_text(content, "latin-1")
    line = run("--scheduler", "scheduler.json", code=1)
    assert line == "Error: scheduler.json is no scheduler file: it has no address in JSON"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--scheduler", "local:0"], "--scheduler local:0: write local:4 for four workers"),
        (["--scheduler", "local:x"], "--scheduler local:x: write local:4 for four workers"),
        (["--scheduler", ""], "--scheduler : it is no tcp://host:8786"),
        (["--scheduler", "none.json"], "none.json: it is no tcp://host:8786, no scheduler file"),
        (["--scheduler", "local", "--shard", "1/2"], "leave out --shard"),
        (["--no-merge"], "--no-merge is for --scheduler"),
        (["--scheduler", "local", "--maps", "m.h5"], "--maps settles "),
    ],
)
def test_options_that_cannot_be_meant(
    run: Callable[..., str], arguments: list[str], said: str
) -> None:
    assert said in run(*arguments, code=2)
