"""docs/photo-sets.md and boxes.md tell the truth: each row of their tables is built and tried.

A row has a maker in `MAKERS`, under the heading of its section and the name in its first column.
"""

import re
import sys
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from photos.box_cases import BOXES
from PIL import Image
from support.commands import ROOT
from support.photos import class_folders, cub_folder, make_photo
from support.picture_files import (
    DISPLAY_P3,
    deep_png,
    dng,
    encoded,
    matrix_profile,
    thumbnail_first,
    tiff,
)

from bilinear_cli.errors import BilinearError
from bilinear_cli.photos.lists.columns import NAMES
from bilinear_cli.photos.lists.table import plain_name
from bilinear_cli.photos.photo_set import load_photo_set
from bilinear_cli.photos.pixels import formats
from bilinear_cli.photos.pixels.images import read_any
from bilinear_cli.photos.pixels.notes import logged_notes

TEXT = "\n".join((ROOT / "docs" / f"{x}.md").read_text("utf-8") for x in ("photo-sets", "boxes"))

# Builds a case in an empty folder, and reads it with the function that commands use.
Maker = Callable[[Path], object]


def folders(*names: str, class_level: int | None = None) -> Maker:
    """Make folders of two photos each."""

    def attempt(folder: Path) -> None:
        class_folders(folder, dict.fromkeys(names, 2))
        load_photo_set(str(folder), class_level=class_level)

    return attempt


def splits(*names: str, beside: tuple[str, ...] = ()) -> Maker:
    """Make folders that hold the folders of two classes."""
    return folders(*map("/".join, product(names, ("robin", "wren"))), *beside)


def robin_with(add: Callable[[Path], object]) -> Maker:
    """Make two class folders of two photos each, and add something to one of them."""

    def attempt(folder: Path) -> None:
        add(class_folders(folder, {"robin": 2, "wren": 2}) / "robin")
        load_photo_set(str(folder))

    return attempt


def files(*names: str) -> Callable[[Path], object]:
    return lambda folder: [(folder / name).touch() for name in names]


def jpegs(*names: str) -> Callable[[Path], object]:
    return lambda folder: [make_photo(folder / "x.jpg").rename(folder / name) for name in names]


def linked_folder(folder: Path) -> None:
    disk = class_folders(folder.parent.parent / "disk", {".": 2})
    (folder / "disk").symlink_to(disk)


def cub_too_high(folder: Path) -> None:
    cub_folder(folder / "CUB_200_2011")
    load_photo_set(str(folder))


def notes_only(folder: Path) -> None:
    folder.mkdir()
    (folder / "notes.txt").touch()
    load_photo_set(str(folder))


TREE = ("Paridae/Parus", "Paridae/Cyanistes", "Turdidae/Turdus")
FOLDERS: dict[str, Maker] = {
    "class folders": folders("robin", "wren"),
    "train and test": splits("train", "test"),
    "train and val": splits("train", "val"),
    "train, val and test": splits("train", "val", "test"),
    "other words": splits("Training", "testing"),
    "train alone": splits("train"),
    "test photos without classes": splits("train", beside=("test",)),
    "folders beside the splits": splits("train", "test", beside=("new",)),
    "a class called train": folders("bus", "train", "tram"),
    "folders in a class folder": folders("robin", "robin/2023", "wren"),
    "nested classes": folders(*TREE),
    "nested classes with a level": folders(*TREE, class_level=2),
    "one name in two places": folders("Parus/major", "Dendrocopos/major", class_level=2),
    "a level too deep": folders("robin", "wren", class_level=2),
    "one folder too high": splits("data"),
    "CUB one folder too high": cub_too_high,
    "photos only": folders("."),
    "one class": folders("robin"),
    "no photos": notes_only,
    "test alone": splits("test"),
    "splits without classes": folders("train", "test"),
    "test photos beside classes": folders("robin", "wren", "test"),
    "train beside classes": splits("train", beside=("owl",)),
    "splits in the classes": folders(*map("/".join, product(("robin", "wren"), ("train", "test")))),
    "photos and boxes of YOLO": folders("train/images"),
    "another spelling": folders("train/robin", "train/wren", "test/Robin"),
    "one split twice": splits("train", "Training", "test"),
    "words inside names": splits("seg_train", "seg_test"),
    "other suffixes of JPEG": robin_with(jpegs("a.jfif", "b.jpe")),
    "images without a suffix": robin_with(jpegs("IMG_0001", "wren 12.05.2020")),
    "files that are no photos": robin_with(files("notes.txt", "a.mov")),
    "a linked folder": robin_with(linked_folder),
    "a loop of links": robin_with(lambda robin: (robin / "loop").symlink_to(robin.parent)),
    "a dangling link": robin_with(lambda robin: (robin / "gone.jpg").symlink_to("nowhere")),
    "an empty class folder": robin_with(lambda robin: (robin.parent / "owl").mkdir()),
    "thumbnails of a NAS": robin_with(lambda robin: class_folders(robin, {"@eaDir": 1})),
    "hidden files": robin_with(files("._a.jpg", "Thumbs.db")),
}


def listed(*lines: str | bytes, **columns_of: str) -> Maker:
    """Make birds.csv beside photos of two classes. Lines of text are in UTF-8."""

    def attempt(folder: Path) -> None:
        wrens = ["0.png", "1.png", "2.jpg", "3.jpg", "3.png"]
        class_folders(folder, {"robin": 2, "wren": wrens})
        content = [line.encode() if isinstance(line, str) else line for line in lines]
        (folder / "birds.csv").write_bytes(b"\n".join(content))
        load_photo_set(str(folder / "birds.csv"), columns=columns_of)

    return attempt


def photo(make: Callable[[], bytes], without: str = "") -> Maker:
    """Write a file and read it, perhaps as if a package were not installed."""

    def attempt(folder: Path) -> None:
        path = folder.with_suffix(".jpg")
        path.write_bytes(make())
        with pytest.MonkeyPatch.context() as patch, logged_notes() as notes:
            if without:
                patch.setitem(sys.modules, without, None)
                patch.setattr(formats, "readable_formats", lambda: ["JPEG", "PNG", "TIFF"])
            notes.add(path, read_any(path, [32]).notes)

    return attempt


def listed_path(*paths: str) -> Maker:
    """Make a list with these paths for a class."""
    return listed(LIST, *(f"{path},robin" for path in paths), WREN)


def exported(separator: str, header: str, **columns_of: str) -> Maker:
    """Make a table of two observations, and a photo by the number of each."""

    def attempt(folder: Path) -> None:
        lines = [header.split()]
        for number, species in (("216849001", "Parus major"), ("216849002", "Turdus merula")):
            make_photo(folder / f"{number}.jpg", seed=int(number))
            cells = dict.fromkeys(("id", "gbifID"), number) | {"class": "Aves", "genus": "Parus"}
            cells |= dict.fromkeys(("species", "scientific_name"), species)
            cells |= {"scientificName": f"{species} Linnaeus, 1758", "locality": '"Old" park'}
            cells |= {"image_url": f"https://inaturalist-open-data.s3.amazonaws.com/{number}.jpg"}
            lines.append([cells.get(name, "") for name in lines[0]])
        (folder / "export.csv").write_text("".join(separator.join(x) + "\n" for x in lines))
        load_photo_set(str(folder / "export.csv"), columns=columns_of)

    return attempt


ROBIN, WREN, LIST = "robin/0.png,robin", "wren/0.png,wren", "path,label"
INATURALIST = """
    id uuid observed_on_string observed_on time_observed_at time_zone user_id user_login user_name
    created_at updated_at quality_grade license url image_url sound_url tag_list description
    captive_cultivated place_guess latitude longitude positional_accuracy species_guess
    scientific_name common_name iconic_taxon_name taxon_id
"""
GBIF = """
    gbifID datasetKey occurrenceID kingdom phylum class order family genus species
    infraspecificEpithet taxonRank scientificName verbatimScientificName
    verbatimScientificNameAuthorship countryCode locality decimalLatitude decimalLongitude eventDate
    taxonKey speciesKey basisOfRecord catalogNumber identifiedBy recordedBy mediaType issue
"""
LISTS: dict[str, Maker] = {
    "commas": listed(LIST, ROBIN, WREN),
    "semicolons, tabs or bars": listed("path;label", "robin/0.png;robin", "wren/0.png;wren"),
    "a line for Excel": listed("sep=;", "path;label", "robin/0.png;robin", "wren/0.png;wren"),
    "UTF-8, or UTF-16 with its mark": listed("\n".join((LIST, ROBIN, WREN)).encode("utf-16")),
    "Windows-1252": listed(LIST, ROBIN, "wren/0.png,Zaunkönig".encode("cp1252")),
    "another encoding": listed(LIST, ROBIN, "wren/0.png,ツバメ".encode("shift-jis")),
    "no text": listed(b"PK\x03\x04"),
    "an open quote": listed(LIST, 'robin/0.png,"robin', WREN),
    "a separator in a name": listed(LIST, ROBIN, f"{WREN}, winter"),
    "common names": listed("File name,species", ROBIN, WREN),
    "other names": listed("no,art", ROBIN, WREN, path="no", label="art"),
    "columns without use": listed(f"{LIST},sex", f"{ROBIN},f", f"{WREN},m"),
    "a column like a group": listed(f"{LIST},nest", f"{ROBIN},7", f"{WREN},8"),
    "words of a split": listed(
        f"{LIST},split", f"{ROBIN},train", f"{WREN},train", "wren/1.png,wren,val"
    ),
    "two labels": listed("path,species,genus", f"{ROBIN},x", f"{WREN},y"),
    "a column twice": listed(f"{LIST},label", f"{ROBIN},x", f"{WREN},y"),
    "unknown names": listed("no,art", ROBIN, WREN),
    "a wrong name": listed("path,art", ROBIN, WREN, label="Arten"),
    "blanks as separators": listed('"path" "label"', '"1" "robin/0.png" "robin"'),
    "no names": listed(ROBIN, WREN),
    "an unknown split": listed(f"{LIST},split", f"{ROBIN},fold 3", f"{WREN},train"),
    "a label like NA": listed(LIST, "robin/0.png,NA", WREN),
    "no suffix": listed_path("robin/0"),
    "two photos match": listed_path("wren/3"),
    "back-slashes": listed_path(r"robin\0.png"),
    "another case": listed_path("robin/0.PNG"),
    "missing photos": listed_path("robin/5.png", "robin/6.png"),
    "names without folders": listed_path("2.jpg"),
    "paths from another folder": listed_path("photos/robin/0.png"),
    "several photos in a row": listed_path("robin/0.png;robin/1.png"),
    "paths of another computer": listed_path(r"C:\Users\ann\robin\0.png"),
    "addresses": listed_path("https://birds.org/0.png"),
    "a rounded number": listed_path("1.23E+11"),
    "a photo twice": listed_path("robin/0.png", "robin/0.png"),
    "a photo in two classes": listed(LIST, ROBIN, "robin/0.png,wren"),
    "no label": listed(LIST, "robin/0.png,", WREN),
    "iNaturalist": exported(",", INATURALIST, path="id"),
    "iNaturalist's addresses": exported(",", INATURALIST, path="image_url"),
    "GBIF": exported("\t", GBIF, path="gbifID", label="species"),
    "GBIF without a label": exported("\t", GBIF, path="gbifID"),
}
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
DEEP = np.linspace(0, 65535, 40 * 60).astype(np.uint16).reshape(40, 60)
REDUCED = {254: (4, [1])}


def heic() -> bytes:
    formats.readable_formats()  # registers the writer, too
    return encoded("HEIF", IMAGE)


PIXELS: dict[str, Maker] = {
    "common formats": photo(lambda: encoded("WEBP", IMAGE)),
    "AVIF": photo(lambda: encoded("AVIF", IMAGE)),
    "HEIC of phones": photo(heic),
    "HEIC without the extra": photo(heic, "pillow_heif"),
    "camera raw": photo(dng),
    "camera raw without the extra": photo(dng, "rawpy"),
    "JPEG XL": photo(lambda: b"\xff\x0a" + bytes(100)),
    "thumbnail first": photo(lambda: thumbnail_first(IMAGE)),
    "thumbnail alone": photo(lambda: tiff(DEEP, REDUCED)),
    "several pages": photo(lambda: encoded("TIFF", IMAGE, save_all=True, append_images=[IMAGE])),
    "16 bits": photo(lambda: deep_png(DEEP)),
    "declared bits": photo(lambda: tiff(DEEP // 64, {281: (3, [4095])})),
    "12 bits in 16": photo(lambda: deep_png(DEEP // 16)),
    "32 bits": photo(lambda: tiff(DEEP.astype(np.uint32) + 4465)),
    "white is zero": photo(lambda: tiff(DEEP, {262: (3, [0])})),
    "fractions": photo(lambda: encoded("TIFF", IMAGE.convert("F"))),
    "planes of 16 bits": photo(lambda: tiff(np.dstack([DEEP] * 3), {284: (3, [2])})),
    "colour profile": photo(lambda: encoded("JPEG", IMAGE, icc_profile=matrix_profile(DISPLAY_P3))),
    "damaged profile": photo(lambda: encoded("JPEG", IMAGE, icc_profile=bytes(200))),
    "saved web page": photo(lambda: b"\n<!DOCTYPE html><html>"),
    "other files": photo(lambda: b"%PDF-1.7"),
}
MAKERS: Mapping[str, Mapping[str, Maker]] = {
    "Folders": FOLDERS,
    "Lists": LISTS,
    "Pixels": PIXELS,
    "Boxes": BOXES,
}


class Row(NamedTuple):
    section: str
    case: str
    outcome: str
    says: str  # words in code are in the messages


def rows() -> list[Row]:
    """Return the rows of the tables."""
    return [
        Row(section, line.split(" | ")[0], *line.split(" | ")[-2:])
        for section, text in re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S)
        for line in re.findall(r"^\| (?!case )(.*) \|$", text, re.M)
    ]


def test_each_row_has_a_maker_and_each_maker_a_row() -> None:
    cases = [(row.section, row.case) for row in rows()]
    assert len({*cases}) == len(cases)
    assert {*cases} == {(section, case) for section, x in MAKERS.items() for case in x}


def test_the_names_of_columns_are_listed() -> None:
    items = re.findall(r"^- `(path|label|split|group)`: ((?:.|\n  )*)$", TEXT, re.M)
    listed = {name: {plain_name(x) for x in text.split(",")} for name, text in items}
    assert listed == {name: {*others.split()} for name, others in NAMES.items()}


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.case)
def test_a_row_is_true(tmp_path: Path, caplog: pytest.LogCaptureFixture, row: Row) -> None:
    caplog.set_level("INFO")
    attempt = MAKERS[row.section][row.case]
    if row.outcome == "refused":
        with pytest.raises(BilinearError) as caught:
            attempt(tmp_path / "photos")
        messages = [str(caught.value)]
    else:
        assert row.outcome == "understood"
        attempt(tmp_path / "photos")
        messages = caplog.messages
    assert all("\n" not in message for message in messages)
    missing = [x for x in re.findall("`(.*?)`", row.says) if x not in " ".join(messages)]
    assert not missing, f"{missing} not in {messages}"
