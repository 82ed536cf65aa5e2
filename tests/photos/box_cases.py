"""Makers of the cases in docs/boxes.md, see `test_understood.py`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.boxes import megadetector_file
from support.photos import class_folders, cub_folder

from bilinear_cli.photos.boxes.cropped_set import crop_photo_set, crops_of_photos
from bilinear_cli.photos.boxes.options import BoxOptions
from bilinear_cli.photos.photo_set import load_photo_set
from bilinear_cli.photos.pixels.images import read_photo

BOX = [0.1, 0.2, 0.5, 0.5]
SIDES = "path,x,y,width,height"


def attempt(write: Callable[[Path], str]) -> Callable[[Path], None]:
    """Return a maker of two classes, of a source of boxes that `write` writes, and of the crops."""

    def make(folder: Path) -> None:
        photos = class_folders(folder / "birds", {"robin": 2, "wren": 2})
        crop(str(photos), write(folder))

    return make


def crop(data: str, source: str) -> None:
    """Crop the photos of a set as `extract` does."""
    photo_set = load_photo_set(data)
    cropped, options, _ = crop_photo_set(photo_set, BoxOptions(source))
    for path, crops in zip(photo_set.paths, crops_of_photos(cropped, options), strict=True):
        for box in crops:
            read_photo(photo_set.root / path, [32], crop=box)


def text(name: str, *lines: str) -> Callable[[Path], None]:
    """Write a file, and give it, or the folder in which its folder is, as the source."""

    def write(folder: Path) -> str:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines))
        return str(path if path.parent == folder else folder / "labels")

    return attempt(write)


def table(*rows: str, header: str = SIDES) -> Callable[[Path], None]:
    return text("boxes.csv", header, *rows)


def detector(*detections: tuple, path: str = "robin/0.png") -> Callable[[Path], None]:
    return attempt(lambda folder: megadetector_file(folder / "md.json", {path: detections}))


def failure(folder: Path) -> str:
    images = [{"file": "robin/0.png", "failure": "Failure image access", "detections": None}]
    images += [{"file": "wren/0.png", "detections": [{"category": "1", "conf": 1, "bbox": BOX}]}]
    (folder / "md.json").write_text(json.dumps({"images": images}))
    return str(folder / "md.json")


def cut_off(folder: Path) -> str:
    path = Path(megadetector_file(folder / "md.json", {"robin/0.png": [("1", 0.9, BOX)]}))
    path.write_text(path.read_text()[:-20])
    return str(path)


def cub(folder: Path) -> None:
    cub_folder(folder)
    (folder / "bounding_boxes.txt").write_text("3 0.0 1.0 20.0 19.0\n")
    crop(str(folder), "cub")


def list_with_boxes(folder: Path) -> None:
    class_folders(folder, {"robin": 2, "wren": 2})
    rows = ["robin/0.png,robin,1,2,9,9", "robin/0.png,robin,5,5,9,9", "wren/0.png,wren,,,,"]
    (folder / "photos.csv").write_text("\n".join(["path,label,x,y,width,height", *rows]))
    crop(str(folder / "photos.csv"), str(folder / "photos.csv"))


def other_folders(folder: Path) -> None:
    photos = class_folders(folder / "birds", {"robin/2023": 1, "wren": 1})
    (folder / "boxes.csv").write_text(f"{SIDES}\ncam/2023/0.png,1,2,9,9")
    crop(str(photos), str(folder / "boxes.csv"))


COCO: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "robin/0.png", "width": 64, "height": 48}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 0, "bbox": [20, 10, 30, 25]}],
}
BOXES: dict[str, Callable[[Path], object]] = {
    "MegaDetector's file": detector(("1", 0.9, BOX), ("2", 0.9, BOX)),
    "a photo that failed": attempt(failure),
    "COCO's file": text("coco.json", json.dumps(COCO)),
    "YOLO's folder": text("labels/robin/0.txt", "0 0.5 0.5 0.5 0.5"),
    "CUB's table": cub,
    "corners": table("robin/0.png;1;2;20;20", header="path;xmin;ymin;xmax;ymax"),
    "a list with boxes": list_with_boxes,
    "a path of another computer": table(r"D:\cam\robin\0.png,1,2,9,9"),
    "a path in other folders": other_folders,
    "the same box twice": table(*["robin/0.png,1,2,9,9"] * 2),
    "an edge outside the photo": table("robin/0.png,-0.1,0.2,0.5,0.5"),
    "no sure box": table("robin/0.png,1,2,9,9,0.1", header=f"{SIDES},confidence"),
    "boxes of other photos": table("cat/9.png,1,2,9,9"),
    "file names in two folders": table("0.png,1,2,9,9"),
    "a box without area": table("robin/0.png,1,2,0,4"),
    "a box outside the photo": table("robin/0.png,0.9,0.9,0.9,0.9"),
    "pixels of a larger photo": table("robin/0.png,900,2,30,30"),
    "a fraction above one": detector(("1", 0.9, [0.1, 0.2, 1.3, 0.4])),
    "fractions among pixels": table("robin/0.png,0.1,0.2,0.3,0.4", "wren/0.png,1,2,9,9"),
    "text in a box": table("robin/0.png,1,2,wide,4"),
    "a confidence in per cent": table("robin/0.png,1,2,9,9,95", header=f"{SIDES},confidence"),
    "a table without boxes": table("robin/0.png,1,2", header="path,x,y"),
    "a JSON file that is cut off": attempt(cut_off),
    "another JSON file": text("boxes.json", '{"photos": []}'),
    "results of COCO": text("boxes.json", json.dumps([{"image_id": 1, "bbox": [1, 2, 9, 9]}])),
    "a polygon of YOLO": text("labels/robin/0.txt", "0 0.1 0.1 0.5 0.1 0.5 0.5"),
    "a folder without boxes": attempt(lambda folder: str(folder / "birds")),
}
