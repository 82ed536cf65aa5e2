"""Config files, and the place of the cache."""

from pathlib import Path

import platformdirs
import pytest
from support.errors import assert_suggests, raises

from bilinear_cli.config import cache_folder, read_config
from bilinear_cli.errors import BilinearError

OPTIONS = {
    "extract": {"image-size": "image_size", "pooling": "poolings", "data": "data"},
    "train": {"classifier": "classifiers", "C": "c"},
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "birds.toml"


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


@pytest.mark.parametrize(("text", "tables"), [("", {}), ("[train]\n", {"train": {}})])
def test_an_empty_config(path: Path, text: str, tables: dict) -> None:
    path.write_text(text)
    assert read_config(path, OPTIONS) == tables


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("[extract]\nimage_size = 448\n", ["image_size", "extract", *OPTIONS["extract"]]),
        ("[extract]\nC = 1\n", ["'C'", "extract", *OPTIONS["extract"]]),
        ("[extrakt]\npooling = 'max'\n", ["extrakt", *OPTIONS]),
        ("pooling = 'max'\n", ["pooling", *OPTIONS]),
        ("train = 'svm'\n", ["train", "[train]"]),
        ("[extract\n", []),
        ("a = \n", []),
        ("a = 1\na = 2\n", []),
        (b"a = '\xff'\n", []),
        (None, []),
    ],
)
def test_the_error_of_a_bad_config_names_the_file_and_what_is_known(
    path: Path, text: str | bytes | None, facts: list[str]
) -> None:
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with raises(BilinearError, path, *facts):
        read_config(path, OPTIONS)


@pytest.mark.parametrize(
    ("text", "nearest", "known"),
    [
        ("[extract]\nimage_size = 448\n", "image-size", OPTIONS["extract"]),
        ("[trane]\nC = 1\n", "train", OPTIONS),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(
    path: Path, text: str, nearest: str, known: dict
) -> None:
    path.write_text(text)
    with raises(BilinearError, path) as caught:
        read_config(path, OPTIONS)
    assert_suggests(str(caught.value).removeprefix(str(path)), nearest, known)


def test_the_environment_sets_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILINEAR_CACHE", str(tmp_path / "elsewhere"))
    assert cache_folder() == tmp_path / "elsewhere"
    assert not cache_folder().exists()


@pytest.mark.parametrize("value", [None, ""])
def test_the_default_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("BILINEAR_CACHE")
    if value is not None:
        monkeypatch.setenv("BILINEAR_CACHE", value)
    assert cache_folder() == Path(platformdirs.user_cache_dir("bilinear"))
