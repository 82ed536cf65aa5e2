"""Check the locations that explain finds important: covering them must lower the score.

For correctly predicted test photos, the script hides the tenth of the locations with the largest
contributions, and then a random tenth, behind the mean colour of the photo. It compares the scores.
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from bilinear_cli.explain import compute_scores, explain
from bilinear_cli.networks.backbone import load_backbone
from bilinear_cli.networks.weights import load_vgg16_weights
from bilinear_cli.run import load_model, read_recipe

N_PHOTOS = 60


def cover(pixels: np.ndarray, locations: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the photo with these locations (indices in the map) in its mean colour."""
    hidden = np.zeros(shape, bool)
    hidden.ravel()[locations] = True
    cell = pixels.shape[0] // shape[0]
    mask = hidden.repeat(cell, 0).repeat(cell, 1)[..., None]
    return np.where(mask, pixels.mean(axis=(0, 1)), pixels).astype(np.uint8)


run, photos = map(Path, sys.argv[1:])
model, recipe = load_model(run), read_recipe(run)
weights = load_vgg16_weights()
network = load_backbone(weights.tensors, recipe.backbone, recipe.layer, recipe.precision)
forward = tf.function(network, reduce_retracing=True)
with np.load(run / "test.npz") as test:
    correct = np.flatnonzero(test["scores"].argmax(axis=1) == test["labels"])
    rng = np.random.default_rng(0)
    paths = test["paths"][rng.permutation(correct)[:N_PHOTOS]]
decreases = []
for path in paths:
    explanation = explain(run, photos / path, forward)
    heatmap, class_index = explanation.heatmap, list(model.class_names).index(explanation.name)
    n = heatmap.size // 10
    most_important = np.argsort(-heatmap.ravel())[:n]
    random = rng.permutation(heatmap.size)[:n]
    scores = [
        compute_scores(cover(explanation.pixels, locations, heatmap.shape), model, forward)[
            class_index
        ]
        for locations in (most_important, random)
    ]
    decreases.append(explanation.score - np.array(scores))
mean, error = np.mean(decreases, axis=0), np.std(decreases, axis=0) / np.sqrt(len(decreases))
print(
    f"a score falls by {mean[0]:.3f} (standard error {error[0]:.3f}) when the most important "
    f"tenth of the locations of {len(decreases)} photos is covered, and by {mean[1]:.3f} "
    f"({error[1]:.3f}) for a random tenth"
)
if mean[0] <= mean[1] + 3 * np.hypot(*error):
    sys.exit("covering the most important locations does not lower the score more than random ones")
