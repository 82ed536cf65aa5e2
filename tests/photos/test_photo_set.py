"""Tests of a photo set: its split, its limit, its digests."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from support.photos import class_folders

from bilinear_cli.photos.photo_set import PhotoSet, load_photo_set, stratified_group_split


@pytest.mark.parametrize(
    ("n_photos", "n_test"), [(1, 0), (2, 1), (3, 1), (4, 1), (30, 10), (31, 10)]
)
def test_about_a_third_of_each_class_is_for_testing(n_photos: int, n_test: int) -> None:
    labels = np.repeat([0, 1], [n_photos, 60])
    split = stratified_group_split(labels, np.arange(len(labels)).astype(str), 0)
    assert (split[labels == 0] == "test").sum() == n_test
    assert (split[labels == 1] == "test").sum() == 20
    assert set(split) == {"train", "test"}


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_not_split(seed: int) -> None:
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 60, 300)
    labels = group % 3
    split = stratified_group_split(labels, group.astype(str), seed)
    assert not set(group[split == "train"]) & set(group[split == "test"])
    for label in range(3):
        assert (split[labels == label] == "test").mean() == pytest.approx(1 / 3, abs=0.05)


def test_a_class_of_one_group_is_for_training() -> None:
    labels = np.repeat([0, 1], 9)
    group = np.array(["nest"] * 9 + [*"abcdefghi"])
    split = stratified_group_split(labels, group, 0)
    assert set(split[:9]) == {"train"}
    assert Counter(split[9:]) == {"train": 6, "test": 3}


def test_seeds_differ_and_one_seed_does_not() -> None:
    labels, group = np.repeat([0, 1], 30), np.arange(60).astype(str)
    splits = [tuple(stratified_group_split(labels, group, seed)) for seed in (0, 1, 2, 0)]
    assert len(set(splits)) == 3
    assert splits[0] == splits[3]


@pytest.mark.parametrize(("groups", "size", "n_test"), [(2, 5, 5), (3, 4, 4), (4, 3, 3), (2, 2, 2)])
def test_a_few_large_groups_still_give_test_photos(groups: int, size: int, n_test: int) -> None:
    group = np.repeat([f"{label}-{i}" for label in range(4) for i in range(groups)], size)
    labels = np.repeat(np.arange(4), groups * size)
    split = stratified_group_split(labels, group, 0)
    assert [np.sum(split[labels == label] == "test") for label in range(4)] == [n_test] * 4


# What a set can do --------------------------------------------------------------------------


def cells(photo_set: PhotoSet) -> list[str]:
    """Return split/class of each photo."""
    names = np.array(photo_set.class_names)[photo_set.labels]
    return [f"{split}/{name}" for split, name in zip(photo_set.split, names, strict=True)]


def test_a_limit_spreads_over_classes_and_splits(tmp_path: Path) -> None:
    folders = ["train/owl", "train/wren", "test/owl", "test/wren"]
    photo_set = load_photo_set(str(class_folders(tmp_path, dict.fromkeys(folders, 5))))
    subset = photo_set.limit(8)
    assert subset.paths.tolist() == [f"{folder}/{i}.png" for folder in folders for i in (0, 1)]
    assert cells(subset) == [folder for folder in folders for _ in range(2)]
    assert subset.group.tolist() == subset.paths.tolist()
    assert subset.class_names == photo_set.class_names
    assert len(photo_set) == 20


def test_a_limit_takes_more_where_there_is_more(tmp_path: Path) -> None:
    classes = {"train/owl": 1, "train/wren": 6, "test/owl": 1, "test/wren": 1}
    photo_set = load_photo_set(str(class_folders(tmp_path, classes)))
    assert cells(photo_set.limit(6)).count("train/wren") == 3
    assert photo_set.limit(100).paths.tolist() == photo_set.paths.tolist()


def test_sha256_of_each_file(tmp_path: Path) -> None:
    photo_set = load_photo_set(str(class_folders(tmp_path, {"owl": 2, "wren": 2})))
    (tmp_path / "owl" / "1.png").unlink()
    digests = photo_set.sha256()
    contents = [(tmp_path / path).read_bytes() for path in photo_set.paths[[0, 2, 3]]]
    expected = [hashlib.sha256(content).hexdigest() for content in contents]
    assert digests.tolist() == [expected[0], "", *expected[1:]]
