"""A feature file that is there already: whether a run may go on with it, and what is said."""

import logging
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import features as pillow_features

from bilinear_cli.errors import FeatureFileError, some
from bilinear_cli.extraction.stored import recipe_of_file
from bilinear_cli.networks.precision import OF_INT8
from bilinear_cli.poolings.parameters import Parameters, agreed
from bilinear_cli.recipe import Recipe, check_same
from bilinear_cli.store import FeatureFile, FeatureWriter, create, partial_path

log = logging.getLogger(__name__)

PACKAGES = ("bilinear-cli", "tensorflow", "keras", "numpy", "h5py", "pillow")


def begun_with(
    output: Path, recipe: Recipe, sha256: dict[str, str], given: Parameters, overwrite: bool
) -> Parameters | None:
    """Check what is there of a file, and say what will be done about it.

    Args:
        output: the file, complete, unfinished or neither.
        recipe: that are asked for.
        sha256: path -> SHA-256, of the photos.
        given: parameters that are asked for.
        overwrite: whatever is there does not count.

    Returns:
        The parameters to keep to; None if the file is complete.

    Raises:
        FeatureFileError: what is there is not what is asked for.
    """
    if output.is_dir():
        raise FeatureFileError(f"{output} is a folder: give --output a file name")
    if overwrite:
        return given
    if partial_path(output).exists():  # or begun again, while an older file has the final name
        return agreed(given, _check_unfinished(output, recipe, sha256), partial_path(output))
    if not output.exists():
        return given
    with FeatureFile(output) as file:
        _check_photos(file, recipe, sha256)
        agreed(given, file.parameters, output)
        left_out = f", without {some(file.skipped)}" if file.skipped else ""
    log.info("%s is complete%s: nothing to do (--overwrite begins again)", output, left_out)
    return None


def _check_unfinished(output: Path, recipe: Recipe, sha256: dict[str, str]) -> Parameters:
    """Check the rows that are done, note the bytes of photos to come; return the parameters."""
    with FeatureWriter(output) as writer:
        _check_photos(writer, recipe, sha256)
        warn_of_versions(writer.path, writer.attributes.get("versions"), recipe.precision)
        for spec in writer.shapes:
            writer.check(spec)
        writer.set_sha256([sha256[path] for path in writer.paths])
        log.info("going on after %d of %d photos", photos_done(writer), len(sha256))
        return writer.parameters


def begin_or_go_on(
    output: Path,
    shapes: Mapping[str, tuple[int, ...]],
    columns: Mapping[str, np.ndarray],
    class_names: Sequence[str] | np.ndarray,
    record: Mapping[str, Any],
    parameters: Parameters,
    overwrite: bool,
    skipped: Mapping[str, str] | None = None,
) -> FeatureWriter:
    """Open the file that a run left which was broken off, or else create it.

    Args:
        output: the file.
        shapes, columns, class_names, record, parameters, skipped: see `store.create`.
        overwrite: whatever is there does not count.

    Raises:
        FeatureFileError: it cannot be written, or is damaged.
    """
    if partial_path(output).exists() and not overwrite:
        return FeatureWriter(output)
    return create(
        output, shapes, columns, class_names, record, skipped=skipped, parameters=parameters
    )


def photos_done(file: FeatureFile) -> int:
    """Return how many photos have all their rows."""
    return file.rows_done // max(1, file.n_views)


def _check_photos(file: FeatureFile, recipe: Recipe, sha256: dict[str, str]) -> None:
    """Raise unless the file's rows are of these photos with these recipe, naming what differs.

    Photos may have changed whose rows are still to come, or were skipped.
    """
    check_same(recipe_of_file(file), recipe, file.path, "give another --output, or --overwrite")
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


def warn_of_versions(path: Path, made_with: str | None, precision: str) -> None:
    """Warn if rows in this precision were made with other versions than those here."""
    if made_with != versions(precision):
        log.warning(
            "the rows of %s were made with other versions (%s): new ones may differ in digits",
            path,
            made_with,
        )


def versions(precision: str = "float32") -> str:
    """Return the versions of what decides the numbers, as `name version, ...`."""
    names = PACKAGES + (OF_INT8 if precision == "int8" else ())
    packages = [f"{name} {_version(name)}" for name in names]
    jpeg = pillow_features.version_codec("jpg")
    return ", ".join([f"python {platform.python_version()}", *packages, f"libjpeg {jpeg}"])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # an extra, on another machine
        return "missing"
