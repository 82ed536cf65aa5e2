"""What `make lint` checks of the types that users of the Python interface see; it never runs.

An error that is expected has a comment, and mypy refuses a comment without its error.
"""

from pathlib import Path

import bilinear_cli

path: Path = bilinear_cli.extract("photos", pooling=["max"], image_size=448)
run = bilinear_cli.train(path, pooling="max", C=1.0)
top1: float = run.metrics["top1"]
names: list[str] = [prediction.name for prediction in run.predict(["a.jpg"])]
with bilinear_cli.open_features(path) as features:
    shape: tuple[int, ...] = features.X("max", "train").shape
bilinear_cli.extract("photos", image_size="large")  # type: ignore[arg-type]
reversed_names: list[int] = names  # type: ignore[assignment]
