"""Boxes in JSON: the batch output of MegaDetector, and COCO's annotations."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bilinear_cli.errors import BilinearError
from bilinear_cli.messages import reason_of
from bilinear_cli.photos.boxes.crops import FRACTIONS, PIXELS, Box
from bilinear_cli.photos.boxes.source import (
    BoxSource,
    Detection,
    errors_at,
    make_box,
    validate_fractions,
)

MEGADETECTOR_CATEGORIES = {"1": "animal", "2": "person", "3": "vehicle"}
NO_ANIMALS = frozenset(("person", "human", "vehicle"))


def read_json(path: Path) -> BoxSource:
    """Read MegaDetector's or COCO's JSON.

    If there is a category `animal`, only its boxes are taken, otherwise those of all categories but
    people and vehicles.

    Raises:
        BilinearError: the file cannot be read, has another format, or has wrong values.
    """
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise BilinearError(f"cannot read {path}: {reason_of(error)}") from error
    except (ValueError, RecursionError) as error:
        raise BilinearError(
            f"cannot read {path} as JSON: {reason_of(error)}. Is the file complete?"
        ) from error
    if isinstance(data, list) and data and isinstance(data[0], dict) and "image_id" in data[0]:
        raise BilinearError(
            f"{path} is a list of results for COCO without the names of the photos: add it as "
            "'annotations' to the JSON file that has their 'images'"
        )
    if isinstance(data, dict) and isinstance(data.get("images"), list):
        if isinstance(data.get("annotations"), list):
            return _read_coco(path, data)
        if "detection_categories" in data or any(
            isinstance(image, dict) and "detections" in image for image in data["images"]
        ):
            return _read_megadetector(path, data)
    raise BilinearError(f"{path} is neither MegaDetector's JSON nor COCO's")


def _read_megadetector(path: Path, data: dict[str, Any]) -> BoxSource:
    """Read https://lila.science/megadetector-output-format, version 1.x."""
    with errors_at(str(path)):
        data = {"detection_categories": MEGADETECTOR_CATEGORIES} | data
        categories = _field(data, "detection_categories", dict)
        exclusions = _exclusions({key: _field(categories, key, str) for key in categories})
    items_of: dict[str, list[Any]] = {}
    for i, image in enumerate(data["images"], 1):
        with errors_at(f"{path}, image {i}"):
            file = _field(image, "file", str)
            if file in items_of:
                raise ValueError(f"{file} is listed twice")
            items_of[file] = _field(image, "detections", list) if image.get("detections") else []

    def detections(file: str) -> Iterator[Detection]:
        for i, item in enumerate(items_of[file], 1):
            with errors_at(f"{path}, {file}, detection {i}"):
                box = make_box(_field(item, "bbox", list), _field(item, "conf", object))
                validate_fractions(box)
                category = str(_field(item, "category", object))
            exclusion = exclusions.get(category, "of an unknown category")
            yield Detection(box, f"detection {i}", exclusion)

    failures = {image["file"] for image in data["images"] if image.get("failure")}
    return BoxSource(FRACTIONS, items_of, detections, failures)


def _read_coco(path: Path, data: dict[str, Any]) -> BoxSource:
    """Read COCO's annotations, of which those of COCO Camera Traps may have no box.

    Boxes become fractions if all images state their size, because photos may have been reduced.
    """
    images: dict[str, dict[str, Any]] = {}
    id_of: dict[str, str] = {}
    for i, image in enumerate(data["images"], 1):
        with errors_at(f"{path}, image {i}"):
            file, number = _field(image, "file_name", str), str(_field(image, "id", object))
            if file in id_of or number in images:
                raise ValueError(f"{file} or its id {number} is listed twice")
        images[number], id_of[file] = image, number
    items_of = defaultdict(list)
    for i, item in enumerate(data["annotations"], 1):
        with errors_at(f"{path}, annotation {i}"):
            number = str(_field(item, "image_id", object))
            if number not in images:
                raise ValueError(f"there is no image with the id {number}")
            items_of[number].append((i, item))
    in_fractions = all(image.get("width") and image.get("height") for image in images.values())
    with errors_at(f"{path}, categories"):
        categories = _field({"categories": []} | data, "categories", list)
        names = {str(_field(item, "id", object)): _field(item, "name", str) for item in categories}
        exclusions = _exclusions(names)

    def detections(file: str) -> Iterator[Detection]:
        for i, item in items_of[id_of[file]]:
            if item.get("bbox"):
                with errors_at(f"{path}, {file}, annotation {i}"):
                    box = make_box(item["bbox"], item.get("score", 1))
                    box = _in_fractions(box, images[id_of[file]]) if in_fractions else box
                exclusion = exclusions.get(str(item.get("category_id")), "")
                yield Detection(
                    box, f"annotation {i}", "crowd" if item.get("iscrowd") else exclusion
                )

    return BoxSource(FRACTIONS if in_fractions else PIXELS, id_of, detections)


def _in_fractions(box: Box, image: dict[str, Any]) -> Box:
    """Return a box in pixels as fractions of an image of COCO."""
    width, height = (_field(image, name, (int, float)) for name in ("width", "height"))
    x, y = box.x / width, box.y / height
    return box._replace(x=x, y=y, width=box.width / width, height=box.height / height)


def _exclusions(names: Mapping[str, str]) -> dict[str, str]:
    """Return for each category the exclusion of its boxes, see `Detection`."""
    names = {key: name.lower() for key, name in names.items()}
    animals = {"animal"} & {*names.values()} or {*names.values()} - NO_ANIMALS
    return {key: "" if name in animals else name for key, name in names.items()}


def _field(item: Any, name: str, kind: type | tuple[type, ...]) -> Any:
    """Return a value of a JSON object, or raise a ValueError if it lacks one of this type."""
    if not (isinstance(item, dict) and name in item and isinstance(item[name], kind)):
        raise ValueError(f"it should be a JSON object with a proper {name!r}")
    return item[name]
