"""Results -> Markdown tables: over all data sets, with one column each, and for one data set."""

from collections.abc import Callable, Mapping, Sequence

import figures
from figures import Results
from matches import ONE_PER_CENT
from measure import PHOTOS_PER_CLASS, SUBSAMPLED_VARIANTS, TOP_ENTRIES
from vectors import BASELINE, FULL, NORMS, SHUFFLED, UNRELATED, VARIANTS

AMOUNTS = {f"/photos{n}": str(n) for n in PHOTOS_PER_CLASS} | {"": "all"}  # suffix of keys -> label
CAUSES = ("together", SHUFFLED, UNRELATED, "means", "diagonal", "off-diagonal")
SHUFFLED = {
    "max": "each channel shuffled: max",
    "sum": "each channel shuffled: sum",
    "bilinear, each channel": "each channel shuffled: bilinear",
    "bilinear": "channels shuffled together: bilinear",
}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table. Its first column is left-aligned, the others are right-aligned."""
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows])


def by_set(
    corner: str,
    labels: Mapping[str, str],
    cell: Callable[[Results, str], str],
    data_sets: Sequence[Results],
) -> str:
    """Return a table with a row for each key of `labels` and a column for each data set."""
    rows = [
        [label, *(cell(results, key) for results in data_sets)] for key, label in labels.items()
    ]
    return table([corner, *(results["name"] for results in data_sets)], rows)


def variant_labels(keys: Sequence[str]) -> dict[str, str]:
    """Return variants as key -> label."""
    return {key: VARIANTS[key].label for key in keys}


def accuracy(results: Results, prefix: str) -> str:
    """Return top-1, the mean over the trials with keys `prefix/SEED`."""
    return f"{figures.hits(results, prefix).mean():.3f}"


def gain(results: Results, prefix: str, baseline: str) -> str:
    """Return a difference in top-1 and its interval."""
    hits = [figures.hits(results, key) for key in (prefix, baseline)]
    return "{:+.3f} ({:+.3f} to {:+.3f})".format(*figures.difference(*hits))


# Over all data sets -----------------------------------------------------------------------------


def identities(data_sets: Sequence[Results]) -> str:
    """Return the difference between both sides of each identity, numbered as in the template."""
    names = data_sets[0]["checks"]["identities"] if data_sets else []
    labels = {name: f"{n}: {name}" for n, name in enumerate(names, 1)}

    def cell(results: Results, name: str) -> str:
        return f"{results['checks']['identities'][name]:.0e}"

    return by_set("identity: vectors", labels, cell, data_sets)


def shares(data_sets: Sequence[Results]) -> str:
    """Return the share of the similarity in the strongest 1 % of the matches."""

    def cell(results: Results, name: str) -> str:
        low, middle, high = (x[ONE_PER_CENT] for x in results["checks"]["shares"][name])
        return f"{middle:.1%} ({low:.1%} to {high:.1%})"

    labels = {"sum": "sum", "bilinear": "bilinear"}
    return by_set("share of the similarity", labels, cell, data_sets)


def shuffle_differences(data_sets: Sequence[Results]) -> str:
    """Return the differences caused by the shuffles."""

    def cell(results: Results, name: str) -> str:
        return f"{results['checks']['moved'][name]:.0e}".replace("0e+00", "0")

    return by_set("largest change of a value after shuffling", SHUFFLED, cell, data_sets)


def cause(data_sets: Sequence[Results]) -> str:
    """Return the accuracy of bilinear, and its change without each component."""

    def cell(results: Results, key: str) -> str:
        return f"**{accuracy(results, key)}**" if key == FULL else gain(results, key, FULL)

    labels = {FULL: f"**{VARIANTS[FULL].label}**", **variant_labels(CAUSES)}
    return by_set("vectors", labels, cell, data_sets)


def norms(data_sets: Sequence[Results]) -> str:
    """Return the accuracy for each normalisation."""
    keys = ["max-standard", "max-both", "average-standard"]
    keys += [f"{pool}-{norm}" for pool in ("average", "bilinear") for norm in NORMS]
    return by_set("top-1", variant_labels(keys), accuracy, data_sets)


def gain_per_set(data_sets: Sequence[Results]) -> str:
    """Return the gain of bilinear over other vectors for each data set."""
    head = ["data", "test photos", "chance", "top-1", "over max, standardised"]
    head += [f"over {VARIANTS[BASELINE].label}", "over product of means, true diagonal"]
    rows = []
    for results in data_sets:
        name, made = results["name"], results["made"]
        row = [f"[{name}](why/{name}.md)", f"{made['n_test']:,}", f"{1 / made['n_classes']:.3f}"]
        gains = [gain(results, FULL, key) for key in ("max-standard", BASELINE, UNRELATED)]
        rows.append([*row, accuracy(results, FULL), *gains])
    return table(head, rows)


def gain_per_amount(data_sets: Sequence[Results]) -> str:
    """Return the effect of co-occurrence for each number of training photos per class."""

    def cell(results: Results, suffix: str) -> str:
        if not figures.trials(results, FULL + suffix):
            return ""
        return gain(results, FULL + suffix, UNRELATED + suffix)

    return by_set("photos per class", AMOUNTS, cell, data_sets)


TABLES = {
    **{"identities": identities, "shares": shares, "moved": shuffle_differences, "cause": cause},
    **{"norms": norms, "few": gain_per_amount, "where": gain_per_set},
}


# For one data set -------------------------------------------------------------------------------


def variants(results: Results) -> str:
    """Return a table of all variants."""
    head = ["vectors", "values", "top-1", "difference from bilinear", "range over seeds", "C"]
    rows = []
    for key, variant in VARIANTS.items():
        trials = figures.trials(results, key)
        top1 = [trial["top1"] for trial in trials]
        spread = f"{min(top1):.3f} to {max(top1):.3f}" if len(top1) > 1 else ""
        difference = "" if key == FULL else gain(results, key, FULL)
        row = [variant.label, f"{trials[0]['numbers']:,}", accuracy(results, key), difference]
        rows.append([*row, spread, f"{trials[0]['C']:.3g}"])
    return table(head, rows)


def numbers(results: Results) -> str:
    """Return the accuracy for each number of entries."""
    n_entries = results["made"]["map"][-1] ** 2
    prefixes = {top: f"{FULL}/top{top}" for top in TOP_ENTRIES} | {n_entries: FULL}
    rows = []
    for n, prefix in prefixes.items():
        for trial in figures.trials(results, prefix):  # one, or none of a small network
            difference = "" if prefix == FULL else gain(results, prefix, FULL)
            rows.append([f"{n:,}", f"{trial['numbers']:,}", f"{trial['top1']:.3f}", difference])
    return table(["entries", "stored values", "top-1", "difference from all"], rows)


def photos(results: Results) -> str:
    """Return the accuracy and the gain of bilinear for each number of training photos."""
    baselines = [key for key in SUBSAMPLED_VARIANTS if key != FULL]
    rows = []
    for suffix, label in AMOUNTS.items():
        if figures.trials(results, FULL + suffix):
            gains = [gain(results, FULL + suffix, key + suffix) for key in baselines]
            rows.append([label, accuracy(results, FULL + suffix), *gains])
    head = ["photos", VARIANTS[FULL].label, *(f"over {VARIANTS[key].label}" for key in baselines)]
    return table(head, rows)
