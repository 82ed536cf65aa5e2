"""HTML pages as trees, for tests of their structure and facts."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser

VOID = {"br", "img", "link", "meta", "wbr"}  # elements without an end tag
NO_TEXT = {"script", "style", "svg"}
# References that a browser would load from elsewhere.
EXTERNAL = re.compile(r"""https?:|(?:src|href|action)=["']//|url\((?!#)|@import""", re.I)


class Element:
    """An element of a page.

    Attributes:
        tag: its name.
        attributes: name -> value, "" for one without a value.
        children: elements and texts, in order.
    """

    def __init__(self, tag: str, attributes: dict[str, str]) -> None:
        self.tag, self.attributes = tag, attributes
        self.children: list[Element | str] = []

    def __getitem__(self, name: str) -> str:
        return self.attributes[name]

    def __iter__(self) -> Iterator["Element"]:
        """Return all elements below this one, in their order."""
        for child in self.children:
            if isinstance(child, Element):
                yield child
                yield from child

    def all(self, tag: str, **attributes: str) -> list["Element"]:
        """Return the elements below this one that have this tag and these attributes.

        An attribute's name may end in an underscore, as in `class_`.
        """
        pairs = {name.rstrip("_"): value for name, value in attributes.items()}.items()
        return [e for e in self if e.tag == tag and pairs <= e.attributes.items()]

    def one(self, tag: str, **attributes: str) -> "Element":
        """Return the only element below this one that has this tag and these attributes."""
        (element,) = self.all(tag, **attributes)
        return element

    def section(self, name: str) -> "Element":
        """Return the section whose heading has this id."""
        return self.one("section", **{"aria-labelledby": name})

    @property
    def text(self) -> str:
        """The text outside scripts, styles and drawings, with single blanks."""
        return " ".join("".join(self._texts()).split())

    def _texts(self) -> Iterator[str]:
        for child in self.children:
            if isinstance(child, str):
                yield child
            elif child.tag not in NO_TEXT:
                yield from child._texts()


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(self.open[-1].children[-1])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag, f"</{tag}> ends another element"

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parse(html: str) -> Element:
    """Return a page as a tree, after checking that all elements are closed in order."""
    parser = _Parser()
    parser.feed(html)
    parser.close()
    (root,) = parser.open
    return root


def cells(table: Element) -> list[list[str]]:
    """Return the texts of the cells of a table's body, row by row."""
    rows = table.one("tbody").all("tr")
    return [[cell.text for cell in row if cell.tag in ("th", "td")] for row in rows]


def markdown_tables(text: str) -> list[list[str]]:
    """Return the lines of each Markdown table in a text."""
    return [table.splitlines() for table in re.findall(r"(?:^\|.*\n)+", text, re.M)]


def markdown_cells(lines: list[str]) -> list[list[str]]:
    """Return the cells of lines of a Markdown table."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def numbers(element: Element) -> list[float]:
    """Return the numbers in the text of an element, in order."""
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", element.text)]
