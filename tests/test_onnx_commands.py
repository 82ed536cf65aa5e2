"""All commands with ONNX networks: tiny DINOv2, whose class token and maps have signs."""

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnxruntime
import pytest
from click.testing import Result
from onnx import helper
from support.commands import error_line, run_command
from support.errors import assert_names, messages, warnings
from support.feature_files import contents
from support.onnx_networks import (
    FOLDER,
    PHOTOS,
    convolution,
    copy_network,
    load_network,
    make_graph,
    write_network,
)
from support.photos import similar_photos
from support.thin_network import thin_networks

from bilinear_cli.explain import explain
from bilinear_cli.networks.network import Network
from bilinear_cli.networks.onnx_info import layers_with_maps
from bilinear_cli.networks.onnx_model import read_model
from bilinear_cli.run import load_model, read_recipe
from bilinear_cli.store import FeatureFile, FeatureWriter

pytestmark = pytest.mark.slow
CLASSES = ("jay", "wren")
N_PHOTOS = 10
POOLINGS = ("cls", "avg", "bilinear", "maps")
WITHOUT = ("created", "command", "backbone_path", "data_root")
SIZE = 56
RESIZE = "processor: shortest 64, crop 56, bicubic"


def words_for(*poolings: str) -> list[str]:
    return [word for spec in poolings for word in ("--pooling", spec)]


def extract(output: str, *options: Any, data: str = "birds", code: int = 0) -> Result:
    """Extract with the copied network, or with another --backbone in the options."""
    backbone = () if "--backbone" in options else ("--backbone", "dinov2")
    poolings = () if "--pooling" in options else words_for(*POOLINGS)
    words = ("extract", "--data", data, *backbone, *poolings, "--batch-size", 3)
    return run_command(*words, "-o", output, *options, code=code)


def train(*options: Any) -> Path:
    words = ("train", "--features", "x.h5", "-C", 1, "--label-smoothing", 0, "--folds", 2)
    return Path(json.loads(run_command(*words, "--json", *options).stdout)["results"][0]["run"])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with birds/, dinov2/, x.h5 and a run of bilinear."""
    folder = tmp_path_factory.mktemp("prepared")
    similar_photos(folder / "birds", CLASSES, N_PHOTOS // 2, 70)
    copy_network("dinov2", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        extract("x.h5")
        train("--pooling", "bilinear")
    return folder


@pytest.fixture(autouse=True)
def _copy(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change to a copy of the prepared folder; the files record the path of the first one."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


RUN = Path("runs/x-bilinear-softmax")
PHOTO = Path("birds/jay/0.png")


def rows(path: str | Path) -> dict[str, np.ndarray]:
    with FeatureFile(Path(path)) as file:
        return {spec: file.read(spec, np.arange(file.rows_done)) for spec in file.shapes}


def info(path: str | Path) -> dict[str, str]:
    return dict(re.findall(r"^(.+?)  +(.*)$", run_command("info", path).stdout, re.M))


# extract ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("dinov2-registers", 4e-3), ("siglip", 4e-3), ("convnext", 4e-3), ("dinov3", 0.1)],
)
def test_rows_follow_from_the_maps_of_transformers(name: str, tolerance: float) -> None:
    for i, photo in enumerate(PHOTOS):
        Path(f"two/{i}").mkdir(parents=True)
        shutil.copy(photo, f"two/{i}")
    expected = dict(np.load(FOLDER / name / "expected.npz"))
    poolings = ["avg", "maps", *(["cls"] if "class_token" in expected else [])]
    extract("y.h5", "--backbone", FOLDER / name, *words_for(*poolings), data="two")
    stored = rows("y.h5")
    with FeatureFile(Path("y.h5")) as file:
        order = [int(path[0]) for path in file.paths]
    maps = expected["maps"][order]
    np.testing.assert_allclose(stored["maps"], maps, atol=tolerance)
    np.testing.assert_allclose(stored["avg"], maps.mean(axis=(1, 2)), atol=tolerance)
    if "cls" in poolings:
        np.testing.assert_allclose(stored["cls"], expected["class_token"][order], atol=tolerance)


def test_a_feature_file_records_the_network_and_what_ran_it(prepared: Path) -> None:
    facts = info("x.h5")
    assert facts["backbone"] == "dinov2.onnx"
    assert facts["backbone_path"] == str(prepared / "dinov2")
    assert facts["layer"] == "last_hidden_state"
    assert facts["engine"] == "onnxruntime"
    assert facts["resize"] == RESIZE
    assert facts["image_size"] == str(SIZE)
    assert f"onnxruntime {onnxruntime.__version__}" in facts["versions"]
    with h5py.File("x.h5") as file:
        assert file.attrs["weights_sha256"] == read_model(Path("dinov2")).sha256()


def test_the_default_name_has_network_layer_and_size() -> None:
    words = ("extract", "--data", "birds", "--backbone", "dinov2", "--pooling", "cls")
    path = run_command(*words).stdout.strip()
    assert path == "features/birds-dinov2.onnx-last_hidden_state-56.h5"
    with FeatureFile(Path(path)) as file:
        assert 1 <= file.recipe.batch_size <= 64


def test_flipped_and_larger_views_have_rows_of_their_own() -> None:
    poolings = words_for("cls", "avg")
    extract("y.h5", "--flip", "--scales", "56,84", *poolings)
    with FeatureFile(Path("y.h5")) as file:
        assert file.rows_done == 4 * N_PHOTOS
        views = file.view
        first = [int(np.flatnonzero(views == view)[0]) for view in dict.fromkeys(views)]
        assert len(first) == 4
        cls = file.read("cls", np.array(first))
    assert len(np.unique(cls.round(3), axis=0)) == 4
    extract("alone.h5", "--image-size", 84, *poolings)
    larger = rows("y.h5")["cls"][np.flatnonzero(views == "84")]
    np.testing.assert_allclose(larger, rows("alone.h5")["cls"], atol=1e-5)


def test_another_resize_and_layer() -> None:
    layer = [*layers_with_maps(read_model(Path("dinov2")), SIZE)][-5]
    extract("y.h5", "--layer", layer, "--resize", "squash", *words_for("avg", "cls"))
    with FeatureFile(Path("y.h5")) as file:
        assert (file.recipe.layer, file.recipe.resize) == (layer, "squash")
    assert np.abs(rows("y.h5")["avg"] - rows("x.h5")["avg"]).max() > 0.1


def test_an_interrupted_run_is_resumed_to_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    append = FeatureWriter.append

    def append_three(self: FeatureWriter, *rows: Any) -> None:
        if self.photos_done == 3:
            raise KeyboardInterrupt
        append(self, *rows)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureWriter, "append", append_three)
        extract("y.h5", code=130)
    extract("y.h5")
    assert contents(Path("y.h5"), WITHOUT) == contents(Path("x.h5"), WITHOUT)


def test_an_interrupted_run_is_not_resumed_by_a_changed_network() -> None:
    preprocessor = Path("dinov2/preprocessor_config.json")
    preprocessor.write_text(preprocessor.read_text().replace("64", "60"))
    error_line(extract("x.h5", code=1), "x.h5", "resize", "60", "64")


def test_shards_by_copies_of_the_network_are_merged_to_the_same_bytes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shutil.copytree("dinov2", "elsewhere/dinov2")
    for i, backbone in enumerate(("dinov2", "elsewhere/dinov2"), 1):
        options = ("--shard", f"{i}/2", "--backbone", backbone, *words_for(*POOLINGS))
        extract(f"{i}.h5", *options)
    run_command("merge", "1.h5", "2.h5", "-o", "y.h5")
    assert contents(Path("y.h5"), WITHOUT) == contents(Path("x.h5"), WITHOUT)
    assert not warnings(caplog)


def test_reused_rows_are_the_same_bytes() -> None:
    extract("few.h5", "--limit", 4)
    extract("y.h5", "--reuse", "few.h5")
    reused, whole = (rows(path) for path in ("y.h5", "x.h5"))
    for spec in POOLINGS:
        assert reused[spec].tobytes() == whole[spec].tobytes()


def test_stored_maps_are_pooled_without_the_network() -> None:
    shutil.rmtree("dinov2")
    run_command("extract", "--maps", "x.h5", "--pooling", "bilinear", "-o", "y.h5")
    np.testing.assert_allclose(rows("y.h5")["bilinear"], rows("x.h5")["bilinear"], atol=1e-2)
    facts = info("y.h5")
    assert (facts["backbone"], facts["engine"]) == ("dinov2.onnx", "onnxruntime")
    words = ("extract", "--maps", "x.h5", "--pooling", "cls", "-o", "z.h5")
    error_line(run_command(*words, code=2), "cls", "avg")


@pytest.mark.parametrize("name", ["siglip", "convnext"])
def test_cls_needs_a_class_token(name: str) -> None:
    options = ("--backbone", FOLDER / name, *words_for("cls", "avg"))
    error_line(extract("y.h5", *options, code=2), "cls", "avg")
    assert not Path("y.h5").exists()


def test_vgg16_has_no_class_token_either() -> None:
    options = ("--backbone", "vgg16", "--weights", "random", "--image-size", 32)
    with thin_networks():
        error_line(extract("y.h5", *options, *words_for("cls"), code=2), "cls", "avg")


@pytest.mark.parametrize(
    ("options", "code", "facts"),
    [
        (["--backbone", "nothing.onnx"], 1, ["nothing.onnx"]),
        (["--backbone", "birds/jay"], 2, ["birds/jay", "no graph"]),
        (["--backbone", "dinov2/config.json"], 2, ["dinov2/config.json"]),
        (["--layer", "v9999"], 2, ["v9999", "dinov2"]),
        (["--layer", "pooler_output"], 2, ["pooler_output", "(1, 16)"]),
        (["--image-size", 60], 2, ["--image-size 56"]),
        (["--precision", "bfloat16"], 2, ["--precision bfloat16", "dinov2"]),
        (["--engine", "ncnn"], 2, ["--engine ncnn", "dinov2"]),
        (["--weights", "random"], 2, ["--weights random", "dinov2"]),
        (["--backbone", "vgg16", "--resize", "processor"], 2, ["--resize processor"]),
    ],
)
def test_what_does_not_fit_is_one_line(options: list[Any], code: int, facts: list[str]) -> None:
    error_line(extract("y.h5", *options, code=code), *facts)
    assert not [*Path().glob("y.h5*")]


# Runs ---------------------------------------------------------------------------------------


def test_the_class_token_and_the_mean_are_trained_on_together() -> None:
    run = train("--pooling", "cls+avg")
    assert load_model(run).first.weights.shape[0] == 2 * 16
    assert run_command("predict", run, "birds").stdout.count("\n") == N_PHOTOS


def test_predict_finds_the_network_where_it_was(prepared: Path) -> None:
    shutil.rmtree("dinov2")  # not that of the run
    result = run_command("predict", RUN, "birds", "--json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    with FeatureFile(Path("x.h5")) as file:
        model = load_model(RUN)
        scores = model.scores({"bilinear": file.read("bilinear", np.arange(N_PHOTOS))})
        best = dict(zip(file.paths, model.class_names[scores.argmax(axis=1)], strict=True))
    assert {str(Path(x["path"]).relative_to("birds")): x["names"][0]["name"] for x in lines} == best


@pytest.fixture
def moved_run() -> Path:
    """Change the run so that its network is no longer at its path; return the run."""
    path = RUN / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["extraction"]["backbone_path"] = str(Path("gone/dinov2").absolute())
    path.write_text(json.dumps(metrics))
    return RUN


@pytest.mark.parametrize("command", ["predict", "explain"])
def test_a_network_that_has_moved_is_given_again(command: str, moved_run: Path) -> None:
    words = (command, moved_run, PHOTO)
    error_line(run_command(*words, code=1), moved_run, Path("gone/dinov2").absolute(), "--backbone")
    assert run_command(*words, "--backbone", "dinov2").stdout
    assert run_command(*words, "--backbone", "dinov2/onnx/model.onnx").stdout


@pytest.mark.parametrize(
    "change", ["config.json", "preprocessor_config.json", "onnx/model.onnx", "all"]
)
def test_another_network_is_refused(change: str, moved_run: Path) -> None:
    if change == "onnx/model.onnx":
        shutil.copy("dinov2/onnx/model_quantized.onnx", "dinov2/onnx/model.onnx")
    elif change == "all":
        shutil.copytree(FOLDER / "vit", "dinov2", dirs_exist_ok=True)
    else:
        path = Path("dinov2", change)
        path.write_text(path.read_text() + "\n")
    words = ("predict", moved_run, PHOTO, "--backbone", "dinov2")
    error_line(run_command(*words, code=1), moved_run, "--backbone")


@pytest.mark.parametrize("engine", ["ncnn", "tensorflow"])
def test_predict_has_no_other_engine(engine: str) -> None:
    result = run_command("predict", RUN, PHOTO, "--engine", engine, code=2)
    error_line(result, RUN, f"--engine {engine}")


def test_shares_of_locations_with_signs_add_up_to_the_score(prepared: Path) -> None:
    recipe = read_recipe(RUN)
    forward = Network("dinov2.onnx", str(prepared / "dinov2")).load(recipe)
    explanation = explain(RUN, PHOTO, forward)
    with FeatureFile(Path("x.h5")) as file:
        row = np.flatnonzero(file.paths == "jay/0.png")
        scores = load_model(RUN).scores({"bilinear": file.read("bilinear", row)})[0]
    assert explanation.heatmap.shape == (4, 4)
    assert explanation.score == pytest.approx(scores.max(), abs=1e-2)
    total = explanation.heatmap.sum() + explanation.intercept
    assert total == pytest.approx(explanation.score, abs=1e-9)
    run_command("explain", RUN, PHOTO, "-o", "picture.png")
    assert Path("picture.png").exists()


def test_export_is_refused() -> None:
    result = run_command("export", RUN, "x.keras", code=1)
    error_line(result, RUN, "dinov2.onnx", "bilinear predict")
    assert not Path("x.keras").exists()


def test_a_report_names_the_network() -> None:
    run_command("report", RUN, "-o", "page.html")
    page = Path("page.html").read_text()
    assert "dinov2.onnx" in page
    assert RESIZE in page


@pytest.mark.parametrize("resize", ["processor: both 99999, crop 1, bicubic", "processor"])
def test_a_hostile_resize_in_a_file_is_one_line(resize: str) -> None:
    with h5py.File("x.h5", "r+") as file:
        file.attrs["resize"] = resize
    words = ("extract", "--data", "birds", "--backbone", "dinov2", "-o", "x.h5")
    error_line(run_command(*words, code=1), "x.h5", "resize")
    path = RUN / "metrics.json"
    path.write_text(path.read_text().replace(RESIZE, resize))
    error_line(run_command("predict", RUN, PHOTO, code=1), path, "resize")


# check and info -----------------------------------------------------------------------------


def test_check_estimates_with_the_network() -> None:
    words = ("check", "--data", "birds", "--backbone", "dinov2")
    result = json.loads(run_command(*words, "--json").stdout)["extract"]
    assert result["backbone"] == "dinov2.onnx"
    assert (result["image_size"], result["engine"]) == (SIZE, "onnxruntime")
    cost = " ".join(run_command(*words).stdout.splitlines()[-2:])
    assert_names(cost, "dinov2.onnx", "onnxruntime", 56)


@pytest.mark.parametrize(
    ("name", "other", "layer"),
    [
        ("dinov2", "yes, 70", "4 x 4 x 16, class token"),
        ("dinov2-registers", "yes, 70", "4 x 4 x 16, class token"),
        ("siglip", "no", "4 x 4 x 16"),
        ("vit", "no", "4 x 4 x 16, class token"),
        ("resnet", "yes, 96", "4 x 4 x 24"),
    ],
)
def test_info_lists_the_layers_of_a_network(name: str, other: str, layer: str) -> None:
    facts = info(FOLDER / name)
    assert facts["network"] == f"{name}.onnx"
    assert facts["graph"].startswith(str(FOLDER / name))
    assert facts["layer"] == "last_hidden_state"
    assert facts["layer last_hidden_state"] == layer
    assert facts["other sizes"].startswith(other)
    assert facts["weights_sha256"] == read_model(FOLDER / name).sha256()
    layers = [key.removeprefix("layer ") for key in facts if key.startswith("layer ")]
    assert len(layers) > 10
    assert layers.index("last_hidden_state") > len(layers) // 2
    assert info(facts["graph"]) == facts


def test_info_says_why_there_is_no_default_layer() -> None:
    nodes = [convolution("a"), helper.make_node("Relu", ["a"], ["b"])]
    facts = info(write_network(Path("small"), make_graph(nodes, outputs=("a", "b"))))
    assert_names(facts["layer"], "none", "a (1, 6, 4, 4)", "b (1, 6, 4, 4)")
    assert facts["layer a"] == facts["layer b"] == "4 x 4 x 6"


def test_info_of_a_damaged_network_is_one_line() -> None:
    Path("dinov2/onnx/model.onnx").write_bytes(b"no network")
    error_line(run_command("info", "dinov2", code=1), Path("dinov2", "onnx", "model.onnx"))
    error_line(run_command("info", "nothing.onnx", code=1), "nothing.onnx")


def test_a_folder_of_feature_files_is_still_described() -> None:
    assert info(RUN)["pooling"] == "bilinear"


def test_batches_of_the_quantized_graph_do_not_change_its_rows(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    options = ("--backbone", "dinov2/onnx/model_quantized.onnx", *words_for("cls", "maps"))
    extract("one.h5", *options, "--batch-size", 1)
    extract("five.h5", *options, "--batch-size", 5)
    one, five = (rows(path) for path in ("one.h5", "five.h5"))
    for spec in one:
        assert one[spec].tobytes() == five[spec].tobytes()
    assert any("CPU by onnxruntime" in line for line in messages(caplog, logging.INFO))
    assert load_network(Path("dinov2")).provider == "CPU"
