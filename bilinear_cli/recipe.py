"""What decides the numbers of a feature file, and the one place that compares two of them."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, Self

from bilinear_cli.errors import FeatureFileError, UsageError
from bilinear_cli.views import View, parse_views

CHOICES = {
    "resize": ("squash", "crop", "pad"),
    "precision": ("float32", "bfloat16", "float16", "int8"),
}
UNSHARDED = "1/1"  # the shard of a file that has all photos
OPTIONAL_ATTRIBUTES = (
    "shard",
    "seed",
    "pooled_from",
    "int8_sha256",
    "mixed_with",
)  # not in every file
PRECISION_ATTRIBUTES = (
    "precision",
    "int8_sha256",
    "mixed_with",
)  # what --allow-precision-mix lets differ
INT8_PACKAGES = ("ai-edge-litert",)  # packages that decide the numbers in 8 bits alone
# For each use of two files, or of a file and a recipe: attributes in which they may differ.
MAY_DIFFER: dict[str, tuple[str, ...]] = {
    "resume": (),
    "reuse": ("poolings", "shard"),
    "merge": ("command", "created", "data", "data_root", "shard"),
    "predict": (),
}


@dataclass(frozen=True)
class Recipe:
    """What decides the numbers of a feature file, beside the photos.

    Attributes:
        poolings: specs, in any order.
        layer: the network's layer whose maps are pooled.
        image_size: width and height that photos are resized to, in pixels; of several the first.
        resize: `squash`, `crop` or `pad`.
        precision: of the network: `float32`, `bfloat16`, `float16` or `int8`. `auto` leaves it
            open, see `settle.py`.
        batch_size: photos that go through the network together. 0 leaves it open.
        weights_sha256: of the network.
        backbone: the network's name.
        views: names of the views of a photo, see `views.py`.
        shard: `I/N`: the I-th of N parts of the set.
        seed: of sketches, and of the sample of photos that a projection is fitted on.
        pooled_from: `photos`, or `maps` that were stored, and so rounded.
        int8_sha256: of the network in 8 bits, see `precision.py`; empty in another precision.
        mixed_with: other precisions of rows that were copied from another file; mostly empty.
    """

    poolings: tuple[str, ...]
    layer: str
    image_size: int
    resize: str
    precision: str
    batch_size: int
    weights_sha256: str
    backbone: str = "vgg16"
    views: tuple[str, ...] = ("original",)
    shard: str = UNSHARDED
    seed: int = 0
    pooled_from: str = "photos"
    int8_sha256: str = ""
    mixed_with: str = ""

    @property
    def parsed_views(self) -> list[View]:
        """The views."""
        return parse_views(self.views, self.image_size)

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any], poolings: tuple[str, ...]) -> Self:
        """Return the recipe of a feature file with these root attributes.

        Raises:
            KeyError: an attribute is missing.
            ValueError: a value is invalid.
        """
        names = {field.name for field in fields(cls)} - {"poolings", "views", *OPTIONAL_ATTRIBUTES}
        recipe = cls(
            poolings=poolings,
            views=tuple(attributes["views"].split()),
            **{name: attributes[name] for name in names},
            **{name: attributes[name] for name in OPTIONAL_ATTRIBUTES if name in attributes},
        )
        for field in fields(cls):
            value, least = getattr(recipe, field.name), 0 if field.name == "seed" else 1
            number = type(value) is int and value >= least
            known = value in CHOICES.get(field.name, (value,))
            if not (
                number if field.type in ("int", int) else known and isinstance(value, str | tuple)
            ):
                raise ValueError(f"{field.name} is {value!r}")
        parse_views(recipe.views, recipe.image_size)  # raises for an unknown name
        return recipe

    def attributes(self) -> dict[str, Any]:
        """Return root attributes of a feature file; the names of its features are the poolings."""
        values = asdict(self) | {"views": " ".join(self.views)}
        del values["poolings"]
        return {name: value for name, value in values.items() if value != ""}

    def comparable_attributes(self) -> dict[str, Any]:
        """Return all of it for `differences`."""
        return {"poolings": " ".join(sorted(self.poolings)), **self.attributes()}


class Difference(NamedTuple):
    """An attribute that differs, and both values; empty if one has none."""

    name: str
    first: Any
    second: Any


def differences(
    first: Mapping[str, Any], second: Mapping[str, Any], use: str, allow_mix: bool = False
) -> list[Difference]:
    """Return what forbids to use two files, or a file and a recipe, together.

    Args:
        first, second: `facts()` of recipes, or of feature files, which have more attributes.
        use: `resume`, `reuse`, `merge` or `predict`, see `MAY_DIFFER`.
        allow_mix: precisions may differ, and so may versions of what runs 8 bits alone.
    """
    allowed = {*MAY_DIFFER[use], *(PRECISION_ATTRIBUTES if allow_mix else ())}
    names = dict.fromkeys(["precision", *first, *second])
    pairs = [Difference(n, first.get(n, ""), second.get(n, "")) for n in names if n not in allowed]
    differing = [pair for pair in pairs if pair.first != pair.second]
    if allow_mix:
        differing = [d for d in differing if d.name != "versions" or not _same_but_int8(d)]
    return differing


def _same_but_int8(versions: Difference) -> bool:
    """Say whether versions `name version, ...` are the same but for what runs 8 bits."""
    changed = {*str(versions.first).split(", ")} ^ {*str(versions.second).split(", ")}
    return all(one.startswith(tuple(f"{name} " for name in INT8_PACKAGES)) for one in changed)


def check_same(differing: Iterable[Difference], path: Path, advice: str) -> None:
    """Raise a FeatureFileError that names the first difference between a file and a request."""
    for name, *values in differing:
        stored, asked = ("none" if value == "" else value for value in values)
        raise FeatureFileError(
            f"{path} was made with {name.replace('_', '-')} {stored}, and {asked} is asked for: "
            f"{advice}"
        )


def mixed_with(made: Mapping[str, Any], others: Iterable[Mapping[str, Any]]) -> str:
    """Return the precisions of rows that are not this feature file's own; empty if all are.

    Args:
        made: root attributes of the file that rows are copied to.
        others: those of files that rows are copied from.
    """
    precisions: set[str] = set()
    for other in others:
        precisions.update(other.get("mixed_with", "").split())
        if any(made.get(name, "") != other.get(name, "") for name in ("precision", "int8_sha256")):
            precisions.add(other["precision"])
    return " ".join(sorted(precisions))


def shard_slice(shard: str, n_photos: int, batch_size: int) -> slice:
    """Return which photos a shard has: whole batches, except for the last.

    Args:
        shard: `I/N`, I from 1.
        n_photos: in all.
        batch_size: photos in a batch.

    Raises:
        UsageError: there is no such shard, or not one batch for each.
    """
    number, _, of = shard.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise UsageError(f"there is no shard {shard!r}: write 2/4 for the second of four")
    n_batches = -(-n_photos // batch_size)
    if int(of) > n_batches:
        raise UsageError(
            f"{n_photos} photos are {n_batches} batches of {batch_size}: too few for {of} shards"
        )
    start, stop = (k * n_batches // int(of) * batch_size for k in (int(number) - 1, int(number)))
    return slice(start, min(stop, n_photos))
