"""Tests of the choice of rows for training and testing."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.errors import assert_names, raises
from support.feature_files import write_features

from bilinear_cli.errors import BilinearError
from bilinear_cli.photos.photo_set import PhotoSet
from bilinear_cli.store import FeatureFile
from bilinear_cli.training.rows import Rows, select_rows

SPLITS = {"r": "train", "e": "test"}


def choose(
    folder: Path, labels: Sequence[int], split: str, *args: Any, min_photos: int = 2, **columns: Any
) -> Rows:
    """Select the rows of a new file, by the photo set if `args` has one."""
    values = np.ones((len(labels), 3), np.float32)
    splits = [SPLITS[letter] for letter in split]
    path = write_features(folder / "x.h5", {"max": values}, labels, splits, **columns)
    with FeatureFile(path) as file:
        return select_rows(file, *(args or [None]), min_photos)


def make_photo_set(
    folder: Path, contents: Sequence[str | None], labels: Sequence[int], split: str, group: str = ""
) -> PhotoSet:
    """Return a photo set of files with these contents; None is a missing file."""
    paths = [f"new{i}.jpg" for i in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        (folder / path).unlink(missing_ok=True)
        if content:
            (folder / path).write_text(content)
    splits = [SPLITS[letter] for letter in split]
    columns = [np.array(x) for x in (paths, labels, splits, [*group] or paths)]
    return PhotoSet("new", "manifest", "new.csv", folder, *columns, ("wren", "robin"), None)


def digests(contents: str) -> list[str]:
    return [hashlib.sha256(content.encode()).hexdigest() for content in contents]


def test_all_rows_are_used_as_the_file_has_them(tmp_path: Path) -> None:
    rows = choose(tmp_path, [0, 1, 0, 1], "rree", class_names=["wren", "robin"], group=list("abcd"))
    assert rows.indices.tolist() == [0, 1, 2, 3]
    assert rows.labels.tolist() == [0, 1, 0, 1]
    assert rows.split.tolist() == ["train", "train", "test", "test"]
    assert rows.group.tolist() == list("abcd")
    assert rows.class_names.tolist() == ["wren", "robin"]
    test = rows.take(rows.split == "test")
    assert test.indices.tolist() == [2, 3]
    assert test.class_names.tolist() == ["wren", "robin"]


def test_small_classes_and_classes_without_a_training_photo_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["auk", "crow", "kite", "tern", "wren"]  # crow: one photo; tern: none to train on
    with caplog.at_level(logging.WARNING):
        rows = choose(tmp_path, [0, 0, 1, 2, 2, 3, 3, 3, 4, 4], "rerrreeerr", class_names=names)
    assert rows.class_names.tolist() == ["auk", "kite", "wren"]
    assert rows.indices.tolist() == [0, 1, 3, 4, 8, 9]
    assert rows.labels.tolist() == [0, 0, 1, 1, 2, 2]
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert_names(record.getMessage(), 2, "crow", "tern")
    assert not any(name in record.getMessage() for name in rows.class_names)


def test_photos_are_counted_not_their_views(tmp_path: Path) -> None:
    columns = {"photo": [0, 0, 1, 1, 2, 2, 3, 3, 4, 4], "class_names": ["auk", "crow", "kite"]}
    rows = choose(tmp_path, [0, 0, 0, 0, 1, 1, 2, 2, 2, 2], "r" * 10, **columns)
    assert rows.class_names.tolist() == ["auk", "kite"]
    rows = choose(tmp_path, [0, 0, 0, 0, 1, 1, 2, 2, 2, 2], "r" * 10, min_photos=1, **columns)
    assert rows.class_names.tolist() == ["auk", "crow", "kite"]


def test_a_class_without_any_photo_is_left_out_without_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = choose(tmp_path, [0, 0, 2, 2], "rrrr", class_names=["auk", "crow", "kite"])
    assert rows.class_names.tolist() == ["auk", "kite"]
    assert rows.labels.tolist() == [0, 0, 1, 1]
    assert not caplog.records


def test_fewer_than_two_classes_are_refused(tmp_path: Path) -> None:
    with raises(BilinearError, tmp_path / "x.h5", 3):
        choose(tmp_path, [0, 0, 0, 1, 1], "rrrrr", min_photos=3)


# Labels of another photo set --------------------------------------------------------------


def test_labels_split_and_groups_come_by_the_photos_bytes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Names and order differ. The photo set has no b, and the file has no photo `new`."""
    relabelled = make_photo_set(tmp_path, ["d", "new", "a", "c"], [1, 1, 0, 0], "rrre", "vwxy")
    with caplog.at_level(logging.WARNING):
        columns = {"min_photos": 1, "sha256": digests("abcd")}
        rows = choose(tmp_path, [0, 1, 1, 0], "eerr", relabelled, **columns)
    assert rows.indices.tolist() == [0, 2, 3]
    assert rows.labels.tolist() == [0, 0, 1]
    assert rows.split.tolist() == ["train", "test", "train"]
    assert rows.group.tolist() == ["x", "y", "v"]
    assert rows.class_names.tolist() == ["wren", "robin"]
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    messages = [record.getMessage() for record in caplog.records]
    assert_names(messages[0], "new.csv", "1/1.png")
    assert_names(messages[1], "new1.jpg")


def test_all_rows_of_a_photo_get_its_label(tmp_path: Path) -> None:
    for contents, labels, photos, expected in (
        (["a", "b"], [1, 0], "aabb", [1, 1, 0, 0]),  # views
        (["a", "b", "a"], [0, 1, 0], "ab", [0, 1]),  # a photo twice, with one label
        (["a", "b", None, None], [0, 1, 0, 1], "ab", [0, 1]),  # unreadable files are not one photo
    ):
        photo_set = make_photo_set(tmp_path, contents, labels, "r" * len(labels))
        columns = {"photo": [photos.index(x) for x in photos], "sha256": digests(photos)}
        n, replaced = len(photos), [1 - label for label in expected]
        rows = choose(tmp_path, replaced, "r" * n, photo_set, min_photos=1, **columns)
        assert rows.labels.tolist() == expected


@pytest.mark.parametrize(
    ("contents", "labels", "facts"),
    [("aba", [0, 1, 1], ("new0.jpg", "new2.jpg")), ("yz", [0, 1], ())],
    ids=["two labels", "no photo in common"],
)
def test_a_photo_set_that_does_not_fit_is_refused(
    contents: str, labels: list[int], facts: tuple[str, ...], tmp_path: Path
) -> None:
    photo_set = make_photo_set(tmp_path, contents, labels, "r" * len(labels))
    with raises(BilinearError, "new.csv", *facts):
        choose(tmp_path, [0, 1], "rr", photo_set, sha256=digests("ab"))
