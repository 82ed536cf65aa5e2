"""What a tensor of an ONNX network means: maps, or tokens on a grid, or neither."""

from collections.abc import Mapping
from math import isqrt
from typing import Any, NamedTuple

import numpy as np

from bilinear_cli.networks.onnx_model import positive_int, vision_config


class MapLayout(NamedTuple):
    """Where the maps are in a tensor.

    Attributes:
        channels_first: of a tensor (batch, channels, height, width).
        n_before: of tokens: how many precede those of the grid.
        has_class_token: of tokens: the first is the class token.
    """

    channels_first: bool = False
    n_before: int = 0
    has_class_token: bool = False

    def split(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return maps (batch, height, width, channels), and class tokens (batch, channels or 0)."""
        if x.ndim == 4:
            return x.transpose(0, 2, 3, 1) if self.channels_first else x, x[:, 0, 0, :0]
        side = isqrt(x.shape[1] - self.n_before)
        maps = x[:, self.n_before :].reshape(len(x), side, side, x.shape[2])
        return maps, x[:, 0] if self.has_class_token else x[:, 0, :0]


def find_layout(
    shape: tuple[int, ...], config: Mapping[str, Any], image_size: int
) -> MapLayout | None:
    """Return where the maps are in a tensor, or None if it has none.

    Args:
        shape: of the tensor for a batch of square photos.
        config: of `config.json`, possibly with a nested `vision_config`.
        image_size: width and height of the photos in pixels.
    """
    config = vision_config(config)
    if len(shape) == 4:
        return _find_channels(shape[1:], config)
    if len(shape) != 3:
        return None
    n_tokens, patch = shape[1], positive_int(config.get("patch_size"))
    n_patches = (image_size // patch) ** 2 if patch else None
    n_registers = positive_int(config.get("num_register_tokens")) or 0
    if n_patches and n_tokens == n_patches + 1 + n_registers:
        return MapLayout(n_before=1 + n_registers, has_class_token=True)
    # Without a class token, as in SigLIP; or a grid of merged patches, as in Swin
    if n_tokens == n_patches or (n_tokens > 1 and isqrt(n_tokens) ** 2 == n_tokens):
        return MapLayout()
    return None


def _find_channels(shape: tuple[int, ...], config: Mapping[str, Any]) -> MapLayout | None:
    """Return which axis of a map has the channels: by its shape, else by the configuration."""
    a, b, c = shape
    first, last = b == c != a, a == b != c
    if first == last:  # by shape it may be either
        sizes = config.get("hidden_sizes")
        widths = sizes if sizes and isinstance(sizes, list) else [config.get("hidden_size")]
        first, last = a in widths and c not in widths, c in widths and a not in widths
    return MapLayout(channels_first=first) if first != last else None
