"""The MNIST progression, model by model, and the receptive field of any chain of layers.

This file works alone: copy it into an assignment and `import models`. It needs Keras 3 and NumPy.
"""

from typing import NamedTuple

import keras
import numpy as np
from keras import layers

__all__ = ["PROGRESSION", "Step", "LayerField", "build", "receptive_field"]

POOL = "pool"  # 2×2 max pooling in a layout


class Step(NamedTuple):
    """One step of the progression: what changed, its parameters, and what the notes report for it.

    `layout` lists the convolutions as `(channels, kernel)` and the poolings as `"pool"`; the last
    convolution, which reads all that is left of the picture and gives one number per class, is not listed.
    `notes_train` and `notes_test` are the notes' accuracies in percent, None where they give none.
    """

    change: str
    parameters: int
    layout: tuple
    batch_norm: bool = False
    dropout: float = 0.0
    notes_train: float | None = None
    notes_test: float | None = None


_NARROW = ((10, 3), (10, 3), (20, 3), POOL, (10, 1), (10, 3), (20, 3), (10, 1))
_WIDE = ((10, 3), (16, 3), (32, 3), POOL, (10, 1), (16, 3), (32, 3), (10, 1))
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


def build(
    name: str,
    *,
    kernel_regularizer: keras.regularizers.Regularizer | str | None = None,
    dropout: float | None = None,
    input_shape: tuple[int, int, int] = (28, 28, 1),
    classes: int = 10,
) -> keras.Sequential:
    """Build a model of the progression, not yet compiled.

    Every hidden layer is convolution + ReLU, then batch normalization and dropout where the step has them.
    The last convolution has a kernel as large as what is left of the picture, so it works for any input size
    that the layout leaves something of.

    Args:
        name: a key of `PROGRESSION`.
        kernel_regularizer: a `keras.regularizers.Regularizer` (or its name) for every convolution kernel.
        dropout: rate in [0, 1) for every layer but the last; None takes the step's own.
        input_shape: `(height, width, channels)` of one image.
        classes: number of outputs, at least 2.

    Returns:
        A `keras.Sequential`: float images `(N, *input_shape)` in, probabilities `(N, classes)` out.

    Raises:
        ValueError: unknown name, a rate outside [0, 1), an input that is too small.

    Example:
        >>> build("fifth").count_params()
        18366
        >>> build("third", input_shape=(32, 32, 3)).output_shape
        (None, 10)
    """
    step, rate = _check_build(name, dropout, input_shape, classes)
    stack, size = [keras.Input(input_shape)], tuple(input_shape[:2])
    convolutions = poolings = 0
    for part in step.layout:
        if part == POOL:
            poolings += 1
            stack.append(layers.MaxPooling2D(name=f"pool_{poolings}"))
            size = tuple(n // 2 for n in size)
        else:
            convolutions += 1
            stack += _block(convolutions, *part, kernel_regularizer, step.batch_norm, rate)
            size = tuple(n - part[1] + 1 for n in size)
        if min(size) < 1:
            raise ValueError(
                f"input_shape={input_shape} is too small for {name!r}: its layout {step.layout} leaves "
                "nothing of it"
            )
    stack += [
        layers.Conv2D(classes, size, kernel_regularizer=kernel_regularizer, name="classes"),
        layers.Flatten(name="flatten"),
        layers.Softmax(dtype="float32", name="softmax"),
    ]
    return keras.Sequential(stack, name=name)


def _block(number, channels, kernel, kernel_regularizer, batch_norm, rate):
    """One hidden layer: convolution + ReLU, then batch normalization, then dropout."""
    block = [
        layers.Conv2D(
            channels,
            kernel,
            activation="relu",
            kernel_regularizer=kernel_regularizer,
            name=f"conv_{number}",
        )
    ]
    if batch_norm:
        block.append(layers.BatchNormalization(name=f"norm_{number}"))
    if rate:
        block.append(layers.Dropout(rate, name=f"drop_{number}"))
    return block


def _check_build(name, dropout, input_shape, classes):
    if name not in PROGRESSION:
        raise ValueError(f"name={name!r} is unknown; expected one of {', '.join(PROGRESSION)}")
    step = PROGRESSION[name]
    rate = step.dropout if dropout is None else dropout
    if not isinstance(rate, (int, float)) or not 0 <= rate < 1:
        raise ValueError(f"dropout={dropout!r} must be a rate in [0, 1)")
    if len(input_shape) != 3 or not all(isinstance(n, int) and n > 0 for n in input_shape):
        raise ValueError(
            f"input_shape={input_shape!r} must be (height, width, channels), three positive integers"
        )
    if not isinstance(classes, int) or classes < 2:
        raise ValueError(f"classes={classes!r} must be an integer of at least 2")
    return step, rate


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
    elif isinstance(layer, _POINTWISE) and getattr(layer, "axis", -1) in (-1, len(shape) - 1, [-1]):
        found = one, one, one
    else:
        raise ValueError(f"layer {layer.name!r}: no rule for a {type(layer).__name__} layer")
    return (np.array(part) for part in found)


def _chain(model):
    """The layers in order, nested models laid open; a model that branches is refused."""
    sequential = isinstance(model, keras.Sequential)
    steps = [
        step
        for step in (model.layers if sequential else getattr(model, "operations", []))
        if not isinstance(step, layers.InputLayer)
    ]
    if not sequential:
        _check_chain(model, steps)
    return [layer for step in steps for layer in (_chain(step) if isinstance(step, keras.Model) else [step])]


def _check_chain(model, steps):
    """Each step takes what the one before gives, from the model's input to its output."""
    tensor = (getattr(model, "inputs", None) or [None])[0]
    for step in steps:
        try:
            fits = step.input is tensor
        except (AttributeError, ValueError):  # called more than once
            fits = False
        if not fits:
            raise ValueError(f"model {model.name!r} is not a chain: it branches or repeats at {step.name!r}")
        tensor = step.output
    if not steps or tensor is not model.outputs[0]:
        raise ValueError(f"model {model.name!r} is not a chain of layers from its input to its output")


def _one(pair):
    height, width = (int(n) for n in pair)
    return height if height == width else (height, width)
