"""A trained run as one Keras model, from the pixels of photos to the probabilities of classes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np

from bilinear_cli.errors import UsageError
from bilinear_cli.files import atomic_write
from bilinear_cli.layers import ClassProbabilities, Preprocess, Rarity, SqrtL2, pooling_layer
from bilinear_cli.networks.applications import build, resolve_layer
from bilinear_cli.recipe import Recipe, distinct_sizes
from bilinear_cli.training.feature_transform import FeatureTransform
from bilinear_cli.training.model import Model
from bilinear_cli.training.novelty import Novelty
from bilinear_cli.training.primal import Linear

Tensors = Mapping[str, np.ndarray]


def export(
    model: Model,
    recipe: Recipe,
    weights: Tensors,
    output: Path,
    *,
    rarity: bool = False,
) -> keras.Model:
    """Write a trained model and its network as a Keras model, in float32.

    `import bilinear_cli.layers` lets Keras load it.

    Args:
        model: of a run, from `load_model`.
        recipe: of the run's features, from `read_recipe`.
        weights: of the network, as for `load_backbone`.
        output: the file, whose name ends in `.keras`; an existing file is replaced.
        rarity: return how unusual a photo is, too; the model must have a novelty.

    Returns:
        The model: RGB pixels, 0 to 255, float32 (batch, size, size, 3), resized as for extraction
        -> probabilities (batch, classes). With `rarity`, it returns a dict: `probabilities`, and
        `rarity` (batch,), see `Prediction`. Its layer `probabilities` has the names of the classes.

    Raises:
        BilinearError: the file cannot be written.
        UsageError: the run has views of several sizes.
    """
    exported = build_model(model, recipe, weights, rarity=rarity)
    with atomic_write(output) as path:
        exported.save(path)
    return exported


def build_model(
    model: Model, recipe: Recipe, weights: Tensors, *, rarity: bool = False
) -> keras.Model:
    """Return the Keras model of a trained model and the recipe of its features, see `export`."""
    if len(distinct_sizes(recipe.parsed_views)) > 1:
        raise UsageError(
            "cannot export a run on several --scales: its photos are resized to each size before "
            "the network, and a Keras model has one input size. Train on features of one size"
        )
    size = recipe.image_size
    pixels = keras.Input((size, size, 3), name="pixels")
    network = _network(recipe, weights)
    model.check_channels(network.output.shape[-1])
    classifier = _classifier(network.output.shape, model)
    scores = []
    for view in recipe.parsed_views:
        name = "mirrored" if view.flip else "preprocessed"
        photos = Preprocess(recipe.backbone, mirrored=view.flip, name=name)(pixels)
        scores.append(classifier(network(photos)))
    mean = keras.layers.Average(name="views")(scores) if len(scores) > 1 else scores[0]
    calibrated = keras.layers.Rescaling(1 / model.temperature, name="temperature")(mean)
    names = [str(name) for name in model.class_names]
    probabilities = ClassProbabilities(names, name="probabilities")(calibrated)
    if not (rarity and model.novelty):
        return keras.Model(pixels, probabilities)
    outputs = {"probabilities": probabilities, "rarity": _rarity(model.novelty, mean)}
    return keras.Model(pixels, outputs)


def _network(recipe: Recipe, weights: Tensors) -> keras.Model:
    """Return the network from preprocessed photos of one size to maps."""
    network = build(recipe.backbone)
    network.set_weights(list(weights.values()))
    layer = resolve_layer(recipe.backbone, recipe.layer)
    inner = keras.Model(network.input, network.get_layer(layer).output)
    photos = keras.Input((recipe.image_size, recipe.image_size, 3))
    return keras.Model(photos, inner(photos), name=recipe.backbone)


def _classifier(shape: Sequence[int | None], model: Model) -> keras.Model:
    """Return the network from maps to scores."""
    maps = keras.Input(shape[1:], name="maps")
    outputs, start, intercept = [], 0, model.first.intercept
    for transform in model.transforms:
        stop = start + transform.n_features
        rows = _sqrt_l2(_pooling(transform, model.parameters)(maps), transform)
        linear = Linear(model.first.weights[start:stop], intercept)
        outputs.append(_dense(_on_stored_rows(linear, transform, rows.shape[-1]), rows))
        start, intercept = stop, np.zeros_like(intercept)
    scores = keras.layers.Add()(outputs) if len(outputs) > 1 else outputs[0]
    if model.second:
        scores = _dense(model.second, keras.layers.ReLU()(scores))
    return keras.Model(maps, scores, name="classifier")


def _pooling(transform: FeatureTransform, parameters: Tensors) -> keras.layers.Layer:
    """Return the layer from maps to rows; that of a conv1x1 is `bilinear:K` with its kernel."""
    if transform.kernel is None:
        return pooling_layer(transform.spec, parameters)
    channels = transform.kernel.shape[1]
    return pooling_layer(f"bilinear:{channels}", {f"projection-{channels}": transform.kernel})


def _sqrt_l2(rows: keras.KerasTensor, transform: FeatureTransform) -> keras.KerasTensor:
    """Return the rows after `sqrt-l2`; linear normalisations go into the weights instead."""
    if transform.normalize != "sqrt-l2":
        return rows
    layer = SqrtL2()
    rows = layer(rows)
    if transform.columns is not None:
        layer.set_weights([np.isin(np.arange(rows.shape[-1]), transform.columns)])
    return rows


def _on_stored_rows(linear: Linear, transform: FeatureTransform, n_columns: int) -> Linear:
    """Return the linear model on all stored columns, from that on the transformed columns."""
    weights, intercept = linear.weights * np.float32(transform.factor), linear.intercept
    if transform.mean is not None and transform.std is not None:
        weights = weights / transform.std[:, None]
        intercept = intercept - (transform.mean.astype(np.float64) @ weights).astype(np.float32)
    if transform.columns is None:
        return Linear(weights, intercept)
    all_weights = np.zeros((n_columns, weights.shape[1]), np.float32)
    all_weights[transform.columns] = weights
    return Linear(all_weights, intercept)


def _rarity(novelty: Novelty, scores: keras.KerasTensor) -> keras.KerasTensor:
    arrays = vars(novelty).copy()
    layer = Rarity(len(novelty.known), arrays.pop("temperature"), name="rarity")
    outputs = layer(scores)
    layer.set_weights([*arrays.values()])
    return outputs


def _dense(linear: Linear, rows: keras.KerasTensor) -> keras.KerasTensor:
    layer = keras.layers.Dense(len(linear.intercept))
    outputs = layer(rows)
    layer.set_weights([linear.weights, linear.intercept])
    return outputs
