"""Tests of extracting a photo set in shards, of reading and merging shards, and of reuse."""

import logging
import shutil
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from extraction.cases import POOLINGS, RECIPE, contents, interrupt, run
from support.errors import assert_names, raises
from support.feature_files import flip_bit, replace_dataset
from support.photos import make_photo

from bilinear_cli.errors import BilinearError, FeatureFileError, UsageError
from bilinear_cli.photos.photo_set import PhotoSet, load_photo_set
from bilinear_cli.recipe import Recipe, shard_slice
from bilinear_cli.run import train
from bilinear_cli.store import FeatureFile, merge, open_features, partial_path
from bilinear_cli.training.options import TrainOptions


@pytest.fixture(params=[("original",), ("original", "flip")], ids=["plain", "flip"])
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return replace(RECIPE, views=request.param)


def shards_of(
    photo_set: PhotoSet, recipe: Recipe, folder: Path, n: int, **options: Any
) -> list[Path]:
    """Extract a photo set in n shards."""
    paths = [folder / f"shard{i}.h5" for i in range(1, n + 1)]
    for i, path in enumerate(paths, 1):
        run(photo_set, path, replace(recipe, shard=f"{i}/{n}"), **options)
    return paths


# Shards ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_photos", [1, 7, 48, 49])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_shards_are_whole_batches_and_leave_nothing_out(n_photos: int, batch_size: int) -> None:
    for n in range(1, -(-n_photos // batch_size) + 1):
        cuts = [shard_slice(f"{i}/{n}", n_photos, batch_size) for i in range(1, n + 1)]
        assert [cut.start for cut in cuts] == [0, *(cut.stop for cut in cuts[:-1])]
        assert cuts[-1].stop == n_photos
        assert all(cut.start % batch_size == 0 and cut.start < cut.stop for cut in cuts)


@pytest.mark.parametrize("shard", ["0/2", "3/2", "2", "a/b", "-1/2", "1/", "", "1/2/3", "1/13"])
def test_other_shards_are_refused(shard: str) -> None:
    too_many = (48, 12, 4, 13)  # photos, batches, photos in a batch, shards
    with raises(UsageError, *(too_many if shard == "1/13" else [repr(shard)])):
        shard_slice(shard, 48, 4)


@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.slow
def test_shards_read_as_one_or_merged_are_a_single_runs_rows(
    n: int, birds: PhotoSet, recipe: Recipe, tmp_path: Path
) -> None:
    run(birds, tmp_path / "whole.h5", recipe)
    shards = shards_of(birds, recipe, tmp_path, n)[::-1]  # in any order
    steps: list[tuple[int, int]] = []
    merge(shards, tmp_path / "merged.h5", progress=lambda *step: steps.append(step))
    assert steps[-1] == (11 * len(recipe.views),) * 2
    assert contents(tmp_path / "merged.h5") == contents(tmp_path / "whole.h5")
    with FeatureFile(tmp_path / "whole.h5") as whole, open_features(shards) as several:
        assert several.attributes["shard"] == "1/1"
        assert several.files == shards[::-1]
        rows = np.random.default_rng(0).integers(0, whole.rows_done, 30)
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
        assert metrics[1]["features_file"] == " ".join(map(str, shards[::-1]))
    # the merged file is complete for the command that would have made it
    assert len(run(birds, tmp_path / "merged.h5", recipe).photos) == 0
    assert not list(tmp_path.glob("*.lock"))


@pytest.mark.slow
def test_a_folder_stands_for_the_files_in_it(
    birds: PhotoSet, recipe: Recipe, tmp_path: Path
) -> None:
    folder = tmp_path / "x.h5.shards"
    folder.mkdir()
    with raises(FeatureFileError, folder, "*.h5"):
        open_features([folder])
    shards = shards_of(birds, recipe, folder, 2)
    merge([folder], tmp_path / "merged.h5")
    merge(shards, tmp_path / "also.h5")
    assert contents(tmp_path / "merged.h5") == contents(tmp_path / "also.h5")
    with open_features([folder]) as file:
        assert file.files == shards
    shards[1].rename(partial_path(shards[1]))
    with raises(FeatureFileError, "2/2"):
        open_features([folder])


def test_an_interrupted_shard_resumes(birds: PhotoSet, tmp_path: Path) -> None:
    recipe = replace(RECIPE, shard="2/2")
    interrupt(birds, tmp_path / "b.h5", 3, recipe=recipe)
    assert len(run(birds, tmp_path / "b.h5", recipe).photos) == 2
    with FeatureFile(tmp_path / "b.h5") as file:
        assert file.photo.tolist() == [6, 7, 8, 9, 10]
        assert file.paths.tolist() == birds.paths[6:].tolist()
        assert set(file.class_names) == {"tit", "wren"}


@pytest.mark.slow
def test_bad_photos_of_shards_are_left_out_of_the_whole(birds: PhotoSet, tmp_path: Path) -> None:
    for i in (1, 7):
        (birds.root / birds.paths[i]).write_text("no photo")
    shards = shards_of(birds, RECIPE, tmp_path, 2, skip_bad=True)
    merge(shards, tmp_path / "merged.h5")
    run(birds, tmp_path / "whole.h5", skip_bad=True)
    assert contents(tmp_path / "merged.h5") == contents(tmp_path / "whole.h5")
    with FeatureFile(tmp_path / "merged.h5") as file:
        assert set(file.skipped) == set(birds.paths[[1, 7]])


Spoil = Callable[[PhotoSet, list[Path]], None]


def shard_of(recipe: Recipe, take: slice = slice(None)) -> Spoil:
    """Return what puts another second shard, of these photos, in the place of the right one."""

    def spoil(birds: PhotoSet, shards: list[Path]) -> None:
        photos = birds.take(np.arange(len(birds))[take])
        run(photos, shards[1], recipe, overwrite=True)

    return spoil


def other_layout(_: PhotoSet, shards: list[Path]) -> None:
    with h5py.File(shards[1], "r+") as file:
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
    shards = shards_of(birds, RECIPE, tmp_path, 2)
    spoil(birds, shards)
    with raises(FeatureFileError, *shards, *facts):
        open_features(shards)
    with raises(FeatureFileError, *shards, *facts):
        merge(shards, tmp_path / "merged.h5")
    assert {path.name for path in tmp_path.iterdir()} == {"birds", "shard1.h5", "shard2.h5"}


@pytest.mark.slow
def test_missing_and_repeated_shards_are_refused(birds: PhotoSet, tmp_path: Path) -> None:
    one, two = shards_of(birds, RECIPE, tmp_path, 2)
    for shards, facts in (
        ([two], ("1/2", 1, 2)),
        ([one, one], ("1/2", one)),
        ([one, two, one], ("1/2", one)),
    ):
        with raises(FeatureFileError, *facts):
            open_features(shards)
        with raises(FeatureFileError, *facts):
            merge(shards, tmp_path / "merged.h5")
    assert not [*tmp_path.glob("merged*")]


@pytest.mark.slow
def test_the_last_of_three_shards_is_compared_too(birds: PhotoSet, tmp_path: Path) -> None:
    shards = shards_of(birds, RECIPE, tmp_path, 3)
    run(birds, shards[2], replace(RECIPE, shard="3/3", image_size=40), overwrite=True)
    with raises(FeatureFileError, shards[0], shards[2], "image_size", 32, 40):
        open_features(shards)


def test_a_damaged_shard_leaves_nothing_and_is_named(birds: PhotoSet, tmp_path: Path) -> None:
    shards = shards_of(birds, RECIPE, tmp_path, 2)
    flip_bit(shards[1], "max", 0)
    with raises(FeatureFileError, shards[1], "features/max", 0):
        merge(shards, tmp_path / "merged.h5")
    assert not [*tmp_path.glob("merged*")]


@pytest.mark.slow
def test_files_are_replaced_only_with_overwrite(birds: PhotoSet, tmp_path: Path) -> None:
    shards = shards_of(birds, RECIPE, tmp_path, 2)
    before = shards[0].read_bytes()
    with raises(FeatureFileError, shards[0]):
        merge(shards, shards[0], overwrite=True)
    assert shards[0].read_bytes() == before
    merge(shards, tmp_path / "merged.h5")
    with raises(FeatureFileError, tmp_path / "merged.h5", "--overwrite"):
        merge(shards, tmp_path / "merged.h5")
    merge(shards, tmp_path / "merged.h5", overwrite=True)
    partial = partial_path(tmp_path / "begun.h5")
    partial.write_text("an unfinished run")
    with raises(FeatureFileError, partial, "--overwrite"):
        merge(shards, tmp_path / "begun.h5")
    assert partial.read_text() == "an unfinished run"


# Reuse -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_only_what_is_new_is_computed(
    birds: PhotoSet, recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    run(birds, tmp_path / "old.h5", recipe)
    root = birds.root
    make_photo(root / "tit" / "0a.png", seed=100)  # added, in the middle of others
    make_photo(root / "wren" / "z.png", seed=101)
    make_photo(root / "wren" / "2.png", seed=102)  # changed
    (root / "tit" / "3.png").rename(root / "wren" / "moved.png")  # moved, and relabelled
    (root / "tit" / "4.png").unlink()
    new = load_photo_set(str(root))
    run(new, tmp_path / "whole.h5", recipe)
    caplog.clear()
    network = run(new, tmp_path / "new.h5", recipe, reuse=tmp_path / "old.h5")
    assert len(network.photos) == 3 * len(recipe.views)
    (line,) = [x for x in caplog.records if str(tmp_path / "old.h5") in x.getMessage()]
    assert line.levelno == logging.INFO
    assert_names(line.getMessage(), 9, len(new))
    assert contents(tmp_path / "new.h5") == contents(tmp_path / "whole.h5")


@pytest.mark.slow
def test_an_interrupted_run_that_reuses_resumes(birds: PhotoSet, tmp_path: Path) -> None:
    run(birds, tmp_path / "old.h5")
    for i in range(5):
        make_photo(birds.root / "tit" / f"{i}b.png", seed=50 + i)
    new = load_photo_set(str(birds.root))
    interrupt(new, tmp_path / "new.h5", 6, reuse=tmp_path / "old.h5")
    run(new, tmp_path / "new.h5", reuse=tmp_path / "old.h5")
    run(new, tmp_path / "whole.h5")
    assert contents(tmp_path / "new.h5") == contents(tmp_path / "whole.h5")


def test_the_rows_of_an_unfinished_file_are_reused(birds: PhotoSet, tmp_path: Path) -> None:
    interrupt(birds, tmp_path / "old.h5", 6)
    old = partial_path(tmp_path / "old.h5")
    assert len(run(birds, tmp_path / "new.h5", reuse=old).photos) == 5


def test_rows_of_fewer_poolings_are_taken_from_a_file_of_more(
    birds: PhotoSet, tmp_path: Path
) -> None:
    run(birds, tmp_path / "old.h5")
    fewer = replace(RECIPE, poolings=("max",))
    assert len(run(birds, tmp_path / "new.h5", fewer, reuse=tmp_path / "old.h5").photos) == 0
    with raises(FeatureFileError, tmp_path / "new.h5", "bilinear", "maps"):
        run(birds, tmp_path / "more.h5", reuse=tmp_path / "new.h5")


def test_rows_made_otherwise_are_not_reused(birds: PhotoSet, tmp_path: Path) -> None:
    run(birds, tmp_path / "old.h5")
    for mixed in ("", "int8"):
        other = replace(RECIPE, resize="crop", mixed_with=mixed)
        with raises(FeatureFileError, tmp_path / "old.h5", "resize", "squash", "crop"):
            run(birds, tmp_path / "new.h5", other, reuse=tmp_path / "old.h5")
    with raises(FeatureFileError, tmp_path / "none.h5"):
        run(birds, tmp_path / "new.h5", reuse=tmp_path / "none.h5")
    assert not [*tmp_path.glob("new*")]


def test_a_file_does_not_reuse_itself(birds: PhotoSet, tmp_path: Path) -> None:
    interrupt(birds, tmp_path / "x.h5", 6)
    with raises(UsageError, "--reuse", partial_path(tmp_path / "x.h5"), "--output"):
        run(birds, tmp_path / "x.h5", reuse=tmp_path / "x.h5")
    assert len(run(birds, tmp_path / "x.h5").photos) == 5


def test_a_complete_file_needs_no_file_to_reuse(birds: PhotoSet, tmp_path: Path) -> None:
    run(birds, tmp_path / "old.h5")
    run(birds, tmp_path / "new.h5", reuse=tmp_path / "old.h5")
    (tmp_path / "old.h5").unlink()
    assert len(run(birds, tmp_path / "new.h5", reuse=tmp_path / "old.h5").photos) == 0


def test_attributes_that_cannot_be_are_damage(birds: PhotoSet, tmp_path: Path) -> None:
    old = tmp_path / "old.h5"
    run(birds, old)
    good = old.read_bytes()
    bad = [("batch_size", 0), ("image_size", "x"), ("views", "flop"), ("layer", None)]
    for name, value in bad:
        with h5py.File(old, "r+") as file:
            del file.attrs[name]
            if value is not None:
                file.attrs[name] = value
        for output in ("old.h5", "new.h5"):
            with raises(FeatureFileError, old, name if value is None else value):
                run(birds, tmp_path / output, reuse=old)
        old.write_bytes(good)
    for i, shard in enumerate(("0/0", "2/1", "x", "1/2/3")):
        copy = Path(shutil.copy(old, tmp_path / f"{i}.h5"))
        with h5py.File(copy, "r+") as file:
            file.attrs["shard"] = shard
        with raises(FeatureFileError, copy):
            open_features([copy])


def test_one_of_very_many_shards_costs_nothing(birds: PhotoSet, tmp_path: Path) -> None:
    run(birds, tmp_path / "x.h5")
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
        run(birds, old, replace(RECIPE, poolings=("max",)))
        replace_dataset(old, "features/max", values)
        with h5py.File(old, "r+") as file:
            file["crc32/max"][...] = [zlib.crc32(row.tobytes()) for row in values]
        new = tmp_path / "new.h5"
        error = FeatureFileError if name == "wide" else BilinearError
        with raises(error, *facts):
            run(birds, new, replace(RECIPE, poolings=("max",)), reuse=old, overwrite=True)


def test_a_folder_that_is_gone_is_not_a_set_of_bad_photos(birds: PhotoSet, tmp_path: Path) -> None:
    def progress(done: int, _: int) -> None:
        if done == 3:
            birds.root.rename(tmp_path / "away")

    with raises(BilinearError, birds.root):
        run(birds, tmp_path / "x.h5", progress=progress, skip_bad=True)
    (tmp_path / "away").rename(birds.root)
    run(birds, tmp_path / "x.h5", skip_bad=True)
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
    run(birds, old)
    run(birds, new, reuse=old)
    assert not [x for x in caplog.records if x.levelno == logging.WARNING]
    change_versions(old, "tensorflow 1.0")
    run(birds, new, reuse=old, overwrite=True)
    assert_names(warning(), old, "tensorflow 1.0")
    interrupt(birds, tmp_path / "x.h5", 6)
    change_versions(partial_path(tmp_path / "x.h5"), "tensorflow 2.0")
    run(birds, tmp_path / "x.h5")
    assert_names(warning(), partial_path(tmp_path / "x.h5"), "tensorflow 2.0")
