"""The place of the cache."""

from pathlib import Path

import platformdirs
import pytest

from bilinear_cli.config import cache_folder


@pytest.mark.parametrize("value", [None, "", "elsewhere"])
def test_the_cache_is_the_users_or_that_of_the_environment(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BILINEAR_CACHE")
    if value is not None:
        monkeypatch.setenv("BILINEAR_CACHE", value)
    assert cache_folder() == Path(value or platformdirs.user_cache_dir("bilinear"))
