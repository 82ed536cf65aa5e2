"""Tests of the feature file: what is written, what is read, and what is refused."""

import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from bilinear_cli import store
from bilinear_cli.errors import FeatureFileError, UsageError
from bilinear_cli.features.specs import POOLINGS
from bilinear_cli.report import describe
from bilinear_cli.store import FeatureFile, FeatureWriter, as_float32, create, partial_path

Shapes = dict[str, tuple[int, ...]]


def shapes_of(dense: int, triangle: int, maps: tuple[int, int, int]) -> Shapes:
    """Return a shape for a row of every pooling there is."""
    shapes: Shapes = {}
    for spec, kind in POOLINGS.items():
        shapes[spec] = (triangle,) if kind.layout == "upper-triangle" else (dense,)
    return shapes | {"conv5": maps}


SMALL = shapes_of(8, 8 * 9 // 2, (2, 2, 8))
LARGE = shapes_of(4096, 91 * 92 // 2, (4, 4, 256))
CLASS_NAMES = ["wren", "Haubenmeise é"]
COMMAND = ["bilinear", "extract", "--data", "my birds", "-o", "x.h5"]
ATTRIBUTES = {"backbone": "vgg16", "image_size": 224, "command": json.dumps(COMMAND)}
FIXTURE = Path(__file__).parent / "data_files" / "features-v1.h5"
MAKE_AGAIN = "; make it again with bilinear extract --overwrite"


def columns_of(n: int) -> dict[str, np.ndarray]:
    """Return what describes n rows, each value different where it can be."""
    return {
        "photo": np.arange(n),
        "view": np.full(n, "original"),
        "labels": np.arange(n) % 2,
        "paths": np.array([f"é {i}/{i}.jpg" for i in range(n)]),
        "sha256": np.array([f"{i:064x}" for i in range(n)]),
        "split": np.array([("train", "test")[i // 2 % 2] for i in range(n)]),
        "group": np.array([f"nest {i // 2}" for i in range(n)]),
    }


def random_rows(shapes: Shapes, n: int) -> dict[str, np.ndarray]:
    """Return n rows of each pooling, as they are stored."""
    rng = np.random.default_rng(n)
    dtypes = {spec: np.float32 if np.prod(s) < 4096 else np.float16 for spec, s in shapes.items()}
    return {spec: rng.normal(size=(n, *s)).astype(dtypes[spec]) for spec, s in shapes.items()}


def write(output: Path, shapes: Shapes = SMALL, n: int = 6, bad: list[int] | None = None) -> Path:
    """Write a complete file of n random rows in one batch."""
    with create(output, shapes, columns_of(n), CLASS_NAMES, ATTRIBUTES) as writer:
        if n:
            writer.append(random_rows(shapes, n), bad or [])
        writer.finish({writer.paths[i]: "no photo" for i in bad or []})
    return output


@pytest.fixture
def complete(tmp_path: Path) -> Path:
    return write(tmp_path / "x.h5")


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    """Give the final name of a file with 2 of 6 rows."""
    output = tmp_path / "x.h5"
    with create(output, SMALL, columns_of(6), CLASS_NAMES, ATTRIBUTES) as writer:
        writer.append(head(random_rows(SMALL, 6), 0, 2))
    return output


def head(rows: dict[str, np.ndarray], start: int, stop: int) -> dict[str, np.ndarray]:
    return {spec: values[start:stop] for spec, values in rows.items()}


def change(path: Path, name: str, values: Any) -> None:
    """Put other values in the place of a dataset."""
    with h5py.File(path, "r+") as file:
        del file[name]
        file[name] = values


def refused(path: Path, **options: bool) -> str:
    """Return the one line that opening `path` ends with."""
    with pytest.raises(FeatureFileError) as caught:
        FeatureFile(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What is written comes back --------------------------------------------------------------


@pytest.mark.parametrize("shapes", [SMALL, LARGE], ids=["float32", "float16"])
def test_rows_written_in_batches_are_read_back_bit_for_bit(tmp_path: Path, shapes: Shapes) -> None:
    rows = random_rows(shapes, 5)
    output = tmp_path / "new folder" / "x.h5"
    with create(output, shapes, columns_of(5), CLASS_NAMES, ATTRIBUTES) as writer:
        for start, stop in ((0, 2), (2, 4), (4, 5)):
            assert writer.rows_done == start
            writer.append(head(rows, start, stop))
        writer.finish()
    with FeatureFile(output) as file:
        assert file.shapes == {spec: (5, *shape) for spec, shape in shapes.items()}
        for spec in shapes:
            stored = file.rows(spec)
            assert stored.dtype == rows[spec].dtype
            assert not stored.flags.writeable
            np.testing.assert_array_equal(stored, rows[spec])


def test_columns_and_attributes_are_read_back(complete: Path) -> None:
    with FeatureFile(complete) as file:
        for name, values in columns_of(6).items():
            np.testing.assert_array_equal(getattr(file, name), values)
            assert getattr(file, name).dtype.kind == values.dtype.kind
        assert list(file.class_names) == CLASS_NAMES
        assert (file.rows_done, file.skipped) == (6, {})
        expected = ATTRIBUTES | {"format": "bilinear-features", "format_version": 1}
        assert expected.items() <= file.attributes.items()
        assert file.attributes["complete"] is True
        assert file.attributes["created"].endswith("+00:00")
        assert file.layout("bilinear") == {
            "pooling": "bilinear",
            "layout": "upper-triangle",
            "normalization": "signed-sqrt,l2",
            "channels": 8,
            "dtype": "float32",
        }
        dense = {"layout": "dense", "normalization": "", "channels": 8, "dtype": "float32"}
        for spec in ("max", "avg", "sum", "conv5"):
            assert file.layout(spec) == {"pooling": spec} | dense


def test_features_are_contiguous_and_unfiltered_and_the_rest_is_plain_hdf5(complete: Path) -> None:
    with h5py.File(complete) as file:
        assert file.id.get_create_plist().get_version()[0] == 0  # superblock: no consistency flag
        for spec in SMALL:
            data = file[f"features/{spec}"]
            assert data.chunks is data.compression is None
            assert data.id.get_create_plist().get_nfilters() == 0
            assert data.id.get_storage_size() == data.nbytes
            assert file[f"crc32/{spec}"].dtype == np.uint32
        assert file["rows_done"].dtype == file["photo"].dtype == file["labels"].dtype == np.int64
        for name in ("view", "paths", "sha256", "split", "group", "class_names"):
            assert h5py.check_string_dtype(file[name].dtype).encoding == "utf-8"


def test_only_a_finished_file_has_the_final_name(tmp_path: Path) -> None:
    output = tmp_path / "x.h5"
    with create(output, SMALL, columns_of(2), CLASS_NAMES, ATTRIBUTES) as writer:
        writer.append(random_rows(SMALL, 2))
        assert [path.name for path in tmp_path.iterdir()] == ["x.h5.partial"]
        writer.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5"]


def test_a_writer_goes_on_after_the_rows_that_are_done(unfinished: Path) -> None:
    rows = random_rows(SMALL, 6)
    with FeatureWriter(unfinished) as writer:
        assert writer.rows_done == 2
        np.testing.assert_array_equal(writer.rows("conv5")[:2], rows["conv5"][:2])
        writer.append(head(rows, 2, 6))
        writer.finish()
    with FeatureFile(unfinished) as file:
        for spec in SMALL:
            np.testing.assert_array_equal(file.rows(spec), rows[spec])


def test_a_file_is_not_finished_before_its_rows_are(unfinished: Path) -> None:
    with FeatureWriter(unfinished) as writer, pytest.raises(ValueError, match="2 of 6 rows"):
        writer.finish()
    assert not unfinished.exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"max": np.zeros((2, 8), np.float32)},
        random_rows(SMALL, 5),
        random_rows(SMALL | {"max": (9,)}, 2),
        random_rows(SMALL, 2) | {"sum": np.zeros((1, 8), np.float32)},
    ],
    ids=["a pooling is missing", "beyond the end", "too long", "of unequal number"],
)
def test_rows_that_do_not_fit_overwrite_nothing(
    unfinished: Path, wrong: dict[str, np.ndarray]
) -> None:
    before = partial_path(unfinished).read_bytes()
    with FeatureWriter(unfinished) as writer, pytest.raises(ValueError, match="do not fit"):
        writer.append(wrong)
    assert partial_path(unfinished).read_bytes() == before


def test_an_empty_file_can_be_read(tmp_path: Path) -> None:
    with FeatureFile(write(tmp_path / "x.h5", n=0)) as file:
        assert file.rows("conv5").shape == (0, 2, 2, 8)


def test_another_pooling_is_refused_by_name(complete: Path) -> None:
    with FeatureFile(complete) as file, pytest.raises(UsageError) as caught:
        file.rows("bilinar")
    expected = f"no pooling in {complete} is called 'bilinar': did you mean 'bilinear'? "
    assert str(caught.value).startswith(expected)


def test_version_1_stays_readable() -> None:
    assert FIXTURE.stat().st_size < 40_000
    with FeatureFile(FIXTURE) as file:
        assert file.attributes["format_version"] == 1
        assert file.attributes["backbone"] == "vgg16"
        assert file.attributes["image_size"] == 224
        assert list(file.labels) == [0, 1]
        assert list(file.photo) == [0, 2]
        assert list(file.paths) == ["é 0/0.jpg", "é 2/2.jpg"]
        assert list(file.split) == ["train", "test"]
        assert list(file.group) == ["nest 0", "nest 1"]
        assert list(file.view) == ["original"] * 2
        assert list(file.sha256) == ["0" * 64, "0" * 63 + "2"]
        assert list(file.class_names) == CLASS_NAMES
        assert file.skipped == {"é 1/1.jpg": "no photo"}
        assert file.layout("bilinear")["layout"] == "upper-triangle"
        for spec, values in fixture_rows().items():
            stored = file.rows(spec)
            assert stored.dtype == values.dtype
            np.testing.assert_array_equal(stored, values[[0, 2]])


def fixture_rows() -> dict[str, np.ndarray]:
    """Return rows whose numbers are easily known again: 1000 photo + place, over 8."""
    shapes: Shapes = {"max": (8,), "bilinear": (36,), "conv5": (4, 4, 256)}
    places = {spec: np.arange(np.prod(shape)).reshape(shape) for spec, shape in shapes.items()}
    rows = {spec: np.stack([1000 * i + x for i in range(3)]) / 8 for spec, x in places.items()}
    dtypes = {"max": np.float32, "bilinear": np.float32, "conv5": np.float16}
    return {spec: values.astype(dtypes[spec]) for spec, values in rows.items()}


def make_fixture() -> None:
    """Write FIXTURE; only for a new version of the format, and then under another name.

    python -c "import sys; sys.path.insert(0, 'tests'); import test_store as t; t.make_fixture()"
    """
    rows = fixture_rows()
    shapes = {spec: values.shape[1:] for spec, values in rows.items()}
    columns = columns_of(3) | {"labels": np.array([0, 0, 1])}
    with create(FIXTURE, shapes, columns, CLASS_NAMES, ATTRIBUTES) as writer:
        writer.append(rows, bad=[1])
        writer.finish({"é 1/1.jpg": "no photo"})


# Bad rows --------------------------------------------------------------------------------


def test_bad_rows_are_left_out_and_the_others_keep_bytes_order_and_checksums(
    tmp_path: Path,
) -> None:
    keep = [0, 2, 3, 5]
    whole, thinned = write(tmp_path / "whole.h5"), write(tmp_path / "x.h5", bad=[1, 4])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole.h5", "x.h5"]
    with FeatureFile(thinned) as file, FeatureFile(whole) as other:
        for name, values in columns_of(6).items():
            np.testing.assert_array_equal(getattr(file, name), values[keep])
        assert file.skipped == {"é 1/1.jpg": "no photo", "é 4/4.jpg": "no photo"}
        assert file.rows_done == 4
        for spec in SMALL:
            np.testing.assert_array_equal(file.rows(spec), other.rows(spec)[keep])
        assert file.attributes == other.attributes | {"created": file.attributes["created"]}
    with h5py.File(thinned) as raw, h5py.File(whole) as other_raw:
        for spec in SMALL:
            np.testing.assert_array_equal(
                raw[f"crc32/{spec}"][()], other_raw[f"crc32/{spec}"][()][keep]
            )


def test_many_rows_are_left_out_over_several_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "BLOCK", 2)
    with FeatureFile(write(tmp_path / "x.h5", n=11, bad=[0, 5])) as file:
        assert list(file.photo) == [1, 2, 3, 4, 6, 7, 8, 9, 10]
        np.testing.assert_array_equal(file.rows("max"), random_rows(SMALL, 11)["max"][file.photo])


def test_all_rows_may_be_bad(tmp_path: Path) -> None:
    with FeatureFile(write(tmp_path / "x.h5", n=2, bad=[0, 1])) as file:
        assert file.rows("max").shape == (0, 8)
        assert len(file.skipped) == 2


def test_bad_rows_of_a_batch_that_was_not_done_may_be_good_the_next_time(
    unfinished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = head(random_rows(SMALL, 6), 2, 6)

    def killed(_: int) -> None:
        raise KeyboardInterrupt

    with FeatureWriter(unfinished) as writer, monkeypatch.context() as patch:
        patch.setattr(os, "fsync", killed)  # all is written but the count
        with pytest.raises(KeyboardInterrupt):
            writer.append(rows, bad=[0, 3])
    with FeatureWriter(unfinished) as writer:
        assert (writer.rows_done, list(writer.photo)) == (2, [0, 1, ~2, 3, 4, ~5])
        writer.append(rows, bad=[1])
        writer.finish({"é 3/3.jpg": "no photo"})
    with FeatureFile(unfinished) as file:
        assert list(file.photo) == [0, 1, 2, 4, 5]


def test_rows_that_rotted_are_not_copied_with_a_new_checksum(tmp_path: Path) -> None:
    output = tmp_path / "x.h5"
    with create(output, SMALL, columns_of(6), CLASS_NAMES, ATTRIBUTES) as writer:
        writer.append(random_rows(SMALL, 6), bad=[1])
        flip(writer.path, "max", 3)
        with pytest.raises(FeatureFileError, match="row 3 of features/max"):
            writer.finish({})
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5.partial"]


def test_a_run_killed_between_leaving_out_and_renaming_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "x.h5"
    replace = os.replace

    def killed(old: Path, new: Path) -> None:
        if new == output:
            raise KeyboardInterrupt
        replace(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write(output, bad=[2])
    with FeatureWriter(output) as writer:
        assert writer.rows_done == len(writer.photo) == 5
        writer.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5"]
    with FeatureFile(output) as file:
        assert list(file.skipped) == ["é 2/2.jpg"]


# Damage ----------------------------------------------------------------------------------


def flip(path: Path, spec: str, row: int) -> None:
    """Change one bit of a stored row."""
    with h5py.File(path) as file:
        data = file[f"features/{spec}"]
        place = data.id.get_offset() + row * data.nbytes // len(data) + 5
    with path.open("r+b") as raw:
        raw.seek(place)
        byte = raw.read(1)[0]
        raw.seek(place)
        raw.write(bytes([byte ^ 16]))


@pytest.mark.parametrize("spec", SMALL)
def test_a_flipped_bit_is_found_by_row_and_pooling(complete: Path, spec: str) -> None:
    flip(complete, spec, 3)
    with FeatureFile(complete) as file:
        with pytest.raises(FeatureFileError) as caught:
            file.rows(spec)
        file.rows(spec, np.array([5, 0, 1]))  # others were asked for
        with pytest.raises(FeatureFileError, match="row 3 "):
            file.rows(spec, np.array([5, 3]))
        for other in SMALL.keys() - {spec}:
            file.rows(other)
    expected = f"{complete} is damaged: row 3 of features/{spec} has another checksum{MAKE_AGAIN}"
    assert str(caught.value) == expected


def test_a_flipped_bit_of_an_unfinished_file_counts_among_the_done_rows_alone(
    unfinished: Path,
) -> None:
    flip(partial_path(unfinished), "max", 2)
    with FeatureWriter(unfinished) as writer:
        writer.rows("max")
    flip(partial_path(unfinished), "max", 1)
    with FeatureWriter(unfinished) as writer, pytest.raises(FeatureFileError, match="row 1 of"):
        writer.rows("max")


def test_a_missing_file(tmp_path: Path) -> None:
    expected = f"there is no feature file {tmp_path / 'x.h5'}: make one with bilinear extract"
    assert refused(tmp_path / "x.h5") == expected


def test_a_folder(tmp_path: Path) -> None:
    assert refused(tmp_path) == f"cannot open {tmp_path}: Is a directory"


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no HDF5 at all" * 99])
def test_a_file_that_is_not_hdf5(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.h5"
    path.write_bytes(content)
    assert refused(path) == f"{path} is not an HDF5 file: make one with bilinear extract"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_a_truncated_file(complete: Path, share: float) -> None:
    with complete.open("r+b") as raw:
        raw.truncate(int(complete.stat().st_size * share))
    line = refused(complete)
    assert line.startswith(f"{complete} is damaged: ")
    assert "truncated file" in line
    assert line.endswith(MAKE_AGAIN)


@pytest.mark.parametrize("name", [None, "keras", 7])
def test_hdf5_of_somebody_else(tmp_path: Path, name: Any) -> None:
    path = tmp_path / "model.h5"
    with h5py.File(path, "w") as file:
        file["features/max"] = np.zeros((2, 3))
        if name is not None:
            file.attrs["format"] = name
    assert refused(path) == f"{path} was not made by bilinear extract"


def test_a_later_version(complete: Path) -> None:
    with h5py.File(complete, "r+") as file:
        file.attrs["format_version"] = 2
    assert refused(complete) == (
        f"{complete} has version 2 of the format, and 1 is the latest known here: update bilinear"
    )


@pytest.mark.parametrize("name", ["format_version", "complete"])
def test_a_missing_attribute(complete: Path, name: str) -> None:
    with h5py.File(complete, "r+") as file:
        del file.attrs[name]
    line = refused(complete)
    assert line.startswith(f"{complete} is damaged: ")
    assert name in line


def test_an_incomplete_file_says_how_to_finish_it(unfinished: Path) -> None:
    partial = partial_path(unfinished)
    expected = (
        f"{partial} is incomplete, 2 of 6 rows: finish it with "
        "bilinear extract --data 'my birds' -o x.h5"
    )
    assert refused(unfinished) == refused(partial) == expected
    with h5py.File(partial, "r+") as file:
        del file.attrs["command"]
    assert refused(unfinished).endswith("is incomplete, 2 of 6 rows: run bilinear extract again")
    for path in (unfinished, partial):
        with FeatureFile(path, allow_partial=True) as opened:
            assert (opened.path, opened.rows_done) == (partial, 2)
            assert opened.attributes["complete"] is False


WRONG_COLUMNS = [
    ("labels", np.arange(5) % 2, "photo should have 5 rows"),
    ("paths", np.array([b"a"] * 7), "paths should have 6 rows"),
    ("photo", np.zeros((6, 1), np.int64), "photo should have 6 rows"),
    ("features/max", np.zeros((5, 8), np.float32), "features/max should have 6 rows"),
    ("crc32/max", np.zeros(5, np.uint32), "crc32/max should have 6 rows"),
    ("labels", np.zeros(6), "labels has values of the wrong kind"),
    ("split", np.zeros(6, np.int64), "split has values of the wrong kind"),
    ("labels", np.array([0, 1, 2, 0, 1, 0]), "labels are outside class_names"),
    ("labels", np.array([0, 1, -1, 0, 1, 0]), "labels are outside class_names"),
    ("split", np.array([b"train"] * 5 + [b"val"]), "split has other values than train and test"),
    ("rows_done", np.array([5]), "rows_done is 5 of 6"),
    ("rows_done", np.array([7]), "rows_done is 7 of 6"),
    ("rows_done", np.array([-1]), "rows_done is -1 of 6"),
]


@pytest.mark.parametrize(("name", "values", "what"), WRONG_COLUMNS)
def test_columns_that_cannot_be_meant(
    complete: Path, name: str, values: np.ndarray, what: str
) -> None:
    change(complete, name, values)
    assert refused(complete) == f"{complete} is damaged: {what}{MAKE_AGAIN}"


MALFORMED: dict[str, tuple[str, str, Any]] = {
    "text that is not UTF-8": ("paths", "paths", np.array([b"\xff"] * 6)),
    "a table for a column": ("group", "group", np.array([[b"a"] * 6])),
    "one number for a column": ("labels", "labels", np.int64(1)),
    "no count in rows_done": ("rows_done", "rows_done", np.zeros(0, np.int64)),
    "a dataset for a group": ("crc32", "crc32", np.zeros(6)),
    "a group for a dataset": ("photo", "photo/x", np.zeros(6)),
    "skipped without reasons": ("skipped/paths", "skipped/paths", np.array([b"a"])),
    "one number for rows": ("features/max", "features/max", np.float32(1)),
    "a dataset for all features": ("features", "features", np.zeros(6)),
    "no features": ("features", "other", np.zeros(6)),
}


@pytest.mark.parametrize(("gone", "name", "values"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_files_end_in_one_line(complete: Path, gone: str, name: str, values: Any) -> None:
    with h5py.File(complete, "r+") as file:
        del file[gone]
        file[name] = values
    assert refused(complete).startswith(f"{complete} is damaged: ")


@pytest.mark.parametrize("dtype", [np.float64, np.int16, ">f4"])
def test_features_of_another_kind(complete: Path, dtype: Any) -> None:
    change(complete, "features/max", np.zeros((6, 8), dtype))
    with FeatureFile(complete) as file, pytest.raises(FeatureFileError, match="max holds"):
        file.rows("max")


# As training reads -----------------------------------------------------------------------

Read = Callable[[FeatureFile, np.ndarray], Any]
WHICH: dict[str, list[int]] = {
    "all": [0, 1, 2, 3, 4, 5],
    "backwards": [5, 4, 3, 2, 1, 0],
    "some": [4, 0, 3],
    "again": [2, 2, 5, 2],
    "none": [],
}
WAYS: dict[str, Read] = {
    "read": lambda file, which: file.read("max", which),
    "batches": lambda file, which: list(file.batches("max", which, 2)),
    "columns": lambda file, which: list(file.columns("max", which, file.shapes["max"][1] // 3)),
    "maps": lambda file, which: file.read("conv5", which),
    "batches of maps": lambda file, which: list(file.batches("conv5", which, 2)),
}
each_way = pytest.mark.parametrize(
    ("read", "spec"),
    [(read, "conv5" if "maps" in name else "max") for name, read in WAYS.items()],
    ids=WAYS,
)
some_rows = pytest.mark.parametrize("which", [np.array(w, int) for w in WHICH.values()], ids=WHICH)
both_sizes = pytest.mark.parametrize("shapes", [SMALL, LARGE], ids=["float32", "float16"])


def joined(
    blocks: Iterator[tuple[slice, np.ndarray]], length: int, step: int, axis: int
) -> np.ndarray:
    """Return blocks as one array; each begins where the one before it ends, and is float32."""
    found = list(blocks)
    starts = range(0, length, step)
    assert [place for place, _ in found] == [slice(i, min(i + step, length)) for i in starts]
    for place, block in found:
        assert block.dtype == np.float32
        assert block.flags.writeable
        assert block.shape[axis] == place.stop - place.start
    return np.concatenate([block for _, block in found], axis)


@both_sizes
@some_rows
@pytest.mark.parametrize("pieces", [0.5, 1, 2.5, 8])
@pytest.mark.parametrize("spec", ["max", "bilinear"])
def test_columns_are_those_of_the_stored_rows(
    tmp_path: Path, shapes: Shapes, which: np.ndarray, pieces: float, spec: str
) -> None:
    (width,) = shapes[spec]
    step = int(width / pieces)
    with FeatureFile(write(tmp_path / "x.h5", {spec: (width,)})) as file:
        found = joined(file.columns(spec, which, step), width, step, 1)
    np.testing.assert_array_equal(found, random_rows({spec: (width,)}, 6)[spec][which])


@both_sizes
@some_rows
@pytest.mark.parametrize("step", [1, 4, 6, 100])
@pytest.mark.parametrize("spec", ["max", "conv5"])
def test_batches_are_the_stored_rows(
    tmp_path: Path, shapes: Shapes, which: np.ndarray, step: int, spec: str
) -> None:
    one = {spec: shapes[spec]}
    with FeatureFile(write(tmp_path / "x.h5", one)) as file:
        if len(which):
            found = joined(file.batches(spec, which, step), len(which), step, 0)
            np.testing.assert_array_equal(found, random_rows(one, 6)[spec][which])
        else:
            assert list(file.batches(spec, which, step)) == []


@both_sizes
@some_rows
@pytest.mark.parametrize("spec", ["max", "bilinear", "conv5"])
def test_rows_that_are_read_are_the_stored_ones(
    tmp_path: Path, shapes: Shapes, which: np.ndarray, spec: str
) -> None:
    one = {spec: shapes[spec]}
    with FeatureFile(write(tmp_path / "x.h5", one)) as file:
        found = file.read(spec, which)
        assert (found.dtype, found.shape) == (np.float32, (len(which), *shapes[spec]))
        np.testing.assert_array_equal(found, random_rows(one, 6)[spec][which])


@both_sizes
def test_what_is_read_may_be_overwritten(tmp_path: Path, shapes: Shapes) -> None:
    every = np.arange(6)
    path = write(tmp_path / "x.h5", {spec: shapes[spec] for spec in ("max", "conv5")})
    before = path.read_bytes()
    with FeatureFile(path) as file:
        for _ in range(2):
            passes = [file.columns("max", every, 1500), file.batches("conv5", every, 2)]
            read = [[(x.copy(), x.fill(np.nan))[0] for _, x in blocks] for blocks in passes]
            np.testing.assert_array_equal(np.hstack(read[0]), file.rows("max"))
            np.testing.assert_array_equal(np.vstack(read[1]), file.rows("conv5"))
            file.read("max", every).fill(np.nan)
    assert path.read_bytes() == before


@each_way
@both_sizes
def test_a_flipped_bit_is_found_in_a_row_that_is_read_and_in_no_other(
    tmp_path: Path, shapes: Shapes, read: Read, spec: str
) -> None:
    path = write(tmp_path / "x.h5", {spec: shapes[spec]})
    flip(path, spec, 3)
    with FeatureFile(path) as file:
        read(file, np.array([5, 0, 4, 2, 1]))
        with pytest.raises(FeatureFileError) as caught:
            read(file, np.array([5, 0, 3, 1]))
    line = f"{path} is damaged: row 3 of features/{spec} has another checksum{MAKE_AGAIN}"
    assert str(caught.value) == line


def test_columns_come_before_the_checksums_are_known_and_batches_after(complete: Path) -> None:
    flip(complete, "max", 3)
    every = np.arange(6)
    with FeatureFile(complete) as file:
        for blocks, n_good in (
            (file.columns("max", every, 3), 3),
            (file.batches("max", every, 2), 1),
        ):
            assert len(list(itertools.islice(blocks, n_good))) == n_good
            with pytest.raises(FeatureFileError, match="row 3 of features/max has another"):
                next(blocks)


@each_way
@both_sizes
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_found_by_row_and_photo(
    tmp_path: Path, shapes: Shapes, read: Read, spec: str, value: float
) -> None:
    """Its checksum is right: it was extracted so."""
    output, rows = tmp_path / "x.h5", random_rows({spec: shapes[spec]}, 6)
    rows[spec][4].flat[-1] = value
    with create(output, {spec: shapes[spec]}, columns_of(6), CLASS_NAMES, ATTRIBUTES) as writer:
        writer.append(rows)
        writer.finish()
    with FeatureFile(output) as file:
        read(file, np.array([5, 0, 3, 1, 2]))
        with pytest.raises(FeatureFileError) as caught:
            read(file, np.array([5, 4, 1]))
    assert str(caught.value) == (
        f"{output}: row 4 of features/{spec}, of é 4/4.jpg, holds what is no number: extract it "
        "again, or leave that photo out"
    )


@each_way
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
def test_a_file_that_is_cut_short_while_it_is_open(
    complete: Path, read: Read, spec: str, share: float
) -> None:
    with h5py.File(complete) as raw:
        data = raw[f"features/{spec}"]
        end = data.id.get_offset() + data.nbytes
    with FeatureFile(complete) as file:
        os.truncate(complete, int(end * share))
        with pytest.raises(FeatureFileError) as caught:
            read(file, np.array([0, 5, 1]))
    assert str(caught.value) == f"{complete} is damaged: it ends too early{MAKE_AGAIN}"


@pytest.mark.parametrize("by", ["columns", "batches"])
def test_a_file_that_is_cut_short_between_two_blocks(complete: Path, by: str) -> None:
    with FeatureFile(complete) as file:
        blocks = getattr(file, by)("max", np.arange(6), 1)
        next(blocks)
        os.truncate(complete, 0)
        with pytest.raises(FeatureFileError, match="it ends too early"):
            list(blocks)


@pytest.mark.parametrize("by", ["columns", "batches"])
@pytest.mark.parametrize("damaged", [False, True])
def test_a_reader_that_stops_early_leaves_no_thread(complete: Path, by: str, damaged: bool) -> None:
    """What the thread has met by then, being ahead, is nobody's concern."""
    every, before = np.arange(6), threading.enumerate()
    rows = random_rows(SMALL, 6)["max"]
    with FeatureFile(complete) as file:
        blocks = getattr(file, by)("max", every, 1)
        _, first = next(blocks)
        assert len(threading.enumerate()) == len(before) + 1
        if damaged:
            os.truncate(complete, 0)
        blocks.close()
        assert threading.enumerate() == before
        np.testing.assert_array_equal(first, rows[:, :1] if by == "columns" else rows[:1])
        if not damaged:
            np.testing.assert_array_equal(file.read("max", every), rows)
            list(getattr(file, by)("max", every, 1))
            assert threading.enumerate() == before


@pytest.mark.parametrize("by", ["columns", "batches"])
def test_a_reader_that_meets_damage_leaves_no_thread(complete: Path, by: str) -> None:
    before = threading.enumerate()
    flip(complete, "max", 3)
    with FeatureFile(complete) as file:
        with pytest.raises(FeatureFileError):
            list(getattr(file, by)("max", np.arange(6), 1))
        assert threading.enumerate() == before


HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
SINGLES = np.array(
    [0, -0.0, 1, -1, 1e-45, -1e-45, 1.1754942e-38, 3.4028235e38, -3.4028235e38, 2**-149, 1 / 3],
    np.float32,
)


@pytest.mark.parametrize("chunk", [1, 1000, 1 << 16])
@pytest.mark.parametrize("shape", [(-1,), (31, -1), (2, 31, 4, -1)])
def test_every_half_becomes_the_same_single_bit_for_bit(
    monkeypatch: pytest.MonkeyPatch, chunk: int, shape: tuple[int, ...]
) -> None:
    monkeypatch.setattr(store, "CHUNK", chunk)
    finite = HALVES[np.isfinite(HALVES)]
    stored = (finite[:1984] if chunk == 1 else np.tile(finite, 3)).reshape(shape)
    found = as_float32(stored)
    assert found is not None
    assert (found.dtype, found.shape) == (np.float32, stored.shape)
    wanted = stored.astype(np.float32).view(np.uint32)
    np.testing.assert_array_equal(found.view(np.uint32), wanted)


def test_finite_singles_stay_as_they_are_bit_for_bit() -> None:
    found = as_float32(SINGLES.reshape(11, 1, 1, 1))
    assert found is not None
    assert (found.dtype, found.shape) == (np.float32, (11, 1, 1, 1))
    np.testing.assert_array_equal(found.ravel().view(np.uint32), SINGLES.view(np.uint32))


def test_of_what_is_not_finite_there_is_no_single() -> None:
    refused_halves = [as_float32(HALVES[i : i + 1]) is None for i in range(len(HALVES))]
    np.testing.assert_array_equal(refused_halves, ~np.isfinite(HALVES))
    many = np.zeros((3, store.CHUNK), np.float16)
    for dtype in (np.float16, np.float32):
        for bad in (np.nan, -np.nan, np.inf, -np.inf):
            for place in (0, store.CHUNK - 1, store.CHUNK, 3 * store.CHUNK - 1):
                stored = many.astype(dtype)
                stored.flat[place] = bad
                assert as_float32(stored) is None


def test_features_of_another_kind_are_not_read(complete: Path) -> None:
    change(complete, "features/max", np.zeros((6, 8)))
    with FeatureFile(complete) as file:
        for read in (WAYS["read"], WAYS["columns"], WAYS["batches"]):
            with pytest.raises(FeatureFileError, match="features/max holds float64"):
                read(file, np.arange(6))


# A stranger's file is data, nothing more -------------------------------------------------


def external_link(file: h5py.File, name: str) -> None:
    file[name] = h5py.ExternalLink("other.h5", f"/{name}")


def soft_link(file: h5py.File, name: str) -> None:
    file.move(name, "elsewhere")
    file[name] = h5py.SoftLink("/elsewhere")


def external_storage(file: h5py.File, name: str) -> None:
    old = h5py.File("other.h5")[name]
    size = old.dtype.itemsize * old.size
    file.create_dataset(name, old.shape, old.dtype, external=[("other.h5", 0, size)])


def virtual_dataset(file: h5py.File, name: str) -> None:
    old = h5py.File("other.h5")[name]
    layout = h5py.VirtualLayout(old.shape, old.dtype)
    layout[...] = h5py.VirtualSource("other.h5", name, old.shape)
    file.create_virtual_dataset(name, layout)


def chunks(file: h5py.File, name: str) -> None:
    file.create_dataset(name, data=h5py.File("other.h5")[name][()], chunks=True)


def compressed(file: h5py.File, name: str) -> None:
    file.create_dataset(name, data=h5py.File("other.h5")[name][()], compression="gzip")


def never_written(file: h5py.File, name: str) -> None:
    old = h5py.File("other.h5")[name]
    file.create_dataset(name, old.shape, old.dtype)


DATASETS = ["features/max", "crc32/max", "paths", "class_names", "rows_done", "skipped/reasons"]
TRICKS = [external_storage, virtual_dataset, chunks, compressed, never_written]


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a file to spoil beside a whole one, other.h5, in the current folder."""
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "x.h5", {"max": (8,)}, bad=[1])
    shutil.copy(path, "other.h5")
    return path


@pytest.mark.parametrize("trick", TRICKS)
@pytest.mark.parametrize("name", DATASETS)
def test_what_is_not_one_run_of_bytes_in_the_file_is_refused(
    pair: Path, name: str, trick: Callable[[h5py.File, str], None]
) -> None:
    with h5py.File(pair, "r+") as file:
        del file[name]
        trick(file, name)
    what = f"{name} is missing or is not plain data"
    assert refused(pair) == f"{pair} is damaged: {what}{MAKE_AGAIN}"


@pytest.mark.parametrize("name", [*DATASETS, "features", "crc32", "skipped"])
@pytest.mark.parametrize("trick", [external_link, soft_link])
def test_links_are_refused(pair: Path, name: str, trick: Callable[[h5py.File, str], None]) -> None:
    with h5py.File(pair, "r+") as file:
        if trick is external_link:
            del file[name]
        trick(file, name)
    assert refused(pair).startswith(f"{pair} is damaged: {name}")


# Faults of the disk, and other runs ------------------------------------------------------


def test_a_disk_too_small_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, 10**8))
    output = tmp_path / "x.h5"
    columns = columns_of(1)
    with pytest.raises(FeatureFileError) as caught:
        create(output, {"max": (10**8,)}, columns, CLASS_NAMES, {})
    assert str(caught.value) == (
        f"{output}.partial will have 0.20 GB, and 0.10 GB are free there: make room, or choose "
        "another --output or fewer --pooling"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_replaced_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    output = tmp_path / "x.h5"
    create(output, SMALL, columns_of(6), CLASS_NAMES, {}).__exit__()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, 1000))
    with create(output, SMALL, columns_of(6), CLASS_NAMES, {}) as writer:
        assert writer.rows_done == 0


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    output = tmp_path / "file" / "x.h5"
    with pytest.raises(FeatureFileError) as caught:
        write(output)
    assert str(caught.value) == f"cannot write {output.parent}: File exists"


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(13, "what HDF5 says at length")

    monkeypatch.setattr(os, "replace", denied)
    with pytest.raises(FeatureFileError) as caught:
        write(tmp_path / "x.h5")
    assert str(caught.value) == f"cannot write {tmp_path / 'x.h5'}.partial: Permission denied"
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def file_size_limit() -> Iterator[Callable[..., None]]:
    """Give limit(bytes): this process's files may not grow beyond; as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int = soft) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

    yield limit
    limit()


@pytest.mark.parametrize("spec", ["max", "conv5"])
def test_a_disk_that_fills_up_loses_no_row_and_the_run_goes_on(
    tmp_path: Path, file_size_limit: Callable[..., None], spec: str
) -> None:
    shapes: Shapes = {spec: LARGE[spec]}
    rows, output = random_rows(shapes, 6), tmp_path / "x.h5"
    with create(output, shapes, columns_of(6), CLASS_NAMES, {}) as writer:
        with h5py.File(writer.path) as file:
            place = file[f"features/{spec}"].id.get_offset()
        writer.append(head(rows, 0, 2))
        file_size_limit(place + 2 * 8192 + 100)
        with pytest.raises(FeatureFileError) as caught:
            writer.append(head(rows, 2, 4))
    file_size_limit()
    assert str(caught.value) == (
        f"cannot write {output}.partial: File too large; what is done is kept: make room and run "
        "again"
    )
    with FeatureWriter(output) as writer:
        assert writer.rows_done == 2
        writer.rows(spec)
        writer.append(head(rows, 2, 6))
        writer.finish()
    with FeatureFile(output) as file:
        np.testing.assert_array_equal(file.rows(spec), rows[spec])


def test_a_disk_that_is_full_while_bad_rows_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = FeatureWriter.append

    def full(writer: FeatureWriter, *args: Any) -> None:
        if writer.path.name.endswith(".partial.partial"):
            raise OSError(28, "")
        append(writer, *args)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureWriter, "append", full)
        with pytest.raises(FeatureFileError, match="No space left on device; what is done is kept"):
            write(tmp_path / "x.h5", bad=[0])
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5.partial"]
    with FeatureWriter(tmp_path / "x.h5") as writer:
        writer.finish({})
    with FeatureFile(tmp_path / "x.h5") as file:
        assert len(file.rows("max")) == 5


HOLDER = """
import sys
from pathlib import Path
from bilinear_cli.store import FeatureWriter
with FeatureWriter(Path(sys.argv[1])) as writer:
    writer.set_sha256(writer.sha256)  # opens and closes the file once more
    print(flush=True)
    sys.stdin.read()
"""


def test_a_file_that_another_process_writes(unfinished: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, unfinished], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout
        holder.stdout.readline()
        partial = partial_path(unfinished)
        line = f"{partial} is open in another run: wait for it or end it"
        assert refused(unfinished) == line
        with pytest.raises(FeatureFileError) as going_on:
            FeatureWriter(unfinished)
        with pytest.raises(FeatureFileError) as beginning_again:
            write(unfinished)
        assert str(going_on.value) == str(beginning_again.value) == line
        holder.communicate()
    assert holder.returncode == 0
    with FeatureWriter(unfinished) as writer:
        assert writer.rows_done == 2


def test_a_damaged_partial_file_can_be_begun_again(tmp_path: Path) -> None:
    (tmp_path / "x.h5.partial").write_bytes(b"")
    write(tmp_path / "x.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5"]


# In words --------------------------------------------------------------------------------


def facts(path: Path) -> dict[str, str]:
    with FeatureFile(path, allow_partial=True) as file:
        lines = describe(file).splitlines()
    assert len({len(line) - len(line.split(maxsplit=1)[1]) for line in lines}) == 1  # aligned
    return dict(line.split(maxsplit=1) for line in lines)


def test_a_complete_file_in_words(tmp_path: Path) -> None:
    path = write(tmp_path / "x.h5", bad=[3])
    expected = {
        "file": str(path),
        "rows": "5",
        "max": "8 float32, channels 8, layout dense",
        "bilinear": "36 float32, channels 8, layout upper-triangle, normalization signed-sqrt,l2",
        "conv5": "2 x 2 x 8 float32, channels 8, layout dense",
        "train": "4 photos",
        "test": "1 photos",
        "classes": "2",
        "backbone": "vgg16",
        "complete": "True",
        "skipped": "é 3/3.jpg (no photo)",
    }
    assert expected.items() <= facts(path).items()


def test_an_unfinished_file_in_words(unfinished: Path) -> None:
    said = facts(unfinished)
    assert said["file"] == f"{unfinished}.partial"
    assert said["rows"] == "2 of 6, incomplete"
    assert said["complete"] == "False"
    assert "skipped" not in said


def test_halves_below_the_smallest_normal_single_survive_tensorflows_threads() -> None:
    """There, the processor takes operands that small for zero."""
    import tensorflow as tf

    halves = np.arange(1, 1024, dtype=np.int16).view(np.float16)
    (found,) = tf.data.Dataset.from_generator(
        lambda: iter([as_float32(halves)]),
        output_signature=tf.TensorSpec((1023,), tf.float32),
    )
    np.testing.assert_array_equal(found.numpy(), np.arange(1, 1024) * 2.0**-24)
