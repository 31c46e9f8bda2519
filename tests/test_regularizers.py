"""Penalties against formulas, autodiff and Keras's own; proximal L1 against scikit-learn's Lasso."""

from functools import partial

import keras
import numpy as np
import pytest
from conftest import readable
from hypothesis import given
from hypothesis import strategies as st
from keras import layers
from sklearn.linear_model import Lasso

from evakeras import models
from evakeras.regularizers import (
    ProximalL1,
    add_kernel_regularizer,
    dropout,
    penalty,
    prune,
    sparsity,
)

L1, L2 = keras.regularizers.L1, keras.regularizers.L2


def dense_model(*units, inputs=4, **options):
    stack = [layers.Dense(n, name=f"dense_{i}", **options) for i, n in enumerate(units)]
    return keras.Sequential([keras.Input((inputs,)), *stack])


def quiet(model, **options):
    """Compiled so that the loss is the penalty alone, on inputs and targets that are zero."""
    model.compile(**{"optimizer": keras.optimizers.SGD(0.0), "loss": "mse"} | options)
    return model


def zeros(model, n=8):
    return np.zeros((n, *model.input_shape[1:])), np.zeros((n, *model.output_shape[1:]))


def kernels(model):
    return [w.numpy() for w in model.weights if "kernel" in w.name]


# Adding a regularizer


@pytest.mark.parametrize(
    "make, shape, names",
    [
        (partial(layers.Dense, 3), (4,), ["kernel"]),
        (partial(layers.Conv1D, 3, 3), (6, 2), ["kernel"]),
        (partial(layers.Conv2D, 3, 3), (6, 6, 2), ["kernel"]),
        (partial(layers.Conv2DTranspose, 3, 3), (6, 6, 2), ["kernel"]),
        (partial(layers.DepthwiseConv2D, 3), (6, 6, 2), ["depthwise"]),
        (partial(layers.SeparableConv2D, 3, 3), (6, 6, 2), ["depthwise", "pointwise"]),
        (partial(layers.LSTM, 3), (5, 2), ["kernel", "recurrent"]),
        (partial(layers.GRU, 3), (5, 2), ["kernel", "recurrent"]),
        (partial(layers.EinsumDense, "abc,cd->abd", (None, 3)), (5, 2), ["kernel"]),
    ],
    ids=["dense", "conv1d", "conv2d", "transpose", "depthwise", "separable", "lstm", "gru", "einsum"],
)
def test_layer_becomes_the_one_that_keras_builds_with_the_regularizer(make, shape, names):
    built = make(name="it", **{f"{name}_regularizer": L2(0.1) for name in names})
    added = make(name="it")
    expected = keras.Sequential([keras.Input(shape), built])
    model = keras.Sequential([keras.Input(shape), added])
    expected.set_weights(model.get_weights())
    assert add_kernel_regularizer(model, L2(0.1)) is model
    assert added.get_config() == built.get_config()
    assert len(model.losses) == len(expected.losses) == len(names)
    assert float(sum(model.losses)) == pytest.approx(float(sum(expected.losses)), rel=1e-6)
    assert sum(penalty(model).values()) == pytest.approx(float(sum(expected.losses)), rel=1e-6)


def test_model_of_the_progression_gets_the_configuration_it_is_built_with(tmp_path):
    def configuration(model):
        return [layer.get_config() for layer in model.layers]

    model, expected = models.build("fifth"), models.build("fifth", kernel_regularizer=L1(1e-4))
    before = model.get_weights()
    add_kernel_regularizer(model, L1(1e-4))
    assert configuration(model) == configuration(expected)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))
    expected.set_weights(before)
    assert float(sum(model.losses)) == float(sum(expected.losses)) > 0

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert configuration(loaded) == configuration(expected)
    assert float(sum(loaded.losses)) == float(sum(expected.losses))


@pytest.mark.parametrize(
    "regularizer, gradient", [(L1(0.3), lambda w: 0.3 * np.sign(w)), (L2(0.3), lambda w: 2 * 0.3 * w)]
)
def test_gradient_of_the_penalty_is_that_of_the_formula(tf, regularizer, gradient):
    model = add_kernel_regularizer(dense_model(3, 2), regularizer)
    with tf.GradientTape() as tape:
        loss = sum(model.losses)
    found = tape.gradient(loss, model.trainable_weights)
    for weight, g in zip(model.trainable_weights, found, strict=True):
        if weight.name == "kernel":
            np.testing.assert_allclose(g, gradient(weight.numpy()), rtol=1e-6)
        else:
            assert g is None


def test_compiled_and_trained_model_takes_the_new_penalty_at_once():
    model = quiet(dense_model(3, kernel_initializer="ones"))
    x, y = zeros(model)
    first = model.fit(x, y, validation_data=(x, y), verbose=0).history
    optimizer = model.optimizer
    for regularizer, expected in ((L2(0.5), 6.0), (None, 0.0)):  # replaces the one before
        add_kernel_regularizer(model, regularizer)
        history = model.fit(x, y, validation_data=(x, y), verbose=0).history
        assert history["loss"] == history["val_loss"] == pytest.approx([expected])
    assert first["loss"] == [0.0]
    assert model.optimizer is optimizer


def test_penalty_pulls_at_the_weights_of_a_model_that_was_trained_without():
    model = quiet(dense_model(1, kernel_initializer="ones"), optimizer=keras.optimizers.SGD(0.1))
    x, y = zeros(model)
    model.fit(x, y, batch_size=8, verbose=0)
    assert (model.layers[0].kernel.numpy() == 1).all()
    add_kernel_regularizer(model, L2(0.5)).fit(x, y, batch_size=8, verbose=0)
    np.testing.assert_allclose(model.layers[0].kernel, 1 - 0.1 * 2 * 0.5, rtol=1e-6)


def test_name_of_a_regularizer_is_understood_and_none_removes_it():
    model = dense_model(3, kernel_regularizer=L2(0.1), bias_regularizer=L1(0.1))
    add_kernel_regularizer(model, "l1")
    assert isinstance(model.layers[0].kernel_regularizer, L1)
    add_kernel_regularizer(model, None)
    assert model.layers[0].get_config()["kernel_regularizer"] is None
    assert len(model.losses) == 1  # the bias keeps its own


def shared_and_nested():
    """A dense layer used twice and a model used twice, which holds another layer of the same name."""
    inputs = keras.Input((4,))
    shared = layers.Dense(4, name="same")
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="same")], name="inner")
    x = shared(inner(shared(inner(inputs))))
    outer = keras.Sequential([keras.Input((4,)), layers.Dense(2, name="other")], name="outer")
    return keras.Model(inputs, outer(x))


def test_kernel_of_a_wrapped_layer_gets_the_regularizer_of_that_layer():
    wrapped = layers.Dense(2, name="inside")
    model = keras.Sequential([keras.Input((4,)), layers.SpectralNormalization(wrapped)])
    add_kernel_regularizer(model, L2(0.5))
    assert wrapped.kernel_regularizer.l2 == 0.5 and len(model.losses) == 1
    assert len(sparsity(model).layers) == 1


def test_shared_layers_and_models_inside_models_are_counted_once(tmp_path):
    model = add_kernel_regularizer(shared_and_nested(), L2(0.1))
    expected = sum(0.1 * (kernel**2).sum() for kernel in kernels(model))
    assert len(model.losses) == 3
    assert sum(penalty(model).values()) == pytest.approx(expected, rel=1e-6)
    assert set(penalty(model)) == {"same", "inner/same", "outer/other"}
    quiet(model)
    assert model.evaluate(*zeros(model), verbose=0) == pytest.approx(expected, rel=1e-6)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert len(loaded.losses) == 3
    assert penalty(loaded) == penalty(model)


def test_frozen_layer_counts_from_the_moment_it_is_thawed():
    model = add_kernel_regularizer(dense_model(3, 2, kernel_initializer="ones"), L1(1.0))
    model.layers[0].trainable = False
    assert penalty(model) == {"dense_0": 0.0, "dense_1": 6.0}
    assert float(sum(model.losses)) == 6
    model.layers[0].trainable = True
    assert sum(penalty(model).values()) == float(sum(model.losses)) == 18


@keras.saving.register_keras_serializable(package="tests")
class Subclassed(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.one, self.two = layers.Dense(2, name="same"), layers.Dense(1, name="same")

    def call(self, x):
        return self.two(self.one(x))


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 3)))
    return model


def with_attention():
    inputs = keras.Input((4, 5))
    return keras.Model(inputs, layers.Dense(1)(layers.MultiHeadAttention(2, 3)(inputs, inputs)))


class Forgetful(layers.Layer):
    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 1))

    def call(self, x):
        return x @ self.kernel


@pytest.mark.parametrize(
    "make, message",
    [
        (subclassed, "Subclassed.*build it with one"),
        (with_attention, "MultiHeadAttention"),
        (
            lambda: keras.Sequential([keras.Input((3,)), layers.Dense(2), Forgetful()]),
            "no kernel_regularizer",
        ),
    ],
    ids=["subclassed", "attention", "own layer"],
)
def test_model_that_would_lose_the_regularizer_is_refused_unchanged(make, message):
    model = make()
    with pytest.raises(ValueError, match=message):
        add_kernel_regularizer(model, L1(0.1))
    assert model.losses == []


@pytest.mark.parametrize(
    "regularizer", [lambda w: 0.0, 0.1, "no such name", {}, layers.Dense, L2, ProximalL1(0.1)], ids=readable
)
def test_what_is_no_regularizer_is_refused(regularizer):
    with pytest.raises(ValueError, match="regularizer"):
        add_kernel_regularizer(dense_model(1), regularizer)


def test_regularizer_that_cannot_take_a_kernel_leaves_the_model_unchanged():
    stack = [layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(2)]
    model = keras.Sequential([keras.Input((6, 6, 1)), *stack])
    with pytest.raises(ValueError, match="rank 2"):
        add_kernel_regularizer(model, keras.regularizers.OrthogonalRegularizer())
    assert model.losses == []


CALLS = {
    "add": lambda model: add_kernel_regularizer(model, L1(0.1)),
    "penalty": penalty,
    "sparsity": sparsity,
    "prune": lambda model: prune(model, 0.5),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("model", [keras.Sequential([layers.Dense(2)]), layers.Dense(2), None], ids=str)
def test_what_is_no_built_model_is_refused(call, model):
    with pytest.raises(ValueError, match=r"model.* must be a built Keras model"):
        CALLS[call](model)


@pytest.mark.parametrize("call", ["add", "sparsity", "prune"])
def test_model_without_kernels_is_refused(call):
    model = keras.Sequential([keras.Input((4,)), layers.BatchNormalization(), layers.Embedding(3, 2)])
    with pytest.raises(ValueError, match="no kernels"):
        CALLS[call](model)


@pytest.mark.parametrize("call", ["penalty", "sparsity", "prune"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_and_located(call, value):
    model = dense_model(3, 2, kernel_regularizer=L2(0.1))
    model.layers[1].kernel.assign(np.full((3, 2), value))
    with pytest.raises(ValueError, match="dense_1"):
        CALLS[call](model)


# Penalty


def test_penalty_counts_every_weight_regularizer_and_no_activity():
    stack = [
        layers.Dense(
            3, kernel_regularizer=L1(0.1), bias_regularizer=L2(0.2), bias_initializer="ones", name="a"
        ),
        layers.BatchNormalization(gamma_regularizer=L2(0.5), name="norm"),
        layers.Activation("relu"),
        layers.Dense(2, activity_regularizer=L1(7.0), name="b"),
    ]
    model = keras.Sequential([keras.Input((4,)), *stack])
    found = penalty(model)
    expected_a = 0.1 * np.abs(stack[0].kernel.numpy()).sum() + 0.2 * 3
    assert found == {"a": pytest.approx(expected_a, rel=1e-6), "norm": 0.5 * 3, "b": 0.0}
    assert sum(found.values()) == pytest.approx(float(sum(model.losses)), rel=1e-6)


def test_layers_of_the_same_name_are_told_apart():
    model = subclassed()
    assert list(penalty(model)) == ["same", "same (2)"]
    assert list(sparsity(model).layers) == ["same", "same (2)"]


# Sparsity and pruning


@given(st.integers(0, 2**16), st.floats(0, 1))
def test_sparsity_counts_as_numpy_does(seed, threshold):
    model = MODEL
    rng = np.random.default_rng(seed)
    values = [rng.normal(size=w.shape) * (rng.random(w.shape) < 0.6) for w in model.weights]
    model.set_weights(values)
    by_layer = {"dense_0": kernels(model)[0], "dense_1": kernels(model)[1]}
    found = sparsity(model, threshold)
    for name, kernel in by_layer.items():
        assert found.layers[name] == np.mean(np.abs(kernel) <= threshold)
    everything = np.concatenate([kernel.ravel() for kernel in by_layer.values()])
    assert found.total == np.mean(np.abs(everything) <= threshold)


MODEL = dense_model(6, 3)


def test_sparsity_of_a_layer_with_two_kernels_is_of_both_together():
    model = keras.Sequential([keras.Input((6, 6, 2)), layers.SeparableConv2D(4, 3, name="it")])
    model.layers[0].pointwise_kernel.assign(np.zeros((1, 1, 2, 4)))
    assert sparsity(model).layers == {"it": 8 / (8 + 18)}


@given(st.integers(0, 2**16), st.floats(0, 1))
def test_pruning_zeroes_the_smallest_weights_of_all_kernels_together(seed, fraction):
    rng = np.random.default_rng(seed)
    before = [rng.normal(size=w.shape).astype("float32") for w in MODEL.weights]
    MODEL.set_weights(before)
    pruned = prune(MODEL, fraction)
    old = np.concatenate([kernel.ravel() for kernel in kernels(MODEL)])
    new = np.concatenate([kernel.ravel() for kernel in kernels(pruned)])
    k = round(fraction * old.size)
    expected = old.copy()
    expected[np.argpartition(np.abs(old), k - 1)[:k] if k else []] = 0
    assert np.array_equal(new, expected)
    assert sparsity(pruned).total == k / old.size
    for i in (1, 3):  # the biases
        assert np.array_equal(pruned.get_weights()[i], before[i])
    assert all(np.array_equal(a, b) for a, b in zip(MODEL.get_weights(), before, strict=True))


def test_pruning_takes_exactly_as_many_of_equal_weights():
    model = dense_model(5, kernel_initializer="ones")
    kernel = prune(model, 0.3).layers[0].kernel.numpy()
    assert kernel.ravel().tolist() == [0.0] * 6 + [1.0] * 14


def test_pruned_model_works_as_the_old_one_does():
    model = shared_and_nested()
    model.compile("adam", "mse", metrics=["mae"])
    x, y = np.random.default_rng(0).normal(size=(16, 4)), np.zeros((16, 2))
    model.fit(x, y, verbose=0)
    same = prune(model, 0.0)
    assert same.evaluate(x, y, verbose=0) == model.evaluate(x, y, verbose=0)
    assert int(same.optimizer.iterations.numpy()) == int(model.optimizer.iterations.numpy()) == 1
    half = prune(model, 0.5)
    assert sparsity(half).total == 0.5 and sparsity(model).total == 0
    assert len(half.weights) == len(model.weights)  # what was shared still is
    assert not prune(dense_model(2), 0.5).compiled


def test_pruning_keeps_regularizers():
    model = add_kernel_regularizer(dense_model(2), L1(0.5))
    assert penalty(prune(model, 1.0)) == {"dense_0": 0.0}
    assert sum(penalty(prune(model, 0.5)).values()) > 0


@pytest.mark.parametrize("fraction", [-0.1, 1.1, np.nan, np.inf, None, "half"])
def test_fraction_outside_0_to_1_is_refused(fraction):
    with pytest.raises(ValueError, match="fraction"):
        prune(dense_model(2), fraction)


@pytest.mark.parametrize("threshold", [-1e-9, np.nan, None])
def test_bad_threshold_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold"):
        sparsity(dense_model(2), threshold)


# Proximal L1


def soft(w, threshold):
    return np.sign(w) * np.maximum(np.abs(w) - threshold, 0)


def half_mse(y, output):
    return keras.ops.mean((y - output) ** 2) / 2


def regression(n=60, features=12, seed=0):
    """Few of the features matter, and they are correlated."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, features)) + 0.7 * rng.normal(size=(n, 1))
    truth = np.where(np.arange(features) % 3 == 0, rng.normal(size=features) * 2, 0)
    return x.astype("float32"), (x @ truth + 0.5 + 0.3 * rng.normal(size=n)).astype("float32")[:, None]


@pytest.mark.parametrize("strength", [0.02, 0.2, 1.0])
def test_proximal_l1_finds_the_lasso_of_scikit_learn(strength):
    x, y = regression()
    steps, rate = 300, 1 / np.linalg.eigvalsh(np.cov(x.T, bias=True)).max() / 1.5
    model = dense_model(1, inputs=12)
    model.compile(keras.optimizers.SGD(rate), half_mse)
    copies = np.tile(x, (steps, 1)), np.tile(y, (steps, 1))
    model.fit(*copies, batch_size=len(x), shuffle=False, verbose=0, callbacks=[ProximalL1(strength)])
    lasso = Lasso(strength, tol=1e-10, max_iter=100_000).fit(x.astype("float64"), y[:, 0])
    found = model.layers[0].kernel.numpy()[:, 0]
    assert np.array_equal(found == 0, lasso.coef_ == 0)
    assert 0 < (found == 0).sum() < 12
    np.testing.assert_allclose(found, lasso.coef_, atol=2e-4)
    np.testing.assert_allclose(model.layers[0].bias.numpy(), lasso.intercept_, atol=2e-4)


def test_one_step_is_a_gradient_step_and_a_soft_threshold():
    x, y = regression()
    model = dense_model(1, inputs=12)
    w = np.linspace(-0.4, 0.4, 12, dtype="float32")[:, None]  # not left to chance: a zero must come of it
    model.layers[0].kernel.assign(w)
    model.compile(keras.optimizers.SGD(0.05), half_mse)
    model.fit(x, y, batch_size=len(x), verbose=0, callbacks=[ProximalL1(2.0)])
    gradient = x.T @ (x @ w - y) / len(x)
    expected = soft(w - 0.05 * gradient, 0.05 * 2.0)
    np.testing.assert_allclose(model.layers[0].kernel.numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(model.layers[0].bias.numpy(), -0.05 * np.mean(x @ w - y), atol=1e-6)
    assert (expected == 0).any()


def test_only_trainable_kernels_are_thresholded():
    stack = [
        layers.Conv2D(2, 3, bias_initializer="ones"),
        layers.BatchNormalization(beta_initializer="ones"),
        layers.SeparableConv2D(2, 3, bias_initializer="ones"),
        layers.Flatten(),
        layers.Dense(3, trainable=False),
    ]
    model = keras.Sequential([keras.Input((8, 8, 1)), *stack])
    model.compile(keras.optimizers.SGD(1.0), lambda y, output: 0.0 * keras.ops.sum(output))  # no gradient
    before = {w.path: w.numpy() for w in model.weights if "moving" not in w.name}
    x = np.zeros((4, 8, 8, 1))
    model.fit(x, np.zeros((4, 3)), batch_size=4, verbose=0, callbacks=[ProximalL1(0.1)])
    found = {w.path: w for w in model.weights}
    for path, old in before.items():
        thresholded = "kernel" in found[path].name and found[path].trainable
        expected = soft(old, 0.1) if thresholded else old
        np.testing.assert_allclose(found[path].numpy(), expected, atol=1e-7)
        assert np.array_equal(found[path].numpy() == 0, expected == 0)
    new = np.concatenate([kernel.ravel() for kernel in kernels(model)])
    assert (new == 0).any() and not np.signbit(new[new == 0]).any()  # no -0.0: it would not compress


def test_threshold_follows_the_rate_of_each_step():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0, 1], [0.1, 0.2, 0.4])
    model = quiet(
        dense_model(1, kernel_initializer="ones"), optimizer=keras.optimizers.Adam(schedule, epsilon=1.0)
    )
    for steps, total in ((1, 0.1), (1, 0.3), (2, 1.1)):  # three times fit: the schedule goes on
        x, y = zeros(model, steps)
        model.fit(x, y, batch_size=1, verbose=0, callbacks=[ProximalL1(0.5)])
        np.testing.assert_allclose(model.layers[0].kernel, 1 - 0.5 * total, rtol=1e-6)


def test_threshold_follows_a_callback_that_sets_the_rate():
    model = quiet(dense_model(1, kernel_initializer="ones"), optimizer="sgd")
    rates = keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 * (epoch + 1))
    x, y = zeros(model)
    model.fit(x, y, batch_size=8, epochs=3, verbose=0, callbacks=[rates, ProximalL1(1.0)])
    np.testing.assert_allclose(model.layers[0].kernel, 1 - 0.1 - 0.2 - 0.3, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16", "float64", "bfloat16"])
def test_proximal_l1_works_in_other_precisions(dtype):
    stack = [layers.Dense(1, dtype=dtype, kernel_initializer="ones")]
    model = quiet(keras.Sequential([keras.Input((4,)), *stack]), optimizer=keras.optimizers.SGD(0.5))
    x, y = zeros(model)
    for expected in (0.5, 0.0):
        model.fit(x, y, batch_size=8, verbose=0, callbacks=[ProximalL1(1.0)])
        assert (keras.ops.convert_to_numpy(model.layers[0].kernel) == expected).all()
    assert sparsity(model).total == 1


def test_nothing_happens_at_strength_0():
    model = quiet(dense_model(2), optimizer="sgd")
    before = model.get_weights()
    model.fit(*zeros(model), verbose=0, callbacks=[ProximalL1(0)])
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))


@pytest.mark.parametrize("strength", [-0.1, np.nan, np.inf, None, "l1"])
def test_bad_strength_is_refused(strength):
    with pytest.raises(ValueError, match="strength"):
        ProximalL1(strength)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"steps_per_execution": 2}, "steps_per_execution=2"),
        ({"steps_per_execution": "auto"}, "steps_per_execution=auto"),
        ({"optimizer": keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)}, "accumulates"),
    ],
    ids=readable,
)
def test_training_whose_steps_cannot_be_followed_is_refused(tf, options, message):
    model = quiet(dense_model(1), **options)
    with pytest.raises(ValueError, match=message):
        model.fit(*zeros(model), verbose=0, callbacks=[ProximalL1(0.1)])


def test_accumulated_gradients_are_seen_in_mixed_precision_too():
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=4)
    model = quiet(dense_model(1), optimizer=keras.optimizers.LossScaleOptimizer(optimizer))
    with pytest.raises(ValueError, match="accumulates gradients"):
        model.fit(*zeros(model), verbose=0, callbacks=[ProximalL1(0.1)])


def test_model_without_trainable_kernels_is_refused_when_training_begins():
    model = dense_model(1)
    model.layers[0].trainable = False
    with pytest.raises(ValueError, match="frozen"):
        quiet(model).fit(*zeros(model), verbose=0, callbacks=[ProximalL1(0.1)])
    model = quiet(keras.Sequential([keras.Input((4,)), layers.BatchNormalization()]))
    with pytest.raises(ValueError, match="no kernels"):
        model.fit(*zeros(model), verbose=0, callbacks=[ProximalL1(0.1)])


# Dropout

rates = st.floats(0, 0.95)
dtypes = st.sampled_from(["float32", "float64"])


@given(rates, dtypes, st.integers(0, 2**32))
def test_dropout_drops_its_share_and_keeps_the_mean(rate, dtype, seed):
    n = 20_000
    x = np.ones((n // 10, 10), dtype)
    found = dropout(x, rate, seed)
    assert found.shape == x.shape and found.dtype == x.dtype
    kept = found != 0
    np.testing.assert_allclose(found[kept], 1 / (1 - rate), rtol=1e-6)
    # Five standard deviations of a binomial share happen once in a million; 10 drops are for rates near zero.
    most = 5 * np.sqrt(rate * (1 - rate) / n) + 10 / n
    assert abs((1 - kept.mean()) - rate) <= most
    assert abs(found.mean(dtype="float64") - 1) <= most / (1 - rate) + 1e-6
    assert (x == 1).all()


@given(st.integers(0, 2**32))
def test_dropout_is_known_by_its_seed(seed):
    x = np.random.default_rng(1).normal(size=(50, 3))
    assert np.array_equal(dropout(x, 0.4, seed), dropout(x, 0.4, seed))
    assert not np.array_equal(dropout(x, 0.4, seed), dropout(x, 0.4, seed + 1))
    assert np.array_equal(dropout(x, 0, seed), x)


def test_dropout_scales_what_it_keeps_as_keras_does():
    x = np.random.default_rng(1).normal(size=(200, 50)).astype("float32")
    mine, theirs = dropout(x, 0.3, seed=0), np.asarray(layers.Dropout(0.3, seed=0)(x, training=True))
    both = (mine != 0) & (theirs != 0)
    assert both.mean() > 0.4
    np.testing.assert_allclose(mine[both], theirs[both], rtol=1e-6)


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5, np.nan, None])
def test_dropout_refuses_an_impossible_rate(rate):
    with pytest.raises(ValueError, match="rate"):
        dropout(np.ones(3), rate, seed=0)


@pytest.mark.parametrize("x", [np.ones(3, int), np.array([np.nan]), np.array([np.inf]), ["a"]], ids=readable)
def test_dropout_refuses_what_is_not_finite_floats(x):
    with pytest.raises(ValueError, match="finite floats"):
        dropout(x, 0.5, seed=0)


@pytest.mark.parametrize("seed, error", [(-1, ValueError), (0.5, TypeError), (None, TypeError)])
def test_dropout_refuses_a_bad_seed(seed, error):
    with pytest.raises(error):
        dropout(np.ones(3), 0.5, seed)


def test_dropout_refuses_what_does_not_fit_any_more():
    with pytest.raises(ValueError, match="do not fit into float16"):
        dropout(np.full(8, 60000, "float16"), 0.5, 0)
