"""The site of the documents: `make docs` writes it to build/site, with nothing from the network."""

from importlib.metadata import version as package_version
from typing import Any

project = "bilinear"
author = "the authors of bilinear"
version = package_version("bilinear-cli")
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["why/template.md"]

# A broken link, an unknown name in the API, or code that does not parse is a warning, and
# `make docs` turns warnings into errors.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(numpy|np|pandas|keras|scikit-learn|sklearn|scipy|KerasTensor|ellipsis).*"),
    (r"py:.*", r"bilinear_cli\.(photos|store|layers)\..*"),  # not on the page of the API
    (r"py:.*", r"(array-like|callable|default.*|optional|pathlib.*|collections.*|StrPath|Any)"),
]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # a test executes the notebook

html_theme = "furo"
html_title = "bilinear"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_show_copyright = False

python_maximum_signature_line_length = 88
default_role = "code"  # docstrings have Markdown's backquotes
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_use_rtype = False


def mark_examples(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Make the indented examples of a docstring code: those after a sentence, not after `Args:`."""
    for i in range(len(lines) - 1, 1, -1):
        starts = lines[i].startswith("    ") and not lines[i - 1]
        before = next((line for line in reversed(lines[: i - 1]) if line), "    ")
        if starts and not before.startswith(" ") and not before.endswith(":"):
            lines[i:i] = [".. code-block:: python", ""]


def setup(app: Any) -> None:
    """Mark examples before napoleon reads the sections."""
    app.connect("autodoc-process-docstring", mark_examples, priority=400)
