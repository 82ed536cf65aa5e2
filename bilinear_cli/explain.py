"""Which places of a photo, and which pairs of channels, spoke for a class: shares of its score.

A linear classifier's score of a bilinear feature, less the intercept, is a sum over the entries of
the matrix B = Σ x xᵀ, each a sum over locations. So it is, exactly, the sum over the locations of
xᵀ (W ∘ |B|^(-1/2)) x / ‖B^(1/2)‖, with the root taken entry by entry and 0 where B is 0.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bilinear_cli.errors import BilinearError, validate_choice
from bilinear_cli.photos.images import read_photo
from bilinear_cli.poolings import triangle
from bilinear_cli.poolings.parameters import check_channels
from bilinear_cli.poolings.registry import POOLINGS, get_pooling
from bilinear_cli.run import load_model, read_recipe
from bilinear_cli.training.model import Model, to_probabilities

N_PAIRS = 10
STRONGEST = 0.7  # opacity of the most telling place


@dataclass(frozen=True)
class Explanation:
    """Why a photo was given a name.

    Attributes:
        name: of the class.
        probability: of the class, 0 to 1.
        score: of the class, of the photo as it is.
        intercept: what of the score is the same for every photo.
        heat: float64 (height, width), what each location adds to the score; its sum is
            `score - intercept`.
        pairs: (channel, channel, what both together add to the score), the weightiest first.
        pixels: uint8 (size, size, 3), the photo as the network saw it.
    """

    name: str
    probability: float
    score: float
    intercept: float
    heat: np.ndarray
    pairs: list[tuple[int, int, float]]
    pixels: np.ndarray


def explain(
    run: Path, photo: Path, forward: Callable[[Any], Any], name: str | None = None
) -> Explanation:
    """Explain a run's score of a photo.

    Args:
        run: a run folder, of `bilinear` or `bilinear:K` with a linear classifier.
        photo: a file.
        forward: the network, as for `extract`.
        name: of the class to explain; None for the likeliest.

    Raises:
        BilinearError: the run is of another kind, or the photo cannot be read.
        UsageError: there is no such class.
    """
    model, recipe = load_model(run), read_recipe(run)
    _check_offered(model)
    names = [str(x) for x in model.class_names]
    number = names.index(validate_choice("class", name, names)) if name else None
    (pixels,) = read_photo(photo, [recipe.image_size], recipe.resize)
    x, shape = _pooled_channels(pixels, model, forward)
    matrix = x.T @ x
    scores = _scores(matrix, model)
    if number is None:
        number = int(scores.argmax())
    form = _form(matrix, model, number)
    heat = np.einsum("li,ij,lj->l", x, form, x, optimize=True)
    return Explanation(
        names[number],
        float(to_probabilities(scores[None], model.temperature)[0, number]),
        float(scores[number]),
        float(model.first.intercept[number]),
        heat.reshape(shape),
        _weightiest(form * matrix),
        pixels,
    )


def _check_offered(model: Model) -> None:
    """Raise unless the model's score is a sum over locations."""
    (part, *others) = model.transforms
    explainable = get_pooling(part.spec).explainable
    if others or model.second or not explainable or part.normalize != "none":
        vectors = [x for x in POOLINGS.values() if x.explainable and x.rank == 1]
        names = [name for x in vectors for name in (x.method, f"{x.method}:K")]
        raise BilinearError(
            f"explain is offered for {' and '.join(names)} with softmax, svm or ridge, and for "
            "conv1x1: of other poolings and of the mlp the score is no sum over places"
        )


def scores_of(pixels: np.ndarray, model: Model, forward: Callable[[Any], Any]) -> np.ndarray:
    """Return the scores (classes,) of a photo, uint8 (size, size, 3), as `explain` takes them."""
    x, _ = _pooled_channels(pixels, model, forward)
    return _scores(x.T @ x, model)


def _pooled_channels(
    pixels: np.ndarray, model: Model, forward: Callable[[Any], Any]
) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the channels that are pooled, float64 (locations, channels), and height and width."""
    maps = np.asarray(forward(pixels[None]), np.float64)[0]
    check_channels(model.parameters, maps.shape[-1])
    part = model.transforms[0]
    names = get_pooling(part.spec).arguments
    kernel = model.parameters[names[0]] if names else part.kernel
    x = maps.reshape(-1, maps.shape[-1])
    return x if kernel is None else x @ kernel, maps.shape[:2]


def _scores(matrix: np.ndarray, model: Model) -> np.ndarray:
    """Return the scores (classes,) of the feature of a matrix B."""
    feature = triangle.pack(np.sign(matrix) * np.sqrt(np.abs(matrix))) / _norm(matrix)
    taken = model.transforms[0].columns
    return model.first(feature if taken is None else feature[taken])


def _form(matrix: np.ndarray, model: Model, number: int) -> np.ndarray:
    """Return A such that the share of a location x in a class's score is xᵀ A x."""
    weights = np.zeros(triangle.n_entries(len(matrix)))
    taken = model.transforms[0].columns
    weights[slice(None) if taken is None else taken] = model.first.weights[:, number]
    size = np.abs(matrix)
    inverse_root = np.divide(1, np.sqrt(size), out=np.zeros_like(size), where=size > 0)
    return triangle.unpack(weights) * inverse_root / _norm(matrix)


def _norm(matrix: np.ndarray) -> float:
    """Return the l2 norm of the roots of a matrix's entries, 1 for a matrix of zeros."""
    return float(np.sqrt(np.abs(matrix).sum())) or 1.0


def _weightiest(entries: np.ndarray) -> list[tuple[int, int, float]]:
    """Return the pairs of channels that add or take most, both their entries together."""
    rows, columns = triangle.indices(len(entries))
    both = entries[rows, columns] * triangle.multiplicity(len(entries))
    first = np.argsort(-np.abs(both), kind="stable")[:N_PAIRS]
    return [(int(rows[i]), int(columns[i]), float(both[i])) for i in first]


def overlay(explanation: Explanation) -> Image.Image:
    """Return the photo in grey; what spoke for the class in orange, and against it in blue."""
    height, width = explanation.pixels.shape[:2]
    strongest = np.abs(explanation.heat).max() or 1.0
    small = Image.fromarray((explanation.heat / strongest).astype(np.float32))
    heat = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).clip(-1, 1)
    colour = np.where(heat[..., None] > 0, (255, 120, 0), (0, 110, 255))
    grey = explanation.pixels.mean(axis=2, keepdims=True)
    opacity = STRONGEST * np.abs(heat)[..., None]
    return Image.fromarray((grey * (1 - opacity) + colour * opacity).astype(np.uint8))
