"""Views: the sizes in which a photo is shown to the network, as it is and mirrored."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line reads recipes without NumPy
    import numpy as np


@dataclass(frozen=True)
class View:
    """One way to show a photo.

    Attributes:
        size: width and height, in pixels.
        flip: mirrored, left for right.
    """

    size: int
    flip: bool = False

    def apply(self, photos: "np.ndarray") -> "np.ndarray":
        """Return photos (n, size, size, 3) as they are shown."""
        return photos[:, :, ::-1] if self.flip else photos


def view_names(sizes: Sequence[int], flip: bool) -> tuple[str, ...]:
    """Return how the views of a photo are called in a feature file, in their order.

    Those of the first size are `original` and `flip`; those of others `320` and `320-flip`.

    Args:
        sizes: in pixels.
        flip: mirrored too.
    """
    names = []
    for size in sizes:
        first = size == sizes[0]
        names.append("original" if first else str(size))
        names += [("flip" if first else f"{size}-flip")] if flip else []
    return tuple(names)


def parse_views(names: Sequence[str], image_size: int) -> list[View]:
    """Return the views that go by these names; `image_size` is the first size.

    Raises:
        ValueError: a name is none.
    """
    found = []
    for name in names:
        parts = re.fullmatch(r"(original)|(?:(\d+)-)?(flip)|(\d+)", name)
        if not parts:
            raise ValueError(f"no view is called {name!r}")
        found.append(View(int(parts[2] or parts[4] or image_size), parts[3] is not None))
    return found


def distinct_sizes(every: Sequence[View]) -> list[int]:
    """Return the different sizes of views."""
    return list(dict.fromkeys(view.size for view in every))
