"""What a run records beside its model: figures on the test photos, and what it was trained on."""

import logging
from importlib.metadata import version
from typing import Any

import numpy as np

from bilinear_cli.store import FeatureFile
from bilinear_cli.training import registry
from bilinear_cli.training.calibration import calibration
from bilinear_cli.training.metrics import average_views, evaluate
from bilinear_cli.training.model import Model, to_probabilities
from bilinear_cli.training.options import TrainOptions
from bilinear_cli.training.rows import Rows

log = logging.getLogger(__name__)

PACKAGES = ("bilinear-cli", "numpy", "scipy", "scikit-learn", "h5py")


def figures(test: Rows, scores: np.ndarray, temperature: float) -> dict[str, Any]:
    """Return the figures on the test photos; None for each if there are none."""
    if not len(test.indices):
        log.warning("no test photos: see the out-of-fold accuracy")
        nothing = ("top1", "top1_ci95", "top5", "mean_per_class_accuracy", "log_loss")
        return {**dict.fromkeys(nothing), "confused": [], "temperature": temperature}
    first, mean = average_views(test.photo, scores)
    labels = test.labels[first]
    before, after = (calibration(to_probabilities(mean, t), labels) for t in (1, temperature))
    return {
        **evaluate(mean, labels, test.class_names),
        "temperature": temperature,
        "calibration": {"before": before, "after": after},
    }


def facts(
    file: FeatureFile, spec: str, options: TrainOptions, learn: Rows, test: Rows, model: Model
) -> dict[str, Any]:
    """Return what a run was trained on, with what, and what of it a photo takes in a file."""
    recorded = registry.get_classifier(options.classifier).recorded
    numbers = [
        np.prod(file.shapes[p.spec][1:]) if p.kernel is not None else p.n_features
        for p in model.transforms
    ]
    sizes = [file.row_dtype(part.spec).itemsize for part in model.transforms]
    return {
        **{name: getattr(options, name) for name in recorded},
        "classifier": options.classifier,
        "pooling": spec,
        "normalize": options.normalize,
        "top_variance": options.top_variance,
        "n_train": len(np.unique(learn.photo)),
        "n_test": len(np.unique(test.photo)),
        "n_rows": len(learn.indices) + len(test.indices),
        "n_features": sum(part.n_features for part in model.transforms),
        "bytes": int(np.dot(numbers, sizes)),  # of what is read
        "n_classes": len(learn.class_names),
        "seed": options.seed,
        "versions": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        "features_file": " ".join(map(str, file.files)),
        "extraction": file.attributes,
    }
