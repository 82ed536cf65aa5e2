"""What decides the numbers of a feature file, apart from the photos."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import inf
from typing import Any, Self

from bilinear_cli.recipe.geometry import CropOptions, parse_crop, parse_processor_resize
from bilinear_cli.recipe.views import MAX_SIZE, View, parse_views

SRGB = "srgb"  # photos are converted from their colour profile
CHOICES = {
    "resize": ("squash", "crop", "pad"),
    "precision": ("float32", "bfloat16", "float16", "int8"),
    "engine": ("tensorflow", "ncnn", "onnxruntime"),
    "colours": (SRGB,),
}
LIMITS = {"image_size": (1, MAX_SIZE), "batch_size": (1, inf), "seed": (0, inf)}
UNSHARDED = "1/1"  # the shard of a file that has all photos
# Attributes that a feature file may lack
OPTIONAL_ATTRIBUTES = (
    *("shard", "seed", "pooled_from", "int8_sha256", "mixed_with", "engine", "mixed_engines"),
    *("colours", "crop", "boxes_sha256"),
)
ENGINE = "tensorflow"  # of a file without this attribute
INT8_PACKAGES = ("ai-edge-litert",)  # packages that affect the numbers in 8 bits only
ENGINE_PACKAGES = {"ncnn": ("ncnn",), "onnxruntime": ("onnxruntime",)}


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
        int8_sha256: of the 8-bit network, see `networks/engines.py`; empty in other precisions.
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
