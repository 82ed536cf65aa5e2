"""The network and the poolings of its maps, compiled into one graph."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from bilinear_cli.errors import BilinearError, UsageError
from bilinear_cli.extraction.job import PooledRows, Shapes
from bilinear_cli.messages import one_line
from bilinear_cli.networks.network import Forward, split_outputs
from bilinear_cli.poolings.functions import pool_function
from bilinear_cli.poolings.registry import check_class_token, storage_dtype
from bilinear_cli.recipe import View, distinct_sizes

Compute = Callable[[Mapping[int, np.ndarray]], PooledRows]

# No `if` or loop depends on a tensor, so that nothing must be translated: this is much sooner.
_graph = partial(tf.function, autograph=False)


def count_channels(forward: Forward, size: int, specs: Iterable[str] = ()) -> int:
    """Return the number of channels of the network's maps of photos of this size.

    Raises:
        UsageError: the photos are too small, or poolings need a class token that is missing.
    """
    signature = tf.TensorSpec((1, size, size, 3), tf.uint8)
    try:
        outputs = _graph(forward).get_concrete_function(signature).structured_outputs
    except BilinearError:  # of an ONNX network
        raise
    except ValueError as error:  # from a layer
        message = f"the network cannot take photos of {size} pixels: {one_line(error)[:200]}"
        raise UsageError(message) from error
    maps, class_token = split_outputs(outputs)
    check_class_token(specs, class_token is not None)
    if not all(maps.shape):
        raise UsageError(f"maps of photos of {size} pixels are empty. Use a larger --image-size.")
    return maps.shape[-1]


def compile_pooling(
    forward: Forward,
    specs: Sequence[str],
    batch_size: int,
    views: Sequence[View],
    parameters: Mapping[str, np.ndarray] | None = None,
) -> tuple[Compute, Shapes]:
    """Compile the network and the poolings into one graph for each size of photos.

    Args:
        forward: as `Network.load` returns it.
        batch_size: photos in every batch.

    Returns:
        A function, size -> uint8 photos -> spec -> rows in the stored dtype, all views of a photo
        together; and spec -> shape of a row.

    Raises:
        UsageError: rows of views of several sizes would differ in shape.
    """
    pool = _pool_all(specs, parameters or {})
    graphs: dict[int, Callable[..., Any]] = {}
    shapes: Shapes = {}

    def pool_photos(photos: tf.Tensor) -> dict[str, tf.Tensor]:
        return pool(*split_outputs(forward(photos)))

    for size in distinct_sizes(views):
        signature = [tf.TensorSpec((batch_size, size, size, 3), tf.uint8)]
        graphs[size] = _graph(pool_photos, input_signature=signature).get_concrete_function()
        for spec, x in graphs[size].structured_outputs.items():  # type: ignore[attr-defined]
            if shapes.setdefault(spec, tuple(x.shape[1:])) != tuple(x.shape[1:]):
                raise UsageError(f"rows of {spec} differ in shape between --scales. Use one size.")

    def compute(photos: Mapping[int, np.ndarray]) -> PooledRows:
        with _graph_errors(batch_size):
            by_view = [graphs[x.size](tf.constant(x.apply(photos[x.size]))) for x in views]
            rows = {spec: np.stack([view[spec] for view in by_view], axis=1) for spec in specs}
        return {spec: x.reshape(-1, *shapes[spec]) for spec, x in rows.items()}

    return compute, shapes


@contextmanager
def _graph_errors(batch_size: int) -> Iterator[None]:
    """Turn known errors of a graph into errors of one line that say what to do."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        batch = f"--batch-size {batch_size // 2}" if batch_size > 1 else "a smaller --image-size"
        raise BilinearError(
            f"not enough memory for {batch_size} photos at a time. End other programs and run the "
            f"same command again, or start extract again with --overwrite and {batch}."
        ) from error
    except tf.errors.InvalidArgumentError as error:
        if "SelfAdjointEig" not in error.message:
            raise
        raise BilinearError(
            "matrix-sqrt is not defined: the maps of a photo are not finite. If you used "
            "--precision float16, start again with --overwrite and --precision float32."
        ) from error


def compile_maps(
    specs: Sequence[str], shape: tuple[int, ...], parameters: Mapping[str, np.ndarray]
) -> tuple[Callable[[np.ndarray], PooledRows], Shapes]:
    """Compile the poolings of stored maps of shape (height, width, channels).

    Returns:
        A function, float16 or float32 maps (batch, *shape) -> spec -> rows in the stored dtype;
        and spec -> shape of a row.
    """
    pool = _pool_all(specs, parameters)
    graph = _graph(pool, input_signature=[tf.TensorSpec((None, *shape), tf.float32)])
    outputs = graph.get_concrete_function().structured_outputs

    def compute(maps: np.ndarray) -> PooledRows:
        return {spec: x.numpy() for spec, x in graph(maps.astype(np.float32)).items()}

    return compute, {spec: tuple(x.shape[1:]) for spec, x in outputs.items()}


def _pool_all(
    specs: Sequence[str], parameters: Mapping[str, np.ndarray]
) -> Callable[..., dict[str, tf.Tensor]]:
    """Return a function, maps and class tokens or None -> spec -> rows in the stored dtype."""
    functions = {spec: pool_function(spec, parameters) for spec in specs}

    def pool(maps: tf.Tensor, class_token: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        maps = tf.cast(maps, tf.float32)
        rows = {spec: function(maps, class_token) for spec, function in functions.items()}
        return {spec: tf.cast(x, storage_dtype(x.shape[1:])) for spec, x in rows.items()}

    return pool
