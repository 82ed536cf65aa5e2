"""Tests of what a tensor's shape and a configuration say: where maps and class tokens are."""

from typing import Any

import numpy as np
import pytest

from bilinear_cli.networks.onnx_maps import MapLayout, find_layout

CHANNELS_FIRST, CHANNELS_LAST = MapLayout(channels_first=True), MapLayout()
GRID = MapLayout()
CLASS = MapLayout(n_before=1, has_class_token=True)
CLASS_AND_REGISTERS = MapLayout(n_before=5, has_class_token=True)
PATCHES = {"patch_size": 16}
REGISTERS = {"patch_size": 16, "num_register_tokens": 4}


@pytest.mark.parametrize(
    ("shape", "config", "layout"),
    [
        ((1, 24, 7, 7), {}, CHANNELS_FIRST),
        ((1, 7, 7, 24), {}, CHANNELS_LAST),
        ((1, 2, 7, 7), {}, CHANNELS_FIRST),
        ((1, 7, 7, 7), {}, None),  # either
        ((1, 7, 8, 9), {}, None),
        ((1, 7, 7, 7), {"hidden_sizes": [3, 7]}, None),
        ((1, 24, 7, 8), {"hidden_sizes": [12, 24]}, CHANNELS_FIRST),
        ((1, 7, 8, 24), {"hidden_sizes": [12, 24]}, CHANNELS_LAST),
        ((1, 24, 1, 12), {"hidden_sizes": [12, 24]}, None),
        ((1, 24, 7, 8), {"hidden_size": 24}, CHANNELS_FIRST),
        ((1, 24, 7, 8), {"vision_config": {"hidden_size": 24}}, CHANNELS_FIRST),
        ((1, 24, 7, 8), {"hidden_size": 24, "vision_config": {"hidden_size": 9}}, None),
    ],
)
def test_channels_are_found_by_the_shape_or_else_by_the_configuration(
    shape: tuple[int, ...], config: dict[str, Any], layout: MapLayout | None
) -> None:
    assert find_layout(shape, config, 64) == layout


@pytest.mark.parametrize(
    ("n_tokens", "config", "layout"),
    [
        (17, PATCHES, CLASS),
        (21, REGISTERS, CLASS_AND_REGISTERS),
        (17, {"vision_config": PATCHES, "num_register_tokens": 4}, CLASS),
        (21, {"vision_config": REGISTERS}, CLASS_AND_REGISTERS),
        (17, {**PATCHES, "num_register_tokens": None}, CLASS),
        (16, PATCHES, GRID),  # as in SigLIP
        (4, {"patch_size": 4}, GRID),  # merged patches, as in Swin
        (64, {"patch_size": 4}, GRID),
        (17, {"patch_size": 15}, CLASS),  # 64 // 15 is 4
        (17, REGISTERS, None),
        (21, PATCHES, None),
        (18, PATCHES, None),
        (17, {}, None),
        (16, {}, GRID),
        (1, PATCHES, None),
        (1, {}, None),
        (17, {"patch_size": "16"}, None),
        (17, {"patch_size": 0}, None),
        (17, {"patch_size": [16, 16]}, None),
    ],
)
def test_tokens_are_a_grid_after_class_token_and_registers(
    n_tokens: int, config: dict[str, Any], layout: MapLayout | None
) -> None:
    assert find_layout((1, n_tokens, 8), config, 64) == layout


@pytest.mark.parametrize("shape", [(), (1,), (1, 16), (1, 4, 4, 4, 8)])
def test_other_tensors_have_no_maps(shape: tuple[int, ...]) -> None:
    assert find_layout(shape, PATCHES, 64) is None


@pytest.mark.parametrize(
    "config",
    [
        {"hidden_sizes": 24},
        {"num_register_tokens": "four"},
        {"num_register_tokens": [4]},
        {"num_register_tokens": -20},
        {"vision_config": [1]},
        {"vision_config": "vit"},
        {"patch_size": True},
        {"patch_size": 10**30},
    ],
)
@pytest.mark.parametrize("shape", [(1, 24, 7, 8), (1, 18, 8)])
def test_a_strange_configuration_says_nothing(
    config: dict[str, Any], shape: tuple[int, ...]
) -> None:
    assert find_layout(shape, config, 64) is None


def test_maps_of_channels_first_are_turned() -> None:
    x = np.arange(2 * 5 * 3 * 3).reshape(2, 5, 3, 3)
    maps, class_token = CHANNELS_FIRST.split(x)
    assert (maps[1, 2, 0] == x[1, :, 2, 0]).all()
    assert maps.shape == (2, 3, 3, 5)
    assert class_token.shape == (2, 0)
    maps, class_token = CHANNELS_LAST.split(x.transpose(0, 2, 3, 1))
    assert maps.shape == (2, 3, 3, 5)
    assert class_token.shape == (2, 0)


@pytest.mark.parametrize("layout", [GRID, CLASS, CLASS_AND_REGISTERS])
def test_tokens_are_split_row_by_row(layout: MapLayout) -> None:
    x = np.arange(2 * (layout.n_before + 6 * 6) * 3).reshape(2, -1, 3)
    maps, class_token = layout.split(x)
    assert maps.shape == (2, 6, 6, 3)
    assert (maps[1, 2, 4] == x[1, layout.n_before + 2 * 6 + 4]).all()
    if layout.has_class_token:
        assert (class_token == x[:, 0]).all()
    else:
        assert class_token.shape == (2, 0)
