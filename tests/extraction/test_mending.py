"""Tests of a run that goes on after photos without a row went, came or changed."""

import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from extraction.cases import RECIPE, assert_uninterrupted, interrupt, run
from support.errors import assert_names, messages, raises
from support.feature_files import contents
from support.photos import make_photo

from bilinear_cli.errors import BadPhotoError, FeatureFileError
from bilinear_cli.photos.photo_set import PhotoSet, load_photo_set
from bilinear_cli.store import FeatureFile, FeatureWriter, partial_path, writing

BAD = ("wren/1.png", "wren/4.png")  # photos 7 and 10, in the third and the fourth batch


@pytest.fixture
def spoilt(birds: PhotoSet, output: Path) -> PhotoSet:
    """Return the 11 photos, two of which are no photos, after a run that has stopped at them."""
    for path in BAD:
        (birds.root / path).write_text("no photo")
    with raises(BadPhotoError, birds.root / BAD[0], 6, 11, "--skip-bad"):
        run(birds, output)
    return birds


def remove(root: Path) -> None:
    for path in BAD:
        (root / path).unlink()


def add(root: Path) -> None:
    """Remove a bad photo, replace the other, and add photos and a class before those done."""
    (root / BAD[0]).unlink()
    for seed, path in enumerate((BAD[1], "tit/0a.png", "ant/0.png", "ant/1.png"), 80):
        make_photo(root / path, seed=seed)


def assert_goes_on(earlier: PhotoSet, output: Path, **options: Any) -> PhotoSet:
    """Run again, compare with a new run of the same split, and return the present photos."""
    present = load_photo_set(earlier.spec)
    run(present, output, **options)
    assert [path.name for path in output.parent.iterdir()] == [output.name]
    with FeatureFile(output) as file:
        split = dict(zip(earlier.paths, earlier.split, strict=True))
        assert [split.get(path, x) for path, x in zip(file.paths, file.split, strict=True)] == list(
            file.split
        )
        assert_uninterrupted(replace(present, split=file.split), output, **options)
    return present


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mend", "counts"),
    [
        (remove, ["2 removed", *BAD]),
        (add, ["1 removed", BAD[0], "3 added", "ant/0.png", "ant/1.png", "tit/0a.png"]),
    ],
)
def test_the_same_command_goes_on_with_the_photos_that_there_are(
    mend: Callable[[Path], None],
    counts: list[str],
    spoilt: PhotoSet,
    output: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mend(spoilt.root)
    caplog.set_level(logging.INFO)
    caplog.clear()
    assert_goes_on(spoilt, output)
    line = next(x for x in messages(caplog, logging.INFO) if counts[0] in x)
    assert_names(line, partial_path(output), *counts)


def test_only_rows_that_are_not_done_are_computed(spoilt: PhotoSet, output: Path) -> None:
    remove(spoilt.root)
    assert len(run(load_photo_set(spoilt.spec), output).photos) == 3


@pytest.mark.slow
def test_views_and_a_projection_go_on_as_well(birds: PhotoSet, output: Path) -> None:
    """The projection forbids that photos it was fitted on become test photos of a new split."""
    recipe = replace(RECIPE, specs=("bilinear:3",), views=("original", "flip"))
    partial = interrupt(birds, output, 6, recipe=recipe)
    with FeatureFile(partial, allow_partial=True) as file:
        fitted, earlier = file.parameters, file.read_stored("bilinear:3", np.arange(12))
    add(birds.root)
    present = load_photo_set(birds.spec)
    assert len(run(present, output, recipe).photos) == 2 * (len(present) - 6)
    with FeatureFile(output) as file:
        assert file.paths.tolist() == np.repeat(present.paths, 2).tolist()
        kept = np.isin(file.paths, birds.paths[:6])
        np.testing.assert_array_equal(file.read_stored("bilinear:3", np.flatnonzero(kept)), earlier)
        for name, values in fitted.items():
            np.testing.assert_array_equal(file.parameters[name], values)


@pytest.mark.slow
def test_a_file_without_rows_is_begun_again_with_its_projection(
    birds: PhotoSet, output: Path
) -> None:
    recipe = replace(RECIPE, specs=("bilinear:3",))
    interrupt(birds, output, 0, recipe=recipe)
    add(birds.root)
    present = load_photo_set(birds.spec)
    run(present, output, recipe)
    assert_uninterrupted(present, output, recipe)


@pytest.mark.slow
def test_photos_that_were_skipped_may_go_or_be_mended(spoilt: PhotoSet, output: Path) -> None:
    interrupt(spoilt, output, 9, skip_bad=True)  # after the first of the two
    add(spoilt.root)
    (spoilt.root / "wren/5.png").write_text("no photo")
    run(load_photo_set(spoilt.spec), output, skip_bad=True)
    with FeatureFile(output) as file:
        assert [*file.skipped] == ["wren/5.png"]
        assert len(file.paths) == 13


@pytest.mark.slow
def test_a_kill_at_any_step_loses_no_row(
    spoilt: PhotoSet, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL leaves the files as they are between two steps, so a copy of them is enough."""
    killed: list[Path] = []

    def watched(step: Callable) -> Callable:
        def watch(*arguments: Any) -> Any:
            folder = tmp_path / f"killed {len(killed)}"
            killed.append(shutil.copytree(output.parent, folder) / output.name)
            return step(*arguments)

        return watch

    add(spoilt.root)
    with monkeypatch.context() as patch:
        patch.setattr(writing, "COPY_BATCH_SIZE", 2)
        patch.setattr(FeatureWriter, "append", watched(FeatureWriter.append))
        patch.setattr(os, "replace", watched(os.replace))
        assert_goes_on(spoilt, output)
    present = load_photo_set(spoilt.spec)
    unfinished = [path for path in killed if partial_path(path).exists()]
    assert len(unfinished) > 15
    for path in unfinished:
        assert len(run(present, path).photos) <= 7  # of 13
        assert [file.name for file in path.parent.iterdir()] == [path.name]
        assert contents(path) == contents(output)


def test_a_copy_that_a_killed_run_left_is_removed(birds: PhotoSet, output: Path) -> None:
    partial = interrupt(birds, output, 3)
    shutil.copy(partial, partial_path(partial))
    run(birds, output)
    assert [path.name for path in output.parent.iterdir()] == [output.name]


@pytest.mark.parametrize(("n_rows", "suffices"), [(6, True), (5, False)])
def test_a_copy_needs_space_for_the_rows_that_are_done(
    n_rows: int, suffices: bool, spoilt: PhotoSet, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove(spoilt.root)
    present = load_photo_set(spoilt.spec)
    with FeatureFile(partial_path(output), allow_partial=True) as file:
        columns = file.header().row_columns.values()
        row_bytes = sum(4 * int(np.prod(shape[1:])) for shape in file.shapes.values())
        free = sum(x.nbytes // 11 * 9 for x in columns) + n_rows * row_bytes
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: Mock(free=free))
        if suffices:
            run(present, output)
        else:
            with raises(FeatureFileError, "0.0 MB", "kept"):
                run(present, output)
    assert len(run(present, output).photos) == (0 if suffices else 3)


@pytest.mark.parametrize("change", ["removed", "added", "replaced"])
def test_a_shard_goes_on_if_its_list_of_photos_is_the_same(
    birds: PhotoSet, output: Path, change: str
) -> None:
    recipe = replace(RECIPE, shard="2/2")  # photos 6 to 10
    partial = interrupt(birds, output, 3, recipe=recipe)
    name = {"removed": "wren/4.png", "added": "wren/4a.png", "replaced": "wren/4.png"}[change]
    if change == "removed":
        (birds.root / name).unlink()
    else:
        make_photo(birds.root / name, seed=80)
    present = load_photo_set(birds.spec)
    if change == "replaced":
        assert len(run(present, output, recipe).photos) == 2
    else:
        with raises(FeatureFileError, partial, name, "shards", "--reuse", "--overwrite"):
            run(present, output, recipe)


def test_paths_that_start_in_another_folder_are_named(birds: PhotoSet, output: Path) -> None:
    run(birds, output)
    paths = np.array([f"{birds.root.name}/{path}" for path in birds.paths])
    moved = replace(birds, root=birds.root.parent, paths=paths)
    with raises(FeatureFileError, output, f" {birds.paths[0]},", f" {paths[0]}.", "--reuse"):
        run(moved, output)


def test_a_class_without_training_photos_has_the_new_split(birds: PhotoSet) -> None:
    is_wren = birds.labels == 1
    test = np.where(is_wren, "test", "train")
    assert birds.keep_split(birds.group, test).split.tolist() == birds.split.tolist()
    test[-1] = "train"
    assert birds.keep_split(birds.group, test).split.tolist() == test.tolist()
    kept = birds.keep_split(birds.group[-1:], np.array(["train"])).split
    assert kept.tolist() == [*birds.split[:-1], "train"]
