"""Stage 1: photos -> network -> poolings -> feature file."""

import logging
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import features as pillow_features

from bilinear_cli.data.dataset import Dataset
from bilinear_cli.data.images import read_batches, read_photo
from bilinear_cli.errors import BadPhotoError, BilinearError, FeatureFileError, some
from bilinear_cli.store import FeatureFile, FeatureWriter, create, partial_path

log = logging.getLogger(__name__)

PACKAGES = ("bilinear-cli", "tensorflow", "keras", "numpy", "h5py", "pillow")


@dataclass(frozen=True)
class Settings:
    """What decides the numbers of a feature file, beside the photos.

    Attributes:
        poolings: specs, in any order.
        layer: of the network, whose maps are pooled.
        image_size: width and height that photos are brought to, in pixels.
        resize: `squash`, `crop` or `pad`.
        precision: of the network: `float32`, `bfloat16` or `float16`.
        batch_size: photos that go through the network together.
        weights_sha256: of the network.
        backbone: its name.
    """

    poolings: tuple[str, ...]
    layer: str
    image_size: int
    resize: str
    precision: str
    batch_size: int
    weights_sha256: str
    backbone: str = "vgg16"


def settings_of(attributes: dict[str, Any], poolings: tuple[str, ...]) -> Settings:
    """Return the settings that a feature file with these root attributes was made with."""
    names = {field.name for field in fields(Settings)} - {"poolings"}
    return Settings(poolings=poolings, **{name: attributes[name] for name in names})


def stored_settings(output: Path, overwrite: bool) -> Settings | None:
    """Return what a file under this name, finished or not, was made with; None without one."""
    for path in (output, partial_path(output)):
        if path.exists() and not overwrite:
            with FeatureFile(path, allow_partial=True) as file:
                return settings_of(file.attributes, tuple(file.shapes))
    return None


def extract(
    dataset: Dataset,
    settings: Settings,
    output: Path,
    load_forward: Callable[[], Callable[[Any], Any]],
    *,
    attributes: dict[str, Any] | None = None,
    overwrite: bool = False,
    skip_bad: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the feature file of a photo set, or go on with one that was broken off.

    Args:
        dataset: the photos.
        settings: what to make of them.
        output: the file; until it is complete it is `partial_path(output)`.
        load_forward: called if there is something to do; returns the network: uint8 photos
            (batch, size, size, 3) -> float32 maps (batch, height, width, channels), in TensorFlow.
        attributes: more root attributes, to keep a record.
        overwrite: begin again, whatever is there.
        skip_bad: leave out what cannot be read as a photo instead of stopping there.
        progress: told (photos done, photos in all).

    Raises:
        BadPhotoError: a photo cannot be read; the rows before its batch are kept.
        FeatureFileError: a file is there and was made otherwise, or cannot be written.
    """
    if output.is_dir():
        raise FeatureFileError(f"{output} is a folder: give --output a file name")
    if output.exists() and not overwrite:
        with FeatureFile(output) as file:
            _check_same(file, dataset, settings, dataset.sha256())
        log.info("%s is complete: nothing to do (--overwrite begins again)", output)
        return
    from bilinear_cli.features.pooling import compile_pooling  # loads TensorFlow

    compute, shapes = compile_pooling(
        load_forward(), settings.poolings, settings.batch_size, settings.image_size
    )
    sha256 = dataset.sha256()
    with (
        _one_line(output),
        _writer(dataset, settings, output, shapes, sha256, attributes or {}, overwrite) as writer,
    ):
        _run(dataset, settings, writer, compute, sha256, skip_bad, progress)
        writer.finish(_reasons(dataset, settings, writer))


def _run(
    dataset: Dataset,
    settings: Settings,
    writer: FeatureWriter,
    compute: Callable[[np.ndarray], dict[str, np.ndarray]],
    sha256: np.ndarray,
    skip_bad: bool,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Fill the file from where it stands."""

    def read(row: int) -> np.ndarray:
        path = dataset.root / dataset.paths[row]
        return read_photo(path, settings.image_size, settings.resize, sha256[row])

    if progress:
        progress(writer.rows_done, len(dataset))
    photos = np.zeros((settings.batch_size, settings.image_size, settings.image_size, 3), np.uint8)
    for batch in read_batches(range(writer.rows_done, len(dataset)), settings.batch_size, read):
        names = dataset.paths[writer.rows_done : writer.rows_done + len(batch)]
        bad = []
        for i, photo in enumerate(batch):
            if isinstance(photo, np.ndarray):
                photos[i] = photo
                continue
            if not skip_bad:
                raise BadPhotoError(
                    f"{photo}; {writer.rows_done} of {len(dataset)} photos are kept: mend it "
                    "and run again, or leave such files out with --skip-bad"
                )
            log.warning("skipped: %s", photo)
            photos[i] = 0
            bad.append(i)
        rows = {spec: values[: len(batch)] for spec, values in compute(photos).items()}
        _check_finite(rows, names)
        writer.append(rows, bad)
        if progress:
            progress(writer.rows_done, len(dataset))


def _check_finite(rows: dict[str, np.ndarray], names: np.ndarray) -> None:
    for spec, values in rows.items():
        finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
        if not finite.all():
            raise BilinearError(
                f"{spec} of {names[~finite][0]} is beyond what {values.dtype} can hold: "
                "try --precision float32, or leave that photo out"
            )


def _reasons(dataset: Dataset, settings: Settings, writer: FeatureWriter) -> dict[str, str]:
    """Return path -> what is wrong with it, for the photos that were skipped, now or earlier."""
    reasons = {}
    for path in dataset.paths[writer.bad_rows()]:
        try:
            read_photo(dataset.root / path, settings.image_size, settings.resize)
            reasons[path] = "could not be read, and then could"
        except BadPhotoError as error:
            reasons[path] = str(error)
    return reasons


# The file ---------------------------------------------------------------------------------


@contextmanager
def _one_line(output: Path) -> Iterator[None]:
    """Turn a fault of the disk into one line."""
    try:
        yield
    except OSError as error:
        raise FeatureFileError(
            f"cannot write {output}: {error.strerror or error}; what is done is kept: make room "
            "and run again"
        ) from error


def _writer(
    dataset: Dataset,
    settings: Settings,
    output: Path,
    shapes: dict[str, tuple[int, ...]],
    sha256: np.ndarray,
    attributes: dict[str, Any],
    overwrite: bool,
) -> FeatureWriter:
    """Return a new file, or the one that an earlier run left, if it was to be the same."""
    if overwrite or not partial_path(output).exists():
        columns = {
            "photo": np.arange(len(dataset)),
            "view": np.full(len(dataset), "original"),
            "labels": dataset.labels,
            "paths": dataset.paths,
            "sha256": sha256,
            "split": dataset.split,
            "group": dataset.group,
        }
        values = asdict(settings)
        del values["poolings"]
        values |= {"versions": versions(), "views": "original", **attributes}
        values |= {"data": dataset.spec, "data_kind": dataset.kind, "data_root": str(dataset.root)}
        values |= {"split_seed": -1 if dataset.split_seed is None else dataset.split_seed}
        return create(output, shapes, columns, dataset.class_names, values)
    with FeatureFile(partial_path(output), allow_partial=True) as file:
        _check_same(file, dataset, settings, sha256)
    writer = FeatureWriter(output)
    writer.check_rows()
    log.info("going on after %d of %d photos", writer.rows_done, len(dataset))
    return writer


def _check_same(
    file: FeatureFile, dataset: Dataset, settings: Settings, sha256: np.ndarray
) -> None:
    """Raise unless the file was made of these photos with these settings, naming what differs."""
    stored = settings_of(file.attributes, tuple(file.shapes))
    for field in fields(Settings):
        was, asked = getattr(stored, field.name), getattr(settings, field.name)
        if field.name == "poolings":
            was, asked = " ".join(sorted(was)), " ".join(sorted(asked))
        if was != asked:
            raise FeatureFileError(
                f"{file.path} was made with {field.name.replace('_', '-')} {was}, and {asked} is "
                "asked for: give another --output, or --overwrite"
            )
    before = dict(zip(file.paths, file.sha256, strict=True))
    after = dict(zip(dataset.paths, sha256, strict=True))
    gone = before.keys() - after.keys()
    new = after.keys() - before.keys() - file.skipped.keys()
    changed = [path for path in before.keys() & after.keys() if before[path] != after[path]]
    for what, names in (("gone", gone), ("new", new), ("changed", changed)):
        if names:
            raise FeatureFileError(
                f"photos are {what} since {file.path} was begun: {some(sorted(names))}; "
                "give another --output, or --overwrite"
            )


def versions() -> str:
    """Return the versions of what decides the numbers, as `name version, ...`."""
    packages = [f"{name} {version(name)}" for name in PACKAGES]
    jpeg = pillow_features.version_codec("jpg")
    return ", ".join([f"python {platform.python_version()}", *packages, f"libjpeg {jpeg}"])
