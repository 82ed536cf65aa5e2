"""All results -> docs/why.md, and one page per data set with all its figures.

The text is in `template.md`. In it, `{{name}}` stands for a table or a picture.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pictures
import tables
from figures import Results
from measure import N_DRAWS, SUBSAMPLED_VARIANTS
from vectors import FULL, VARIANTS

from bilinear_cli.errors import BilinearError
from bilinear_cli.messages import abbreviate

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
    """Write docs/why.md, and in docs/why/ the pictures and the page of each data set.

    Raises:
        BilinearError: results for the pages are missing.
    """
    data_sets = [read_results(path) for path in (docs / "why").glob("*.json")]
    data_sets.sort(key=lambda results: (-results["made"]["n_test"], results["name"]))
    for results in data_sets:
        pictures.draw(results, docs / "why")
        page = docs / "why" / f"{results['name']}.md"
        page.write_text(NOTE + page_of_set(results), encoding="utf-8")
    (docs / "why.md").write_text(NOTE + main_page(data_sets), encoding="utf-8")


def read_results(path: Path) -> Results:
    """Read results, perhaps of an earlier version, and check that no trial is missing."""
    results = json.loads(path.read_text(encoding="utf-8"))
    keys = results["trials"]
    drawn = [key.removeprefix(FULL) for key in keys if f"{FULL}/photos" in key]
    required = [f"{key}/{n}" for key, variant in VARIANTS.items() for n in range(variant.seeds)]
    required += [f"{key}{suffix}" for key in SUBSAMPLED_VARIANTS for suffix in drawn]
    if missing := [key for key in required if key not in keys]:
        raise BilinearError(
            f"{path} lacks {abbreviate(missing)}: run make why on its photos again, or remove it"
        )
    return results


def main_page(data_sets: Sequence[Results]) -> str:
    """Return the page over all data sets, with the pictures of the first."""

    def replacement(placeholder: re.Match[str]) -> str:
        name = placeholder[1]
        if name in pictures.PICTURES:
            return picture(data_sets[0], name, "why/") if data_sets else ""
        return tables.TABLES[name](data_sets)

    return re.sub(r"\{\{([\w-]+)\}\}", replacement, TEMPLATE.read_text("utf-8"))


def picture(results: Results, name: str, folder: str = "") -> str:
    """Return a picture of a data set and its caption."""
    data = results["name"]
    return f"![{data}: {ALT[name]}]({folder}{data}-{name}.svg)\n\n*{data}: {CAPTIONS[name]}*"


def page_of_set(results: Results) -> str:
    """Return the page with all figures of a data set."""
    facts = results["made"] | {"map": " x ".join(map(str, results["made"]["map"]))}
    paragraphs = [
        f"# {results['name']}: all figures",
        "[why.md](../why.md) explains the figures. Intervals are 95 % intervals, from a bootstrap "
        "over the test photos and, if there are several, over shuffles or draws.",
        tables.variants(results),
        picture(results, "ablation"),
        picture(results, "matches"),
        "## Entries with the highest variance",
        tables.numbers(results),
        picture(results, "numbers"),
        "## Training photos per class",
        f"Drawn {N_DRAWS} times. If a class has fewer photos, all are used.",
        tables.photos(results),
        picture(results, "photos"),
        "## Data, options and versions",
        "\n".join(f"- {name}: {value}" for name, value in facts.items()),
    ]
    return "\n\n".join(paragraphs) + "\n"
