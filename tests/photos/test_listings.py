"""Tests of the kinds of photo sets: folders, CUB-200-2011."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.errors import assert_names, raises, warnings
from support.photos import class_folders, cub_folder

from bilinear_cli.errors import BilinearError
from bilinear_cli.photos.photo_set import PhotoSet, load_photo_set


def rows(photo_set: PhotoSet) -> dict[str, tuple[str, str]]:
    """Return path -> (class, split)."""
    names = [photo_set.class_names[label] for label in photo_set.labels]
    columns = zip(photo_set.paths.tolist(), names, photo_set.split.tolist(), strict=True)
    return {path: (name, split) for path, name, split in columns}


def assert_refused(spec: object, *facts: Any) -> None:
    """Check that loading a set ends in an error that names these facts."""
    with raises(BilinearError, *facts):
        load_photo_set(str(spec))


# Class folders ------------------------------------------------------------------------------


def test_train_and_test_folders_are_the_split(tmp_path: Path) -> None:
    classes = {"train/wren": 2, "train/dunnock": 1, "test/dunnock": 2, "test/wren": 1}
    folder = class_folders(tmp_path / "birds", classes)
    photo_set = load_photo_set(str(folder), split_seed=4)
    assert rows(photo_set) == {
        "train/dunnock/0.png": ("dunnock", "train"),
        "train/wren/0.png": ("wren", "train"),
        "train/wren/1.png": ("wren", "train"),
        "test/dunnock/0.png": ("dunnock", "test"),
        "test/dunnock/1.png": ("dunnock", "test"),
        "test/wren/0.png": ("wren", "test"),
    }
    assert (photo_set.name, photo_set.kind, photo_set.spec) == ("birds", "folders", str(folder))
    assert photo_set.root == folder.resolve()
    assert photo_set.class_names == ("dunnock", "wren")
    assert photo_set.labels.dtype == np.int64
    assert (photo_set.group == photo_set.paths).all()
    assert photo_set.split_seed is None
    assert len(photo_set) == 6


@pytest.mark.parametrize("parent", ["", "train/"])
def test_without_two_folders_a_split_is_drawn(tmp_path: Path, parent: str) -> None:
    folder = class_folders(tmp_path, {f"{parent}wren": 6, f"{parent}dunnock": 3})
    photo_set = load_photo_set(str(folder), split_seed=4)
    assert photo_set.split_seed == 4
    assert Counter(rows(photo_set).values()) == {
        **{("wren", "train"): 4, ("wren", "test"): 2},
        **{("dunnock", "train"): 2, ("dunnock", "test"): 1},
    }
    assert len({tuple(load_photo_set(str(folder), split_seed=seed).split) for seed in range(5)}) > 1


def test_what_counts_as_a_photo(tmp_path: Path) -> None:
    photos = ["a.jpg", "b.JPG", "c.Jpeg", "d.PNG", "e.TIFF", "f.tif", "g.BmP", "h.gif", "i.WebP"]
    wrens = [*photos, "deeper/j.png", ".k.jpg", ".thumbs/l.jpg"]
    folder = class_folders(tmp_path, {"wren": wrens, ".git": 1, "owl": 1})
    (folder / "wren" / "m.txt").write_text("no photo")
    (folder / "wren" / "n.png").mkdir()
    (folder / "nothing").mkdir()
    (folder / "o.jpg").write_bytes(b"beside the folders")
    photo_set = load_photo_set(str(folder))
    assert {*photo_set.paths} == {f"wren/{name}" for name in wrens[:-2]} | {"owl/0.png"}
    assert photo_set.class_names == ("owl", "wren")


def test_names_with_spaces_and_other_letters(tmp_path: Path) -> None:
    photos = {"Zaunkönig, brütend": "Bild 1 (2).png", "ミソサザイ": "写真.png", "Ёж": "a'b\".png"}
    classes = {name: [photo] for name, photo in photos.items()}
    photo_set = load_photo_set(str(class_folders(tmp_path / "mes oiseaux", classes)))
    assert photo_set.name == "mes oiseaux"
    assert rows(photo_set) == {f"{name}/{x}": (name, "train") for name, x in photos.items()}
    assert all(photo_set.sha256())


@pytest.mark.parametrize(
    ("classes", "files", "ignored"),
    [
        ({"train/a": 1, "train/b": 1, "test/a": 1, "val/a": 1}, [], ["val/a/0.png"]),
        ({"a": 2, "b": 2}, ["loose.png", "a/x.heic", ".DS_Store"], ["loose.png", "a/x.heic"]),
    ],
)
def test_ignored_files_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, classes: dict, files: list, ignored: list
) -> None:
    folder = class_folders(tmp_path, classes)
    for name in files:
        (folder / name).touch()
    assert not {*load_photo_set(str(folder)).paths} & {*ignored}
    assert_names(*warnings(caplog), folder, len(ignored), *ignored)


WRONG_FOLDERS: dict[str, tuple[dict[str, int | list[str]], list[str]]] = {
    "no photos": ({}, [".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"]),
    "no class folders": ({".": ["a.jpg"]}, [".jpg"]),
    "one class": ({"wren": ["a.png"]}, ["wren"]),
    "no train/": ({"test/wren": 1, "test/owl": 1}, ["test/", "train/"]),
    "capitals": ({"Train/wren": 1, "Test/wren": 1}, ["Test", "Train", "train", "test"]),
    "an untrained class": ({"train/wren": 1, "train/owl": 1, "test/jay": 1}, ["jay"]),
    "not UTF-8": ({"a": 1, "b": [os.fsdecode(b"h\xfc.png")]}, ["b/h\ufffd.png", "UTF-8"]),
}


@pytest.mark.parametrize(("classes", "facts"), WRONG_FOLDERS.values(), ids=WRONG_FOLDERS)
def test_wrong_folders(tmp_path: Path, classes: dict, facts: list[str]) -> None:
    assert_refused(class_folders(tmp_path, classes), tmp_path, *facts)


@pytest.mark.parametrize("spec", ["nowhere", "nowhere.csv", "samples"])
def test_no_such_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(spec, repr(spec), "CSV", "'sample'")


# CUB-200-2011 -------------------------------------------------------------------------------


@pytest.fixture
def cub(tmp_path: Path) -> Path:
    return cub_folder(tmp_path / "cub")


def test_cub_layout(cub: Path) -> None:
    photo_set = load_photo_set(str(cub))
    assert (photo_set.kind, photo_set.name, photo_set.split_seed) == ("cub", "cub", None)
    assert photo_set.root == cub.resolve() / "images"
    assert photo_set.class_names == ("004.Wren", "001.Owl")
    assert photo_set.labels.tolist() == [0, 0, 1, 1]
    assert rows(photo_set) == {
        "004.Wren/a b.jpg": ("004.Wren", "train"),
        "004.Wren/b.jpg": ("004.Wren", "test"),
        "001.Owl/a.jpg": ("001.Owl", "train"),
        "001.Owl/c.jpg": ("001.Owl", "test"),
    }
    assert all(photo_set.sha256())


@pytest.mark.parametrize(
    ("name", "text", "facts"),
    [
        ("image_class_labels", "11 4\n17 1\n", [3, 5790]),
        ("train_test_split", "11 1\n", [17, 3, 5790]),
        ("classes", "4 004.Wren\n", [1]),
        ("images", "11\n", []),
        ("classes", None, []),
    ],
)
def test_a_cub_folder_with_a_gap(cub: Path, name: str, text: str | None, facts: list[int]) -> None:
    path = cub / f"{name}.txt"
    path.unlink() if text is None else path.write_text(text)
    assert_refused(cub, path, *facts)


def test_a_cub_folder_without_photos(cub: Path) -> None:
    (cub / "images.txt").write_text("")
    assert_refused(cub, cub)
