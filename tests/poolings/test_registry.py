"""Tests of the registry: specs, sizes, channels and dtypes."""

import re

import numpy as np
import pytest
from support.errors import assert_suggests, raises

from bilinear_cli.errors import UsageError
from bilinear_cli.poolings import registry
from bilinear_cli.poolings.parameter_kinds import check_parameter

SPECS = [
    *sorted(registry.POOLINGS.keys() - {"compact"}),
    "compact:8192",
    "bilinear:144",
    "bilinear-plain:1",
    "covariance:20",
    "matrix-sqrt:64",
]


def test_maps_has_its_older_name_too() -> None:
    assert registry.get_pooling("conv5") == registry.POOLINGS["maps"]
    maps = registry.SpecDict({"conv5": 1, "max": 2})
    assert list(maps) == ["maps", "max"]
    assert "conv5" in maps
    assert (maps["conv5"], maps["maps"], maps.get("conv5")) == (1, 1, 1)


@pytest.mark.parametrize("spec", SPECS)
def test_a_spec_names_a_pooling(spec: str) -> None:
    assert registry.get_pooling(spec).spec == spec


@pytest.mark.parametrize(
    ("spec", "nearest"), [("bilinaer", "bilinear"), ("Max", "max"), ("map", "maps")]
)
def test_an_unknown_method_suggests_the_nearest(spec: str, nearest: str) -> None:
    with raises(UsageError, repr(spec), *registry.POOLINGS) as caught:
        registry.get_pooling(spec)
    assert_suggests(str(caught.value), nearest, registry.POOLINGS)


@pytest.mark.parametrize("spec", ["xyz", ""])
def test_an_unknown_method_without_a_nearest_lists_all_methods(spec: str) -> None:
    with raises(UsageError, repr(spec), *registry.POOLINGS) as caught:
        registry.get_pooling(spec)
    words = re.findall(r"[\w-]+", str(caught.value))
    assert {words.count(name) for name in registry.POOLINGS} == {1}  # none is suggested


@pytest.mark.parametrize(
    "spec",
    [
        *("max:5", "conv5:", "compact:0", "bilinear:0", "bilinear:", "compact:-1", "compact:1.5"),
        *("bilinear:٣", "bilinear: 3", "bilinear:1:2", "compact:x", "compact:9999999999"),
    ],
)
def test_a_wrong_size_is_refused(spec: str) -> None:
    with raises(UsageError, spec):
        registry.get_pooling(spec)


def test_a_missing_size_is_refused() -> None:
    with raises(UsageError, "compact:8192"):
        registry.get_pooling("compact")


def test_a_size_has_one_spelling() -> None:
    assert registry.get_pooling("bilinear:0144").spec == "bilinear:144"


@pytest.mark.parametrize("channels", [1, 2, 3, 90, 91, 512])
def test_channels_follow_from_a_rows_shape(channels: int) -> None:
    triangle = (channels * (channels + 1) // 2,)
    assert registry.get_pooling("bilinear").n_channels(triangle, {}) == channels
    assert registry.get_pooling("bilinear:9").n_channels(triangle, {}) == channels
    assert registry.get_pooling("max").n_channels((channels,), {}) == channels
    assert registry.get_pooling("conv5").n_channels((14, 7, channels), {}) == channels
    hashes = {"hash-8": np.zeros((2, channels), np.int64)}
    assert registry.get_pooling("compact:8").n_channels((8,), hashes) == channels


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        *(((4095,), np.float32), ((2, 2, 512), np.float32)),
        *(((4096,), np.float16), ((14, 14, 512), np.float16)),
    ],
)
def test_small_rows_are_kept_in_float32(shape: tuple[int, ...], dtype: type) -> None:
    assert registry.storage_dtype(shape) == dtype


@pytest.mark.parametrize("invalid", [0, 2])
def test_signs_of_a_sketch_are_1_or_minus_1(invalid: int) -> None:
    signs = np.ones((2, 4), np.int64)
    check_parameter("sign-8", signs)
    signs[1, 2] = invalid
    with raises(ValueError, "sign-8"):
        check_parameter("sign-8", signs)
