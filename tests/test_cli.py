"""The command line: exit codes, clean stdout, and one line for whatever goes wrong."""

import csv
import importlib.util
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result

from bilinear_cli.classify.calibration import fit_temperature
from bilinear_cli.cli import cli
from bilinear_cli.features.weights import random_tensors

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def _small_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in an empty folder, with a random VGG16 at the smallest size."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BILINEAR_EXTRACT_WEIGHTS", "random")
    monkeypatch.setenv("BILINEAR_EXTRACT_IMAGE_SIZE", "32")
    monkeypatch.setenv("BILINEAR_EXTRACT_PRECISION", "float32")
    monkeypatch.setenv("BILINEAR_EXTRACT_BATCH_SIZE", "8")


@pytest.fixture
def run() -> Run:
    def invoke(*arguments: str | Path, code: int = 0, **others: Any) -> Result:
        result = CliRunner().invoke(cli, [str(argument) for argument in arguments], **others)
        assert result.exit_code == code, result.output + repr(result.exception)
        return result

    return invoke


@pytest.fixture
def birds(class_folders: Callable, tmp_path: Path) -> Path:
    return class_folders(tmp_path / "birds", {"wren": 6, "robin": 6, "jay": 6})


@pytest.fixture
def features(birds: Path, run: Run) -> Path:
    run("extract", "--data", birds, "--pooling", "max", "--pooling", "bilinear", "-o", "x.h5")
    return Path("x.h5")


def fault(result: Result) -> str:
    """Return the one line that a fault leaves on stderr; stdout and everything else is empty."""
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    return lines[0].removeprefix("Error: ")


def test_help_needs_neither_tensorflow_nor_time() -> None:
    code = (
        "import sys, time; from bilinear_cli.cli import cli\n"
        "try: cli(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'tensorflow', 'keras', 'numpy', 'h5py', 'sklearn', 'scipy'}\n"
        "heavy = (heavy | {'dask', 'distributed'}) & set(sys.modules)\n"
        "print(heavy or 'light', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "light\n"
    assert "extract" in done.stdout


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_every_command_has_help_and_stands_in_the_readme(command: str, run: Run) -> None:
    assert "Usage: " in run(command, "-h").stdout
    readme = Path(__file__).parent.parent.joinpath("README.md").read_text(encoding="utf-8")
    assert f"bilinear {command} " in readme


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["extrakt"], "no command is called 'extrakt': did you mean 'extract'?"),
        (["extract", "--poling", "max"], "No such option '--poling'"),
        (["train", "--features", "x.h5", "--clasifier", "svm"], "Did you mean '--classifier'?"),
        (["train", "--features", "x.h5", "--classifier", "swm"], "svm"),
    ],
)
def test_what_is_misspelt_is_answered_with_the_nearest(
    words: list[str], said: str, run: Run
) -> None:
    shown = run(*words, code=2).stderr
    assert said in shown
    assert "Traceback" not in shown


def test_the_page_of_commands_is_theirs() -> None:
    path = Path(__file__).parent.parent / "docs" / "commands.py"
    spec = importlib.util.spec_from_file_location("commands", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    there = path.with_suffix(".md").read_text(encoding="utf-8")
    assert there == module.page(), "run make docs"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete(shell: str) -> None:
    code = "from bilinear_cli.cli import cli; cli(prog_name='bilinear')"
    source = {**os.environ, "_BILINEAR_COMPLETE": f"{shell}_source"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=source, capture_output=True, text=True, check=True
    )
    assert "bilinear" in done.stdout
    asked = {
        "_BILINEAR_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": "bilinear ex",
        "COMP_CWORD": "1",
    }
    if shell == "fish":
        asked |= {"COMP_CWORD": "ex"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | asked,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "extract" in done.stdout
    assert "train" not in done.stdout.split()


def test_examples_in_help_are_of_commands_and_options_that_there_are() -> None:
    for command in [cli, *cli.commands.values()]:
        block = (command.help or "").partition("\b\n")[2]
        examples = [line.strip() for line in block.splitlines() if "bilinear " in line]
        assert examples, command.name
        for line in examples:
            words = shlex.split(line[line.index("bilinear ") :])[1:]
            known = {o for p in cli.commands[words[0]].params for o in p.opts}
            used = {word for word in words if re.match(r"--?[a-zA-Z]", word)}
            assert used <= known, line


def test_version(run: Run) -> None:
    assert run("--version").stdout == "0.1.0\n"


# Extract ----------------------------------------------------------------------------------


def test_extract_prints_the_path_and_what_to_type_next(birds: Path, run: Run) -> None:
    result = run("extract", "--data", birds, "--pooling", "max")
    assert result.stdout == "features/birds-block5_conv3-32.h5\n"
    last = result.stderr.splitlines()[-1]
    assert last == "next: bilinear train --features features/birds-block5_conv3-32.h5"
    assert Path("features/birds-block5_conv3-32.h5").is_file()


def test_a_second_run_does_nothing(birds: Path, features: Path, run: Run) -> None:
    before = features.stat().st_mtime_ns
    again = run(
        "extract", "--data", birds, "--pooling", "max", "--pooling", "bilinear", "-o", "x.h5"
    )
    assert "x.h5 is complete: nothing to do" in again.stderr
    assert features.stat().st_mtime_ns == before


def test_quiet_leaves_only_the_result(birds: Path, run: Run) -> None:
    result = run("-q", "extract", "--data", birds, "--pooling", "max", "-o", "x.h5")
    assert (result.stdout, result.stderr) == ("x.h5\n", "")


def test_limit(birds: Path, run: Run) -> None:
    run("extract", "--data", birds, "--pooling", "max", "--limit", "6", "-o", "x.h5")
    with h5py.File("x.h5") as file:
        assert np.bincount(file["labels"][()]).tolist() == [2, 2, 2]
        assert file["split"].asstr()[()].tolist().count("test") == 3
        assert file.attrs["limit"] == 6


def test_views_and_shards_are_named_and_go_together(birds: Path, run: Run) -> None:
    options = ["extract", "--data", birds, "--pooling", "max", "--flip", "--scales", "32,48"]
    whole = run(*options).stdout.strip()
    assert whole == "features/birds-block5_conv3-32-48-flip.h5"
    shards = [run(*options, "--shard", f"{i}/2").stdout.strip() for i in (1, 2)]
    assert shards[0] == "features/birds-block5_conv3-32-48-flip-shard1of2.h5"
    assert run("merge", *shards, "-o", "merged.h5").stdout == "merged.h5\n"
    assert "is complete" in run(*options, "-o", "merged.h5").stderr
    with h5py.File("merged.h5") as merged, h5py.File(whole) as single:
        assert merged["view"].asstr()[:4].tolist() == ["original", "flip", "48", "48-flip"]
        np.testing.assert_array_equal(merged["features/max"][()], single["features/max"][()])
    figures = []
    for files in (["merged.h5"], shards):
        named = [word for file in files for word in ("--features", file)]
        shown = run("train", *named, "-C", "1", "--label-smoothing", "0", "--json").stdout
        figures.append(json.loads(shown)["results"][0])
    assert figures[0]["top1"] == figures[1]["top1"]
    assert (figures[1]["n_rows"], figures[1]["features_file"]) == (72, " ".join(shards))
    line = fault(run("train", "--features", shards[0], code=1))
    assert line.startswith("1 of 2 shards are missing, the first of them 2/2")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--scales", "32,48", "--pooling", "conv5"], "conv5 of several --scales has rows of"),
        (["--scales", "32,32"], "names a size twice"),
        (["--scales", "32,x"], "'x' is not a valid integer"),
        (["--scales", "8"], "8 is not in the range x>=32"),
        (["--shard", "3/2"], "there is no shard '3/2'"),
        (["--shard", "1/99"], "too few for 99 shards"),
    ],
)
def test_views_and_shards_that_cannot_be_meant(
    options: list[str], said: str, birds: Path, run: Run
) -> None:
    assert said in run("extract", "--data", birds, "-o", "x.h5", *options, code=2).stderr
    assert not [*Path().glob("x.h5*")]


def test_skip_bad(birds: Path, run: Run) -> None:
    (birds / "wren" / "2.png").write_text("no photo")
    line = fault(run("extract", "--data", birds, "--pooling", "max", "-o", "x.h5", code=1))
    assert "wren/2.png as a photo: not an image in any format known here" in line
    assert "--skip-bad" in line
    assert not Path("x.h5").exists()
    result = run("extract", "--data", birds, "--pooling", "max", "-o", "x.h5", "--skip-bad")
    assert "skipped: " in result.stderr
    with h5py.File("x.h5") as file:
        assert file["features/max"].shape == (17, 512)
        assert file["skipped/paths"].asstr()[()].tolist() == ["wren/2.png"]
    assert "wren/2.png" in run("info", "x.h5").stdout


def test_a_truncated_jpeg_is_no_photo(birds: Path, make_photo: Callable, run: Run) -> None:
    path = make_photo(birds / "wren" / "cut.jpg", size=(200, 200))
    path.write_bytes(path.read_bytes()[:2000])
    line = fault(run("extract", "--data", birds, "--pooling", "max", "-o", "x.h5", code=1))
    assert "cut.jpg as a photo: image file is truncated" in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "nowhere"], "there is no photo set at 'nowhere'"),
        (["--data", "empty"], "there are no photos in empty"),
        (["--data", "one"], "one has one class only (wren)"),
        (["--data", "no-label.csv"], "no-label.csv lacks the column label"),
        (["--data", "no-file.csv"], "no-file.csv, row 2: there is no photo"),
        (["--data", "split.csv"], "split.csv, row 2: the split is 'valid'"),
        (["--data", "untrained.csv"], "no training photo of a class with test photos: jay"),
        (["--weights", "wrong.npz"], "wrong.npz is not the published VGG16"),
        (["--weights", "nowhere.npz"], "there are no weights at 'nowhere.npz'"),
        (["-o", "birds/wren/0.png/x.h5"], "cannot write birds/wren/0.png/x.h5.lock: File exists"),
    ],
)
def test_bad_input_to_extract(
    arguments: list[str],
    said: str,
    birds: Path,
    class_folders: Callable,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("empty").mkdir()
    class_folders(Path("one"), {"wren": 2})
    Path("no-label.csv").write_text("path,species\nbirds/wren/0.png,wren\n")
    Path("no-file.csv").write_text("path,label\nbirds/wren/9.png,wren\n")
    Path("split.csv").write_text("path,label,split\nbirds/wren/0.png,wren,valid\n")
    Path("untrained.csv").write_text(
        "path,label,split\nbirds/wren/0.png,wren,train\nbirds/jay/0.png,jay,test\n"
    )
    if "wrong.npz" in arguments:
        np.savez("wrong.npz", **random_tensors())
    before = sorted(Path().rglob("*"))
    command = ["extract", "--data", "birds", "--pooling", "max", "-o", "x.h5", *arguments]
    assert said in fault(run(*command, code=1))
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("output", ["birds", "."])
def test_a_folder_for_output(output: str, birds: Path, run: Run) -> None:
    line = fault(run("extract", "--data", birds, "-o", output, code=2))
    assert line == f"{output} is a folder: give --output a file name"


def test_a_misspelt_pooling(run: Run) -> None:
    line = fault(run("extract", "--pooling", "bilinaer", code=2))
    assert "no pooling is called 'bilinaer': did you mean 'bilinear'?" in line


def test_another_pooling_of_a_finished_file(birds: Path, features: Path, run: Run) -> None:
    line = fault(run("extract", "--data", birds, "--pooling", "avg", "-o", features, code=1))
    assert "was made with poolings bilinear max, and avg is asked for" in line


def test_maps_are_pooled_again(birds: Path, run: Run) -> None:
    run("extract", "--data", birds, "--pooling", "conv5", "--pooling", "max", "-o", "maps.h5")
    pooled = ["extract", "--maps", "maps.h5", "--pooling", "bilinear:8", "--pooling", "compact:64"]
    result = run(*pooled)
    assert result.stdout == "features/maps-bilinear-8-compact-64.h5\n"
    assert result.stderr.splitlines()[-1].endswith("maps-bilinear-8-compact-64.h5")
    assert "is complete" in run(*pooled).stderr
    shared = run(
        "extract",
        "--data",
        birds,
        "--pooling",
        "bilinear:8",
        "--projection",
        result.stdout.strip(),
        "-o",
        "y.h5",
    )
    assert shared.stdout == "y.h5\n"
    with h5py.File("y.h5") as direct, h5py.File(result.stdout.strip()) as of_maps:
        a, b = (file["features/bilinear:8"][()] for file in (direct, of_maps))
        np.testing.assert_allclose(a, b, atol=2e-3)
        assert direct["paths"][()].tolist() == of_maps["paths"][()].tolist()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--maps", "maps.h5", "--data", "birds"], "--maps settles --data: leave it out"),
        (["--maps", "maps.h5", "--flip"], "--maps settles --flip: leave it out"),
        (["--maps", "nowhere.h5"], "there is no feature file nowhere.h5"),
        (["--maps", "x.h5"], "x.h5 has no maps: it has bilinear, max"),
        (["--projection", "x.h5", "--pooling", "bilinear:8"], "x.h5 has no projection-8"),
        (["--projection", "x.h5"], "x.h5 has no projection to be used: no --pooling takes one"),
        (["--pooling", "compact:0"], "compact:0: after the colon comes a whole number from 1"),
        (["--pooling", "bilinear:600"], "bilinear:600: the maps have but 512 channels"),
        (["--pooling", "max:3"], "max takes no size"),
        (["--seed", "-1"], "-1 is not in the range 0<=x<=2147483647"),
    ],
)
def test_poolings_and_maps_that_cannot_be_meant(
    options: list[str], said: str, birds: Path, features: Path, run: Run
) -> None:
    data = [] if "--maps" in options else ["--data", birds]
    code = 1 if ".h5" in said and "no maps" not in said else 2
    assert said in run("extract", *data, "-o", "y.h5", *options, code=code).stderr
    assert not [*Path().glob("y.h5*")]


def test_another_backbone_and_layer(birds: Path, run: Run) -> None:
    options = ["extract", "--data", birds, "--backbone", "MobileNetV2"]
    whole = run(*options, "--pooling", "max", "--pooling", "bilinear:8")
    assert whole.stdout == "features/birds-mobilenetv2-out_relu-32.h5\n"
    with h5py.File(whole.stdout.strip()) as file:
        assert (file.attrs["backbone"], file.attrs["layer"]) == ("mobilenetv2", "out_relu")
        assert file["features/max"].shape == (18, 1280)
    early = ["--layer", "block_3_expand_relu", "--pooling", "bilinear", "-o", "y.h5"]
    run(*options, *early)
    shown = run("train", "--features", "y.h5", "--label-smoothing", "0", "--json").stdout
    (result,) = json.loads(shown)["results"]
    assert result["n_features"] == 144 * 145 // 2
    named = run("predict", result["run"], birds / "wren" / "0.png", "--weights", "random")
    assert len(named.stdout.split("\t")) == 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--backbone", "resnet5"], "no backbone is called 'resnet5': did you mean 'resnet50'?"),
        (["--backbone", "mobilenetv2"], "bilinear of 1,280 channels would store 819,840 numbers"),
        (["--layer", "block5"], "vgg16 has no layer 'block5': there are block5_conv1"),
        (["--backbone", "mobilenetv2", "--layer", "x"], "mobilenetv2 has no layer 'x'"),
    ],
)
def test_networks_that_cannot_be_meant(
    options: list[str], said: str, birds: Path, run: Run
) -> None:
    assert said in fault(run("extract", "--data", birds, "-o", "y.h5", *options, code=2))
    assert not [*Path().glob("y.h5*")]


# Config -----------------------------------------------------------------------------------


def test_config_feeds_defaults_and_flags_beat_it(birds: Path, run: Run) -> None:
    Path("c.toml").write_text('[extract]\npooling = ["avg"]\noutput = "c.h5"\nlimit = 9\n')
    assert run("--config", "c.toml", "extract", "--data", birds).stdout == "c.h5\n"
    with h5py.File("c.h5") as file:
        assert list(file["features"]) == ["avg"]
    flags = ["--data", birds, "-o", "d.h5", "--limit", "12"]
    assert run("--config", "c.toml", "extract", *flags).stdout == "d.h5\n"
    with h5py.File("d.h5") as file:
        assert len(file["labels"]) == 12


def test_the_environment_beats_the_config(
    birds: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("c.toml").write_text("[extract]\nlimit = 9\n")
    monkeypatch.setenv("BILINEAR_EXTRACT_LIMIT", "6")
    run("--config", "c.toml", "extract", "--data", birds, "--pooling", "max", "-o", "x.h5")
    with h5py.File("x.h5") as file:
        assert len(file["labels"]) == 6


def test_an_unknown_key_in_a_config(run: Run) -> None:
    Path("c.toml").write_text("[extract]\nimage-siz = 64\n")
    line = fault(run("--config", "c.toml", "extract", code=1))
    assert "no option of extract is called 'image-siz': did you mean 'image-size'?" in line


def test_the_configs_of_the_project_are_valid(run: Run) -> None:
    configs = sorted(Path(__file__).parent.parent.joinpath("configs").glob("*.toml"))
    assert [path.stem for path in configs] == ["birds448", "post", "sample"]
    for path in configs:
        run("--config", path, "extract", "--help")


# Train ------------------------------------------------------------------------------------


def test_train_prints_a_table(features: Path, run: Run) -> None:
    result = run("train", "--features", features)
    rows = [line.split("|")[1].strip() for line in result.stdout.splitlines() if "|" in line]
    assert rows[0] == "pooling"
    assert set(rows[2:]) == {"max", "bilinear"}
    assert Path("runs/x-max-softmax/metrics.json").is_file()


def test_train_json_is_one_object(features: Path, run: Run) -> None:
    result = run("train", "--features", features, "--pooling", "max+bilinear", "--json")
    (found,) = json.loads(result.stdout)["results"]
    names = "top1 top1_ci95 top5 mean_per_class_accuracy classifier pooling C n_train n_test n_rows"
    names += " n_features n_classes seed seconds versions features_file run"
    assert set(names.split()) <= set(found)
    assert found["n_train"] + found["n_test"] == found["n_rows"] == 18
    assert found["n_features"] == 512 + 131328
    assert found["n_classes"] == 3


def test_train_takes_new_labels(birds: Path, features: Path, run: Run) -> None:
    rows = [f"{path.relative_to(birds)},{path.name < '3'}" for path in birds.rglob("*.png")]
    birds.joinpath("new.csv").write_text("\n".join(["path,label", *rows]))
    options = ["--pooling", "max", "--data", birds / "new.csv", "--json"]
    (found,) = json.loads(run("train", "--features", features, *options).stdout)["results"]
    assert found["n_classes"] == 2


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--features", "nowhere.h5"], 1, "there is no feature file nowhere.h5"),
        (["--features", "birds/wren/0.png"], 1, "birds/wren/0.png is not an HDF5 file"),
        (["--features", "other.h5"], 1, "other.h5 was not made by bilinear extract"),
        (["--features", "later.h5"], 1, "later.h5 has version 2 of the format"),
        (["--features", "broken-off.h5"], 1, "broken-off.h5.partial is incomplete, 0 of 18 rows"),
        (["--features", "flipped.h5"], 1, "row 0 of features/max has another checksum"),
        (["--top-variance", "600"], 2, "--top-variance 600 is more than the 512 there are"),
        (["--pooling", "maks"], 2, "no pooling in x.h5 is called 'maks': did you mean 'max'?"),
        (["--min-photos", "7"], 1, "fewer than two classes have 7 photos"),
        (["-o", "birds/wren/0.png"], 1, "cannot write birds/wren/0.png"),
    ],
)
def test_bad_input_to_train(
    arguments: list[str], code: int, said: str, features: Path, birds: Path, run: Run
) -> None:
    with h5py.File("other.h5", "w") as file:
        file["x"] = 1
    for name in ("later.h5", "flipped.h5", "broken-off.h5.partial"):
        shutil.copy(features, name)
    with h5py.File("later.h5", "r+") as file:
        file.attrs["format_version"] = 2
    with h5py.File("flipped.h5", "r+") as file:
        file["features/max"][0, 0] += 1
    with h5py.File("broken-off.h5.partial", "r+") as file:
        file.attrs["complete"] = False
        file["rows_done"][0] = 0
    named = [] if "--features" in arguments else ["--features", "x.h5"]
    command = ["train", *named, "--pooling", "max", "-o", "runs", *arguments]
    assert said in fault(run(*command, code=code))
    assert not Path("runs").exists()


# Predict, info, report, weights -----------------------------------------------------------


def test_predict_and_report(birds: Path, features: Path, run: Run) -> None:
    run("train", "--features", features, "--pooling", "max", "-o", "runs")
    folder = "runs/x-max-softmax"
    assert "| max" in run("report", folder).stdout
    photo = birds / "wren" / "0.png"
    result = run("predict", folder, photo, "--weights", "random", "--top", "2")
    path, *names = result.stdout.strip().split("\t")
    assert path == str(photo)
    assert len(names) == 2
    assert {name.split()[0] for name in names} <= {"wren", "robin", "jay"}


@pytest.mark.parametrize("pooling", ["compact:64", "bilinear:8", "conv5"])
def test_a_run_remembers_what_its_pooling_took(pooling: str, birds: Path, run: Run) -> None:
    run("extract", "--data", birds, "--pooling", pooling, "-o", "x.h5")
    how = ["--classifier", "conv1x1", "--channels", "8"] if pooling == "conv5" else []
    shown = run("train", "--features", "x.h5", *how, "--label-smoothing", "0", "--json").stdout
    (result,) = json.loads(shown)["results"]
    Path("x.h5").unlink()
    with np.load(Path(result["run"]) / "test.npz") as test:
        scores, paths = test["scores"] / result["temperature"], test["paths"]
    photos = [birds / path for path in paths]
    named = run("predict", result["run"], *photos, "--weights", "random").stdout
    for line, expected in zip(named.splitlines(), scores, strict=True):
        wanted = np.sort(
            np.exp(expected - expected.max()) / np.exp(expected - expected.max()).sum()
        )
        found = [float(name.split()[-1]) for name in line.split("\t")[1:]]
        np.testing.assert_allclose(found, wanted[::-1], atol=2e-3)


def test_export(birds: Path, features: Path, run: Run) -> None:
    run("train", "--features", features, "--pooling", "bilinear", "-o", "runs")
    features.unlink()
    command = ["export", "runs/x-bilinear-softmax", "birds.keras", "--weights", "random"]
    result = run(*command)
    assert result.stdout == "birds.keras\n"
    assert result.stderr == "it takes RGB pixels, 0 to 255, 32 x 32 (squash)\n"
    assert Path("birds.keras").stat().st_size > 10**7
    assert "is there already" in fault(run(*command, code=1))
    assert "ends in .keras" in fault(run(*command[:2], "birds.h5", *command[3:], code=2))
    assert "nowhere is no run" in fault(run("export", "nowhere", "x.keras", code=1))


def test_predict_names_what_it_cannot_read(birds: Path, features: Path, run: Run) -> None:
    run("train", "--features", features, "--pooling", "max", "-o", "runs")
    Path("note.jpg").write_text("no photo")
    photos = ["note.jpg", birds / "wren" / "0.png"]
    command = ["predict", "runs/x-max-softmax", *photos, "--weights", "random"]
    result = run(*command, code=1)
    assert len(result.stdout.splitlines()) == 1
    assert "cannot read note.jpg as a photo" in result.stderr
    assert result.stderr.splitlines()[-1] == "Error: 1 of 2 files could not be read"


HOSTILE = ["<script>alert(1)</script>", "a \"quoted\" 'name'", "\u202eright to left", "n" * 200]


@pytest.fixture
def trained(birds: Path, run: Run) -> str:
    """Return a run on photos of classes with the names that strangers give."""
    for name, old in zip(HOSTILE[1:], ("wren", "robin", "jay"), strict=True):
        (birds / old).rename(birds / name)
    run("extract", "--data", birds, "--pooling", "max", "-o", "x.h5")
    run("train", "--features", "x.h5", "-C", "1", "--label-smoothing", "0")
    return "runs/x-max-softmax"


def named(result: Result) -> list[dict]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def assert_alike(answers: list[dict], others: list[dict]) -> None:
    """Compare answers but for last digits, in which a photo's place in its batch counts."""
    for answer, other in zip(answers, others, strict=True):
        assert answer["path"] == other["path"]
        assert [x["name"] for x in answer["names"]] == [x["name"] for x in other["names"]]
        probabilities = ([x["probability"] for x in found["names"]] for found in (answer, other))
        np.testing.assert_allclose(*probabilities, rtol=1e-4)


def test_a_folder_and_standard_input_are_named(birds: Path, trained: str, run: Run) -> None:
    photos = sorted(birds.rglob("*.png"))
    how = ["predict", trained, "--weights", "random", "--json"]
    in_folder = named(run(*how, birds))
    assert [Path(answer["path"]) for answer in in_folder] == photos
    listed = "".join(f"{path}\n" for path in photos)
    result = CliRunner().invoke(cli, [*how, "-"], input=listed)
    assert_alike(named(result), in_folder)
    assert_alike(named(run(*how, *photos[:2], birds)), [*in_folder[:2], *in_folder])
    (Path() / "empty").mkdir()
    assert "there are no photos in empty" in fault(run(*how, "empty", code=2))


def test_strangers_names_come_through_unharmed(birds: Path, trained: str, run: Run) -> None:
    photo = sorted(birds.rglob("*.png"))[0]
    how = ["predict", trained, photo, "--weights", "random"]
    (answer,) = named(run(*how, "--json"))
    assert sorted(x["name"] for x in answer["names"]) == sorted(HOSTILE[1:])
    assert sum(x["probability"] for x in answer["names"]) == pytest.approx(1, abs=1e-4)
    rows = list(csv.DictReader(io.StringIO(run(*how, "--csv").stdout)))
    assert [row["name"] for row in rows] == [x["name"] for x in answer["names"]]
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    assert "\u202e" not in run(*how).stdout  # on a terminal it would turn what follows
    metrics = json.loads(Path(trained, "metrics.json").read_text())
    assert metrics["n_classes"] == 3


def test_what_is_not_probable_is_unknown(birds: Path, trained: str, run: Run) -> None:
    photo = sorted(birds.rglob("*.png"))[0]
    how = ["predict", trained, photo, "--weights", "random", "--top", "1"]
    (sure,) = named(run(*how, "--json"))
    p = sure["names"][0]["probability"]
    assert sure["unknown"] is False
    for least, unknown in ((p - 0.01, False), (min(1, p + 0.01), True)):
        asked = [*how, "--min-probability", str(least)]
        (answer,) = named(run(*asked, "--json"))
        assert answer["unknown"] is unknown
        assert (run(*asked).stdout.split("\t")[1] == "unknown") is unknown
        rows = list(csv.DictReader(io.StringIO(run(*asked, "--csv").stdout)))
        assert rows[0]["unknown"] == str(unknown).lower()
        assert rows[0]["name"] == sure["names"][0]["name"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_list_on_stdin(end: str, birds: Path, trained: str, run: Run) -> None:
    photos = sorted(map(str, birds.rglob("*.png")))[:5]
    how = ["predict", trained, "-", "--weights", "random", "--json"]
    found = named(run(*how, input="".join(f"{photo}{end}" for photo in [*photos, ""])))
    assert [answer["path"] for answer in found] == photos


def test_nothing_to_name(birds: Path, trained: str, run: Run) -> None:
    Path("empty").mkdir()
    for words, line in (
        (["-"], "there are no paths on standard input"),
        (["empty"], "there are no photos in empty"),
        (["gone.jpg"], "there is no photo or folder gone.jpg"),
        (["-", birds], "- stands alone"),
    ):
        assert line in fault(run("predict", trained, *words, "--weights", "random", code=2))


def test_paths_are_taken_as_photos_are_named(birds: Path, trained: str) -> None:
    from bilinear_cli.classify.predict import predict, run_settings
    from bilinear_cli.features.network import load_network
    from bilinear_cli.features.weights import load_weights

    taken = []

    def paths() -> Iterator[Path]:
        for photo in 40 * sorted(birds.rglob("*.png"))[:1]:
            taken.append(photo)
            yield photo

    settings = run_settings(Path(trained))
    forward = load_network(load_weights("random").tensors, settings)
    assert settings.batch_size == 8
    next(predict(Path(trained), paths(), forward))
    assert len(taken) <= 4 * 8  # what is read ahead


def test_a_bad_photo_whose_name_is_no_text(trained: str, run: Run) -> None:
    bad = os.fsdecode(b"caf\xe9.jpg")
    Path(bad).write_text("no photo")
    for form in ("--json", "--csv"):
        result = run("predict", trained, bad, "--weights", "random", form, code=1)
        assert "caf\ufffd.jpg" in result.stdout
        assert "\udce9" not in result.stdout


def test_bad_photos_in_every_form(birds: Path, trained: str, run: Run) -> None:
    Path("note.jpg").write_text("no photo")
    photo = sorted(birds.rglob("*.png"))[0]
    how = ["predict", trained, "note.jpg", photo, "--weights", "random"]
    bad, good = named(run(*how, "--json", code=1))
    assert bad["path"] == "note.jpg"
    assert "as a photo" in bad["error"]
    assert good["names"]
    rows = list(csv.DictReader(io.StringIO(run(*how, "--csv", code=1).stdout)))
    assert "as a photo" in rows[0]["error"]
    assert not rows[0]["name"]
    assert len(rows) == 4


def test_probabilities_are_calibrated(trained: str) -> None:
    metrics = json.loads(Path(trained, "metrics.json").read_text())
    with np.load(Path(trained, "oof.npz")) as oof:
        scores, labels = oof["scores"].astype(float), oof["labels"]
    assert metrics["temperature"] == pytest.approx(fit_temperature(scores, labels), rel=1e-3)
    for when in ("before", "after"):
        assert {"log_loss", "brier", "ece", "ece_ci95", "bins"} == set(metrics["calibration"][when])
    with np.load(Path(trained, "model.npz")) as model:
        assert float(model["temperature"]) == pytest.approx(metrics["temperature"])


def test_explain(birds: Path, features: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("train", "--features", features, "-C", "1", "--label-smoothing", "0")  # max and bilinear
    photo = birds / "wren" / "0.png"
    how = ["explain", "runs/x-bilinear-softmax", photo, "--weights", "random"]
    lines = run(*how, "--class", "jay").stdout.splitlines()
    assert lines[0].startswith("jay 0.")
    score, intercept, places = map(float, re.findall(r"-?\d+\.\d+", lines[1]))
    assert score == pytest.approx(intercept + places, abs=2e-4)
    assert len(lines) == 14
    assert lines[-1] == "0-explained.png"
    assert Path("0-explained.png").stat().st_size > 100
    with monkeypatch.context() as patch:
        patch.setattr("bilinear_cli.cli.photos.load_network", None)  # not needed to refuse
        line = fault(run("explain", "runs/x-max-softmax", photo, "--weights", "random", code=1))
        assert line.startswith("explain is offered for bilinear")
        assert "no class is called 'robbin'" in fault(run(*how, "--class", "robbin", code=2))
    Path("no").write_text("no folder")
    assert "cannot write no/x.png" in fault(run(*how, "-o", "no/x.png", code=1))
    assert "cannot write x.txt" in fault(run(*how, "-o", "x.txt", code=2))
    assert not [*Path().glob(".x*")]


def test_labels_of_a_run_are_mended(birds: Path, features: Path, run: Run) -> None:
    quick = ["train", "--features", features, "--pooling", "max", "-C", "1", "--json"]
    before = json.loads(run(*quick).stdout)["results"][0]
    table = Path("runs/x-max-softmax/labels.csv").read_text()
    lines = table.splitlines()
    assert lines[0] == "path,label,split,group"
    assert len(lines) == 1 + 18
    assert {line.split(",")[1] for line in lines[1:]} == {"wren", "robin", "jay"}
    (birds / "mended.csv").write_text(table)
    same = json.loads(run(*quick, "--data", birds / "mended.csv").stdout)["results"][0]
    assert (same["n_train"], same["n_test"], same["oof_log_loss"]) == (
        before["n_train"],
        before["n_test"],
        pytest.approx(before["oof_log_loss"]),
    )
    (birds / "mended.csv").write_text(table.replace("0.png,jay", "0.png,wren"))
    mended = json.loads(run(*quick, "--data", birds / "mended.csv").stdout)["results"][0]
    assert mended["oof_log_loss"] != pytest.approx(before["oof_log_loss"])


def test_predict_without_a_run(run: Run) -> None:
    assert "nowhere is no run of bilinear train" in fault(
        run("predict", "nowhere", "a.jpg", code=1)
    )


def test_info(features: Path, run: Run) -> None:
    shown = run("info", features).stdout
    for text in ("131328 float16", "upper-triangle", "train ", "image_size", "vgg16"):
        assert text in shown
    facts = dict(line.split("  ", 1) for line in shown.splitlines())
    assert facts["train"].strip() == "12 photos, 4 to 4 of a class"
    assert facts["test"].strip() == "6 photos, 2 to 2 of a class"
    assert facts["size"].strip() == f"{features.stat().st_size:,} bytes"
    assert "class wren" not in shown
    assert re.search(
        r"^class wren +4 train, 2 test$", run("info", features, "--by-class").stdout, re.M
    )


def test_info_of_a_run(features: Path, run: Run) -> None:
    run("train", "--features", features, "--pooling", "max", "-C", "1", "--label-smoothing", "0")
    shown = run("info", "runs/x-max-softmax").stdout
    assert re.search(r"^train +12 photos, 4 to 4 of a class$", shown, re.M)
    assert re.search(r"^top1_ci95 +0\.\d+ to (1|0\.\d+)$", shown, re.M)
    assert "class wren" not in shown
    counted = run("info", "runs/x-max-softmax", "--by-class").stdout
    assert re.search(r"^class wren +4 train, 2 test$", counted, re.M)
    misspelt = fault(run("report", "runs/x-max-sofmax", code=1))
    assert misspelt.endswith("(did you mean runs/x-max-softmax?)")
    for text in ("softmax", "temperature", "classes", "features: backbone", "features: command"):
        assert text in shown
    assert "is no run" in fault(run("info", "birds", code=1))


def test_info_is_quick_and_needs_no_tensorflow(features: Path) -> None:
    code = (
        "import sys; from bilinear_cli.cli import cli\n"
        "try: cli(['info', sys.argv[1]])\n"
        "except SystemExit: pass\n"
        "print({'tensorflow', 'keras', 'sklearn', 'scipy'} & set(sys.modules), file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, features]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == "set()\n"


def test_weights_names_the_licence(run: Run, real_cache: None) -> None:
    shown = run("weights").stdout
    assert "CC BY 4.0" in shown
    assert "nothing: the published release" in shown
    assert "98fdd1e15f8015744b35f21229146b494216fb1051982559233b885e48776ac5" in shown


def test_an_interrupted_run_says_how_to_go_on(
    birds: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bilinear_cli.features.extract.extract", interrupt)
    line = fault(run("extract", "--data", birds, code=130))
    assert line == "interrupted; the same command goes on from there"
    line = fault(run("extract", "--data", birds, "--overwrite", code=130))
    assert line == "interrupted; the same command without --overwrite goes on from there"


def test_maps_alone_are_nothing_to_train_on(birds: Path, run: Run) -> None:
    run("extract", "--data", birds, "--pooling", "conv5", "-o", "maps.h5")
    line = fault(run("train", "--features", "maps.h5", code=2))
    assert line == "maps.h5 holds maps alone: train --classifier conv1x1 on them"


def test_a_run_that_is_not_ours(run: Run) -> None:
    Path("other").mkdir()
    Path("other/metrics.json").write_text("[]")
    assert "other is no run of bilinear train" in fault(run("report", "other", code=1))


def test_a_set_of_bad_photos_alone(birds: Path, run: Run) -> None:
    for path in birds.rglob("*.png"):
        path.write_text(f"no photo {path}")
    options = ["--data", birds, "--pooling", "max", "-o", "x.h5", "--skip-bad"]
    assert "can be read as a photo" in run("extract", *options, code=1).stderr
    assert not Path("x.h5").exists()


# The real thing ---------------------------------------------------------------------------


def test_the_two_commands_on_the_sample(
    tmp_path: Path, real_cache: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Typed as they stand in an empty folder, with VGG16's weights and the drawn moths."""
    for name in [name for name in os.environ if name.startswith("BILINEAR_EXTRACT")]:
        monkeypatch.delenv(name)
    shell = {"cwd": tmp_path, "check": True, "capture_output": True, "text": True}
    bilinear = str(Path(sys.executable).parent / "bilinear")
    made = subprocess.run([bilinear, "extract", "--pooling", "bilinear", "-o", "x.h5"], **shell)
    assert made.stdout == "x.h5\n"
    assert "absl" not in made.stderr
    done = subprocess.run([bilinear, "train", "--features", "x.h5", "--json"], **shell)
    (found,) = json.loads(done.stdout)["results"]
    assert (found["n_train"], found["n_test"], found["n_classes"]) == (240, 240, 12)
    assert found["top1"] > 0.8
