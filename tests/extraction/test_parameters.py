"""Tests of the parameters of poolings: where they come from, and that files keep and share them."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from extraction import cases
from extraction.cases import assert_uninterrupted, interrupt, stop_at
from support.errors import raises
from support.feature_files import all_rows, contents
from support.network import pool_maps
from support.photos import class_folders

from bilinear_cli.errors import BadPhotoError, BilinearError, FeatureFileError, UsageError
from bilinear_cli.extraction.existing import read_projection
from bilinear_cli.photos.photo_set import PhotoSet, load_photo_set
from bilinear_cli.poolings.functions import pool_function
from bilinear_cli.poolings.parameters import make_parameters, principal_directions, second_moment
from bilinear_cli.recipe import Recipe
from bilinear_cli.run import train
from bilinear_cli.store import FeatureFile, merge
from bilinear_cli.store.checks import parameter_sha256
from bilinear_cli.training.options import TrainOptions

SPECS = ("compact:16", "bilinear:3", "matrix-sqrt:3", "maps")
RECIPE = replace(cases.RECIPE, specs=SPECS)


def run(photo_set: PhotoSet, output: Path, recipe: Recipe = RECIPE, **options: Any) -> Path:
    projection = options.pop("projection", None)
    known = read_projection(projection, recipe)
    cases.run(photo_set, output, recipe, parameters=known, **options)
    return output


def rows(path: Path) -> dict[str, np.ndarray]:
    with FeatureFile(path, allow_partial=True) as file:
        return {spec: all_rows(file, spec) for spec in file.shapes}


def parameters(path: Path) -> dict[str, np.ndarray]:
    with FeatureFile(path, allow_partial=True) as file:
        return file.parameters


def directions(maps: np.ndarray) -> np.ndarray:
    return principal_directions(second_moment([maps]), 3)


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


# Where they come from -------------------------------------------------------------------------


@pytest.mark.slow
def test_rows_are_pooled_with_parameters_that_are_fitted_on_training_photos_alone(
    birds: PhotoSet, output: Path
) -> None:
    run(birds, output)
    arrays, stored = parameters(output), rows(output)
    is_train = birds.split == "train"
    assert {name: x.shape for name, x in arrays.items()} == {
        "hash-16": (2, 6),
        "sign-16": (2, 6),
        "projection-3": (6, 3),
        "fitted-on": (is_train.sum(),),
    }
    assert sorted(arrays["fitted-on"].astype(str)) == sorted(birds.sha256()[is_train])
    for spec in SPECS:
        expected = pool_function(spec, arrays)(stored["maps"]).numpy()
        np.testing.assert_allclose(stored[spec], expected, atol=1e-3 if ":3" in spec else 1e-5)
        assert np.abs(stored[spec]).max() > 0.1
    maps = stored["maps"]
    expected = directions(maps[is_train])
    np.testing.assert_allclose(arrays["projection-3"], expected, atol=1e-4)
    with_test = directions(maps)
    assert np.abs(with_test - expected).max() > 1e-3


def test_hashes_follow_from_the_seed() -> None:
    recipes = [replace(RECIPE, specs=("compact:16",), seed=seed) for seed in (0, 0, 1)]
    first, again, other = (make_parameters(recipe, 6, {}, sample(6)) for recipe in recipes)
    assert same(first, again)
    assert not np.array_equal(first["hash-16"], other["hash-16"])


@pytest.mark.slow
def test_a_bad_photo_in_the_sample(birds: PhotoSet, output: Path) -> None:
    bad = birds.root / birds.paths[np.flatnonzero(birds.split == "train")[0]]
    bad.write_text("no photo")
    with raises(BadPhotoError, bad, "--skip-bad"):
        run(birds, output)
    assert not output.exists()
    maps = rows(run(birds, output, skip_bad=True))["maps"]
    assert len(maps) == 10
    with FeatureFile(output) as file:
        expected = directions(maps[file.split == "train"])
        np.testing.assert_allclose(file.parameters["projection-3"], expected, atol=1e-4)


def sample(channels: int) -> Callable[[], tuple[np.ndarray, list[str]]]:
    return lambda: (np.eye(channels), ["0" * 64])


# What does not suit ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "channels", "facts"),
    [
        ("bilinear", 2048, ("2,098,176", "--pooling bilinear:144")),
        ("matrix-sqrt", 1025, ("--pooling matrix-sqrt:144",)),
        ("bilinear:7", 6, (6,)),
        ("bilinear:1500", 2048, ("1,125,750", "--pooling bilinear:144")),
        ("compact:999999999", 6, (6, "999,999,999", "--pooling compact:8192")),
    ],
)
def test_a_pooling_that_does_not_suit_the_maps(
    spec: str, channels: int, facts: tuple[Any, ...]
) -> None:
    recipe = replace(RECIPE, specs=(spec,))
    with raises(UsageError, spec, *facts):
        make_parameters(recipe, channels, {}, sample(channels))


@pytest.mark.parametrize(
    ("spec", "name"), [("bilinear:3", "projection-3"), ("compact:16", "hash-16")]
)
def test_parameters_of_other_maps_are_refused(spec: str, name: str) -> None:
    recipe = replace(RECIPE, specs=(spec,))
    have = make_parameters(recipe, 5, {}, sample(5))
    with raises(BilinearError, name, 5, 6):
        make_parameters(recipe, 6, have, sample(6))


def test_wide_maps_may_be_sketched_or_projected() -> None:
    recipe = replace(RECIPE, specs=("compact:16", "bilinear:3", "max", "maps"))
    arrays = make_parameters(recipe, 1025, {}, sample(1025))
    assert arrays["hash-16"].shape == (2, 1025)
    assert arrays["projection-3"].shape == (1025, 3)


# Resume, shards, reuse -----------------------------------------------------------------------


@pytest.mark.slow
def test_a_resumed_run_keeps_its_parameters(birds: PhotoSet, output: Path) -> None:
    interrupt(birds, output, 3, recipe=RECIPE)
    run(birds, output)
    assert_uninterrupted(birds, output, RECIPE)


@pytest.mark.slow
def test_shards_share_the_projection_of_the_first(
    birds: PhotoSet, output: Path, tmp_path: Path
) -> None:
    run(birds, output)
    one, two = (replace(RECIPE, shard=f"{i}/2") for i in (1, 2))
    with raises(UsageError, "bilinear:3", "--projection"):
        run(birds, tmp_path / "2.h5", two)
    first = run(birds, tmp_path / "1.h5", one)
    second = run(birds, tmp_path / "2.h5", two, projection=first)
    merge([first, second], tmp_path / "merged.h5")
    assert contents(tmp_path / "merged.h5") == contents(output)

    other = run(birds.limit(6), tmp_path / "other.h5")
    run(birds, second, two, projection=other, overwrite=True)
    with raises(FeatureFileError, first, second, "projection-3"):
        merge([first, second], tmp_path / "mixed.h5")


@pytest.mark.slow
def test_reused_rows_bring_their_projection(birds: PhotoSet, tmp_path: Path) -> None:
    reused = run(birds.limit(6), tmp_path / "reused.h5")
    new = run(birds, tmp_path / "new.h5", reuse=reused)
    assert same(parameters(new), parameters(reused))
    other = run(birds, tmp_path / "other.h5")
    assert not same(parameters(other), parameters(reused))
    with raises(FeatureFileError, "projection-3", reused):
        run(birds, tmp_path / "y.h5", reuse=reused, projection=other)
    assert not (tmp_path / "y.h5").exists()
    with raises(FeatureFileError, "projection-3", new):
        run(birds, new, projection=other)


def test_a_projection_of_something_else_is_refused(
    birds: PhotoSet, output: Path, tmp_path: Path
) -> None:
    run(birds, output)
    for change, facts in (
        ({"backbone": "resnet50"}, ("backbone", "vgg16", "resnet50")),
        ({"layer": "block5_pool"}, ("layer", "block5_conv3", "block5_pool")),
        ({"weights_sha256": "1" * 64}, ("sha256", "0" * 64, "1" * 64)),
        ({"specs": ("bilinear:2",)}, ("projection-2",)),
        ({"specs": ("max",)}, ("--pooling",)),
    ):
        with raises(FeatureFileError, output, *facts):
            run(birds, tmp_path / "y.h5", replace(RECIPE, **change), projection=output)
    assert not (tmp_path / "y.h5").exists()


# Test photos ----------------------------------------------------------------------------------


def swapped(photo_set: PhotoSet) -> PhotoSet:
    return replace(photo_set, split=np.where(photo_set.split == "train", "test", "train"))


@pytest.mark.slow
def test_a_projection_is_not_used_where_it_was_fitted_on_test_photos(
    birds: PhotoSet, output: Path, tmp_path: Path
) -> None:
    run(birds, output)
    n = int((birds.split == "train").sum())
    for options in ({"projection": output}, {"reuse": output}):
        with raises(BilinearError, n, "--reuse", "--projection"):
            run(swapped(birds), tmp_path / "y.h5", **options)
    assert not [*tmp_path.glob("y.h5*")]
    options = TrainOptions(C=1.0, label_smoothing=0)
    with FeatureFile(output) as file:
        for spec in ("bilinear:3", "bilinear:3+compact:16"):
            with raises(BilinearError, n):
                train(file, spec, options, tmp_path, photo_set=swapped(birds))
        train(file, "compact:16", options, tmp_path, photo_set=swapped(birds))


# Stored maps ----------------------------------------------------------------------------------

OTHERS = ("max", "bilinear", "compact:16", "matrix-sqrt:3")
BOTH = ("original", "flip")
with_and_without_flip = pytest.mark.parametrize("maps", [("original",), BOTH], indirect=True)


@pytest.fixture
def maps(request: pytest.FixtureRequest, birds: PhotoSet, tmp_path: Path) -> Path:
    recipe = replace(RECIPE, specs=("maps",), views=getattr(request, "param", BOTH))
    return run(birds, tmp_path / "maps.h5", recipe)


def views_of(path: Path) -> tuple[str, ...]:
    with FeatureFile(path) as file:
        return file.recipe.views


@with_and_without_flip
@pytest.mark.slow
def test_stored_maps_are_pooled_as_photos_are(birds: PhotoSet, output: Path, maps: Path) -> None:
    views = views_of(maps)
    direct = run(birds, output, replace(RECIPE, specs=OTHERS, views=views))
    again = output.with_name("y.h5")
    pool_maps(maps, OTHERS, again, projection=direct)
    for spec, x in rows(again).items():
        np.testing.assert_allclose(x, rows(direct)[spec], atol=1e-5)
    with FeatureFile(again) as one, FeatureFile(direct) as other:
        for name in ("photo", "view", "labels", "paths", "sha256", "split", "group"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        pairs = {n: (x, other.attributes.get(n)) for n, x in one.attributes.items()}
        differ = {name for name, (x, y) in pairs.items() if x != y}
        assert differ <= {"created", "pooled_from", "command"}
        assert one.attributes["pooled_from"] == "maps"


def test_maps_of_training_photos_make_the_projection(maps: Path, output: Path) -> None:
    pool_maps(maps, ("bilinear:3",), output)
    with FeatureFile(maps) as file:
        x = file.read("maps", np.flatnonzero(file.split == "train"))
    expected = directions(x)
    np.testing.assert_allclose(parameters(output)["projection-3"], expected, atol=1e-4)


@with_and_without_flip
@pytest.mark.slow
def test_pooling_of_maps_resumes(maps: Path, output: Path, tmp_path: Path) -> None:
    pool_maps(maps, OTHERS, tmp_path / "expected.h5")
    with pytest.raises(KeyboardInterrupt):
        pool_maps(maps, OTHERS, output, progress=stop_at(3))
    assert not output.exists()
    done: list[int] = []
    pool_maps(maps, OTHERS, output, progress=lambda now, _: done.append(now))
    assert done == [3, 6, 9, 11]  # photos
    assert contents(output) == contents(tmp_path / "expected.h5")
    before = output.read_bytes()
    pool_maps(maps, OTHERS, output)  # is complete
    assert output.read_bytes() == before
    with raises(FeatureFileError, output, "pooling", *OTHERS):
        pool_maps(maps, ("max",), output)
    pool_maps(maps, ("max",), output, overwrite=True)
    assert rows(output).keys() == {"max"}


@pytest.mark.slow
def test_maps_in_another_order_keep_the_rows_of_their_photos(
    birds: PhotoSet, maps: Path, output: Path, tmp_path: Path
) -> None:
    pool_maps(maps, ("max",), tmp_path / "expected.h5")
    with pytest.raises(KeyboardInterrupt):
        pool_maps(maps, ("max",), output, progress=stop_at(3))
    reordered = birds.take(np.arange(len(birds))[::-1])
    run(reordered, maps, replace(RECIPE, specs=("maps",), views=BOTH), overwrite=True)
    pool_maps(maps, ("max",), output)
    assert contents(output) == contents(tmp_path / "expected.h5")


@pytest.mark.slow
def test_pooling_of_maps_resumes_with_the_projection_of_its_file(
    birds: PhotoSet, maps: Path, output: Path, tmp_path: Path
) -> None:
    other = run(birds.limit(6), tmp_path / "other.h5")
    with pytest.raises(KeyboardInterrupt):
        pool_maps(maps, OTHERS, output, projection=other, progress=stop_at(3))
    pool_maps(maps, OTHERS, output)
    np.testing.assert_array_equal(*(parameters(x)["projection-3"] for x in (output, other)))
    pool_maps(maps, OTHERS, tmp_path / "expected.h5", projection=other)
    assert contents(output) == contents(tmp_path / "expected.h5")


def test_rows_of_maps_and_of_photos_do_not_mix(birds: PhotoSet, maps: Path, output: Path) -> None:
    pool_maps(maps, ("max",), output)
    with raises(FeatureFileError, output, "maps", "photos"):
        run(birds, output, replace(RECIPE, specs=("max",), views=views_of(maps)))


def test_a_file_without_maps_is_refused(maps: Path, output: Path) -> None:
    pool_maps(maps, ("max",), output)
    with raises(UsageError, output, "max", "--pooling maps"):
        pool_maps(output, ("sum",), output.with_name("y.h5"))
    for path in (maps, maps.parent, Path()):
        with raises(UsageError, path, "--output"):
            pool_maps(maps, ("sum",), path)
    with raises(FeatureFileError, output.with_name("nothing.h5")):
        pool_maps(output.with_name("nothing.h5"), ("sum",), output.with_name("y.h5"))


def test_a_damaged_row_of_maps_is_named(maps: Path, output: Path) -> None:
    with h5py.File(maps, "r+") as file:
        file["features/maps"][4, 2, 1, 0] += 1
    with raises(FeatureFileError, maps, 4, "features/maps"):
        pool_maps(maps, ("max",), output)


# Files of strangers ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parameters")
    photo_set = load_photo_set(str(class_folders(folder / "birds", {"tit": 6, "wren": 5})))
    return run(photo_set, folder / "x.h5")


@pytest.fixture
def path(features: Path, tmp_path: Path) -> Path:
    """Return a feature file that the test may change."""
    return Path(shutil.copy(features, tmp_path))


Change = Callable[[h5py.File], Any]


def replaced(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Return a function that changes an array, and its checksum."""

    def replace_array(file: h5py.File) -> None:
        key = f"parameters/{name}"
        array = change(file.pop(key)[()])
        file[key] = array
        file[key].attrs["sha256"] = parameter_sha256(array)

    return replace_array


def change_value(file: h5py.File) -> None:
    file["parameters/projection-3"][1, 1] += 1e-4


def change_size(file: h5py.File) -> None:
    for name in ("features/compact:", "crc32/compact:", "parameters/hash-", "parameters/sign-"):
        file.move(f"{name}16", f"{name}17")


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        (replaced("hash-16", lambda x: x + 16), ["hash-16"]),
        (replaced("hash-16", lambda x: -x - 1), ["hash-16"]),
        (replaced("hash-16", lambda x: x.astype(np.int32)), ["hash-16"]),
        (replaced("sign-16", lambda x: x * 2), ["sign-16"]),
        (replaced("sign-16", lambda x: x[:1]), ["sign-16"]),
        (replaced("projection-3", lambda x: x * np.float32(np.nan)), ["projection-3"]),
        (replaced("projection-3", lambda x: x[:, :2]), ["projection-3"]),
        (replaced("projection-3", lambda x: x[0]), ["projection-3"]),
        (replaced("projection-3", lambda x: x[:0]), ["projection-3"]),
        (replaced("projection-3", lambda x: x[:5]), [5, 6]),
        (replaced("fitted-on", lambda x: x.astype("S32")), ["fitted-on"]),
        (change_value, ["projection-3"]),
        (lambda file: file.pop("parameters/projection-3"), ["projection-3"]),
        (change_size, ["features/compact:17", 16]),
        (lambda file: file.move("features/compact:16", "features/compact:x"), ["compact:x"]),
    ],
)
@pytest.mark.slow
def test_parameters_that_do_not_fit_are_damage(path: Path, change: Change, facts: list) -> None:
    with h5py.File(path, "r+") as file:
        change(file)
    with raises(FeatureFileError, path, *facts):
        FeatureFile(path)
