"""Tests of training with the sums taken by workers, which are real processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest
from distributed import Client, get_worker
from processes import begun

from bilinear_cli.classify import classifiers, inputs
from bilinear_cli.classify.model import load_model
from bilinear_cli.classify.rows import choose_rows
from bilinear_cli.classify.select import Options
from bilinear_cli.classify.sums import Here
from bilinear_cli.classify.train import train
from bilinear_cli.cluster import check, futures, sums
from bilinear_cli.cluster import connect as connect_module
from bilinear_cli.cluster import rows as tasks
from bilinear_cli.cluster.connect import connect
from bilinear_cli.cluster.sums import There, Workers, tiles
from bilinear_cli.errors import BilinearError, FeatureFileError
from bilinear_cli.features.specs import row_dtype
from bilinear_cli.store import FeatureFile, create, open_features

N, K, CHANNELS, VIEWS = 40, 3, 16, ("original", "flip")
N_ROWS = N * len(VIEWS)  # 60 of them for training
PHOTO = np.repeat(np.arange(N), len(VIEWS))
LABELS = PHOTO // 4 % K
SPLIT = np.where(PHOTO % 4 != 3, "train", "test")
CUT = 34  # a row, where the second shard begins
QUICK = Options(C=1.0, label_smoothing=0.0)
STREAM = replace(QUICK, solver="stream")
SMALL = 4 * 7 * CHANNELS * (CHANNELS + 1) // 2  # of a block: 7 rows
ROUNDING = 1e-5  # of an optimum: that of a hundred float32 sums, and where the solver stops


def made() -> dict[str, np.ndarray]:
    """Return max, sum and bilinear features of K classes that overlap."""
    rng = np.random.default_rng(0)
    maps = rng.gamma(2, 1, (K, CHANNELS))[LABELS][:, None] + 1.5 * rng.normal(
        size=(N_ROWS, 9, CHANNELS)
    )
    maps = np.abs(maps)
    i, j = np.triu_indices(CHANNELS)
    matrices = np.sqrt(np.einsum("nlc,nld->ncd", maps, maps))[:, i, j]
    bilinear = matrices * np.where(i == j, 1, np.sqrt(2))
    bilinear /= np.linalg.norm(bilinear, axis=1, keepdims=True)
    return {"max": maps.max(1), "sum": maps.sum(1), "bilinear": bilinear}


def write(path: Path, features: dict[str, np.ndarray], rows: slice, shard: str) -> Path:
    paths = np.array([f"{label}/{i}.png" for label, i in zip(LABELS, PHOTO, strict=True)])
    columns = {
        "photo": PHOTO - PHOTO[rows][0],
        "view": np.tile(VIEWS, N),
        "labels": LABELS,
        "paths": paths,
        "sha256": np.array([f"{i:064x}" for i in PHOTO]),
        "split": SPLIT,
        "group": np.array([f"nest {i // 2}" for i in PHOTO]),
    }
    shapes = {spec: x.shape[1:] for spec, x in features.items()}
    settings = {"views": " ".join(VIEWS), "shard": shard, "backbone": "vgg16"}
    names = [f"class {i}" for i in range(K)]
    with create(
        path, shapes, {name: x[rows] for name, x in columns.items()}, names, settings
    ) as writer:
        writer.append({s: x[rows].astype(row_dtype(x.shape[1:])) for s, x in features.items()})
        writer.finish({})
    return path


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """Return two feature files of one set."""
    cuts = [slice(0, CUT), slice(CUT, N_ROWS)]
    return [write(tmp_path / f"{i}.h5", made(), cut, f"{i}/2") for i, cut in enumerate(cuts, 1)]


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return write(tmp_path / "x.h5", made(), slice(0, N_ROWS), "1/1")


def take_small_blocks() -> None:
    inputs.BLOCK_BYTES = SMALL


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Return a client of two processes, which read in small blocks."""
    with connect("local:2") as client:
        client.run(take_small_blocks)
        yield client


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "BLOCK_BYTES", SMALL)


def both(
    client: Client, paths: list[Path], spec: str, options: Options
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the metrics of training alone and with workers, from one set of files."""
    folder = paths[0].parent
    with open_features(paths) as file:
        alone = train(file, spec, options, folder / "alone")
        return alone, train(file, spec, options, folder / "runs", workers=Workers(client, file))


def same(alone: dict[str, Any], others: dict[str, Any], paths: list[Path]) -> None:
    """Compare settings, predictions, and the objectives of two runs."""
    for name in ("C", "label_smoothing", "top1", "oof_top1", "solver", "folds", "fitted_on"):
        assert alone[name] == others[name], name
    for name in ("oof", "test"):
        one, other = (np.load(Path(run["run"]) / f"{name}.npz") for run in (alone, others))
        np.testing.assert_array_equal(one["paths"], other["paths"])
        np.testing.assert_array_equal(one["scores"].argmax(1), other["scores"].argmax(1))
        np.testing.assert_allclose(one["scores"], other["scores"], atol=0.02)
    values = [objective(run, paths) for run in (alone, others)]
    assert values[1] == pytest.approx(values[0], rel=ROUNDING)
    assert others["workers"] == 2
    assert "workers" not in alone


def objective(run: dict[str, Any], paths: list[Path]) -> float:
    """Return the value of what was minimised, in float64."""
    model = load_model(Path(run["run"]))
    with open_features(paths) as file:
        rows = choose_rows(file, None, 1)
        learn = rows if run["fitted_on"] != "train" else rows.take(rows.split == "train")
        x = np.concatenate([x for _, x in inputs.batches(model.parts, file, learn.number)])
    weights = model.first.weights.astype(float)
    targets = classifiers.targets(learn, run["classifier"], run["label_smoothing"])
    loss = classifiers.LOSSES[run["classifier"]](targets.astype(float))
    value = loss(x.astype(float) @ weights + model.first.intercept)[0]
    return run["C"] * value + 0.5 * np.square(weights).sum()


# The same optimum ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        ("bilinear", Options(label_smoothing=0.0)),
        ("bilinear", Options("svm")),
        ("bilinear", Options("ridge", refit_all=True)),
        ("max+bilinear", QUICK),
        ("sum+bilinear", replace(QUICK, normalize="sqrt-l2")),
        ("bilinear", replace(QUICK, top_variance=200, refit_all=True)),
        ("sum", replace(QUICK, C=None)),
    ],
    ids=["softmax", "svm", "ridge", "side by side", "sqrt-l2", "top-variance", "few numbers"],
)
def test_workers_come_to_the_same_optimum(
    spec: str, options: Options, client: Client, shards: list[Path]
) -> None:
    same(*both(client, shards, spec, options), shards)


@pytest.mark.parametrize(
    ("spec", "options", "keep"),
    [
        ("bilinear", STREAM, True),
        ("sum+bilinear", replace(STREAM, normalize="sqrt-l2"), False),
        ("max", replace(STREAM, classifier="svm", C=0.01, refit_all=True), True),
    ],
    ids=["kept", "read again", "few numbers"],
)
def test_passes_by_workers_come_to_the_same_optimum(
    spec: str,
    options: Options,
    keep: bool,
    client: Client,
    shards: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    if not keep:
        monkeypatch.setattr(futures, "SHARE_OF_MEMORY", 0)
    same(*both(client, shards, spec, options), shards)
    said = "keep the rows" if keep else "read the rows anew"
    assert f"the workers {said}: 0.0 GB, of the" in caplog.text


def test_workers_load_no_tensorflow(client: Client, whole: Path) -> None:
    both(client, [whole], "bilinear", QUICK)
    loaded = client.run(lambda: {"tensorflow", "keras"} & set(sys.modules))
    assert list(loaded.values()) == [set(), set()]


def posed(client: Client, path: Path, spec: str) -> tuple[Here, There, FeatureFile]:
    file = open_features([path])
    numbers = np.random.default_rng(0).permutation(np.flatnonzero(SPLIT == "train"))
    parts = inputs.fit_parts(file, [spec], numbers, normalize="none")
    return Here(file, parts, numbers), Workers(client, file).over(parts, numbers), file


def test_sums_of_a_gram_matrix_are_those_taken_here(client: Client, whole: Path) -> None:
    here, there, _ = posed(client, whole, "bilinear")
    told: list[tuple[int, int]] = []
    (inner, mean, square), found = here.gram(None), there.gram(lambda *done: told.append(done))
    atol = 1e-6 * np.abs(inner).max()
    np.testing.assert_allclose(found[0], inner, atol=atol)
    np.testing.assert_array_equal(found[0], found[0].T)
    np.testing.assert_allclose(found[1], mean, rtol=1e-6)
    assert found[2] == pytest.approx(square, rel=1e-6)
    alpha = np.random.default_rng(1).normal(size=(len(mean), K)).astype(np.float32)[: len(inner)]
    wanted = here.weights(mean, alpha)
    np.testing.assert_allclose(there.weights(mean, alpha), wanted, atol=1e-5 * wanted.max())
    assert told == [(i, 5) for i in range(1, 6)]  # two means, three tiles


@pytest.mark.parametrize("keep", [True, False], ids=["kept", "read again"])
def test_passes_over_rows_in_any_order_are_those_taken_here(
    keep: bool, client: Client, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, _ = posed(client, whole, "bilinear")
    size = 4 * 60 * there.seen.d
    monkeypatch.setattr(there.workers, "room", lambda: size if keep else size - 1)
    told: list[tuple[int, int]] = []
    one, other = here.stream(None), there.stream(lambda *done: told.append(done))
    np.testing.assert_allclose(other.variance, one.variance, rtol=1e-5)
    np.testing.assert_allclose(other.mean, one.mean, rtol=1e-6)
    assert other.mean_square == pytest.approx(one.mean_square, rel=1e-6)
    assert told == [(i, len(told)) for i in range(1, 1 + (11 if keep else 4))]
    rng = np.random.default_rng(2)
    model = classifiers.Linear(
        rng.normal(size=(len(one.mean), K)).astype(np.float32), np.ones(K, np.float32)
    )
    for which in (rng.permutation(60), rng.permutation(60)[:17], np.array([59]), np.arange(60)):
        scores = one.passes.scores(model, which)
        np.testing.assert_allclose(other.passes.scores(model, which), scores, atol=1e-5)
        targets = rng.normal(size=(len(which), K)).astype(np.float32)
        make_loss = classifiers.LOSSES["ridge"]
        pair = [stream.passes.losses(which, targets, make_loss)(model) for stream in (one, other)]
        for wanted, found in zip(*pair, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4)


def test_work_is_shared_out(client: Client, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, there, _ = posed(client, whole, "bilinear")
    passes = there.stream(None).passes
    held = Counter(holder for (holder,) in client.who_has(passes.blocks).values())
    assert sorted(held.values()) == [4, 5]
    groups = passes._groups(range(9))
    assert Counter({by: len(blocks) for by, blocks in groups}) == held
    sent = there.workers.put(np.zeros(1000))  # which is with one of them
    calls = [(sent, i) for i in range(5)]
    done = client.gather(there.workers.share_out(doer, calls, [2, 1, 1, 1, 1]))
    (first, _), (second, _), *_ = done
    assert {i for by, i in done if by == first} == {0, 3}
    assert {i for by, i in done if by == second} == {1, 2, 4}
    threads = dict.fromkeys(client.nthreads(), 3)
    monkeypatch.setattr(client, "nthreads", lambda: threads)
    assert sorted(len(blocks) for _, blocks in passes._groups(range(9))) == [1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_sums_are_added_up_by_workers(n: int, client: Client) -> None:
    work = futures.Futures(client)
    told: list[None] = []
    each = [work.put((i, np.full(2, i))) for i in range(1, n + 1)]
    number, array = work.total(each, lambda: told.append(None))
    assert (number, array.tolist()) == (n * (n + 1) / 2, [n * (n + 1) / 2] * 2)
    assert len(told) == n


@pytest.mark.parametrize("solver", ["gram", "stream"])
def test_rows_that_are_all_the_same_are_refused(
    solver: str, client: Client, tmp_path: Path
) -> None:
    path = write(tmp_path / "x.h5", {"max": np.full((N_ROWS, 70), 0.3)}, slice(0, N_ROWS), "1/1")
    options = replace(QUICK, solver=solver, normalize="none")
    with FeatureFile(path) as file:
        workers = Workers(client, file)
        with pytest.raises(BilinearError, match="all training photos have the same features"):
            train(file, "max", options, tmp_path / "runs", workers=workers)


def doer(_: np.ndarray, i: int) -> tuple[str, int]:
    time.sleep(0.1)
    return get_worker().address, i


@pytest.mark.parametrize("n_threads", [1, 2, 3, 8, 50])
@pytest.mark.parametrize("n", [1, 2, 61, 100_000])
def test_tiles_are_the_lower_half_and_share_the_work(n: int, n_threads: int) -> None:
    found = tiles(n, n_threads)
    area = sum((a.stop - a.start) * (b.stop - b.start) * (1 if a is b else 2) for a, b in found)
    assert area == n * n
    assert all(b.stop <= a.start or a is b for a, b in found)
    assert all(0 < a.stop - a.start <= sums.MOST_ROWS for pair in found for a in pair)
    largest = max((a.stop - a.start) * (b.stop - b.start) for a, b in found)
    if n > 1000:
        assert largest <= 1.01 * n * n / n_threads
    assert len(tiles(60, 1)) == 1  # one worker reads once


# Workers that are lost, or are others -----------------------------------------------------


def killing(
    monkeypatch: pytest.MonkeyPatch, client: Client, task: Callable[..., Any], times: set[int]
) -> list[int]:
    """Kill a worker as soon as it has been given this task, at these times; return whom."""
    submit, killed, number = Workers.submit, list[int](), 0

    def submitting(self: Workers, asked: Callable[..., Any], *args: Any, **where: Any) -> Any:
        nonlocal number
        future = submit(self, asked, *args, **where)
        number += asked is task
        if asked is task and number in times:
            pid = next(iter(client.run(os.getpid).values()))
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
        return future

    monkeypatch.setattr(Workers, "submit", submitting)
    return killed


@pytest.mark.parametrize(
    ("n_workers", "options", "keep", "task", "times"),
    [
        (2, QUICK, True, tasks.products, {1}),
        (1, QUICK, True, tasks.weights, {1}),
        (2, STREAM, True, tasks.losses, {3, 40}),
        (1, STREAM, True, tasks.losses, {4}),
        (2, STREAM, False, tasks.losses, {4}),
    ],
    ids=["tiles", "weights", "kept", "kept by one alone", "read again"],
)
def test_a_worker_that_is_killed_changes_nothing(
    n_workers: int,
    options: Options,
    keep: bool,
    task: Callable[..., Any],
    times: set[int],
    whole: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not keep:
        monkeypatch.setattr(futures, "SHARE_OF_MEMORY", 0)
    with connect(f"local:{n_workers}") as client:
        killed = killing(monkeypatch, client, task, times)
        alone, others = both(client, [whole], "bilinear", options)
    assert len(set(killed)) == len(times)
    same(alone, others | {"workers": 2}, [whole])


@pytest.mark.parametrize("task", [tasks.products, tasks.kept, tasks.losses])
def test_a_scheduler_that_goes_is_one_line(
    task: Callable[..., Any], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect_module, "CONNECT_SECONDS", 2)  # it is looked for as long again
    submit, address = Workers.submit, tmp_path / "scheduler.json"

    def submitting(self: Workers, asked: Callable[..., Any], *args: Any, by: str = "") -> Any:
        future = submit(self, asked, *args, by=by)
        if asked is task:
            processes[0].kill()
        return future

    monkeypatch.setattr(Workers, "submit", submitting)
    options = QUICK if task is tasks.products else STREAM

    def fit() -> None:
        with open_features([whole]) as file, connect(str(address)) as client:
            client.run(take_small_blocks)
            train(file, "bilinear", options, tmp_path / "runs", workers=Workers(client, file))

    with (
        begun(address) as processes,
        pytest.raises(BilinearError, match=r"^the scheduler has gone: "),
    ):
        fit()


@pytest.fixture
def per_process(
    client: Client, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, Callable[[int, Path], str]]]:
    """Return a path that every process sees as it stands, and what moves a worker elsewhere."""
    addresses = list(client.run(os.getpid))
    before = Path.cwd()
    monkeypatch.chdir(whole.parent)
    client.run(os.chdir, str(whole.parent))

    def move(which: int, folder: Path) -> str:
        client.run(os.chdir, str(folder), workers=[addresses[which]])
        return addresses[which]

    yield Path("/proc/self/cwd/x.h5"), move
    client.run(os.chdir, str(before))


def test_a_worker_that_does_not_see_the_file_is_named(
    client: Client, per_process: Any, tmp_path: Path
) -> None:
    path, move = per_process
    with FeatureFile(path) as file:
        assert Workers(client, file).n == 2
        (tmp_path / "elsewhere").mkdir()
        address = move(1, tmp_path / "elsewhere")
        said = (
            rf"^worker \d at {address} does not see {path} as it is here: missing there, a file of"
        )
        with pytest.raises(BilinearError, match=said):
            Workers(client, file)
        other = made()
        other["max"] = other["max"] * 2
        write(tmp_path / "elsewhere/x.h5", other, slice(0, N_ROWS - 2), "1/1")
        with pytest.raises(BilinearError, match=rf"{address} .* a file of [\d,]+ bytes .* bytes"):
            Workers(client, file)


def test_a_worker_that_comes_later_is_checked_as_it_reads(
    client: Client, per_process: Any, tmp_path: Path
) -> None:
    path, move = per_process
    (tmp_path / "elsewhere").mkdir()
    with FeatureFile(path) as file:
        workers = Workers(client, file)
        address = move(0, tmp_path / "elsewhere")
        with pytest.raises(BilinearError, match=f"{address} does not see {path} as it is here"):
            train(file, "bilinear", QUICK, tmp_path / "runs", workers=workers)


def test_other_versions_are_refused(client: Client, whole: Path) -> None:
    def become(version: Callable[[str], str]) -> None:
        tasks.version = version

    (address, _), real = client.run(os.getpid), tasks.version
    client.run(become, lambda name: "0.0.1" if name == "scipy" else real(name), workers=[address])
    try:
        said = rf"{address} has scipy 0\.0\.1 \(here {real('scipy')}\): install the same"
        with FeatureFile(whole) as file, pytest.raises(BilinearError, match=said):
            Workers(client, file)
    finally:
        client.run(become, real, workers=[address])


def test_a_worker_without_the_program_is_named() -> None:
    class Strange:
        """A client of a worker that cannot read what it is sent."""

        def run(self, *_: Any, **__: Any) -> dict[str, Exception]:
            return {"tcp://a:1": ModuleNotFoundError("No module named 'bilinear_cli'")}

    said = "^worker tcp://a:1 does not run this program: No module named 'bilinear_cli'$"
    with pytest.raises(BilinearError, match=said):
        check.check_workers(Strange(), ANY)


# Faults in the file ----------------------------------------------------------------------


def damage(path: Path, spec: str, row: int) -> None:
    with FeatureFile(path) as file:
        data = file._file[f"features/{spec}"]
        place = data.id.get_offset() + row * data.nbytes // len(data) + 5
    with path.open("r+b") as raw:
        raw.seek(place)
        byte = raw.read(1)[0]
        raw.seek(place)
        raw.write(bytes([byte ^ 16]))


def run(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Train by the command."""
    main = "from bilinear_cli.cli import main; main()"
    command = [sys.executable, "-c", main, "-q", "train", "--features", path, "--json"]
    command += ["--label-smoothing", "0", "-o", path.parent / "runs", *words]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("solver", ["gram", "stream"])
@pytest.mark.parametrize("keep", [True, False], ids=["kept", "read again"])
def test_a_damaged_row_is_the_same_error(
    solver: str, keep: bool, client: Client, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not keep:
        monkeypatch.setattr(futures, "SHARE_OF_MEMORY", 0)
    damage(whole, "bilinear", 8)
    said = []
    with open_features([whole]) as file:
        for workers in (None, Workers(client, file)):
            with pytest.raises(FeatureFileError) as caught:
                train(
                    file,
                    "bilinear",
                    replace(QUICK, solver=solver),
                    whole.parent / "runs",
                    workers=workers,
                )
            said.append(str(caught.value))
    assert said[0] == said[1]
    assert "row 8 of features/bilinear has another checksum" in said[0]


def test_the_command_says_one_line_of_it(whole: Path) -> None:
    damage(whole, "bilinear", 8)
    words = ("--pooling", "bilinear", "-C", "1")
    alone, others = run(whole, *words), run(whole, *words, "--scheduler", "local:2")
    for done in (alone, others):
        assert (done.returncode, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"Error: {whole} is damaged: row 8 of features/bilinear has another")
    assert others.stderr == alone.stderr


def test_the_command_trains_with_workers(whole: Path) -> None:
    done = run(whole, "--pooling", "bilinear", "-C", "1", "--scheduler", "local:2")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["results"][0]["workers"] == 2


def test_a_projection_is_not_trained_by_workers(whole: Path) -> None:
    refused = run(whole, "--classifier", "conv1x1", "--scheduler", "local:2")
    assert refused.returncode == 2
    assert refused.stderr == "Error: --scheduler is not for --classifier conv1x1\n"
