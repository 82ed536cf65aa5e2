"""The extras of `pyproject.toml`."""

import re
import tomllib

import pytest
from support.commands import ROOT

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
    "optional-dependencies"
]
EXTRA = re.compile(r"bilinear-cli\[([\w,]+)\]")
NOT_IN_ALL = {"docs", "all", "bench", "dev", "gpu"}  # for developers, or of gigabytes


def extras_in(text: str) -> set[str]:
    return {name for names in EXTRA.findall(text) for name in names.split(",")}


def test_all_has_every_extra_for_users() -> None:
    (requirement,) = EXTRAS["all"]
    assert extras_in(requirement) == EXTRAS.keys() - NOT_IN_ALL


@pytest.mark.parametrize("folder", ["bilinear_cli", "docs"])
def test_extras_that_messages_name_exist(folder: str) -> None:
    files = [path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md")]
    named = extras_in("".join(path.read_text("utf-8") for path in files))
    assert named
    assert named <= EXTRAS.keys()
