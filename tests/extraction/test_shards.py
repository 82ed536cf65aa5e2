"""Tests of extracting a photo set in shards, of reading and merging shards, and of reuse."""

import logging
import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from support.errors import assert_names, raises
from support.feature_files import flip_bit, replace_dataset
from support.network import extract_photos, small_network
from support.photos import class_folders, make_photo

from bilinear_cli.errors import BilinearError, FeatureFileError, UsageError
from bilinear_cli.photos.photo_set import PhotoSet, load_photo_set
from bilinear_cli.recipe import Recipe, shard_slice
from bilinear_cli.run import train
from bilinear_cli.store import FeatureFile, merge, open_features, partial_path
from bilinear_cli.training.options import TrainOptions

POOLINGS = ("max", "bilinear", "maps")
RECIPE = Recipe(POOLINGS, "block5_conv3", 32, "squash", "float32", 3, "0" * 64)
COLUMNS = ("photo", "view", "labels", "paths", "sha256", "split", "group")


@pytest.fixture
def birds(tmp_path: Path) -> PhotoSet:
    """Return a set of 11 photos, which are three batches of 3 and one of 2."""
    return load_photo_set(str(class_folders(tmp_path / "birds", {"tit": 6, "wren": 5})))


@pytest.fixture(params=[("original",), ("original", "flip")], ids=["plain", "flip"])
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return replace(RECIPE, views=request.param)


def run(photo_set: PhotoSet, recipe: Recipe, output: Path, **options: Any) -> int:
    """Extract, and return how many photos the network computed."""
    photos: set[bytes] = set()

    def watch(batch: np.ndarray) -> None:
        photos.update(photo.tobytes() for photo in batch if photo.any())

    extract_photos(photo_set, recipe, output, lambda: small_network(watch), **options)
    return len(photos)


def stop(n_photos: int) -> Callable[[int, int], None]:
    """Return a progress callback that interrupts a run after so many photos."""

    def progress(done: int, _: int) -> None:
        if done >= n_photos:
            raise KeyboardInterrupt

    return progress


def interrupt(photo_set: PhotoSet, recipe: Recipe, output: Path, n: int, **options: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(photo_set, recipe, output, progress=stop(n), **options)


def parts_of(photo_set: PhotoSet, recipe: Recipe, folder: Path, n: int) -> list[Path]:
    paths = [folder / f"part{i}.h5" for i in range(1, n + 1)]
    for i, path in enumerate(paths, 1):
        run(photo_set, replace(recipe, shard=f"{i}/{n}"), path)
    return paths


def same(a: FeatureFile, b: FeatureFile) -> Iterator[bool]:
    """Yield whether rows and their columns are the same to the bit."""
    every = np.arange(a.rows_done)
    yield a.shapes == b.shapes
    yield a.class_names.tolist() == b.class_names.tolist()
    for name in COLUMNS:
        yield getattr(a, name).tolist() == getattr(b, name).tolist()
    for spec in a.shapes:
        yield a.read_raw(spec, every).tobytes() == b.read_raw(spec, every).tobytes()


# Shards ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_photos", [1, 7, 48, 49])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_shards_are_whole_batches_and_leave_nothing_out(n_photos: int, batch_size: int) -> None:
    for n in range(1, -(-n_photos // batch_size) + 1):
        cuts = [shard_slice(f"{i}/{n}", n_photos, batch_size) for i in range(1, n + 1)]
        assert [cut.start for cut in cuts] == [0, *(cut.stop for cut in cuts[:-1])]
        assert cuts[-1].stop == n_photos
        assert all(cut.start % batch_size == 0 and cut.start < cut.stop for cut in cuts)


@pytest.mark.parametrize("shard", ["0/2", "3/2", "2", "a/b", "-1/2", "1/", "", "1/2/3"])
def test_other_shards_are_refused(shard: str) -> None:
    with raises(UsageError, repr(shard)):
        shard_slice(shard, 48, 4)


def test_more_shards_than_batches_are_refused() -> None:
    with raises(UsageError, 48, 12, 4, 13):
        shard_slice("1/13", 48, 4)


@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.slow
def test_shards_read_as_one_or_merged_are_a_single_runs_rows(
    n: int, birds: PhotoSet, recipe: Recipe, tmp_path: Path
) -> None:
    run(birds, recipe, tmp_path / "whole.h5")
    parts = parts_of(birds, recipe, tmp_path, n)[::-1]  # in any order
    steps: list[tuple[int, int]] = []
    merge(parts, tmp_path / "merged.h5", progress=lambda *step: steps.append(step))
    assert steps[-1] == (11 * len(recipe.views),) * 2
    with FeatureFile(tmp_path / "whole.h5") as whole, open_features(parts) as several:
        assert all(same(whole, several))
        assert several.attributes["shard"] == "1/1"
        assert several.files == parts[::-1]
        with FeatureFile(tmp_path / "merged.h5") as merged:
            assert all(same(whole, merged))
            differing = {
                name
                for name in whole.attributes | merged.attributes
                if whole.attributes.get(name) != merged.attributes.get(name)
            }
            assert differing <= {"created", "command"}
        rng = np.random.default_rng(0)
        rows = rng.integers(0, whole.rows_done, 30)
        for spec in POOLINGS:
            np.testing.assert_array_equal(several.read(spec, rows), whole.read(spec, rows))
        for (slice_1, columns_1), (slice_2, columns_2) in zip(
            whole.columns("bilinear", rows, 4), several.columns("bilinear", rows, 4), strict=True
        ):
            assert slice_1 == slice_2
            np.testing.assert_array_equal(columns_1, columns_2)
        options = TrainOptions(C=1.0, label_smoothing=0.0)
        metrics = [train(file, "max", options, tmp_path / "runs") for file in (whole, several)]
        assert metrics[0]["top1"] == metrics[1]["top1"]
        assert metrics[1]["features_file"] == " ".join(map(str, parts[::-1]))
    # the merged file is complete for the command that would have made it
    assert run(birds, recipe, tmp_path / "merged.h5") == 0
    assert not list(tmp_path.glob("*.lock"))


@pytest.mark.slow
def test_a_folder_stands_for_the_files_in_it(
    birds: PhotoSet, recipe: Recipe, tmp_path: Path
) -> None:
    folder = tmp_path / "x.h5.shards"
    folder.mkdir()
    with raises(FeatureFileError, folder, "*.h5"):
        open_features([folder])
    parts = parts_of(birds, recipe, folder, 2)
    merge([folder], tmp_path / "merged.h5")
    with open_features([folder]) as file, FeatureFile(tmp_path / "merged.h5") as merged:
        assert file.files == sorted(parts)
        assert all(same(file, merged))
    parts[1].rename(partial_path(parts[1]))
    with raises(FeatureFileError, "2/2"):
        open_features([folder])


def test_an_interrupted_shard_resumes(birds: PhotoSet, tmp_path: Path) -> None:
    recipe = replace(RECIPE, shard="2/2")
    interrupt(birds, recipe, tmp_path / "b.h5", 3)
    assert run(birds, recipe, tmp_path / "b.h5") == 2
    with FeatureFile(tmp_path / "b.h5") as file:
        assert file.photo.tolist() == [6, 7, 8, 9, 10]
        assert file.paths.tolist() == birds.paths[6:].tolist()
        assert set(file.class_names) == {"tit", "wren"}


@pytest.mark.slow
def test_bad_photos_of_shards_are_left_out_of_the_whole(birds: PhotoSet, tmp_path: Path) -> None:
    for i in (1, 7):
        (birds.root / birds.paths[i]).write_text("no photo")
    for i in (1, 2):
        recipe = replace(RECIPE, shard=f"{i}/2")
        run(birds, recipe, tmp_path / f"part{i}.h5", skip_bad=True)
    parts = [tmp_path / "part1.h5", tmp_path / "part2.h5"]
    merge(parts, tmp_path / "merged.h5")
    run(birds, RECIPE, tmp_path / "whole.h5", skip_bad=True)
    with FeatureFile(tmp_path / "whole.h5") as a, FeatureFile(tmp_path / "merged.h5") as b:
        assert all(same(a, b))
        assert a.skipped == b.skipped
        assert set(a.skipped) == set(birds.paths[[1, 7]])


Spoil = Callable[[PhotoSet, list[Path]], None]


def shard_of(recipe: Recipe, take: slice = slice(None)) -> Spoil:
    """Return what puts another second shard, of these photos, in the place of the right one."""

    def spoil(birds: PhotoSet, parts: list[Path]) -> None:
        photos = birds.take(np.arange(len(birds))[take])
        run(photos, recipe, parts[1], overwrite=True)

    return spoil


def other_layout(_: PhotoSet, parts: list[Path]) -> None:
    with h5py.File(parts[1], "r+") as file:
        file["features/max"].attrs["normalization"] = "l2"


SECOND = replace(RECIPE, shard="2/2")


@pytest.mark.parametrize(
    ("spoil", "facts"),
    [
        (shard_of(replace(SECOND, image_size=40)), ("image_size", 32, 40)),
        (shard_of(replace(SECOND, poolings=("max",))), ("pooling", "bilinear maps max")),
        (shard_of(SECOND, slice(10)), ("data_sha256",)),
        (other_layout, ("max", "normalization", "l2")),
        (shard_of(replace(RECIPE, shard="2/3")), (2, 3)),
    ],
)
@pytest.mark.slow
def test_shards_that_do_not_belong_together_are_refused_by_their_difference(
    spoil: Spoil, facts: tuple[Any, ...], birds: PhotoSet, tmp_path: Path
) -> None:
    parts = parts_of(birds, RECIPE, tmp_path, 2)
    spoil(birds, parts)
    with raises(FeatureFileError, *parts, *facts):
        open_features(parts)
    with raises(FeatureFileError, *parts, *facts):
        merge(parts, tmp_path / "merged.h5")
    assert {path.name for path in tmp_path.iterdir()} == {"birds", "part1.h5", "part2.h5"}


@pytest.mark.slow
def test_missing_and_repeated_shards_are_refused(birds: PhotoSet, tmp_path: Path) -> None:
    one, two = parts_of(birds, RECIPE, tmp_path, 2)
    for parts, facts in (
        ([two], ("1/2", 1, 2)),
        ([one, one], ("1/2", one)),
        ([one, two, one], ("1/2", one)),
    ):
        with raises(FeatureFileError, *facts):
            open_features(parts)
        with raises(FeatureFileError, *facts):
            merge(parts, tmp_path / "merged.h5")
    assert not [*tmp_path.glob("merged*")]


@pytest.mark.slow
def test_the_last_of_three_shards_is_compared_too(birds: PhotoSet, tmp_path: Path) -> None:
    parts = parts_of(birds, RECIPE, tmp_path, 3)
    run(birds, replace(RECIPE, shard="3/3", image_size=40), parts[2], overwrite=True)
    with raises(FeatureFileError, parts[0], parts[2], "image_size", 32, 40):
        open_features(parts)


def test_a_damaged_shard_leaves_nothing_and_is_named(birds: PhotoSet, tmp_path: Path) -> None:
    parts = parts_of(birds, RECIPE, tmp_path, 2)
    flip_bit(parts[1], "max", 0)
    with raises(FeatureFileError, parts[1], "features/max", 0):
        merge(parts, tmp_path / "merged.h5")
    assert not [*tmp_path.glob("merged*")]


@pytest.mark.slow
def test_files_are_replaced_only_with_overwrite(birds: PhotoSet, tmp_path: Path) -> None:
    parts = parts_of(birds, RECIPE, tmp_path, 2)
    before = parts[0].read_bytes()
    with raises(FeatureFileError, parts[0]):
        merge(parts, parts[0], overwrite=True)
    assert parts[0].read_bytes() == before
    merge(parts, tmp_path / "merged.h5")
    with raises(FeatureFileError, tmp_path / "merged.h5", "--overwrite"):
        merge(parts, tmp_path / "merged.h5")
    merge(parts, tmp_path / "merged.h5", overwrite=True)
    partial = partial_path(tmp_path / "begun.h5")
    partial.write_text("an unfinished run")
    with raises(FeatureFileError, partial, "--overwrite"):
        merge(parts, tmp_path / "begun.h5")
    assert partial.read_text() == "an unfinished run"


# Reuse -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_only_what_is_new_is_computed(
    birds: PhotoSet, recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    run(birds, recipe, tmp_path / "old.h5")
    root = birds.root
    make_photo(root / "tit" / "0a.png", seed=100)  # added, in the middle of others
    make_photo(root / "wren" / "z.png", seed=101)
    make_photo(root / "wren" / "2.png", seed=102)  # changed
    (root / "tit" / "3.png").rename(root / "wren" / "moved.png")  # moved, and relabelled
    (root / "tit" / "4.png").unlink()
    new = load_photo_set(str(root))
    run(new, recipe, tmp_path / "whole.h5")
    caplog.clear()
    computed = run(new, recipe, tmp_path / "new.h5", reuse=tmp_path / "old.h5")
    assert computed == 3 * len(recipe.views)
    (line,) = [x for x in caplog.records if str(tmp_path / "old.h5") in x.getMessage()]
    assert line.levelno == logging.INFO
    assert_names(line.getMessage(), 9, len(new))
    with FeatureFile(tmp_path / "whole.h5") as whole, FeatureFile(tmp_path / "new.h5") as reused:
        assert all(same(whole, reused))


@pytest.mark.slow
def test_an_interrupted_run_that_reuses_resumes(birds: PhotoSet, tmp_path: Path) -> None:
    run(birds, RECIPE, tmp_path / "old.h5")
    for i in range(5):
        make_photo(birds.root / "tit" / f"{i}b.png", seed=50 + i)
    new = load_photo_set(str(birds.root))
    interrupt(new, RECIPE, tmp_path / "new.h5", 6, reuse=tmp_path / "old.h5")
    run(new, RECIPE, tmp_path / "new.h5", reuse=tmp_path / "old.h5")
    run(new, RECIPE, tmp_path / "whole.h5")
    with FeatureFile(tmp_path / "whole.h5") as whole, FeatureFile(tmp_path / "new.h5") as reused:
        assert all(same(whole, reused))


def test_the_rows_of_an_unfinished_file_are_reused(birds: PhotoSet, tmp_path: Path) -> None:
    interrupt(birds, RECIPE, tmp_path / "old.h5", 6)
    old = partial_path(tmp_path / "old.h5")
    assert run(birds, RECIPE, tmp_path / "new.h5", reuse=old) == 5


def test_rows_of_fewer_poolings_are_taken_from_a_file_of_more(
    birds: PhotoSet, tmp_path: Path
) -> None:
    run(birds, RECIPE, tmp_path / "old.h5")
    fewer = replace(RECIPE, poolings=("max",))
    assert run(birds, fewer, tmp_path / "new.h5", reuse=tmp_path / "old.h5") == 0
    with raises(FeatureFileError, tmp_path / "new.h5", "bilinear", "maps"):
        run(birds, RECIPE, tmp_path / "more.h5", reuse=tmp_path / "new.h5")


def test_rows_made_otherwise_are_not_reused(birds: PhotoSet, tmp_path: Path) -> None:
    run(birds, RECIPE, tmp_path / "old.h5")
    for mixed in ("", "int8"):
        other = replace(RECIPE, resize="crop", mixed_with=mixed)
        with raises(FeatureFileError, tmp_path / "old.h5", "resize", "squash", "crop"):
            run(birds, other, tmp_path / "new.h5", reuse=tmp_path / "old.h5")
    with raises(FeatureFileError, tmp_path / "none.h5"):
        run(birds, RECIPE, tmp_path / "new.h5", reuse=tmp_path / "none.h5")
    assert not [*tmp_path.glob("new*")]


def test_a_file_does_not_reuse_itself(birds: PhotoSet, tmp_path: Path) -> None:
    interrupt(birds, RECIPE, tmp_path / "x.h5", 6)
    with raises(UsageError, "--reuse", partial_path(tmp_path / "x.h5"), "--output"):
        run(birds, RECIPE, tmp_path / "x.h5", reuse=tmp_path / "x.h5")
    assert run(birds, RECIPE, tmp_path / "x.h5") == 5


def test_a_complete_file_needs_no_file_to_reuse(birds: PhotoSet, tmp_path: Path) -> None:
    run(birds, RECIPE, tmp_path / "old.h5")
    run(birds, RECIPE, tmp_path / "new.h5", reuse=tmp_path / "old.h5")
    (tmp_path / "old.h5").unlink()
    assert run(birds, RECIPE, tmp_path / "new.h5", reuse=tmp_path / "old.h5") == 0


def test_attributes_that_cannot_be_are_damage(birds: PhotoSet, tmp_path: Path) -> None:
    old = tmp_path / "old.h5"
    run(birds, RECIPE, old)
    good = old.read_bytes()
    bad = [("batch_size", 0), ("image_size", "x"), ("views", "flop"), ("layer", None)]
    for name, value in bad:
        with h5py.File(old, "r+") as file:
            del file.attrs[name]
            if value is not None:
                file.attrs[name] = value
        for output in ("old.h5", "new.h5"):
            with raises(FeatureFileError, old, name if value is None else value):
                run(birds, RECIPE, tmp_path / output, reuse=old)
        old.write_bytes(good)
    for i, shard in enumerate(("0/0", "2/1", "x", "1/2/3")):
        copy = Path(shutil.copy(old, tmp_path / f"{i}.h5"))
        with h5py.File(copy, "r+") as file:
            file.attrs["shard"] = shard
        with raises(FeatureFileError, copy):
            open_features([copy])


def test_one_of_very_many_shards_costs_nothing(birds: PhotoSet, tmp_path: Path) -> None:
    run(birds, RECIPE, tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        file.attrs["shard"] = "1/1000000000000"
    with raises(FeatureFileError, 999999999999, 1000000000000, "2/1000000000000"):
        open_features([tmp_path / "x.h5"])


@pytest.mark.slow
def test_rows_of_another_shape_or_no_numbers_are_not_reused(
    birds: PhotoSet, tmp_path: Path
) -> None:
    for name, values, facts in (
        ("wide", np.zeros((11, 7), np.float32), ("max", 7, "wide.h5", 6)),
        ("nan", np.full((11, 6), np.nan, np.float32), ("max", birds.paths[0], "float32")),
    ):
        old = tmp_path / f"{name}.h5"
        run(birds, replace(RECIPE, poolings=("max",)), old)
        replace_dataset(old, "features/max", values)
        with h5py.File(old, "r+") as file:
            file["crc32/max"][...] = [zlib.crc32(row.tobytes()) for row in values]
        new = tmp_path / "new.h5"
        error = FeatureFileError if name == "wide" else BilinearError
        with raises(error, *facts):
            run(birds, replace(RECIPE, poolings=("max",)), new, reuse=old, overwrite=True)


def test_a_folder_that_is_gone_is_not_a_set_of_bad_photos(birds: PhotoSet, tmp_path: Path) -> None:
    def progress(done: int, _: int) -> None:
        if done == 3:
            birds.root.rename(tmp_path / "away")

    with raises(BilinearError, birds.root):
        run(birds, RECIPE, tmp_path / "x.h5", progress=progress, skip_bad=True)
    (tmp_path / "away").rename(birds.root)
    run(birds, RECIPE, tmp_path / "x.h5", skip_bad=True)
    with FeatureFile(tmp_path / "x.h5") as file:
        assert len(file.labels) == 11


@pytest.mark.slow
def test_rows_of_other_versions_are_a_warning(
    birds: PhotoSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def change_versions(path: Path, versions: str) -> None:
        with h5py.File(path, "r+") as file:
            file.attrs["versions"] = versions

    def warning() -> str:
        (record,) = [x for x in caplog.records if x.levelno == logging.WARNING]
        caplog.clear()
        return record.getMessage()

    old, new = tmp_path / "old.h5", tmp_path / "new.h5"
    run(birds, RECIPE, old)
    run(birds, RECIPE, new, reuse=old)
    assert not [x for x in caplog.records if x.levelno == logging.WARNING]
    change_versions(old, "tensorflow 1.0")
    run(birds, RECIPE, new, reuse=old, overwrite=True)
    assert_names(warning(), old, "tensorflow 1.0")
    interrupt(birds, RECIPE, tmp_path / "x.h5", 6)
    change_versions(partial_path(tmp_path / "x.h5"), "tensorflow 2.0")
    run(birds, RECIPE, tmp_path / "x.h5")
    assert_names(warning(), partial_path(tmp_path / "x.h5"), "tensorflow 2.0")
