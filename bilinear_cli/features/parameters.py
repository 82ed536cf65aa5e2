"""What poolings take beside the maps: projections of the channels, and hashes of sketches.

Parameters go by flat names: `projection-144`, float32 (channels, 144); `hash-8192`, int64
(2, channels) from 0 to 8,191, and `sign-8192`, int64 (2, channels) of -1 and 1. A feature file
keeps those of its poolings, and a run's model those of its features.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from bilinear_cli.errors import FeatureFileError, UsageError
from bilinear_cli.features.projection import principal_directions
from bilinear_cli.features.settings import Settings, settings_of_file
from bilinear_cli.features.specs import TRIANGLE, pooling
from bilinear_cli.store import FeatureFile

Parameters = Mapping[str, np.ndarray]
SecondMoment = Callable[[], np.ndarray]

MOST_CHANNELS = 1024  # whose whole triangle is still worth storing
NETWORK = ("backbone", "layer", "weights_sha256")  # settings that decide what a channel is


def make_parameters(
    settings: Settings, channels: int, have: Parameters, second_moment: SecondMoment
) -> dict[str, np.ndarray]:
    """Return what the poolings need of a map of so many channels.

    Args:
        settings: the poolings, the shard, and the seed of the hashes.
        channels: of the map.
        have: parameters that are there already; those that are not needed are left out.
        second_moment: called at most once, if a projection is not there, see `projection.py`.

    Raises:
        UsageError: a pooling does not suit so many channels; or a shard other than the first has
            no projection, which must be the same in all.
    """
    made: dict[str, np.ndarray] = {}
    moment = None
    for spec in settings.poolings:
        _check_channels(spec, channels)
        kind = pooling(spec)
        lacking = [name for name in kind.parameters if name not in made]
        if not lacking or kind.size is None:
            continue
        if have.keys() >= set(lacking):
            made |= {name: have[name] for name in lacking}
        elif kind.layout == TRIANGLE:
            if not settings.shard.startswith("1/"):
                raise UsageError(
                    f"all shards must have the same projection for {spec}: make the first one, "
                    "and give its file to the others as --projection"
                )
            moment = second_moment() if moment is None else moment
            made[f"projection-{kind.size}"] = principal_directions(moment, kind.size)
        else:
            made |= sketch_parameters(channels, kind.size, settings.seed)
    for name, array in made.items():
        there = array.shape[0 if name.startswith("projection") else 1]
        if there != channels:
            raise UsageError(f"{name} is for maps of {there} channels, and these have {channels}")
    return made


def _check_channels(spec: str, channels: int) -> None:
    """Raise a UsageError if a row would be too long, or a projection is none."""
    kind = pooling(spec)
    if kind.layout != TRIANGLE:
        return
    if kind.size is None and channels > MOST_CHANNELS:
        numbers = channels * (channels + 1) // 2
        raise UsageError(
            f"{spec} of {channels:,} channels would store {numbers:,} numbers a photo: take "
            f"--pooling {spec}:144, which projects the channels first, or compact:8192"
        )
    if kind.size and kind.size > channels:
        raise UsageError(f"{spec}: the maps have but {channels} channels")


def sketch_parameters(channels: int, size: int, seed: int) -> dict[str, np.ndarray]:
    """Draw the hashes and signs of a Tensor Sketch, see `pooling.tensor_sketch`."""
    rng = np.random.default_rng([seed, size])
    return {
        f"hash-{size}": rng.integers(0, size, (2, channels)),
        f"sign-{size}": rng.choice(np.array([-1, 1]), (2, channels)),
    }


def read_projection(path: Path, settings: Settings) -> dict[str, np.ndarray]:
    """Return the projections that a feature file, finished or not, keeps.

    Raises:
        FeatureFileError: it cannot be read, has not those that the poolings need, or is of another
            network.
    """
    wanted = {
        name
        for spec in settings.poolings
        for name in pooling(spec).parameters
        if name.startswith("projection")
    }
    with FeatureFile(path, allow_partial=True) as file:
        made = settings_of_file(file)
        for name in NETWORK:
            was, asked = getattr(made, name), getattr(settings, name)
            if was != asked:
                raise FeatureFileError(
                    f"the projection of {path} is of another network: its {name} is {was}, and "
                    f"here it is {asked}"
                )
        lacking = sorted(wanted - file.parameters.keys())
        if lacking or not wanted:
            what = ", ".join(lacking) or "projection to be used: no --pooling takes one"
            raise FeatureFileError(f"{path} has no {what}")
        return {name: file.parameters[name] for name in wanted}


def agreed(a: Parameters, b: Parameters, path: Path) -> Parameters:
    """Return both together.

    Args:
        a, b: parameters by name.
        path: the file that has `b`.

    Raises:
        FeatureFileError: they have different arrays of one name.
    """
    for name in a.keys() & b.keys():
        if not np.array_equal(a[name], b[name]):
            raise FeatureFileError(
                f"{name} of {path} is not that of the other file that is to be used with it"
            )
    return {**a, **b}
