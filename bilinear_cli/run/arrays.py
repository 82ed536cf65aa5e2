"""The arrays of a run folder: what each must be, and npz files -> arrays."""

from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import NamedTuple
from zipfile import ZIP_STORED, ZipFile, is_zipfile

import numpy as np
from numpy.lib.format import read_array_header_1_0, read_magic

from bilinear_cli.files import file_sha256

FLOAT, INTEGER, TEXT, BYTES = "f", "iu", "U", "S"  # kinds of dtypes


MAX_FLOAT = 1e30  # sums and products of some of them are finite in float32


class Array(NamedTuple):
    """What an array must be; floats are also finite, and at most `MAX_FLOAT`."""

    kind: str  # of the dtype, one of the letters
    shape: tuple[int | str, ...]  # a name stands for a size, the same wherever the name is
    is_valid: Callable[[np.ndarray], bool | np.bool_] = lambda x: True


Schema = Mapping[str, Array]


def read_arrays(path: Path, sha256: Mapping[str, str] | None = None) -> dict[str, np.ndarray]:
    """Return the arrays of an npz file, in the byte order of this machine.

    No pickle is loaded, and the arrays take no more memory than the file. `sha256` is name of a
    file -> its SHA-256; None for a run of an earlier version.

    Raises:
        files.BROKEN_ZIP: the file is missing or damaged, or `train` does not write such a file.
    """
    with path.open("rb") as file:
        if not is_zipfile(file):
            raise ValueError("it is not an archive of arrays, or it is cut off")
        if sha256 and file_sha256(path) != sha256[path.name]:
            raise ValueError("it is not the file of this run, its SHA-256 is another one")
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            _check_sizes(arrays.zip, path.stat().st_size)
            return {name: _native(arrays[name]) for name in arrays}


def _check_sizes(archive: ZipFile, size: int) -> None:
    """Raise a ValueError unless each array has the size that its header states, uncompressed."""
    members = archive.infolist()
    if sum(member.file_size for member in members) > size:
        raise ValueError("its arrays are larger than the file")
    if len({member.filename for member in members}) < len(members):
        raise ValueError("it has an array twice")
    for member in members:
        if member.compress_type != ZIP_STORED:
            raise ValueError(f"{member.filename} is compressed")
        with archive.open(member) as data:
            if read_magic(data) != (1, 0):
                raise ValueError(f"{member.filename} has another format")
            shape, _, dtype = read_array_header_1_0(data)
            if dtype.hasobject:
                raise ValueError(f"{member.filename} has objects of Python, which are not loaded")
            if prod(shape) * dtype.itemsize != member.file_size - data.tell():
                raise ValueError(f"{member.filename} has another size than it states")


def _native(array: np.ndarray) -> np.ndarray:
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def check_arrays(
    arrays: Mapping[str, np.ndarray], schema: Schema, sizes: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Compare arrays with a schema; others are of a later version.

    Args:
        sizes: the known sizes, name -> size; others are those of the first array that has them.

    Returns:
        All sizes.

    Raises:
        KeyError: an array is missing.
        ValueError: an array has another type, shape or other values.
    """
    sizes = dict(sizes or {})
    for name, expected in schema.items():
        array = arrays[name]
        has_type = array.dtype.kind in expected.kind and array.ndim == len(expected.shape)
        if not has_type or not all(
            n == (size if isinstance(size, int) else sizes.setdefault(size, n))
            for size, n in zip(expected.shape, array.shape, strict=True)
        ):
            raise ValueError(f"{name} has another type or shape")
        if array.dtype.kind == TEXT:
            array.tolist()  # raises for a code point that does not exist
        elif array.dtype.kind == FLOAT and not _is_finite(array):
            raise ValueError(f"{name} has values that are not finite, or too large")
        if not expected.is_valid(array):
            raise ValueError(f"{name} has invalid values")
    return sizes


def _is_finite(array: np.ndarray) -> bool:
    """Return whether all values are from -MAX_FLOAT to MAX_FLOAT; no array of flags is made."""
    low, high = float(array.min(initial=0)), float(array.max(initial=0))
    return -MAX_FLOAT <= low <= high <= MAX_FLOAT
