"""Kill runs, spoil feature files, and see that nothing is lost or believed: `make torture`.

Kills: a run is killed at random moments and started again until it is done; its file must then
equal that of an uninterrupted run to the bit, and no more than a batch may have been done twice
for each kill. Mutations: parts of a feature file are cut off, exchanged, linked elsewhere, made
absurdly large; each file is either refused with one line or read as it was, in memory that its size
warrants. Bytes: single bytes are changed; what is then read as a feature must be what was written.
Crashes and endless loops inside the HDF5 library are counted; each file is read in a process of its
own.
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
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from bilinear_cli.classify import inputs
from bilinear_cli.errors import BilinearError
from bilinear_cli.features.reuse import StoredPhotos
from bilinear_cli.features.settings import Settings, settings_of_file
from bilinear_cli.report import describe
from bilinear_cli.store import FeatureFile, create, open_features, partial_path

N_PHOTOS, BATCH, SIZE, VIEWS = 40, 3, 32, ("original", "flip")
SPECS = ("max", "bilinear", "conv5")
ROWS = ("photo", "view", "labels", "paths", "sha256", "split", "group")
MOST_SECONDS = 20  # for one spoilt file
LEAST_MEMORY, MEMORY_PER_BYTE = 4 << 20, 40  # what reading a spoilt file may take


# Kills -----------------------------------------------------------------------------------


def in_a_fork(work: Callable[[], None]) -> int:
    """Start `work` in a child, which ends with it; return the child's number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except BilinearError as error:
        print(error, file=sys.stderr)
    finally:
        os._exit(code)


def make_photos(folder: Path) -> None:
    """Draw blocks of noise, in two classes."""
    rng = np.random.default_rng(0)
    for i in range(N_PHOTOS):
        path = folder / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)).save(path)
    (folder / "a" / "14.png").write_text("no photo, and left out")


def run(photos: Path, output: Path, seen: Path) -> None:
    """Extract with a small network, which notes each batch that it sees."""
    import tensorflow as tf

    from bilinear_cli.data.dataset import load_dataset
    from bilinear_cli.features.extract import extract

    kernel = np.random.default_rng(1).normal(size=(8, 8, 3, 6)).astype(np.float32) / 100
    log = os.open(seen, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def see(batch: np.ndarray) -> np.ndarray:
        time.sleep(0.005)
        os.write(log, b".")
        return batch

    def forward(batch: tf.Tensor) -> tf.Tensor:
        batch = tf.ensure_shape(tf.numpy_function(see, [batch], tf.uint8), batch.shape)
        return tf.nn.relu(tf.nn.conv2d(tf.cast(batch, tf.float32), kernel, 8, "VALID"))

    settings = Settings(
        SPECS, "block5_conv3", SIZE, "squash", "float32", BATCH, "0" * 64, views=VIEWS
    )
    logging.disable()
    extract(load_dataset(str(photos)), settings, output, lambda: forward, skip_bad=True)


def contents(path: Path) -> dict[str, bytes]:
    """Return all that a feature file says of its rows."""
    with FeatureFile(path, allow_partial=True) as file:
        done = np.flatnonzero(file.photo[: file.rows_done] >= 0)
        found = {spec: file.read_raw(spec, done).tobytes() for spec in file.shapes}
        return found | {name: getattr(file, name)[done].tobytes() for name in ROWS}


def kill(n_kills: int, seed: int) -> Counter:
    """Kill runs at random moments; return what there was of what."""
    import tensorflow  # noqa: F401  (once, before forking; it starts no thread by itself)

    rng, counts = np.random.default_rng(seed), Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos, output, seen = folder / "photos", folder / "x.h5", folder / "seen"
        make_photos(photos)
        began = time.perf_counter()
        _, status = os.waitpid(in_a_fork(lambda: run(photos, folder / "whole.h5", seen)), 0)
        usual = time.perf_counter() - began
        assert status == 0, "an uninterrupted run fails"
        whole, n_batches = contents(folder / "whole.h5"), len(seen.read_bytes())
        assert n_batches == len(VIEWS) * -(-N_PHOTOS // BATCH)
        seen.unlink()
        kills_of_this = 0
        while counts["kills"] < n_kills:
            child = in_a_fork(lambda: run(photos, output, seen))
            time.sleep(rng.uniform(0, 1.1 * usual))
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            if os.WIFSIGNALED(status):
                counts["kills"] += 1
                kills_of_this += 1
            else:
                assert os.WEXITSTATUS(status) == 0, "a run that goes on fails"
            if partial_path(output).exists():
                for part, stored in contents(output).items():
                    assert whole[part].startswith(stored), f"{part} is wrong after a kill"
                counts["kills that left rows"] += 1
            if output.exists():
                assert contents(output) == whole, "a resumed run has other rows"
                done = len(seen.read_bytes()) if seen.exists() else 0
                most = n_batches + len(VIEWS) * kills_of_this
                assert done <= most, "more than a batch was done twice"
                counts["passes of a batch done twice"] += done - n_batches
                counts["files finished"] += 1
                output.unlink()
                seen.unlink()
                kills_of_this = 0
    return counts


# Feature files from strangers ------------------------------------------------------------


def sound(path: Path) -> dict[str, bytes]:
    """Write a small sound file and return its features."""
    rng = np.random.default_rng(0)
    n, shapes = 12, {"max": (8,), "bilinear": (36,), "conv5": (4, 4, 256)}
    columns = {
        "photo": np.arange(n),
        "view": np.full(n, "original"),
        "labels": np.arange(n) % 2,
        "paths": np.array([f"{i % 2}/{i}.jpg" for i in range(n)]),
        "sha256": np.array([f"{i:064x}" for i in range(n)]),
        "split": np.array(["train", "test"] * (n // 2)),
        "group": np.array([f"nest {i // 2}" for i in range(n)]),
    }
    made = {"backbone": "vgg16", "layer": "block5_conv3", "image_size": 32, "resize": "squash"}
    made |= {"precision": "float32", "batch_size": 3, "weights_sha256": "0" * 64}
    with create(path, shapes, columns, ["a", "b"], made | {"views": "original"}) as writer:
        dtypes = {spec: writer.row_dtype(spec) for spec in shapes}
        writer.append({s: rng.normal(size=(n, *shapes[s])).astype(dtypes[s]) for s in shapes})
        writer.finish()
    with FeatureFile(path) as file:
        return {spec: file.read_raw(spec, np.arange(n)).tobytes() for spec in shapes}


def everything(path: Path) -> dict[str, bytes]:
    """Read a file as all commands together do; return its features."""
    with open_features([path]) as file:
        describe(file)
        settings = settings_of_file(file)
        every = np.arange(len(file.labels))
        if "bilinear" in file.shapes:
            inputs.fit_parts(file, ["bilinear"], every, top_variance=5)
        with StoredPhotos(path, settings) as old:
            old.rows(old.find(file.sha256)[:1])
        for spec, shape in file.shapes.items():
            if len(shape) == 2:
                list(file.columns(spec, every, 5))
            list(file.batches(spec, every, 5))
        return {spec: file.read_raw(spec, every).tobytes() for spec in file.shapes}


def truncate(path: Path, rng: np.random.Generator) -> None:
    """Cut the file off somewhere."""
    with path.open("r+b") as file:
        file.truncate(int(rng.integers(0, path.stat().st_size)))


def drop(path: Path, rng: np.random.Generator) -> None:
    """Take out a dataset or a group."""
    with h5py.File(path, "r+") as file:
        del file[any_name(file, rng)]


def exchange(path: Path, rng: np.random.Generator) -> None:
    """Put another dataset in a place: another type, shape or layout, absurdly large, or linked."""
    with h5py.File(path, "r+") as file:
        name = any_name(file, rng)
        old = file[name]
        shape = getattr(old, "shape", (12,)) or (12,)
        kind, old_type = rng.integers(0, 12), getattr(old, "dtype", None)
        del file[name]
        if kind == 0:
            other = (*shape[:-1], shape[-1] + int(rng.integers(1, 9)))
            file[name] = np.ones(other, getattr(old_type, "type", np.float16))
        elif kind == 1:
            types = ["f8", "i1", "u8", "S5", "?", "c8", "f2", "i8", "f4"]
            file[name] = np.zeros(shape, types[rng.integers(0, len(types))])
        elif kind == 2:
            file.create_dataset(name, (2 ** int(rng.integers(30, 60)),), "f2", chunks=(1024,))
        elif kind == 3 and rng.integers(0, 2):  # text of any length, one of it many times over
            many = np.array(["x" * 10_000] * 3000, h5py.string_dtype())
            file.create_dataset(name, data=many)
        elif kind == 3:  # contiguous, and never written
            file.create_dataset(name, (2 ** int(rng.integers(30, 60)),), "f4")
        elif kind == 4:
            file[name] = h5py.ExternalLink("/etc/passwd", "/" + name)
        elif kind == 5:
            file[name] = h5py.SoftLink(["/labels", "/" + name, "/none"][rng.integers(0, 3)])
        elif kind == 6:
            file.create_dataset(name, shape, "f4", external=[("/etc/passwd", 0, 2**40)])
        elif kind == 7:
            layout = h5py.VirtualLayout(shape, "f4")
            layout[...] = h5py.VirtualSource("/etc/passwd", "x", shape)
            file.create_virtual_dataset(name, layout)
        elif kind == 8:
            data = np.zeros(shape, "f2")
            file.create_dataset(name, data=data, chunks=True, compression="gzip")
        elif kind == 9:
            file.create_group(name)
        elif kind == 10:
            file.create_dataset(name, data=np.full(shape, -(2**40), "i8"))
        else:
            file[name] = h5py.Empty("f4") if rng.integers(0, 2) else np.void(rng.bytes(9))


def attribute(path: Path, rng: np.random.Generator) -> None:
    """Change an attribute, of the file or of features, or take it out."""
    with h5py.File(path, "r+") as file:
        places = [file, *file["features"].values()]
        place = places[rng.integers(0, len(places))]
        name = [*place.attrs][rng.integers(0, len(place.attrs))]
        values = [2**62, -1, 0.5, "", "x y", "\u202e<b>", np.zeros(2000), h5py.Empty("i4"), True]
        del place.attrs[name]
        if rng.integers(0, 4):
            place.attrs[name] = values[rng.integers(0, len(values))]


def later(path: Path, rng: np.random.Generator) -> None:
    """Say that it is of a later version."""
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = int(rng.integers(2, 99))


def values(path: Path, rng: np.random.Generator) -> None:
    """Put other values, of the right type and shape, in a small column."""
    with h5py.File(path, "r+") as file:
        name = ["photo", "labels", "rows_done", "split", "view", "crc32/max"][rng.integers(0, 6)]
        data = file[name]
        raw = rng.bytes(data.dtype.itemsize * data.size)
        data.id.write(
            h5py.h5s.ALL, h5py.h5s.ALL, np.frombuffer(raw, data.dtype), data.id.get_type()
        )


MUTATIONS = (truncate, drop, exchange, exchange, exchange, attribute, attribute, later, values)


def any_name(file: h5py.File, rng: np.random.Generator) -> str:
    """Return the name of something in the file."""
    names: list[str] = []
    file.visit(names.append)
    return names[rng.integers(0, len(names))]


def flip_bytes(path: Path, rng: np.random.Generator) -> None:
    """Change up to four bytes, half of the time among the first 8 KB, where HDF5 keeps its own."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        for _ in range(rng.integers(1, 5)):
            file.seek(int(rng.integers(0, size if rng.integers(0, 2) else min(size, 8192))))
            file.write(rng.bytes(1))


def judge(path: Path, features: dict[str, bytes], structural: bool) -> int:
    """Read a spoilt file; return 0 if it was refused, 2 if it was read right; else 3, 4 or 5."""
    signal.alarm(MOST_SECONDS)
    tracemalloc.start()
    try:
        found = everything(path)
    except BilinearError as error:
        outcome = 0 if "\n" not in str(error) else 3
    except Exception as error:  # what no reader should see
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        outcome = 3
    else:
        right = all(found[spec] == features[spec] for spec in found if spec in features)
        outcome = 2 if right else 4
    _, taken = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    signal.alarm(0)
    most = LEAST_MEMORY + MEMORY_PER_BYTE * path.stat().st_size
    return 5 if structural and taken > most else outcome


OUTCOMES = {
    0: "refused with one line",
    2: "read as written",
    3: "NOT one line",
    4: "WRONG features read",
    5: "TOO MUCH memory",
}


def spoil(n_files: int, seed: int, structural: bool) -> Counter:
    """Spoil files and read each in a child; return what became of how many."""
    counts: Counter = Counter()
    with tempfile.TemporaryDirectory() as name:
        whole, path = Path(name) / "sound.h5", Path(name) / "x.h5"
        features = sound(whole)
        for number in range(n_files):
            rng = np.random.default_rng((seed, structural, number))
            shutil.copyfile(whole, path)
            how = MUTATIONS[rng.integers(0, len(MUTATIONS))] if structural else flip_bytes
            how(path, rng)
            child = os.fork()
            if not child:
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                outcome_of_child = 3
                try:
                    outcome_of_child = judge(path, features, structural)
                finally:
                    os._exit(outcome_of_child)
            _, status = os.waitpid(child, 0)
            if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM:
                outcome = "NO ANSWER, inside the HDF5 library where it was looked at"
            elif os.WIFSIGNALED(status):
                ended = signal.Signals(os.WTERMSIG(status)).name
                outcome = f"CRASH inside the HDF5 library ({ended})"
            else:
                outcome = OUTCOMES.get(os.WEXITSTATUS(status), "NOT one line")
            if outcome.isupper() or outcome.split()[0].isupper():
                print(f"{outcome}: {how.__name__}, --seed {seed}, file {number}", file=sys.stderr)
            counts[outcome] += 1
    return counts


def main() -> None:
    """Do what is asked for, print what came out, and fail if something is wrong."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--kills", type=int, default=0)
    options.add_argument("--mutations", type=int, default=0)
    options.add_argument("--bytes", type=int, default=0)
    options.add_argument("--seed", type=int, default=0)
    asked = options.parse_args()
    failed = False
    if asked.mutations:
        counts = spoil(asked.mutations, asked.seed, structural=True)
        print("mutations:", ", ".join(f"{n} {what}" for what, n in counts.most_common()))
        failed |= any(what.split()[0].isupper() for what in counts)
    if asked.bytes:
        counts = spoil(asked.bytes, asked.seed, structural=False)
        print("bytes:", ", ".join(f"{n} {what}" for what, n in counts.most_common()))
        failed |= any(OUTCOMES[bad] in counts for bad in (3, 4))
    if asked.kills:
        counts = kill(asked.kills, asked.seed)
        print("kills:", ", ".join(f"{n} {what}" for what, n in counts.most_common()))
    sys.exit(failed)


if __name__ == "__main__":
    main()
