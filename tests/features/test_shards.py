"""Tests of extracting a photo set in parts, of reading and merging the parts, and of reuse."""

import hashlib
import logging
import zlib
from collections.abc import Callable, Iterator
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
from bilinear_cli.errors import BilinearError, FeatureFileError, UsageError
from bilinear_cli.features.extract import extract
from bilinear_cli.features.settings import Settings, shard_photos
from bilinear_cli.store import FeatureFile, merge, open_features, partial_path

POOLINGS = ("max", "bilinear", "conv5")
SETTINGS = Settings(POOLINGS, "block5_conv3", 32, "squash", "float32", 3, "0" * 64)
KERNEL = np.random.default_rng(0).normal(size=(8, 8, 3, 6)).astype(np.float32) / 100
COLUMNS = ("photo", "view", "labels", "paths", "sha256", "split", "group")


class Network:
    """A small network that remembers which photos it has seen."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()

    def load(self) -> Callable[[tf.Tensor], tf.Tensor]:
        return self._forward

    def _forward(self, photos: tf.Tensor) -> tf.Tensor:
        photos = tf.ensure_shape(tf.numpy_function(self._see, [photos], tf.uint8), photos.shape)
        return tf.nn.relu(tf.nn.conv2d(tf.cast(photos, tf.float32), KERNEL, 8, "VALID"))

    def _see(self, photos: np.ndarray) -> np.ndarray:
        self.seen |= {photo.tobytes() for photo in photos if photo.any()}
        return photos


@pytest.fixture
def birds(tmp_path: Path, class_folders: Callable[..., Path]) -> Dataset:
    """Return a set of 11 photos, which are three batches of 3 and one of 2."""
    return load_dataset(str(class_folders(tmp_path / "birds", {"tit": 6, "wren": 5})))


@pytest.fixture(params=[("original",), ("original", "flip")], ids=["plain", "flip"])
def settings(request: pytest.FixtureRequest) -> Settings:
    return replace(SETTINGS, views=request.param)


def run(dataset: Dataset, settings: Settings, output: Path, **options: Any) -> int:
    """Extract, and return how many photos the network saw."""
    network = Network()
    extract(dataset, settings, output, network.load, **options)
    return len(network.seen)


def parts_of(dataset: Dataset, settings: Settings, folder: Path, n: int) -> list[Path]:
    paths = [folder / f"part{i}.h5" for i in range(1, n + 1)]
    for i, path in enumerate(paths, 1):
        run(dataset, replace(settings, shard=f"{i}/{n}"), path)
    return paths


def same(a: FeatureFile, b: FeatureFile) -> Iterator[bool]:
    """Yield whether rows, and what is said of them, are the same to the bit."""
    every = np.arange(a.rows_done)
    yield a.shapes == b.shapes
    yield a.class_names.tolist() == b.class_names.tolist()
    for name in COLUMNS:
        yield getattr(a, name).tolist() == getattr(b, name).tolist()
    for spec in a.shapes:
        yield a.read_raw(spec, every).tobytes() == b.read_raw(spec, every).tobytes()


# Shards ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_photos", [1, 7, 48, 49])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_shards_are_whole_batches_and_leave_nothing_out(n_photos: int, batch_size: int) -> None:
    for n in range(1, -(-n_photos // batch_size) + 1):
        cuts = [shard_photos(f"{i}/{n}", n_photos, batch_size) for i in range(1, n + 1)]
        assert [cut.start for cut in cuts] == [0, *(cut.stop for cut in cuts[:-1])]
        assert cuts[-1].stop == n_photos
        assert all(cut.start % batch_size == 0 and cut.start < cut.stop for cut in cuts)


@pytest.mark.parametrize("shard", ["0/2", "3/2", "2", "a/b", "-1/2", "1/", "", "1/2/3"])
def test_other_shards_are_refused(shard: str) -> None:
    with pytest.raises(UsageError, match="there is no shard"):
        shard_photos(shard, 48, 4)
    with pytest.raises(UsageError, match="48 photos are 12 batches of 4: too few for 13 shards"):
        shard_photos("1/13", 48, 4)


@pytest.mark.parametrize("n", [2, 4])
def test_shards_read_as_one_or_merged_are_a_single_runs_rows(
    n: int, birds: Dataset, settings: Settings, tmp_path: Path
) -> None:
    run(birds, settings, tmp_path / "whole.h5")
    parts = parts_of(birds, settings, tmp_path, n)[::-1]  # in any order
    told: list[tuple[int, int]] = []
    merge(parts, tmp_path / "merged.h5", progress=lambda *done: told.append(done))
    assert told[-1] == (11 * len(settings.views),) * 2
    with FeatureFile(tmp_path / "whole.h5") as whole, open_features(parts) as several:
        assert all(same(whole, several))
        assert several.attributes["shard"] == "1/1"
        assert several.files == parts[::-1]
        with FeatureFile(tmp_path / "merged.h5") as merged:
            assert all(same(whole, merged))
            differing = {
                name
                for name in whole.attributes | merged.attributes
                if whole.attributes.get(name) != merged.attributes.get(name)
            }
            assert differing <= {"created", "command"}
        rng = np.random.default_rng(0)
        which = rng.integers(0, whole.rows_done, 30)
        for spec in POOLINGS:
            np.testing.assert_array_equal(several.read(spec, which), whole.read(spec, which))
        for (places, theirs), (also, ours) in zip(
            whole.columns("bilinear", which, 4), several.columns("bilinear", which, 4), strict=True
        ):
            assert places == also
            np.testing.assert_array_equal(theirs, ours)
        options = Options(C=1.0, label_smoothing=0.0)
        figures = [train(file, "max", options, tmp_path / "runs") for file in (whole, several)]
        assert figures[0]["top1"] == figures[1]["top1"]
        assert figures[1]["features_file"] == " ".join(map(str, parts[::-1]))
    # the merged file is complete for the command that would have made it
    assert run(birds, settings, tmp_path / "merged.h5") == 0
    assert not list(tmp_path.glob("*.lock"))


def test_a_folder_stands_for_the_files_in_it(
    birds: Dataset, settings: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "x.h5.shards"
    folder.mkdir()
    with pytest.raises(FeatureFileError, match=r"x.h5.shards is a folder without a finished"):
        open_features([folder])
    parts = parts_of(birds, settings, folder, 2)
    merge([folder], tmp_path / "merged.h5")
    with open_features([folder]) as file, FeatureFile(tmp_path / "merged.h5") as merged:
        assert file.files == sorted(parts)
        assert all(same(file, merged))
    parts[1].rename(partial_path(parts[1]))
    with pytest.raises(FeatureFileError, match="2/2"):
        open_features([folder])


def test_a_shard_that_was_broken_off_goes_on(birds: Dataset, tmp_path: Path) -> None:
    settings = replace(SETTINGS, shard="2/2")

    def stop(done: int, _: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(birds, settings, tmp_path / "b.h5", progress=stop)
    assert run(birds, settings, tmp_path / "b.h5") == 2
    with FeatureFile(tmp_path / "b.h5") as file:
        assert file.photo.tolist() == [6, 7, 8, 9, 10]
        assert file.paths.tolist() == birds.paths[6:].tolist()
        assert set(file.class_names) == {"tit", "wren"}


def test_bad_photos_of_shards_are_left_out_of_the_whole(birds: Dataset, tmp_path: Path) -> None:
    for i in (1, 7):
        (birds.root / birds.paths[i]).write_text("no photo")
    for i in (1, 2):
        settings = replace(SETTINGS, shard=f"{i}/2")
        run(birds, settings, tmp_path / f"part{i}.h5", skip_bad=True)
    parts = [tmp_path / "part1.h5", tmp_path / "part2.h5"]
    merge(parts, tmp_path / "merged.h5")
    run(birds, SETTINGS, tmp_path / "whole.h5", skip_bad=True)
    with FeatureFile(tmp_path / "whole.h5") as a, FeatureFile(tmp_path / "merged.h5") as b:
        assert all(same(a, b))
        assert a.skipped == b.skipped
        assert set(a.skipped) == set(birds.paths[[1, 7]])


Spoil = Callable[[Dataset, list[Path]], list[Path]]


def _other_size(birds: Dataset, parts: list[Path]) -> list[Path]:
    run(birds, replace(SETTINGS, shard="2/2", image_size=40), parts[1], overwrite=True)
    return parts


def _other_poolings(birds: Dataset, parts: list[Path]) -> list[Path]:
    run(birds, replace(SETTINGS, shard="2/2", poolings=("max",)), parts[1], overwrite=True)
    return parts


def _other_photos(birds: Dataset, parts: list[Path]) -> list[Path]:
    fewer = birds.take(np.arange(10))
    run(fewer, replace(SETTINGS, shard="2/2"), parts[1], overwrite=True)
    return parts


def _other_layout(_: Dataset, parts: list[Path]) -> list[Path]:
    with h5py.File(parts[1], "r+") as file:
        file["features/max"].attrs["normalization"] = "l2"
    return parts


def _other_number(birds: Dataset, parts: list[Path]) -> list[Path]:
    run(birds, replace(SETTINGS, shard="2/3"), parts[1], overwrite=True)
    return parts


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_other_size, "image_size is 32 in the first and 40 in the second$"),
        (_other_poolings, "poolings is bilinear conv5 max in the first and max in the second"),
        (_other_photos, "data_sha256 is "),
        (_other_layout, "max is .*'normalization': 'l2'"),
        (_other_number, "the number of shards is 2 in the first and 3 in the second"),
        (lambda _, parts: [parts[0], parts[0]], "shard 1/2 is there more than once"),
        (lambda _, parts: parts[1:], None),
        (lambda _, parts: [*parts, parts[0]], "shard 1/2 is there more than once"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused_by_what_differs(
    spoil: Spoil, said: str | None, birds: Dataset, tmp_path: Path
) -> None:
    parts = spoil(birds, parts_of(birds, SETTINGS, tmp_path, 2))
    said = said or "1 of 2 shards are missing, the first of them 1/2: make it with"
    with pytest.raises(FeatureFileError, match=said):
        open_features(parts)
    with pytest.raises(FeatureFileError, match=said):
        merge(parts, tmp_path / "merged.h5")
    assert {path.name for path in tmp_path.iterdir()} == {"birds", "part1.h5", "part2.h5"}


def test_the_last_of_three_parts_is_compared_too(birds: Dataset, tmp_path: Path) -> None:
    parts = parts_of(birds, SETTINGS, tmp_path, 3)
    run(birds, replace(SETTINGS, shard="3/3", image_size=40), parts[2], overwrite=True)
    said = r"part1.h5 and .*part3.h5 do not belong together: image_size is 32 in the first and 40"
    with pytest.raises(FeatureFileError, match=said):
        open_features(parts)


def test_a_damaged_part_leaves_nothing_and_is_named(birds: Dataset, tmp_path: Path) -> None:
    parts = parts_of(birds, SETTINGS, tmp_path, 2)
    with FeatureFile(parts[1]) as file:
        place = file._file["features/max"].id.get_offset()
    with parts[1].open("r+b") as raw:
        raw.seek(place)
        raw.write(b"\x01\x02")
    with pytest.raises(FeatureFileError, match=f"{parts[1]} is damaged: row 0 of features/max"):
        merge(parts, tmp_path / "merged.h5")
    assert not [*tmp_path.glob("merged*")]


def test_what_is_there_is_not_replaced_unasked(birds: Dataset, tmp_path: Path) -> None:
    parts = parts_of(birds, SETTINGS, tmp_path, 2)
    before = hashlib.sha256(parts[0].read_bytes()).hexdigest()
    with pytest.raises(FeatureFileError, match="is one of the files to be merged"):
        merge(parts, parts[0], overwrite=True)
    assert hashlib.sha256(parts[0].read_bytes()).hexdigest() == before
    merge(parts, tmp_path / "merged.h5")
    with pytest.raises(FeatureFileError, match="is there already"):
        merge(parts, tmp_path / "merged.h5")
    merge(parts, tmp_path / "merged.h5", overwrite=True)
    partial_path(tmp_path / "begun.h5").write_text("an unfinished run")
    with pytest.raises(FeatureFileError, match=r"begun.h5.partial is there already"):
        merge(parts, tmp_path / "begun.h5")
    assert partial_path(tmp_path / "begun.h5").read_text() == "an unfinished run"


# Reuse -----------------------------------------------------------------------------------


def test_only_what_is_new_is_computed(
    birds: Dataset,
    settings: Settings,
    tmp_path: Path,
    make_photo: Callable[..., Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    run(birds, settings, tmp_path / "old.h5")
    root = birds.root
    make_photo(root / "tit" / "0a.png", seed=100)  # added, in the middle of others
    make_photo(root / "wren" / "z.png", seed=101)
    make_photo(root / "wren" / "2.png", seed=102)  # changed
    (root / "tit" / "3.png").rename(root / "wren" / "moved.png")  # moved, and relabelled
    (root / "tit" / "4.png").unlink()
    new = load_dataset(str(root))
    run(new, settings, tmp_path / "whole.h5")
    seen = run(new, settings, tmp_path / "new.h5", reuse=tmp_path / "old.h5")
    assert seen == 3 * len(settings.views)
    assert f"9 of {len(new)} photos are in {tmp_path / 'old.h5'}" in caplog.text
    with FeatureFile(tmp_path / "whole.h5") as whole, FeatureFile(tmp_path / "new.h5") as reused:
        assert all(same(whole, reused))


def test_a_run_that_reuses_goes_on_after_it_was_broken_off(
    birds: Dataset, tmp_path: Path, make_photo: Callable[..., Path]
) -> None:
    run(birds, SETTINGS, tmp_path / "old.h5")
    for i in range(5):
        make_photo(birds.root / "tit" / f"{i}b.png", seed=50 + i)
    new = load_dataset(str(birds.root))

    def stop(done: int, _: int) -> None:
        if done >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(new, SETTINGS, tmp_path / "new.h5", reuse=tmp_path / "old.h5", progress=stop)
    run(new, SETTINGS, tmp_path / "new.h5", reuse=tmp_path / "old.h5")
    run(new, SETTINGS, tmp_path / "whole.h5")
    with FeatureFile(tmp_path / "whole.h5") as whole, FeatureFile(tmp_path / "new.h5") as reused:
        assert all(same(whole, reused))


def test_an_unfinished_file_is_reused_too_as_far_as_it_goes(birds: Dataset, tmp_path: Path) -> None:
    def stop(done: int, _: int) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(birds, SETTINGS, tmp_path / "old.h5", progress=stop)
    old = partial_path(tmp_path / "old.h5")
    assert run(birds, SETTINGS, tmp_path / "new.h5", reuse=old) == 5


def test_rows_of_fewer_poolings_are_taken_from_a_file_of_more(
    birds: Dataset, tmp_path: Path
) -> None:
    run(birds, SETTINGS, tmp_path / "old.h5")
    fewer = replace(SETTINGS, poolings=("max",))
    assert run(birds, fewer, tmp_path / "new.h5", reuse=tmp_path / "old.h5") == 0
    with pytest.raises(FeatureFileError, match="has no bilinear, conv5 to reuse"):
        run(birds, SETTINGS, tmp_path / "more.h5", reuse=tmp_path / "new.h5")


def test_rows_made_otherwise_are_not_reused(birds: Dataset, tmp_path: Path) -> None:
    run(birds, SETTINGS, tmp_path / "old.h5")
    for mixed in ("", "int8"):
        other = replace(SETTINGS, resize="crop", mixed_with=mixed)
        with pytest.raises(FeatureFileError, match="with resize squash, and crop is asked"):
            run(birds, other, tmp_path / "new.h5", reuse=tmp_path / "old.h5")
    with pytest.raises(BilinearError, match="there is no feature file"):
        run(birds, SETTINGS, tmp_path / "new.h5", reuse=tmp_path / "none.h5")
    assert not [*tmp_path.glob("new*")]


def test_a_file_does_not_reuse_itself(birds: Dataset, tmp_path: Path) -> None:
    def stop(done: int, _: int) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(birds, SETTINGS, tmp_path / "x.h5", progress=stop)
    with pytest.raises(UsageError, match=r"--reuse .*x.h5.partial is what is to be written"):
        run(birds, SETTINGS, tmp_path / "x.h5", reuse=tmp_path / "x.h5")
    assert run(birds, SETTINGS, tmp_path / "x.h5") == 5


@pytest.mark.parametrize(
    ("name", "value"), [("batch_size", 0), ("image_size", "x"), ("views", "flop"), ("layer", None)]
)
def test_a_file_that_does_not_say_how_it_was_made_is_one_line(
    name: str, value: object, birds: Dataset, tmp_path: Path
) -> None:
    run(birds, SETTINGS, tmp_path / "old.h5")
    with h5py.File(tmp_path / "old.h5", "r+") as file:
        del file.attrs[name]
        if value is not None:
            file.attrs[name] = value
    for again in ("old.h5", "new.h5"):
        with pytest.raises(FeatureFileError, match=r"old.h5 is damaged: [^\n]*$"):
            run(birds, SETTINGS, tmp_path / again, reuse=tmp_path / "old.h5")


@pytest.mark.parametrize("shard", ["0/0", "2/1", "x", "1/2/3"])
def test_a_shard_that_cannot_be_is_damage(shard: str, birds: Dataset, tmp_path: Path) -> None:
    run(birds, SETTINGS, tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        file.attrs["shard"] = shard
    with pytest.raises(FeatureFileError, match="is damaged"):
        open_features([tmp_path / "x.h5"])


def test_one_of_very_many_shards_costs_nothing(birds: Dataset, tmp_path: Path) -> None:
    run(birds, SETTINGS, tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        file.attrs["shard"] = "1/1000000000000"
    with pytest.raises(FeatureFileError, match="999999999999 of 1000000000000 shards are missing"):
        open_features([tmp_path / "x.h5"])


def test_rows_of_another_shape_or_no_numbers_are_not_reused(birds: Dataset, tmp_path: Path) -> None:
    for name, values, said in (
        ("wide", np.zeros((11, 7), np.float32), r"a row of max is \(7,\) in .*wide.h5, not \(6,\)"),
        ("nan", np.full((11, 6), np.nan, np.float32), "max of .* is beyond what float32 can hold"),
    ):
        old = tmp_path / f"{name}.h5"
        run(birds, replace(SETTINGS, poolings=("max",)), old)
        with h5py.File(old, "r+") as file:
            del file["features/max"]
            file["features/max"] = values
            file["crc32/max"][...] = [zlib.crc32(row.tobytes()) for row in values]
        new = tmp_path / "new.h5"
        with pytest.raises(BilinearError, match=said):
            run(birds, replace(SETTINGS, poolings=("max",)), new, reuse=old, overwrite=True)


def test_a_folder_that_is_gone_is_not_a_set_of_bad_photos(birds: Dataset, tmp_path: Path) -> None:
    def progress(done: int, _: int) -> None:
        if done == 3:
            birds.root.rename(tmp_path / "away")

    with pytest.raises(BilinearError, match="it could be read when this run began"):
        run(birds, SETTINGS, tmp_path / "x.h5", progress=progress, skip_bad=True)
    (tmp_path / "away").rename(birds.root)
    run(birds, SETTINGS, tmp_path / "x.h5", skip_bad=True)
    with FeatureFile(tmp_path / "x.h5") as file:
        assert len(file.labels) == 11


def test_rows_of_other_versions_are_told_of(
    birds: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(birds, SETTINGS, tmp_path / "old.h5")
    run(birds, SETTINGS, tmp_path / "new.h5", reuse=tmp_path / "old.h5")
    assert "other versions" not in caplog.text
    with h5py.File(tmp_path / "old.h5", "r+") as file:
        file.attrs["versions"] = "tensorflow 1.0"
    run(birds, SETTINGS, tmp_path / "new.h5", reuse=tmp_path / "old.h5", overwrite=True)
    assert "old.h5 were made with other versions (tensorflow 1.0)" in caplog.text

    def stop(done: int, _: int) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(birds, SETTINGS, tmp_path / "x.h5", progress=stop)
    with h5py.File(partial_path(tmp_path / "x.h5"), "r+") as file:
        file.attrs["versions"] = "tensorflow 2.0"
    run(birds, SETTINGS, tmp_path / "x.h5")
    assert "x.h5.partial were made with other versions (tensorflow 2.0)" in caplog.text
