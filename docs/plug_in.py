"""Use `BilinearPooling` in MobileNet, and compare it with global average pooling.

    python docs/plug_in.py

Both networks consist of the first layers of MobileNet, a pooling and a softmax. Both are trained in
the same way, end to end, on the built-in sample. The accuracy is measured on its test photos after
the last epoch.
"""

import argparse
import time
from collections.abc import Callable

import keras
import numpy as np

from bilinear_cli.layers import BilinearPooling
from bilinear_cli.photos.photo_set import load_photo_set
from bilinear_cli.photos.pixels.images import read_photo

SIZE = 96
LAYER = "conv_pw_3_relu"  # 24 x 24 x 128; receptive fields of later layers are too large
CHANNELS = 64
# Each of the 2,080 values of a feature with norm one is small, but Adam's steps on the weights of
# the softmax are not. With values ten times as large, it learns ten times as fast.
SCALE = 10
MOMENTUM = 0.9  # of batch normalisation; the default 0.99 needs more than the 300 steps here

Layers = list[keras.layers.Layer]
POOLINGS: dict[str, Callable[[], Layers]] = {
    "global average pooling": lambda: [keras.layers.GlobalAveragePooling2D()],
    f"BilinearPooling, {CHANNELS} channels": lambda: [
        BilinearPooling(channels=CHANNELS),
        keras.layers.Rescaling(SCALE),
    ],
}


def main(arguments: list[str] | None = None) -> None:
    """Train both networks and print their accuracies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="sample")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--weights", choices=("imagenet", "random"), default="imagenet")
    options = parser.parse_args(arguments)
    photo_set = load_photo_set(options.data)
    photos = np.stack([read_photo(photo_set.root / path, [SIZE])[0] for path in photo_set.paths])
    is_train, n_classes = photo_set.split == "train", len(photo_set.class_names)
    train, test = ((photos[rows], photo_set.labels[rows]) for rows in (is_train, ~is_train))
    weights = available_weights(options.weights)
    print(
        f"{is_train.sum()} photos of {n_classes} classes to train on, {(~is_train).sum()} to "
        f"test; MobileNet to {LAYER}, {weights or 'random'} weights; chance is {1 / n_classes:.3f}"
    )
    for name, pooling in POOLINGS.items():
        keras.utils.set_random_seed(0)
        network = build(pooling(), weights, n_classes)
        start = time.perf_counter()
        network.fit(*train, batch_size=16, epochs=options.epochs, verbose=0)
        seconds = time.perf_counter() - start
        accuracy = network.evaluate(*test, verbose=0)[1]
        print(f"{name:<30} {accuracy:.3f}   ({seconds:.0f} s)")


def available_weights(weights: str) -> str | None:
    """Return `imagenet` if it is requested and available, else None for random weights."""
    if weights == "random":
        return None
    try:
        backbone(weights)
    except Exception as error:  # Keras raises a bare Exception if it cannot download
        print(f"ImageNet weights are not available, so weights are random: {error}")
        return None
    return weights


def backbone(weights: str | None) -> keras.Model:
    """Return the first layers of MobileNet."""
    shape = (SIZE, SIZE, 3)
    network = keras.applications.MobileNet(include_top=False, weights=weights, input_shape=shape)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = MOMENTUM
    return keras.Model(network.input, network.get_layer(LAYER).output)


def build(pooling: Layers, weights: str | None, n_classes: int) -> keras.Model:
    """Return the compiled network: photos -> backbone -> pooling -> softmax."""
    network = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            keras.layers.RandomFlip("horizontal"),
            keras.layers.RandomTranslation(0.08, 0.08),
            keras.layers.Rescaling(1 / 127.5, -1),
            backbone(weights),
            *pooling,
            keras.layers.Dense(n_classes),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
    return network


if __name__ == "__main__":
    main()
