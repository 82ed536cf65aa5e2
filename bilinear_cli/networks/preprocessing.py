"""How the publisher of an ONNX network prepares photos: its `preprocessor_config.json`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from bilinear_cli.recipe import processor_resize

SMALL_CONVNEXT = 384  # pixels; ConvNeXt's processor crops only below this size
FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # Pillow's numbers
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
        size, resize = _geometry(config)
        scale = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0
        mean, std = [0, 0, 0], [1, 1, 1]
        if config.get("do_normalize", True):
            mean, std = config["image_mean"], config["image_std"]
        if np.shape([mean, std]) != (2, 3) or not (np.isfinite([mean, std]).all() and all(std)):
            raise ValueError("image_mean and image_std must be three numbers each")
        return cls(size, resize, float(scale), tuple(mean), tuple(std))

    def normalize(self, photos: np.ndarray) -> np.ndarray:
        """Return the network's float32 values of uint8 photos (batch, height, width, 3)."""
        mean, std = np.array(self.mean), np.array(self.std)
        return photos * np.float32(self.scale / std) + np.float32(-mean / std)


def _geometry(config: Mapping[str, Any]) -> tuple[int, str]:
    """Return the size of the photos, and how they are resized to it."""
    size, crop = config["size"], config.get("crop_size", 0)
    crops, crop_ratio = config.get("do_center_crop", bool(crop)), config.get("crop_pct")
    if not isinstance(size, dict):  # as old files write it
        keeps_ratio = bool(crops or crop_ratio)
        size = {"shortest_edge": size} if keeps_ratio else {"height": size, "width": size}
    if unknown := size.keys() - {"shortest_edge", "height", "width"}:
        raise ValueError(f"size has {', '.join(sorted(unknown))}")
    keeps_ratio = "shortest_edge" in size
    edge = int(size["shortest_edge"]) if keeps_ratio else _side(size)
    photo_size = edge
    if crop_ratio:  # ConvNeXt
        keeps_ratio = edge < SMALL_CONVNEXT
        edge = int(edge / crop_ratio) if keeps_ratio else edge
    elif crops:
        photo_size = _side(crop) if isinstance(crop, dict) else int(crop)
    elif keeps_ratio:
        raise ValueError("photos would keep their ratio, but only squares are supported")
    if not 0 < photo_size <= edge:
        raise ValueError(f"crop_size is {photo_size}, and size is {edge}")
    if config["resample"] not in range(len(FILTERS)):
        raise ValueError(f"resample is {config['resample']}")
    return photo_size, processor_resize(keeps_ratio, edge, photo_size, FILTERS[config["resample"]])


def _side(size: Mapping[str, int]) -> int:
    height, width = int(size["height"]), int(size["width"])
    if height != width:
        raise ValueError(f"photos are {width} x {height} pixels, but only squares are supported")
    return height
