"""Where the program keeps files between runs."""

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """Return `$BILINEAR_CACHE`, else the user's cache folder; it may not exist yet.

    It has network weights, and photos that were drawn or unpacked.
    """
    return Path(os.environ.get("BILINEAR_CACHE") or platformdirs.user_cache_path("bilinear"))
