"""Bilinear (second-order) pooling of VGG16 features for fine-grained image classification."""

from importlib.metadata import version

__version__ = version("bilinear-cli")
