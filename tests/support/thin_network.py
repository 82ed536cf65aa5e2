"""VGG16 with few channels: commands run the whole program on it in little time."""

import functools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import keras
import pytest

# The program takes `preprocess_input` from the module that defines the function of the network.
from keras.applications.vgg16 import preprocess_input  # noqa: F401

from bilinear_cli.networks import applications, weights
from bilinear_cli.networks.network import _weights

VGG16 = (2, 2, 3, 3, 3)  # convolutions of each block

_started = ExitStack()


@contextmanager
def thin_networks(
    channels: int = 8, layers: Sequence[int] = (1, 1, 1, 1, 3)
) -> Iterator[pytest.MonkeyPatch]:
    """Replace vgg16 and resnet50 in this process by a VGG16 of 4 channels, `channels` in block 5.

    `layers` is the number of convolutions of each block: graphs of few are built sooner. Commands
    need `--weights random`. Other processes still have the original networks.
    """
    blocks = [*zip(layers, (4, 4, 4, 4, channels), strict=True)]

    def thin_vgg16(
        include_top: bool,
        weights: str | None,
        input_shape: tuple[int | None, int | None, int] = (None, None, 3),
    ) -> keras.Model:
        maps = photos = keras.Input(input_shape)
        for block, (n_layers, n_out) in enumerate(blocks, 1):
            for layer in range(1, n_layers + 1):
                name = f"block{block}_conv{layer}"
                maps = keras.layers.Conv2D(n_out, 3, 1, "same", activation="relu", name=name)(maps)
            maps = keras.layers.MaxPooling2D(name=f"block{block}_pool")(maps)
        return keras.Model(photos, maps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "BLOCKS", blocks)
        for name in ("vgg16", "resnet50"):
            patch.setitem(applications.NETWORKS, name, thin_vgg16)
        original = functools.cache(applications._original.__wrapped__)
        patch.setattr(applications, "_original", original)
        _weights.cache_clear()
        yield patch
    _weights.cache_clear()


def start_thin_networks() -> None:
    """Do as `thin_networks`, until `end_thin_networks`: Dask's client calls both on workers."""
    _started.enter_context(thin_networks())


def end_thin_networks() -> None:
    """Restore the original networks."""
    _started.close()
