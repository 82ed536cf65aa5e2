"""`--boxes` through the commands: a run of cropped photos, and what each command does with it."""

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image
from support.boxes import box_table, megadetector_file
from support.commands import error_line, run_command, set_quick_options
from support.errors import assert_names
from support.feature_files import contents
from support.network import use_small_network

from bilinear_cli import extract, load_run
from bilinear_cli.errors import UsageError
from bilinear_cli.photos.pixels.images import DecodedPhoto
from bilinear_cli.run import read_scores
from bilinear_cli.store import FeatureFile

pytestmark = pytest.mark.usefixtures("small_network")

LEFT, RIGHT = [0.0, 0.25, 0.5, 0.5], [0.5, 0.25, 0.5, 0.5]
NAMES = [f"{name}/{i}.png" for name in ("jay", "robin", "wren") for i in range(6)]
# Each first photo has two animals, each second one a person, each third one nothing.
DETECTIONS = [
    [("1", 0.9, LEFT), ("1", 0.6, RIGHT), ("1", 0.1, [0.2, 0.2, 0.2, 0.2])],
    [("1", 0.8, LEFT), ("2", 0.9, [0, 0, 1, 1])],
    [],
    *[[("1", 0.8, RIGHT)]] * 3,
]
EXTRACT = ["extract", "--data", "birds", "--boxes", "md.json", "--pooling", "bilinear"]


@pytest.fixture(scope="module")
def cropped(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with birds/, md.json from another computer, y.h5 and its run."""
    folder = tmp_path_factory.mktemp("cropped")
    shutil.copytree(prepared / "birds", folder / "birds")
    detections = {f"D:\\cam\\birds\\{name}": DETECTIONS[int(name[-5])] for name in NAMES}
    megadetector_file(folder / "md.json", {x.replace("/", "\\"): y for x, y in detections.items()})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        use_small_network(patch)
        set_quick_options(patch, batch_size=8)
        patch.setenv("BILINEAR_EXTRACT_PRECISION", "float32")
        run_command(*EXTRACT, "-o", "y.h5")
        run_command("train", "--features", "y.h5")
    return folder


@pytest.fixture
def run(cropped: Path, tmp_path: Path) -> str:
    """Return the run, in the working folder with all that belongs to it."""
    shutil.copytree(cropped, tmp_path, dirs_exist_ok=True)
    return "runs/y-bilinear-softmax"


def predict(run: str, *words: Any, code: int = 0) -> list[dict]:
    result = run_command("predict", run, *words, "--json", code=code)
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_features_and_their_run(run: str) -> None:
    with FeatureFile(Path("y.h5")) as file:
        assert len(file.labels) == 21
        assert np.bincount(file.photo).tolist() == [2, 1, 1, 1, 1, 1] * 3
        assert file.box is not None
        assert file.box[:4].tolist() == [LEFT, RIGHT, LEFT, [0, 0, 0, 0]]
    assert "all, margin 0.1, fractions" in run_command("info", "y.h5").stdout
    metrics = json.loads(Path(run, "metrics.json").read_text())
    assert (metrics["n_test"], metrics["n_train"]) == (6, 12)
    n_rows = 0
    for name, n in (("test", 6), ("oof", 12)):
        with np.load(f"{run}/{name}.npz") as arrays:
            scores, photo = arrays["scores"], arrays["photo"]
        averaged, n_rows = read_scores(Path(run), name)["scores"], n_rows + len(photo)
        assert len(averaged) == n
        for i, number in enumerate(np.unique(photo)):
            np.testing.assert_allclose(averaged[i], scores[photo == number].mean(axis=0), 1e-6)
    assert n_rows == 21


def test_a_line_for_each_box(run: str) -> None:
    answers = predict(run, "birds/jay", "--boxes", "md.json")
    assert [(x["path"][-5], x.get("box")) for x in answers[:4]] == [
        *[("0", LEFT), ("0", RIGHT), ("1", LEFT), ("2", None)]
    ]
    command = ["predict", run, "birds/jay", "--boxes", "md.json", "--top", "1"]
    lines = run_command(*command).stdout.splitlines()
    assert [line.split("\t")[0] for line in lines[:4]] == [
        "birds/jay/0.png [0, 0.25, 0.5, 0.5]",
        "birds/jay/0.png [0.5, 0.25, 0.5, 0.5]",
        "birds/jay/1.png [0, 0.25, 0.5, 0.5]",
        "birds/jay/2.png",
    ]
    rows = [*csv.DictReader(io.StringIO(run_command(*command, "--csv").stdout))]
    assert [row["box"] for row in rows[1:4]] == ["0.5 0.25 0.5 0.5", "0 0.25 0.5 0.5", ""]
    assert [row["name"] for row in rows] == [x["names"][0]["name"] for x in answers]


def test_a_box_is_predicted_as_the_photo_that_was_cropped(run: str) -> None:
    """The photos have 32 x 24 pixels: the box and a tenth of it are 0 to 18 and 5 to 19."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 8
    photo = Image.open("birds/jay/0.png")
    photo.crop((0, 5, 18, 19)).save("crop.png")
    photo.rotate(-90, expand=True).save("birds/jay/0.png", exif=exif)  # stored sideways
    (left, right), (whole,) = (
        predict(run, "birds/jay/0.png", "--boxes", "md.json"),
        predict(run, "crop.png"),
    )
    assert left["names"] == whole["names"] != right["names"]


def test_photos_without_a_box(run: str) -> None:
    command = [run, *("birds/jay/1.png", "birds/jay/2.png"), "--boxes", "md.json"]
    assert len(predict(*command)) == 2
    assert len(predict(*command, "--no-box", "skip")) == 1
    assert len(predict(*command, "--min-confidence", "0.9", "--no-box", "whole")) == 2
    words = ["predict", *command, "--no-box"]
    error_line(run_command(*words, "stop", code=1), "md.json", "jay/2.png", "--no-box", 1)
    only = [*words[:2], *words[3:]]
    error_line(run_command(*only, "skip", code=1), "md.json")


def test_the_python_interface(run: str) -> None:
    answers = predict(run, "birds/jay/0.png", "--boxes", "md.json")
    loaded = load_run(run)
    first, second = loaded.predict("birds/jay/0.png", boxes="md.json")
    assert [list(x.box[:4]) for x in (first, second)] == [LEFT, RIGHT]
    assert [x.name for x in (first, second)] == [x["names"][0]["name"] for x in answers]
    assert [x.photo for x in (first, second)] == ["birds/jay/0.png"] * 2
    options = {"image_size": 32, "precision": "float32", "batch_size": 8, "weights": "random"}
    extract("birds", pooling="bilinear", boxes=Path("md.json"), output="x.h5", **options)
    ours, theirs = (
        contents(Path(x), ("created", "command", "data_root")) for x in ("x.h5", "y.h5")
    )
    assert ours == theirs
    for photos, options in (
        ([np.zeros((9, 9, 3), np.uint8)], {"boxes": "md.json"}),
        ("y.h5", {"boxes": "md.json"}),
        ("birds/jay/0.png", {"no_box": "skip"}),
    ):
        with pytest.raises(UsageError):
            loaded.predict(photos, **options)
    assert len(loaded.predict("y.h5")) == 18  # of each photo the mean


def test_whole_photos_and_crops_have_their_own_default_file(run: str) -> None:
    paths = [
        run_command(*words).stdout.strip() for words in (EXTRACT, [*EXTRACT[:3], *EXTRACT[5:]])
    ]
    assert paths[0].endswith("-boxes.h5")
    assert paths[1] == paths[0].replace("-boxes", "")


def test_rows_need_the_margin_of_the_run(run: str) -> None:
    """The boxes of a table are in pixels, of which one is chosen: their rows suit the run."""
    box_table(Path("boxes.csv"), {f"birds/{name}": [(0, 6, 16, 12)] for name in NAMES})
    command = ["extract", "--data", "birds", "--boxes", "boxes.csv", "--pooling", "bilinear"]
    run_command(*command, "--box", "largest", "-o", "z.h5")
    assert len(load_run(run).predict("z.h5")) == 18
    run_command(*command, "--margin", "0.2", "-o", "w.h5")
    with pytest.raises(Exception, match=r"margin 0\.2.*margin 0\.1"):
        load_run(run).predict("w.h5")


@pytest.mark.parametrize("command", ["predict", "explain"])
def test_a_run_and_photos_that_differ_in_crops(command: str, run: str, prepared: Path) -> None:
    photo = "birds/jay/0.png"
    assert_names(_stderr(command, run, photo), run, "--boxes")
    whole = prepared / "runs" / "x-bilinear-softmax"
    stderr = _stderr(command, whole, photo, "--boxes", "md.json")
    assert [line for line in stderr.splitlines() if str(whole) in line]
    assert str(run) not in _stderr(command, run, photo, "--boxes", "md.json")


def _stderr(*words: Any) -> str:
    return run_command("-q", *words).stderr.strip()


def test_explain_shows_the_crop_at_its_place(run: str) -> None:
    Image.new("RGB", (320, 240), "white").save("birds/jay/3.png")
    run_command("explain", run, "birds/jay/3.png", "--boxes", "md.json", "-o", "why.png")
    picture = np.asarray(Image.open("why.png")).astype(int)
    assert picture.shape == (240, 320, 3)
    inside = np.zeros((240, 320), bool)
    inside[48:192, 144:] = True  # 0.25 to 0.75 and 0.5 to 1, and a tenth of their lengths
    assert (picture[~inside] == 127).all()
    assert (picture[inside].max(axis=1) > 127).all()


def test_thumbnails_of_a_report_are_crops(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = {}

    def decode(_: bytes, path: Path, *arguments: Any, crop: Any = None) -> Any:
        shown[path.parent.name + "/" + path.name] = crop and [*crop.box[:4]]
        return DecodedPhoto([np.zeros((9, 9, 3), np.uint8)], (9, 9), [])

    monkeypatch.setattr("bilinear_cli.report.page.decode_photo", decode)
    run_command("report", run, "-o", "r.html")
    first = {0: LEFT, 1: LEFT, 2: None}
    assert shown
    assert shown == {path: first.get(int(path[-5]), RIGHT) for path in shown}


def test_check(run: str) -> None:
    content = run_command("check", "--data", "birds", "--boxes", "md.json", "--json").stdout
    summary = json.loads(content)
    assert summary["photos"] == 18
    assert not summary["unreadable"]
    small = {x["path"]: x["reason"] for x in summary["odd"] if x["kind"] == "small"}
    assert_names(small["jay/0.png"], "18 x 14")
    assert_names(small["jay/2.png"], "32 x 24")
    boxes = {"jay/0.png": [(30, 20, 9, 9)], "jay/1.png": [(0, 0, 24, 20), (0, 0, 9, 9)]}
    box_table(Path("boxes.csv"), boxes)
    result = run_command("check", "--data", "birds", "--boxes", "boxes.csv", "--json", code=1)
    summary = json.loads(result.stdout)
    (bad,) = summary["unreadable"]
    assert_names(str(bad), "jay/0.png", "30, 20, 9, 9")
    assert_names(*(x["reason"] for x in summary["odd"] if x["path"] == "jay/1.png"), "10 x 10")


@pytest.mark.parametrize(
    ("code", "command", "facts"),
    [
        (2, ["extract", "--data", "birds", "--margin", "0.2"], ["--margin", "--boxes"]),
        (2, ["check", "--data", "birds", "--box", "largest"], ["--box", "--boxes"]),
        (2, ["predict", "RUN", "birds", "--no-box", "skip"], ["--no-box", "--boxes"]),
        (2, ["explain", "RUN", "a.png", "--min-confidence", "0.5"], ["--min-confidence"]),
        (2, ["extract", "--data", "birds", "--boxes", ""], ["--boxes"]),
        (2, ["extract", "--maps", "y.h5", "--boxes", "md.json"], ["--boxes", "--maps"]),
        (1, ["extract", "--data", "birds", "--boxes", "cut.json"], ["cut.json"]),
        (1, ["extract", "--data", "birds", "--boxes", "other.csv"], ["other.csv", "cat/1.png"]),
        (1, ["predict", "RUN", "birds", "--boxes", "none.json"], ["none.json"]),
        (1, [*EXTRACT, "-o", "y.h5", "--margin", "0.3"], ["y.h5", "margin 0.1", "margin 0.3"]),
        (1, [*EXTRACT, "-o", "y.h5", "--min-confidence", "0.05"], ["y.h5", "--overwrite"]),
    ],
)
def test_bad_input_is_one_line(code: int, command: list[str], facts: list[str], run: str) -> None:
    Path("cut.json").write_text(Path("md.json").read_text()[:-40])
    box_table(Path("other.csv"), {"cat/1.png": [(1, 2, 3, 4)]})
    shutil.copy("birds/jay/0.png", "a.png")
    words = [run if word == "RUN" else word for word in command]
    error_line(run_command(*words, code=code), *facts)
