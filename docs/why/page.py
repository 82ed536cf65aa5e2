"""All results -> docs/why.md, and one page per data set with all its figures.

The text is in `template.md`. In it, `{{name}}` stands for a table or a picture.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pictures
import tables
from measure import DRAWN, DRAWS
from tables import Results
from vectors import FULL, VARIANTS

from bilinear_cli.errors import BilinearError, abbreviate

TEMPLATE = Path(__file__).with_name("template.md")
NOTE = "<!-- Written by `make why`; the text is in docs/why/template.md. -->\n\n"
ALT = {
    "matches": "share of the similarity in the strongest matches, for bilinear and sum",
    "ablation": "difference in top-1 between each variant and bilinear, with intervals",
    "numbers": "top-1 against the number of entries with the highest variance",
    "photos": "top-1 against training photos per class, for three kinds of vectors",
}
CAPTIONS = {
    "matches": "medians over pairs of training photos of one class; bands show the quartiles",
    "ablation": "effect of removing each component",
    "numbers": "bars are 95 % intervals of the difference from all entries",
    "photos": "bars are 95 % intervals over test photos and draws",
}


def write_pages(docs: Path) -> None:
    """Write docs/why.md, and in docs/why/ the pictures and the page of each data set."""
    files = sorted((docs / "why").glob("*.json"))
    results = [whole(path) for path in files]
    results.sort(key=lambda found: (-found["made"]["n_test"], found["name"]))
    for found in results:
        pictures.draw(found, docs / "why")
        (docs / "why" / f"{found['name']}.md").write_text(NOTE + set_page(found), encoding="utf-8")
    (docs / "why.md").write_text(NOTE + rendered(TEMPLATE.read_text("utf-8"), results), "utf-8")


def whole(path: Path) -> Results:
    """Read results, which may come from another version of this script.

    Raises:
        BilinearError: results for the pages are missing.
    """
    found = json.loads(path.read_text(encoding="utf-8"))
    drawn = [key.removeprefix(FULL) for key in found["trials"] if f"{FULL}/photos" in key]
    wanted = [f"{key}/{n}" for key, variant in VARIANTS.items() for n in range(variant.seeds)]
    wanted += [f"{key}{amount}" for key in DRAWN for amount in drawn]
    if lacking := [key for key in wanted if key not in found["trials"]]:
        raise BilinearError(
            f"{path} lacks {abbreviate(lacking)}: run make why on its photos again, or remove it"
        )
    return found


def rendered(template: str, results: Sequence[Results]) -> str:
    """Return the page, with the pictures of the first data set."""

    def filled(place: re.Match[str]) -> str:
        name = place[1]
        if name in pictures.PICTURES:
            return picture(results[0], name, "why/") if results else ""
        return tables.PLACES[name](results)

    return re.sub(r"\{\{([\w-]+)\}\}", filled, template)


def picture(found: Results, what: str, folder: str = "") -> str:
    """Return a picture of a data set and its caption."""
    name = found["name"]
    return f"![{name}: {ALT[what]}]({folder}{name}-{what}.svg)\n\n*{name}: {CAPTIONS[what]}*"


def set_page(found: Results) -> str:
    """Return the page with all figures of a data set."""
    facts = found["made"] | {"map": " x ".join(map(str, found["made"]["map"]))}
    made = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    parts = [
        f"# {found['name']}: all figures",
        "[why.md](../why.md) explains the figures. Intervals are 95 % intervals, from a bootstrap "
        "over the test photos and, if there are several, over shuffles or draws.",
        tables.variants(found),
        picture(found, "ablation"),
        picture(found, "matches"),
        "## Entries with the highest variance",
        tables.numbers(found),
        picture(found, "numbers"),
        "## Training photos per class",
        f"Drawn {DRAWS} times. If a class has fewer photos, all are used.",
        tables.photos(found),
        picture(found, "photos"),
        "## Data, options and versions",
        made,
    ]
    return "\n\n".join(parts) + "\n"
