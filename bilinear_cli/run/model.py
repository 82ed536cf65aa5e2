"""model.npz: a model as plain arrays, and back."""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bilinear_cli.errors import BilinearError
from bilinear_cli.poolings.parameter_kinds import check_parameter
from bilinear_cli.poolings.registry import get_pooling
from bilinear_cli.poolings.triangle import n_entries
from bilinear_cli.recipe import Recipe
from bilinear_cli.run.arrays import FLOAT, INTEGER, TEXT, Array, check_arrays, read_arrays
from bilinear_cli.run.damage import read_errors
from bilinear_cli.run.metrics import parse_recipe
from bilinear_cli.run.reading import read_metrics

if TYPE_CHECKING:  # reading metrics imports no library of training
    from bilinear_cli.training.feature_transform import FeatureTransform
    from bilinear_cli.training.model import Model
    from bilinear_cli.training.novelty import Novelty

# Prefixes of the names of parameters, and of the arrays of a `Novelty`
PARAMETER_PREFIX, NOVELTY_PREFIX = "parameter-", "novelty-"
# Fields of a `FeatureTransform`
FIELDS = ("columns", "mean", "std", "kernel", "n_features", "normalize", "factor")

MODEL = {
    "weights": Array(FLOAT, ("features", "outputs")),
    "intercept": Array(FLOAT, ("outputs",)),
    "class_names": Array(TEXT, ("classes",), lambda x: len({*x.tolist()}) == len(x)),
    "temperature": Array(FLOAT, ()),
    "poolings": Array(TEXT, ("poolings",)),
}
SECOND = {  # of an mlp
    "weights2": Array(FLOAT, ("outputs", "classes")),
    "intercept2": Array(FLOAT, ("classes",)),
}
TRANSFORM = {  # of each pooling, with its number
    "n_features": Array(INTEGER, (), lambda x: (x > 0).all()),
    "normalize": Array(TEXT, ()),
    "factor": Array(FLOAT, (), lambda x: (x > 0).all()),
}
COLUMNS = {"columns": Array(INTEGER, ("n",), lambda x: x[0] >= 0 and (x[1:] > x[:-1]).all())}
STANDARD = {"mean": Array(FLOAT, ("n",)), "std": Array(FLOAT, ("n",), lambda x: (x > 0).all())}
KERNEL = {"kernel": Array(FLOAT, ("maps_channels", "channels"))}
NOVELTY = {
    "means": Array(FLOAT, ("classes", "classes")),
    "counts": Array(FLOAT, ("classes",), lambda x: (x >= 0).all()),
    "mean": Array(FLOAT, ("classes",)),
    "within": Array(FLOAT, ("classes", "classes")),
    "total": Array(FLOAT, ("classes", "classes")),
    "temperature": Array(FLOAT, ()),
    "known": Array(FLOAT, ("known",), lambda x: (np.diff(x) >= 0).all()),
}


def save_model(path: Path, model: "Model", recipe: Recipe | None = None) -> None:
    """Write a model as plain arrays; with the recipe, a changed one is noticed in metrics.json."""
    arrays = {
        "weights": model.first.weights,
        "intercept": model.first.intercept,
        "class_names": model.class_names,
        "temperature": np.array(model.temperature),
        "poolings": np.array([transform.spec for transform in model.transforms]),
    }
    if recipe:
        arrays["recipe"] = np.array(json.dumps(recipe.comparable_attributes()))
    if model.second:
        arrays |= {"weights2": model.second.weights, "intercept2": model.second.intercept}
    if model.novelty:
        arrays |= {f"{NOVELTY_PREFIX}{name}": x for name, x in vars(model.novelty).items()}
    for i, transform in enumerate(model.transforms):
        values = {name: getattr(transform, name) for name in FIELDS}
        arrays |= {f"{name}{i}": np.asarray(x) for name, x in values.items() if x is not None}
    # Without the metadata of h5py's types: NumPy warns that it does not store them.
    arrays |= {
        f"{PARAMETER_PREFIX}{name}": x.astype(x.dtype.str) for name, x in model.parameters.items()
    }
    np.savez(path, **arrays)  # type: ignore[arg-type]


def load_model(run: Path) -> "Model":
    """Read the model of a run folder.

    Raises:
        BilinearError: the folder is not a run, or its metrics or its model are damaged.
    """
    metrics = read_metrics(run)
    with read_errors(run / "model.npz"):
        return _model(read_arrays(run / "model.npz", metrics.get("sha256")), metrics)


def _model(arrays: Mapping[str, np.ndarray], metrics: Mapping[str, Any]) -> "Model":
    """Return the model of these arrays.

    Raises:
        KeyError, ValueError: the arrays are not those of a model with these metrics.
    """
    from bilinear_cli.training.model import Model
    from bilinear_cli.training.primal import Linear

    if "recipe" in arrays:  # not in runs of earlier versions
        _check_recipe(arrays["recipe"], parse_recipe(metrics))
    sizes = {"features": metrics["n_features"], "classes": metrics["n_classes"]}
    if has_second := metrics["classifier"] == "mlp" or "weights2" in arrays:
        check_arrays(arrays, MODEL | SECOND, sizes)
    else:
        check_arrays(arrays, MODEL, sizes | {"outputs": metrics["n_classes"]})
    specs = arrays["poolings"].tolist()
    if "+".join(specs) != metrics["pooling"]:
        raise ValueError("its poolings are not those of metrics.json")
    transforms = [_transform(arrays, str(i), spec, metrics) for i, spec in enumerate(specs)]
    if sum(transform.n_features for transform in transforms) != metrics["n_features"]:
        raise ValueError("its n_features are not those of metrics.json")
    names = [name for spec in specs for name in get_pooling(spec).parameter_names]
    parameters = {name: arrays[f"{PARAMETER_PREFIX}{name}"] for name in names}
    for name, array in parameters.items():
        check_parameter(name, array)
    second = Linear(arrays["weights2"], arrays["intercept2"]) if has_second else None
    return Model(
        *(Linear(arrays["weights"], arrays["intercept"]), second, transforms),
        *(arrays["class_names"], parameters, _temperature(arrays["temperature"], metrics)),
        _novelty(arrays, metrics),
    )


def _transform(
    arrays: Mapping[str, np.ndarray], number: str, spec: str, metrics: Mapping[str, Any]
) -> "FeatureTransform":
    """Return the transform of the pooling of this number; raise as `_model`."""
    from bilinear_cli.training.feature_transform import FeatureTransform, resolve_normalize

    normalize = resolve_normalize(spec, metrics["normalize"])
    schema, sizes = dict(TRANSFORM), {}
    schema |= COLUMNS if metrics["top_variance"] else {}
    schema |= STANDARD if normalize == "standard" else {}
    if on_maps := get_pooling(spec).ndim == 3:
        schema, sizes = schema | KERNEL, {"channels": metrics["channels"]}
    values = {name: arrays[f"{name}{number}"] for name in schema}
    check_arrays(values, TRANSFORM)
    scalars = {name: values[name].item() for name in TRANSFORM}
    check_arrays(values, schema, {"n": scalars["n_features"], **sizes})
    if scalars["normalize"] != normalize:
        raise ValueError(f"normalize{number} is not that of metrics.json")
    if on_maps and scalars["n_features"] != n_entries(metrics["channels"]):
        raise ValueError(f"n_features{number} is not that of metrics.json")
    return FeatureTransform(spec=spec, **{"columns": None} | values | scalars)


def _check_recipe(array: np.ndarray, recipe: Recipe) -> None:
    """Raise a ValueError unless the recipe is that of the array, apart from later attributes."""
    if not json.loads(str(array)).items() <= recipe.comparable_attributes().items():
        raise ValueError("its recipe is not that of metrics.json")


def _temperature(array: np.ndarray, metrics: Mapping[str, Any]) -> float:
    if array != metrics["temperature"]:
        raise ValueError("its temperature is not that of metrics.json")
    return float(array)


def _novelty(arrays: Mapping[str, np.ndarray], metrics: Mapping[str, Any]) -> "Novelty | None":
    """Return the novelty; None if there is none, as in runs of earlier versions."""
    from bilinear_cli.training.novelty import Novelty

    if not any(name.startswith(NOVELTY_PREFIX) for name in arrays):
        return None
    values: dict[str, Any] = {x.name: arrays[f"{NOVELTY_PREFIX}{x.name}"] for x in fields(Novelty)}
    check_arrays(values, NOVELTY, {"classes": metrics["n_classes"]})
    if values["counts"].sum() != values["known"].size:
        raise ValueError("its novelty is not of as many photos as it counts")
    return Novelty(**values | {"temperature": _temperature(values["temperature"], metrics)})


def require_novelty(run: Path, model: "Model", option: str) -> "Novelty":
    """Return the novelty of a run's model, which an option needs.

    Raises:
        BilinearError: the model has none.
    """
    if model.novelty:
        return model.novelty
    raise BilinearError(
        f"{run} has no novelty score, which {option} needs: train again with this version, on "
        "classes with several photos"
    )
