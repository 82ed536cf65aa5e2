"""Stage 1: photos -> network -> poolings -> feature file."""

import logging
import platform
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import features as pillow_features

from bilinear_cli.data.dataset import Dataset
from bilinear_cli.data.images import empty_batch, lay_in, read_batches, read_photo
from bilinear_cli.errors import BadPhotoError, BilinearError, FeatureFileError, UsageError, some
from bilinear_cli.features.reuse import StoredPhotos
from bilinear_cli.features.settings import Settings, check_same, settings_of_file, shard_photos
from bilinear_cli.features.views import sizes_of
from bilinear_cli.store import FeatureFile, FeatureWriter, create, locked, partial_path

log = logging.getLogger(__name__)

PACKAGES = ("bilinear-cli", "tensorflow", "keras", "numpy", "h5py", "pillow")
Arrays = dict[str, np.ndarray]
Progress = Callable[[int, int], None]


def extract(
    dataset: Dataset,
    settings: Settings,
    output: Path,
    load_forward: Callable[[], Callable[[Any], Any]],
    *,
    reuse: Path | None = None,
    attributes: dict[str, Any] | None = None,
    overwrite: bool = False,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write the feature file of a photo set, or go on with one that was broken off.

    Args:
        dataset: the photos.
        settings: what to make of them.
        output: the file; until it is complete it is `partial_path(output)`.
        load_forward: called if there is something to do; returns the network: uint8 photos
            (batch, size, size, 3) -> float32 maps (batch, height, width, channels), in TensorFlow.
        reuse: a feature file, finished or not, whose rows are taken for the photos that it has.
        attributes: more root attributes, to keep a record.
        overwrite: begin again, whatever is there.
        skip_bad: leave out what cannot be read as a photo instead of stopping there.
        progress: told (photos done, photos in all).

    Raises:
        BadPhotoError: a photo cannot be read; the rows before its batch are kept.
        FeatureFileError: a file is there and was made otherwise, or cannot be written, or another
            run is writing it.
    """
    if output.is_dir():
        raise FeatureFileError(f"{output} is a folder: give --output a file name")
    photos = shard_photos(settings.shard, len(dataset), settings.batch_size)
    part = dataset.take(np.arange(photos.start, photos.stop))
    with ExitStack() as open_now:
        open_now.enter_context(locked(output))
        sha256 = dict(zip(part.paths, part.sha256(), strict=True))
        begun = partial_path(output).exists() and not overwrite
        if output.exists() and not (begun or overwrite):
            _say_complete(output, settings, sha256)
            return
        if begun:  # or begun again, while an older file has the final name
            with FeatureWriter(output) as writer:
                _check_unfinished(writer, settings, sha256)
                log.info("going on after %d of %d photos", _photos_done(writer), len(part))
        old = open_now.enter_context(StoredPhotos(reuse, settings)) if reuse else None
        if old:
            _warn_of_versions(old.path, old.versions)
        if old and old.path.resolve() == partial_path(output).resolve():
            raise UsageError(f"--reuse {old.path} is what is to be written: name another --output")
        from bilinear_cli.features.pooling import compile_pooling  # loads TensorFlow

        compute, shapes = compile_pooling(
            load_forward(), settings.poolings, settings.batch_size, settings.shown
        )
        if not begun:
            columns = _columns(part, photos.start, settings.views, sha256)
            record = _record(dataset, settings) | (attributes or {})
            with create(output, shapes, columns, dataset.class_names, record):
                pass
        writer = open_now.enter_context(FeatureWriter(output))
        _run(dataset.root, settings, writer, compute, old, skip_bad, progress)
        if (writer.photo < 0).all():
            raise BadPhotoError(f"not one file of {dataset.spec} can be read as a photo")
        writer.finish(_reasons(dataset.root, settings, writer))


def _run(
    root: Path,
    settings: Settings,
    writer: FeatureWriter,
    compute: Callable[[dict[int, np.ndarray]], Arrays],
    old: StoredPhotos | None,
    skip_bad: bool,
    progress: Progress | None,
) -> None:
    """Fill the file from where it stands, in its own order of photos."""
    n_views, sizes = writer.n_views, sizes_of(settings.shown)
    paths, sha256 = writer.paths[::n_views], writer.sha256[::n_views]
    n_photos, done = len(paths), _photos_done(writer)
    known = old.find(sha256) if old else np.full(n_photos, -1)
    new = done + np.flatnonzero(known[done:] < 0)
    if old:
        old.check_shapes(writer.shapes)
        log.info("%d of %d photos are in %s", (known[done:] >= 0).sum(), n_photos - done, old.path)

    def read(photo: int) -> list[np.ndarray]:
        return read_photo(root / paths[photo], sizes, settings.resize, sha256[photo])

    def tell() -> None:
        if progress:
            progress(_photos_done(writer), n_photos)

    def copy_upto(photo: int) -> None:
        for start in range(_photos_done(writer), photo, settings.batch_size):
            assert old
            stop = min(start + settings.batch_size, photo)
            rows = old.rows(known[start:stop])
            _check_finite(rows, np.repeat(paths[start:stop], n_views))
            writer.append(rows)
            tell()

    tell()
    pixels = empty_batch(sizes, settings.batch_size)
    for n_batch, batch in enumerate(read_batches(new.tolist(), settings.batch_size, read)):
        numbers = new[n_batch * settings.batch_size :][: len(batch)]
        bad = lay_in(pixels, batch)
        for error in (photo for photo in batch if isinstance(photo, BadPhotoError)):
            if not skip_bad:
                raise BadPhotoError(
                    f"{error}; {_photos_done(writer)} of {n_photos} photos are kept: mend it and "
                    "run again, or leave such files out with --skip-bad"
                )
            log.warning("skipped: %s", error)
        computed = compute(pixels)
        _check_finite(computed, np.repeat(paths[numbers], n_views))
        for run in np.split(np.arange(len(batch)), np.flatnonzero(np.diff(numbers) != 1) + 1):
            copy_upto(numbers[run[0]])
            rows = slice(run[0] * n_views, (run[-1] + 1) * n_views)
            unread = np.flatnonzero(np.repeat(np.isin(run, bad), n_views))
            writer.append(
                {spec: values[rows] for spec, values in computed.items()}, unread.tolist()
            )
            tell()
    copy_upto(n_photos)


def _check_finite(rows: Arrays, names: np.ndarray) -> None:
    for spec, values in rows.items():
        finite = np.isfinite(values[: len(names)]).reshape(len(names), -1).all(axis=1)
        if not finite.all():
            raise BilinearError(
                f"{spec} of {names[np.argmin(finite)]} is beyond what {values.dtype} can hold: "
                "begin again (--overwrite) without that photo, or, after float16, "
                "with --precision float32"
            )


def _reasons(root: Path, settings: Settings, writer: FeatureWriter) -> dict[str, str]:
    """Return path -> what is wrong with it, for the photos that were skipped, now or earlier."""
    reasons = {}
    for path in dict.fromkeys(writer.paths[writer.photo < 0]):
        reasons[path] = "could not be read when its turn came"
        try:
            read_photo(root / path, sizes_of(settings.shown), settings.resize)
        except BadPhotoError as error:
            reasons[path] = str(error)
    return reasons


# The file ---------------------------------------------------------------------------------


def _columns(
    part: Dataset, first: int, view_names: tuple[str, ...], sha256: dict[str, str]
) -> Arrays:
    """Return what a feature file says of its rows, photo by photo and of each its views."""
    photos = {
        "photo": first + np.arange(len(part)),
        "labels": part.labels,
        "paths": part.paths,
        "sha256": np.array(list(sha256.values())),
        "split": part.split,
        "group": part.group,
    }
    rows = {name: np.repeat(values, len(view_names)) for name, values in photos.items()}
    return rows | {"view": np.tile(view_names, len(part))}


def _record(dataset: Dataset, settings: Settings) -> dict[str, Any]:
    return {
        **settings.attributes(),
        "versions": versions(),
        "data": dataset.spec,
        "data_kind": dataset.kind,
        "data_root": str(dataset.root),
        "data_sha256": dataset.fingerprint(),
        "split_seed": -1 if dataset.split_seed is None else dataset.split_seed,
    }


def _photos_done(file: FeatureFile) -> int:
    return file.rows_done // max(1, file.n_views)


def _say_complete(output: Path, settings: Settings, sha256: dict[str, str]) -> None:
    with FeatureFile(output) as file:
        _check_photos(file, settings, sha256)
        left_out = f", without {some(file.skipped)}" if file.skipped else ""
    log.info("%s is complete%s: nothing to do (--overwrite begins again)", output, left_out)


def _check_unfinished(writer: FeatureWriter, settings: Settings, sha256: dict[str, str]) -> None:
    """Check the rows that are done, and note the bytes of the photos that are still to come."""
    _check_photos(writer, settings, sha256)
    _warn_of_versions(writer.path, writer.attributes.get("versions"))
    for spec in writer.shapes:
        writer.check(spec)
    writer.set_sha256([sha256[path] for path in writer.paths])


def _check_photos(file: FeatureFile, settings: Settings, sha256: dict[str, str]) -> None:
    """Raise unless the file's rows are of these photos with these settings, naming what differs.

    Photos may have changed whose rows are still to come, or were skipped.
    """
    check_same(settings_of_file(file), settings, file.path, "give another --output, or --overwrite")
    gone = set(file.paths) - sha256.keys()
    new = sha256.keys() - set(file.paths) - file.skipped.keys()
    fixed = np.flatnonzero(file.photo[: file.rows_done] >= 0)
    before = dict(zip(file.paths[fixed], file.sha256[fixed], strict=True))
    changed = [path for path, was in before.items() if sha256.get(path) != was]
    for what, names in (("gone", gone), ("new", new), ("changed", changed)):
        if names:
            raise FeatureFileError(
                f"photos are {what} since {file.path} was begun: {some(sorted(names))}; "
                f"give another --output, with --reuse {file.path} for the other rows, or "
                "--overwrite"
            )


def _warn_of_versions(path: Path, made_with: str | None) -> None:
    if made_with != versions():
        log.warning(
            "the rows of %s were made with other versions (%s): new ones may differ in digits",
            path,
            made_with,
        )


def versions() -> str:
    """Return the versions of what decides the numbers, as `name version, ...`."""
    packages = [f"{name} {version(name)}" for name in PACKAGES]
    jpeg = pillow_features.version_codec("jpg")
    return ", ".join([f"python {platform.python_version()}", *packages, f"libjpeg {jpeg}"])
