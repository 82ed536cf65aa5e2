"""Feature files and runs as text: facts, commands, and a table of runs."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from bilinear_cli.messages import abbreviate, command_line, printable
from bilinear_cli.photos.photo_set import count_photos, is_unequal
from bilinear_cli.run import read_metrics, read_photo_rows
from bilinear_cli.store import FeatureFile, parameter_sha256

RUN_KEYS = (  # of metrics.json
    *("pooling", "classifier", "top1", "top1_ci95", "oof_top1", "C", "label_smoothing", "epochs"),
    *("class_weight", "folds", "temperature", "n_features", "fitted_on", "seed"),
    *("features_file", "seconds", "versions", "command"),
)

MAX_NAME = 60  # characters of the name of a class
COLUMNS = ("pooling", "classifier", "numbers", "bytes", "top-1", "95 %", "top-5", "s")
OTHER_PHOTOS = "Do not compare these accuracies directly: some runs used other photos."
# The original post's options, and its top-1 on all 200 species of CUB-200-2011.
POST_OPTIONS = {"data_kind": "cub", "layer": "block5_pool", "image_size": 224}
POST_TOP1 = {
    "max": "0.68-0.69",
    "sum": "0.66",
    "max+sum": "0.71",
    "bilinear": "0.77",
    "bilinear, top 20,000 by variance": "0.75",
    "maps, to 144 channels": "0.75",
    "conv5, to 144 channels": "0.75",  # the name in runs of older files
}


def describe(file: FeatureFile, by_class: bool = False) -> str:
    """Return what a feature file, complete or not, holds and how it was made, one fact per line.

    With `by_class`, lines with the number of photos of each class follow.
    """
    facts: dict[str, Any] = {"file": file.path, "rows": len(file.labels)}
    if not file.attributes["complete"]:
        facts["rows"] = f"{file.rows_done} of {len(file.labels)}, incomplete"
    for spec, shape in file.shapes.items():
        layout = file.pooling_attributes(spec)
        facts[spec] = f"{' x '.join(map(str, shape[1:]))} {layout.pop('dtype')}, " + ", ".join(
            f"{key} {value}" for key, value in layout.items() if value and key != "pooling"
        )
    for name, array in file.parameters.items():
        facts[name] = f"{' x '.join(map(str, array.shape))}, sha256 {parameter_sha256(array)}"
    first_rows = np.unique(file.photo, return_index=True)[1]
    names = np.array(file.class_names)
    counts = count_photos(names[file.labels[first_rows]], file.split[first_rows], names)
    facts |= _totals(counts, file.files) | _format_attributes(file.attributes)
    if file.skipped:
        facts["skipped"] = abbreviate(f"{path} ({why})" for path, why in file.skipped.items())
    return _lines(facts, counts if by_class else {})


def describe_run(run: Path, by_class: bool = False) -> str:
    """Return what a run is and how it was made, as `describe` does; raise as `read_metrics`."""
    metrics, photo_rows = read_metrics(run), read_photo_rows(run)
    counts = count_photos([row[1] for row in photo_rows], [row[2] for row in photo_rows])
    facts = {"run": run} | _totals(counts, filter(Path.is_file, run.iterdir())) | run_facts(metrics)
    return _lines(facts, counts if by_class else {})


def run_facts(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return how a run was made, then how its features were made."""
    extraction = _format_attributes(metrics["extraction"])
    return _format_attributes({name: metrics.get(name) for name in RUN_KEYS}) | {
        f"features: {name}": value for name, value in extraction.items()
    }


def _totals(counts: dict[str, dict[str, int]], files: Iterable[Path]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for split in ("train", "test"):
        n = [n_photos[split] for n_photos in counts.values()]
        facts[split] = f"{sum(n)} photos, {min(n)} to {max(n)} per class"
    size = sum(path.stat().st_size for path in files)
    return facts | {"classes": len(counts), "size": f"{size:,} bytes"}


def _format_attributes(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes that are not empty; a command as it was typed."""
    return {
        name: format_command(value) if name == "command" else value
        for name, value in attributes.items()
        if value not in ("", None)
    }


def _lines(facts: dict[str, Any], counts: dict[str, dict[str, int]]) -> str:
    """Return a line for each fact, then for the number of photos of each class."""
    for name, n in counts.items():
        short = name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"
        facts[f"class {short}"] = f"{n['train']} train, {n['test']} test"
    return format_facts(facts)


def format_facts(facts: Mapping[str, Any]) -> str:
    """Return a line for each fact."""
    width = max(map(len, facts))
    return "\n".join(printable(f"{name:{width}}  {as_text(x)}") for name, x in facts.items())


def as_text(value: Any) -> str:
    """Return a value as text; floats, also in lists, have four significant digits."""
    if isinstance(value, list):
        return " to ".join(map(as_text, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def commands(metrics: dict[str, Any]) -> list[str]:
    """Return the commands that made a run, as they were typed: extraction, then training."""
    recorded = [metrics["extraction"].get("command", ""), metrics.get("command", "")]
    return [line for line in map(format_command, recorded) if line]


def format_command(command: Any) -> str:
    """Return a recorded command as it was typed; a file from a stranger may hold any value."""
    with suppress(ValueError, TypeError):
        return command_line(json.loads(command))
    return str(command)


def table(runs: Sequence[dict[str, Any]], names: Sequence[str] = ()) -> str:
    """Return a text table of runs, also valid Markdown, from the `metrics.json` of each.

    If all runs have the original post's options on CUB, its accuracies are a column. If several
    runs have the same pooling and classifier, their `names` are the first column.
    """
    rows, n_texts = table_rows(runs), 2
    if names and len({(*row[:n_texts],) for row in rows}) < len(rows):
        rows = [[name, *row] for name, row in zip(["run", *names], rows, strict=True)]
        n_texts = 3
    return markdown_table(rows, n_texts)


def have_same_photos(runs: Sequence[dict[str, Any]]) -> bool:
    """Return whether all runs have the same photos, in the same splits."""
    photos = {(x["extraction"].get("data_sha256"), x["n_train"]) for x in runs}
    return len(photos) == 1


def markdown_table(rows: Sequence[Sequence[Any]], n_texts: int) -> str:
    """Return rows as an aligned table; the first row has the heads, `n_texts` columns are texts."""
    columns = []
    for i, column in enumerate(zip(*rows, strict=True)):
        head, *cells = map(str, column)
        width, align = max(map(len, [head, "---", *cells])), "<" if i < n_texts else ">"
        rule = "-" * width if i < n_texts else "-" * (width - 1) + ":"
        columns.append([f"{cell:{align}{width}}" for cell in (head, rule, *cells)])
    return "\n".join("| " + " | ".join(line) + " |" for line in zip(*columns, strict=True))


def table_rows(runs: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Return the heads of the table, then the cells of each run; two columns are texts.

    If a run was trained on unequal classes, its mean class accuracy is a column, too.
    """
    rows = [[*COLUMNS], *map(_cells, runs)]
    if any(is_unequal(metrics.get("n_train_per_class", ())) for metrics in runs):
        column = ["mean class", *(format_accuracy(x["mean_per_class_accuracy"]) for x in runs)]
        for row, cell in zip(rows, column, strict=True):
            row.insert(COLUMNS.index("95 %") + 1, cell)
    if runs and all(map(_has_post_options, runs)):
        rows[0].append("post, 200 species")
        for row in rows[1:]:
            row.append(POST_TOP1.get(row[0], "-"))
    return rows


def _has_post_options(metrics: dict[str, Any]) -> bool:
    is_equal = POST_OPTIONS.items() <= metrics["extraction"].items()
    return is_equal and metrics["label_smoothing"] == 0 and "class_weight" not in metrics


def _cells(metrics: dict[str, Any]) -> list[str]:
    interval = metrics["top1_ci95"]
    return [
        features_label(metrics),
        classifier_label(metrics),
        f"{metrics['n_features']:,}",
        f"{metrics['bytes']:,}",
        format_accuracy(metrics["top1"]),
        "{:.3f}-{:.3f}".format(*interval) if interval else "-",
        format_accuracy(metrics["top5"]),
        f"{metrics['seconds']:.1f}",
    ]


def format_accuracy(share: float | None) -> str:
    """Return a share as the cell of a table; None is not known."""
    return "-" if share is None else f"{share:.4f}"


def format_rarity(rarity: float) -> str:
    """Return the share of photos that are as unusual, above 0 to 1, as `1 in 200`."""
    return f"1 in {round(1 / rarity)}"


def features_label(metrics: dict[str, Any]) -> str:
    """Return the features of a run: the pooling, its selection and its normalisation."""
    name = metrics["pooling"]
    if "channels" in metrics:
        name += f", to {metrics['channels']} channels" + (
            ", untrained" if metrics["frozen"] else ""
        )
    if metrics["top_variance"]:
        name += f", top {metrics['top_variance']:,} by variance"
    return name if metrics["normalize"] == "auto" else f"{name}, {metrics['normalize']}"


def classifier_label(metrics: dict[str, Any]) -> str:
    """Return the classifier of a run, and the weight of its classes if it is not `none`."""
    words = [metrics["classifier"], metrics.get("class_weight")]
    return ", ".join(word for word in words if word)


def confused_pairs_line(metrics: dict[str, Any]) -> str:
    """Return a line with the most confused pairs of a run."""
    top = metrics["confused"][:3]
    pairs = [f"{p['true']} predicted as {p['predicted']} ({p['count']})" for p in top]
    mean = metrics["mean_per_class_accuracy"]
    by_class = "" if mean is None else f"mean class accuracy {mean:.4f}; "
    line = f"{features_label(metrics)}: {by_class}most confused: {', '.join(pairs) or 'none'}"
    return printable(f"{line}; run folder: {metrics['run']}")


def novelty_line(metrics: dict[str, Any]) -> str:
    """Return `novelty_sentences` of a run that measured it, with its features."""
    return f"{features_label(metrics)}: {novelty_sentences(metrics['novelty'])}"


def novelty_sentences(novelty: dict[str, Any]) -> str:
    """Return how well unknown classes are recognised, from `novelty` in `metrics.json`."""
    low, high = novelty["auroc_ci95"]
    return (
        f"AUROC {novelty['auroc']:.3f} ({low:.3f}-{high:.3f}) for unknown classes: so often a "
        "photo of an unknown class is more unusual than a photo of a known class. To catch 95 % of "
        f"the photos of unknown classes, {100 * novelty['false_alarms_at_95']:.0f} % of the photos "
        "of known classes are flagged, too."
    )
