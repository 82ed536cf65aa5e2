"""Tests of reading photo sets: folders, CUB-200-2011, CSV manifests, the drawn sample."""

import csv
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from bilinear_cli.data import dataset as module
from bilinear_cli.data import sample
from bilinear_cli.data.dataset import Dataset, load_dataset, stratified_split
from bilinear_cli.errors import BilinearError, UsageError

ClassFolders = Callable[..., Path]
MakePhoto = Callable[..., Path]


def rows(dataset: Dataset) -> dict[str, tuple[str, str]]:
    """Return path -> (class, split)."""
    names = [dataset.class_names[label] for label in dataset.labels]
    columns = zip(dataset.paths.tolist(), names, dataset.split.tolist(), strict=True)
    return {path: (name, part) for path, name, part in columns}


def complaint(spec: object) -> str:
    """Return what is said of a bad set."""
    with pytest.raises(BilinearError) as caught:
        load_dataset(str(spec))
    return str(caught.value)


# Class folders ------------------------------------------------------------------------------


def test_train_and_test_folders_are_the_split(tmp_path: Path, class_folders: ClassFolders) -> None:
    folder = class_folders(
        tmp_path / "birds", {"train/wren": 2, "train/dunnock": 1, "test/dunnock": 2, "test/wren": 1}
    )
    dataset = load_dataset(str(folder), split_seed=4)
    assert rows(dataset) == {
        "train/dunnock/0.png": ("dunnock", "train"),
        "train/wren/0.png": ("wren", "train"),
        "train/wren/1.png": ("wren", "train"),
        "test/dunnock/0.png": ("dunnock", "test"),
        "test/dunnock/1.png": ("dunnock", "test"),
        "test/wren/0.png": ("wren", "test"),
    }
    assert (dataset.name, dataset.kind, dataset.spec) == ("birds", "folders", str(folder))
    assert dataset.root == folder.resolve()
    assert dataset.class_names == ("dunnock", "wren")
    assert dataset.labels.dtype == np.int64
    assert (dataset.group == dataset.paths).all()
    assert dataset.split_seed is None
    assert len(dataset) == 6


@pytest.mark.parametrize("above", ["", "train/"])
def test_without_two_folders_a_split_is_made(
    tmp_path: Path, class_folders: ClassFolders, above: str
) -> None:
    folder = class_folders(tmp_path, {f"{above}wren": 6, f"{above}dunnock": 3})
    dataset = load_dataset(str(folder), split_seed=4)
    assert dataset.split_seed == 4
    assert Counter(rows(dataset).values()) == {
        **{("wren", "train"): 4, ("wren", "test"): 2},
        **{("dunnock", "train"): 2, ("dunnock", "test"): 1},
    }
    again = load_dataset(str(folder), split_seed=4)
    assert (again.split == dataset.split).all()
    splits = {tuple(load_dataset(str(folder), split_seed=seed).split) for seed in range(5)}
    assert len(splits) > 1


def test_what_counts_as_a_photo(tmp_path: Path, class_folders: ClassFolders) -> None:
    photos = ["a.jpg", "b.JPG", "c.Jpeg", "d.PNG", "e.TIFF", "f.tif", "g.BmP", "h.gif", "i.WebP"]
    folder = class_folders(
        tmp_path,
        {"wren": [*photos, "deeper/j.png", ".k.jpg", ".thumbs/l.jpg"], ".git": 1, "owl": 1},
    )
    (folder / "wren" / "m.txt").write_text("no photo")
    (folder / "wren" / "n.png").mkdir()
    (folder / "nothing").mkdir()
    (folder / "o.jpg").write_bytes(b"beside the folders")
    wanted = {f"wren/{photo}" for photo in [*photos, "deeper/j.png"]} | {"owl/0.png"}
    dataset = load_dataset(str(folder))
    assert set(dataset.paths) == wanted
    assert dataset.class_names == ("owl", "wren")


def test_names_with_spaces_and_other_letters(tmp_path: Path, class_folders: ClassFolders) -> None:
    folder = class_folders(
        tmp_path / "mes oiseaux",
        {"Zaunkönig, brütend": ["Bild 1 (2).png"], "ミソサザイ": ["写真.png"], "Ёж": ["a'b\".png"]},
    )
    dataset = load_dataset(str(folder))
    assert dataset.name == "mes oiseaux"
    assert rows(dataset) == {
        "Zaunkönig, brütend/Bild 1 (2).png": ("Zaunkönig, brütend", "train"),
        "Ёж/a'b\".png": ("Ёж", "train"),
        "ミソサザイ/写真.png": ("ミソサザイ", "train"),
    }
    assert all(dataset.sha256())


def test_folders_beside_train_and_test_are_named(
    tmp_path: Path, class_folders: ClassFolders, caplog: pytest.LogCaptureFixture
) -> None:
    folder = class_folders(tmp_path, {"train/a": 1, "train/b": 1, "test/a": 1, "val/a": 1})
    assert len(load_dataset(str(folder))) == 3
    assert caplog.messages == [f"{folder}: not taken (1 files): val/a/0.png"]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (
            {},
            "there are no photos in {}: it should have a folder for each class, with .bmp, .gif, ",
        ),
        ({"wren": ["a.png"]}, "{} has one class only (wren): a classifier needs at least two"),
        (
            {"test/wren": 1, "test/owl": 1},
            "{} has a folder test/ and none train/: what is there to learn?",
        ),
        (
            {"train/wren": 1, "train/owl": 1, "test/dunnock": 1},
            "{}: no training photo of a class with test photos: dunnock",
        ),
    ],
)
def test_folders_that_cannot_be_meant(
    tmp_path: Path, class_folders: ClassFolders, classes: dict, message: str
) -> None:
    folder = class_folders(tmp_path, classes)
    assert complaint(folder).startswith(message.format(folder))


def test_photos_without_class_folders_are_no_set(tmp_path: Path, make_photo: MakePhoto) -> None:
    make_photo(tmp_path / "a.jpg")
    assert complaint(tmp_path).startswith(f"there are no photos in {tmp_path}: it should have")


@pytest.mark.parametrize("spec", ["nowhere", "nowhere.csv", "samples"])
def test_no_such_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = f"there is no photo set at {spec!r}: give a folder, a CSV file or 'sample'"
    assert complaint(spec) == wanted


def test_a_name_that_is_not_utf8_is_shown(tmp_path: Path, class_folders: ClassFolders) -> None:
    folder = class_folders(tmp_path, {"wren": 1, "owl": 1})
    (folder / "owl" / "0.png").rename(folder / "owl" / os.fsdecode(b"h\xfchner.png"))
    assert complaint(folder) == f"{folder}: the name 'owl/h\ufffdhner.png' is not UTF-8: rename it"


# The split ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_photos", "n_test"), [(1, 0), (2, 1), (3, 1), (4, 1), (30, 10), (31, 10)]
)
def test_about_a_third_of_each_class_is_for_testing(n_photos: int, n_test: int) -> None:
    labels = np.repeat([0, 1], [n_photos, 60])
    split = stratified_split(labels, np.arange(len(labels)).astype(str), 0)
    assert (split[labels == 0] == "test").sum() == n_test
    assert (split[labels == 1] == "test").sum() == 20
    assert set(split) == {"train", "test"}


@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_whole(seed: int) -> None:
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 60, 300)
    labels = group % 3
    split = stratified_split(labels, group.astype(str), seed)
    assert not set(group[split == "train"]) & set(group[split == "test"])
    for label in range(3):
        assert (split[labels == label] == "test").mean() == pytest.approx(1 / 3, abs=0.05)


def test_a_class_of_one_group_is_for_training() -> None:
    labels = np.repeat([0, 1], 9)
    group = np.array(["nest"] * 9 + [*"abcdefghi"])
    split = stratified_split(labels, group, 0)
    assert set(split[:9]) == {"train"}
    assert Counter(split[9:]) == {"train": 6, "test": 3}


def test_seeds_differ_and_one_seed_does_not() -> None:
    labels, group = np.repeat([0, 1], 30), np.arange(60).astype(str)
    splits = [tuple(stratified_split(labels, group, seed)) for seed in (0, 1, 2, 0)]
    assert len(set(splits)) == 3
    assert splits[0] == splits[3]


# CUB-200-2011 -------------------------------------------------------------------------------


@pytest.fixture
def cub(tmp_path: Path, make_photo: MakePhoto) -> Path:
    """Write a subset in CUB's layout: ids with gaps, classes out of order."""
    folder = tmp_path / "cub"
    photos = {
        11: "004.Wren/a b.jpg",
        5790: "004.Wren/b.jpg",
        17: "001.Owl/a.jpg",
        3: "001.Owl/c.jpg",
    }
    for photo in photos.values():
        make_photo(folder / "images" / photo)
    tables = {
        "images": photos,
        "classes": {4: "004.Wren", 1: "001.Owl"},
        "image_class_labels": {3: 1, 11: 4, 17: 1, 5790: 4, 6000: 9},
        "train_test_split": {3: 0, 11: 1, 17: 1, 5790: 0, 6000: 1},
    }
    for name, table in tables.items():
        lines = [f"{key} {value}\n" for key, value in table.items()]
        (folder / f"{name}.txt").write_text("".join(lines))
    return folder


def test_cub_layout(cub: Path) -> None:
    dataset = load_dataset(str(cub))
    assert (dataset.kind, dataset.name, dataset.split_seed) == ("cub", "cub", None)
    assert dataset.root == cub.resolve() / "images"
    assert dataset.class_names == ("004.Wren", "001.Owl")
    assert dataset.labels.tolist() == [0, 0, 1, 1]
    assert rows(dataset) == {
        "004.Wren/a b.jpg": ("004.Wren", "train"),
        "004.Wren/b.jpg": ("004.Wren", "test"),
        "001.Owl/a.jpg": ("001.Owl", "train"),
        "001.Owl/c.jpg": ("001.Owl", "test"),
    }
    assert all(dataset.sha256())


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "image_class_labels",
            "11 4\n17 1\n",
            "{}/image_class_labels.txt lacks the photos 3, 5790",
        ),
        ("train_test_split", "11 1\n", "{}/train_test_split.txt lacks the photos 17, 3, 5790"),
        ("classes", "4 004.Wren\n", "{}/classes.txt lacks the classes 1"),
        ("images", "", "{} lists no photos"),
        ("images", "11\n", "cannot read {}/images.txt: "),
        ("classes", None, "cannot read {}/classes.txt: "),
    ],
)
def test_a_cub_folder_with_a_gap(cub: Path, name: str, text: str | None, message: str) -> None:
    path = cub / f"{name}.txt"
    path.unlink() if text is None else path.write_text(text)
    assert complaint(cub).startswith(message.format(cub))


# CSV manifests ------------------------------------------------------------------------------

WriteManifest = Callable[..., Path]


@pytest.fixture
def manifest(tmp_path: Path, make_photo: MakePhoto) -> WriteManifest:
    """Return manifest(rows, encoding): birds.csv, with photos a.png to f.png, sub/g h.png."""
    for i, name in enumerate([*"abcdef", "sub/g h"]):
        make_photo(tmp_path / f"{name}.png", seed=i)

    def write(table: Sequence[Sequence[str]], encoding: str = "utf-8") -> Path:
        with (tmp_path / "birds.csv").open("w", encoding=encoding, newline="") as file:
            csv.writer(file).writerows(table)
        return tmp_path / "birds.csv"

    return write


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_manifest(manifest: WriteManifest, encoding: str) -> None:
    table = [
        *(
            ["path", "label", "split", "group", "remark"],
            ["a.png", "Zaunkönig", "train", "nest", ""],
        ),
        *(["sub/g h.png", "owl, barn", "train", "", "x"], ["b.png", "Zaunkönig", "test", "", ""]),
    ]
    path = manifest(table, encoding)
    dataset = load_dataset(str(path))
    assert (dataset.kind, dataset.name, dataset.split_seed) == ("manifest", "birds", None)
    assert dataset.root == path.parent.resolve()
    assert rows(dataset) == {
        "a.png": ("Zaunkönig", "train"),
        "sub/g h.png": ("owl, barn", "train"),
        "b.png": ("Zaunkönig", "test"),
    }
    assert dataset.class_names == ("Zaunkönig", "owl, barn")
    assert dataset.group.tolist() == ["nest", "sub/g h.png", "b.png"]


def test_a_manifest_without_a_split_gets_one_that_keeps_groups_whole(
    manifest: WriteManifest,
) -> None:
    nest = [[f"{name}.png", "wren", "nest"] for name in "ab"]
    others = [[f"{name}.png", "owl", ""] for name in "cdef"]
    path = manifest([["path", "label", "group"], *nest, *others])
    dataset = load_dataset(str(path), split_seed=1)
    assert dataset.split_seed == 1
    assert dataset.split[:2].tolist() == ["train", "train"]
    assert Counter(dataset.split[2:]) == {"train": 3, "test": 1}


def test_paths_of_a_manifest_are_made_relative(tmp_path: Path, make_photo: MakePhoto) -> None:
    make_photo(tmp_path / "photos" / "a.png")
    make_photo(tmp_path / "real" / "lists" / "b.png")
    (tmp_path / "lists").symlink_to(tmp_path / "real" / "lists")
    photo = tmp_path / "photos" / "a.png"
    (tmp_path / "lists" / "birds.csv").write_text(f"path,label\n{photo},wren\n./b.png,owl\n")
    dataset = load_dataset(str(tmp_path / "lists" / "birds.csv"))
    assert dataset.paths.tolist() == ["../../photos/a.png", "b.png"]
    assert all(dataset.sha256())


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["file,label", "a.png,wren"],
            "{} lacks the column path: its first line should be path,label[,split][,group], and is "
            "file,label",
        ),
        (
            ["a.png;wren"],
            "{} lacks the column path, label: its first line should be "
            "path,label[,split][,group], and is a.png;wren",
        ),
        ([], "{} lacks the column path, label: "),
        (["path,label"], "{} lists no photos"),
        (["path,label", "a.png,wren", "b.png,wren"], "{} has one class only (wren)"),
        (["path,label", "a.png,wren", "z.png,owl"], "{}, row 3: there is no photo {root}/z.png"),
        (["path,label", "a.png,wren", "sub,owl"], "{}, row 3: there is no photo {root}/sub"),
        (
            ["path,label,split", "a.png,wren,train", "b.png,owl,val"],
            "{}, row 3: the split is 'val': write train or test",
        ),
        (
            ["path,label,split", "a.png,wren,train", "b.png,owl,"],
            "{}, row 3: the split is '': write train or test",
        ),
        (
            ["path,label,split", "a.png,wren,train", "b.png,owl,train", "c.png,tit,test"],
            "{}: no training photo of a class with test photos: tit",
        ),
        (
            ["path,label", "a.png,wren", "b.png,owl", "./sub/../a.png,owl"],
            "{}, row 4: a.png is listed already in row 2",
        ),
        (
            ["path,label,split", "a.png,wren,train", "b.png,owl"],
            "{}, row 3: it has not as many fields as the first line",
        ),
        (
            ["path,label", "a.png,wren", "b.png,owl,train"],
            "{}, row 3: it has not as many fields as the first line",
        ),
        (["path,label", "a.png,"], "{}, row 2: the path or the label is empty"),
        (["path,label", ",wren"], "{}, row 2: the path or the label is empty"),
    ],
)
def test_a_manifest_that_cannot_be_meant(
    tmp_path: Path, manifest: WriteManifest, lines: list[str], message: str
) -> None:
    path = manifest([])
    path.write_text("".join(f"{line}\n" for line in lines))
    assert complaint(path).startswith(message.format(path, root=tmp_path.resolve()))


def test_a_file_that_is_no_manifest(tmp_path: Path, make_photo: MakePhoto) -> None:
    path = make_photo(tmp_path / "a.png")
    assert complaint(path).startswith(f"cannot read {path}: save it as CSV in UTF-8 (")


def test_a_group_in_both_splits_is_warned_of(
    manifest: WriteManifest, caplog: pytest.LogCaptureFixture
) -> None:
    table = [["a.png", "wren", "train", "nest"], ["b.png", "wren", "test", "nest"]]
    path = manifest([["path", "label", "split", "group"], *table, ["c.png", "owl", "train", ""]])
    load_dataset(str(path))
    assert caplog.messages == [f"{path}: groups with photos in both splits: nest"]


# What a set can do --------------------------------------------------------------------------


def test_a_limit_spreads_over_classes_and_splits(
    tmp_path: Path, class_folders: ClassFolders
) -> None:
    cells = ("train/owl", "train/wren", "test/owl", "test/wren")
    dataset = load_dataset(str(class_folders(tmp_path, dict.fromkeys(cells, 5))))
    few = dataset.limit(8)
    assert few.paths.tolist() == [f"{cell}/{i}.png" for cell in cells for i in (0, 1)]
    assert Counter(rows(few).values()) == dict.fromkeys(
        [(bird, part) for bird in ("owl", "wren") for part in ("train", "test")], 2
    )
    assert few.group.tolist() == few.paths.tolist()
    assert few.class_names == dataset.class_names
    assert len(dataset) == 20


def test_a_limit_takes_more_where_there_is_more(
    tmp_path: Path, class_folders: ClassFolders
) -> None:
    classes = {"train/owl": 1, "train/wren": 6, "test/owl": 1, "test/wren": 1}
    dataset = load_dataset(str(class_folders(tmp_path, classes)))
    assert Counter(rows(dataset.limit(6)).values())["wren", "train"] == 3
    assert rows(dataset.limit(100)) == rows(dataset)


def test_sha256_of_each_file(tmp_path: Path, class_folders: ClassFolders) -> None:
    dataset = load_dataset(str(class_folders(tmp_path, {"owl": 2, "wren": 2})))
    (tmp_path / "owl" / "1.png").unlink()
    digests = dataset.sha256()
    there = [(tmp_path / path).read_bytes() for path in dataset.paths[[0, 2, 3]]]
    first, *others = [hashlib.sha256(data).hexdigest() for data in there]
    assert digests.tolist() == [first, "", *others]


# The sample ---------------------------------------------------------------------------------


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """Keep the sample small and in a cache of its own; note what is asked to be drawn."""
    monkeypatch.setenv("BILINEAR_CACHE", str(tmp_path))
    monkeypatch.setattr(sample, "N_SPECIES", 2)
    monkeypatch.setattr(sample, "N_DRAWINGS", 2)
    monkeypatch.setattr(sample, "draw_moth", lambda *_, **__: np.zeros((4, 4, 3), np.uint8))
    asked: list[dict] = []

    def write(folder: Path, **options: object) -> Path:
        asked.append(options)
        return sample.write_sample(folder, **options)

    monkeypatch.setattr(module, "write_sample", write)
    return asked


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        ("sample", {"seed": 0, "ink": True, "grey": False}),
        ("sample:grey", {"seed": 0, "ink": True, "grey": True}),
        ("sample:no-ink", {"seed": 0, "ink": False, "grey": False}),
        ("sample:seed=12", {"seed": 12, "ink": True, "grey": False}),
        ("sample:no-ink:seed=3:grey", {"seed": 3, "ink": False, "grey": True}),
    ],
)
def test_options_of_the_sample(drawn: list[dict], tmp_path: Path, spec: str, options: dict) -> None:
    steps: list[tuple[int, int]] = []
    dataset = load_dataset(spec, progress=lambda *step: steps.append(step))
    assert [{key: asked[key] for key in options} for asked in drawn] == [options]
    assert steps[-1] == (4, 4)
    assert (dataset.kind, dataset.spec) == ("sample", spec)
    assert dataset.name == spec.replace(":", "-")
    assert dataset.root.is_relative_to(tmp_path.resolve() / "sample")
    assert Counter(dataset.split) == {"train": 2, "test": 2}
    assert dataset.class_names == sample.SPECIES[:2]
    assert dataset.split_seed is None


@pytest.mark.usefixtures("drawn")
def test_every_kind_of_sample_has_its_own_folder() -> None:
    specs = ("sample", "sample:grey", "sample:no-ink", "sample:seed=1")
    assert len({load_dataset(spec).root for spec in specs}) == 4
    assert load_dataset("sample:seed=0").root == load_dataset("sample").root


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sample:gray", "no option of the sample is called 'gray': did you mean 'grey'? "),
        ("sample:no-inc", "no option of the sample is called 'no-inc': did you mean 'no-ink'? "),
        ("sample:", "no option of the sample is called '': (there are grey, no-ink, seed)"),
        ("sample:seed", "cannot read 'seed' in 'sample:seed': write sample:seed=1, sample:grey"),
        ("sample:seed=one", "cannot read 'seed=one' in 'sample:seed=one': "),
        ("sample:seed=-1", "cannot read 'seed=-1' in 'sample:seed=-1': "),
        ("sample:grey=1", "cannot read 'grey=1' in 'sample:grey=1': "),
        ("sample:grey=no", "cannot read 'grey=no' in 'sample:grey=no': "),
    ],
)
def test_options_that_the_sample_has_not(drawn: list[dict], spec: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_dataset(spec)
    assert str(caught.value).startswith(message)
    assert not drawn


@pytest.mark.parametrize(("groups", "size", "n_test"), [(2, 5, 5), (3, 4, 4), (4, 3, 3), (2, 2, 2)])
def test_a_few_large_groups_still_give_test_photos(groups: int, size: int, n_test: int) -> None:
    group = np.repeat([f"{label}-{i}" for label in range(4) for i in range(groups)], size)
    labels = np.repeat(np.arange(4), groups * size)
    split = stratified_split(labels, group, 0)
    assert [np.sum(split[labels == label] == "test") for label in range(4)] == [n_test] * 4


def test_folders_in_capitals_are_not_taken_for_classes(
    tmp_path: Path, class_folders: Callable
) -> None:
    folder = class_folders(tmp_path / "set", {"Train/wren": 1, "Test/wren": 1})
    with pytest.raises(BilinearError, match="rename Test, Train to train and test"):
        load_dataset(str(folder))


def test_files_that_are_not_taken_are_named(
    tmp_path: Path, class_folders: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    folder = class_folders(tmp_path / "set", {"wren": 2, "jay": 2})
    (folder / "loose.png").write_bytes(b"")
    (folder / "wren" / "a.heic").write_bytes(b"")
    (folder / ".DS_Store").write_bytes(b"")
    load_dataset(str(folder))
    assert "not taken (2 files): loose.png, wren/a.heic" in caplog.text


def test_a_spreadsheets_csv(tmp_path: Path, class_folders: Callable) -> None:
    folder = class_folders(tmp_path / "set", {"wren": 2, "jay": 2})
    table = "Path, Label ,SPLIT\nwren/0.png,wren ,Train\n,,\njay/0.png, jay,train\n"
    (folder / "a.csv").write_text(table + "\njay/1.png,jay,TEST\n")
    dataset = load_dataset(str(folder / "a.csv"))
    assert dataset.class_names == ("jay", "wren")
    assert dataset.split.tolist() == ["train", "train", "test"]
    (folder / "b.csv").write_text(table + "\njay/9.png,jay,test\n")
    with pytest.raises(BilinearError, match=r"b\.csv, row 6: there is no photo"):
        load_dataset(str(folder / "b.csv"))
