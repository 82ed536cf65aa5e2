"""Tests of folders of photos: what a walk takes and leaves out, splits, class levels."""

import os
import shutil
from collections import Counter
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
from support.errors import assert_names, messages, raises, warnings
from support.photos import class_folders, cub_folder, make_photo, rows

from bilinear_cli.errors import BilinearError
from bilinear_cli.photos.folders.walk import walk_photos
from bilinear_cli.photos.names import same_looking
from bilinear_cli.photos.photo_set import load_photo_set
from bilinear_cli.photos.split_names import resolve_splits

Classes = dict[str, int | list[str]]


# Splits and classes -------------------------------------------------------------------------


def test_train_and_test_folders_are_the_split(tmp_path: Path) -> None:
    classes = {"train/wren": 2, "train/dunnock": 1, "test/dunnock": 2, "test/wren": 1}
    folder = class_folders(tmp_path / "birds", classes)
    photo_set = load_photo_set(str(folder), split_seed=4)
    assert list(rows(photo_set).items()) == [
        ("train/dunnock/0.png", ("dunnock", "train")),
        ("train/wren/0.png", ("wren", "train")),
        ("train/wren/1.png", ("wren", "train")),
        ("test/dunnock/0.png", ("dunnock", "test")),
        ("test/dunnock/1.png", ("dunnock", "test")),
        ("test/wren/0.png", ("wren", "test")),
    ]
    assert (photo_set.name, photo_set.kind, photo_set.spec) == ("birds", "folders", str(folder))
    assert photo_set.root == folder.resolve()
    assert photo_set.class_names == ("dunnock", "wren")
    assert photo_set.labels.dtype == np.int64
    assert (photo_set.group == photo_set.paths).all()
    assert photo_set.split_seed is None
    assert photo_set.left_out == {}
    assert len(photo_set) == 6


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (["train"], ["val"]),
        (["Train"], ["VALID"]),
        (["training"], ["testing"]),
        (["Training set"], ["Test-Set"]),
        (["train2017"], ["val2017"]),
        (["train_images"], ["holdout"]),
        (["train", "validation"], ["test"]),
        (["training", "dev"], ["Test"]),
    ],
)
def test_what_folders_of_splits_are_called(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, train: list[str], test: list[str]
) -> None:
    caplog.set_level("INFO")
    names = [*train, *test]
    folder = class_folders(tmp_path, {f"{name}/{bird}": 1 for name in names for bird in "ab"})
    photo_set = load_photo_set(str(folder))
    split_of = {path.split("/")[0]: split for path, (_, split) in rows(photo_set).items()}
    assert split_of == dict.fromkeys(train, "train") | dict.fromkeys(test, "test")
    assert photo_set.class_names == ("a", "b")
    (line,) = [record.getMessage() for record in caplog.records]
    trained, tested = line.split(" to train on")
    assert_names(trained, folder, len(photo_set), *(f"{name}/" for name in train))
    assert_names(tested, *(f"{name}/" for name in test))


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


def test_a_split_is_drawn_where_the_test_photos_have_no_classes(tmp_path: Path) -> None:
    folder = class_folders(tmp_path, {"train/wren": 3, "train/owl": 3, "test": 2})
    for name in ("train/jay", "docs/pages"):
        (folder / name).mkdir(parents=True)
    photo_set = load_photo_set(str(folder))
    assert photo_set.split_seed == 0
    assert len(photo_set) == 6
    assert [*photo_set.left_out.values()] == [["test/0.png", "test/1.png"], ["train/jay"]]


@pytest.mark.parametrize("name", ["train", "valid"])
def test_a_class_may_have_the_name_of_a_split(tmp_path: Path, name: str) -> None:
    photo_set = load_photo_set(str(class_folders(tmp_path, {"bus": 2, name: 2, "xtram": 2})))
    assert photo_set.class_names == ("bus", name, "xtram")
    assert len(photo_set) == 6


def test_names_with_spaces_and_other_letters(tmp_path: Path) -> None:
    photos = {"Zaunkönig, brütend": "Bild 1 (2).png", "ミソサザイ": "写真.png", "Ёж": "a'b\".png"}
    classes = {name: [photo] for name, photo in photos.items()}
    photo_set = load_photo_set(str(class_folders(tmp_path / "mes oiseaux", classes)))
    assert photo_set.name == "mes oiseaux"
    assert rows(photo_set) == {f"{name}/{x}": (name, "train") for name, x in photos.items()}
    assert all(photo_set.sha256())


LOOKALIKES = {
    "accents": (["Cafe\u0301", "Caf\u00e9"], ["(U+0065 U+0301)", "(U+00E9)"]),
    "a blank at the end": (["wren", "wren "], ["'wren '", "(U+0020)"]),
    "a blank that does not break": (["a b", "a\u00a0b"], ["(U+0020)", "(U+00A0)"]),
    "a blank of no width": (["wren", "wr\u200ben"], ["(U+200B)"]),
    "Cyrillic": (["cop", "\u0441\u043e\u0440"], ["(U+0063 U+006F U+0070)", "(U+0441 U+043E"]),
}


@pytest.mark.parametrize(("names", "facts"), LOOKALIKES.values(), ids=LOOKALIKES)
def test_classes_that_look_the_same_are_told_apart(
    tmp_path: Path, names: list[str], facts: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder = class_folders(tmp_path, dict.fromkeys([*names, "other"], 1))
    assert len(load_photo_set(str(folder)).class_names) == 3
    assert_names(*warnings(caplog), folder, *map(repr, names), *facts)


def test_other_classes_are_no_lookalikes() -> None:
    assert same_looking(["Wren", "wren", "wren 1", "cafe", "caf\u00e9", "\u0446\u0430\u0440"]) == []


def test_a_locale_that_reads_no_utf8_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulated: the encoding of names cannot change within a process."""
    name = os.fsdecode(b"h\xfc")
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: "ascii")
    with raises(BilinearError, tmp_path, "h\\xfc", "ascii", "PYTHONUTF8=1"):
        load_photo_set(str(class_folders(tmp_path, {name: 1, "wren": 1})))


WRONG_FOLDERS: dict[str, tuple[Classes, list[str]]] = {
    "no photos": ({}, [".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"]),
    "no class folders": ({".": ["a.jpg"]}, ["predict"]),
    "one class": ({"wren": ["a.png"]}, ["wren"]),
    "one class with a folder": ({"wren": 1, "wren/nest": 1}, ["(wren)"]),
    "one class in train/": ({"train/wren/a": 1, "train/wren/b": 1}, ["(wren)"]),
    "one folder too high": ({"x/data/robin": 1, "x/data/wren": 1}, ["--data {root}/x/data"]),
    "too high above splits": ({"x/train/a": 1, "x/val/a": 1}, ["--data {root}/x"]),
    "test only": ({"test/wren": 1, "test/owl": 1}, ["test/", "{root}/train"]),
    "val only": ({"val/wren": 1, "val/owl": 1, "jay": 1}, ["val/", "{root}/train"]),
    "one split twice": ({"train/a": 1, "Training/b": 1, "test/a": 1}, ["train/", "Training/"]),
    "train beside a class": ({"train/wren": 1, "owl": 1}, ["owl/", "--data {root}/train"]),
    "splits without classes": ({"training": 1, "testing": 1}, ["training/", "testing/"]),
    "test photos as a class": ({"wren": 1, "owl": 1, "test": 1}, ["test/"]),
    "words in names": ({"seg_train/a": 1, "seg_test/a": 1, "new": 1}, ["seg_train/", "seg_test/"]),
    "an untrained class": ({"train/wren": 1, "train/owl": 1, "test/jay": 1}, ["jay"]),
    "a name in two forms of Unicode": (
        {f"train/{normalize('NFC', 'ö')}": 1, "train/a": 1, f"test/{normalize('NFD', 'ö')}": 1},
        ["Unicode", "U+006F U+0308", "U+00F6"],
    ),
    "not UTF-8": ({"a": 1, "b": [os.fsdecode(b"h\xfc.png")]}, ["b/h\\xfc.png", "UTF-8"]),
}


@pytest.mark.parametrize(("classes", "facts"), WRONG_FOLDERS.values(), ids=WRONG_FOLDERS)
def test_wrong_folders(tmp_path: Path, classes: Classes, facts: list[str]) -> None:
    folder = class_folders(tmp_path, classes)
    with raises(BilinearError, folder, *(fact.format(root=folder) for fact in facts)):
        load_photo_set(str(folder))


def test_cub_is_found_one_folder_too_high(tmp_path: Path) -> None:
    cub = cub_folder(tmp_path / "birds" / "CUB")
    make_photo(cub.parent / "segmentations" / "004.Wren" / "a.png")
    with raises(BilinearError, f"--data {cub}"):
        load_photo_set(str(cub.parent))


def test_the_meaning_of_splits_in_a_list() -> None:
    assert resolve_splits({"Train": 0, "train": 0, "val": 0}) == {
        **{"Train": "train", "train": "train", "val": "test"}
    }
    assert resolve_splits(["training", "val", "TEST"])["val"] == "train"
    for names, fact in [(["train", "fold1"], "'fold1'"), (["train", ""], "''"), (["val"], "val")]:
        with raises(BilinearError, fact, "train"):
            resolve_splits(names)


# Class levels -------------------------------------------------------------------------------

TREE: Classes = {
    "Paridae/Parus/major": 2,
    "Paridae/Cyanistes/caeruleus": 2,
    "Picidae/Dendrocopos/medius": 2,
}


@pytest.mark.parametrize("split", ["", "train/"])
def test_classes_of_another_level(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, split: str
) -> None:
    folder = class_folders(tmp_path, {f"{split}{name}": n for name, n in TREE.items()})
    assert load_photo_set(str(folder)).class_names == ("Paridae", "Picidae")
    counts = ["level 1 has 2", "level 2 has 3", "level 3 has 3", "Paridae", "medius"]
    assert_names(*warnings(caplog), folder, "--class-level", *counts)
    caplog.clear()
    assert load_photo_set(str(folder), class_level=1).class_names == ("Paridae", "Picidae")
    species = load_photo_set(str(folder), class_level=3)
    assert species.class_names == ("caeruleus", "major", "medius")
    assert len(species) == 6
    assert warnings(caplog) == []
    with raises(BilinearError, folder, "level 4", *counts):
        load_photo_set(str(folder), class_level=4)


def test_folders_in_some_class_folders_are_no_levels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_photo_set(str(class_folders(tmp_path, {"robin": 1, "wren/2023": 1})))
    assert warnings(caplog) == []


def test_folders_of_one_name_become_paths(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree: Classes = {"Parus/major": 1, "Parus/ater": 1, "Dendrocopos/major": 1}
    folder = class_folders(tmp_path, tree)
    assert {*load_photo_set(str(folder), class_level=2).class_names} == {*tree}
    assert_names(*warnings(caplog), folder, "major", "Parus/ater")


def test_photos_above_the_class_level_are_left_out(tmp_path: Path) -> None:
    folder = class_folders(tmp_path, TREE | {"Paridae": ["cover.png"]})
    (folder / "Paridae/Parus/rufus").mkdir()
    photo_set = load_photo_set(str(folder), class_level=3)
    assert len(photo_set) == 6
    assert [*photo_set.left_out.values()] == [["Paridae/cover.png"], ["Paridae/Parus/rufus"]]


# What a walk takes and leaves out -----------------------------------------------------------


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
    left_out = {".git", "nothing", "o.jpg", "wren/.k.jpg", "wren/.thumbs", "wren/m.txt"}
    assert {*chain.from_iterable(photo_set.left_out.values())} == left_out


@pytest.mark.parametrize("name", ["a.jfif", "a.JPE", "IMG_0001", "wren 12.05.2020", "a.jpg?w=9"])
def test_a_jpeg_of_any_name_is_a_photo(tmp_path: Path, name: str) -> None:
    make_photo(tmp_path / "a.jpg").rename(tmp_path / name)
    (tmp_path / "README").write_text("BM is how bitmaps begin, too")
    assert walk_photos(tmp_path).photos == [name]


def test_files_that_are_no_photos_are_counted_by_suffix(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = class_folders(tmp_path, {"a": 2, "b": 2})
    for name in ["loose.png", "a/x.mov", "a/y.MOV", "b/notes", ".DS_Store"]:
        (folder / name).touch()
    left_out = load_photo_set(str(folder)).left_out
    assert left_out[".mov files"] == ["a/x.mov", "a/y.MOV"]
    assert ["b/notes"] in left_out.values()
    assert_names(*warnings(caplog), folder, ".mov", 2, "a/x.mov", "loose.png", "b/notes")


def fifo(path: Path) -> None:
    os.mkfifo(path)


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("make", [fifo, link_to_itself, lambda path: path.symlink_to("gone.jpg")])
def test_what_is_neither_file_nor_folder_is_left_out(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "a.jpg")
    walk = walk_photos(tmp_path)
    assert walk.photos == []
    assert [*walk.left_out.values()] == [["a.jpg"]]


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, scandir = class_folders(tmp_path, {"a": 1, "b": 1, "c": 1}), os.scandir

    def refuse(path: Path) -> object:
        if path == folder / "b":
            raise PermissionError(13, "")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    photo_set = load_photo_set(str(folder))
    assert photo_set.class_names == ("a", "c")
    ((reason, paths),) = photo_set.left_out.items()
    assert paths == ["b"]
    assert_names(reason, os.strerror(13))


def test_linked_folders_are_read_once(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "birds", {"robin": 1, "wren/nest": 1})
    make_photo(tmp_path / "disk" / "more" / "9.png")
    (folder / "wren" / "disk").symlink_to(tmp_path / "disk")
    elsewhere = {
        "a": "wren",  # sorted before the folder itself
        "robin/disk": tmp_path / "disk" / "more",
        "robin/loop": folder,
        "wren/up": tmp_path.parent,
    }
    for name, target in elsewhere.items():
        (folder / name).symlink_to(target)
    walk = walk_photos(folder)
    assert len(walk.photos) == 3
    assert {"robin/0.png", "wren/nest/0.png"} < {*walk.photos}
    assert walk.photos == sorted(walk.photos, key=Path)
    (left_out,) = walk.left_out.values()
    assert len(left_out) == 4  # of five links


def test_splits_and_classes_may_be_links(tmp_path: Path) -> None:
    disk = class_folders(tmp_path / "disk", {"a/robin": 1, "a/wren": 1, "b/robin": 1})
    folder = class_folders(tmp_path / "birds", {})
    (folder / "train").symlink_to(disk / "a")
    (folder / "val").symlink_to(disk / "b")
    assert [*load_photo_set(str(folder)).split] == ["train", "train", "test"]


SYSTEM_FOLDERS = ["@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"]
SYSTEM_FOLDERS += ["__MACOSX", ".thumbnails", "@Recycle", "@Recently-Snapshot", "#snapshot"]
SYSTEM_FOLDERS += ["@SynoEAStream", "RECYCLER", "Birds Previews.lrdata", ".picasaoriginals"]
SYSTEM_FILES = ["Thumbs.db", "desktop.ini", ".DS_Store", "._0.jpg"]


def test_folders_and_files_of_systems_are_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    folder = class_folders(tmp_path, {"robin": 1, "wren": 1})
    photo = folder / "robin" / "0.png"
    for name in SYSTEM_FOLDERS:
        (folder / "wren" / name).mkdir()
        shutil.copy(photo, folder / "wren" / name / "0.png")
    for name in SYSTEM_FILES:
        shutil.copy(photo, folder / "robin" / name)
    photo_set = load_photo_set(str(folder))
    assert photo_set.paths.tolist() == ["robin/0.png", "wren/0.png"]
    assert photo_set.class_names == ("robin", "wren")
    assert sum(map(len, photo_set.left_out.values())) == len(SYSTEM_FOLDERS + SYSTEM_FILES)
    assert warnings(caplog) == []
    assert_names(messages(caplog, 20)[-1], folder, "#recycle")
