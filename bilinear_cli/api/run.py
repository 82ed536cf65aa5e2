"""A run folder: its metrics, predictions with its model, and its report."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bilinear_cli.api.files import StrPath, optional_path, optional_spec
from bilinear_cli.errors import UsageError
from bilinear_cli.home import expand_path, expand_photo, expand_spec
from bilinear_cli.networks.network import load_network
from bilinear_cli.photos.boxes.options import box_options
from bilinear_cli.predict import Prediction, crop_photos, predict, predict_rows
from bilinear_cli.run import load_model, read_metrics
from bilinear_cli.run_network import load_run_network, prediction_recipe
from bilinear_cli.validation import POSITIVE


@dataclass(frozen=True)
class Run:
    """A trained run: its metrics, and predictions with its model.

    Attributes:
        path: the run folder.
    """

    path: Path

    def __post_init__(self) -> None:
        """Make the path a `Path`, if it is a text."""
        object.__setattr__(self, "path", Path(self.path))

    @property
    def metrics(self) -> dict[str, Any]:
        """The content of `metrics.json`, such as `top1`, 0 to 1."""
        return read_metrics(self.path)

    def predict(
        self,
        photos: Any,
        *,
        top: int = 5,
        precision: str | None = None,
        engine: str = "auto",
        backbone: StrPath | None = None,
        weights: StrPath = "auto",
        allow_precision_mix: bool = False,
        boxes: StrPath | None = None,
        no_box: str = "whole",
        min_confidence: float = 0.2,
    ) -> list[Prediction]:
        """Return the most probable classes of photos.

            [prediction.name for prediction in run.predict(["a.jpg", "b.jpg"])]

        Args:
            photos: one photo or several: paths, uint8 RGB arrays (height, width, 3), or images of
                Pillow; or the path of a feature file (`.h5`), whose rows are taken.
            top: number of classes for each photo.

        The other arguments are the options of `bilinear predict`.

        Returns:
            A prediction for each photo, or with `boxes` for each box, in order. A photo that cannot
            be read has an `error`.

        Raises:
            BilinearError: the network cannot be loaded, or is another one.
            FeatureFileError: the feature file cannot be read, or suits another run.
            UsageError: something is no photo, or `top` is below 1.
        """
        top = POSITIVE.validate("top", top)
        source = optional_spec(boxes, "boxes")
        options = box_options(source, no_box=no_box, min_confidence=min_confidence)
        if isinstance(photos, str | Path) and Path(photos).suffix == ".h5":
            if options:
                raise UsageError("boxes cannot be used with a feature file, whose rows have theirs")
            return [*predict_rows(self.path, expand_path(photos), top)]
        items: Iterable[Any] = map(expand_photo, [photos] if _is_one_photo(photos) else photos)
        items = crop_photos(self.path, items, options)
        recipe = prediction_recipe(self.path, precision, allow_precision_mix, engine)
        network = load_run_network(
            self.path,
            recipe,
            expand_spec(weights, "weights"),
            optional_path(backbone, "backbone"),
        )
        model = load_model(self.path)
        return [*predict(model, recipe, items, load_network(network, recipe), top=top)]

    def report(self, path: StrPath) -> Path:
        """Write a report, `.html` or `.md` by the suffix of the path; return the path."""
        from bilinear_cli.report.write import write_report

        report = expand_path(path)
        write_report([self.path], report)
        return report


def _is_one_photo(photos: Any) -> bool:
    """Return whether this is one photo, or at least no sequence.

    An array of four dimensions is a batch, and one of one dimension a sequence.
    """
    if isinstance(photos, np.ndarray):
        return photos.ndim in (0, 2, 3)
    return isinstance(photos, str | bytes | Path) or not isinstance(photos, Iterable)


def load_run(folder: StrPath) -> Run:
    """Return the run of a folder, or raise a BilinearError if it is not one."""
    run = Run(expand_path(folder, "folder"))
    run.metrics  # noqa: B018 - raises
    return run
