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
from matches import measure_matches
from measure import measure, save
from page import write_pages

from bilinear_cli.errors import BilinearError
from bilinear_cli.poolings.registry import MAPS
from bilinear_cli.store import FeatureFile

RECIPE = ("layer", "image_size", "resize", "views", "precision", "limit", "weights_sha256")
DEFAULTS = {"layer": "block5_conv3", "image_size": 224}
PACKAGES = ("bilinear-cli", "tensorflow", "numpy", "scipy", "scikit-learn")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the missing results, and write the pages."""
    parser = argparse.ArgumentParser(
        "why", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--features", type=Path, metavar="FILE")
    parser.add_argument("--name", help="name of the results [default: name of the photos]")
    parser.add_argument("--work", type=Path, metavar="FOLDER", default=Path("runs/why"))
    parser.add_argument("--docs", type=Path, default=Path(__file__).parents[1])
    options = parser.parse_args(arguments)
    try:
        if options.features:
            with FeatureFile(options.features) as file:
                results = measure_file(file, options.name or default_name(file), options.work)
            save(results, options.docs / "why" / f"{results['name']}.json")
        write_pages(options.docs)
    except BilinearError as error:
        sys.exit(f"error: {error}")


def default_name(file: FeatureFile) -> str:
    """Return the name of the photos, with layer and image size unless they are the default."""
    name = PurePosixPath(str(file.attributes["data"])).name
    recipe = {option: file.attributes[option] for option in DEFAULTS}
    words = [name] if recipe == DEFAULTS else [name, *map(str, recipe.values())]
    return re.sub(r"[^\w.-]+", "-", "-".join(words))


def measure_file(file: FeatureFile, name: str, work: Path) -> dict[str, Any]:
    """Return the results of a file, including stored ones."""
    if MAPS not in file.shapes:
        raise BilinearError(f"{file.path} has no maps: extract them with --pooling maps")
    if set(file.split) != {"train", "test"}:
        raise BilinearError(f"{file.path} has no training photos or no test photos")
    path = work / f"{name}.json"
    results: dict[str, Any] = {"name": name, "made": describe_inputs(file), "trials": {}}
    if path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["made"] == results["made"]:
            results = stored
        else:
            print(f"{path} has results of other inputs: starting again", file=sys.stderr)
    if "checks" not in results:
        results["checks"] = measure_matches(file)
        save(results, path)
    measure(file, results, path)
    return results


def describe_inputs(file: FeatureFile) -> dict[str, Any]:
    """Return the inputs of the results: photos, labels, split, network, versions."""
    split = file.split[np.unique(file.photo, return_index=True)[1]]  # of each photo
    columns = (file.sha256, file.labels.astype(str), file.split)
    rows = "\n".join(map(" ".join, zip(*columns, strict=True)))
    return {
        "n_train": int(np.sum(split == "train")),
        "n_test": int(np.sum(split == "test")),
        "n_classes": len(file.class_names),
        "map": list(file.shapes[MAPS][1:]),
        **{option: file.attributes[option] for option in RECIPE if option in file.attributes},
        "photos_sha256": hashlib.sha256(rows.encode()).hexdigest(),
        "versions": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
    }


if __name__ == "__main__":
    main()
