"""What a classifier sees of stored rows: a selection of columns, normalised.

Whatever is fitted here (ranks by variance, means, scales) is fitted on the training rows alone.
Rows are taken in blocks of columns or of rows, so that a file never lies in memory as a whole.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from bilinear_cli.errors import UsageError, one_of
from bilinear_cli.poolings import triangle
from bilinear_cli.poolings.registry import TRIANGLE, pooling
from bilinear_cli.store import FeatureFile
from bilinear_cli.training.conv1x1 import pool_projected

NORMALIZE = ("auto", "none", "standard", "sqrt-l2")
BLOCK_BYTES = 1 << 26


@dataclass(frozen=True)
class Part:
    """One pooling, as a classifier sees it.

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


# Fitting ---------------------------------------------------------------------------------


def fit_parts(
    file: FeatureFile,
    specs: Sequence[str],
    train: np.ndarray,
    *,
    normalize: str = "auto",
    top_variance: int | None = None,
) -> list[Part]:
    """Fit selection and normalisation on the training rows.

    Args:
        file: the features.
        specs: the poolings to take side by side.
        train: numbers of the training rows.
        normalize: one of `NORMALIZE`; `auto` is `standard` for a pooling that is stored as
            it is, `none` for one that is stored normalised.
        top_variance: how many entries of highest variance to keep; see `top_variance_columns`.

    Raises:
        UsageError: a pooling cannot be trained on, or has fewer entries than are to be kept.
    """
    one_of("normalization", normalize, NORMALIZE)
    parts = []
    for spec in specs:
        if len(file.shapes[spec]) != 2:
            raise UsageError(
                f"{spec} holds maps, not vectors: name another --pooling, or --classifier conv1x1"
            )
        columns = top_variance_columns(file, spec, train, top_variance) if top_variance else None
        how = normalize
        if how == "auto":
            how = "none" if pooling(spec).normalization else "standard"
        n_features = file.shapes[spec][1] if columns is None else len(columns)
        parts.append(_fit_mean_std(file, train, Part(spec, columns, n_features, how)))
    return [_equal_norm(file, train, part) for part in parts] if len(parts) > 1 else parts


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
    paired = pooling(spec).layout == TRIANGLE
    entries = triangle.counts(triangle.channels_of(d)) if paired else np.ones(d, np.int64)
    if n_entries > entries.sum():
        raise UsageError(f"--top-variance {n_entries} is more than the {entries.sum()} there are")
    variance = np.concatenate([_moments(x)[1] for _, x in _stored(file, spec, train)])
    order = np.argsort(-variance / entries, kind="stable")
    kept = order[np.cumsum(entries[order]) <= n_entries]
    if not len(kept):
        raise UsageError("--top-variance 1 tears apart the two equal entries of a pair: give 2")
    return np.sort(kept)


def _fit_mean_std(file: FeatureFile, train: np.ndarray, part: Part) -> Part:
    if part.normalize != "standard":
        return part
    moments = [_moments(x) for _, x in _stored(file, part.spec, train, part.columns)]
    mean, variance = (np.concatenate(values) for values in zip(*moments, strict=True))
    std = np.sqrt(variance).astype(np.float32)
    std[std == 0] = 1
    return replace(part, mean=mean.astype(np.float32), std=std)


def _moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the columns' float64 means and variances."""
    return x.mean(axis=0, dtype=np.float64), x.var(axis=0, dtype=np.float64)


def _equal_norm(file: FeatureFile, train: np.ndarray, part: Part) -> Part:
    """Return the part scaled so that its training rows have a mean norm of one, if not zero."""
    norms = [np.linalg.norm(x, axis=1) for _, x in batches([part], file, train)]
    return replace(part, factor=1 / (float(np.concatenate(norms).mean()) or 1.0))


# Reading ---------------------------------------------------------------------------------


def columns(
    parts: Sequence[Part], file: FeatureFile, which: np.ndarray
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield what the classifier sees, in blocks of columns.

    Args:
        parts: the fitted poolings, side by side.
        file: where they are.
        which: the numbers of the rows to take.

    Yields:
        (which columns, float32 (len(which), number of those)); the reader may overwrite it.
    """
    start = 0
    for part in parts:
        norms = _norms(file, which, part) if part.normalize == "sqrt-l2" else None
        for places, block in _stored(file, part.spec, which, part.columns):
            seen = _normalized(part, block, places, norms)
            yield slice(start + places.start, start + places.stop), seen
        start += part.n_features


def batches(
    parts: Sequence[Part], file: FeatureFile, which: np.ndarray
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield what the classifier sees, in blocks of rows.

    Args:
        parts: the fitted poolings, side by side.
        file: where they are.
        which: the numbers of the rows to take.

    Yields:
        (which of them, float32 (their number, numbers a row)); the reader may overwrite it.
    """
    widest = sum(prod(file.shapes[part.spec][1:]) for part in parts)
    step = max(1, BLOCK_BYTES // (4 * widest))
    streams = [file.batches(part.spec, which, step) for part in parts]
    for blocks in zip(*streams, strict=True):
        rows = {part.spec: block for part, (_, block) in zip(parts, blocks, strict=True)}
        yield blocks[0][0], see(parts, rows)


def see(parts: Sequence[Part], rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return what the classifier sees of whole rows, float32 (n, numbers a row).

    Args:
        parts: the fitted poolings, side by side.
        rows: spec -> (n, *row shape) as stored; may be overwritten.
    """
    seen = []
    for part in parts:
        x = rows[part.spec].astype(np.float32, copy=False)
        x = x if part.kernel is None else pool_projected(x, part.kernel)
        x = x if part.columns is None else x[:, part.columns]
        norms = None
        if part.normalize == "sqrt-l2":
            norms = _nonzero(np.abs(x).sum(axis=1, dtype=np.float64))
        seen.append(_normalized(part, x, slice(0, part.n_features), norms))
    return seen[0] if len(seen) == 1 else np.hstack(seen)


def _normalized(
    part: Part, block: np.ndarray, places: slice, norms: np.ndarray | None
) -> np.ndarray:
    """Normalise taken columns; `norms` are those of the rows' square roots, for `sqrt-l2`."""
    if part.mean is not None and part.std is not None:
        block -= part.mean[places]
        block /= part.std[places]
    if part.normalize == "sqrt-l2" and norms is not None:
        block = np.sign(block) * np.sqrt(np.abs(block)) / norms[:, None]
    if part.factor != 1:
        block *= np.float32(part.factor)
    return block


def _stored(
    file: FeatureFile, spec: str, which: np.ndarray, taken: np.ndarray | None = None
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (slice of the taken columns, their stored values as float32)."""
    step = max(1, BLOCK_BYTES // (4 * max(len(which), 1)))
    for places, block in file.columns(spec, which, step):
        if taken is None:
            yield places, block
        else:
            first, last = np.searchsorted(taken, [places.start, places.stop])
            if first == last:
                continue
            yield slice(int(first), int(last)), block[:, taken[first:last] - places.start]


def _norms(file: FeatureFile, which: np.ndarray, part: Part) -> np.ndarray:
    """Return the l2 norms of the rows' signed square roots, 1 for a row of zeros."""
    squares = np.zeros(len(which))
    for _, block in _stored(file, part.spec, which, part.columns):
        squares += np.abs(block).sum(axis=1, dtype=np.float64)
    return _nonzero(squares)


def _nonzero(squares: np.ndarray) -> np.ndarray:
    """Return float32 roots, 1 for zero."""
    return np.sqrt(np.where(squares == 0, 1, squares)).astype(np.float32)
