"""Versions of the packages that decide the last digits of a feature file's numbers."""

import logging
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from PIL import features as pillow_features

from bilinear_cli.recipe import INT8_PACKAGES

log = logging.getLogger(__name__)

PACKAGES = ("bilinear-cli", "tensorflow", "keras", "numpy", "h5py", "pillow")


def installed_versions(precision: str = "float32") -> str:
    """Return the versions that are installed here, as `name version, ...`."""
    names = PACKAGES + (INT8_PACKAGES if precision == "int8" else ())
    packages = [f"{name} {_version(name)}" for name in names]
    jpeg = pillow_features.version_codec("jpg")
    return ", ".join([f"python {platform.python_version()}", *packages, f"libjpeg {jpeg}"])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # an extra, on another machine
        return "missing"


def warn_if_versions_differ(path: Path, made_with: str | None, precision: str) -> None:
    """Warn if rows in this precision were made with other versions than those here."""
    if made_with != installed_versions(precision):
        log.warning(
            "the rows of %s were made with other versions (%s): new ones may differ in digits",
            path,
            made_with,
        )
