"""Which photos a file means whose paths may start at other folders, or on another computer."""

import logging
import posixpath
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from unicodedata import normalize

from bilinear_cli.errors import BilinearError

log = logging.getLogger(__name__)

Parts = tuple[str, ...]  # of a path; those of an absolute path start with an empty text
Keys = dict[str, Parts]  # a name -> what has to be equal for a photo and its entry


def match_paths(
    source: str,
    entries: Collection[str],
    paths: Sequence[str],
    root: Path,
    entry_name: Callable[[str], str] = str,
) -> dict[str, str]:
    r"""Return the entry of each path that has one.

    All are matched in one way, the first of these that matches any: the same file; an entry is the
    end of a photo's absolute path; a path is the end of an entry; the last parts of both are equal,
    as many of them as possible. In an entry `\` means `/`, unless a photo has exactly this path.

    Args:
        source: the file that has the entries, for messages.
        entries: the paths there, each once.
        paths: photos, relative to `root`, or absolute.
        root: a folder.
        entry_name: the path of a photo -> how the file names it, if not so.

    Raises:
        BilinearError: no entry is a photo, or it is ambiguous which one it is.
    """
    photos = {_clean(path): _parts(entry_name(path)) for path in paths}
    slashed = {x: x if _clean(x) in photos else x.replace("\\", "/") for x in entries}
    names = {entry: _parts(path) for entry, path in slashed.items()}
    for way, keys in enumerate(_ways(photos, names, root.absolute().as_posix())):
        if pairs := _pairs(source, *map(_inverse, keys)):
            if way > 2:
                message = "%s has paths in other folders: %s is taken for the photo %s, and so on"
                log.warning(message, source, *reversed(pairs[0]))
            entry_of = dict(pairs)
            return {path: entry_of[_clean(path)] for path in paths if _clean(path) in entry_of}
    entry = next(iter(entries), None)
    content = f"is about other photos: it has, for example, {entry}" if entry else "has no photos"
    raise BilinearError(
        f"{source} {content}, but a photo here is {next(iter(paths), 'none')}. Give the file of "
        f"these photos, with paths that start at {root.absolute()}."
    )


def _ways(photos: Keys, entries: Keys, root: str) -> Iterator[tuple[Keys, Keys]]:
    """Yield keys of the photos and of the entries, from the strictest to the loosest way."""
    absolute = {name: _parts(posixpath.join(root, *parts)) for name, parts in photos.items()}
    yield absolute, {name: _parts(posixpath.join(root, *parts)) for name, parts in entries.items()}
    yield _known_ends(absolute, entries), entries
    yield photos, _known_ends(entries, photos)
    depths = [max(map(len, keys.values()), default=0) for keys in (absolute, entries)]
    for n in range(min(depths), 0, -1):
        yield _ends(absolute, n), _ends(entries, n)


def _known_ends(keys: Keys, others: Keys) -> Keys:
    """Return the longest end of each key that is one of the other keys."""
    known, ends = {*others.values()}, {}
    for name, parts in keys.items():
        if end := next((parts[i:] for i in range(len(parts)) if parts[i:] in known), None):
            ends[name] = end
    return ends


def _ends(keys: Keys, n_parts: int) -> Keys:
    return {name: parts[-n_parts:] for name, parts in keys.items()}


def _inverse(keys: Keys) -> dict[Parts, list[str]]:
    """Return key -> the names that have it."""
    names_of = defaultdict(list)
    for name, key in keys.items():
        names_of[key].append(name)
    return names_of


def _pairs(
    source: str, photos_of: dict[Parts, list[str]], entries_of: dict[Parts, list[str]]
) -> list[tuple[str, str]]:
    """Return the photos and entries that have the same key, or raise if there are several."""
    pairs, advice = [], "Write paths that start at the folder of the photos."
    for key, photos in photos_of.items():
        entries = entries_of.get(key, [])
        if entries and len(photos) > 1:
            text = f"{entries[0]} may be the photo {photos[0]} or {photos[1]}"
            raise BilinearError(f"{source}: {text}. {advice}")
        if len(entries) > 1:
            text = f"{entries[0]} and {entries[1]} may be the photo {photos[0]}"
            raise BilinearError(f"{source}: {text}. {advice}")
        pairs += [(photos[0], entry) for entry in entries]
    return pairs


def _clean(path: str) -> str:
    return posixpath.normpath(normalize("NFC", path))


def _parts(path: str) -> Parts:
    return tuple(_clean(path).split("/"))
