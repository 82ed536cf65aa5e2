"""Open and check HDF5 files from any source; report every fault in one line."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from bilinear_cli.errors import BilinearError, FeatureFileError, InUseError, UsageError
from bilinear_cli.messages import command_line, reason_of
from bilinear_cli.poolings.parameter_kinds import check_parameter
from bilinear_cli.poolings.registry import get_pooling, is_known_pooling
from bilinear_cli.store.lock import NO_LOCKS, check_soft_lock, in_use_error

PARTIAL_SUFFIX = ".partial"  # suffix of an unfinished file
FORMAT = "bilinear-features"
FORMAT_VERSION = 1
INTEGER_COLUMNS = ("photo", "labels")
ROW_COLUMNS = (*INTEGER_COLUMNS, "view", "paths", "sha256", "split", "group")
BOX = "box"  # a column of files of cropped photos, float64 (rows, 4)


def partial_path(path: Path) -> Path:
    """Return the path of the unfinished file that becomes `path`."""
    return path.with_name(path.name + PARTIAL_SUFFIX)


def open_hdf5(path: Path, mode: str) -> h5py.File:
    """Open a file; raise a FeatureFileError if it is missing, damaged, not HDF5, or in use."""
    try:
        return _open_with_lock(path, mode)
    except InUseError:
        raise
    except BlockingIOError as error:
        raise in_use_error(_final_path(path)) from error
    except FileNotFoundError as error:
        raise FeatureFileError(
            f"the feature file {path} does not exist. Make it with bilinear extract."
        ) from error
    except OSError as error:
        if "unable to lock file" in str(error):
            raise FeatureFileError(
                f"cannot lock {path}: {reason_of(error)}. Set HDF5_USE_FILE_LOCKING=FALSE in the "
                "environment, and use the file in one program at a time."
            ) from error
        if error.errno:
            raise FeatureFileError(f"cannot open {path}: {reason_of(error)}") from error
        if not h5py.is_hdf5(path):
            raise FeatureFileError(
                f"{path} is not an HDF5 file. Make a feature file with bilinear extract."
            ) from error
        # HDF5 adds the sizes that it found and expected, in terms of its own.
        fault = "it is truncated" if "truncated file" in str(error) else reason_of(error)
        raise damaged_file_error(path, fault) from error


def _open_with_lock(path: Path, mode: str) -> h5py.File:
    """Open a file with HDF5's own lock, or without it on a file system that has no locks.

    HDF5's lock is wanted where there are locks: it also refuses readers of an unfinished file, and
    other programs. h5py's `locking="best-effort"`, HDF5's default, ignores only ENOSYS.
    """
    try:
        return h5py.File(path, mode)
    except OSError as error:
        already_open = "file locking flag" in str(error)  # in this process, without HDF5's lock
        if error.errno not in NO_LOCKS and not already_open:
            raise
    if path.name.endswith(PARTIAL_SUFFIX):
        check_soft_lock(_final_path(path))
    return h5py.File(path, mode, locking=False)


def _final_path(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(PARTIAL_SUFFIX))


def check_format(path: Path, file: h5py.File) -> None:
    """Raise unless this is a feature file of a known version that holds plain data only."""
    if str(file.attrs.get("format")) != FORMAT:
        raise FeatureFileError(f"{path} was not made by bilinear extract")
    version = int(file.attrs["format_version"])
    if version > FORMAT_VERSION:
        raise FeatureFileError(
            f"{path} has format version {version}, but this program reads versions up to "
            f"{FORMAT_VERSION}. Update bilinear."
        )
    features = _get_member(file, "features")
    specs = list(features) if isinstance(features, h5py.Group) else []
    if not specs:
        raise damaged_file_error(path, "features are missing")
    names = [*ROW_COLUMNS, "class_names", "rows_done", "skipped/paths", "skipped/reasons"]
    names += [f"{group}/{spec}" for spec in specs for group in ("features", "crc32")]
    names += [BOX] if BOX in file else []
    names += [f"parameters/{name}" for name in _parameter_names(specs)]
    for name in names:
        data = _get_member(file, name)
        # Chunked, external, virtual and unwritten datasets have no offset in this file. An empty
        # dataset has none either, which is harmless.
        contiguous = isinstance(data, h5py.Dataset) and (
            data.size == 0 or data.id.get_offset() is not None
        )
        if not contiguous:
            raise damaged_file_error(path, f"{name} is missing or is not plain data")


def _get_member(file: h5py.File, name: str) -> h5py.Dataset | h5py.Group | None:
    """Return the member `name`; None unless every link on the way is a hard link."""
    names = name.split("/")
    for i in range(len(names)):
        link = file.get("/".join(names[: i + 1]), getlink=True)
        if not isinstance(link, h5py.HardLink):
            return None
    return file[name]


def read_column(file: h5py.File, name: str) -> np.ndarray:
    """Return a dataset with one entry for each row; text as str."""
    data = file[name]
    text = h5py.check_string_dtype(data.dtype)
    if text and text.length is None:  # stored elsewhere in the file, perhaps many times
        raise ValueError(f"{name} is text of no fixed length")
    if text:
        return np.array([text.decode() for text in data[()].tolist()], dtype=str)
    return data[()]


def read_parameters(file: h5py.File) -> dict[str, np.ndarray]:
    """Return the parameters of the poolings; raise a ValueError if one is damaged or invalid."""
    parameters = {}
    for name in _parameter_names(list(file["features"])):
        data = file[f"parameters/{name}"]
        parameters[name] = array = data[()]
        if read_attributes(data)["sha256"] != parameter_sha256(array):
            raise ValueError(f"{name} differs from its SHA-256")
        check_parameter(name, array)
    return parameters


def parameter_sha256(array: np.ndarray) -> str:
    """Return the SHA-256 of an array's type, shape and bytes."""
    header = f"{array.dtype.newbyteorder('<').str} {array.shape} ".encode()
    return hashlib.sha256(header + np.ascontiguousarray(array).tobytes()).hexdigest()


def _parameter_names(specs: Sequence[str]) -> list[str]:
    """Return the names of the parameters of these poolings; none for an unknown pooling."""
    try:
        poolings = [get_pooling(spec) for spec in specs if is_known_pooling(spec)]
    except UsageError as error:
        raise ValueError(str(error)) from error
    return list(dict.fromkeys(name for pooling in poolings for name in pooling.parameter_names))


def read_attributes(item: h5py.File | h5py.Dataset) -> dict[str, Any]:
    """Return attributes as Python values; raise a ValueError unless they are numbers or text."""
    values = {name: item.attrs[name] for name in item.attrs}
    plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in values.items()}
    for name, value in plain.items():
        if not isinstance(value, bool | int | float | str):
            raise ValueError(f"the attribute {name} is neither a number nor text")
    return plain


# Errors in one line ----------------------------------------------------------------------


@contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Turn the errors that h5py and NumPy raise for a malformed file into a FeatureFileError."""
    try:
        yield
    except BilinearError:
        raise
    except (AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise damaged_file_error(path, reason_of(error)) from error


@contextmanager
def write_errors(path: Path, *, kept: bool = False) -> Iterator[None]:
    """Turn an error of the disk into a FeatureFileError; HDF5 raises some as RuntimeError."""
    try:
        yield
    except BilinearError:
        raise
    except (OSError, RuntimeError) as error:
        advice = " The rows written so far are kept: make room, and run again." if kept else ""
        where = getattr(error, "filename", None) or path
        raise FeatureFileError(f"cannot write {where}: {reason_of(error)}.{advice}") from error


@contextmanager
def rows_kept() -> Iterator[None]:
    """Add to a FeatureFileError, such as an InUseError, that the rows of the file are kept."""
    try:
        yield
    except FeatureFileError as error:
        raise type(error)(f"{error} All rows are kept: run again.") from error


def damaged_file_error(path: Path, fault: str) -> FeatureFileError:
    """Return the error for a damaged file."""
    return FeatureFileError(
        f"{path} is damaged: {fault}. Make it again with bilinear extract --overwrite."
    )


def incomplete_error(
    path: Path, attributes: Mapping[str, Any], rows_done: int, n_rows: int
) -> FeatureFileError:
    """Return the error for an unfinished file, with the command that finishes it."""
    command = json.loads(attributes.get("command", "[]"))
    advice = f"Finish it with: {command_line(command)}" if command else "Run bilinear extract."
    return FeatureFileError(f"{path} is incomplete: {rows_done} of {n_rows} rows. {advice}")
