"""Names of parts of a photo set -> `train` or `test`, for folders and for the column `split`."""

import re
from collections.abc import Collection

from bilinear_cli.errors import BilinearError
from bilinear_cli.messages import abbreviate

ROLES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing", "holdout"), "test"),
}
_WORD = rf"(?<![^\W\d_])({'|'.join(ROLES)})"
_NAME = re.compile(rf"[\W\d_]*{_WORD}[\W_]*(?:data|images|photos|set)?[\W\d_]*", re.IGNORECASE)
_WORDS = re.compile(rf"{_WORD}(?![^\W\d_])", re.IGNORECASE)


def split_role(name: str) -> str:
    """Return what a name plainly means: `train`, `val`, `test`; or an empty string.

    Case, numbers and a word such as `set` do not matter: `Training set`, `val2017`, `test_images`.
    """
    match = _NAME.fullmatch(name)
    return ROLES[match[1].lower()] if match else ""


def mentioned_roles(name: str) -> set[str]:
    """Return the roles of all words of a name: `seg_train` mentions `train`."""
    return {ROLES[word.lower()] for word in _WORDS.findall(name)}


def resolve_splits(names: Collection[str]) -> dict[str, str]:
    """Return name -> `train` or `test`.

    Validation photos are the test photos of a set that has none; else they join training.

    Raises:
        BilinearError: a name has no plain meaning, or none means training.
    """
    roles = {name: split_role(name) for name in names}
    if unknown := [repr(name) for name, role in roles.items() if not role]:
        raise BilinearError(f"the split is {abbreviate(unknown)}: write train, val or test")
    if "train" not in roles.values():
        raise BilinearError(f"there is {' and '.join(roles)}, but no train: add training photos")
    validation = "train" if "test" in roles.values() else "test"
    return {name: validation if role == "val" else role for name, role in roles.items()}
