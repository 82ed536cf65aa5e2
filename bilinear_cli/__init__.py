"""Bilinear (second-order) pooling of network features for fine-grained image classification.

The public Python interface, see docs/python.md. Names are imported when they are first used, so
that `import bilinear_cli` takes no time, and the command soon handles ctrl-C.
"""

TYPE_CHECKING = False  # that of `typing`, without its import

if TYPE_CHECKING:
    from typing import Any

    from bilinear_cli.api import Prediction, Run, extract, load_run, open_features, train
    from bilinear_cli.layers import BilinearPooling

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


def __getattr__(name: str) -> "Any":
    """Import a public name, or read the version."""
    if name == "__version__":
        from importlib.metadata import version

        return version("bilinear-cli")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module = "layers" if name == "BilinearPooling" else "api"
    return getattr(import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    """Return the public names, too."""
    return sorted({*globals(), *__all__})
