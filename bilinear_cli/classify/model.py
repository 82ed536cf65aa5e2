"""A trained model: what a run folder keeps of it, and scores for new rows."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from scipy.special import softmax

from bilinear_cli.classify.columns import Linear
from bilinear_cli.classify.inputs import Part, see
from bilinear_cli.errors import BilinearError
from bilinear_cli.features.specs import pooling
from bilinear_cli.store import check_parameter

PARAMETER = "parameter-"  # before the name of one
DAMAGE = (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error)  # of an npz file
OPTIONAL = ("columns", "mean", "std", "kernel")  # arrays of a `Part`


@dataclass(frozen=True)
class Model:
    """Features -> scores.

    Attributes:
        first: weights (d, k) on the selected, normalised features.
        second: what follows after a ReLU, in an mlp; else None.
        parts: selection and normalisation of each pooling.
        class_names: what the scores stand for.
        parameters: what the poolings take beside the maps, see `features/parameters.py`.
        temperature: what scores, averaged over views, are divided by to be probabilities.
    """

    first: Linear
    second: Linear | None
    parts: Sequence[Part]
    class_names: np.ndarray
    parameters: Mapping[str, np.ndarray] = field(default_factory=dict)
    temperature: float = 1.0

    def scores(self, stored: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return scores (n, classes) of rows as a feature file stores them.

        Args:
            stored: spec -> (n, *row shape).
        """
        return self(see(self.parts, stored))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return scores (n, classes) of rows (n, d), selected and normalised."""
        output = self.first(x)
        return self.second(np.maximum(output, 0)) if self.second else output


def save_model(path: Path, model: Model) -> None:
    """Write a model as plain arrays."""
    arrays = {
        "weights": model.first.weights,
        "intercept": model.first.intercept,
        "class_names": model.class_names,
        "temperature": np.array(model.temperature),
        "poolings": np.array([part.spec for part in model.parts]),
    }
    if model.second:
        arrays |= {"weights2": model.second.weights, "intercept2": model.second.intercept}
    for i, part in enumerate(model.parts):
        optional = {name: getattr(part, name) for name in OPTIONAL}
        arrays |= {f"{name}{i}": x for name, x in optional.items() if x is not None}
        arrays[f"n_features{i}"] = np.array(part.n_features)
        arrays[f"normalize{i}"] = np.array(part.normalize)
        arrays[f"factor{i}"] = np.array(part.factor)
    # Without the metadata of h5py's types, of which NumPy warns that it does not store it.
    arrays |= {f"{PARAMETER}{name}": x.astype(x.dtype.str) for name, x in model.parameters.items()}
    np.savez(path, **arrays)  # type: ignore[arg-type]


def load_model(run: Path) -> Model:
    """Read the model of a run folder.

    Raises:
        BilinearError: there is none, or it is damaged.
    """
    path = run / "model.npz"
    if not path.is_file():
        raise BilinearError(f"there is no run in {run}: make one with bilinear train")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            x = dict(arrays)
        second = Linear(x["weights2"], x["intercept2"]) if "weights2" in x else None
        parts = [
            Part(
                str(spec),
                x.get(f"columns{i}"),
                int(x[f"n_features{i}"]),
                str(x[f"normalize{i}"]),
                x.get(f"mean{i}"),
                x.get(f"std{i}"),
                float(x[f"factor{i}"]),
                x.get(f"kernel{i}"),
            )
            for i, spec in enumerate(x["poolings"])
        ]
        names = [name for part in parts for name in pooling(part.spec).parameters]
        parameters = {name: x[f"{PARAMETER}{name}"] for name in names}
        for name in names:
            check_parameter(name, parameters[name])
        linear = Linear(x["weights"], x["intercept"])
        temperature = float(x.get("temperature", 1.0))
        if not 0 < temperature < np.inf:
            raise ValueError(f"its temperature is {temperature}")
        return Model(linear, second, parts, x["class_names"], parameters, temperature)
    except (*DAMAGE, TypeError, RuntimeError) as error:
        raise BilinearError(f"{path} is damaged ({error}): train again") from error


def probabilities_of(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Return softmax(scores / temperature), (n, k)."""
    return softmax(scores / temperature, axis=1)
