"""Paths as people give them, as an argument or in a list -> photos to predict."""

import codecs
import os
import stat
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path

from bilinear_cli.errors import UsageError
from bilinear_cli.home import expand_home
from bilinear_cli.messages import reason_of
from bilinear_cli.photos.folders.walk import left_out_hint, log_left_out, walk_photos

UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def photos_of(path: Path) -> tuple[list[Path], str]:
    """Return the photos that an argument stands for, and what is wrong with it or an empty text.

    A path that cannot be read stands for itself: it gets its error among the predictions.
    """
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except OSError as error:
        return [path], f"cannot read {path} ({reason_of(error)}): name a photo or a folder"
    if not is_folder:
        return [path], ""
    walk = walk_photos(path)
    if not walk.photos:
        return [], f"{path} has no photos{left_out_hint(walk.left_out)}"
    log_left_out(path, walk.left_out)
    return [path / photo for photo in walk.photos], ""


def read_paths(stream: BufferedIOBase) -> Iterator[Path]:
    """Yield the paths of a list: one in each line, or with a NUL behind each.

    `find -print0` writes a NUL behind each. The separator is the more frequent of the two, line
    breaks or NULs, as soon as one of them has arrived; of as many, the one that has come last.

    Raises:
        UsageError: the list is in UTF-16.
    """
    text, separator = b"", b""
    while chunk := stream.read1():
        text += chunk
        if not separator:
            if text.startswith(UTF_16):
                raise UsageError("standard input is in UTF-16: save the list in UTF-8")
            n_nuls, n_lines = text.count(b"\0"), text.count(b"\n")
            if not n_nuls and not n_lines:  # a slow program has not finished its first path
                continue
            is_nul = n_nuls > n_lines or (n_nuls == n_lines and text.endswith(b"\0"))
            separator = b"\0" if is_nul else b"\n"
            text = text.removeprefix(codecs.BOM_UTF8)
        *names, text = text.split(separator)
        yield from _paths(names, separator)
    yield from _paths([text if separator else text.removeprefix(codecs.BOM_UTF8)], separator)


def _paths(names: list[bytes], separator: bytes) -> Iterator[Path]:
    for name in names:
        if separator != b"\0":
            name = name.rstrip(b"\r")
        if name.strip():
            yield expand_home(_decode(name))


def _decode(name: bytes) -> str:
    try:
        return os.fsdecode(name)
    except UnicodeDecodeError:  # Windows: `dir /b` writes in the code page of the console
        return name.decode("oem", "replace")
