"""What poolings take beside the maps: projections of the channels, and hashes of sketches.

Parameters go by flat names: `projection-144`, float32 (channels, 144), and for all projections
together `fitted-on`, S64 (n,), the SHA-256 of the training photos that they were fitted on;
`hash-8192`, int64 (2, channels) from 0 to 8,191, and `sign-8192`, int64 (2, channels) of -1 and 1.
A feature file keeps those of its poolings, and a run's model those of its features.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from bilinear_cli.errors import BilinearError, FeatureFileError, UsageError
from bilinear_cli.poolings.projection import principal_directions
from bilinear_cli.poolings.registry import get_pooling, parameter_channels
from bilinear_cli.poolings.sizes import FITTED_ON, PROJECTION, SKETCH
from bilinear_cli.recipe import Recipe

Parameters = Mapping[str, np.ndarray]
Sample = Callable[[], tuple[np.ndarray, Sequence[str]]]

MOST_NUMBERS = 1024 * 1025 // 2  # in a row: the triangle of 1,024 channels, a megabyte a photo


def make_parameters(
    recipe: Recipe, channels: int, have: Parameters, sample: Sample
) -> dict[str, np.ndarray]:
    """Return what the poolings need of a map of so many channels.

    Args:
        recipe: the poolings, the shard, and the seed of the hashes.
        channels: of the map.
        have: parameters that are there already; those that are not needed are left out.
        sample: called at most once, if a projection is not there; returns the second moment of
            maps, see `projection.py`, and the SHA-256 of the photos that they are of.

    Raises:
        BilinearError: parameters that are there are for another number of channels.
        UsageError: a pooling does not suit so many channels; or a shard other than the first has
            no projection, which must be the same in all.
    """
    parameters: dict[str, np.ndarray] = {}
    moment = None
    for spec in recipe.poolings:
        _check_size(spec, channels)
        kind = get_pooling(spec)
        if not (kind.sized and kind.size) or kind.parameters[0] in parameters:
            continue
        if have.keys() >= set(kind.parameters):
            new = {name: have[name] for name in kind.parameters}
        elif kind.sized.draw:
            new = kind.sized.draw(channels, kind.size, recipe.seed)
        else:
            if not recipe.shard.startswith("1/"):
                raise UsageError(
                    f"all shards must have the same projection for {spec}: make the first one, "
                    "and give its file to the others as --projection"
                )
            if moment is None:
                moment, photos = sample()
            directions = principal_directions(moment, kind.size)
            new = {kind.parameters[0]: directions, FITTED_ON: np.array(photos, "S64")}
        parameters = union_parameters(parameters, new)
    check_channels(parameters, channels)
    return parameters


def needs_projection_fit(poolings: Sequence[str], have: Parameters) -> bool:
    """Say whether a projection that the poolings take has still to be fitted."""
    kinds = [get_pooling(spec) for spec in poolings]
    return any(kind.is_projected and not have.keys() >= set(kind.parameters) for kind in kinds)


def _check_size(spec: str, channels: int) -> None:
    """Raise a UsageError if a row would be too long, or a projection is none."""
    kind = get_pooling(spec)
    if kind.is_projected and kind.size and kind.size > channels:
        raise UsageError(f"{spec}: the maps have but {channels} channels")
    numbers = kind.row_length(channels)
    if numbers > MOST_NUMBERS:
        projects = f"{kind.method}:{PROJECTION.example}, which projects first, or "
        raise UsageError(
            f"{spec} of {channels:,} channels would store {numbers:,} numbers a photo: take "
            f"--pooling {projects if kind.sized is PROJECTION else ''}compact:{SKETCH.example}"
        )


def check_channels(parameters: Parameters, channels: int) -> None:
    """Raise a BilinearError unless all are for maps of so many channels."""
    for name, array in parameters.items():
        there = parameter_channels(name, array)
        if there not in (channels, None):
            raise BilinearError(
                f"{name} is for maps of {there} channels, and these have {channels}"
            )


def check_not_fitted_on_test(parameters: Parameters, test_sha256: np.ndarray, advice: str) -> None:
    """Raise a BilinearError if projections were fitted on photos that are now to be tested on."""
    leaked = np.intersect1d(
        parameters.get(FITTED_ON, np.array([], "S64")), test_sha256.astype("S64")
    )
    if len(leaked):
        raise BilinearError(
            f"a projection of channels was fitted on {len(leaked)} of the photos that are now test "
            f"photos: {advice}"
        )


def union_parameters(a: Parameters, b: Parameters) -> dict[str, np.ndarray]:
    """Return the parameters of both; of one name, those of `b`."""
    fitted_on = [x[FITTED_ON] for x in (a, b) if FITTED_ON in x]
    return {**a, **b} | ({FITTED_ON: np.unique(np.concatenate(fitted_on))} if fitted_on else {})


def merge_parameters(a: Parameters, b: Parameters, path: Path) -> Parameters:
    """Return both together.

    Args:
        a, b: parameters by name.
        path: the file that has `b`.

    Raises:
        FeatureFileError: they have different arrays of one name.
    """
    for name in (a.keys() & b.keys()) - {FITTED_ON}:
        if not np.array_equal(a[name], b[name]):
            raise FeatureFileError(
                f"{name} of {path} is not that of the other file that is to be used with it"
            )
    return union_parameters(a, b)
