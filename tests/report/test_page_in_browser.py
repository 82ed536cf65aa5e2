"""Tests of the report's page in Chromium: sorting, small screens, dark colours, no requests."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.browser import Page, browser, needs_chromium
from support.runs import HOSTILE_NAMES, make_run, report_html

import bilinear_cli.report.write as report_module

pytestmark = [pytest.mark.browser, pytest.mark.slow, needs_chromium]

FIRST_CELLS = "[...document.querySelectorAll('#t tbody tr')].map(r => r.cells[0].textContent)"
DIRECTIONS = "[...document.querySelectorAll('#t th')].map(h => h.getAttribute('aria-sort'))"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


def test_columns_of_all_kinds_sort(page: Page, tmp_path: Path) -> None:
    script = Path(report_module.__file__).with_name("sort.js").read_text("utf-8")
    cells = [("class 10", "1,200"), ("class 9", "-"), ("Class 1", "30"), ("", "0.5")]
    rows = "".join(f"<tr><td>{a}</td><td>{b}</td></tr>" for a, b in cells)
    heads = "<th aria-sort='none' data-words><button>a</button></th>"
    heads += "<th aria-sort='none'><button>b</button></th>"
    table = f"<table id=t><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    (tmp_path / "t.html").write_text(f"<!DOCTYPE html>{table}<script>{script}</script>")
    page.open(tmp_path / "t.html")
    for column, direction, expected in (
        (0, "ascending", ["Class 1", "class 9", "class 10", ""]),
        (0, "descending", ["class 10", "class 9", "Class 1", ""]),
        (1, "ascending", ["", "Class 1", "class 10", "class 9"]),
        (1, "descending", ["class 10", "Class 1", "", "class 9"]),
    ):
        page.value(f"document.querySelectorAll('#t th button')[{column}].click()")
        assert page.value(FIRST_CELLS) == expected
        directions = ["none", "none"]
        directions[column] = direction
        assert page.value(DIRECTIONS) == directions


def test_the_page_works_without_errors_and_requests(page: Page, tmp_path: Path) -> None:
    runs = make_run(tmp_path / "run", HOSTILE_NAMES, per_class=5)
    report_html(runs, make_run(tmp_path / "second", oof_top1=0.1, photos=False))
    page.open(tmp_path / "report.html")
    check_sorting(page)
    check_screens(page)
    assert page.value("[...document.images].every(i => i.alt && i.naturalWidth)")
    errors = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
    assert not [event for event in page.events if event[0] in errors]
    requests = [p for method, p in page.events if method == "Network.requestWillBeSent"]
    urls = [request["request"]["url"] for request in requests]
    assert {url.split(":")[0] for url in urls} <= {"file", "data"}
    assert [url for url in urls if url.startswith("file")] == urls[:1]


def check_sorting(page: Page) -> None:
    """Check that a button sorts the classes by accuracy, in both directions by turns."""
    table = "document.querySelector('#classes ~ .scroll')"
    accuracies = (
        f"[...{table}.querySelectorAll('tbody tr')].map(r => parseFloat(r.cells[1].textContent))"
    )
    button = f"{table}.querySelectorAll('th button')[1]"
    for direction in ("ascending", "descending", "ascending"):
        page.value(f"{button}.click()")
        values = page.value(accuracies)
        assert values == sorted(values, reverse=direction == "descending")
        assert page.value(f"{button}.closest('th').getAttribute('aria-sort')") == direction
    assert len(set(values)) > 1


def check_screens(page: Page) -> None:
    """Check that the page fits its screen, light and dark."""
    for width in (390, 1280):
        for dark in (False, True):
            page.set_screen(width, dark=dark)
            assert page.value("innerWidth") == width
            root = "document.documentElement"
            assert page.value(f"{root}.scrollWidth - {root}.clientWidth") == 0
            ink, paper = page.value(
                "['color', 'backgroundColor'].map(x => parseInt("
                "getComputedStyle(document.body)[x].match(/\\d+/)[0]))"
            )
            assert (ink > paper) == dark
            assert contrast(page) >= 4.5


COLOURS = """(() => {
  const probe = document.body.appendChild(document.createElement("i"));
  const colours = ["--paper", "--ink", "--quiet", "--link", "--right", "--wrong"].map(name => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color.match(/\\d+/g).map(Number);
  });
  probe.remove();
  return colours;
})()"""


def contrast(page: Page) -> float:
    """Return the least contrast of a colour to the paper's, by WCAG."""
    rgb = np.array(page.value(COLOURS)) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    paper, *inks = linear @ [0.2126, 0.7152, 0.0722] + 0.05
    return min(max(paper, ink) / min(paper, ink) for ink in inks)
