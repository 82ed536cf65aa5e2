"""Check that feature files have bitwise identical rows."""

import sys

import h5py

first, *others = (h5py.File(name) for name in sys.argv[1:])
for other in others:
    for name in ("photo", "view", "labels", "paths", "sha256", "split", "group"):
        if (first[name][()] != other[name][()]).any():
            sys.exit(f"{other.filename}: {name} differs from {first.filename}")
    for spec in first["features"]:
        if first[f"features/{spec}"][()].tobytes() != other[f"features/{spec}"][()].tobytes():
            sys.exit(f"{other.filename}: {spec} differs from {first.filename}")
print("the same rows:", *sys.argv[1:])
