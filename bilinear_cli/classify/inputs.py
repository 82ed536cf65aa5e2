"""What a classifier sees of stored rows: a selection of columns, normalised.

Whatever is fitted here (ranks by variance, means, scales) is fitted on the training rows alone.
Rows are taken in blocks of columns, so that 131,328 numbers a row never lie in memory at once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isqrt

import numpy as np

from bilinear_cli.errors import UsageError, one_of
from bilinear_cli.features.specs import pooling

NORMALIZE = ("auto", "none", "standard", "sqrt-l2")
BLOCK_BYTES = 1 << 28
Stored = Mapping[str, np.ndarray]  # spec -> (rows, d) as stored, in memory or mapped


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
    """

    spec: str
    columns: np.ndarray | None
    n_features: int
    normalize: str
    mean: np.ndarray | None = None
    std: np.ndarray | None = None
    factor: float = 1.0


def fit_parts(
    stored: Stored,
    train: np.ndarray,
    *,
    normalize: str = "auto",
    top_variance: int | None = None,
) -> list[Part]:
    """Fit selection and normalisation on the training rows.

    Args:
        stored: the poolings to take side by side.
        train: numbers of the training rows.
        normalize: one of `NORMALIZE`; `auto` is `standard` for a pooling that is stored as
            it is, `none` for one that is stored normalised.
        top_variance: how many entries of highest variance to keep; see `top_variance_columns`.

    Raises:
        UsageError: a pooling cannot be trained on, or has fewer entries than are to be kept.
    """
    one_of("normalization", normalize, NORMALIZE)
    parts = []
    for spec, rows in stored.items():
        if rows.ndim != 2:
            raise UsageError(f"{spec} holds maps, not vectors: name another --pooling")
        columns = None
        if top_variance:
            columns = top_variance_columns(rows, train, pooling(spec).layout, top_variance)
        how = normalize
        if how == "auto":
            how = "none" if pooling(spec).normalization else "standard"
        n_features = rows.shape[1] if columns is None else len(columns)
        parts.append(_fit_mean_std(rows, train, Part(spec, columns, n_features, how)))
    if len(parts) == 1:
        return parts
    return [_equal_norm(stored[part.spec], train, part) for part in parts]


def top_variance_columns(
    rows: np.ndarray, train: np.ndarray, layout: str, n_entries: int
) -> np.ndarray:
    """Rank the entries of the whole matrix by their variance and keep the first.

    An off-diagonal number of an upper triangle stands for two entries of the matrix, each of
    half its variance (it is stored times the square root of two).

    Args:
        rows: (n, d) stored.
        train: the rows over which variances are taken.
        layout: of the rows.
        n_entries: how many entries of the matrix to keep, at most.

    Returns:
        int64, ascending: the stored columns to take.

    Raises:
        UsageError: the matrix has fewer entries, or two tie where one is to be kept.
    """
    d = rows.shape[1]
    entries = np.ones(d, np.int64)
    if layout == "upper-triangle":
        first, second = np.triu_indices(isqrt(2 * d))
        entries[first != second] = 2
    if n_entries > entries.sum():
        raise UsageError(f"--top-variance {n_entries} is more than the {entries.sum()} there are")
    variance = np.concatenate([x.var(axis=0, dtype=np.float64) for _, x in _raw(rows, train)])
    order = np.argsort(-variance / entries, kind="stable")
    kept = order[np.cumsum(entries[order]) <= n_entries]
    if not len(kept):
        raise UsageError("--top-variance 1 tears apart the two equal entries of a pair: give 2")
    return np.sort(kept)


def blocks(
    parts: Sequence[Part], stored: Stored, which: np.ndarray
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield what the classifier sees, in blocks of columns.

    Args:
        parts: the fitted poolings, side by side.
        stored: their rows.
        which: the numbers of the rows to take.

    Yields:
        (which columns, float32 (len(which), number of those)).
    """
    start = 0
    for part in parts:
        rows = stored[part.spec]
        norms = _norms(rows, which, part) if part.normalize == "sqrt-l2" else None
        for columns, block in _raw(rows, which, part.columns):
            if part.mean is not None and part.std is not None:
                block -= part.mean[columns]
                block /= part.std[columns]
            if norms is not None:
                block = np.sign(block) * np.sqrt(np.abs(block)) / norms[:, None]
            if part.factor != 1:
                block *= np.float32(part.factor)
            yield slice(start + columns.start, start + columns.stop), block
        start += part.n_features


def _raw(
    rows: np.ndarray, which: np.ndarray, columns: np.ndarray | None = None
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (slice of the taken columns, their stored values as float32)."""
    n_columns = rows.shape[1] if columns is None else len(columns)
    step = max(1, BLOCK_BYTES // (4 * max(len(which), 1)))
    for start in range(0, n_columns, step):
        places = slice(start, min(start + step, n_columns))
        taken = rows[which, places] if columns is None else rows[np.ix_(which, columns[places])]
        yield places, taken.astype(np.float32)


def _fit_mean_std(rows: np.ndarray, train: np.ndarray, part: Part) -> Part:
    if part.normalize != "standard":
        return part
    moments = [
        (x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64))
        for _, x in _raw(rows, train, part.columns)
    ]
    mean, std = (np.concatenate(values).astype(np.float32) for values in zip(*moments, strict=True))
    std[std == 0] = 1
    return Part(part.spec, part.columns, part.n_features, part.normalize, mean, std)


def _norms(rows: np.ndarray, which: np.ndarray, part: Part) -> np.ndarray:
    """Return the l2 norms of the rows' signed square roots, 1 for a row of zeros."""
    squares = np.zeros(len(which))
    for _, block in _raw(rows, which, part.columns):
        squares += np.abs(block).sum(axis=1, dtype=np.float64)
    squares[squares == 0] = 1
    return np.sqrt(squares).astype(np.float32)


def _equal_norm(rows: np.ndarray, train: np.ndarray, part: Part) -> Part:
    """Return the part scaled so that its training rows have a mean norm of one, if not zero."""
    squares = np.zeros(len(train))
    for _, block in blocks([part], {part.spec: rows}, train):
        squares += np.einsum("ij,ij->i", block, block)
    factor = 1 / (float(np.sqrt(squares).mean()) or 1.0)
    return Part(
        part.spec, part.columns, part.n_features, part.normalize, part.mean, part.std, factor
    )
