"""All results there are -> docs/why.md, and of each data set a page with every figure.

The text is in `template.md`; `{{name}}` in it stands for a table or a picture made here.
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import figures
import pictures
from matches import ONE_PER_CENT
from measure import DRAWN, DRAWS, PHOTOS, TOP, Trial
from vectors import BASELINE, FULL, NORMS, SHUFFLED, UNRELATED, VARIANTS

from bilinear_cli.errors import BilinearError, some

TEMPLATE = Path(__file__).with_name("template.md")
NOTE = "<!-- Written by `make why`; the text is in docs/why/template.md. -->\n\n"
Results = dict[str, Any]
AMOUNTS = (*(f"/photos{n}" for n in PHOTOS), "")  # in the keys of trials
CAUSES = ("together", SHUFFLED, UNRELATED, "means", "diagonal", "off-diagonal")
ALT = {
    "matches": "share of the similarity that the strongest matches carry, bilinear and sum",
    "ablation": "top-1 of each variant less that of bilinear, with intervals",
    "numbers": "top-1 against the number of entries kept, by variance",
    "photos": "top-1 against training photos of a class, of three kinds of vectors",
}
CAPTIONS = {
    "matches": "medians over pairs of training photos of one class; the bands hold half of them",
    "ablation": "what is taken away, and what it costs",
    "numbers": "bars are 95 % intervals of the difference from all entries",
    "photos": "bars are over test photos and draws",
}


def write_pages(docs: Path) -> None:
    """Write docs/why.md, and beside the results in docs/why/ pictures and pages of each set."""
    files = sorted((docs / "why").glob("*.json"))
    results = [whole(path) for path in files]
    results.sort(key=lambda found: (-found["made"]["n_test"], found["name"]))
    for found in results:
        pictures.draw(found, docs / "why")
        (docs / "why" / f"{found['name']}.md").write_text(NOTE + set_page(found), encoding="utf-8")
    (docs / "why.md").write_text(NOTE + rendered(TEMPLATE.read_text("utf-8"), results), "utf-8")


def whole(path: Path) -> Results:
    """Read results, which may be of another version of this script.

    Raises:
        BilinearError: what the pages show is not all there.
    """
    found = json.loads(path.read_text(encoding="utf-8"))
    drawn = [key.removeprefix(FULL) for key in found["trials"] if f"{FULL}/photos" in key]
    wanted = [f"{key}/{n}" for key, variant in VARIANTS.items() for n in range(variant.seeds)]
    wanted += [f"{key}{amount}" for key in DRAWN for amount in drawn]
    if lacking := [key for key in wanted if key not in found["trials"]]:
        raise BilinearError(
            f"{path} lacks {some(lacking)}: run make why on those photos again, or remove it"
        )
    return found


def rendered(template: str, results: Sequence[Results]) -> str:
    """Return the page; of pictures those of the first data set."""

    def filled(place: re.Match[str]) -> str:
        name = place[1]
        if name in pictures.PICTURES:
            return picture(results[0], name, "why/") if results else ""
        return PLACES[name](results)

    return re.sub(r"\{\{([\w-]+)\}\}", filled, template)


def picture(found: Results, what: str, folder: str = "") -> str:
    """Return a picture of a data set and its caption."""
    name = found["name"]
    return f"![{name}: {ALT[what]}]({folder}{name}-{what}.svg)\n\n*{name}: {CAPTIONS[what]}*"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; its first column to the left, the others to the right."""
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows])


def by_set(
    corner: str, lines: Sequence[tuple[str, Callable[[Results], str]]], results: Sequence[Results]
) -> str:
    """Return a table with a column for each data set."""
    rows = [[says, *(cell(found) for found in results)] for says, cell in lines]
    return table([corner, *(found["name"] for found in results)], rows)


def accuracy(found: Results, variant: str) -> str:
    """Return a variant's top-1, the mean over its seeds."""
    return f"{figures.hits(found, *figures.seeds(found, variant)).mean():.3f}"


def less(found: Results, variant: str, than: str) -> str:
    """Return a difference in top-1 and its interval."""
    of, other = (figures.hits(found, *figures.seeds(found, key)) for key in (variant, than))
    return said(figures.difference(of, other))


def said(interval: figures.Interval) -> str:
    """Return a difference and its interval in words."""
    middle, low, high = interval
    return f"{middle:+.3f} ({low:+.3f} to {high:+.3f})"


# What stands in the template ---------------------------------------------------------------------


def identities(results: Sequence[Results]) -> str:
    """Return how far both sides of the identities are apart."""

    def line(name: str) -> tuple[str, Callable[[Results], str]]:
        return name, lambda found: f"{found['checks']['identities'][name]:.0e}"

    names = results[0]["checks"]["identities"] if results else []
    return by_set("inner product of", [line(name) for name in names], results)


def shares(results: Sequence[Results]) -> str:
    """Return what the strongest 1 % of the matches carry."""

    def line(name: str) -> tuple[str, Callable[[Results], str]]:
        def cell(found: Results) -> str:
            low, middle, high = (q[ONE_PER_CENT] for q in found["checks"]["shares"][name])
            return f"{middle:.1%} ({low:.1%} to {high:.1%})"

        return name, cell

    return by_set("carried by the strongest 1 %", [line("sum"), line("bilinear")], results)


def moved(results: Sequence[Results]) -> str:
    """Return what the shuffles move."""

    def line(says: str, name: str) -> tuple[str, Callable[[Results], str]]:
        return says, lambda found: f"{found['checks']['moved'][name]:.0e}".replace("0e+00", "0")

    lines = [
        line("each channel shuffled: max", "max"),
        line("each channel shuffled: sum", "sum"),
        line("each channel shuffled: bilinear", "bilinear, each channel"),
        line("channels shuffled together: bilinear", "bilinear"),
    ]
    return by_set("largest difference", lines, results)


def cause(results: Sequence[Results]) -> str:
    """Return bilinear's accuracy, and by how much it changes without parts of it."""
    lines = [(f"**{VARIANTS[FULL].says}**", lambda found: f"**{accuracy(found, FULL)}**")]
    lines += [_less_full(key) for key in CAUSES]
    return by_set("vectors", lines, results)


def _less_full(key: str) -> tuple[str, Callable[[Results], str]]:
    return VARIANTS[key].says, lambda found: less(found, key, FULL)


def norms(results: Sequence[Results]) -> str:
    """Return accuracies by normalisation."""
    keys = ["max-standard", "max-both", "average-standard"]
    keys += [f"{pool}-{norm}" for pool in ("average", "bilinear") for norm in NORMS]

    def line(key: str) -> tuple[str, Callable[[Results], str]]:
        return VARIANTS[key].says, lambda found: accuracy(found, key)

    return by_set("top-1", [line(key) for key in keys], results)


def where(results: Sequence[Results]) -> str:
    """Return by data set what bilinear gains, and over what."""
    head = ["data", "test photos", "chance", "top-1", "over max, standardised"]
    head += [f"over {VARIANTS[BASELINE].says}", "over means' product, true diagonal"]
    rows = []
    for found in results:
        made = found["made"]
        gains = [less(found, FULL, key) for key in ("max-standard", BASELINE, UNRELATED)]
        row = [f"[{found['name']}](why/{found['name']}.md)", f"{made['n_test']:,}"]
        rows.append([*row, f"{1 / made['n_classes']:.3f}", accuracy(found, FULL), *gains])
    return table(head, rows)


def few(results: Sequence[Results]) -> str:
    """Return by training photos of a class what co-occurrence is worth."""

    def line(amount: str) -> tuple[str, Callable[[Results], str]]:
        def cell(found: Results) -> str:
            keys = (f"{FULL}{amount}", f"{UNRELATED}{amount}")
            return less(found, *keys) if figures.seeds(found, keys[0]) else ""

        return amount.removeprefix("/photos") or "all", cell

    return by_set("photos of a class", [line(amount) for amount in AMOUNTS], results)


PLACES = {place.__name__: place for place in (identities, shares, moved, cause, norms, few, where)}


# The page of a data set --------------------------------------------------------------------------


def set_page(found: Results) -> str:
    """Return a page with every figure of a data set."""
    facts = found["made"] | {"map": " x ".join(map(str, found["made"]["map"]))}
    made = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    parts = [
        f"# {found['name']}: every figure",
        "What each means is in [why.md](../why.md). Intervals are of 95 %, by a bootstrap over the "
        "test photos and, where there are several, over shuffles or draws.",
        variants(found),
        picture(found, "ablation"),
        picture(found, "matches"),
        "## Entries kept, of highest variance",
        numbers(found),
        picture(found, "numbers"),
        "## Training photos of a class",
        f"Drawn {DRAWS} times; all there are where a class has fewer.",
        photos(found),
        picture(found, "photos"),
        "## How it was made",
        made,
    ]
    return "\n\n".join(parts) + "\n"


def variants(found: Results) -> str:
    """Return a table of all variants."""
    head = ["vectors", "numbers", "top-1", "less bilinear", "seeds: least to most", "C", "s"]
    rows = []
    for key, variant in VARIANTS.items():
        trials = [found["trials"][name] for name in figures.seeds(found, key)]
        top1 = [trial["top1"] for trial in trials]
        spread = f"{min(top1):.3f} to {max(top1):.3f}" if len(top1) > 1 else ""
        apart = "" if key == FULL else less(found, key, FULL)
        row = [variant.says, f"{trials[0]['numbers']:,}", accuracy(found, key), apart, spread]
        seconds = sum(trial["seconds"] for trial in trials) / len(trials)
        rows.append([*row, f"{trials[0]['C']:.3g}", f"{seconds:.1f}"])
    return table(head, rows)


def numbers(found: Results) -> str:
    """Return the accuracy by entries kept."""
    full = figures.hits(found, Trial(FULL).key)
    rows = []
    for top in TOP:
        trial = found["trials"].get(Trial(FULL, top=top).key)
        if trial:
            apart = figures.difference(figures.hits(found, Trial(FULL, top=top).key), full)
            row = [f"{top:,}", f"{trial['numbers']:,}", f"{trial['top1']:.3f}"]
            rows.append([*row, said(apart)])
    whole = found["trials"][Trial(FULL).key]
    entries = found["made"]["map"][-1] ** 2
    rows.append([f"{entries:,}", f"{whole['numbers']:,}", f"{whole['top1']:.3f}", ""])
    return table(["entries", "stored numbers", "top-1", "less all"], rows)


def photos(found: Results) -> str:
    """Return accuracies by training photos, and what bilinear is better by."""
    others = [variant for variant in DRAWN if variant != FULL]
    rows = []
    for amount in AMOUNTS:
        if figures.seeds(found, f"{FULL}{amount}"):
            row = [amount.removeprefix("/photos") or "all", accuracy(found, f"{FULL}{amount}")]
            rows.append([*row, *(less(found, f"{FULL}{amount}", f"{k}{amount}") for k in others)])
    head = ["photos", VARIANTS[FULL].says, *(f"over {VARIANTS[key].says}" for key in others)]
    return table(head, rows)
