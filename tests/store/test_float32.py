"""Tests of the conversion of stored numbers: exact, and refused where one is not finite."""

import numpy as np
import pytest

from bilinear_cli.store import streaming
from bilinear_cli.store.streaming import as_float32

HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
FINITE = HALVES[np.isfinite(HALVES)]
SINGLES = np.array(
    [0, -0.0, 1, -1, 1e-45, -1e-45, 1.1754942e-38, 3.4028235e38, -3.4028235e38, 2**-149, 1 / 3],
    np.float32,
)


@pytest.mark.parametrize("chunk", [1, 1000, 1 << 16])
@pytest.mark.parametrize("shape", [(-1,), (31, -1), (2, 31, 4, -1)])
def test_every_half_becomes_the_same_single_bit_for_bit(
    monkeypatch: pytest.MonkeyPatch, chunk: int, shape: tuple[int, ...]
) -> None:
    monkeypatch.setattr(streaming, "CHUNK", chunk)
    stored = (FINITE[:1984] if chunk == 1 else np.tile(FINITE, 3)).reshape(shape)
    result = as_float32(stored)
    assert result is not None
    assert (result.dtype, result.shape) == (np.float32, stored.shape)
    expected = stored.astype(np.float32).view(np.uint32)
    np.testing.assert_array_equal(result.view(np.uint32), expected)


def test_finite_singles_stay_as_they_are_bit_for_bit() -> None:
    result = as_float32(SINGLES.reshape(11, 1, 1, 1))
    assert result is not None
    assert (result.dtype, result.shape) == (np.float32, (11, 1, 1, 1))
    np.testing.assert_array_equal(result.ravel().view(np.uint32), SINGLES.view(np.uint32))


def test_numbers_that_are_not_finite_are_refused() -> None:
    for bad in HALVES[~np.isfinite(HALVES)]:
        assert as_float32(np.array([bad])) is None
    many = np.zeros((3, streaming.CHUNK), np.float16)
    for dtype in (np.float16, np.float32):
        for bad in (np.nan, -np.nan, np.inf, -np.inf):
            for position in (0, streaming.CHUNK - 1, streaming.CHUNK, 3 * streaming.CHUNK - 1):
                stored = many.astype(dtype)
                stored.flat[position] = bad
                assert as_float32(stored) is None


def test_halves_are_written_into_an_array_of_the_caller() -> None:
    out = np.full(3, np.nan, np.float32)
    assert as_float32(np.array([1, -2, 65504], np.float16), out) is out
    assert list(out) == [1, -2, 65504]


@pytest.mark.slow
def test_halves_below_the_smallest_normal_single_survive_tensorflows_threads() -> None:
    """TensorFlow's threads take operands that small for zero."""
    import tensorflow as tf

    halves = np.arange(1, 1024, dtype=np.int16).view(np.float16)
    (singles,) = tf.data.Dataset.from_generator(
        lambda: iter([as_float32(halves)]),
        output_signature=tf.TensorSpec((1023,), tf.float32),
    )
    np.testing.assert_array_equal(singles.numpy(), np.arange(1, 1024) * 2.0**-24)
