"""What opens and checks HDF5 files that may be anything, and says in a line what is wrong."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from bilinear_cli.errors import FeatureFileError, UsageError
from bilinear_cli.poolings.registry import check_parameter, get_pooling, is_known_pooling
from bilinear_cli.store.lock import in_use

PARTIAL = ".partial"  # of the name of an unfinished file
FORMAT = "bilinear-features"
FORMAT_VERSION = 1
INTEGERS = ("photo", "labels")
ROW_COLUMNS = (*INTEGERS, "view", "paths", "sha256", "split", "group")


def open_hdf5(path: Path, mode: str) -> h5py.File:
    """Open a file.

    Raises:
        FeatureFileError: it is missing, not HDF5, damaged, or open in another run.
    """
    try:
        return h5py.File(path, mode)
    except BlockingIOError as error:
        raise in_use(path.with_name(path.name.removesuffix(PARTIAL))) from error
    except FileNotFoundError as error:
        raise FeatureFileError(
            f"there is no feature file {path}: make one with bilinear extract"
        ) from error
    except OSError as error:
        if error.errno:
            raise FeatureFileError(f"cannot open {path}: {reason(error)}") from error
        if not h5py.is_hdf5(path):
            raise FeatureFileError(
                f"{path} is not an HDF5 file: make one with bilinear extract"
            ) from error
        raise damaged(path, reason(error)) from error


def check_format(path: Path, file: h5py.File) -> None:
    """Raise unless the file is ours, of a version known here, and holds nothing but data."""
    if str(file.attrs.get("format")) != FORMAT:
        raise FeatureFileError(f"{path} was not made by bilinear extract")
    version = int(file.attrs["format_version"])
    if version > FORMAT_VERSION:
        raise FeatureFileError(
            f"{path} has version {version} of the format, and {FORMAT_VERSION} is the latest known "
            "here: update bilinear"
        )
    features = _member(file, "features")
    specs = list(features) if isinstance(features, h5py.Group) else []
    if not specs:
        raise damaged(path, "features are missing")
    names = [*ROW_COLUMNS, "class_names", "rows_done", "skipped/paths", "skipped/reasons"]
    names += [f"{group}/{spec}" for spec in specs for group in ("features", "crc32")]
    names += [f"parameters/{name}" for name in _parameters_of(specs)]
    for name in names:
        if not _is_plain(_member(file, name)):
            raise damaged(path, f"{name} is missing or is not plain data")


def _member(file: h5py.File, name: str) -> h5py.Dataset | h5py.Group | None:
    """Return what is at `name` if every link on the way is a hard one, within the file."""
    walked = ""
    for part in name.split("/"):
        walked = f"{walked}/{part}"
        if not isinstance(file.get(walked, getlink=True), h5py.HardLink):
            return None
    return file[name]


def _is_plain(data: h5py.Dataset | h5py.Group | None) -> bool:
    """Say whether it is one run of bytes in this file: not chunked, external, virtual, unwritten.

    Those have no offset; nor has a dataset without elements, which does no harm.
    """
    return isinstance(data, h5py.Dataset) and (data.size == 0 or data.id.get_offset() is not None)


def column(file: h5py.File, name: str) -> np.ndarray:
    """Return a dataset of one entry a row; text as str."""
    data = file[name]
    text = h5py.check_string_dtype(data.dtype)
    if text and text.length is None:  # of any length, elsewhere in the file, many times perhaps
        raise ValueError(f"{name} is text of no fixed length")
    if text:
        return np.array([text.decode() for text in data[()].tolist()], dtype=str)
    return data[()]


def parameters(file: h5py.File) -> dict[str, np.ndarray]:
    """Return what the poolings took beside the maps.

    Raises:
        ValueError: one is not what was written, or cannot be.
    """
    found = {}
    for name in _parameters_of(list(file["features"])):
        data = file[f"parameters/{name}"]
        found[name] = array = data[()]
        if attributes(data)["sha256"] != parameter_sha256(array):
            raise ValueError(f"{name} is not what was written")
        check_parameter(name, array)
    return found


def parameter_sha256(array: np.ndarray) -> str:
    """Return the SHA-256 of an array's type, shape and bytes."""
    what = f"{array.dtype.newbyteorder('<').str} {array.shape} ".encode()
    return hashlib.sha256(what + np.ascontiguousarray(array).tobytes()).hexdigest()


def _parameters_of(specs: Sequence[str]) -> list[str]:
    """Return the names of what these poolings take; of a pooling unknown here nothing."""
    try:
        kinds = [get_pooling(spec) for spec in specs if is_known_pooling(spec)]
    except UsageError as error:
        raise ValueError(str(error)) from error
    return list(dict.fromkeys(name for kind in kinds for name in kind.parameters))


def attributes(item: h5py.File | h5py.Dataset) -> dict[str, Any]:
    """Return attributes as plain Python values.

    Raises:
        ValueError: one is neither a number nor text.
    """
    values = {name: item.attrs[name] for name in item.attrs}
    plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in values.items()}
    for name, value in plain.items():
        if not isinstance(value, bool | int | float | str):
            raise ValueError(f"the attribute {name} is neither a number nor text")
    return plain


# In one line -----------------------------------------------------------------------------


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """Turn whatever h5py and NumPy raise on a malformed file into one line."""
    try:
        yield
    except (AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise damaged(path, reason(error)) from error


def damaged(path: Path, what: str) -> FeatureFileError:
    """Return the error that says so."""
    return FeatureFileError(
        f"{path} is damaged: {what}; make it again with bilinear extract --overwrite"
    )


def reason(error: Exception) -> str:
    """Return what an error says, in one line."""
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else " ".join(str(error).split())
