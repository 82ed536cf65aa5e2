"""The kinds of photo sets. Each kind is one function that lists the photos of a `--data` spec.

A new kind is such a function and an entry of `KINDS`. It first writes photos that are not files
yet to the cache with `write_photos`, because resuming, checksums and pages need files.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

from bilinear_cli.errors import BilinearError, UsageError
from bilinear_cli.files import atomic_write, portable_name
from bilinear_cli.home import CACHE_ADVICE, cache_folder
from bilinear_cli.messages import abbreviate, reason_of
from bilinear_cli.photos import sample
from bilinear_cli.photos.folders.class_folders import read_class_folders
from bilinear_cli.photos.folders.walk import log_left_out
from bilinear_cli.photos.lists.manifest import PhotoRecord, read_manifest
from bilinear_cli.progress import Progress
from bilinear_cli.validation import validate_choice

log = logging.getLogger(__name__)

TFDS_SUFFIXES = {b"\x89P": ".png", b"GI": ".gif", b"BM": ".bmp", b"RI": ".webp"}  # otherwise .jpg


class ListingOptions(NamedTuple):
    """How to list a photo set, see `load_photo_set`."""

    class_level: int | None = None
    columns: Mapping[str, str] | None = None
    progress: Progress | None = None


class Listing(NamedTuple):
    """The photos of a set."""

    name: str  # short, fit for a file name
    root: Path  # the folder that paths are relative to
    rows: list[PhotoRecord]
    class_names: tuple[str, ...] = ()  # empty for the sorted labels
    left_out: Mapping[str, Sequence[str]] = {}  # reason -> paths that are not among the photos


def list_sample(spec: str, options: ListingOptions) -> Listing:
    """List the drawn sample: `sample`, followed by any of `:grey`, `:no-ink` and `:seed=N`."""
    drawing: dict = {"seed": 0, "ink": True, "grey": False}
    for word in spec.split(":")[1:]:
        key, equals, value = word.partition("=")
        validate_choice("option of the sample", key, ["grey", "no-ink", "seed"])
        if not (value.isdecimal() if key == "seed" else not equals):
            raise UsageError(
                f"cannot read {word!r} in {spec!r}: write, for example, sample:seed=1 or "
                "sample:grey"
            )
        if key == "seed":
            drawing["seed"] = int(value)
        else:
            drawing |= {"ink": False} if key == "no-ink" else {"grey": True}
    name = "-".join(f"{key}={value}" for key, value in drawing.items())
    folder, n_photos = cache_folder() / "sample" / name, sample.N_SPECIES * sample.N_DRAWINGS
    write_photos(folder, sample.drawings(**drawing), n_photos, options.progress)
    return Listing(spec.replace(":", "-"), folder, read_class_folders(folder, spec, 1).rows)


def list_tfds(spec: str, options: ListingOptions) -> Listing:
    """List a set of tensorflow-datasets: `tfds:` and `NAME`, `NAME/CONFIG` or `NAME:VERSION`.

    The library reads it from `$TFDS_DATA_DIR`, and downloads it first if it can. The encoded photos
    are copied byte for byte. Without `test`, the split `validation` is for testing.
    """
    builder = _open_dataset(spec.removeprefix("tfds:"))
    n_photos = {split: info.num_examples for split, info in builder.info.splits.items()}
    splits = {"train": "train", "test" if "test" in n_photos else "validation": "test"}
    folders = {split: folder for split, folder in splits.items() if split in n_photos}
    name, total = portable_name(builder.info.full_name), sum(n_photos[x] for x in folders)
    folder = cache_folder() / "tfds" / name
    write_photos(folder, _dataset_photos(builder, folders), total, options.progress)
    return Listing(name, folder, read_class_folders(folder, spec, 1).rows)


def _open_dataset(name: str) -> Any:
    """Return the builder of a set that is downloaded and has images with labels."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise BilinearError(
            "for tfds:NAME install the extra: pip install 'bilinear-cli[tfds]'"
        ) from error
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


def _dataset_photos(builder: Any, folders: dict[str, str]) -> Iterator[tuple[str, bytes]]:
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
            file = f"{split}-{i:07d}{TFDS_SUFFIXES.get(content[:2], '.jpg')}"
            path = [folder] if len(folders) == 2 else []
            yield "/".join([*path, portable_name(class_name(label)), file]), content


def write_photos(
    folder: Path, photos: Iterable[tuple[str, bytes]], n_photos: int, progress: Progress | None
) -> None:
    """Write photos into a folder of the cache, unless the folder exists.

    Args:
        folder: exists as soon as all its photos are written.
        photos: path below `folder` and content of each of `n_photos` files.

    Raises:
        BilinearError: the folder cannot be written.
    """
    if folder.exists():
        return
    try:
        with atomic_write(folder, advice=CACHE_ADVICE) as draft:
            draft.mkdir()
            for done, (path, content) in enumerate(photos, 1):
                (draft / path).parent.mkdir(parents=True, exist_ok=True)
                (draft / path).write_bytes(content)
                if progress:
                    progress(done, n_photos)
    except BilinearError:
        if not folder.is_dir():  # otherwise another run has written the same photos
            raise


def list_class_folders(spec: str, options: ListingOptions) -> Listing:
    """List a folder that has a folder for each class, see `read_class_folders`."""
    folder = Path(spec)
    rows, layout, left_out = read_class_folders(folder, spec, options.class_level)
    log.info("%s: %s", spec, layout)
    log_left_out(spec, left_out)
    return Listing(folder.resolve().name, folder, rows, left_out=left_out)


def list_cub(spec: str, _: ListingOptions) -> Listing:
    """List a folder in the layout of CUB-200-2011, or a subset of it with the official ids."""
    folder = Path(spec)
    tables = {
        name: _cub_table(folder / f"{name}.txt")
        for name in ("images", "classes", "image_class_labels", "train_test_split")
    }
    photos, classes, label_of, in_train = tables.values()
    for name in ("image_class_labels", "train_test_split"):
        if missing := photos.keys() - tables[name].keys():
            raise BilinearError(
                f"{folder / name}.txt lacks the photos {abbreviate(sorted(missing))}"
            )
    if missing := {label_of[i] for i in photos} - classes.keys():
        raise BilinearError(
            f"{folder / 'classes.txt'} lacks the classes {abbreviate(sorted(missing))}"
        )
    rows = [
        PhotoRecord(path, classes[label_of[i]], "train" if in_train[i] == "1" else "test")
        for i, path in photos.items()
    ]
    return Listing(folder.resolve().name, folder / "images", rows, tuple(classes.values()))


def _cub_table(path: Path) -> dict[str, str]:
    """Read lines of `id value`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return dict(line.strip().split(" ", 1) for line in lines if line.strip())
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise BilinearError(f"cannot read {path}: {reason_of(error)}") from error


def list_manifest(spec: str, options: ListingOptions) -> Listing:
    """List a CSV file, see `read_manifest`."""
    rows = read_manifest(Path(spec), options.columns)
    return Listing(Path(spec).stem, Path(spec).parent, rows)


# Kind -> whether a spec is of this kind, and the function that lists its photos. The first kind
# that matches is taken.
KINDS: dict[str, tuple[Callable[[str], bool], Callable[[str, ListingOptions], Listing]]] = {
    "sample": (lambda spec: spec.split(":")[0] == "sample", list_sample),
    "tfds": (lambda spec: spec.startswith("tfds:"), list_tfds),
    "cub": (lambda spec: (Path(spec) / "images.txt").is_file(), list_cub),
    "folders": (lambda spec: Path(spec).is_dir(), list_class_folders),
    "manifest": (lambda spec: Path(spec).is_file(), list_manifest),
}
