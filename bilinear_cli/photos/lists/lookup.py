"""The path that a list gives -> the photo that it means, or what the user can do."""

import os
import re
from collections import defaultdict
from pathlib import Path
from unicodedata import normalize

from bilinear_cli.files import relative_path
from bilinear_cli.home import expand_home
from bilinear_cli.messages import encoding_fault, reason_of
from bilinear_cli.photos.folders.walk import IS_SYSTEM_NAME, SUFFIXES

URL = re.compile(r"(?!file:)[a-z][a-z0-9+.-]+://", re.IGNORECASE)
ELSEWHERE = re.compile(r"file:" if os.name == "nt" else r"file:|[a-z]:[\\/]|\\\\", re.IGNORECASE)
SHORTENED_NUMBER = re.compile(r"\d([.,]\d+)?e\+\d+", re.IGNORECASE)
SEVERAL = re.compile(r"\s*[|;,]\s*")
MAX_SEARCHED = 50_000  # files, to find one for a hint


class Lookup:
    """Finds the photos of a list. It reads a folder once, and only for a path that is not exact."""

    def __init__(self, root: Path) -> None:
        self.root = root  # the folder of the list
        self.inexact: dict[str, Path] = {}  # path in the list -> the photo that was taken
        self._folders: dict[Path, dict[tuple[bool, str], list[str]]] = {}

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
        file = self.root / expand_home(slashed)
        matches = [file] if _is_file(file) else self._similar(file)
        if len(matches) > 1:
            names = " or ".join(map(self.relative, matches))
            raise ValueError(f"{text} may be {names}: write the full name")
        if not matches:
            return None
        self.inexact[text] = matches[0]
        return matches[0]

    def relative(self, file: Path) -> str:
        """Return the path from the folder of the list to a file."""
        return relative_path(file, self.root)

    def explain(self, text: str) -> str:
        """Return why a path is no photo, and what the user can do."""
        if URL.match(text):
            return f"{text} is an address: download the photos first, and list the files"
        if SHORTENED_NUMBER.fullmatch(text):
            return f"a spreadsheet has rounded the number {text}: format its column as text"
        if any(_is_file(self.root / part) for part in SEVERAL.split(text)):
            return f"{text} are several photos: write a row for each"
        reason = f"there is no photo {self.root / text}"
        if ELSEWHERE.match(text):
            reason = f"{text} is no path on this computer: start paths at the folder of the list"
        try:
            (self.root / text).stat()
        except (FileNotFoundError, NotADirectoryError):
            advice = self._elsewhere(text) or "Correct the path, or remove the row"
            return f"{reason}. {advice}"
        except UnicodeEncodeError as error:
            return encoding_fault(text, error.encoding)
        except (OSError, ValueError) as error:  # ValueError: it has a NUL
            return f"the path cannot be read: {reason_of(error)}"
        return reason  # it is a folder

    def _similar(self, path: Path, is_folder: bool = False) -> list[Path]:
        """Return the files or folders whose path differs in case, Unicode form or suffix only."""
        if path.parent == path:
            return []
        parents = [path.parent] if self._names(path.parent) else self._similar(path.parent, True)
        kind = is_folder, _form(path.name)
        similar = [
            parent / name for parent in parents for name in self._names(parent).get(kind, [])
        ]
        return [match for match in similar if path.name in (match.name, match.stem)] or similar

    def _names(self, folder: Path) -> dict[tuple[bool, str], list[str]]:
        """Return (whether it is a folder, form) -> names; empty if the folder cannot be read."""
        if folder not in self._folders:
            self._folders[folder] = _names_by_form(folder)
        return self._folders[folder]

    def _elsewhere(self, text: str) -> str:
        """Return a sentence about photos of the same name in other folders."""
        for start in (Path.cwd(), *self.root.parents):
            if _is_file(start / text):
                return f"{start / text} exists, but paths have to start at the folder of the list"
        name, same_name, n_searched = text.replace("\\", "/").split("/")[-1], [], 0
        for folder, folders, names in os.walk(self.root):
            folders[:] = sorted(name for name in folders if not IS_SYSTEM_NAME(name))
            same_name += self._similar(Path(folder, name))
            n_searched += len(names)
            if len(same_name) > 1 or n_searched > MAX_SEARCHED:
                break
        if not same_name:
            return ""
        example = self.relative(same_name[0])
        if len(same_name) > 1:
            return f"Several photos have this name, such as {example}: write paths like this"
        return f"{example} has this name: write paths like this, or move the list to the photos"


def _is_file(path: Path) -> bool:
    """Return whether there is a file; False, too, for a path that the system does not accept."""
    try:
        return path.is_file()
    except OSError:
        return False


def _names_by_form(folder: Path) -> dict[tuple[bool, str], list[str]]:
    """Return `Lookup._names`; a photo is there with and without its suffix."""
    names_of = defaultdict(list)
    try:
        entries = sorted((entry.name, entry.is_dir()) for entry in os.scandir(folder))
    except (OSError, ValueError):
        entries = []
    for name, is_folder in entries:
        names_of[is_folder, _form(name)].append(name)
        if Path(name).suffix.lower() in SUFFIXES and not is_folder:
            names_of[False, _form(Path(name).stem)].append(name)
    return names_of


def _form(name: str) -> str:
    """Return a name in the form in which names of different systems are compared."""
    return normalize("NFC", name).casefold()
