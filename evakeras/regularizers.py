"""Regularize a whole model: weight penalties, sparsity, magnitude pruning, proximal L1, dropout by hand.

A *kernel* is a weight that multiplies the input of a layer: of a convolution (depthwise and pointwise too), a
dense or a recurrent layer. Biases, the γ and β of normalization layers and embeddings are no kernels.

This file works alone: copy it into an assignment and `import regularizers`. It needs Keras 3 and NumPy.
"""

import copy
import math
import operator
from collections.abc import Iterator
from typing import NamedTuple

import keras
import numpy as np

__all__ = [
    "ProximalL1",
    "Sparsity",
    "add_kernel_regularizer",
    "dropout",
    "penalty",
    "prune",
    "sparsity",
]

# Where layers keep their kernels, and under which names they keep the regularizer of each.
_REGULARIZERS = {
    "kernel": ("kernel_regularizer", "depthwise_regularizer"),
    "depthwise_kernel": ("depthwise_regularizer",),
    "pointwise_kernel": ("pointwise_regularizer",),
    "recurrent_kernel": ("recurrent_regularizer",),
}

# Layers that save the configuration of the layers inside them, as models do.
_TRANSPARENT = (
    keras.layers.RNN,
    keras.layers.StackedRNNCells,
    keras.layers.Wrapper,
    keras.layers.Bidirectional,
)


def add_kernel_regularizer(
    model: keras.Model, regularizer: keras.regularizers.Regularizer | str | None
) -> keras.Model:
    """Give every kernel of a built model the same regularizer, as if it had been built with it.

    The model is changed in place: its weights, its optimizer and how it is compiled stay, and the next `fit`
    reports the new penalty in its loss. An earlier kernel regularizer is replaced. A shared layer is counted
    once; a frozen layer (`trainable=False`) is counted from the moment it is thawed, as everywhere in Keras.
    If the model is part of a larger one that is compiled already, call this with the larger one.

    Args:
        model: a built `Sequential` or functional model; models inside it are changed too.
        regularizer: such as `keras.regularizers.L1(1e-4)`, or its name in Keras, which takes Keras's default
            strength; None removes what is there.

    Returns:
        The same model.

    Raises:
        ValueError: not built, no kernels, not a regularizer, or a layer whose configuration would not keep
            the regularizer when the model is saved (subclassed models, attention); nothing is changed then.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="ones")])
        >>> model = add_kernel_regularizer(model, keras.regularizers.L2(0.1))
        >>> round(float(sum(model.losses)), 6)
        0.2
    """
    kernels = _kernels(model)
    if isinstance(regularizer, (type, keras.callbacks.Callback)):
        raise ValueError(f"regularizer={regularizer!r} must be an object such as keras.regularizers.L1(1e-4)")
    try:
        regularizer = keras.regularizers.get(regularizer)
    except (TypeError, ValueError) as problem:
        raise ValueError(f"regularizer={regularizer!r} is unknown to Keras: {problem}") from problem
    if not isinstance(regularizer, (keras.regularizers.Regularizer, type(None))):
        raise ValueError(f"regularizer={regularizer!r} must be a keras.regularizers.Regularizer or None")
    names = [_regularizer_name(kernel) for kernel in kernels]
    if regularizer is not None:
        for kernel in kernels:
            regularizer(kernel.variable)  # raises here if it cannot take this shape: nothing is changed yet
    for kernel, name in zip(kernels, names, strict=True):
        setattr(kernel.layer, name, regularizer)
        kernel.variable.regularizer = regularizer
    for _, layer, _ in _walk(model):
        if isinstance(layer, keras.Model):  # else fit would go on with the old loss, which it has compiled
            layer.train_function = layer.test_function = None
    return model


def penalty(model: keras.Model) -> dict[str, float]:
    """Tell what each layer's weights add to the loss.

    All weight regularizers count, those of biases and γ too; their sum is `sum(model.losses)`. Penalties on
    activations need a batch and are not in it.

    Args:
        model: a built model.

    Returns:
        Dict from each layer that has weights (its name; "inner/name" inside a model named inner) to its
        penalty, 0.0 where it has none or is frozen.

    Raises:
        ValueError: not built, or a penalty that is NaN or infinite.

    Example:
        >>> layers = [keras.layers.Dense(1, kernel_initializer="ones", kernel_regularizer=kind, name=kind)
        ...           for kind in ("l1", "l2")]
        >>> penalties = penalty(keras.Sequential([keras.Input((3,)), *layers]))
        >>> {name: round(value, 6) for name, value in penalties.items()}
        {'l1': 0.03, 'l2': 0.01}
    """
    _check_model(model)
    counted = {id(variable) for variable in model.trainable_weights}
    result = {}
    for path, layer, _ in _walk(model):
        below = _below(layer)
        own = [variable for variable in layer.weights if id(variable) not in below]
        if not own:
            continue
        result[path] = 0.0
        for variable in own:
            if variable.regularizer is not None and id(variable) in counted:
                counted.remove(id(variable))  # a weight that two layers share is counted once
                result[path] += float(keras.ops.convert_to_numpy(variable.regularizer(variable)))
        if not math.isfinite(result[path]):
            raise ValueError(f"model: the penalty of {path!r} is {result[path]}; look at its weights")
    return result


class Sparsity(NamedTuple):
    """Fraction of kernel weights that are zero: of all, and of each layer by its name."""

    total: float
    layers: dict[str, float]


def sparsity(model: keras.Model, threshold: float = 0.0) -> Sparsity:
    """Measure the fraction of kernel weights whose absolute value is at most `threshold`.

    Args:
        model: a built model.
        threshold: 0 or more; 0 counts exact zeros.

    Returns:
        A `Sparsity`, fractions in [0, 1]; layers are named as in `penalty`.

    Raises:
        ValueError: not built, no kernels, weights that are NaN or infinite, a negative threshold.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, name="sum")])
        >>> model.layers[0].set_weights([np.array([[0.0], [0.01], [-2.0], [3.0]]), np.zeros(1)])
        >>> sparsity(model)
        Sparsity(total=0.25, layers={'sum': 0.25})
        >>> sparsity(model, threshold=0.1).total
        0.5
    """
    threshold = _check_number("threshold", threshold)
    zeros, sizes = {}, {}
    for kernel in _kernels(model):
        small = int((_magnitudes(kernel) <= threshold).sum())
        zeros[kernel.path] = zeros.get(kernel.path, 0) + small
        sizes[kernel.path] = sizes.get(kernel.path, 0) + math.prod(kernel.variable.shape)
    layers = {path: zeros[path] / sizes[path] for path in sizes}
    return Sparsity(sum(zeros.values()) / sum(sizes.values()), layers)


def prune(model: keras.Model, fraction: float) -> keras.Model:
    """Copy a model with the smallest kernel weights set to zero.

    Magnitudes are compared over all kernels together, frozen ones too; of equal ones the first goes first.
    Training the copy brings the zeros back to life.

    Args:
        model: a built model that can be saved.
        fraction: how much of all kernel weights becomes exactly zero, in [0, 1], rounded to whole weights.

    Returns:
        A new model with the optimizer and compilation of the old, which stays as it was.

    Raises:
        ValueError: not built, no kernels, weights that are NaN or infinite, a fraction outside [0, 1].

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> model.layers[0].set_weights([np.array([[0.1], [-0.2], [-2.0], [3.0]]), np.zeros(1)])
        >>> prune(model, 0.5).layers[0].kernel.numpy().ravel()
        array([ 0.,  0., -2.,  3.], dtype=float32)

    Reference:
        Han, Pool, Tran, Dally: Learning both weights and connections for efficient neural networks, 2015.
    """
    fraction = _check_number("fraction", fraction)
    if fraction > 1:
        raise ValueError(f"fraction={fraction} must lie in [0, 1]")
    magnitudes = np.concatenate([_magnitudes(kernel) for kernel in _kernels(model)])
    order = np.argsort(magnitudes, kind="stable")
    keep = np.ones(magnitudes.size, bool)
    keep[order[: round(fraction * magnitudes.size)]] = False
    pruned, start = copy.deepcopy(model), 0
    for kernel in _kernels(pruned):
        weights = keras.ops.convert_to_numpy(kernel.variable.value)
        kept = keep[start : start + weights.size].reshape(weights.shape)
        kernel.variable.assign(np.where(kept, weights, np.zeros_like(weights)))
        start += weights.size
    return pruned


class ProximalL1(keras.callbacks.Callback):
    """Callback for `fit`: an L1 penalty that gives exact zeros.

    An L1 penalty in the loss only pulls weights to and fro around zero. Here the loss stays without it, and
    after each step of the optimizer every kernel w is soft-thresholded,

        w ← sign(w) · max(|w| − learning rate · strength, 0),

    which is the proximal step for strength · Σ|w|. With plain SGD this is proximal gradient descent (ISTA):
    it minimizes loss + strength · Σ|w|. With Adam the threshold ignores Adam's scaling of each weight, just
    as AdamW's decay does, so that the same strength means another penalty.

    The rate is the one the step uses, whether constant, a schedule or set by a callback: put ProximalL1 last
    in the list. Frozen kernels, biases, γ and β are left alone.

    Args:
        strength: λ, 0 or more.

    Raises:
        ValueError: a negative strength; when training begins, no trainable kernel, several steps per
            execution, or gradient accumulation: the threshold must follow every step.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="ones")])
        >>> model.compile(keras.optimizers.SGD(0.1), "mse")
        >>> x, y = np.zeros((4, 2)), np.zeros((4, 1))
        >>> history = model.fit(x, y, epochs=20, verbose=0, callbacks=[ProximalL1(0.6)])
        >>> model.layers[0].kernel.numpy().ravel()
        array([0., 0.], dtype=float32)

    Reference:
        Parikh, Boyd: Proximal algorithms, 2014, sections 4.2 and 6.5.2.
    """

    def __init__(self, strength: float):
        super().__init__()
        self.strength = _check_number("strength", strength)

    def on_train_begin(self, logs=None):
        trainable = {id(variable) for variable in self.model.trainable_weights}
        kernels = [kernel.variable for kernel in _kernels(self.model)]
        self._kernels = [variable for variable in kernels if id(variable) in trainable]
        if not self._kernels:
            raise ValueError(f"ProximalL1: all kernels of model {self.model.name!r} are frozen")
        steps = self.model.steps_per_execution
        if steps != 1:
            raise ValueError(
                f"ProximalL1: the model is compiled with steps_per_execution={steps}; expected 1"
            )
        # In mixed precision the optimizer is inside another one, which scales the loss.
        inner = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        if getattr(inner, "gradient_accumulation_steps", None):
            raise ValueError("ProximalL1: the optimizer accumulates gradients; expected a step per batch")

    def on_train_batch_begin(self, batch, logs=None):
        # Before the step: afterwards a schedule already tells the rate of the next one.
        self._rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))

    def on_train_batch_end(self, batch, logs=None):
        self.model  # noqa: B018  on JAX this brings the variables up to date
        for kernel in self._kernels:
            kernel.assign(_soft_threshold(kernel, self._rate * self.strength))


def _soft_threshold(x, threshold):
    threshold = keras.ops.cast(threshold, x.dtype)
    return keras.ops.relu(x - threshold) - keras.ops.relu(-x - threshold)  # never -0.0


def dropout(x: np.ndarray, rate: float, seed: int) -> np.ndarray:
    """Set each value to zero with probability `rate`, and divide the others by the keep probability.

    With keep probability p = 1 − rate, the mean of mask · x / p over all masks is x: nothing has to be
    scaled when the network is used without dropout ("inverted" dropout, as in Keras).

    Args:
        x: float array of any shape.
        rate: probability to be dropped, in [0, 1).
        seed: integer of at least 0; the same seed gives the same mask.

    Returns:
        New array of the same shape and dtype.

    Raises:
        ValueError: not floats, NaN or infinity, a rate outside [0, 1), a negative seed, or values that do
            not fit into their type any more when they are divided.
        TypeError: a seed that is not an integer.

    Example:
        >>> dropout(np.ones(8), 0.5, seed=0)
        array([0., 2., 2., 2., 0., 0., 0., 0.])

    Reference:
        Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov: Dropout, JMLR 15, 2014.
    """
    x = np.asarray(x)
    if x.dtype.kind != "f" or not np.isfinite(x).all():
        raise ValueError(f"x has dtype {x.dtype}; expected finite floats")
    rate = _check_number("rate", rate)
    if rate >= 1:
        raise ValueError(f"rate={rate} must lie in [0, 1): with 1 nothing would be left")
    seed = operator.index(seed)
    if seed < 0:
        raise ValueError(f"seed={seed} must be at least 0")
    keep = 1 - rate
    mask = np.random.default_rng(seed).random(x.shape) < keep
    with np.errstate(over="ignore"):
        result = np.where(mask, x / keep, 0).astype(x.dtype)
    if not np.isfinite(result).all():
        raise ValueError(f"x: divided by {keep:g}, its values do not fit into {x.dtype}")
    return result


class _Kernel(NamedTuple):
    path: str
    layer: keras.layers.Layer
    parents: tuple
    name: str
    variable: keras.Variable


def _kernels(model) -> list[_Kernel]:
    """Every kernel of the model, once."""
    _check_model(model)
    found, seen = [], set()
    for path, layer, parents in _walk(model):
        below = _below(layer)
        for name in _REGULARIZERS:
            variable = getattr(layer, name, None)
            if variable is None or id(variable) in seen | below:  # a wrapper's kernel is that of its layer
                continue
            if not isinstance(variable, keras.Variable) or "float" not in str(variable.dtype):
                raise ValueError(
                    f"model: the kernel of {path!r} is quantized or has LoRA; expected plain floats"
                )
            seen.add(id(variable))
            found.append(_Kernel(path, layer, parents, name, variable))
    if not found:
        raise ValueError(f"model {model.name!r} has no kernels: no convolution, dense or recurrent layer")
    return found


def _walk(model) -> Iterator[tuple]:
    """The model and every layer below, once, in order: path, layer, and the models and layers around it."""
    seen, paths = set(), set()

    def visit(layer, prefix, parents):
        if id(layer) in seen:
            return
        seen.add(id(layer))
        path, number = prefix + layer.name, 1
        while path in paths:  # subclassed models may use a name twice
            number += 1
            path = f"{prefix}{layer.name} ({number})"
        paths.add(path)
        yield path, layer, parents
        for child in _children(layer):
            yield from visit(child, f"{path}/" if parents else "", (*parents, layer))

    yield from visit(model, "", ())


def _children(layer):
    return layer.layers if isinstance(layer, keras.Model) else layer._flatten_layers(False, recursive=False)


def _below(layer):
    """The ids of the variables of the layers inside of one."""
    return {id(variable) for child in _children(layer) for variable in child.weights}


def _regularizer_name(kernel):
    """The attribute of the layer that keeps this kernel's regularizer and is saved with the model."""
    for around in kernel.parents:
        if isinstance(around, keras.Model):
            saved = "layers" in around.get_config()
        else:
            saved = isinstance(around, _TRANSPARENT)
        if not saved:
            raise ValueError(
                f"model: {around.name!r} ({type(around).__name__}) makes layers of its own and does not save "
                f"their configuration: it would lose the regularizer of {kernel.path!r}; build it with one"
            )
    config = kernel.layer.get_config()
    for name in _REGULARIZERS[kernel.name]:
        if name in config:
            return name
    raise ValueError(
        f"model: layer {kernel.path!r} ({type(kernel.layer).__name__}) has a {kernel.name}, "
        f"but no {_REGULARIZERS[kernel.name][0]} in its configuration"
    )


def _magnitudes(kernel):
    weights = keras.ops.convert_to_numpy(kernel.variable.value)
    magnitudes = np.abs(weights.astype(np.float64)).ravel()
    if not np.isfinite(magnitudes).all():
        raise ValueError(f"model: the {kernel.name} of {kernel.path!r} holds NaN or infinity")
    return magnitudes


def _check_model(model):
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(f"model={model!r} must be a built Keras model: give it an Input, or call it once")


def _check_number(name, value):
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{name}={value!r} must be a finite number of at least 0")
    return number
