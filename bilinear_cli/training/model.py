"""A trained model, and its scores for new rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.special import softmax

from bilinear_cli.errors import BilinearError
from bilinear_cli.poolings.parameters import check_channels
from bilinear_cli.poolings.registry import get_pooling
from bilinear_cli.store import FeatureFile
from bilinear_cli.training.feature_transform import Features, FeatureTransform, transform_rows
from bilinear_cli.training.novelty import Novelty
from bilinear_cli.training.primal import Linear


@dataclass(frozen=True)
class Model:
    """A classifier of stored rows.

    Scores, averaged over views, are divided by the temperature to give probabilities.
    """

    first: Linear  # the first or only layer, weights (d, k) on the transformed features
    second: Linear | None  # the output layer of an mlp, which follows a ReLU
    transforms: Sequence[FeatureTransform]  # one for each pooling
    class_names: np.ndarray  # str (k,)
    parameters: Mapping[str, np.ndarray] = field(default_factory=dict)  # of the poolings
    temperature: float = 1.0
    novelty: Novelty | None = None  # None for runs of before, or if it could not be fitted

    def check_channels(self, channels: int) -> None:
        """Raise a BilinearError unless the model is for maps with this number of channels."""
        check_channels(self.parameters, channels)
        for transform in self.transforms:
            if not transform.fits(get_pooling(transform.spec).row_length(channels)):
                raise BilinearError(
                    f"this model cannot classify {transform.spec} of maps with {channels} channels:"
                    " it was trained on maps of another network"
                )

    def scores(self, stored: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return scores (n, classes) of rows in a feature file's form, spec -> (n, *row shape)."""
        return self(transform_rows(self.transforms, stored))

    def score_rows(self, file: FeatureFile, indices: np.ndarray) -> np.ndarray:
        """Return scores (len(indices), classes) of rows of a file, read in batches."""
        scores = [np.empty((0, len(self.class_names)), np.float32)]
        scores += [self(x) for _, x in Features(file, self.transforms).rows(indices)]
        return np.concatenate(scores)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return scores (n, classes) of transformed rows (n, d)."""
        output = self.first(x)
        return self.second(np.maximum(output, 0)) if self.second else output


def to_probabilities(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Return softmax(scores / temperature), (n, k)."""
    return softmax(scores / temperature, axis=1)
