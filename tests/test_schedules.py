"""The one-cycle schedule agrees with two formulas, and the range test leaves no trace but its history."""

import json
import math

import keras
import numpy as np
import pytest
from conftest import readable
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from evakeras import train

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(60, 4)).astype("float32"), RNG.integers(0, 3, 60)


def make(optimizer="sgd", eager=False):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, "softmax")])
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], run_eagerly=eager)
    return model


def fit(model, x=X, y=Y, **changes):
    return model.fit(x, y, **{"batch_size": 10, "verbose": 0, "shuffle": False, **changes})


# OneCycle


def rates(schedule, steps):
    """The rate at each step; all at once, since each call takes a moment."""
    return keras.ops.convert_to_numpy(schedule(np.arange(steps)))


def one_cycle(step, peak, steps, warmup, start_divisor, end_divisor):
    """Two half waves, in float64 and one step at a time."""
    start, top = peak / start_divisor, warmup * steps
    end = start / end_divisor
    if step <= top:
        low, high, phase = start, peak, math.pi * step / top
    else:
        low, high, phase = end, peak, math.pi * (1 + (min(step, steps) - top) / (steps - top))
    return low + (high - low) * (1 - math.cos(phase)) / 2


CYCLES = {
    "peak": st.floats(1e-6, 100),
    "steps": st.integers(2, 3000),
    "warmup": st.floats(0.01, 0.99),
    "start_divisor": st.floats(1, 1000),
    "end_divisor": st.floats(1, 1e6),
}


@given(settings=st.fixed_dictionaries(CYCLES))
def test_one_cycle_is_two_half_waves(settings):
    steps = settings["steps"] + 10
    expected = [one_cycle(step, **settings) for step in range(steps)]
    found = rates(train.OneCycle(**settings), steps)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-6 * settings["peak"])


@given(settings=st.fixed_dictionaries(CYCLES))
def test_one_cycle_begins_peaks_and_ends_where_it_says(settings):
    schedule = train.OneCycle(**settings)
    start = settings["peak"] / settings["start_divisor"]
    end = start / settings["end_divisor"]
    moments = [0, settings["warmup"] * settings["steps"], settings["steps"], settings["steps"] * 10]
    found = keras.ops.convert_to_numpy(schedule(np.array(moments, "float32")))
    np.testing.assert_allclose(
        found, [start, settings["peak"], end, end], rtol=1e-5, atol=1e-6 * settings["peak"]
    )


@pytest.mark.parametrize("warmup", [0.1, 0.3, 0.75])
def test_one_cycle_rises_then_falls_then_stays(warmup):
    change = np.diff(rates(train.OneCycle(0.1, steps=200, warmup=warmup), 250))
    top = round(200 * warmup)
    assert (change[:top] > 0).all() and (change[top:199] < 0).all() and (change[200:] == 0).all()


def one_cycle_of_pytorch(total, peak, rise, start_divisor, end_divisor):
    """The rates of PyTorch's OneCycleLR with its cosine, which counts from 0 to total - 1."""

    def anneal(start, end, share):
        return end + (start - end) / 2 * (math.cos(math.pi * share) + 1)

    initial, turn, last = peak / start_divisor, rise * total - 1, total - 1
    for step in range(total):
        if step <= turn:
            yield anneal(initial, peak, step / turn)
        else:
            yield anneal(peak, initial / end_divisor, (step - turn) / (last - turn))


def test_one_cycle_has_the_shape_of_pytorch():
    """The same curve: PyTorch comes to its end with the last step, one earlier than here."""
    total, rise = 100, 0.3
    expected = list(one_cycle_of_pytorch(total, 0.01, rise, 25, 1e4))
    ours = train.OneCycle(0.01, steps=total - 1, warmup=(rise * total - 1) / (total - 1))
    np.testing.assert_allclose(rates(ours, total), expected, rtol=1e-4, atol=1e-9)
    shifted = rates(train.OneCycle(0.01, steps=total, warmup=rise), total + 1)[1:]
    assert np.abs(shifted - expected).max() < 0.04 * 0.01  # with the same numbers it is almost the same


@pytest.mark.parametrize("dtype", ["int32", "int64", "float32"])
def test_one_cycle_takes_steps_as_the_optimizer_counts_them(dtype):
    assert float(train.OneCycle(0.5, 10)(keras.ops.cast(3, dtype))) == pytest.approx(0.5)


def test_one_cycle_is_kept_with_the_model(tmp_path):
    schedule = train.OneCycle(0.3, 12, warmup=0.4, start_divisor=10, end_divisor=100)
    model = make(keras.optimizers.SGD(schedule), eager=True)
    fit(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    config = loaded.optimizer.get_config()["learning_rate"]
    assert config["registered_name"] == "evakeras>OneCycle"
    assert config["config"] == json.loads(json.dumps(schedule.get_config()))
    assert int(loaded.optimizer.iterations) == 6
    assert float(loaded.optimizer.learning_rate) == float(schedule(6))


def test_one_cycle_is_followed_by_fit():
    seen = []

    class Observer(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            seen.append(float(self.model.optimizer.learning_rate))

    schedule = train.OneCycle(0.3, steps=12)
    model = make(keras.optimizers.SGD(schedule))
    before = model.get_weights()
    fit(model, epochs=2, callbacks=[Observer()])
    np.testing.assert_allclose(seen, rates(schedule, 12), rtol=1e-6)
    expected = softmax_regression(before, seen)[1]
    for found, wanted in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"peak": 0},
        {"peak": -1},
        {"peak": math.nan},
        {"peak": math.inf},
        {"steps": 1},
        {"steps": -5},
        {"warmup": 0},
        {"warmup": 1},
        {"warmup": math.nan},
        {"start_divisor": 0.5},
        {"start_divisor": math.nan},
        {"end_divisor": 0},
        {"end_divisor": math.inf},
    ],
    ids=readable,
)
def test_one_cycle_refuses_bad_arguments(changes):
    ((name, value),) = changes.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        train.OneCycle(**{"peak": 0.1, "steps": 10, **changes})


def test_one_cycle_refuses_a_broken_number_of_steps():
    with pytest.raises(ValueError, match=r"steps=10\.5 must be a whole number"):
        train.OneCycle(0.1, steps=10.5)


@pytest.mark.parametrize("steps", [math.inf, math.nan, None, "a"])
def test_one_cycle_refuses_what_is_no_number(steps):
    with pytest.raises(ValueError, match=f"steps={steps!r}"):
        train.OneCycle(0.1, steps=steps)


# LearningRateRangeTest


def softmax_regression(weights, rates, batch_size=10):
    """Losses and final weights of gradient descent, one batch per rate, by hand in float64."""
    w, b = (np.asarray(part, "float64") for part in weights)
    losses = []
    for step, rate in enumerate(rates):
        first = step * batch_size % len(X)
        x, y = X[first : first + batch_size].astype("float64"), Y[first : first + batch_size]
        z = x @ w + b
        p = np.exp(z - z.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        losses.append(-np.log(p[np.arange(len(y)), y]).mean())
        d = (p - np.eye(3)[y]) / len(y)
        w, b = w - rate * x.T @ d, b - rate * d.sum(0)
    return losses, [w, b]


def test_range_test_measures_each_batch_at_a_geometric_rate():
    model = make()
    before = model.get_weights()
    test = train.LearningRateRangeTest(1e-3, 1.0, steps=15, stop_factor=None)
    fit(model, epochs=9, callbacks=[test])
    np.testing.assert_allclose(test.history["learning_rate"], np.geomspace(1e-3, 1.0, 15), rtol=1e-9)
    assert set(test.history) == {"learning_rate", "accuracy", "loss"}
    np.testing.assert_allclose(
        test.history["loss"], softmax_regression(before, np.geomspace(1e-3, 1, 15))[0], rtol=1e-5
    )
    tenths = np.array(test.history["accuracy"]) * 10  # of ten images, not an average over batches
    np.testing.assert_allclose(tenths, tenths.round(), atol=1e-4)
    assert {type(value) for values in test.history.values() for value in values} == {float}


def make_hard():
    """All that a test could leave changed: moving averages, moments, random numbers."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.GaussianNoise(0.1),
            layers.Dense(8, "relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.4, seed=1),  # without a seed it would draw from PyTorch itself
            layers.Dense(3, "softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def state(model):
    return [keras.ops.convert_to_numpy(v) for v in [*model.variables, *model.optimizer.variables]]


def assert_same(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("trained", [False, True], ids=["new model", "trained model"])
def test_range_test_leaves_no_trace(trained):
    model, twin = make_hard(), make_hard()
    if trained:
        assert fit(model).history == fit(twin).history
    model.optimizer.build(model.trainable_variables)
    before = state(model)
    test = train.LearningRateRangeTest(1e-4, 1e4, steps=20)
    fit(model, epochs=4, callbacks=[test], validation_data=(X, Y))
    assert_same(state(model), before)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.01)
    assert int(model.optimizer.iterations) == (6 if trained else 0)
    assert fit(model, epochs=2).history == fit(twin, epochs=2).history
    assert_same(state(model), state(twin))


def make_line(optimizer="sgd"):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    model.compile(optimizer, "mse", run_eagerly=True)
    return model


def test_range_test_stops_when_the_loss_explodes():
    model, target = make_line(), X.sum(1)
    test = train.LearningRateRangeTest(1e-3, 1e6, steps=60)
    epochs = fit(model, X, target, epochs=10, callbacks=[test]).epoch
    losses = np.array(test.history["loss"])
    assert 5 < len(losses) < 60 and len(epochs) < 10
    limits = 4 * np.minimum.accumulate(losses)
    assert losses[-1] > limits[-1] and (losses[:-1] <= limits[:-1]).all()
    assert len(test.history["learning_rate"]) == len(losses)


def test_range_test_stops_later_with_a_greater_factor():
    lengths = []
    for factor in (1.5, 1000.0):
        keras.utils.set_random_seed(0)
        test = train.LearningRateRangeTest(1e-3, 1e6, steps=60, stop_factor=factor)
        fit(make_line(), X, X.sum(1), epochs=10, callbacks=[test])
        lengths.append(len(test.history["loss"]))
    assert lengths[0] < lengths[1] < 60


def test_range_test_goes_on_to_the_end_without_a_factor():
    model = make_line()
    before = model.get_weights()
    test = train.LearningRateRangeTest(1e-3, 1e20, steps=30, stop_factor=None)
    fit(model, X, X.sum(1), epochs=10, callbacks=[test])
    assert len(test.history["loss"]) == 30
    assert not math.isfinite(test.history["loss"][-1])
    assert_same(model.get_weights(), before)
    assert math.isfinite(test.suggest())


def test_range_test_stops_when_the_loss_is_not_a_number():
    test = train.LearningRateRangeTest(1e-3, 1.0, steps=6)
    fit(make_line(), X, np.where(np.arange(60) < 30, 1, np.nan), epochs=1, callbacks=[test])
    assert len(test.history["loss"]) == 4 and math.isnan(test.history["loss"][-1])


def test_range_test_needs_no_known_number_of_batches():
    def batches():
        while True:
            yield X[:10], Y[:10]

    test = train.LearningRateRangeTest(steps=4)
    make(eager=True).fit(batches(), verbose=0, shuffle=False, callbacks=[test])
    assert len(test.history["loss"]) == 4


def test_range_test_can_be_used_again():
    model, test = make(eager=True), train.LearningRateRangeTest(1e-3, 0.1, steps=6)
    fit(model, callbacks=[test])
    first = test.history
    fit(model, callbacks=[test])
    assert test.history == first


def test_range_test_works_where_the_loss_is_scaled():
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01))
    model, plain = make(optimizer, eager=True), make(eager=True)
    plain.set_weights(model.get_weights())
    tests = [train.LearningRateRangeTest(1e-3, 1.0, steps=6) for _ in range(2)]
    for each, test in zip((model, plain), tests, strict=True):
        fit(each, callbacks=[test])
    np.testing.assert_allclose(tests[0].history["loss"], tests[1].history["loss"], rtol=1e-5)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.01)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(train.OneCycle(0.1, 10)),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(train.OneCycle(0.1, 10))),
    ],
    ids=["plain", "in another"],
)
def test_range_test_refuses_a_schedule(optimizer):
    with pytest.raises(ValueError, match="learning rate is a schedule"):
        fit(make(optimizer()), epochs=9, callbacks=[train.LearningRateRangeTest(steps=5)])


def test_range_test_refuses_several_steps_per_execution(tf):
    model = make_line()
    model.compile("sgd", "mse", steps_per_execution=4)
    with pytest.raises(ValueError, match="steps_per_execution=4; expected 1"):
        fit(model, X, X.sum(1), callbacks=[train.LearningRateRangeTest(steps=5)])


def test_range_test_refuses_an_optimizer_that_gathers_gradients():
    model = make(keras.optimizers.SGD(0.01, gradient_accumulation_steps=4))
    with pytest.raises(ValueError, match="accumulates gradients"):
        fit(model, callbacks=[train.LearningRateRangeTest(steps=5)])


def test_range_test_refuses_too_few_batches():
    model = make()
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"steps=20 need 4 epochs of 6 batches: fit\(epochs=4\)"):
        fit(model, epochs=3, callbacks=[train.LearningRateRangeTest(steps=20)])
    assert_same(model.get_weights(), before)


@pytest.mark.parametrize(
    "changes",
    [
        {"low": 0},
        {"low": -1e-3},
        {"low": math.nan},
        {"low": 10.0},
        {"high": 1e-6},
        {"high": math.inf},
        {"low": "slow"},
        {"steps": 1},
        {"steps": 10.5},
        {"stop_factor": 1.0},
        {"stop_factor": -2},
        {"stop_factor": math.nan},
    ],
    ids=readable,
)
def test_range_test_refuses_bad_arguments(changes):
    ((name, value),) = changes.items()
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        train.LearningRateRangeTest(**changes)


# The suggestion


def with_history(losses, low=1e-5, high=10.0):
    test = train.LearningRateRangeTest(low, high, steps=len(losses))
    test.history = {"learning_rate": list(np.geomspace(low, high, len(losses))), "loss": list(losses)}
    return test


def weighted_mean(losses, step):
    """Mean of the losses up to a step, each older one weighs a tenth less."""
    weights = 0.9 ** np.arange(step, -1, -1.0)
    return np.average(losses[: step + 1], weights=weights)


@given(seed=st.integers(0, 10**6), turn=st.integers(20, 90))
def test_suggestion_is_a_tenth_of_the_rate_of_the_lowest_smoothed_loss(seed, turn):
    steps, noise = np.arange(100), np.random.default_rng(seed).uniform(-0.3, 0.3, 100)
    losses = 2 - 0.015 * np.minimum(steps, turn) + np.exp(0.4 * (steps - turn)).clip(0, 50) + noise
    lowest = np.argmin([weighted_mean(losses, step) for step in steps])
    assert with_history(losses).suggest() == pytest.approx(np.geomspace(1e-5, 10, 100)[lowest] / 10)


def test_suggestion_is_not_led_by_a_single_lucky_batch():
    losses = np.linspace(2, 1, 100)
    lucky = losses.copy()
    lucky[10] = 0.5
    assert with_history(lucky).suggest() == with_history(losses).suggest() == pytest.approx(1.0)


@pytest.mark.parametrize("worst", [math.nan, math.inf])
def test_suggestion_does_not_mind_the_explosion(worst):
    losses = [*np.linspace(2, 1, 80), *[worst] * 20]
    assert with_history(losses).suggest() == pytest.approx(np.geomspace(1e-5, 10, 100)[79] / 10)


def test_suggestion_needs_a_finite_loss():
    with pytest.raises(ValueError, match="finite"):
        with_history([math.nan] * 5).suggest()


def test_range_test_bears_negative_losses():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", lambda y, p: keras.ops.mean(p) * 0 - 3.0)
    test = train.LearningRateRangeTest(1e-3, 1.0, steps=4)
    fit(model, np.zeros((40, 1)), np.zeros(40), epochs=1, callbacks=[test])
    assert test.history["loss"] == pytest.approx([-3.0] * 4)


def test_suggestion_needs_a_test():
    with pytest.raises(ValueError, match="has not run yet"):
        train.LearningRateRangeTest().suggest()
