"""Results -> Markdown tables: over all data sets, with one column each, and for one data set."""

from collections.abc import Callable, Sequence
from typing import Any

import figures
from matches import ONE_PER_CENT
from measure import DRAWN, PHOTOS, TOP, Trial
from vectors import BASELINE, FULL, NORMS, SHUFFLED, UNRELATED, VARIANTS

Results = dict[str, Any]
AMOUNTS = (*(f"/photos{n}" for n in PHOTOS), "")  # in the keys of trials
CAUSES = ("together", SHUFFLED, UNRELATED, "means", "diagonal", "off-diagonal")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table. Its first column is left-aligned, the others are right-aligned."""
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
    """Return a difference and its interval as text."""
    middle, low, high = interval
    return f"{middle:+.3f} ({low:+.3f} to {high:+.3f})"


# Over all data sets -----------------------------------------------------------------------------


def identities(results: Sequence[Results]) -> str:
    """Return the difference between both sides of each identity."""

    def line(name: str) -> tuple[str, Callable[[Results], str]]:
        return name, lambda found: f"{found['checks']['identities'][name]:.0e}"

    names = results[0]["checks"]["identities"] if results else []
    return by_set("inner product of", [line(name) for name in names], results)


def shares(results: Sequence[Results]) -> str:
    """Return the share of the similarity in the strongest 1 % of the matches."""

    def line(name: str) -> tuple[str, Callable[[Results], str]]:
        def cell(found: Results) -> str:
            low, middle, high = (q[ONE_PER_CENT] for q in found["checks"]["shares"][name])
            return f"{middle:.1%} ({low:.1%} to {high:.1%})"

        return name, cell

    return by_set("share of the strongest 1 %", [line("sum"), line("bilinear")], results)


def moved(results: Sequence[Results]) -> str:
    """Return the differences caused by the shuffles."""

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
    """Return the accuracy of bilinear, and its change without each component."""
    lines = [(f"**{VARIANTS[FULL].says}**", lambda found: f"**{accuracy(found, FULL)}**")]
    lines += [_less_full(key) for key in CAUSES]
    return by_set("vectors", lines, results)


def _less_full(key: str) -> tuple[str, Callable[[Results], str]]:
    return VARIANTS[key].says, lambda found: less(found, key, FULL)


def norms(results: Sequence[Results]) -> str:
    """Return the accuracy for each normalisation."""
    keys = ["max-standard", "max-both", "average-standard"]
    keys += [f"{pool}-{norm}" for pool in ("average", "bilinear") for norm in NORMS]

    def line(key: str) -> tuple[str, Callable[[Results], str]]:
        return VARIANTS[key].says, lambda found: accuracy(found, key)

    return by_set("top-1", [line(key) for key in keys], results)


def where(results: Sequence[Results]) -> str:
    """Return the gain of bilinear over other vectors for each data set."""
    head = ["data", "test photos", "chance", "top-1", "over max, standardised"]
    head += [f"over {VARIANTS[BASELINE].says}", "over product of means, true diagonal"]
    rows = []
    for found in results:
        made = found["made"]
        gains = [less(found, FULL, key) for key in ("max-standard", BASELINE, UNRELATED)]
        row = [f"[{found['name']}](why/{found['name']}.md)", f"{made['n_test']:,}"]
        rows.append([*row, f"{1 / made['n_classes']:.3f}", accuracy(found, FULL), *gains])
    return table(head, rows)


def few(results: Sequence[Results]) -> str:
    """Return the effect of co-occurrence for each number of training photos per class."""

    def line(amount: str) -> tuple[str, Callable[[Results], str]]:
        def cell(found: Results) -> str:
            keys = (f"{FULL}{amount}", f"{UNRELATED}{amount}")
            return less(found, *keys) if figures.seeds(found, keys[0]) else ""

        return amount.removeprefix("/photos") or "all", cell

    return by_set("photos per class", [line(amount) for amount in AMOUNTS], results)


PLACES = {place.__name__: place for place in (identities, shares, moved, cause, norms, few, where)}


# For one data set -------------------------------------------------------------------------------


def variants(found: Results) -> str:
    """Return a table of all variants."""
    head = ["vectors", "values", "top-1", "difference from bilinear", "range over seeds", "C"]
    rows = []
    for key, variant in VARIANTS.items():
        trials = [found["trials"][name] for name in figures.seeds(found, key)]
        top1 = [trial["top1"] for trial in trials]
        spread = f"{min(top1):.3f} to {max(top1):.3f}" if len(top1) > 1 else ""
        apart = "" if key == FULL else less(found, key, FULL)
        row = [variant.says, f"{trials[0]['numbers']:,}", accuracy(found, key), apart, spread]
        rows.append([*row, f"{trials[0]['C']:.3g}"])
    return table(head, rows)


def numbers(found: Results) -> str:
    """Return the accuracy for each number of entries."""
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
    return table(["entries", "stored values", "top-1", "difference from all"], rows)


def photos(found: Results) -> str:
    """Return the accuracy and the gain of bilinear for each number of training photos."""
    others = [variant for variant in DRAWN if variant != FULL]
    rows = []
    for amount in AMOUNTS:
        if figures.seeds(found, f"{FULL}{amount}"):
            row = [amount.removeprefix("/photos") or "all", accuracy(found, f"{FULL}{amount}")]
            rows.append([*row, *(less(found, f"{FULL}{amount}", f"{k}{amount}") for k in others)])
    head = ["photos", VARIANTS[FULL].says, *(f"over {VARIANTS[key].says}" for key in others)]
    return table(head, rows)
