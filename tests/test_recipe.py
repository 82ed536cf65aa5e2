"""Tests of recipes: engines in feature files, and which differences forbid a use."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.errors import raises

from bilinear_cli.errors import UsageError
from bilinear_cli.extraction.options import ExtractOptions
from bilinear_cli.recipe import (
    CropOptions,
    Recipe,
    differences,
    mixed_engines,
    parse_processor_resize,
    processor_resize,
)
from bilinear_cli.store import FeatureFile
from bilinear_cli.training.options import TrainOptions

DATA_FILES = Path(__file__).parent / "data_files"
RECIPE = Recipe(("max",), "block5_conv3", 32, "squash", "float32", 4, "0" * 64)
NCNN = replace(RECIPE, engine="ncnn")
CONVERTED = replace(RECIPE, colours="srgb")
CROPPED = replace(RECIPE, crop=str(CropOptions("largest", 0.25, "pixels")), boxes_sha256="0" * 64)
VERSIONS = "keras 3.1, numpy 2.0"
USES = ("resume", "reuse", "merge")


def compare(first: Recipe, second: Recipe, use: str, *versions: str) -> list[str]:
    """Return the names of the differences; versions are those of the first and of the second."""
    both = [
        recipe.comparable_attributes() | {"versions": x}
        for recipe, x in zip((first, second), versions or (VERSIONS, VERSIONS), strict=True)
    ]
    return [difference.name for difference in differences(both[0], both[1], use)]


# Engines ----------------------------------------------------------------------------------


def test_a_file_without_an_engine_is_by_tensorflow() -> None:
    with FeatureFile(DATA_FILES / "v0.1" / "birds.h5") as file:
        assert "engine" not in file.attributes
        assert file.recipe.engine == "tensorflow"
        assert file.recipe.mixed_engines == ""


def test_only_another_engine_is_an_attribute() -> None:
    assert not {"engine", "mixed_engines"} & RECIPE.attributes().keys()
    assert NCNN.attributes()["engine"] == "ncnn"
    for recipe in (RECIPE, NCNN, replace(NCNN, mixed_engines="tensorflow")):
        assert Recipe.from_attributes(recipe.attributes(), RECIPE.specs) == recipe


def test_a_file_without_colours_ignores_profiles() -> None:
    with FeatureFile(DATA_FILES / "v0.1" / "birds.h5") as file:
        assert file.recipe.colours == ""
    assert "colours" not in RECIPE.attributes()
    assert Recipe.from_attributes(CONVERTED.attributes(), CONVERTED.specs) == CONVERTED
    with pytest.raises(ValueError, match="colours"):
        Recipe.from_attributes(RECIPE.attributes() | {"colours": "display-p3"}, RECIPE.specs)


@pytest.mark.parametrize("use", USES)
def test_rows_of_different_colours_are_not_used_together(use: str) -> None:
    assert compare(RECIPE, CONVERTED, use) == compare(CONVERTED, RECIPE, use) == ["colours"]


def test_a_file_without_crops_has_whole_photos() -> None:
    with FeatureFile(DATA_FILES / "v0.1" / "birds.h5") as file:
        assert file.recipe.crop_options is file.box is None
        assert file.keys.tolist() == file.paths.tolist()
    assert not {"crop", "boxes_sha256"} & RECIPE.attributes().keys()
    assert Recipe.from_attributes(CROPPED.attributes(), CROPPED.specs) == CROPPED
    assert CROPPED.crop_options == ("largest", 0.25, "pixels")


@pytest.mark.parametrize(
    "crop",
    ["all", "best, margin 0.1, pixels", "all, margin -1, pixels", "all, margin 99, pixels",
     "all, margin 0.1, feet", "all, margin nan, pixels", "all, margin 0.1, pixels\n"],
)  # fmt: skip
def test_an_invalid_crop_in_a_file_is_refused(crop: str) -> None:
    with pytest.raises(ValueError, match="crop"):
        Recipe.from_attributes(RECIPE.attributes() | {"crop": crop}, RECIPE.specs)


@pytest.mark.parametrize("use", USES)
def test_other_boxes_may_be_resumed_and_reused_but_not_merged(use: str) -> None:
    assert compare(CROPPED, replace(CROPPED, crop=str(CropOptions("all", 0.3, "pixels"))), use)
    other = compare(CROPPED, replace(CROPPED, boxes_sha256="1" * 64), use)
    assert other == (["boxes_sha256"] if use == "merge" else [])


@pytest.mark.parametrize(
    ("crop", "forbidden"),
    [
        ("all, margin 0.25, pixels", {"resume", "merge"}),
        ("largest, margin 0.25, fractions", {"resume", "merge", "reuse"}),
        ("largest, margin 0.3, pixels", {"resume", "merge", "reuse", "predict"}),
        ("", {"resume", "merge", "reuse", "predict"}),
    ],
)
def test_a_use_compares_what_it_needs_of_a_crop(crop: str, forbidden: set[str]) -> None:
    other = replace(CROPPED, crop=crop)
    uses = (*USES, "predict")
    for first, second in ((CROPPED, other), (other, CROPPED)):
        assert {use for use in uses if "crop" in compare(first, second, use)} == forbidden


@pytest.mark.parametrize("engine", ["", "auto", "onnx", 1])
def test_an_unknown_engine_in_a_file_is_invalid(engine: Any) -> None:
    with pytest.raises(ValueError, match="engine"):
        Recipe.from_attributes(RECIPE.attributes() | {"engine": engine}, RECIPE.specs)


PROCESSOR = "processor: shortest 256, crop 224, bicubic"


@pytest.mark.parametrize(
    "resize",
    ["squash", "crop", "pad", PROCESSOR, "processor: both 32, crop 32, nearest"],
)
def test_a_known_resize_in_a_file_is_kept(resize: str) -> None:
    recipe = replace(RECIPE, resize=resize)
    assert Recipe.from_attributes(recipe.attributes(), RECIPE.specs) == recipe


@pytest.mark.parametrize(
    "resize",
    [
        *("", "processor", "auto", 1, f"{PROCESSOR} ", f"{PROCESSOR}\n", PROCESSOR.upper()),
        *(PROCESSOR.replace("bicubic", x) for x in ("", "cubist", "bicubic, bicubic", "_getexif")),
        *(PROCESSOR.replace("256", x) for x in ("0", "-256", "256.0", "100000", "٢٥٦", "")),
        *(PROCESSOR.replace("224", x) for x in ("0", "257", "1", "63")),
        *(PROCESSOR.replace("shortest", x) for x in ("longest", "", "shortest both")),
        "processor: both 99999, crop 1, bicubic",
    ],
)
def test_an_invalid_resize_in_a_file_is_refused(resize: Any) -> None:
    with pytest.raises(ValueError, match="resize"):
        Recipe.from_attributes(RECIPE.attributes() | {"resize": resize}, RECIPE.specs)


@pytest.mark.parametrize("arguments", [(True, 256, 224, "bicubic"), (False, 32, 32, "hamming")])
def test_the_text_of_a_processors_resize_has_its_arguments(arguments: tuple) -> None:
    assert parse_processor_resize(processor_resize(*arguments)) == arguments


@pytest.mark.parametrize("use", USES)
def test_another_resize_of_a_processor_is_another_recipe(use: str) -> None:
    pair = [replace(RECIPE, resize=x) for x in (PROCESSOR, PROCESSOR.replace("256", "248"))]
    assert compare(*pair, use) == ["resize"]


@pytest.mark.parametrize(
    ("change", "resolved"),
    [
        ({}, True),
        ({"engine": "ncnn"}, True),
        ({"engine": "auto"}, False),
        ({"precision": "auto"}, False),
        ({"batch_size": 0}, False),
    ],
)
def test_a_recipe_is_resolved_if_nothing_is_open(change: dict[str, Any], resolved: bool) -> None:
    assert replace(RECIPE, **change).is_resolved is resolved


@pytest.mark.parametrize(
    ("recipe", "packages"),
    [
        (RECIPE, ()),
        (replace(RECIPE, precision="int8"), ("ai-edge-litert",)),
        (NCNN, ("ncnn",)),
        (replace(RECIPE, engine="onnxruntime"), ("onnxruntime",)),
    ],
)
def test_a_recipe_names_the_packages_that_only_it_needs(
    recipe: Recipe, packages: tuple[str, ...]
) -> None:
    assert recipe.packages == packages


# Differences ------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", [(RECIPE, NCNN), (NCNN, RECIPE)])
@pytest.mark.parametrize(("use", "forbidden"), [*zip(USES, (["engine"], [], []), strict=True)])
def test_only_a_resumed_file_keeps_its_engine(
    pair: tuple[Recipe, Recipe], use: str, forbidden: list[str]
) -> None:
    assert compare(*pair, use) == forbidden


@pytest.mark.parametrize(
    ("use", "forbidden"), [*zip(USES, (["mixed_engines"], [], []), strict=True)]
)
def test_only_a_resumed_file_keeps_its_mixed_engines(use: str, forbidden: list[str]) -> None:
    assert compare(NCNN, replace(NCNN, mixed_engines="tensorflow"), use) == forbidden


@pytest.mark.parametrize(
    ("second", "versions", "forbidden"),
    [
        (RECIPE, VERSIONS, []),  # the other engine has no version of ncnn
        (RECIPE, VERSIONS.replace("3.1", "3.2"), ["versions"]),
        (NCNN, f"{VERSIONS}, ncnn 1.0", []),
        (NCNN, f"{VERSIONS}, ncnn 1.1", ["versions"]),
    ],
)
def test_versions_of_ncnn_matter_only_to_its_own_rows(
    second: Recipe, versions: str, forbidden: list[str]
) -> None:
    both = [(NCNN, f"{VERSIONS}, ncnn 1.0"), (second, versions)]
    for (a, a_versions), (b, b_versions) in (both, both[::-1]):
        assert compare(a, b, "merge", a_versions, b_versions) == forbidden


TENSORFLOW: dict[str, str] = {}
BY_NCNN = {"engine": "ncnn"}
MIXED = BY_NCNN | {"mixed_engines": "tensorflow"}


@pytest.mark.parametrize(
    ("file", "sources", "mixed"),
    [
        (BY_NCNN, [], ""),
        (BY_NCNN, [BY_NCNN], ""),
        (TENSORFLOW, [TENSORFLOW], ""),
        (BY_NCNN, [TENSORFLOW, BY_NCNN], "tensorflow"),
        (BY_NCNN, [MIXED], "tensorflow"),
        (TENSORFLOW, [MIXED], "ncnn"),
        (TENSORFLOW, [TENSORFLOW | {"mixed_engines": "ncnn"}], "ncnn"),
    ],
)
def test_a_file_names_the_other_engines_of_its_rows(
    file: dict[str, str], sources: list[dict[str, str]], mixed: str
) -> None:
    assert mixed_engines(file, sources) == mixed


@pytest.mark.parametrize("use", ["resume", "reuse", "merge"])
def test_an_onnx_network_is_known_by_its_digest_and_not_by_its_folder(use: str) -> None:
    names = ("a.onnx", "b.onnx", "vgg16")
    first, second, other = ({"backbone": name} for name in names)
    assert not differences(first, second, use)
    assert [x.name for x in differences(first, other, use)] == ["backbone"]


@pytest.mark.parametrize(
    "options",
    [
        {"pooling": []},
        {"engine": "onnxruntime"},
        {"engine": "foo"},
        {"precision": "float64"},
        {"resize": "bogus"},
        {"seed": -1},
        {"limit": -3},
        {"batch_size": 0},
        {"image_size": -5},
        {"scales": (224, 0)},
        {"image_size": 22.4},
        {"limit": True},
        {"limit": "6"},
        {"seed": 2**32},
        {"split_seed": None},
        {"scales": (224, np.nan)},
        {"flip": "false"},
        {"overwrite": 1},
        {"boxes": "cub", "margin": np.nan},
        {"boxes": "cub", "margin": "0.1"},
        {"boxes": "cub", "min_confidence": True},
    ],
)
def test_options_from_python_are_validated(options: dict[str, Any]) -> None:
    *_, name = options
    with raises(UsageError, name.replace("_", "-")):
        ExtractOptions(**options)


@pytest.mark.parametrize(
    "options",
    [
        *({"C": value} for value in ("x", 0, True, np.nan, np.inf, 10**400)),
        *({"label_smoothing": value} for value in ("x", 1, -0.1, np.nan)),
        *({"dropout": value} for value in (1, None, np.nan)),
        *({"folds": value} for value in (1, 2.5, None)),
        *({name: 0} for name in ("hidden", "channels", "min_photos", "top_variance")),
        *({"seed": value} for value in (-1, 2**32, 1.0)),
        *({name: "no"} for name in ("frozen", "refit_all", "novelty", "solver")),
    ],
)
def test_options_of_training_are_validated(options: dict[str, Any]) -> None:
    (name,) = options
    with raises(UsageError, name.replace("_", "-")):
        TrainOptions(**options)


def test_numbers_of_numpy_become_pythons() -> None:
    options = TrainOptions(C=np.float32(0.5), seed=np.int64(3), top_variance=np.uint8(9))
    assert [type(x) for x in (options.C, options.seed, options.top_variance)] == [float, int, int]
    assert ExtractOptions(scales=np.array([64, 32])).scales == (64, 32)
