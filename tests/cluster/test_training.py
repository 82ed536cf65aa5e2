"""Training with sums that workers take, which are real processes."""

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client, get_worker
from sklearn.utils.class_weight import compute_sample_weight
from support.commands import error_line, run_command
from support.dask_processes import (
    CHANNELS,
    SMALL_BLOCK,
    SmallBlocks,
    end_scheduler,
    scheduler_and_worker,
    wait_for,
)
from support.errors import assert_names, raises
from support.feature_files import flip_bit, write_features
from support.rows import LOSSES, class_maps, pooled

from bilinear_cli import machine
from bilinear_cli.cluster import pool, tasks
from bilinear_cli.cluster.connect import connect
from bilinear_cli.cluster.reducer import DaskReducer, Workers
from bilinear_cli.errors import BilinearError, FeatureFileError
from bilinear_cli.run import load_model, train
from bilinear_cli.store import FeatureFile, open_features
from bilinear_cli.training import feature_transform, principal_axes
from bilinear_cli.training.estimator import TrainingData
from bilinear_cli.training.feature_transform import Features, fit_feature_transforms
from bilinear_cli.training.options import TrainOptions
from bilinear_cli.training.primal import Linear
from bilinear_cli.training.reducers import LocalReducer
from bilinear_cli.training.rows import select_rows

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

N, K, VIEWS = 40, 3, ("original", "flip")
N_ROWS = N * len(VIEWS)  # 60 of them for training
PHOTO = np.repeat(np.arange(N), len(VIEWS))
LABELS = PHOTO // 4 % K
SPLIT = np.where(PHOTO % 4 != 3, "train", "test")
FEATURES = pooled(class_maps(LABELS, CHANNELS))
CUT = 34  # a row, where the second shard begins
QUICK = TrainOptions(C=1.0, label_smoothing=0.0)
STREAM = replace(QUICK, solver="stream", folds=2)
Task = Callable[..., Any]
Reducers = tuple[LocalReducer, DaskReducer]
ROUNDING = 1e-5  # of an optimum: that of a hundred float32 sums, and where the solver stops


def write(
    path: Path, features: dict[str, np.ndarray], rows: slice = slice(N_ROWS), shard: str = "1/1"
) -> Path:
    """Write these rows to a feature file."""
    columns = {
        "photo": PHOTO - PHOTO[rows][0],
        "view": np.tile(VIEWS, N),
        "paths": np.array([f"{label}/{i}.png" for label, i in zip(LABELS, PHOTO, strict=True)]),
        "sha256": np.array([f"{i:064x}" for i in PHOTO]),
        "group": np.array([f"nest {i // 2}" for i in PHOTO]),
    }
    return write_features(
        path,
        {spec: x[rows] for spec, x in features.items()},
        LABELS[rows],
        SPLIT[rows],
        class_names=[f"class {i}" for i in range(K)],
        attributes={"shard": shard},
        **{name: values[rows] for name, values in columns.items()},
    )


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """Return two feature files of one set."""
    cuts = [slice(CUT), slice(CUT, N_ROWS)]
    return [write(tmp_path / f"{i}.h5", FEATURES, cut, f"{i}/2") for i, cut in enumerate(cuts, 1)]


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """Return a feature file of the set."""
    return write(tmp_path / "x.h5", FEATURES)


@pytest.fixture(scope="module")
def lone_client() -> Iterator[Client]:
    """Return a client of one worker."""
    with connect("local:1") as client:
        client.register_plugin(SmallBlocks())
        yield client


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_transform, "BLOCK_BYTES", SMALL_BLOCK)


def train_both(
    client: Client, paths: list[Path], spec: str, options: TrainOptions
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the metrics of training alone and with workers, from one set of files."""
    folder = paths[0].parent
    with open_features(paths) as file:
        alone = train(file, spec, options, folder / "alone")
        return alone, train(file, spec, options, folder / "runs", workers=Workers(client, file))


def assert_same_fit(alone: dict[str, Any], distributed: dict[str, Any], paths: list[Path]) -> None:
    """Compare recipe, predictions, and the objectives of two runs."""
    for name in ("C", "label_smoothing", "top1", "oof_top1", "solver", "folds", "fitted_on"):
        assert alone[name] == distributed[name], name
    for name in ("oof", "test"):
        a, b = (np.load(Path(run["run"]) / f"{name}.npz") for run in (alone, distributed))
        np.testing.assert_array_equal(a["paths"], b["paths"])
        np.testing.assert_array_equal(a["scores"].argmax(1), b["scores"].argmax(1))
        np.testing.assert_allclose(a["scores"], b["scores"], atol=0.02)
    values = [objective(run, paths) for run in (alone, distributed)]
    assert values[1] == pytest.approx(values[0], rel=ROUNDING)
    assert distributed["workers"] == 2
    assert "workers" not in alone


def objective(run: dict[str, Any], paths: list[Path]) -> float:
    """Return the value of what was minimised, in float64."""
    model = load_model(Path(run["run"]))
    with open_features(paths) as file:
        rows = select_rows(file, None, 1)
        learn = rows if run["fitted_on"] != "train" else rows.take(rows.split == "train")
        x = np.concatenate([x for _, x in Features(file, model.transforms).rows(learn.indices)])
    weights = model.first.weights.astype(float)
    data = TrainingData(None, learn, TrainOptions(run["classifier"]))
    targets = data.targets(run["label_smoothing"])
    weight = None
    if run.get("class_weight") == "balanced":
        weight = compute_sample_weight("balanced", learn.labels)
    loss = LOSSES[run["classifier"]](targets.astype(float), weight)
    value = loss(x.astype(float) @ weights + model.first.intercept)[0]
    return run["C"] * value + 0.5 * np.square(weights).sum()


# The same optimum ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        ("bilinear", TrainOptions(label_smoothing=0.0)),
        ("bilinear", TrainOptions("svm")),
        ("bilinear", TrainOptions("ridge", refit_all=True)),
        ("max+bilinear", QUICK),
        ("sum+bilinear", replace(QUICK, normalize="sqrt-l2")),
        ("bilinear", replace(QUICK, top_variance=200, refit_all=True)),
        ("sum", replace(QUICK, C=None)),
        ("bilinear", replace(QUICK, class_weight="balanced")),
    ],
    ids=[
        "softmax",
        "svm",
        "ridge",
        "side-by-side",
        "sqrt-l2",
        "top-variance",
        "few-numbers",
        "balanced",
    ],
)
def test_workers_come_to_the_same_optimum(
    spec: str, options: TrainOptions, client: Client, shards: list[Path]
) -> None:
    assert_same_fit(*train_both(client, shards, spec, options), shards)


def test_passes_by_workers_come_to_the_same_optimum(
    client: Client, shards: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    ridge = TrainOptions("ridge", solver="stream", folds=2, C=0.01, refit_all=True)
    assert_same_fit(*train_both(client, shards, "max", ridge), shards)
    assert any("0.0 GB" in record.getMessage() for record in caplog.records)


def submissions(
    monkeypatch: pytest.MonkeyPatch, then: Callable[[Client, Task, int], None]
) -> list[Task]:
    """Return the tasks that workers get from now on, in order.

    Args:
        monkeypatch: undoes it.
        then: is called after each, with the client, the task and how often workers have got it.
    """
    submit, submitted = Workers.submit, list[Task]()

    def submit_and_record(self: Workers, task: Task, *args: Any, **options: Any) -> Any:
        future = submit(self, task, *args, **options)
        submitted.append(task)
        then(self.client, task, submitted.count(task))
        return future

    monkeypatch.setattr(Workers, "submit", submit_and_record)
    return submitted


def test_workers_load_no_tensorflow_and_serve_their_client_whichever_is_the_default(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distributed.client._get_global_client", lambda: None)
    address = tmp_path / "scheduler.json"
    with (
        scheduler_and_worker(address),  # a new process, which has imported nothing else
        connect(str(address)) as client,
        FeatureFile(features) as file,
    ):
        train(file, "bilinear", QUICK, tmp_path / "runs", workers=Workers(client, file))
        loaded = client.run(lambda: {"tensorflow", "keras"} & set(sys.modules))
    assert list(loaded.values()) == [set()]


@pytest.fixture
def reducers(client: Client, features: Path) -> Iterator[Reducers]:
    """Return the reducers of the training rows, in a random order: this process, and workers."""
    indices = np.random.default_rng(0).permutation(np.flatnonzero(SPLIT == "train"))
    with FeatureFile(features) as file:
        transforms = fit_feature_transforms(file, ["bilinear"], indices, normalize="none")
        features_of_file = Features(file, transforms)
        local = LocalReducer(features_of_file, indices)
        yield local, Workers(client, file).reducer(features_of_file, indices, None)


def test_a_gram_matrix_of_workers_is_that_of_this_process(reducers: Reducers) -> None:
    steps: list[tuple[int, int]] = []
    with_progress = replace(reducers[1], progress=lambda *done: steps.append(done))
    local, distributed = reducers[0].reduce_to_gram(), with_progress.reduce_to_gram()
    atol = 1e-6 * np.abs(local.gram).max()
    np.testing.assert_allclose(distributed.gram, local.gram, atol=atol)
    np.testing.assert_array_equal(distributed.gram, distributed.gram.T)
    np.testing.assert_allclose(distributed.mean, local.mean, rtol=1e-6)
    assert distributed.mean_squared_norm == pytest.approx(local.mean_squared_norm, rel=1e-6)
    dual_coef = np.random.default_rng(1).normal(size=(len(local.gram), K)).astype(np.float32)
    weights, expected = (x.primal_weights(local.mean, dual_coef) for x in (distributed, local))
    np.testing.assert_allclose(weights, expected, atol=1e-5 * expected.max())
    assert steps == [(i, 5) for i in range(1, 6)]  # two means, three tiles


@pytest.mark.parametrize("keep", [True, False], ids=["kept", "read again"])
def test_passes_of_workers_over_rows_in_any_order_are_those_of_this_process(
    keep: bool, reducers: Reducers, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 4 * 60 * reducers[0].features.n_features
    monkeypatch.setattr(reducers[1].workers, "free_bytes", lambda: size if keep else size - 1)
    steps: list[tuple[int, int]] = []
    with_progress = replace(reducers[1], progress=lambda *done: steps.append(done))
    local, distributed = reducers[0].reduce_to_stream(), with_progress.reduce_to_stream()
    for name, rtol in (("sum_of_squares", 1e-5), ("mean", 1e-6), ("mean_squared_norm", 1e-6)):
        np.testing.assert_allclose(getattr(distributed, name), getattr(local, name), rtol=rtol)
    assert steps == [(i, len(steps)) for i in range(1, 1 + (11 if keep else 4))]
    rng = np.random.default_rng(2)
    weights = rng.normal(size=(len(local.mean), K)).astype(np.float32)
    model = Linear(weights, np.ones(K, np.float32))
    shuffled = rng.permutation(60)
    for indices in (shuffled, shuffled[:17], np.array([59]), np.arange(60)):
        targets = rng.normal(size=(len(indices), K)).astype(np.float32)
        scores, sums = [], []
        for passes in (distributed.passes, local.passes):
            scores.append(passes.scores(model, indices))
            sums.append(passes.losses(indices, targets, LOSSES["ridge"])(model))
        np.testing.assert_allclose(*scores, atol=1e-5)
        for actual, expected in zip(*sums, strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-4)


def test_all_threads_have_as_much_to_do(
    client: Client, reducers: Reducers, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers, passes = reducers[1].workers, reducers[1].reduce_to_stream().passes
    kept = Counter(holder for (holder,) in client.who_has(passes.blocks).values())
    assert sorted(kept.values()) == [4, 5]
    groups = passes._groups(range(9))
    assert Counter({address: len(blocks) for address, blocks in groups}) == kept
    constant = workers.send(np.zeros(1000))  # one worker has it
    calls = [(constant, i) for i in range(5)]
    done = client.gather(workers.map_evenly(address_of_worker, calls, [2, 1, 1, 1, 1]))
    (first, _), (second, _), *_ = done
    assert {i for address, i in done if address == first} == {0, 3}
    assert {i for address, i in done if address == second} == {1, 2, 4}
    threads = dict.fromkeys(client.nthreads(), 3)
    monkeypatch.setattr(client, "nthreads", lambda: threads)
    assert sorted(len(blocks) for _, blocks in passes._groups(range(9))) == [1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_sums_are_added_up_by_workers(n: int, reducers: Reducers) -> None:
    workers, steps = reducers[1].workers, list[None]()
    futures = [workers.send((i, np.full(2, i))) for i in range(1, n + 1)]
    number, array = workers.tree_sum(futures, lambda: steps.append(None))
    assert (number, array.tolist()) == (n * (n + 1) / 2, [n * (n + 1) / 2] * 2)
    assert len(steps) == n


@pytest.mark.parametrize("solver", ["gram", "stream"])
def test_rows_that_are_all_the_same_are_refused(
    solver: str, client: Client, tmp_path: Path
) -> None:
    path = write(tmp_path / "x.h5", {"max": np.full((N_ROWS, 70), 0.3)})
    options = replace(QUICK, solver=solver, normalize="none")
    with FeatureFile(path) as file:
        workers = Workers(client, file)
        with raises(BilinearError, principal_axes.EQUAL_ROWS):
            train(file, "max", options, tmp_path / "runs", workers=workers)


def address_of_worker(_: np.ndarray, i: int) -> tuple[str, int]:
    return get_worker().address, i


# Workers that are killed, or differ -----------------------------------------------------


@pytest.mark.parametrize(
    ("n_workers", "spec", "options", "keep", "task", "times"),
    [
        (2, "bilinear", QUICK, True, tasks.products, {1}),
        (1, "bilinear", QUICK, True, tasks.weights, {1}),
        (2, "bilinear", replace(STREAM, class_weight="balanced"), True, tasks.losses, {3, 40}),
        (1, "bilinear", STREAM, True, tasks.losses, {4}),
        (2, "sum+bilinear", replace(STREAM, normalize="sqrt-l2"), False, tasks.losses, {4}),
    ],
    ids=["tiles", "weights", "kept", "kept by one alone", "read again"],
)
def test_a_worker_that_is_killed_changes_nothing(
    n_workers: int,
    spec: str,
    options: TrainOptions,
    keep: bool,
    task: Task,
    times: set[int],
    features: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    def kill(client: Client, submitted: Task, number: int) -> None:
        if submitted is task and number in times:
            os.kill(workers.pop(), signal.SIGKILL)

    if not keep:
        monkeypatch.setattr(pool, "MEMORY_FRACTION", 0)
    client = request.getfixturevalue("client" if n_workers == 2 else "lone_client")
    wait_for(client.nthreads)
    # A worker that is killed while it starts is not replaced, so only these are killed.
    workers = [*client.run(os.getpid).values()]
    submitted = submissions(monkeypatch, kill)
    alone, distributed = train_both(client, [features], spec, options)
    assert len(workers) == n_workers - len(times)
    assert (tasks.load_rows in submitted) == (keep and options.solver == "stream")
    assert_same_fit(alone, distributed | {"workers": 2}, [features])


@pytest.mark.parametrize("task", [tasks.products, tasks.load_rows, tasks.losses])
def test_a_scheduler_that_is_killed_is_one_line(
    task: Task, features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = tmp_path / "scheduler.json"

    def kill(client: Client, submitted: Task, _: int) -> None:
        if submitted is task:
            end_scheduler(process, client)

    submissions(monkeypatch, kill)
    options = QUICK if task is tasks.products else STREAM
    with (
        scheduler_and_worker(address) as process,
        raises(BilinearError, "scheduler"),
        open_features([features]) as file,
        connect(str(address)) as client,
    ):
        client.register_plugin(SmallBlocks())
        train(file, "bilinear", options, tmp_path / "runs", workers=Workers(client, file))


@pytest.fixture
def per_process(
    client: Client, features: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, Callable[[int, Path], str]]]:
    """Return a path that every process sees as it stands, and what moves a worker elsewhere."""
    addresses = list(client.run(os.getpid))
    before = Path.cwd()
    monkeypatch.chdir(features.parent)
    client.run(os.chdir, str(features.parent))

    def move(worker: int, folder: Path) -> str:
        client.run(os.chdir, str(folder), workers=[addresses[worker]])
        return addresses[worker]

    yield Path("/proc/self/cwd/x.h5"), move
    client.run(os.chdir, str(before))


def test_a_worker_that_does_not_see_the_file_is_named(
    client: Client, per_process: Any, tmp_path: Path
) -> None:
    path, move = per_process
    with FeatureFile(path) as file:
        assert Workers(client, file).n_workers == 2
        (tmp_path / "elsewhere").mkdir()
        address = move(1, tmp_path / "elsewhere")
        size = f"{path.stat().st_size:,}"
        with raises(BilinearError, address, path, size):
            Workers(client, file)
        other = write(tmp_path / "elsewhere/x.h5", FEATURES, slice(N_ROWS - 2))
        with raises(BilinearError, address, path, size, f"{other.stat().st_size:,}"):
            Workers(client, file)


def test_a_worker_that_comes_later_is_checked_as_it_reads(
    client: Client, per_process: Any, tmp_path: Path
) -> None:
    path, move = per_process
    (tmp_path / "elsewhere").mkdir()
    with FeatureFile(path) as file:
        workers = Workers(client, file)
        address = move(0, tmp_path / "elsewhere")
        with raises(BilinearError, address, path):
            train(file, "bilinear", QUICK, tmp_path / "runs", workers=workers)


def test_other_versions_are_refused(client: Client, features: Path) -> None:
    def become(version: Callable[[str], str]) -> None:
        machine.version = version

    (address, _), real = client.run(os.getpid), machine.version
    client.run(become, lambda name: "0.0.1" if name == "scipy" else real(name), workers=[address])
    try:
        facts = (address, "scipy", "0.0.1", real("scipy"))
        with FeatureFile(features) as file, raises(BilinearError, *facts):
            Workers(client, file)
    finally:
        client.run(become, real, workers=[address])


# Faults in the file ----------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["gram", "stream"])
@pytest.mark.parametrize("keep", [True, False], ids=["kept", "read again"])
def test_a_damaged_row_is_the_same_error_as_without_workers(
    solver: str, keep: bool, client: Client, features: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not keep:
        monkeypatch.setattr(pool, "MEMORY_FRACTION", 0)
    flip_bit(features, "bilinear", 8)
    options, messages = replace(QUICK, solver=solver), set[str]()
    with FeatureFile(features) as file:
        for workers in (None, Workers(client, file)):
            with raises(FeatureFileError, features, "row 8", "features/bilinear") as caught:
                train(file, "bilinear", options, features.parent / "runs", workers=workers)
            messages.add(str(caught.value))
    assert len(messages) == 1


def test_the_command_trains_with_workers_and_prints_one_line_of_a_damaged_row(
    client: Client, features: Path
) -> None:
    words = ["-q", "train", "--features", features, "--json", "-o", features.parent / "runs"]
    words += ["--pooling", "bilinear", "-C", "1", "--label-smoothing", "0"]
    on_workers = [*words, "--scheduler", client.scheduler.address]
    done = run_command(*on_workers)
    assert done.stderr == ""
    assert json.loads(done.stdout)["results"][0]["workers"] == 2
    flip_bit(features, "bilinear", 8)
    alone, distributed = (run_command(*command, code=1) for command in (words, on_workers))
    assert_names(error_line(alone), features, "row 8", "features/bilinear")
    assert alone.stderr == distributed.stderr == f"Error: {error_line(distributed)}\n"
