"""Write the files in tests/data_files/v0.1. Commit dbef3b9 wrote them, and tests only read them.

    cd tests && PYTHONPATH=..:. python data_files/make.py && cp -r /tmp/birds data_files/v0.1

`expected.json` has the output of train, predict and explain of that commit on these files, and the
predictions of Keras with birds.keras. The files of v0.1 never change. Files of a later version go
to another folder.
"""

import os
from pathlib import Path
from unittest.mock import patch

import numpy as np
from PIL import Image
from support.commands import run_command
from support.thin_network import VGG16, thin_networks

from bilinear_cli.store import FeatureWriter
from bilinear_cli.training import conv1x1

EXTRACT = (
    "extract --data photos --weights random --image-size 32 --precision float32 --batch-size 4"
)
SPECS = ["max", "avg", "sum", "bilinear", "bilinear-plain", "covariance", "matrix-sqrt"]
SPECS += ["compact:16", "bilinear:4"]
POOLINGS = "".join(f" --pooling {spec}" for spec in SPECS)
RUNS = [f"birds.h5 --pooling {spec}" for spec in ("bilinear", "bilinear:4", "compact:16")]
RUNS += ["birds.h5 --pooling max+sum --classifier ridge"]
RUNS += ["birds.h5 --pooling bilinear --top-variance 20 --classifier svm"]
RUNS += ["birds.h5 --pooling max --classifier mlp --hidden 32 --dropout 0 --label-smoothing 0"]
RUNS += ["maps.h5 --pooling conv5 --classifier conv1x1 --channels 4 --label-smoothing 0"]
append = FeatureWriter.append


def bilinear(line: str, code: int = 0) -> None:
    with patch("sys.argv", ["bilinear", *line.split()]):  # the files record the command
        run_command(*line.split(), code=code)


def append_and_stop(writer: FeatureWriter, *rows: dict) -> None:
    append(writer, *rows)
    if writer.rows_done == 16:
        raise KeyboardInterrupt


def make_features() -> None:
    rng = np.random.default_rng(2)
    for name in ("jay", "tit", "wren"):
        base = rng.integers(0, 256, (4, 4, 3))
        for i in range(6):
            blocks = (base + rng.integers(-60, 60, base.shape)).clip(0, 255).astype(np.uint8)
            folder = Path("photos", "train" if i < 4 else "test", name)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).save(folder / f"{i}.png")
    bilinear(f"{EXTRACT} -o birds.h5 --flip{POOLINGS}")
    bilinear(f"{EXTRACT} -o maps.h5 --pooling conv5")
    options = "--flip --pooling max --pooling bilinear:4 --projection birds.h5"
    for i in (1, 2):
        bilinear(f"{EXTRACT} -o shard-{i}.h5 --shard {i}/2 {options}")
    with patch.object(FeatureWriter, "append", append_and_stop):
        bilinear(f"{EXTRACT} -o begun.h5 --flip{POOLINGS}", code=130)


def make_runs() -> None:
    with patch.object(conv1x1, "LEARNING_RATE", 0.03):  # the default is too small for so few photos
        for options in RUNS:
            bilinear(f"train --json --features {options}")
    bilinear("export runs/birds-bilinear-softmax birds.keras --weights random")


if __name__ == "__main__":
    folder = Path("/tmp/birds")  # the files record it
    folder.mkdir()
    os.chdir(folder)
    with thin_networks(layers=VGG16):
        make_features()
        make_runs()
