"""The walk through a folder: which files are photos, and what is left out and why."""

import fnmatch
import logging
import os
import re
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from bilinear_cli.messages import abbreviate, escape_bytes, reason_of
from bilinear_cli.photos.pixels.formats import FORMATS, readable_formats

log = logging.getLogger(__name__)

SUFFIXES = dict.fromkeys(suffix for suffixes in FORMATS.values() for suffix in suffixes)
# Thumbnails, bins, snapshots and notes that systems and programs write among photos.
SYSTEM_NAMES = (
    ".*",  # hidden; also .DS_Store and ._x.jpg of macOS, .thumbnails, .picasaoriginals
    *("@eaDir", "@SynoEAStream", "@SynoResource", "@tmp", "#recycle", "#snapshot"),  # Synology
    *("@Recycle", "@Recently-Snapshot", "@__thumb", "~snapshot"),  # QNAP, NetApp
    *("$RECYCLE.BIN", "Recycler", "System Volume Information"),  # Windows
    *("Thumbs.db", "ehthumbs*.db", "desktop.ini"),
    *("__MACOSX", "Icon\r", "Network Trash Folder", "Temporary Items"),  # macOS
    *("lost+found", "LOST.DIR"),  # Linux, Android
    *("* Previews.lrdata", "Picasa.ini", "*~"),  # Lightroom, Picasa, backups of editors
)
IS_SYSTEM_NAME = re.compile("|".join(map(fnmatch.translate, SYSTEM_NAMES)), re.IGNORECASE).match
SUFFIX = re.compile(r"\.\w*[^\W\d_]\w*$")  # with a letter: `wren 12.05.2020` has no suffix
SYSTEM = "hidden or system"  # begins the reasons that nobody has to act on
MAX_REASONS = 6  # in a message


class Walk(NamedTuple):
    """What is in a folder and below it; all paths are POSIX, relative to it."""

    photos: list[str]  # in the order of `Path`
    folders: list[str]  # that were read; the first is "", the folder itself
    left_out: dict[str, list[str]]  # reason, in the plural -> files and folders; readable text


def walk_photos(root: Path) -> Walk:
    """Find the photos in a folder and below it.

    Links are followed. Every folder is read once: at its own place, or else at the first link to
    it. Thus links cannot form a loop, and no photo is listed twice because of a linked folder.
    """
    photos: list[str] = []
    read: list[str] = []
    left_out: dict[str, list[str]] = defaultdict(list)
    folders, links = deque([""]), deque[str]()
    visited = {str(parent) for parent in root.resolve().parents}
    while folders or links:
        folder = (folders or links).popleft()
        real = os.path.realpath(root / folder)
        if real in visited:
            left_out["links to folders that are read elsewhere"].append(escape_bytes(folder))
            continue
        visited.add(real)
        try:
            with os.scandir(root / folder) as iterator:
                entries = sorted(iterator, key=lambda entry: entry.name)
        except OSError as error:
            reason = f"folders that cannot be read ({reason_of(error)})"
            left_out[reason].append(escape_bytes(folder or "."))
            continue
        read.append(folder)
        for entry in entries:
            path, is_folder = f"{folder}/{entry.name}".lstrip("/"), _is_folder(entry)
            if reason := _reason(entry, is_folder):
                left_out[reason].append(escape_bytes(path))
            elif is_folder:
                (links if entry.is_symlink() else folders).append(path)
            else:
                photos.append(path)
    photos.sort(key=lambda path: [*map(os.path.normcase, path.split("/"))])
    return Walk(photos, read, dict(left_out))


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _reason(entry: os.DirEntry, is_folder: bool) -> str:
    """Return why an entry is left out; empty for a photo and for a folder to read."""
    if IS_SYSTEM_NAME(entry.name):
        return f"{SYSTEM} folders {escape_bytes(entry.name)}" if is_folder else f"{SYSTEM} files"
    if is_folder:
        return ""
    try:
        if not entry.is_file():
            return "links to nothing" if entry.is_symlink() else "pipes, sockets and devices"
    except OSError as error:
        return f"links that cannot be followed ({reason_of(error)})"
    match = SUFFIX.search(entry.name)
    if match:
        suffix = match[0].lower()
        return "" if suffix in SUFFIXES else f"{suffix} files"
    return "" if _is_image(entry.path) else "files without a suffix that are not images"


def _is_image(path: str) -> bool:
    """Return whether a file begins as one of `FORMATS`."""
    try:
        with Image.open(path, formats=readable_formats()):
            return True
    except Exception:  # Pillow raises nearly any error for strange bytes
        return False


def log_left_out(spec: object, left_out: Mapping[str, Sequence[str]]) -> None:
    """Log what a walk left out: a line for files of the system, and a warning for all others."""
    system = {reason: paths for reason, paths in left_out.items() if reason.startswith(SYSTEM)}
    if system:
        counts = [f"{reason} ({len(paths)})" for reason, paths in system.items()]
        log.info("%s: passed over %s", spec, abbreviate(counts, MAX_REASONS))
    if others := {reason: paths for reason, paths in left_out.items() if reason not in system}:
        log.warning("%s: left out %s", spec, _describe(others))


def left_out_hint(left_out: Mapping[str, Sequence[str]]) -> str:
    """Return `, but only ...` for a message about a folder without photos."""
    return f", but only {_describe(left_out)}" if left_out else ""


def _describe(left_out: Mapping[str, Sequence[str]]) -> str:
    """Return the reasons with counts and examples, the most frequent first, for a message."""
    pairs = sorted(left_out.items(), key=lambda x: (x[0].startswith(SYSTEM), -len(x[1])))
    lines = [f"{reason} ({len(paths)}): {abbreviate(paths, 2)}" for reason, paths in pairs]
    rest = f"; and {len(lines) - MAX_REASONS} more reasons" if len(lines) > MAX_REASONS else ""
    return "; ".join(lines[:MAX_REASONS]) + rest
