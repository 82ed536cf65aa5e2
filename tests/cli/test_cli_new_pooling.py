"""A pooling that is an entry of the registry and a function goes through all commands."""

import json
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.commands import error_line, run_command
from support.errors import assert_names, assert_suggests
from support.thin_network import thin_networks

from bilinear_cli.photos.pixels.images import read_photo
from bilinear_cli.poolings import functions
from bilinear_cli.poolings.registry import POOLINGS, Pooling, matrix_pooling
from bilinear_cli.store import FeatureFile

pytestmark = pytest.mark.slow

HELP = "a test's"
ENTRIES = (
    Pooling("spread", HELP, "spread_pool"),
    matrix_pooling("squares", HELP, "square_product_sum"),
    matrix_pooling("plain-squares", HELP, "square_product_sum", normalization=""),
    matrix_pooling("doubled", HELP, "doubled_product_sum", explainable=True),  # has bilinear's rows
)
FUNCTIONS = {
    "spread_pool": lambda maps: functions.max_pool(maps) - functions.avg_pool(maps),
    "square_product_sum": lambda maps: functions.outer_product_sum(tf.square(maps)),
    "doubled_product_sum": lambda maps: functions.outer_product_sum(2 * maps),
}
SPECS = ("spread", "squares:3", "plain-squares:3", "doubled", "doubled:3")


@pytest.fixture
def new_poolings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for entry in ENTRIES:
        monkeypatch.setitem(POOLINGS, entry.method, entry)
    for name, function in FUNCTIONS.items():
        monkeypatch.setattr(functions, name, function, raising=False)
    with thin_networks(8):
        yield


@pytest.mark.usefixtures("new_poolings")
def test_a_new_pooling_is_extracted_trained_on_explained_and_exported(birds: Path) -> None:
    poolings = [word for spec in SPECS for word in ("--pooling", spec)]
    run_command("extract", "--data", birds, *poolings, "-o", "x.h5")
    with FeatureFile(Path("x.h5")) as file:
        assert {spec: shape[1] for spec, shape in file.shapes.items()} == {
            **{"spread": 8, "doubled": 36},
            **{"squares:3": 6, "plain-squares:3": 6, "doubled:3": 6},
        }
    results = json.loads(run_command("train", "--features", "x.h5", "--json").stdout)["results"]
    assert sorted(result["pooling"] for result in results) == sorted(SPECS)
    photos = sorted(birds.rglob("*.png"))[:4]
    pixels = np.stack([read_photo(path, [32])[0] for path in photos]).astype(np.float32)
    for result in results:
        run, spec = result["run"], result["pooling"]
        explained = spec.startswith("doubled")
        answer = run_command("explain", run, photos[0], "-o", "x.png", code=not explained)
        if not explained:
            error_line(answer, "explain", "bilinear", "doubled")
        answers = run_command("predict", run, "--json", *photos).stdout.splitlines()
        expected = [
            [x["probability"] for x in sorted(json.loads(line)["names"], key=lambda x: x["name"])]
            for line in answers
        ]
        run_command("export", run, f"{spec}.keras")
        model = keras.models.load_model(f"{spec}.keras")
        assert np.ptp(expected) > 1e-3
        np.testing.assert_allclose(model(pixels), expected, atol=1e-4)


@pytest.mark.usefixtures("new_poolings")
def test_a_new_pooling_stands_in_the_help_and_among_the_names() -> None:
    help_of = " ".join(run_command("extract", "--help").stdout.split())
    assert_names(help_of, "squares[:144]", "spread", HELP)
    assert_suggests(
        error_line(run_command("extract", "--pooling", "spred", code=2)), "spread", POOLINGS
    )
