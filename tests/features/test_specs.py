"""Tests of the poolings' names."""

import subprocess
import sys

import numpy as np
import pytest

from bilinear_cli.errors import UsageError
from bilinear_cli.features import specs
from bilinear_cli.features.pooling import FUNCTIONS


def test_every_name_has_a_function() -> None:
    assert FUNCTIONS.keys() == specs.POOLINGS.keys()


@pytest.mark.parametrize("spec", specs.POOLINGS)
def test_a_pooling_is_found_by_its_name(spec: str) -> None:
    assert specs.pooling(spec).spec == spec


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("bilinaer", "did you mean 'bilinear'? "),
        ("Max", "did you mean 'max'? "),
        ("conv", "did you mean 'conv5'? "),
        ("xyz", ""),
        ("", ""),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(spec: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        specs.pooling(spec)
    known = ", ".join(specs.POOLINGS)
    assert str(caught.value) == f"no pooling is called {spec!r}: {hint}(there are {known})"


@pytest.mark.parametrize("channels", [1, 2, 3, 90, 91, 512])
def test_channels_follow_from_a_rows_shape(channels: int) -> None:
    triangle = (channels * (channels + 1) // 2,)
    assert specs.pooling("bilinear").channels(triangle) == channels
    assert specs.pooling("max").channels((channels,)) == channels
    assert specs.pooling("conv5").channels((14, 7, channels)) == channels


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((512,), np.float32),
        ((4095,), np.float32),
        ((4096,), np.float16),
        ((131_328,), np.float16),
        ((14, 14, 512), np.float16),
        ((2, 2, 512), np.float32),
    ],
)
def test_small_rows_are_kept_in_float32(shape: tuple[int, ...], dtype: type) -> None:
    assert specs.row_dtype(shape) == dtype


def test_names_are_known_without_loading_tensorflow() -> None:
    code = "import sys, bilinear_cli.features.specs; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
