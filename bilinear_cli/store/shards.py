"""Several feature files, the shards of one photo set, as one feature file."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from bilinear_cli.errors import FeatureFileError
from bilinear_cli.messages import abbreviate
from bilinear_cli.networks.engines import MEASURED_ENGINES, measured_difference
from bilinear_cli.poolings.registry import FITTED_ON, SpecDict
from bilinear_cli.progress import Progress
from bilinear_cli.recipe import (
    ENGINE,
    PRECISION_ATTRIBUTES,
    UNSHARDED,
    Difference,
    differences,
    mixed_engines,
    mixed_with,
)
from bilinear_cli.store.checks import ROW_COLUMNS, parameter_sha256, partial_path, read_errors
from bilinear_cli.store.lock import locked
from bilinear_cli.store.reading import FeatureFile
from bilinear_cli.store.writing import copy_rows

log = logging.getLogger(__name__)


def open_features(paths: Sequence[Path], allow_precision_mix: bool = False) -> FeatureFile:
    """Open a feature file, or all shards of a photo set as one file.

    Args:
        paths: the file or files; a folder stands for its files `*.h5`.
        allow_precision_mix: the shards may differ in precision.

    Raises:
        FeatureFileError: a file cannot be read, there is none, or they do not belong together.
    """
    with ExitStack() as on_error:
        files = [on_error.enter_context(FeatureFile(file)) for file in _list_files(paths)]
        file = files[0]
        if len(files) > 1 or _shard_of(file) != (1, 1):
            _check_compatible(files, allow_precision_mix)
            _check_all_present(files)
            file = Shards(files)
        on_error.pop_all()
        return file


def _list_files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        files = sorted(path.glob("*.h5")) if path.is_dir() else [path]
        if not files:
            raise FeatureFileError(f"the folder {path} has no finished feature file (*.h5)")
        yield from files


class Shards(FeatureFile):
    """All shards of one photo set, with the rows of the file of a single run."""

    def __init__(self, shards: Sequence[FeatureFile]) -> None:
        self._shards = sorted(shards, key=_shard_of)
        first, self.files = self._shards[0], [shard.path for shard in self._shards]
        self.path, self.class_names = first.path, first.class_names
        self.parameters = first.parameters
        self.attributes = first.attributes | {"shard": UNSHARDED}
        for name, mixed in (("mixed_with", mixed_with), ("mixed_engines", mixed_engines)):
            if value := mixed(self.attributes, [shard.attributes for shard in self._shards]):
                self.attributes[name] = value
        for name in ROW_COLUMNS:
            setattr(self, name, np.concatenate([getattr(shard, name) for shard in self._shards]))
        boxes = [shard.box for shard in self._shards if shard.box is not None]
        self.box = np.concatenate(boxes) if len(boxes) == len(self._shards) else None
        self.rows_done = len(self.labels)
        shapes = {s: (self.rows_done, *shape[1:]) for s, shape in first.shapes.items()}
        self.shapes = SpecDict(shapes)
        self.skipped = {path: x for shard in self._shards for path, x in shard.skipped.items()}
        self._file, self._keys = first._file, first._keys  # for layouts and dtypes, equal in all


def merge(
    paths: Sequence[Path],
    output: Path,
    *,
    allow_precision_mix: bool = False,
    overwrite: bool = False,
    attributes: dict[str, str] | None = None,
    progress: Progress | None = None,
) -> None:
    """Write all shards of a photo set to one file, equal to the file of a single run.

    `open_features` explains `paths` and `allow_precision_mix`, but an output in one of the folders
    is not one of the shards. `attributes` are more root attributes of the new file. Progress counts
    rows.

    Raises:
        FeatureFileError: the files do not belong together, one is damaged, or the output exists
            or cannot be written.
    """
    files = [x for x in _list_files(paths) if x in paths or x.resolve() != output.resolve()]
    if not files or output.resolve() in [x.resolve() for x in files]:
        raise FeatureFileError(f"{output} is one of the files to merge. Name another --output.")
    with locked(output), open_features(files, allow_precision_mix) as shards:
        for path in (output, partial_path(output)):
            if path.exists() and not overwrite:
                raise FeatureFileError(f"{path} exists. Name another --output, or use --overwrite.")
        header = shards.header()
        header = replace(header, attributes={**header.attributes, **(attributes or {})})
        copy_rows(shards, np.arange(shards.rows_done), output, header, progress)


def _shard_of(file: FeatureFile) -> tuple[int, int]:
    """Return the number of a shard, from 1, and the number of shards."""
    with read_errors(file.path):
        shard, n_shards = map(int, str(file.attributes.get("shard", UNSHARDED)).split("/"))
        if not 1 <= shard <= n_shards:
            raise ValueError(f"shard is {shard}/{n_shards}")
        return shard, n_shards


def _check_compatible(shards: Sequence[FeatureFile], allow_precision_mix: bool) -> None:
    """Raise a FeatureFileError unless one recipe and one photo set made all files."""
    first = shards[0]
    for shard in shards[1:]:
        pair = first.comparable_attributes(), shard.comparable_attributes()
        differing = differences(*pair, "merge", allow_precision_mix) + _differing_contents(
            first, shard
        )
        for name, value_1, value_2 in differing:
            mix = name in PRECISION_ATTRIBUTES
            advice = ". bilinear merge accepts this with --allow-precision-mix." if mix else ""
            about = ""
            if name == "data_sha256":
                about = " (of paths, labels, splits and groups)"
                advice = ". Only shards of one photo set belong together"
            raise FeatureFileError(
                f"{first.path} and {shard.path} do not belong together: {name}{about} is {value_1} "
                f"in the first and {value_2} in the second{advice}"
            )
        if differences(*pair, "merge"):
            a, b = (str(file.attributes.get("precision")) for file in (first, shard))
            difference = measured_difference(a, b)
            message = "%s has rows in %s and %s in %s, which will be mixed: %s"
            log.warning(message, first.path, a, shard.path, b, difference)
        a, b = (str(file.attributes.get("engine", ENGINE)) for file in (first, shard))
        if a != b:
            message = "%s has rows by %s and %s by %s, which will be mixed: %s"
            log.info(message, first.path, a, shard.path, b, MEASURED_ENGINES)


def _check_all_present(shards: Sequence[FeatureFile]) -> None:
    """Raise a FeatureFileError unless each shard of the photo set is present once."""
    counts, n_shards = Counter(_shard_of(shard)[0] for shard in shards), _shard_of(shards[0])[1]
    repeated = [f"{k}/{n_shards}" for k, count in counts.items() if count > 1]
    if repeated:
        paths = abbreviate(str(shard.path) for shard in shards if counts[_shard_of(shard)[0]] > 1)
        raise FeatureFileError(f"shard {abbreviate(repeated)} is given more than once: {paths}")
    if len(counts) < n_shards:
        missing = next(k for k in range(1, n_shards + 1) if k not in counts)
        n_missing = n_shards - len(counts)
        which = "is missing," if n_missing == 1 else "are missing, the first is"
        raise FeatureFileError(
            f"{n_missing} of {n_shards} shards {which} {missing}/{n_shards}. Make it with bilinear "
            f"extract --shard {missing}/{n_shards}, or run the command with --scheduler again to "
            "make all."
        )


def _differing_contents(a: FeatureFile, b: FeatureFile) -> list[Difference]:
    """Return the differences that forbid a merge, except those of attributes."""
    pairs = [Difference("the number of shards", _shard_of(a)[1], _shard_of(b)[1])]
    for spec in a.shapes.keys() & b.shapes.keys():
        pairs.append(Difference(f"a row of {spec}", a.shapes[spec][1:], b.shapes[spec][1:]))
        pairs.append(Difference(spec, a.pooling_attributes(spec), b.pooling_attributes(spec)))
    for name in (a.parameters.keys() & b.parameters.keys()) - {FITTED_ON}:
        digests = (parameter_sha256(file.parameters[name]) for file in (a, b))
        pairs.append(Difference(name, *digests))
    differing = [pair for pair in pairs if pair.first != pair.second]
    if a.class_names.tolist() != b.class_names.tolist():
        names = (abbreviate(file.class_names) for file in (a, b))
        differing.append(Difference("the list of classes", *names))
    return differing
