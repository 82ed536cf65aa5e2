"""What all tests share: a cache of their own, and photos made on the spot."""

import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # before anything imports TensorFlow

import hypothesis
import numpy as np
import pytest
from PIL import Image

from bilinear_cli.features.weights import Weights, load_weights

# A shell's job in the background ignores ctrl-C, and so would the commands that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

CACHE_BEFORE = os.environ.get("BILINEAR_CACHE")

# TensorFlow's first call is slow, and a test should fail for everyone or for no one.
hypothesis.settings.register_profile(
    "tests", deadline=None, derandomize=True, database=None, max_examples=30
)
hypothesis.settings.load_profile("tests")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests, and the processes they start, away from the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BILINEAR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    """Undo what a command does to the program's logger, whose lines later tests read."""
    logger = logging.getLogger("bilinear_cli")
    level, handlers = logger.level, logger.handlers
    yield
    logger.setLevel(level)
    logger.handlers = handlers


@pytest.fixture
def real_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a test the user's own cache, where the real weights are or will be."""
    _users_cache(monkeypatch)


@pytest.fixture(scope="session")
def real_weights(_own_cache: None) -> Weights:
    """Return VGG16's published weights; what is made of them stays in the tests' own cache."""
    with pytest.MonkeyPatch.context() as patch:
        _users_cache(patch)
        return load_weights()


def _users_cache(patch: pytest.MonkeyPatch) -> None:
    if CACHE_BEFORE is None:
        patch.delenv("BILINEAR_CACHE")
    else:
        patch.setenv("BILINEAR_CACHE", CACHE_BEFORE)


MakePhoto = Callable[..., Path]
ClassFolders = Callable[[Path, Mapping[str, int | Sequence[str]]], Path]


@pytest.fixture
def make_photo() -> MakePhoto:
    """Return make_photo(path, size=(32, 24), seed=0, colour=None): blocks of noise, or one colour.

    The suffix is the format; folders are made as needed; photos of two seeds differ.
    """

    def make(
        path: Path,
        size: tuple[int, int] = (32, 24),
        seed: int = 0,
        colour: str | tuple[int, ...] | None = None,
    ) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
        image = Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST)
        (Image.new("RGB", size, colour) if colour else image).save(path)
        return path

    return make


@pytest.fixture
def class_folders(make_photo: MakePhoto) -> ClassFolders:
    """Return class_folders(folder, {"train/wren": 3, "test/wren": ["a b.JPG"]}) -> folder.

    A number n stands for 0.png, ..., n-1.png. No two photos are the same.
    """

    def make(folder: Path, classes: Mapping[str, int | Sequence[str]]) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        seed = 0
        for name, photos in classes.items():
            for photo in [f"{i}.png" for i in range(photos)] if isinstance(photos, int) else photos:
                make_photo(folder / name / photo, seed=seed)
                seed += 1
        return folder

    return make
