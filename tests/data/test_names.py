"""Tests of class names that look alike."""

import time

import pytest

from bilinear_cli.data.names import alike


@pytest.mark.parametrize(
    "pair",
    [
        ("Wren", "wren"),
        ("house wren", "house  wren"),
        ("house wren", "house_wren"),
        ("house-wren", "housewren"),
        ("étourneau", "e\u0301tourneau"),
        ("Müller", "Muller"),
        ("Étourneau élégant", "etourneau elegant"),
        ("HOUSE WREN", "House Wren"),
        ("\ufb01nch", "finch"),  # a ligature
        ("wren", "wren\u200b"),  # a blank of no width
        ("001.wren", "002.Wren"),
        ("sparrow", "sparow"),
        ("sparrow", "sparrows"),
        ("sparrow", "spartow"),
        ("sparrow", "psarrow"),
        ("wren", "wr\u0435n"),  # Cyrillic
        ("鷦鷯", "鷦鷯 "),
    ],
)
def test_alike(pair: tuple[str, str]) -> None:
    assert alike([*pair, "nothing like it"]) == [tuple(sorted(pair))]


@pytest.mark.parametrize(
    "pair",
    [
        ("cat", "bat"),
        ("class 1", "class 2"),
        ("n01440764", "n01440765"),
        ("1", "2"),
        ("1.5", "2.5"),
        ("Fish Crow", "American Crow"),
        ("Least Tern", "Last Term"),
        ("spar", "raps"),
        ("xoco", "ocox"),
        ("", "!"),
    ],
)
def test_not_alike(pair: tuple[str, str]) -> None:
    assert alike(pair) == []


def test_many_names_take_no_time() -> None:
    names = [f"{a}{b}{c} {a}{c}{b}" for a in "abcdefghij" for b in "klmno" * 5 for c in "pqrst" * 5]
    start = time.perf_counter()
    alike([f"{name} {chr(0x4E00 + i)}" for i, name in enumerate(names)])
    assert time.perf_counter() - start < 10
