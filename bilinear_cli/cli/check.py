"""The command that looks a photo set over before hours are spent on it: check."""

import json
import logging
import shlex
from pathlib import Path
from typing import Any

import click

from bilinear_cli.cli.base import bar, cli, data_option
from bilinear_cli.errors import BilinearError
from bilinear_cli.extraction.options import ExtractOptions

log = logging.getLogger(__name__)


@cli.command()
@data_option
@click.option("--split-seed", type=int, default=0, help="For a set that has no split of its own.")
@click.option(
    "--image-size",
    type=click.IntRange(32),
    default=ExtractOptions().image_size,
    help="Pixels that extract will be asked for.",
)
@click.option(
    "--groups",
    type=click.Path(path_type=Path),
    metavar="FILE.csv",
    help="Write a manifest for --data whose groups keep duplicates together.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with whole lists.")
def check(data: str, split_seed: int, image_size: int, groups: Path | None, as_json: bool) -> None:
    """Look a photo set over: what would stop extract, and what would spoil the results.

    Counts classes, reads every photo, finds files that are the same and photos that are nearly
    (stored again, made smaller, brighter, cropped by a little; not mirrored ones), class names
    that look alike, odd photos, and says what extract will cost. Exits with 1 if it would stop.

    \b
    bilinear check --data photos
    bilinear check --data photos --groups grouped.csv
    """
    from bilinear_cli.extraction.options import estimate_cost
    from bilinear_cli.photos.audit import audit_photos, check_new, write_groups
    from bilinear_cli.photos.audit_report import as_text, facts
    from bilinear_cli.photos.photo_set import load_photo_set

    if groups:
        check_new(groups)
    with bar("preparing photos", "photo") as progress:
        photo_set = load_photo_set(data, split_seed=split_seed, progress=progress)
    with bar("reading", "photo") as progress:
        found = audit_photos(photo_set, image_size, progress)
    said = facts(photo_set, found) | {"extract": estimate_cost(len(photo_set), image_size)}
    if as_json:
        click.echo(json.dumps(said, ensure_ascii=False))
    else:
        click.echo(as_text(said))
        click.echo(_cost_line(said["extract"], said["reading_seconds"]))
    if found.unreadable:
        bad = f"{len(found.unreadable)} of {len(photo_set)} photos cannot be read"
        unwritten = f" ({groups} is not written)" if groups else ""
        raise BilinearError(f"{bad}: mend or remove them, or extract with --skip-bad{unwritten}")
    if groups:
        write_groups(photo_set, found, groups)
        sets = [*said["exact_duplicates"], *said["near_duplicates"]]
        torn = sum(same["across_splits"] for same in sets)
        if torn and photo_set.split_seed is None:
            log.warning(
                "%s keeps the set's own split, across which there are duplicates (sets: %d); "
                "without its column split a new one is made that keeps them together",
                groups,
                torn,
            )
        log.info("next: bilinear extract --data %s", shlex.quote(str(groups)))


def _cost_line(cost: dict[str, Any], reading: float) -> str:
    """Say what extraction costs, and what that assumes."""
    return (
        f"\nextract at {cost['image_size']} pixels: {cost['seconds'] / 60:.1f} minutes "
        f"({cost['ms_a_photo']} ms a photo: VGG16 in bfloat16 on two cores; reading alone took "
        f"{reading:.1f} s here) and {cost['bytes'] / 1e6:,.1f} MB ({cost['bytes_a_photo']:,} bytes "
        f"a photo: {', '.join(cost['poolings'])})"
    )
