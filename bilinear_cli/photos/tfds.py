"""Sets of tensorflow-datasets: their encoded photos, with the folders to write them to."""

import os
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import Any

from bilinear_cli.errors import BilinearError

SUFFIXES = {b"\x89P": ".png", b"GI": ".gif", b"BM": ".bmp", b"RI": ".webp"}  # otherwise .jpg


def open_dataset(name: str) -> tuple[str, int, Iterator[tuple[str, bytes]]]:
    """Open a set in `$TFDS_DATA_DIR`, and download it first if the library can.

    Args:
        name: `NAME`, `NAME/CONFIG` or `NAME:VERSION`, as tensorflow-datasets knows it.

    Returns:
        The full name, fit for a file; the number of photos; the path and the content of each
        photo. Paths start with `train/` and `test/` if the set has both splits; `validation` is
        the test split of a set without `test`.

    Raises:
        BilinearError: the library is not installed, or has no such set with an image and a label.
    """
    builder = _prepare(name)
    n_photos = {split: info.num_examples for split, info in builder.info.splits.items()}
    splits = {"train": "train", "test" if "test" in n_photos else "validation": "test"}
    folders = {split: folder for split, folder in splits.items() if split in n_photos}
    total = sum(n_photos[split] for split in folders)
    return builder.info.full_name.replace("/", "-"), total, _photos(builder, folders)


def _prepare(name: str) -> Any:
    """Return the builder of a set that is downloaded and has images with labels."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise BilinearError("for tfds:NAME install the extra: pip install '.[tfds]'") from error
    try:
        with redirect_stdout(sys.stderr):  # the library prints what it downloads
            builder = tfds.builder(name, data_dir=os.environ.get("TFDS_DATA_DIR"))
            builder.download_and_prepare()
    except Exception as error:  # for a wrong name, no network or a full disk it raises nearly any
        reason = next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)
        raise BilinearError(f"tensorflow-datasets cannot load {name!r}: {reason}") from error
    features = builder.info.features or {}
    types = {"image": tfds.features.Image, "label": tfds.features.ClassLabel}
    if not all(key in features and isinstance(features[key], types[key]) for key in types):
        raise BilinearError(f"tfds:{name} has no 'image' with a class 'label'")
    return builder


def _photos(builder: Any, folders: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    """Yield path and content of the photos of each split in `folders` (split -> folder)."""
    import tensorflow_datasets as tfds

    class_name = builder.info.features["label"].int2str
    for split, folder in folders.items():
        examples = builder.as_dataset(
            split=split,
            decoders={"image": tfds.decode.SkipDecoding()},
            read_config=tfds.ReadConfig(interleave_cycle_length=1),  # in the order on disk
        )
        for i, example in enumerate(examples.as_numpy_iterator()):
            content, label = example["image"], example["label"]
            if label < 0:
                raise BilinearError(f"{builder.info.full_name} has no labels in its split {split}")
            file = f"{split}-{i:07d}{SUFFIXES.get(content[:2], '.jpg')}"
            path = [folder] if len(folders) == 2 else []
            yield "/".join([*path, class_name(label).replace("/", "-"), file]), content
