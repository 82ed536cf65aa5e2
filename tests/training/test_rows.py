"""Tests of the choice of rows for training and testing."""

import hashlib
import logging
from collections.abc import Callable, Sequence
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

Choose = Callable[..., Rows]


@pytest.fixture
def choose(tmp_path: Path) -> Choose:
    """Return choose(labels, split, photo_set=None, min_photos=2, **columns) -> Rows."""

    def call(
        labels: Sequence[int],
        split: str,
        photo_set: PhotoSet | None = None,
        min_photos: int = 2,
        **columns: Any,
    ) -> Rows:
        splits = [{"r": "train", "e": "test"}[letter] for letter in split]
        values = np.ones((len(labels), 3), np.float32)
        path = write_features(tmp_path / "x.h5", {"max": values}, labels, splits, **columns)
        with FeatureFile(path) as file:
            return select_rows(file, photo_set, min_photos)

    return call


@pytest.fixture
def photo_set(tmp_path: Path) -> Callable[..., PhotoSet]:
    """Return make(contents, labels, split, group) -> PhotoSet; None is no file."""

    def make(
        contents: Sequence[str | None],
        labels: Sequence[int],
        split: str,
        group: Sequence[str] | None = None,
    ) -> PhotoSet:
        paths = [f"new{i}.jpg" for i in range(len(contents))]
        for path, content in zip(paths, contents, strict=True):
            if content is not None:
                (tmp_path / path).write_text(content)
        splits = np.array([{"r": "train", "e": "test"}[letter] for letter in split])
        return PhotoSet(
            "new",
            "manifest",
            "new.csv",
            tmp_path,
            np.array(paths),
            np.array(labels),
            splits,
            np.array(group or paths),
            ("wren", "robin"),
            None,
        )

    return make


def digests(*contents: str) -> list[str]:
    return [hashlib.sha256(content.encode()).hexdigest() for content in contents]


def test_all_rows_are_used_as_the_file_has_them(choose: Choose) -> None:
    rows = choose([0, 1, 0, 1], "rree", class_names=["wren", "robin"], group=list("abcd"))
    assert rows.indices.tolist() == [0, 1, 2, 3]
    assert rows.labels.tolist() == [0, 1, 0, 1]
    assert rows.split.tolist() == ["train", "train", "test", "test"]
    assert rows.group.tolist() == list("abcd")
    assert rows.class_names.tolist() == ["wren", "robin"]
    test = rows.take(rows.split == "test")
    assert test.indices.tolist() == [2, 3]
    assert test.class_names.tolist() == ["wren", "robin"]


def test_small_classes_and_classes_without_a_training_photo_are_left_out(
    choose: Choose, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["auk", "crow", "kite", "tern", "wren"]  # crow: one photo; tern: none to train on
    with caplog.at_level(logging.WARNING):
        rows = choose([0, 0, 1, 2, 2, 3, 3, 3, 4, 4], "rerrreeerr", class_names=names)
    assert rows.class_names.tolist() == ["auk", "kite", "wren"]
    assert rows.indices.tolist() == [0, 1, 3, 4, 8, 9]
    assert rows.labels.tolist() == [0, 0, 1, 1, 2, 2]
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert_names(record.getMessage(), 2, "crow", "tern")
    assert not any(name in record.getMessage() for name in rows.class_names)


def test_photos_are_counted_not_their_views(choose: Choose) -> None:
    columns = {"photo": [0, 0, 1, 1, 2, 2, 3, 3, 4, 4], "class_names": ["auk", "crow", "kite"]}
    rows = choose([0, 0, 0, 0, 1, 1, 2, 2, 2, 2], "r" * 10, **columns)
    assert rows.class_names.tolist() == ["auk", "kite"]
    rows = choose([0, 0, 0, 0, 1, 1, 2, 2, 2, 2], "r" * 10, min_photos=1, **columns)
    assert rows.class_names.tolist() == ["auk", "crow", "kite"]


def test_a_class_without_any_photo_is_left_out_without_a_warning(
    choose: Choose, caplog: pytest.LogCaptureFixture
) -> None:
    rows = choose([0, 0, 2, 2], "rrrr", class_names=["auk", "crow", "kite"])
    assert rows.class_names.tolist() == ["auk", "kite"]
    assert rows.labels.tolist() == [0, 0, 1, 1]
    assert not caplog.records


def test_fewer_than_two_classes_are_refused(choose: Choose, tmp_path: Path) -> None:
    with raises(BilinearError, tmp_path / "x.h5", 3):
        choose([0, 0, 0, 1, 1], "rrrrr", min_photos=3)


# Labels of another photo set --------------------------------------------------------------


def test_labels_split_and_groups_come_by_the_photos_bytes(
    choose: Choose, photo_set: Callable[..., PhotoSet], caplog: pytest.LogCaptureFixture
) -> None:
    """Under other names, in another order; b is not there any more, and new is not here yet."""
    relabelled = photo_set(["d", "new", "a", "c"], [1, 1, 0, 0], "rrre", group=list("vwxy"))
    with caplog.at_level(logging.WARNING):
        rows = choose([0, 1, 1, 0], "eerr", relabelled, 1, sha256=digests("a", "b", "c", "d"))
    assert rows.indices.tolist() == [0, 2, 3]
    assert rows.labels.tolist() == [0, 0, 1]
    assert rows.split.tolist() == ["train", "test", "train"]
    assert rows.group.tolist() == ["x", "y", "v"]
    assert rows.class_names.tolist() == ["wren", "robin"]
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    messages = [record.getMessage() for record in caplog.records]
    assert_names(messages[0], "new.csv", "1/1.png")
    assert_names(messages[1], "new1.jpg")


def test_views_of_a_photo_are_all_relabelled(
    choose: Choose, photo_set: Callable[..., PhotoSet]
) -> None:
    relabelled = photo_set(["a", "b"], [1, 0], "rr")
    rows = choose(
        [0, 0, 1, 1], "rrrr", relabelled, 1, photo=[0, 0, 1, 1], sha256=digests("a", "a", "b", "b")
    )
    assert rows.labels.tolist() == [1, 1, 0, 0]


def test_the_same_photo_with_two_labels_is_refused(
    choose: Choose, photo_set: Callable[..., PhotoSet]
) -> None:
    with raises(BilinearError, "new.csv", "new0.jpg", "new2.jpg"):
        choose([0, 1], "rr", photo_set(["a", "b", "a"], [0, 1, 1], "rrr"), sha256=digests("a", "b"))


def test_the_same_photo_twice_with_one_label_is_accepted(
    choose: Choose, photo_set: Callable[..., PhotoSet]
) -> None:
    twice = photo_set(["a", "b", "a"], [0, 1, 0], "rrr")
    assert choose([1, 0], "rr", twice, 1, sha256=digests("a", "b")).labels.tolist() == [0, 1]


def test_unreadable_files_are_not_one_photo(
    choose: Choose, photo_set: Callable[..., PhotoSet]
) -> None:
    gone = photo_set(["a", "b", None, None], [0, 1, 0, 1], "rrrr")
    assert choose([1, 0], "rr", gone, 1, sha256=digests("a", "b")).labels.tolist() == [0, 1]


def test_a_photo_set_of_other_photos_is_refused(
    choose: Choose, photo_set: Callable[..., PhotoSet]
) -> None:
    with raises(BilinearError, "new.csv"):
        choose([0, 1], "rr", photo_set(["y", "z"], [0, 1], "rr"), sha256=digests("a", "b"))
