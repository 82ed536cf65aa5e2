"""A set of tensorflow-datasets -> a folder of class folders in the cache.

The encoded photos are written out once, byte for byte, so that everything downstream (resuming,
checksums, pages that show photos) works on files alike. That costs their size on disk again.
"""

import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from bilinear_cli.errors import BilinearError
from bilinear_cli.files import atomic_write

KINDS = {b"\x89P": ".png", b"GI": ".gif", b"BM": ".bmp", b"RI": ".webp"}  # anything else: .jpg


def unpack(
    name: str, cache: Path, progress: Callable[[int, int], None] | None = None
) -> tuple[Path, str]:
    """Write the photos of a set into the cache, unless they are there.

    Args:
        name: as tensorflow-datasets knows it: `NAME`, `NAME/CONFIG` or `NAME:VERSION`; looked for
            in `$TFDS_DATA_DIR`, downloaded where the library can.
        cache: the parent of the folders that are made.
        progress: told (done, total) photos.

    Returns:
        The folder, with `train/` and `test/` where the set has both (a set with `validation` and
        no `test` is tested on that), and a name fit for files.

    Raises:
        BilinearError: the library is not installed, or has no such set with an image and a label.
    """
    builder = _builder(name)
    folder = cache / builder.info.full_name.replace("/", "-")
    try:
        if not folder.exists():
            with atomic_write(folder) as draft:
                draft.mkdir()
                _write(builder, draft, progress)
    except BilinearError:
        if not folder.is_dir():  # else another run was first: its photos are the same
            raise
    return folder, folder.name


def _builder(name: str) -> Any:
    """Return what the library knows of a set, once it is there and has images with labels."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise BilinearError("for tfds:NAME install the extra: pip install '.[tfds]'") from error
    try:
        with redirect_stdout(sys.stderr):  # the library prints what it downloads
            builder = tfds.builder(name, data_dir=os.environ.get("TFDS_DATA_DIR"))
            builder.download_and_prepare()
    except (
        tfds.core.DatasetNotFoundError,
        tfds.download.DownloadError,
        tfds.download.download_manager.NonMatchingChecksumError,
        AssertionError,  # photos that have to be fetched by hand; no such version
        ImportError,  # a set whose code needs another package
        OSError,  # no network, no room
        TypeError,  # no such argument of a set
        ValueError,  # no such configuration; no name at all
    ) as error:
        raise BilinearError(
            f"tensorflow-datasets has no {name!r} to give: {_first_line(error)}"
        ) from error
    features = builder.info.features or {}
    kinds = {"image": tfds.features.Image, "label": tfds.features.ClassLabel}
    if not all(key in features and isinstance(features[key], kinds[key]) for key in kinds):
        raise BilinearError(f"tfds:{name} has no 'image' with a class 'label'")
    return builder


def _write(builder: Any, folder: Path, progress: Callable[[int, int], None] | None) -> None:
    import tensorflow_datasets as tfds

    sizes = {part: info.num_examples for part, info in builder.info.splits.items()}
    parts = {"train": "train", "test": "test" if "test" in sizes else "validation"}
    parts = {ours: theirs for ours, theirs in parts.items() if theirs in sizes}
    total, done = sum(sizes[theirs] for theirs in parts.values()), 0
    class_name = builder.info.features["label"].int2str
    for ours, theirs in parts.items():
        encoded = builder.as_dataset(
            split=theirs,
            decoders={"image": tfds.decode.SkipDecoding()},
            read_config=tfds.ReadConfig(interleave_cycle_length=1),  # in the order on disk
        )
        for i, example in enumerate(encoded.as_numpy_iterator()):
            photo = example["image"]
            if example["label"] < 0:
                raise BilinearError(f"{builder.info.full_name} has no labels in its split {theirs}")
            label = class_name(example["label"]).replace("/", "-")
            above = folder / ours if len(parts) == 2 else folder
            path = above / label / f"{theirs}-{i:07d}{KINDS.get(photo[:2], '.jpg')}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(photo)
            done += 1
            if progress:
                progress(done, total)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
