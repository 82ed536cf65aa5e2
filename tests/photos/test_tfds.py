"""Tests of sets from tensorflow-datasets, with a small one that is built here."""

import io
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import Mock

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from support.errors import raises

from bilinear_cli.errors import BilinearError
from bilinear_cli.photos.photo_set import PhotoSet, load_photo_set
from bilinear_cli.photos.pixels.images import read_photo

pytestmark = pytest.mark.slow  # TensorFlow and its datasets take seconds to import
BIRDS = ("wren", "snow/bunting")


def encoded(seed: int, suffix: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, suffix)
    return file.getvalue()


class TinyBirds(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Photos 0 to 5, of the two birds in turn, in the splits of `photos_of`."""

    VERSION = tfds.core.Version("1.2.0")
    pkg_dir_path = Path(__file__).parent
    photos_of: ClassVar[dict[str, range]] = {"train": range(4), "test": range(4, 6)}
    photos: ClassVar[list[bytes]] = [encoded(i) for i in range(6)]
    unlabelled = False

    def _info(self) -> Any:
        features = {
            "image": tfds.features.Image(),
            "label": tfds.features.ClassLabel(names=BIRDS),
            "note": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, _: Any) -> dict[str, Any]:
        return {split: self._generate_examples(i) for split, i in self.photos_of.items()}

    def _generate_examples(self, indices: range) -> Iterator[tuple[int, dict[str, Any]]]:
        for i in indices:
            label = -1 if self.unlabelled else i % 2
            yield i, {"image": io.BytesIO(self.photos[i]), "label": label, "note": "x"}


@pytest.fixture(autouse=True)
def _folders_and_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse = Mock(side_effect=OSError("the network was asked for"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("BILINEAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """Return the folder that the set's photos are written to; it does not exist yet."""
    return tmp_path / "cache" / "tfds" / "tiny_birds-1.2.0"


def prepare(tmp_path: Path, **changes: Any) -> None:
    builder = type("TinyBirds", (TinyBirds,), changes, skip_registration=True)
    builder(data_dir=tmp_path / "tfds").download_and_prepare()


def prepare_and_load(tmp_path: Path, split_seed: int = 0, **changes: Any) -> PhotoSet:
    prepare(tmp_path, **changes)
    return load_photo_set("tfds:tiny_birds", split_seed=split_seed)


def photos(photo_set: PhotoSet) -> set[tuple[bytes, str, str]]:
    """Return (bytes, class, split) of each photo."""
    names = [photo_set.class_names[label] for label in photo_set.labels]
    data = [(photo_set.root / path).read_bytes() for path in photo_set.paths]
    return set(zip(data, names, photo_set.split.tolist(), strict=True))


def test_labels_split_and_bytes_are_the_sets_own(tmp_path: Path, unpacked: Path) -> None:
    photo_set = prepare_and_load(tmp_path)
    assert (photo_set.kind, photo_set.name) == ("tfds", "tiny_birds-1.2.0")
    assert photo_set.spec == "tfds:tiny_birds"
    assert photo_set.root == unpacked.resolve()
    assert photo_set.class_names == ("snow-bunting", "wren")
    assert photo_set.split_seed is None
    assert photos(photo_set) == {
        (encoded(i), ("wren", "snow-bunting")[i % 2], "train" if i < 4 else "test")
        for i in range(6)
    }


def test_the_photos_are_written_once(tmp_path: Path) -> None:
    prepare(tmp_path)
    steps: list[tuple[int, int]] = []
    first = load_photo_set("tfds:tiny_birds", progress=lambda *step: steps.append(step))
    assert steps == [(done, 6) for done in range(1, 7)]
    (first.root / first.paths[0]).write_bytes(b"a mark")

    again = load_photo_set("tfds:tiny_birds:1.2.0", progress=lambda *step: steps.append(step))
    assert len(steps) == 6
    assert (again.root / again.paths[0]).read_bytes() == b"a mark"
    assert (again.paths == first.paths).all()


def test_validation_photos_are_test_photos_where_there_are_none(tmp_path: Path) -> None:
    splits = {"train": range(4), "validation": range(4, 6)}
    photo_set = prepare_and_load(tmp_path, photos_of=splits)
    tested = {data for data, _, split in photos(photo_set) if split == "test"}
    assert tested == {encoded(4), encoded(5)}


def test_a_set_without_a_split_gets_one(tmp_path: Path) -> None:
    photo_set = prepare_and_load(tmp_path, split_seed=3, photos_of={"train": range(6)})
    assert photo_set.split_seed == 3
    assert sorted(photo_set.split) == ["test"] * 2 + ["train"] * 4
    assert {data for data, _, _ in photos(photo_set)} == {encoded(i) for i in range(6)}


@pytest.mark.parametrize("suffix", ["bmp", "gif", "jpeg", "png", "tiff", "webp"])
def test_no_kind_of_photo_is_lost(tmp_path: Path, suffix: str) -> None:
    photo_set = prepare_and_load(tmp_path, photos=[encoded(i, suffix.upper()) for i in range(6)])
    assert len(photo_set) == 6
    assert read_photo(photo_set.root / photo_set.paths[0], [8])[0].shape == (8, 8, 3)


def test_what_the_library_prints_goes_to_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    # It is not prepared yet.
    monkeypatch.setattr(tfds, "builder", lambda _, data_dir: TinyBirds(data_dir=data_dir))
    load_photo_set("tfds:tiny_birds")
    out, err = capsys.readouterr()
    assert out == ""
    assert str(tmp_path / "tfds") in err


@pytest.mark.parametrize(
    "name",
    [
        *("no_such_set", "tiny_birds:9.9.9", "tiny_birds/no_such_config", "mnist:0.0.9"),
        *("mnist/colour=red", "no such name", "", "huggingface:no_such_set"),
    ],
)
def test_an_unknown_set(tmp_path: Path, name: str) -> None:
    prepare(tmp_path)
    with raises(BilinearError, "tensorflow-datasets", repr(name)):
        load_photo_set(f"tfds:{name}")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("reason", ["no route to host\nand more", "\n 404"])
def test_a_failed_download(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    error = tfds.download.DownloadError(reason)
    monkeypatch.setattr(tfds, "builder", Mock(side_effect=error))
    with raises(BilinearError, "tensorflow-datasets", "'tiny_birds'", reason.split("\n")[0]):
        load_photo_set("tfds:tiny_birds")


def test_a_set_without_an_image_and_a_class_is_refused(tmp_path: Path) -> None:
    def text_only(self: Any) -> Any:
        features = tfds.features.FeaturesDict({"image": tfds.features.Text(), "label": np.int64})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def examples(_: Any, indices: range) -> Iterator[tuple[int, dict[str, Any]]]:
        for i in indices:
            yield i, {"image": "a wren", "label": i}

    with raises(BilinearError, "tfds:tiny_birds", "'image'", "'label'"):
        prepare_and_load(tmp_path, _info=text_only, _generate_examples=examples)


def test_photos_without_a_label_are_refused_and_nothing_is_left(
    tmp_path: Path, unpacked: Path
) -> None:
    with raises(BilinearError, "tiny_birds/1.2.0", "train"):
        prepare_and_load(tmp_path, unlabelled=True)
    assert list(unpacked.parent.iterdir()) == []


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with raises(BilinearError, "bilinear-cli[tfds]"):
        load_photo_set("tfds:tiny_birds")
