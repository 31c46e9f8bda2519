"""Maps against calculations by hand, loops, finite differences and tf-keras-vis; the model stays as it is."""

import copy
import functools

import keras
import numpy as np
import pytest
from conftest import configured
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

from evakeras import augment
from evakeras.explain import (
    activation_maximization,
    grad_cam,
    guided_backprop,
    occlusion,
    randomize,
    saliency,
)

MAPS = [saliency, guided_backprop, grad_cam, occlusion]
GRADIENTS = MAPS[:3]
SHAPE = (9, 10, 2)


def array(tensor):
    return ops.convert_to_numpy(tensor)


def run(model, images):
    return array(model(np.asarray(images, np.float32), training=False))


def draw_weights(model, seed=4):  # a seed with which each class has maps that are not 0
    """Weights of a trained kind: biases, and statistics of batch normalization, that are not 0 and 1."""
    draws = np.random.default_rng(seed)
    for weight in model.weights:
        low, high = (0.5, 1.5) if weight.name in ("gamma", "moving_variance") else (-0.5, 0.5)
        weight.assign(draws.uniform(low, high, weight.shape))
    return model


def parts():
    return [
        layers.Conv2D(4, 3, activation="relu", name="one"),
        layers.BatchNormalization(name="norm"),
        layers.Dropout(0.5, name="drop"),
        layers.Conv2D(5, 3, name="two"),
        layers.ReLU(name="relu"),
        layers.GlobalAveragePooling2D(name="mean"),
        layers.Dense(3, name="classes"),
    ]


def sequential(*end):
    return draw_weights(keras.Sequential([keras.Input(SHAPE), *parts(), *end]))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).random((5, *SHAPE), np.float32)


@pytest.fixture(scope="module")
def model():
    return sequential(layers.Softmax())


def maps_of(function, model, images, class_index=None, **options):
    found = function(model, images, class_index, **({"size": 3} if function is occlusion else {}), **options)
    assert found.shape == images.shape[:3] and found.dtype == np.float32 and (found >= 0).all()
    assert np.isfinite(found).all() and found.any()
    return found


@pytest.fixture(scope="module")
def plain(model, images):
    """Maps of `model` with a function and a class, each made once."""
    return functools.cache(lambda function, index=None: maps_of(function, model, images, index))


def assert_same(found, expected, tolerance=1e-5):
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


# Saliency


@pytest.mark.parametrize("end", [None, "softmax", "sigmoid"])
def test_saliency_of_a_linear_model_is_the_size_of_its_weights(end):
    model = draw_weights(keras.Sequential([keras.Input((4, 3, 2)), layers.Flatten(), layers.Dense(3, end)]))
    images = np.random.default_rng(0).random((2, 4, 3, 2))
    weights = np.abs(array(model.layers[-1].kernel)).reshape(4, 3, 2, 3).max(axis=2)
    assert_same(saliency(model, images, [2, 0]), np.stack([weights[..., 2], weights[..., 0]]))


def test_saliency_agrees_with_finite_differences(images):
    smooth = [layers.Conv2D(3, 3, activation="tanh"), layers.GlobalAveragePooling2D(), layers.Dense(2)]
    model = draw_weights(keras.Sequential([keras.Input(SHAPE), *smooth]))
    found = saliency(model, images[:1], 1)[0]
    for row, column in [(0, 0), (4, 5), (8, 9), (2, 7)]:
        slopes = []
        for channel in range(SHAPE[2]):
            step = np.zeros(SHAPE, np.float32)
            step[row, column, channel] = 0.05
            low, high = run(model, [images[0] - step, images[0] + step])[:, 1]
            slopes.append(abs(high - low) / 0.1)
        assert found[row, column] == pytest.approx(max(slopes), rel=0.02, abs=1e-4)


def test_smooth_saliency_is_the_size_of_the_mean_gradient_of_noisy_copies():
    # The score is Σ x³ / 3, so that the gradient is x² and its mean over noise is x² + σ².
    inputs = keras.Input((6, 6, 1))
    model = keras.Model(inputs, layers.Flatten()(ops.sum(inputs * inputs * inputs / 3, axis=(1, 2))))
    images = np.linspace(0, 2, 36, dtype=np.float32).reshape(1, 6, 6, 1)
    assert_same(saliency(model, images), images[..., 0] ** 2)
    found = saliency(model, images, samples=36, noise=0.25, seed=0)  # σ = 0.25 · 2
    np.testing.assert_allclose(found - images[..., 0] ** 2, 0.25, atol=1)  # one is off by about 0.3
    assert found.mean() - (images**2).mean() == pytest.approx(0.25, abs=0.15)


def test_the_seed_repeats_the_noise_whatever_the_batch_size(model, images):
    first, again, alone = (
        saliency(model, images, samples=3, noise=0.3, seed=7, batch_size=size) for size in (5, 5, 1)
    )
    assert np.array_equal(first, again)
    assert_same(alone, first)
    assert not np.allclose(first, saliency(model, images, samples=3, noise=0.3, seed=8), rtol=1e-3)
    assert_same(saliency(model, images, samples=2, noise=0, seed=0), saliency(model, images))


# Guided backprop


def relu_nets():
    """A two-layer ReLU network in every way of writing it."""
    inputs = keras.Input((3, 4, 2))
    operation = ops.relu(layers.Dense(6)(ops.relu(layers.Dense(8)(layers.Flatten()(inputs)))))
    yield "operation", keras.Model(inputs, layers.Dense(2)(operation))
    for name, first, second in (
        ("argument", [layers.Dense(8, "relu")], [layers.Dense(6, "relu")]),
        ("layer", [layers.Dense(8), layers.ReLU()], [layers.Dense(6), layers.ReLU()]),
        ("activation", [layers.Dense(8), layers.Activation("relu")], [layers.Dense(6, activation="relu")]),
        ("layer as argument", [layers.Dense(8, layers.ReLU())], [layers.Dense(6, keras.activations.relu)]),
    ):
        yield (
            name,
            keras.Sequential([keras.Input((3, 4, 2)), layers.Flatten(), *first, *second, layers.Dense(2)]),
        )


@pytest.mark.parametrize("net", list(relu_nets()), ids=lambda net: net[0])
def test_guided_backprop_agrees_with_a_calculation_by_hand(net):
    model = draw_weights(net[1])
    images = np.random.default_rng(3).random((4, 3, 4, 2), np.float32)
    first, a, second, b, last, _ = (array(weight).astype(float) for weight in model.weights)
    one = images.reshape(4, -1) @ first + a
    two = np.maximum(one, 0) @ second + b
    for index in (0, 1):
        up = np.tile(last[:, index], (4, 1))
        up = (np.maximum(up, 0) * (two > 0)) @ second.T
        up = (np.maximum(up, 0) * (one > 0)) @ first.T
        expected = np.maximum(up, 0).reshape(images.shape).max(axis=-1)
        assert expected.any()
        assert_same(guided_backprop(model, images, index), expected)


def test_relu6_is_guided_and_leaky_relu_is_not():
    def net(*activation):
        stack = [keras.Input((1, 4, 1)), layers.Flatten(), *activation, layers.Dense(1)]
        model = keras.Sequential(stack)
        model.layers[-1].set_weights([np.array([[1.0], [1.0], [-1.0], [1.0]]), np.zeros(1)])
        return model

    images = np.array([1.0, 7.0, 1.0, -1.0]).reshape(1, 1, 4, 1)
    for capped in (layers.ReLU(max_value=6), layers.Activation("relu6")):
        assert guided_backprop(net(capped), images).ravel().tolist() == [1, 0, 0, 0]
    for leaky in (layers.LeakyReLU(), layers.ReLU(negative_slope=0.1), layers.Activation("tanh")):
        with pytest.raises(ValueError, match="no ReLU"):
            guided_backprop(net(leaky), images)


# Grad-CAM


def cam_by_hand(features, gradient):
    weights = gradient.mean(axis=(1, 2), keepdims=True)
    return np.maximum((weights * features).sum(axis=-1), 0)


def test_grad_cam_agrees_with_a_calculation_by_hand(model, images):
    features = run(keras.Model(model.inputs, model.get_layer("relu").output), images)
    height, width = features.shape[1:3]
    dense = array(model.get_layer("classes").kernel)
    for index in range(3):  # the head is mean + dense: the gradient is W / (h·w) everywhere
        gradient = np.broadcast_to(dense[:, index] / (height * width), features.shape)
        expected = cam_by_hand(features, gradient)
        found = grad_cam(model, images, index, resize=False)
        assert found.shape == (5, height, width)
        assert_same(found, expected)
        assert_same(
            grad_cam(model, images, index),
            array(ops.image.resize(expected[..., None], SHAPE[:2], "bilinear"))[..., 0],
        )


def test_grad_cam_of_a_layer_below_a_relu_agrees_with_a_calculation_by_hand(model, images):
    features = run(keras.Model(model.inputs, model.get_layer("two").output), images)
    dense = array(model.get_layer("classes").kernel)[:, 1]
    gradient = (features > 0) * dense / (features.shape[1] * features.shape[2])
    expected = cam_by_hand(features, gradient)
    for layer in ("two", model.get_layer("two")):
        assert_same(grad_cam(model, images, 1, layer=layer, resize=False), expected)


def test_grad_cam_takes_the_last_layer_with_more_than_one_pixel(images):
    stack = [
        layers.Conv2D(4, 3, activation="relu"),
        layers.MaxPooling2D(name="pool"),
        layers.Conv2D(3, (3, 4)),
    ]
    model = draw_weights(keras.Sequential([keras.Input(SHAPE), *stack, layers.Flatten(), layers.Softmax()]))
    assert model.get_layer("pool").output.shape[1:3] == (3, 4)
    assert_same(grad_cam(model, images), grad_cam(model, images, layer="pool"))


def test_grad_cam_of_a_layer_that_the_score_does_not_depend_on_is_zero(images):
    inputs = keras.Input(SHAPE)
    inner = layers.Conv2D(2, 3, name="unused")(inputs)
    outputs = layers.Dense(2)(layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3)(inputs)))
    model = keras.Model(inputs, outputs + 0 * ops.stop_gradient(ops.sum(inner)))
    assert not grad_cam(model, images, layer="unused").any()


# Occlusion


def occlusion_loop(model, images, classes, size, stride, fill):
    """One box after the other, as one would write it first, but for the call of the model."""
    maps = np.zeros(images.shape[:3])
    for image, index, out in zip(images, classes, maps, strict=True):
        height, width = image.shape[:2]
        times, before = np.zeros((height, width)), run(model, image[None])[0, index]
        boxes = []
        for top in range(1 - size, height, stride):
            for left in range(1 - size, width, stride):
                box = slice(max(top, 0), top + size), slice(max(left, 0), left + size)
                boxes.append((box, image.copy()))
                boxes[-1][1][box] = fill
        after = run(model, [hidden for _, hidden in boxes])[:, index]
        for (box, _), probability in zip(boxes, after, strict=True):
            out[box] += before - probability
            times[box] += 1
        out /= times
    return np.maximum(maps, 0)


@settings(max_examples=12)
@given(size=st.integers(1, 9), data=st.data(), batch_size=st.integers(1, 200))
def test_occlusion_agrees_with_the_plain_loop(size, data, batch_size):
    stride = data.draw(st.integers(max(1, size // 2), size))
    fill = data.draw(st.sampled_from([0.0, -1.0, (0.2, 0.7)]))
    count = data.draw(st.integers(1, 2))
    stack = [keras.Input(SHAPE), layers.Flatten(), layers.Dense(3, "softmax")]
    model = draw_weights(keras.Sequential(stack))
    images = np.random.default_rng(size).random((count, *SHAPE), np.float32)
    classes = run(model, images).argmax(axis=1)
    found = occlusion(model, images, size=size, stride=stride, fill=fill, batch_size=max(batch_size, 20))
    np.testing.assert_allclose(found, occlusion_loop(model, images, classes, size, stride, fill), atol=1e-5)


def test_occlusion_of_a_convolutional_network_agrees_with_the_plain_loop(model, images):
    found = occlusion(model, images[:2], [0, 2], size=4, stride=2, batch_size=32)
    np.testing.assert_allclose(found, occlusion_loop(model, images[:2], [0, 2], 4, 2, 0.0), atol=1e-5)


def test_occlusion_hides_the_border_as_often_as_the_middle():
    mean = [keras.Input((7, 8, 1)), layers.GlobalAveragePooling2D()]
    found = occlusion(keras.Sequential(mean), np.ones((1, 7, 8, 1)), size=1)
    np.testing.assert_allclose(found, 1 / 56, rtol=1e-5)


# Activation maximization


def test_activation_maximization_finds_the_matched_filter_of_a_linear_layer():
    model = draw_weights(
        keras.Sequential([keras.Input((5, 4, 2)), layers.Flatten(), layers.Dense(3, "softmax")])
    )
    kernel = array(model.layers[-1].kernel)
    model.layers[-1].kernel.assign(kernel + 0.1 * np.sign(kernel))  # no weight is so small that it takes long
    kernels = array(model.layers[-1].kernel).T.reshape(3, 5, 4, 2)
    plain = {"jitter": 0, "total_variation": 0, "learning_rate": 3.0, "steps": 40, "seed": 0}
    assert np.array_equal(activation_maximization(model, **plain), (kernels > 0).astype(np.float32))
    found = activation_maximization(model, channel=[2, 0], value_range=(-3, 5), **plain)
    assert np.array_equal(found, np.where(kernels[[2, 0]] > 0, 5, -3))


def test_activation_maximization_of_a_convolution_repeats_its_kernel():
    model = draw_weights(
        keras.Sequential([keras.Input((6, 6, 1)), layers.Conv2D(2, 3, strides=3, name="tiles")])
    )
    kernel = array(model.layers[0].kernel)[..., 0, :]
    found = activation_maximization(
        model, "tiles", 1, jitter=0, total_variation=0, learning_rate=3.0, steps=40, seed=0
    )
    assert np.array_equal(found[0, ..., 0], np.tile(kernel[..., 1] > 0, (2, 2)))


def test_activation_maximization_excites_its_channel_most(model):
    for name in ("one", "relu", "norm"):
        channels = model.get_layer(name).output.shape[-1]
        drawn = activation_maximization(model, name, seed=0, steps=50)
        found = run(keras.Model(model.inputs, model.get_layer(name).output), drawn).mean(axis=(1, 2))
        start = run(keras.Model(model.inputs, model.get_layer(name).output), np.full((1, *SHAPE), 0.5)).mean(
            (1, 2)
        )
        assert drawn.shape == (channels, *SHAPE) and drawn.dtype == np.float32
        assert drawn.min() >= 0 and drawn.max() <= 1
        assert (np.diag(found) >= found.max(axis=0) - 1e-3).all()
        assert (np.diag(found) > start).any() and (np.diag(found) >= start - 1e-3).all()


def test_activation_maximization_wakes_a_channel_that_is_off_at_the_start():
    stack = [
        layers.Conv2D(1, 3, activation="relu", name="one"),
        layers.ReLU(),
        layers.Flatten(),
        layers.Dense(1),
    ]
    model = keras.Sequential([keras.Input((6, 6, 1)), *stack])
    edge = np.array([[1, -1, 1]] * 3).reshape(3, 3, 1, 1)
    model.layers[0].set_weights([edge, np.array([-3.0])])  # grey gives 1.5 − 3
    found = activation_maximization(model, "one", 0, seed=0, total_variation=0)
    assert not run(keras.Model(model.inputs, model.layers[0].output), np.full((1, 6, 6, 1), 0.5)).any()
    assert run(keras.Model(model.inputs, model.layers[0].output), found).max() > 1


def test_penalties_smooth_and_darken(model):
    def drawn(**options):
        return activation_maximization(
            model, None, 0, **{"total_variation": 0, "seed": 0, "steps": 30, **options}
        )

    def edges(images):
        return np.abs(np.diff(images, axis=1)).mean() + np.abs(np.diff(images, axis=2)).mean()

    plain, dark = drawn(), drawn(l2=1)
    assert edges(drawn(total_variation=1)) < 0.7 * edges(plain)
    assert dark.mean() < 0.7 * plain.mean()
    bright = drawn(l2=1, value_range=(3, 255))
    assert dark.max() <= 1 and bright.min() == 3 < bright.mean() < 129 and bright.max() <= 255


def test_channels_are_drawn_alike_alone_and_together_and_the_seed_repeats(model):
    together = activation_maximization(model, "two", [3, 1], seed=5, steps=20)
    again = activation_maximization(model, "two", [3, 1], seed=5, steps=20)
    alone = activation_maximization(model, "two", np.int64(1), seed=5, steps=20)
    assert np.array_equal(together, again)
    assert alone.shape == (1, *SHAPE)
    np.testing.assert_allclose(alone[0], together[1], atol=1e-3)
    assert not np.allclose(alone, activation_maximization(model, "two", 1, seed=6, steps=20), atol=1e-2)


# Randomize


def changed(model, copied):
    """Names of the layers whose weights differ."""
    names = []
    for old, new in zip(model.layers, copied.layers, strict=True):
        same = [np.array_equal(a, b) for a, b in zip(old.get_weights(), new.get_weights(), strict=True)]
        names += [] if all(same) else [old.name]
    return names


def test_randomize_goes_from_the_output_down_to_the_layer(model):
    before = copy.deepcopy(model.get_weights())
    assert changed(model, randomize(model, seed=0)) == ["one", "norm", "two", "classes"]
    assert changed(model, randomize(model, "two", seed=0)) == ["two", "classes"]
    assert changed(model, randomize(model, model.get_layer("classes"), seed=0)) == ["classes"]
    assert changed(model, randomize(model, "two", cascade=False, seed=0)) == ["two"]
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_randomize_keeps_what_was_drawn_above_and_repeats_with_its_seed(model):
    low, high, again, other = (
        randomize(model, layer, seed=seed).get_layer("classes").get_weights()[0]
        for layer, seed in (("one", 3), ("two", 3), ("one", 3), ("one", 4))
    )
    assert np.array_equal(low, high) and np.array_equal(low, again)
    assert not np.array_equal(low, other)


def test_randomize_draws_from_the_initializers_without_their_seeds():
    seeded = keras.initializers.RandomUniform(2, 3, seed=1)
    stack = [layers.Dense(4, kernel_initializer=seeded, bias_initializer="ones"), layers.BatchNormalization()]
    model = keras.Sequential([keras.Input((3,)), *stack])
    old = model.layers[0].get_weights()[0]
    draw_weights(model)
    kernel, bias, *norm = randomize(model, seed=0).get_weights()
    assert (kernel >= 2).all() and (kernel <= 3).all() and not np.array_equal(kernel, old)
    assert (bias == 1).all()
    assert [weight.tolist() for weight in norm] == [[1] * 4, [0] * 4, [0] * 4, [1] * 4]


def test_randomize_leaves_the_random_numbers_of_others_alone(model):
    keras.utils.set_random_seed(5)
    expected = layers.Dense(3, kernel_initializer="he_normal")
    expected.build((None, 2))
    keras.utils.set_random_seed(5)
    randomize(model, seed=0)
    found = layers.Dense(3, kernel_initializer="he_normal")
    found.build((None, 2))
    assert np.array_equal(array(found.kernel), array(expected.kernel))


def test_randomize_keeps_what_was_adapted_and_predicts_as_before_below(images):
    normalize = layers.Normalization()
    normalize.adapt(images * 3 + 1)
    model = draw_weights(keras.Sequential([keras.Input(SHAPE), keras.Sequential([normalize]), *parts()]), 2)
    normalize.adapt(images * 3 + 1)
    copied = randomize(model, "classes", seed=0)
    below = [keras.Model(each.inputs, each.get_layer("mean").output) for each in (model, copied)]
    assert_same(run(below[1], images), run(below[0], images))
    whole = randomize(model, seed=0)
    assert_same(run(whole.layers[0], images), run(model.layers[0], images))


def test_randomize_keeps_what_an_augmentation_has_measured(images):
    measured = augment.from_image_data_generator(featurewise_std_normalization=True).fit(images * 3 + 1)
    model = draw_weights(keras.Sequential([keras.Input(SHAPE), *parts()]))
    model = keras.Sequential([keras.Input(SHAPE), measured, model])
    for layer in ("classes", None):
        copied = randomize(model, layer, seed=0)
        assert_same(run(copied.layers[0], images), run(measured, images))
        assert np.isfinite(copied.predict(images, verbose=0)).all()


def test_a_map_of_the_randomized_model_is_another_one(model, images):
    copied = randomize(model, seed=0)
    assert not copied.compiled
    assert not np.allclose(saliency(copied, images, 0), saliency(model, images, 0), rtol=0.1)


# Models of every make give the same maps


def nested_tail():
    one, *rest = parts()
    inner = keras.Sequential([*rest, layers.Softmax()], name="tail")
    return keras.Sequential([keras.Input(SHAPE), one, inner])


def nested_backbone():
    inputs, backbone_inputs = keras.Input(SHAPE), keras.Input((None, None, 2))
    x = backbone_inputs
    for layer in parts()[:5]:
        x = layer(x)
    backbone = keras.Model(backbone_inputs, x, name="backbone")
    x = backbone(layers.Rescaling(1.0)(inputs))
    for layer in parts()[5:]:
        x = layer(x)
    return keras.Model(inputs, layers.Activation("softmax")(x))


def functional():
    inputs = x = keras.Input(SHAPE)
    for layer in parts()[:-1]:
        x = layer(x)
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="classes")(x))


def augmented():
    random = [layers.RandomFlip(), layers.RandomTranslation(0.3, 0.3), layers.GaussianNoise(0.5)]
    return keras.Sequential([keras.Input(SHAPE), keras.Sequential(random), *parts(), layers.Softmax()])


def ends_in_reshape():
    end = [layers.Reshape((1, 3)), layers.Softmax(), layers.Dropout(0.2), layers.Flatten()]
    return keras.Sequential([keras.Input(SHAPE), *parts(), *end])


def built_by_a_call():
    model = keras.Sequential([*parts(), layers.Softmax()])
    model(np.zeros((1, *SHAPE), np.float32))
    return model


def softmax_operation():
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, ops.softmax(keras.Sequential(parts())(inputs)))


MAKES = [
    nested_tail,
    nested_backbone,
    functional,
    augmented,
    ends_in_reshape,
    built_by_a_call,
    softmax_operation,
]


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("function", MAPS)
def test_the_same_network_gives_the_same_maps_however_it_is_built(function, make, model, images, plain):
    other = make()
    ours = [weight for weight in other.weights if "seed" not in weight.name]
    for mine, theirs in zip(ours, model.weights, strict=True):
        mine.assign(theirs.numpy())  # not the variable: on JAX both would share one memory
    assert_same(run(other, images), run(model, images))
    for index in (None, 1):
        assert_same(maps_of(function, other, images, index), plain(function, index), 1e-4)


@pytest.mark.parametrize("make", [nested_tail, nested_backbone])
def test_layers_of_nested_models_are_found_by_name_and_path(make, model, images):
    other = make()
    other.set_weights(model.get_weights())
    inner = "tail" if make is nested_tail else "backbone"
    layer = other.get_layer(inner).get_layer("two")
    expected = grad_cam(model, images, layer="two")
    for name in ("two", f"{inner}/two", layer):
        assert_same(grad_cam(other, images, layer=name), expected, 1e-4)
    drawn = activation_maximization(model, "two", 2, seed=0, steps=10)
    np.testing.assert_allclose(activation_maximization(other, "two", 2, seed=0, steps=10), drawn, atol=1e-3)
    assert np.array_equal(
        randomize(other, f"{inner}/two", seed=0).get_weights()[6],
        randomize(model, "two", seed=0).get_weights()[6],
    )
    lower = randomize(other, inner, seed=0).get_weights()
    assert np.array_equal(lower[0], model.get_weights()[0]) == (make is nested_tail)


@pytest.mark.parametrize("function", GRADIENTS)
def test_the_logit_is_explained_whether_or_not_softmax_follows(function, model, images):
    bare = sequential()
    for index in (0, [2, 1, 0, 0, 2]):
        logit = maps_of(function, bare, images, index)
        assert_same(maps_of(function, model, images, index), logit, 1e-4)
        assert not np.allclose(maps_of(function, model, images, index, score="output"), logit, rtol=0.1)
        assert_same(maps_of(function, bare, images, index, score="output"), logit)


def test_the_gradient_of_the_output_is_that_of_the_probability(model, images):
    probability = run(model, images)[:, 1]
    inputs = keras.Input((1, 1, 2))
    logits = keras.Model(inputs, layers.Flatten()(inputs))
    softmax = keras.Model(inputs, layers.Softmax()(layers.Flatten()(inputs)))
    pixels = np.log(np.stack([1 - probability, probability], axis=1))[:, None, None]
    assert_same(saliency(logits, pixels, 1).ravel(), np.ones(5))
    assert_same(saliency(softmax, pixels, 1, score="output").ravel(), probability * (1 - probability))


@pytest.mark.parametrize("hidden", ["sigmoid", "softmax"])
def test_what_is_hidden_below_a_linear_layer_stays(hidden, images):
    stack = [layers.Flatten(), layers.Dense(6, hidden), layers.Dense(3)]
    model = draw_weights(keras.Sequential([keras.Input(SHAPE), *stack]))
    classes = run(model, images).argmax(1)
    assert_same(saliency(model, images), saliency(model, images, classes, score="output"))


def test_a_softmax_given_as_a_function_is_seen(images):
    functions = [keras.activations.softmax, ops.softmax]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        functions += [tf.nn.softmax, tf.keras.activations.softmax]
    stack = [layers.Flatten(), layers.Dense(6, ops.relu)]
    bare = draw_weights(keras.Sequential([keras.Input(SHAPE), *stack, layers.Dense(3)]))
    for function in functions:
        end = layers.Dense(3, activation=function)
        model = keras.Sequential([keras.Input(SHAPE), *stack, end])
        end.set_weights(bare.layers[-1].get_weights())
        for method in (saliency, guided_backprop):
            assert_same(method(model, images), method(bare, images))


def test_outputs_in_a_dict_are_served(images):
    inputs = keras.Input(SHAPE)
    scores = draw_weights(keras.Sequential([layers.Flatten(), layers.Dense(3)]))(inputs)
    named, plain = keras.Model(inputs, {"scores": scores}), keras.Model(inputs, scores)
    for function in (saliency, occlusion):
        assert_same(maps_of(function, named, images), maps_of(function, plain, images))


def test_one_sigmoid_output_is_explained_by_its_logit(images):
    stack = [layers.Conv2D(3, 3, activation="relu"), layers.GlobalAveragePooling2D()]
    model = draw_weights(
        keras.Sequential([keras.Input(SHAPE), *stack, layers.Dense(1, activation="sigmoid")])
    )
    bare = keras.Sequential([keras.Input(SHAPE), *stack, layers.Dense(1)])
    bare.layers[-1].set_weights(model.layers[-1].get_weights())
    for function in GRADIENTS:
        assert_same(function(model, images), function(bare, images))


@pytest.mark.parametrize("function", MAPS)
def test_images_are_explained_alike_alone_and_in_batches_of_any_size(function, model, images, plain):
    expected = plain(function)
    assert_same(maps_of(function, model, images, batch_size=2), expected, 1e-4)
    assert_same(maps_of(function, model, images[3:4]), expected[3:4], 1e-4)


@pytest.mark.parametrize("function", MAPS)
def test_none_explains_the_predicted_class_and_each_image_can_have_its_own(function, model, images, plain):
    predicted = run(model, images).argmax(axis=1)
    expected = plain(function)
    assert np.array_equal(maps_of(function, model, images, predicted), expected)
    assert np.array_equal(maps_of(function, model, images, predicted.tolist()), expected)
    each = [plain(function, index) for index in range(3)]
    mixed = maps_of(function, model, images, [0, 1, 2, 1, 0])
    assert_same(mixed, np.stack([each[index][i] for i, index in enumerate([0, 1, 2, 1, 0])]))


@pytest.mark.parametrize("function", MAPS)
def test_whole_numbers_are_taken_as_they_are(function, images):
    model = draw_weights(keras.Sequential([keras.Input(SHAPE), layers.Rescaling(1 / 255), *parts()]))
    pixels = np.random.default_rng(0).integers(0, 256, (2, *SHAPE)).astype("uint8")
    assert np.array_equal(
        maps_of(function, model, pixels), maps_of(function, model, pixels.astype("float64"))
    )


@pytest.mark.parametrize("function", MAPS)
def test_maps_of_a_mixed_precision_model_are_float32_and_nearly_the_same(function, model, images, plain):
    with configured(dtype_policy="mixed_bfloat16"):
        mixed = keras.Sequential([keras.Input(SHAPE), *parts(), layers.Softmax(dtype="float32")])
        mixed.set_weights(model.get_weights())
        found = maps_of(function, mixed, images, 1)
    expected = plain(function, 1)
    tolerance = 1e-3 if function is occlusion else 0.1 * expected.mean()
    assert np.abs(found - expected).mean() < tolerance
    assert not np.array_equal(found, expected)


@pytest.mark.parametrize("function", MAPS)
def test_inputs_of_whole_numbers_and_inputs_with_a_name_are_served(function, images):
    inputs = keras.Input(SHAPE, dtype="uint8", name="pixels")
    model = draw_weights(
        keras.Model({"pixels": inputs}, keras.Sequential(parts())(ops.cast(inputs, "float32")))
    )
    pixels = (images * 9).astype("uint8")
    assert_same(maps_of(function, model, pixels), maps_of(function, sequential(), pixels))


def test_a_model_of_any_image_size_can_be_explained(images):
    model = draw_weights(keras.Sequential([keras.Input((None, None, 2)), *parts()]))
    fixed = sequential()
    for function in MAPS:
        assert np.array_equal(maps_of(function, model, images), maps_of(function, fixed, images))
    with pytest.raises(ValueError, match="known size"):
        activation_maximization(model)


def test_the_model_stays_as_it_is(images):
    model = keras.Sequential([keras.Input(SHAPE), *parts(), layers.Softmax()])
    model.layers[0].activity_regularizer = keras.regularizers.L2(0.1)
    model.layers[3].trainable = False
    draw_weights(model).compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(images, np.array([0, 1, 2, 0, 1]), verbose=0)

    model(images)  # losses of `fit` are symbols

    def state():
        variables = [*model.variables, *model.optimizer.variables]
        flags = [(layer.trainable, layer.name, getattr(layer, "activation", None)) for layer in model.layers]
        nodes = [len(layer._inbound_nodes) for layer in model.layers]
        functions = model.train_function, model.optimizer, model.compiled
        return [array(variable) for variable in variables], flags, nodes, functions, model.get_config()

    before, losses = state(), [float(loss) for loss in model.losses]
    for function in MAPS:
        maps_of(function, model, images, samples=2) if function is saliency else maps_of(
            function, model, images
        )
    activation_maximization(model, steps=2)
    activation_maximization(model, "two", steps=2)
    randomize(model, "one")
    after = state()
    assert all(np.array_equal(a, b) for a, b in zip(before[0], after[0], strict=True))
    assert before[1:] == after[1:]
    model(images)  # losses of `predict`, which occlusion uses, are symbols too
    assert [float(loss) for loss in model.losses] == losses
    model.fit(images, np.array([0, 1, 2, 0, 1]), verbose=0)  # goes on


def test_layers_that_are_made_later_have_the_names_that_they_would_have(model, images):
    def number():
        return int(layers.Lambda(lambda x: x).name.removeprefix("lambda").removeprefix("_") or 0)

    before = number()
    saliency(model, images)
    assert number() == before + 1


def test_the_models_of_the_course_can_be_explained():
    from evakeras.models import build

    images = np.random.default_rng(0).random((2, 28, 28, 1))
    for name, last in (("fast", "pool_2"), ("sixth", "drop_7")):
        model = build(name)
        for function in GRADIENTS:
            maps_of(function, model, images)
        assert np.array_equal(grad_cam(model, images), grad_cam(model, images, layer=last))
        assert occlusion(model, images, size=14, stride=14).shape == (2, 28, 28)


# Agreement with tf-keras-vis


def test_saliency_and_grad_cam_agree_with_tf_keras_vis(tf, images):
    pytest.importorskip("tf_keras_vis", reason="tf-keras-vis is not installed")
    from tf_keras_vis.gradcam import Gradcam
    from tf_keras_vis.saliency import Saliency

    model = sequential()
    classes = [0, 1, 2, 1, 0]

    def score(output):
        return [row[index] for row, index in zip(output, classes, strict=True)]

    theirs = Saliency(model, clone=False)(score, images, normalize_map=False)
    assert_same(saliency(model, images, classes), theirs, 1e-4)
    gradcam = Gradcam(model, clone=False)
    for layer in ("relu", "two", "one"):
        theirs = gradcam(score, images, layer, False, expand_cam=False, normalize_cam=False)
        assert_same(grad_cam(model, images, classes, layer=layer, resize=False), np.asarray(theirs), 1e-4)


# Errors


class Subclassed(keras.Model):
    def call(self, images):
        return ops.mean(images, axis=(1, 2))


def subclassed():
    model = Subclassed()
    model(np.zeros((1, *SHAPE), np.float32))
    return model


def two_outputs():
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, [layers.Flatten()(inputs), layers.GlobalAveragePooling2D()(inputs)])


def two_inputs():
    inputs = [keras.Input(SHAPE), keras.Input(SHAPE)]
    return keras.Model(inputs, layers.Flatten()(layers.Add()(inputs)))


def channels_first():
    convolution = layers.Conv2D(2, 1, data_format="channels_first")
    return keras.Sequential([keras.Input(SHAPE), convolution, layers.Flatten(), layers.Dense(2)])


def turned_inside():
    """Takes images with channels last, and turns them for itself."""
    parts = [layers.Permute((3, 1, 2)), layers.Conv2D(2, 1, data_format="channels_first")]
    return keras.Sequential([keras.Input(SHAPE), *parts, layers.Flatten(), layers.Dense(2)])


BAD_MODELS = [
    (subclassed, "Subclassed with a `call` of its own"),
    (lambda: keras.Sequential(parts()), "built Keras model: give it an Input"),
    (lambda: "model", "model='model' must be"),
    (two_outputs, r"outputs \(None, 180\), \(None, 2\), expected one, \(N, classes\)"),
    (two_inputs, r"inputs .*expected one, \(N, H, W, C\)"),
    (channels_first, r"takes channels first; expected images \(N, H, W, C\)"),
    (lambda: keras.Sequential([keras.Input((8,)), layers.Dense(2)]), r"inputs \(None, 8\), expected one"),
    (lambda: keras.Sequential([keras.Input(SHAPE), layers.Conv2D(2, 3)]), r"outputs .*\(N, classes\)"),
]


@pytest.mark.parametrize("make, message", BAD_MODELS)
@pytest.mark.parametrize("function", [*MAPS, "activation_maximization"])
def test_a_model_that_does_not_fit_is_refused(function, make, message, images):
    with pytest.raises(ValueError, match=message):
        activation_maximization(make()) if isinstance(function, str) else function(make(), images)


def test_a_model_may_turn_its_images_itself(images):
    assert saliency(turned_inside(), images).shape == images.shape[:3]


NAN = np.full((1, *SHAPE), np.nan)


@pytest.mark.parametrize(
    "bad, message",
    [
        (np.zeros(SHAPE), r"images have shape \(9, 10, 2\), expected \(N, 9, 10, 2\)"),
        (np.zeros((2, 9, 10, 3)), r"\(2, 9, 10, 3\), expected \(N, 9, 10, 2\)"),
        (np.zeros((2, 10, 9, 2)), "images have shape"),
        (np.zeros((0, *SHAPE)), "at least one"),
        (NAN, "NaN"),
        (NAN + np.inf, "NaN, infinity"),
        (np.full((1, *SHAPE), 1e300), "too large for float32"),
        (np.full((1, *SHAPE), "a"), "<U1; expected floats or whole numbers"),
        ([[1], [1, 2]], "images is a ragged list"),
        (np.zeros((1, *SHAPE), complex), "complex"),
    ],
)
@pytest.mark.parametrize("function", MAPS)
def test_images_that_do_not_fit_are_refused(function, bad, message, model):
    with pytest.raises(ValueError, match=message):
        function(model, bad)


@pytest.mark.parametrize(
    "index, message",
    [
        (3, "class_index=3 must lie between 0 and 2"),
        (-1, "between 0 and 2"),
        ([0, 1], r"class_index has shape \(2,\).*one for each of 5 images"),
        ([0, 1, 2, 3, 0], "between 0 and 2"),
        (1.0, "float64, expected a whole number"),
        (1.0, r"class_index has shape \(\) and dtype float64"),
        (True, "bool, expected a whole number"),
        ("2", "a whole number"),
        (np.zeros((5, 1), int), "a whole number, or one for each"),
    ],
)
@pytest.mark.parametrize("function", MAPS)
def test_classes_that_do_not_fit_are_refused(function, index, message, model, images):
    with pytest.raises(ValueError, match=message):
        function(model, images, index)


@pytest.mark.parametrize(
    "function, options, message",
    [
        (saliency, {"samples": 0}, "samples=0 must be a whole number, at least 1"),
        (saliency, {"noise": -1}, "noise=-1 must be a finite number"),
        (saliency, {"score": "loss"}, "score='loss' must be 'logit' or 'output'"),
        (guided_backprop, {"batch_size": 0}, "batch_size=0"),
        (grad_cam, {"batch_size": 1.5}, "batch_size=1.5"),
        (
            grad_cam,
            {"layer": "three"},
            "layer='three' does not fit; expected one of one, norm, drop, two, relu$",
        ),
        (grad_cam, {"layer": "mean"}, "layer='mean' does not fit; expected one of one"),
        (grad_cam, {"layer": layers.Dense(1, name="new")}, "layer='new' does not fit"),
        (occlusion, {"size": 0}, "size=0"),
        (occlusion, {"size": 10}, "size=10 must be at most 9"),
        (occlusion, {"size": 3, "stride": 4}, "stride=4 must be at most size=3"),
        (occlusion, {"size": 3, "stride": 0}, "stride=0"),
        (occlusion, {"size": 3, "fill": np.nan}, "fill=nan must be a finite number"),
        (occlusion, {"size": 3, "fill": (1, 2, 3)}, r"fill of shape \(3,\) .*each of 2 channels"),
        (occlusion, {"size": 3, "fill": "mean"}, "fill='mean' must be a number"),
        (saliency, {"seed": -1}, "seed=-1 must be a whole number"),
        (saliency, {"seed": "a"}, "seed='a'"),
    ],
)
def test_options_that_do_not_fit_are_refused(function, options, message, model, images):
    with pytest.raises(ValueError, match=message):
        function(model, images, **options)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"layer": "none"}, "layer='none' does not fit; expected one of one, norm"),
        ({"channel": 3}, "channel=3 must lie between 0 and 2"),
        ({"channel": []}, "channel"),
        ({"channel": 0.5}, "channel has shape"),
        ({"layer": "two", "channel": [0, 5]}, "between 0 and 4"),
        ({"steps": 0}, "steps=0"),
        ({"jitter": -1}, "jitter=-1"),
        ({"learning_rate": "fast"}, "learning_rate='fast'"),
        ({"total_variation": -0.1}, "total_variation=-0.1"),
        ({"l2": np.inf}, "l2=inf"),
        ({"value_range": (1, 0)}, "the lower first"),
        ({"value_range": (0, np.nan)}, "finite"),
        ({"value_range": 5}, "value_range=5 must be two finite numbers"),
        ({"value_range": (0, 1, 2)}, "two finite numbers"),
        ({"seed": 1.5}, "seed=1.5"),
    ],
)
def test_activation_maximization_refuses_what_does_not_fit(options, message, model):
    with pytest.raises(ValueError, match=message):
        activation_maximization(model, **options)


def test_grad_cam_refuses_a_model_without_a_spatial_layer(images):
    stack = [keras.Input(SHAPE), layers.GlobalAveragePooling2D(), layers.Dense(2)]
    with pytest.raises(ValueError, match="layer=None does not fit; the model has no layer that fits"):
        grad_cam(keras.Sequential(stack), images)


def test_randomize_refuses_what_does_not_fit(model):
    with pytest.raises(
        ValueError, match=r"layer='relu' does not fit; expected one of one, norm, two, classes$"
    ):
        randomize(model, "relu")
    with pytest.raises(ValueError, match="hides its layers"):
        randomize(subclassed())
    with pytest.raises(ValueError, match="seed=-1"):
        randomize(model, seed=-1)


def test_a_layer_that_is_called_twice_is_refused(images):
    inputs, twice = keras.Input(SHAPE), layers.Conv2D(2, 3, padding="same", name="twice")
    twofold = keras.Model(inputs, layers.GlobalAveragePooling2D()(twice(ops.relu(twice(inputs)))))
    with pytest.raises(ValueError, match="called more than once"):
        grad_cam(twofold, images, layer="twice")
    softmax = layers.Softmax()
    unclear = keras.Model(inputs, softmax(layers.Dense(2)(layers.Flatten()(softmax(inputs)))))
    with pytest.raises(ValueError, match="called more than once; pass score='output'"):
        saliency(unclear, images)
    logits = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(softmax(softmax(inputs)))))
    assert_same(saliency(logits, images), saliency(logits, images, score="output"))
    assert saliency(unclear, images, score="output").any()


def test_occlusion_compiles_a_model_once(tf, images):
    model = draw_weights(keras.Sequential([keras.Input(SHAPE), *parts(), layers.Softmax()]))
    traces = []
    model.layers[0].call = lambda x, call=model.layers[0].call: traces.append(x.shape) or call(x)
    first = occlusion(model, images[:2], class_index=0, size=3, batch_size=16)
    made = len(traces)
    assert np.array_equal(occlusion(model, images[:2], class_index=0, size=3, batch_size=16), first)
    assert len(traces) == made
