"""The network and the poolings of its maps, compiled into one graph."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from bilinear_cli.errors import BilinearError, UsageError
from bilinear_cli.extraction.job import Rows, Shapes
from bilinear_cli.networks.load import Forward
from bilinear_cli.poolings.functions import pool_function
from bilinear_cli.poolings.registry import storage_dtype
from bilinear_cli.views import View, distinct_sizes

NOT_FINITE = (
    "a photo's maps are not finite, so that they have no matrix-sqrt: after --precision float16, "
    "begin again (--overwrite) with --precision float32"
)
Compute = Callable[[Mapping[int, np.ndarray]], Rows]


def count_channels(forward: Forward, size: int) -> int:
    """Return how many channels the network's maps of photos of this size have.

    Raises:
        UsageError: the photos are too small.
    """
    signature = tf.TensorSpec((1, size, size, 3), tf.uint8)
    try:
        maps = tf.function(forward).get_concrete_function(signature).structured_outputs
    except ValueError as error:  # a layer's
        message = " ".join(str(error).split())[:200]
        raise UsageError(f"the network does not take photos of {size} pixels: {message}") from error
    if not all(maps.shape):
        raise UsageError(f"nothing is left of photos of {size} pixels: give a larger --image-size")
    return maps.shape[-1]


def _out_of_memory(batch_size: int) -> str:
    message = f"the device has not the memory for {batch_size} photos at a time"
    if batch_size == 1:
        return f"{message}: take a smaller --image-size"
    return f"{message}: end what else runs, or begin again with --batch-size {batch_size // 2}"


def compile_pooling(
    forward: Forward,
    specs: Sequence[str],
    batch_size: int,
    views: Sequence[View],
    parameters: Mapping[str, np.ndarray] | None = None,
) -> tuple[Compute, Shapes]:
    """Compile the network and the poolings of its maps into one graph for each size of photos.

    Args:
        forward: uint8 photos (batch, size, size, 3) -> maps (batch, height, width, channels).
        specs: the poolings.
        batch_size: photos in a batch; every batch must have as many.
        views: how each photo is shown.
        parameters: what the poolings take beside the maps.

    Returns:
        A function, size -> uint8 photos (batch, size, size, 3) -> spec -> rows as they are stored,
        photo by photo and of each its views; and spec -> shape of a row.

    Raises:
        UsageError: rows of views of several sizes would differ in shape.
    """

    pool = _pool_all(specs, parameters or {})

    def pooled(photos: tf.Tensor) -> dict[str, tf.Tensor]:
        return pool(tf.cast(forward(photos), tf.float32))

    graphs: dict[int, Callable[..., Any]] = {}
    shapes: Shapes = {}
    for size in distinct_sizes(views):
        signature = [tf.TensorSpec((batch_size, size, size, 3), tf.uint8)]
        graph = tf.function(pooled, input_signature=signature).get_concrete_function()
        graphs[size] = graph
        for spec, x in graph.structured_outputs.items():
            if shapes.setdefault(spec, tuple(x.shape[1:])) != tuple(x.shape[1:]):
                raise UsageError(f"{spec} of photos of several sizes has several shapes")

    def compute(photos: Mapping[int, np.ndarray]) -> Rows:
        try:
            shown = [
                graphs[view.size](tf.constant(view.apply(photos[view.size]))) for view in views
            ]
        except tf.errors.ResourceExhaustedError as error:
            raise BilinearError(_out_of_memory(batch_size)) from error
        except tf.errors.InvalidArgumentError as error:
            if "SelfAdjointEig" not in error.message:
                raise
            raise BilinearError(NOT_FINITE) from error
        if len(views) == 1:
            return {spec: x.numpy() for spec, x in shown[0].items()}
        rows = {spec: np.stack([view[spec] for view in shown], axis=1) for spec in specs}
        return {spec: x.reshape(-1, *shapes[spec]) for spec, x in rows.items()}

    return compute, shapes


def compile_maps(
    specs: Sequence[str], shape: tuple[int, ...], parameters: Mapping[str, np.ndarray]
) -> tuple[Callable[[np.ndarray], Rows], Shapes]:
    """Compile the poolings of stored maps.

    Args:
        specs: the poolings.
        shape: of a map, (height, width, channels).
        parameters: what the poolings take beside the maps.

    Returns:
        A function, float16 or float32 maps (batch, *shape) -> spec -> rows as they are stored; and
        spec -> shape of a row.
    """
    pool = _pool_all(specs, parameters)
    graph = tf.function(pool, input_signature=[tf.TensorSpec((None, *shape), tf.float32)])
    outputs = graph.get_concrete_function().structured_outputs

    def compute(maps: np.ndarray) -> Rows:
        return {spec: x.numpy() for spec, x in graph(maps.astype(np.float32)).items()}

    return compute, {spec: tuple(x.shape[1:]) for spec, x in outputs.items()}


def _pool_all(
    specs: Sequence[str], parameters: Mapping[str, np.ndarray]
) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """Return a function, maps -> spec -> rows as they are stored."""
    functions = {spec: pool_function(spec, parameters) for spec in specs}

    def pool(maps: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = {spec: function(maps) for spec, function in functions.items()}
        return {spec: tf.cast(x, storage_dtype(x.shape[1:])) for spec, x in rows.items()}

    return pool
