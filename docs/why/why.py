"""Measure why bilinear pooling works, and write docs/why.md: `make why [DATA=...]`, or

    python docs/why/why.py --features FILE [--name NAME] [--work FOLDER]

FILE is a feature file with maps. FOLDER stores each result immediately: run the same command again
to resume an interrupted run. At the end, the results are written to docs/why/NAME.json. The page
includes all results in docs/why. Without --features, the script only writes the page.
"""

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from matches import check
from measure import keep, measure
from page import write_pages

from bilinear_cli.errors import BilinearError
from bilinear_cli.store import FeatureFile

FACTS = ("layer", "image_size", "resize", "views", "precision", "limit", "weights_sha256")
USUAL = {"layer": "block5_conv3", "image_size": 224}
PACKAGES = ("bilinear-cli", "tensorflow", "numpy", "scipy", "scikit-learn")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the missing results, and write the pages."""
    asked = parse(arguments)
    try:
        if asked.features:
            with FeatureFile(asked.features) as file:
                results = measured(file, asked.name or name_of(file), asked.work)
            keep(results, asked.docs / "why" / f"{results['name']}.json")
        write_pages(asked.docs)
    except BilinearError as error:
        sys.exit(f"error: {error}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed arguments."""
    options = argparse.ArgumentParser(
        "why", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--features", type=Path, metavar="FILE")
    options.add_argument("--name", help="name of the results [default: name of the photos]")
    options.add_argument("--work", type=Path, metavar="FOLDER", default=Path("runs/why"))
    options.add_argument("--docs", type=Path, default=Path(__file__).parents[1])
    return options.parse_args(arguments)


def name_of(file: FeatureFile) -> str:
    """Return the name of the photos, with the layer and image size if these are not the usual."""
    name = PurePosixPath(str(file.attributes["data"])).name
    how = {fact: file.attributes[fact] for fact in USUAL}
    words = [name] if how == USUAL else [name, *map(str, how.values())]
    return re.sub(r"[^\w.-]+", "-", "-".join(words))


def measured(file: FeatureFile, name: str, work: Path) -> dict[str, Any]:
    """Return the results of a file, including stored ones."""
    if "conv5" not in file.shapes:
        raise BilinearError(f"{file.path} has no maps: extract them with --pooling maps")
    if set(file.split) != {"train", "test"}:
        raise BilinearError(f"{file.path} has no training photos or no test photos")
    kept_in = work / f"{name}.json"
    results: dict[str, Any] = {"name": name, "made": made_of(file), "trials": {}}
    if kept_in.exists():
        before = json.loads(kept_in.read_text(encoding="utf-8"))
        if before["made"] == results["made"]:
            results = before
        else:
            print(f"{kept_in} has results of other inputs: starting again", file=sys.stderr)
    if "checks" not in results:
        results["checks"] = check(file)
        keep(results, kept_in)
    measure(file, results, kept_in)
    return results


def made_of(file: FeatureFile) -> dict[str, Any]:
    """Return the inputs of the results: photos, labels, split, network, versions."""
    first = np.unique(file.photo, return_index=True)[1]
    columns = (file.sha256, file.labels.astype(str), file.split)
    rows = "\n".join(map(" ".join, zip(*columns, strict=True)))
    return {
        "n_train": int(np.sum(file.split[first] == "train")),
        "n_test": int(np.sum(file.split[first] == "test")),
        "n_classes": len(file.class_names),
        "map": list(file.shapes["conv5"][1:]),
        **{fact: file.attributes[fact] for fact in FACTS if fact in file.attributes},
        "photos_sha256": hashlib.sha256(rows.encode()).hexdigest(),
        "versions": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
    }


if __name__ == "__main__":
    main()
