"""Tests of the unusual photos in a report, and of how well unknown classes are recognised."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.commands import run_command
from support.pages import Element, markdown_cells, markdown_tables, numbers, parse
from support.runs import CLASSES, change_model, make_run, random_scores, replace_photos, report_html

from bilinear_cli.training.novelty import Novelty, fit_novelty

NOVELTY = {"auroc": 0.8123, "auroc_ci95": [0.7456, 0.8789], "false_alarms_at_95": 0.5678}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", photos=False, novelty=NOVELTY)


@pytest.fixture
def novelty(run: Path) -> Novelty:
    """Give the run a novelty, from 300 held-out photos."""
    labels = np.arange(300) % 3
    novelty = fit_novelty(random_scores(labels, 3, seed=7), labels, np.arange(300), 0.5)
    change_model(run, novelty=novelty)
    return novelty


def unusual(run: Path) -> Element:
    return parse(report_html(run)).section("unusual")


def test_the_most_unusual_test_photos_are_shown(run: Path, novelty: Novelty) -> None:
    labels = np.arange(40) % 3
    scores = random_scores(labels, 3, seed=1)
    values = np.sort(novelty.score(scores))  # others are less unusual
    known = np.append(np.full(260, values[0] - 1), values)  # 300, as those that it counts
    novelty = replace(novelty, known=known)
    change_model(run, novelty=novelty)
    paths = np.array([f"photo {i}.png" for i in range(40)])
    replace_photos(run, "test", scores, labels, paths)
    rarity = novelty.rarity(scores)
    assert len({*rarity[rarity <= 0.05]}) > 12
    order = np.argsort(rarity, kind="stable")[:12]
    expected = [[f"1 in {round(1 / rarity[i])}", CLASSES[labels[i]], paths[i]] for i in order]
    cards = unusual(run).all("li", class_="card")
    texts = [[value.text for value in card.all("dd")] for card in cards]
    assert [[x[0], x[1], x[3]] for x in texts] == expected
    text = run_command("report", run, "--format", "md").stdout
    (table,) = [x for x in markdown_tables(text) if paths[order[0]] in "".join(x)]
    assert [[x[3], x[1], x[0]] for x in markdown_cells(table[2:])] == expected


def test_usual_photos_are_not_shown(run: Path, novelty: Novelty) -> None:
    scores = 4 * np.eye(3, dtype=np.float32)
    assert np.all(novelty.rarity(scores) > 0.05)
    replace_photos(run, "test", scores, [0, 1, 2], ["a", "b", "c"])
    section = unusual(run)
    assert not section.all("li")
    assert 3 in numbers(section.all("p")[-1])


def test_how_well_unknown_classes_are_told_is_said_without_a_novelty_too(run: Path) -> None:
    section = unusual(run)
    assert numbers(section)[:5] == [0.812, 0.746, 0.879, 95, 57]
    assert not section.all("li")
    text = run_command("report", run, "--format", "md").stdout
    assert all(x in text for x in ("0.812", "0.746", "0.879", "57 %"))
