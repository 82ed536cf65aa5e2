"""Time VGG16 by each engine, in each precision and by peers, as ratios to TensorFlow in float32.

`make bench` runs it. First the networks alone, on a batch from memory; then extraction from photos
on disk to features on disk, also relative to the same graph on batches from memory. All values are
medians of interleaved runs.
"""

import argparse
import platform
import re
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import onnx
import tensorflow as tf
from bench import seconds, vgg16_recipe
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from support.network import extract_photos

from bilinear_cli.extraction.graph import compile_pooling
from bilinear_cli.machine import n_cpus
from bilinear_cli.networks.backbone import load_backbone
from bilinear_cli.networks.network import Forward
from bilinear_cli.networks.vgg16 import layers_up_to
from bilinear_cli.networks.weights import Tensors
from bilinear_cli.photos.photo_set import PhotoSet, load_photo_set
from bilinear_cli.recipe import Recipe

NETWORKS = {  # the others are compared with the first
    "TensorFlow, float32": ("float32", "tensorflow"),
    "TensorFlow, bfloat16": ("bfloat16", "tensorflow"),
    "LiteRT, int8": ("int8", "tensorflow"),
    "ncnn, float32": ("float32", "ncnn"),
}
LAYER = "block5_conv3"
N_LARGE = 16  # photos of 12 megapixels
Run = Callable[[], object]


def main() -> None:
    """Run the benchmark and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="sample")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--limit", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    recipe, tensors = vgg16_recipe(("max", "bilinear"), options.image_size)
    size, n = recipe.image_size, recipe.batch_size
    batch = np.random.default_rng(0).integers(0, 256, (n, size, size, 3), np.uint8)
    forwards = {name: load_backbone(tensors, "vgg16", LAYER, *x) for name, x in NETWORKS.items()}
    print(f"{cpu_name()}, {n_cpus()} processors; {size} pixels, {n} photos per batch\n")

    networks = {name: compiled(forward, batch) for name, forward in forwards.items()}
    print_times("network alone, from memory", networks, options.rounds, n)
    photo_set = load_photo_set(options.data).limit(options.limit)
    with tempfile.TemporaryDirectory() as folder:
        large = large_photos(photo_set, Path(folder))
        for kind, photos in (("photos", photo_set), ("photos of 12 megapixels", large)):
            runs: dict[str, Run] = {}
            for name, (precision, engine) in NETWORKS.items():
                changed = replace(recipe, precision=precision, engine=engine)
                output = Path(folder) / "x.h5"
                disk, memory = extraction(photos, changed, forwards[name], batch, output)
                runs |= {name: disk, f"{name}, from memory": memory}
            print_times(f"extraction of {len(photos)} {kind}", runs, options.rounds, len(photos))
    # The threads of a peer slow down the others in the same process, so peers come last.
    first = next(iter(networks))
    peers = {"ONNX Runtime": onnxruntime_peer, "OpenVINO": openvino_peer}
    runs = {first: networks[first]}
    runs |= {f"{name}, float32": peer(tensors, batch) for name, peer in peers.items()}
    print_times("peers, network alone, from memory", runs, options.rounds, n)


def extraction(
    photos: PhotoSet, recipe: Recipe, forward: Forward, batch: np.ndarray, output: Path
) -> tuple[Run, Run]:
    """Return a call of extraction, and one of its graph on as many batches from memory."""
    n = recipe.batch_size
    pool, _ = compile_pooling(forward, recipe.specs, n, recipe.parsed_views)
    n_batches = -(-len(photos) // n)
    return (
        lambda: extract_photos(photos, recipe, output, lambda: forward, overwrite=True),
        lambda: [pool({recipe.image_size: batch}) for _ in range(n_batches)],
    )


def print_times(title: str, runs: dict[str, Run], rounds: int, n_photos: int) -> None:
    """Print ms per photo and the ratio to the first run, and to a run from memory if there is one.

    The first round is for warming up.
    """
    times = np.array([[seconds(run) for run in runs.values()] for _ in range(rounds + 1)][1:])
    columns = dict(zip(runs, times.T, strict=True))
    first = next(iter(columns.values()))
    print(title)
    for name, x in columns.items():
        line = f"  {name:<36}{1000 * median(x) / n_photos:8.1f} ms  {median(x / first):.3f}"
        if (memory := columns.get(f"{name}, from memory")) is not None:
            line += f"  {median(x / memory):.3f} of from memory"
        print(line, flush=True)
    print()


def compiled(forward: Callable[[tf.Tensor], tf.Tensor], batch: np.ndarray) -> Run:
    """Return a call of a network on the batch."""
    signature = [tf.TensorSpec(batch.shape, tf.uint8)]
    graph = tf.function(forward, input_signature=signature).get_concrete_function()
    return lambda: graph(tf.constant(batch)).numpy()


def onnx_vgg16(tensors: Tensors) -> onnx.ModelProto:
    """Return VGG16 up to `LAYER` in ONNX: float32 photos (batch, 3, height, width), 0 to 255."""
    nodes, initializers, x = [], [], "photos"
    for name in layers_up_to(LAYER):
        if name.endswith("pool"):
            pool = helper.make_node("MaxPool", [x], [name], kernel_shape=[2, 2], strides=[2, 2])
            nodes.append(pool)
        else:
            kernel = tensors[f"{name}/kernel"].transpose(3, 2, 0, 1).copy()
            initializers += [
                numpy_helper.from_array(kernel, f"{name}/kernel"),
                numpy_helper.from_array(tensors[f"{name}/bias"], f"{name}/bias"),
            ]
            inputs = [x, f"{name}/kernel", f"{name}/bias"]
            nodes.append(helper.make_node("Conv", inputs, [f"{name}/sum"], pads=[1, 1, 1, 1]))
            nodes.append(helper.make_node("Relu", [f"{name}/sum"], [name]))
        x = name
    photos = helper.make_tensor_value_info("photos", TensorProto.FLOAT, ["n", 3, "h", "w"])
    maps = helper.make_tensor_value_info(x, TensorProto.FLOAT, ["n", 512, "y", "x"])
    graph = helper.make_graph(nodes, "vgg16", [photos], [maps], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def onnxruntime_peer(tensors: Tensors, batch: np.ndarray) -> Run:
    """Return a call of ONNX Runtime on the batch."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        onnx_vgg16(tensors).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(None, {"photos": channels_first(batch)})


def openvino_peer(tensors: Tensors, batch: np.ndarray) -> Run:
    """Return a call of OpenVINO on the batch, in float32."""
    import openvino

    core = openvino.Core()
    model = core.read_model(onnx_vgg16(tensors).SerializeToString())
    model.reshape([batch.shape[0], 3, *batch.shape[1:3]])
    network = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda: network({"photos": channels_first(batch)})


def channels_first(batch: np.ndarray) -> np.ndarray:
    """Return photos as float32 (batch, 3, height, width)."""
    return np.ascontiguousarray(batch.transpose(0, 3, 1, 2), np.float32)


def large_photos(photo_set: PhotoSet, folder: Path) -> PhotoSet:
    """Write photos of 12 megapixels with the noise of a camera, and return the set of them."""
    rng = np.random.default_rng(0)
    for i, path in enumerate(photo_set.paths[:N_LARGE].tolist()):
        with Image.open(photo_set.root / path) as image:
            pixels = np.asarray(image.convert("RGB").resize((4000, 3000)), np.int16)
        noisy = (pixels + rng.normal(0, 5, pixels.shape)).clip(0, 255).astype(np.uint8)
        file = folder / "large" / f"class{i % 2}" / f"{i}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(file, quality=92)
    return load_photo_set(str(folder / "large"))


def cpu_name() -> str:
    """Return the name of the processor, and which of its instructions matter here."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return platform.processor()
    name = re.search(r"model name\s*: (.*)", text)
    flags = {*re.findall(r"\b(avx2|avx512f|avx512_vnni|avx512_bf16|amx_bf16)\b", text)}
    return f"{name[1] if name else platform.machine()} ({', '.join(sorted(flags))})"


if __name__ == "__main__":
    main()
