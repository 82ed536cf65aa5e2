"""Tests of the sources of boxes: what is understood, which photo is meant, what is refused."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.errors import assert_names, messages, raises, warnings
from support.photos import cub_folder

from bilinear_cli.errors import BilinearError
from bilinear_cli.photos.boxes.boxes import PhotoBoxes, read_boxes
from bilinear_cli.photos.boxes.crops import Box

PATHS = ["deer/1.jpg", "deer/2.jpg", "fox/1.jpg"]


def written(path: Path, content: Any) -> str:
    """Write a text, or anything else as JSON, and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def corners(boxes: PhotoBoxes) -> list[list[tuple[float, ...]]]:
    """Return x, y, width and height of the boxes of each photo."""
    return [[tuple(round(v, 9) for v in box[:4]) for box in found] for found in boxes.boxes]


def megadetector(**detections_of: Any) -> dict[str, Any]:
    """Return the batch output of MegaDetector for photos of `deer/`, by their names.

    A detection is (category, confidence, box).
    """
    images = [
        {
            "file": f"deer/{name.strip('_')}.jpg",
            "detections": [{"category": c, "conf": p, "bbox": box} for c, p, box in detections],
        }
        for name, detections in detections_of.items()
    ]
    return {
        "info": {"format_version": "1.4", "detector": "md_v5a.0.0.pt"},
        "detection_categories": {"1": "animal", "2": "person", "3": "vehicle"},
        "images": images,
    }


def table(path: Path, *rows: str, header: str = "path,x,y,width,height") -> str:
    return written(path / "boxes.csv", "\n".join([header, *rows]))


def coco(image: dict[str, Any] | None = None, **annotation: Any) -> dict[str, Any]:
    """Return COCO's JSON with two photos and an annotation of the second."""
    first = {"id": 3, "file_name": "deer/1.jpg", "width": 100, "height": 50}
    second = {"id": 8, "file_name": "deer/2.jpg", "width": 200, "height": 50} | (image or {})
    annotations = [{"id": 1, "image_id": 8, "category_id": 0, "bbox": [20, 10, 50, 25]}]
    return {"images": [first, second], "annotations": [annotations[0] | annotation]}


# Formats ------------------------------------------------------------------------------------


def test_megadetector(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    left, right = [0.0, 0.25, 0.5, 0.5], [0.0, 0.25, 1.0001, 0.5]
    content = megadetector(
        two=[("1", 0.9, left), ("1", 0.3, right), ("1", 0.1, left)],
        none=[],
        person=[("2", 0.8, left), ("3", 0.7, left), ("9", 0.6, left), ("2", 0.01, [0, 0, 0, 0])],
    )
    content["images"] += [
        {"file": "deer/cut-off.jpg", "failure": "Failure image access", "detections": None},
        {"file": "deer/film.mp4", "frame_rate": 20, "detections": []},
    ]
    source = written(tmp_path / "results.json", content)
    paths = ["deer/none.jpg", "deer/two.jpg", "deer/person.jpg", "deer/cut-off.jpg", "deer/new.jpg"]
    with caplog.at_level(logging.INFO):
        boxes = read_boxes(source, paths, tmp_path)
    assert boxes.unit == "fractions"
    assert boxes.boxes == [(), (Box(*left, 0.9), Box(*right, 0.3)), (), (), ()]
    (line,) = messages(caplog, logging.INFO)
    left_out = ("2 below confidence 0.2", "1 person", "1 vehicle", "1 of an unknown category")
    assert_names(line, "1 of 5 photos", "in all 2", *left_out, "failed for 1", "other photos: 1")
    boxes = read_boxes(source, paths, tmp_path, min_confidence=0.5)
    assert boxes.boxes[1] == (Box(*left, 0.9),)


@pytest.mark.parametrize(
    ("categories", "taken"),
    [
        ({"0": "fox", "1": "Animal"}, ["1"]),
        ({"0": "human", "1": "fox", "2": "bird"}, ["1", "2"]),
        (None, ["1"]),
    ],
)
def test_categories_by_name(
    tmp_path: Path, categories: dict[str, str] | None, taken: list[str]
) -> None:
    box = [0.1, 0.1, 0.5, 0.5]
    content = megadetector(_1=[(str(i), (i + 1) / 10, box) for i in range(3)])
    content |= {"detection_categories": categories}
    if not categories:
        del content["detection_categories"]
    source = written(tmp_path / "results.json", content)
    (found, *_) = read_boxes(source, PATHS, tmp_path, min_confidence=0).boxes
    assert [str(int(box.confidence * 10) - 1) for box in found] == taken


@pytest.mark.parametrize(
    ("image", "unit", "box"),
    [({}, "fractions", (0.1, 0.2, 0.25, 0.5)), ({"width": None}, "pixels", (20, 10, 50, 25))],
)
def test_coco(tmp_path: Path, image: dict[str, Any], unit: str, box: tuple[float, ...]) -> None:
    content = coco(image)
    annotation = content["annotations"][0]
    content["annotations"] += [annotation | {"iscrowd": 1}, annotation | {"score": 0.1}]
    del annotation["id"], annotation["category_id"]
    content["annotations"] += [{"image_id": 3, "category_id": 0}]  # of COCO Camera Traps
    boxes = read_boxes(written(tmp_path / "coco.json", content), PATHS, tmp_path)
    assert (boxes.unit, corners(boxes)) == (unit, [[], [box], []])


@pytest.mark.parametrize(
    ("header", "values", "unit", "box"),
    [
        ("path,x,y,width,height", "10,20,30,40", "pixels", (10, 20, 30, 40)),
        ("path,x,y,width,height", "0,0.2,1,0.4", "fractions", (0, 0.2, 1, 0.4)),
        ("File Name;X;Y;W;H", "10;20;30,5;40", "pixels", (10, 20, 30.5, 40)),
        ("image,xmin,ymin,xmax,ymax", "0.1,0.2,0.5,0.9", "fractions", (0.1, 0.2, 0.4, 0.7)),
        ("path,bbox_x,bbox_y,bbox_w,bbox_h", "1,2,3,4", "pixels", (1, 2, 3, 4)),
        ("path,x1,y1,x2,y2", "1,2,4,6", "pixels", (1, 2, 3, 4)),
        ("path,left,top,width,height", "1,2,4,6", "pixels", (1, 2, 4, 6)),
        ("filename,width,height,xmin,ymin,xmax,ymax", "90,80,1,2,4,6", "pixels", (1, 2, 3, 4)),
    ],
)
def test_columns(
    tmp_path: Path, header: str, values: str, unit: str, box: tuple[float, ...]
) -> None:
    separator = ";" if ";" in header else ","
    rows = [f"deer/1.jpg{separator}{values}"] * 2
    rows += ["fox/1.jpg" + separator * header.count(separator)]
    boxes = read_boxes(table(tmp_path, *rows, header=header), PATHS, tmp_path)
    assert (boxes.unit, corners(boxes)) == (unit, [[box, box], [], []])


def test_confidence_column(tmp_path: Path) -> None:
    header = "path,x,y,width,height,score"
    source = table(tmp_path, "fox/1.jpg,1,2,3,4,0.1", "fox/1.jpg,5,6,7,8,0.4", header=header)
    assert read_boxes(source, PATHS, tmp_path).boxes == [(), (), (Box(5, 6, 7, 8, 0.4),)]


@pytest.mark.parametrize("source", ["cub", "", "bounding_boxes.txt"])
def test_cub(tmp_path: Path, source: str) -> None:
    folder = cub_folder(tmp_path)
    text = "3 0.0 1.0 20.0 19.0\n5790 2.5 3.0 4.0 5.0\n11 1 1 5 5\n6000 1 1 9 9\n"
    written(folder / "bounding_boxes.txt", text)
    paths = ["004.Wren/b.jpg", "004.Wren/a b.jpg", "001.Owl/a.jpg"]
    source = "cub" if source == "cub" else str(folder / source)
    boxes = read_boxes(source, paths, folder / "images")
    assert (boxes.unit, corners(boxes)) == ("pixels", [[(2.5, 3, 4, 5)], [(1, 1, 5, 5)], []])


@pytest.mark.parametrize(
    ("labels", "photos"),
    [
        ("deer", "deer"),
        ("labels/deer", "images/deer"),
        ("labels/deer", "deer"),
        ("deer/labels", "deer/images"),
    ],
)
def test_yolo(tmp_path: Path, caplog: pytest.LogCaptureFixture, labels: str, photos: str) -> None:
    text = "0 0.5 0.5 0.5 0.25\n\n16 0.2 0.3 0.4 0.2 0.7\n0 0.2 0.3 0.4 0.2 0.1\n"
    written(tmp_path / "yolo" / labels / "1.txt", text)
    written(tmp_path / "yolo" / labels / "2.txt", "")
    written(tmp_path / "yolo/classes.txt", "fox\ndeer\n")
    paths = [f"{photos}/1.jpg", f"{photos}/2.jpg", f"{photos}/3.jpg"]
    boxes = read_boxes(str(tmp_path / "yolo"), paths, tmp_path)
    expected = [[(0.25, 0.375, 0.5, 0.25), (0, 0.2, 0.4, 0.2)], [], []]
    assert (boxes.unit, corners(boxes)) == ("fractions", expected)
    assert boxes.boxes[0][1].confidence == 0.7
    assert warnings(caplog) == []


# Which photo is meant -----------------------------------------------------------------------


def boxes_by_name(folder: Path, files: Sequence[str], paths: Sequence[str]) -> list[int]:
    """Return the index of the file whose box each photo gets, or -1."""
    rows = [f"{file},{i},0,9,9" for i, file in enumerate(files)]
    boxes = read_boxes(table(folder, *rows), paths, folder / "photos").boxes
    return [int(found[0].x) if found else -1 for found in boxes]


@pytest.mark.parametrize(
    ("files", "paths", "matches"),
    [
        (["deer/1.jpg", "fox/1.jpg"], ["fox/1.jpg", "deer/1.jpg"], [1, 0]),
        (["ROOT/photos/deer/1.jpg"], ["deer/1.jpg"], [0]),
        (["deer\\1.jpg", "./fox/1.jpg"], ["deer/1.jpg", "fox/1.jpg"], [0, 1]),
        (["C:\\study\\deer\\1.jpg", "C:\\study\\fox\\1.jpg"], ["fox/1.jpg"], [1]),
        (["/srv/deer/1.jpg", "/srv/fox/1.jpg"], ["deer/1.jpg", "fox/1.jpg"], [0, 1]),
        (["/srv/deer/1.jpg", "/srv/deer/a/2.jpg"], ["deer/1.jpg", "deer/a/2.jpg"], [0, 1]),
        (["photos/deer/1.jpg", "fox/1.jpg"], ["deer/1.jpg", "cat/1.jpg"], [0, -1]),
        (["1.jpg", "2.jpg"], ["deer/2.jpg", "deer/1.jpg", "fox/3.jpg"], [1, 0, -1]),
        (["a/1.jpg", "b/2.jpg"], ["deer/2.jpg", "./deer/1.jpg", "deer/1.jpg"], [1, 0, 0]),
        (["z/a/1.jpg", "z/b/1.jpg"], ["q/b/1.jpg", "q/c/1.jpg"], [1, -1]),
        (["Zaunko\u0308nig.jpg"], ["Zaunk\u00f6nig.jpg"], [0]),
        # On POSIX, a name may have a backslash.
        (["deer/1.jpg"], ["deer\\1.jpg", "deer/1.jpg"], [-1, 0]),
        (["deer\\1.jpg", "deer/1.jpg"], ["deer/1.jpg", "deer\\1.jpg"], [1, 0]),
        # A photo of another folder is not guessed where other photos have their own entries.
        (["deer/1.jpg", "fox/2.jpg"], ["deer/1.jpg", "cat/2.jpg"], [0, -1]),
    ],
)
def test_matching(tmp_path: Path, files: list[str], paths: list[str], matches: list[int]) -> None:
    files = [file.replace("ROOT", str(tmp_path)) for file in files]
    assert boxes_by_name(tmp_path, files, paths) == matches


def test_typed_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fox").mkdir()
    monkeypatch.chdir(tmp_path / "fox")
    source = table(tmp_path, "deer/1.jpg,0,0,9,9", "fox/1.jpg,1,0,9,9")
    for path in ("1.jpg", "../fox/1.jpg", str(tmp_path / "fox/1.jpg")):
        assert corners(read_boxes(source, [path], Path())) == [[(1, 0, 9, 9)]]


@pytest.mark.parametrize(
    ("files", "paths", "facts"),
    [
        (["1.jpg"], ["deer/1.jpg", "fox/1.jpg"], ["1.jpg", "deer/1.jpg", "fox/1.jpg"]),
        (["a/1.jpg", "b/1.jpg"], ["deer/1.jpg"], ["a/1.jpg", "b/1.jpg", "deer/1.jpg"]),
        (["a/1.jpg", "b/1.jpg"], ["1.jpg"], ["a/1.jpg", "b/1.jpg"]),
        (["a/1.jpg", "a\\1.jpg"], ["a/1.jpg"], ["a/1.jpg", "a\\1.jpg"]),
        (["deer/9.jpg"], PATHS, ["boxes.csv", "deer/9.jpg", "deer/1.jpg"]),
    ],
)
def test_no_guess(tmp_path: Path, files: list[str], paths: list[str], facts: list[str]) -> None:
    with raises(BilinearError, "boxes.csv", *facts):
        boxes_by_name(tmp_path, files, paths)


def test_other_folders_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    boxes_by_name(tmp_path, ["/srv/a/1.jpg"], ["deer/1.jpg"])
    (warning,) = warnings(caplog)
    assert_names(warning, "boxes.csv", "/srv/a/1.jpg", "deer/1.jpg")


def test_an_empty_table_is_not_about_other_photos(tmp_path: Path) -> None:
    with raises(BilinearError, "boxes.csv has no photos"):
        read_boxes(table(tmp_path), PATHS, tmp_path)


def test_two_photos_with_one_label_file(tmp_path: Path) -> None:
    written(tmp_path / "deer/1.txt", "0 0.5 0.5 0.5 0.5")
    with raises(BilinearError, "deer/1.jpg", "deer/1.png"):
        read_boxes(str(tmp_path), ["deer/1.jpg", "deer/1.png"], tmp_path)


# What is refused ----------------------------------------------------------------------------

BOX = [0.1, 0.2, 0.3, 0.4]


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        (megadetector(_1=[("1", 0.9, [0.1, 0.2, 1.3, 0.4])]), ["deer/1.jpg", "detection 1", "1.3"]),
        (megadetector(_1=[("1", 0.9, [0.1, 0.2, 0, 0.4])]), ["deer/1.jpg", "detection 1"]),
        (megadetector(_1=[("1", 0.9, [0.9, 0.9, 0.9, 0.9])]), ["deer/1.jpg", "detection 1"]),
        (megadetector(_1=[("1", 0.9, BOX), ("1", 0.9, BOX[:3])]), ["deer/1.jpg", "detection 2"]),
        (megadetector(_1=[("1", 0.9, [0.1, 0.2, float("nan"), 0.4])]), ["deer/1.jpg", "nan"]),
        (megadetector(_1=[("1", 0.9, [0.1, "wide", 0.3, 0.4])]), ["deer/1.jpg", "wide"]),
        (megadetector(_1=[("1", 9.5, BOX)]), ["deer/1.jpg", "9.5"]),
        (megadetector(_1=[("1", None, BOX)]), ["deer/1.jpg", "detection 1"]),
        (megadetector(_1=[("1", 10**400, BOX)]), ["deer/1.jpg", "detection 1"]),
        (
            {"images": [{"file": "deer/1.jpg", "detections": [{"category": "1", "bbox": BOX}]}]},
            ["deer/1.jpg", "detection 1", "conf"],
        ),
        (coco() | {"images": [{"file_name": "deer/1.jpg"}]}, ["image 1", "id"]),
        (megadetector(_1=[], _1_=[]), ["image 2", "deer/1.jpg"]),
        (megadetector() | {"images": ["deer/1.jpg"]}, ["image 1", "file"]),
        (megadetector() | {"images": [{"file": "deer/1.jpg", "detections": 5}]}, ["image 1"]),
        (megadetector() | {"detection_categories": 5}, ["detection_categories"]),
        (megadetector() | {"detection_categories": {"1": 5}}, ["'1'"]),
        (megadetector(), ["deer/1.jpg"]),
        (json.dumps(megadetector(_1=[("1", 0.9, BOX)]))[:-50], ["JSON"]),
        ('{"images": "\x00', ["JSON"]),
        ({"images": []}, ["MegaDetector", "COCO"]),
        ([1, 2], ["MegaDetector", "COCO"]),
        ([{"image_id": 3, "bbox": [1, 2, 3, 4], "score": 0.9}], ["COCO", "images"]),
        (coco(bbox=[10, 10, 0, 5]), ["deer/2.jpg", "annotation 1"]),
        (coco(bbox=[500, 10, 10, 5]), ["deer/2.jpg", "annotation 1"]),
        (coco(bbox=[1, 2]), ["annotation 1"]),
        (coco(score=95), ["annotation 1", 95]),
        (coco(image_id=9), ["annotation 1", 9]),
        (coco({"id": 3}), ["image 2", "deer/2.jpg", 3]),
        (coco({"width": "200"}), ["annotation 1", "width"]),
        (coco({"width": None}, bbox=[0.1, 0.2, 0.3, 0.4]), ["deer/2.jpg", "0.3 x 0.4"]),
        (coco() | {"categories": [{"id": 0}]}, ["categories", "name"]),
        (coco() | {"categories": 5}, ["categories"]),
    ],
)
def test_bad_json(tmp_path: Path, content: Any, facts: list[Any]) -> None:
    with raises(BilinearError, "boxes.json", *facts):
        read_boxes(written(tmp_path / "boxes.json", content), PATHS, tmp_path)


@pytest.mark.parametrize(
    ("row", "facts"),
    [
        ("deer/1.jpg,1,2,0,4", ["deer/1.jpg"]),
        ("deer/1.jpg,1,2,-3,4", ["deer/1.jpg", "the box is -3 x 4 pixels. Both"]),
        ("deer/1.jpg,1,2,wide,4", ["wide"]),
        ("deer/1.jpg,1,2,,4", []),
        ("deer/1.jpg,1,2,nan,4", ["nan"]),
        ("deer/1.jpg,1,2,3", []),
        ("deer/1.jpg,0.1,0.2,0.3,0.4", ["0.3 x 0.4", "row 2"]),  # among pixels
    ],
)
def test_bad_row(tmp_path: Path, row: str, facts: list[str]) -> None:
    with raises(BilinearError, "boxes.csv", "row 3", *facts):
        read_boxes(table(tmp_path, "fox/1.jpg,10,20,30,40", row), PATHS, tmp_path)


@pytest.mark.parametrize(
    ("line", "fact"),
    [
        ("0 0.1 0.1 0.5 0.1 0.5 0.5", "polygon"),
        ("0 0.1 0.1 0.5", "4 values"),
        ("0 0.5 0.5 1.5 0.4", "1.5"),
        ("0 0.5 0.5 0.5 high", "high"),
        ("0 0.5 0.5 0.5 0", "row 2"),
    ],
)
def test_bad_label(tmp_path: Path, line: str, fact: str) -> None:
    written(tmp_path / "deer/1.txt", f"0 0.5 0.5 0.5 0.5\n{line}\n")
    with raises(BilinearError, "deer/1.txt", "row 2", fact):
        read_boxes(str(tmp_path), PATHS, tmp_path)


@pytest.mark.parametrize(
    ("source", "facts"),
    [
        ("cub", ["bounding_boxes.txt"]),
        ("nothing.json", ["nothing.json"]),
        ("nothing", ["nothing", "YOLO"]),
        (".", ["YOLO"]),
    ],
)
def test_no_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, facts: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with raises(BilinearError, *facts):
        read_boxes(source, PATHS, tmp_path / "images")


@pytest.mark.parametrize(
    ("header", "row", "facts"),
    [
        ("path,x,y,width", "deer/1.jpg,1,2,3", ["path,x,y,width,height"]),
        ("x,y,width,height", "1,2,3,4", ["no column of paths", "path"]),
        ("image,photo,x,y,w,h", "deer/1.jpg,1.jpg,1,2,3,4", ["image", "photo"]),
    ],
)
def test_missing_columns(tmp_path: Path, header: str, row: str, facts: list[str]) -> None:
    with raises(BilinearError, "boxes.csv", *facts):
        read_boxes(table(tmp_path, row, header=header), PATHS, tmp_path)
