"""Tests of extracting photos that are cropped to boxes: a row for each box, resumed and reused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from extraction import cases
from PIL import ExifTags, Image, ImageOps
from support.boxes import box_table
from support.errors import raises
from support.feature_files import all_rows
from support.network import pool_maps

from bilinear_cli.errors import BadPhotoError, FeatureFileError
from bilinear_cli.photos.boxes.cropped_set import crop_photo_set
from bilinear_cli.photos.boxes.options import BoxOptions
from bilinear_cli.photos.photo_set import PhotoSet, load_photo_set
from bilinear_cli.recipe import Recipe
from bilinear_cli.store import FeatureFile, merge

# The photos have 32 x 24 pixels. Boxes of tit/2 are cut by the first batch, those of wren/0 by the
# first of two shards, and wren/1 to wren/4 are whole.
BOXES: dict[str, list[tuple[float, ...]]] = {
    "tit/0.png": [(4, 4, 16, 8)],
    "tit/1.png": [(8, 8, 8, 12)],
    "tit/2.png": [(0, 0, 12, 12), (12, 4, 20, 20)],
    "tit/3.png": [(2, 2, 28, 20)],
    "wren/0.png": [(1.4, 2, 9, 9), (16, 0, 16, 24)],
}


def cropped(folder: Path, boxes_of: Any = None, **options: Any) -> tuple[PhotoSet, Recipe]:
    """Return the photos of a folder with an entry for each box, and the recipe that crops them."""
    source = box_table(folder.parent / "boxes.csv", BOXES if boxes_of is None else boxes_of)
    photo_set, crop, sha256 = crop_photo_set(
        load_photo_set(str(folder)), BoxOptions(source, **options)
    )
    return photo_set, replace(cases.RECIPE, crop=str(crop), boxes_sha256=sha256)


@pytest.fixture
def folder(birds: PhotoSet) -> Path:
    """Return the folder of the photos."""
    return birds.root


def crop_by_hand(path: Path, box: tuple[float, ...], margin: float) -> Image.Image:
    upright = ImageOps.exif_transpose(Image.open(path))
    (x, y, width, height), (right, bottom) = box, upright.size
    if not any(box):
        return upright
    left_top = max(x - margin * width, 0), max(y - margin * height, 0)
    end = min(x + (1 + margin) * width, right), min(y + (1 + margin) * height, bottom)
    return upright.crop(tuple(map(round, left_top + end)))


def test_rows_are_those_of_photos_that_were_cropped_by_hand(folder: Path, output: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    photo = Image.open(folder / "tit" / "3.png")
    photo.rotate(90, expand=True).save(folder / "tit" / "3.png", exif=exif)  # stored sideways
    photo_set, recipe = cropped(folder, margin=0.25)
    cases.run(photo_set, output, recipe)
    assert photo_set.box is not None
    by_hand = output.parent / "by-hand"
    for i, (path, box) in enumerate(zip(photo_set.paths, photo_set.box.tolist(), strict=True)):
        name = by_hand / path.split("/")[0] / f"{i:02}.png"
        name.parent.mkdir(parents=True, exist_ok=True)
        crop_by_hand(folder / path, box, 0.25).save(name)
    cases.run(load_photo_set(str(by_hand)), output.with_name("by-hand.h5"))
    with FeatureFile(output) as file, FeatureFile(output.with_name("by-hand.h5")) as expected:
        for spec in cases.POOLINGS:
            np.testing.assert_array_equal(all_rows(file, spec), all_rows(expected, spec))
        assert file.photo.tolist() == [0, 1, 2, 2, 3, 4, 5, 6, 6, 7, 8, 9, 10]
        assert file.paths[2:5].tolist() == ["tit/2.png", "tit/2.png", "tit/3.png"]
        assert file.box is not None
        assert file.box[[2, 3, 5]].tolist() == [[0, 0, 12, 12], [12, 4, 20, 20], [0, 0, 0, 0]]
        assert (file.recipe.crop, file.recipe.boxes_sha256) == (recipe.crop, recipe.boxes_sha256)
        assert expected.box is None


def test_a_killed_run_resumes_within_the_boxes_of_a_photo(folder: Path, output: Path) -> None:
    photo_set, recipe = cropped(folder)
    cases.interrupt(photo_set, output, 3, recipe=recipe)
    assert len(cases.run(photo_set, output, recipe).photos) == 10
    cases.assert_uninterrupted(photo_set, output, recipe)


@pytest.mark.parametrize(
    ("boxes", "options", "facts"),
    [
        (BOXES, {"margin": 0.2}, ["crop", "margin 0.1", "margin 0.2"]),
        (BOXES, {"box": "largest"}, ["crop", "all", "largest"]),
        (BOXES | {"tit/0.png": [(4, 4, 16, 9)]}, {}, ["tit/0.png [4, 4, 16, 8]"]),
        (BOXES | {"tit/1.png": [(0, 0, 1, 1)]}, {"no_box": "skip"}, ["tit/1.png"]),
    ],
)
@pytest.mark.parametrize("finished", [False, True])
def test_other_crops_are_another_file(
    boxes: Any, options: dict[str, Any], facts: list[str], finished: bool,
    folder: Path, output: Path,
) -> None:  # fmt: skip
    photo_set, recipe = cropped(folder)
    path = output if finished else cases.interrupt(photo_set, output, 3, recipe=recipe)
    if finished:
        cases.run(photo_set, output, recipe)
    other, other_recipe = cropped(folder, boxes, **options)
    with raises(FeatureFileError, path, *facts):
        cases.run(other, output, other_recipe)


def test_boxes_without_a_row_may_change(folder: Path, output: Path) -> None:
    photo_set, recipe = cropped(folder)
    cases.interrupt(photo_set, output, 3, recipe=recipe)
    boxes = BOXES | {"tit/0.png": [*BOXES["tit/0.png"], (9, 9, 9, 9)], "wren/4.png": [(0, 0, 9, 9)]}
    photo_set, recipe = cropped(folder, boxes)
    assert len(cases.run(photo_set, output, recipe).photos) == 11
    cases.run(photo_set, output.with_name("expected.h5"), recipe)
    assert_same_rows(output, output.with_name("expected.h5"))


def assert_same_rows(path: Path, expected: Path) -> None:
    """Compare rows but for last digits, which depend on their place in a batch."""
    with FeatureFile(path) as file, FeatureFile(expected) as reference:
        np.testing.assert_allclose(all_rows(file, "max"), all_rows(reference, "max"), rtol=1e-3)
        assert file.keys.tolist() == reference.keys.tolist()
        assert file.photo.tolist() == reference.photo.tolist()
        assert file.recipe.crop == reference.recipe.crop
        assert file.recipe.boxes_sha256 == reference.recipe.boxes_sha256


def test_a_bad_photo_is_deleted_and_the_run_goes_on(folder: Path, output: Path) -> None:
    (folder / "tit" / "3.png").write_text("no photo")
    photo_set, recipe = cropped(folder)
    with raises(BadPhotoError, "tit/3.png"):
        cases.run(photo_set, output, recipe)
    (folder / "tit" / "3.png").unlink()
    boxes = {path: x for path, x in BOXES.items() if path != "tit/3.png"}
    photo_set, recipe = cropped(folder, boxes)
    assert len(cases.run(photo_set, output, recipe).photos) == 9
    with FeatureFile(output) as file:  # a drawn split is kept, see test_mending.py
        photo_set = replace(photo_set, split=file.split)
    cases.assert_uninterrupted(photo_set, output, recipe)


def test_a_box_outside_its_photo_is_skipped_alone(folder: Path, output: Path) -> None:
    photo_set, recipe = cropped(folder, BOXES | {"tit/2.png": [(0, 0, 12, 12), (90, 4, 9, 9)]})
    cases.run(photo_set, output, recipe, skip_bad=True)
    with FeatureFile(output) as file:
        assert [*file.skipped] == ["tit/2.png [90, 4, 9, 9]"]
        assert len(file.labels) == 12


def test_shards_that_cut_the_boxes_of_a_photo(folder: Path, output: Path) -> None:
    photo_set, recipe = cropped(folder)
    shards = [output.with_name(f"{i}.h5") for i in (1, 2, 3)]
    for i, path in enumerate(shards, 1):
        cases.run(photo_set, path, replace(recipe, shard=f"{i}/3"))
    with FeatureFile(shards[0]) as first, FeatureFile(shards[1]) as second:
        assert first.photo[-1] == second.photo[0]
    merge(shards, output)
    cases.assert_uninterrupted(photo_set, output, recipe)
    _, other = cropped(folder, BOXES | {"wren/0.png": [(1.4, 2, 9, 9), (16, 0, 15, 24)]})
    cases.run(photo_set, shards[2], replace(other, shard="3/3"), overwrite=True)
    with raises(FeatureFileError, "boxes_sha256"):
        merge(shards, output, overwrite=True)


def test_rows_of_equal_boxes_are_reused(folder: Path, output: Path) -> None:
    photo_set, recipe = cropped(folder)
    cases.run(photo_set, output, recipe)
    boxes = BOXES | {"tit/2.png": [(12, 4, 20, 20), (0, 1, 12, 12)], "wren/1.png": [(9, 9, 9, 9)]}
    photo_set, recipe = cropped(folder, boxes)
    new = output.with_name("new.h5")
    assert len(cases.run(photo_set, new, recipe, reuse=output).photos) == 2
    cases.run(photo_set, output, recipe, overwrite=True)
    assert_same_rows(new, output)
    photo_set, recipe = cropped(folder, boxes, box="largest")
    assert not cases.run(photo_set, output.with_name("largest.h5"), recipe, reuse=new).photos


def test_maps_of_cropped_photos_are_pooled(folder: Path, output: Path) -> None:
    photo_set, recipe = cropped(folder)
    cases.run(photo_set, output, recipe)
    pooled = output.with_name("pooled.h5")
    pool_maps(output, ("max",), pooled)
    assert_same_rows(pooled, output)
