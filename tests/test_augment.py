"""Augmentation layers do what they say: everywhere the same, within range, and as the old class did."""

import json
from functools import partial

import keras
import numpy as np
import pytest
from conftest import configured, readable
from hypothesis import given
from hypothesis import strategies as st
from keras import layers, ops
from keras.src.legacy.preprocessing.image import ImageDataGenerator  # which TensorFlow has, too
from PIL import Image, ImageEnhance, ImageOps

from evakeras import augment, data, normalize

RNG = np.random.default_rng(0)
array = ops.convert_to_numpy
MODES = ["constant", "nearest", "reflect", "wrap"]


def pictures(*shape, dtype="uint8"):
    return RNG.integers(0, 256, shape).astype(dtype)


# Bytes, as most tests here have them; the range is asked for, since a wrong one is wrong without a word.
rand_augment = partial(augment.RandAugment, value_range=(0, 255))
policy = partial(augment.Policy, value_range=(0, 255))
from_generator = augment.from_image_data_generator

LAYERS = {
    "cutout": lambda **options: augment.Cutout(5, **options),
    "geometry": lambda **options: from_generator(
        rotation_range=30, zoom_range=0.2, width_shift_range=0.1, horizontal_flip=True, **options
    ),
    "values": lambda **options: from_generator(
        channel_shift_range=40, brightness_range=(0.5, 1.5), **options
    ),
    "pairs": augment.SamplePairing,
    "randaugment": rand_augment,
    "policy": lambda **options: policy(
        [[("rotate", 0.9, 1.0), ("solarize", 0.8, 0.7)], [("shear_x", 1.0, 0.5)]], **options
    ),
    "whole shifts": lambda **options: from_generator(
        width_shift_range=4, height_shift_range=[1, 3], fill_mode="wrap", **options
    ),
}


@pytest.fixture(params=LAYERS)
def make(request):
    return LAYERS[request.param]


# What all layers share


@pytest.mark.parametrize(
    "shape, dtype", [((9, 14, 3), "uint8"), ((8, 8, 1), "float32"), ((1, 5, 3), "int64")], ids=readable
)
def test_images_keep_their_shape_and_range_and_become_float(make, shape, dtype):
    images = pictures(4, *shape, dtype=dtype)
    result = array(make(seed=0)(images))
    assert result.shape == images.shape and result.dtype == "float32"
    assert result.min() >= 0 and result.max() <= 255


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "pairs"])
def test_every_image_is_changed_in_its_own_way(name):
    same = np.repeat(pictures(1, 16, 16, 1), 32, axis=0)
    result = array(LAYERS[name](seed=0)(same))
    assert len(np.unique(result.reshape(32, -1), axis=0)) > 3


def test_nothing_happens_at_inference(make):
    images = pictures(3, 8, 8, 3)
    model = keras.Sequential([keras.Input((8, 8, 3)), make()])
    for result in (
        make()(images, training=False),
        model(images, training=False),
        model.predict(images, verbose=0),
    ):
        assert np.array_equal(result, images)


def test_eagerly_in_a_model_and_in_a_pipeline_the_same_happens(tf, make):
    images = pictures(4, 8, 8, 1)
    eager = array(make(seed=3)(images))
    model = keras.Sequential([keras.Input((8, 8, 1)), make(seed=3)])
    pipeline = tf.data.Dataset.from_tensors(images).map(make(seed=3))
    assert not np.array_equal(eager, images)
    assert np.array_equal(model(images, training=True), eager)
    np.testing.assert_allclose(next(iter(pipeline)), eager, atol=1e-4)


def test_calls_follow_from_the_seed_and_differ_from_each_other(make):
    images = pictures(4, 8, 8, 1)
    one, two = make(seed=7), make(seed=7)
    first = array(one(images))
    assert np.array_equal(two(images), first)
    assert not np.array_equal(one(images), first)
    assert not np.array_equal(make(seed=8)(images), first)


def test_stateless_follows_from_its_seed_alone(make):
    images = pictures(4, 8, 8, 1)
    layer = make(seed=1)
    first = array(layer.stateless(images, [5, 6]))
    layer(images)
    assert np.array_equal(layer.stateless(images, ops.convert_to_tensor([5, 6], "int64")), first)
    assert np.array_equal(make(seed=2).stateless(images, [5, 6]), first)
    assert not np.array_equal(layer.stateless(images, [5, 7]), first)


def test_a_pipeline_in_parallel_repeats_and_its_epochs_differ(tf, make):
    images, labels = pictures(50, 8, 8, 1), np.arange(50)

    def epochs(seed):
        batches = data.batches(images, labels, 4, shuffle=True, seed=seed, augment=make())
        return [np.concatenate([batch.numpy().ravel() for batch, _ in batches]) for _ in range(2)]

    one, again, other = epochs(1), epochs(1), epochs(2)
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other) and not np.array_equal(one[0], one[1])


def test_epochs_differ_without_shuffling_too(tf, make):
    batches = data.batches(pictures(8, 8, 8, 1), batch_size=8, seed=0, augment=make())
    first, second = (next(iter(batches)).numpy() for _ in range(2))
    assert not np.array_equal(first, second)


def test_a_saved_model_augments_as_before(make, tmp_path):
    images = pictures(4, 8, 8, 1)
    model = keras.Sequential([keras.Input((8, 8, 1)), make(seed=4), layers.Flatten(), layers.Dense(2)])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    assert loaded.layers[0].get_config() == model.layers[0].get_config()
    assert np.array_equal(*(array(one(images, training=True)) for one in (loaded, model)))


def test_a_model_trains_behind_a_layer(make):
    model = keras.Sequential([keras.Input((8, 8, 1)), make(), layers.Flatten(), layers.Dense(2)])
    model.compile("sgd", "mse")
    model.fit(pictures(8, 8, 8, 1) / 255, np.zeros((8, 2)), batch_size=3, verbose=0)


def test_empty_batches_stay_empty(make):
    assert make()(np.zeros((0, 8, 8, 3))).shape == (0, 8, 8, 3)


@pytest.mark.parametrize("shape", [(8, 8, 1), (8, 8), (2, 3, 8, 8, 1)], ids=readable)
def test_what_is_no_batch_is_refused(make, shape):
    with pytest.raises(ValueError, match=r"expected \(N, H, W, C\)"):
        make()(np.zeros(shape))


def test_bytes_and_floats_give_the_same_pictures(make):
    images = pictures(4, 9, 14, 3)
    results = [make().stateless(images.astype(dtype), [1, 2]) for dtype in ("uint8", "float32", "float64")]
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], atol=1e-3)


def test_half_precision_equalizes_white():
    white = np.full((2, 4, 4, 1), 255, "uint8")
    result = rand_augment(operations=("equalize",), dtype="bfloat16")(white)
    assert np.array_equal(array(result).astype("float32"), white)


# Resize and rescale


@pytest.mark.parametrize(
    "size, shape", [(12, (12, 12)), ((5, 9), (5, 9)), (np.int64(3), (3, 3))], ids=readable
)
def test_resize_and_rescale_brings_images_to_the_size_and_to_one(size, shape):
    result = array(augment.resize_and_rescale(size)(pictures(2, 8, 6, 3)))
    assert result.shape == (2, *shape, 3) and result.dtype == "float32"
    assert result.min() >= 0 and result.max() <= 1
    assert np.allclose(augment.resize_and_rescale(size)(np.full((1, 8, 6, 1), 255, "uint8")), 1)


@pytest.mark.parametrize("size", [0, -3, 2.5, 4.0, None, "4", np.inf, (4,), (4, 4, 3), (4, 0)], ids=readable)
def test_resize_and_rescale_refuses_bad_sizes(size):
    with pytest.raises(ValueError, match="size="):
        augment.resize_and_rescale(size)


def test_channels_are_last_whatever_keras_is_set_to():
    images = pictures(2, 8, 6, 3)
    with configured(image_data_format="channels_first"):
        assert augment.resize_and_rescale((4, 5))(images).shape == (2, 4, 5, 3)
        moved = array(augment.basic(shift=0.4, seed=0)(np.ones((8, 6, 6, 3), "float32")))
        layer = augment.RandAugment(operations=("sharpness",), value_range=(0, 255), seed=0)
        assert layer(images).shape == images.shape
    assert (moved.min() == 0) and (moved == moved[..., :1]).all()  # all channels of a pixel move together


# Cutout


@given(
    size=st.integers(1, 12), height=st.integers(1, 9), width=st.integers(1, 9), seed=st.integers(0, 2**31 - 1)
)
def test_cutout_covers_one_square_clipped_at_the_border(size, height, width, seed):
    images = array(augment.Cutout(size, fill_value=-1, seed=seed)(np.ones((5, height, width, 2))))
    assert np.array_equal(images[..., 0], images[..., 1])
    for image in images[..., 0] < 0:
        rows, columns = image.any(axis=1), image.any(axis=0)
        assert np.array_equal(image, np.outer(rows, columns))  # a rectangle
        for covered, length in ((rows, height), (columns, width)):
            places = np.flatnonzero(covered)
            assert len(places) == places[-1] - places[0] + 1  # in one piece
            cut = places[0] == 0 or places[-1] == length - 1
            assert len(places) == size or (cut and size // 2 <= len(places) < size) or len(places) == length


def test_cutout_puts_its_centre_on_every_pixel_alike():
    images = array(augment.Cutout(1, fill_value=1, seed=0)(np.zeros((20_000, 4, 5, 1))))
    hits = images.sum(axis=(0, 3))
    assert hits.sum() == 20_000
    assert np.abs(hits - 1000).max() < 5 * np.sqrt(1000)


def test_cutout_takes_what_the_authors_code_takes():
    """Centre and half the side either way, clipped: the code of the paper, for an even side."""
    images = array(augment.Cutout(6, fill_value=1, seed=0)(np.zeros((4000, 8, 8, 1))))[..., 0]
    expected = set()
    for y in range(8):
        for x in range(8):
            image = np.zeros((8, 8))
            image[max(y - 3, 0) : y + 3, max(x - 3, 0) : x + 3] = 1
            expected.add(image.tobytes())
    assert {image.astype("float64").tobytes() for image in images} == expected


@pytest.mark.parametrize("size", [0, -1, 2.5, (8, 8), True, "8"])
def test_cutout_refuses_bad_sizes(size):
    with pytest.raises(ValueError, match="size="):
        augment.Cutout(size)


def test_cutout_refuses_to_fill_with_no_number():
    with pytest.raises(ValueError, match="fill_value=nan"):
        augment.Cutout(4, fill_value=float("nan"))
    with pytest.raises(ValueError, match="finite number in float16"):
        augment.Cutout(4, fill_value=1e6, dtype="mixed_float16")
    with pytest.raises(ValueError, match="finite number in float32"):
        augment.Cutout(4, fill_value=1e39)


def test_seeds_may_be_numpy_integers():
    images = pictures(4, 8, 8, 1)
    assert np.array_equal(augment.Cutout(3, seed=np.int64(3))(images), augment.Cutout(3, seed=3)(images))


# MixUp


def test_mixup_is_the_arithmetic_of_the_paper():
    images = pictures(40, 4, 4, 1).astype("float32")
    labels = np.eye(40, dtype="float32")  # a class for every image: the label tells both weights and partner
    mixed, mixed_labels = map(array, augment.MixUp(1.0, seed=0)(images, labels))
    np.testing.assert_allclose(mixed_labels.sum(axis=1), 1, atol=1e-6)
    assert ((mixed_labels > 0).sum(axis=1) <= 2).all()
    np.testing.assert_allclose(np.tensordot(mixed_labels, images, 1), mixed, atol=1e-3)
    own = np.diag(mixed_labels)
    assert own.min() < 0.3 and own.max() > 0.7 and len(np.unique(own)) > 30


def test_mixup_takes_whole_numbers_and_one_hot_labels_alike():
    images, labels = pictures(6, 4, 4, 1), np.array([0, 2, 1, 1, 0, 2], "uint8")
    whole = augment.MixUp(0.5, classes=3, seed=1)(images, labels)
    for dtype in ("float32", "int64"):
        one_hot = augment.MixUp(0.5, seed=1)(images, np.eye(3, dtype=dtype)[labels])
        for ours, theirs in zip(whole, one_hot, strict=True):
            assert np.array_equal(ours, theirs)


def test_mixup_at_inference_only_makes_labels_one_hot():
    images, labels = pictures(3, 4, 4, 1), np.array([0, 2, 1])
    kept, encoded = augment.MixUp(classes=3)(images, labels, training=False)
    assert np.array_equal(kept, images) and np.array_equal(encoded, np.eye(3)[labels])


@pytest.mark.parametrize(
    "labels, classes",
    [
        (np.arange(4), None),
        (np.arange(4.0), 10),
        (np.arange(4.0), None),
        (np.eye(4, 3), 10),
        (np.ones((4, 1), "int64"), 4),
        (np.ones((4, 1), "int64"), None),
        (np.array([0, 1, 2, 4]), 4),
        (np.array([0, -1, 2, 3]), 4),
        (np.zeros((4, 2, 2)), 2),
    ],
    ids=readable,
)
def test_mixup_refuses_labels_that_it_would_mix_wrongly(labels, classes):
    with pytest.raises(ValueError, match="MixUp: labels"):
        augment.MixUp(classes=classes)(np.zeros((4, 4, 4, 1)), labels)


def test_mixup_refuses_more_images_than_labels():
    with pytest.raises(ValueError, match="4 images and 3 labels"):
        augment.MixUp(classes=3)(np.zeros((4, 4, 4, 1)), np.arange(3))


def test_mixup_makes_the_loss_nan_for_labels_outside_the_classes_of_a_pipeline(tf):
    """Where a graph hides the labels, an error is not possible; all zeros would train on without a word."""
    _, labels = next(
        iter(data.batches(pictures(4, 4, 4, 1), np.array([0, 1, 2, 3]), 4, augment=augment.MixUp(classes=3)))
    )
    assert np.isnan(labels).any()


def test_mixup_works_in_mixed_precision():
    mixup = augment.MixUp(1.0, classes=3, seed=0, dtype="mixed_float16")
    images, labels = map(array, mixup(pictures(6, 4, 4, 1), np.arange(6) % 3))
    assert images.dtype == "float16" and labels.dtype == "float32"
    np.testing.assert_allclose(np.sum(labels, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("classes", [0, -3, 2.5, True])
def test_mixup_refuses_a_number_of_classes_that_is_none(classes):
    with pytest.raises(ValueError, match="classes="):
        augment.MixUp(classes=classes)


def test_mixup_works_in_a_functional_model():
    inputs = keras.Input((4, 4, 1)), keras.Input((), dtype="int32")
    outputs = augment.MixUp(classes=3, dtype="mixed_bfloat16")(*inputs)
    assert [tuple(output.shape) for output in outputs] == [(None, 4, 4, 1), (None, 3)]
    assert [keras.backend.standardize_dtype(output.dtype) for output in outputs] == ["bfloat16", "float32"]
    labels = keras.Model(inputs, outputs)([np.ones((2, 4, 4, 1)), np.array([0, 2])], training=False)[1]
    assert np.array_equal(labels, np.eye(3)[[0, 2]])


@pytest.mark.parametrize("alpha", [0, -1, float("nan"), float("inf")])
def test_mixup_refuses_an_alpha_that_is_no_distribution(alpha):
    with pytest.raises(ValueError, match="alpha="):
        augment.MixUp(alpha)


def test_mixup_in_a_pipeline_repeats_and_trains(tf):
    images, labels = pictures(40, 4, 4, 1), np.arange(40) % 4

    def batches():
        return data.batches(images, labels, 8, shuffle=True, seed=3, augment=augment.MixUp(classes=4))

    for first, again in zip(batches(), batches(), strict=True):
        assert all(np.array_equal(ours, theirs) for ours, theirs in zip(first, again, strict=True))
    model = keras.Sequential([keras.Input((4, 4, 1)), layers.Flatten(), layers.Dense(4, "softmax")])
    model.compile("sgd", "categorical_crossentropy")
    model.fit(batches(), verbose=0)
    mapped = tf.data.Dataset.from_tensor_slices((images, labels)).batch(8).map(augment.MixUp(classes=4))
    assert next(iter(mapped))[1].shape == (8, 4)


def test_mixup_without_labels_is_refused(tf):
    with pytest.raises(ValueError, match="give y"):
        data.batches(pictures(4, 4, 4, 1), augment=augment.MixUp())


# SamplePairing


def test_sample_pairing_averages_pairs_and_mixes_any_class():
    numbers = 2.0 ** np.arange(20)  # a sum of two tells which two
    paired = array(augment.SamplePairing(seed=0)(numbers.reshape(20, 1, 1, 1))).ravel()
    other = 2 * paired - numbers
    assert np.array_equal(np.sort(other), numbers)  # everyone is the partner of one
    assert (other != numbers).sum() > 10


def test_sample_pairing_is_turned_on_and_off_where_it_is(tf):
    images = pictures(8, 4, 4, 1)
    inside, outside = augment.SamplePairing(seed=0), augment.SamplePairing(seed=0)
    model = keras.Sequential([keras.Input((4, 4, 1)), inside])
    call = tf.function(lambda batch: model(batch, training=True))
    pipeline = tf.data.Dataset.from_tensors(images).map(outside)
    for on in (True, False, True):
        inside.turn(on)
        outside.turn(on)
        for result in (call(images), next(iter(pipeline))):
            assert np.array_equal(result, images) != on


@pytest.mark.parametrize("on", ["off", 1, None])
def test_sample_pairing_is_turned_by_true_or_false_only(on):
    with pytest.raises(ValueError, match="True or False"):
        augment.SamplePairing().turn(on)


def test_sample_pairing_that_is_off_is_off_after_saving(tmp_path):
    layer = augment.SamplePairing()
    model = keras.Sequential([keras.Input((4, 4, 1)), layer])
    layer.turn(False)
    model.save(tmp_path / "off.keras")
    images = pictures(8, 4, 4, 1)
    loaded = keras.saving.load_model(tmp_path / "off.keras")
    assert np.array_equal(loaded(images, training=True), images)


def test_sample_pairing_schedule_finds_the_layer_inside_another_model():
    layer = augment.SamplePairing()
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.Sequential([layer])])
    schedule = augment.SamplePairingSchedule(start=1, stop=2)
    schedule.set_model(model)
    schedule.on_epoch_begin(0)
    assert float(layer.share) == 0


@given(start=st.integers(0, 6), length=st.integers(0, 12), on=st.integers(1, 4), off=st.integers(0, 3))
def test_sample_pairing_schedule_is_off_at_both_ends_and_alternates_between(start, length, on, off):
    schedule = augment.SamplePairingSchedule(start, start + length, on, off)
    states = [schedule.is_on(epoch) for epoch in range(start + length + 5)]
    expected = ([True] * on + [False] * off) * 20
    assert states == [False] * start + expected[:length] + [False] * 5


def test_sample_pairing_schedule_drives_the_layer_in_a_model_and_in_a_pipeline():
    inside, outside, states = augment.SamplePairing(), augment.SamplePairing(), []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            states.append([float(inside.share.value), float(outside.share.value)])

    model = keras.Sequential([keras.Input((2, 2, 1)), inside, layers.Flatten(), layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    schedules = [augment.SamplePairingSchedule(1, 4, 1, 1, layer) for layer in (None, outside)]
    model.fit(np.ones((4, 2, 2, 1)), np.ones((4, 1)), epochs=5, verbose=0, callbacks=[*schedules, Watch()])
    assert states == [[0, 0], [1, 1], [0, 0], [1, 1], [0, 0]]


def test_sample_pairing_schedule_without_a_layer_says_so():
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    with pytest.raises(ValueError, match="no SamplePairing layer"):
        model.fit(
            np.ones((2, 1)), np.ones((2, 1)), verbose=0, callbacks=[augment.SamplePairingSchedule(0, 1)]
        )


@pytest.mark.parametrize("settings", [(-1, 3), (4, 3), (0, 3, 0), (0, 3, 1, -1)], ids=readable)
def test_sample_pairing_schedule_refuses_bad_epochs(settings):
    with pytest.raises(ValueError, match="0 <= start <= stop"):
        augment.SamplePairingSchedule(*settings)


# The everyday list of layers


def test_basic_is_a_list_of_kerass_layers_with_a_seed_each():
    pipeline = augment.basic(flip="horizontal", rotation=36, shift=0.1, zoom=0.2, seed=5)
    assert [type(layer).__name__ for layer in pipeline.layers] == [
        "RandomFlip", "RandomRotation", "RandomTranslation", "RandomZoom",
    ]  # fmt: skip
    assert [layer.seed for layer in pipeline.layers] == [5, 6, 7, 8]
    assert pipeline.layers[1].factor == pytest.approx((-0.1, 0.1))
    images = pictures(16, 8, 8, 1).astype("float32")
    again = augment.basic(flip="horizontal", rotation=36, shift=0.1, zoom=0.2, seed=5)
    result = array(pipeline(images, training=True))
    assert np.array_equal(again(images, training=True), result) and not np.array_equal(result, images)
    assert np.array_equal(pipeline(images, training=False), images)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({}, "nothing to do"),
        ({"rotation": -1}, "rotation=-1"),
        ({"rotation": 200}, "rotation=200"),
        ({"shift": 1.5}, "shift=1.5"),
        ({"zoom": 1.0}, "zoom=1.0"),
        ({"flip": "sideways"}, "sideways"),
    ],
    ids=readable,
)
def test_basic_refuses_what_makes_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        augment.basic(**settings)


# RandAugment, policies


def operate(images, name, magnitude):
    """One operation at one magnitude, upwards or to the right, on images in [0, 255]."""
    layer = rand_augment(operations=(name,))
    chosen = np.zeros(len(images), "int32")
    magnitude = np.full(len(images), magnitude, "float32")
    given = map(ops.convert_to_tensor, (images.astype("float32") / 255, chosen, magnitude))
    return 255 * array(layer._operate(*given))


@pytest.mark.parametrize("factor", [0.1, 0.7, 1.0, 1.3, 1.9])
@pytest.mark.parametrize(
    "name, enhancer",
    [
        ("brightness", ImageEnhance.Brightness),
        ("color", ImageEnhance.Color),
        ("contrast", ImageEnhance.Contrast),
        ("sharpness", ImageEnhance.Sharpness),
    ],
)
def test_enhancing_is_pillows(name, enhancer, factor, photos):
    image = photos[0, :64, :80]
    expected = np.asarray(enhancer(Image.fromarray(image)).enhance(factor), "float32")
    ours = operate(image[None], name, (factor - 1) / 0.9)[0]
    assert np.abs(ours - expected).max() < 2.5  # Pillow rounds twice


def test_autocontrast_is_pillows(photos):
    image = (photos[0, :64, :80] // 2 + 40).astype("uint8")
    expected = np.asarray(ImageOps.autocontrast(Image.fromarray(image)), "float32")
    assert np.abs(operate(image[None], "autocontrast", 1.0)[0] - expected).max() < 1.5


@pytest.mark.parametrize("magnitude, threshold", [(0.0, 256), (0.5, 128), (1.0, 0)])
def test_solarize_is_pillows(magnitude, threshold):
    image = pictures(16, 16, 3)
    expected = np.asarray(ImageOps.solarize(Image.fromarray(image), threshold))
    for signed in (magnitude, -magnitude):
        np.testing.assert_allclose(operate(image[None], "solarize", signed)[0], expected, atol=1e-3)


@pytest.mark.parametrize("magnitude, kept", [(0.0, 8), (0.25, 7), (0.5, 6), (1.0, 4)])
def test_posterize_is_pillows(magnitude, kept):
    image = pictures(16, 16, 3)
    expected = np.asarray(ImageOps.posterize(Image.fromarray(image), kept))
    np.testing.assert_allclose(operate(image[None], "posterize", magnitude)[0], expected, atol=1e-3)


@given(seed=st.integers(0, 1000), channels=st.sampled_from([1, 3]), levels=st.integers(1, 256))
def test_equalize_is_that_of_each_image_and_channel(seed, channels, levels):
    images = np.random.default_rng(seed).integers(0, levels, (3, 7, 5, channels)).astype("uint8")
    np.testing.assert_allclose(operate(images, "equalize", 0.0), normalize.equalize(images), atol=1e-3)


def test_rotation_turns_about_the_centre_and_translation_moves_by_part_of_the_side():
    dot = np.zeros((1, 21, 11, 1), "uint8")
    dot[0, 10, 5, 0] = 255  # the centre
    assert np.argwhere(operate(dot, "rotate", 1.0) > 254).tolist() == [[0, 10, 5, 0]]
    for name, axis, side in (("translate_y", 1, 21), ("translate_x", 2, 11)):
        moved = operate(dot, name, 2 / side / 0.45)
        assert np.argwhere(moved > 254).tolist() == [[0, 8, 5, 0] if axis == 1 else [0, 10, 3, 0]]


@pytest.mark.parametrize("name", augment.OPERATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_operations_keep_the_range_and_small_magnitudes_do_little(name, channels):
    images = np.linspace(0, 255, 2 * 9 * 8 * channels).reshape(2, 9, 8, channels)
    for magnitude in (-1.0, -0.4, 0.4, 1.0):
        result = operate(images, name, magnitude)
        assert result.min() >= 0 and result.max() <= 255.001
    if name not in ("autocontrast", "equalize"):
        np.testing.assert_allclose(operate(images, name, 0.0), images, atol=1)  # posterize rounds


def test_randaugment_chooses_for_every_image_anew():
    image = pictures(1, 12, 12, 3)
    same = np.repeat(image, 200, axis=0)
    result = array(rand_augment(count=1, magnitude=0.5, seed=0)(same)).reshape(200, -1)
    # Twelve operations that change this image, nine of them in two directions; identity leaves it.
    assert 12 < len(np.unique(result.round(2), axis=0)) <= 25


def test_randaugment_takes_the_count_and_the_operations_that_it_is_given():
    images = pictures(64, 6, 6, 1).astype("float32")
    turned = rand_augment(2, 1.0, ("solarize",), seed=0)(images)  # twice inverted
    np.testing.assert_allclose(turned, images, atol=1e-3)
    unit = rand_augment(value_range=(0, 1), seed=0)(images / 255)
    np.testing.assert_allclose(255 * unit, rand_augment(seed=0)(images), atol=0.01)


def test_policy_applies_a_subpolicy_to_each_image_with_its_probabilities():
    images = np.full((4000, 2, 2, 1), 51, "uint8")
    inverted, darker, both = 204, 51 * 0.1, 204 * 0.1
    chosen = policy([[("solarize", 1.0, 1.0)], [("solarize", 0.25, 1.0), ("identity", 1.0, 0.0)]], seed=0)
    found = array(chosen(images))[:, 0, 0, 0]
    assert set(found.round(1)) == {51, inverted}
    assert np.mean(found > 100) == pytest.approx(0.5 + 0.5 * 0.25, abs=0.04)
    chosen = policy([[("solarize", 0.5, 1.0), ("brightness", 0.5, 1.0)]], seed=0)
    found = array(chosen(images))[:, 0, 0, 0]
    for value in (darker, both):  # brightness goes down in half of its cases
        assert np.mean(np.abs(found - value) < 0.1) == pytest.approx(0.125, abs=0.03)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: rand_augment(count=0), "count=0"),
        (lambda: rand_augment(magnitude=1.5), "magnitude=1.5"),
        (
            lambda: rand_augment(operations=("invert",)),
            r"operations: \['invert'\]; known are identity",
        ),
        (lambda: rand_augment(operations=()), "operations: none"),
        (lambda: rand_augment(value_range=(1, 0)), r"value_range=\(1, 0\)"),
        (lambda: policy([]), "subpolicies"),
        (lambda: policy([[("rotate", 1.0, 0.5)], []]), "subpolicies"),
        (lambda: policy([[("rotate", 1.5, 0.5)]]), "rotate: probability 1.5"),
        (lambda: policy([[("spin", 1.0, 0.5)]]), "spin"),
        (lambda: policy([("rotate", 1.0, 0.5)]), "list of lists of"),
        (lambda: policy([[("rotate", 1.0)]]), "list of lists of"),
        (lambda: policy(3), "list of lists of"),
        (lambda: rand_augment(1.5), "count=1.5"),
        (lambda: rand_augment(value_range=255), "value_range=255"),
        (lambda: rand_augment(value_range=(0, np.inf)), "value_range="),
        (lambda: rand_augment(operations="turn"), "operations: .'turn'."),
        (lambda: rand_augment(value_range=(0, 1))(pictures(2, 4, 4, 1)), "whole numbers have"),
    ],
    ids=range(17),
)
def test_operations_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_images_that_are_not_finite_are_equalized_without_an_error():
    images = pictures(2, 8, 8, 3).astype("float32")
    images[0, 0, 0, 0] = np.nan
    layer = augment.RandAugment(1, operations=("equalize",), value_range=(0, 255), seed=0)
    assert np.isfinite(array(layer(images))[1]).all()


# Policy search


def count_rotations(policy):
    return sum(step[0] == "rotate" for steps in policy.subpolicies for step in steps)


def search(reward=count_rotations, **changes):
    settings = {"trials": 40, "operations": ("identity", "rotate", "solarize"), "progress": False, **changes}
    return augment.search_policy(reward, **{"value_range": (0, 255), **settings})


def test_search_learns_what_is_rewarded():
    found = search(trials=80)
    assert found.shares.shape == (80, 3)
    np.testing.assert_allclose(found.shares.sum(axis=1), 1)
    assert found.shares[-1, 1] > 0.8 and found.shares[0, 1] < 0.4
    assert max(found.rewards) == count_rotations(augment.Policy(found.best, found.value_range)) == 4
    assert np.mean(found.rewards[-20:]) > 3  # 4/3 by chance
    assert len(found.policies) == len(found.rewards) == 80


def test_search_learns_nothing_where_all_are_alike():
    found = search(lambda policy: 0.5)
    np.testing.assert_allclose(found.shares, 1 / 3)


def test_search_follows_from_its_seed():
    one, again, other = search(seed=1), search(seed=1), search(seed=2)
    assert one.policies == again.policies and one.rewards == again.rewards
    assert one.policies != other.policies


def test_search_that_was_interrupted_goes_on(tmp_path):
    whole, calls = search(), []

    def interrupted(policy):
        calls.append(policy)
        if len(calls) == 15:
            raise KeyboardInterrupt
        return count_rotations(policy)

    with pytest.raises(KeyboardInterrupt):
        search(interrupted, folder=tmp_path)
    found = search(interrupted, folder=tmp_path)
    assert len(calls) == 15 + 40 - 14
    assert found.policies == whole.policies and found.rewards == whole.rewards
    assert np.array_equal(found.shares, whole.shares)
    assert search(None, folder=tmp_path).rewards == whole.rewards  # read back: nothing is tried
    assert len(search(None, folder=tmp_path, trials=10).rewards) == 10


def test_search_refuses_a_folder_of_another_search_and_a_damaged_one(tmp_path):
    search(folder=tmp_path, trials=2)
    with pytest.raises(ValueError, match=r"other settings: rate was 0.3, is now 0.1$"):
        search(folder=tmp_path, rate=0.1)
    file = tmp_path / "search.json"
    for damaged in ("{", file.read_text().replace('"rewards": [', '"rewards": [NaN, ')):
        file.write_text(damaged)
        with pytest.raises(ValueError, match=r"search\.json is damaged"):
            search(folder=tmp_path)


def test_search_notices_a_folder_that_it_cannot_write_before_the_first_training(tmp_path):
    (tmp_path / "file").touch()
    calls = []
    with pytest.raises(OSError):
        search(calls.append, folder=tmp_path / "file")
    assert not calls


def test_two_searches_in_one_folder_are_refused(tmp_path):
    def meanwhile(policy):
        with pytest.raises(RuntimeError, match="another process is searching here"):
            search(folder=tmp_path, trials=1)
        return 0.5

    assert search(meanwhile, folder=tmp_path, trials=3).rewards == [0.5] * 3
    assert search(None, folder=tmp_path, trials=3).rewards == [0.5] * 3


def test_search_takes_the_numbers_of_numpy_and_keras(tmp_path):
    for number in (np.array(0.5), np.float32(0.5), keras.ops.convert_to_tensor(0.5)):
        given = {"value_range": np.array([0, 255]), "seed": np.int64(1), "folder": tmp_path, "trials": 2}
        assert search(lambda policy, number=number: number, **given).rewards == [0.5, 0.5]
    assert search(None, folder=tmp_path, trials=2, seed=1).rewards == [0.5, 0.5]
    with pytest.raises(TypeError):
        search(seed=1.7)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"trials": 0}, "trials=0"),
        ({"reward": lambda policy: "0.5"}, "reward returned '0.5'"),
        ({"reward": lambda policy: np.ones(1)}, "reward returned array"),
        ({"subpolicies": 0}, "subpolicies=0"),
        ({"rate": 0}, "rate=0"),
        ({"operations": ("spin",)}, "spin"),
        ({"reward": lambda policy: float("nan")}, "reward returned nan"),
    ],
    ids=readable,
)
def test_search_refuses_what_makes_no_sense(changes, message):
    with pytest.raises(ValueError, match=message):
        search(**changes)


# Smart Augmentation


@given(labels=st.lists(st.integers(0, 3), min_size=1, max_size=30), k=st.integers(1, 4))
def test_groups_have_one_class_and_end_with_the_image_itself(labels, k):
    labels = np.array(labels)
    groups = augment.same_class(labels, k)
    assert groups.shape == (len(labels), k + 1)
    assert (labels[groups] == labels[:, None]).all()
    assert np.array_equal(groups[:, -1], np.arange(len(labels)))
    several = np.bincount(labels)[labels] > 1
    assert (groups[several, :-1] != groups[several, -1:]).all()


@pytest.mark.parametrize(
    "labels, k", [([], 1), ([0.5], 1), ([[1]], 1), ([1, 2], 0), ([1, 2], 1.5)], ids=readable
)
def test_groups_refuse_what_is_no_labels(labels, k):
    with pytest.raises(ValueError, match="labels" if k == 1 else "k=.* whole number"):
        augment.same_class(np.array(labels), k)


def smart(alpha=0.3, beta=0.7):
    classifier = keras.Sequential([keras.Input((6, 6, 1)), layers.Flatten(), layers.Dense(3, "softmax")])
    model = augment.SmartAugmentation(classifier, k=2, alpha=alpha, beta=beta)
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def test_smart_augmentation_has_the_loss_of_the_paper():
    model, labels = smart(0.2, 0.5), np.array([0, 1, 2, 0])
    groups = RNG.random((4, 3, 6, 6, 1), dtype="float32")
    found = model.evaluate(groups, labels, verbose=0, return_dict=True)
    merged, real = array(model.merge(groups)), groups[:, 2]
    said = np.concatenate([array(model.classifier(images)) for images in (merged, real)])
    entropy = -np.log(said[np.arange(8), np.tile(labels, 2)]).mean()
    assert found["loss"] == pytest.approx(0.2 * np.mean((merged - real) ** 2) + 0.5 * entropy, rel=1e-5)
    assert found["accuracy"] == pytest.approx(np.mean(said.argmax(axis=1) == np.tile(labels, 2)))


def test_smart_augmentation_has_the_loss_of_its_classifier_on_ordinary_images():
    model, labels = smart(0.2, 0.5), np.array([0, 1, 2, 0])
    images = RNG.random((4, 6, 6, 1), dtype="float32")
    model.classifier.compile(loss="sparse_categorical_crossentropy")
    alone = model.classifier.evaluate(images, labels, verbose=0)
    assert model.evaluate(images, labels, verbose=0)[0] == pytest.approx(alone, rel=1e-5)


def test_smart_augmentation_trains_both_networks_and_validates_on_ordinary_images():
    model, labels = smart(), np.arange(30) % 3
    images = np.zeros((30, 6, 6, 1), "float32")
    images[np.arange(30), labels, 2] = 1
    groups = images[augment.same_class(labels, 2)]
    before = np.mean((array(model.merge(groups)) - images) ** 2)
    history = model.fit(groups, labels, epochs=30, verbose=0, validation_data=(images, labels)).history
    assert history["val_accuracy"][-1] == 1
    assert np.mean((array(model.merge(groups)) - images) ** 2) < 0.8 * before
    assert model.classifier.predict(images, verbose=0).argmax(axis=1).tolist() == labels.tolist()


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_smart_augmentation_takes_bytes_weights_and_mixed_precision(policy):
    with configured(dtype_policy=policy):
        model, labels = smart(), np.arange(8) % 3
        groups = RNG.integers(0, 2, (8, 3, 6, 6, 1)).astype("uint8")
        model.fit(groups, labels, sample_weight=np.ones(8), verbose=0)
        equal, none = (
            model.evaluate(groups, labels, sample_weight=weight, verbose=0)[0]
            for weight in (np.ones(8), np.zeros(8))
        )
        assert 0 < none < equal  # what is left without any weight is the distance of the drawing


@pytest.mark.parametrize("shape", [(6, 6, 1), (2, 6, 6, 1)], ids=readable)
def test_smart_augmentation_does_not_train_on_anything_but_groups(shape):
    with pytest.raises(ValueError, match="fit groups"):
        smart().fit(np.zeros((4, *shape)), np.zeros(4, int), verbose=0)


def test_smart_augmentation_is_saved_with_both_networks(tmp_path):
    model, labels = smart(0.2, 0.5), np.array([0, 1, 2, 0])
    groups = RNG.random((4, 3, 6, 6, 1), dtype="float32")
    model.fit(groups, labels, verbose=0)
    model.save(tmp_path / "smart.keras")
    loaded = keras.saving.load_model(tmp_path / "smart.keras", safe_mode=True)
    config = model.get_config()
    assert {augment.SmartAugmentation.from_config(config).k for _ in range(2)} == {2}  # it is left as it was
    assert (loaded.k, loaded.alpha, loaded.beta) == (2, 0.2, 0.5)
    assert np.array_equal(*(array(one.merge(groups)) for one in (loaded, model)))
    assert loaded.evaluate(groups, labels, verbose=0) == model.evaluate(groups, labels, verbose=0)


@pytest.mark.parametrize(
    "changes",
    [{"k": 0}, {"alpha": -1}, {"beta": 0}, {"classifier": keras.Sequential()}, {"k": 1.5}],
    ids=readable,
)
def test_smart_augmentation_refuses_what_makes_no_sense(changes):
    given = {"classifier": smart().classifier, **changes}
    with pytest.raises(
        ValueError, match="classifier must be" if "classifier" in changes else f"{next(iter(changes))}="
    ):
        augment.SmartAugmentation(**given)


# The way out of ImageDataGenerator


RANGES = {
    "theta": (-180, 180),
    "tx": (-9, 9),
    "ty": (-9, 9),
    "shear": (-60, 60),
    "zx": (0.4, 2),
    "zy": (0.4, 2),
    "flip_horizontal": (0, 1),
    "flip_vertical": (0, 1),
    "channel_shift_intensity": (-60, 60),
}


NEUTRAL = {name: 1.0 if name in ("zx", "zy") else False if "flip" in name else 0.0 for name in RANGES}


def draw(names, count, rng):
    drawn = {name: rng.uniform(*RANGES[name], count) for name in names}
    return {name: value > 0.5 if "flip" in name else value for name, value in drawn.items()}


def old_way(images, parameters, **arguments):
    old = ImageDataGenerator(**arguments)
    one_by_one = [{name: value[i] for name, value in parameters.items()} for i in range(len(images))]
    return np.stack(
        [old.apply_transform(image.copy(), p) for image, p in zip(images, one_by_one, strict=True)]
    )


def assert_same_pictures(images, parameters, fill_mode, order, groups=("all",)):
    """Of each group of images, which follow each other, only so many pixels may differ."""
    arguments = {"fill_mode": fill_mode, "cval": 17.0, "interpolation_order": order}
    ours = array(from_generator(**arguments).apply_transform(images, parameters))
    differ = np.abs(ours - old_way(images, parameters, **arguments)) > 0.02
    # Where a pixel falls exactly on a border, or between two pixels, rounding decides which one is meant.
    most = 0.03 if fill_mode in ("constant", "wrap") or order == 0 else 1e-12
    for name, part in zip(groups, np.split(differ, len(groups)), strict=True):
        assert part.mean() < most, name


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("fill_mode", MODES)
def test_one_parameter_gives_the_picture_of_the_old_class(fill_mode, order):
    images = np.empty((6 * len(RANGES), 9, 14, 3), "float32")
    parameters = {name: np.repeat(value, len(images)) for name, value in NEUTRAL.items()}
    for k, name in enumerate(RANGES):  # six images for each, all in one call, since it is compiled
        rng, six = np.random.default_rng(0), slice(6 * k, 6 * k + 6)
        images[six] = rng.uniform(0, 255, (6, 9, 14, 3))
        parameters[name][six] = draw([name], 6, rng)[name]
    assert_same_pictures(images, parameters, fill_mode, order, RANGES)


@given(
    names=st.sets(st.sampled_from(sorted(RANGES))),
    seed=st.integers(0, 2**31 - 1),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3])),
    fill_mode=st.sampled_from(MODES),
    order=st.sampled_from([0, 1]),
)
def test_parameters_together_give_the_picture_of_the_old_class(names, seed, shape, fill_mode, order):
    rng = np.random.default_rng(seed)
    images = rng.uniform(0, 255, (6, *shape)).astype("float32")
    assert_same_pictures(images, draw(sorted(names), 6, rng), fill_mode, order)


@pytest.mark.parametrize("low, high", [(0, 255), (-100, 300)], ids=["in range", "out of it"])
def test_brightness_is_the_old_one_but_for_its_rounding(low, high):
    images = RNG.uniform(low, high, (5, 6, 7, 3)).astype("float32")
    factors = np.array([0, 0.3, 1, 1.4, 2.5])
    theirs = old_way(images, {"brightness": factors})
    ours = array(from_generator().apply_transform(images, {"brightness": factors}))
    step = (high - low) / 255
    assert np.abs(ours - theirs).max() <= (factors.max() + 1) * step + 1e-3


def test_brightness_works_on_images_up_to_one_where_the_old_class_turns_them_black():
    images = RNG.uniform(0, 1, (3, 6, 6, 1)).astype("float32")
    ours = array(from_generator().apply_transform(images, {"brightness": 0.5}))
    np.testing.assert_allclose(ours, images / 2, atol=1e-6)
    assert old_way(images, {"brightness": np.full(3, 0.5)}).max() == 0


def test_where_the_old_class_says_width_images_move_up_and_down():
    dot = np.zeros((1, 9, 9, 1), "float32")
    dot[0, 4, 4, 0] = 1
    moved = from_generator(width_shift_range=[2.0], fill_mode="constant", seed=0)(np.repeat(dot, 20, axis=0))
    rows, columns = np.nonzero(array(moved).sum(axis=(0, 3)))
    assert set(rows) == {2, 6} and set(columns) == {4}


@pytest.mark.parametrize(
    "arguments, name",
    [
        ({"rotation_range": 30}, "theta"),
        ({"shear_range": 20}, "shear"),
        ({"width_shift_range": 0.25}, "ty"),
        ({"height_shift_range": 0.25}, "tx"),
        ({"width_shift_range": 2.5}, "ty"),
        ({"width_shift_range": 3}, "ty"),
        ({"width_shift_range": 1}, "ty"),
        ({"height_shift_range": [0.1, 0.3]}, "tx"),
        ({"height_shift_range": (2, 5)}, "tx"),
        ({"zoom_range": 0.3}, "zx"),
        ({"zoom_range": (0.8, 1.6)}, "zy"),
        ({"horizontal_flip": True}, "flip_horizontal"),
        ({"vertical_flip": True}, "flip_vertical"),
        ({"channel_shift_range": 25.0}, "channel_shift_intensity"),
        ({"brightness_range": (0.4, 1.2)}, "brightness"),
    ],
    ids=readable,
)
def test_random_parameters_are_spread_like_those_of_the_old_class(arguments, name):
    """Two samples from one distribution: the same mean, spread and ends."""
    count = 4000
    layer = from_generator(seed=0, **arguments)
    ours = layer._random_parameters((count, 20, 30, 1), layer.seed_generator)[name]
    ours = np.asarray(ours, "float64")
    old = ImageDataGenerator(**arguments)
    np.random.seed(0)
    theirs = np.array([old.get_random_transform((20, 30, 1))[name] for _ in range(count)], "float64")
    error = theirs.std() / np.sqrt(count)
    assert abs(ours.mean() - theirs.mean()) <= 5 * error
    assert abs(ours.std() - theirs.std()) <= 5 * error
    near = 0.01 * np.ptp(theirs)
    assert abs(ours.min() - theirs.min()) <= near and abs(ours.max() - theirs.max()) <= near
    assert len(np.unique(ours)) == len(np.unique(theirs)) or len(np.unique(theirs)) > 100


STANDARD = [
    {"rescale": 1 / 255},
    {"samplewise_center": True},
    {"samplewise_std_normalization": True},
    {"featurewise_center": True},
    {"featurewise_std_normalization": True, "rescale": 1 / 255},
    {"featurewise_center": True, "samplewise_std_normalization": True, "rescale": 0.1},
    {"zca_whitening": True, "zca_epsilon": 0.1, "rescale": 1 / 255},
]


@pytest.mark.filterwarnings("ignore:This ImageDataGenerator specifies")
@pytest.mark.parametrize("arguments", STANDARD, ids=readable)
def test_statistics_are_those_of_the_old_class(arguments):
    images = pictures(300, 4, 3, 2)
    old, layer = ImageDataGenerator(**arguments), from_generator(**arguments)
    old.fit(images)
    assert layer.fit(images) is layer
    expected = np.stack([old.standardize(image.astype("float32")) for image in images[:20]])
    for found in (layer(images[:20]), layer(images[:20], training=False)):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_fit_measures_augmented_images_if_told_to():
    images = np.full((600, 4, 4, 1), 100, "uint8")
    layer = from_generator(featurewise_std_normalization=True, brightness_range=(0.5, 1.5), seed=0)
    layer.fit(images, augment=True, rounds=3)
    assert float(layer.mean[0]) == pytest.approx(100, abs=3)
    assert float(layer.std[0]) == pytest.approx(100 / np.sqrt(12), abs=2)
    assert float(layer.fit(images).std[0]) == 0


def test_whitening_leaves_out_what_never_varies():
    images = pictures(200, 3, 3, 1).astype("float32")
    images[:, 0] = images[:, 1]
    white = array(from_generator(zca_whitening=True).fit(images)(images)).reshape(200, -1)
    assert np.isfinite(white).all() and np.abs(white).max() < 10


@pytest.mark.parametrize("arguments", STANDARD[3:], ids=readable)
def test_statistics_are_saved_with_the_model(arguments, tmp_path):
    images = pictures(40, 4, 3, 2)
    model = keras.Sequential([keras.Input((4, 3, 2)), from_generator(**arguments).fit(images)])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    assert np.array_equal(loaded.predict(images, verbose=0), model.predict(images, verbose=0))


def test_images_are_standardized_each_in_half_precision():
    images = np.zeros((1, 64, 64, 3), "uint8")
    images[:, 32:] = 255
    layer = from_generator(samplewise_std_normalization=True, dtype="mixed_float16")
    found = array(layer(images, training=False))
    np.testing.assert_allclose(found[0, [0, -1], 0, 0], [-1, 1], rtol=1e-3)


def test_numbers_of_numpy_are_kept_as_pythons_own():
    given = {"rotation_range": np.float32(20), "zoom_range": np.array(0.25), "rescale": np.float64(0.5)}
    layer = from_generator(**given, brightness_range=np.array([0.5, 1.5]))
    same = from_generator(rotation_range=20, zoom_range=0.25, rescale=0.5, brightness_range=(0.5, 1.5))
    ours, theirs = (json.loads(json.dumps(each.get_config()["arguments"])) for each in (layer, same))
    assert ours == theirs


@pytest.mark.parametrize("name", ["featurewise_center", "featurewise_std_normalization", "zca_whitening"])
def test_statistics_that_were_not_measured_are_an_error(name):
    with pytest.raises(ValueError, match=f"{name}: call `fit`"):
        from_generator(**{name: True})(pictures(2, 4, 4, 1))


@pytest.mark.parametrize(
    "images", [np.zeros((0, 4, 4, 1)), np.zeros((4, 4, 1)), np.full((2, 4, 4, 1), np.nan)], ids=readable
)
def test_fit_refuses_what_has_no_statistics(images):
    with pytest.raises(ValueError, match="must be finite numbers"):
        from_generator(featurewise_center=True).fit(images)


def test_fit_refuses_no_rounds():
    with pytest.raises(ValueError, match="rounds=0"):
        from_generator(featurewise_center=True).fit(pictures(2, 4, 4, 1), augment=True, rounds=0)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"rotation": 3}, TypeError, "rotation: not an argument of ImageDataGenerator"),
        ({"preprocessing_function": np.sqrt}, ValueError, "preprocessing_function"),
        ({"validation_split": 0.1}, ValueError, "validation_split"),
        ({"data_format": "channels_first"}, ValueError, "data_format"),
        ({"interpolation_order": 3}, ValueError, "interpolation_order=3"),
        ({"fill_mode": "mirror"}, ValueError, "fill_mode='mirror'"),
        ({"rotation": 3}, TypeError, "did you mean rotation_range"),
        ({"rotation_range": "15"}, ValueError, "rotation_range='15'"),
        ({"samplewise_center": "yes"}, ValueError, "samplewise_center='yes'"),
        ({"shear_range": float("nan")}, ValueError, "shear_range=nan"),
        ({"width_shift_range": float("inf")}, ValueError, "width_shift_range=inf"),
        ({"height_shift_range": []}, ValueError, r"height_shift_range=\[\]"),
        ({"zoom_range": 1.5}, ValueError, "zoom_range=1.5"),
        ({"zoom_range": (0, 1)}, ValueError, "zoom_range"),
        ({"brightness_range": (0.1, 0.2, 0.3)}, ValueError, "brightness_range"),
        ({"brightness_range": 0.5}, ValueError, "brightness_range"),
        ({"brightness_range": (-0.5, 1)}, ValueError, "brightness_range"),
        ({"zca_whitening": True, "featurewise_std_normalization": True}, ValueError, "exclude each other"),
    ],
    ids=readable,
)
def test_what_cannot_be_honoured_is_an_error(arguments, error, message):
    with pytest.raises(error, match=message):
        from_generator(**arguments)


@pytest.mark.parametrize(
    "arguments, same",
    [
        ({"rotation_range": -10}, {"rotation_range": 10}),
        ({"shear_range": -5.0, "channel_shift_range": -9}, {"shear_range": 5.0, "channel_shift_range": 9}),
        ({"width_shift_range": [-3, 3]}, {"width_shift_range": [3, 3]}),
        ({"height_shift_range": -0.1}, {"height_shift_range": 0.1}),
        ({"zoom_range": [1.2, 0.8]}, {"zoom_range": (0.8, 1.2)}),
        ({"brightness_range": (1.5, 0.5)}, {"brightness_range": (0.5, 1.5)}),
    ],
    ids=readable,
)
def test_ranges_may_be_written_backwards_as_in_the_old_class(arguments, same):
    images = pictures(8, 6, 6, 1)
    ours, theirs = (from_generator(**given, seed=1)(images) for given in (arguments, same))
    assert np.array_equal(ours, theirs)


def test_copies_from_the_configuration_are_not_fitted():
    images = pictures(8, 4, 4, 1)
    layer = from_generator(featurewise_center=True).fit(images)
    copy = augment.ImageDataAugmentation.from_config(layer.get_config())
    clone = keras.models.clone_model(keras.Sequential([keras.Input((4, 4, 1)), layer]))
    for unfitted in (copy, clone):
        with pytest.raises(ValueError, match="call `fit`"):
            unfitted(images, training=False)


def test_transform_takes_what_the_old_class_draws():
    old = ImageDataGenerator(rotation_range=30, zoom_range=0.2, fill_mode="constant")
    image = pictures(9, 9, 1).astype("float32")
    drawn = old.get_random_transform(image.shape, seed=0)  # with None for what was not asked for
    ours = from_generator(fill_mode="constant").apply_transform(image[None], drawn)[0]
    np.testing.assert_allclose(ours, old.apply_transform(image, drawn), atol=0.02)


def test_arguments_that_change_nothing_are_accepted():
    images = pictures(2, 4, 4, 1)
    layer = from_generator(
        data_format="channels_last", validation_split=0.0, preprocessing_function=None, dtype="float32"
    )
    assert np.array_equal(layer(images), images)
    assert np.array_equal(from_generator()(images), images)


def test_a_layer_takes_images_of_any_size(tf):
    layer = from_generator(rotation_range=30, fill_mode="reflect", seed=0)
    sizes = tf.data.Dataset.from_generator(
        lambda: (pictures(2, n, n + 1, 3) for n in (4, 7)),
        output_signature=tf.TensorSpec((None, None, None, 3)),
    )
    assert [tuple(batch.shape) for batch in sizes.map(layer)] == [(2, 4, 5, 3), (2, 7, 8, 3)]


@pytest.mark.parametrize("name", ["rotation_range", "zoom_range", "cval", "width_shift_range"])
def test_an_argument_of_the_old_class_that_is_none_is_named(name):
    with pytest.raises(ValueError, match=f"{name}=None must be a number"):
        augment.from_image_data_generator(**{name: None})


def test_the_old_class_takes_ones_for_true():
    layer = augment.from_image_data_generator(featurewise_center=1.0, samplewise_center=0.0)
    assert layer.get_config()["arguments"]["featurewise_center"] is True
    assert layer.get_config()["arguments"]["samplewise_center"] is False


def test_a_configuration_is_a_copy():
    layer = augment.from_image_data_generator(rotation_range=10)
    layer.get_config()["arguments"]["rotation_range"] = 50
    assert layer.get_config()["arguments"]["rotation_range"] == 10
