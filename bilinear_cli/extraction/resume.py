"""Is an output new, resumed or complete? What may differ between two runs of a command.

Photos without a row may go, come and change. If some go or come, an unfinished file of the present
photos replaces the old one, and keeps its rows.
"""

import logging
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np

from bilinear_cli.errors import FeatureFileError
from bilinear_cli.extraction.job import Source, warn_if_versions_differ
from bilinear_cli.messages import abbreviate
from bilinear_cli.photos.photo_set import entry_keys
from bilinear_cli.recipe import UNSHARDED, Recipe, check_same, differences
from bilinear_cli.store import (
    BOX,
    FeatureFile,
    FeatureWriter,
    Header,
    partial_path,
    remove_leftovers,
    restart,
)

log = logging.getLogger(__name__)

RESUME_ADVICE = "give another --output, or --overwrite"
KEPT_ATTRIBUTES = ("created", "versions")  # of the rows that are kept


def open_existing(
    output: Path, overwrite: bool
) -> AbstractContextManager[FeatureFile | FeatureWriter | None]:
    """Open the unfinished file of an output, or else the complete file; None with `overwrite`.

    Drafts that a killed run left are removed. The caller has the lock of the output.

    Raises:
        FeatureFileError: the file is damaged, or `output` is a folder.
    """
    if output.is_dir():
        raise FeatureFileError(f"{output} is a folder. Give --output a file name.")
    remove_leftovers(output)
    if partial_path(output).exists() and not overwrite:
        return FeatureWriter(output)
    return FeatureFile(output) if output.exists() and not overwrite else nullcontext()


def check_resumable(existing: FeatureFile, source: Source, recipe: Recipe) -> bool:
    """Raise a FeatureFileError if the recipe or photos differ, or if a row to keep is damaged.

    Photos that have no row in an unfinished file may differ, which is logged.

    Returns:
        False if a new file should replace it: it has other photos, and no row to keep.
    """
    stored, requested = existing.recipe.comparable_attributes(), recipe.comparable_attributes()
    check_same(differences(stored, requested, "resume"), existing.path, RESUME_ADVICE)
    _check_photos(existing, source)
    if not isinstance(existing, FeatureWriter):
        without = f", without {abbreviate(existing.skipped)}" if existing.skipped else ""
        message = "%s is complete%s: nothing to do. Use --overwrite to make it again."
        log.info(message, existing.path, without)
        return True
    if not (len(_indices_to_keep(existing)) or _has_photos(existing, source.keys)):
        return False
    warn_if_versions_differ(existing)
    for spec in existing.shapes:
        existing.verify_checksums(spec)
    log.info("resuming after %d of %d photos", existing.photos_done, len(source.keys))
    return True


def _indices_to_keep(file: FeatureFile) -> np.ndarray:
    """Return the indices of rows that are done, and not of unreadable photos."""
    return np.flatnonzero(file.photo[: file.rows_done] >= 0)


def _has_photos(file: FeatureFile, keys: np.ndarray) -> bool:
    """Return whether the photos of a file, and those that it skipped, have these keys."""
    listed, stored = {*keys.tolist()}, {*file.keys.tolist()}
    return stored <= listed <= stored | file.skipped.keys()


def _check_photos(file: FeatureFile, source: Source) -> None:
    """Raise if a photo of the source must not differ from the file; log those that may."""
    is_shard = file.recipe.shard != UNSHARDED
    same_list = is_shard or not isinstance(file, FeatureWriter)
    with_rows = {*file.keys[_indices_to_keep(file)].tolist()}
    changes = _compare_photos(file, source)
    for change, paths in changes.items():
        is_fixed = same_list and change != "changed"
        if refused := [path for path in paths if is_fixed or path in with_rows]:
            if len(changes["removed"]) == len({*file.keys.tolist()}):
                raise FeatureFileError(_another_set(file, source))
            what = "photos" if file.box is None else "photos or boxes"
            why = "All shards must be cut from one list of photos. " * is_shard
            raise FeatureFileError(
                f"{what} were {change} since {file.path} was made: {abbreviate(refused)}. {why}"
                f"Restore the photos, or give another --output with --reuse {file.path} to keep "
                "the other rows, or use --overwrite."
            )
    counts = [f"{len(x)} {change} ({abbreviate(x)})" for change, x in changes.items() if x]
    if counts:
        log.info("photos changed since %s was begun: %s", file.path, ", ".join(counts))


def _another_set(file: FeatureFile, source: Source) -> str:
    """Return the message for a source that has no path of the file."""
    return (
        f"{file.path} was made from another photo set, or paths now start in another folder: it "
        f"has {file.keys[0]}, --data has {source.keys[0]}. Give another --output. Add --reuse "
        f"{file.path} to copy the rows of identical photos. Or use --overwrite."
    )


def _compare_photos(file: FeatureFile, source: Source) -> dict[str, list[str]]:
    """Return `removed`, `added` and `changed` -> sorted keys of photos.

    A photo that is not done mostly has no SHA-256 yet, so its change goes unnoticed.
    """
    stored = dict(zip(file.keys.tolist(), file.sha256.tolist(), strict=True))
    present = {*source.keys.tolist()}
    known = sorted(key for key in present & stored.keys() if stored[key])
    pairs = zip(known, source.sha256(known), strict=True)
    return {
        "removed": sorted(stored.keys() - present),
        "added": sorted(present - stored.keys() - file.skipped.keys()),
        "changed": [key for key, sha256 in pairs if sha256 != stored[key]],
    }


def with_photos(writer: FeatureWriter, header: Header) -> FeatureWriter:
    """Return the writer of a file of the header's photos, which keeps the rows that are done.

    It is another file, which replaces that of `writer`, if photos were removed or added. Its first
    rows are those that are kept; `finish` restores the order of the photo set.
    """
    columns = header.row_columns
    keys = entry_keys(columns["paths"], columns.get(BOX))
    if _has_photos(writer, keys):
        return writer
    kept = _indices_to_keep(writer)
    rank = {key: i for i, key in enumerate(writer.keys[kept].tolist())}
    ranks = [rank.get(key, len(kept)) for key in keys.tolist()]
    order = np.argsort(ranks, kind="stable")  # of the views of a photo, too
    columns = {name: values[order] for name, values in columns.items()}
    attributes = {name: x for name, x in writer.attributes.items() if name in KEPT_ATTRIBUTES}
    attributes = {**header.attributes, **attributes}
    return restart(writer, kept, replace(header, row_columns=columns, attributes=attributes))
