"""Tests of the config file and of the cache's place."""

from pathlib import Path

import platformdirs
import pytest

from bilinear_cli.config import cache_folder, read_config
from bilinear_cli.errors import BilinearError

OPTIONS = {
    "extract": {"image-size": "image_size", "pooling": "poolings", "data": "data"},
    "train": {"classifier": "classifiers", "C": "c"},
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "birds.toml"


def complaint(path: Path) -> str:
    with pytest.raises(BilinearError) as caught:
        read_config(path, OPTIONS)
    return str(caught.value)


def test_a_config_becomes_parameters(path: Path) -> None:
    path.write_text(
        '# birds\n[extract]\nimage-size = 448\npooling = ["max", "bilinear"]\n'
        'data = "vögel"\n[train]\nC = 0.5\n',
        encoding="utf-8",
    )
    assert read_config(path, OPTIONS) == {
        "extract": {"image_size": 448, "poolings": ["max", "bilinear"], "data": "vögel"},
        "train": {"c": 0.5},
    }


@pytest.mark.parametrize(("text", "wanted"), [("", {}), ("[train]\n", {"train": {}})])
def test_an_empty_config(path: Path, text: str, wanted: dict) -> None:
    path.write_text(text)
    assert read_config(path, OPTIONS) == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[extract]\nimage_size = 448\n",
            "no option of extract is called 'image_size': did you mean 'image-size'? "
            "(there are data, image-size, pooling)",
        ),
        (
            "[extract]\nC = 1\n",
            "no option of extract is called 'C': (there are data, image-size, pooling)",
        ),
        (
            "[extrakt]\npooling = 'max'\n",
            "no command is called 'extrakt': did you mean 'extract'? (there are extract, train)",
        ),
        ("pooling = 'max'\n", "no command is called 'pooling': (there are extract, train)"),
        ("train = 'svm'\n", "'train' should be a table, [train]"),
    ],
)
def test_what_is_unknown_is_answered_with_the_nearest(path: Path, text: str, message: str) -> None:
    path.write_text(text)
    assert complaint(path) == f"{path}: {message}"


@pytest.mark.parametrize("data", [b"[extract\n", b"a = \n", b"a = 1\na = 2\n", b"a = '\xff'\n"])
def test_bad_toml(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    line = complaint(path)
    assert line.startswith(f"cannot read the config {path}: ")
    assert "\n" not in line


def test_a_missing_config(path: Path) -> None:
    assert complaint(path).startswith(f"cannot read the config {path}: ")


def test_the_cache_is_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BILINEAR_CACHE", str(tmp_path / "elsewhere"))
    assert cache_folder() == tmp_path / "elsewhere"
    assert not cache_folder().exists()


@pytest.mark.parametrize("value", [None, ""])
def test_else_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("BILINEAR_CACHE")
    if value is not None:
        monkeypatch.setenv("BILINEAR_CACHE", value)
    assert cache_folder() == Path(platformdirs.user_cache_dir("bilinear"))
