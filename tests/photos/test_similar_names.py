"""Tests of class names that look alike."""

from collections import Counter

import pytest

from bilinear_cli.photos import audit_report
from bilinear_cli.photos.audit_report import similar_names


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
def test_names_that_are_similar(pair: tuple[str, str]) -> None:
    assert similar_names([*pair, "nothing like it"]) == [tuple(sorted(pair))]


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
def test_names_that_are_not_similar(pair: tuple[str, str]) -> None:
    assert similar_names(pair) == []


@pytest.mark.slow
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
