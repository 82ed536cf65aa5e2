"""Kill runs, damage files, and check that nothing is lost or wrong: `make torture`.

Kills: the driver kills a run at random moments and starts it again until it is complete. Its file
must then equal that of an uninterrupted run to the bit, and each kill may repeat at most one batch.
Mutations: the driver truncates a feature file, or deletes, replaces, links or enlarges objects in
it. The program must refuse the file with one line or read it as written, in limited memory.
Bytes: the driver changes single bytes. The program must not read wrong features. Crashes and
endless loops inside the HDF5 library are counted; a process of its own reads each file.
Runs: the driver damages run folders, see `support/damaged_runs.py`. Each command must refuse the
folder with one line, or compute what it computed before.
"""

import argparse
import logging
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from support.damaged_runs import DAMAGES, WRONG, Reader, runs_of_all_kinds
from support.damaged_runs import REFUSED as RUN_REFUSED
from support.damaged_runs import judge as judge_answers
from support.feature_files import write_features
from support.network import extract_photos, small_network
from support.photos import class_folders

from bilinear_cli.errors import BilinearError
from bilinear_cli.extraction.existing import check_reusable, match_reusable_rows, reused_batches
from bilinear_cli.recipe import Recipe
from bilinear_cli.report.text import describe
from bilinear_cli.store import FeatureFile, open_features, partial_path
from bilinear_cli.training import feature_transform

N_PHOTOS, BATCH, SIZE, VIEWS = 40, 3, 32, ("original", "flip")
N_BATCHES = len(VIEWS) * -(-N_PHOTOS // BATCH)
SPECS = ("max", "bilinear", "maps")
COLUMNS = ("photo", "view", "labels", "paths", "sha256", "split", "group")
MAX_SECONDS = 20  # for one corrupt file
BASE_MEMORY, MEMORY_PER_BYTE = 4 << 20, 40  # limit while a corrupt file is read


def fork(work: Callable[[], int | None]) -> int:
    """Run `work` in a child process, which exits with its result, and return the child's id."""
    child = os.fork()
    if child:
        return child
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    code = 1
    try:
        code = work() or 0
    except BilinearError as error:
        print(error, file=sys.stderr)
    finally:
        os._exit(code)


def wait(child: int) -> int:
    """Wait for a child process, and return its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# Kills -----------------------------------------------------------------------------------


def run(photos: Path, output: Path, batch_log: Path) -> None:
    """Extract with a small network, which logs each batch as one byte."""
    from bilinear_cli.photos.photo_set import load_photo_set

    log = os.open(batch_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def watch(_: np.ndarray) -> None:
        time.sleep(0.005)
        os.write(log, b".")

    recipe = Recipe(SPECS, "block5_conv3", SIZE, "squash", "float32", BATCH, "0" * 64, views=VIEWS)
    logging.disable()
    photo_set = load_photo_set(str(photos))
    extract_photos(photo_set, recipe, output, lambda: small_network(watch), skip_bad=True)


def contents(path: Path) -> dict[str, bytes]:
    """Return the features and columns of all rows that are complete."""
    with FeatureFile(path, allow_partial=True) as file:
        indices = np.flatnonzero(file.photo[: file.rows_done] >= 0)
        features = {spec: file.read_stored(spec, indices).tobytes() for spec in file.shapes}
        return features | {name: getattr(file, name)[indices].tobytes() for name in COLUMNS}


def kill(n_kills: int, seed: int) -> Counter:
    """Kill runs at random moments, and count the events."""
    import tensorflow  # noqa: F401  (once, before forking; it starts no thread by itself)

    rng, counts = np.random.default_rng(seed), Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos, output, batch_log = folder / "photos", folder / "x.h5", folder / "batches"
        class_folders(photos, {"a": N_PHOTOS // 2, "b": N_PHOTOS // 2})
        (photos / "a" / "14.png").write_text("no photo")  # extraction skips it
        start = time.perf_counter()
        reference = folder / "uninterrupted.h5"
        code = wait(fork(lambda: run(photos, reference, batch_log)))
        duration = time.perf_counter() - start
        assert code == 0, "an uninterrupted run fails"
        expected = contents(reference)
        assert len(batch_log.read_bytes()) == N_BATCHES
        batch_log.unlink()
        n_kills_of_file = 0
        while counts["kills"] < n_kills:
            child = fork(lambda: run(photos, output, batch_log))
            time.sleep(rng.uniform(0, 1.1 * duration))
            os.kill(child, signal.SIGKILL)
            code = wait(child)
            assert code in (0, -signal.SIGKILL), "a resumed run fails"
            counts["kills"] += code != 0
            n_kills_of_file += code != 0
            counts.update(check_output(output, batch_log, expected, n_kills_of_file))
            if output.exists():
                output.unlink()
                batch_log.unlink()
                n_kills_of_file = 0
    return counts


def check_output(
    output: Path, batch_log: Path, expected: dict[str, bytes], n_kills: int
) -> Counter:
    """Check the rows and the batches of a run after `n_kills` kills, and count the events."""
    counts: Counter = Counter()
    if partial_path(output).exists():
        for name, stored in contents(output).items():
            assert expected[name].startswith(stored), f"{name} is wrong after a kill"
        counts["kills that left rows"] += 1
    if output.exists():
        assert contents(output) == expected, "a resumed run has other rows"
        n_repeated = len(batch_log.read_bytes()) - N_BATCHES
        assert n_repeated <= len(VIEWS) * n_kills, "a kill repeated more than one batch"
        counts["repeated passes of a batch"] += n_repeated
        counts["complete files"] += 1
    return counts


# Feature files from strangers ------------------------------------------------------------


def write_valid_file(path: Path) -> dict[str, bytes]:
    """Write a small valid file, and return its features."""
    rng = np.random.default_rng(0)
    n, shapes = 12, {"max": (8,), "bilinear": (36,), "maps": (4, 4, 256)}
    rows = {spec: rng.normal(size=(n, *shape)) for spec, shape in shapes.items()}
    group = [f"nest {i // 2}" for i in range(n)]
    columns = {"group": group, "box": rng.uniform(size=(n, 4)).round(2)}
    write_features(path, rows, np.arange(n) % 2, ["train", "test"] * (n // 2), **columns)
    with FeatureFile(path) as file:
        return {spec: file.read_stored(spec, np.arange(n)).tobytes() for spec in shapes}


def read_all(path: Path) -> dict[str, bytes]:
    """Read a file as all commands together do, and return its features."""
    with open_features([path]) as file:
        describe(file)
        recipe = file.recipe
        indices = np.arange(len(file.labels))
        if "bilinear" in file.shapes:
            feature_transform.fit_feature_transforms(file, ["bilinear"], indices, top_variance=5)
        check_reusable(file, recipe)
        photos = slice(None, None, file.n_views)
        columns = (file.keys[photos].tolist(), file.sha256[photos])
        reused = match_reusable_rows(file, file.shapes, *columns)
        next(reused_batches(file, file.shapes, 1, [*reused.values()]), None)
        for spec, shape in file.shapes.items():
            if len(shape) == 2:
                list(file.column_blocks(spec, indices, 5))
            list(file.batches(spec, indices, 5))
        return {spec: file.read_stored(spec, indices).tobytes() for spec in file.shapes}


def truncate(path: Path, rng: np.random.Generator) -> None:
    """Cut the file off somewhere."""
    with path.open("r+b") as file:
        file.truncate(int(rng.integers(0, path.stat().st_size)))


def delete(path: Path, rng: np.random.Generator) -> None:
    """Delete a dataset or a group."""
    with h5py.File(path, "r+") as file:
        del file[random_name(file, rng)]


def replace(path: Path, rng: np.random.Generator, kind: int) -> None:
    """Replace a dataset or a group by another type, shape, layout or size, or by a link."""
    with h5py.File(path, "r+") as file:
        name = random_name(file, rng)
        shape = getattr(file[name], "shape", (12,)) or (12,)
        dtype = getattr(getattr(file[name], "dtype", None), "type", np.float16)
        del file[name]
        wider = (*shape[:-1], shape[-1] + int(rng.integers(1, 9)))
        huge = (2 ** int(rng.integers(30, 60)),)
        virtual = h5py.VirtualLayout(shape, "f4")
        virtual[...] = h5py.VirtualSource("/etc/passwd", "x", shape)
        replacement = [
            np.ones(wider, dtype),
            np.zeros(shape, rng.choice(["f8", "i1", "u8", "S5", "?", "c8", "f2", "i8", "f4"])),
            np.full(shape, -(2**40), "i8"),
            np.array(["x" * 10_000] * 3000, h5py.string_dtype()),  # one string of variable length
            np.void(rng.bytes(9)),
            h5py.Empty("f4"),
            h5py.SoftLink(rng.choice(["/labels", "/" + name, "/none"])),
            h5py.ExternalLink("/etc/passwd", "/" + name),
            {"shape": shape, "dtype": "f4", "external": [("/etc/passwd", 0, 2**40)]},
            {"shape": huge, "dtype": "f2", "chunks": (1024,)},
            {"shape": huge, "dtype": "f4"},  # contiguous, and never written
            {"data": np.zeros(shape, "f2"), "chunks": True, "compression": "gzip"},
            virtual,
            None,
        ][kind]
        if isinstance(replacement, dict):
            file.create_dataset(name, **replacement)
        elif replacement is virtual:
            file.create_virtual_dataset(name, virtual)
        elif replacement is None:
            file.create_group(name)
        else:
            file[name] = replacement


def change_attribute(path: Path, rng: np.random.Generator) -> None:
    """Change or delete an attribute of the file or of features."""
    with h5py.File(path, "r+") as file:
        objects = [file, *file["features"].values()]
        attributes = objects[rng.integers(0, len(objects))].attrs
        name = [*attributes][rng.integers(0, len(attributes))]
        values = [2**62, -1, 0.5, "", "x y", "\u202e<b>", np.zeros(2000), h5py.Empty("i4"), True]
        del attributes[name]
        if rng.integers(0, 4):
            attributes[name] = values[rng.integers(0, len(values))]


def change_version(path: Path, rng: np.random.Generator) -> None:
    """Mark the file as one of a later version."""
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = int(rng.integers(2, 99))


def change_values(path: Path, rng: np.random.Generator) -> None:
    """Write other values, of the right type and shape, to a small column."""
    with h5py.File(path, "r+") as file:
        name = ["photo", "labels", "rows_done", "split", "view", "crc32/max"][rng.integers(0, 6)]
        data = file[name]
        raw = np.frombuffer(rng.bytes(data.dtype.itemsize * data.size), data.dtype)
        data.id.write(h5py.h5s.ALL, h5py.h5s.ALL, raw, data.id.get_type())


MUTATIONS = {
    **{f"replace {kind}": partial(replace, kind=kind) for kind in range(14)},
    **{f"change_attribute {i}": change_attribute for i in range(4)},
    **{x.__name__: x for x in (truncate, delete, change_version, change_values)},
}


def random_name(file: h5py.File, rng: np.random.Generator) -> str:
    """Return the name of a dataset or a group in the file."""
    names: list[str] = []
    file.visit(names.append)
    return names[rng.integers(0, len(names))]


def change_bytes(path: Path, rng: np.random.Generator) -> None:
    """Change up to four bytes, half of them in the first 8 KB, where HDF5 keeps its metadata."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        for _ in range(rng.integers(1, 5)):
            file.seek(int(rng.integers(0, size if rng.integers(0, 2) else min(size, 8192))))
            file.write(rng.bytes(1))


REFUSED, READ_RIGHT, TRACEBACK, READ_WRONG, TOO_MUCH_MEMORY = 0, 2, 3, 4, 5  # exit codes
OUTCOMES = {
    REFUSED: "refused with one line",
    READ_RIGHT: "read as written",
    TRACEBACK: "NOT one line",
    READ_WRONG: "WRONG features read",
    TOO_MUCH_MEMORY: "TOO MUCH memory",
    -signal.SIGALRM: "NO ANSWER from the HDF5 library",
}


def judge(path: Path, features: dict[str, bytes], structural: bool) -> int:
    """Read a corrupt file, and return a key of `OUTCOMES`.

    Args:
        path: of the file.
        features: what was written, as `write_valid_file` returns it.
        structural: also limit the memory. Changed bytes may ask for much of it.
    """
    signal.alarm(MAX_SECONDS)
    tracemalloc.start()
    try:
        stored = read_all(path)
    except BilinearError as error:
        outcome = TRACEBACK if "\n" in str(error) else REFUSED
    except Exception as error:  # no reader should raise another error
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        outcome = TRACEBACK
    else:
        right = all(stored[spec] == features[spec] for spec in stored if spec in features)
        outcome = READ_RIGHT if right else READ_WRONG
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    signal.alarm(0)
    limit = BASE_MEMORY + MEMORY_PER_BYTE * path.stat().st_size
    return TOO_MUCH_MEMORY if structural and peak > limit else outcome


def corrupt(n_files: int, seed: int, structural: bool) -> Counter:
    """Corrupt files, read each in a child, and count the outcomes."""
    counts: Counter = Counter()
    mutations = MUTATIONS if structural else {"change_bytes": change_bytes}
    names = [*mutations]
    with tempfile.TemporaryDirectory() as folder:
        valid, path = Path(folder) / "valid.h5", Path(folder) / "x.h5"
        features = write_valid_file(valid)
        for i in range(n_files):
            name = names[i % len(names)]
            shutil.copyfile(valid, path)
            mutations[name](path, np.random.default_rng((seed, structural, i)))
            code = wait(fork(lambda: judge(path, features, structural)))
            if code >= 0 or code in OUTCOMES:
                outcome = OUTCOMES.get(code, OUTCOMES[TRACEBACK])
            else:
                outcome = f"CRASH inside the HDF5 library ({signal.Signals(-code).name})"
            if is_failure(outcome):
                print(f"{outcome}: {name}, --seed {seed}, file {i}", file=sys.stderr)
            counts[outcome] += 1
    return counts


def is_failure(outcome: str) -> bool:
    """Return whether an outcome is a failure of the program or of the HDF5 library."""
    return outcome.split()[0].isupper()


# Run folders -----------------------------------------------------------------------------


RUN_OUTCOMES = OUTCOMES | {READ_WRONG: "WRONG answers", -signal.SIGALRM: "NO ANSWER"}


def judge_run(run: Path, reader: Reader, expected: Mapping[str, Any]) -> int:
    """Read a damaged run folder as all commands do, and return a key of `RUN_OUTCOMES`."""
    signal.alarm(MAX_SECONDS)
    try:
        outcomes = judge_answers(reader.answers(run), expected)
    except Exception as error:  # no reader should raise another error
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return TRACEBACK
    if WRONG in outcomes.values():
        print(outcomes, file=sys.stderr)
        return READ_WRONG
    return REFUSED if RUN_REFUSED in outcomes.values() else READ_RIGHT


def damage_runs(n_runs: int, seed: int) -> Counter:
    """Damage run folders, read each in a child, and count the outcomes; each fifth as HTML."""
    logging.disable()
    counts: Counter = Counter()
    names, readers = [*DAMAGES], [Reader("html"), *[Reader("md")] * 4]
    with tempfile.TemporaryDirectory() as folder:
        runs = [(run, readers[0].answers(run)) for run in runs_of_all_kinds(Path(folder, "runs"))]
        for i in range(n_runs):
            rng, name = np.random.default_rng((seed, i)), names[i % len(names)]
            source, expected = runs[rng.integers(len(runs))]
            damaged = Path(folder, "damaged", source.name)
            shutil.copytree(source, damaged)
            DAMAGES[name](damaged, rng)
            code = wait(fork(partial(judge_run, damaged, readers[i % 5], expected)))
            outcome = RUN_OUTCOMES.get(code, RUN_OUTCOMES[TRACEBACK])
            if is_failure(outcome):
                print(f"{outcome}: {name} of {source.name}, --seed {seed}, {i}", file=sys.stderr)
            counts[outcome] += 1
            shutil.rmtree(damaged)
    return counts


TESTS = {
    "runs": damage_runs,
    "mutations": partial(corrupt, structural=True),
    "bytes": partial(corrupt, structural=False),
    "kills": kill,
}


def main() -> None:
    """Run the tests that the options name, print the counts, and fail if something is wrong."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    parser = argparse.ArgumentParser(description=__doc__)
    for name in (*TESTS, "seed"):
        parser.add_argument(f"--{name}", type=int, default=0)
    options = vars(parser.parse_args())
    failed = False
    for name, test in TESTS.items():
        if options[name]:
            counts = test(options[name], options["seed"])
            print(f"{name}:", ", ".join(f"{n} {event}" for event, n in counts.most_common()))
            # Changed bytes may crash the HDF5 library.
            failures = filter(is_failure, counts)
            failed |= any(name != "bytes" or "HDF5" not in failure for failure in failures)
    sys.exit(failed)


if __name__ == "__main__":
    main()
