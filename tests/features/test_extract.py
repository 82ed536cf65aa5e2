"""Tests of stage 1 with a small random network in place of VGG16."""

import hashlib
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tensorflow as tf

from bilinear_cli.data.dataset import Dataset, load_dataset
from bilinear_cli.data.images import read_photo
from bilinear_cli.errors import BadPhotoError, BilinearError, FeatureFileError
from bilinear_cli.features.extract import extract
from bilinear_cli.features.settings import Settings, stored_settings
from bilinear_cli.store import FeatureFile, partial_path

SIZE, PATCH, BATCH = 32, 8, 3
POOLINGS = ("max", "avg", "sum", "bilinear", "conv5")
SETTINGS = Settings(POOLINGS, "block5_conv3", SIZE, "squash", "float32", BATCH, "0" * 64)
MakePhoto = Callable[..., Path]


class Network:
    """One strided convolution and a ReLU, with maps 4 x 4; and what became of it.

    Attributes:
        kernel: float32 (8, 8, 3, channels).
        loaded: how many times it was asked for.
        batches: how many it has seen.
        fail_at: the number of the batch, from 1, at which it raises.
        delay: seconds that a batch takes.
    """

    def __init__(self, channels: int = 8, fail_at: int = 0, delay: float = 0) -> None:
        shape = (PATCH, PATCH, 3, channels)
        self.kernel = np.random.default_rng(0).normal(size=shape).astype(np.float32) / 100
        self.loaded = self.batches = 0
        self.fail_at, self.delay = fail_at, delay

    def load(self) -> Callable[[tf.Tensor], tf.Tensor]:
        self.loaded += 1
        return self._forward

    def _forward(self, photos: tf.Tensor) -> tf.Tensor:
        photos = tf.ensure_shape(tf.numpy_function(self._see, [photos], tf.uint8), photos.shape)
        return tf.nn.relu(tf.nn.conv2d(tf.cast(photos, tf.float32), self.kernel, PATCH, "VALID"))

    def _see(self, photos: np.ndarray) -> np.ndarray:
        self.batches += 1
        time.sleep(self.delay)
        if self.batches == self.fail_at:
            raise RuntimeError("the network fails")
        return photos

    def maps(self, photo: np.ndarray) -> np.ndarray:
        """Return the maps of one photo, (4, 4, channels), the plain way."""
        n = SIZE // PATCH
        patches = photo.reshape(n, PATCH, n, PATCH, 3).astype(np.float64)
        return np.maximum(np.einsum("iajbc,abcd->ijd", patches, self.kernel), 0)


def pooled(maps: np.ndarray) -> dict[str, np.ndarray]:
    """Return every pooling of one photo's maps, the plain way."""
    x = maps.reshape(-1, maps.shape[-1])
    matrix = np.sqrt(sum(np.outer(row, row) for row in x))
    upper = np.triu(matrix) + np.triu(matrix, 1) * (np.sqrt(2) - 1)
    return {
        "max": x.max(axis=0),
        "avg": x.mean(axis=0),
        "sum": x.sum(axis=0),
        "bilinear": upper[np.triu_indices(len(matrix))] / np.linalg.norm(matrix),
        "conv5": maps,
    }


@pytest.fixture
def birds(tmp_path: Path, class_folders: Callable[..., Path]) -> Dataset:
    """Return a set of 8 photos, which are two batches of 3 and one of 2."""
    return load_dataset(str(class_folders(tmp_path / "birds", {"tit": 4, "wren": 4})))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "features" / "birds.h5"


def run(dataset: Dataset, output: Path, settings: Settings = SETTINGS, **options: Any) -> Network:
    """Extract with a new network and return it."""
    network = options.pop("network", None) or Network()
    extract(dataset, settings, output, network.load, **options)
    return network


def stopping_at(done: int) -> Callable[[int, int], None]:
    """Return a progress callback that interrupts the run when so many photos are done."""

    def progress(now: int, _: int) -> None:
        if now >= done:
            raise KeyboardInterrupt

    return progress


def interrupt(dataset: Dataset, output: Path, done: int, **options: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(dataset, output, progress=stopping_at(done), **options)
    with FeatureFile(partial_path(output), allow_partial=True) as file:
        assert file.rows_done == done


def contents(path: Path) -> dict[str, Any]:
    """Return every byte that a feature file holds, but the time it was made at."""
    found: dict[str, Any] = {}

    def note(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = (item.dtype.str, item.shape, item[()].tobytes(), dict(item.attrs))

    with h5py.File(path) as file:
        file.visititems(note)
        found |= {key: value for key, value in file.attrs.items() if key != "created"}
    return found


def refused(dataset: Dataset, output: Path, settings: Settings = SETTINGS, **options: Any) -> str:
    """Return the one line that a run ends with before it loads the network."""
    network = Network()
    with pytest.raises(FeatureFileError) as caught:
        run(dataset, output, settings, network=network, **options)
    assert network.loaded == 0
    assert "\n" not in str(caught.value)
    return str(caught.value)


def every(file: FeatureFile, spec: str) -> np.ndarray:
    return file.read(spec, np.arange(file.rows_done))


def sha256_of(dataset: Dataset, path: str) -> str:
    return hashlib.sha256((dataset.root / path).read_bytes()).hexdigest()


# What is in the file ---------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "large"), [(8, ()), (256, ("bilinear", "conv5"))])
def test_rows_are_what_each_photo_alone_gives(
    birds: Dataset, output: Path, channels: int, large: tuple[str, ...]
) -> None:
    network = run(birds, output, network=Network(channels))
    assert (network.loaded, network.batches) == (1, 3)
    with FeatureFile(output) as file:
        for row, path in enumerate(birds.paths):
            (photo,) = read_photo(birds.root / path, [SIZE])
            for spec, expected in pooled(network.maps(photo)).items():
                (stored,) = file.read(spec, np.array([row]))
                assert file.row_dtype(spec) == (np.float16 if spec in large else np.float32)
                precision = {"rtol": 2e-3, "atol": 1e-4} if spec in large else {"rtol": 1e-4}
                np.testing.assert_allclose(stored, expected, **precision)
                assert np.abs(expected).sum() > 0


def test_columns_say_which_photo_a_row_shows(birds: Dataset, output: Path) -> None:
    birds = replace(birds, group=np.array([f"nest {i // 2}" for i in range(8)]))
    run(birds, output)
    with FeatureFile(output) as file:
        for name in ("paths", "labels", "split", "group"):
            np.testing.assert_array_equal(getattr(file, name), getattr(birds, name))
        assert list(file.class_names) == ["tit", "wren"]
        assert list(file.photo) == list(range(8))
        assert list(file.view) == ["original"] * 8
        assert list(file.sha256) == [sha256_of(birds, path) for path in birds.paths]
        assert set(file.split) == {"train", "test"}
        assert file.skipped == {}


def test_attributes_say_how_the_file_was_made(birds: Dataset, output: Path) -> None:
    run(birds, output, attributes={"limit": 7})
    with FeatureFile(output) as file:
        expected = {
            "backbone": "vgg16",
            "layer": "block5_conv3",
            "weights_sha256": "0" * 64,
            "image_size": SIZE,
            "resize": "squash",
            "precision": "float32",
            "batch_size": BATCH,
            "views": "original",
            "data": birds.spec,
            "data_kind": "folders",
            "data_root": str(birds.root),
            "split_seed": 0,
            "limit": 7,
        }
        assert expected.items() <= file.attributes.items()
        for name in ("bilinear-cli", "tensorflow", "keras", "pillow", "libjpeg", "numpy"):
            assert f"{name} " in file.attributes["versions"]
    assert stored_settings(output) == replace(SETTINGS, poolings=tuple(sorted(POOLINGS)))
    assert stored_settings(output.with_name("none.h5")) is None
    assert stored_settings(None) is None
    assert stored_settings(None, output) == stored_settings(output)


def test_a_split_that_the_set_brought_has_no_seed(birds: Dataset, output: Path) -> None:
    run(replace(birds, split_seed=None), output)
    with FeatureFile(output) as file:
        assert file.attributes["split_seed"] == -1


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_batches_of_any_size_give_the_same(
    birds: Dataset, output: Path, tmp_path: Path, batch_size: int
) -> None:
    run(birds, output)
    run(birds, tmp_path / "other.h5", replace(SETTINGS, batch_size=batch_size))
    with FeatureFile(output) as file, FeatureFile(tmp_path / "other.h5") as other:
        for spec in POOLINGS:
            np.testing.assert_allclose(every(other, spec), every(file, spec), rtol=1e-4)


def test_progress_counts_photos(birds: Dataset, output: Path) -> None:
    steps: list[tuple[int, int]] = []
    run(birds, output, progress=lambda *step: steps.append(step))
    assert steps == [(0, 8), (3, 8), (6, 8), (8, 8)]


# Going on --------------------------------------------------------------------------------


@pytest.mark.parametrize("done", [0, 3, 6, 8])
def test_an_interrupted_run_goes_on_to_the_same_bits(
    birds: Dataset, output: Path, tmp_path: Path, done: int
) -> None:
    run(birds, tmp_path / "whole.h5")
    interrupt(birds, output, done)
    assert not output.exists()

    steps: list[int] = []
    network = run(birds, output, progress=lambda now, _: steps.append(now))
    assert steps == [now for now in (0, 3, 6, 8) if now >= done]
    assert network.batches == len(steps) - 1  # none is computed a second time
    assert contents(output) == contents(tmp_path / "whole.h5")
    assert [path.name for path in output.parent.iterdir()] == ["birds.h5"]


def test_a_network_that_fails_loses_its_batch_alone(
    birds: Dataset, output: Path, tmp_path: Path
) -> None:
    run(birds, tmp_path / "whole.h5")
    for fail_at in (2, 2, 1):
        with pytest.raises(tf.errors.OpError, match="the network fails"):
            run(birds, output, network=Network(fail_at=fail_at))
    assert run(birds, output).batches == 1
    assert contents(output) == contents(tmp_path / "whole.h5")


KILLED = """
import sys
from pathlib import Path
from test_extract import Network, load_dataset, run
run(load_dataset(sys.argv[1]), Path(sys.argv[2]), network=Network(delay=0.25),
    progress=lambda done, _: print(done, flush=True))
"""


def test_a_killed_run_goes_on_to_the_same_bits(
    tmp_path: Path, class_folders: Callable[..., Path]
) -> None:
    folder = class_folders(tmp_path / "birds", {"tit": 7, "wren": 7})
    output = tmp_path / "birds.h5"
    command = [sys.executable, "-c", KILLED, folder, output]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent
    ) as process:
        assert process.stdout
        for line in process.stdout:
            if line == "6\n":
                break
        time.sleep(0.1)  # into the third batch
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not output.exists()
    with FeatureFile(output, allow_partial=True) as file:
        assert file.rows_done in (6, 9)  # 9 only if this process was held up
        done = file.rows_done

    birds = load_dataset(str(folder))
    assert run(birds, output).batches == 5 - done // BATCH
    run(birds, tmp_path / "whole.h5")
    assert contents(output) == contents(tmp_path / "whole.h5")


def test_photos_in_another_order_keep_their_rows(
    birds: Dataset, output: Path, tmp_path: Path
) -> None:
    columns = ("paths", "labels", "split", "group")
    turned = replace(birds, **{name: getattr(birds, name)[::-1] for name in columns})
    run(birds, tmp_path / "whole.h5")
    interrupt(birds, output, 3)
    run(turned, output)
    assert contents(output) == contents(tmp_path / "whole.h5")
    assert run(turned, output).loaded == 0


def test_a_damaged_row_is_found_before_going_on(birds: Dataset, output: Path) -> None:
    interrupt(birds, output, 6)
    with h5py.File(partial_path(output), "r+") as file:
        file["features/avg"][4, 2] += 1
    assert "row 4 of features/avg has another checksum" in refused(birds, output)


# A file that is there --------------------------------------------------------------------


def test_a_second_identical_run_does_nothing(
    birds: Dataset, output: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(birds, output)
    before = output.read_bytes()
    caplog.set_level(logging.INFO)
    assert run(birds, output).loaded == 0
    assert output.read_bytes() == before
    assert caplog.messages == [f"{output} is complete: nothing to do (--overwrite begins again)"]


def test_poolings_may_stand_in_another_order(birds: Dataset, output: Path) -> None:
    run(birds, output)
    assert run(birds, output, replace(SETTINGS, poolings=POOLINGS[::-1])).loaded == 0


@pytest.mark.parametrize("done", [3, None])
@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"layer": "block5_pool"}, "layer block5_conv3, and block5_pool is"),
        ({"image_size": 64}, "image-size 32, and 64 is"),
        ({"resize": "pad"}, "resize squash, and pad is"),
        ({"precision": "bfloat16"}, "precision float32, and bfloat16 is"),
        ({"batch_size": 2}, "batch-size 3, and 2 is"),
        ({"weights_sha256": "1" * 64}, f"weights-sha256 {'0' * 64}, and {'1' * 64} is"),
        ({"backbone": "vgg19"}, "backbone vgg16, and vgg19 is"),
        ({"poolings": ("max",)}, "poolings avg bilinear conv5 max sum, and max is"),
    ],
)
def test_settings_that_differ_are_refused_with_both_values(
    birds: Dataset, output: Path, change: dict[str, Any], names: str, done: int | None
) -> None:
    path = output if done is None else partial_path(output)
    if done is None:
        run(birds, output)
    else:
        interrupt(birds, output, done)
    before = path.read_bytes()
    assert refused(birds, output, replace(SETTINGS, **change)) == (
        f"{path} was made with {names} asked for: give another --output, or --overwrite"
    )
    assert path.read_bytes() == before


def test_a_pooling_that_a_finished_file_lacks(birds: Dataset, output: Path) -> None:
    run(birds, output, replace(SETTINGS, poolings=("sum", "max")))
    line = refused(birds, output, replace(SETTINGS, poolings=("bilinear",)))
    assert line.startswith(f"{output} was made with poolings max sum, and bilinear is asked for")


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("what", ["gone", "new", "changed"])
def test_other_photos_are_refused_by_name(
    birds: Dataset, output: Path, make_photo: MakePhoto, what: str, finished: bool
) -> None:
    if finished:
        run(birds, output)
    else:
        interrupt(birds, output, 6)
    name = {"gone": "tit/1.png", "new": "tit/new.png", "changed": "tit/3.png"}[what]
    if what == "gone":
        (birds.root / name).unlink()
    else:
        make_photo(birds.root / name, seed=99)
    line = refused(load_dataset(birds.spec), output)
    path = output if finished else partial_path(output)
    assert line == (
        f"photos are {what} since {path} was begun: {name}; give another --output, with --reuse "
        f"{path} for the other rows, or --overwrite"
    )


def test_photos_whose_rows_are_to_come_may_change(
    birds: Dataset, output: Path, tmp_path: Path, make_photo: MakePhoto
) -> None:
    interrupt(birds, output, 6)
    make_photo(birds.root / birds.paths[6], seed=99)
    run(birds, output)
    run(birds, tmp_path / "whole.h5")
    assert contents(output) == contents(tmp_path / "whole.h5")
    with FeatureFile(output) as file:
        assert file.sha256[6] == sha256_of(birds, birds.paths[6])


@pytest.mark.parametrize("finished", [True, False])
def test_overwrite_begins_again(
    birds: Dataset, output: Path, make_photo: MakePhoto, finished: bool
) -> None:
    if finished:
        run(birds, output)
    else:
        interrupt(birds, output, 6)
    make_photo(birds.root / "tit" / "1.png", seed=99)
    network = run(birds, output, replace(SETTINGS, poolings=("max",)), overwrite=True)
    assert network.batches == 3
    assert [path.name for path in output.parent.iterdir()] == ["birds.h5"]
    with FeatureFile(output) as file:
        assert list(file.shapes) == ["max"]
        assert file.sha256[1] == sha256_of(birds, "tit/1.png")


def test_an_overwriting_run_that_stops_leaves_the_old_file(birds: Dataset, output: Path) -> None:
    run(birds, output)
    before = output.read_bytes()
    interrupt(birds, output, 3, overwrite=True)
    assert output.read_bytes() == before


def test_an_overwriting_run_that_stops_goes_on_without_overwrite(
    birds: Dataset, output: Path
) -> None:
    run(birds, output)
    interrupt(birds, output, 3, overwrite=True, settings=replace(SETTINGS, resize="crop"))
    assert stored_settings(output).resize == "crop"  # type: ignore[union-attr]
    assert run(birds, output, replace(SETTINGS, resize="crop")).batches == 2
    with FeatureFile(output) as file:
        assert file.attributes["resize"] == "crop"
    assert not partial_path(output).exists()


def test_a_folder_is_no_output(birds: Dataset, output: Path) -> None:
    output.mkdir(parents=True)
    for overwrite in (True, False):
        line = refused(birds, output, overwrite=overwrite)
        assert line == f"{output} is a folder: give --output a file name"


def test_an_output_that_is_no_feature_file_is_left_alone(birds: Dataset, output: Path) -> None:
    output.parent.mkdir()
    output.write_text("notes")
    assert "is not an HDF5 file" in refused(birds, output)
    assert output.read_text() == "notes"


# Bad photos ------------------------------------------------------------------------------


@pytest.fixture
def spoilt(birds: Dataset) -> Dataset:
    """Return the set with two files, in the second and third batch, that are no photos."""
    for path in (birds.paths[4], birds.paths[7]):
        (birds.root / path).write_bytes(b"no photo")
    return birds


def stop_at_bad(dataset: Dataset, output: Path) -> str:
    """Return what a run ends with that was not told to leave bad photos out."""
    with pytest.raises(BadPhotoError) as caught:
        run(dataset, output)
    with FeatureFile(partial_path(output), allow_partial=True) as file:
        assert file.rows_done == 3
    return str(caught.value)


def test_a_bad_photo_stops_the_run_and_the_rows_before_its_batch_are_kept(
    spoilt: Dataset, output: Path
) -> None:
    expected = (
        f"cannot read {spoilt.root / 'wren/0.png'} as a photo: not an image in any format known "
        "here; 3 of 8 photos are kept: mend it and run again, or leave such files out with "
        "--skip-bad"
    )
    assert stop_at_bad(spoilt, output) == stop_at_bad(spoilt, output) == expected


def test_a_run_goes_on_when_the_photos_are_mended(
    spoilt: Dataset, output: Path, tmp_path: Path, make_photo: MakePhoto
) -> None:
    stop_at_bad(spoilt, output)
    for seed, path in enumerate((spoilt.paths[4], spoilt.paths[7])):
        make_photo(spoilt.root / path, seed=90 + seed)
    assert run(spoilt, output).batches == 2
    run(spoilt, tmp_path / "whole.h5")
    assert contents(output) == contents(tmp_path / "whole.h5")


def check_skipped(spoilt: Dataset, output: Path, whole: Path) -> None:
    """Compare a file without the bad photos with one of a set that never had them."""
    keep = [0, 1, 2, 3, 5, 6]
    columns = ("paths", "labels", "split", "group")
    run(replace(spoilt, **{name: getattr(spoilt, name)[keep] for name in columns}), whole)
    with FeatureFile(output) as file, FeatureFile(whole) as other:
        for name in (*columns, "sha256", "view"):
            np.testing.assert_array_equal(getattr(file, name), getattr(other, name))
        for spec in POOLINGS:
            np.testing.assert_allclose(every(file, spec), every(other, spec), rtol=1e-4)
        reason = "cannot read {} as a photo: not an image in any format known here"
        assert file.skipped == {
            path: reason.format(spoilt.root / path) for path in ("wren/0.png", "wren/3.png")
        }


def test_bad_photos_are_left_out_and_named(
    spoilt: Dataset, output: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(spoilt, output, skip_bad=True)
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert [line.split(" as a photo")[0] for line in warnings] == [
        f"skipped: cannot read {spoilt.root / path}" for path in ("wren/0.png", "wren/3.png")
    ]
    check_skipped(spoilt, output, tmp_path / "whole.h5")


def test_a_run_that_stopped_at_a_bad_photo_goes_on_without_it(
    spoilt: Dataset, output: Path, tmp_path: Path
) -> None:
    stop_at_bad(spoilt, output)
    assert run(spoilt, output, skip_bad=True).batches == 2
    check_skipped(spoilt, output, tmp_path / "whole.h5")


def test_bad_photos_of_an_interrupted_run_are_remembered(
    spoilt: Dataset, output: Path, tmp_path: Path
) -> None:
    interrupt(spoilt, output, 6, skip_bad=True)
    assert run(spoilt, output, skip_bad=True).batches == 1
    check_skipped(spoilt, output, tmp_path / "whole.h5")


@pytest.mark.parametrize("skip_bad", [True, False])
def test_a_file_without_its_bad_photos_is_complete(
    spoilt: Dataset, output: Path, caplog: pytest.LogCaptureFixture, skip_bad: bool
) -> None:
    run(spoilt, output, skip_bad=True)
    caplog.set_level(logging.INFO)
    caplog.clear()
    assert run(spoilt, output, skip_bad=skip_bad).loaded == 0
    assert caplog.messages == [
        f"{output} is complete, without wren/0.png, wren/3.png: nothing to do (--overwrite begins "
        "again)"
    ]


def test_a_photo_mended_after_it_was_skipped_stays_out(
    spoilt: Dataset, output: Path, make_photo: MakePhoto
) -> None:
    interrupt(spoilt, output, 6, skip_bad=True)
    make_photo(spoilt.root / "wren/0.png", seed=99)
    run(spoilt, output, skip_bad=True)
    with FeatureFile(output) as file:
        assert len(file.labels) == 6
        assert file.skipped["wren/0.png"] == "could not be read when its turn came"


def test_a_photo_that_cannot_be_opened(birds: Dataset, output: Path) -> None:
    (birds.root / "wren/0.png").unlink()  # after the set was listed
    expected = f"cannot read {birds.root / 'wren/0.png'}: No such file or directory; 3 of 8"
    assert stop_at_bad(birds, output).startswith(expected)


def test_photos_that_all_could_not_be_opened_may_come_back(
    birds: Dataset, output: Path, tmp_path: Path
) -> None:
    away = birds.root.rename(tmp_path / "away")  # as of a drive that is not there
    with pytest.raises(BadPhotoError, match="0 of 8 photos are kept"):
        run(birds, output)
    away.rename(birds.root)
    run(birds, output)
    with FeatureFile(output) as file:
        assert list(file.sha256) == [sha256_of(birds, path) for path in birds.paths]


@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_photo_that_changes_while_the_run_goes_on_is_not_left_out(
    birds: Dataset, output: Path, make_photo: MakePhoto, skip_bad: bool
) -> None:
    def progress(done: int, _: int) -> None:
        if done == 0:  # hashed, not read
            make_photo(birds.root / "wren/0.png", seed=99)

    with pytest.raises(BilinearError) as caught:
        run(birds, output, progress=progress, skip_bad=skip_bad)
    changed = f"{birds.root / 'wren/0.png'} has changed since this run began: run again"
    assert str(caught.value).startswith(changed)
    assert run(birds, output).batches == 2
    with FeatureFile(output) as file:
        assert file.sha256[4] == sha256_of(birds, "wren/0.png")


@pytest.mark.parametrize(
    ("factor", "spec", "dtype"), [(1e4, "conv5", "float16"), (1e36, "max", "float32")]
)
def test_an_overflow_names_the_photo(
    birds: Dataset, output: Path, make_photo: MakePhoto, factor: float, spec: str, dtype: str
) -> None:
    for path in birds.paths:
        make_photo(birds.root / path, colour="black")
    make_photo(birds.root / "wren/1.png", colour="white")  # the last of the second batch
    network = Network(256 if spec == "conv5" else 8)
    network.kernel = np.abs(network.kernel) * np.float32(factor)
    with pytest.raises(BilinearError) as caught:
        run(birds, output, replace(SETTINGS, poolings=(spec,)), network=network)
    assert str(caught.value) == (
        f"{spec} of wren/1.png is beyond what {dtype} can hold: begin again (--overwrite) "
        "without that photo, or, after float16, with --precision float32"
    )
    with FeatureFile(partial_path(output), allow_partial=True) as file:
        assert file.rows_done == 3


def test_a_number_that_is_none_names_the_photo(birds: Dataset, output: Path) -> None:
    network = Network()
    network.kernel[0, 0, 0, 3] = np.nan
    with pytest.raises(BilinearError, match=r"max of tit/0\.png is beyond"):
        run(birds, output, replace(SETTINGS, poolings=("max",)), network=network)
