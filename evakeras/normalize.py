"""Bring images, and what networks make of them, to a common scale.

Statistics, min-max, equalization and standardization of images; batch normalization by hand, and folded away.

This file works alone: copy it into an assignment and `import normalize`. It needs Keras 3 and NumPy.
"""

import copy
import math
from collections import Counter
from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple

import keras
import numpy as np
from keras import layers
from numpy.typing import ArrayLike

__all__ = [
    "BatchNormCache",
    "ImageStatistics",
    "batch_norm",
    "batch_norm_backward",
    "equalize",
    "fold_batch_norm",
    "image_statistics",
    "min_max",
    "standardization_layer",
    "standardize",
]

_CHUNK = 2**16  # values looked at together: enough to be fast, small enough for the cache


class ImageStatistics(NamedTuple):
    """Mean and population standard deviation of each channel, and the pixels behind each.

    `mean` and `std` are float64 `(C,)`, `count` is the number of pixels per channel.
    """

    mean: np.ndarray
    std: np.ndarray
    count: int


def image_statistics(images: np.ndarray | Iterable[np.ndarray]) -> ImageStatistics:
    """Compute the mean and standard deviation of each channel, in one pass and little memory.

    For uint8 the sums are integers, so that nothing is rounded before the last division. Other types are
    added up in float64, chunk by chunk, with the stable formula for merging variances.

    Args:
        images: array or memmap `(N, H, W, C)`, or an iterable of such arrays (a generator, a `tf.data`
            pipeline of images without labels). All parts share one type and number of channels.

    Returns:
        `ImageStatistics`.

    Raises:
        ValueError: no images, wrong rank or type, parts that do not match, NaN or infinity.

    Example:
        >>> images = np.array([[0, 10], [20, 30]], np.uint8).reshape(1, 2, 2, 1)
        >>> image_statistics(images)
        ImageStatistics(mean=array([15.]), std=array([11.18033989]), count=4)

    Reference:
        Chan, Golub, LeVeque: Updating formulae and a pairwise algorithm for computing sample variances, 1979.
    """
    parts = [images] if hasattr(images, "shape") else images
    total = None
    for part in parts:
        part = _check_batch(part)
        if total is None:
            total = (_Integers if part.dtype == np.uint8 else _Floats)(part)
        total.check(part)
        for some in _chunks(part):
            total.add(part[some])
    if total is None:
        raise ValueError("images is empty: an iterable without a single batch")
    return total.result()


class _Integers:
    """Count, sum and sum of squares of each channel, as whole numbers."""

    def __init__(self, part):
        self.dtype, self.channels = part.dtype, part.shape[-1]
        self.count, self.first, self.second = 0, [0] * self.channels, [0] * self.channels

    def check(self, part):
        if (part.dtype, part.shape[-1]) != (self.dtype, self.channels):
            raise ValueError(
                f"images: a batch of {part.dtype} with {part.shape[-1]} channels follows batches of "
                f"{self.dtype} with {self.channels}"
            )

    def add(self, chunk):
        for channel in range(self.channels):
            # Exact in float64 whatever the order: the sums of a chunk are whole numbers far below 2**53.
            values = chunk[..., channel].ravel().astype(np.float64)
            self.first[channel] += int(values.sum())
            # Not values @ values, for which BLAS starts threads that wait for each other on a busy machine.
            self.second[channel] += int(np.einsum("i,i->", values, values))
        self.count += values.size

    def result(self):
        n, mean, std = self.count, [], []
        for first, second in zip(self.first, self.second, strict=True):  # Python's integers never overflow
            mean.append(first / n)
            std.append(math.sqrt(Fraction(n * second - first * first, n * n)))
        return ImageStatistics(np.array(mean), np.array(std), n)


class _Floats(_Integers):
    """Running count, mean and sum of squared differences from the mean, of each channel."""

    def __init__(self, part):
        self.dtype, self.channels = part.dtype, part.shape[-1]
        self.count, self.mean, self.squares = 0, np.zeros(self.channels), np.zeros(self.channels)

    def add(self, chunk):
        flat = chunk.reshape(-1, self.channels).astype(np.float64)
        count, mean = len(flat), flat.mean(axis=0)
        squares = ((flat - mean) ** 2).sum(axis=0)
        both, apart = self.count + count, mean - self.mean
        self.squares += squares + apart**2 * (self.count * count / both)
        self.mean += apart * (count / both)
        self.count = both

    def result(self):
        if not np.isfinite(self.mean + self.squares).all():
            raise ValueError("images hold NaN or infinity")
        return ImageStatistics(self.mean, np.sqrt(self.squares / self.count), self.count)


def min_max(images: np.ndarray, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """Stretch each image so that its darkest value becomes `low` and its brightest `high`.

    The channels of an image are stretched together, so that colours keep their hue.

    Args:
        images: `(N, H, W, C)` or one image `(H, W, C)`, any real number type.
        low, high: the new range, low < high.

    Returns:
        float32 array of the same shape, values in [low, high].

    Raises:
        ValueError: wrong rank or type, empty, NaN, low ≥ high, or a constant image, which has no range.

    Example:
        >>> min_max(np.array([[[50], [100], [200]]], np.uint8)).ravel().round(3)
        array([0.   , 0.333, 1.   ], dtype=float32)
    """
    images = _check_images(images)
    low, high = float(low), float(high)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"low={low} and high={high} must be finite, low below high")

    def stretch(chunk, first):
        darkest, brightest = chunk.min((1, 2, 3), keepdims=True), chunk.max((1, 2, 3), keepdims=True)
        constant = np.flatnonzero(darkest == brightest)
        if len(constant):
            raise ValueError(f"images: number {first + constant[0]} is constant: no range to stretch")
        return np.clip(low + (chunk - darkest) / (brightest - darkest) * (high - low), low, high)

    return _by_chunks(images, stretch)


def equalize(images: np.ndarray) -> np.ndarray:
    """Spread the values of each image and channel so that all occur about equally often.

    A value becomes 255 · (cdf − cdf_min) / (pixels − cdf_min), rounded half up: cdf counts the pixels up to
    this value, cdf_min those of the darkest. scikit-image leaves cdf_min out; Pillow counts the pixels
    before the value, in whole steps. A constant channel stays as it is.

    Args:
        images: uint8 `(N, H, W, C)` or one image `(H, W, C)`.

    Returns:
        uint8 array of the same shape.

    Raises:
        ValueError: wrong rank, type other than uint8, empty.

    Example:
        >>> equalize(np.array([[[50], [51], [51], [52]]], np.uint8)).ravel()
        array([  0, 170, 170, 255], dtype=uint8)

    Reference:
        Gonzalez, Woods: Digital image processing, 4th edition, section 3.3; cdf_min as in OpenCV's
        `equalizeHist`, so that the darkest value becomes 0.
    """
    images = _check_images(images)
    if images.dtype != np.uint8:
        raise ValueError(f"images are {images.dtype}, expected uint8: equalization counts whole values")
    batch = images.reshape(-1, *images.shape[-3:])
    result = np.empty_like(batch)
    for some in _chunks(batch):
        chunk = np.moveaxis(batch[some], -1, 1)  # (n, C, H, W): a plane is one histogram
        planes = chunk.reshape(chunk.shape[0] * chunk.shape[1], -1)
        tables = np.stack([_equalizing_table(plane) for plane in planes])
        new = np.take_along_axis(tables, planes.astype(np.intp), axis=1)
        result[some] = np.moveaxis(new.reshape(chunk.shape), 1, -1)
    return result.reshape(images.shape)


def _equalizing_table(plane):
    """The new value of each of the 256 old ones."""
    cdf = np.bincount(plane, minlength=256).cumsum()
    darkest = cdf[cdf > 0][0]
    spread = plane.size - darkest
    if spread == 0:
        return np.arange(256, dtype=np.uint8)
    above = np.maximum(cdf - darkest, 0)
    return ((2 * 255 * above + spread) // (2 * spread)).astype(np.uint8)  # rounds half up


def standardize(
    images: np.ndarray, mean: ArrayLike | None = None, std: ArrayLike | None = None
) -> np.ndarray:
    """Shift and scale each channel to mean 0 and standard deviation 1 over all images.

    Args:
        images: `(N, H, W, C)` or one image `(H, W, C)`, any real number type.
        mean, std: one number, or one per channel `(C,)`, measured on the **training** images; None measures
            them here.

    Returns:
        float32 array of the same shape, (images − mean) / std.

    Raises:
        ValueError: wrong rank or type, empty, NaN, a mean or std that does not fit, or a std of 0.

    Example:
        >>> standardize(np.array([[[0], [255]]], np.uint8)).ravel()
        array([-1.,  1.], dtype=float32)
    """
    images = _check_images(images)
    if mean is None or std is None:
        found = image_statistics(images.reshape(-1, *images.shape[-3:]))
        mean = found.mean if mean is None else mean
        std = found.std if std is None else std
    mean, std = _check_moments(mean, std, images.shape[-1])
    return _by_chunks(images, lambda chunk, _: (chunk - mean) / std)


def standardization_layer(statistics: ImageStatistics) -> keras.layers.Normalization:
    """Make the Keras layer that standardizes with the given statistics, so that the model carries them.

    Args:
        statistics: what `image_statistics` returned for the training images.

    Returns:
        A `keras.layers.Normalization` for `(N, H, W, C)`.

    Raises:
        ValueError: a channel with a standard deviation of 0: it is constant, and cannot be scaled; or one so
            small that Keras would divide by a larger number.

    Example:
        >>> layer = standardization_layer(ImageStatistics(np.array([100.0]), np.array([50.0]), 784))
        >>> float(keras.ops.max(layer(np.full((1, 2, 2, 1), 200.0))))
        2.0
    """
    mean, std = _check_moments(statistics.mean, statistics.std, np.size(statistics.mean))
    least = keras.config.epsilon()
    if (std < least).any():
        raise ValueError(f"std={std} is below {least}, by which Keras would divide: use `standardize`")
    return keras.layers.Normalization(mean=mean, variance=std**2)


class BatchNormCache(NamedTuple):
    """What `batch_norm` keeps for the way back, all float64.

    `normalized` is x̂, of the shape of x; `std` is √(σ² + ε) and `gamma` the scale, both `(C,)`.
    """

    normalized: np.ndarray
    std: np.ndarray
    gamma: np.ndarray


def batch_norm(
    x: ArrayLike, gamma: ArrayLike, beta: ArrayLike, epsilon: float = 1e-3
) -> tuple[np.ndarray, BatchNormCache]:
    """Normalize each channel over everything else, then scale and shift it: batch normalization in training.

    x̂ = (x − μ) / √(σ² + ε) and y = γ·x̂ + β, with the mean μ and the population variance σ² of each channel
    over all axes but the last. Computed in float64.

    Args:
        x: array of rank 2 or more, channels last, such as `(N, C)` or `(N, H, W, C)`; real numbers.
        gamma, beta: scale and shift, `(C,)` each.
        epsilon: above 0; keeps a constant channel from dividing by 0. The default is that of Keras.

    Returns:
        `(y, cache)`: y of the shape of x, float64 if x is, else float32; a `BatchNormCache` for
        `batch_norm_backward`.

    Raises:
        ValueError: wrong rank or shape, no real numbers, empty, NaN or infinity, epsilon not above 0.

    Example:
        >>> y, _ = batch_norm([[1.0, 10.0], [3.0, 30.0]], gamma=[1, 2], beta=[0, 5], epsilon=1e-9)
        >>> y.round(3)
        array([[-1.,  3.],
               [ 1.,  7.]])

    Reference:
        Ioffe, Szegedy: Batch normalization, 2015, https://arxiv.org/abs/1502.03167, algorithm 1.
    """
    x = _check_real("x", x)
    if x.ndim < 2:
        raise ValueError(f"x has shape {x.shape}, expected rank 2 or more, the last axis the channels")
    gamma, beta = (
        _check_real(name, value, x.shape[-1:]).astype(np.float64)
        for name, value in (("gamma", gamma), ("beta", beta))
    )
    if not (isinstance(epsilon, (int, float, np.number)) and 0 < epsilon < math.inf):
        raise ValueError(f"epsilon={epsilon!r} must be a number above 0")
    axes = tuple(range(x.ndim - 1))
    with np.errstate(over="ignore", invalid="ignore"):
        centred = x - x.mean(axes, dtype=np.float64)
        std = np.sqrt((centred**2).mean(axes) + epsilon)
        normalized = centred / std
        y = gamma * normalized + beta
    if not np.isfinite(std).all():
        raise ValueError("x: the values are too large for their variance to fit into float64")
    return _as_given(y, x), BatchNormCache(normalized, std, gamma)


def batch_norm_backward(dy: ArrayLike, cache: BatchNormCache) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Carry a gradient back through `batch_norm`, with the formula worked out and simplified on paper.

    With means over all axes but the last: dγ = Σ dy·x̂, dβ = Σ dy, dx̂ = γ·dy and
    dx = (dx̂ − mean(dx̂) − x̂·mean(dx̂·x̂)) / √(σ² + ε). Computed in float64.

    Args:
        dy: gradient of the loss with respect to y, of its shape.
        cache: what `batch_norm` returned beside y.

    Returns:
        `(dx, dgamma, dbeta)`: the gradients with respect to x, of its shape, and to gamma and beta, `(C,)`;
        float64 if dy is, else float32.

    Raises:
        ValueError: cache from elsewhere, dy of another shape, no real numbers, NaN or infinity.

    Example:
        >>> _, cache = batch_norm([[1.0], [2.0], [6.0]], gamma=[1], beta=[0])
        >>> dx, dgamma, dbeta = batch_norm_backward([[1.0], [1.0], [1.0]], cache)
        >>> bool(np.abs(dx).max() < 1e-12), dbeta  # shifting all x alike changes nothing
        (True, array([3.]))
    """
    if not isinstance(cache, BatchNormCache):
        raise ValueError(f"cache is a {type(cache).__name__}, expected the BatchNormCache from batch_norm")
    dy = _check_real("dy", dy, cache.normalized.shape)
    normalized, std, gamma = cache
    axes = tuple(range(dy.ndim - 1))
    with np.errstate(over="ignore", invalid="ignore"):
        dgamma, dbeta = (dy * normalized).sum(axes), dy.sum(axes, dtype=np.float64)
        dn = gamma * dy
        dx = (dn - dn.mean(axes) - normalized * (dn * normalized).mean(axes)) / std
    return _as_given(dx, dy), _as_given(dgamma, dy), _as_given(dbeta, dy)


def _check_real(name, value, shape=None):
    """A finite array of real numbers, not empty, of `shape` if one is given."""
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(f"{name} is a masked array; masks are not supported: fill it first")
    value = np.asarray(value)
    if value.dtype.kind not in "uif":
        raise ValueError(f"{name} has dtype {value.dtype}, expected real numbers")
    if shape is not None and value.shape != shape:
        raise ValueError(f"{name} has shape {value.shape}, expected {shape}")
    if value.size == 0 or not np.isfinite(value).all():
        raise ValueError(f"{name} of shape {value.shape} is empty or holds NaN or infinity")
    return value


def _as_given(result, array):
    """float64 for a float64 array, else float32."""
    with np.errstate(over="ignore"):
        result = result.astype(np.float64 if array.dtype == np.float64 else np.float32)
    if not np.isfinite(result).all():
        raise ValueError(f"the result does not fit into {result.dtype}: the values are too large")
    return result


def fold_batch_norm(model: keras.Model) -> keras.Model:
    """Fold batch normalization into the layer before it: the same predictions with fewer layers.

    After training γ·(x − m)/√(v + ε) + β, with the moving mean m and variance v, is a fixed straight line,
    and so is a convolution or dense layer without activation. With s = γ/√(v + ε) the kernel becomes k·s and
    the bias (b − m)·s + β.

    Only a normalization that directly follows a linear convolution (plain, transposed, depthwise, separable)
    or dense layer can be folded. It stays where an activation comes between, as in convolution + ReLU →
    normalization; where something else reads the convolution too; where one of the two layers is called more
    than once, normalizes another axis than the channels, or is quantized.

    Args:
        model: a built `Sequential` or functional model, models nested in it included. Custom layers must be
            registered with Keras. The model stays as it is.

    Returns:
        A new model, not compiled. It predicts the same; trained further it goes another way, without the
        normalizations that were folded.

    Raises:
        ValueError: not such a model, or nothing in it can be folded; the message says why.

    Example:
        >>> model = keras.Sequential([
        ...     keras.Input((28, 28, 1)),
        ...     keras.layers.Conv2D(8, 3, use_bias=False),
        ...     keras.layers.BatchNormalization(),
        ...     keras.layers.ReLU(),
        ... ])
        >>> [type(layer).__name__ for layer in fold_batch_norm(model).layers]
        ['Conv2D', 'ReLU']

    Reference:
        Jacob and others: Quantization and training of neural networks for efficient integer-arithmetic-only
        inference, 2018, https://arxiv.org/abs/1712.05877, section 3.2.
    """
    if not _is_graph(model):
        raise ValueError(f"model={model!r} must be a built Sequential or functional Keras model")
    left = []
    folded, count = _fold(model, left)
    if not count:
        why = "it has no batch normalization"
        if left:
            more = ["…"] if len(left) > 4 else []
            why = "; ".join([*left[:4], *more, "it must come directly behind a linear layer"])
        raise ValueError(f"model {model.name!r}: nothing can be folded: {why}")
    return folded


def _is_graph(model):
    """Whether the graph of layers is all there is to a model: no `call` of its own."""
    return (
        isinstance(model, keras.Model)
        and bool(getattr(model, "inputs", None))
        and type(model).call.__module__.startswith("keras.")
    )


def _fold(model, left):
    """A folded copy and the number of normalizations folded; `left` gathers why others were not."""
    sequential = isinstance(model, keras.Sequential)
    # A view on the same layers, not compiled, so that neither is the clone.
    view = keras.Model(*((model.inputs, model.outputs) if sequential else (model.input, model.output)))
    partner = _partners(view, left)
    removed = {id(norm) for norm in partner.values()}
    count, gone = len(removed), keras.layers.Identity()

    def copied(layer):
        nonlocal count
        if id(layer) in removed:
            return gone
        if id(layer) in partner:
            return _folded_layer(layer, partner[id(layer)])
        if _is_graph(layer):
            inner, more = _fold(layer, left)
            count += more
            return inner
        if isinstance(layer, keras.layers.Layer):
            return copy.deepcopy(layer)  # with all its state: weights, statistics, vocabularies
        return type(layer).from_config(layer.get_config())  # an operation, such as +

    def called(layer, *args, **kwargs):
        if layer is gone:
            return args[0] if args else kwargs["inputs"]
        return layer(*args, **kwargs)

    if sequential:
        first = model.inputs[0]
        start = keras.Input(batch_shape=first.shape, dtype=first.dtype, name=first.name)
        rest = [copied(layer) for layer in model.layers if id(layer) not in removed]
        return keras.Sequential([start, *rest], name=model.name), count
    clone = keras.models.clone_model(view, clone_function=copied, call_function=called)
    clone.name = model.name
    return clone, count


def _partners(view, left):
    """By the id of a layer, the normalization to fold into it; `left` gathers why others are not."""
    partner = {}
    for norm, before, obstacle in _normalizations(view):
        if obstacle:
            left.append(f"{norm.name!r} {obstacle}")
        else:
            partner[id(before)] = norm
    return partner


def _normalizations(view):
    """Each batch normalization, the layer it reads, and why the two cannot be folded (None: they can)."""
    # Not asked of the layers themselves, which also know of their calls in other models.
    by_depth = view._nodes_by_depth
    nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
    calls = Counter(id(node.operation) for node in nodes)
    readers = Counter(id(tensor) for node in nodes for tensor in node.input_tensors)
    readers.update(id(tensor) for tensor in view.outputs)
    makers = {id(tensor): node.operation for node in nodes for tensor in node.outputs}
    for node in nodes:
        norm = node.operation
        if isinstance(norm, keras.layers.BatchNormalization):
            tensor = node.input_tensors[0]
            before = makers[id(tensor)]
            obstacle = _obstacle(norm, before, len(tensor.shape))
            if calls[id(norm)] > 1 or calls[id(before)] > 1:
                obstacle = obstacle or f"or {before.name!r} is called more than once"
            elif readers[id(tensor)] > 1:
                obstacle = obstacle or f"is not alone in reading {before.name!r}"
            elif node.arguments.kwargs.get("training"):
                obstacle = obstacle or "is called with training=True"
            yield norm, before, obstacle


_PLAIN = (layers.Dense, layers.Conv1D, layers.Conv2D, layers.Conv3D)
_SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)


def _obstacle(norm, before, rank):
    """Why a normalization cannot be folded into the layer before it, from the two alone."""
    if type(before) not in _PLAIN + _SEPARABLE + _TRANSPOSED + _DEPTHWISE:
        return f"follows {before.name!r}, a {type(before).__name__}"
    if before.activation not in (None, keras.activations.linear):
        return f"comes after the activation of {before.name!r}"
    first = getattr(before, "data_format", None) == "channels_first"
    if norm.axis % rank != (1 if first else rank - 1):
        return f"normalizes axis {norm.axis}, not the channels of {before.name!r}"
    plain = not getattr(before, "lora_enabled", False) and not getattr(before, "quantization_mode", None)
    if not plain or before.compute_dtype != norm.compute_dtype or type(norm) is not layers.BatchNormalization:
        return f"and {before.name!r} are quantized, adapted, subclassed, or differ in precision"
    return None


def _folded_layer(layer, norm):
    """A new layer that does what `layer` and then `norm` do."""
    folded = type(layer).from_config(layer.get_config() | {"use_bias": True})
    folded.build_from_config(layer.get_build_config())
    weights = [weight.astype(np.float64) for weight in layer.get_weights()]
    bias = weights.pop() if layer.use_bias else 0.0
    mean, variance = (
        keras.ops.convert_to_numpy(v).astype(np.float64) for v in (norm.moving_mean, norm.moving_variance)
    )
    gamma = keras.ops.convert_to_numpy(norm.gamma).astype(np.float64) if norm.scale else 1.0
    beta = keras.ops.convert_to_numpy(norm.beta).astype(np.float64) if norm.center else 0.0
    scale = gamma / np.sqrt(variance + norm.epsilon)
    if type(layer) in _DEPTHWISE:  # (…, channels, multiplier)
        weights[-1] *= scale.reshape(weights[-1].shape[-2:])
    elif type(layer) in _TRANSPOSED:  # (…, out, in)
        weights[-1] *= scale[:, np.newaxis]
    else:
        weights[-1] *= scale
    folded.set_weights([*weights, (bias - mean) * scale + beta])
    return folded


def _chunks(batch):
    """Slices of a few images, of about `_CHUNK` values together."""
    rows = max(1, _CHUNK // math.prod(batch.shape[1:]))
    return (slice(start, start + rows) for start in range(0, len(batch), rows))


def _by_chunks(images, function):
    """`function` of a few images at a time, in float64 and with the number of the first; float32 out."""
    batch = images.reshape(-1, *images.shape[-3:])
    result = np.empty(batch.shape, np.float32)
    for some in _chunks(batch):
        with np.errstate(over="ignore", invalid="ignore"):
            result[some] = function(batch[some].astype(np.float64), some.start)
        if not np.isfinite(result[some]).all():
            raise ValueError("the result does not fit into float32: check the range of images and arguments")
    return result.reshape(images.shape)


def _check_moments(mean, std, channels):
    mean, std = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    for name, value in (("mean", mean), ("std", std)):
        if value.shape not in ((), (1,), (channels,)) or not np.isfinite(value).all():
            raise ValueError(f"{name}={value} must be one number, or one for each of {channels} channels")
    if (std <= 1e-14 * np.abs(mean)).any():  # rounding alone leaves about 1e-16 of the mean
        raise ValueError(f"std={std} must be above 0: a constant channel cannot be standardized")
    return mean, std


def _check_images(images):
    images = np.asanyarray(images)  # keeps a mask, for _check_batch to refuse
    if images.ndim == 3 and images.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"images have shape {images.shape}, expected (N, H, W, C), or (H, W, C) with 1, 3 or 4 channels; "
            "grey images need a channel axis: images[..., np.newaxis]"
        )
    _check_batch(images if images.ndim == 4 else images[np.newaxis])
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        raise ValueError("images hold NaN or infinity")
    return images


def _check_batch(batch):
    """An array `(N, H, W, C)` of real numbers, not empty."""
    if isinstance(batch, (tuple, list, dict)):
        raise ValueError(f"images: a batch is a {type(batch).__name__}, expected an array of images alone")
    if isinstance(batch, np.ma.MaskedArray):
        raise ValueError("images is a masked array; masks are not supported: fill it first")
    batch = np.asarray(batch)
    if batch.ndim != 4 or batch.size == 0:
        raise ValueError(f"images have shape {batch.shape}, expected (N, H, W, C), none of them 0")
    if batch.dtype.kind not in "uif":
        raise ValueError(f"images have dtype {batch.dtype}, expected real numbers")
    return batch
