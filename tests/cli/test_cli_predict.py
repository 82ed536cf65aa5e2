"""`bilinear predict`: names in three forms, of files, folders and lists, and bad photos."""

import codecs
import csv
import io
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from support.commands import error_line, run_command
from support.errors import assert_names
from support.network import small_network as load_small_network
from support.runs import change_model, spread_novelty

from bilinear_cli.photos.lists.paths import read_paths
from bilinear_cli.predict import predict
from bilinear_cli.run import load_model, read_recipe, read_scores

pytestmark = pytest.mark.usefixtures("small_network")


def answers_of(result: Result) -> list[dict]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def rows_of(result: Result) -> list[dict]:
    return list(csv.DictReader(io.StringIO(result.stdout)))


def assert_same_answers(answers: list[dict], expected: list[dict]) -> None:
    """Compare answers but for last digits, which depend on a photo's place in its batch."""
    for answer, reference in zip(answers, expected, strict=True):
        assert answer["path"] == reference["path"]
        assert [x["name"] for x in answer["names"]] == [x["name"] for x in reference["names"]]
        probabilities = ([x["probability"] for x in a["names"]] for a in (answer, reference))
        np.testing.assert_allclose(*probabilities, rtol=1e-4)


def test_a_line_has_the_path_and_the_likeliest_names(birds: Path, run: Path) -> None:
    photo = birds / "wren" / "0.png"
    line = run_command("predict", run, photo, "--top", "2").stdout.strip()
    path, *names, rarity = line.split("\t")
    assert path == str(photo)
    assert rarity.startswith("1 in ")
    assert len(names) == 2
    assert {name.split()[0] for name in names} <= {"wren", "robin", "jay"}


def test_files_folders_and_a_list_on_stdin_get_the_same_names(birds: Path, run: Path) -> None:
    photos = sorted(birds.rglob("*.png"))
    from_folder = answers_of(run_command("predict", run, "--json", birds))
    assert [Path(answer["path"]) for answer in from_folder] == photos
    from_both = answers_of(run_command("predict", run, "--json", *photos[:2], birds))
    assert_same_answers(from_both, [*from_folder[:2], *from_folder])
    for end in ("\n", "\r\n"):
        lines = "".join(f"{path}{end}" for path in [*photos, ""])
        from_list = answers_of(run_command("predict", run, "--json", "-", input=lines))
        assert_same_answers(from_list, from_folder)


def test_what_a_folder_has_besides_photos_is_said(birds: Path, run: Path) -> None:
    (birds / "wren" / "a.mov").touch()
    result = run_command("predict", run, "--json", birds)
    assert len(answers_of(result)) == 18
    (line,) = [line for line in result.stderr.splitlines() if ".mov" in line]
    assert_names(line, birds, "wren/a.mov", 1)


def test_class_names_with_control_characters_are_kept_but_not_printed(
    birds: Path, tmp_path: Path
) -> None:
    names = ["a \"quoted\" 'name'", "\u202eright to left", "n" * 200]
    for name, species in zip(names, ("wren", "robin", "jay"), strict=True):
        shutil.move(birds / species, birds / name)
    run_command("extract", "--data", birds, "--pooling", "max", "-o", "x.h5")
    run_command("train", "--features", "x.h5")
    run = "runs/x-max-softmax"
    assert json.loads(Path(run, "metrics.json").read_text())["n_classes"] == 3
    command = ["predict", run, sorted(birds.rglob("*.png"))[0]]
    (answer,) = answers_of(run_command(*command, "--json"))
    assert sorted(x["name"] for x in answer["names"]) == sorted(names)
    assert sum(x["probability"] for x in answer["names"]) == pytest.approx(1, abs=1e-4)
    rows = rows_of(run_command(*command, "--csv"))
    assert [row["name"] for row in rows] == [x["name"] for x in answer["names"]]
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    assert "\u202e" not in run_command(*command).stdout  # a terminal would reverse the rest


def test_an_improbable_name_is_unknown(birds: Path, run: Path) -> None:
    command = ["predict", run, birds / "wren" / "0.png", "--top", "1"]
    (answer,) = answers_of(run_command(*command, "--json"))
    name, p = answer["names"][0]["name"], answer["names"][0]["probability"]
    assert answer["unknown"] is False
    for threshold, unknown in ((p - 0.01, False), (min(1, p + 0.01), True)):
        limited = [*command, "--min-probability", threshold]
        (answer,) = answers_of(run_command(*limited, "--json"))
        assert answer["unknown"] is unknown
        line = run_command(*limited).stdout
        assert line.split("\t")[1] == ("unknown" if unknown else name)
        (row,) = rows_of(run_command(*limited, "--csv"))
        assert (row["unknown"], row["name"]) == (str(unknown).lower(), name)


def test_a_rare_photo_is_unknown_in_every_form(birds: Path, run: Path) -> None:
    spread_novelty(run, read_scores(run, "test")["scores"])
    model, photos = load_model(run), sorted(birds.rglob("*.png"))
    expected = list(predict(model, read_recipe(run), photos, load_small_network()))
    rarity, p = (
        np.array([getattr(x, name) for x in expected]) for name in ("rarity", "probability")
    )
    limit, min_p = (np.unique(x)[3:5].mean() for x in (rarity, p))  # between two photos
    rare = ["--unknown", limit]
    for options, unknown in (
        ([], rarity < 0),
        (rare, rarity < limit),
        ([*rare, "--min-probability", min_p], (rarity < limit) | (p < min_p)),
    ):
        command = ["predict", run, birds, "--top", "1", *options]
        answers = answers_of(run_command(*command, "--json"))
        rows = rows_of(run_command(*command, "--csv"))
        assert [x["unknown"] for x in answers] == unknown.tolist()
        assert [row["unknown"] == "true" for row in rows] == unknown.tolist()
        for forms in (answers, rows):
            np.testing.assert_allclose([float(x["rarity"]) for x in forms], rarity, atol=1e-6)
        lines = [line.split("\t") for line in run_command(*command).stdout.splitlines()]
        assert [line[-1] for line in lines] == [f"1 in {round(1 / x)}" for x in rarity]
        names = ["unknown" if x else y.name for x, y in zip(unknown, expected, strict=True)]
        assert [line[1:-2] for line in lines] == [[x] if options else [] for x in names]


def test_unknown_needs_photos_to_compare_with(
    birds: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["predict", run, birds / "wren" / "0.png", "--unknown", "0.01"]
    (line,) = [x for x in run_command(*command).stderr.splitlines() if "--unknown" in x]
    assert_names(line, run, 12, "1 in 13", "0.08")
    change_model(run, novelty=None)  # as in earlier versions
    error_line(run_command(*command, code=1), run, "--unknown")
    with monkeypatch.context() as patch:  # before weights are fetched
        patch.setattr("bilinear_cli.run_network.Network", None)
        error_line(run_command("export", run, "x.keras", "--rarity", code=1), run, "--rarity")
    command = command[:3]
    assert "1 in" not in run_command(*command).stdout
    (answer,) = answers_of(run_command(*command, "--json"))
    assert answer["rarity"] is None
    assert {row["rarity"] for row in rows_of(run_command(*command, "--csv"))} == {""}


@pytest.mark.parametrize(
    ("code", "command", "facts"),
    [
        (1, ["nowhere", "birds"], ["nowhere"]),
        (2, ["runs/x-max-softmax", "-"], []),
        (2, ["runs/x-max-softmax", "empty"], ["empty", ".mov", 1]),
        (2, ["runs/x-max-softmax", "gone.jpg"], ["gone.jpg"]),
        (2, ["runs/x-max-softmax", "gone.jpg", "empty"], ["gone.jpg"]),
        (2, ["runs/x-max-softmax", "-", "birds"], ["-"]),
    ],
)
def test_a_missing_run_or_photo_is_refused_before_the_network_is_loaded(
    code: int, command: list[str], facts: list[str], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("empty").mkdir()
    Path("empty/a.mov").touch()
    monkeypatch.setattr("bilinear_cli.networks.network.Network.load", None)
    error_line(run_command("predict", *command, code=code), *facts)


def test_paths_are_read_while_photos_are_named(birds: Path, run: Path) -> None:
    read = []

    def paths() -> Iterator[Path]:
        for photo in 40 * [birds / "wren" / "0.png"]:
            read.append(photo)
            yield photo

    recipe = read_recipe(run)
    assert recipe.batch_size == 8
    next(predict(load_model(run), recipe, paths(), load_small_network()))
    assert len(read) <= 4 * 8  # what is read ahead


def test_bad_photos_are_reported_in_every_form(birds: Path, run: Path) -> None:
    Path("note.jpg").write_text("no photo")
    command: list[Any] = ["predict", run, "note.jpg", birds / "wren" / "0.png"]
    result = run_command(*command, code=1)
    assert len(result.stdout.splitlines()) == 1
    assert [line for line in result.stderr.splitlines() if "note.jpg" in line]
    assert_names(result.stderr.splitlines()[-1], "Error: ", 1, 2)
    bad, good = answers_of(run_command(*command, "--json", code=1))
    assert bad["path"] == "note.jpg"
    assert "note.jpg" in bad["error"]
    assert good["names"]
    bad, *good = rows_of(run_command(*command, "--csv", code=1))
    assert "note.jpg" in bad["error"]
    assert not bad["name"]
    assert len(good) == 3


def test_a_name_that_is_not_utf8_keeps_its_bytes(
    birds: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # pytest-xdist cannot send the captured log line, which has this name.
    monkeypatch.setattr(logging.getLogger("bilinear_cli"), "propagate", False)
    bad, good = (os.fsdecode(name) for name in (b"caf\xe9.jpg", b"\xff.png"))
    Path(bad).write_text("no photo")
    shutil.copy(birds / "wren" / "0.png", good)
    command = ["predict", run, bad, good]
    result = run_command(*command, code=1)
    assert result.stdout.startswith("\\xff.png\t")
    assert [line for line in result.stderr.splitlines() if "caf\\xe9.jpg" in line]
    answers = answers_of(run_command(*command, "--json", code=1))
    assert [answer["path"] for answer in answers] == ["caf\\xe9.jpg", "\\xff.png"]
    rows = rows_of(run_command(*command, "--csv", code=1))
    assert {row["path"] for row in rows} == {"caf\\xe9.jpg", "\\xff.png"}


def test_a_list_with_nuls_as_find_print0_writes_it(birds: Path, run: Path) -> None:
    photos = [birds / "a\nb.png", birds / "wren" / "0.png"]
    shutil.copy(photos[1], photos[0])
    data = b"".join(bytes(photo) + b"\0" for photo in photos)
    answers = answers_of(run_command("predict", run, "--json", "-", input=data))
    assert [Path(answer["path"]) for answer in answers] == photos


@pytest.mark.parametrize("separator", [b"\0", b"\n", b"\r\n"])
def test_a_list_that_a_slow_program_writes(separator: bytes) -> None:
    class Slow(io.BytesIO):
        def read1(self, size: int | None = -1) -> bytes:
            return self.read(1)

    names = [b"a b.png", b"c.png"]
    for data in (codecs.BOM_UTF8 + separator.join(names), names[0] + separator, b"", b"a b.png"):
        expected = [Path(os.fsdecode(x)) for x in names if x in data]
        assert list(read_paths(Slow(data))) == expected


def test_of_as_many_line_breaks_as_nuls_the_last_separates() -> None:
    for data, names in ((b"a\nb\0", ["a\nb"]), (b"a\0b\n", ["a\0b"])):
        assert list(read_paths(io.BufferedReader(io.BytesIO(data)))) == [*map(Path, names)]


@pytest.mark.parametrize("bad", ["nul\0.png", "birds", "gone.png", "x" * 300])
def test_one_bad_name_stops_no_list(bad: str, birds: Path, run: Path) -> None:
    photos = [birds / "wren" / f"{i}.png" for i in range(2)]
    data = "\ufeff" + "\n".join(map(str, [photos[0], bad, photos[1]]))  # with Windows's mark
    result = run_command("predict", run, "--json", "-", input=data, code=1)
    answers = answers_of(result)
    assert [answer["path"] for answer in answers] == [str(photos[0]), bad, str(photos[1])]
    assert ["names" in answer for answer in answers] == [True, False, True]
    assert ("a folder" in answers[1]["error"]) == (bad == "birds")
    assert_names(result.stderr.splitlines()[-1], 1, 3)


def test_one_bad_argument_stops_no_batch(birds: Path, run: Path) -> None:
    Path("empty").mkdir()
    photo = str(birds / "wren" / "0.png")
    result = run_command("predict", run, "gone.png", "empty", photo, "--json", code=1)
    assert [answer["path"] for answer in answers_of(result)] == ["gone.png", photo]
    assert [line for line in result.stderr.splitlines() if "empty" in line]
    assert_names(result.stderr.splitlines()[-1], 1, 2)


def test_a_list_in_utf16_is_refused(run: Path) -> None:
    error_line(run_command("predict", run, "-", input="a.png".encode("utf-16"), code=2), "UTF-16")


def test_a_cell_like_a_formula_is_warned_of_once(birds: Path, run: Path) -> None:
    for name in ("=a.png", "-b.png"):
        shutil.copy(birds / "wren" / "0.png", name)
    result = run_command("predict", run, "--csv", "--", "=a.png", "-b.png")
    assert [row["path"] for row in rows_of(result)] == [*3 * ["=a.png"], *3 * ["-b.png"]]
    (line,) = [line for line in result.stderr.splitlines() if "formula" in line]
    assert_names(line, "=a.png")
