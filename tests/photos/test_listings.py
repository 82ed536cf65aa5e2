"""Tests of the kinds of photo sets: CUB-200-2011, CSV manifests."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.errors import assert_names, raises, warnings
from support.photos import cub_folder, make_photo, rows

from bilinear_cli.errors import BilinearError
from bilinear_cli.photos.photo_set import load_photo_set


def assert_refused(spec: object, *facts: Any) -> None:
    """Check that loading a set ends in an error that names these facts."""
    with raises(BilinearError, *facts):
        load_photo_set(str(spec))


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


# CSV manifests ------------------------------------------------------------------------------


def manifest(folder: Path, *lines: str, encoding: str = "utf-8") -> Path:
    """Write birds.csv, and the photos a.png to f.png and sub/g h.png beside it."""
    for i, name in enumerate([*"abcdef", "sub/g h"]):
        make_photo(folder / f"{name}.png", seed=i)
    (folder / "birds.csv").write_text("".join(f"{line}\n" for line in lines), encoding)
    return folder / "birds.csv"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_manifest(tmp_path: Path, encoding: str) -> None:
    lines = [
        "path,label,split,group,remark",
        "a.png,Zaunkönig,train,nest,",
        'sub/g h.png,"owl, barn",train,,x',
        "b.png,Zaunkönig,test,,",
    ]
    path = manifest(tmp_path, *lines, encoding=encoding)
    photo_set = load_photo_set(str(path))
    assert (photo_set.kind, photo_set.name, photo_set.split_seed) == ("manifest", "birds", None)
    assert photo_set.root == path.parent.resolve()
    assert rows(photo_set) == {
        "a.png": ("Zaunkönig", "train"),
        "sub/g h.png": ("owl, barn", "train"),
        "b.png": ("Zaunkönig", "test"),
    }
    assert photo_set.class_names == ("Zaunkönig", "owl, barn")
    assert photo_set.group.tolist() == ["nest", "sub/g h.png", "b.png"]


def test_a_manifest_without_a_split_gets_one_that_keeps_groups_together(tmp_path: Path) -> None:
    lines = [*(f"{name}.png,wren,nest" for name in "ab"), *(f"{name}.png,owl," for name in "cdef")]
    path = manifest(tmp_path, "path,label,group", *lines)
    photo_set = load_photo_set(str(path), split_seed=1)
    assert photo_set.split_seed == 1
    assert photo_set.split[:2].tolist() == ["train", "train"]
    assert Counter(photo_set.split[2:]) == {"train": 3, "test": 1}


def test_paths_of_a_manifest_become_relative(tmp_path: Path) -> None:
    photo = make_photo(tmp_path / "photos" / "a.png")
    manifest(tmp_path / "real" / "lists", "path,label", f"{photo},wren", "./b.png,owl")
    (tmp_path / "lists").symlink_to(tmp_path / "real" / "lists")
    photo_set = load_photo_set(str(tmp_path / "lists" / "birds.csv"))
    assert photo_set.paths.tolist() == ["../../photos/a.png", "b.png"]
    assert all(photo_set.sha256())


def test_a_spreadsheets_csv(tmp_path: Path) -> None:
    lines = ["Path, Label ,SPLIT", "a.png,wren ,Train", ",,", "b.png, jay,train", ""]
    photo_set = load_photo_set(str(manifest(tmp_path, *lines, "c.png,jay,TEST")))
    assert photo_set.class_names == ("jay", "wren")
    assert photo_set.split.tolist() == ["train", "train", "test"]
    path = manifest(tmp_path, *lines, "z.png,jay,test")
    assert_refused(path, path, 6, tmp_path.resolve() / "z.png")


def test_a_group_in_both_splits_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = ["a.png,wren,train,nest", "b.png,wren,test,nest", "c.png,owl,train,"]
    path = manifest(tmp_path, "path,label,split,group", *lines)
    load_photo_set(str(path))
    assert_names(*warnings(caplog), path, "nest")


PLAIN = ["path,label", "a.png,wren"]
WITH_SPLIT = ["path,label,split", "a.png,wren,train", "b.png,owl,train"]
WRONG_MANIFESTS: dict[str, tuple[list[str], list[str | int]]] = {
    "an empty file": ([], ["path,label[,split][,group]"]),
    "no photos": (["path,label"], []),
    "one class": ([*PLAIN, "b.png,wren"], ["wren"]),
    "a missing photo": ([*PLAIN, "z.png,owl"], [3, "{root}/z.png"]),
    "a folder": ([*PLAIN, "sub,owl"], [3, "{root}/sub"]),
    "an unknown split": ([*WITH_SPLIT, "c.png,owl,val"], [4, "'val'", "train", "test"]),
    "an empty split": ([*WITH_SPLIT, "c.png,owl,"], [4, "''", "train", "test"]),
    "a class without training photos": ([*WITH_SPLIT, "c.png,tit,test"], ["tit"]),
    "a photo twice": ([*PLAIN, "b.png,owl", "./sub/../a.png,owl"], [4, "a.png", 2]),
    "a field too few": ([*WITH_SPLIT, "c.png,owl"], [4, 2, 3]),
    "a field too many": ([*PLAIN, "b.png,owl", "c.png,owl,train"], [4, 3, 2]),
    "no label": (["path,label", "a.png,"], [2]),
    "an empty path": (["path,label", ",wren"], [2]),
}


@pytest.mark.parametrize(("lines", "facts"), WRONG_MANIFESTS.values(), ids=WRONG_MANIFESTS)
def test_wrong_manifests(tmp_path: Path, lines: list[str], facts: list[str | int]) -> None:
    path, root = manifest(tmp_path, *lines), tmp_path.resolve()
    facts = [fact.format(root=root) if isinstance(fact, str) else fact for fact in facts]
    assert_refused(path, path, *facts)


@pytest.mark.parametrize(
    ("header", "absent"), [("file,label", ["path"]), ("a.png;wren", ["path", "label"])]
)
def test_an_absent_column_is_named(tmp_path: Path, header: str, absent: list[str]) -> None:
    path, columns = manifest(tmp_path, header), "path,label[,split][,group]"
    with raises(BilinearError, path, columns, header) as caught:
        load_photo_set(str(path))
    message = str(caught.value)
    for text in (str(path), columns, header):
        message = message.replace(text, "")
    assert_names(message, *absent)


def test_a_file_that_is_no_manifest(tmp_path: Path) -> None:
    path = make_photo(tmp_path / "a.png")
    assert_refused(path, path, "CSV", "UTF-8")
