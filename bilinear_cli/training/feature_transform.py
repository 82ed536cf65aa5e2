"""Features of stored rows: a selection of columns, normalised.

Whatever is fitted here (ranks by variance, means, scales) is fitted on the training rows alone.
Rows are taken in blocks of columns or of rows, so that a file never lies in memory as a whole.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from bilinear_cli.errors import UsageError, validate_choice
from bilinear_cli.poolings import triangle
from bilinear_cli.poolings.registry import TRIANGLE, get_pooling
from bilinear_cli.store import FeatureFile

NORMALIZE = ("auto", "none", "standard", "sqrt-l2")
BLOCK_BYTES = 1 << 26
LEAST_NORM = 1e-6  # as in `functions.l2_normalize`

Block = tuple[slice, np.ndarray]  # rows or columns, and their values


@dataclass(frozen=True)
class FeatureTransform:
    """How the stored rows of one pooling become features.

    Attributes:
        spec: the pooling.
        columns: int64, ascending, the stored columns that are taken; None for all.
        n_features: how many those are.
        normalize: `none`; `standard`: minus `mean`, divided by `std`; `sqrt-l2`: signed square
            root, then divided by the row's l2 norm.
        mean: float32 (n_features,), or None.
        std: likewise; a column that does not vary has 1.
        factor: what a row is multiplied by in the end, to weigh several poolings alike.
        kernel: float32 (channels, fewer), of maps: their projection, before they are pooled.
    """

    spec: str
    columns: np.ndarray | None
    n_features: int
    normalize: str
    mean: np.ndarray | None = None
    std: np.ndarray | None = None
    factor: float = 1.0
    kernel: np.ndarray | None = None

    @classmethod
    def fit(
        cls,
        file: FeatureFile,
        spec: str,
        train: np.ndarray,
        normalize: str = "auto",
        top_variance: int | None = None,
    ) -> "FeatureTransform":
        """Fit selection and normalisation on the training rows; maps stay as they are.

        Args:
            file: the features.
            spec: the pooling.
            train: indices of the training rows.
            normalize: one of `NORMALIZE`; `auto` is `standard` for a pooling that is stored as
                it is, `none` for one that is stored normalised.
            top_variance: how many entries of highest variance to keep; see
                `top_variance_columns`.

        Raises:
            UsageError: the pooling has fewer entries than are to be kept.
        """
        if len(file.shapes[spec]) != 2:
            return cls(spec, None, file.shapes[spec][-1], "none")
        columns = top_variance_columns(file, spec, train, top_variance) if top_variance else None
        if normalize == "auto":
            normalize = "none" if get_pooling(spec).normalization else "standard"
        n_features = file.shapes[spec][1] if columns is None else len(columns)
        if normalize != "standard":
            return cls(spec, columns, n_features, normalize)
        moments = [_moments(x) for _, x in _stored(file, spec, train, columns)]
        mean, variance = (np.concatenate(values) for values in zip(*moments, strict=True))
        std = np.sqrt(variance).astype(np.float32)
        std[std == 0] = 1
        return cls(spec, columns, n_features, normalize, mean.astype(np.float32), std)

    def transform(self, x: np.ndarray) -> np.ndarray:
        """Return features, float32 (n, n_features), of rows as they are stored.

        Args:
            x: (n, *row shape); may be overwritten.
        """
        x = x.astype(np.float32, copy=False)
        x = x if self.kernel is None else pool_projected(x, self.kernel)
        x = x if self.columns is None else x[:, self.columns]
        norms = None
        if self.normalize == "sqrt-l2":
            norms = _nonzero_root(np.abs(x).sum(axis=1, dtype=np.float64))
        return self.normalized(x, slice(0, self.n_features), norms)

    def normalized(self, block: np.ndarray, columns: slice, norms: np.ndarray | None) -> np.ndarray:
        """Return taken columns, normalised.

        Args:
            block: float32 (n, columns); may be overwritten.
            columns: which of the taken columns.
            norms: of the rows' square roots, for `sqrt-l2`.
        """
        if self.mean is not None and self.std is not None:
            block -= self.mean[columns]
            block /= self.std[columns]
        if self.normalize == "sqrt-l2" and norms is not None:
            block = np.sign(block) * np.sqrt(np.abs(block)) / norms[:, None]
        if self.factor != 1:
            block *= np.float32(self.factor)
        return block


# Fitting ---------------------------------------------------------------------------------


def fit_transforms(
    file: FeatureFile,
    specs: Sequence[str],
    train: np.ndarray,
    *,
    normalize: str = "auto",
    top_variance: int | None = None,
) -> list[FeatureTransform]:
    """Fit selection and normalisation of poolings, to be taken side by side.

    Args:
        file: the features.
        specs: the poolings.
        train: indices of the training rows.
        normalize: as of `FeatureTransform.fit`.
        top_variance: likewise.
    """
    validate_choice("normalization", normalize, NORMALIZE)
    transforms = [
        FeatureTransform.fit(file, spec, train, normalize, top_variance) for spec in specs
    ]
    return [_equal_norm(file, train, x) for x in transforms] if len(specs) > 1 else transforms


def top_variance_columns(
    file: FeatureFile, spec: str, train: np.ndarray, n_entries: int
) -> np.ndarray:
    """Rank the entries of the whole matrix by their variance and keep the first.

    An off-diagonal number of an upper triangle stands for two entries of the matrix, each of
    half its variance (it is stored times the square root of two).

    Args:
        file: the features.
        spec: the pooling.
        train: the rows over which variances are taken.
        n_entries: how many entries of the matrix to keep, at most.

    Returns:
        int64, ascending: the stored columns to take.

    Raises:
        UsageError: the matrix has fewer entries, or two tie where one is to be kept.
    """
    d = file.shapes[spec][1]
    paired = get_pooling(spec).layout == TRIANGLE
    entries = triangle.multiplicity(triangle.n_channels(d)) if paired else np.ones(d, np.int64)
    if n_entries > entries.sum():
        raise UsageError(f"--top-variance {n_entries} is more than the {entries.sum()} there are")
    variance = np.concatenate([_moments(x)[1] for _, x in _stored(file, spec, train)])
    order = np.argsort(-variance / entries, kind="stable")
    kept = order[np.cumsum(entries[order]) <= n_entries]
    if not len(kept):
        raise UsageError("--top-variance 1 tears apart the two equal entries of a pair: give 2")
    return np.sort(kept)


def _moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the columns' float64 means and variances."""
    return x.mean(axis=0, dtype=np.float64), x.var(axis=0, dtype=np.float64)


def _equal_norm(
    file: FeatureFile, train: np.ndarray, transform: FeatureTransform
) -> FeatureTransform:
    """Return it scaled so that its training rows have a mean norm of one, if not zero."""
    norms = [np.linalg.norm(x, axis=1) for _, x in row_blocks([transform], file, train)]
    return replace(transform, factor=1 / (float(np.concatenate(norms).mean()) or 1.0))


# Reading ---------------------------------------------------------------------------------


def column_blocks(
    transforms: Sequence[FeatureTransform],
    file: FeatureFile,
    indices: np.ndarray,
    mean: np.ndarray | None = None,
) -> Iterator[Block]:
    """Yield features in blocks of columns, float32 (len(indices), columns of the block).

    Args:
        transforms: fitted, of the poolings side by side.
        file: the features.
        indices: of the rows to read.
        mean: float32 (n_features,), subtracted from each row.

    Yields:
        The slice of columns, and their values, which the caller may overwrite.
    """
    start = 0
    for transform in transforms:
        norms = _norms(file, indices, transform) if transform.normalize == "sqrt-l2" else None
        for selected, stored in _stored(file, transform.spec, indices, transform.columns):
            span = slice(start + selected.start, start + selected.stop)
            yield span, _minus(transform.normalized(stored, selected, norms), mean, span)
        start += transform.n_features


def row_blocks(
    transforms: Sequence[FeatureTransform],
    file: FeatureFile,
    indices: np.ndarray,
    mean: np.ndarray | None = None,
) -> Iterator[Block]:
    """Yield features in blocks of rows, float32 (rows of the block, n_features).

    Arguments are those of `column_blocks`.

    Yields:
        The slice of `indices`, and the rows, which the caller may overwrite.
    """
    widest = sum(prod(file.shapes[transform.spec][1:]) for transform in transforms)
    step = max(1, BLOCK_BYTES // (4 * widest))
    streams = [file.batches(transform.spec, indices, step) for transform in transforms]
    for blocks in zip(*streams, strict=True):
        rows = {transform.spec: x for transform, (_, x) in zip(transforms, blocks, strict=True)}
        yield blocks[0][0], _minus(transform_rows(transforms, rows), mean, slice(None))


def array_blocks(x: np.ndarray, indices: np.ndarray) -> Iterator[Block]:
    """Yield rows of an array: all of them at once, or copies of some in blocks."""
    if np.array_equal(indices, np.arange(len(x))):
        yield slice(0, len(x)), x
        return
    step = max(1, BLOCK_BYTES // (4 * x.shape[1]))
    for start in range(0, len(indices), step):
        rows = slice(start, min(start + step, len(indices)))
        yield rows, x[indices[rows]]


def transform_rows(
    transforms: Sequence[FeatureTransform], rows: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Return the features of rows, float32 (n, n_features).

    Args:
        transforms: fitted, of the poolings side by side.
        rows: spec -> stored rows (n, *row shape); they may be overwritten.
    """
    features = [transform.transform(rows[transform.spec]) for transform in transforms]
    return features[0] if len(features) == 1 else np.hstack(features)


def _minus(x: np.ndarray, mean: np.ndarray | None, columns: slice) -> np.ndarray:
    """Return x minus the mean of its columns, if there is a mean; x is overwritten."""
    if mean is not None:
        x -= mean[columns]
    return x


def _stored(
    file: FeatureFile, spec: str, indices: np.ndarray, columns: np.ndarray | None = None
) -> Iterator[Block]:
    """Yield the slice of the selected columns, and their stored values as float32."""
    step = max(1, BLOCK_BYTES // (4 * max(len(indices), 1)))
    for span, x in file.columns(spec, indices, step):
        if columns is None:
            yield span, x
            continue
        first, last = map(int, np.searchsorted(columns, [span.start, span.stop]))
        if first < last:
            yield slice(first, last), x[:, columns[first:last] - span.start]


def _norms(file: FeatureFile, indices: np.ndarray, transform: FeatureTransform) -> np.ndarray:
    """Return the l2 norms of the rows' signed square roots, 1 for a row of zeros."""
    squares = np.zeros(len(indices))
    for _, x in _stored(file, transform.spec, indices, transform.columns):
        squares += np.abs(x).sum(axis=1, dtype=np.float64)
    return _nonzero_root(squares)


def _nonzero_root(squares: np.ndarray) -> np.ndarray:
    """Return float32 square roots, 1 for zero."""
    return np.sqrt(np.where(squares == 0, 1, squares)).astype(np.float32)


def pool_projected(maps: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Return projected maps, bilinearly pooled and normalised, as `conv1x1.py` does in TensorFlow.

    Args:
        maps: float (n, height, width, channels of the maps).
        kernel: float32 (channels of the maps, channels).

    Returns:
        float32 (n, channels * (channels + 1) / 2), see `triangle.py`.
    """
    x = maps.astype(np.float32, copy=False).reshape(len(maps), -1, maps.shape[-1]) @ kernel
    matrices = np.swapaxes(x, 1, 2) @ x
    rows, columns = triangle.indices(kernel.shape[1])
    packed = matrices[:, rows, columns]
    packed = np.sign(packed) * np.sqrt(np.abs(packed))
    packed *= triangle.scale(kernel.shape[1]).astype(np.float32)
    norms = np.linalg.norm(packed, axis=1, keepdims=True)
    return packed / np.maximum(norms, np.float32(LEAST_NORM))
