"""How `extract` runs: over stored maps, over photos in this process, or on a cluster's workers."""

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bilinear_cli.cli.base import bar
from bilinear_cli.cluster.load import load_dask
from bilinear_cli.errors import UsageError
from bilinear_cli.networks.load import load_network, load_weights
from bilinear_cli.networks.quiet import load_tensorflow

if TYPE_CHECKING:
    from bilinear_cli.networks.weights import Weights
    from bilinear_cli.photos.dataset import Dataset
    from bilinear_cli.poolings.parameters import Parameters
    from bilinear_cli.recipe import Settings

log = logging.getLogger(__name__)


def pool_maps(
    maps: Path,
    specs: tuple[str, ...],
    output: Path | None,
    command: list[str],
    overwrite: bool,
    given: dict[str, Any],
) -> Path:
    """Pool stored maps, as `extract --maps` does; return the file."""
    load_tensorflow()
    from bilinear_cli.extraction.from_maps import pool_maps as run

    output = output or Path("features") / f"{maps.stem}-{'-'.join(specs).replace(':', '-')}.h5"
    with bar("pooling", "row") as progress:
        run(
            maps,
            specs,
            output,
            seed=given["seed"],
            projection=given["projection"],
            attributes={"command": json.dumps(command)},
            overwrite=overwrite,
            progress=progress,
        )
    return output


def run_network(
    specs: tuple[str, ...],
    output: Path | None,
    command: list[str],
    overwrite: bool,
    given: dict[str, Any],
) -> Path:
    """Run the network over photos in this process, as `extract` does; return the file."""
    from bilinear_cli.extraction.extract import extract as run
    from bilinear_cli.extraction.stored import stored_settings

    asked = _asked(specs, output, overwrite, given)
    stored = stored_settings(None if overwrite else asked.output, given["reuse"])
    settings = _on_this_machine(asked.settings, stored)
    if settings.shard != "1/1":
        same = f"--batch-size {settings.batch_size} --precision {settings.precision}"
        log.info("all shards must have the same, on whatever machine: %s", same)
    with bar("extracting", "photo") as progress:
        run(
            asked.dataset,
            settings,
            asked.output,
            lambda: load_network(asked.weights.tensors, settings),
            reuse=given["reuse"],
            parameters=_projection(given, settings),
            attributes=asked.record(command, given),
            overwrite=overwrite,
            skip_bad=given["skip_bad"],
            progress=progress,
        )
    return asked.output


def run_on_workers(
    specs: tuple[str, ...],
    output: Path | None,
    command: list[str],
    overwrite: bool,
    given: dict[str, Any],
) -> Path:
    """Share the photos among workers, as `extract --scheduler` does; return file or folder."""
    if given["shard"] != "1/1":
        raise UsageError("--scheduler cuts the set into shards by itself: leave out --shard")
    load_dask()
    from bilinear_cli.cluster.extract import extract_shards, merge_shards
    from bilinear_cli.cluster.folder import shards_folder
    from bilinear_cli.cluster.premises import Network

    asked = _asked(specs, output, overwrite, given)
    source = given["weights"]
    if Path(source).is_file():
        source = str(Path(source).resolve())
    with bar("extracting", "photo") as progress:
        shards = extract_shards(
            given["scheduler"],
            asked.dataset,
            asked.settings,
            asked.output,
            Network(asked.settings.backbone, source),
            reuse=given["reuse"],
            parameters=_projection(given, asked.settings),
            attributes=asked.record(command, given),
            overwrite=overwrite,
            skip_bad=given["skip_bad"],
            progress=progress,
        )
    if shards is None:
        return asked.output
    if given["no_merge"]:
        return shards_folder(asked.output)
    with bar("merging", "row") as progress:
        merge_shards(shards, asked.output, progress)
    return asked.output


@dataclass(frozen=True)
class Asked:
    """What the options ask for.

    Attributes:
        dataset: the photos.
        weights: of the network.
        settings: with a precision `auto` and a batch size 0 where they are left open.
        output: the file to write.
    """

    dataset: "Dataset"
    weights: "Weights"
    settings: "Settings"
    output: Path

    def record(self, command: list[str], given: dict[str, Any]) -> dict[str, Any]:
        """Return root attributes that keep a record."""
        return {
            "command": json.dumps(command),
            "limit": given["limit"] or 0,
            "weights_differing": " ".join(self.weights.differing),
        }


def _asked(
    specs: tuple[str, ...], output: Path | None, overwrite: bool, given: dict[str, Any]
) -> Asked:
    from bilinear_cli.extraction.reuse import allow_mix
    from bilinear_cli.extraction.stored import with_precision
    from bilinear_cli.networks.precision import check_int8
    from bilinear_cli.photos.dataset import load_dataset
    from bilinear_cli.recipe import Settings
    from bilinear_cli.views import view_names

    sizes, flip = given["scales"] or (given["image_size"],), given["flip"]
    if "conv5" in specs and len(sizes) > 1:
        raise UsageError("conv5 of several --scales has rows of several shapes: name one size")
    with bar("preparing photos", "photo") as progress:
        dataset = load_dataset(given["data"], split_seed=given["split_seed"], progress=progress)
    if given["limit"]:
        dataset = dataset.limit(given["limit"])
    backbone = given["backbone"].lower()
    if given["precision"] == "int8":
        check_int8(backbone)  # before anything is fetched
    weights = load_weights(backbone, given["weights"])
    settings = Settings(
        poolings=specs,
        layer=given["layer"] or _default_layer(backbone),
        image_size=sizes[0],
        resize=given["resize"],
        precision=given["precision"],
        batch_size=given["batch_size"] or 0,
        weights_sha256=weights.sha256,
        backbone=backbone,
        views=view_names(sizes, flip),
        shard=given["shard"],
        seed=given["seed"],
    )
    settings = with_precision(settings, given["precision"])
    output = output or Path("features") / _file_name(dataset.name, settings, sizes, flip)
    if not output.name or output.is_dir():
        raise UsageError(f"{output} is a folder: give --output a file name")
    if given["reuse"] and given["allow_precision_mix"]:
        settings = allow_mix(settings, given["reuse"], None if overwrite else output)
    return Asked(dataset, weights, settings, output)


def _projection(given: dict[str, Any], settings: "Settings") -> "Parameters":
    from bilinear_cli.extraction.stored import read_projection

    return read_projection(given["projection"], settings) if given["projection"] else {}


def _default_layer(backbone: str) -> str:
    if backbone == "vgg16":
        return "block5_conv3"
    from bilinear_cli.networks.applications import layer_of

    return layer_of(backbone, None)


def _file_name(name: str, settings: "Settings", sizes: tuple[int, ...], flip: bool) -> str:
    network = [] if settings.backbone == "vgg16" else [settings.backbone]
    words = [name, *network, settings.layer, *map(str, sizes), *(["flip"] if flip else [])]
    if settings.shard != "1/1":
        words.append("shard" + settings.shard.replace("/", "of"))
    return "-".join(words) + ".h5"


def _on_this_machine(settings: "Settings", stored: "Settings | None") -> "Settings":
    """Return the settings; what is open as it is stored, or else as suits this machine."""
    from bilinear_cli.extraction.stored import kept

    settings = kept(settings, stored)
    if settings.precision != "auto" and settings.batch_size:
        return settings
    load_tensorflow()
    from bilinear_cli.networks.backbone import resolve_batch_size, resolve_precision
    from bilinear_cli.views import sizes_of

    precision = resolve_precision(settings.precision)
    batch_size = settings.batch_size or resolve_batch_size(max(sizes_of(settings.shown)))
    return replace(settings, precision=precision, batch_size=batch_size)
