"""Ways to damage a run folder, and what must be read from it then: an error, or what it held."""

import copy
import io
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np

from bilinear_cli.errors import BilinearError
from bilinear_cli.explain import explain
from bilinear_cli.predict import predict_rows
from bilinear_cli.report.data import read_report_data
from bilinear_cli.report.text import describe_run, table
from bilinear_cli.report.write import render
from bilinear_cli.run import load_model, read_metrics, read_recipe, train
from bilinear_cli.store import FeatureFile
from bilinear_cli.training.options import TrainOptions
from support.runs import remove_digests

Random = np.random.Generator
KEPT = Path(__file__).parents[1] / "data_files" / "v0.1"
CHANNELS = 8  # of the maps of its features
REFUSED, RIGHT, WRONG = "refused", "right", "WRONG"
QUICK = TrainOptions(C=10.0, label_smoothing=0.0)

FILES = ("metrics.json", "labels.csv", "model.npz", "oof.npz", "test.npz")
ARRAYS = FILES[2:]
VALUES = (None, True, -1, 0, 0.5, 2**62, -1e308, "", "x", "\x00\u202e", [], {}, [1, "x"], {"a": 1})
TOKENS = ("NaN", "Infinity", "-Infinity", "1e999", "1" * 5000, "[" * 5000, '"\\ud800"', "")
DTYPES = ("i8", "u1", "S5", "U3", "?", "c16", "M8[s]", "O", "V3")
NUMBERS = (np.nan, np.inf, -np.inf, 1e300)
POSITIVE = ("std", "factor", "temperature", "novelty-temperature", "n_features")


# Damage ---------------------------------------------------------------------------------------


def remove_file(run: Path, rng: Random) -> None:
    """Remove a file, or put a folder or a pipe in its place."""
    path, kind = _any(run, FILES, rng), rng.integers(3)
    path.unlink()
    if kind:
        (path.mkdir if kind == 1 else lambda: os.mkfifo(path))()


def cut_file(run: Path, rng: Random) -> None:
    """Cut a file off somewhere."""
    path = _any(run, FILES, rng)
    os.truncate(path, int(rng.integers(path.stat().st_size)))


def change_bytes(run: Path, rng: Random) -> None:
    """Change up to four bytes of a file."""
    path = _any(run, FILES, rng)
    data = bytearray(path.read_bytes())
    for i in rng.integers(len(data), size=rng.integers(1, 5)):
        data[i] = rng.integers(256)
    path.write_bytes(data)


def swap_files(run: Path, rng: Random) -> None:
    """Write a file in the place of another."""
    first, second = (run / name for name in rng.permutation(FILES)[:2])
    shutil.copyfile(first, second)


def remove_key(run: Path, rng: Random) -> None:
    """Remove a key or an entry of metrics.json, at any depth."""
    metrics, owner, key = _any_value(run, rng)
    del owner[key]
    _write_json(run, metrics)


def change_value(run: Path, rng: Random) -> None:
    """Replace a value of metrics.json by another one, perhaps of another type."""
    metrics, owner, key = _any_value(run, rng)
    owner[key] = copy.deepcopy(VALUES[rng.integers(len(VALUES))])
    _write_json(run, metrics)


def change_token(run: Path, rng: Random) -> None:
    """Replace a value of metrics.json by something that few programs write."""
    metrics, owner, key = _any_value(run, rng)
    owner[key] = "TOKEN"
    text = json.dumps(metrics).replace('"TOKEN"', TOKENS[rng.integers(len(TOKENS))])
    (run / "metrics.json").write_text(text, encoding="utf-8")


def change_text(run: Path, rng: Random) -> None:
    """Write metrics.json as another kind of text."""
    path = run / "metrics.json"
    text = path.read_text("utf-8")
    options = ("", "[]", "null", "[" * 10**5, f"[{text}]", f'{text[:-2]}, "top1": 0.5}}')
    data = [x.encode() for x in options] + [text.encode("utf-16"), text.encode() + b"\xff"]
    path.write_bytes(data[rng.integers(len(data))])


def change_rows(run: Path, rng: Random) -> None:
    """Remove, repeat or cut a row of labels.csv, or change a cell."""
    path = run / "labels.csv"
    lines = path.read_text("utf-8").splitlines()
    i = rng.integers(len(lines))
    cells = lines[i].split(",")
    cells[rng.integers(len(cells))] = ("", "x", '"', "\x00", "a,b", "\n")[rng.integers(6)]
    lines[i : i + 1] = [[], [lines[i]] * 2, [lines[i].rpartition(",")[0]], [",".join(cells)]][
        rng.integers(4)
    ]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def remove_array(run: Path, rng: Random) -> None:
    """Remove an array of an npz file."""
    path, arrays, name = _any_array(run, rng)
    del arrays[name]
    np.savez(path, **arrays)  # type: ignore[arg-type]


def reshape_array(run: Path, rng: Random) -> None:
    """Cut or extend an array, or change its number of dimensions."""
    path, arrays, name = _any_array(run, rng)
    x = arrays[name]
    flat = x.reshape(-1)
    shapes = [x[None], x[..., None], flat, np.resize(x, (*x.shape, 2)), flat[:0], flat[:1]]
    if x.ndim:
        # the transpose of a square matrix is another model, of the same shape
        shapes += [x.T] if len({*x.shape}) > 1 else []
        shapes += [x[:-1], x[1:], x[..., :-1], x[..., :1], np.concatenate([x, x]), x[:0]]
    replacement = shapes[rng.integers(len(shapes))]
    np.savez(path, **arrays | {name: replacement})  # type: ignore[arg-type]


def retype_array(run: Path, rng: Random) -> None:
    """Write an array in another type; of some types with the same values."""
    path, arrays, name = _any_array(run, rng)
    x, dtype = arrays[name], DTYPES[rng.integers(len(DTYPES))]
    same = [x.astype(x.dtype.newbyteorder(">")), np.asfortranarray(x)]
    same += [x.astype(float)] if x.dtype.kind == "f" else []
    try:
        other = x.astype(dtype)
    except (TypeError, ValueError):
        other = np.zeros(x.shape, dtype)
    replacement = [other, other, *same][rng.integers(2 + len(same))]
    np.savez(path, **arrays | {name: replacement})  # type: ignore[arg-type]


def change_numbers(run: Path, rng: Random) -> None:
    """Write values that are not finite, or out of range, to a part of an array."""
    path, arrays, name = _any_array(run, rng, kinds="fiu")
    x = arrays[name].copy()
    numbers = NUMBERS if x.dtype.kind == "f" else (-1, 2**40)
    numbers = (*numbers, -1, 0) if name.startswith(POSITIVE) else numbers
    value = numbers[rng.integers(len(numbers))]
    x = x.astype(float) if value == 1e300 else x
    x[... if not x.ndim or rng.integers(2) else rng.integers(len(x))] = value
    np.savez(path, **arrays | {name: x})  # type: ignore[arg-type]


def change_names(run: Path, rng: Random) -> None:
    """Write the same text to all entries of an array of texts, or code points that do not exist."""
    path, arrays, name = _any_array(run, rng, kinds="US")
    x = arrays[name]
    replacement = [np.full_like(x, x.reshape(-1)[:1][0]), np.full_like(x, "x")]
    if x.dtype.kind == "U":
        replacement.append(np.full(x.nbytes // 4, 2**31 - 1, "u4").view(x.dtype).reshape(x.shape))
    np.savez(path, **arrays | {name: replacement[rng.integers(len(replacement))]})  # type: ignore[arg-type]


def change_header(run: Path, rng: Random) -> None:
    """Write an array whose header states a huge shape or another format, or compress the file."""
    path, arrays, name = _any_array(run, rng)
    shape = (2 ** int(rng.integers(20, 62)),)
    header, kind = io.BytesIO(), rng.integers(4)
    description = {"descr": "<f4", "fortran_order": False, "shape": shape}
    write = np.lib.format.write_array_header_1_0
    (write if kind else np.lib.format.write_array_header_2_0)(header, description)
    if kind == 1:
        np.savez_compressed(path, **arrays | {name: np.zeros(10**6)})  # type: ignore[arg-type]
        return
    compression = ZIP_DEFLATED if kind == 2 else 0
    with ZipFile(path, "w", compression) as archive:
        for other, x in arrays.items():
            data = io.BytesIO()
            np.save(data, x)
            archive.writestr(
                f"{other}.npy", header.getvalue() if other == name else data.getvalue()
            )


DAMAGES: Mapping[str, Callable[[Path, Random], None]] = {
    x.__name__: x
    for x in (
        *(remove_file, cut_file, change_bytes, swap_files),
        *(remove_key, change_value, change_token, change_text, change_rows),
        *(remove_array, reshape_array, retype_array, change_numbers, change_names, change_header),
    )
}


def _any(run: Path, names: tuple[str, ...], rng: Random) -> Path:
    return run / names[rng.integers(len(names))]


def _any_value(run: Path, rng: Random) -> tuple[dict[str, Any], Any, Any]:
    """Return the metrics, and a dict or a list in them with one of its keys or indices."""
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    owner: Any = metrics
    while True:
        keys = [*owner] if isinstance(owner, dict) else [*range(len(owner))]
        key = keys[rng.integers(len(keys))]
        if not (isinstance(owner[key], dict | list) and owner[key] and rng.integers(4)):
            return metrics, owner, key
        owner = owner[key]


def _write_json(run: Path, value: Any) -> None:
    (run / "metrics.json").write_text(json.dumps(value), encoding="utf-8")


def _any_array(
    run: Path, rng: Random, kinds: str = "fiuUS"
) -> tuple[Path, dict[str, np.ndarray], str]:
    """Return an npz file, its arrays, and the name of one of these kinds."""
    path = _any(run, ARRAYS, rng)
    with np.load(path) as file:
        arrays = dict(file)
    names = [name for name, x in arrays.items() if x.dtype.kind in kinds]
    return path, arrays, names[rng.integers(len(names))]


# Runs -----------------------------------------------------------------------------------------


def train_run(folder: Path, spec: str = "bilinear", options: TrainOptions = QUICK) -> Path:
    """Train on the kept features, and return the run: one of this version."""
    with FeatureFile(KEPT / "birds.h5") as file:
        return Path(train(file, spec, options, folder)["run"])


def runs_of_all_kinds(folder: Path) -> list[Path]:
    """Return runs of version 0.1 and of this version, of these two without digests of files."""
    options = replace(QUICK, classifier="svm", top_variance=20)
    new = [train_run(folder), remove_digests(train_run(folder, options=options))]
    weighted = replace(QUICK, class_weight="balanced")
    new.append(remove_digests(train_run(folder, "max+compact:16", weighted)))
    return [*sorted((KEPT / "runs").iterdir()), *new]


# What the commands read -----------------------------------------------------------------------


class Reader:
    """Reads run folders as the commands do, and returns the answers that they compute.

    A figure of metrics.json or a label of labels.csv that changed to another possible one is not
    noticed. So answers are those that come from the model, the recipe and the scores.
    """

    def __init__(self, report_format: str = "md") -> None:
        self.maps = np.random.default_rng(0).uniform(size=(1, 4, 4, CHANNELS)).astype(np.float32)
        self.report_format = report_format

    def info(self, run: Path) -> list[Any]:
        assert describe_run(run, by_class=True)
        return []

    def table(self, run: Path) -> list[Any]:
        assert table([read_metrics(run), read_metrics(run)])
        return []

    def report(self, run: Path) -> list[Any]:
        assert render([run], self.report_format)
        data = read_report_data([run])
        return [data.class_names.tolist(), data.matrix.tolist(), *data.predictions[:6]]

    def predict(self, run: Path) -> list[Any]:
        name = "maps.h5" if "conv1x1" in run.name else "birds.h5"
        answers = list(predict_rows(run, KEPT / name))
        names, shares = zip(*(zip(*x.top, strict=True) for x in answers), strict=True)
        rarity = np.array([x.rarity for x in answers], float)
        return [[x.photo for x in answers], names, np.array(shares), rarity]

    def export(self, run: Path) -> list[Any]:
        model, recipe = load_model(run), read_recipe(run)
        model.check_channels(CHANNELS)
        with np.load(run / "model.npz") as arrays:
            has_recipe = "recipe" in arrays  # version 0.1 has no copy to compare
        return [has_recipe and recipe.comparable_attributes(), model.class_names.tolist()]

    def explain(self, run: Path) -> list[Any]:
        explanation = explain(run, KEPT / "photos/test/jay/4.png", lambda _: self.maps)
        return [explanation.name, explanation.probability, explanation.heatmap]

    def answers(self, run: Path) -> dict[str, Any]:
        """Return command -> its answers; or the error, if it raises one of one line."""
        answers: dict[str, Any] = {}
        for name in ("info", "table", "report", "predict", "export", "explain"):
            try:
                answers[name] = getattr(self, name)(run)
            except BilinearError as error:
                if "\n" in str(error):
                    raise
                answers[name] = error
        return answers


def judge(answers: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, str]:
    """Return command -> REFUSED, RIGHT or WRONG, from `Reader.answers` of two folders."""
    return {name: _judge(answers[name], expected[name]) for name in answers}


def _judge(answer: Any, expected: Any) -> str:
    if isinstance(expected, BilinearError):  # a run that the command does not take
        return RIGHT if isinstance(answer, BilinearError) else WRONG
    if isinstance(answer, BilinearError):
        return REFUSED
    return RIGHT if all(map(_same, answer, expected)) else WRONG


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) and a.dtype.kind == "f":
        return a.shape == b.shape and np.allclose(a, b, atol=1e-4, equal_nan=True)
    return bool(np.array_equal(a, b)) if isinstance(a, np.ndarray) else a == b
