"""Photos -> maps of an ONNX network, by ONNX Runtime."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from bilinear_cli.errors import UsageError
from bilinear_cli.messages import one_line
from bilinear_cli.networks.onnx_maps import MapLayout, find_layout
from bilinear_cli.networks.onnx_model import OnnxModel, read_model
from bilinear_cli.networks.onnx_session import open_session, photo_feed
from bilinear_cli.recipe import Recipe

log = logging.getLogger(__name__)

LAST_LAYER = "last_hidden_state"  # what Hugging Face's exporters call it


class OnnxNetwork:
    """An ONNX network that is loaded up to one of its tensors.

    Attributes:
        model: the network.
        layer: the name of the tensor.
    """

    def __init__(self, model: OnnxModel, layer: str) -> None:
        self.model, self.layer = model, layer
        self._session = open_session(model.path, layer)
        # Dynamic quantisation takes its scales from the whole batch: rows would depend on it.
        self._batch_size = (
            1 if model.quantizes_dynamically else _fixed(self._session.get_inputs()[0].shape[0])
        )
        self._layouts: dict[int, tuple[tuple[int, ...], MapLayout]] = {}

    @property
    def provider(self) -> str:
        """What executes the graph, in ONNX Runtime's words, such as CPU or CUDA."""
        return self._session.get_providers()[0].removesuffix("ExecutionProvider")

    def layout(self, size: int) -> tuple[tuple[int, ...], MapLayout]:
        """Return the tensor's shape for one photo of this size, and where its maps are.

        Raises:
            UsageError: the graph cannot take this size, or the tensor has no maps.
        """
        if size not in self._layouts:
            shape = self.run_black_photo(size).shape
            layout = find_layout(shape, self.model.config, size)
            if not layout:
                raise UsageError(
                    f"{self.layer} of {self.model.path} has no maps: its shape is {shape} for a "
                    f"photo of {size} pixels. Choose another --layer; bilinear info "
                    f"{self.model.path} lists them."
                )
            if not self._batch_size and not self._takes_batches(size, shape):
                self._batch_size = 1
            self._layouts[size] = shape, layout
        return self._layouts[size]

    def run_black_photo(self, size: int) -> np.ndarray:
        """Return the tensor for one black photo, or raise a UsageError if the size is wrong."""
        fixed, preferred = (
            _fixed(self._session.get_inputs()[0].shape[2]),
            self.model.preprocessing.size,
        )
        if fixed not in (None, size):
            raise UsageError(
                f"{self.model.path} takes photos of {fixed} pixels only. Use --image-size {fixed}."
            )
        patch = self.model.patch_size
        if patch and size % patch and size != preferred:
            multiple = max(1, round(size / patch)) * patch
            raise UsageError(
                f"{self.model.path} divides photos into patches of {patch} pixels, and {size} is "
                f"not a multiple. Use --image-size {multiple}."
            )
        try:
            return self._run(np.zeros((1, size, size, 3), np.uint8))
        except MemoryError as error:
            advice = f"use --image-size {preferred}, the size of its publisher"
            if size == preferred:
                advice = "it may be damaged, or need a newer ONNX Runtime"
            raise UsageError(
                f"{self.model.path} cannot take photos of {size} pixels: {advice}. ONNX Runtime "
                f"says: {one_line(error)[:200]}"
            ) from error

    def _takes_batches(self, size: int, shape: tuple[int, ...]) -> bool:
        """Return whether the graph, which declares a free batch size, has one."""
        try:
            return self._run(np.zeros((2, size, size, 3), np.uint8)).shape == (2, *shape[1:])
        except MemoryError:
            return False

    def measure_memory(self, size: int) -> int:
        """Return the bytes that a photo of a batch takes, by a trial of four."""
        process = psutil.Process()
        before = process.memory_info().rss  # ONNX Runtime keeps what it has allocated
        self.layout(size)  # raises if the size is wrong
        self._run(np.zeros((4, size, size, 3), np.uint8))
        return max((process.memory_info().rss - before) // 4, size**2 * 3 * 4)

    def maps(self, photos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the maps and class tokens of uint8 photos, see `MapLayout.split`."""
        _, layout = self.layout(photos.shape[1])
        maps, class_token = layout.split(self._run(photos))
        return np.ascontiguousarray(maps), np.ascontiguousarray(class_token)

    def _run(self, photos: np.ndarray) -> np.ndarray:
        """Return the tensor, float32, for uint8 photos (batch, size, size, 3)."""
        n = self._batch_size or len(photos)
        padding = np.zeros((-len(photos) % n, *photos.shape[1:]), np.uint8)
        padded = np.concatenate([photos, padding])
        parts = [self._run_batch(padded[i : i + n]) for i in range(0, len(padded), n)]
        return np.concatenate(parts)[: len(photos)]

    def _run_batch(self, photos: np.ndarray) -> np.ndarray:
        try:
            feed = photo_feed(self._session, self.model, photos)
            (output,) = self._session.run([self.layer], feed)
            return np.atleast_1d(np.asarray(output, np.float32))
        except Exception as error:  # ONNX Runtime's own; after a first run only memory can fail
            raise MemoryError(str(error)) from error


def _fixed(dimension: int | str | None) -> int | None:
    """Return the length of a fixed dimension of the graph's input; others have names."""
    return dimension if isinstance(dimension, int) and dimension > 0 else None


def load_onnx(path: Path, recipe: Recipe) -> Callable[[Any], Any]:
    """Load an ONNX network up to the recipe's layer; log what executes it.

    Returns:
        A function as `Network.load` returns it.

    Raises:
        BilinearError: the network cannot be loaded.
        UsageError: it cannot take photos of this size, or the layer has no maps.
    """
    import tensorflow as tf

    network = OnnxNetwork(read_model(path), recipe.layer)
    network.layout(recipe.image_size)
    values = (network.provider, recipe.engine, recipe.batch_size)
    log.info("%s by %s, batch size %d", *values)

    def forward(photos: tf.Tensor) -> Any:
        shape, layout = network.layout(photos.shape[1])
        outputs = tf.numpy_function(network.maps, [photos], [tf.float32, tf.float32])
        trial = layout.split(np.zeros(shape, np.float32))
        shapes = [(photos.shape[0], *x.shape[1:]) for x in trial]
        maps, class_token = map(tf.ensure_shape, outputs, shapes)
        return (maps, class_token) if layout.has_class_token else maps

    return forward


def default_layer(model: OnnxModel, size: int) -> str:
    """Return the output of the graph that has maps of photos of this size.

    Raises:
        UsageError: no output has maps, or several.
    """
    session = open_session(model.path)
    layers: dict[str, tuple[Any, MapLayout | None]] = {}
    for output in sorted(session.get_outputs(), key=lambda output: output.name != LAST_LAYER):
        if "float" not in output.type:
            layers[output.name] = output.type, None
            continue
        network = OnnxNetwork(model, output.name)
        shape = network.run_black_photo(size).shape
        layout = find_layout(shape, model.config, size)
        if layout and output.name == LAST_LAYER:
            return LAST_LAYER
        layers[output.name] = shape, layout
    names = [name for name, (_, layout) in layers.items() if layout]
    if len(names) == 1:
        return names[0]
    shapes = ", ".join(f"{name} {shape}" for name, (shape, _) in layers.items())
    outputs = "several outputs with maps" if names else "no output with maps"
    raise UsageError(
        f"{model.path} has {outputs}: {shapes}. Choose a tensor with --layer; bilinear info "
        f"{model.path} lists them."
    )
