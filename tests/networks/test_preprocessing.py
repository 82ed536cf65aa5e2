"""Tests of `preprocessor_config.json`: the geometry and the values of photos, and its faults."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.errors import assert_names, raises
from support.onnx_networks import PREPROCESSOR, write_network

from bilinear_cli.errors import BilinearError
from bilinear_cli.networks.onnx_model import read_model
from bilinear_cli.networks.preprocessing import EXAMPLE, Preprocessing

MEAN, STD = [0.1, 0.2, 0.3], [0.5, 0.25, 2.0]
VALUES = {"resample": 3, "image_mean": MEAN, "image_std": STD}
SQUARE = {"height": 224, "width": 224}
OLD = {"size": 256, "crop_size": 224}


@pytest.mark.parametrize(
    ("geometry", "size", "resize"),
    [
        ({"size": SQUARE}, 224, "both 224, crop 224, bicubic"),
        ({"size": 224}, 224, "both 224, crop 224, bicubic"),
        ({"size": 224, "resample": 2}, 224, "both 224, crop 224, bilinear"),
        ({"size": 224, "resample": 0}, 224, "both 224, crop 224, nearest"),
        ({"size": SQUARE, "crop_pct": None, "crop_size": None}, 224, "both 224, crop 224, bicubic"),
        ({"size": SQUARE, "crop_size": SQUARE, "do_center_crop": False}, 224, "both 224, crop 224"),
        ({"size": {"height": 256, "width": 256}, "crop_size": SQUARE}, 224, "both 256, crop 224"),
        ({"size": {"shortest_edge": 256}, "crop_size": SQUARE}, 224, "shortest 256, crop 224"),
        ({"size": {"shortest_edge": 256}, "crop_size": 224}, 224, "shortest 256, crop 224"),
        (OLD, 224, "shortest 256, crop 224"),
        (OLD | {"feature_extractor_type": "CLIPFeatureExtractor"}, 224, "shortest 256, crop 224"),
        ({"size": 224, "crop_size": 224, "do_center_crop": True}, 224, "shortest 224, crop 224"),
        ({"size": 224, "crop_size": 224, "do_center_crop": False}, 224, "both 224, crop 224"),
        (OLD | {"feature_extractor_type": "DeiTFeatureExtractor"}, 224, "both 256, crop 224"),
        (OLD | {"image_processor_type": "BeitImageProcessor"}, 224, "both 256, crop 224"),
        # of ConvNeXt
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, 224, "shortest 256, crop 224"),
        ({"size": 224, "crop_pct": 0.875}, 224, "shortest 256, crop 224"),
        ({"size": {"shortest_edge": 383}, "crop_pct": 1.0}, 383, "shortest 383, crop 383"),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, 384, "both 384, crop 384"),
        ({"size": 384, "crop_pct": 0.875}, 384, "both 384, crop 384"),
    ],
)
def test_the_geometry_is_that_of_the_processor(
    geometry: dict[str, Any], size: int, resize: str
) -> None:
    preprocessing = Preprocessing.from_config(VALUES | geometry)
    assert preprocessing.size == size
    assert preprocessing.resize.startswith(f"processor: {resize}")


PHOTO = np.array([[[[0, 51, 255]]]], np.uint8)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, [-0.2, 0, 0.35]),
        ({"rescale_factor": 0.5}, [-0.2, (25.5 - 0.2) / 0.25, (127.5 - 0.3) / 2]),
        ({"do_rescale": False}, [-0.2, (51 - 0.2) / 0.25, (255 - 0.3) / 2]),
        ({"do_normalize": False}, [0, 0.2, 1]),
        ({"do_normalize": False, "image_mean": None, "image_std": None}, [0, 0.2, 1]),
        ({"do_normalize": False, "do_rescale": False}, [0, 51, 255]),
        ({"do_normalize": False, "rescale_factor": 1 / 127.5}, [0, 0.4, 2]),
    ],
)
def test_pixels_are_rescaled_and_normalized(values: dict[str, Any], expected: list[float]) -> None:
    pixels = Preprocessing.from_config(VALUES | {"size": 8} | values).normalize(PHOTO)
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels[0, 0, 0], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "fact"),
    [
        ({"size": {"height": 224, "width": 192}}, "192 x 224"),
        ({"size": 256, "crop_size": {"height": 224, "width": 192}}, "192 x 224"),
        ({"size": {"shortest_edge": 224}}, "ratio"),
        ({"size": {"shortest_edge": 224, "longest_edge": 640}}, "longest_edge"),
        ({"size": {"max_pixels": 99}}, "max_pixels"),
        ({"size": {"height": 224}}, "'width' is missing"),
        ({"size": {}}, "'height' is missing"),
        ({"size": 0}, 0),
        ({"size": -224}, -224),
        ({"size": "large"}, "large"),
        ({"size": None}, "size"),
        ({"size": [224, 224]}, "size"),
        ({"size": 200, "crop_size": 224}, 224),
        ({"size": 224, "crop_size": -1}, -1),
        ({"size": 224, "crop_pct": 1.5}, 224),
        ({"size": 224, "crop_pct": "most"}, "crop_pct"),
        ({"size": 224, "crop_pct": 1e-300}, 224),
        ({"size": 224, "crop_pct": 0.2}, 224),
        ({"size": 123456}, 123456),
        ({"size": 2000, "crop_size": 224}, 2000),
        ({"resample": 9}, "resample"),
        ({"resample": -1}, "resample"),
        ({"resample": "bicubic"}, "resample"),
        ({"resample": None}, "resample"),
        ({"resample": [3]}, "resample"),
        ({"resample": 2.0}, "resample"),
        ({"image_mean": 0.5}, "image_mean"),
        ({"image_mean": [0.5, 0.5]}, "image_mean"),
        ({"image_mean": ["a", "b", "c"]}, "image_mean"),
        ({"image_mean": [None] * 3}, "image_mean"),
        ({"image_std": [0.5, 0.5, 0]}, "image_std"),
        ({"image_std": [0.5, 0.5, float("inf")]}, "image_std"),
        ({"image_std": None}, "image_std"),
        ({"rescale_factor": "small"}, "small"),
        ({"rescale_factor": None}, "rescale_factor"),
        ({"rescale_factor": float("nan")}, "rescale_factor"),
        ({"rescale_factor": [1]}, "rescale_factor"),
        ({"rescale_factor": 10**400}, "rescale_factor"),
        ({"do_resize": False}, "do_resize"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order"),
        ({"rescale_offset": True}, "rescale_offset"),
        ({"include_top": True}, "include_top"),
    ],
)
def test_a_fault_is_one_line_that_names_the_file_and_an_example(
    values: dict[str, Any], fact: str | int, tmp_path: Path
) -> None:
    folder = write_network(tmp_path, preprocessor=PREPROCESSOR | values)
    file = folder / "preprocessor_config.json"
    with raises(BilinearError, file, EXAMPLE) as caught:
        read_model(folder)
    assert_names(str(caught.value).replace(EXAMPLE, "").replace(str(file), ""), fact)


@pytest.mark.parametrize("name", ["size", "resample", "image_mean", "image_std"])
def test_a_missing_value_is_named(name: str, tmp_path: Path) -> None:
    values = {key: value for key, value in PREPROCESSOR.items() if key != name}
    folder = write_network(tmp_path, preprocessor=values)
    with raises(BilinearError, folder / "preprocessor_config.json", f"'{name}'", EXAMPLE):
        read_model(folder)


def test_without_the_file_the_error_has_an_example_that_works(tmp_path: Path) -> None:
    folder = write_network(tmp_path)
    graph, preprocessor = folder / "onnx" / "model.onnx", folder / "preprocessor_config.json"
    preprocessor.unlink()
    with raises(BilinearError, graph, preprocessor.name, EXAMPLE):
        read_model(folder)
    for place in (graph.parent, folder):
        (place / preprocessor.name).write_text(EXAMPLE)
        assert read_model(graph).preprocessing == Preprocessing.from_config(json.loads(EXAMPLE))
        (place / preprocessor.name).unlink()


def test_the_file_beside_the_graph_comes_first(tmp_path: Path) -> None:
    folder = write_network(tmp_path)
    (folder / "onnx" / "preprocessor_config.json").write_text(EXAMPLE)
    assert read_model(folder).preprocessing.size == 224


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"null", b"\xff\xfe{}", b"[" * 100_000, b"1" * 5000]
)
def test_a_file_that_is_no_json_object_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    folder = write_network(tmp_path)
    (folder / name).write_bytes(content)
    with raises(BilinearError, folder / name):
        read_model(folder)
