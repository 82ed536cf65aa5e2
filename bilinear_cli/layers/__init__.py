"""Layers for any Keras network; importing them lets Keras load models that have them."""

from bilinear_cli.layers.bilinear import BilinearPooling
from bilinear_cli.layers.compact import CompactPooling
from bilinear_cli.layers.export import ClassProbabilities, Preprocess, Rarity, SqrtL2
from bilinear_cli.layers.pooling import MapPooling, pooling_layer

__all__ = [
    "BilinearPooling",
    "ClassProbabilities",
    "CompactPooling",
    "MapPooling",
    "Preprocess",
    "Rarity",
    "SqrtL2",
    "pooling_layer",
]
