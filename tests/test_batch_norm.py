"""Batch normalization by hand against Keras, autodiff and finite differences; folding against the model."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from evakeras import models
from evakeras.normalize import BatchNormCache, batch_norm, batch_norm_backward, fold_batch_norm

SHAPES = {2: (9, 3), 3: (4, 5, 3), 4: (3, 4, 5, 2), 5: (2, 3, 4, 3, 2)}
ranks = pytest.mark.parametrize("shape", SHAPES.values(), ids=[f"rank {rank}" for rank in SHAPES])


def example(shape, dtype=np.float32, seed=0):
    """x, gamma, beta and dy; the channels differ in place and spread."""
    rng = np.random.default_rng(seed)
    channels = shape[-1]
    x = rng.normal(size=shape) * rng.uniform(0.5, 5, channels) + rng.normal(size=channels) * 3
    gamma, beta, dy = rng.normal(size=channels), rng.normal(size=channels), rng.normal(size=shape)
    return [array.astype(dtype) for array in (x, gamma, beta, dy)]


def keras_layer(shape, gamma, beta, epsilon=1e-3, dtype="float32"):
    layer = layers.BatchNormalization(epsilon=epsilon, dtype=dtype)
    layer.build(shape)
    layer.gamma.assign(gamma)
    layer.beta.assign(beta)
    return layer


# Forward


@ranks
def test_forward_agrees_with_keras(shape):
    x, gamma, beta, _ = example(shape)
    y, _ = batch_norm(x, gamma, beta)
    theirs = keras.ops.convert_to_numpy(keras_layer(x.shape, gamma, beta)(x, training=True))
    np.testing.assert_allclose(y, theirs, rtol=0, atol=1e-5)
    assert y.dtype == np.float32


@given(st.lists(st.integers(1, 5), min_size=2, max_size=5), st.floats(1e-6, 1), st.integers(0, 99))
def test_forward_agrees_with_keras_for_any_shape_and_epsilon(tf, shape, epsilon, seed):
    x, gamma, beta, _ = example(tuple(shape), np.float64, seed)
    y, _ = batch_norm(x, gamma, beta, epsilon)
    theirs = keras_layer(x.shape, gamma, beta, epsilon, "float64")(x, training=True)
    np.testing.assert_allclose(y, theirs, rtol=1e-7, atol=1e-7)
    assert y.dtype == np.float64


@ranks
def test_forward_leaves_each_channel_with_mean_beta_and_deviation_gamma(shape):
    x, gamma, beta, _ = example(shape, np.float64)
    y, cache = batch_norm(x, gamma, beta, epsilon=1e-12)
    flat = y.reshape(-1, shape[-1])
    np.testing.assert_allclose(flat.mean(0), beta, atol=1e-9)
    np.testing.assert_allclose(flat.std(0), np.abs(gamma), rtol=1e-9)
    np.testing.assert_allclose(cache.std, x.reshape(-1, shape[-1]).std(0), rtol=1e-9)


def test_a_small_spread_on_a_large_offset_survives():
    x = 1e6 + np.random.default_rng(0).normal(size=(50, 20, 20, 1))
    y, _ = batch_norm(x, [1], [0], epsilon=1e-12)
    np.testing.assert_allclose(y, (x - x.mean()) / x.std(), atol=1e-6)


def test_a_constant_channel_becomes_beta():
    y, _ = batch_norm(np.full((4, 2), 7.0), [3, 3], [1, -1])
    assert np.array_equal(y, np.tile([1.0, -1.0], (4, 1)))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float16, np.float32])
def test_types_other_than_float64_give_float32(dtype):
    x = np.random.default_rng(0).integers(0, 256, (6, 5, 5, 3)).astype(dtype)
    before = x.copy()
    y, cache = batch_norm(x, np.ones(3), np.zeros(3))
    exact, _ = batch_norm(x.astype(np.float64), np.ones(3), np.zeros(3))
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, exact, rtol=1e-6, atol=1e-7)
    assert all(gradient.dtype == np.float32 for gradient in batch_norm_backward(y, cache))
    assert np.array_equal(x, before)


# Backward


@ranks
def test_backward_agrees_with_autodiff(tf, shape):
    x, gamma, beta, dy = example(shape, np.float64)
    layer, x_in = keras_layer(x.shape, gamma, beta, dtype="float64"), tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x_in)
        loss = tf.reduce_sum(layer(x_in, training=True) * dy)
    theirs = tape.gradient(loss, [x_in, layer.gamma.value, layer.beta.value])
    ours = batch_norm_backward(dy, batch_norm(x, gamma, beta)[1])
    for mine, their in zip(ours, theirs, strict=True):
        assert mine.dtype == np.float64
        assert mine.shape == their.shape
        np.testing.assert_allclose(mine, their, rtol=1e-5, atol=1e-7)


@given(st.lists(st.integers(1, 4), min_size=2, max_size=4), st.integers(0, 99))
def test_backward_agrees_with_finite_differences(shape, seed):
    *inputs, dy = example(tuple(shape), np.float64, seed)
    ours = batch_norm_backward(dy, batch_norm(*inputs)[1])
    step = 1e-5
    for place, gradient in enumerate(ours):
        numeric = np.empty_like(gradient)
        for index in np.ndindex(gradient.shape):
            ends = []
            for sign in (1, -1):
                moved = [array.copy() for array in inputs]
                moved[place][index] += sign * step
                ends.append((batch_norm(*moved)[0] * dy).sum())
            numeric[index] = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-6)


def test_the_gradient_is_blind_to_a_shift_of_its_input():
    x, gamma, beta, dy = example((8, 4, 4, 3), np.float64)
    dx, _, _ = batch_norm_backward(dy, batch_norm(x, gamma, beta)[1])
    np.testing.assert_allclose(dx.sum((0, 1, 2)), 0, atol=1e-10)


BAD_FORWARD = {
    "rank 1": ((np.ones(3), np.ones(3), np.zeros(3)), r"x has shape \(3,\)"),
    "empty": ((np.ones((0, 3)), np.ones(3), np.zeros(3)), "x of shape .* empty"),
    "no channels": ((np.ones((3, 0)), np.ones(0), np.zeros(0)), "x of shape .* empty"),
    "NaN": (([[1.0], [np.nan]], [1], [0]), "x of shape .* NaN"),
    "infinity": (([[1.0], [np.inf]], [1], [0]), "x of shape .* infinity"),
    "bool": ((np.ones((3, 1), bool), [1], [0]), "x has dtype bool"),
    "complex": ((np.ones((3, 1), complex), [1], [0]), "x has dtype complex"),
    "text": (([["a"], ["b"]], [1], [0]), "x has dtype"),
    "masked": ((np.ma.masked_equal(np.ones((3, 1)), 1), [1], [0]), "x is a masked array"),
    "gamma too long": ((np.ones((3, 2)), np.ones(3), np.zeros(2)), r"gamma has shape \(3,\)"),
    "gamma a number": ((np.ones((3, 2)), 1.0, np.zeros(2)), r"gamma has shape \(\)"),
    "gamma NaN": ((np.ones((3, 1)), [np.nan], [0]), "gamma of shape"),
    "beta of another shape": ((np.ones((3, 2)), np.ones(2), np.zeros((1, 2))), r"beta has shape \(1, 2\)"),
    "epsilon 0": ((np.ones((3, 1)), [1], [0], 0), "epsilon=0 "),
    "epsilon negative": ((np.ones((3, 1)), [1], [0], -1e-3), "epsilon=-0.001"),
    "epsilon NaN": ((np.ones((3, 1)), [1], [0], np.nan), "epsilon=nan"),
    "epsilon text": ((np.ones((3, 1)), [1], [0], "1e-3"), "epsilon='1e-3'"),
    "too large": (([[1e300], [-1e300]], [1], [0]), "too large"),
    "float32 overflow": ((np.float32([[1], [-1]]), [1e39], [0]), "does not fit into float32"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_FORWARD.values(), ids=BAD_FORWARD)
def test_forward_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        batch_norm(*arguments)


def test_backward_refuses():
    _, cache = batch_norm(np.arange(6.0).reshape(3, 2), [1, 1], [0, 0])
    for dy, message in (
        (np.ones((2, 3)), r"dy has shape \(2, 3\), expected \(3, 2\)"),
        (np.ones((3, 1)), r"expected \(3, 2\)"),
        (np.full((3, 2), np.nan), "dy of shape .* NaN"),
        (np.ones((3, 2), bool), "dy has dtype bool"),
    ):
        with pytest.raises(ValueError, match=message):
            batch_norm_backward(dy, cache)
    with pytest.raises(ValueError, match="cache is a tuple"):
        batch_norm_backward(np.ones((3, 2)), tuple(cache))


# Folding


def shaken(model, seed=0):
    """Give every normalization statistics, gamma (of both signs, one of them 0) and beta that matter."""
    rng = np.random.default_rng(seed)
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            channels = layer.moving_mean.shape[0]
            gamma = rng.normal(size=channels)
            gamma[0] = 0
            if layer.scale:
                layer.gamma.assign(gamma)
            if layer.center:
                layer.beta.assign(rng.normal(size=channels))
            layer.moving_mean.assign(rng.normal(size=channels))
            layer.moving_variance.assign(rng.uniform(0.1, 5, channels))
        elif getattr(layer, "use_bias", False) and getattr(layer, "bias", None) is not None:
            layer.bias.assign(rng.normal(size=layer.bias.shape))
    return model


def norms_of(model):
    return [layer for layer in model._flatten_layers() if isinstance(layer, layers.BatchNormalization)]


def predictions(model, seed=1):
    rng = np.random.default_rng(seed)
    inputs = {t.name: rng.normal(size=(5, *t.shape[1:])).astype("float32") for t in model.inputs}
    outputs = model(inputs if len(inputs) > 1 else next(iter(inputs.values())), training=False)
    return [keras.ops.convert_to_numpy(output) for output in keras.tree.flatten(outputs)]


def check_same(model, folded):
    for ours, theirs in zip(predictions(folded), predictions(model), strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * max(1, np.abs(theirs).max()))


LINEAR_LAYERS = {
    "dense": ((6,), lambda **o: layers.Dense(4, **o)),
    "dense on pictures": ((5, 5, 3), lambda **o: layers.Dense(4, **o)),
    "conv 1d": ((9, 3), lambda **o: layers.Conv1D(4, 3, **o)),
    "conv 2d": ((8, 8, 3), lambda **o: layers.Conv2D(4, 3, padding="same", strides=2, **o)),
    "conv 3d": ((5, 5, 5, 2), lambda **o: layers.Conv3D(4, 3, **o)),
    "grouped": ((6, 6, 4), lambda **o: layers.Conv2D(6, 3, groups=2, **o)),
    "transposed 1d": ((5, 3), lambda **o: layers.Conv1DTranspose(4, 3, strides=2, **o)),
    "transposed 2d": ((5, 5, 3), lambda **o: layers.Conv2DTranspose(4, 3, strides=2, **o)),
    "transposed 3d": ((3, 3, 3, 2), lambda **o: layers.Conv3DTranspose(3, 2, **o)),
    "depthwise": ((6, 6, 3), lambda **o: layers.DepthwiseConv2D(3, **o)),
    "depthwise 1d": ((6, 3), lambda **o: layers.DepthwiseConv1D(3, depth_multiplier=2, **o)),
    "depthwise, two each": ((6, 6, 3), lambda **o: layers.DepthwiseConv2D(3, depth_multiplier=2, **o)),
    "separable": ((6, 6, 3), lambda **o: layers.SeparableConv2D(4, 3, depth_multiplier=2, **o)),
    "separable 1d": ((6, 3), lambda **o: layers.SeparableConv1D(4, 3, **o)),
}


@pytest.mark.parametrize("use_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(("shape", "make"), LINEAR_LAYERS.values(), ids=LINEAR_LAYERS)
def test_every_kind_of_linear_layer_is_folded(shape, make, use_bias):
    model = shaken(
        keras.Sequential([keras.Input(shape), make(use_bias=use_bias), layers.BatchNormalization()])
    )
    folded = fold_batch_norm(model)
    check_same(model, folded)
    assert [type(layer) for layer in folded.layers] == [type(model.layers[0])]
    assert folded.layers[0].name == model.layers[0].name


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("scale", [True, False])
def test_a_normalization_without_scale_or_centre_is_folded(scale, center):
    norm = layers.BatchNormalization(scale=scale, center=center, epsilon=0.1)
    model = shaken(keras.Sequential([keras.Input((6,)), layers.Dense(4), norm, layers.ReLU()]))
    folded = fold_batch_norm(model)
    check_same(model, folded)
    assert len(folded.layers) == 2


def conv_block(x, channels, name):
    x = layers.Conv2D(channels, 3, padding="same", use_bias=False, name=f"{name}_conv")(x)
    return layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_norm")(x))


def residual():
    start = keras.Input((8, 8, 3))
    x = conv_block(start, 4, "a")
    y = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(conv_block(x, 4, "b")))
    x = layers.Add()([x, y])
    return keras.Model(start, layers.Dense(2, "softmax")(layers.GlobalAveragePooling2D()(x)), name="residual")


def operations_and_two_outputs():
    first, second = keras.Input((8, 8, 3), name="one"), keras.Input((8, 8, 3), name="two")
    x, y = conv_block(first, 4, "a"), conv_block(second, 4, "b")
    z = keras.ops.maximum(x + y, 0.1) * 2 - x
    return keras.Model({"one": first, "two": second}, {"mixed": z, "left": x})


def nested():
    inner = keras.Sequential(
        [keras.Input((8, 8, 4)), layers.Conv2D(4, 3, padding="same"), layers.BatchNormalization()],
        name="inner",
    )
    start = keras.Input((8, 8, 3))
    x = conv_block(start, 4, "a")
    return keras.Model(start, inner(layers.ReLU()(inner(x))))  # called twice, as one


def nested_in_sequential():
    return keras.Sequential(
        [keras.Input((8, 8, 3)), residual(), layers.Dense(3), layers.BatchNormalization()]
    )


FOLDABLE = {
    "residual": (residual, 3),
    "operations, two inputs and outputs": (operations_and_two_outputs, 2),
    "nested": (nested, 2),
    "nested in sequential": (nested_in_sequential, 4),
}


@pytest.mark.parametrize(("make", "count"), FOLDABLE.values(), ids=FOLDABLE)
def test_models_that_branch_or_nest_are_folded(make, count, tmp_path):
    model = shaken(make())
    folded = fold_batch_norm(model)
    assert (len(norms_of(model)), len(norms_of(folded))) == (count, 0)
    assert type(folded) is type(model)
    check_same(model, folded)
    folded.save(tmp_path / "folded.keras")
    check_same(model, keras.saving.load_model(tmp_path / "folded.keras"))


def test_named_inputs_and_outputs_stay_named():
    folded = fold_batch_norm(shaken(operations_and_two_outputs()))
    assert sorted(folded.input) == ["one", "two"]
    assert sorted(folded.output) == ["left", "mixed"]


def test_the_model_itself_stays_as_it_was():
    model = shaken(residual())
    model.compile("sgd", "mse")
    config, weights, before = model.get_config(), model.get_weights(), predictions(model)
    folded = fold_batch_norm(model)
    for layer in folded.layers:
        for weight in layer.weights:
            weight.assign(weight + 1)
    assert model.get_config() == config
    assert model.compiled and not folded.compiled
    assert all(map(np.array_equal, model.get_weights(), weights))
    assert all(map(np.array_equal, predictions(model), before))


def test_other_layers_keep_their_names_and_state():
    adapted = layers.Normalization(name="standardize")
    adapted.adapt(np.random.default_rng(0).normal(5, 3, (50, 6)).astype("float32"))
    model = shaken(
        keras.Sequential(
            [
                keras.Input((6,)),
                adapted,
                layers.Dense(5, "relu", name="one"),
                layers.BatchNormalization(name="stays"),
                layers.Dropout(0.5, name="drop"),
                layers.Dense(4, name="two", trainable=False),
                layers.BatchNormalization(name="goes"),
                layers.LayerNormalization(name="other"),
            ],
            name="mine",
        )
    )
    folded = fold_batch_norm(model)
    check_same(model, folded)
    assert folded.name == "mine"
    names = ["standardize", "one", "stays", "drop", "two", "other"]
    assert [layer.name for layer in folded.layers] == names
    assert not folded.get_layer("two").trainable
    for name in set(names) - {"two"}:
        pairs = zip(model.get_layer(name).get_weights(), folded.get_layer(name).get_weights(), strict=True)
        assert all(np.array_equal(old, new) for old, new in pairs)


def test_a_folded_chain_still_tells_its_receptive_fields():
    model = keras.Sequential([keras.Input((28, 28, 1)), layers.Conv2D(4, 3), layers.BatchNormalization()])
    rows = models.receptive_field(fold_batch_norm(model))
    assert [(row.receptive_field, row.parameters) for row in rows] == [(3, 40)]


def test_trained_statistics_are_folded():
    rng = np.random.default_rng(0)
    start = keras.Input((6, 6, 1))
    model = keras.Model(start, layers.Flatten()(conv_block(start, 3, "a")))
    model.compile(keras.optimizers.SGD(0.01), "mse")
    x = rng.normal(2, 3, (64, 6, 6, 1)).astype("float32")
    model.fit(x, np.zeros((64, 108)), verbose=0)
    check_same(model, fold_batch_norm(model))


def foldable_beside(build):
    """A functional model with one pair to fold and, in front of it, what `build` makes of the input."""
    start = keras.Input((8, 8, 3))
    x = build(start)
    end = layers.BatchNormalization(name="goes")(layers.Conv2D(3, 1, name="last")(x))
    return keras.Model(start, end)


def read_elsewhere(x):
    conv = layers.Conv2D(3, 1)(x)
    return layers.Add()([conv, layers.BatchNormalization(name="stays")(conv)])


def shared_convolution(x):
    conv = layers.Conv2D(3, 1)
    return layers.Add()([layers.BatchNormalization(name="stays")(conv(x)), conv(keras.ops.relu(x))])


def shared_normalization(x):
    norm = layers.BatchNormalization(name="stays")
    return layers.Add()([norm(layers.Conv2D(3, 1)(x)), norm(layers.Conv2D(3, 1)(x))])


def other_axis(x):
    return layers.BatchNormalization(axis=1, name="stays")(layers.Conv2D(3, 1)(x))


def after_relu(x):
    return layers.BatchNormalization(name="stays")(layers.Conv2D(3, 1, activation="relu")(x))


def after_pooling(x):
    return layers.BatchNormalization(name="stays")(layers.MaxPooling2D()(layers.Conv2D(3, 1)(x)))


def other_precision(x):
    return layers.BatchNormalization(name="stays", dtype="float64")(layers.Conv2D(3, 1)(x))


def first_of_all(x):
    return layers.BatchNormalization(name="stays")(x)


UNTOUCHED = [
    read_elsewhere,
    shared_convolution,
    shared_normalization,
    other_axis,
    after_relu,
    after_pooling,
    other_precision,
    first_of_all,
]


@pytest.mark.parametrize("build", UNTOUCHED, ids=[build.__name__ for build in UNTOUCHED])
def test_what_cannot_be_folded_is_left_and_the_rest_folded(build):
    model = shaken(foldable_beside(build))
    folded = fold_batch_norm(model)
    check_same(model, folded)
    assert [norm.name for norm in norms_of(folded)] == ["stays"]
    assert len(folded.layers) == len(model.layers) - 1


def test_a_normalization_that_is_always_in_training_is_left():
    start = keras.Input((6,))
    always = layers.BatchNormalization(name="stays")(layers.Dense(4)(start), training=True)
    model = shaken(keras.Model(start, layers.BatchNormalization(name="goes")(layers.Dense(3)(always))))
    folded = fold_batch_norm(model)
    check_same(model, folded)
    assert [norm.name for norm in norms_of(folded)] == ["stays"]


def test_a_convolution_that_is_also_an_output_is_left():
    start = keras.Input((6,))
    dense = layers.Dense(4, name="dense")(start)
    model = keras.Model(start, [dense, layers.BatchNormalization(name="norm")(dense)])
    with pytest.raises(ValueError, match="'norm' is not alone in reading 'dense'"):
        fold_batch_norm(model)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: models.build("fourth"), "'norm_1' comes after the activation of 'conv_1'"),
        (lambda: models.build("third"), "'third': nothing can be folded: it has no batch normalization"),
        (lambda: keras.Sequential([layers.Dense(3), layers.BatchNormalization()]), "must be a built"),
        (lambda: keras.Sequential(), "must be a built"),
        (lambda: layers.Dense(3), "must be a built"),
        (lambda: None, "must be a built"),
    ],
    ids=["after relu", "none", "not built", "no layers", "a layer", "nothing"],
)
def test_folding_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        fold_batch_norm(make())


def test_folding_refuses_a_model_with_a_call_of_its_own():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense, self.norm = layers.Dense(3), layers.BatchNormalization()

        def call(self, x):
            return self.norm(self.dense(x))

    model = Own()
    model(np.ones((2, 3), "float32"))
    with pytest.raises(ValueError, match="Sequential or functional"):
        fold_batch_norm(model)


def test_folding_does_not_mind_layers_that_other_models_use_too():
    model = shaken(residual())
    keras.Sequential([keras.Input((8, 8, 3)), *model.layers[1:3]])  # more calls of the same layers
    folded = fold_batch_norm(model)
    check_same(model, folded)
    assert not norms_of(folded)


def test_the_cache_is_what_its_text_says():
    x, gamma, beta, _ = example((5, 4, 2), np.float32)
    y, cache = batch_norm(x, gamma, beta)
    assert isinstance(cache, BatchNormCache)
    np.testing.assert_allclose(cache.normalized * cache.gamma + beta, y, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(cache.std, np.sqrt(x.var((0, 1)) + 1e-3), rtol=1e-5)
