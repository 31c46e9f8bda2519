"""Every model and helper where Keras computes in bfloat16 and keeps its weights in float32."""

import keras
import numpy as np
import pytest
from conftest import configured
from keras import layers

from evakeras import augment, data, evaluate, explain, models, normalize, regularizers, train

array = keras.ops.convert_to_numpy
RNG = np.random.default_rng(0)
IMAGES = RNG.random((16, 28, 28, 1), np.float32)
BYTES = (255 * IMAGES).astype("uint8")
LABELS = np.arange(16) % 10
LOSS = "sparse_categorical_crossentropy"
EAGER = keras.backend.backend() == "tensorflow"  # which takes longer to trace a graph than for a few batches


@pytest.fixture(autouse=True)
def mixed_bfloat16():
    """The policy of new layers, as long as a test runs."""
    with configured(dtype_policy="mixed_bfloat16"):
        yield


def small(*more, end=None):
    """A model of every kind of layer that the course has, compiled."""
    hidden = [layers.Conv2D(4, 3, use_bias=False), layers.BatchNormalization(), layers.ReLU()]
    pooled = [layers.MaxPooling2D(4), layers.Flatten(), layers.Dropout(0.2)]
    ends = [layers.Dense(10), layers.Softmax(dtype="float32")] if end is None else end
    model = keras.Sequential([keras.Input((28, 28, 1)), *more, *hidden, *pooled, *ends])
    model.compile("adam", LOSS, metrics=["accuracy"], run_eagerly=EAGER)
    return model


def trained(model, **options):
    """The losses of two epochs."""
    return model.fit(IMAGES, LABELS, batch_size=8, epochs=2, verbose=0, **options).history["loss"]


# Models


NAMES = [name for name in models.PROGRESSION | models.COMPACT if name != "seventh"]  # the sixth once more


@pytest.mark.parametrize("name", NAMES)
def test_models_compute_in_bfloat16_and_give_float32(name):
    images, model = IMAGES, models.build(name)
    if name in models.RECIPES:
        images = augment.from_image_data_generator(**models.RECIPES[name].augmentation)(IMAGES)
        model = models.compiled(name, len(IMAGES), epochs=1)
    model.compile(getattr(model, "optimizer", "adam"), LOSS, run_eagerly=EAGER)
    assert np.isfinite(model.fit(images, LABELS, batch_size=8, verbose=0).history["loss"]).all()
    assert {layer.compute_dtype for layer in model.layers} == {"bfloat16", "float32"}
    assert {weight.dtype for weight in model.trainable_weights} == {"float32"}
    outputs = array(model(IMAGES, training=False))
    assert outputs.dtype == "float32"
    np.testing.assert_allclose(outputs.sum(axis=1), 1, atol=1e-5)  # which bfloat16 could not


def test_receptive_fields_are_those_of_float32():
    keras.config.set_dtype_policy("float32")
    expected = models.receptive_field(models.build("best"))
    keras.config.set_dtype_policy("mixed_bfloat16")
    assert models.receptive_field(models.build("best")) == expected


# Normalization


def test_images_are_standardized_inside_a_model():
    statistics = normalize.image_statistics(BYTES)
    layer = normalize.standardization_layer(statistics)
    found = array(layer(BYTES))
    assert found.dtype == "bfloat16"
    np.testing.assert_allclose(found.astype("float32"), normalize.standardize(BYTES), atol=0.02)
    assert np.isfinite(trained(small(layer))).all()


def test_batch_normalization_is_folded_away():
    model = small()
    trained(model)
    folded = normalize.fold_batch_norm(model)
    assert not any(isinstance(layer, layers.BatchNormalization) for layer in folded.layers)
    theirs, ours = (one.predict(IMAGES, verbose=0) for one in (model, folded))
    assert ours.dtype == "float32"
    np.testing.assert_allclose(ours, theirs, atol=0.02)


# Augmentation

LAYERS = {
    "cutout": lambda: augment.Cutout(5, seed=0),
    "sample pairing": lambda: augment.SamplePairing(seed=0),
    "randaugment": lambda: augment.RandAugment(value_range=(0, 255), seed=0),
    "policy": lambda: augment.Policy([[("equalize", 1, 0), ("rotate", 1, 0.5)]], (0, 255), seed=0),
    "old class": lambda: augment.from_image_data_generator(
        rotation_range=20, width_shift_range=0.1, zoom_range=0.1, brightness_range=(0.5, 1.5), seed=0
    ),
    "basic": lambda: augment.basic(flip="horizontal", rotation=10, shift=0.1, zoom=0.1, seed=0),
}


@pytest.mark.parametrize("name", LAYERS)
def test_images_are_augmented_in_bfloat16_as_in_float32(name):
    found = array(LAYERS[name]()(BYTES.astype("float32"), training=True))
    assert found.dtype == "bfloat16" and found.shape == BYTES.shape
    keras.config.set_dtype_policy("float32")
    expected = array(LAYERS[name]()(BYTES.astype("float32"), training=True))
    assert expected.dtype == "float32"
    differ = np.abs(found.astype("float32") - expected) > 4  # of 255: values are rounded to 8 bits
    assert differ.mean() < 0.01


@pytest.mark.parametrize("operation", augment.OPERATIONS)
def test_operations_round_no_more_than_once(operation):
    layer = augment.Policy([[(operation, 1.0, 1.0)]], (0, 255))
    found = array(layer.stateless(BYTES, [1, 2])).astype("float32")
    keras.config.set_dtype_policy("float32")
    exact = array(augment.Policy([[(operation, 1.0, 1.0)]], (0, 255)).stateless(BYTES, [1, 2]))
    assert np.abs(found - exact).max() <= 0.5 + 1e-3


def test_statistics_of_the_old_class_are_measured_in_full():
    layer = augment.from_image_data_generator(featurewise_std_normalization=True).fit(BYTES)
    statistics = normalize.image_statistics(BYTES)
    np.testing.assert_allclose(layer.mean, statistics.mean, rtol=1e-5)
    np.testing.assert_allclose(layer.std, statistics.std, rtol=1e-5)
    assert array(layer(BYTES, training=False)).dtype == "bfloat16"


def test_mixed_images_are_bfloat16_and_mixed_labels_float32():
    images, labels = map(array, augment.MixUp(0.4, classes=10, seed=0)(IMAGES, LABELS))
    assert images.dtype == "bfloat16" and labels.dtype == "float32"
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-6)


def test_images_are_resized_and_rescaled():
    found = array(augment.resize_and_rescale(14)(BYTES))
    assert found.dtype == "bfloat16" and found.shape == (16, 14, 14, 1)
    assert found.min() >= 0 and found.max() <= 1


def test_smart_augmentation_trains_both_networks():
    smart = augment.SmartAugmentation(small())
    smart.compile("adam", LOSS, metrics=["accuracy"], run_eagerly=EAGER)
    groups = IMAGES[augment.same_class(LABELS)]
    before = smart.get_weights()
    assert np.isfinite(smart.fit(groups, LABELS, batch_size=8, verbose=0).history["loss"]).all()
    assert not any(np.array_equal(*pair) for pair in zip(before[:2], smart.get_weights()[:2], strict=True))


def test_batches_stay_float32(tf):
    ((images, _),) = data.batches(BYTES, LABELS)
    assert images.dtype == "float32"


# Maps

MAPS = {
    "saliency": explain.saliency,
    "guided": explain.guided_backprop,
    "grad-cam": explain.grad_cam,
    "occlusion": lambda *given: explain.occlusion(*given, size=14, stride=14),
}
ENDS = {
    "softmax in float32": lambda: None,
    "softmax in bfloat16": lambda: [layers.Dense(10, "softmax")],
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", MAPS)
def test_maps_are_float32_and_like_those_of_a_float32_model(name, end):
    model = small(end=ENDS[end]())
    found = MAPS[name](model, IMAGES[:3], LABELS[:3])
    assert found.dtype == "float32" and found.shape == (3, 28, 28) and np.isfinite(found).all()
    keras.config.set_dtype_policy("float32")
    plain = small(end=ENDS[end]())
    plain.set_weights(model.get_weights())
    expected = MAPS[name](plain, IMAGES[:3], LABELS[:3])
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.95


def test_channels_are_drawn_in_float32():
    drawn = explain.activation_maximization(small(), channel=[0, 1], steps=3, seed=0)
    assert drawn.dtype == "float32" and drawn.shape == (2, 28, 28, 1) and np.isfinite(drawn).all()


def test_weights_drawn_anew_stay_float32():
    copy = explain.randomize(small(), seed=0)
    assert {weight.dtype for weight in copy.weights} == {"float32"}
    assert copy.layers[0].compute_dtype == "bfloat16"


# Regularization


def test_penalties_are_those_of_float32():
    model = regularizers.add_kernel_regularizer(small(), keras.regularizers.L1L2(0.01, 0.01))
    kernels = [weight.numpy().astype("float64") for weight in model.weights if weight.name == "kernel"]
    expected = sum(0.01 * (np.abs(kernel) + kernel**2).sum() for kernel in kernels)
    assert {keras.backend.standardize_dtype(loss.dtype) for loss in model.losses} == {"float32"}
    assert sum(regularizers.penalty(model).values()) == pytest.approx(expected, rel=1e-5)
    losses = trained(model)
    assert np.isfinite(losses).all() and losses[0] > expected / 2


def test_kernels_are_pruned_and_get_exact_zeros():
    model = small()
    assert np.isfinite(trained(model, callbacks=[regularizers.ProximalL1(5.0)])).all()
    found = regularizers.sparsity(model).total
    assert found > 0.01
    pruned = regularizers.prune(model, 0.9)
    assert regularizers.sparsity(pruned).total == pytest.approx(0.9, abs=0.01)
    assert pruned.layers[0].compute_dtype == "bfloat16"


# Training and evaluation


class PowerCut(Exception):
    pass


class Bar:
    """A progress bar in whose first epoch the power goes."""

    disable = True
    set_description = set_postfix = print

    def update(self):
        raise PowerCut


def test_a_study_that_was_cut_off_goes_on_with_the_same_bits(tmp_path):
    shared = {"epochs": 2, "batch_size": 8, "augment": augment.Cutout(5), "validation_data": (IMAGES, LABELS)}

    def study(folder):
        (found,) = train.study({"a": small}, IMAGES, LABELS, seeds=[0], folder=tmp_path / folder, **shared)[
            "a"
        ]
        return found

    whole = study("whole")
    with pytest.raises(PowerCut):
        train.run(small, IMAGES, LABELS, folder=tmp_path / "cut" / "a-seed0", progress=Bar(), **shared)
    cut = study("cut")
    assert cut.model().layers[0].compute_dtype == "bfloat16"
    assert not cut.read_back and cut.history == whole.history and study("cut").read_back
    assert np.isfinite([*whole.history["loss"], *whole.history["val_loss"]]).all()
    for ours, theirs in zip(cut.model().get_weights(), whole.model().get_weights(), strict=True):
        assert np.array_equal(ours, theirs)


def test_a_run_of_another_precision_is_refused(tmp_path):
    given = {"x": IMAGES, "y": LABELS, "epochs": 1, "folder": tmp_path}
    train.run(small, **given)
    keras.config.set_dtype_policy("float32")
    with pytest.raises(ValueError, match=r"another configuration: .*mixed_bfloat16"):
        train.run(small, **given)


def test_schedule_and_range_test_work():
    model = small()
    model.compile(keras.optimizers.SGD(train.OneCycle(0.1, steps=4)), LOSS, run_eagerly=EAGER)
    assert np.isfinite(trained(model)).all()
    model.compile("sgd", LOSS, run_eagerly=EAGER)
    before, test = model.get_weights(), train.LearningRateRangeTest(1e-4, 0.1, steps=4)
    trained(model, callbacks=[test])
    assert np.isfinite(test.history["loss"]).all() and test.suggest() > 0
    assert all(np.array_equal(*pair) for pair in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize("end", ENDS)
def test_misclassified_images_are_found(end):
    model = small(end=ENDS[end]())
    found = evaluate.misclassified(model, IMAGES, LABELS, limit=None)
    outputs = np.asarray(model.predict(IMAGES, verbose=0), "float64")
    assert np.array_equal(np.sort(found.index), np.flatnonzero(outputs.argmax(axis=1) != LABELS))
    assert found.confidence.dtype == "float64" and np.isfinite(found.confidence).all()
