"""The path that a list gives -> the photo that it means, or what the user can do."""

import os
import re
from collections import defaultdict
from pathlib import Path
from unicodedata import normalize

from bilinear_cli.errors import reason_of
from bilinear_cli.photos.walk import IS_SYSTEM_NAME, SUFFIXES

URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
WINDOWS = re.compile(r"[a-z]:[\\/]|\\\\", re.IGNORECASE)
SHORTENED_NUMBER = re.compile(r"\d([.,]\d+)?e\+\d+", re.IGNORECASE)
MAX_SEARCHED = 50_000  # files, to find one for a hint


class Lookup:
    """Finds the photos of a list. It reads a folder once, and only for a path that is not exact."""

    def __init__(self, root: Path) -> None:
        self.root = root  # the folder of the list
        self.inexact: dict[str, Path] = {}  # path in the list -> the photo that was taken
        self._folders: dict[Path, dict[str, list[str]]] = {}

    def find(self, text: str) -> Path | None:
        r"""Return the file of a path, or None.

        Without a file of exactly this path, `\` means `/`, and `~/` the home folder. The suffix of
        a photo may be absent then, and the case and the Unicode form of its name may differ.

        Raises:
            ValueError: more than one file matches.
        """
        if _is_file(self.root / text):
            return self.root / text
        slashed = text.replace("\\", "/")
        file = self.root / (Path(slashed).expanduser() if slashed.startswith("~/") else slashed)
        names = [file.name] if _is_file(file) else self._similar(file)
        if len(names) > 1:
            raise ValueError(f"{text} may be {' or '.join(names)}: write the full name")
        if not names:
            return None
        self.inexact[text] = file.parent / names[0]
        return self.inexact[text]

    def explain(self, text: str) -> str:
        """Return why a path is no photo, and what the user can do."""
        if URL.match(text):
            return f"{text} is an address: download the photos first, and list the files"
        if WINDOWS.match(text) and os.name != "nt":
            reason = f"{text} is a path on another computer: start paths at the folder of the list"
        elif SHORTENED_NUMBER.fullmatch(text):
            return f"a spreadsheet has rounded the number {text}: format its column as text"
        else:
            reason = f"there is no photo {self.root / text}"
        try:
            (self.root / text).stat()
        except (FileNotFoundError, NotADirectoryError):
            return ". ".join(filter(None, [reason, self._elsewhere(text)]))
        except OSError as error:
            return f"the path cannot be read: {reason_of(error)}"
        return reason  # it is a folder

    def _similar(self, file: Path) -> list[str]:
        """Return the names in the folder of a file that are its name but for suffix and case."""
        if file.parent not in self._folders:
            self._folders[file.parent] = _names_by_form(file.parent)
        names = self._folders[file.parent].get(_form(file.name), [])
        return [name for name in names if file.name in (name, Path(name).stem)] or names

    def _elsewhere(self, text: str) -> str:
        """Return a sentence about photos of the same name in other folders."""
        for start in (Path.cwd(), *self.root.parents):
            if _is_file(start / text):
                return f"{start / text} exists, but paths have to start at the folder of the list"
        name, found, n_searched = text.replace("\\", "/").split("/")[-1], [], 0
        for folder, folders, names in os.walk(self.root):
            folders[:] = sorted(name for name in folders if not IS_SYSTEM_NAME(name))
            found += [Path(folder, similar) for similar in self._similar(Path(folder, name))]
            n_searched += len(names)
            if len(found) > 1 or n_searched > MAX_SEARCHED:
                break
        if not found:
            return ""
        example = found[0].relative_to(self.root).as_posix()
        if len(found) > 1:
            return f"Several photos have this name, such as {example}: add the folder to the paths"
        return f"{example} has this name: add the folder to the paths, or move the list there"


def _is_file(path: Path) -> bool:
    """Return whether there is a file; False, too, for a path that the system does not accept."""
    try:
        return path.is_file()
    except OSError:
        return False


def _names_by_form(folder: Path) -> dict[str, list[str]]:
    """Return the files of a folder by the forms of their names; photos also without suffix."""
    names_of = defaultdict(list)
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
    except OSError:
        names = []
    for name in names:
        names_of[_form(name)].append(name)
        if Path(name).suffix.lower() in SUFFIXES:
            names_of[_form(Path(name).stem)].append(name)
    return names_of


def _form(name: str) -> str:
    """Return a name in the form in which names of different systems are compared."""
    return normalize("NFC", name).casefold()
