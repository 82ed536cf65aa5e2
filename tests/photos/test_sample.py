"""Tests of the built-in sample set."""

import io
from itertools import islice, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin
from support.photos import use_small_sample

from bilinear_cli.photos import sample


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
    textures, colours = sample.layout(species, form)
    assert sorted(textures) == sorted(colours) == [0, 1, 2, 3]
    assert all(sample.PAIRINGS[species][t] == c for t, c in zip(textures, colours, strict=True))


def test_colours_alone_do_not_depend_on_the_species() -> None:
    colours = [[sample.layout(species, form)[1] for form in range(4)] for species in range(12)]
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
