"""Tests of `check`: what is planted in a photo set is found, and nothing else."""

import errno
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from click.testing import Result
from PIL import Image, ImageEnhance
from support.commands import run_command
from support.errors import assert_names
from support.network import random_kernel, small_network, use_small_network
from support.photos import class_folders, make_photo

from bilinear_cli.extraction.forecast import forecast_extraction
from bilinear_cli.extraction.options import ExtractOptions
from bilinear_cli.networks.network import Network
from bilinear_cli.photos import audit
from bilinear_cli.photos.audit_report import format_audit
from bilinear_cli.photos.photo_set import load_photo_set

N_PHOTOS = 12
HOSTILE = "<script>\x1b[31m'\"\u202egnp"


def scene(seed: int) -> Image.Image:
    """Return a photo of soft shapes, 320 x 240 pixels."""
    noise = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
    return Image.fromarray(noise).resize((320, 240), Image.Resampling.BICUBIC)


def save_scene(path: Path, seed: int, quality: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scene(seed).save(path, quality=quality)


@pytest.fixture(autouse=True)
def _small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_network(monkeypatch)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Return a path for `--groups`."""
    return tmp_path / "g.csv"


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """Write 12 different photos: two classes, train and test."""
    folder = tmp_path / "birds"
    for i in range(N_PHOTOS):
        split, name = ("train", "test")[i % 2], ("wren", "robin")[i // 2 % 2]
        save_scene(folder / split / name / f"{i}.jpg", i)
    return folder


def check(*arguments: str | Path, code: int = 0) -> Result:
    return run_command("-q", "check", *arguments, code=code)


def assert_error(result: Result, *facts: object) -> None:
    """Check that stderr is one line, and that it names these facts."""
    assert_names(result.stderr.rstrip("\n"), *facts)


def audit_json(folder: Path | str, *arguments: str | Path, code: int = 0) -> dict:
    """Return what `check --json` prints."""
    (line,) = check("--data", folder, "--json", *arguments, code=code).stdout.splitlines()
    return json.loads(line)


def paths(duplicates: dict) -> list[str]:
    return [photo["path"] for photo in duplicates["photos"]]


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "stored again": lambda image: image,
    "smaller": lambda image: image.resize((120, 90)),
    "larger": lambda image: image.resize((640, 480)),
    "cropped by 2 % at each edge": lambda image: image.crop((6, 5, 314, 235)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "grey": lambda image: image.convert("L"),
}


def test_what_is_left_out_is_listed(birds: Path) -> None:
    (birds / "train/wren/a.mov").touch()
    assert audit_json(birds)["left_out"] == [
        {"reason": ".mov files", "count": 1, "paths": ["train/wren/a.mov"]}
    ]


# Duplicates -------------------------------------------------------------------------------


def test_different_photos_are_no_duplicates(birds: Path) -> None:
    result = audit_json(birds)
    assert result["near_duplicates"] == result["exact_duplicates"] == result["unreadable"] == []
    assert result["odd"] == result["alike_classes"] == []


def test_a_copied_file_is_an_exact_duplicate_across_train_and_test(birds: Path) -> None:
    shutil.copy(birds / "train/wren/0.jpg", birds / "test/wren/copy.png")
    result = audit_json(birds)
    (duplicates,) = result["exact_duplicates"]
    assert paths(duplicates) == ["train/wren/0.jpg", "test/wren/copy.png"]
    assert (duplicates["across_splits"], duplicates["across_classes"]) == (True, False)
    assert result["near_duplicates"] == []


@pytest.mark.parametrize("edit", COPIES)
@pytest.mark.slow
def test_a_copy_that_was_worked_on_is_a_near_duplicate(birds: Path, edit: str) -> None:
    with Image.open(birds / "train/wren/0.jpg") as image:
        COPIES[edit](image).save(birds / "test/robin/copy.jpg", quality=50)
    result = audit_json(birds)
    (duplicates,) = result["near_duplicates"]
    assert paths(duplicates) == ["train/wren/0.jpg", "test/robin/copy.jpg"]
    assert (duplicates["across_splits"], duplicates["across_classes"]) == (True, True)
    assert result["exact_duplicates"] == []


def test_mirrored_copies_are_not_reported(birds: Path) -> None:
    with Image.open(birds / "train/wren/0.jpg") as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(birds / "test/wren/copy.jpg")
    assert audit_json(birds)["near_duplicates"] == []


def test_photos_of_one_colour_are_odd_and_not_near(birds: Path) -> None:
    make_photo(birds / "train/wren/black.jpg", (300, 300), colour="black")
    make_photo(birds / "test/wren/grey.jpg", (300, 300), colour="grey")
    result = audit_json(birds)
    assert result["near_duplicates"] == []
    assert [odd["path"] for odd in result["odd"]] == ["train/wren/black.jpg", "test/wren/grey.jpg"]


# Groups -----------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [".", "elsewhere"])
def test_the_manifest_reads_back(birds: Path, tmp_path: Path, folder: str) -> None:
    shutil.copy(birds / "train/wren/0.jpg", birds / "train/wren/0 copy, again.jpg")
    (tmp_path / folder).mkdir(exist_ok=True)
    manifest = tmp_path / folder / "groups.csv"
    check("--data", birds, "--groups", manifest)
    before, after = load_photo_set(str(birds)), load_photo_set(str(manifest))
    files = [[(x.root / path).resolve() for path in x.paths] for x in (before, after)]
    assert files[0] == files[1]
    assert (after.labels == before.labels).all()
    assert (after.split == before.split).all()
    assert after.class_names == before.class_names
    assert len(set(after.group)) == N_PHOTOS
    assert len({group for group, p in zip(after.group, after.paths, strict=True) if "/0" in p}) == 1


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.slow
def test_a_drawn_split_keeps_duplicates_together(tmp_path: Path, seed: int) -> None:
    folder, manifest = tmp_path / "birds", tmp_path / "g.csv"
    for i in range(N_PHOTOS):
        for quality in (90, 40):
            save_scene(folder / ("wren", "robin")[i % 2] / f"{i}-{quality}.jpg", i, quality)
    check("--data", folder, "--split-seed", seed, "--groups", manifest)
    before, after = load_photo_set(str(folder), split_seed=seed), load_photo_set(str(manifest))
    splits = [{*after.split[after.group == name]} for name in np.unique(after.group)]
    assert len(splits) == N_PHOTOS
    assert all(len(split) == 1 for split in splits)
    assert {*after.split} == {"train", "test"}
    assert (before.split != after.split).any()


def test_a_sets_own_split_is_kept_and_duplicates_across_it_are_warned_of(
    birds: Path, manifest: Path
) -> None:
    shutil.copy(birds / "train/wren/0.jpg", birds / "test/wren/copy.jpg")
    assert_error(check("--data", birds, "--groups", manifest), manifest, 1, "split")
    assert (load_photo_set(str(manifest)).split == load_photo_set(str(birds)).split).all()


def test_a_manifest_needs_a_new_name_and_a_folder(birds: Path, manifest: Path) -> None:
    manifest.write_text("mine")
    assert_error(check("--data", birds, "--groups", manifest, code=2), manifest, "--groups")
    assert manifest.read_text() == "mine"
    folder = manifest.parent / "no"
    result = check("--data", birds, "--groups", folder / "g.csv", code=2)
    assert_error(result, folder, "--groups")


def test_a_reader_that_goes_away_does_not_cost_the_groups(
    birds: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulated: standard output raises as a pipe without a reader."""
    gone = BrokenPipeError(errno.EPIPE, "no reader")
    monkeypatch.setattr("bilinear_cli.cli.check.print_json", Mock(side_effect=gone))
    check("--data", birds, "--json", "--groups", manifest, code=1)
    assert len(load_photo_set(str(manifest))) == N_PHOTOS


def test_a_full_disk_is_named_with_the_manifest(
    birds: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulated: writing the manifest raises."""
    full = OSError(errno.ENOSPC, "full")
    monkeypatch.setattr("bilinear_cli.photos.audit.manifest_csv", Mock(side_effect=full))
    result = check("--data", birds, "--groups", manifest, code=1)
    assert_error(result, manifest, os.strerror(errno.ENOSPC))
    assert not manifest.exists()


def test_cells_like_formulas_are_written_as_they_are(birds: Path, manifest: Path) -> None:
    for split in ("train", "test"):
        shutil.move(birds / split / "wren", birds / split / "=wren")
    (line,) = check("--data", birds, "--groups", manifest).stderr.splitlines()
    assert_names(line, manifest, "=wren")
    assert load_photo_set(str(manifest)).class_names == ("=wren", "robin")


def test_no_manifest_of_photos_that_cannot_be_read(birds: Path, manifest: Path) -> None:
    (birds / "train/wren/0.jpg").write_text("no photo")
    result = check("--data", birds, "--groups", manifest, code=1)
    assert_error(result, 1, N_PHOTOS, manifest)
    assert not manifest.exists()


def test_names_that_a_manifest_cannot_hold_are_refused(birds: Path, manifest: Path) -> None:
    for split in ("train", "test"):
        shutil.move(birds / split / "wren", birds / split / "wren ")
    assert_error(check("--data", birds, "--groups", manifest, code=1), "--groups", "wren ")
    assert not manifest.exists()


# What would stop extract, and what is odd ---------------------------------------------------


def test_unreadable_photos_are_named_and_end_with_1(birds: Path) -> None:
    (birds / "train/wren/text.jpg").write_text("no photo")
    cut_off = birds / "test/wren/1.jpg"
    os.truncate(cut_off, cut_off.stat().st_size // 2)
    unreadable = audit_json(birds, code=1)["unreadable"]
    assert [bad["path"] for bad in unreadable] == ["train/wren/text.jpg", "test/wren/1.jpg"]
    printed = check("--data", birds, code=1)
    for bad in unreadable:
        before, what = bad["reason"].split(str(birds / bad["path"]))
        (line,) = [x for x in printed.stdout.splitlines() if bad["path"] in x]
        assert before not in line
        assert_names(line, what.removeprefix(" as a photo"))
    assert_error(printed, 2, 13, "--skip-bad")


def test_a_set_without_a_readable_photo(birds: Path) -> None:
    for photo in birds.rglob("*.jpg"):
        photo.write_bytes(b"")
    assert len(audit_json(birds, code=1)["unreadable"]) == N_PHOTOS
    shutil.rmtree(birds)
    result = check("--data", birds, code=1)
    assert result.stdout == ""
    assert_error(result, birds)


def test_a_photo_whose_bits_were_guessed_is_odd(birds: Path) -> None:
    deep = np.asarray(scene(99).convert("L")).astype(np.uint16) * 16
    Image.fromarray(deep).save(birds / "test" / "wren" / "deep.png")
    (odd,) = audit_json(birds)["odd"]
    assert_names(f"{odd['kind']}: {odd['reason']}", "16-bit", "12-bit", int(deep.max()))


def test_small_and_long_photos_are_odd(birds: Path) -> None:
    scene(77).resize((100, 90)).save(birds / "train/wren/small.jpg")
    scene(78).resize((1300, 300)).save(birds / "train/wren/long.jpg")
    odd_photos = audit_json(birds)["odd"]
    kinds = {odd["path"]: odd["kind"] for odd in odd_photos}
    assert kinds == {"train/wren/small.jpg": "small", "train/wren/long.jpg": "long"}
    reasons = {odd["path"]: odd["reason"] for odd in odd_photos}
    assert_names(reasons["train/wren/small.jpg"], 100, 90, 224)
    assert_names(reasons["train/wren/long.jpg"], 1300, 300, 4)
    assert len(audit_json(birds, "--image-size", "90")["odd"]) == 1


def test_odd_photos_are_sorted_by_kind_and_the_worst_is_first(birds: Path) -> None:
    for n in (90, 30, 60):
        scene(n).resize((100, n)).save(birds / f"train/wren/{n}.jpg")
        scene(n).resize((2 * n * n, 300)).save(birds / f"train/wren/{n} long.jpg")
    make_photo(birds / "test/wren/both.jpg", (10, 50), colour="grey")
    odd = [(x["kind"], Path(x["path"]).stem) for x in audit_json(birds)["odd"]]
    assert odd == [
        *(("long", name) for name in ("90 long", "60 long", "30 long", "both")),
        ("one colour", "both"),
        *(("small", name) for name in ("both", "30", "60", "90")),
    ]


def test_every_photo_is_read_once(birds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths: list[Path] = []
    steps: list[tuple[int, int]] = []
    monkeypatch.setattr(audit, "read_bytes", lambda x: paths.append(x) or x.read_bytes())
    audit.audit_photos(load_photo_set(str(birds)), 224, lambda *step: steps.append(step))
    assert len(paths) == len(set(paths)) == N_PHOTOS
    assert steps == [(N_PHOTOS, N_PHOTOS)]


def test_classes_are_counted_and_look_alikes_named(birds: Path) -> None:
    shutil.move(birds / "train/robin/10.jpg", birds / "train/robin/10.JPG")
    save_scene(birds / "train/Wren/a.jpg", 50)
    result = audit_json(birds)
    assert result["classes"] == {
        "Wren": {"train": 1, "test": 0},
        "robin": {"train": 3, "test": 3},
        "wren": {"train": 3, "test": 3},
    }
    assert result["alike_classes"] == [["Wren", "wren"]]
    assert result["small_classes"] == ["Wren", "robin", "wren"]
    assert result["untested_classes"] == ["Wren"]


@pytest.mark.parametrize(("n_train", "unequal"), [(10, []), (11, ["wren", "robin"])])
def test_unequal_classes_are_named_with_their_numbers(
    n_train: int, unequal: list[str], tmp_path: Path
) -> None:
    counts = {"train/robin": n_train, "train/wren": 1, "test/robin": 2}
    folder = class_folders(tmp_path / "birds", counts)
    facts = audit.audit_photos(load_photo_set(str(folder)), 32)
    assert facts["unequal_classes"] == unequal
    lines = [x for x in format_audit(facts).splitlines() if "robin has" in x]
    assert len(lines) == bool(unequal)
    for line in lines:
        assert_names(line, 11, "robin", 1, "wren")


def test_what_the_set_leaves_out_is_counted_by_reason(birds: Path) -> None:
    left_out = {"system folders": ["wren/@eaDir"], "other suffixes": ["a.txt", "b.txt"]}
    facts = audit.audit_photos(replace(load_photo_set(str(birds)), left_out=left_out), 32)
    assert [(x["reason"], x["count"], x["paths"]) for x in facts["left_out"]] == [
        ("system folders", 1, ["wren/@eaDir"]),
        ("other suffixes", 2, ["a.txt", "b.txt"]),
    ]


def test_the_seed_of_a_drawn_split_is_reported(birds: Path) -> None:
    assert_names(audit_json(birds / "train", "--split-seed", "5")["split"], 5)
    assert audit_json(birds, "--split-seed", "5")["split"] == audit_json(birds)["split"]


def test_hostile_names_are_kept_in_files_and_cleaned_on_the_terminal(
    birds: Path, manifest: Path
) -> None:
    for split in ("train", "test"):
        shutil.move(birds / split / "wren", birds / split / HOSTILE)
    shutil.copy(birds / "train" / HOSTILE / "0.jpg", birds / "test" / HOSTILE / "\n,\x07.jpg")
    result = audit_json(birds)
    assert {*result["classes"]} == {"robin", HOSTILE}
    assert f"test/{HOSTILE}/\n,\x07.jpg" in paths(result["exact_duplicates"][0])
    text = check("--data", birds, "--groups", manifest).stdout
    assert not {*text} & {"\x1b", "\u202e", "\x07"}
    assert "<script>\\x1b[31m'\"\\u202egnp" in text
    assert load_photo_set(str(manifest)).class_names == (HOSTILE, "robin")


def test_a_long_list_is_cut_off_in_the_text_alone(birds: Path) -> None:
    for i in range(15):
        (birds / f"train/wren/bad{i}.jpg").write_bytes(b"")
    text = check("--data", birds, code=1).stdout
    assert len(set(re.findall(r"bad\d+\.jpg", text))) == 3
    assert "unreadable photos: 15" in text
    assert text.count("--json") == 1
    assert len(audit_json(birds, code=1)["unreadable"]) == 15


# Cost, and what it needs --------------------------------------------------------------------


def test_the_forecast_has_the_bytes_of_vgg16s_rows_and_states_what_was_timed(
    birds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vgg16 = small_network(kernel=random_kernel(512))
    recipes = []
    monkeypatch.setattr(Network, "load", lambda self, recipe: recipes.append(recipe) or vgg16)
    forecast = audit_json(birds, "--image-size", "32")["extract"]
    assert forecast["poolings"] == ["max", "sum", "bilinear"]
    assert forecast["bytes_a_photo"] == 2048 + 2048 + 262_656
    assert forecast["bytes"] == N_PHOTOS * forecast["bytes_a_photo"]
    assert forecast["ms_a_photo"] > 0
    assert forecast["seconds"] == pytest.approx(N_PHOTOS * forecast["ms_a_photo"] / 1000, abs=0.1)
    (recipe,) = recipes
    network = [forecast["precision"], forecast["engine"]]
    assert network == [recipe.precision, recipe.engine]
    assert recipe.image_size == forecast["image_size"] == 32
    _, estimate = check("--data", birds).stdout.split("Estimate")
    assert_names(" ".join(estimate.splitlines()), "3.2 MB", "266,752", *network)


def test_the_forecast_needs_no_second_and_no_readable_photo(birds: Path) -> None:
    photos = load_photo_set(str(birds)).take(np.array([0]))
    (photos.root / photos.paths[0]).write_text("no photo")
    assert forecast_extraction(photos, ExtractOptions(image_size=32))["bytes"] == (6 + 6 + 21) * 4


def test_without_the_library_the_extra_is_named(
    birds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "imagehash", None)
    assert_error(check("--data", birds, code=1), "bilinear-cli[check]")


def test_groups_of_the_set_are_kept(birds: Path, tmp_path: Path, manifest: Path) -> None:
    photos = sorted(birds.rglob("*.jpg"))
    rows = [f"{p.relative_to(tmp_path)},{p.parent.name},nest{i // 6}" for i, p in enumerate(photos)]
    (tmp_path / "nests.csv").write_text("\n".join(["path,label,group", *rows]))
    check("--data", tmp_path / "nests.csv", "--groups", manifest)
    assert load_photo_set(str(manifest)).group.tolist() == [f"nest{i // 6}" for i in range(12)]
