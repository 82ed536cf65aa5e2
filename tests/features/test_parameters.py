"""Tests of projections and sketches: where they come from, and that files keep and share them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tensorflow as tf

from bilinear_cli.classify.select import Options
from bilinear_cli.classify.train import train
from bilinear_cli.data.dataset import Dataset, load_dataset
from bilinear_cli.data.images import read_photo
from bilinear_cli.errors import BadPhotoError, BilinearError, FeatureFileError, UsageError
from bilinear_cli.features.extract import extract
from bilinear_cli.features.from_maps import pool_maps
from bilinear_cli.features.parameters import make_parameters, read_projection
from bilinear_cli.features.pooling import pool_function
from bilinear_cli.features.projection import principal_directions, second_moment
from bilinear_cli.features.settings import Settings
from bilinear_cli.store import FeatureFile, merge, partial_path

SPECS = ("compact:16", "bilinear:3", "matrix-sqrt:3", "conv5")
SETTINGS = Settings(SPECS, "block5_conv3", 32, "squash", "float32", 3, "0" * 64)
KERNEL = np.random.default_rng(0).normal(size=(8, 8, 3, 6)).astype(np.float32) / 100


def forward(photos: Any) -> tf.Tensor:
    """Stand in for the network: maps 4 x 4 of six channels."""
    return tf.nn.relu(tf.nn.conv2d(tf.cast(photos, tf.float32), KERNEL, 8, "VALID"))


@pytest.fixture
def birds(tmp_path: Path, class_folders: Callable[..., Path]) -> Dataset:
    """Return a set of 11 photos, which are three batches of 3 and one of 2."""
    return load_dataset(str(class_folders(tmp_path / "birds", {"tit": 6, "wren": 5})))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "x.h5"


def run(dataset: Dataset, output: Path, settings: Settings = SETTINGS, **options: Any) -> Path:
    projection = options.pop("projection", None)
    given = read_projection(projection, settings) if projection else {}
    extract(dataset, settings, output, lambda: forward, parameters=given, **options)
    return output


def rows(path: Path) -> dict[str, np.ndarray]:
    with FeatureFile(path, allow_partial=True) as file:
        every = np.arange(file.rows_done)
        return {spec: file.read(spec, every) for spec in file.shapes}


def parameters(path: Path) -> dict[str, np.ndarray]:
    with FeatureFile(path, allow_partial=True) as file:
        return file.parameters


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


# Where they come from -------------------------------------------------------------------------


def test_rows_are_pooled_with_the_parameters_of_the_file(birds: Dataset, output: Path) -> None:
    run(birds, output)
    there = parameters(output)
    assert {name: x.shape for name, x in there.items()} == {
        "hash-16": (2, 6),
        "sign-16": (2, 6),
        "projection-3": (6, 3),
        "fitted-on": ((birds.split == "train").sum(),),
    }
    digests = birds.sha256()[birds.split == "train"]
    assert sorted(there["fitted-on"].astype(str)) == sorted(digests)
    found = rows(output)
    for spec in SPECS:
        wanted = pool_function(spec, there)(tf.constant(found["conv5"])).numpy()
        np.testing.assert_allclose(found[spec], wanted, atol=1e-3 if ":3" in spec else 1e-5)
        assert np.abs(found[spec]).max() > 0.1


def test_a_projection_is_taken_from_training_photos_alone(birds: Dataset, output: Path) -> None:
    found = rows(run(birds, output))["conv5"]
    train = birds.split == "train"
    wanted = principal_directions(second_moment([found[train]]), 3)
    np.testing.assert_allclose(parameters(output)["projection-3"], wanted, atol=1e-4)
    with_test = principal_directions(second_moment([found]), 3)
    assert np.abs(with_test - wanted).max() > 1e-3


def test_hashes_follow_from_the_seed(birds: Dataset, output: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, poolings=("compact:16",))
    first = parameters(run(birds, output, settings))
    assert same(first, parameters(run(birds, tmp_path / "again.h5", settings)))
    other = parameters(run(birds, tmp_path / "other.h5", replace(settings, seed=1)))
    assert not np.array_equal(first["hash-16"], other["hash-16"])


def test_a_bad_photo_in_the_sample(birds: Dataset, output: Path) -> None:
    train = np.flatnonzero(birds.split == "train")
    (birds.root / birds.paths[train[0]]).write_text("no photo")
    with pytest.raises(BadPhotoError, match="--skip-bad"):
        run(birds, output)
    assert not output.exists()
    found = rows(run(birds, output, skip_bad=True))["conv5"]
    assert len(found) == 10
    with FeatureFile(output) as file:
        moment = second_moment([found[file.split == "train"]])
        wanted = principal_directions(moment, 3)
        np.testing.assert_allclose(file.parameters["projection-3"], wanted, atol=1e-4)


def sample_of(channels: int) -> Callable[[], tuple[np.ndarray, list[str]]]:
    return lambda: (np.eye(channels), ["0" * 64])


# What does not suit ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "channels", "said"),
    [
        ("bilinear", 2048, "would store 2,098,176 numbers a photo: take --pooling bilinear:144"),
        ("matrix-sqrt", 1025, "take --pooling matrix-sqrt:144"),
        ("bilinear:7", 6, "bilinear:7: the maps have but 6 channels"),
        ("bilinear:1500", 2048, "would store 1,125,750 numbers a photo"),
        ("compact:999999999", 6, "compact:999999999 of 6 channels would store 999,999,999 numbers"),
    ],
)
def test_a_pooling_that_does_not_suit_the_maps(spec: str, channels: int, said: str) -> None:
    settings = replace(SETTINGS, poolings=(spec,))
    with pytest.raises(UsageError, match=said):
        make_parameters(settings, channels, {}, sample_of(channels))


@pytest.mark.parametrize("name", ["projection-3", "hash-16"])
def test_parameters_for_other_maps(name: str) -> None:
    spec = "bilinear:3" if name == "projection-3" else "compact:16"
    settings = replace(SETTINGS, poolings=(spec,))
    have = make_parameters(settings, 5, {}, sample_of(5))
    with pytest.raises(BilinearError, match=f"{name} is for maps of 5 channels, and these have 6"):
        make_parameters(settings, 6, have, sample_of(6))


def test_wide_maps_may_be_sketched_or_projected() -> None:
    settings = replace(SETTINGS, poolings=("compact:16", "bilinear:3", "max", "conv5"))
    made = make_parameters(settings, 2048, {}, sample_of(2048))
    assert made["hash-16"].shape == (2, 2048)
    assert made["projection-3"].shape == (2048, 3)


# Going on, shards, reuse ----------------------------------------------------------------------


def stop(done: int, _: int) -> None:
    if done >= 3:
        raise KeyboardInterrupt


def test_a_run_that_goes_on_keeps_its_parameters(
    birds: Dataset, output: Path, tmp_path: Path
) -> None:
    whole = run(birds, tmp_path / "whole.h5")
    with pytest.raises(KeyboardInterrupt):
        run(birds, output, progress=stop)
    with h5py.File(partial_path(output)) as file:
        assert file["rows_done"][0] == 3
    run(birds, output)
    assert same(rows(output), rows(whole))
    assert same(parameters(output), parameters(whole))
    with pytest.raises(FeatureFileError, match="made with seed 0, and 1 is asked for"):
        run(birds, output, replace(SETTINGS, seed=1))


def test_shards_share_the_projection_of_the_first(
    birds: Dataset, output: Path, tmp_path: Path
) -> None:
    whole = run(birds, output)
    one, two = (replace(SETTINGS, shard=f"{i}/2") for i in (1, 2))
    with pytest.raises(UsageError, match="all shards must have the same projection"):
        run(birds, tmp_path / "2.h5", two)
    first = run(birds, tmp_path / "1.h5", one)
    second = run(birds, tmp_path / "2.h5", two, projection=first)
    merge([first, second], tmp_path / "merged.h5")
    assert same(rows(tmp_path / "merged.h5"), rows(whole))
    assert same(parameters(tmp_path / "merged.h5"), parameters(whole))


def test_shards_of_different_projections_do_not_belong_together(
    birds: Dataset, tmp_path: Path
) -> None:
    one, two = (replace(SETTINGS, shard=f"{i}/2") for i in (1, 2))
    first = run(birds, tmp_path / "1.h5", one)
    other = run(birds.limit(6), tmp_path / "other.h5")
    second = run(birds, tmp_path / "2.h5", two, projection=other)
    with pytest.raises(FeatureFileError, match="do not belong together: projection-3 is"):
        merge([first, second], tmp_path / "merged.h5")


def test_reused_rows_bring_their_projection(birds: Dataset, tmp_path: Path) -> None:
    old = run(birds.limit(6), tmp_path / "old.h5")
    new = run(birds, tmp_path / "new.h5", reuse=old)
    assert same(parameters(new), parameters(old))
    other = run(birds, tmp_path / "other.h5")
    assert not same(parameters(other), parameters(old))
    for path, options in (
        (tmp_path / "y.h5", {"reuse": old, "projection": other}),
        (new, {"projection": other}),
    ):
        with pytest.raises(FeatureFileError, match=r"projection-3 of .* is not that of the other"):
            run(birds, path, **options)
    assert not (tmp_path / "y.h5").exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"backbone": "resnet50"}, "of another network: its backbone is vgg16, and here it is res"),
        ({"layer": "block5_pool"}, "its layer is block5_conv3"),
        ({"weights_sha256": "1" * 64}, "its weights_sha256 is 000"),
        ({"poolings": ("bilinear:2",)}, "has no projection-2"),
        ({"poolings": ("max",)}, "no --pooling takes one"),
    ],
)
def test_a_projection_of_something_else(
    birds: Dataset, output: Path, tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    run(birds, output)
    with pytest.raises(FeatureFileError, match=said):
        run(birds, tmp_path / "y.h5", replace(SETTINGS, **changed), projection=output)
    assert not (tmp_path / "y.h5").exists()


# Test photos ----------------------------------------------------------------------------------


def swapped(dataset: Dataset) -> Dataset:
    return replace(dataset, split=np.where(dataset.split == "train", "test", "train"))


def test_a_projection_is_not_used_where_it_has_seen_the_test_photos(
    birds: Dataset, output: Path, tmp_path: Path
) -> None:
    run(birds, output)
    n = (birds.split == "train").sum()
    said = f"a projection of channels was fitted on {n} of the photos that are now test photos"
    for options in ({"projection": output}, {"reuse": output}):
        with pytest.raises(BilinearError, match=said):
            run(swapped(birds), tmp_path / "y.h5", **options)
    assert not [*tmp_path.glob("y.h5*")]
    with FeatureFile(output) as file:
        for spec in ("bilinear:3", "bilinear:3+compact:16"):
            with pytest.raises(BilinearError, match=said):
                train(
                    file, spec, Options(C=1.0, label_smoothing=0), tmp_path, dataset=swapped(birds)
                )
        train(
            file, "compact:16", Options(C=1.0, label_smoothing=0), tmp_path, dataset=swapped(birds)
        )


# Stored maps ----------------------------------------------------------------------------------

OTHERS = ("max", "bilinear", "compact:16", "matrix-sqrt:3")


@pytest.fixture(params=[("original",), ("original", "flip")], ids=["plain", "flip"])
def maps(request: pytest.FixtureRequest, birds: Dataset, tmp_path: Path) -> Path:
    settings = replace(SETTINGS, poolings=("conv5",), views=request.param)
    return run(birds, tmp_path / "maps.h5", settings)


def test_stored_maps_are_pooled_as_photos_are(birds: Dataset, output: Path, maps: Path) -> None:
    with FeatureFile(maps) as file:
        views = tuple(dict.fromkeys(file.view))
    direct = run(birds, output, replace(SETTINGS, poolings=OTHERS, views=views))
    again = output.with_name("y.h5")
    pool_maps(maps, OTHERS, again, projection=direct)
    for spec, x in rows(again).items():
        np.testing.assert_allclose(x, rows(direct)[spec], atol=1e-5)
    with FeatureFile(again) as one, FeatureFile(direct) as other:
        for name in ("photo", "view", "labels", "paths", "sha256", "split", "group"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        differ = {n for n in one.attributes if one.attributes[n] != other.attributes[n]}
        assert differ <= {"created", "pooled_from"}
        assert one.attributes["pooled_from"] == "maps"


def test_maps_of_training_photos_make_the_projection(maps: Path, output: Path) -> None:
    pool_maps(maps, ("bilinear:3",), output)
    with FeatureFile(maps) as file:
        x = file.read("conv5", np.flatnonzero(file.split == "train"))
    wanted = principal_directions(second_moment([x]), 3)
    np.testing.assert_allclose(parameters(output)["projection-3"], wanted, atol=1e-4)


def test_pooling_of_maps_goes_on(maps: Path, output: Path, tmp_path: Path) -> None:
    pool_maps(maps, OTHERS, tmp_path / "whole.h5")
    with pytest.raises(KeyboardInterrupt):
        pool_maps(maps, OTHERS, output, progress=stop)
    assert not output.exists()
    done: list[int] = []
    pool_maps(maps, OTHERS, output, progress=lambda now, _: done.append(now))
    with FeatureFile(maps) as file:
        assert done == [*range(6 * file.n_views, file.rows_done, 3 * file.n_views), file.rows_done]
    assert same(rows(output), rows(tmp_path / "whole.h5"))
    before = output.read_bytes()
    pool_maps(maps, OTHERS, output)  # is complete
    assert output.read_bytes() == before
    with pytest.raises(FeatureFileError, match="made with poolings"):
        pool_maps(maps, ("max",), output)
    pool_maps(maps, ("max",), output, overwrite=True)
    assert rows(output).keys() == {"max"}


def test_pooling_of_maps_goes_on_with_its_own_projection(
    birds: Dataset, maps: Path, output: Path, tmp_path: Path
) -> None:
    other = run(birds.limit(6), tmp_path / "other.h5")
    with pytest.raises(KeyboardInterrupt):
        pool_maps(maps, OTHERS, output, projection=other, progress=stop)
    pool_maps(maps, OTHERS, output)
    np.testing.assert_array_equal(*(parameters(x)["projection-3"] for x in (output, other)))
    pool_maps(maps, OTHERS, tmp_path / "whole.h5", projection=other)
    assert same(rows(output), rows(tmp_path / "whole.h5"))


def test_rows_of_maps_and_of_photos_do_not_mix(birds: Dataset, maps: Path, output: Path) -> None:
    pool_maps(maps, ("max",), output)
    with FeatureFile(maps) as file:
        views = tuple(dict.fromkeys(file.view))
    with pytest.raises(FeatureFileError, match="made with pooled-from maps, and photos is asked"):
        run(birds, output, replace(SETTINGS, poolings=("max",), views=views))


def test_maps_that_are_not_there(birds: Dataset, maps: Path, output: Path) -> None:
    pool_maps(maps, ("max",), output)
    with pytest.raises(UsageError, match="has no maps: it has max; extract --pooling conv5 first"):
        pool_maps(output, ("sum",), output.with_name("y.h5"))
    with pytest.raises(UsageError, match="is what is to be written"):
        pool_maps(maps, ("sum",), maps)
    with pytest.raises(FeatureFileError, match="there is no feature file"):
        pool_maps(output.with_name("nothing.h5"), ("sum",), output.with_name("y.h5"))
    (photo,) = read_photo(birds.root / birds.paths[0], [32])
    assert rows(maps)["conv5"][0] == pytest.approx(forward(photo[None])[0].numpy(), rel=1e-4)


def test_a_damaged_row_of_maps_is_found(maps: Path, output: Path) -> None:
    with h5py.File(maps, "r+") as file:
        file["features/conv5"][4, 2, 1, 0] += 1
    with pytest.raises(FeatureFileError, match="row 4 of features/conv5 has another checksum"):
        pool_maps(maps, ("max",), output)


# Files of strangers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "spoil", "said"),
    [
        ("hash-16", lambda x: x + 16, "wrong kind"),
        ("hash-16", lambda x: -x - 1, "wrong kind"),
        ("hash-16", lambda x: x.astype(np.int32), "wrong kind"),
        ("sign-16", lambda x: x * 2, "wrong kind"),
        ("sign-16", lambda x: x[:1], "wrong kind"),
        ("projection-3", lambda x: x * np.float32(np.nan), "wrong kind"),
        ("projection-3", lambda x: x[:, :2], "wrong kind"),
        ("projection-3", lambda x: x[0], "wrong kind"),
        ("projection-3", lambda x: x[:0], "wrong kind"),
        ("fitted-on", lambda x: x.astype("S32"), "wrong kind"),
        ("projection-3", None, "missing or is not plain data"),
    ],
)
def test_parameters_that_cannot_be(
    birds: Dataset, output: Path, name: str, spoil: Callable[..., Any] | None, said: str
) -> None:
    from bilinear_cli.store.checks import parameter_sha256

    run(birds, output)
    with h5py.File(output, "r+") as file:
        array = file[f"parameters/{name}"][()]
        del file[f"parameters/{name}"]
        if spoil:
            file[f"parameters/{name}"] = spoil(array)
            file[f"parameters/{name}"].attrs["sha256"] = parameter_sha256(spoil(array))
    with pytest.raises(FeatureFileError, match=f"is damaged: .*{name}.*{said}"):
        FeatureFile(output)


def test_parameters_and_rows_that_do_not_fit(birds: Dataset, output: Path) -> None:
    from bilinear_cli.store.checks import parameter_sha256

    run(birds, output)
    whole = output.read_bytes()
    with h5py.File(output, "r+") as file:
        x = file["parameters/projection-3"][:5]
        del file["parameters/projection-3"]
        file["parameters/projection-3"] = x
        file["parameters/projection-3"].attrs["sha256"] = parameter_sha256(x)
    with pytest.raises(FeatureFileError, match=r"its poolings are of maps of \[5, 6\] channels"):
        FeatureFile(output)
    output.write_bytes(whole)
    with h5py.File(output, "r+") as file:
        for group in ("features", "crc32"):
            file.move(f"{group}/compact:16", f"{group}/compact:17")
        for name in ("hash", "sign"):
            file.move(f"parameters/{name}-16", f"parameters/{name}-17")
    with pytest.raises(FeatureFileError, match=r"features/compact:17 has rows of \[16\] numbers"):
        FeatureFile(output)


def test_a_changed_parameter_is_found(birds: Dataset, output: Path) -> None:
    run(birds, output)
    with h5py.File(output, "r+") as file:
        file["parameters/projection-3"][1, 1] += 1e-4
    with pytest.raises(FeatureFileError, match="projection-3 is not what was written"):
        FeatureFile(output)


def test_a_pooling_without_a_size_in_a_file(birds: Dataset, output: Path) -> None:
    run(birds, output)
    with h5py.File(output, "r+") as file:
        file.move("features/compact:16", "features/compact:x")
    with pytest.raises(FeatureFileError, match="is damaged: compact:x: after the colon"):
        FeatureFile(output)
