"""Tests of near duplicates, of groups that keep them together, and of similar class names."""

from collections import Counter

import numpy as np
import pytest

from bilinear_cli.photos import audit_report, duplicates
from bilinear_cli.photos.audit_report import similar_names
from bilinear_cli.photos.duplicates import (
    MAX_HASH_DISTANCE,
    group_by_key,
    merge_groups,
    near_duplicate_sets,
)


def flipped(hashes: np.ndarray, bits: list[int]) -> np.ndarray:
    return hashes ^ np.bitwise_or.reduce(np.uint64(1) << np.array(bits, np.uint64))


@pytest.fixture
def hashes() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2**64, (300, 2), np.uint64)


def test_sets_are_those_of_a_loop_over_pairs(
    hashes: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "TILE_SIZE", 32)  # several tiles, the last not full
    rng = np.random.default_rng(1)
    for i in rng.permutation(300)[:100]:
        hashes[i] = flipped(
            hashes[rng.integers(300)], [*rng.integers(0, 64, MAX_HASH_DISTANCE + 1)]
        )
    reached = np.bitwise_count(hashes[:, None] ^ hashes[None]).max(axis=-1) <= MAX_HASH_DISTANCE
    for _ in range(9):
        reached = reached @ reached
    sets = near_duplicate_sets(hashes)
    assert ((sets[:, None] == sets[None]) == reached).all()
    assert 200 < len(np.unique(sets)) < 260


@pytest.mark.parametrize("column", [0, 1])
@pytest.mark.parametrize(
    ("distance", "near"), [(MAX_HASH_DISTANCE, True), (MAX_HASH_DISTANCE + 1, False)]
)
def test_both_hashes_have_to_be_near(
    hashes: np.ndarray, column: int, distance: int, near: bool
) -> None:
    hashes[7] = hashes[250]
    hashes[7, column] = flipped(hashes[7, column], [*range(distance)])
    sets = near_duplicate_sets(hashes)
    assert (sets[7] == sets[250]) == near


def test_photos_are_grouped_by_key() -> None:
    groups = group_by_key([1, 2, 4, 5, 8, 9], ["b", "a", "c", "b", "a", "b"])
    assert groups == [[1, 5, 9], [2, 8]]
    assert group_by_key([1, 2], ["a", "b"]) == group_by_key([], []) == []


def test_groups_join_the_groups_of_the_set() -> None:
    group = np.array(["nest", "p1", "nest", "p3", "p4", "p5"])
    sets = [[2, 3], [3, 4]]
    assert merge_groups(group, sets).tolist() == ["nest", "p1", "nest", "nest", "nest", "p5"]
    assert merge_groups(group, []).tolist() == group.tolist()


# Class names --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pair",
    [
        *[("Wren", "wren"), ("HOUSE WREN", "House Wren"), ("house wren", "house  wren")],
        *[("house wren", "house_wren"), ("house-wren", "housewren"), ("001.wren", "002.Wren")],
        *[("étourneau", "e\u0301tourneau"), ("Étourneau élégant", "etourneau elegant")],
        *[("Müller", "Muller"), ("鷦鷯", "鷦鷯 ")],
        *[("sparrow", name) for name in ("sparow", "sparrows", "spartow", "psarrow")],
        ("\ufb01nch", "finch"),  # a ligature
        ("wren", "wren\u200b"),  # a blank of no width
        ("wren", "wr\u0435n"),  # Cyrillic
    ],
)
def test_names_that_are_similar(pair: tuple[str, str]) -> None:
    assert similar_names([*pair, "nothing like it"]) == [tuple(sorted(pair))]


@pytest.mark.parametrize(
    "pair",
    [
        *[("class 1", "class 2"), ("n01440764", "n01440765"), ("1", "2"), ("1.5", "2.5")],
        *[("Fish Crow", "American Crow"), ("Least Tern", "Last Term"), ("cat", "bat")],
        *[("spar", "raps"), ("xoco", "ocox"), ("spxarow", "spayrow"), ("", "!")],
    ],
)
def test_names_that_are_not_similar(pair: tuple[str, str]) -> None:
    assert similar_names(pair) == []


def test_few_pairs_of_many_names_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Counter = Counter()
    is_slip = audit_report._is_slip

    def count(first: str, second: str) -> bool:
        calls["pairs"] += 1
        return is_slip(first, second)

    monkeypatch.setattr(audit_report, "_is_slip", count)
    prefixes = [f"{a}{b}{c} {a}{c}{b}" for a in "abcde" for b in "klmno" for c in "pqrst"]
    names = [f"{prefix} {chr(0x4E00 + i)}" for i, prefix in enumerate(prefixes * 25)]
    pairs = similar_names(names)
    assert len(pairs) == len(prefixes) * 25 * 24 / 2  # those of one prefix
    assert calls["pairs"] == len(pairs)
