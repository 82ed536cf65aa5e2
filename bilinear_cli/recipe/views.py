"""Views of a photo: its sizes, and its mirror image."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line reads recipes without NumPy
    import numpy as np

MAX_SIZE = 99_999  # of a photo in pixels; names of views have at most five digits


@dataclass(frozen=True)
class View:
    """One way to show a photo: its width and height in pixels, and whether it is mirrored."""

    size: int
    flip: bool = False

    def apply(self, photos: "np.ndarray") -> "np.ndarray":
        """Return this view of photos (n, size, size, 3)."""
        return photos[:, :, ::-1] if self.flip else photos


def view_names(sizes: Sequence[int], flip: bool) -> tuple[str, ...]:
    """Return the names of views in a feature file, in their order.

    Views of the first size are `original` and `flip`, those of another `320` and `320-flip`.
    """
    names = ["original", "flip"]
    names += [f"{size}{suffix}" for size in sizes[1:] for suffix in ("", "-flip")]
    return tuple(names if flip else names[::2])


def parse_views(names: Sequence[str], image_size: int) -> list[View]:
    """Return the views of these names, or raise a ValueError; `image_size` is the first size."""
    if not names or len({*names}) < len(names):
        raise ValueError(f"views are {' '.join(names)!r}")
    views = []
    for name in names:
        match = re.fullmatch(r"original|(?:([1-9]\d{0,4})-)?(flip)|([1-9]\d{0,4})", name)
        if not match:
            raise ValueError(f"unknown view: {name!r}")
        views.append(View(int(match[1] or match[3] or image_size), match[2] is not None))
    return views


def distinct_sizes(views: Sequence[View]) -> list[int]:
    """Return the different sizes of views, in their order."""
    return list(dict.fromkeys(view.size for view in views))
