"""Tests of photo sets as lists: CSV and its relatives, as people and programs write them."""

import logging
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
from support.commands import error_line, run_command
from support.errors import assert_names, assert_suggests, messages, raises, warnings
from support.photos import class_folders, make_photo, rows

import bilinear_cli
from bilinear_cli.errors import BilinearError, UsageError
from bilinear_cli.photos.boxes.cropped_set import crop_photo_set
from bilinear_cli.photos.boxes.options import BoxOptions
from bilinear_cli.photos.photo_set import PhotoSet, load_photo_set


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the photos a.png to f.png and sub/g h.png."""
    folder = tmp_path_factory.mktemp("photos")
    for i, name in enumerate([*"abcdef", "sub/g h"]):
        make_photo(folder / f"{name}.png", seed=i)
    return folder


@pytest.fixture
def folder(photos: Path, tmp_path: Path) -> Path:
    """Return a copy of the folder of photos."""
    return Path(shutil.copytree(photos, tmp_path / "photos"))


def manifest(folder: Path, *lines: str, encoding: str = "utf-8") -> Path:
    """Write birds.csv into a folder."""
    (folder / "birds.csv").write_text("".join(f"{line}\n" for line in lines), encoding)
    return folder / "birds.csv"


def labels(photo_set: PhotoSet) -> dict[str, str]:
    """Return path -> class."""
    return {path: label for path, (label, _) in rows(photo_set).items()}


def assert_refused(spec: Path, *facts: Any, **columns_of: str) -> str:
    """Check that a list ends in an error that names these facts, and return its message."""
    with raises(BilinearError, spec, *facts) as caught:
        load_photo_set(str(spec), columns=columns_of)
    return str(caught.value)


# The columns of the program itself ----------------------------------------------------------


def test_a_manifest(folder: Path) -> None:
    path = manifest(
        folder,
        "path,label,split,group,remark",
        "a.png,Zaunkönig,train,nest,",
        'sub/g h.png,"owl, barn",train,,x',
        "b.png,Zaunkönig,test,,",
    )
    photo_set = load_photo_set(str(path))
    assert (photo_set.kind, photo_set.name, photo_set.split_seed) == ("manifest", "birds", None)
    assert photo_set.root == folder.resolve()
    assert labels(photo_set) == {
        "a.png": "Zaunkönig",
        "sub/g h.png": "owl, barn",
        "b.png": "Zaunkönig",
    }
    assert photo_set.split.tolist() == ["train", "train", "test"]
    assert photo_set.class_names == ("Zaunkönig", "owl, barn")
    assert photo_set.group.tolist() == ["nest", "sub/g h.png", "b.png"]


def test_without_a_split_one_is_drawn_that_keeps_groups_together(folder: Path) -> None:
    lines = [*(f"{name}.png,wren,nest" for name in "ab"), *(f"{name}.png,owl," for name in "cdef")]
    path = manifest(folder, "path,label,group", *lines)
    photo_set = load_photo_set(str(path), split_seed=1)
    assert photo_set.split_seed == 1
    assert photo_set.split[:2].tolist() == ["train", "train"]
    assert Counter(photo_set.split[2:]) == {"train": 3, "test": 1}


def test_paths_become_relative(folder: Path, tmp_path: Path) -> None:
    (folder / "lists").mkdir()
    manifest(folder / "lists", "path,label", f"{folder}/a.png,wren", "./../b.png,owl")
    (tmp_path / "lists").symlink_to(folder / "lists")
    photo_set = load_photo_set(str(tmp_path / "lists" / "birds.csv"))
    assert photo_set.paths.tolist() == ["../a.png", "../b.png"]
    assert all(photo_set.sha256())


def test_a_spreadsheets_csv(folder: Path) -> None:
    lines = ["Path, Label ,SPLIT", "a.png,wren ,Train", ",,", "b.png, jay,train", ""]
    photo_set = load_photo_set(str(manifest(folder, *lines, "c.png,jay,TEST,,")))
    assert photo_set.class_names == ("jay", "wren")
    assert photo_set.split.tolist() == ["train", "train", "test"]
    assert_refused(manifest(folder, *lines, "z.png,jay,test"), 6, folder.resolve() / "z.png")


def test_a_group_in_both_splits_is_warned_of(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = ["a.png,wren,train,nest", "b.png,wren,test,nest", "c.png,owl,train,"]
    path = manifest(folder, "path,label,split,group", *lines)
    load_photo_set(str(path))
    assert_names(*warnings(caplog), path, "nest")


PLAIN = ["path,label", "a.png,wren"]
WITH_SPLIT = ["path,label,split", "a.png,wren,train", "b.png,owl,train"]
WRONG_ROWS: dict[str, tuple[list[str], list[str | int]]] = {
    "an empty file": ([], ["path,label[,split][,group]"]),
    "no photos": (["path,label"], []),
    "one class": ([*PLAIN, "b.png,wren"], ["wren"]),
    "a missing photo": ([*PLAIN, "z.png,owl"], [3, "z.png,owl", "{root}/z.png"]),
    "missing photos": ([*PLAIN, "z.png,owl", "b.png,owl", "y.png,owl"], [3, 2, 4, "{root}/z.png"]),
    "a folder": ([*PLAIN, "sub,owl"], [3, "{root}/sub"]),
    "an unknown split": ([*WITH_SPLIT, "c.png,owl,B"], [4, "c.png,owl,B", "'B'", "train", "test"]),
    "an empty split": ([*WITH_SPLIT, "c.png,owl,"], [4, "c.png,owl,", "split"]),
    "no training photos": (["path,label,split", "a.png,wren,val", "b.png,owl,test"], ["train"]),
    "a class without training photos": ([*WITH_SPLIT, "c.png,tit,test"], ["tit"]),
    "a photo twice": ([*PLAIN, "b.png,owl", "./sub/../a.png,wren"], [4, "a.png", 2]),
    "a photo in two classes": ([*PLAIN, "a.png,owl"], [3, "a.png,owl", 2, "wren"]),
    "boxes of two groups": (
        ["path,label,group,x,y,w,h", "a.png,wren,1,2,3,4,5", "a.png,wren,2,2,3,4,5"],
        [3, "a.png", 2],
    ),
    "a field too few": ([*WITH_SPLIT, "c.png,owl"], [4, "c.png,owl", 2, 3]),
    "a field too many": ([*PLAIN, "b.png,owl, barn"], [3, "b.png,owl,barn", 2]),
    "no label": (["path,label", "a.png,"], [2, "label"]),
    "an empty path": (["path,label", ",wren"], [2, "path is empty"]),
    "a line break": (["path,label", '"a.png","wren\nred"', "z.png,owl"], [3, "z.png,owl"]),
    "an open quote": ([*PLAIN, 'b.png,"owl', "c.png,owl"], [3]),
    "two open quotes": ([*PLAIN, 'b.png,"owl', "c.png,owl", 'd.png,"owl'], [3]),
    "a long row": ([*PLAIN, f"z.png,{'o' * 80}"], [3, f"(z.png,{'o' * 71}...)"]),
}


@pytest.mark.parametrize(("lines", "facts"), WRONG_ROWS.values(), ids=WRONG_ROWS)
def test_wrong_rows(folder: Path, lines: list[str], facts: list[str | int]) -> None:
    path, root = manifest(folder, *lines), folder.resolve()
    facts = [fact.format(root=root) if isinstance(fact, str) else fact for fact in facts]
    assert_refused(path, *facts)


def test_a_list_may_have_a_row_for_each_box(folder: Path) -> None:
    lines = ["a.png,wren,1,2,9,9", "b.png,owl,,,,", "a.png,wren,3,4,9,9"]
    path = manifest(folder, "path,label,x,y,width,height", *lines)
    photo_set = load_photo_set(str(path))
    assert labels(photo_set) == {"a.png": "wren", "b.png": "owl"}
    assert len(photo_set) == 2
    cropped = crop_photo_set(photo_set, BoxOptions(str(path))).photo_set
    assert cropped.box is not None
    assert cropped.box.tolist() == [[1, 2, 9, 9], [3, 4, 9, 9], [0, 0, 0, 0]]


# Separators and encodings -------------------------------------------------------------------

EXPECTED = {"a.png": "Bläßhuhn", "b.png": "owl, barn; grey"}
TABLE = [("path", "label", "remark"), ("a.png", "Bläßhuhn", "2"), ("b.png", EXPECTED["b.png"], "")]


def table(separator: str = ",", end: str = "\n") -> str:
    """Return a table as text, in which all values stand in quotes."""
    lines = (separator.join(f'"{value}"' for value in row) for row in TABLE)
    return "".join(line + end for line in lines)


ENCODED: dict[str, bytes] = {
    "commas": table().encode(),
    "semicolons": table(";").encode(),
    "tabs": table("\t").encode(),
    "bars": table("|").encode(),
    "a mark": table().encode("utf-8-sig"),
    "Windows line ends": table(";", "\r\n").encode(),
    "Mac line ends": table(end="\r").encode(),
    "Excel's Unicode text": table("\t", "\r\n").encode("utf-16"),
    "UTF-16 of the other order": b"\xfe\xff" + table("\t").encode("utf-16-be"),
    "a line for Excel": f"sep=^\r\n{table('^')}".encode(),
    "the other separators in names": table(";").replace("remark", "l,b,h|x,y,z").encode(),
    "no name of a column": table().replace('"remark"', "").encode(),
    "an empty line above": f"\n{table(';')}".encode(),
}


@pytest.mark.parametrize("content", ENCODED.values(), ids=ENCODED)
def test_separators_and_encodings(
    folder: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "birds.txt").write_bytes(content)
    assert labels(load_photo_set(str(folder / "birds.txt"))) == EXPECTED
    assert not warnings(caplog)


def test_the_encoding_of_windows_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "birds.csv").write_bytes(table(";").encode("cp1252"))
    assert labels(load_photo_set(str(folder / "birds.csv"))) == EXPECTED
    assert_names(*warnings(caplog), folder / "birds.csv", "Windows-1252", "Bläßhuhn", "UTF-8")


def test_tabs_without_quotes(folder: Path) -> None:
    """GBIF writes texts as they are."""
    lines = ["path\tlabel\tlocality", 'a.png\twren\t"Big tree" 5" left', 'b.png\towl\t"']
    assert labels(load_photo_set(str(manifest(folder, *lines)))) == {
        "a.png": "wren",
        "b.png": "owl",
    }


NO_TEXTS: dict[str, tuple[bytes, str]] = {
    "a photo": (b"\x89PNG\r\n\x1a\n\0\0", "CSV"),
    "Excel": (b"PK\x03\x04\x14", "workbook"),
    "old Excel": (b"\xd0\xcf\x11\xe0", "Excel"),
    "Parquet": (b"PAR1\x15", "Parquet"),
    "JSON": (b'[\n{"path": "a.png"}]', "JSON"),
    "two encodings": ("a.png,Bläßhuhn\n".encode() + "b.png,Möwe".encode("cp1252"), "Windows-1252"),
    "another encoding": ("a.png,ツバメ\n".encode("shift-jis"), "Windows-1252"),
}


@pytest.mark.parametrize(("content", "fact"), NO_TEXTS.values(), ids=NO_TEXTS)
def test_files_that_are_no_list(tmp_path: Path, content: bytes, fact: str) -> None:
    (tmp_path / "birds.csv").write_bytes(content)
    assert_refused(tmp_path / "birds.csv", fact, "save", "CSV", "UTF-8")


# Names of columns ---------------------------------------------------------------------------

# Header, a row below it, the columns given, and what the log says
COLUMNS: dict[str, tuple[str, str, dict[str, str], str]] = {
    "common names": (
        "file_name,Scientific Name",
        "{path},{label}",
        {},
        "path=file_name, label=Scientific Name",
    ),
    "ids": ("Image-ID,class", "{path},{label}", {}, "path=Image-ID, label=class"),
    "standard names win": ("image,path,species,label", "x,{path},x,{label}", {}, ""),
    "another case": ("Path, LABEL", "{path},{label}", {}, ""),
    "given": ("id,art", "{path},{label}", {"path": "id", "label": "Art"}, "path=id, label=art"),
    "one given": (
        "species,common,image",
        "x,{label},{path}",
        {"label": "common"},
        "path=image, label=common",
    ),
    "given in place of the standard name": (
        "path,label,species",
        "{path},x,{label}",
        {"label": "species"},
        "path=path, label=species",
    ),
    "given exactly": (
        "path,art_1,art 1",
        "{path},x,{label}",
        {"label": "art 1"},
        "path=path, label=art 1",
    ),
    "given in a line with another separator": (
        "no;art;size (l,b,h,w)",
        "{path};{label};1",
        {"path": "no", "label": "art"},
        "path=no, label=art",
    ),
    "one of two taken as group": (
        "photo,genus,species",
        "{path},x,{label}",
        {"group": "genus"},
        "path=photo, label=species, group=genus",
    ),
}


@pytest.mark.parametrize(("header", "row", "given", "taken"), COLUMNS.values(), ids=COLUMNS)
def test_columns(
    folder: Path,
    header: str,
    row: str,
    given: dict[str, str],
    taken: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    expected = {"a.png": "wren", "b.png": "owl"}
    lines = [row.format(path=path, label=label) for path, label in expected.items()]
    path = manifest(folder, header, *lines)
    assert labels(load_photo_set(str(path), columns=given)) == expected
    logged = [line for line in messages(caplog, logging.INFO) if "=" in line]
    assert logged == ([f"{path}: columns: {taken}"] if taken else [])


def test_unused_columns_are_named_and_may_be_groups(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = manifest(folder, "path,label,sex,Nest ID,burst", "a.png,wren,f,7,", "b.png,owl,m,7,")
    assert set(load_photo_set(str(path)).group) == {"a.png", "b.png"}
    unused, advice = messages(caplog, logging.INFO)
    assert_names(unused, path, "sex", "Nest ID")
    assert_names(advice, "--columns group=Nest ID")
    caplog.clear()
    assert set(load_photo_set(str(path), columns={"group": "nest id"}).group) == {"7"}
    assert not [line for line in messages(caplog, logging.INFO) if "--columns" in line]


def test_columns_of_boxes_are_for_boxes(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = manifest(
        folder, "path,label,sex,x,y,w,h,conf", "a.png,wren,f,1,2,9,9,1", "b.png,owl,m,,,,,"
    )
    load_photo_set(str(path))
    boxes, unused = messages(caplog, logging.INFO)
    assert_names(boxes, f"--boxes {path}", "x, y, w, h")
    assert unused.endswith(": sex")


def test_the_unicode_form_of_a_column_does_not_matter(folder: Path) -> None:
    path = manifest(folder, f"path,{normalize('NFD', 'Espèce')}", "a.png,wren", "b.png,owl")
    columns = {"label": normalize("NFC", "Espèce")}
    assert load_photo_set(str(path), columns=columns).class_names == ("owl", "wren")


def test_labels_that_look_the_same_are_told_apart(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = (f"{name}.png,{normalize(form, 'Café')}" for name, form in (("a", "NFC"), ("b", "NFD")))
    path = manifest(folder, "path,label", *lines)
    assert len(load_photo_set(str(path)).class_names) == 2
    assert_names(*warnings(caplog), path, "U+0065 U+0301", "U+00E9")


def test_a_path_with_a_nul_is_refused(folder: Path) -> None:
    """In UTF-16, because a text in UTF-8 with a NUL is no list."""
    assert_refused(manifest(folder, *PLAIN, "b\0.png,owl", encoding="utf-16"), 3, "owl")


WRONG_HEADERS: dict[str, tuple[str, list[str]]] = {
    "no path": ("id,label", ["column path.", "id,label", "--columns path=COLUMN,"]),
    "neither": ("a b,c", ["path and label", "a b,c", "path=COLUMN,label=COLUMN,"]),
    "GBIF": ("image,class,order,species", ["class, species", "--columns label="]),
    "two paths": ("filename,image_id,label", ["filename, image_id", "--columns path="]),
    "doubled": ("path,Label,label", ["Label"]),
    "doubled by case": ("file_name,FileName,label", ["file_name, FileName", "--columns path="]),
    "no header": ("a.png,wren", ["a.png,wren", "path,label"]),
    "very long": (",".join(["id"] * 99), ["--columns path=COLUMN"]),
}


@pytest.mark.parametrize(("header", "facts"), WRONG_HEADERS.values(), ids=WRONG_HEADERS)
def test_wrong_headers(folder: Path, header: str, facts: list[str]) -> None:
    message = assert_refused(manifest(folder, header, "b.png,owl"), *facts)
    assert len(message) - len(str(folder)) < 350


def test_given_columns_must_exist(folder: Path) -> None:
    path = manifest(folder, "File,Name of species,b,b", "a.png,wren,,")
    with raises(UsageError, "lable") as caught:
        load_photo_set(str(path), columns={"lable": "b"})
    assert_suggests(str(caught.value), "label", ["path", "label", "split", "group"])
    with raises(UsageError, path, "'Species'") as caught:
        load_photo_set(str(path), columns={"label": "Species"})
    assert_suggests(str(caught.value), "Name of species", ["File", "Name of species"])
    assert_refused(path, "column b", group="b")


def test_train_needs_a_photo_set_for_its_options(tmp_path: Path) -> None:
    with raises(UsageError, "--columns", "--data"):
        bilinear_cli.train(tmp_path / "x.h5", columns={"path": "id"})
    result = run_command("train", "--features", tmp_path / "x.h5", "--class-level", 2, code=2)
    error_line(result, "--class-level", "--data")


# Splits and labels --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected", "said"),
    [
        ("train,Val,train,val", "train,test,train,test", "val as test"),
        ("train,valid,train,test", "train,train,train,test", "valid as train"),
    ],
)
def test_a_validation_split_as_in_folders(
    folder: Path, words: str, expected: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    photos = ["a.png,wren", "b.png,wren", "c.png,owl", "d.png,owl"]
    lines = [f"{photo},{word}" for photo, word in zip(photos, words.split(","), strict=True)]
    path = manifest(folder, "path,label,split", *lines)
    assert load_photo_set(str(path)).split.tolist() == expected.split(",")
    assert_names(*messages(caplog, logging.INFO), path, said)


def test_a_label_that_may_be_none_is_warned_of(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = manifest(folder, "path,label", "a.png,NA", "b.png,owl", "c.png,NA")
    assert load_photo_set(str(path)).class_names == ("NA", "owl")
    assert_names(*warnings(caplog), path, "NA", 2)


# Paths --------------------------------------------------------------------------------------

INEXACT = {
    "without a suffix": ("robin/0", "robin/0.png"),
    "a dot in the name": ("robin/1.a", "robin/1.a.jpg"),
    "back-slashes": (r"robin\0.png", "robin/0.png"),
    "back-slashes without a suffix": (r".\robin\0", "robin/0.png"),
    "another case": ("robin/0.PNG", "robin/0.png"),
    "another Unicode form": ("robin/u\u0308.png", "robin/\u00fc.png"),
    "another form of the folder": ("Mo\u0308we/0", "m\u00f6we/0.png"),
    "the home folder": ("~/robin/0.png", "robin/0.png"),
}


@pytest.mark.parametrize(("text", "photo"), INEXACT.values(), ids=INEXACT)
def test_a_path_with_one_match(
    tmp_path: Path,
    text: str,
    photo: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("HOME", str(tmp_path))
    robins = ["0.png", "1.a.jpg", "\u00fc.png"]
    class_folders(tmp_path, {"robin": robins, "wren": 1, "m\u00f6we": 1, "robin/0.jpg": 1})
    (tmp_path / "robin" / "0.xml").touch()
    path = manifest(tmp_path, "path,label", f"{text},robin", "wren/0.png,wren")
    assert load_photo_set(str(path)).paths[0] == photo
    assert_names(*messages(caplog, logging.INFO), path, 1, text, photo)


def test_an_exact_path_is_taken_first(tmp_path: Path) -> None:
    names = ["a", "a.png", "A.png", r"b\c.png", "b/c.png", "d.png", "D.png"]
    for i, name in enumerate(names):
        make_photo(tmp_path / f"{i}.png", seed=i)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.move(tmp_path / f"{i}.png", tmp_path / name)
    lines = [f"{name},{i % 2}" for i, name in enumerate([*names[:-1], "D"])]
    path = manifest(tmp_path, "path,label", *lines)
    assert load_photo_set(str(path)).paths.tolist() == names


def test_a_list_by_id_reads_each_folder_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class_folders(tmp_path, {"robin": 9, "wren": 9})
    lines = [f"{name}/{i},{name}" for name in ("robin", "wren") for i in range(9)]
    path = manifest(tmp_path, "path,label", *lines)
    scanned, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: scanned.append(path) or scandir(path))
    assert len(load_photo_set(str(path))) == 18
    assert sorted(scanned) == [tmp_path / "robin", tmp_path / "wren"]


MISSING: dict[str, tuple[str, list[str]]] = {
    "two matches": ("robin/0", ["0.png", "0.jpg"]),
    "a URL": ("https://birds.org/0.png", ["download"]),
    "an address of a file": ("file:///birds/5.png", ["on this computer", "wren/5.png"]),
    "a bucket": ("s3://birds/0.png", ["download"]),
    "a Windows path": (r"C:\Users\me\robin\0.png", ["on this computer", "folder of the list"]),
    "a share": (r"\\nas\birds\0.png", ["on this computer"]),
    "a rounded number": ("1.23457E+11", ["spreadsheet", "text"]),
    "a name without its folder": ("5.png", ["wren/5.png"]),
    "an id without its folder": ("5", ["wren/5.png"]),
    "a name in two folders": ("1.png", ["Several", "/1.png"]),
    "a path from the folder above": ("birds/robin/1.png", ["{above}/birds/robin/1.png"]),
    "a name too long": ("a" * 300, ["too long"]),
}


@pytest.mark.parametrize(("text", "facts"), MISSING.values(), ids=MISSING)
def test_a_missing_photo_is_explained(tmp_path: Path, text: str, facts: list[str]) -> None:
    names = ["0.png", "0.jpg", "1.png"]
    folder = class_folders(
        tmp_path / "birds", {"robin": names, "wren": ["1.png", "5.png"], "@eaDir": ["5.png"]}
    )
    path = manifest(folder, "path,label", "wren/1.png,wren", f"{text},robin")
    assert_refused(path, 3, *(fact.format(above=tmp_path.resolve()) for fact in facts))
