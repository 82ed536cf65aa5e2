"""What decides the numbers of a feature file, and the one place that compares two of them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from bilinear_cli.errors import FeatureFileError, UsageError

if TYPE_CHECKING:  # the command line reads recipes without NumPy
    import numpy as np

SRGB = "srgb"  # photos are converted from their colour profile
CHOICES = {
    "resize": ("squash", "crop", "pad"),
    "precision": ("float32", "bfloat16", "float16", "int8"),
    "engine": ("tensorflow", "ncnn", "onnxruntime"),
    "colours": (SRGB,),
}
PROCESSOR = "processor"  # resize as the publisher of an ONNX network does
PROCESSOR_RESIZE = re.compile(
    PROCESSOR + r": (shortest|both) ([1-9][0-9]{0,4}), crop ([1-9][0-9]{0,4}), ([a-z]+)"
)
CROP = re.compile(r"(all|largest|most-confident), margin ([0-9]+(?:\.[0-9]+)?), (pixels|fractions)")
MAX_MARGIN = 10.0
FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # Pillow's numbers
MAX_EDGE_RATIO = 4  # of the edge to the crop; more would only take memory
LIMITS = {"image_size": (1, 99_999), "batch_size": (1, inf), "seed": (0, inf)}
UNSHARDED = "1/1"  # the shard of a file that has all photos
# Attributes that a feature file may lack
OPTIONAL_ATTRIBUTES = (
    *("shard", "seed", "pooled_from", "int8_sha256", "mixed_with", "engine", "mixed_engines"),
    "colours",
    *("crop", "boxes_sha256"),
)
ENGINE = "tensorflow"  # of a file without this attribute
# Attributes that may differ with --allow-precision-mix
PRECISION_ATTRIBUTES = ("precision", "int8_sha256", "mixed_with")
INT8_PACKAGES = ("ai-edge-litert",)  # packages that affect the numbers in 8 bits only
ENGINE_PACKAGES = {"ncnn": ("ncnn",), "onnxruntime": ("onnxruntime",)}
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


@dataclass(frozen=True)
class View:
    """One way to show a photo: its width and height in pixels, and whether it is mirrored."""

    size: int
    flip: bool = False

    def apply(self, photos: "np.ndarray") -> "np.ndarray":
        """Return this view of photos (n, size, size, 3)."""
        return photos[:, :, ::-1] if self.flip else photos


def view_names(sizes: Sequence[int], flip: bool) -> tuple[str, ...]:
    """Return the names of views in a feature file, in their order.

    Views of the first size are `original` and `flip`, those of another `320` and `320-flip`.
    """
    names = ["original", "flip"]
    names += [f"{size}{suffix}" for size in sizes[1:] for suffix in ("", "-flip")]
    return tuple(names if flip else names[::2])


def parse_views(names: Sequence[str], image_size: int) -> list[View]:
    """Return the views of these names, or raise a ValueError; `image_size` is the first size."""
    if not names or len({*names}) < len(names):
        raise ValueError(f"views are {' '.join(names)!r}")
    views = []
    for name in names:
        match = re.fullmatch(r"original|(?:([1-9]\d{0,4})-)?(flip)|([1-9]\d{0,4})", name)
        if not match:
            raise ValueError(f"unknown view: {name!r}")
        views.append(View(int(match[1] or match[3] or image_size), match[2] is not None))
    return views


def distinct_sizes(views: Sequence[View]) -> list[int]:
    """Return the different sizes of views, in their order."""
    return list(dict.fromkeys(view.size for view in views))


def processor_resize(keeps_ratio: bool, edge: int, size: int, filter_name: str) -> str:
    """Return the text of a geometry: resize the shortest edge, or both; then crop the centre."""
    sides = "shortest" if keeps_ratio else "both"
    return f"{PROCESSOR}: {sides} {edge}, crop {size}, {filter_name}"


class ProcessorResize(NamedTuple):
    """The arguments of `processor_resize`."""

    keeps_ratio: bool
    edge: int
    size: int
    filter_name: str


def parse_processor_resize(text: str) -> ProcessorResize | None:
    """Return the arguments that gave a text of `processor_resize`, or None if it is none."""
    match = PROCESSOR_RESIZE.fullmatch(text)
    if not match:
        return None
    sides, edge, size, filter_name = match.groups()
    resize = ProcessorResize(sides == "shortest", int(edge), int(size), filter_name)
    is_valid = resize.size <= resize.edge <= MAX_EDGE_RATIO * resize.size
    return resize if is_valid and filter_name in FILTERS else None


class CropOptions(NamedTuple):
    """How photos are cropped to boxes: of which boxes, with which margin, in which unit."""

    choice: str  # `all`, `largest` or `most-confident`
    margin: float  # of the box's width and height, on each side
    unit: str  # `pixels` or `fractions`

    def __str__(self) -> str:
        """Return the text of a feature file."""
        margin = f"{self.margin:.4f}".rstrip("0").rstrip(".")
        return f"{self.choice}, margin {margin}, {self.unit}"


def parse_crop(text: str) -> CropOptions | None:
    """Return the options of a text; None for an empty text. Raise a ValueError for others."""
    if not text:
        return None
    match = CROP.fullmatch(text)
    if not match or float(match[2]) > MAX_MARGIN:
        raise ValueError(f"crop is {text!r}")
    return CropOptions(match[1], float(match[2]), match[3])


@dataclass(frozen=True)
class Recipe:
    """What decides the numbers of a feature file, apart from the photos.

    Attributes:
        specs: of the poolings, in any order.
        layer: layer of the network whose maps are pooled.
        image_size: width and height of the resized photos in pixels, the first of several.
        resize: `squash`, `crop` or `pad`; or a text of `processor_resize`.
        precision: `float32`, `bfloat16`, `float16` or `int8`, in which the network computes. `auto`
            is resolved later, see `extraction/existing.py`.
        batch_size: photos in a batch of the network. 0 is resolved later.
        weights_sha256: of the network's weights.
        backbone: name of the network.
        views: names of the views of a photo, see `view_names`.
        shard: `I/N`: the I-th of N shards of the photo set.
        seed: of sketches, and of the sample of photos that a projection is fitted on.
        pooled_from: `photos`, or `maps` for stored maps, which are rounded.
        int8_sha256: of the 8-bit network, see `networks/network.py`; empty in other precisions.
        mixed_with: other precisions, of rows that were copied from another file; mostly empty.
        engine: `tensorflow`; `ncnn`, which computes VGG16 in float32 on a CPU, and whose rows
            differ by rounding; `onnxruntime`, of ONNX networks. `auto` is resolved later.
        mixed_engines: other engines, of rows that were copied from another file; mostly empty.
        crop: the text of a `CropOptions`; empty for whole photos.
        boxes_sha256: of the boxes of all photos, hexadecimal; empty for whole photos.
        colours: `srgb`: photos are converted from their colour profile to sRGB; empty, as in files
            of earlier versions: colour profiles are ignored.
    """

    specs: tuple[str, ...]
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
    engine: str = ENGINE
    mixed_engines: str = ""
    colours: str = ""
    crop: str = ""
    boxes_sha256: str = ""

    @property
    def is_resolved(self) -> bool:
        """Whether precision, engine and batch size are decided."""
        return "auto" not in (self.precision, self.engine) and self.batch_size > 0

    @property
    def packages(self) -> tuple[str, ...]:
        """The packages that affect the numbers of this precision or engine only."""
        if self.precision == "int8":
            return INT8_PACKAGES
        return ENGINE_PACKAGES.get(self.engine, ())

    @property
    def parsed_views(self) -> list[View]:
        """The views, in their order."""
        return parse_views(self.views, self.image_size)

    @property
    def crop_options(self) -> CropOptions | None:
        """How photos are cropped; None for whole photos."""
        return parse_crop(self.crop)

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any], specs: tuple[str, ...]) -> Self:
        """Return the recipe of a feature file with these root attributes.

        Raises:
            KeyError: an attribute is missing.
            ValueError: a value is invalid.
        """
        names = {field.name for field in fields(cls)} - {"specs", "views"}
        names -= {*OPTIONAL_ATTRIBUTES} - attributes.keys()
        values = {name: attributes[name] for name in names}
        for name, value in values.items():
            if name == "resize" and parse_processor_resize(str(value)):
                continue
            if name in LIMITS:
                low, high = LIMITS[name]
                valid = type(value) is int and low <= value <= high
            else:
                valid = isinstance(value, str) and value in CHOICES.get(name, (value,))
            if not valid:
                raise ValueError(f"{name} is {value!r}")
        recipe = cls(specs=specs, views=tuple(attributes["views"].split()), **values)
        parse_views(recipe.views, recipe.image_size)  # raises for an invalid name
        parse_crop(recipe.crop)  # likewise
        return recipe

    def attributes(self) -> dict[str, Any]:
        """Return the root attributes of a feature file; its datasets state the poolings."""
        values = asdict(self) | {"views": " ".join(self.views)}
        del values["specs"]
        if self.engine == ENGINE:  # as in files of earlier versions
            del values["engine"]
        return {name: value for name, value in values.items() if value != ""}

    def comparable_attributes(self) -> dict[str, Any]:
        """Return the attributes and the poolings, for `differences`."""
        return {"poolings": " ".join(sorted(self.specs)), **self.attributes()}


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


def shard_slice(shard: str, n_photos: int, batch_size: int) -> slice:
    """Return the slice of photos in a shard: whole batches, except for the last.

    Raises:
        UsageError: the shard is not `I/N` with I from 1 to N, or the set has fewer than N batches.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    i, n = map(int, match.groups()) if match else (0, 0)
    if not 1 <= i <= n:
        raise UsageError(f"{shard!r} is not a shard: write, for instance, 2/4 for the second of 4")
    n_batches = -(-n_photos // batch_size)
    if n > n_batches:
        batches = "is only 1 batch" if n_batches == 1 else f"are only {n_batches} batches"
        raise UsageError(
            f"cannot cut {n_photos} photos into {n} shards: at a batch size of {batch_size} there "
            f"{batches}. Use fewer shards or a smaller --batch-size"
        )
    start, stop = (k * n_batches // n * batch_size for k in (i - 1, i))
    return slice(start, min(stop, n_photos))
