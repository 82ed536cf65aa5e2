"""Tests of the kinds of photo sets: none at all, and CUB-200-2011; others have their own files."""

from pathlib import Path
from typing import Any

import pytest
from support.errors import raises
from support.photos import cub_folder, rows

from bilinear_cli.errors import BilinearError
from bilinear_cli.photos.photo_set import load_photo_set


def assert_refused(spec: object, *facts: Any) -> None:
    """Check that loading a set ends in an error that names these facts."""
    with raises(BilinearError, *facts):
        load_photo_set(str(spec))


@pytest.mark.parametrize("spec", ["nowhere", "nowhere.csv", "samples"])
def test_no_such_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(spec, repr(spec), "CSV", "'sample'")


# CUB-200-2011 -------------------------------------------------------------------------------


@pytest.fixture
def cub(tmp_path: Path) -> Path:
    return cub_folder(tmp_path / "cub")


def test_cub_layout(cub: Path) -> None:
    photo_set = load_photo_set(str(cub))
    assert (photo_set.kind, photo_set.name, photo_set.split_seed) == ("cub", "cub", None)
    assert photo_set.root == cub.resolve() / "images"
    assert photo_set.class_names == ("004.Wren", "001.Owl")
    assert photo_set.labels.tolist() == [0, 0, 1, 1]
    assert rows(photo_set) == {
        "004.Wren/a b.jpg": ("004.Wren", "train"),
        "004.Wren/b.jpg": ("004.Wren", "test"),
        "001.Owl/a.jpg": ("001.Owl", "train"),
        "001.Owl/c.jpg": ("001.Owl", "test"),
    }
    assert all(photo_set.sha256())


@pytest.mark.parametrize(
    ("name", "text", "facts"),
    [
        ("image_class_labels", "11 4\n17 1\n", [3, 5790]),
        ("train_test_split", "11 1\n", [17, 3, 5790]),
        ("classes", "4 004.Wren\n", [1]),
        ("images", "11\n", []),
        ("classes", None, []),
    ],
)
def test_a_cub_folder_with_a_gap(cub: Path, name: str, text: str | None, facts: list[int]) -> None:
    path = cub / f"{name}.txt"
    path.unlink() if text is None else path.write_text(text)
    assert_refused(cub, path, *facts)


def test_a_cub_folder_without_photos(cub: Path) -> None:
    (cub / "images.txt").write_text("")
    assert_refused(cub, cub)
