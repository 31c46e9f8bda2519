"""Parameter counts; receptive fields against lit rows, and multiplications against sums of ones."""

from functools import partial

import keras
import numpy as np
import pytest
from conftest import configured, readable
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from evakeras import augment, models
from evakeras.data import load_mnist
from evakeras.models import COMPACT, PROGRESSION, RECIPES, build, compiled, receptive_field

PARAMETERS = {
    "first": 68_260,
    "second": 195_352,
    "third": 10_890,
    "fourth": 11_250,
    "fifth": 18_366,
    "sixth": 18_366,
    "seventh": 18_366,
    "eighth": 16_604,
}


def of_type(model, *types):
    return [layer for layer in model.layers if isinstance(layer, types)]


# The progression


STEPS = PROGRESSION | COMPACT


@pytest.mark.parametrize("name", STEPS)
def test_model_has_the_parameters_its_step_states(name):
    model = build(name)
    assert model.count_params() == STEPS[name].parameters == PARAMETERS.get(name, model.count_params())
    assert model.name == name


def test_progression_is_in_the_order_of_the_notes():
    assert list(PROGRESSION)[:8] == list(PARAMETERS)


@pytest.mark.parametrize(
    "name, limit", {"fast": 20_000, "best": 20_000, "tiny": 8_000, "ninth": 15_001}.items()
)
def test_models_with_a_recipe_stay_under_their_limit_of_parameters(name, limit):
    assert build(name).count_params() < limit


def test_the_ninth_model_has_no_bias_and_no_fully_connected_layer():
    convolutions = of_type(build("ninth"), layers.Conv2D)
    assert len(convolutions) == len(of_type(build("ninth"), layers.BatchNormalization)) + 1
    assert not any(layer.use_bias for layer in convolutions)
    assert {layer.kernel_size for layer in convolutions[:-1]} == {(3, 3)}
    assert convolutions[-1].kernel_size == (1, 1) and not of_type(build("ninth"), layers.Dense)


def test_compact_models_pool_before_they_normalize_and_then_cut_off():
    kinds = [type(layer).__name__ for layer in build("best", dropout=0.1).layers[:9]]
    assert kinds[:4] == ["Conv2D", "BatchNormalization", "ReLU", "Dropout"]
    assert kinds[4:] == ["Conv2D", "MaxPooling2D", "BatchNormalization", "ReLU", "Dropout"]


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("input_shape, classes", [((28, 28, 1), 10), ((32, 40, 3), 2)])
def test_model_gives_probabilities_for_any_size_and_number_of_classes(name, input_shape, classes):
    model = build(name, input_shape=input_shape, classes=classes)
    images = np.random.default_rng(0).random((3, *input_shape), dtype=np.float32)
    found = keras.ops.convert_to_numpy(model(images))
    assert found.shape == (3, classes)
    assert (found > 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    assert not model.compiled


def test_sixth_is_fifth_with_dropout_and_fourth_is_third_with_batch_normalization():
    assert not of_type(build("fifth"), layers.Dropout)
    assert {layer.rate for layer in of_type(build("sixth"), layers.Dropout)} == {0.1}
    assert not of_type(build("third"), layers.BatchNormalization)
    assert len(of_type(build("fourth"), layers.BatchNormalization)) == 7


@pytest.mark.parametrize("name", STEPS)
def test_dropout_overrides_the_rate_of_the_step_after_every_convolution_but_the_last(name):
    model = build(name, dropout=0.3)
    assert [layer.rate for layer in of_type(model, layers.Dropout)] == [0.3] * (
        len(of_type(model, layers.Conv2D)) - 1
    )
    assert not of_type(build(name, dropout=0), layers.Dropout)


@pytest.mark.parametrize("name", STEPS)
def test_kernel_regularizer_reaches_every_convolution_kernel_and_nothing_else(name):
    model = build(name, kernel_regularizer=keras.regularizers.L2(0.01))
    kernels = [layer.kernel for layer in of_type(model, layers.Conv2D)]
    expected = sum(0.01 * (kernel.numpy() ** 2).sum() for kernel in kernels)
    assert len(model.losses) == len(kernels)
    np.testing.assert_allclose(float(sum(model.losses)), expected, rtol=1e-5)


def test_kernel_regularizer_can_be_a_name():
    assert len(build("fast", kernel_regularizer="l1").losses) == 4


@pytest.mark.parametrize("name", ["third", "eighth"])
def test_model_survives_saving(name, tmp_path):
    model = build(name, kernel_regularizer="l2", dropout=0.2)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    images = np.random.default_rng(0).random((2, 28, 28, 1), dtype=np.float32)
    assert np.array_equal(*map(keras.ops.convert_to_numpy, (loaded(images), model(images))))
    assert len(loaded.losses) == len(model.losses)


@pytest.mark.parametrize("name", ["first", "third", "eighth", "fast"])
def test_smallest_input_is_built_and_one_pixel_less_refused(name):
    builds = []
    for size in range(1, 28):
        try:
            builds.append(build(name, input_shape=(size, 28, 1)).output_shape == (None, 10))
        except ValueError as error:
            assert "too small" in str(error)
            builds.append(False)
    smallest = builds.index(True)
    assert smallest > 0 and all(builds[smallest:])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"name": "tenth"}, "'tenth'.*'?first"),
        ({"dropout": 1}, "dropout"),
        ({"dropout": -0.1}, "dropout"),
        ({"dropout": float("nan")}, "dropout"),
        ({"input_shape": (28, 28)}, "input_shape"),
        ({"input_shape": (28, 28, 0)}, "input_shape"),
        ({"input_shape": (None, 28, 1)}, "input_shape"),
        ({"input_shape": (28.0, 28, 1)}, "input_shape"),
        ({"classes": 1}, "classes"),
        ({"classes": 10.0}, "classes"),
    ],
    ids=readable,
)
def test_build_refuses_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**{"name": "third", **arguments})


# Recipes


@pytest.fixture(scope="module")
def digits():
    return load_mnist(limit=2_000)


@pytest.mark.parametrize("name", RECIPES)
def test_a_short_run_of_a_recipe_reaches_its_floor(name, digits):
    x, y = digits.x_train[:1400].astype("float32") / 255, digits.y_train[:1400]
    batch, epochs = 16, 2  # many steps in little time
    model = compiled(name, len(x) * RECIPES[name].batch_size // batch, epochs=epochs)
    model.fit(x, y, batch_size=batch, epochs=epochs, verbose=0)
    x, y = digits.x_test[:500].astype("float32") / 255, digits.y_test[:500]
    # With the statistics of this batch: moving averages need more than 200 steps to settle.
    found = keras.ops.convert_to_numpy(model(x, training=True)).argmax(axis=1)
    assert np.mean(found == y) > 0.85  # found: at least 0.90; with a hundredth of the peak at most 0.49


def test_the_rate_of_a_recipe_rises_for_a_quarter_of_the_steps_to_its_peak_and_ends_at_zero():
    model = compiled("fast", 1_000, epochs=10)
    rates = np.array([float(model.optimizer._learning_rate(step)) for step in range(81)])
    assert rates.argmax() == 20 and rates[20] == pytest.approx(RECIPES["fast"].peak)
    assert (np.diff(rates[:21]) > 0).all() and (np.diff(rates[20:]) < 0).all()
    assert rates[0] == pytest.approx(rates[20] / 10) and rates[80] == 0


def test_a_recipe_counts_the_last_smaller_batch_and_takes_its_own_epochs():
    recipe = RECIPES["tiny"]
    model = compiled("tiny", recipe.batch_size + 1, input_shape=(32, 32, 3), classes=3)
    assert model.input_shape == (None, 32, 32, 3) and model.output_shape == (None, 3)
    rate = model.optimizer._learning_rate
    assert float(rate(2 * recipe.epochs)) == 0 < float(rate(2 * recipe.epochs - 1))


def test_augmentation_of_a_recipe_is_one_that_augment_takes():
    images = np.random.default_rng(0).random((4, 28, 28, 1), dtype=np.float32)
    for recipe in RECIPES.values():
        moved = augment.from_image_data_generator(**recipe.augmentation)(images, training=True)
        assert moved.shape == images.shape and not np.allclose(moved, images)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("eighth", 100), "no recipe; expected one of fast, best, tiny, ninth"),
        (("fast", 0), "images=0"),
        (("fast", 10.0), "images=10.0"),
        (("fast", 10, 0), "epochs=0"),
    ],
)
def test_a_recipe_refuses_what_it_does_not_know(arguments, message):
    name, images, *epochs = arguments
    with pytest.raises(ValueError, match=message):
        compiled(name, images, epochs=epochs[0] if epochs else None)


# Receptive fields. The measurement: all weights positive, all biases zero, one row (or column) of the
# picture lit at a time. An output is above zero exactly when it depends on the lit row.


def laid_open(model):
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from laid_open(layer)
        elif not isinstance(layer, layers.InputLayer):
            yield layer


def make_positive(layer):
    for weight in layer.weights:
        if "kernel" in weight.name:
            weight.assign(np.ones(weight.shape) / np.prod(weight.shape[:-1]))
        elif "bias" in weight.name:
            weight.assign(np.zeros(weight.shape))


def lines_seen(output, position):
    """First and last line that the output at `position(size)` of both axes depends on."""
    output = keras.ops.convert_to_numpy(output)
    if output.ndim == 4:
        y, x = (0 if size == 1 else position(size) for size in output.shape[1:3])
        output = output[:, y, x]
    lit = np.flatnonzero((output > 0).any(axis=-1))
    return lit[0], lit[-1]


def measured(model):
    """Per layer: itself, the extent of its field, how far the next one is, its output size; all (h, w)."""
    _, height, width, channels = model.inputs[0].shape
    rows, columns = (np.zeros((size, height, width, channels), np.float32) for size in (height, width))
    rows[range(height), range(height)] = 1
    columns[range(width), :, range(width)] = 1
    found = []
    for layer in laid_open(model):
        make_positive(layer)
        rows, columns = layer(rows), layer(columns)
        here = [lines_seen(lines, lambda n: n // 2) for lines in (rows, columns)]
        before = [lines_seen(lines, lambda n: n // 2 - 1) for lines in (rows, columns)]
        sides = tuple(int(last - first + 1) for first, last in here)
        steps = tuple(int(b[0] - a[0]) for a, b in zip(before, here, strict=True))
        found.append((layer, sides, steps, tuple(rows.shape[1:3]) if len(rows.shape) == 4 else (1, 1)))
    return found


def pair(value):
    return value if isinstance(value, tuple) else (value, value)


def assert_agrees_with_measurement(model):
    table = receptive_field(model)
    for row, (layer, sides, steps, size) in zip(table, measured(model), strict=True):
        assert row.layer == layer.name
        assert pair(row.receptive_field) == sides, row
        assert pair(row.output_size) == size, row
        assert row.parameters == layer.count_params()
        for jump, step, n in zip(pair(row.jump), steps, size, strict=True):
            assert n < 2 or jump == step, row
    return table


@pytest.mark.parametrize("name", PROGRESSION)
def test_receptive_fields_of_the_progression_agree_with_measurement(name):
    model = keras.Sequential([keras.Input((28, 28, 1)), *build(name).layers[:-2]])
    table = assert_agrees_with_measurement(model)
    whole = receptive_field(build(name))
    assert [row[1:] for row in whole[: len(table)]] == [row[1:] for row in table]
    assert sum(row.parameters for row in whole) == PROGRESSION[name].parameters
    assert [row.channels for row in whole[-3:]] == [10, 10, 10]


@pytest.mark.parametrize("name", COMPACT)
def test_receptive_fields_of_compact_models_agree_with_measurement(name):
    shape = (88, 88, 1)  # large enough that no field ends at a border, which padding moves
    model = keras.Sequential([keras.Input(shape), *build(name, input_shape=shape).layers[:-3]])
    assert_agrees_with_measurement(model)


sides = st.integers(1, 5)
strides = st.integers(1, 2)
paddings = st.sampled_from(["valid", "same"])


@st.composite
def windows(draw, square_strides=False):
    """Arguments of a convolution: a kernel, and a stride or a dilation."""
    arguments = {"kernel_size": (draw(sides), draw(sides)), "padding": draw(paddings)}
    if draw(st.booleans()):
        return {**arguments, "dilation_rate": (draw(strides), draw(strides))}
    stride = draw(strides)
    return {**arguments, "strides": (stride, stride if square_strides else draw(strides))}


@st.composite
def layer_makers(draw):
    kind = draw(st.sampled_from(["conv", "depthwise", "separable", "max", "average", "pointwise"]))
    if kind == "conv":
        return partial(layers.Conv2D, 2, **draw(windows()), activation="relu")
    if kind == "depthwise":
        return partial(layers.DepthwiseConv2D, **draw(windows(square_strides=True)))
    if kind == "separable":
        return partial(layers.SeparableConv2D, 2, **draw(windows(square_strides=True)))
    if kind == "pointwise":
        point = [layers.BatchNormalization, layers.ReLU, layers.PReLU]
        return draw(st.sampled_from([*point, partial(layers.Dropout, 0.5), partial(layers.Dense, 3)]))
    pool = {"max": layers.MaxPooling2D, "average": layers.AveragePooling2D}[kind]
    stride = draw(st.none() | st.tuples(strides, strides))
    size = st.integers(1, 2) if stride is None else sides
    return partial(pool, (draw(size), draw(size)), stride, padding=draw(paddings))


@given(st.lists(layer_makers(), min_size=1, max_size=3))
def test_receptive_fields_of_random_chains_agree_with_measurement(makers):
    chain = [make() for make in makers]
    assert_agrees_with_measurement(keras.Sequential([keras.Input((64, 60, 1)), *chain]))


def test_receptive_field_is_one_number_where_both_directions_agree():
    chain = [layers.Conv2D(4, 3), layers.Conv2D(4, (1, 3), strides=(1, 2))]
    square, wide = receptive_field(keras.Sequential([keras.Input((20, 20, 3)), *chain]))
    assert square[1:] == (3, 1, 1, 3, 18, 4, 3 * 3 * 3 * 4 + 4)
    assert wide[1:] == ((1, 3), (1, 2), (1, 2), (3, 5), (18, 8), 4, 3 * 4 * 4 + 4)


def test_receptive_field_knows_layers_that_work_on_each_point_alone():
    points = [
        layers.Normalization(mean=0.0, variance=1.0),
        layers.Normalization(axis=None, mean=0.0, variance=1.0),
        layers.BatchNormalization(axis=3),
        layers.Softmax(axis=[-1]),
        layers.PReLU(),
    ]
    rows = receptive_field(keras.Sequential([keras.Input((8, 8, 1)), *points, layers.Conv2D(2, 3)]))
    assert [row.receptive_field for row in rows] == [1] * len(points) + [3]
    with pytest.raises(ValueError, match="no rule for a Normalization layer"):
        across = layers.Normalization(axis=1, mean=0.0, variance=1.0)
        receptive_field(keras.Sequential([keras.Input((8, 8, 1)), across]))


def test_models_take_channels_last_whatever_keras_is_set_to():
    with configured(image_data_format="channels_first"):
        shapes = [build(name).output_shape for name in ("fast", "ninth")]
    assert shapes == [(None, 10)] * 2


def test_numbers_may_be_those_of_numpy():
    options = {
        "input_shape": tuple(np.array([14, 14, 3])),
        "classes": np.int64(3),
        "dropout": np.float32(0.5),
    }
    found = compiled("fast", np.int64(300), epochs=np.uint8(2), **options)
    expected = compiled("fast", 300, epochs=2, input_shape=(14, 14, 3), classes=3, dropout=0.5)
    rates = [each.optimizer.get_config()["learning_rate"] for each in (found, expected)]
    assert rates[0] == rates[1]
    for ours, theirs in zip(found.layers, expected.layers, strict=True):
        assert ours.get_config() == theirs.get_config()


def nested(inner):
    return keras.Sequential([keras.Input((20, 20, 1)), inner, layers.Conv2D(2, 3)])


def functional(inner):
    inputs = keras.Input((20, 20, 1))
    return keras.Model(inputs, layers.Conv2D(2, 3)(inner(layers.Conv2D(1, 3)(inputs))))


def inner_parts():
    return [layers.Conv2D(2, 3, padding="same"), layers.MaxPooling2D()]


@pytest.mark.parametrize("outer", [nested, functional])
def test_receptive_fields_of_nested_models_are_laid_open(outer):
    table = assert_agrees_with_measurement(outer(keras.Sequential(inner_parts())))
    side = 3 if outer is nested else 5
    assert [row.receptive_field for row in table[-3:]] == [side, side + 1, side + 5]


def test_receptive_fields_of_a_nested_functional_model_are_laid_open():
    inputs = keras.Input((20, 20, 1))
    inner = keras.Model(inputs, keras.Sequential(inner_parts())(inputs))
    assert len(assert_agrees_with_measurement(nested(inner))) == 3


@pytest.mark.parametrize("whole", [layers.Flatten, layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D])
def test_flatten_and_global_pooling_see_the_whole_picture(whole):
    chain = [layers.Conv2D(2, 3), whole(), layers.Dense(5), layers.Softmax()]
    table = receptive_field(keras.Sequential([keras.Input((9, 12, 1)), *chain]))
    assert [row.receptive_field for row in table] == [3, (9, 12), (9, 12), (9, 12)]
    assert [row.output_size for row in table] == [(7, 10), 1, 1, 1]
    assert table[-1].channels == 5


def residual():
    inputs = keras.Input((8, 8, 1))
    return keras.Model(inputs, layers.Add()([inputs, layers.Conv2D(1, 3, padding="same")(inputs)]))


def forked():
    inputs = keras.Input((8, 8, 1))
    return keras.Model(inputs, [layers.Conv2D(1, 3)(inputs), layers.Conv2D(1, 5)(inputs)])


def shared():
    inputs, twice = keras.Input((16, 16, 1)), layers.Conv2D(1, 3, padding="same")
    return keras.Model(inputs, twice(layers.MaxPooling2D()(twice(inputs))))


def two_inputs():
    inputs = [keras.Input((8, 8, 1)), keras.Input((8, 8, 1))]
    return keras.Model(inputs, layers.Add()(inputs))


class Subclassed(keras.Model):
    def call(self, images):
        return images


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 8, 8, 1)))
    return model


def chain(layer, shape=(8, 8, 1)):
    return lambda: keras.Sequential([keras.Input(shape), layer])


@pytest.mark.parametrize(
    "make",
    [
        residual,
        forked,
        shared,
        two_inputs,
        subclassed,
        lambda: keras.Sequential([layers.Conv2D(1, 3)]),
        chain(layers.Conv2DTranspose(1, 3)),
        chain(layers.UpSampling2D()),
        chain(layers.Conv2D(1, 3, data_format="channels_first"), shape=(1, 8, 8)),
        chain(layers.Conv2D(1, 3), shape=(None, None, 1)),
        chain(layers.Dense(3), shape=(8,)),
    ],
    ids=["residual", "forked", "shared layer", "two inputs", "subclassed", "not built", "transposed",
         "upsampling", "channels first", "unknown size", "no picture"],
)  # fmt: skip
def test_receptive_field_refuses_what_is_not_a_known_chain(make):
    with pytest.raises(ValueError, match=r"model|layer"):
        receptive_field(make())


def test_receptive_field_is_the_one_that_gradients_reach(tf):
    model = build("eighth")
    for weight in model.trainable_weights:
        weight.assign(np.abs(weight.numpy()) + 0.01)  # positive everywhere: no ReLU cuts the gradient off
    images = tf.constant(np.random.default_rng(0).random((48, 28, 28, 1), np.float32))
    rows = {row.layer: row for row in receptive_field(model)}
    for layer in model.layers:
        if layer.name not in rows or len(layer.output.shape) != 4:
            continue
        part = keras.Model(model.inputs, layer.output)
        middle = layer.output.shape[1] // 2
        with tf.GradientTape() as tape:
            tape.watch(images)
            total = tf.reduce_sum(part(images, training=False)[:, middle, middle])
        reached = (
            np.abs(tape.gradient(total, images)).max(axis=(0, 3)) > 0
        )  # 48 images: any pixel may win a pool
        for axis in (0, 1):
            lit = np.flatnonzero(reached.any(axis=axis))
            assert lit[-1] - lit[0] + 1 == rows[layer.name].receptive_field, layer.name


# Multiplications


def with_ones(*stack, shape=(11, 9, 4)):
    model = keras.Sequential([keras.Input(shape), *stack])
    for weight in model.weights:
        weight.assign(np.zeros(weight.shape) if weight.name == "bias" else np.ones(weight.shape))
    return model


@pytest.mark.parametrize(
    "layer",
    [
        layers.Conv2D(6, 3),
        layers.Conv2D(6, (1, 4), strides=2, use_bias=False),
        layers.Conv2D(8, 3, groups=4),
        layers.Conv2D(2, 3, dilation_rate=2),
        layers.DepthwiseConv2D(3, depth_multiplier=2),
        layers.Dense(5),
    ],
    ids=["plain", "strides", "groups", "dilated", "depthwise", "dense, at each place"],
)
def test_multiplications_are_counted_by_a_layer_that_adds_up_ones(layer):
    layer.trainable = False  # a frozen layer multiplies all the same
    model = with_ones(layer)
    assert models.multiplications(model) == float(keras.ops.sum(model(np.ones((1, 11, 9, 4)))))


def test_multiplications_of_a_separable_convolution_are_those_of_its_two():
    one = with_ones(layers.SeparableConv2D(6, 3, strides=2))
    two = with_ones(layers.DepthwiseConv2D(3, strides=2), layers.Conv2D(6, 1))
    assert models.multiplications(one) == models.multiplications(two) > 0


def test_multiplications_of_published_networks():
    # Sandler et al., MobileNetV2, 2018, table 4: 300 million at 3.4 million parameters
    mobile = keras.applications.MobileNetV2(weights=None)
    assert round(models.multiplications(mobile) / 1e6) in range(295, 305)


def reused(size):
    """Layers of a model on 28×28 images, put into one on larger images."""
    return [keras.Input((size, size, 1)), *build("third").layers[:-3]]


def test_layers_of_another_model_are_measured_where_they_stand():
    large = keras.Sequential(reused(56))
    inputs, *stack = reused(56)
    tensor = inputs
    for layer in stack:
        tensor = layer(tensor)
    functional = keras.Model(inputs, tensor)
    small = keras.Sequential(build("third").layers[:-3])
    small.build((None, 28, 28, 1))
    assert models.multiplications(large) == models.multiplications(functional)
    assert models.multiplications(large) > 4 * models.multiplications(small)
    assert [row[1:] for row in receptive_field(functional)] == [row[1:] for row in receptive_field(large)]


def test_a_layer_called_twice_multiplies_twice():
    assert models.multiplications(shared()) == 9 * (16 * 16 + 8 * 8)


def test_multiplications_lay_nested_models_open_and_branch():
    inner = build("eighth")
    inputs = keras.Input((28, 28, 1))
    outer = keras.Model(inputs, layers.Add()([inner(inputs), layers.Dense(10)(layers.Flatten()(inputs))]))
    assert models.multiplications(outer) == models.multiplications(inner) + 7_840
    assert models.multiplications(keras.Sequential([keras.Input((3,)), layers.ReLU()])) == 0
    pairing = keras.Sequential([keras.Input((28, 28, 1)), augment.SamplePairing(), *build("third").layers])
    assert models.multiplications(pairing) == models.multiplications(build("third"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: "model", "built Sequential"),
        (lambda: keras.Sequential([layers.Conv2D(1, 3)]), "built Sequential"),
        (subclassed, "built Sequential"),
        (chain(layers.Conv2DTranspose(1, 3)), "no rule for a Conv2DTranspose"),
        (chain(layers.LSTM(2), shape=(4, 3)), "no rule for a LSTM"),
        (chain(layers.Conv2D(1, 3), shape=(None, None, 1)), "known size"),
    ],
)
def test_multiplications_refuse_what_they_cannot_count(make, message):
    with pytest.raises(ValueError, match=message):
        models.multiplications(make())
