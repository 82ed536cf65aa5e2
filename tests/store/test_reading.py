"""Tests of reading a feature file: it returns the values that were written."""

from pathlib import Path

import numpy as np
import pytest
from store.cases import (
    ATTRIBUTES,
    CLASS_NAMES,
    Shapes,
    begin,
    both_sizes,
    columns_of,
    head,
    random_rows,
    write,
)
from support.errors import assert_names, raises
from support.feature_files import all_rows

from bilinear_cli.errors import UsageError
from bilinear_cli.report.text import describe
from bilinear_cli.store import FeatureFile

VERSION_1 = Path(__file__).parents[1] / "data_files" / "features-v1.h5"


# What is written comes back --------------------------------------------------------------


@both_sizes
def test_rows_written_in_batches_are_read_back_bit_for_bit(tmp_path: Path, shapes: Shapes) -> None:
    rows = random_rows(shapes, 5)
    output = tmp_path / "new folder" / "x.h5"
    with begin(output, shapes, 5) as writer:
        for start, stop in ((0, 2), (2, 4), (4, 5)):
            assert writer.rows_done == start
            writer.append(head(rows, start, stop))
        writer.finish()
    with FeatureFile(output) as file:
        assert file.shapes == {spec: (5, *shape) for spec, shape in shapes.items()}
        for spec in shapes:
            assert file.row_dtype(spec) == rows[spec].dtype
            np.testing.assert_array_equal(all_rows(file, spec), rows[spec])


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
        assert file.pooling_attributes("bilinear") == {
            "pooling": "bilinear",
            "layout": "upper-triangle",
            "normalization": "signed-sqrt,l2",
            "channels": 8,
            "dtype": "float32",
        }
        dense = {"layout": "dense", "normalization": "", "channels": 8, "dtype": "float32"}
        for spec in ("max", "avg", "sum", "maps"):
            assert file.pooling_attributes(spec) == {"pooling": spec} | dense


@pytest.mark.parametrize("method", ["column_blocks", "batches", "read", "verify_checksums"])
def test_the_error_for_an_unknown_pooling_names_the_nearest(complete: Path, method: str) -> None:
    arguments = {"read": [np.arange(6)], "verify_checksums": []}.get(method, [np.arange(6), 1])
    facts = (complete, "'bilinar'", "'bilinear'")
    with FeatureFile(complete) as file, raises(UsageError, *facts):
        getattr(file, method)("bilinar", *arguments)


def test_version_1_stays_readable() -> None:
    columns = {
        "labels": [0, 1],
        "photo": [0, 2],
        "paths": ["é 0/0.jpg", "é 2/2.jpg"],
        "split": ["train", "test"],
        "group": ["nest 0", "nest 1"],
        "view": ["original"] * 2,
        "sha256": ["0" * 64, "0" * 63 + "2"],
        "class_names": CLASS_NAMES,
    }
    attributes = {"format_version": 1, "backbone": "vgg16", "image_size": 224}
    assert VERSION_1.stat().st_size < 40_000
    with FeatureFile(VERSION_1) as file:
        assert {name: getattr(file, name).tolist() for name in columns} == columns
        assert attributes.items() <= file.attributes.items()
        assert file.skipped == {"é 1/1.jpg": "no photo"}
        assert file.pooling_attributes("bilinear")["layout"] == "upper-triangle"
        for spec, values in version_1_rows().items():
            assert file.row_dtype(spec) == values.dtype
            np.testing.assert_array_equal(all_rows(file, spec), values[[0, 2]])


def version_1_rows() -> dict[str, np.ndarray]:
    """Return the rows that were written: (1000 * photo + position) / 8."""
    shapes: Shapes = {"max": (8,), "bilinear": (36,), "maps": (4, 4, 256)}
    positions = {spec: np.arange(np.prod(shape)).reshape(shape) for spec, shape in shapes.items()}
    rows = {spec: np.stack([1000 * i + x for i in range(3)]) / 8 for spec, x in positions.items()}
    dtypes = {"max": np.float32, "bilinear": np.float32, "maps": np.float16}
    return {spec: values.astype(dtypes[spec]) for spec, values in rows.items()}


# As a table ------------------------------------------------------------------------------


def table_of(path: Path) -> dict[str, str]:
    """Return `describe` as name -> value; its values are aligned."""
    with FeatureFile(path, allow_partial=True) as file:
        lines = describe(file).splitlines()
    assert len({len(line) - len(line.split(maxsplit=1)[1]) for line in lines}) == 1
    return dict(line.split(maxsplit=1) for line in lines)


def test_a_complete_file_as_a_table(tmp_path: Path) -> None:
    path = write(tmp_path / "x.h5", bad=[3])
    table = table_of(path)
    facts: dict[str, tuple] = {
        "file": (path,),
        "rows": (5,),
        "max": ("8 float32", "dense"),
        "bilinear": (36, "float32", 8, "upper-triangle", "signed-sqrt,l2"),
        "maps": ("2 x 2 x 8 float32", "dense"),
        "train": (4, 2),  # photos, and photos of a class
        "test": (1, 0),
        "classes": (2,),
        "backbone": ("vgg16",),
        "complete": (True,),
        "skipped": ("é 3/3.jpg", "no photo"),
    }
    for name, values in facts.items():
        assert_names(table[name], *values)


def test_an_unfinished_file_as_a_table(unfinished: Path) -> None:
    table = table_of(unfinished)
    assert (table["file"], table["complete"]) == (f"{unfinished}.partial", "False")
    assert_names(table["rows"], 2, 6)
    assert "skipped" not in table
