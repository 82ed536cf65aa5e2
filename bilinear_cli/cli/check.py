"""The command `check`: an inspection of a photo set before hours are spent on it."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bilinear_cli.cli.base import cli, progress_bar
from bilinear_cli.cli.options import (
    PATH,
    backbone_option,
    class_level_option,
    columns_option,
    crop_options,
    data_option,
    image_size_option,
    split_seed_option,
)
from bilinear_cli.cli.streams import print_json
from bilinear_cli.errors import BilinearError
from bilinear_cli.messages import command_line

if TYPE_CHECKING:
    from bilinear_cli.photos.photo_set import PhotoSet

log = logging.getLogger(__name__)


@cli.command()
@data_option
@split_seed_option
@class_level_option
@columns_option
@crop_options
@backbone_option
@image_size_option
@click.option(
    "--groups",
    type=PATH,
    metavar="FILE.csv",
    help="Write a CSV file for --data, in which duplicates form groups. Photos of one group always "
    "land in the same split and fold.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with complete lists.")
def check(
    data: str,
    split_seed: int,
    class_level: int | None,
    columns: Mapping[str, str] | None,
    backbone: str,
    image_size: int | None,
    groups: Path | None,
    as_json: bool,
    **box_options: Any,
) -> None:
    """Check a photo set for problems, before extract.

    The command reads every photo and counts the photos of each class. It finds identical files,
    near duplicates (photos that were compressed again, resized, brightened or cropped a little,
    but not mirrored), similar class names and unusual photos. It groups what it finds by what you
    have to do. It estimates the time and the file size of extract by a trial on two photos. It
    exits with 1 if a photo would stop extract.

    \b
    bilinear check --data photos
    bilinear check --data photos --groups grouped.csv
    """
    from bilinear_cli.extraction.forecast import forecast_extraction
    from bilinear_cli.extraction.make_job import make_network
    from bilinear_cli.extraction.options import ExtractOptions
    from bilinear_cli.photos.audit import audit_photos, validate_groups_path
    from bilinear_cli.photos.boxes.cropped_set import crop_photo_set, crops_of_photos
    from bilinear_cli.photos.photo_set import load_photo_set

    if groups:
        validate_groups_path(groups)
    options = ExtractOptions(backbone=backbone, image_size=image_size, **box_options)
    size = image_size or make_network(options).image_size
    with progress_bar("preparing photos", "photo") as progress:
        photo_set = load_photo_set(
            data,
            split_seed=split_seed,
            class_level=class_level,
            columns=columns,
            progress=progress,
        )
    crops, entries = None, photo_set
    if options.box_options:
        entries, crop, _ = crop_photo_set(photo_set, options.box_options)
        photo_set, crops = entries.whole_photos(), crops_of_photos(entries, crop)
    with progress_bar("reading", "photo") as progress:
        summary = audit_photos(photo_set, size, progress, crops=crops)
    summary["extract"] = forecast_extraction(entries, options)
    n_unreadable = len(summary["unreadable"])
    try:
        _print_summary(summary, as_json)
    finally:  # a reader of the summary that has gone must not cost the groups
        if groups and not n_unreadable:
            _write_groups(photo_set, summary, groups)
    if n_unreadable:
        not_written = f". {groups} was not written" if groups else ""
        raise BilinearError(
            f"{n_unreadable} of {len(photo_set)} photos cannot be read: repair or remove "
            f"them, or use extract --skip-bad{not_written}"
        )


def _print_summary(summary: dict[str, Any], as_json: bool) -> None:
    from bilinear_cli.photos.audit_report import format_audit

    if as_json:
        print_json(summary)
        return
    click.echo(format_audit(summary))
    click.echo(_cost_lines(summary["extract"], summary["reading_seconds"]))


def _write_groups(photo_set: "PhotoSet", summary: dict[str, Any], groups: Path) -> None:
    """Write the CSV file of --groups, and log what to do with it."""
    from bilinear_cli.photos.audit import write_groups

    duplicates = [*summary["exact_duplicates"], *summary["near_duplicates"]]
    write_groups(photo_set, duplicates, groups)
    n_leaks = sum(photos["across_splits"] for photos in duplicates)
    if n_leaks and photo_set.split_seed is None:
        log.warning(
            "%s keeps the split of the set, in which %d sets of duplicates have photos in both "
            "train and test. Remove its column split to get a new split without such leaks",
            groups,
            n_leaks,
        )
    log.info("next: bilinear extract --data %s", command_line([str(groups)]))


def _cost_lines(cost: dict[str, Any], reading_seconds: float) -> str:
    """Return the cost of extraction, and how it was estimated."""
    seconds, megabytes = cost["seconds"], cost["bytes"] / 1e6
    time = f"{seconds / 60:.1f} minutes" if seconds >= 60 else f"{seconds:.0f} s"
    return (
        f"\nEstimate for extract at {cost['image_size']} pixels: {time} and a file "
        f"of {megabytes:,.1f} MB. Reading the photos took {reading_seconds:.1f} s\n"
        f"  per photo: {cost['ms_a_photo']} ms for {cost['backbone']} in {cost['precision']} by "
        f"{cost['engine']} (a trial on two photos on this machine), {cost['bytes_a_photo']:,} "
        f"bytes for {', '.join(cost['poolings'])}"
    )
