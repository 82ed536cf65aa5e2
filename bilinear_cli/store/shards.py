"""Several feature files, each of a part of one photo set, as one."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np

from bilinear_cli.errors import FeatureFileError, abbreviate
from bilinear_cli.networks.precision import measured_difference
from bilinear_cli.poolings.registry import FITTED_ON, SpecDict
from bilinear_cli.recipe import PRECISION_ATTRIBUTES, UNSHARDED, Difference, differences, mixed_with
from bilinear_cli.store.checks import ROW_COLUMNS, damage, parameter_sha256
from bilinear_cli.store.lock import locked
from bilinear_cli.store.reading import FeatureFile, partial_path
from bilinear_cli.store.streaming import StoredRows
from bilinear_cli.store.writing import BLOCK, create

log = logging.getLogger(__name__)


def open_features(paths: Sequence[Path], allow_mix: bool = False) -> FeatureFile:
    """Open a feature file, or several that belong together, as one.

    Args:
        paths: of the file or files; a folder stands for those in it.
        allow_mix: they may be of several precisions.

    Raises:
        FeatureFileError: one cannot be read, they do not belong together, or there is none.
    """
    files = [file for path in paths for file in _files_of(path)]
    if len(files) == 1:
        with ExitStack() as on_return:
            file = on_return.enter_context(FeatureFile(files[0]))
            if _number(file) == (1, 1):
                on_return.pop_all()
                return file
    return Shards(files, allow_mix)


def _files_of(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    if files := sorted(path.glob("*.h5")):
        return files
    raise FeatureFileError(f"{path} is a folder without a finished feature file (*.h5)")


class Shards(FeatureFile):
    """The shards of one photo set, all of them, whose rows are those of a single run's file."""

    def __init__(self, paths: Sequence[Path], allow_mix: bool = False) -> None:
        """Open the files of all shards, in any order, and of several precisions if that is allowed.

        Raises:
            FeatureFileError: one cannot be read; they were made with different recipe or of
                different photo sets; one is missing, or there twice.
        """
        self._parts: list[FeatureFile] = []
        try:
            for path in paths:
                self._parts.append(FeatureFile(path))
            _check_together(self._parts, allow_mix)
        except BaseException:
            self.close()
            raise
        self._parts.sort(key=lambda part: _number(part)[0])
        first, self.files = self._parts[0], [part.path for part in self._parts]
        self.path, self.class_names = first.path, first.class_names
        self.parameters = first.parameters
        self.attributes = first.attributes | {"shard": UNSHARDED}
        mixed = mixed_with(self.attributes, [part.attributes for part in self._parts])
        if mixed:
            self.attributes["mixed_with"] = mixed
        for name in ROW_COLUMNS:
            setattr(self, name, np.concatenate([getattr(part, name) for part in self._parts]))
        self.rows_done = len(self.labels)
        shapes = {s: (self.rows_done, *shape[1:]) for s, shape in first.shapes.items()}
        self.shapes = SpecDict(shapes)
        self.skipped = {p: why for part in self._parts for p, why in part.skipped.items()}
        self._file, self._keys = first._file, first._keys  # what it says of a pooling holds for all

    def close(self) -> None:
        """Close the files."""
        for part in self._parts:
            part.close()

    def _stored(self, spec: str) -> StoredRows:
        self._validate_spec(spec)
        checksums = []
        for part in self._parts:
            with damage(part.path):
                checksums.append(part._of("crc32", spec)[()])
        rows: list[tuple[Path, BinaryIO, h5py.Dataset]] = [p._rows_of(spec) for p in self._parts]
        return StoredRows(rows, np.concatenate(checksums), self.paths)


def merge(
    paths: Sequence[Path],
    output: Path,
    *,
    allow_mix: bool = False,
    overwrite: bool = False,
    attributes: dict[str, str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the shards of a photo set to one file, as a single run would have made it.

    Args:
        paths: the shards, all of them, in any order; a folder stands for those in it.
        output: the file.
        allow_mix: they may be of several precisions.
        overwrite: whatever is there.
        attributes: root attributes to keep a record.
        progress: told (rows done, rows in all).

    Raises:
        FeatureFileError: the files do not belong together, or one is damaged; or the output is
            there, or cannot be written.
    """
    with locked(output), open_features(paths, allow_mix) as parts:
        if output.resolve() in [path.resolve() for path in parts.files]:
            raise FeatureFileError(f"{output} is one of the files to be merged: name another")
        for there in (output, partial_path(output)):
            if there.exists() and not overwrite:
                raise FeatureFileError(f"{there} is there already: name another, or --overwrite")
        header = parts.header()
        header = replace(header, attributes={**header.attributes, **(attributes or {})})
        shapes = {spec: shape[1:] for spec, shape in parts.shapes.items()}
        writer = create(output, shapes, header)
        try:
            with writer:
                for start in range(0, parts.rows_done, BLOCK):
                    which = np.arange(start, min(start + BLOCK, parts.rows_done))
                    writer.append({spec: parts.read_raw(spec, which) for spec in shapes})
                    if progress:
                        progress(writer.rows_done, parts.rows_done)
                writer.finish()
        finally:
            partial_path(output).unlink(missing_ok=True)


def _number(part: FeatureFile) -> tuple[int, int]:
    """Return which shard a file is, and of how many."""
    with damage(part.path):
        number, of = map(int, str(part.attributes.get("shard", UNSHARDED)).split("/"))
        if not 1 <= number <= of:
            raise ValueError(f"shard is {number}/{of}")
        return number, of


def _check_together(parts: Sequence[FeatureFile], allow_mix: bool) -> None:
    """Raise a FeatureFileError unless the files are all shards of one photo set."""
    first = parts[0]
    for part in parts[1:]:
        by_attribute = differences(
            first.comparable_attributes(), part.comparable_attributes(), "merge", allow_mix
        )
        for name, was, there in [*by_attribute, *_other_differences(first, part)]:
            mix = "; merge takes --allow-precision-mix" if name in PRECISION_ATTRIBUTES else ""
            raise FeatureFileError(
                f"{first.path} and {part.path} do not belong together: {name} is {was} in the "
                f"first and {there} in the second{mix}"
            )
        if differences(first.comparable_attributes(), part.comparable_attributes(), "merge"):
            precisions = [str(file.attributes.get("precision")) for file in (first, part)]
            log.warning(
                "%s is in %s and %s in %s: %s",
                first.path,
                precisions[0],
                part.path,
                precisions[1],
                measured_difference(*precisions),
            )
    numbers, of = Counter(_number(part)[0] for part in parts), _number(first)[1]
    twice = [f"{k}/{of}" for k, times in numbers.items() if times > 1]
    if twice:
        names = abbreviate(str(part.path) for part in parts if numbers[_number(part)[0]] > 1)
        raise FeatureFileError(f"shard {abbreviate(twice)} is there more than once: {names}")
    if len(numbers) < of:
        lacking = next(k for k in range(1, of + 1) if k not in numbers)
        raise FeatureFileError(
            f"{of - len(numbers)} of {of} shards are missing, the first of them {lacking}/{of}: "
            f"make it with bilinear extract --shard {lacking}/{of}, or all of them by giving the "
            "command with --scheduler again that began them"
        )


def _other_differences(a: FeatureFile, b: FeatureFile) -> list[Difference]:
    """Return what beside attributes keeps two files from being parts of one set."""
    pairs = [Difference("the number of shards", _number(a)[1], _number(b)[1])]
    for spec in a.shapes.keys() & b.shapes.keys():
        pairs.append(Difference(f"a row of {spec}", a.shapes[spec][1:], b.shapes[spec][1:]))
        pairs.append(Difference(spec, a.layout(spec), b.layout(spec)))
    for name in (a.parameters.keys() & b.parameters.keys()) - {FITTED_ON}:
        digests = (parameter_sha256(file.parameters[name]) for file in (a, b))
        pairs.append(Difference(name, *digests))
    differing = [pair for pair in pairs if pair.first != pair.second]
    if a.class_names.tolist() != b.class_names.tolist():
        names = (abbreviate(file.class_names) for file in (a, b))
        differing.append(Difference("the list of classes", *names))
    return differing
