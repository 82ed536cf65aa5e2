"""VGG16 in float32 on a CPU, by ncnn, which computes 3 x 3 convolutions by Winograd's algorithm.

The algorithm needs down to a quarter of the multiplications. TensorFlow does not use it on a CPU.
The maps differ from TensorFlow's by rounding only.

Source: Lavin, Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from bilinear_cli.errors import BilinearError
from bilinear_cli.machine import n_cpus
from bilinear_cli.messages import reason_of
from bilinear_cli.networks.vgg16 import graph_function, layers_up_to, mean_colour

FLOAT32 = np.uint32(0).tobytes()  # stands before each kernel that is stored in float32
NARROW_TYPES = ("use_fp16", "use_bf16", "use_int8")  # beginnings of ncnn's options


def load_winograd(
    tensors: Mapping[str, np.ndarray], layer: str
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return VGG16 up to a layer, as `load_backbone` does, computed by ncnn.

    The maps of a photo are bitwise identical for any batch and any number of threads.

    Raises:
        BilinearError: ncnn cannot load the network.
        UsageError: the layer is unknown.
    """
    network = build_winograd(tensors, layers_up_to(layer))
    return graph_function(partial(run_winograd, network, layer), layer)


def build_winograd(tensors: Mapping[str, np.ndarray], names: Sequence[str]) -> Any:
    """Return an `ncnn.Net` of these layers, or raise a BilinearError."""
    import ncnn

    network = ncnn.Net()
    for name in dir(network.opt):
        if name.startswith(NARROW_TYPES):
            setattr(network.opt, name, False)
    network.opt.use_vulkan_compute = False
    network.opt.num_threads = n_cpus()
    try:
        # Written anew in each run, which takes 0.05 s. A file that is not kept cannot be damaged.
        with tempfile.TemporaryDirectory(prefix="bilinear-") as folder:
            structure, weights = Path(folder) / "vgg16.param", Path(folder) / "vgg16.bin"
            structure.write_text(network_structure(tensors, names), encoding="utf-8")
            _write_weights(weights, tensors, names)
            if network.load_param(str(structure)) or network.load_model(str(weights)):
                raise BilinearError(
                    f"ncnn cannot load VGG16 from {folder}. Use --engine tensorflow. On Windows, "
                    "ncnn cannot read a path with characters other than ASCII: set TEMP to another."
                )
    except OSError as error:
        raise BilinearError(
            f"cannot write VGG16's weights for ncnn to {tempfile.gettempdir()}: "
            f"{reason_of(error)}. Free some space, or use --engine tensorflow."
        ) from error
    return network


def network_structure(tensors: Mapping[str, np.ndarray], names: Sequence[str]) -> str:
    """Return ncnn's text file of these layers.

    A line has the layer's type and name, the numbers of its inputs and outputs, their names, and
    parameters `id=value`.
    """
    lines = ["Input photo 0 1 photo"]
    for before, name in zip(["photo", *names], names, strict=False):
        if name.endswith("pool"):  # maximum, 2 x 2, stride 2, without padding
            lines.append(f"Pooling {name} 1 1 {before} {name} 0=0 1=2 2=2 5=1")
        else:  # channels, 3 x 3, padding of 1, with a bias, number of weights, with a ReLU
            kernel = tensors[f"{name}/kernel"]
            parameters = f"0={kernel.shape[-1]} 1=3 4=1 5=1 6={kernel.size} 9=1"
            lines.append(f"Convolution {name} 1 1 {before} {name} {parameters}")
    return "\n".join(["7767517", f"{len(lines)} {len(lines)}", *lines, ""])


def _write_weights(path: Path, tensors: Mapping[str, np.ndarray], names: Sequence[str]) -> None:
    """Write ncnn's file of weights."""
    with path.open("wb") as file:
        for name in names:
            if not name.endswith("pool"):
                kernel = tensors[f"{name}/kernel"].transpose(3, 2, 0, 1)  # out, in, height, width
                file.write(FLOAT32 + kernel.tobytes() + tensors[f"{name}/bias"].tobytes())


def run_winograd(network: Any, layer: str, photos: np.ndarray) -> np.ndarray:
    """Return the float32 maps of uint8 RGB photos (batch, height, width, 3), or a MemoryError."""
    import ncnn

    mean = mean_colour()[::-1].tolist()
    height, width = photos.shape[1:3]
    maps = []
    for photo in np.ascontiguousarray(photos):  # from_pixels ignores strides
        # It copies, too. A Mat made from an array would borrow memory and not keep it alive.
        pixels = ncnn.Mat.from_pixels(photo, ncnn.Mat.PixelType.PIXEL_RGB2BGR, width, height)
        pixels.substract_mean_normalize(mean, [])
        extractor = network.create_extractor()
        extractor.input("photo", pixels)
        failed, output = extractor.extract(layer)
        if failed:
            raise MemoryError("ncnn cannot allocate its maps")
        maps.append(np.array(output).transpose(1, 2, 0))
    return np.stack(maps)
