"""Batches in the safe order, as `tf.data` makes them."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evakeras import data
from evakeras.augment import Cutout

pytestmark = pytest.mark.usefixtures("tf")


def numbered(count, dtype=np.uint8):
    """Images that carry their number in every pixel, and the numbers as labels."""
    return np.arange(count, dtype=dtype).reshape(count, 1, 1, 1) * np.ones((1, 3, 2, 1), dtype), np.arange(
        count
    )


def collect(dataset):
    """Numbers of the images in one epoch, in order, and the labels."""
    parts = [(images.numpy()[:, 0, 0, 0], labels.numpy()) for images, labels in dataset]
    return [np.concatenate(part).tolist() for part in zip(*parts, strict=True)]


@given(st.integers(1, 40), st.integers(1, 50), st.booleans())
def test_an_epoch_has_every_image_once_with_its_label(count, batch_size, shuffle):
    dataset = data.batches(*numbered(count), batch_size, shuffle=shuffle, seed=1)
    sizes = [len(labels) for _, labels in dataset]
    assert sizes == [batch_size] * (count // batch_size) + [count % batch_size] * (count % batch_size > 0)
    images, labels = collect(dataset)
    assert images == labels
    assert sorted(labels) == list(range(count))
    assert shuffle or labels == list(range(count))


def test_epochs_are_shuffled_anew_over_the_whole_set_and_the_seed_repeats_them():
    x, y = numbered(200)
    dataset, again = (data.batches(x, y, 32, shuffle=True, seed=7) for _ in range(2))
    first, second = collect(dataset)[1], collect(dataset)[1]
    assert first != second and first != sorted(first)
    assert max(first[:32]) > 100 and min(first[-32:]) < 100  # from everywhere, not from a window
    assert [collect(again)[1], collect(again)[1]] == [first, second]
    assert collect(data.batches(x, y, 32, shuffle=True, seed=8))[1] != first


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.float64])
def test_values_are_kept_and_the_type_becomes_float32(dtype):
    x, y = numbered(5, dtype)
    ((images, _),) = data.batches(x, y)
    assert images.dtype == "float32" and np.array_equal(images, x.astype(np.float32))
    ((alone),) = data.batches(x)
    assert alone.dtype == "float32" and np.array_equal(alone, images)


def test_labels_may_have_one_column_per_class():
    x, y = numbered(5)
    ((_, labels),) = data.batches(x, keras.utils.to_categorical(y, 5))
    assert np.array_equal(labels, np.eye(5))


class OnlyInTraining(keras.layers.Layer):
    """Adds 1000 in training, and the size of the batch times 10,000."""

    def call(self, images, training=False):
        assert images.dtype == "float32"
        size = keras.ops.cast(keras.ops.shape(images)[0], "float32")
        return images + (1_000 if training else 0) + 10_000 * size


def test_augmentation_sees_whole_float_batches_in_training_mode():
    x, y = numbered(7)
    images, labels = collect(data.batches(x, y, 4, augment=OnlyInTraining()))
    assert images == [n + 1_000 + 10_000 * (4 if n < 4 else 3) for n in range(7)]
    assert labels == list(range(7))


class Stateless:
    """Says which type it was given."""

    def stateless(self, images, seed):
        assert images.dtype == "uint8" and seed.dtype == "int64"
        return keras.ops.cast(images, "float32") * 2


def test_augmentation_that_follows_from_a_seed_gets_the_images_as_they_are():
    x, y = numbered(7)
    images, labels = collect(data.batches(x.astype("uint8"), y, 4, augment=Stateless()))
    assert images == [2 * n for n in range(7)] and labels == list(range(7))


def test_augmentation_can_be_a_function_and_leaves_labels_alone():
    x, y = numbered(9)
    images, labels = collect(
        data.batches(x, y, 4, shuffle=True, seed=0, augment=lambda batch: batch * 2 - 100)
    )
    assert images == [2 * label - 100 for label in labels]


def test_random_augmentation_repeats_with_the_seed_of_the_layer_too():
    images = np.ones((20, 6, 6, 1), "float32")

    def made(layer_seed, seed=None):
        return np.concatenate(
            list(data.batches(images, batch_size=8, seed=seed, augment=Cutout(3, seed=layer_seed)))
        )

    assert np.array_equal(made(1), made(1)) and not np.array_equal(made(1), made(2))
    assert np.array_equal(made(1, seed=5), made(2, seed=5))  # that of the batches comes first


@pytest.mark.parametrize("augment", [Cutout, [Cutout(3)], "cutout"], ids=["class", "list", "text"])
def test_augmentation_that_cannot_be_called_is_refused_at_once(augment):
    with pytest.raises(ValueError, match="must be a layer or a function"):
        data.batches(np.ones((4, 6, 6, 1)), augment=augment)


def test_random_augmentation_repeats_with_its_seed_and_differs_between_epochs():
    x = data.load_digits().x_train[:64]

    def two_epochs():
        dataset = data.batches(x, batch_size=16, augment=keras.layers.RandomTranslation(0.2, 0.2, seed=3))
        return [np.concatenate([batch.numpy() for batch in dataset]) for _ in range(2)]

    first, second = two_epochs()
    assert not np.array_equal(first, second)
    assert np.array_equal(two_epochs(), [first, second])


def test_keras_layers_that_change_labels_too_are_refused():
    x, y = numbered(4)
    for mixing in (
        keras.layers.MixUp(),
        keras.Sequential([keras.layers.RandomFlip(), keras.layers.CutMix()]),
    ):
        with pytest.raises(ValueError, match="changes labels too"):
            data.batches(x, np.eye(4)[y], 4, augment=mixing)


def test_bright_uint8_images_do_not_wrap_around():
    x = np.full((2, 4, 4, 1), 200, np.uint8)
    brighter = keras.layers.RandomBrightness((0.5, 0.5), value_range=(0, 255))
    ((images),) = data.batches(x, augment=brighter)
    assert (images.numpy() == 255).all()


def test_batches_can_train_a_model():
    model = keras.Sequential([keras.Input((3, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(9)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = model.fit(data.batches(*numbered(9), 4), epochs=2, shuffle=False, verbose=0).history
    assert len(history["loss"]) == 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"y": np.zeros(4)}, "y has shape"),
        ({"y": np.zeros(6)}, "y has shape"),
        ({"y": 3}, "y has shape"),
        ({"x": np.zeros((5, 3, 2))}, "x has shape"),
        ({"x": np.zeros((0, 3, 2, 1))}, "x has shape"),
        ({"x": np.full((5, 3, 2, 1), "a")}, "x has shape"),
        ({"x": np.zeros((5, 3, 2, 1), bool)}, "x has shape"),
        ({"x": np.zeros((5, 3, 2, 1), complex)}, "x has shape"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": -1}, "batch_size"),
        ({"batch_size": 2.0}, "batch_size=2.0 must be a whole number"),
        ({"batch_size": None}, "batch_size=None"),
    ],
    ids=["few labels", "many labels", "one label", "no channel axis", "no images", "text", "bool", "complex",
         "batch_size 0", "batch_size -1", "batch_size 2.0", "no batch_size"],
)  # fmt: skip
def test_batches_refuse_bad_input(arguments, message):
    x, y = numbered(5)
    with pytest.raises(ValueError, match=message):
        data.batches(**{"x": x, "y": y, **arguments})
