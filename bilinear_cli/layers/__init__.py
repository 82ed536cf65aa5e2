"""Layers for any Keras network; importing them lets Keras load models that have them."""

from bilinear_cli.layers.bilinear import BilinearPooling
from bilinear_cli.layers.compact import CompactPooling
from bilinear_cli.layers.ends import ClassProbabilities, Preprocess, SqrtL2

__all__ = ["BilinearPooling", "ClassProbabilities", "CompactPooling", "Preprocess", "SqrtL2"]
