"""Photos that are the same, or nearly: which ones, and groups that keep them together."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from bilinear_cli.errors import BilinearError

# Of 64 bits, in both of two hashes. Measured on 1,185 whole photos of birds: as near as that are
# all copies at a third of the size or in grey, 99.9 % of those stored again (JPEG of quality 20),
# 99.8 % of those brighter by a fifth and 95 % by a half, 99 % of those cropped by 2 % at each edge
# and 49 % by 5 %. Of 701,520 pairs of these photos two are so near, and of 17,413,851 pairs of
# 5,902 photos cropped to birds five: each shows one bird at one moment. At 12 there are 2 and 13,
# of those 7 by chance; a hash alone takes 39 and 132 pairs to be within 10. Of 100,000 photos,
# 5,000,000,000 pairs, a hundred or so may be near by chance, and make groups that are a little too
# large.
NEAR = 10
TILE = 1024  # hashes; a tile of comparisons is 8 MB, which stays in a processor's cache


def load_hashing() -> Any:
    """Import imagehash, which is an extra."""
    try:
        import imagehash
    except ImportError as error:
        raise BilinearError("for check install the extra: pip install '.[check]'") from error
    return imagehash


def hashes_of(photo: np.ndarray) -> np.ndarray:
    """Return what is much the same for photos that look the same.

    Args:
        photo: uint8 (size, size, 3), RGB.

    Returns:
        uint64 (2,): the signs of the low frequencies (`phash`), and of the steps from left to
        right (`dhash`).
    """
    hashing, image = load_hashing(), Image.fromarray(photo)
    bits = [hashing.phash(image).hash, hashing.dhash(image).hash]
    return np.packbits(bits).view(np.uint64)


def near_duplicate_sets(hashes: np.ndarray) -> np.ndarray:
    """Return for each photo the number of its set: what is near something in it is in it.

    Every pair is compared, in tiles: 100,000 photos take 15 seconds.

    Args:
        hashes: uint64 (photos, 2), of `hashes_of`.

    Returns:
        int64 (photos,).
    """
    distinct, indices = np.unique(hashes, axis=0, return_inverse=True)
    sets = np.arange(len(distinct))
    for row in range(0, len(distinct), TILE):
        hashes, pairs = distinct[row : row + TILE], []
        for column in range(row, len(distinct), TILE):
            others = distinct[column : column + TILE]
            i, j = np.nonzero(np.bitwise_count(hashes[:, None, 0] ^ others[None, :, 0]) <= NEAR)
            near = np.bitwise_count(hashes[i, 1] ^ others[j, 1]) <= NEAR
            pairs.append(np.stack([i[near] + row, j[near] + column]))
        sets = join(sets, np.concatenate(pairs, axis=1))
    return sets[indices.ravel()]


def join(sets: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the sets after the members of each pair have been put in one.

    Args:
        sets: int64 (n,).
        pairs: int64 (2, pairs), of numbers from 0 to n - 1.
    """
    n = len(sets)
    _, first, which = np.unique(sets, return_index=True, return_inverse=True)
    i, j = np.concatenate([pairs, [np.arange(n), first[which]]], axis=1)
    return connected_components(coo_array((np.ones(len(i), bool), (i, j)), shape=(n, n)))[1]


def members(sets: Sequence | np.ndarray) -> list[np.ndarray]:
    """Return the numbers of the photos of each set that has several; sets by their first photo."""
    _, indices, size = np.unique(np.asarray(sets), return_inverse=True, return_counts=True)
    photos = np.split(np.argsort(indices, kind="stable"), np.cumsum(size)[:-1])
    return sorted((several for several in photos if len(several) > 1), key=lambda x: x[0])


def merge_groups(group: np.ndarray, sets: Sequence[np.ndarray]) -> np.ndarray:
    """Return groups that keep together those that are given, and the photos of each set.

    Args:
        group: str (photos,).
        sets: each the numbers of photos.

    Returns:
        str (photos,): each group goes by the name that the first photo's group had.
    """
    _, which = np.unique(group, return_inverse=True)
    pairs = np.array([(part[0], i) for part in sets for i in part], np.int64).reshape(-1, 2).T
    _, first, which = np.unique(join(which, pairs), return_index=True, return_inverse=True)
    return group[first[which]]
