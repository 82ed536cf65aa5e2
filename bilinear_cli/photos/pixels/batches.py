"""Batches of photos, read ahead in threads, and stacked for a network."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np

from bilinear_cli.errors import BadPhotoError
from bilinear_cli.machine import n_cpus
from bilinear_cli.photos.pixels.images import DecodedPhoto

T = TypeVar("T")
P = TypeVar("P")

BATCHES_AHEAD = 2


def stack_batch(
    batch: Sequence[DecodedPhoto | BadPhotoError], sizes: Sequence[int], batch_size: int
) -> dict[int, np.ndarray]:
    """Return size -> uint8 (batch_size, size, size, 3); bad and missing photos are black."""
    arrays = {size: np.zeros((batch_size, size, size, 3), np.uint8) for size in sizes}
    for i, photo in enumerate(batch):
        if not isinstance(photo, BadPhotoError):
            for array, pixels in zip(arrays.values(), photo.pixels, strict=True):
                array[i] = pixels
    return arrays


def read_batches(
    items: Iterable[T], batch_size: int, read: Callable[[T], P]
) -> Iterator[list[P | BadPhotoError]]:
    """Call `read` in threads, for the items of two batches ahead.

    Yields:
        For each of `batch_size` items (of fewer at the end) the result, or its BadPhotoError.
    """

    def attempt(item: T) -> P | BadPhotoError:
        try:
            return read(item)
        except BadPhotoError as error:
            return error

    pool = ThreadPoolExecutor(n_cpus())
    try:
        pending: deque[list[Future]] = deque()
        iterator = iter(items)
        while batch := [*islice(iterator, batch_size)]:
            pending.append([pool.submit(attempt, item) for item in batch])
            if len(pending) > BATCHES_AHEAD:
                yield [future.result() for future in pending.popleft()]
        for futures in pending:
            yield [future.result() for future in futures]
    finally:
        pool.shutdown(cancel_futures=True)
