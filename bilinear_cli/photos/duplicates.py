"""Photos that are the same or nearly the same, and groups that keep them together."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from bilinear_cli.errors import BilinearError

# Greatest distance of near duplicates: bits of 64, in each of two hashes. Measured on 1,185 whole
# photos of birds, these copies are within it: all copies at a third of the size or in grey, 99.9 %
# of those stored again (JPEG of quality 20), 99.8 % of those brighter by a fifth and 95 % by a
# half, 99 % of those cropped by 2 % at each edge and 49 % by 5 %. Among the 701,520 pairs of these
# photos two pairs are within it, and five among the 17,413,851 pairs of 5,902 photos cropped to
# birds: each pair shows one bird at one moment. At a distance of 12 there are 2 and 13 pairs, 7 of
# them by chance; one hash alone has 39 and 132 pairs within 10. Among 100,000 photos (5,000,000,000
# pairs) about a hundred pairs may be within it by chance, which makes groups a little too large.
MAX_HASH_DISTANCE = 10
TILE_SIZE = 1024  # hashes; a tile of comparisons takes 8 MB, which fits into a processor's cache


def load_imagehash() -> Any:
    """Import imagehash, which is an extra."""
    try:
        import imagehash
    except ImportError as error:
        raise BilinearError(
            "for check install the extra: pip install 'bilinear-cli[check]'"
        ) from error
    return imagehash


def perceptual_hashes(photo: np.ndarray) -> np.ndarray:
    """Return two hashes of a photo, uint8 (size, size, 3); similar photos have similar hashes.

    They are uint64 (2,): the signs of the low frequencies (`phash`) and of the differences from
    left to right (`dhash`).
    """
    imagehash, image = load_imagehash(), Image.fromarray(photo)
    bits = [imagehash.phash(image).hash, imagehash.dhash(image).hash]
    return np.packbits(bits).view(np.uint64)


def near_duplicate_sets(hashes: np.ndarray) -> np.ndarray:
    """Return the index of each photo's set, int (n_photos,); near duplicates share a set.

    `hashes` are uint64 (n_photos, 2). Every pair is compared, in tiles: 100,000 photos take 15
    seconds.
    """
    distinct, indices = np.unique(hashes, axis=0, return_inverse=True)
    sets = np.arange(len(distinct))
    for row in range(0, len(distinct), TILE_SIZE):
        first, pairs = distinct[row : row + TILE_SIZE], []
        for column in range(row, len(distinct), TILE_SIZE):
            second = distinct[column : column + TILE_SIZE]
            distance = np.bitwise_count(first[:, None, 0] ^ second[None, :, 0])
            i, j = np.nonzero(distance <= MAX_HASH_DISTANCE)
            near = np.bitwise_count(first[i, 1] ^ second[j, 1]) <= MAX_HASH_DISTANCE
            pairs.append(np.stack([i[near] + row, j[near] + column]))
        sets = _join(sets, np.concatenate(pairs, axis=1))
    return sets[indices.ravel()]


def _join(sets: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return sets, int (n,) below n, after the sets of each of `pairs`, int (2, m), are joined."""
    n, (i, j) = len(sets), sets[pairs]
    graph = coo_array((np.ones(len(i), bool), (i, j)), shape=(n, n))
    return connected_components(graph, directed=False)[1][sets]


def group_by_key(photos: Sequence[int], keys: Sequence | np.ndarray) -> list[list[int]]:
    """Return the photos of each key that several photos have, ordered by their first photo."""
    groups = defaultdict(list)
    for photo, key in zip(photos, keys, strict=True):
        groups[key].append(photo)
    return [group for group in groups.values() if len(group) > 1]


def merge_groups(group: np.ndarray, duplicates: Sequence[Sequence[int]]) -> np.ndarray:
    """Return groups, str (n_photos,), that keep old groups and sets of duplicates together.

    `duplicates` are indices of photos. A merged group has the name of its first photo's group.
    """
    _, sets = np.unique(group, return_inverse=True)
    pairs = np.array([(photos[0], i) for photos in duplicates for i in photos], np.int64)
    sets = _join(sets, pairs.reshape(-1, 2).T)
    _, first, indices = np.unique(sets, return_index=True, return_inverse=True)
    return group[first[indices]]
