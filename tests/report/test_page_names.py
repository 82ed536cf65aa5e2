"""Tests of the report with names that are code, markup or paths; and of the list of labels."""

import csv
import io
import json
import re
from base64 import b64decode
from pathlib import Path

import pytest
from support.commands import run_command
from support.pages import EXTERNAL, Element, markdown_tables, parse
from support.runs import EXTRACTION, HOSTILE_NAMES, make_run, report_html

from bilinear_cli.photos.lists.manifest import PhotoRecord
from bilinear_cli.report.text import confused_pairs_line
from bilinear_cli.report.write import escape_markdown


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("hostile") / "run", HOSTILE_NAMES)


@pytest.fixture(scope="module")
def hostile_html(hostile_run: Path) -> str:
    return report_html(hostile_run)


@pytest.fixture(scope="module")
def hostile(hostile_html: str) -> Element:
    return parse(hostile_html)


@pytest.mark.slow
def test_names_of_classes_add_no_element(
    hostile: Element, hostile_html: str, tmp_path: Path
) -> None:
    tame_run = make_run(tmp_path / "tame", [f"class {i}" for i in range(len(HOSTILE_NAMES))])
    tame = parse(report_html(tame_run))
    tags = [[element.tag for element in page if element.tag != "wbr"] for page in (hostile, tame)]
    assert tags[0] == tags[1]
    assert not any(name.startswith("on") for element in hostile for name in element.attributes)
    assert not EXTERNAL.search(hostile_html)


def test_names_of_classes_are_shown_as_they_are(hostile: Element) -> None:
    assert all(name in hostile.text for name in HOSTILE_NAMES if len(name) < 300)
    titles = [name["title"] for name in hostile.all("bdi") if "title" in name.attributes]
    assert set(HOSTILE_NAMES) <= set(titles)


@pytest.mark.slow
def test_other_texts_are_shown_as_they_are(tmp_path: Path) -> None:
    bold = "<b>'\""
    extraction = EXTRACTION | {"data_root": f"/{bold}", "data": bold}
    extraction["command"] = json.dumps(["bilinear", bold])
    metrics = {"versions": bold, "fitted_on": bold, "extraction": extraction}
    metrics["command"] = json.dumps(["bilinear", "train", bold])
    runs = [
        make_run(tmp_path / f"<b>{i}", HOSTILE_NAMES, photos=False, **metrics) for i in range(2)
    ]
    page = parse(report_html(*runs))
    assert not page.all("b")
    assert not any("b" in element.attributes for element in page)
    for text in (f"/{bold}", "bilinear '<b>'\"'\"'\"'", "--data '/<b>"):
        assert text in page.text


def test_markdown_keeps_its_tables(hostile_run: Path) -> None:
    text = run_command("report", hostile_run, "--format", "md").stdout
    tables = markdown_tables(text)
    assert len(tables) == 4
    for lines in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert "<script>" not in text.replace("\\<", "")
    assert escape_markdown("a|b\n<c>*d*") == r"a\|b \<c\>\*d\*"


def test_names_do_not_control_the_terminal(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ["a\x1b[31m", "b\u202e", "c"], photos=False)
    pair = {"true": "a\x1b[31m", "predicted": "b\u202e", "count": 1}
    line = confused_pairs_line(
        json.loads((run / "metrics.json").read_text()) | {"confused": [pair]}
    )
    markdown = run_command("report", run, "--format", "md").stdout
    assert not {"\x1b", "\u202e"} & {*markdown, *line}
    assert all(name in line for name in (r"a\x1b[31m", r"b\u202e"))


# The list of labels to correct ------------------------------------------------------------------


def test_the_page_holds_all_labels_to_correct(hostile: Element, hostile_run: Path) -> None:
    (link,) = [a for a in hostile.all("a") if "download" in a.attributes]
    text = b64decode(link["href"].split(",", 1)[1]).decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len({row["path"] for row in rows}) == len(rows) == 8 * len(HOSTILE_NAMES) + 1
    assert {row["label"] for row in rows} == set(HOSTILE_NAMES)
    assert {row["split"] for row in rows} == {"train", "test"}
    alone = ("in no fold.png", HOSTILE_NAMES[0], "train", "alone")
    assert rows[-1] == dict(zip(PhotoRecord._fields, alone, strict=True))
    section = hostile.section("errors")
    paths = [card.one("dd", class_="path").text for card in section.all("li", class_="card")]
    assert [row["path"] for row in rows[: len(paths)]] == paths
    corrected = hostile_run.parent / "photos" / link["download"]
    assert section.one("pre").text == f"bilinear train --features 'x y.h5' --data {corrected}"


@pytest.mark.slow
def test_a_page_without_a_long_list_of_labels_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bilinear_cli.report.page.MAX_CSV_BYTES", 10)
    page = parse(report_html(make_run(tmp_path / "run", photos=False)))
    assert not any("download" in element.attributes for element in page)
    assert "labels.csv" in page.section("errors").text
