"""Versions of the packages that affect the last digits of features."""

import logging
import platform
from importlib.metadata import PackageNotFoundError, version

from PIL import features as pillow_features

from bilinear_cli.recipe import INT8_PACKAGES
from bilinear_cli.store import FeatureFile

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


def warn_if_versions_differ(file: FeatureFile) -> None:
    """Warn if other versions made the rows of a file."""
    versions = file.attributes.get("versions")
    if versions != installed_versions(file.recipe.precision):
        message = "other versions made the rows of %s (%s); the last digits of new rows may differ"
        log.warning(message, file.path, versions)
