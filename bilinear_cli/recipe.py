"""What decides the numbers of a feature file, beside the photos."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from bilinear_cli.errors import FeatureFileError, UsageError
from bilinear_cli.views import View, views

CHOICES = {
    "resize": ("squash", "crop", "pad"),
    "precision": ("float32", "bfloat16", "float16", "int8"),
}
LATER = ("shard", "seed", "pooled_from", "int8_sha256", "mixed_with")  # which not every file says


@dataclass(frozen=True)
class Recipe:
    """What decides the numbers of a feature file, beside the photos.

    Attributes:
        poolings: specs, in any order.
        layer: of the network, whose maps are pooled.
        image_size: width and height that photos are brought to, in pixels; of several the first.
        resize: `squash`, `crop` or `pad`.
        precision: of the network: `float32`, `bfloat16`, `float16` or `int8`.
        batch_size: photos that go through the network together.
        weights_sha256: of the network.
        backbone: its name.
        views: names of the views of a photo, see `views.py`.
        shard: `I/N`: of the set, the I-th of N parts.
        seed: of sketches, and of the sample of photos that a projection is taken from.
        pooled_from: `photos`, or `maps` that were stored, and so rounded.
        int8_sha256: of the network in 8 bits, see `precision.py`; empty in another precision.
        mixed_with: other precisions of rows that were taken from another file; mostly empty.
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
    shard: str = "1/1"
    seed: int = 0
    pooled_from: str = "photos"
    int8_sha256: str = ""
    mixed_with: str = ""

    @property
    def shown(self) -> list[View]:
        """The views."""
        return views(self.views, self.image_size)

    def attributes(self) -> dict[str, Any]:
        """Return them as root attributes of a feature file; its features say the poolings."""
        values = asdict(self) | {"views": " ".join(self.views)}
        del values["poolings"]
        return {name: value for name, value in values.items() if value != ""}


def recipe_of(attributes: dict[str, Any], poolings: tuple[str, ...]) -> Recipe:
    """Return the recipe that a feature file with these root attributes was made with.

    Raises:
        KeyError: one is not said.
        ValueError: one cannot be meant.
    """
    names = {field.name for field in fields(Recipe)} - {"poolings", "views", *LATER}
    recipe = Recipe(
        poolings=poolings,
        views=tuple(attributes["views"].split()),
        **{name: attributes[name] for name in names},
        **{name: attributes[name] for name in LATER if name in attributes},
    )
    for field in fields(Recipe):
        value, least = getattr(recipe, field.name), field.name != "seed"
        number = type(value) is int and value >= least
        known = value in CHOICES.get(field.name, (value,))
        if not (number if field.type in ("int", int) else known and isinstance(value, str | tuple)):
            raise ValueError(f"{field.name} is {value!r}")
    views(recipe.views, recipe.image_size)  # raises for a name that is none
    return recipe


def check_same(
    stored: Recipe, asked: Recipe, path: Path, advice: str, but: tuple[str, ...] = ()
) -> None:
    """Raise a FeatureFileError that names the first setting, `but` some, that differs."""
    for field in fields(Recipe):
        was, wanted = getattr(stored, field.name), getattr(asked, field.name)
        if field.name == "poolings":
            was, wanted = tuple(sorted(was)), tuple(sorted(wanted))
        if was != wanted and field.name not in but:
            said = [" ".join(x) if isinstance(x, tuple) else x for x in (was, wanted)]
            said = ["none" if x == "" else x for x in said]
            raise FeatureFileError(
                f"{path} was made with {field.name.replace('_', '-')} {said[0]}, and {said[1]} is "
                f"asked for: {advice}"
            )


def shard_photos(shard: str, n_photos: int, batch_size: int) -> slice:
    """Return which photos are those of a shard: whole batches, but for the last.

    Args:
        shard: `I/N`, I from 1.
        n_photos: in all.
        batch_size: photos in a batch.

    Raises:
        UsageError: there is no such shard, or not a batch for each.
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
