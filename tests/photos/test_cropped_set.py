"""Tests of photo sets with boxes: which entries a photo has, and what becomes of the others."""

import logging
from pathlib import Path

import numpy as np
import pytest
from support.boxes import box_table, megadetector_file
from support.errors import assert_names, messages, raises, warnings
from support.photos import class_folders

from bilinear_cli.errors import BilinearError, UsageError
from bilinear_cli.photos.boxes.cropped_set import crop_photo_set, crops_of_photos
from bilinear_cli.photos.boxes.options import BoxOptions, box_options
from bilinear_cli.photos.photo_set import PhotoSet, load_photo_set

SMALL, LARGE, OTHER = (0, 0, 5, 5), (1, 2, 20, 20), (4, 4, 9, 9)
BOXES = {
    "fox/0.png": [(*SMALL, 0.9), (*LARGE, 0.5), (*SMALL, 0.7)],  # one of them twice
    "fox/1.png": [(*OTHER, 0.3)],
    "owl/0.png": [(*LARGE, 0.1)],  # below the least confidence
}


@pytest.fixture
def photos(tmp_path: Path) -> PhotoSet:
    return load_photo_set(str(class_folders(tmp_path / "photos", {"fox": 2, "owl": 2})))


@pytest.fixture
def source(tmp_path: Path) -> str:
    return box_table(tmp_path / "boxes.csv", BOXES)


def entries(photo_set: PhotoSet) -> list[tuple[str, tuple[float, ...]]]:
    assert photo_set.box is not None
    pairs = zip(photo_set.paths.tolist(), photo_set.box.tolist(), strict=True)
    return [(path, tuple(box) if any(box) else ()) for path, box in pairs]


@pytest.mark.parametrize(
    ("choice", "taken"),
    [("all", [SMALL, LARGE]), ("largest", [LARGE]), ("most-confident", [SMALL])],
)
def test_boxes_of_a_photo(photos: PhotoSet, source: str, choice: str, taken: list) -> None:
    cropped, crop, _ = crop_photo_set(photos, BoxOptions(source, choice, no_box="skip"))
    assert entries(cropped) == [("fox/0.png", box) for box in taken] + [("fox/1.png", OTHER)]
    assert cropped.photo.tolist() == [0] * len(taken) + [1]
    assert str(crop) == f"{choice}, margin 0.1, pixels"
    assert [len(crops) for crops in crops_of_photos(cropped, crop)] == [len(taken), 1]


@pytest.mark.parametrize(("no_box", "n"), [("whole", 5), ("skip", 3), ("stop", 0)])
def test_photos_without_a_box(
    photos: PhotoSet, source: str, no_box: str, n: int, caplog: pytest.LogCaptureFixture
) -> None:
    options = BoxOptions(source, no_box=no_box)
    facts = ("owl/0.png", "owl/1.png", "(2)", "boxes.csv" if no_box == "stop" else "")
    if no_box == "stop":
        with raises(BilinearError, *facts):
            crop_photo_set(photos, options)
        return
    cropped = crop_photo_set(photos, options).photo_set
    assert len(cropped) == n
    assert entries(cropped)[3:] == [("owl/0.png", ()), ("owl/1.png", ())][: n - 3]
    (warning,) = warnings(caplog)
    assert_names(warning, *facts)
    assert len(cropped.whole_photos()) == n - 1
    assert cropped.whole_photos().box is None


def test_no_photo_with_a_box(photos: PhotoSet, tmp_path: Path) -> None:
    source = megadetector_file(tmp_path / "md.json", {"fox/0.png": [("2", 0.9, [0, 0, 1, 1])]})
    with raises(BilinearError, photos.spec, "md.json"):
        crop_photo_set(photos, BoxOptions(source, no_box="skip"))


def test_a_detectors_summary(
    photos: PhotoSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    box = [0.1, 0.2, 0.5, 0.5]
    detections = {
        r"D:\fox\0.png": [("1", 0.9, box), ("1", 0.8, [0.5, *box[1:]]), ("2", 0.9, box)],
        r"D:\owl\1.png": [("2", 0.9, box)],
        r"D:\owl\0.png": [],
    }
    caplog.set_level(logging.INFO)
    source = megadetector_file(tmp_path / "md.json", detections)
    cropped, crop, _ = crop_photo_set(photos, BoxOptions(source, margin=0.25))
    assert [box for _, box in entries(cropped)] == [tuple(box), (0.5, *box[1:]), (), (), ()]
    assert str(crop) == "all, margin 0.25, fractions"
    assert_names(" ".join(messages(caplog, logging.INFO)), "1 of 4 photos", "2 person")


def test_the_digest_is_of_the_boxes_that_are_taken(photos: PhotoSet, tmp_path: Path) -> None:
    """Other boxes have another digest; the same boxes in another file, with others, do not."""
    digests = [
        crop_photo_set(photos, BoxOptions(box_table(tmp_path / name, boxes))).boxes_sha256
        for name, boxes in {
            "a.csv": BOXES,
            "b.csv": BOXES | {"cat/7.png": [OTHER]},
            "c.csv": BOXES | {"fox/1.png": [SMALL]},
        }.items()
    ]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    "options",
    [{"margin": 0.2}, {"box": "largest"}, {"no_box": "skip"}, {"min_confidence": 0.5}],
    ids=str,
)
def test_an_option_without_boxes(options: dict) -> None:
    (name,) = options
    with raises(UsageError, f"--{name.replace('_', '-')}", "--boxes"):
        box_options(None, **options)
    assert box_options("x.csv", **options) == BoxOptions("x.csv", **options)
    assert box_options(None) is None


@pytest.mark.parametrize(
    "options",
    [{"box": "best"}, {"margin": -0.1}, {"margin": np.nan}, {"no_box": "cut"},
     {"min_confidence": 2}],
    ids=str,
)  # fmt: skip
def test_invalid_options(options: dict) -> None:
    with raises(UsageError, *options.values()):
        BoxOptions("x.csv", **options)
