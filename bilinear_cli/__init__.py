"""Bilinear (second-order) pooling of network features for fine-grained image classification.

The public Python interface, see docs/python.md. Names are imported when they are first used, so
that `import bilinear_cli` takes no time, and the command soon handles ctrl-C.
"""

TYPE_CHECKING = False  # that of `typing`, without its import

if TYPE_CHECKING:
    from typing import Any

    from bilinear_cli.api.extract import extract
    from bilinear_cli.api.files import open_features
    from bilinear_cli.api.run import Run, load_run
    from bilinear_cli.api.train import train
    from bilinear_cli.layers import BilinearPooling
    from bilinear_cli.predict import Prediction

    __version__: str

__all__ = [
    "BilinearPooling",
    "Prediction",
    "Run",
    "extract",
    "load_run",
    "open_features",
    "train",
]

# Public name -> its module
_MODULES = {
    "BilinearPooling": "layers",
    "Prediction": "predict",
    "Run": "api.run",
    "extract": "api.extract",
    "load_run": "api.run",
    "open_features": "api.files",
    "train": "api.train",
}


def __getattr__(name: str) -> "Any":
    """Import a public name, or read the version."""
    if name == "__version__":
        from importlib.metadata import version

        return version("bilinear-cli")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return [*__all__, "__version__"]
