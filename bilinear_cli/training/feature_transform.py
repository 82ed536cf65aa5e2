"""Features of stored rows: a selection of columns, normalised.

All that is fitted here (ranks by variance, means, scales) is fitted on the training rows alone.
Rows are read in blocks of columns or of rows, so a file is never in memory as a whole.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

import numpy as np

from bilinear_cli.errors import UsageError
from bilinear_cli.poolings import triangle
from bilinear_cli.poolings.registry import TRIANGLE, get_pooling
from bilinear_cli.progress import Progress
from bilinear_cli.store import FeatureFile
from bilinear_cli.training.options import NORMALIZE
from bilinear_cli.training.projected_pooling import pool_projected
from bilinear_cli.validation import validate_choice

BLOCK_BYTES = 1 << 26

Block = tuple[slice, np.ndarray]  # rows or columns, and their values, float32


@dataclass(frozen=True)
class FeatureTransform:
    """How the stored rows of one pooling become features.

    The normalisation is `none`; `standard`: minus `mean`, divided by `std`; or `sqrt-l2`: signed
    square root, then divided by the l2 norm of the row.
    """

    spec: str  # the pooling
    columns: np.ndarray | None  # int64, ascending, the selected stored columns; None for all
    n_features: int  # number of selected columns
    normalize: str
    mean: np.ndarray | None = None  # float32 (n_features,)
    std: np.ndarray | None = None  # float32 (n_features,), 1 for a constant column
    factor: float = 1.0  # multiplies the row in the end, so that poolings have equal weight
    kernel: np.ndarray | None = None  # float32 (maps' channels, channels), to project maps first

    @classmethod
    def fit(
        cls, file: FeatureFile, spec: str, indices: np.ndarray, normalize: str, n_kept: int | None
    ) -> "FeatureTransform":
        """Fit selection and normalisation on the training rows; see `fit_feature_transforms`."""
        normalize = resolve_normalize(spec, normalize)
        if len(file.shapes[spec]) != 2:  # maps stay as they are
            return cls(spec, None, file.shapes[spec][-1], normalize)
        columns = top_variance_columns(file, spec, indices, n_kept) if n_kept else None
        n_features = file.shapes[spec][1] if columns is None else len(columns)
        if normalize != "standard":
            return cls(spec, columns, n_features, normalize)
        mean, variance = _moments(_stored(file, spec, indices, columns))
        std = np.sqrt(variance).astype(np.float32)
        std[std == 0] = 1
        return cls(spec, columns, n_features, normalize, mean.astype(np.float32), std)

    def transform(self, x: np.ndarray) -> np.ndarray:
        """Return features, float32 (n, n_features), of stored rows (n, *row shape).

        The rows may be overwritten.
        """
        x = x.astype(np.float32, copy=False)
        x = x if self.kernel is None else pool_projected(x, self.kernel).features
        x = x if self.columns is None else x[:, self.columns]
        return self.normalized(x, slice(0, self.n_features), self.norms([x]))

    def fits(self, length: int) -> bool:
        """Return whether it transforms stored rows of this length; of maps, with these channels."""
        if self.kernel is not None:
            return length == len(self.kernel)
        return length == self.n_features if self.columns is None else length > self.columns[-1]

    def norms(self, blocks: Iterable[np.ndarray]) -> np.ndarray | None:
        """Return the norms that `sqrt-l2` divides by, float32 (n,), 1 for a row of zeros; or None.

        The blocks are those of the selected columns.
        """
        if self.normalize != "sqrt-l2":
            return None
        squares = np.asarray(sum(np.abs(x).sum(axis=1, dtype=np.float64) for x in blocks))
        return np.sqrt(np.where(squares == 0, 1, squares)).astype(np.float32)

    def normalized(self, x: np.ndarray, columns: slice, norms: np.ndarray | None) -> np.ndarray:
        """Return x, some of the selected columns, normalised; x may be overwritten."""
        if self.mean is not None and self.std is not None:
            x -= self.mean[columns]
            x /= self.std[columns]
        if norms is not None:
            x = np.sign(x) * np.sqrt(np.abs(x)) / norms[:, None]
        if self.factor != 1:
            x *= np.float32(self.factor)
        return x


# Fitting ---------------------------------------------------------------------------------


def resolve_normalize(spec: str, normalize: str) -> str:
    """Return the normalisation that one of `NORMALIZE` means for a pooling; maps have none."""
    pooling = get_pooling(spec)
    if pooling.ndim > 1:
        return "none"
    automatic = "none" if pooling.normalization else "standard"
    return automatic if normalize == "auto" else normalize


def fit_feature_transforms(
    file: FeatureFile,
    specs: Sequence[str],
    indices: np.ndarray,
    *,
    normalize: str = "auto",
    top_variance: int | None = None,
) -> list[FeatureTransform]:
    """Fit selection and normalisation of poolings, whose features stand side by side.

    Args:
        specs: the poolings. Several are scaled to a mean norm of one.
        indices: indices of the training rows.
        normalize: one of `NORMALIZE`; `auto` is `none` for a pooling that is stored normalised,
            and `standard` for the others.
        top_variance: number of matrix entries to keep; see `top_variance_columns`.

    Raises:
        UsageError: the normalisation is unknown, or a pooling has too few entries.
    """
    validate_choice("normalization", normalize, NORMALIZE)
    transforms = [FeatureTransform.fit(file, x, indices, normalize, top_variance) for x in specs]
    if len(specs) == 1:
        return transforms
    scaled = []
    for transform in transforms:
        norms = [np.linalg.norm(x, axis=1) for _, x in Features(file, [transform]).rows(indices)]
        scaled.append(replace(transform, factor=1 / (float(np.concatenate(norms).mean()) or 1.0)))
    return scaled


def top_variance_columns(
    file: FeatureFile, spec: str, indices: np.ndarray, n_entries: int
) -> np.ndarray:
    """Return the stored columns of at most n matrix entries of highest variance, int64, ascending.

    An off-diagonal number of an upper triangle stands for two entries of the matrix. Each has half
    its variance, because the number is stored times the square root of two.

    Raises:
        UsageError: the matrix has fewer entries, or the entry of highest variance stands twice in
            the matrix and `n_entries` is 1.
    """
    d = file.shapes[spec][1]
    paired = get_pooling(spec).layout == TRIANGLE
    entries = triangle.multiplicity(triangle.n_channels(d)) if paired else np.ones(d, np.int64)
    if n_entries > entries.sum():
        raise UsageError(
            f"--top-variance {n_entries} is too large: {spec} has {entries.sum()} entries"
        )
    _, variance = _moments(_stored(file, spec, indices))
    order = np.argsort(-variance / entries, kind="stable")
    columns = order[np.cumsum(entries[order]) <= n_entries]
    if not len(columns):
        raise UsageError(
            "--top-variance 1 is too small: the entry of highest variance stands twice in the "
            "symmetric matrix. Use --top-variance 2"
        )
    return np.sort(columns)


def _moments(columns: Iterable[Block]) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the variance of each column, float64."""
    moments = [(x.mean(axis=0, dtype=float), x.var(axis=0, dtype=float)) for _, x in columns]
    mean, variance = (np.concatenate(values) for values in zip(*moments, strict=True))
    return mean, variance


@dataclass(frozen=True)
class Features:
    """Features of rows of a file: poolings side by side, minus `mean` if it is given."""

    file: FeatureFile
    transforms: Sequence[FeatureTransform]
    mean: np.ndarray | None = None
    dtype: ClassVar[np.dtype] = np.dtype(np.float32)

    @property
    def n_features(self) -> int:
        """Number of features."""
        return sum(transform.n_features for transform in self.transforms)

    def columns(self, indices: np.ndarray) -> Iterator[Block]:
        """Yield rows of these indices in blocks of columns, which the caller may overwrite."""
        start = 0
        for transform in self.transforms:
            selection = (self.file, transform.spec, indices, transform.columns)
            norms = transform.norms(x for _, x in _stored(*selection))
            for selected, x in _stored(*selection):
                span = slice(start + selected.start, start + selected.stop)
                x = transform.normalized(x, selected, norms)
                yield span, x if self.mean is None else np.subtract(x, self.mean[span], out=x)
            start += transform.n_features

    def rows(self, indices: np.ndarray) -> Iterator[Block]:
        """Yield rows of these indices in blocks of rows, which the caller may overwrite."""
        widest = sum(prod(self.file.shapes[transform.spec][1:]) for transform in self.transforms)
        step = max(1, BLOCK_BYTES // (4 * widest))
        specs = [transform.spec for transform in self.transforms]
        for blocks in zip(*(self.file.batches(x, indices, step) for x in specs), strict=True):
            spans, stored = zip(*blocks, strict=True)
            x = transform_rows(self.transforms, dict(zip(specs, stored, strict=True)))
            yield spans[0], x if self.mean is None else np.subtract(x, self.mean, out=x)


def with_progress(
    blocks: Iterable[Block], progress: Progress | None, total: int, start: int = 0
) -> Iterator[Block]:
    """Yield blocks; after each, call `progress` with (start + rows or columns done, total)."""
    for span, x in blocks:
        yield span, x
        if progress:
            progress(start + span.stop, total)


def transform_rows(
    transforms: Sequence[FeatureTransform], rows: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Return the features of stored rows, float32 (n, n_features), poolings side by side.

    The rows, spec -> (n, *row shape), may be overwritten.
    """
    features = [transform.transform(rows[transform.spec]) for transform in transforms]
    return features[0] if len(features) == 1 else np.hstack(features)


def _stored(
    file: FeatureFile, spec: str, indices: np.ndarray, columns: np.ndarray | None = None
) -> Iterator[Block]:
    """Yield the slice of the selected columns, and their stored values as float32."""
    step = max(1, BLOCK_BYTES // (4 * max(len(indices), 1)))
    for span, x in file.column_blocks(spec, indices, step):
        if columns is None:
            yield span, x
            continue
        first, last = map(int, np.searchsorted(columns, [span.start, span.stop]))
        if first < last:
            yield slice(first, last), x[:, columns[first:last] - span.start]
