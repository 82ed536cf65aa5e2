"""Tests of what is read from a feature file: all that was written, and nothing else."""

from pathlib import Path

import numpy as np
import pytest
from feature_files import (
    ATTRIBUTES,
    CLASS_NAMES,
    LARGE,
    SMALL,
    Shapes,
    columns_of,
    every,
    head,
    parameters_of,
    random_rows,
    write,
)

from bilinear_cli.errors import UsageError
from bilinear_cli.report import describe
from bilinear_cli.store import FeatureFile, create

FIXTURE = Path(__file__).parents[1] / "data_files" / "features-v1.h5"


# What is written comes back --------------------------------------------------------------


@pytest.mark.parametrize("shapes", [SMALL, LARGE], ids=["float32", "float16"])
def test_rows_written_in_batches_are_read_back_bit_for_bit(tmp_path: Path, shapes: Shapes) -> None:
    rows = random_rows(shapes, 5)
    output = tmp_path / "new folder" / "x.h5"
    with create(
        output, shapes, columns_of(5), CLASS_NAMES, ATTRIBUTES, parameters=parameters_of(shapes)
    ) as writer:
        for start, stop in ((0, 2), (2, 4), (4, 5)):
            assert writer.rows_done == start
            writer.append(head(rows, start, stop))
        writer.finish()
    with FeatureFile(output) as file:
        assert file.shapes == {spec: (5, *shape) for spec, shape in shapes.items()}
        for spec in shapes:
            assert file.row_dtype(spec) == rows[spec].dtype
            np.testing.assert_array_equal(every(file, spec), rows[spec])


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


def test_an_empty_file_can_be_read(tmp_path: Path) -> None:
    with FeatureFile(write(tmp_path / "x.h5", n=0)) as file:
        assert every(file, "conv5").shape == (0, 2, 2, 8)


@pytest.mark.parametrize("method", ["columns", "batches", "read", "check"])
def test_another_pooling_is_refused_by_name(complete: Path, method: str) -> None:
    asked = {"columns": (np.arange(6), 1), "batches": (np.arange(6), 1), "read": (np.arange(6),)}
    with FeatureFile(complete) as file, pytest.raises(UsageError) as caught:
        getattr(file, method)("bilinar", *asked.get(method, ()))
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
            assert file.row_dtype(spec) == values.dtype
            np.testing.assert_array_equal(every(file, spec), values[[0, 2]])


def fixture_rows() -> dict[str, np.ndarray]:
    """Return rows whose numbers are easily known again: 1000 photo + place, over 8."""
    shapes: Shapes = {"max": (8,), "bilinear": (36,), "conv5": (4, 4, 256)}
    places = {spec: np.arange(np.prod(shape)).reshape(shape) for spec, shape in shapes.items()}
    rows = {spec: np.stack([1000 * i + x for i in range(3)]) / 8 for spec, x in places.items()}
    dtypes = {"max": np.float32, "bilinear": np.float32, "conv5": np.float16}
    return {spec: values.astype(dtypes[spec]) for spec, values in rows.items()}


def make_fixture() -> None:
    """Write FIXTURE; only for a new version of the format, and then under another name.

    cd tests/store && python -c "import test_reading; test_reading.make_fixture()"
    """
    rows = fixture_rows()
    shapes = {spec: values.shape[1:] for spec, values in rows.items()}
    columns = columns_of(3) | {"labels": np.array([0, 0, 1])}
    with create(FIXTURE, shapes, columns, CLASS_NAMES, ATTRIBUTES) as writer:
        writer.append(rows, bad=[1])
        writer.finish({"é 1/1.jpg": "no photo"})


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
        "train": "4 photos, 2 to 2 of a class",
        "test": "1 photos, 0 to 1 of a class",
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
