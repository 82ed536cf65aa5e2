"""A trained model: what a run folder keeps of it, and scores for new rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.special import softmax

from bilinear_cli.store import FeatureFile
from bilinear_cli.training.feature_transform import Features, FeatureTransform, transform_rows
from bilinear_cli.training.primal import Linear


@dataclass(frozen=True)
class Model:
    """Features -> scores.

    Attributes:
        first: weights (d, k) on the selected, normalised features.
        second: what follows after a ReLU, in an mlp; else None.
        transforms: selection and normalisation of each pooling.
        class_names: what the scores stand for.
        parameters: what the poolings take beside the maps, see `poolings/parameters.py`.
        temperature: what scores, averaged over views, are divided by to be probabilities.
    """

    first: Linear
    second: Linear | None
    transforms: Sequence[FeatureTransform]
    class_names: np.ndarray
    parameters: Mapping[str, np.ndarray] = field(default_factory=dict)
    temperature: float = 1.0

    def scores(self, stored: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return scores (n, classes) of rows as a feature file stores them.

        Args:
            stored: spec -> (n, *row shape).
        """
        return self(transform_rows(self.transforms, stored))

    def score_rows(self, file: FeatureFile, indices: np.ndarray) -> np.ndarray:
        """Return scores (len(indices), classes) of rows of a file, read in batches."""
        scores = [np.empty((0, len(self.class_names)), np.float32)]
        scores += [self(x) for _, x in Features(file, self.transforms).rows(indices)]
        return np.concatenate(scores)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return scores (n, classes) of rows (n, d), selected and normalised."""
        output = self.first(x)
        return self.second(np.maximum(output, 0)) if self.second else output


def to_probabilities(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Return softmax(scores / temperature), (n, k)."""
    return softmax(scores / temperature, axis=1)
