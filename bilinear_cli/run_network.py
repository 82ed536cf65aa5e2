"""A run folder -> the recipe of the features that its model needs, and the network of it."""

import logging
from dataclasses import replace
from pathlib import Path

from bilinear_cli.errors import BilinearError, UsageError
from bilinear_cli.extraction.existing import resolve_locally
from bilinear_cli.extraction.options import ENGINES
from bilinear_cli.networks.engines import (
    MEASURED_ENGINES,
    check_ncnn,
    measured_difference,
    with_precision,
)
from bilinear_cli.networks.network import Network
from bilinear_cli.networks.onnx_model import is_onnx
from bilinear_cli.recipe import CHOICES, Recipe
from bilinear_cli.run import read_backbone_path, read_recipe
from bilinear_cli.validation import validate_choice

log = logging.getLogger(__name__)


def prediction_recipe(
    run: Path,
    precision: str | None = None,
    allow_precision_mix: bool = False,
    engine: str = "auto",
) -> Recipe:
    """Return the recipe of the features that a run's model predicts from.

    Args:
        precision: of the network; None takes that of the run's features.
        engine: of the network; it need not be that of the run's features.
        allow_precision_mix: warn of the measured difference of precisions instead of raising.

    Raises:
        BilinearError: the precisions differ, or the folder is not a run.
    """
    trained = read_recipe(run)
    validate_choice("--engine", engine, ENGINES)
    if precision:
        validate_choice("--precision", precision, CHOICES["precision"])
    options = {"precision": precision or "auto", "engine": engine}
    fixed = [f"--{name} {value}" for name, value in options.items() if value != "auto"]
    if is_onnx(trained.backbone) and fixed:
        raise UsageError(f"remove {' and '.join(fixed)}: the ONNX network of {run} decides this")
    recipe = with_precision(trained, precision or trained.precision)
    if recipe != trained:  # also by the digest of the 8-bit network
        difference = (
            f"{run} was trained on features in {trained.precision}, and this prediction is in "
            f"{recipe.precision}" + " of another version" * (recipe.precision == trained.precision)
        )
        if not allow_precision_mix:
            raise BilinearError(f"{difference}. Use --allow-precision-mix to allow this")
        log.warning("%s: %s", difference, measured_difference(trained.precision, recipe.precision))
    if is_onnx(recipe.backbone):
        return recipe
    if engine == "ncnn":
        check_ncnn(recipe.backbone, recipe.precision)
    recipe = resolve_locally(replace(recipe, engine=engine))
    if recipe.engine != trained.engine:
        message = "%s was trained on features by %s, and this prediction is by %s: %s"
        log.info(message, run, trained.engine, recipe.engine, MEASURED_ENGINES)
    return recipe


def load_run_network(
    run: Path, recipe: Recipe, weights_source: str = "auto", backbone: Path | None = None
) -> Network:
    """Return the network of a run's features.

    Args:
        weights_source: the source of the weights, see `Network`.
        backbone: the path of an ONNX network; None for the path that the run records.

    Raises:
        BilinearError: the run's features were made with other weights, or an ONNX network is not
            at its path.
    """
    option, source = "--weights", weights_source
    if backbone and not is_onnx(recipe.backbone):
        raise UsageError(f"{run} uses {recipe.backbone}, which has no path: remove --backbone")
    if is_onnx(recipe.backbone):
        if weights_source != "auto":
            raise UsageError(f"the network of {run} is an ONNX file: remove --weights")
        option, source = "--backbone", str(backbone or read_backbone_path(run))
        if not Path(source).exists():
            raise BilinearError(
                f"the network of {run}, {recipe.backbone}, is not at {source}. Give its path with "
                "--backbone."
            )
    network = Network(recipe.backbone, source)
    if network.sha256() != recipe.weights_sha256:
        raise BilinearError(
            f"the network's weights are not those that made the features of {run}. Give the "
            f"original network with {option}."
        )
    return network
