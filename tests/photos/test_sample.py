"""Tests of the built-in sample: the drawings, its options, its files in the cache."""

import errno
import io
import os
from collections import Counter
from collections.abc import Iterator
from itertools import islice, permutations
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin
from support.errors import raises
from support.photos import use_small_sample

from bilinear_cli.errors import BilinearError, UsageError
from bilinear_cli.photos import sample
from bilinear_cli.photos.listings import write_photos
from bilinear_cli.photos.photo_set import load_photo_set


def test_species_are_the_even_permutations() -> None:
    even = {p for p in permutations(range(4)) if np.linalg.det(np.eye(4)[list(p)]) > 0}
    assert set(sample.PAIRINGS) == even
    assert len(sample.PAIRINGS) == len(set(sample.SPECIES)) == sample.N_SPECIES == 12


def test_every_texture_lies_on_every_colour_in_three_species() -> None:
    counts = np.zeros((4, 4), int)
    for pairing in sample.PAIRINGS:
        counts[range(4), pairing] += 1
    assert (counts == 3).all()


@pytest.mark.parametrize("form", range(4))
@pytest.mark.parametrize("species", range(12))
def test_an_animal_shows_everything_once_and_pairs_it_as_its_species(
    species: int, form: int
) -> None:
    textures, colours = sample.arrange_zones(species, form)
    assert sorted(textures) == sorted(colours) == [0, 1, 2, 3]
    assert all(sample.PAIRINGS[species][t] == c for t, c in zip(textures, colours, strict=True))


def test_colours_alone_do_not_depend_on_the_species() -> None:
    colours = [
        [sample.arrange_zones(species, form)[1] for form in range(4)] for species in range(12)
    ]
    assert all(np.array_equal(colours[0], forms) for forms in colours)
    assert all(sorted(zone) == [0, 1, 2, 3] for zone in zip(*colours[0], strict=True))


def test_without_ink_only_the_stream_tells_the_species_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda _: stream(5))
    assert (sample.draw_moth(0, 0, ink=False) == sample.draw_moth(7, 0, ink=False)).all()
    assert (sample.draw_moth(0, 0) != sample.draw_moth(7, 0)).any()


def test_zones_are_nearly_equal() -> None:
    areas = np.zeros(4)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        zones, _ = sample._wings(rng, *sample._pose(rng))
        assert zones.min() >= 0
        assert zones.sum(axis=0).max() <= 1 + 1e-6
        areas += zones.sum(axis=(1, 2))
    assert areas.max() / areas.min() < 1.15


@pytest.mark.parametrize("texture", range(4))
def test_textures_cover_equal_shares(texture: int) -> None:
    shares = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x, y = sample._pose(rng)
        for zone in sample._wings(rng, x, y)[0]:
            shares.append((sample._pattern(rng, texture, x, y, zone) * zone).sum() / zone.sum())
    assert np.mean(shares) == pytest.approx(0.4, abs=0.01)
    assert np.ptp(shares) < 0.04


def test_drawings_are_rgb_and_reproducible() -> None:
    picture = sample.draw_moth(3, 4, seed=5)
    assert picture.shape == (sample.SIZE, sample.SIZE, 3) == (224, 224, 3)
    assert picture.dtype == np.uint8
    assert (picture == sample.draw_moth(3, 4, seed=5)).all()
    for species, index, seed in ((4, 4, 5), (3, 5, 5), (3, 4, 6)):
        assert (picture != sample.draw_moth(species, index, seed=seed)).mean() > 0.5


def test_ink_changes_the_wings_alone() -> None:
    picture, bare = (sample.draw_moth(2, 6, ink=ink).astype(int) for ink in (True, False))
    changed = (picture != bare).any(axis=2)
    assert 0.05 < changed.mean() < 0.4
    assert not changed[0].any()
    assert picture.sum() < bare.sum()


def test_grey_is_the_luminance_of_the_same_drawing() -> None:
    grey = sample.draw_moth(2, 6, grey=True)
    assert grey.shape == (224, 224, 3)
    assert np.ptp(grey, axis=2).max() == 0
    luminance = sample.draw_moth(2, 6) @ (0.299, 0.587, 0.114)
    assert np.abs(grey[..., 0] - luminance).max() < 1


def test_even_drawings_are_training_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_sample(monkeypatch, tmp_path, 3, 2)
    monkeypatch.setattr(sample, "draw_moth", lambda *_, **__: np.zeros((4, 4, 3), np.uint8))
    paths = [path for path, _ in sample.drawings(seed=0, ink=True, grey=False)]
    names = sample.SPECIES[:3]
    assert paths == [path for n in names for path in (f"train/{n}/00.jpg", f"test/{n}/01.jpg")]


@pytest.mark.parametrize("option", [{"seed": 1}, {"ink": False}, {"grey": True}])
@pytest.mark.slow
def test_the_files_are_the_drawings(option: dict[str, Any]) -> None:
    options = {"seed": 0, "ink": True, "grey": False} | option
    _, (_, content) = islice(sample.drawings(**options), 2)
    with Image.open(io.BytesIO(content)) as image:
        assert JpegImagePlugin.get_sampling(image) == 0  # 4:4:4
        error = np.asarray(image).astype(int) - sample.draw_moth(0, 1, **options)
    assert np.abs(error).mean() < 3


# As a photo set ---------------------------------------------------------------------------------


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Replace the drawings by four files; return the options of each sample that is written."""
    calls: list[dict[str, Any]] = []

    def drawings(**options: Any) -> Iterator[tuple[str, bytes]]:
        calls.append(options)
        yield from [
            (f"{folder}/0.jpg", b"") for folder in ("train/a", "train/b", "test/a", "test/b")
        ]

    use_small_sample(monkeypatch, tmp_path, 2, 2)
    monkeypatch.setattr(sample, "drawings", drawings)
    return calls


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        ("sample", {"seed": 0, "ink": True, "grey": False}),
        ("sample:grey", {"seed": 0, "ink": True, "grey": True}),
        ("sample:no-ink", {"seed": 0, "ink": False, "grey": False}),
        ("sample:seed=12", {"seed": 12, "ink": True, "grey": False}),
        ("sample:no-ink:seed=3:grey", {"seed": 3, "ink": False, "grey": True}),
    ],
)
def test_options_of_the_sample(drawn: list[dict], tmp_path: Path, spec: str, options: dict) -> None:
    steps: list[tuple[int, int]] = []
    photo_set = load_photo_set(spec, progress=lambda *step: steps.append(step))
    assert drawn == [options]
    assert steps == [(done, 4) for done in range(1, 5)]
    assert (photo_set.kind, photo_set.spec) == ("sample", spec)
    assert photo_set.name == spec.replace(":", "-")
    assert photo_set.root.is_relative_to(tmp_path.resolve() / "sample")
    assert Counter(photo_set.split) == {"train": 2, "test": 2}
    assert photo_set.split_seed is None


@pytest.mark.usefixtures("drawn")
def test_every_kind_of_sample_has_its_own_folder() -> None:
    specs = ("sample", "sample:grey", "sample:no-ink", "sample:seed=1")
    assert len({load_photo_set(spec).root for spec in specs}) == 4
    assert load_photo_set("sample:seed=0").root == load_photo_set("sample").root


@pytest.mark.parametrize(
    ("spec", "facts"),
    [
        ("sample:gray", ["'gray'", "'grey'"]),
        ("sample:no-inc", ["'no-inc'", "'no-ink'"]),
        ("sample:", ["''", "grey", "no-ink", "seed"]),
        ("sample:seed", ["'seed'", "'sample:seed'", "sample:seed=1", "sample:grey"]),
        ("sample:seed=one", ["'seed=one'", "'sample:seed=one'"]),
        ("sample:seed=-1", ["'seed=-1'", "'sample:seed=-1'"]),
        ("sample:grey=1", ["'grey=1'", "'sample:grey=1'"]),
        ("sample:grey=no", ["'grey=no'", "'sample:grey=no'"]),
    ],
)
def test_unknown_options_of_the_sample(drawn: list[dict], spec: str, facts: list[str]) -> None:
    with raises(UsageError, *facts):
        load_photo_set(spec)
    assert not drawn


# Photos that are written to the cache -------------------------------------------------------

PHOTOS = [("train/owl/0.jpg", b"an owl"), ("test/owl/1.jpg", b"another")]


def test_photos_are_written_once(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "cache" / "owls"
    steps: list[tuple[int, int]] = []
    for photos in (PHOTOS, [("other.jpg", b"")]):
        write_photos(folder, iter(photos), 2, lambda *step: steps.append(step))
    assert steps == [(1, 2), (2, 2)]
    files = {path for path in folder.rglob("*") if path.is_file()}
    assert {(path.relative_to(folder).as_posix(), path.read_bytes()) for path in files} == {*PHOTOS}
    assert list(folder.parent.iterdir()) == [folder]


def test_an_interruption_leaves_nothing_behind(tmp_path: Path) -> None:
    def stop(done: int, _: int) -> None:
        assert len(list(tmp_path.iterdir())) == 1  # the unfinished folder, under another name
        assert not (tmp_path / "owls").exists()
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_photos(tmp_path / "owls", PHOTOS, 2, stop)
    assert list(tmp_path.iterdir()) == []


def test_of_two_runs_at_once_the_first_wins(tmp_path: Path) -> None:
    folder = tmp_path / "owls"

    def overtake(done: int, total: int) -> None:
        if done == total:
            folder.mkdir()
            (folder / "winner").touch()

    write_photos(folder, PHOTOS, 2, overtake)
    assert [path.name for path in folder.iterdir()] == ["winner"]
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("function", ["os.replace", "pathlib.Path.write_bytes"])
def test_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    fault = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(function, Mock(side_effect=fault))
    with raises(BilinearError, tmp_path / "owls", fault.strerror):
        write_photos(tmp_path / "owls", PHOTOS, 2, None)
    assert list(tmp_path.iterdir()) == []
