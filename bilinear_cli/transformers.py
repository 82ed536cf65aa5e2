"""Photos -> features as a transformer of scikit-learn, for pipelines and cross-validation."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import asdict, replace
from functools import partial
from os import PathLike
from pathlib import Path
from tokenize import TokenError
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from bilinear_cli.errors import BadPhotoError, BilinearError, UsageError
from bilinear_cli.extraction.existing import resolve_locally
from bilinear_cli.extraction.from_photos import N_SAMPLED
from bilinear_cli.extraction.make_job import make_network, make_recipe
from bilinear_cli.extraction.options import ExtractOptions
from bilinear_cli.files import BROKEN_ZIP, atomic_write
from bilinear_cli.home import expand_path, expand_photo, expand_spec
from bilinear_cli.networks.network import Forward, Network, load_network
from bilinear_cli.photos.pixels.batches import read_batches, stack_batch
from bilinear_cli.photos.pixels.images import read_any, read_bytes, rgb_pixels
from bilinear_cli.photos.pixels.notes import logged_notes
from bilinear_cli.poolings.parameters import make_parameters, sample_indices, second_moment
from bilinear_cli.poolings.registry import MAPS, split_specs
from bilinear_cli.recipe import Recipe


class PhotoFeatures(TransformerMixin, BaseEstimator):
    """Pooled features of photos.

        model = make_pipeline(PhotoFeatures(cache="cache"), SoftmaxClassifier())
        cross_val_score(model, paths, names)

    Photos are paths, uint8 RGB arrays (height, width, 3), or images of Pillow. `fit` fits the
    projection of poolings such as `bilinear:144`; for others it only reads the network. The network
    is not pickled, only its SHA-256: a pickled transformer loads the same network again.

    Parameters:
        pooling: a spec, or several with `+`, whose rows are concatenated.
        cache: a folder for the rows of each photo; None to compute them at each call. Give one for
            cross-validation.
        random_state: seed of sketches, and of the photos that a projection is fitted on.

    The others are the options of `bilinear extract`.

    Attributes:
        recipe_: what decides the numbers.
        parameters_: arrays that the poolings take, name -> array.
        n_features_out_: length of a row.
    """

    def __init__(
        self,
        backbone: str | Path = "vgg16",
        pooling: str = "bilinear",
        *,
        layer: str | None = None,
        image_size: int | None = None,
        resize: str | None = None,
        batch_size: int | None = None,
        precision: str = "auto",
        engine: str = "auto",
        weights: str | Path = "auto",
        cache: str | Path | None = None,
        random_state: int = 0,
    ) -> None:
        self.backbone = backbone
        self.pooling = pooling
        self.layer = layer
        self.image_size = image_size
        self.resize = resize
        self.batch_size = batch_size
        self.precision = precision
        self.engine = engine
        self.weights = weights
        self.cache = cache
        self.random_state = random_state

    def fit(self, X: Iterable[Any], y: Any = None) -> Self:
        """Read the network, and fit the projection if the pooling has one; `y` is ignored.

        Raises:
            BadPhotoError: a photo cannot be read.
            UsageError: the parameters do not fit each other, or X is not a sequence of photos.
        """
        photos = _photo_list(X)
        network = self._network()
        options = ExtractOptions(
            pooling=split_specs(self.pooling),
            layer=self.layer,
            image_size=self.image_size,
            resize=self.resize,
            batch_size=self.batch_size,
            precision=self.precision,
            engine=self.engine,
            seed=self.random_state,
        )
        self.recipe_: Recipe = resolve_locally(make_recipe(options, network), network)
        forward = load_network(network, self.recipe_)
        from bilinear_cli.extraction.graph import compile_pooling, count_channels

        recipe = self.recipe_
        channels = count_channels(forward, recipe.image_size, recipe.specs)
        sample = partial(self._sample, photos, forward)
        self.parameters_: dict[str, np.ndarray] = make_parameters(recipe, channels, {}, sample)
        _, shapes = compile_pooling(forward, recipe.specs, 1, recipe.parsed_views, self.parameters_)
        self.n_features_out_: int = sum(int(np.prod(shapes[spec])) for spec in recipe.specs)
        return self

    def fit_transform(self, X: Iterable[Any], y: Any = None) -> np.ndarray:
        """Return `fit(X).transform(X)`, also of photos that can be iterated over only once."""
        return super().fit_transform(X if isinstance(X, Sized) else _photo_list(X), y)

    def transform(self, X: Iterable[Any]) -> np.ndarray:
        """Return the features of photos in their order, float32 (n, `n_features_out_`).

        Raises:
            BadPhotoError: a photo cannot be read.
            BilinearError: the network is not that of `fit`.
            UsageError: X is not a sequence of photos.
            sklearn.exceptions.NotFittedError: `fit` was not called.
        """
        check_is_fitted(self)
        photos, missing = _photo_list(X), []
        rows = np.empty((len(photos), self.n_features_out_), np.float32)
        files = [self._cache_file(photo) for photo in photos]
        for i, file in enumerate(files):
            row = self._read_row(file) if file else None
            if row is None:
                missing.append(i)
            else:
                rows[i] = row
        computed = self._compute([photos[i] for i in missing]) if missing else iter(())
        for i, row in zip(missing, computed, strict=True):
            rows[i] = row
            if file := files[i]:
                with atomic_write(file) as new, new.open("wb") as opened:
                    np.save(opened, row, allow_pickle=False)
        return rows

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return `pooling0`, `pooling1`, ..., str (`n_features_out_`,)."""
        check_is_fitted(self)
        return np.array([f"{self.pooling}{i}" for i in range(self.n_features_out_)], object)

    def _network(self) -> Network:
        options = ExtractOptions(
            backbone=expand_spec(self.backbone, "backbone"),
            weights=expand_spec(self.weights, "weights"),
            precision=self.precision,
            engine=self.engine,
            resize=self.resize,
        )
        return make_network(options)

    def _compute(self, photos: Sequence[Any]) -> Iterator[np.ndarray]:
        """Yield the row of each photo, float32 (n_features_out_,)."""
        network, recipe = self._network(), self.recipe_
        if network.sha256() != recipe.weights_sha256:
            raise BilinearError(f"{self.backbone} has other weights than in fit. Fit again.")
        for batch in _pool(load_network(network, recipe), recipe, self.parameters_, photos):
            parts = [batch[spec].reshape(len(batch[spec]), -1) for spec in recipe.specs]
            yield from np.concatenate(parts, axis=1, dtype=np.float32)

    def _sample(self, photos: Sequence[Any], forward: Forward) -> tuple[np.ndarray, list[str]]:
        """Return the second moment of some photos' maps, and the photos' SHA-256."""
        indices = sample_indices(np.arange(len(photos)), N_SAMPLED, self.random_state)
        sample = [photos[i] for i in indices]
        recipe = replace(self.recipe_, specs=(MAPS,))
        batches = _pool(forward, recipe, {}, sample)
        return second_moment(batch[MAPS] for batch in batches), [
            _sha256(photo, recipe.colours) for photo in sample
        ]

    def _cache_file(self, photo: Any) -> Path | None:
        """Return the file of a photo's row, which its bytes and all numbers of `fit` decide.

        The batch size follows the free memory, so it is left out.
        """
        if self.cache is None:
            return None
        recipe = asdict(replace(self.recipe_, batch_size=0))
        digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode())
        for name, array in sorted(self.parameters_.items()):
            digest.update(name.encode() + array.tobytes())
        return (
            expand_path(self.cache, "cache")
            / digest.hexdigest()[:16]
            / f"{_sha256(photo, self.recipe_.colours)}.npy"
        )

    def _read_row(self, file: Path) -> np.ndarray | None:
        """Return the row of a cache file; None if it is missing or damaged, or is no such row."""
        try:
            row = np.load(file, allow_pickle=False)
        except (*BROKEN_ZIP, SyntaxError, TokenError):  # the last two for a damaged header
            return None
        if not isinstance(row, np.ndarray) or row.dtype != np.float32:
            return None
        return row if row.shape == (self.n_features_out_,) else None


def _photo_list(X: Any) -> list[Any]:
    """Return photos in their order, also those of a pandas Series, which is indexed by label.

    Raises:
        UsageError: X is a single photo or a table, or no sequence at all.
    """
    is_table = hasattr(X, "columns")
    if is_table or isinstance(X, str | bytes | PathLike) or not isinstance(X, Iterable):
        hint = "Give one of its columns." if is_table else "Put a single photo into a list."
        raise UsageError(f"X has to be a sequence of photos, and not {type(X).__name__}. {hint}")
    return [expand_photo(photo) for photo in X]


def _pool(
    forward: Forward, recipe: Recipe, parameters: Mapping[str, np.ndarray], photos: Sequence[Any]
) -> Iterator[dict[str, np.ndarray]]:
    """Yield spec -> rows of the photos of each batch, or raise the error of a bad photo."""
    from bilinear_cli.extraction.graph import compile_pooling

    n, sizes = recipe.batch_size, [recipe.image_size]
    compute, _ = compile_pooling(forward, recipe.specs, n, recipe.parsed_views, parameters)
    read = partial(read_any, sizes=sizes, resize=recipe.resize, colours=recipe.colours)
    remaining = iter(photos)
    with logged_notes() as notes:
        for batch in read_batches(photos, n, read):
            for decoded, photo in zip(batch, remaining, strict=False):
                if isinstance(decoded, BadPhotoError):
                    raise decoded
                notes.add(photo, decoded.notes)
            rows = compute(stack_batch(batch, sizes, n))
            yield {spec: x[: len(batch)] for spec, x in rows.items()}


def _sha256(photo: Any, colours: str) -> str:
    """Return the SHA-256 of a photo's file, or of its pixels and their shape."""
    if isinstance(photo, str | PathLike):
        return hashlib.sha256(read_bytes(Path(photo))).hexdigest()
    pixels = rgb_pixels(
        photo, colours
    )  # the stored numbers of two images may have different palettes
    return hashlib.sha256(f"{pixels.shape}{pixels.dtype}".encode() + pixels.tobytes()).hexdigest()
