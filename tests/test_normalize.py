"""Statistics against exact fractions; scaling against scikit-learn, scikit-image and Pillow."""

import math
import tracemalloc
from fractions import Fraction

import keras
import numpy as np
import pytest
from conftest import readable
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from keras.src.legacy.preprocessing.image import ImageDataGenerator  # which TensorFlow has, too
from PIL import Image, ImageOps
from skimage import exposure
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from evakeras import normalize
from evakeras.normalize import ImageStatistics, image_statistics

BAD_IMAGES = {
    "three axes, no channel axis": np.zeros((2, 5, 5), np.uint8),
    "two axes": np.zeros((5, 5), np.uint8),
    "five axes": np.zeros((1, 2, 3, 3, 1), np.uint8),
    "bool": np.zeros((2, 3, 3, 1), bool),
    "complex": np.zeros((2, 3, 3, 1), complex),
    "objects": np.full((2, 3, 3, 1), None),
    "text": np.full((2, 3, 3, 1), "a"),
    "no images": np.zeros((0, 3, 3, 1), np.uint8),
    "no columns": np.zeros((2, 3, 0, 1), np.uint8),
}
bad_images = pytest.mark.parametrize("images", BAD_IMAGES.values(), ids=BAD_IMAGES)


@st.composite
def image_batches(draw, dtypes=("uint8",), max_side=5):
    """Small batches `(N, H, W, C)`; floats are multiples of 1/16, so that they are moderately conditioned."""
    n, h, w = (draw(st.integers(1, max_side)) for _ in range(3))
    shape = (n, h, w, draw(st.sampled_from([1, 3, 5])))
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    if dtype.kind == "f":
        return draw(hnp.arrays(np.int16, shape)).astype(dtype) / dtype.type(16)
    return draw(hnp.arrays(dtype, shape))


def random_images(shape=(7, 6, 5, 3), dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(dtype)


def exact_statistics(images):
    """Mean and standard deviation of each channel in fractions, rounded once."""
    means, stds = [], []
    for channel in np.moveaxis(images, -1, 0):
        values = [Fraction(value) for value in channel.ravel().tolist()]
        mean = sum(values) / len(values)
        means.append(float(mean))
        stds.append(math.sqrt(sum((value - mean) ** 2 for value in values) / len(values)))
    return np.array(means), np.array(stds)


# Statistics


@given(image_batches())
def test_statistics_of_uint8_are_exact(images):
    found = image_statistics(images)
    mean, std = exact_statistics(images)
    assert np.array_equal(found.mean, mean)
    assert np.array_equal(found.std, std)
    assert found.count == images[..., 0].size
    assert found.mean.dtype == found.std.dtype == np.float64


@given(image_batches(("float32", "float64", "int16", "uint16", "int64"), max_side=4))
def test_statistics_of_other_types_agree_with_fractions(images):
    found = image_statistics(images)
    mean, std = exact_statistics(images)
    scale = np.abs(images).max().astype(float)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-12, atol=1e-14 * scale)
    np.testing.assert_allclose(found.std, std, rtol=1e-12, atol=1e-14 * scale)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_statistics_of_a_large_array_agree_with_numpy(dtype):
    images = random_images((20, 128, 128, 3), dtype)
    found, flat = image_statistics(images), images.reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(found.mean, flat.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.std, flat.std(axis=0), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_statistics_do_not_lose_a_small_spread_on_a_large_offset(dtype):
    images = (1e6 + np.random.default_rng(0).normal(size=(8, 16, 16, 2))).astype(dtype)
    mean, std = exact_statistics(images)
    for given_as in (images, [images[:3], images[3:4], images[4:]]):
        found = image_statistics(given_as)
        np.testing.assert_allclose(found.mean, mean, rtol=1e-14)
        np.testing.assert_allclose(found.std, std, rtol=1e-10)  # E[x²] − E[x]² would be off by 1e-4


def test_statistics_of_mnist_are_the_published_ones(mnist):
    for images, mean, std in ((mnist.x_train, 33.318, 78.567), (mnist.x_test, 33.791, 79.172)):
        found = image_statistics(images)
        assert (round(found.mean.item(), 3), round(found.std.item(), 3)) == (mean, std)
        assert found.count == images.size
        assert math.isclose(found.mean.item(), images.mean(dtype=np.float64), rel_tol=1e-12)
        assert math.isclose(found.std.item(), images.std(dtype=np.float64), rel_tol=1e-12)


def test_statistics_of_one_value_everywhere_have_spread_zero():
    for dtype in (np.uint8, np.float32):
        found = image_statistics(np.full((2, 3, 3, 1), 7, dtype))
        assert (found.mean.item(), found.std.item(), found.count) == (7, 0, 18)


@given(image_batches(("uint8", "float32"), max_side=6), st.lists(st.integers(1, 3), min_size=1))
def test_statistics_do_not_depend_on_how_images_are_batched(images, sizes):
    cuts = [cut for cut in np.cumsum(sizes) if cut < len(images)]
    found, whole = image_statistics(np.split(images, cuts)), image_statistics(images)
    assert found.count == whole.count
    tolerance = 0 if images.dtype == np.uint8 else 1e-12 * np.abs(images).max()
    np.testing.assert_allclose(found.mean, whole.mean, rtol=0, atol=tolerance)
    np.testing.assert_allclose(found.std, whole.std, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_statistics_take_every_kind_of_input(dtype, tmp_path):
    images = random_images(dtype=dtype)
    on_disk = np.memmap(tmp_path / "images", dtype, "w+", shape=images.shape)
    on_disk[:] = images
    kinds = [
        on_disk,
        [images],
        (images[:2], images[2:]),
        (image[np.newaxis] for image in images),
        keras.ops.convert_to_tensor(images),
        images[::-1, :, ::-1],
        np.asfortranarray(images),
    ]
    mean, std = exact_statistics(images)
    for kind in kinds:
        found = image_statistics(kind)
        np.testing.assert_allclose(found.mean, mean, rtol=1e-13)
        np.testing.assert_allclose(found.std, std, rtol=1e-13)
        assert found.count == 7 * 6 * 5


def test_statistics_take_a_pipeline(tf):
    images = random_images()
    found = image_statistics(tf.data.Dataset.from_tensor_slices(images).batch(3))
    np.testing.assert_allclose([found.mean, found.std], exact_statistics(images), rtol=1e-13)


def test_statistics_leave_the_images_unchanged():
    for images in (random_images(), random_images(dtype=np.float32)):
        before = images.copy()
        image_statistics(images)
        assert np.array_equal(images, before)


def peak_memory(function):
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_statistics_need_a_fortieth_of_the_memory_of_image_data_generator(mnist):
    generator = ImageDataGenerator(featurewise_center=True, featurewise_std_normalization=True)
    theirs = peak_memory(lambda: generator.fit(mnist.x_train))
    ours = peak_memory(lambda: image_statistics(mnist.x_train))
    assert ours <= theirs / 40


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_statistics_of_ten_times_the_images_need_no_more_memory(dtype, tmp_path):
    peaks = []
    for count in (3_000, 30_000):
        images = np.memmap(tmp_path / "images", dtype, "w+", shape=(count, 28, 28, 1))  # a sparse file
        images[:50] = random_images((50, 28, 28, 1), dtype)
        peaks.append(peak_memory(lambda images=images: image_statistics(images)))
    assert peaks[1] <= 1.2 * peaks[0] + 2**20


@bad_images
def test_statistics_refuse_bad_images(images):
    with pytest.raises(ValueError, match="images"):
        image_statistics(images)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_statistics_refuse_nan_and_infinity_wherever_they_are(value, place):
    images = random_images((40, 64, 64, 3), np.float32)
    images.reshape(-1)[place] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        image_statistics(images)


@pytest.mark.parametrize(
    "batches",
    [
        [],
        iter(()),
        [random_images(), random_images(dtype=np.float32)],
        [random_images(dtype=np.float32), random_images()],
        [random_images(), random_images((2, 6, 5, 1))],
        [(random_images(), np.zeros(7, int))],
        (random_images(), np.zeros(7, int)),
        [{"images": random_images()}],
        [random_images(), np.zeros((0, 6, 5, 3), np.uint8)],
        list(random_images()),
    ],
    ids=["empty list", "empty iterator", "uint8 then float", "float then uint8", "3 channels then 1",
         "images and labels", "a pair of images and labels", "a dict", "an empty batch", "single images"],
)  # fmt: skip
def test_statistics_refuse_bad_batches(batches):
    with pytest.raises(ValueError, match="images"):
        image_statistics(batches)


# Equalization


def textbook_equalization(image):
    """Gonzalez and Woods pixel by pixel, in fractions: s = 255 (cdf(v) − cdf_min) / (pixels − cdf_min)."""
    result = image.copy()
    height, width, channels = image.shape
    for c in range(channels):
        plane = image[..., c].ravel().tolist()
        first = plane.count(min(plane))
        if first == len(plane):
            continue
        for i in range(height):
            for j in range(width):
                cdf = sum(value <= image[i, j, c] for value in plane)
                s = Fraction(255 * (cdf - first), len(plane) - first)
                result[i, j, c] = math.floor(s + Fraction(1, 2))
    return result


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 6), st.sampled_from([1, 3]))))
def test_equalization_is_the_textbook_formula(image):
    assert np.array_equal(normalize.equalize(image), textbook_equalization(image))


def test_equalization_is_scikit_image_with_the_darkest_value_taken_out(photos):
    equalized = normalize.equalize(photos)
    for image, result in zip(photos, equalized, strict=True):
        for c in range(3):
            cdf = exposure.equalize_hist(image[..., c])  # cdf / pixels: the darkest value is not black
            expected = 255 * (cdf - cdf.min()) / (1 - cdf.min())
            assert np.abs(result[..., c] - expected).max() <= 0.5 + 1e-9


def test_equalization_differs_from_pillow_by_what_the_histogram_says(photos):
    # Pillow counts the pixels before a value, we count it too: we are brighter by up to its share of the
    # picture. Pillow stretches over all but the brightest, we over all but the darkest: we are darker by
    # up to the shares of these two. The rest is rounding, less than 2 grey levels.
    for image in photos:
        ours = normalize.equalize(image).astype(int)
        pillow = np.asarray(ImageOps.equalize(Image.fromarray(image))).astype(int)
        for c in range(3):
            share = 255 * np.bincount(image[..., c].ravel(), minlength=256) / image[..., c].size
            darkest, brightest = share[share > 0][[0, -1]]
            brighter = ours[..., c] - pillow[..., c]
            assert (brighter <= share[image[..., c]] + 2).all()
            assert (brighter >= -darkest - brightest - 2).all()
    assert np.abs(ours - pillow)[..., 2].max() <= 4  # the flower's blue has no value that stands out


@given(image_batches())
def test_equalization_keeps_the_order_of_values(images):
    result = normalize.equalize(images)
    for old, new in zip(images, result, strict=True):
        for c in range(images.shape[-1]):
            order = np.argsort(old[..., c], axis=None)
            assert (np.diff(new[..., c].ravel()[order].astype(int)) >= 0).all()
            same = np.diff(old[..., c].ravel()[order].astype(int)) == 0
            assert (np.diff(new[..., c].ravel()[order].astype(int))[same] == 0).all()


def test_equalization_reaches_black_and_white(photos):
    equalized = normalize.equalize(photos)
    assert (equalized.min(axis=(1, 2)) == 0).all()
    assert (equalized.max(axis=(1, 2)) == 255).all()


@given(image_batches())
def test_equalization_treats_each_image_and_channel_alone(images):
    together = normalize.equalize(images)
    assert together.dtype == np.uint8
    for n in range(len(images)):
        for c in range(images.shape[-1]):
            alone = normalize.equalize(images[n : n + 1, ..., c : c + 1])
            assert np.array_equal(together[n : n + 1, ..., c : c + 1], alone)


def test_equalization_of_many_images_is_that_of_each():
    images = random_images((40, 100, 90, 1)) // 3  # more than is looked at together
    together = normalize.equalize(images)
    assert all(np.array_equal(normalize.equalize(image), new) for image, new in zip(images, together))  # noqa: B905


def test_equalization_leaves_a_constant_channel_unchanged():
    images = random_images()
    images[..., 1] = 77
    assert (normalize.equalize(images)[..., 1] == 77).all()


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.uint16, np.int8])
def test_equalization_takes_uint8_only(dtype):
    with pytest.raises(ValueError, match=f"{np.dtype(dtype)}, expected uint8"):
        normalize.equalize(np.ones((1, 3, 3, 1), dtype))


@bad_images
@pytest.mark.parametrize("function", [normalize.equalize, normalize.min_max, normalize.standardize])
def test_bad_images_are_refused(function, images):
    with pytest.raises(ValueError, match="images"):
        function(images)


# Min-max

ranges = st.sampled_from([(0, 1), (-1, 1), (0.25, 0.5), (0, 255)])


@given(image_batches(("uint8", "int16", "float32", "float64")), ranges)
def test_min_max_agrees_with_scikit_learn_image_by_image(images, low_high):
    flat = images.reshape(len(images), -1)
    assume((flat.min(axis=1) < flat.max(axis=1)).all())
    expected = MinMaxScaler(low_high).fit_transform(flat.T.astype(np.float64)).T.reshape(images.shape)
    found = normalize.min_max(images, *low_high)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * max(map(abs, low_high)))
    assert found.dtype == np.float32 and found.shape == images.shape
    assert (found.min(axis=(1, 2, 3)) == low_high[0]).all()
    assert found.min() >= low_high[0] and found.max() <= low_high[1]


def test_min_max_keeps_the_channels_of_an_image_together():
    image = np.array([[[0, 50, 100]]], np.uint8)
    np.testing.assert_allclose(normalize.min_max(image).ravel(), [0, 0.5, 1])


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.uint64])
def test_min_max_is_right_on_a_large_offset(dtype):
    images = (10**8 + np.array([1, 2, 3])).astype(dtype).reshape(1, 3, 1)  # 10⁸ + 1 is no float32
    np.testing.assert_allclose(normalize.min_max(images).ravel(), [0, 0.5, 1])


@pytest.mark.parametrize("values", [[0, 1e-42, 2e-42], [-1e300, 0, 1e300]], ids=["tiny", "huge"])
def test_min_max_is_right_where_float32_ends(values):
    np.testing.assert_allclose(normalize.min_max(np.array(values).reshape(1, 3, 1)).ravel(), [0, 0.5, 1])


def test_min_max_returns_float32_for_numpy_numbers_too():
    images = np.arange(3.0).reshape(1, 3, 1)
    assert normalize.min_max(images, np.float64(0), np.float64(1)).dtype == np.float32


@pytest.mark.parametrize("low, high", [(1, 1), (1, 0), (np.nan, 1), (0, np.nan), (0, np.inf), (-np.inf, 0)])
def test_min_max_refuses_an_impossible_range(low, high):
    with pytest.raises(ValueError, match="low"):
        normalize.min_max(random_images(), low, high)


def test_min_max_refuses_a_constant_image_and_says_which():
    images = random_images()
    images[4] = 9
    with pytest.raises(ValueError, match=r"number 4 is constant"):
        normalize.min_max(images)


@pytest.mark.parametrize("function", [normalize.min_max, normalize.standardize])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_nan_and_infinity_are_refused(function, value):
    images = random_images(dtype=np.float32)
    images[3, 2, 1, 0] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        function(images)


# Standardization


@given(image_batches(("uint8", "int16", "float32", "float64")))
def test_standardize_agrees_with_scikit_learn(images):
    flat = images.reshape(-1, images.shape[-1]).astype(np.float64)
    assume((flat.std(axis=0) > 1e-3 * (1 + np.abs(flat).max())).all())
    expected = StandardScaler().fit_transform(flat).reshape(images.shape)
    found = normalize.standardize(images)
    np.testing.assert_allclose(found, expected, atol=1e-3)  # float32 of values up to 1,000 deviations large
    np.testing.assert_allclose(found.mean(axis=(0, 1, 2), dtype=np.float64), 0, atol=1e-3)
    np.testing.assert_allclose(found.std(axis=(0, 1, 2), dtype=np.float64), 1, atol=1e-3)
    assert found.dtype == np.float32 and found.shape == images.shape


def test_standardized_photos_have_mean_0_and_deviation_1(photos):
    for images in (photos, photos[0]):
        found = normalize.standardize(images)
        flat = found.reshape(-1, 3).astype(np.float64)
        np.testing.assert_allclose(flat.mean(axis=0), 0, atol=1e-6)
        np.testing.assert_allclose(flat.std(axis=0), 1, atol=1e-6)
        assert found.shape == images.shape


def test_standardize_uses_the_training_moments_it_is_given():
    train, test = random_images(), random_images(seed=1)
    moments = image_statistics(train)
    expected = (test.astype(np.float64) - moments.mean) / moments.std
    np.testing.assert_allclose(normalize.standardize(test, moments.mean, moments.std), expected, atol=1e-5)
    np.testing.assert_allclose(normalize.standardize(test, 0, 255), test / 255, atol=1e-6)
    only_mean = normalize.standardize(test, mean=100)
    np.testing.assert_allclose(only_mean, (test - 100.0) / image_statistics(test).std, atol=1e-5)


def test_standardize_is_right_on_a_large_offset():
    images = 1e8 + np.random.default_rng(0).normal(size=(4, 5, 5, 2))
    expected = StandardScaler().fit_transform(images.reshape(-1, 2)).reshape(images.shape)
    np.testing.assert_allclose(normalize.standardize(images), expected, atol=1e-5)


@pytest.mark.parametrize(
    "moments",
    [
        {"mean": [1, 2], "std": 1},
        {"mean": 0, "std": [1, 2, 3, 4]},
        {"mean": 0, "std": 0},
        {"mean": 0, "std": [1, 0, 1]},
        {"mean": 0, "std": -1},
        {"mean": np.nan, "std": 1},
        {"mean": 0, "std": np.inf},
        {"mean": [[1, 2, 3]], "std": 1},
    ],
    ids=readable,
)
def test_standardize_refuses_moments_that_do_not_fit(moments):
    with pytest.raises(ValueError, match=r"mean|std"):
        normalize.standardize(random_images(), **moments)


def test_standardize_refuses_a_constant_channel():
    images = random_images()
    images[..., 2] = 5
    with pytest.raises(ValueError, match="std"):
        normalize.standardize(images)


# The layer


@pytest.mark.parametrize("channels", [1, 3])
def test_standardization_layer_does_what_standardize_does(channels):
    images = random_images((7, 6, 5, channels))
    statistics = image_statistics(images)
    layer = normalize.standardization_layer(statistics)
    expected = normalize.standardize(images, statistics.mean, statistics.std)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer(images)), expected, atol=1e-5)


def test_standardization_layer_survives_saving(tmp_path):
    images = random_images().astype(np.float32)
    layer = normalize.standardization_layer(image_statistics(images))
    model = keras.Sequential([keras.Input((6, 5, 3)), layer])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert np.array_equal(loaded(images), model(images))
    np.testing.assert_allclose(loaded(images), normalize.standardize(images), atol=1e-5)


def test_standardization_layer_refuses_a_constant_channel():
    with pytest.raises(ValueError, match="std"):
        normalize.standardization_layer(ImageStatistics(np.array([5.0, 5.0]), np.array([1.0, 0.0]), 10))


def test_standardization_layer_refuses_what_keras_would_not_divide_by():
    with pytest.raises(ValueError, match="below 1e-07"):
        normalize.standardization_layer(ImageStatistics(np.array([0.0]), np.array([1e-9]), 10))
