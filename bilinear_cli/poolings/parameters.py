"""What poolings take beside the maps: projections of the channels, and hashes of sketches.

The arrays have flat names: `projection-144`, float32 (channels, 144), and for all projections
together `fitted-on`, S64 (n,), the SHA-256 of the training photos that they were fitted on;
`hash-8192`, int64 (2, channels) from 0 to 8,191, and `sign-8192`, int64 (2, channels) of -1 and 1.
A feature file keeps those of its poolings, and a run's model those of its features.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from bilinear_cli.errors import BadPhotoError, BilinearError, FeatureFileError, UsageError
from bilinear_cli.poolings import registry
from bilinear_cli.poolings.parameter_kinds import parameter_channels
from bilinear_cli.poolings.registry import FITTED_ON, get_pooling
from bilinear_cli.recipe import Recipe

Parameters = Mapping[str, np.ndarray]
FitSecondMoment = Callable[[], tuple[np.ndarray, Sequence[str]]]

MAX_ROW_LENGTH = 1024 * 1025 // 2  # the triangle of 1,024 channels, a megabyte per photo
MAX_ITERATIONS = 60  # steps of varimax


def make_parameters(
    recipe: Recipe, channels: int, existing: Parameters, fit_second_moment: FitSecondMoment
) -> dict[str, np.ndarray]:
    """Return what the poolings need for maps with this number of channels.

    Args:
        recipe: the poolings, the shard, and the seed of the hashes.
        existing: arrays by name; those that no pooling needs are left out.
        fit_second_moment: called at most once, if a projection must be fitted. It returns
            the second moment of maps, see `second_moment`, and the SHA-256 of their photos.

    Raises:
        BilinearError: existing parameters are for another number of channels.
        UsageError: a pooling does not suit this number of channels; or a shard other than the first
            has no projection, which must be the same in all shards.
    """
    parameters: dict[str, np.ndarray] = {}
    moment = None
    for spec in recipe.specs:
        _check_size(spec, channels)
        pooling = get_pooling(spec)
        size, names = pooling.size, pooling.parameter_names
        if not (size and names) or names[0] in parameters:
            continue
        if existing.keys() >= {*names}:
            new = {name: existing[name] for name in names}
        elif not pooling.is_projected:
            new = sketch_parameters(channels, size, recipe.seed)
        else:
            if not recipe.shard.startswith("1/"):
                raise UsageError(
                    f"all shards must have the same projection for {spec}. Extract the first shard "
                    "first, and give its file to the others as --projection."
                )
            if moment is None:
                moment, photo_sha256 = fit_second_moment()
            directions = principal_directions(moment, size)
            new = {names[0]: directions, FITTED_ON: np.array(photo_sha256, "S64")}
        parameters = _union(parameters, new)
    check_channels(parameters, channels)
    return parameters


def sketch_parameters(channels: int, size: int, seed: int) -> dict[str, np.ndarray]:
    """Draw the hashes and signs of a Tensor Sketch, see `functions.tensor_sketch`."""
    rng = np.random.default_rng([seed, size])
    return {
        f"hash-{size}": rng.integers(0, size, (2, channels)),
        f"sign-{size}": rng.choice(np.array([-1, 1]), (2, channels)),
    }


def needs_projection_fit(specs: Sequence[str], existing: Parameters) -> bool:
    """Return whether the poolings take a projection that is not among the existing parameters."""
    projected = [pooling for pooling in map(get_pooling, specs) if pooling.is_projected]
    return any(not existing.keys() >= {*pooling.parameter_names} for pooling in projected)


def fits(spec: str, channels: int) -> bool:
    """Return whether a pooling suits maps with this number of channels."""
    try:
        _check_size(spec, channels)
    except UsageError:
        return False
    return True


def _check_size(spec: str, channels: int) -> None:
    """Raise a UsageError if a row would be too long, or the projection would add channels."""
    pooling = get_pooling(spec)
    if pooling.is_projected and pooling.size and pooling.size > channels:
        raise UsageError(
            f"{spec}: the maps have only {channels} channels. Use at most this number after the "
            "colon."
        )
    length = pooling.row_length(channels)
    if length > MAX_ROW_LENGTH:
        projected = f"{pooling.method}:{registry.PROJECTION.example} or "
        raise UsageError(
            f"{spec} would store {length:,} numbers for each photo, from {channels:,} channels. "
            f"Use --pooling {projected if pooling.size_meaning is registry.PROJECTION else ''}"
            f"compact:{registry.SKETCH.example}."
        )


def check_channels(parameters: Parameters, channels: int) -> None:
    """Raise a BilinearError unless all parameters are for maps with this number of channels."""
    for name, array in parameters.items():
        expected = parameter_channels(name, array)
        if expected not in (channels, None):
            raise BilinearError(
                f"{name} is for maps with {expected} channels, but these maps have {channels}"
            )


def check_not_fitted_on_test(parameters: Parameters, test_sha256: np.ndarray, advice: str) -> None:
    """Raise a BilinearError if a projection was fitted on photos that are now test photos."""
    fitted_on = parameters.get(FITTED_ON, np.array([], "S64"))
    leaked = np.intersect1d(fitted_on, test_sha256.astype("S64"))
    if len(leaked):
        raise BilinearError(
            f"the projection of channels was fitted on {len(leaked)} photos that are now test "
            f"photos, so the test accuracy would be too high: {advice}"
        )


def _union(a: Parameters, b: Parameters) -> dict[str, np.ndarray]:
    """Return the parameters of both; where both have a name, the array of `b`."""
    fitted_on = [x[FITTED_ON] for x in (a, b) if FITTED_ON in x]
    return {**a, **b} | ({FITTED_ON: np.unique(np.concatenate(fitted_on))} if fitted_on else {})


def merge_parameters(a: Parameters, b: Parameters, path: Path) -> Parameters:
    """Return the parameters of both.

    Raises:
        FeatureFileError: both have a name, with different arrays; `path` is the file of `b`.
    """
    for name in (a.keys() & b.keys()) - {FITTED_ON}:
        if not np.array_equal(a[name], b[name]):
            raise FeatureFileError(
                f"{name} of {path} differs from the {name} of another file of this command. Give "
                "only one of --reuse and --projection, or use --overwrite."
            )
    return _union(a, b)


def sample_indices(train_indices: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Return n random training indices in ascending order; raise a UsageError if there are none."""
    if not len(train_indices):
        raise UsageError(
            "a projection needs training photos, and there are none. Give a feature file that has "
            "the projection as --projection."
        )
    return np.sort(np.random.default_rng(seed).permutation(train_indices)[:n])


@np.errstate(over="ignore", invalid="ignore")  # values that are not finite are an error below
def second_moment(batches: Iterable[np.ndarray]) -> np.ndarray:
    """Return the mean of x xᵀ over all locations x, float64 (channels, channels).

    A batch is of float16 or float32 maps (batch, height, width, channels).

    Raises:
        BilinearError: there are no maps, or some values are not finite.
    """
    moment, n = np.zeros(()), 0
    for maps in batches:
        x = maps.astype(np.float32, copy=False).reshape(-1, maps.shape[-1])
        moment, n = moment + (x.T @ x).astype(np.float64), n + len(x)
    if not n:
        raise BadPhotoError("cannot read any of the photos that a projection is fitted on")
    if not np.isfinite(moment).all():
        raise BilinearError(
            "maps have values beyond the range of float16. If you used --precision float16, use "
            "float32."
        )
    return moment / n


def principal_directions(second_moment: np.ndarray, channels: int) -> np.ndarray:
    """Return the first principal directions of maps, rotated, float32 (maps' channels, channels).

    They are those of the second moment, not of the covariance, because the bilinear feature
    contains the mean. One scale makes the mean square of the projected channels one.

    `second_moment` is float (maps' channels, maps' channels), the mean of x xᵀ over locations x.
    `channels` is the number of directions, at most the maps' channels.
    """
    values, vectors = np.linalg.eigh(second_moment)
    scale = 1 / np.sqrt(values[-channels:].mean() or 1)
    return (varimax(vectors[:, ::-1][:, :channels]) * scale).astype(np.float32)


def varimax(directions: np.ndarray) -> np.ndarray:
    """Rotate orthonormal columns (C, channels) within their span, each to few large elements.

    Pooling takes the square root of each element, so the basis matters: directions near to single
    channels, which are never negative after a ReLU, were two points better than the principal ones
    on held-out training photos.

    Source: Kaiser, "The varimax criterion for analytic rotation in factor analysis", 1958.
    """
    rotation, previous = np.eye(directions.shape[1]), 0.0
    for _ in range(MAX_ITERATIONS):
        x = directions @ rotation
        u, s, vt = np.linalg.svd(directions.T @ (x**3 - x * np.square(x).mean(axis=0)))
        rotation = u @ vt
        if s.sum() < previous * (1 + 1e-5):
            break
        previous = s.sum()
    return directions @ rotation
