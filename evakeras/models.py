"""The MNIST progression, model by model; what the layers of any chain see, and how much a model multiplies.

This file works alone: copy it into an assignment and `import models`. It needs Keras 3 and NumPy.
"""

import math
import operator
from itertools import pairwise
from numbers import Real
from typing import NamedTuple

import keras
import numpy as np
from keras import layers

__all__ = [
    "COMPACT",
    "PROGRESSION",
    "RECIPES",
    "LayerField",
    "Recipe",
    "Step",
    "build",
    "compiled",
    "multiplications",
    "receptive_field",
]

POOL = "pool"  # 2×2 max pooling in a layout
_CHANNELS_LAST = {"data_format": "channels_last"}  # whatever Keras is set to


class Step(NamedTuple):
    """One step of the progression: what changed, its parameters, and what the notes report for it.

    `layout` lists the convolutions as `(channels, kernel)`, with `"same"` as a third where zeros around the
    picture keep its size, and the poolings as `"pool"`; the last convolution, which reads all that is left of
    the picture and gives one number per class, is not listed.
    `notes_train` and `notes_test` are the notes' accuracies in percent, None where they give none.
    A `lean` model has hidden convolutions without bias, and pools before it normalizes: batch normalization
    brings a bias of its own, and then has a quarter of the work. `averaged` says that the last convolution is
    1×1, without bias, and that its outputs are averaged over the picture.
    """

    change: str
    parameters: int
    layout: tuple
    batch_norm: bool = False
    dropout: float = 0.0
    notes_train: float | None = None
    notes_test: float | None = None
    lean: bool = False
    averaged: bool = False


_NARROW = ((10, 3), (10, 3), (20, 3), POOL, (10, 1), (10, 3), (20, 3), (10, 1))
_WIDE = ((10, 3), (16, 3), (32, 3), POOL, (10, 1), (16, 3), (32, 3), (10, 1))
_SAME = "same"
_DEEP = (
    *((12, 3, _SAME), (12, 3, _SAME), POOL),
    *((16, 3, _SAME), (16, 3, _SAME), (16, 3, _SAME), POOL),
    *((16, 3, _SAME), (16, 3), (16, 3)),
)
_DEEP_TINY = (
    *((8, 3, _SAME), (8, 3, _SAME), POOL),
    *((10, 3, _SAME), (10, 3, _SAME), (12, 3, _SAME), POOL),
    *((12, 3, _SAME), (10, 3), (10, 3)),
)
_DEEP_AVERAGED = (
    *((10, 3, _SAME), (12, 3, _SAME), POOL),
    *((16, 3, _SAME), (16, 3, _SAME), (16, 3, _SAME), POOL),
    *((16, 3, _SAME), (16, 3), (14, 3)),
)
_EARLY_POOL = ((16, 3), (32, 3), (10, 1), POOL, (16, 3), (16, 3), (16, 3), (16, 3))

PROGRESSION = {
    "first": Step("one 3×3, then everything at once", 68_260, ((32, 3), (10, 1)), notes_test=98.28),
    "second": Step(
        "deep, wide, one pooling",
        195_352,
        ((32, 3), (64, 3), (128, 3), POOL, (32, 1), (64, 3), (128, 3), (10, 1)),
        notes_test=99.18,
    ),
    "third": Step("far fewer channels", 10_890, _NARROW, notes_train=99.33, notes_test=98.84),
    "fourth": Step("+ batch normalization", 11_250, _NARROW, True, notes_train=99.39, notes_test=98.97),
    "fifth": Step("16 and 32 channels", 18_366, _WIDE, True, notes_train=99.80, notes_test=99.05),
    "sixth": Step("+ dropout", 18_366, _WIDE, True, 0.1, notes_train=98.34, notes_test=98.61),
    "seventh": Step("+ falling learning rate", 18_366, _WIDE, True, 0.1, notes_test=99.42),
    "eighth": Step("pooling earlier", 16_604, _EARLY_POOL, True, 0.1, notes_test=99.46),
    "fast": Step("pooling at once, twice", 18_814, ((20, 3), POOL, (28, 3), (32, 3), POOL), True),
}
"""Name → `Step`, in the order of the source notes; "fast" is ours.

"seventh" is "sixth" with another learning-rate schedule, Adam at 0.003 / (1 + 0.319 · epoch).
"""

COMPACT = {
    "best": Step("deeper and narrower", 16_582, _DEEP, True, lean=True),
    "tiny": Step("under 8,000 parameters", 7_854, _DEEP_TINY, True, lean=True),
    "ninth": Step("no bias, no dense layer", 14_734, _DEEP_AVERAGED, True, lean=True, averaged=True),
}
"""Name → `Step` of three small models of ours, each with a recipe."""


class Recipe(NamedTuple):
    """How a model of ours is trained to its accuracy: `compiled` does most of it.

    `augmentation` holds arguments of Keras's old `ImageDataGenerator`, which
    `augment.from_image_data_generator` takes too. The learning rate rises to `peak` in the first quarter of
    all steps and falls to zero along a cosine.
    """

    epochs: int
    augmentation: dict
    peak: float = 0.01
    batch_size: int = 128


_PIXELS = [-2, -1, 0, 1, 2]
_SHIFTED = {"fill_mode": "constant", "width_shift_range": _PIXELS, "height_shift_range": _PIXELS}
_TURNED = {
    "fill_mode": "constant",
    "width_shift_range": 0.08,
    "height_shift_range": 0.08,
    "rotation_range": 10,
    "zoom_range": 0.1,
}
_BENT = {**_TURNED, "shear_range": 10}

RECIPES = {
    "fast": Recipe(5, _SHIFTED),
    "best": Recipe(20, _BENT, peak=0.006, batch_size=64),
    "tiny": Recipe(20, _TURNED, peak=0.006, batch_size=64),
    "ninth": Recipe(20, _BENT, peak=0.006, batch_size=64),
}
"""Name → `Recipe` of "fast" and of the models in `COMPACT`, for MNIST."""


def build(
    name: str,
    *,
    kernel_regularizer: keras.regularizers.Regularizer | str | None = None,
    dropout: float | None = None,
    input_shape: tuple[int, int, int] = (28, 28, 1),
    classes: int = 10,
) -> keras.Sequential:
    """Build a model of the progression, or one of the compact ones, not yet compiled.

    Every hidden layer is convolution + ReLU, then batch normalization and dropout where the step has them; in
    compact models it is convolution, pooling, batch normalization, ReLU.
    The last convolution has a kernel as large as what is left of the picture, so it works for any input size
    that the layout leaves something of.

    Args:
        name: a key of `PROGRESSION` or `COMPACT`.
        kernel_regularizer: a `keras.regularizers.Regularizer` (or its name) for every convolution kernel.
        dropout: rate in [0, 1) for every layer but the last; None takes the step's own.
        input_shape: `(height, width, channels)` of one image.
        classes: number of outputs, at least 2.

    Returns:
        A `keras.Sequential`: float images `(N, *input_shape)` in, probabilities `(N, classes)` out.

    Raises:
        ValueError: unknown name, a rate outside [0, 1), an `input_shape` that is not three positive integers
            or too small for the layout, fewer than 2 classes.

    Example:
        >>> build("fifth").count_params()
        18366
        >>> build("third", input_shape=(32, 32, 3)).output_shape
        (None, 10)
    """
    step, rate, input_shape, classes = _check_build(name, dropout, input_shape, classes)
    size = _left(name, step, input_shape)
    last = {"kernel_size": 1 if step.averaged else size, "use_bias": not step.averaged, "name": "classes"}
    if step.averaged:
        flat = layers.GlobalAveragePooling2D(**_CHANNELS_LAST, name="average")
    else:
        flat = layers.Flatten(**_CHANNELS_LAST, name="flatten")
    return keras.Sequential(
        [
            keras.Input(input_shape),
            *_hidden(step, rate, kernel_regularizer),
            layers.Conv2D(classes, kernel_regularizer=kernel_regularizer, **last, **_CHANNELS_LAST),
            flat,
            layers.Softmax(dtype="float32", name="softmax"),
        ],
        name=name,
    )


def _left(name, step, input_shape):
    """Height and width of what a layout leaves of the picture."""
    size = tuple(input_shape[:2])
    for part in step.layout:
        if part == POOL:
            size = tuple(n // 2 for n in size)
        elif _SAME not in part:
            size = tuple(n - part[1] + 1 for n in size)
        if min(size) < 1:
            raise ValueError(
                f"input_shape={input_shape} is too small for {name!r}: its layout {step.layout} leaves "
                "nothing of it"
            )
    return size


def _hidden(step, rate, kernel_regularizer):
    """All layers but the last: convolution + ReLU, batch normalization, dropout, pooling."""
    stack, poolings = [], 0
    pairs = [(part, after == POOL) for part, after in pairwise((*step.layout, None)) if part != POOL]
    for number, ((channels, kernel, *padding), pooled) in enumerate(pairs, 1):
        convolution = layers.Conv2D(
            channels,
            kernel,
            activation=None if step.lean else "relu",
            padding=padding[0] if padding else "valid",
            use_bias=not step.lean,
            kernel_regularizer=kernel_regularizer,
            name=f"conv_{number}",
            **_CHANNELS_LAST,
        )
        poolings += pooled
        pooling = [layers.MaxPooling2D(**_CHANNELS_LAST, name=f"pool_{poolings}")] if pooled else []
        norm = [layers.BatchNormalization(name=f"norm_{number}")] if step.batch_norm else []
        drop = [layers.Dropout(rate, name=f"drop_{number}")] if rate else []
        if step.lean:
            stack += [convolution, *pooling, *norm, layers.ReLU(name=f"relu_{number}"), *drop]
        else:
            stack += [convolution, *norm, *drop, *pooling]
    return stack


def _check_build(name, dropout, input_shape, classes):
    steps = PROGRESSION | COMPACT
    if name not in steps:
        raise ValueError(f"name={name!r} is unknown; expected one of {', '.join(steps)}")
    step = steps[name]
    rate = step.dropout if dropout is None else dropout
    if not isinstance(rate, Real) or not 0 <= rate < 1:
        raise ValueError(f"dropout={dropout!r} must be a rate in [0, 1)")
    shape = tuple(map(_integer, input_shape)) if np.iterable(input_shape) else ()
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(
            f"input_shape={input_shape!r} must be (height, width, channels), three positive integers"
        )
    if _integer(classes) < 2:
        raise ValueError(f"classes={classes!r} must be an integer of at least 2")
    return step, float(rate), shape, _integer(classes)


def _integer(value):
    """The value as Python's own integer, also of NumPy's; what is none becomes 0."""
    try:
        return operator.index(value)
    except TypeError:
        return 0


def compiled(name: str, images: int, *, epochs: int | None = None, **options) -> keras.Sequential:
    """Build a model and compile it with its recipe: Adam, one cycle of the learning rate, cross-entropy.

    Args:
        name: a key of `RECIPES`.
        images: how many images one epoch trains on, at least 1: the cycle ends with the last step.
        epochs: how many epochs will follow, at least 1; None takes the recipe's.
        options: of `build`: `dropout`, `kernel_regularizer`, `input_shape`, `classes`.

    Returns:
        A compiled `keras.Sequential` for float images `(N, H, W, C)`, best in [0, 1], and integer labels
        `(N,)`. Batch size and augmentation are not part of it: see the example.

    Raises:
        ValueError: unknown name, counts below 1, or what `build` raises.

    Example:
        >>> recipe = RECIPES["fast"]
        >>> x, y = np.zeros((300, 28, 28, 1), "float32"), np.zeros(300, int)
        >>> model = compiled("fast", len(x), epochs=1)
        >>> history = model.fit(x, y, batch_size=recipe.batch_size, epochs=1, verbose=0)
        >>> int(model.optimizer.iterations), float(model.optimizer.learning_rate)
        (3, 0.0)

    Reference:
        Smith, Topin: Super-convergence, 2019 (arXiv:1708.07120), for the cycle.
    """
    if name not in RECIPES:
        raise ValueError(f"name={name!r} has no recipe; expected one of {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    epochs = recipe.epochs if epochs is None else epochs
    for what, count in (("images", images), ("epochs", epochs)):
        if _integer(count) < 1:
            raise ValueError(f"{what}={count!r} must be an integer of at least 1")
    steps = _integer(epochs) * -(-_integer(images) // recipe.batch_size)
    rise = steps // 4
    rate = keras.optimizers.schedules.CosineDecay(
        recipe.peak / 10, steps - rise, warmup_target=recipe.peak, warmup_steps=rise
    )
    model = build(name, **options)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


class LayerField(NamedTuple):
    """What one layer sees and costs. Sizes are in pixels: one number where both directions agree.

    `jump` is the distance, in the input, between neighbours of the output; `receptive_field` the side of the
    square of the input that one output depends on, were the picture large enough.
    """

    layer: str
    kernel: int | tuple
    stride: int | tuple
    jump: int | tuple
    receptive_field: int | tuple
    output_size: int | tuple
    channels: int
    parameters: int


def receptive_field(model: keras.Model) -> list[LayerField]:
    """Compute the receptive field of every layer of a chain, from the recursion.

    With kernel k, dilation d and stride s, a layer turns receptive field r and jump j into
    r + d·(k − 1)·j and j·s. `Flatten`, dense and global pooling layers see the whole picture.

    Args:
        model: a built `Sequential`, or a functional model whose layers form one chain, on images
            `(N, H, W, C)` of known size.

    Returns:
        A list of `LayerField`, one per layer in order, nested models laid open.

    Raises:
        ValueError: not built, input not `(N, H, W, C)` of known size, layers that branch or merge, or a layer
            whose receptive field this recursion does not know, such as transposed convolution.

    Example:
        >>> for row in receptive_field(build("third"))[:4]:
        ...     print(row.kernel, row.jump, row.receptive_field, row.output_size, row.channels)
        3 1 3 26 10
        3 1 5 24 10
        3 1 7 22 20
        2 2 8 11 20

    Reference:
        Araujo, Norris, Sim: Computing receptive fields of convolutional neural networks, Distill 2019.
    """
    if (
        not isinstance(model, keras.Model)
        or not model.built
        or len(getattr(model, "inputs", None) or ()) != 1
    ):
        raise ValueError(f"model={model!r} must be a built Sequential or functional model with one input")
    shape = model.inputs[0].shape
    if len(shape) != 4 or None in shape[1:]:
        raise ValueError(f"model {model.name!r} takes {shape}, expected (N, H, W, C) of known size")
    field, jump = np.array([1, 1]), np.array([1, 1])
    rows = []
    for layer in _chain(model):
        kernel, stride, dilation = _geometry(layer, shape)
        field = field + dilation * (kernel - 1) * jump
        jump = jump * stride
        shape = layer.compute_output_shape(shape)
        size = shape[1:3] if len(shape) == 4 else (1, 1)
        one = [_one(pair) for pair in (kernel, stride, jump, field, size)]
        rows.append(LayerField(layer.name, *one, shape[-1], layer.count_params()))
    return rows


_CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D)
_POOLINGS = (layers.MaxPooling2D, layers.AveragePooling2D)
_WHOLE = (layers.Flatten, layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D)
_POINTWISE = (
    layers.Activation,
    layers.BatchNormalization,
    layers.Cropping2D,
    layers.Dense,
    layers.Dropout,
    layers.ELU,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.Identity,
    layers.LeakyReLU,
    layers.Normalization,
    layers.PReLU,
    layers.ReLU,
    layers.Rescaling,
    layers.Softmax,
    layers.SpatialDropout2D,
    layers.ZeroPadding2D,
)


def _geometry(layer, shape):
    """Kernel, stride and dilation, in both directions."""
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        raise ValueError(f"layer {layer.name!r} has its channels first; expected them last")
    one = (1, 1)
    if isinstance(layer, _CONVOLUTIONS) and not isinstance(layer, layers.Conv2DTranspose):
        found = layer.kernel_size, layer.strides, layer.dilation_rate
    elif isinstance(layer, _POOLINGS):
        found = layer.pool_size, layer.strides, one
    elif isinstance(layer, _WHOLE):  # reads all that is left, as a kernel of that size would
        found = (shape[1:3] if len(shape) == 4 else one), one, one
    elif isinstance(layer, _POINTWISE) and set(_axes(layer)) <= {-1, len(shape) - 1}:
        found = one, one, one
    else:
        raise ValueError(f"layer {layer.name!r}: no rule for a {type(layer).__name__} layer")
    return (np.array(part) for part in found)


def _axes(layer):
    """The axes that a layer works along, as a sequence; that of channels where it does not say."""
    axis = getattr(layer, "axis", -1)
    return axis if isinstance(axis, (list, tuple)) else (axis,)


def _chain(model):
    """The layers in order, nested models laid open; a model that branches is refused."""
    if not getattr(model, "outputs", None):
        raise ValueError(f"model {model.name!r} is not a built Sequential or functional model")
    nodes = _calls(model)
    _check_chain(model, nodes)
    steps = [node.operation for node in nodes]
    return [layer for step in steps for layer in (_chain(step) if isinstance(step, keras.Model) else [step])]


def _calls(model):
    """Every call of a layer in the model, from its input to its output."""
    # Not asked of the layers, which know of their first call only, be it in another model.
    graph = keras.Model(model.inputs, model.outputs, name=model.name)  # a Sequential hides its own
    by_depth = graph._nodes_by_depth
    nodes = (node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth])
    return [node for node in nodes if not isinstance(node.operation, layers.InputLayer)]


def _check_chain(model, nodes):
    """Each layer takes what the one before gives, from input to output, and none comes twice."""
    tensor, seen = model.inputs[0], set()
    for node in nodes:
        step = node.operation
        if len(node.input_tensors) != 1 or node.input_tensors[0] is not tensor or id(step) in seen:
            raise ValueError(f"model {model.name!r} is not a chain: it branches or repeats at {step.name!r}")
        tensor = node.outputs[0]
        seen.add(id(step))
    if not nodes or tensor is not model.outputs[0]:
        raise ValueError(f"model {model.name!r} is not a chain of layers from its input to its output")


def _one(pair):
    height, width = (int(n) for n in pair)
    return height if height == width else (height, width)


def multiplications(model: keras.Model) -> int:
    """Count the multiplications by kernels in one forward pass of one image.

    Every weight of a kernel multiplies once at each place of its layer's output, padding included. Biases,
    normalization and activations are left out, as is usual; a layer that is called twice counts twice.

    Args:
        model: a built `Sequential` or functional model with inputs of known size; it may branch and merge.

    Returns:
        The number of multiplications, 0 where no layer has a kernel.

    Raises:
        ValueError: not built, an output of unknown size, or a layer with weights that is neither dense nor a
            two-dimensional convolution, nor works on each value alone.

    Example:
        >>> multiplications(build("third"))
        1650440

    Reference:
        Howard et al.: MobileNets, 2017, section 3.1. https://arxiv.org/abs/1704.04861
    """
    if not isinstance(model, keras.Model) or not model.built or not getattr(model, "outputs", None):
        raise ValueError(f"model={model!r} must be a built Sequential or functional model")
    return sum(_multiplied(node.operation, node.outputs[0].shape) for node in _calls(model))


def _multiplied(layer, shape):
    """The multiplications of one call of a layer whose output has that shape."""
    if isinstance(layer, keras.Model):
        return multiplications(layer)
    if not isinstance(layer, (*_CONVOLUTIONS, layers.Dense)):
        # A single number is a setting that is kept as a weight, such as a share of images to change.
        arrays = [weight for weight in getattr(layer, "weights", ()) if len(weight.shape)]
        if arrays and not isinstance(layer, _POINTWISE):
            raise ValueError(f"layer {layer.name!r}: no rule for a {type(layer).__name__} layer")
        return 0
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    places = shape[2:] if first else shape[1:-1]
    if None in places:
        raise ValueError(f"layer {layer.name!r} gives {shape}, expected a known size")
    kernels = [weight for weight in layer.weights if weight.path.endswith("kernel")]
    return sum(math.prod(kernel.shape) for kernel in kernels) * math.prod(places)
