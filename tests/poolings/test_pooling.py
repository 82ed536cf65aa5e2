"""Tests of the poolings: by hand, against the post's procedure, and their invariants."""

import hypothesis.extra.numpy as arrays_of
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from support.network import relu_maps

from bilinear_cli.poolings import functions
from bilinear_cli.poolings.functions import (
    compact_pool,
    outer_product_sum,
    pool_function,
    signed_sqrt,
    tensor_sketch,
    upper_triangle,
)
from bilinear_cli.poolings.parameters import sketch_parameters
from bilinear_cli.poolings.registry import POOLINGS, Pooling

# Two maps of 2 x 2 locations and 2 channels. As matrices, one row per location, they are
# [1 0; 2 1; 0 3; 2 0] and [0 2; 0 0; 0 0; 0 0].
MAPS = np.array(
    [[[[1, 0], [2, 1]], [[0, 3], [2, 0]]], [[[0, 2], [0, 0]], [[0, 0], [0, 0]]]], np.float32
)

ROOT = np.sqrt(86)
FUNCTIONS = {spec: pool_function(spec, {}) for spec in POOLINGS if spec not in ("cls", "compact")}
bilinear_pool = FUNCTIONS["bilinear"]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("max", [[2, 3], [0, 2]]),
        ("avg", [[1.25, 1], [0, 0.5]]),
        ("sum", [[5, 4], [0, 2]]),
        # Xᵀ X = [9 2; 2 10]; roots 3, √2, √10; the norm of all four is √(9 + 2 + 2 + 10) = √23.
        ("bilinear", [np.array([3, 2, np.sqrt(10)]) / np.sqrt(23), [0, 0, 1]]),
        ("bilinear-plain", [[9 / 4, 2 * np.sqrt(2) / 4, 10 / 4], [0, 0, 1]]),
        # less the means 5/4 and 1, and 0 and 1/2: [11/4 -3; -3 6] and [0 0; 0 3]
        ("covariance", [[(11 / 59) ** 0.5, -((24 / 59) ** 0.5), (24 / 59) ** 0.5], [0, 0, 1]]),
        # with s the root of the determinant 86, the matrix root is [9+s 2; 2 10+s] / √(19 + 2s)
        ("matrix-sqrt", [np.sqrt([9 + ROOT, 4, 10 + ROOT]) / np.sqrt(23 + 2 * ROOT), [0, 0, 1]]),
        ("maps", MAPS),
    ],
)
def test_every_pooling_by_hand(spec: str, expected: list) -> None:
    pooled = FUNCTIONS[spec](tf.constant(MAPS)).numpy()
    assert pooled.dtype == np.float32
    np.testing.assert_allclose(pooled, expected, rtol=2e-6, atol=1e-6 * (spec == "matrix-sqrt"))


def test_every_pooling_is_tested() -> None:
    (mark,) = test_every_pooling_by_hand.pytestmark
    assert {spec for spec, _ in mark.args[1]} == FUNCTIONS.keys()


def test_a_pooling_may_use_the_class_token(monkeypatch: pytest.MonkeyPatch) -> None:
    def pool(maps: tf.Tensor, class_token: tf.Tensor | None) -> tf.Tensor:
        return maps[:, 0, 0] if class_token is None else class_token

    entry = Pooling("token", "a test's", "token_pool", uses_class_token=True)
    monkeypatch.setitem(POOLINGS, "token", entry)
    monkeypatch.setattr(functions, "token_pool", pool, raising=False)
    token = tf.constant([[7.0], [8.0]])
    for spec in ("token", "cls"):
        np.testing.assert_array_equal(pool_function(spec, {})(MAPS, class_token=token), token)
    np.testing.assert_array_equal(pool_function("token", {})(MAPS), MAPS[:, 0, 0])
    np.testing.assert_array_equal(FUNCTIONS["max"](MAPS, class_token=token), FUNCTIONS["max"](MAPS))


# Maps with signs, as those of transformers ----------------------------------------------------

SIGNED = np.random.default_rng(5).normal([-5, -1, 0, 1, 1], 2, (3, 4, 4, 5))
SKETCH = sketch_parameters(5, 16, 0)
PROJECTION = np.array([[1, 0], [0, 0], [0, 0], [0, 1], [0, 1]])


def normalized(matrices: np.ndarray) -> np.ndarray:
    """Return the upper triangles of the roots of symmetric matrices, divided by their l2 norm."""
    i, j = np.triu_indices(matrices.shape[1])
    roots = np.sign(matrices) * np.sqrt(np.abs(matrices))
    roots /= np.linalg.norm(roots, axis=(1, 2), keepdims=True)
    return roots[:, i, j] * np.where(i == j, 1, np.sqrt(2))


def signed_rows(spec: str) -> np.ndarray:
    """Return a pooling of the maps with signs, with NumPy in double precision."""
    x = SIGNED.reshape(3, 16, 5)
    matrices = np.einsum("nli,nlj->nij", x, x)
    if spec == "compact:16":
        hashes, signs = SKETCH["hash-16"], SKETCH["sign-16"]
        rows = np.zeros((3, 16))
        for i in range(5):
            for j in range(5):
                place = (hashes[0, i] + hashes[1, j]) % 16
                rows[:, place] += signs[0, i] * signs[1, j] * matrices[:, i, j]
        rows = np.sign(rows) * np.sqrt(np.abs(rows))
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)
    if spec == "bilinear:2":
        return normalized(PROJECTION.T @ matrices @ PROJECTION)
    if spec == "bilinear-plain":
        i, j = np.triu_indices(5)
        return matrices[:, i, j] / 16 * np.where(i == j, 1, np.sqrt(2))
    if spec == "matrix-sqrt":
        values, vectors = np.linalg.eigh(matrices)
        return normalized(vectors * np.sqrt(values)[:, None] @ vectors.swapaxes(1, 2))
    centred = x - x.mean(axis=1, keepdims=True)
    return {
        "max": x.max(axis=1),
        "avg": x.mean(axis=1),
        "sum": x.sum(axis=1),
        "bilinear": normalized(matrices),
        "covariance": normalized(np.einsum("nli,nlj->nij", centred, centred)),
        "maps": SIGNED,
    }[spec]


@pytest.mark.parametrize("spec", [*FUNCTIONS, "compact:16", "bilinear:2"])
def test_every_pooling_of_maps_with_signs(spec: str) -> None:
    parameters = SKETCH | {"projection-2": PROJECTION.astype(np.float32)}
    rows = pool_function(spec, parameters)(tf.constant(SIGNED.astype(np.float32)))
    expected = signed_rows(spec)
    assert expected.min() < 0
    np.testing.assert_allclose(rows, expected, rtol=1e-4, atol=1e-4)


# Sketches and projections -------------------------------------------------------------------

HASHES, SIGNS = np.array([[0, 2], [1, 2]]), np.array([[1, -1], [1, 1]])


def test_a_sketch_by_hand() -> None:
    # Of [9 2; 2 10]: (0, 0) to 0 + 1 with +, (0, 1) to 0 + 2 with +, (1, 0) to 2 + 1 = 0 of three
    # with -, (1, 1) to 2 + 2 = 1 with -.
    matrices = outer_product_sum(tf.constant(MAPS))[:1]
    sketch = tensor_sketch(matrices, HASHES, SIGNS, 3).numpy()
    np.testing.assert_allclose(sketch, [[-2, 9 - 10, 2]], atol=1e-6)
    feature = compact_pool(tf.constant(MAPS), HASHES, SIGNS, 3).numpy()
    roots = np.array([-np.sqrt(2), -1, np.sqrt(2)])
    np.testing.assert_allclose(feature[0], roots / np.sqrt(5), atol=1e-6)


def test_a_sketch_has_zeros_where_nothing_is_added() -> None:
    sketch = tensor_sketch(outer_product_sum(tf.constant(MAPS)), HASHES, SIGNS, 9).numpy()
    np.testing.assert_allclose(sketch[0], [0, 9, 2, -2, -10, 0, 0, 0, 0], atol=1e-6)


def test_a_sketch_is_that_of_single_vectors_by_fourier_transforms() -> None:
    rng = np.random.default_rng(0)
    size, channels = 32, 12
    hashes, signs = rng.integers(0, size, (2, channels)), rng.choice([-1, 1], (2, channels))
    maps = rng.normal(size=(2, 3, 2, channels)).astype(np.float32)
    first, second = (
        np.fft.fft(maps.reshape(2, 6, channels) @ (np.eye(size)[indices] * sign[:, None]))
        for indices, sign in zip(hashes, signs, strict=True)
    )
    expected = np.fft.ifft(first * second).real.sum(axis=1)  # over the locations
    sketch = tensor_sketch(outer_product_sum(tf.constant(maps)), hashes, signs, size)
    np.testing.assert_allclose(sketch, expected, atol=1e-4)


@pytest.mark.slow
def test_inner_products_of_sketches_are_unbiased() -> None:
    matrices = outer_product_sum(tf.constant(relu_maps(2, 2, 3, 10)))
    expected = np.einsum("ij,ij", *matrices.numpy().astype(np.float64))
    products = []
    for seed in range(1000):
        p = sketch_parameters(10, 64, seed)
        a, b = tensor_sketch(matrices, p["hash-64"], p["sign-64"], 64).numpy().astype(np.float64)
        products.append(a @ b)
    error = np.std(products) / np.sqrt(len(products))
    assert error < 0.02 * expected
    assert abs(np.mean(products) - expected) < 4 * error


def test_a_projection_by_hand() -> None:
    projection = np.array([[1, 0], [1, 2]], np.float32)[:, :1]
    parameters = {"projection-1": projection}  # the first map becomes [1 3; 3 2]
    plain = pool_function("bilinear-plain:1", parameters)(tf.constant(MAPS)).numpy()
    np.testing.assert_allclose(plain, [[(1 + 9 + 9 + 4) / 4], [1]])


def test_a_projection_to_all_channels_rotates_the_matrix() -> None:
    maps = relu_maps(2, 3, 3, 6)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0].astype(np.float32)
    rotated = rotation.T @ outer_product_sum(tf.constant(maps)).numpy() @ rotation
    np.testing.assert_allclose(outer_product_sum(maps @ rotation), rotated, atol=1e-4)
    plain = pool_function("bilinear:6", {"projection-6": np.eye(6, dtype=np.float32)})
    assert_close(plain(maps), bilinear_pool(maps))


@pytest.mark.parametrize(
    "spec", ["bilinear", "compact:16", "bilinear:3", "covariance:3", "matrix-sqrt:3"]
)
def test_features_of_any_size_have_norm_one_or_are_zero(spec: str) -> None:
    maps = relu_maps(2, 3, 3, 4)
    maps[1] = 0
    parameters = sketch_parameters(4, 16, 0) | {"projection-3": np.eye(4, 3, dtype=np.float32)}
    feature = pool_function(spec, parameters)(tf.constant(maps)).numpy()
    np.testing.assert_allclose(np.linalg.norm(feature, axis=1), [1, 0], atol=1e-5)


# Against the post's procedure ---------------------------------------------------------------


def post_features(maps: np.ndarray) -> np.ndarray:
    """Return what the post computes, in double precision: c * c elements a photo."""
    x = maps.reshape(len(maps), -1, maps.shape[-1]).astype(np.float64)
    flat = np.sqrt(np.maximum(x.swapaxes(1, 2) @ x, 0)).reshape(len(maps), -1)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def pooled() -> tuple[np.ndarray, np.ndarray]:
    """Return three maps of 512 channels, pooled by the post's procedure and by this program.

    The maps are like VGG16's: ReLU output, mostly zero, up to some hundreds, and similar.
    """
    rng = np.random.default_rng(0)
    common = 40 * rng.standard_normal((1, 6, 5, 512)) - 20
    maps = np.maximum(common + 60 * rng.standard_normal((3, 6, 5, 512)), 0).astype(np.float32)
    return post_features(maps), bilinear_pool(tf.constant(maps)).numpy()


def test_the_triangle_holds_the_posts_square(pooled: tuple[np.ndarray, np.ndarray]) -> None:
    reference, triangles = pooled
    assert reference.shape == (3, 262_144)
    assert triangles.shape == (3, 131_328)
    rows, columns = np.triu_indices(512)
    square = reference.reshape(3, 512, 512)
    assert (square == square.swapaxes(1, 2)).all()
    expected = square[:, rows, columns] * np.where(rows == columns, 1, np.sqrt(2))
    assert np.abs(triangles - expected).max() < 1e-7
    np.testing.assert_allclose(triangles, expected, rtol=1e-5)


@pytest.mark.parametrize(("stored", "tolerance"), [(np.float32, 1e-5), (np.float16, 1e-3)])
def test_inner_products_are_the_posts(
    pooled: tuple[np.ndarray, np.ndarray], stored: type, tolerance: float
) -> None:
    reference, triangles = pooled
    gram, rows = reference @ reference.T, triangles.astype(stored).astype(np.float64)
    assert gram[~np.eye(3, dtype=bool)].max() < 0.99  # the photos differ
    assert (rows != triangles).any() == (stored is np.float16)
    assert np.abs(rows @ rows.T - gram).max() < tolerance


# Invariants ---------------------------------------------------------------------------------

# Rounding counts where a map is nearly constant, or of low rank.
SENSITIVE = {"covariance", "matrix-sqrt"}
elements = st.one_of(st.just(0.0), st.floats(2**-6, 1000, width=32))
random_maps = arrays_of.arrays(np.float32, (2, 3, 2, 4), elements=elements)


def assert_close(x: tf.Tensor, y: tf.Tensor) -> None:
    np.testing.assert_allclose(x.numpy(), y.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("spec", sorted(FUNCTIONS.keys() - {"maps", *SENSITIVE}))
@given(maps=random_maps, order=st.permutations(range(6)))
@pytest.mark.slow
def test_the_order_of_locations_does_not_matter(
    spec: str, maps: np.ndarray, order: list[int]
) -> None:
    shuffled = maps.reshape(2, 6, 4)[:, order].reshape(maps.shape)
    assert_close(FUNCTIONS[spec](shuffled), FUNCTIONS[spec](maps))


@given(maps=random_maps, factor=st.floats(2**-3, 8, width=32))
def test_brightness_does_not_matter_for_bilinear(maps: np.ndarray, factor: float) -> None:
    assert_close(bilinear_pool(maps * np.float32(factor)), bilinear_pool(maps))


@pytest.mark.parametrize("spec", sorted(FUNCTIONS))
def test_an_empty_map_gives_zeros(spec: str) -> None:
    pooled = FUNCTIONS[spec](np.zeros((2, 3, 3, 4), np.float32)).numpy()
    assert not pooled.any()
    assert np.isfinite(pooled).all()


@given(arrays_of.arrays(np.float32, 9, elements=st.floats(-1e6, 1e6, width=32)))
def test_signed_sqrt(x: np.ndarray) -> None:
    root = signed_sqrt(tf.constant(x)).numpy()
    assert (root == -signed_sqrt(tf.constant(-x)).numpy()).all()
    assert (np.sign(root) == np.sign(x))[np.abs(x) > 1e-30].all()  # less may count as zero
    np.testing.assert_allclose(root * np.abs(root), x, rtol=1e-5, atol=1e-30)


@given(arrays_of.arrays(np.float32, (2, 3, 4), elements=st.floats(-100, 100, width=32)))
def test_packing_keeps_inner_products(x: np.ndarray) -> None:
    matrices = np.einsum("bij,bik->bjk", x, x)
    flat = matrices.reshape(2, 16)
    packed = upper_triangle(matrices).numpy()
    assert packed.shape == (2, 10)
    np.testing.assert_allclose(packed @ packed.T, flat @ flat.T, rtol=1e-4, atol=1e-3)


def test_the_covariance_of_equal_locations_is_zero() -> None:
    maps = np.full((2, 7, 7, 5), [0.1, 1 / 3, 70.7, 1e-5, 0], np.float32)
    maps[1, 0, 0] *= 2
    norms = np.linalg.norm(FUNCTIONS["covariance"](maps), axis=1)
    np.testing.assert_allclose(norms, [0, 1], atol=1e-5)


@pytest.mark.parametrize("spec", sorted(SENSITIVE))
@pytest.mark.parametrize("shape", [(3, 2, 9), (3, 4, 6), (2, 3, 6)])
def test_order_and_brightness_do_not_matter_for_sensitive_poolings(
    spec: str, shape: tuple[int, int, int]
) -> None:
    maps = relu_maps(2, *shape)
    feature = FUNCTIONS[spec](maps).numpy()
    shuffled = maps.reshape(2, -1, shape[-1])[:, ::-1].reshape(maps.shape)
    for other in (shuffled, 30 * maps):
        np.testing.assert_allclose(FUNCTIONS[spec](other), feature, atol=2e-3)
    np.testing.assert_allclose(np.linalg.norm(feature, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("shape", [(3, 3, 20), (5, 6, 12), (4, 3, 12)])
def test_the_matrix_root_is_one(shape: tuple[int, int, int]) -> None:
    maps = relu_maps(3, *shape)
    maps[:, :, :, 3] = maps[:, :, :, 1]  # of lower rank
    channels = shape[-1]
    rows, columns = np.triu_indices(channels)
    feature = FUNCTIONS["matrix-sqrt"](maps).numpy() / np.where(rows == columns, 1, np.sqrt(2))
    root = np.zeros((3, channels, channels))
    root[:, rows, columns] = root[:, columns, rows] = feature * np.abs(feature)
    x = maps.reshape(3, -1, channels).astype(np.float64)
    actual, expected = (
        matrix / np.trace(matrix, axis1=1, axis2=2)[:, None, None]
        for matrix in (root @ root, x.swapaxes(1, 2) @ x)
    )
    np.testing.assert_allclose(actual, expected, atol=1e-4)
