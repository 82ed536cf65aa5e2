"""Tests of `check`: what is planted in a photo set is found, and nothing else."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image, ImageEnhance

from bilinear_cli.cli import cli
from bilinear_cli.data import check as checking
from bilinear_cli.data.check import survey, write_groups
from bilinear_cli.data.dataset import load_dataset
from bilinear_cli.features.cost import cost, row_bytes

MakePhoto = Callable[..., Path]
N_PHOTOS = 12
HOSTILE = "<script>\x1b[31m'\"\u202egnp"


def scene(seed: int) -> Image.Image:
    """Return a photo of soft shapes, 320 x 240 pixels."""
    noise = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
    return Image.fromarray(noise).resize((320, 240), Image.Resampling.BICUBIC)


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """Write 12 different photos: two classes, train and test."""
    folder = tmp_path / "birds"
    for i in range(N_PHOTOS):
        path = folder / ("train", "test")[i % 2] / ("wren", "robin")[i // 2 % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        scene(i).save(path, quality=90)
    return folder


def check(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["-q", "check", *map(str, arguments)])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def found(folder: Path | str, *arguments: str, code: int = 0) -> dict:
    lines = check("--data", folder, "--json", *arguments, code=code).stdout.splitlines()
    assert len(lines) == 1
    return json.loads(lines[0])


def paths(same: dict) -> list[str]:
    return [photo["path"] for photo in same["photos"]]


def cropped(image: Image.Image, share: float) -> Image.Image:
    x, y = (round(side * share) for side in image.size)
    return image.crop((x, y, image.width - x, image.height - y))


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "stored again": lambda image: image,
    "smaller": lambda image: image.resize((120, 90)),
    "larger": lambda image: image.resize((640, 480)),
    "cropped by 2 % at each edge": lambda image: cropped(image, 0.02),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "grey": lambda image: image.convert("L"),
}


# Duplicates -------------------------------------------------------------------------------


def test_different_photos_are_no_duplicates(birds: Path) -> None:
    said = found(birds)
    assert said["near_duplicates"] == said["exact_duplicates"] == said["unreadable"] == []
    assert said["odd"] == said["alike_classes"] == []


def test_a_copied_file_is_an_exact_duplicate_across_train_and_test(birds: Path) -> None:
    shutil.copy(birds / "train/wren/0.jpg", birds / "test/wren/copy.png")
    said = found(birds)
    (same,) = said["exact_duplicates"]
    assert paths(same) == ["train/wren/0.jpg", "test/wren/copy.png"]
    assert (same["across_splits"], same["across_classes"]) == (True, False)
    assert said["near_duplicates"] == []


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_that_was_worked_on_is_a_near_duplicate(birds: Path, how: str) -> None:
    with Image.open(birds / "train/wren/0.jpg") as image:
        COPIES[how](image).save(birds / "test/robin/copy.jpg", quality=50)
    said = found(birds)
    (same,) = said["near_duplicates"]
    assert paths(same) == ["train/wren/0.jpg", "test/robin/copy.jpg"]
    assert (same["across_splits"], same["across_classes"]) == (True, True)
    assert said["exact_duplicates"] == []


def test_mirrored_copies_are_not_found(birds: Path) -> None:
    with Image.open(birds / "train/wren/0.jpg") as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(birds / "test/wren/copy.jpg")
    assert found(birds)["near_duplicates"] == []


def test_photos_of_one_colour_are_odd_and_not_near(birds: Path, make_photo: MakePhoto) -> None:
    make_photo(birds / "train/wren/black.jpg", (300, 300), colour="black")
    make_photo(birds / "test/wren/grey.jpg", (300, 300), colour="grey")
    said = found(birds)
    assert said["near_duplicates"] == []
    assert {odd["reason"] for odd in said["odd"]} == {"nearly one colour"}
    assert len(said["odd"]) == 2


# Groups -----------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [".", "elsewhere"])
def test_the_manifest_reads_back(birds: Path, tmp_path: Path, where: str) -> None:
    shutil.copy(birds / "train/wren/0.jpg", birds / "train/wren/0 copy, again.jpg")
    (tmp_path / where).mkdir(exist_ok=True)
    manifest = tmp_path / where / "groups.csv"
    check("--data", birds, "--groups", manifest)
    old, new = load_dataset(str(birds)), load_dataset(str(manifest))
    assert [(new.root / p).resolve() for p in new.paths] == [old.root / p for p in old.paths]
    assert (new.labels == old.labels).all()
    assert (new.split == old.split).all()
    assert new.class_names == old.class_names
    assert len(set(new.group)) == N_PHOTOS
    assert len({group for group, p in zip(new.group, new.paths, strict=True) if "/0" in p}) == 1


@pytest.mark.parametrize("seed", range(3))
def test_a_split_that_is_made_here_keeps_duplicates_together(birds: Path, seed: int) -> None:
    shutil.move(birds / "test", birds / "old")
    for photo in sorted((birds / "old").rglob("*.jpg")):
        shutil.move(photo, birds / "train" / photo.parent.name)
    shutil.rmtree(birds / "old")
    for photo in sorted((birds / "train").rglob("*.jpg")):
        with Image.open(photo) as image:
            image.save(photo.with_stem(f"{photo.stem}-again"), quality=40)
    folder = str(birds / "train")
    check("--data", folder, "--split-seed", seed, "--groups", birds / "g.csv")
    old, new = load_dataset(folder, split_seed=seed), load_dataset(str(birds / "g.csv"))
    parts = [{*new.split[new.group == name]} for name in np.unique(new.group)]
    assert len(parts) == N_PHOTOS
    assert all(len(part) == 1 for part in parts)
    assert {*new.split} == {"train", "test"}
    assert (old.split != new.split).any()


def test_a_split_of_the_sets_own_stays_and_is_told_of(birds: Path, tmp_path: Path) -> None:
    shutil.copy(birds / "train/wren/0.jpg", birds / "test/wren/copy.jpg")
    result = check("--data", birds, "--groups", tmp_path / "g.csv")
    assert "across which there are duplicates (sets: 1)" in result.stderr
    assert (load_dataset(str(tmp_path / "g.csv")).split == load_dataset(str(birds)).split).all()


def test_a_manifest_is_not_overwritten(birds: Path, tmp_path: Path) -> None:
    (tmp_path / "g.csv").write_text("mine")
    result = check("--data", birds, "--groups", tmp_path / "g.csv", code=2)
    assert "is there already" in result.stderr
    assert (tmp_path / "g.csv").read_text() == "mine"
    check("--data", birds, "--groups", tmp_path / "no/g.csv", code=2)


def test_no_manifest_of_photos_that_cannot_be_read(birds: Path, tmp_path: Path) -> None:
    (birds / "train/wren/0.jpg").write_text("no photo")
    result = check("--data", birds, "--groups", tmp_path / "g.csv", code=1)
    assert f"({tmp_path / 'g.csv'} is not written)" in result.stderr
    assert not (tmp_path / "g.csv").exists()


def test_names_that_a_manifest_cannot_hold_are_refused(birds: Path, tmp_path: Path) -> None:
    shutil.move(birds / "train/wren", birds / "train/wren ")
    shutil.move(birds / "test/wren", birds / "test/wren ")
    result = check("--data", birds, "--groups", tmp_path / "g.csv", code=1)
    assert "begins or ends with a blank" in result.stderr
    assert not (tmp_path / "g.csv").exists()


# What would stop extract, and what is odd ---------------------------------------------------


def test_unreadable_photos_are_named_and_end_with_1(birds: Path) -> None:
    (birds / "train/wren/text.jpg").write_text("no photo")
    whole = (birds / "test/wren/1.jpg").read_bytes()
    (birds / "test/wren/1.jpg").write_bytes(whole[: len(whole) // 2])
    said = found(birds, code=1)
    assert [bad["path"] for bad in said["unreadable"]] == ["train/wren/text.jpg", "test/wren/1.jpg"]
    assert "not an image in any format known here" in said["unreadable"][0]["reason"]
    result = check("--data", birds, code=1)
    assert "where extract stops: 2\n" in result.stdout
    assert result.stderr.startswith("Error: 2 of 13 photos cannot be read")


def test_a_set_without_a_photo_that_can_be_read(birds: Path) -> None:
    for photo in birds.rglob("*.jpg"):
        photo.write_bytes(b"")
    assert len(found(birds, code=1)["unreadable"]) == N_PHOTOS


def test_a_set_that_cannot_be_loaded_ends_with_1(tmp_path: Path) -> None:
    result = check("--data", tmp_path / "none", code=1)
    assert result.stdout == ""
    assert result.stderr.startswith("Error: there is no photo set at ")


def test_small_and_long_photos_are_odd(birds: Path) -> None:
    scene(77).resize((100, 90)).save(birds / "train/wren/small.jpg")
    scene(78).resize((1300, 300)).save(birds / "train/wren/long.jpg")
    said = found(birds)
    assert {odd["path"]: odd["reason"] for odd in said["odd"]} == {
        "train/wren/small.jpg": "100 x 90 pixels: will be enlarged to 224",
        "train/wren/long.jpg": "1300 x 300 pixels: one side is over 4 times the other",
    }
    assert len(found(birds, "--image-size", "90")["odd"]) == 1


def test_every_photo_is_read_once(birds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def noted(path: Path) -> bytes:
        read.append(path)
        return path.read_bytes()

    monkeypatch.setattr(checking, "photo_bytes", noted)
    progress: list[tuple[int, int]] = []
    survey(load_dataset(str(birds)), 224, lambda *args: progress.append(args))
    assert len(read) == len(set(read)) == N_PHOTOS
    assert progress == [(N_PHOTOS, N_PHOTOS)]


def test_classes_are_counted_and_look_alikes_named(birds: Path) -> None:
    shutil.move(birds / "train/robin/10.jpg", birds / "train/robin/10.JPG")
    (birds / "train/Wren").mkdir()
    scene(50).save(birds / "train/Wren/a.jpg")
    said = found(birds)
    assert said["classes"] == {
        "Wren": {"train": 1, "test": 0},
        "robin": {"train": 3, "test": 3},
        "wren": {"train": 3, "test": 3},
    }
    assert said["alike_classes"] == [["Wren", "wren"]]
    assert said["small_classes"] == ["Wren", "robin", "wren"]
    assert said["untested_classes"] == ["Wren"]
    assert said["split"] == "its own"


def test_hostile_names_come_through(birds: Path, tmp_path: Path) -> None:
    for part in ("train", "test"):
        shutil.move(birds / part / "wren", birds / part / HOSTILE)
    shutil.copy(birds / "train" / HOSTILE / "0.jpg", birds / "test" / HOSTILE / "\n,\x07.jpg")
    said = found(birds)
    assert {*said["classes"]} == {"robin", HOSTILE}
    assert f"test/{HOSTILE}/\n,\x07.jpg" in paths(said["exact_duplicates"][0])
    text = check("--data", birds, "--groups", tmp_path / "g.csv").stdout
    assert not {*text} & {"\x1b", "\u202e", "\x07"}
    assert "<script>?[31m'\"?gnp" in text
    assert load_dataset(str(tmp_path / "g.csv")).class_names == ("robin", HOSTILE)[::-1]


def test_a_long_list_is_cut_off_in_the_table_alone(birds: Path) -> None:
    for i in range(15):
        (birds / f"train/wren/bad{i}.jpg").write_bytes(b"")
    text = check("--data", birds, code=1).stdout
    assert "and 5 more, see --json" in text
    assert text.count("bad") == 10
    assert len(found(birds, code=1)["unreadable"]) == 15


# Cost, and what it needs --------------------------------------------------------------------


def test_the_cost_is_that_of_the_rows() -> None:
    assert [row_bytes(spec) for spec in ("max", "sum", "bilinear")] == [2048, 2048, 262_656]
    assert row_bytes("bilinear:144") == 144 * 145 // 2 * 2
    said = cost(100, 448)
    assert said["bytes"] == 26_675_200
    assert said["seconds"] == pytest.approx(100 * 0.074 * 4)


def test_without_the_library_the_extra_is_named(
    birds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "imagehash", None)
    result = check("--data", birds, code=1)
    assert result.stderr == "Error: for check install the extra: pip install '.[check]'\n"


def test_groups_of_the_set_are_kept(birds: Path, tmp_path: Path) -> None:
    photos = sorted(birds.rglob("*.jpg"))
    rows = [f"{p.relative_to(tmp_path)},{p.parent.name},nest{i // 6}" for i, p in enumerate(photos)]
    (tmp_path / "old.csv").write_text("\n".join(["path,label,group", *rows]))
    dataset = load_dataset(str(tmp_path / "old.csv"))
    group = write_groups(dataset, survey(dataset, 224), tmp_path / "new.csv")
    assert group.tolist() == dataset.group.tolist()
