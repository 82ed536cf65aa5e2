"""A trained run as one Keras model, from the pixels of a photo to the probabilities of classes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np

from bilinear_cli.errors import BilinearError, UsageError
from bilinear_cli.files import atomic_write
from bilinear_cli.layers import ClassProbabilities, Preprocess, SqrtL2, pooling_layer
from bilinear_cli.networks.applications import build, resolve_layer
from bilinear_cli.poolings.parameters import check_channels
from bilinear_cli.recipe import Recipe
from bilinear_cli.run import load_model, read_recipe
from bilinear_cli.training.feature_transform import FeatureTransform
from bilinear_cli.training.model import Model
from bilinear_cli.training.primal import Linear
from bilinear_cli.views import View

Tensors = Mapping[str, np.ndarray]


def export(run: Path, weights: Tensors, output: Path, *, overwrite: bool = False) -> keras.Model:
    """Write a run as a Keras model, in float32; `import bilinear_cli.layers` lets Keras load it.

    Args:
        run: a run folder; the feature file that it was trained on need not exist any more.
        weights: of the network, as for `load_backbone`.
        output: the file, whose name ends in `.keras`.
        overwrite: whatever is there.

    Returns:
        The model: RGB pixels, 0 to 255, float32 (batch, size, size, 3), brought to size as in
        extraction -> probabilities (batch, classes), whose names its last layer has.

    Raises:
        BilinearError: the folder is no run, or the file cannot be written or is there.
        UsageError: the run's photos were shown in several sizes.
    """
    if output.suffix != ".keras":
        raise UsageError(f"the name of a Keras model ends in .keras: {output} does not")
    if output.exists() and not overwrite:
        raise BilinearError(f"{output} is there already: name another, or --overwrite")
    model = build_model(load_model(run), read_recipe(run), weights)
    with atomic_write(output) as new:
        model.save(new)
    return model


def build_model(model: Model, recipe: Recipe, weights: Tensors) -> keras.Model:
    """Return the Keras model of a trained model and the recipe of its features."""
    if len({view.size for view in recipe.parsed_views}) > 1:
        raise UsageError(
            "a run on several --scales cannot be exported: its photos are brought to each size "
            "before the network, which one input cannot do"
        )
    size = recipe.image_size
    pixels = keras.Input((size, size, 3), name="pixels")
    network = _network(recipe, weights)
    check_channels(model.parameters, network.output.shape[-1])
    scores = _scores(network.output.shape, model)
    seen = [scores(network(_shown(pixels, view, recipe.backbone))) for view in recipe.parsed_views]
    mean = keras.layers.Average(name="views")(seen) if len(seen) > 1 else seen[0]
    names = [str(name) for name in model.class_names]
    calibrated = keras.layers.Rescaling(1 / model.temperature, name="temperature")(mean)
    return keras.Model(pixels, ClassProbabilities(names, name="probabilities")(calibrated))


def _shown(pixels: keras.KerasTensor, view: View, backbone: str) -> keras.KerasTensor:
    name = "mirrored" if view.flip else "preprocessed"
    return Preprocess(backbone, mirrored=view.flip, name=name)(pixels)


def _network(recipe: Recipe, weights: Tensors) -> keras.Model:
    """Return the network from preprocessed photos of one size to maps."""
    network = build(recipe.backbone)
    network.set_weights(list(weights.values()))
    layer = resolve_layer(recipe.backbone, recipe.layer)
    inner = keras.Model(network.input, network.get_layer(layer).output)
    photos = keras.Input((recipe.image_size, recipe.image_size, 3))
    return keras.Model(photos, inner(photos), name=recipe.backbone)


def _scores(shape: Sequence[int | None], model: Model) -> keras.Model:
    """Return the network from maps to scores."""
    maps = keras.Input(shape[1:], name="maps")
    outputs, start, intercept = [], 0, model.first.intercept
    for part in model.transforms:
        stop = start + part.n_features
        rows = _normalized(_pooling(part, model.parameters)(maps), part)
        linear = _on_all_numbers(part, model.first.weights[start:stop], rows.shape[-1])
        outputs.append(_dense(Linear(linear.weights, linear.intercept + intercept), rows))
        start, intercept = stop, np.zeros_like(intercept)
    scores = keras.layers.Add()(outputs) if len(outputs) > 1 else outputs[0]
    if model.second:
        scores = _dense(model.second, keras.layers.ReLU()(scores))
    return keras.Model(maps, scores, name="classifier")


def _pooling(part: FeatureTransform, parameters: Tensors) -> keras.layers.Layer:
    """Return the layer from maps to rows; a conv1x1's is `bilinear:K` of a trained projection."""
    if part.kernel is None:
        return pooling_layer(part.spec, parameters)
    channels = part.kernel.shape[1]
    return pooling_layer(f"bilinear:{channels}", {f"projection-{channels}": part.kernel})


def _normalized(rows: keras.KerasTensor, part: FeatureTransform) -> keras.KerasTensor:
    """Normalise rows where that is not linear; what is, goes into the weights."""
    if part.normalize != "sqrt-l2":
        return rows
    layer = SqrtL2()
    rows = layer(rows)
    if part.columns is not None:
        kept = np.zeros(rows.shape[-1], np.float32)
        kept[part.columns] = 1
        layer.set_weights([kept])
    return rows


def _on_all_numbers(part: FeatureTransform, weights: np.ndarray, d: int) -> Linear:
    """Return what weights on selected, standardised numbers are on all of a row's numbers."""
    weights = weights * np.float32(part.factor)
    intercept = np.zeros(weights.shape[1], np.float32)
    if part.mean is not None and part.std is not None:
        weights = weights / part.std[:, None]
        intercept = -(part.mean.astype(np.float64) @ weights).astype(np.float32)
    whole = np.zeros((d, weights.shape[1]), np.float32)
    whole[slice(None) if part.columns is None else part.columns] = weights
    return Linear(whole, intercept)


def _dense(linear: Linear, rows: keras.KerasTensor) -> keras.KerasTensor:
    layer = keras.layers.Dense(len(linear.intercept))
    outputs = layer(rows)
    layer.set_weights([linear.weights, linear.intercept])
    return outputs
