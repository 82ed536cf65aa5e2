"""The options of `bilinear extract`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bilinear_cli.errors import UsageError
from bilinear_cli.photos.boxes.options import BoxOptions, box_options
from bilinear_cli.recipe import CHOICES, MAX_SIZE, PROCESSOR, UNSHARDED
from bilinear_cli.validation import POSITIVE, SEED, Range, validate_choice, validate_options

# Options that the stored maps of `maps` do not determine
WITH_MAPS = ("pooling", "output", "maps", "projection", "seed", "overwrite")
RESIZES = (*CHOICES["resize"], PROCESSOR)
PRECISIONS = ("auto", *CHOICES["precision"])
ENGINES = ("auto", "tensorflow", "ncnn")  # an ONNX network has its own
RANGES = {
    "image_size": Range(int, 1, MAX_SIZE),
    "batch_size": POSITIVE,
    "limit": POSITIVE,
    "split_seed": SEED,
    "seed": SEED,
    "class_level": POSITIVE,
}


@dataclass(frozen=True)
class ExtractOptions:
    """How to extract; see the help of `bilinear extract` for each.

    Attributes:
        data: spec of a photo set, see `load_photo_set`.
        pooling: specs.
        output: the feature file; None for a name in `features` from the photos and the recipe.
        backbone: name of a network, or path of an ONNX network.
        layer, image_size, resize, precision, engine, shard, seed: see `Recipe`; None for the
            network's default.
        batch_size: photos in a batch; None to choose by image size and memory.
        scales: several sizes in pixels, instead of `image_size`.
        flip: add a mirrored view of each size.
        weights: source of the network's weights, see `Network`.
        limit: number of photos to take, from all classes; None for all.
        split_seed: for a photo set without a split.
        class_level, columns: of the photo set, see `load_photo_set`.
        boxes, box, margin, no_box, min_confidence: see `BoxOptions`; `boxes` is its source, or None
            for whole photos.
        maps: pool the maps of this feature file, instead of running the network.
        reuse, skip_bad, overwrite: see `Job`.
        allow_precision_mix: the reused rows may have another precision.
        projection: feature file whose projection of channels is used.
    """

    data: str = "sample"
    pooling: Sequence[str] = ("max", "sum", "bilinear")
    output: Path | None = None
    backbone: str = "vgg16"
    layer: str | None = None
    image_size: int | None = None
    scales: tuple[int, ...] | None = None
    flip: bool = False
    resize: str | None = None
    batch_size: int | None = None
    precision: str = "auto"
    engine: str = "auto"
    weights: str = "auto"
    limit: int | None = None
    split_seed: int = 0
    class_level: int | None = None
    columns: Mapping[str, str] | None = None
    boxes: str | None = None
    box: str = "all"
    margin: float = 0.1
    no_box: str = "whole"
    min_confidence: float = 0.2
    shard: str = UNSHARDED
    reuse: Path | None = None
    allow_precision_mix: bool = False
    maps: Path | None = None
    projection: Path | None = None
    seed: int = 0
    skip_bad: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Raise a UsageError if an option has no valid value."""
        if not self.pooling:
            raise UsageError("there is no --pooling: name at least one")
        for spec in self.pooling:
            if not isinstance(spec, str):
                raise UsageError(f"--pooling {spec!r} is no text")
        if self.resize is not None:
            validate_choice("--resize", self.resize, RESIZES)
        validate_choice("--precision", self.precision, PRECISIONS)
        validate_choice("--engine", self.engine, ENGINES)
        validate_options(self, RANGES)
        if self.scales is not None:
            sizes = tuple(RANGES["image_size"].validate("--scales", size) for size in self.scales)
            if not sizes:
                raise UsageError("--scales has no size: name at least one")
            if len({*sizes}) < len(sizes):
                listed = ",".join(map(str, sizes))
                raise UsageError(f"--scales {listed} has the same size twice")
            object.__setattr__(self, "scales", sizes)
        self.box_options  # noqa: B018 - raises for an invalid value

    @property
    def box_options(self) -> BoxOptions | None:
        """The options of crops; None for whole photos."""
        names = ("box", "margin", "no_box", "min_confidence")
        return box_options(self.boxes, **{name: getattr(self, name) for name in names})


def check_options_with_maps(names: Iterable[str]) -> None:
    """Raise a UsageError for the name of an option that the stored maps determine."""
    for name in names:
        if name not in WITH_MAPS:
            raise UsageError(
                f"--{name.replace('_', '-')} cannot be used with --maps. Remove it: the file of "
                "maps fixes the photos and the network, and this process pools the maps."
            )
