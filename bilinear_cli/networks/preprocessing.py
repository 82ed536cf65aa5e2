"""How the publisher of an ONNX network prepares photos: its `preprocessor_config.json`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from bilinear_cli.recipe import FILTERS, parse_processor_resize, processor_resize

MAX_NUMBER = 1e9
SMALL_CONVNEXT = 384  # pixels; ConvNeXt's processor crops only below this size
SQUARE_PROCESSORS = ("Beit", "DeiT")  # a single number is both sides, although they crop
UNSUPPORTED = ("do_flip_channel_order", "do_pad", "include_top", "rescale_offset")
EXAMPLE = (
    '{"size": {"shortest_edge": 256}, "crop_size": 224, "resample": 3, '
    '"rescale_factor": 0.00392157, "image_mean": [0.485, 0.456, 0.406], '
    '"image_std": [0.229, 0.224, 0.225]}'
)


@dataclass(frozen=True)
class Preprocessing:
    """The geometry and the values of the photos that a network takes.

    Attributes:
        size: width and height of the photos, in pixels.
        resize: how they get this size, see `recipe.processor_resize`.
        scale, mean, std: a pixel x, 0 to 255, becomes (x * scale - mean) / std, by channel.
    """

    size: int
    resize: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return the preprocessing of a `preprocessor_config.json`.

        Raises:
            KeyError, TypeError, ValueError: the file lacks a value, or has an invalid one.
        """
        if not config.get("do_resize", True):
            raise ValueError("do_resize is false, but photos have many sizes")
        if unsupported := [name for name in UNSUPPORTED if config.get(name)]:
            raise ValueError(f"{unsupported[0]} is true, which is not supported")
        size, resize = _geometry(config)
        scale = 1.0
        mean: tuple[float, ...] = (0, 0, 0)
        std: tuple[float, ...] = (1, 1, 1)
        if config.get("do_rescale", True):
            scale = _number("rescale_factor", config.get("rescale_factor", 1 / 255))
        if config.get("do_normalize", True):
            mean, std = (_three_numbers(name, config[name]) for name in ("image_mean", "image_std"))
        if not all(std):
            raise ValueError(f"image_std is {[*std]}")
        return cls(size, resize, scale, mean, std)

    def normalize(self, photos: np.ndarray) -> np.ndarray:
        """Return the network's float32 values of uint8 photos (batch, height, width, 3)."""
        mean, std = np.array(self.mean), np.array(self.std)
        return photos * np.float32(self.scale / std) + np.float32(-mean / std)


def _geometry(config: Mapping[str, Any]) -> tuple[int, str]:
    """Return the size of the photos, and how they are resized to it."""
    size: Any = config["size"]
    crop: Any = config.get("crop_size") or 0
    crops, crop_ratio = config.get("do_center_crop", bool(crop)), config.get("crop_pct")
    if not isinstance(size, dict):  # as old files write it
        kind = str(config.get("image_processor_type") or config.get("feature_extractor_type"))
        keeps_ratio = bool(crops or crop_ratio) and not kind.startswith(SQUARE_PROCESSORS)
        size = {"shortest_edge": size} if keeps_ratio else {"height": size, "width": size}
    if unknown := size.keys() - {"shortest_edge", "height", "width"}:
        raise ValueError(f"size has {', '.join(sorted(unknown))}")
    keeps_ratio = "shortest_edge" in size
    edge = int(_number("size", size["shortest_edge"])) if keeps_ratio else _side("size", size)
    photo_size = edge
    if crop_ratio:  # ConvNeXt
        keeps_ratio = edge < SMALL_CONVNEXT
        edge = int(edge / _number("crop_pct", crop_ratio)) if keeps_ratio else edge
    elif crops:
        is_dict = isinstance(crop, dict)
        photo_size = _side("crop_size", crop) if is_dict else int(_number("crop_size", crop))
    elif keeps_ratio:
        raise ValueError("photos would keep their ratio, but only squares are supported")
    filter_number = config["resample"]
    if type(filter_number) is not int or filter_number not in range(len(FILTERS)):
        raise ValueError(f"resample is {filter_number!r:.50}")
    resize = processor_resize(keeps_ratio, edge, photo_size, FILTERS[filter_number])
    if not parse_processor_resize(resize):
        raise ValueError(f"photos of {photo_size} pixels from a size of {edge} are not supported")
    return photo_size, resize


def _number(name: str, value: Any) -> float:
    if not isinstance(value, int | float) or not abs(value) < MAX_NUMBER:  # or NaN
        raise ValueError(f"{name} is {value!r:.50}")
    return value


def _three_numbers(name: str, values: Any) -> tuple[float, ...]:
    if not isinstance(values, list) or len(values) != 3:
        raise ValueError(f"{name} is {values!r:.50}, not three numbers")
    return tuple(_number(name, x) for x in values)


def _side(name: str, size: Mapping[str, Any]) -> int:
    height, width = (int(_number(name, size[side])) for side in ("height", "width"))
    if height != width:
        raise ValueError(f"photos are {width} x {height} pixels, but only squares are supported")
    return height
