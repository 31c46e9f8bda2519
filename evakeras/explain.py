"""See what a network looks at and what it has learned: five ways, and a check of what they are worth.

`saliency`, `guided_backprop`, `grad_cam` and `occlusion` take a model and images `(N, H, W, C)`, floats
or whole numbers in the range the model expects, and give maps `(N, H, W)`: float32, 0 or more, not scaled.
They work on `batch_size` images at a time, so that memory stays bounded.

Any built `Sequential` or functional model with one input will do; for the maps, with one output
`(N, classes)`. Models nested in it are laid open. It runs as in `predict`, without dropout and with moving
statistics, and stays as it is: nothing is assigned. Only `occlusion` calls `predict`, whose function Keras
compiles once and keeps.

*Logits.* The gradient of a probability fades as the network grows sure. So the gradients are taken of the
logit: of what the last layer's softmax or sigmoid is given, be it a layer or the `activation=` of one, also
in a nested model or with only `Flatten`, `Reshape` or dropout after it. One hidden in a lambda or a layer of
your own is not seen. `score="output"` keeps the output.

*One output.* A model with a single sigmoid unit has one score, with the `class_index` 0: maps show what
speaks for a high output, whatever is predicted.

This file works alone: copy it into an assignment and `import explain`. It needs Keras 3 and NumPy.
"""

import operator
import random
from collections.abc import Sequence
from functools import partial

import keras
import numpy as np
from keras import layers, ops

__all__ = [
    "activation_maximization",
    "grad_cam",
    "guided_backprop",
    "occlusion",
    "randomize",
    "saliency",
]


def saliency(
    model: keras.Model,
    images: np.ndarray,
    class_index: int | Sequence[int] | np.ndarray | None = None,
    *,
    samples: int = 1,
    noise: float = 0.15,
    seed: int | None = None,
    score: str = "logit",
    batch_size: int = 64,
) -> np.ndarray:
    """Measure how much the class score depends on each pixel: |∂score/∂pixel|, of the channels the largest.

    With `samples` above 1 the gradients of that many noisy copies are averaged first (SmoothGrad).

    Args:
        model: a built model, as described at the head of this module.
        images: `(N, H, W, C)`, floats or whole numbers, in the range the model expects.
        class_index: class to explain, one for all or one for each image; None takes the predicted one.
        samples: number of gradients to average; 1 takes the image as it is, without noise.
        noise: standard deviation of the noise, as a part of each image's range from darkest to brightest.
        seed: integer that makes the noise repeat. All images get the same noise, times their range.
        score: "logit", what softmax or sigmoid is given, or "output", what the model gives.
        batch_size: number of images that are worked on together.

    Returns:
        `(N, H, W)` float32, 0 or more.

    Raises:
        ValueError: a model or images that do not fit, classes out of range, a negative noise.

    Example:
        >>> model = keras.Sequential([keras.Input((1, 2, 1)), layers.Flatten(), layers.Dense(2)])
        >>> model.layers[-1].set_weights([np.array([[1.0, -3.0], [2.0, 0.5]]), np.zeros(2)])
        >>> saliency(model, np.ones((1, 1, 2, 1)), class_index=1)
        array([[[3. , 0.5]]], dtype=float32)

    Reference:
        Simonyan, Vedaldi, Zisserman: Deep inside convolutional networks, arXiv:1312.6034. Smilkov and
        others: SmoothGrad, arXiv:1706.03825.
    """
    images, classes, without = _prepare(model, images, class_index, score, batch_size)
    samples, noise, seed = _whole("samples", samples), _number("noise", noise), _check_seed(seed)
    shape = (samples, *images.shape[1:])
    drawn = (
        np.random.default_rng(seed).standard_normal(shape, np.float32)
        if samples > 1
        else np.zeros(shape, np.float32)
    )

    def maps(batch, index):
        spread = noise * np.ptp(batch, axis=(1, 2, 3), keepdims=True)
        noisy = (batch + spread * one for one in drawn)
        return ops.max(ops.abs(sum(_pixels(model, x, index, without) for x in noisy)), -1) / samples

    return _in_batches(maps, batch_size, images, classes)


def guided_backprop(
    model: keras.Model,
    images: np.ndarray,
    class_index: int | Sequence[int] | np.ndarray | None = None,
    *,
    score: str = "logit",
    batch_size: int = 64,
) -> np.ndarray:
    """Take the gradient of the class score by a backward pass that lets only what is positive through a ReLU.

    Of what arrives at the pixels the positive part is kept, of the channels the largest: where more
    brightness speaks for the class. The maps are sharp, but may depend little on the class and on what was
    learned: check with `randomize`.

    A ReLU is `layers.ReLU`, `ops.relu`, or `activation="relu"` of a dense, convolution or Activation layer,
    with an upper bound (ReLU6) or without. One inside a custom layer is not seen; leaky ones are left alone.

    Args:
        model: a built model, as described at the head of this module, with ReLUs.
        images: `(N, H, W, C)`, floats or whole numbers, in the range the model expects.
        class_index: class to explain, one for all or one for each image; None takes the predicted one.
        score: "logit", what softmax or sigmoid is given, or "output", what the model gives.
        batch_size: number of images that are worked on together.

    Returns:
        `(N, H, W)` float32, 0 or more.

    Raises:
        ValueError: a model without ReLU, a model or images that do not fit, classes out of range.

    Example:
        >>> model = keras.Sequential(
        ...     [keras.Input((2, 1, 1)), layers.ReLU(), layers.Flatten(), layers.Dense(1)]
        ... )
        >>> model.layers[-1].set_weights([np.array([[2.0], [-2.0]]), np.zeros(1)])
        >>> guided_backprop(model, np.ones((1, 2, 1, 1))).ravel()
        array([2., 0.], dtype=float32)

    Reference:
        Springenberg, Dosovitskiy, Brox, Riedmiller: Striving for simplicity, arXiv:1412.6806.
    """
    images, classes, without = _prepare(model, images, class_index, score, batch_size)
    if not any(_is_relu(step) for _, step in _walk(model)):
        raise ValueError(f"model {model.name!r} has no ReLU among its layers; guided backprop needs one")

    def guide(path, step, output):
        return _positive_gradient(output) if _is_relu(step) else output

    def maps(batch, index):
        return ops.max(ops.relu(_pixels(model, batch, index, without, guide)), -1)

    return _in_batches(maps, batch_size, images, classes)


@ops.custom_gradient
def _positive_gradient(x):
    """x; backwards, max(gradient, 0). The ReLU before it adds the ordinary mask."""

    def gradient(*arguments, upstream=None):
        return ops.relu(arguments[0] if upstream is None else upstream)

    return ops.copy(x), gradient


def grad_cam(
    model: keras.Model,
    images: np.ndarray,
    class_index: int | Sequence[int] | np.ndarray | None = None,
    *,
    layer: str | keras.layers.Layer | None = None,
    resize: bool = True,
    score: str = "logit",
    batch_size: int = 64,
) -> np.ndarray:
    """Weight the channels of a layer by their mean gradient, add them up, keep what is positive (Grad-CAM).

    The gradient is that of the class score with respect to the output of the layer, not to the pixels. The
    map is as coarse as that output, say 4×4: between its points it is only interpolated.

    Args:
        model: a built model, as described at the head of this module.
        images: `(N, H, W, C)`, floats or whole numbers, in the range the model expects.
        class_index: class to explain, one for all or one for each image; None takes the predicted one.
        layer: name of a layer, or the layer; "inner/name" in a model named inner. None takes the last one
            whose output `(N, h, w, c)` has more than one row and column.
        resize: whether to stretch the map to the image, bilinearly; else it stays `(N, h, w)`.
        score: "logit", what softmax or sigmoid is given, or "output", what the model gives.
        batch_size: number of images that are worked on together.

    Returns:
        `(N, H, W)` float32, 0 or more.

    Raises:
        ValueError: a layer that is unknown, called more than once, or without such an output (the message
            lists those that have one); a model or images that do not fit, classes out of range.

    Example:
        >>> model = keras.Sequential([keras.Input((4, 4, 1)), layers.MaxPooling2D(name="pool"),
        ...                           layers.GlobalAveragePooling2D(), layers.Dense(3, "softmax")])
        >>> grad_cam(model, np.ones((1, 4, 4, 1)), class_index=2, layer="pool").shape
        (1, 4, 4)

    Reference:
        Selvaraju and others: Grad-CAM, arXiv:1610.02391.
    """
    images, classes, without = _prepare(model, images, class_index, score, batch_size)
    spatial = [
        entry for entry in _outputs(model, images[:1]) if len(entry[2]) == 4 and min(entry[2][1:3]) > 1
    ]
    chosen, _, shape = _pick(spatial, layer)

    def maps(batch, index):
        def change(delta):  # the gradient at delta = 0 is that with respect to the layer's output
            scores, features = _run_and_keep(model, batch, without, chosen, delta)
            return _class_sum(scores, index), features

        gradient, features = _gradient(change, np.zeros((len(batch), *shape[1:]), np.float32))
        weights = ops.mean(gradient, axis=(1, 2), keepdims=True)
        cam = ops.relu(ops.sum(weights * features, axis=-1, keepdims=True))
        if resize:
            cam = ops.image.resize(cam, images.shape[1:3], "bilinear", data_format="channels_last")
        return cam[..., 0]

    return _in_batches(maps, batch_size, images, classes)


def occlusion(
    model: keras.Model,
    images: np.ndarray,
    class_index: int | Sequence[int] | np.ndarray | None = None,
    *,
    size: int = 8,
    stride: int = 1,
    fill: float | Sequence[float] = 0.0,
    batch_size: int = 256,
) -> np.ndarray:
    """Slide a box over the image and measure how far the class probability falls where it hides something.

    The box also stands partly outside, so that a pixel at the border is hidden as often as one in the
    middle. The map is, at each pixel, the mean fall over all boxes that hide it, or 0 where it rises.

    Args:
        model: a built model, as described at the head of this module. What it gives is measured, probability
            or, without softmax or sigmoid at its end, logit.
        images: `(N, H, W, C)`, floats or whole numbers, in the range the model expects.
        class_index: class to explain, one for all or one for each image; None takes the predicted one.
        size: side of the box in pixels, from 1 to the shorter side of the image.
        stride: distance between boxes in pixels, from 1 to `size`. The model runs about
            (H + size) · (W + size) / stride² times for each image: for large ones take some pixels.
        fill: what hides, a number or one for each channel: the background, or the mean of the images.
        batch_size: number of hidden images that are worked on together.

    Returns:
        `(N, H, W)` float32, 0 or more.

    Raises:
        ValueError: a box, stride, fill, model or images that do not fit together; classes out of range.

    Example:
        >>> model = keras.Sequential([keras.Input((3, 3, 1)), layers.Flatten(), layers.Dense(1)])
        >>> model.layers[-1].set_weights([np.eye(9)[:, 4:5], np.zeros(1)])  # looks at the middle alone
        >>> occlusion(model, np.ones((1, 3, 3, 1)), size=1)[0].tolist()
        [[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]

    Reference:
        Zeiler, Fergus: Visualizing and understanding convolutional networks, arXiv:1311.2901.
    """
    images, classes, _ = _prepare(model, images, class_index, "output", batch_size)
    size, stride, fill = _check_box(size, stride, fill, images.shape)
    (rows, columns), count = (_hidden(length, size, stride) for length in images.shape[1:3]), len(images)
    grid = (count, len(rows), len(columns))
    total = int(np.prod(grid))
    chunk = -(-total // -(-total // batch_size))  # chunks alike, so that one compilation serves all
    fall = np.empty(total, np.float32)
    before = _in_batches(partial(_predict, model), batch_size, images)[np.arange(count), classes]
    for start in range(0, total, chunk):
        flat = np.arange(start, start + chunk) % total
        image, row, column = np.unravel_index(flat, grid)
        hidden = rows[row][:, :, None, None] & columns[column][:, None, :, None]
        after = _predict(model, np.where(hidden, fill, images[image]).astype(np.float32))
        fall[flat] = before[image] - after[np.arange(chunk), classes[image]]
    boxes = np.outer(rows.sum(0), columns.sum(0))
    mean = np.einsum("nij,ih,jw->nhw", fall.reshape(grid), rows, columns, optimize=True) / boxes
    return np.maximum(mean, 0).astype(np.float32)


def _hidden(length, size, stride):
    """Which rows (or columns) each place of the box hides, `(places, length)` bool."""
    first = np.arange(1 - size, length, stride)[:, None]
    return (np.arange(length) >= first) & (np.arange(length) < first + size)


def _check_box(size, stride, fill, shape):
    size, stride = _whole("size", size), _whole("stride", stride)
    try:
        fill = np.asarray(fill, np.float32)
    except (TypeError, ValueError):
        raise ValueError(f"fill={fill!r} must be a number, or one for each channel") from None
    if size > min(shape[1:3]):
        raise ValueError(f"size={size} must be at most {min(shape[1:3])}, the shorter side of the images")
    if stride > size:
        raise ValueError(f"stride={stride} must be at most size={size}, else some pixels are never hidden")
    if fill.shape not in ((), (shape[3],)) or not np.isfinite(fill).all():
        came = f"fill={fill}" if fill.ndim == 0 else f"fill of shape {fill.shape}"
        raise ValueError(f"{came} must be a finite number, or one for each of {shape[3]} channels")
    return size, stride, fill


def activation_maximization(
    model: keras.Model,
    layer: str | keras.layers.Layer | None = None,
    channel: int | Sequence[int] | None = None,
    *,
    steps: int = 128,
    learning_rate: float = 0.05,
    total_variation: float = 0.3,
    l2: float = 0.0,
    jitter: int = 1,
    value_range: tuple[float, float] = (0.0, 1.0),
    seed: int | None = None,
) -> np.ndarray:
    """Draw, for each channel of a layer, the image that excites it most, by gradient ascent from grey noise.

    Excitement is the mean of the channel over all places. Its gradient is brought to a root mean square of 1
    in each image, so that steps and penalties weigh the same in every layer. The step falls linearly to 0.
    ReLUs that are off pass a hundredth of the gradient, so that a channel can wake up.

    Args:
        model: a built model with one input of known size; its output is free.
        layer: name of a layer, or the layer, as in `grad_cam`, but of any output `(N, …, channels)`. None
            takes the class scores: the logits, where the model ends in softmax or sigmoid.
        channel: which ones, a number or a sequence; None takes all. All are worked on together.
        steps: number of steps, at least 1.
        learning_rate: length of the first step, root mean square, as a part of the value range.
        total_variation: weight of the squared differences of neighbours, for smooth images; try 0 to 1.
        l2: weight of the squared distances from the lowest value, for an empty background; 0 or more.
        jitter: before each gradient the images are shifted by up to this many pixels, around the border.
        value_range: lowest and highest value of a pixel that the model expects, (0, 255), say.
        seed: integer that makes noise and shifts repeat. All channels start from the same noise.

    Returns:
        `(channels, H, W, C)` float32 inside the value range, one image for each channel asked for.

    Raises:
        ValueError: an unknown layer, a channel it has not, an input of unknown size, numbers out of range.

    Example:
        >>> model = keras.Sequential([keras.Input((2, 2, 1)), layers.Flatten(), layers.Dense(3)])
        >>> kernel = np.array([[5, 0, 0], [-5, 0, 0], [5, 0, 0], [5, 0, 0]])
        >>> model.layers[-1].set_weights([kernel, np.zeros(3)])
        >>> activation_maximization(model, channel=0, jitter=0, total_variation=0).ravel()
        array([1., 0., 1., 1.], dtype=float32)

    Reference:
        Erhan and others: Visualizing higher-layer features of a deep network, 2009. Olah, Mordvintsev,
        Schubert: Feature visualization, Distill 2017.
    """
    _check_model(model, classes=layer is None)
    shape = tuple(model.inputs[0].shape[1:])
    if None in shape:
        raise ValueError(f"model {model.name!r} takes images {shape}; expected a known size")
    steps, jitter = _whole("steps", steps), _whole("jitter", jitter, 0)
    learning_rate = _number("learning_rate", learning_rate)
    total_variation, l2 = _number("total_variation", total_variation), _number("l2", l2)
    low, high = _check_range(value_range)
    seed = _check_seed(seed)
    draws = np.random.default_rng(seed)
    x = 0.5 + 0.1 * draws.uniform(-1, 1, (1, *shape))  # 0 stands for the lowest value, 1 for the highest
    read, count = _reader(model, layer, np.full((1, *shape), low, np.float32))
    channels = _check_classes("channel", np.arange(count) if channel is None else channel, count)
    x = np.repeat(x, len(channels), axis=0)

    def excitement(x):
        outputs = read(low + (high - low) * x)
        return _class_sum(ops.mean(ops.reshape(outputs, (len(channels), -1, count)), axis=1), channels), ()

    def penalty(x):
        edges = sum(ops.sum(ops.square(ops.diff(x, axis=axis))) for axis in (1, 2))
        return total_variation * edges + l2 * ops.sum(ops.square(x)), ()

    def uphill(x):
        gradient = _gradient(excitement, x)[0]
        scale = ops.sqrt(ops.mean(ops.square(gradient), axis=(1, 2, 3), keepdims=True))
        return gradient / ops.maximum(scale, 1e-18) - _gradient(penalty, x)[0]

    uphill = _compiled(uphill)
    for step in range(steps):
        shift = draws.integers(-jitter, jitter + 1, 2)
        direction = _array(uphill(np.roll(x, shift, (1, 2)).astype(np.float32)))
        x = x + learning_rate * (1 - step / steps) * np.roll(direction, -shift, (1, 2))
        x = np.clip(x, 0, 1)
    return np.clip(low + (high - low) * x, low, high).astype(np.float32)


def _reader(model, layer, image):
    """The function from images to a layer's output, or to the class scores, and its number of channels."""
    without = {id(step): _leaky(step) for _, step in _walk(model) if _is_relu(step)}
    if layer is None:
        without |= _logits(model)
        return lambda x: _run(model, x, without), model.outputs[0].shape[-1]
    path, _, shape = _pick([entry for entry in _outputs(model, image) if len(entry[2]) > 1], layer)
    return lambda x: _run_and_keep(model, x, without, path)[1], shape[-1]


def _check_range(value_range):
    try:
        low, high = (float(value) for value in value_range)
        fits = np.isfinite([low, high]).all() and low < high
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(f"value_range={value_range!r} must be two finite numbers, the lower first")
    return low, high


def randomize(
    model: keras.Model,
    layer: str | keras.layers.Layer | None = None,
    *,
    cascade: bool = True,
    seed: int | None = None,
) -> keras.Model:
    """Copy a model and draw the weights of its upper layers anew, to see if a map depends on what it learned.

    A map that looks the same for the copy does not show what the network has learned. Each layer draws from
    its own initializers, as when it was built; biases and batch normalization begin again from their first
    state, moving statistics included. What was adapted to data (`layers.Normalization`), or measured by the
    `fit` of an augmentation, is kept.

    Args:
        model: a built `Sequential` or functional model. Custom layers need `get_config`.
        layer: the lowest layer that is drawn anew: its name, "inner/name" in a model named inner, or the
            layer or the inner model itself. None draws all.
        cascade: whether all layers from the output down to `layer` are drawn anew, or that one alone.
        seed: integer that makes the weights repeat. Going down layer by layer with one seed keeps what
            was drawn above. Seeds inside the initializers are not used.

    Returns:
        A new model, not compiled.

    Raises:
        ValueError: not such a model, or an unknown layer (the message lists those that have weights).

    Example:
        >>> low, top = layers.Dense(3, name="low"), layers.Dense(2, name="top")
        >>> model = keras.Sequential([keras.Input((4,)), low, top])
        >>> copy = randomize(model, "top", seed=0)
        >>> [np.array_equal(a.kernel, b.kernel) for a, b in zip(model.layers, copy.layers)]
        [True, False]

    Reference:
        Adebayo and others: Sanity checks for saliency maps, arXiv:1810.03292.
    """
    _check_graph(model)
    seed = _check_seed(seed)
    entries = [(path, step) for path, step in _walk(model) if getattr(step, "weights", None)]
    lowest = _pick(entries, layer)[0] if layer is not None else None
    paths = [path for path, _ in entries]
    if lowest is not None and cascade:
        paths = paths[paths.index(lowest) :]
    elif lowest is not None:
        paths = [path for path in paths if f"{path}/".startswith(f"{lowest}/")]
    state = random.getstate()  # from which initializers without a seed take theirs
    try:
        copy = keras.models.clone_model(model)
        random.seed(seed)
        copy.set_weights(model.get_weights())
        steps = dict(_walk(copy))
        for path, step in _walk(model):
            if hasattr(step, "fitted"):  # of `augment.ImageDataAugmentation`: not among its weights
                steps[path].fitted = step.fitted
        for path in reversed(paths):
            measured = hasattr(steps[path], "adapt") or hasattr(steps[path], "fitted")
            if not measured and not _is_graph(steps[path]):
                steps[path].set_weights(_first_weights(steps[path]))
    finally:
        random.setstate(state)
    for step in steps.values():
        if hasattr(step, "finalize_state"):  # Normalization computes with a copy of its weights
            step.finalize_state()
    return copy


def _first_weights(layer):
    fresh = type(layer).from_config(_unseeded(layer.get_config()))
    fresh.build_from_config(layer.get_build_config())
    return fresh.get_weights()


def _unseeded(config):
    """A configuration whose initializers have no seed."""
    if isinstance(config, (list, tuple)):
        return type(config)(_unseeded(value) for value in config)
    if not isinstance(config, dict):
        return config
    result = {key: _unseeded(value) for key, value in config.items()}
    for key, value in result.items():
        if key.endswith("initializer") and isinstance(value, dict) and "seed" in (value.get("config") or {}):
            result[key] = {**value, "config": {**value["config"], "seed": None}}
    return result


# The model as a graph whose layers can be watched and changed from outside


def _is_graph(model):
    """Whether the graph of layers is all there is to a model: no `call` of its own."""
    return (
        isinstance(model, keras.Model)
        and bool(getattr(model, "inputs", None))
        and type(model).call.__module__.startswith("keras.")
    )


def _walk(model, prefix=""):
    """Path and layer or operation, in order from the input; nested models before their content."""
    for step in model.layers if isinstance(model, keras.Sequential) else model.operations:
        yield prefix + step.name, step
        if _is_graph(step):
            yield from _walk(step, f"{prefix}{step.name}/")


def _run(model, images, without=None, after=None):
    """What the model gives for images, as float32, at inference and without leaving a trace in it.

    Args:
        without: instead of which layers, by their `id`, another function is called.
        after: function of path, layer and output which gives what the next layer gets.
    """

    def run(part, x, prefix):
        def called(step):
            def call(*args, **kwargs):
                path, instead = prefix + step.name, (without or {}).get(id(step), step)
                if _is_graph(step):
                    output = run(step, args[0] if args else kwargs["inputs"], f"{path}/")
                else:
                    output = instead(*args, **kwargs)
                return after(path, step, output) if after else output

            return call

        if isinstance(part, keras.Sequential):
            for layer in part.layers:
                x = called(layer)(x)
            return x
        x = part._run_through_graph(x, called)
        flat = keras.tree.flatten(x)
        return flat[0] if len(flat) == 1 else x

    # Inside a layer, the layers learn that this is no training; in a stateless scope, nothing is assigned.
    # Its name keeps Keras from counting it: the names of layers that are made later stay as they would be.
    around = layers.Lambda(lambda x: run(model, x, ""), dtype="float32", name="explain")
    with keras.StatelessScope(collect_losses=True):
        return ops.cast(around(images, training=False), "float32")


def _predict(model, images):
    """As `_run`, but by Keras's own function, which is compiled once for a model and not at every call."""
    return np.asarray(keras.tree.flatten(model.predict_on_batch(images))[0], np.float32)


def _run_and_keep(model, images, without, path, delta=0.0):
    """What the model gives, and the output of the layer at `path`, to which `delta` is then added."""
    kept = []

    def after(at, step, output):
        if at == path:
            kept.append(ops.cast(output, "float32"))
            output = output + ops.cast(delta, output.dtype)
        return output

    return _run(model, images, without, after), kept[0]


def _outputs(model, image):
    """Path, layer and shape of the output of each step with channels last, in the order they run."""
    found = []

    def after(path, step, output):
        if getattr(step, "data_format", None) != "channels_first" and hasattr(output, "shape"):
            found.append((path, step, tuple(output.shape)))
        return output

    _run(model, image.astype(np.float32), after=after)
    return found


def _pick(entries, layer):
    """The one entry (path, layer, …) that a name, a path or the layer stands for; for None the last."""
    paths = [entry[0] for entry in entries]
    if layer is None:
        fits = [entry for entry in entries if entry[0] == paths[-1]] if paths else []
    elif isinstance(layer, str):
        fits = [entry for entry in entries if entry[0] == layer]
        fits = fits or [entry for entry in entries if entry[0].endswith(f"/{layer}")]
    else:
        fits = [entry for entry in entries if entry[1] is layer]
    if len(fits) != 1:
        asked = getattr(layer, "name", layer)
        why = "stands for more than one, or is called more than once" if fits else "does not fit"
        others = [path for path in dict.fromkeys(paths) if path not in {entry[0] for entry in fits}]
        known = f"expected one of {', '.join(others)}" if others else "the model has no layer that fits"
        raise ValueError(f"layer={asked!r} {why}; {known}")
    return fits[0]


_ACTIVATED = (
    layers.Activation,
    layers.Conv2D,
    layers.Conv2DTranspose,
    layers.Dense,
    layers.DepthwiseConv2D,
    layers.EinsumDense,
    layers.SeparableConv2D,
)
_PASSING = (layers.Dropout, layers.Flatten, layers.Identity, layers.Reshape)


def _activation(step):
    """The last thing a layer does: its activation where it has one, else itself."""
    return step.activation if isinstance(step, _ACTIVATED) else step


def _function_name(step):
    """The name of what a layer does last, the same for layers, operations and functions: softmax, relu."""
    last = _activation(step)
    name = getattr(last, "__name__", type(last).__name__)
    return name.lower().removesuffix("_v2").replace("_", "")


def _is_relu(step):
    return _function_name(step) in ("relu", "relu6") and not getattr(_activation(step), "negative_slope", 0)


def _makes_probabilities(step):
    return _function_name(step) in ("softmax", "logsoftmax", "sigmoid")


def _logits(model):
    """What to call instead of the layer that makes probabilities at the end of a model, if there is one."""
    for step in _from_the_end(model):
        if _is_graph(step):
            return _logits(step)
        if _makes_probabilities(step):
            return {id(step): _without_activation(step)}
        if not isinstance(step, _PASSING) and not _is_linear_activation(step):
            break
    return {}


def _is_linear_activation(step):
    return isinstance(step, layers.Activation) and step.activation is keras.activations.linear


def _without_activation(step):
    """The same layer, with the same weights, up to its activation."""
    if not isinstance(step, _ACTIVATED):
        return lambda x, **options: x
    twin = object.__new__(type(step))  # copy.copy would copy the weights
    twin.__dict__.update(step.__dict__)
    object.__setattr__(twin, "activation", keras.activations.linear)
    return twin


def _leaky(step):
    """A ReLU with the same values, and a gradient that is not quite 0 where it is off."""
    before, rectify = _without_activation(step), _activation(step)

    def call(x, **options):
        x = before(x, **options)
        return rectify(x) + 0.01 * (x - ops.stop_gradient(x))

    return call


def _from_the_end(model):
    """The last step and those before it, as long as each has one input."""
    if isinstance(model, keras.Sequential):
        yield from reversed(model.layers)
        return
    tensors = model.outputs
    while len(tensors) == 1:
        step, number, _ = tensors[0]._keras_history
        calls = [n for nodes in model._nodes_by_depth.values() for n in nodes if n.operation is step]
        if len(calls) > 1:
            raise ValueError(f"layer {step.name!r} at the end is called more than once; pass score='output'")
        yield step
        tensors = step._inbound_nodes[number].input_tensors


# Gradients, on every backend


def _gradient(function, x):
    """∂value/∂x of a function that returns (value, more), and more."""
    backend, x = keras.backend.backend(), ops.convert_to_tensor(x, "float32")
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            value, more = function(x)
        return tape.gradient(value, x, unconnected_gradients="zero"), more
    if backend == "jax":
        import jax

        return jax.grad(function, has_aux=True)(x)
    if backend == "torch":
        import torch

        with torch.enable_grad():
            x = x.detach().requires_grad_()
            value, more = function(x)
            return torch.autograd.grad(value, x, allow_unused=True, materialize_grads=True)[0], more
    raise ValueError(f"the backend is {backend!r}; gradients need 'tensorflow', 'jax' or 'torch'")


def _compiled(function):
    """The function, compiled where the backend compiles."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(function, autograph=False)
    if backend == "jax":
        import jax

        return jax.jit(function)
    return function


def _array(tensor):
    return ops.convert_to_numpy(tensor)


def _class_sum(scores, classes):
    return ops.sum(ops.take_along_axis(scores, ops.convert_to_tensor(classes[:, None]), axis=1))


def _pixels(model, batch, classes, without, after=None):
    """∂score/∂pixel: each image has its own score, so that the gradient of their sum is that of each."""
    return _gradient(lambda x: (_class_sum(_run(model, x, without, after), classes), ()), batch)[0]


def _in_batches(function, batch_size, images, *more):
    """`function` of a few images at a time, made float32, and what belongs to them."""
    parts = []
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        parts.append(_array(function(images[part].astype(np.float32), *(values[part] for values in more))))
    return np.concatenate(parts)


# Checks


def _prepare(model, images, class_index, score, batch_size):
    """The images as an array, the class of each, and what to call instead of the softmax."""
    _check_model(model)
    images = _check_images(images, tuple(model.inputs[0].shape[1:]))
    batch_size = _whole("batch_size", batch_size)
    if score not in ("logit", "output"):
        raise ValueError(f"score={score!r} must be 'logit' or 'output'")
    without = _logits(model) if score == "logit" else {}
    if class_index is None:
        classes = _in_batches(lambda x: _run(model, x, without), batch_size, images).argmax(axis=1)
    else:
        count = model.outputs[0].shape[-1]
        classes = _check_classes("class_index", class_index, count, len(images))
    return images, classes, without


def _check_graph(model):
    if isinstance(model, keras.Model) and not isinstance(model, keras.Sequential) and not _is_graph(model):
        raise ValueError(
            f"model {model.name!r} is a {type(model).__name__} with a `call` of its own, which hides its "
            "layers; expected a built Sequential or functional model: keras.Model(inputs, outputs)"
        )
    if not _is_graph(model):
        raise ValueError(f"model={model!r} must be a built Keras model: give it an Input, or call it once")


def _check_model(model, classes=True):
    """A model from one batch of images, to one batch of class scores where `classes`."""
    _check_graph(model)
    for name, tensors, rank in (("inputs", model.inputs, 4), ("outputs", model.outputs, 2)):
        shapes = [tuple(tensor.shape) for tensor in tensors]
        if (classes or rank == 4) and (len(shapes) != 1 or len(shapes[0]) != rank):
            expected = "(N, H, W, C)" if rank == 4 else "(N, classes)"
            hint = "images with a channel axis" if rank == 4 else "choose with keras.Model(inputs, outputs)"
            came = ", ".join(map(str, shapes))
            raise ValueError(f"model {model.name!r} has {name} {came}, expected one, {expected}: {hint}")
    for _, step in _walk(model):
        if isinstance(step, (layers.Permute, layers.Reshape)):
            return  # it may turn the images for the layers behind it
        if hasattr(step, "data_format"):
            if step.data_format == "channels_first":
                raise ValueError(f"layer {step.name!r} takes channels first; expected images (N, H, W, C)")
            return


def _check_images(images, shape):
    images = _as_array("images", images)
    fits = images.ndim == 4 and all(
        want in (None, got) for want, got in zip(shape, images.shape[1:], strict=True)
    )
    if not fits or images.size == 0:
        expected = ", ".join(str(length or "any") for length in shape)
        raise ValueError(f"images have shape {images.shape}, expected (N, {expected}), at least one")
    if images.dtype.kind not in "uif":
        raise ValueError(f"images have dtype {images.dtype}; expected floats or whole numbers")
    with np.errstate(over="ignore"):
        finite = np.isfinite(images.astype(np.float32)).all()
    if not finite:
        raise ValueError("images hold NaN, infinity, or numbers too large for float32")
    return images


def _as_array(name, values):
    try:
        return np.asarray(values)
    except ValueError:  # rows of different length
        raise ValueError(f"{name} is a ragged list, expected an array") from None


def _check_classes(name, index, count, length=None):
    """Whole numbers below `count`: one for each image where `length` is given, else as many as there are."""
    numbers = np.atleast_1d(_as_array(name, index))
    if length is not None and np.ndim(index) == 0:
        numbers = np.repeat(numbers, length)
    if numbers.ndim != 1 or len(numbers) != (length or len(numbers)) or numbers.dtype.kind not in "ui":
        expected = f"one for each of {length} images" if length else "a sequence of them"
        came = f"shape {np.shape(index)} and dtype {numbers.dtype}"
        raise ValueError(f"{name} has {came}, expected a whole number, or {expected}")
    if len(numbers) == 0 or numbers.min() < 0 or numbers.max() >= count:
        raise ValueError(f"{name}={index} must lie between 0 and {count - 1}")
    return numbers.astype(np.int32)


def _whole(name, value, least=1):
    """The value as a Python integer, if it is a whole number of at least `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least or isinstance(value, bool):
        raise ValueError(f"{name}={value!r} must be a whole number, at least {least}")
    return number


def _check_seed(seed):
    return None if seed is None else _whole("seed", seed, 0)


def _number(name, value):
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 <= value < np.inf:
        raise ValueError(f"{name}={value!r} must be a finite number of at least 0")
    return float(value)
