"""New, resumed or complete: what is there of a feature file decides what a run does."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from bilinear_cli.errors import FeatureFileError, abbreviate
from bilinear_cli.extraction.job import Source
from bilinear_cli.extraction.versions import warn_if_versions_differ
from bilinear_cli.recipe import Recipe, check_same, differences
from bilinear_cli.store import FeatureFile, FeatureWriter, partial_path

log = logging.getLogger(__name__)

ADVICE = "give another --output, or --overwrite"


@contextmanager
def open_existing(output: Path, overwrite: bool) -> Iterator[FeatureFile | None]:
    """Open what is there of a feature file.

    Args:
        output: the file.
        overwrite: what is there does not count.

    Yields:
        None if there is nothing; a `FeatureWriter` of an unfinished file, also where an older
        complete one still has the final name; else the complete `FeatureFile`.

    Raises:
        FeatureFileError: it is damaged, or `output` is a folder.
    """
    if output.is_dir():
        raise FeatureFileError(f"{output} is a folder: give --output a file name")
    if overwrite or not (output.exists() or partial_path(output).exists()):
        yield None
    elif partial_path(output).exists():
        with FeatureWriter(output) as writer:
            yield writer
    else:
        with FeatureFile(output) as file:
            yield file


def check_resumable(begun: FeatureFile, source: Source, recipe: Recipe) -> None:
    """Check that a run may resume a file, or that a complete file is what is asked for.

    Raises:
        FeatureFileError: the recipe or the photos differ, or a row is damaged.
    """
    check_same(
        differences(begun.recipe.comparable_attributes(), recipe.comparable_attributes(), "resume"),
        begun.path,
        ADVICE,
    )
    _check_photos(begun, source)
    if isinstance(begun, FeatureWriter):
        warn_if_versions_differ(begun.path, begun.attributes.get("versions"), recipe.precision)
        for spec in begun.shapes:
            begun.check(spec)
        log.info("going on after %d of %d photos", photos_done(begun), len(source.paths))
    else:
        without = f", without {abbreviate(begun.skipped)}" if begun.skipped else ""
        log.info("%s is complete%s: nothing to do (--overwrite begins again)", begun.path, without)


def _check_photos(file: FeatureFile, source: Source) -> None:
    """Raise unless the rows that are done are of the source's photos, and no photo is new.

    Photos may have changed whose rows are still to come, or that were skipped.
    """
    expected = set(source.paths)
    gone = set(file.paths) - expected
    new = expected - set(file.paths) - file.skipped.keys()
    fixed = np.flatnonzero(file.photo[: file.rows_done] >= 0)
    stored = dict(zip(file.paths[fixed], file.sha256[fixed], strict=True))
    there = [path for path in stored if path in expected]
    sha256 = source.sha256(there)
    changed = [path for path, now in zip(there, sha256, strict=True) if stored[path] != now]
    for what, names in (("gone", gone), ("new", new), ("changed", changed)):
        if names:
            raise FeatureFileError(
                f"photos are {what} since {file.path} was begun: {abbreviate(sorted(names))}; "
                f"give another --output, with --reuse {file.path} for the other rows, or "
                "--overwrite"
            )


def photos_done(file: FeatureFile) -> int:
    """Return how many photos have all their rows."""
    return file.rows_done // max(1, file.n_views)
