"""The one place that compares two feature files, or a file and a recipe."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bilinear_cli.errors import FeatureFileError
from bilinear_cli.recipe.geometry import CropOptions, parse_crop
from bilinear_cli.recipe.recipe import ENGINE, ENGINE_PACKAGES, INT8_PACKAGES

# Attributes that may differ with --allow-precision-mix
PRECISION_ATTRIBUTES = ("precision", "int8_sha256", "mixed_with")
# For each use of two files, or of a file and a recipe: attributes that may differ
MAY_DIFFER: dict[str, tuple[str, ...]] = {
    "resume": ("boxes_sha256",),  # its boxes are compared one by one, see `resume.py`
    "reuse": ("poolings", "shard", "engine", "mixed_engines", "boxes_sha256"),
    "projection": (),  # of the attributes of the network
    "predict": (),  # of the attributes that decide a row, see `predict.py`
    "merge": (
        *("command", "created", "data", "data_root", "backbone_path", "shard"),
        *("engine", "mixed_engines"),
    ),
}
# Likewise, the fields of `CropOptions` that have to be equal; all for other uses
CROP_FIELDS = {
    "reuse": ("margin", "unit"),  # a row has the box itself
    "predict": ("margin",),
}


class Difference(NamedTuple):
    """An attribute that differs, and both values; an absent value is an empty string."""

    name: str
    first: Any
    second: Any


def differences(
    first: Mapping[str, Any], second: Mapping[str, Any], use: str, allow_precision_mix: bool = False
) -> list[Difference]:
    """Return the differences that forbid using two files, or a file and a recipe, together.

    Args:
        first, second: `comparable_attributes()` of recipes or of feature files.
        use: `resume`, `reuse`, `projection` or `merge`, see `MAY_DIFFER`.
        allow_precision_mix: precisions may differ, and so may the versions of packages for 8 bits.

    The name of an ONNX network's folder may differ; the SHA-256 of the weights identifies it.
    """
    allowed = {*MAY_DIFFER[use], *(PRECISION_ATTRIBUTES if allow_precision_mix else ())}
    first, second = ({"engine": ENGINE, **attributes} for attributes in (first, second))
    packages: tuple[str, ...] = INT8_PACKAGES if allow_precision_mix else ()
    if "engine" in allowed and first["engine"] != second["engine"]:
        packages += ENGINE_PACKAGES["ncnn"]
    names = dict.fromkeys(["precision", *first, *second])
    pairs = [Difference(n, first.get(n, ""), second.get(n, "")) for n in names if n not in allowed]
    return [
        pair
        for pair in pairs
        if pair.first != pair.second
        and not (pair.name == "crop" and _are_cropped_alike(pair, use))
        and not (pair.name == "backbone" and all(str(x).endswith(".onnx") for x in pair[1:]))
        and not (pair.name == "versions" and _only_differ_in(pair, packages))
    ]


def _are_cropped_alike(crops: Difference, use: str) -> bool:
    """Return whether equal boxes give equal crops, for a use of `CROP_FIELDS`."""
    first, second = (parse_crop(text) for text in (crops.first, crops.second))
    names = CROP_FIELDS.get(use, CropOptions._fields)
    return bool(first and second) and all(getattr(first, x) == getattr(second, x) for x in names)


def _only_differ_in(versions: Difference, packages: Sequence[str]) -> bool:
    """Return whether versions `name version, ...` differ only for these packages."""
    changed = {*str(versions.first).split(", ")} ^ {*str(versions.second).split(", ")}
    return all(version.split(" ")[0] in packages for version in changed)


def check_same(differing: Iterable[Difference], path: Path, advice: str) -> None:
    """Raise a FeatureFileError that names the first difference between a file and a request."""
    for name, *values in differing:
        stored, requested = ("none" if value == "" else value for value in values)
        label = name.replace("weights_sha256", "network weights with sha256").replace("_", "-")
        raise FeatureFileError(
            f"{path} has {label} {stored}, but this command uses {requested}: {advice}"
        )


def mixed_with(attributes: Mapping[str, Any], sources: Iterable[Mapping[str, Any]]) -> str:
    """Return the other precisions of rows that are copied to a feature file; empty for none.

    All attributes are root attributes, `sources` of the files that the rows are copied from.
    """
    precisions: set[str] = set()
    for source in sources:
        precisions.update(source.get("mixed_with", "").split())
        names = ("precision", "int8_sha256")
        if any(attributes.get(name, "") != source.get(name, "") for name in names):
            precisions.add(source["precision"])
    return " ".join(sorted(precisions))


def mixed_engines(attributes: Mapping[str, Any], sources: Iterable[Mapping[str, Any]]) -> str:
    """Return the other engines of rows that are copied to a feature file, as `mixed_with` does."""
    engines: set[str] = set()
    for source in sources:
        engines |= {source.get("engine", ENGINE), *source.get("mixed_engines", "").split()}
    return " ".join(sorted(engines - {attributes.get("engine", ENGINE)}))
