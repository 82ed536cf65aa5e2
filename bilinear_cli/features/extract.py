"""Stage 1: photos -> network -> poolings -> feature file."""

import logging
import platform
from collections.abc import Callable
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
        if path.is_file() and not overwrite:
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
    sha256 = dict(zip(dataset.paths, dataset.sha256(), strict=True))
    if output.exists() and not overwrite:
        with FeatureFile(output) as file:
            _check_same(file, settings, sha256)
            left_out = f", without {some(file.skipped)}" if file.skipped else ""
        log.info("%s is complete%s: nothing to do (--overwrite begins again)", output, left_out)
        return
    begun = partial_path(output).exists() and not overwrite
    if begun:
        with FeatureWriter(output) as writer:
            _check_same(writer, settings, sha256)
            for spec in writer.shapes:
                writer.check(spec)
            writer.set_sha256([sha256[path] for path in writer.paths])
            log.info("going on after %d of %d photos", writer.rows_done, len(dataset))
    from bilinear_cli.features.pooling import compile_pooling  # loads TensorFlow

    compute, shapes = compile_pooling(
        load_forward(), settings.poolings, settings.batch_size, settings.image_size
    )
    with (
        FeatureWriter(output)
        if begun
        else _create(dataset, settings, output, shapes, sha256, attributes or {})
    ) as writer:
        _run(dataset.root, settings, writer, compute, skip_bad, progress)
        if (writer.photo < 0).all():
            raise BadPhotoError(f"not one file of {dataset.spec} can be read as a photo")
        writer.finish(_reasons(dataset.root, settings, writer))


def _run(
    root: Path,
    settings: Settings,
    writer: FeatureWriter,
    compute: Callable[[np.ndarray], dict[str, np.ndarray]],
    skip_bad: bool,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Fill the file from where it stands, in its own order of photos."""
    size, n_photos = settings.image_size, len(writer.paths)

    def read(row: int) -> np.ndarray:
        return read_photo(root / writer.paths[row], size, settings.resize, writer.sha256[row])

    if progress:
        progress(writer.rows_done, n_photos)
    photos = np.zeros((settings.batch_size, size, size, 3), np.uint8)
    for batch in read_batches(range(writer.rows_done, n_photos), settings.batch_size, read):
        bad = []
        for i, photo in enumerate(batch):
            if isinstance(photo, np.ndarray):
                photos[i] = photo
                continue
            if not skip_bad:
                raise BadPhotoError(
                    f"{photo}; {writer.rows_done} of {n_photos} photos are kept: mend it "
                    "and run again, or leave such files out with --skip-bad"
                )
            log.warning("skipped: %s", photo)
            photos[i] = 0
            bad.append(i)
        rows = {spec: values[: len(batch)] for spec, values in compute(photos).items()}
        _check_finite(rows, writer.paths[writer.rows_done :])
        writer.append(rows, bad)
        if progress:
            progress(writer.rows_done, n_photos)


def _check_finite(rows: dict[str, np.ndarray], names: np.ndarray) -> None:
    for spec, values in rows.items():
        finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
        if not finite.all():
            raise BilinearError(
                f"{spec} of {names[np.argmin(finite)]} is beyond what {values.dtype} can hold: "
                "begin again (--overwrite) with --precision float32, or without that photo"
            )


def _reasons(root: Path, settings: Settings, writer: FeatureWriter) -> dict[str, str]:
    """Return path -> what is wrong with it, for the photos that were skipped, now or earlier."""
    reasons = {}
    for path in writer.paths[writer.photo < 0]:
        reasons[path] = "could not be read when its turn came"
        try:
            read_photo(root / path, settings.image_size, settings.resize)
        except BadPhotoError as error:
            reasons[path] = str(error)
    return reasons


# The file ---------------------------------------------------------------------------------


def _create(
    dataset: Dataset,
    settings: Settings,
    output: Path,
    shapes: dict[str, tuple[int, ...]],
    sha256: dict[str, str],
    attributes: dict[str, Any],
) -> FeatureWriter:
    columns = {
        "photo": np.arange(len(dataset)),
        "view": np.full(len(dataset), "original"),
        "labels": dataset.labels,
        "paths": dataset.paths,
        "sha256": np.array(list(sha256.values())),
        "split": dataset.split,
        "group": dataset.group,
    }
    values = asdict(settings)
    del values["poolings"]
    values |= {"versions": versions(), "views": "original", **attributes}
    values |= {"data": dataset.spec, "data_kind": dataset.kind, "data_root": str(dataset.root)}
    values |= {"split_seed": -1 if dataset.split_seed is None else dataset.split_seed}
    return create(output, shapes, columns, dataset.class_names, values)


def _check_same(file: FeatureFile, settings: Settings, sha256: dict[str, str]) -> None:
    """Raise unless the file's rows are of these photos with these settings, naming what differs.

    Photos may have changed whose rows are still to come, or were skipped.
    """
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
    gone = set(file.paths) - sha256.keys()
    new = sha256.keys() - set(file.paths) - file.skipped.keys()
    fixed = np.flatnonzero(file.photo[: file.rows_done] >= 0)
    before = dict(zip(file.paths[fixed], file.sha256[fixed], strict=True))
    changed = [path for path, was in before.items() if sha256.get(path) != was]
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
