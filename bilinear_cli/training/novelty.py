"""How unlike the photos of the known classes a photo is, from the scores of the classifier.

The novelty of a photo with scores x and calibrated probabilities p is

    sum over classes c of p_c (d_c - d_0)

with d_c the squared Mahalanobis distance of x from the mean scores of class c, and d_0 that from
the mean scores of all photos. The means and covariances are those of out-of-fold scores: in many
dimensions all training photos are alike to a model that was fitted on them, and a new photo of a
known class is not.

Sources: Ren, Fort, Liu, Guha Roy, Padhy, Lakshminarayanan, "A Simple Fix to Mahalanobis Distance
for Improving Near-OOD Detection", 2021 (the difference of two distances; they take the nearest
class and the features of a network). Chen, Wiesel, Eldar, Hero, "Shrinkage Algorithms for MMSE
Covariance Estimation", IEEE Transactions on Signal Processing, 2010 (the shrinkage).
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.special import softmax

from bilinear_cli.errors import BilinearError

METHOD = "relative Mahalanobis distance of out-of-fold scores, weighted by the probabilities"
N_FOLDS = 5  # of the held-out photos, for their own novelty


@dataclass(frozen=True)
class Novelty:
    """What the novelty of a photo is computed from, as plain float64 arrays; k classes."""

    means: np.ndarray  # (k, k), the mean scores of each class
    counts: np.ndarray  # (k,), number of held-out photos of each class
    mean: np.ndarray  # (k,), of the scores of all held-out photos
    within: np.ndarray  # (k, k), inverse covariance of scores around the mean of their class
    total: np.ndarray  # (k, k), inverse covariance of scores around `mean`
    temperature: float  # that scores are divided by to give probabilities
    known: np.ndarray  # (n,), ascending, the novelty of the held-out photos

    def score(self, scores: np.ndarray) -> np.ndarray:
        """Return the novelty (n,) of photos with scores (n, k); higher is more unusual."""
        x, means = scores - self.mean, self.means - self.mean
        weighted_x, weighted_means = x @ self.within, means @ self.within
        distances = np.einsum("ij,ij->i", x, weighted_x)[:, None] - 2 * weighted_x @ means.T
        distances += np.einsum("ij,ij->i", means, weighted_means)
        # The mean of n photos is itself uncertain: it adds 1 / n of the covariance.
        distances *= self.counts / (self.counts + 1)
        distances -= np.einsum("ij,ij->i", x, x @ self.total)[:, None]
        distances[:, self.counts == 0] = 0  # nothing is known about such a class
        probabilities = softmax(np.asarray(scores, np.float64) / self.temperature, axis=1)
        return np.einsum("ij,ij->i", probabilities, distances)

    def rarity(self, scores: np.ndarray) -> np.ndarray:
        """Return the rarity (n,) of photos with scores (n, k), above 0 to 1; lower is more unusual.

        It is (1 + number of held-out photos at least as unusual) / (1 + number of them): a p-value.
        """
        n_below = np.searchsorted(self.known, self.score(scores), side="left")
        return (1 + len(self.known) - n_below) / (1 + len(self.known))


def fit_novelty(
    scores: np.ndarray, labels: np.ndarray, group: np.ndarray, temperature: float
) -> Novelty:
    """Fit on the out-of-fold scores (n, k) of photos, with labels int (n,) and groups (n,).

    The novelty of these photos themselves is cross-fitted: the means and covariances are those of
    other photos, of other groups.

    Raises:
        BilinearError: too few photos or groups, or the scores are equal or not finite.
    """
    scores = scores.astype(np.float64)
    if not np.isfinite(scores).all():
        raise BilinearError("the out-of-fold scores are not finite")
    fold = assign_folds(labels, group, N_FOLDS, np.random.default_rng(0))
    if len(scores) < 3 or fold.min() == fold.max():
        raise BilinearError("too few training photos or groups were held out")
    moments = _moments(scores, labels)
    # Fewer photos ask for more shrinkage, which lowers all distances: the folds take that of all.
    shares = (oas_share(moments.within, moments.n_free), oas_share(moments.total, len(scores) - 1))
    known = np.empty(len(scores))
    for i in np.unique(fold):
        is_held_out = fold == i
        fitted = _moments(scores[~is_held_out], labels[~is_held_out])
        known[is_held_out] = _novelty(fitted, shares, temperature).score(scores[is_held_out])
    return replace(_novelty(moments, shares, temperature), known=np.sort(known))


def assign_folds(
    labels: np.ndarray, group: np.ndarray, n_folds: int, rng: np.random.Generator
) -> np.ndarray:
    """Return a fold for each row, int (n,) from 0; each class is spread evenly over the folds.

    Rows of one group are in the same fold.
    """
    _, first, inverse = np.unique(group, return_index=True, return_inverse=True)
    order = np.lexsort((rng.random(len(first)), labels[first]))
    fold = np.empty(len(first), int)
    fold[order] = np.arange(len(first)) % n_folds
    return fold[inverse]


class _Moments(NamedTuple):
    """Means and covariances of scores, as in `Novelty`, but the covariances themselves."""

    means: np.ndarray
    counts: np.ndarray
    mean: np.ndarray
    within: np.ndarray
    total: np.ndarray
    n_free: int  # degrees of freedom of `within`


def _moments(scores: np.ndarray, labels: np.ndarray) -> _Moments:
    """Return the moments of scores (n, k) with labels (n,)."""
    n, k = scores.shape
    counts, mean = np.bincount(labels, minlength=k), scores.mean(axis=0)
    means = np.zeros((k, k))
    np.add.at(means, labels, scores)
    means /= np.maximum(counts, 1)[:, None]
    residuals, centred = scores - means[labels], scores - mean
    total = centred.T @ centred / max(n - 1, 1)
    # The total covariance counts as one more photo, so that single photos of all classes suffice.
    n_free = n - int(np.sum(counts > 0)) + 1
    within = (residuals.T @ residuals + total) / n_free
    return _Moments(means, counts.astype(float), mean, within, total, n_free)


def _novelty(moments: _Moments, shares: tuple[float, float], temperature: float) -> Novelty:
    """Return the novelty, without `known`, with these shares of the identity."""
    within, total = (
        np.linalg.inv(shrunk(covariance, share))
        for covariance, share in zip((moments.within, moments.total), shares, strict=True)
    )
    return Novelty(*moments[:3], within, total, temperature, np.empty(0))


def oas_share(covariance: np.ndarray, n: int) -> float:
    """Return how much to shrink a covariance (k, k) of n degrees of freedom, 0 to 1.

    It is the oracle approximating shrinkage of Chen et al. 2010.
    """
    k, trace = len(covariance), np.trace(covariance)
    squares = np.square(covariance).sum()
    surplus = (n + 1 - 2 / k) * (squares - trace**2 / k)
    wanted = (1 - 2 / k) * squares + trace**2
    return 1.0 if wanted >= surplus else float(wanted / surplus)


def shrunk(covariance: np.ndarray, share: float) -> np.ndarray:
    """Return a covariance (k, k) of which a share is replaced by a multiple of the identity.

    Raises:
        BilinearError: it is zero.
    """
    k, trace = len(covariance), np.trace(covariance)
    if not trace > 0:
        raise BilinearError(
            "the out-of-fold scores do not vary. C may be far too small for the features: leave it "
            "out, to choose it by cross-validation"
        )
    return (1 - share) * covariance + share * trace / k * np.eye(k)
