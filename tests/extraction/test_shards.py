"""Tests of extracting a photo set in shards, of reading and merging shards, and of reuse."""

import logging
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from extraction.cases import POOLINGS, RECIPE, after, assert_uninterrupted, interrupt, run
from support.errors import assert_names, messages, raises
from support.feature_files import contents, flip_bit, replace_dataset
from support.photos import make_photo

from bilinear_cli.errors import BilinearError, FeatureFileError, UsageError
from bilinear_cli.extraction.job import shard_slice
from bilinear_cli.photos.photo_set import PhotoSet, load_photo_set
from bilinear_cli.recipe import Recipe
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
    run(birds, tmp_path / "expected.h5", recipe)
    shards = shards_of(birds, recipe, tmp_path, n)[::-1]  # in any order
    steps: list[tuple[int, int]] = []
    merge(shards, tmp_path / "merged.h5", progress=lambda *step: steps.append(step))
    assert steps[-1] == (11 * len(recipe.views),) * 2
    assert contents(tmp_path / "merged.h5") == contents(tmp_path / "expected.h5")
    with FeatureFile(tmp_path / "expected.h5") as single, open_features(shards) as several:
        assert several.attributes["shard"] == "1/1"
        assert several.files == shards[::-1]
        rows = np.random.default_rng(0).integers(0, single.rows_done, 30)
        for spec in POOLINGS:
            np.testing.assert_array_equal(several.read(spec, rows), single.read(spec, rows))
        for (slice_1, columns_1), (slice_2, columns_2) in zip(
            single.column_blocks("bilinear", rows, 4),
            several.column_blocks("bilinear", rows, 4),
            strict=True,
        ):
            assert slice_1 == slice_2
            np.testing.assert_array_equal(columns_1, columns_2)
        options = TrainOptions(C=1.0, label_smoothing=0.0)
        metrics = [train(file, "max", options, tmp_path / "runs") for file in (single, several)]
        assert metrics[0]["top1"] == metrics[1]["top1"]
        assert metrics[1]["features_file"] == " ".join(map(str, shards[::-1]))
    # the merged file is complete for a command without shards
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
    for _ in range(2):  # the output is not one of the files of its folder
        merge([folder], folder / "merged.h5", overwrite=True)
    assert contents(folder / "merged.h5") == contents(tmp_path / "merged.h5")
    (tmp_path / "alone").mkdir()
    alone = (folder / "merged.h5").rename(tmp_path / "alone" / "x.h5")
    with raises(FeatureFileError, alone, "--output"):
        merge([alone.parent], alone, overwrite=True)
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
def test_merging_leaves_out_bad_photos_of_shards(birds: PhotoSet, tmp_path: Path) -> None:
    for i in (1, 7):
        (birds.root / birds.paths[i]).write_text("no photo")
    shards = shards_of(birds, RECIPE, tmp_path, 2, skip_bad=True)
    merge(shards, tmp_path / "merged.h5")
    assert_uninterrupted(birds, tmp_path / "merged.h5", skip_bad=True)
    with FeatureFile(tmp_path / "merged.h5") as file:
        assert set(file.skipped) == set(birds.paths[[1, 7]])


Spoil = Callable[[PhotoSet, Path], Any]
LAST = replace(RECIPE, shard="3/3")


def replace_by(recipe: Recipe, take: slice = slice(None)) -> Spoil:
    """Return a function that replaces a shard by one of another recipe, or of fewer photos."""
    return lambda birds, path: run(
        birds.take(np.arange(len(birds))[take]), path, recipe, overwrite=True
    )


def change_layout(_: PhotoSet, path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["features/max"].attrs["normalization"] = "l2"


@pytest.mark.parametrize(
    ("spoil", "facts"),
    [
        (replace_by(replace(LAST, image_size=40)), ("image_size", 32, 40)),
        (replace_by(replace(LAST, specs=("max",))), ("pooling", "bilinear maps max")),
        (replace_by(LAST, slice(10)), ("data_sha256",)),
        (change_layout, ("max", "normalization", "l2")),
        (replace_by(replace(RECIPE, shard="3/4")), (3, 4)),
    ],
)
@pytest.mark.slow
def test_shards_that_do_not_belong_together_are_refused_by_their_difference(
    spoil: Spoil, facts: tuple[Any, ...], birds: PhotoSet, tmp_path: Path
) -> None:
    first, second, last = shards_of(birds, RECIPE, tmp_path, 3)
    spoil(birds, last)
    before = sorted(tmp_path.iterdir())
    with raises(FeatureFileError, first, last, *facts):
        merge([first, second, last], tmp_path / "merged.h5")
    assert sorted(tmp_path.iterdir()) == before


@pytest.fixture
def shards(birds: PhotoSet, tmp_path: Path) -> list[Path]:
    """Return two shards."""
    return shards_of(birds, RECIPE, tmp_path, 2)


@pytest.mark.parametrize(
    ("indices", "facts"), [([1], (1, 2)), ([0, 0], ("shard1.h5",)), ([0, 1, 0], ("shard1.h5",))]
)
@pytest.mark.slow
def test_missing_and_repeated_shards_are_refused(
    shards: list[Path], indices: list[int], facts: tuple[Any, ...]
) -> None:
    with raises(FeatureFileError, "1/2", *facts):
        open_features([shards[i] for i in indices])


def test_a_damaged_shard_leaves_nothing_and_is_named(shards: list[Path], tmp_path: Path) -> None:
    flip_bit(shards[1], "max", 0)
    with raises(FeatureFileError, shards[1], "features/max", 0):
        merge(shards, tmp_path / "merged.h5")
    assert not [*tmp_path.glob("merged*")]


@pytest.mark.slow
def test_files_are_replaced_only_with_overwrite(shards: list[Path], tmp_path: Path) -> None:
    before = shards[0].read_bytes()
    with raises(FeatureFileError, shards[0]):
        merge(shards, shards[0], overwrite=True)
    assert shards[0].read_bytes() == before
    merged = tmp_path / "merged.h5"
    for path in (merged, partial_path(merged)):
        path.write_text("of an earlier run")
        with raises(FeatureFileError, path, "--overwrite"):
            merge(shards, merged)
        assert path.read_text() == "of an earlier run"
        merge(shards, merged, overwrite=True)
        FeatureFile(merged).close()
        merged.unlink()


# Reuse -----------------------------------------------------------------------------------


@pytest.fixture
def reused(birds: PhotoSet, tmp_path: Path) -> Path:
    """Return a file with the rows of all photos."""
    run(birds, tmp_path / "reused.h5")
    return tmp_path / "reused.h5"


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return tmp_path / "new.h5"


@pytest.mark.slow
def test_only_what_is_new_is_computed(
    birds: PhotoSet, recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    reused, new, root = tmp_path / "reused.h5", tmp_path / "new.h5", birds.root
    run(birds, reused, recipe)
    make_photo(root / "tit" / "0a.png", seed=100)  # added, in the middle of others
    make_photo(root / "wren" / "z.png", seed=101)
    make_photo(root / "wren" / "2.png", seed=102)  # changed
    (root / "tit" / "3.png").rename(root / "wren" / "moved.png")  # moved, and relabelled
    (root / "tit" / "4.png").unlink()
    changed = load_photo_set(str(root))
    caplog.clear()
    assert len(run(changed, new, recipe, reuse=reused).photos) == 3 * len(recipe.views)
    (line,) = [x for x in messages(caplog, logging.INFO) if str(reused) in x]
    assert_names(line, 9, len(changed))
    assert_uninterrupted(changed, new, recipe)


@pytest.mark.slow
def test_an_interrupted_run_that_reuses_resumes(birds: PhotoSet, reused: Path, new: Path) -> None:
    for i in range(5):
        make_photo(birds.root / "tit" / f"{i}b.png", seed=50 + i)
    birds = load_photo_set(str(birds.root))
    interrupt(birds, new, 6, reuse=reused)
    run(birds, new, reuse=reused)
    assert_uninterrupted(birds, new)


@pytest.mark.slow
@pytest.mark.parametrize("unreadable", [[], [4]])
def test_the_rows_of_an_unfinished_file_are_reused_except_those_of_unreadable_photos(
    birds: PhotoSet, new: Path, unreadable: list[int]
) -> None:
    for path in birds.paths[unreadable]:
        (birds.root / path).unlink()
    reused = interrupt(birds, new.with_name("reused.h5"), 6, skip_bad=True)
    assert len(run(birds, new, reuse=reused, skip_bad=True).photos) == 5
    with FeatureFile(new) as file:
        assert [*file.skipped] == birds.paths[unreadable].tolist()


def test_rows_of_fewer_poolings_are_taken_from_a_file_of_more(
    birds: PhotoSet, reused: Path, new: Path
) -> None:
    fewer = replace(RECIPE, specs=("max",))
    assert not run(birds, new, fewer, reuse=reused).photos
    with raises(FeatureFileError, new, "bilinear", "maps"):
        run(birds, new.with_name("more.h5"), reuse=new)
    reused.unlink()  # a complete file needs no file to reuse
    assert not run(birds, new, fewer, reuse=reused).photos


def test_rows_of_another_recipe_are_not_reused(birds: PhotoSet, reused: Path, new: Path) -> None:
    for mixed in ("", "int8"):
        other = replace(RECIPE, resize="crop", mixed_with=mixed)
        with raises(FeatureFileError, reused, "resize", "squash", "crop"):
            run(birds, new, other, reuse=reused)
    reused.unlink()
    with raises(FeatureFileError, reused):
        run(birds, new, reuse=reused)
    assert not [*new.parent.glob("new*")]


def test_a_file_does_not_reuse_itself(birds: PhotoSet, new: Path) -> None:
    partial = interrupt(birds, new, 6)
    with raises(UsageError, "--reuse", partial, "--output"):
        run(birds, new, reuse=new)
    assert len(run(birds, new).photos) == 5


BAD_ATTRIBUTES = [("batch_size", 0), ("image_size", "x"), ("views", "flop"), ("layer", None)]


def set_attribute(path: Path, name: str, value: Any) -> None:
    with h5py.File(path, "r+") as file:
        del file.attrs[name]
        if value is not None:
            file.attrs[name] = value


@pytest.mark.slow
@pytest.mark.parametrize(("name", "value"), BAD_ATTRIBUTES)
def test_invalid_attributes_are_damage(
    birds: PhotoSet, reused: Path, new: Path, name: str, value: Any
) -> None:
    set_attribute(reused, name, value)
    for output in (reused, new):
        with raises(FeatureFileError, reused, name if value is None else value):
            run(birds, output, reuse=reused)


@pytest.mark.slow
def test_invalid_shards_are_damage_and_very_many_cost_nothing(reused: Path) -> None:
    for shard in ("0/0", "2/1", "x", "1/2/3"):
        set_attribute(reused, "shard", shard)
        with raises(FeatureFileError, reused):
            open_features([reused])
    set_attribute(reused, "shard", "1/1000000000000")
    with raises(FeatureFileError, 999999999999, 1000000000000, "2/1000000000000"):
        open_features([reused])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "error", "facts"),
    [
        (np.zeros((11, 7), np.float32), FeatureFileError, (7, 6, "reused.h5")),
        (np.full((11, 6), np.nan, np.float32), BilinearError, ("tit/0.png", "float32")),
    ],
)
def test_rows_of_another_shape_or_no_numbers_are_not_reused(
    birds: PhotoSet, reused: Path, new: Path, values: np.ndarray, error: Any, facts: tuple
) -> None:
    recipe = replace(RECIPE, specs=("max",))
    run(birds, reused, recipe, overwrite=True)
    replace_dataset(reused, "features/max", values)
    replace_dataset(reused, "crc32/max", np.array([zlib.crc32(row) for row in values], np.uint32))
    with raises(error, "max", *facts):
        run(birds, new, recipe, reuse=reused)


def test_a_folder_that_is_gone_is_not_a_set_of_bad_photos(birds: PhotoSet, new: Path) -> None:
    move = after(3, lambda: birds.root.rename(new.with_name("away")))
    with raises(BilinearError, birds.root):
        run(birds, new, progress=move, skip_bad=True)
    new.with_name("away").rename(birds.root)
    run(birds, new, skip_bad=True)
    with FeatureFile(new) as file:
        assert len(file.labels) == 11


@pytest.mark.slow
def test_rows_of_other_versions_are_a_warning(
    birds: PhotoSet, reused: Path, new: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(birds, new, reuse=reused)
    assert not messages(caplog, logging.WARNING)
    set_attribute(reused, "versions", "tensorflow 1.0")
    run(birds, new, reuse=reused, overwrite=True)
    partial = interrupt(birds, new, 6, overwrite=True)
    set_attribute(partial, "versions", "tensorflow 2.0")
    run(birds, new)
    first, second = messages(caplog, logging.WARNING)
    assert_names(first, reused, "tensorflow 1.0")
    assert_names(second, partial, "tensorflow 2.0")
