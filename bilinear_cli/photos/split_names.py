"""Names of splits, in folders and lists -> `train` and `test`."""

from collections.abc import Collection

from bilinear_cli.errors import BilinearError


def resolve_splits(names: Collection[str]) -> dict[str, str]:
    """Return the split, `train` or `test`, of each name."""
    lower = {name: name.lower() for name in names}
    val = {"val", "valid", "validation"}
    if unknown := [n for n in names if lower[n] not in {"train", "test", *val}]:
        raise BilinearError(f"the split {unknown[0]!r} is unknown: write train or test")
    other = "train" if "test" in lower.values() else "test"
    return {n: other if x in val else x for n, x in lower.items()}
