"""Which folders of a photo set are splits: `train/` and `test/`, as people name them."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bilinear_cli.errors import BilinearError
from bilinear_cli.messages import abbreviate, escape_bytes
from bilinear_cli.photos.split_names import mentioned_roles, resolve_splits, split_role


def find_split_folders(paths: Sequence[str], spec: str) -> dict[str, str]:
    """Return folder -> `train` or `test`, those for training first; empty without split folders.

    A split folder has folders with photos in it. Thus `train` among folders of photos is a class.

    Args:
        paths: of photos, POSIX, relative to the folder of the set.
        spec: the name of that folder in messages.

    Raises:
        BilinearError: it is not plain which folders are splits, or none is for training.
    """
    n_levels: dict[str, int] = {}  # first folder -> levels of folders to its deepest photo
    for path in paths:
        first, *rest = path.split("/")
        if rest:
            n_levels[first] = max(len(rest), n_levels.get(first, 0))
    named = [name for name in sorted(n_levels) if split_role(name)]
    splits = [name for name in named if n_levels[name] > 1]
    other_folders = [name for name in sorted(n_levels) if name not in named]
    if splits:
        return _resolve(splits, other_folders, spec)
    _refuse_unlabelled(named, other_folders, spec)
    return {}


def refuse_splits_in_classes(paths: Sequence[str], spec: str) -> None:
    """Raise if all folders in several first folders are splits, as in `robin/train/`."""
    pairs = {tuple(path.split("/")[:2]) for path in paths if path.count("/") > 1}
    first, names = ({pair[i] for pair in pairs} for i in range(2))
    roles = {*map(split_role, names)}
    if len(first) > 1 and len(roles) > 1 and "" not in roles:
        raise BilinearError(
            f"{spec} has {_list(sorted(names))} inside of {_list(sorted(first))}. Make train/ and "
            "test/ the first folders, with the class folders in them. If they are no splits, give "
            "--class-level 1."
        )


def _resolve(splits: Sequence[str], other_folders: Sequence[str], spec: str) -> dict[str, str]:
    roles = Counter(map(split_role, splits))
    if twice := [name for name in splits if roles[split_role(name)] > 1]:
        raise BilinearError(f"{spec}: {_list(twice)} mean the same split. Join them.")
    if [*roles] == ["train"] and other_folders:
        below = Path(spec) / splits[0]
        raise BilinearError(
            f"{spec} has {_list(other_folders)} beside {splits[0]}/. If these are the test photos, "
            f"rename them to test/. If all classes are in {splits[0]}/, give --data {below}. If "
            f"{splits[0]}/ is a class, rename it."
        )
    if "train" not in roles:
        raise BilinearError(
            f"{spec} has {_list(splits)} but no train/: move the class folders with training "
            f"photos to {Path(spec) / 'train'}"
        )
    resolved = resolve_splits(splits)
    return dict(sorted(resolved.items(), key=lambda item: item[1] != "train"))


def _refuse_unlabelled(named: Sequence[str], other_folders: Sequence[str], spec: str) -> None:
    """Raise if folders that hold only photos may be splits."""
    is_class = len(named) == 1 and other_folders and split_role(named[0]) != "test"
    if named and not is_class:
        raise BilinearError(
            f"{spec}: there are only photos in {_list(named)}, and no class folders. Make them, or "
            "list path, label and split in a CSV file. If it is a class, rename it."
        )
    mentioned = [name for name in other_folders if mentioned_roles(name)]
    roles = set[str]().union(*map(mentioned_roles, mentioned))
    if len(roles) > 1 and 2 * len(mentioned) > len(other_folders):
        raise BilinearError(
            f"{spec}: {_list(mentioned)} may be splits or classes. Rename splits to train, val, "
            "test."
        )


def _list(names: Sequence[str]) -> str:
    return abbreviate(f"{escape_bytes(name)}/" for name in names)
