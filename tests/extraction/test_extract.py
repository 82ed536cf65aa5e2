"""Tests of stage 1 with a small random network in place of VGG16."""

import hashlib
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tensorflow as tf
from extraction.cases import (
    BATCH,
    COLUMNS,
    POOLINGS,
    RECIPE,
    Network,
    after,
    assert_uninterrupted,
    interrupt,
    run,
)
from PIL import Image
from support.errors import assert_names, messages, raises, warnings
from support.feature_files import all_rows, contents
from support.network import random_kernel, small_maps
from support.photos import class_folders, make_photo
from support.picture_files import DISPLAY_P3, deep_png, matrix_profile
from support.rows import pooled

from bilinear_cli.errors import BadPhotoError, BilinearError, FeatureFileError
from bilinear_cli.photos.photo_set import PhotoSet, load_photo_set
from bilinear_cli.photos.pixels.images import read_photo
from bilinear_cli.store import FeatureFile, partial_path

SIZE = RECIPE.image_size


@pytest.fixture
def birds(tmp_path: Path) -> PhotoSet:
    """Return a set of 8 photos, which are two batches of 3 and one of 2."""
    return load_photo_set(str(class_folders(tmp_path / "birds", {"tit": 4, "wren": 4})))


def refused(photo_set: PhotoSet, output: Path, *facts: Any, **options: Any) -> None:
    """Check that a run ends with one line that has these facts before it loads the network."""
    network = Network()
    with raises(FeatureFileError, *facts):
        run(photo_set, output, network=network, **options)
    assert network.loaded == 0


def sha256_of(photo_set: PhotoSet, path: str) -> str:
    return hashlib.sha256((photo_set.root / path).read_bytes()).hexdigest()


# What is in the file ---------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "large"), [(6, ()), (256, ("bilinear", "maps"))])
@pytest.mark.slow
def test_rows_are_what_each_photo_alone_gives(
    birds: PhotoSet, output: Path, channels: int, large: tuple[str, ...]
) -> None:
    network = run(birds, output, network=Network(random_kernel(channels)))
    assert (network.loaded, network.batches) == (1, 3)
    with FeatureFile(output) as file:
        for row, path in enumerate(birds.paths):
            (photo,) = read_photo(birds.root / path, [SIZE])
            maps = small_maps(photo, network.kernel)[np.newaxis]
            all_expected = pooled(maps) | {"maps": maps}
            for spec in POOLINGS:
                stored, expected = file.read(spec, np.array([row])), all_expected[spec]
                assert file.row_dtype(spec) == (np.float16 if spec in large else np.float32)
                precision = {"rtol": 2e-3, "atol": 1e-4} if spec in large else {"rtol": 1e-4}
                np.testing.assert_allclose(stored, expected, **precision)
                assert np.abs(expected).sum() > 0


def test_columns_say_which_photo_a_row_shows(birds: PhotoSet, output: Path) -> None:
    birds = replace(birds, group=np.array([f"nest {i // 2}" for i in range(8)]))
    run(birds, output)
    with FeatureFile(output) as file:
        for name in COLUMNS:
            np.testing.assert_array_equal(getattr(file, name), getattr(birds, name))
        assert list(file.class_names) == ["tit", "wren"]
        assert list(file.photo) == list(range(8))
        assert list(file.view) == ["original"] * 8
        assert list(file.sha256) == [sha256_of(birds, path) for path in birds.paths]
        assert set(file.split) == {"train", "test"}
        assert file.skipped == {}


@pytest.mark.parametrize(("split_seed", "stored_seed"), [(0, 0), (None, -1)])
def test_attributes_say_how_the_file_was_made(
    birds: PhotoSet, output: Path, split_seed: int | None, stored_seed: int
) -> None:
    run(replace(birds, split_seed=split_seed), output, attributes={"limit": 7})
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
            "split_seed": stored_seed,
            "limit": 7,
        }
        assert expected.items() <= file.attributes.items()
        for name in ("bilinear-cli", "tensorflow", "keras", "pillow", "libjpeg", "numpy"):
            assert f"{name} " in file.attributes["versions"]
        assert file.recipe == replace(RECIPE, specs=tuple(sorted(POOLINGS)))


@pytest.fixture
def phone_photos(tmp_path: Path) -> PhotoSet:
    """Return two photos in Display P3 beside three of 12 bits in 16."""
    folder = class_folders(tmp_path / "phone", {"tit": 2, "wren": 3})
    for path in (folder / "tit").iterdir():
        with Image.open(path) as image:
            image.save(path, icc_profile=matrix_profile(DISPLAY_P3))
    for i, path in enumerate(sorted((folder / "wren").iterdir())):
        path.write_bytes(deep_png(np.full((8, 8), 4000 - i)))
    return load_photo_set(str(folder))


def test_existing_rows_decide_whether_colour_profiles_are_applied(
    phone_photos: PhotoSet, output: Path, tmp_path: Path
) -> None:
    converted, reused = replace(RECIPE, colours="srgb"), tmp_path / "reused.h5"
    run(phone_photos, tmp_path / "new.h5", converted)
    interrupt(phone_photos, output, BATCH)  # as by an earlier version
    run(phone_photos, output, converted)
    assert run(phone_photos, reused, converted, reuse=output).batches == 0
    files = [output, reused, tmp_path / "new.h5"]
    rows = []
    for path, colours in zip(files, ("", "", "srgb"), strict=True):
        with FeatureFile(path) as file:
            assert file.attributes.get("colours", "") == colours
            rows.append(file.read("bilinear", np.arange(5)))
    np.testing.assert_array_equal(rows[0], rows[1])
    differ = np.abs(rows[0] - rows[2]).max(axis=1) > 1e-3
    assert differ.tolist() == [True, True, False, False, False]


def test_what_was_guessed_about_photos_is_said_once(
    phone_photos: PhotoSet, output: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(phone_photos, output)
    (warning,) = warnings(caplog)
    assert_names(warning, "wren/0.png", "12-bit", 4000, 2)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.slow
def test_batches_of_any_size_give_the_same(
    birds: PhotoSet, output: Path, tmp_path: Path, batch_size: int
) -> None:
    run(birds, output)
    run(birds, tmp_path / "other.h5", replace(RECIPE, batch_size=batch_size))
    with FeatureFile(output) as file, FeatureFile(tmp_path / "other.h5") as other:
        for spec in POOLINGS:
            np.testing.assert_allclose(all_rows(other, spec), all_rows(file, spec), rtol=1e-4)


# Resuming --------------------------------------------------------------------------------


@pytest.mark.parametrize("done", [0, 3, 6, 8])
@pytest.mark.slow
def test_an_interrupted_run_resumes_to_the_same_bits(
    birds: PhotoSet, output: Path, done: int
) -> None:
    interrupt(birds, output, done)
    assert not output.exists()

    steps: list[int] = []
    network = run(birds, output, progress=lambda now, _: steps.append(now))
    assert steps == [now for now in (0, 3, 6, 8) if now >= done]
    assert network.batches == len(steps) - 1  # none is computed a second time
    assert [path.name for path in output.parent.iterdir()] == ["birds.h5"]
    assert_uninterrupted(birds, output)


@pytest.mark.slow
def test_a_network_that_fails_loses_only_its_batch(birds: PhotoSet, output: Path) -> None:
    def fail() -> None:
        raise RuntimeError("the network fails")

    for batch in (2, 2, 1):
        with pytest.raises(tf.errors.OpError, match="the network fails"):
            run(birds, output, network=Network(at_batch={batch: fail}))
    assert run(birds, output).batches == 1
    assert_uninterrupted(birds, output)


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bits(
    birds: PhotoSet, output: Path, tmp_path: Path, batch: int
) -> None:
    """SIGKILL leaves the file as it is in the middle of a run, so a copy of it is enough."""
    killed = tmp_path / "killed.h5"

    def copy() -> None:
        assert not output.exists()
        shutil.copyfile(partial_path(output), partial_path(killed))

    run(birds, output, network=Network(at_batch={batch: copy}))
    with FeatureFile(killed, allow_partial=True) as file:
        assert file.rows_done == BATCH * (batch - 1)
    assert run(birds, killed).batches == 4 - batch
    assert contents(killed) == contents(output)


@pytest.mark.slow
def test_photos_in_another_order_keep_their_rows(birds: PhotoSet, output: Path) -> None:
    reordered = birds.take(np.arange(len(birds))[::-1])
    interrupt(birds, output, 3)
    run(reordered, output)
    assert_uninterrupted(birds, output)
    assert run(reordered, output).loaded == 0


def test_a_damaged_row_stops_a_run_that_would_resume(birds: PhotoSet, output: Path) -> None:
    interrupt(birds, output, 6)
    with h5py.File(partial_path(output), "r+") as file:
        file["features/max"][4, 2] += 1
    refused(birds, output, partial_path(output), 4, "features/max")


# An existing file ------------------------------------------------------------------------


def test_a_second_identical_run_does_nothing(
    birds: PhotoSet, output: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(birds, output)
    before = output.read_bytes()
    caplog.set_level(logging.INFO)
    for poolings in (POOLINGS, POOLINGS[::-1]):
        caplog.clear()
        assert run(birds, output, replace(RECIPE, specs=poolings)).loaded == 0
        assert output.read_bytes() == before
        (line,) = messages(caplog, logging.INFO)
        assert_names(line, output, "--overwrite")


CHANGES = [
    ({"layer": "block5_pool"}, ("layer", "block5_conv3", "block5_pool")),
    ({"image_size": 64}, ("image-size", 32, 64)),
    ({"resize": "pad"}, ("resize", "squash", "pad")),
    ({"precision": "bfloat16"}, ("precision", "float32", "bfloat16")),
    ({"batch_size": 2}, ("batch-size", 3, 2)),
    ({"weights_sha256": "1" * 64}, ("sha256", "0" * 64, "1" * 64)),
    ({"backbone": "vgg19"}, ("backbone", "vgg16", "vgg19")),
    ({"specs": ("compact:9",)}, ("pooling", *POOLINGS, "compact:9")),
    ({"seed": 7}, ("seed", 0, 7)),
]


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.slow
def test_recipes_that_differ_are_refused_with_both_values(
    birds: PhotoSet, output: Path, finished: bool
) -> None:
    path = begin(birds, output, finished)
    before = path.read_bytes()
    for change, facts in CHANGES:
        facts = (path, "--output", "--overwrite", *facts)
        refused(birds, output, *facts, recipe=replace(RECIPE, **change))
        assert path.read_bytes() == before


def begin(photo_set: PhotoSet, output: Path, finished: bool) -> Path:
    """Extract all photos, or two batches of them, and return the path of the file."""
    if finished:
        run(photo_set, output)
        return output
    return interrupt(photo_set, output, 6)


@pytest.mark.parametrize(
    ("change", "finished"),
    [("gone", True), ("gone", False), ("new", True), ("changed", True), ("changed", False)],
)
@pytest.mark.slow
def test_other_photos_are_refused_by_name(
    birds: PhotoSet, output: Path, change: str, finished: bool
) -> None:
    path = begin(birds, output, finished)
    name = {"gone": "tit/1.png", "new": "tit/new.png", "changed": "tit/3.png"}[change]
    if change == "gone":
        (birds.root / name).unlink()
    else:
        make_photo(birds.root / name, seed=99)
    facts = (path, name, "--output", f"--reuse {path}", "--overwrite")
    refused(load_photo_set(birds.spec), output, *facts)


@pytest.mark.slow
def test_photos_whose_rows_are_not_done_may_change(birds: PhotoSet, output: Path) -> None:
    interrupt(birds, output, 6)
    make_photo(birds.root / birds.paths[6], seed=99)
    run(birds, output)
    assert_uninterrupted(birds, output)
    with FeatureFile(output) as file:
        assert file.sha256[6] == sha256_of(birds, birds.paths[6])


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.slow
def test_overwrite_begins_again(birds: PhotoSet, output: Path, finished: bool) -> None:
    begin(birds, output, finished)
    make_photo(birds.root / "tit" / "1.png", seed=99)
    network = run(birds, output, replace(RECIPE, specs=("max",)), overwrite=True)
    assert network.batches == 3
    assert [path.name for path in output.parent.iterdir()] == ["birds.h5"]
    with FeatureFile(output) as file:
        assert list(file.shapes) == ["max"]
        assert file.sha256[1] == sha256_of(birds, "tit/1.png")


def test_an_overwriting_run_that_stops_leaves_the_complete_file_and_resumes_without_overwrite(
    birds: PhotoSet, output: Path
) -> None:
    run(birds, output)
    before = output.read_bytes()
    partial = interrupt(birds, output, 3, overwrite=True, recipe=replace(RECIPE, resize="crop"))
    assert output.read_bytes() == before
    with FeatureFile(partial, allow_partial=True) as file:
        assert file.recipe.resize == "crop"
    assert run(birds, output, replace(RECIPE, resize="crop")).batches == 2
    with FeatureFile(output) as file:
        assert file.attributes["resize"] == "crop"
    assert not partial_path(output).exists()


def test_a_folder_is_no_output(birds: PhotoSet, output: Path) -> None:
    output.mkdir(parents=True)
    for overwrite in (True, False):
        refused(birds, output, output, "--output", overwrite=overwrite)


def test_an_output_that_is_no_feature_file_is_left_alone(birds: PhotoSet, output: Path) -> None:
    output.parent.mkdir()
    output.write_text("notes")
    refused(birds, output, output, "HDF5")
    assert output.read_text() == "notes"


# Bad photos ------------------------------------------------------------------------------


@pytest.fixture
def spoilt(birds: PhotoSet) -> PhotoSet:
    """Return the set with two files, in the second and third batch, that are no photos."""
    for path in (birds.paths[4], birds.paths[7]):
        (birds.root / path).write_bytes(b"no photo")
    return birds


def stop_at_bad(photo_set: PhotoSet, output: Path, *facts: str) -> None:
    """Run without --skip-bad, and check that the run ends with the second batch."""
    with raises(BadPhotoError, photo_set.root / "wren/0.png", 3, 8, "--skip-bad", *facts):
        run(photo_set, output)
    with FeatureFile(partial_path(output), allow_partial=True) as file:
        assert file.rows_done == 3


def test_a_run_that_a_bad_photo_stops_resumes_when_the_photos_are_mended(
    spoilt: PhotoSet, output: Path
) -> None:
    for _ in range(2):
        stop_at_bad(spoilt, output)
    for seed, path in enumerate((spoilt.paths[4], spoilt.paths[7])):
        make_photo(spoilt.root / path, seed=90 + seed)
    assert run(spoilt, output).batches == 2
    assert_uninterrupted(spoilt, output)


@pytest.mark.parametrize(
    ("stop", "n_batches", "warned"),
    [
        (lambda *run: None, 3, ["wren/0.png", "wren/3.png"]),
        (stop_at_bad, 2, ["wren/0.png", "wren/3.png"]),
        (lambda *run: interrupt(*run, 6, skip_bad=True), 1, ["wren/3.png"]),
    ],
    ids=["a new run", "after a stop at a bad photo", "after an interrupted run"],
)
@pytest.mark.slow
def test_bad_photos_are_left_out_and_named(
    spoilt: PhotoSet,
    output: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    stop: Callable[[PhotoSet, Path], Any],
    n_batches: int,
    warned: list[str],
) -> None:
    stop(spoilt, output)
    caplog.clear()
    assert run(spoilt, output, skip_bad=True).batches == n_batches
    for line, path in zip(messages(caplog, logging.WARNING), warned, strict=True):
        assert_names(line, spoilt.root / path)
    run(spoilt.take(np.array([0, 1, 2, 3, 5, 6])), tmp_path / "expected.h5")
    with FeatureFile(output) as file, FeatureFile(tmp_path / "expected.h5") as other:
        for name in (*COLUMNS, "sha256", "view"):
            np.testing.assert_array_equal(getattr(file, name), getattr(other, name))
        for spec in POOLINGS:
            np.testing.assert_allclose(all_rows(file, spec), all_rows(other, spec), rtol=1e-4)
        assert file.skipped.keys() == {"wren/0.png", "wren/3.png"}
        for path, reason in file.skipped.items():
            assert_names(reason, spoilt.root / path)


def test_a_photo_that_is_cut_off_is_left_out(tmp_path: Path, output: Path) -> None:
    names = [f"{i}.jpg" for i in range(4)]
    birds = load_photo_set(str(class_folders(tmp_path / "birds", {"tit": names, "wren": names})))
    cut = birds.root / "wren/0.jpg"
    os.truncate(cut, cut.stat().st_size - 20)
    run(birds, output, skip_bad=True)
    with FeatureFile(output) as file:
        assert file.skipped.keys() == {"wren/0.jpg"}
        assert_names(file.skipped["wren/0.jpg"], cut, "truncated")


@pytest.mark.parametrize("skip_bad", [True, False])
@pytest.mark.slow
def test_a_file_without_its_bad_photos_is_complete(
    spoilt: PhotoSet, output: Path, caplog: pytest.LogCaptureFixture, skip_bad: bool
) -> None:
    run(spoilt, output, skip_bad=True)
    caplog.set_level(logging.INFO)
    caplog.clear()
    assert run(spoilt, output, skip_bad=skip_bad).loaded == 0
    (line,) = messages(caplog, logging.INFO)
    assert_names(line, output, "wren/0.png", "wren/3.png", "--overwrite")


def test_a_photo_mended_after_it_was_skipped_stays_out(spoilt: PhotoSet, output: Path) -> None:
    interrupt(spoilt, output, 6, skip_bad=True)
    make_photo(spoilt.root / "wren/0.png", seed=99)
    run(spoilt, output, skip_bad=True)
    with FeatureFile(output) as file:
        assert len(file.labels) == 6
        assert file.skipped.keys() == {"wren/0.png", "wren/3.png"}
        assert file.skipped["wren/0.png"]  # a reason, though the photo can be read now


def test_a_photo_that_cannot_be_opened(birds: PhotoSet, output: Path) -> None:
    (birds.root / "wren/0.png").unlink()  # after the set was listed
    stop_at_bad(birds, output, "No such file or directory")


def test_photos_that_all_could_not_be_opened_may_come_back(
    birds: PhotoSet, output: Path, tmp_path: Path
) -> None:
    away = birds.root.rename(tmp_path / "away")  # as if a drive is not connected
    with raises(BadPhotoError, birds.root / birds.paths[0], 0, 8):
        run(birds, output)
    away.rename(birds.root)
    run(birds, output)
    with FeatureFile(output) as file:
        assert list(file.sha256) == [sha256_of(birds, path) for path in birds.paths]


@pytest.mark.parametrize("skip_bad", [False, True])
@pytest.mark.slow
def test_a_row_is_of_the_bytes_whose_digest_stands_beside_it(
    birds: PhotoSet, output: Path, skip_bad: bool
) -> None:
    change = after(0, lambda: make_photo(birds.root / "wren/3.png", seed=99))
    run(birds, output, progress=change, skip_bad=skip_bad)
    assert_uninterrupted(birds, output)
    with FeatureFile(output) as file:
        assert file.sha256[7] == sha256_of(birds, "wren/3.png")


def test_a_photo_that_is_damaged_during_the_run_is_not_left_out(
    birds: PhotoSet, output: Path
) -> None:
    damage = after(0, lambda: (birds.root / "wren/3.png").write_bytes(b"no photo"))
    with raises(BilinearError, birds.root / "wren/3.png"):
        run(birds, output, progress=damage, skip_bad=True)
    run(birds, output, skip_bad=True)  # it was so when this run began
    with FeatureFile(output) as file:
        assert len(file.paths) == 7


@pytest.mark.parametrize(
    ("factor", "spec", "dtype"), [(1e4, "maps", "float16"), (1e36, "max", "float32")]
)
def test_an_overflow_names_the_photo(
    birds: PhotoSet, output: Path, factor: float, spec: str, dtype: str
) -> None:
    for path in birds.paths:
        make_photo(birds.root / path, colour="black")
    make_photo(birds.root / "wren/1.png", colour="white")  # the last of the second batch
    kernel = np.abs(random_kernel(256 if spec == "maps" else 8)) * np.float32(factor)
    with raises(BilinearError, spec, "wren/1.png", dtype, "--overwrite", "--precision float32"):
        run(birds, output, replace(RECIPE, specs=(spec,)), network=Network(kernel))
    with FeatureFile(partial_path(output), allow_partial=True) as file:
        assert file.rows_done == 3


def test_a_row_that_is_not_a_number_names_the_photo(birds: PhotoSet, output: Path) -> None:
    kernel = random_kernel()
    kernel[0, 0, 0, 3] = np.nan
    with raises(BilinearError, "max", "tit/0.png"):
        run(birds, output, replace(RECIPE, specs=("max",)), network=Network(kernel))
