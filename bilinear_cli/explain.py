"""Explanations: the share of each location, and of each pair of channels, in a class's score.

A linear classifier's score of a bilinear feature, less the intercept, is a sum over the entries of
the matrix B = Σ x xᵀ, each a sum over locations. So it is exactly the sum over the locations of
xᵀ (W ∘ |B|^(-1/2)) x / ‖B^(1/2)‖, with the root taken entry by entry and 0 where B is 0.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bilinear_cli.errors import BilinearError
from bilinear_cli.networks.network import Forward, split_outputs
from bilinear_cli.photos.boxes.crops import Crop
from bilinear_cli.photos.pixels.images import read_any, read_upright
from bilinear_cli.photos.pixels.notes import logged_notes
from bilinear_cli.poolings import triangle
from bilinear_cli.poolings.registry import POOLINGS, get_pooling
from bilinear_cli.run import load_model, read_recipe
from bilinear_cli.training.model import Model, to_probabilities
from bilinear_cli.validation import validate_choice

N_PAIRS = 10
FRAME_SIDE = 896  # pixels of the longer side of a photo around a crop
MAX_OPACITY = 0.7  # of the location with the largest share


@dataclass(frozen=True)
class Explanation:
    """The shares of locations and of channels in a class's score of a photo.

    Attributes:
        name: of the class.
        probability: of the class, 0 to 1.
        score: of the class, for the original view of the photo.
        intercept: the part of the score that is the same for every photo.
        heatmap: float64 (height, width), share of each location; its sum is `score - intercept`.
        pairs: (channel, channel, share of the pair), the largest absolute shares first.
        pixels: uint8 (size, size, 3), the input of the network.
    """

    name: str
    probability: float
    score: float
    intercept: float
    heatmap: np.ndarray
    pairs: list[tuple[int, int, float]]
    pixels: np.ndarray


def explain(
    run: Path,
    photo: Path,
    forward: Forward,
    class_name: str | None = None,
    crop: Crop | None = None,
) -> Explanation:
    """Explain a run's score of a photo.

    Args:
        run: a run folder, of `bilinear` or `bilinear:K` with a linear classifier, or of conv1x1.
        forward: uint8 photos -> maps, from `Network.load`.
        class_name: to explain; None for the most probable.
        crop: the part of the photo to explain; None for the whole photo.

    Raises:
        BilinearError: the run is of another kind, or the photo cannot be read.
        UsageError: the run has no such class.
    """
    model, recipe = load_model(run), read_recipe(run)
    _check_explainable(model)
    names = [str(name) for name in model.class_names]
    if class_name is not None:
        validate_choice("class", class_name, names)
    with logged_notes() as notes:
        decoded = read_any(photo, [recipe.image_size], recipe.resize, recipe.colours, crop)
        notes.add(photo, decoded.notes)
    (pixels,) = decoded.pixels
    x, shape = _pooled_channels(pixels, model, forward)
    matrix = x.T @ x
    scores = _scores(matrix, model)
    class_index = int(scores.argmax()) if class_name is None else names.index(class_name)
    quadratic_form = _quadratic_form(matrix, model, class_index)
    heatmap = np.einsum("li,ij,lj->l", x, quadratic_form, x, optimize=True)
    return Explanation(
        names[class_index],
        float(to_probabilities(scores[None], model.temperature)[0, class_index]),
        float(scores[class_index]),
        float(model.first.intercept[class_index]),
        heatmap.reshape(shape),
        _largest_pairs(quadratic_form * matrix),
        pixels,
    )


def _check_explainable(model: Model) -> None:
    """Raise unless the model's score is a sum over locations."""
    (transform, *others) = model.transforms
    explainable = get_pooling(transform.spec).explainable
    if others or model.second or not explainable or transform.normalize != "none":
        matrices = [x for x in POOLINGS.values() if x.explainable and x.ndim == 1]
        names = [name for x in matrices for name in (x.method, f"{x.method}:K")]
        raise BilinearError(
            "the score of this run is not a sum over locations. explain needs a run of one "
            f"pooling, {' or '.join(names)}, with softmax, svm or ridge and --normalize auto or "
            "none; or a run of conv1x1. It cannot explain an mlp"
        )


def compute_scores(pixels: np.ndarray, model: Model, forward: Forward) -> np.ndarray:
    """Return a photo's scores (classes,), computed as in `explain`, from uint8 (size, size, 3)."""
    x, _ = _pooled_channels(pixels, model, forward)
    return _scores(x.T @ x, model)


def _pooled_channels(
    pixels: np.ndarray, model: Model, forward: Forward
) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the projected channels, float64 (locations, channels), and the maps' height, width."""
    maps = np.asarray(split_outputs(forward(pixels[None]))[0], np.float64)[0]
    model.check_channels(maps.shape[-1])
    transform = model.transforms[0]
    parameters = get_pooling(transform.spec).argument_names
    kernel = model.parameters[parameters[0]] if parameters else transform.kernel
    x = maps.reshape(-1, maps.shape[-1])
    return x if kernel is None else x @ kernel, maps.shape[:2]


def _columns(model: Model) -> np.ndarray | slice:
    """Return the stored columns of the feature that the model takes."""
    columns = model.transforms[0].columns
    return slice(None) if columns is None else columns


def _scores(matrix: np.ndarray, model: Model) -> np.ndarray:
    """Return the scores (classes,) of the bilinear feature of a matrix B."""
    feature = triangle.pack(np.sign(matrix) * np.sqrt(np.abs(matrix))) / _norm(matrix)
    return model.first(feature[_columns(model)])


def _quadratic_form(matrix: np.ndarray, model: Model, class_index: int) -> np.ndarray:
    """Return A such that the share of a location x in a class's score is xᵀ A x."""
    weights = np.zeros(triangle.n_entries(len(matrix)))
    weights[_columns(model)] = model.first.weights[:, class_index]
    size = np.abs(matrix)
    inverse_root = np.divide(1, np.sqrt(size), out=np.zeros_like(size), where=size > 0)
    return triangle.unpack(weights) * inverse_root / _norm(matrix)


def _norm(matrix: np.ndarray) -> float:
    """Return the l2 norm of the roots of a matrix's entries, or 1 for a matrix of zeros."""
    return float(np.sqrt(np.abs(matrix).sum())) or 1.0


def _largest_pairs(shares: np.ndarray) -> list[tuple[int, int, float]]:
    """Return the pairs of channels of the largest absolute shares in a symmetric matrix."""
    rows, columns = np.triu_indices(len(shares))
    sums = shares[rows, columns] * triangle.multiplicity(len(shares))
    order = np.argsort(-np.abs(sums), kind="stable")[:N_PAIRS]
    return [(int(rows[i]), int(columns[i]), float(sums[i])) for i in order]


def overlay(explanation: Explanation) -> Image.Image:
    """Return the photo in grey, with positive shares in orange and negative ones in blue."""
    height, width = explanation.pixels.shape[:2]
    largest = np.abs(explanation.heatmap).max() or 1.0
    small = Image.fromarray((explanation.heatmap / largest).astype(np.float32))
    heatmap = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).clip(-1, 1)
    colour = np.where(heatmap[..., None] > 0, (255, 120, 0), (0, 110, 255))
    grey = explanation.pixels.mean(axis=2, keepdims=True)
    opacity = MAX_OPACITY * np.abs(heatmap)[..., None]
    return Image.fromarray((grey * (1 - opacity) + colour * opacity).astype(np.uint8))


def within_frame(picture: Image.Image, photo: Path, crop: Crop) -> Image.Image:
    """Return the picture of a crop at its place in the photo, which is darker around it."""
    pixels, size = read_upright(photo, FRAME_SIDE)
    frame = Image.fromarray(pixels // 2)
    scale = frame.width / size[0], frame.height / size[1]
    edges = crop.rectangle(size)
    left, top, right, bottom = (round(x * scale[i % 2]) for i, x in enumerate(edges))
    frame.paste(picture.resize((max(right - left, 1), max(bottom - top, 1))), (left, top))
    return frame
