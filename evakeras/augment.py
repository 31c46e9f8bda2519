"""Augment images with Keras layers: the everyday list, learned policies, and what `ImageDataGenerator` did.

Every layer draws anew for each image, takes batches of uint8 or float images with channels last, and
augments where `training` is true. That is the default, as in Keras: `fit` augments, `predict` and `evaluate`
do not, and `model(x)` does, unless `training=False`. `layer.stateless(images, seed)` takes its random numbers
from the seed alone, so that several threads can share the layer and the result repeats. With TensorFlow,
what turns and shifts images is compiled once for each shape of a batch, which takes a second or two: bring
images to one size first.

This file works alone: copy it into an assignment and `import augment`, also before you load a model with one
of its layers. It needs Keras 3, NumPy, SciPy and tqdm, and filelock to keep a search in a folder. With
TensorFlow the layers also run in `tf.data`.
"""

import inspect
import itertools
import json
import math
import operator
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import keras
import numpy as np
import scipy.special
from keras import ops
from tqdm import tqdm

__all__ = [
    "OPERATIONS",
    "Cutout",
    "ImageDataAugmentation",
    "MixUp",
    "Policy",
    "PolicySearch",
    "RandAugment",
    "SamplePairing",
    "SamplePairingSchedule",
    "SmartAugmentation",
    "basic",
    "from_image_data_generator",
    "resize_and_rescale",
    "same_class",
    "search_policy",
]


_FILL_MODES = ("constant", "nearest", "reflect", "wrap")


def resize_and_rescale(size: int | tuple[int, int]) -> keras.Sequential:
    """Resize images and bring 0–255 to [0, 1]: the beginning of a model or of a pipeline.

    Args:
        size: height and width in pixels, each at least 1; one number stands for both.

    Returns:
        A `Sequential` from images `(N, H, W, C)` with values 0–255, of any number type, to floats in [0, 1].

    Raises:
        ValueError: a size that is not one or two whole numbers of at least 1.

    Example:
        >>> images = resize_and_rescale(32)(np.full((1, 28, 28, 3), 255, "uint8"))
        >>> tuple(images.shape), float(ops.max(images))
        ((1, 32, 32, 3), 1.0)
    """
    sizes = (size, size) if np.ndim(size) == 0 else tuple(size)
    if len(sizes) != 2:
        raise ValueError(f"size={size!r} must be one or two whole numbers of pixels")
    height, width = (_whole("size", length) for length in sizes)
    resizing = keras.layers.Resizing(height, width, data_format="channels_last")
    return keras.Sequential([resizing, keras.layers.Rescaling(1 / 255)])


def _whole(name, value):
    """The value as a Python integer, if it is a whole number of at least 1."""
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise ValueError(f"{name}={value!r} must be a whole number, at least 1")
    return number


def basic(
    *,
    flip: str | None = None,
    rotation: float = 0.0,
    shift: float = 0.0,
    zoom: float = 0.0,
    fill_mode: str = "constant",
    seed: int | None = None,
) -> keras.Sequential:
    """The everyday augmentation, as a list of Keras's own layers.

    Args:
        flip: None, "horizontal", "vertical" or "horizontal_and_vertical", each in half of the images.
        rotation: up to this many degrees either way, 0 to 180; not a part of a turn, as in Keras's layer.
        shift: up to this part of the height and the width either way, 0 to 1.
        zoom: up to this part larger or smaller, 0 to below 1; height and width alike.
        fill_mode: what fills the corners: "constant" (0), "nearest", "reflect" or "wrap".
        seed: integer that makes the random numbers repeat; each layer gets one of its own.

    Returns:
        A `Sequential` of those layers that have something to do, for float images `(N, H, W, C)`.

    Raises:
        ValueError: a value out of its range, or nothing to do.

    Example:
        >>> [layer.__class__.__name__ for layer in basic(flip="horizontal", rotation=15).layers]
        ['RandomFlip', 'RandomRotation']
    """
    if flip not in (None, "horizontal", "vertical", "horizontal_and_vertical"):
        raise ValueError(f"flip={flip!r} must be None, 'horizontal', 'vertical' or 'horizontal_and_vertical'")
    if fill_mode not in _FILL_MODES:
        raise ValueError(f"fill_mode={fill_mode!r} must be one of {', '.join(_FILL_MODES)}")
    for name, value, limit in (("rotation", rotation, 180), ("shift", shift, 1), ("zoom", zoom, 0.999)):
        if not 0 <= value <= limit:
            raise ValueError(f"{name}={value!r} must be between 0 and {limit}")
    seeds = iter(range(seed, seed + 4) if seed is not None else [None] * 4)
    layers, last = [], {"data_format": "channels_last"}  # whatever Keras is set to
    if flip:
        layers.append(keras.layers.RandomFlip(flip, seed=next(seeds), **last))
    if rotation:
        layers.append(keras.layers.RandomRotation(rotation / 360, fill_mode, seed=next(seeds), **last))
    if shift:
        layers.append(keras.layers.RandomTranslation(shift, shift, fill_mode, seed=next(seeds), **last))
    if zoom:
        layers.append(keras.layers.RandomZoom((-zoom, zoom), fill_mode=fill_mode, seed=next(seeds), **last))
    if not layers:
        raise ValueError("basic: nothing to do; give flip, rotation, shift or zoom")
    return keras.Sequential(layers)


class _Key(keras.random.SeedGenerator):
    """A seed generator that follows from a tensor alone: no other thread can disturb it."""

    def __init__(self, seed, dtype):
        self._seed, self._drawn = ops.cast(seed, dtype), 0

    def next(self, ordered=True):
        self._drawn += 1
        return self._seed + ops.convert_to_tensor([0, self._drawn], self._seed.dtype)


class _Augmentation(keras.layers.Layer):
    """What all augmentations share: the seed, the checks, and when to do nothing."""

    def __init__(self, seed=None, **options):
        super().__init__(**options)
        self.seed = None if seed is None else operator.index(seed)
        self.seed_generator = keras.random.SeedGenerator(self.seed)

    def __call__(self, images, *args, **kwargs):
        backend = keras.backend.backend()
        if backend != "tensorflow" and type(images).__module__.startswith("tensorflow."):
            raise RuntimeError(
                f"{type(self).__name__} needs TensorFlow inside tf.data, but Keras runs on {backend}: "
                "put the layer into the model"
            )
        return super().__call__(images, *args, **kwargs)

    def call(self, images, training=True):
        return self._apply(images, self.seed_generator if training else None)

    def stateless(self, images, seed):
        """Augment with random numbers that follow from `seed` alone: a tensor of two integers."""
        return self._apply(images, _Key(seed, self.seed_generator.state.dtype))

    def _apply(self, images, draws):
        if len(images.shape) != 4:
            raise ValueError(
                f"{type(self).__name__}: images have shape {tuple(images.shape)}, expected (N, H, W, C). "
                "In a tf.data pipeline, augment after `batch`"
            )
        if draws is None or images.shape[0] == 0:  # JAX and PyTorch take nothing from an empty batch
            return ops.cast(images, self.compute_dtype)
        return self._augment(images, draws)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}


def _known(values):
    """The values as a NumPy array, or None where a graph is traced and they are not there yet."""
    try:
        return ops.convert_to_numpy(values)
    except Exception:  # every backend has an error of its own
        return None


@keras.saving.register_keras_serializable(package="evakeras")
class Cutout(_Augmentation):
    """Cover one square of each image (DeVries and Taylor 2017).

    The centre may be any pixel; what reaches beyond the border is clipped, so that an image near whose border
    the centre lies loses less than the whole square. All channels lose the same.

    Args:
        size: side of the square in pixels. Of an even one, the centre is the first pixel behind the middle.
        fill_value: what the square is filled with. The paper fills 0 after standardizing, which is the mean.
        seed: integer that makes the squares repeat.

    Raises:
        ValueError: a size that is not a whole number of at least 1, a fill_value that is not finite in the
            layer's type; images that are no batch.

    Example:
        >>> images = Cutout(10, seed=1)(np.ones((4, 28, 28, 1)))
        >>> lost = ops.sum(1 - images, axis=(1, 2, 3))
        >>> bool(ops.all((lost > 0) & (lost <= 100)))
        True

    Reference:
        Improved regularization of convolutional neural networks with Cutout, arXiv:1708.04552.
    """

    def __init__(self, size, fill_value=0.0, seed=None, **options):
        super().__init__(seed=seed, **options)
        self.size, self.fill_value = _whole("size", size), float(fill_value)
        most = {"float16": 65504, "bfloat16": 3.38e38, "float32": 3.4e38}.get(self.compute_dtype, math.inf)
        if not math.isfinite(self.fill_value) or abs(self.fill_value) > most:
            raise ValueError(f"fill_value={fill_value!r} must be a finite number in {self.compute_dtype}")

    def _augment(self, images, draws):
        images = ops.cast(images, self.compute_dtype)
        count, height, width, _ = ops.shape(images)
        rows, columns = (self._covered(count, length, draws) for length in (height, width))
        square = rows[:, :, None, None] & columns[:, None, :, None]
        return ops.where(square, ops.cast(self.fill_value, images.dtype), images)

    def _covered(self, count, length, draws):
        """Which rows (or columns) the square covers, `(count, length)` bool."""
        first = keras.random.randint((count, 1), 0, length, "int32", draws) - self.size // 2
        places = ops.arange(length, dtype="int32")[None]
        return (places >= first) & (places < first + self.size)

    def get_config(self):
        return {**super().get_config(), "size": self.size, "fill_value": self.fill_value}


@keras.saving.register_keras_serializable(package="evakeras")
class MixUp(_Augmentation):
    """Mix each image, and its label, with another one of the batch (Zhang and others 2018).

    The arithmetic is Keras's own MixUp. This layer takes images and labels as `fit` and `tf.data` have them,
    whole numbers too, and refuses what Keras's mixes silently wrong. The weight of each image is drawn from
    Beta(alpha, alpha). Call it as `layer(images, labels)`, or map it over a pipeline. The labels that come
    out are one-hot: train with `categorical_crossentropy`, and validate with one-hot labels. TensorFlow's XLA
    cannot draw from Beta on a CPU: leave the layer out of what is compiled with `jit_compile=True` there.

    Args:
        alpha: above 0. Near 0 an image stays nearly pure; at 1 every weight is as likely.
        classes: number of classes, for labels that are whole numbers; None for one-hot labels.
        seed: integer that makes the mixing repeat.

    Raises:
        ValueError: alpha not above 0 or not finite; whole-number labels without `classes`, or outside them;
            labels of another shape or number. Inside a graph, labels outside the classes become NaN, and so
            does the loss: no error can be raised there.

    Example:
        >>> images, labels = MixUp(0.4, classes=10, seed=0)(np.ones((4, 8, 8, 1)), np.array([1, 2, 3, 4]))
        >>> tuple(images.shape), tuple(labels.shape), float(ops.sum(labels))
        ((4, 8, 8, 1), (4, 10), 4.0)

    Reference:
        mixup: beyond empirical risk minimization, arXiv:1710.09412.
    """

    def __init__(self, alpha=0.2, classes=None, seed=None, **options):
        super().__init__(seed=seed, **options)
        if not 0 < alpha < math.inf:
            raise ValueError(f"alpha={alpha!r} must be a finite number above 0")
        self.alpha, self.classes = alpha, None if classes is None else _whole("classes", classes)
        self.mixer = keras.layers.MixUp(alpha, dtype="float32")  # its weights are float32 in any policy
        self.built = True  # nothing here has a shape

    def call(self, images, labels, training=True):
        return self._mix(images, labels, self.seed_generator if training else None)

    def compute_output_spec(self, images, labels, training=True):
        # By tracing `call`, as Keras does where `compute_output_shape`, which knows one tensor, is not there;
        # without training, since JAX cannot shuffle a batch of unknown length.
        return keras.Operation.compute_output_spec(self, images, labels, training=False)

    def stateless(self, images, labels, seed):
        """Mix with random numbers that follow from `seed` alone: a tensor of two integers."""
        return self._mix(images, labels, _Key(seed, self.seed_generator.state.dtype))

    def _mix(self, images, labels, draws):
        images, labels = self._apply(images, None), self._one_hot(labels)
        counts = images.shape[0], labels.shape[0]
        if None not in counts and counts[0] != counts[1]:
            raise ValueError(f"MixUp: {counts[0]} images and {counts[1]} labels")
        if draws is None:
            return images, labels
        wide = ops.cast(images, "float32")
        drawn = self.mixer.get_random_transformation(wide, seed=draws)
        mixed = ops.cast(self.mixer.transform_images(wide, drawn), images.dtype)
        return mixed, self.mixer.transform_labels(labels, drawn)

    def _one_hot(self, labels):
        shape, whole = labels.shape, "int" in keras.backend.standardize_dtype(labels.dtype)
        if len(shape) == 1 and whole and self.classes:
            known = _known(labels)
            if known is not None and not ((known >= 0) & (known < self.classes)).all():
                raise ValueError(
                    f"MixUp: labels from {known.min()} to {known.max()}; expected 0 to {self.classes - 1}"
                )
            inside = ops.expand_dims((labels >= 0) & (labels < self.classes), -1)
            return ops.where(inside, ops.one_hot(labels, self.classes, dtype="float32"), np.nan)
        if len(shape) != 2 or (self.classes or shape[1]) != shape[1] or shape[1] == 1:
            numbers = f"whole numbers (N,), below {self.classes}" if self.classes else "give `classes`"
            raise ValueError(
                f"MixUp: labels {tuple(shape)} of {labels.dtype}; expected one-hot labels, or {numbers}"
            )
        return ops.cast(labels, "float32")

    def get_config(self):
        return {**super().get_config(), "alpha": self.alpha, "classes": self.classes}


@keras.saving.register_keras_serializable(package="evakeras")
class SamplePairing(_Augmentation):
    """Average each image with another one of the batch, of any class, and keep its label (Inoue 2018).

    From N images N² can be made. Half of what the network sees then belongs to another label, so that its
    training accuracy is low while this is on. `SamplePairingSchedule` turns it on and off.

    Args:
        seed: integer that makes the pairs repeat.

    Example:
        >>> black_and_white = np.array([0.0, 100.0] * 8).reshape(16, 1, 1, 1)
        >>> np.unique(SamplePairing(seed=0)(black_and_white)).tolist()
        [0.0, 50.0, 100.0]

    Reference:
        Data augmentation by pairing samples for images classification, arXiv:1801.02929.
    """

    def __init__(self, seed=None, **options):
        super().__init__(seed=seed, **options)
        self.share = self.add_weight((), "ones", dtype="float32", trainable=False, name="share")
        self.built = True

    def turn(self, on: bool):
        """Turn the pairing on or off, in a model or pipeline that is in use already too."""
        if not isinstance(on, (bool, np.bool_)):
            raise ValueError(f"turn: {on!r} must be True or False")
        self.share.assign(1.0 if on else 0.0)

    def _augment(self, images, draws):
        images = ops.cast(images, self.compute_dtype)
        order = keras.random.shuffle(ops.arange(ops.shape(images)[0], dtype="int32"), seed=draws)
        other = ops.take(images, order, axis=0)
        return images + ops.cast(self.share, images.dtype) / 2 * (other - images)


class SamplePairingSchedule(keras.callbacks.Callback):
    """Turn `SamplePairing` on and off as the paper does: off, then on and off in turn, then off to fine-tune.

    What holds in an epoch follows from its number alone, so that an interrupted run goes on as it should.
    Let the training have more epochs than `stop`: the fine-tuning is what makes it worth while.

    Args:
        start: first epoch (from 0) with pairing.
        stop: first epoch of the final fine-tuning without it.
        on: how many epochs it is on in turn, at least 1.
        off: how many epochs it is off in between, at least 0.
        layer: the layer, if it is in a pipeline; None finds those in the model.

    Raises:
        ValueError: not 0 <= start <= stop, on or off too small; no SamplePairing in the model.

    Example:
        >>> schedule = SamplePairingSchedule(start=2, stop=8, on=2, off=1)
        >>> [int(schedule.is_on(epoch)) for epoch in range(10)]
        [0, 0, 1, 1, 0, 1, 1, 0, 0, 0]
    """

    def __init__(self, start, stop, on=8, off=2, layer=None):
        super().__init__()
        if not 0 <= start <= stop or on < 1 or off < 0:
            raise ValueError(
                f"start={start}, stop={stop}, on={on}, off={off}: 0 <= start <= stop, on >= 1, off >= 0"
            )
        self.start, self.stop, self.on, self.off, self.layer = start, stop, on, off, layer

    def is_on(self, epoch):
        """Whether there is pairing in the epoch, counted from 0."""
        return self.start <= epoch < self.stop and (epoch - self.start) % (self.on + self.off) < self.on

    def on_epoch_begin(self, epoch, logs=None):
        found = [self.layer]
        if self.layer is None:
            found = [layer for layer in _all_layers(self.model) if isinstance(layer, SamplePairing)]
        if not found:
            raise ValueError("SamplePairingSchedule: the model has no SamplePairing layer; give `layer`")
        for layer in found:
            layer.turn(self.is_on(epoch))


def _all_layers(layer):
    """The layer and those inside it, however deep."""
    yield layer
    for part in getattr(layer, "layers", ()):
        yield from _all_layers(part)


def from_image_data_generator(*, seed: int | None = None, **arguments) -> "ImageDataAugmentation":
    """Translate the arguments of the deprecated `ImageDataGenerator` into a layer that does the same.

    `ImageDataGenerator(…).flow(x, y)` becomes `data.batches(x, y, 32, shuffle=True, augment=layer)`, without
    `steps_per_epoch`, or the layer goes in front of a model. In a pipeline, images to validate need
    `layer(x, training=False)`, which only rescales and standardizes; a model that has the layer does so by
    itself.

    The same random parameters give the same picture as the old class's `apply_transform`: shifts are
    pixels from 1 on, a whole number `n` draws whole shifts below `n`, each axis has a zoom of its own.
    Two of its ways surprise. They are kept, so that an old script gets its old pictures:
    `width_shift_range` moves images up and down, `height_shift_range` moves them sideways; and an image
    that is not square is not turned about its centre.

    One way is not kept: the old class rounds to whole numbers where `brightness_range` is given, which turns
    images in [0, 1] black.

    Args:
        seed: integer that makes the random numbers repeat.
        arguments: those of `ImageDataGenerator`: featurewise_center, samplewise_center,
            featurewise_std_normalization, samplewise_std_normalization, zca_whitening, zca_epsilon,
            rotation_range, width_shift_range, height_shift_range, brightness_range, shear_range, zoom_range,
            channel_shift_range, fill_mode, cval, horizontal_flip, vertical_flip, rescale,
            interpolation_order (0 or 1), dtype.

    Returns:
        The layer. Where statistics are asked for, call its `fit` first, as with the old class.

    Raises:
        TypeError: an argument that the old class did not have.
        ValueError: a value out of range, or what a layer cannot honour: `preprocessing_function`,
            `validation_split`, channels first, splines (`interpolation_order` above 1).

    Example:
        >>> layer = from_image_data_generator(rotation_range=20, rescale=1 / 255, seed=0)
        >>> images = layer(np.full((2, 28, 28, 1), 255, "uint8"), training=True)
        >>> tuple(images.shape), round(float(ops.max(images)), 3)
        ((2, 28, 28, 1), 1.0)
    """
    if arguments.pop("preprocessing_function", None) is not None:
        raise ValueError("preprocessing_function: put it behind the layer, in the model or with dataset.map")
    if arguments.pop("validation_split", 0):
        raise ValueError("validation_split: split the arrays yourself; a layer does not see the whole set")
    if arguments.pop("data_format", None) not in (None, "channels_last"):
        raise ValueError("data_format: only 'channels_last' can be honoured; transpose the images")
    dtype = arguments.pop("dtype", None)
    return ImageDataAugmentation(arguments, seed=seed, dtype=dtype)


_DEFAULTS = {
    "featurewise_center": False,
    "samplewise_center": False,
    "featurewise_std_normalization": False,
    "samplewise_std_normalization": False,
    "zca_whitening": False,
    "zca_epsilon": 1e-6,
    "rotation_range": 0,
    "width_shift_range": 0.0,
    "height_shift_range": 0.0,
    "brightness_range": None,
    "shear_range": 0.0,
    "zoom_range": 0.0,
    "channel_shift_range": 0.0,
    "fill_mode": "nearest",
    "cval": 0.0,
    "horizontal_flip": False,
    "vertical_flip": False,
    "rescale": None,
    "interpolation_order": 1,
}


@keras.saving.register_keras_serializable(package="evakeras")
class ImageDataAugmentation(_Augmentation):
    """What `ImageDataGenerator` did to images, as a layer: `from_image_data_generator` makes it.

    With `training=True` images are turned, shifted, sheared, zoomed and flipped in one step with one
    interpolation, then shifted in their values and brightened. With and without, they are then rescaled,
    centred, divided and whitened, as the arguments say. What `fit` has measured is saved with a model, but
    not carried over by `keras.models.clone_model`: fit the copy's layer again.

    Args:
        arguments: dict of arguments of the old class, explained at `from_image_data_generator`.
        seed: integer that makes the random numbers repeat.

    Raises:
        TypeError: an argument that the old class does not have.
        ValueError: one outside its range.

    Example:
        >>> layer = ImageDataAugmentation({"horizontal_flip": True}, seed=0)
        >>> tuple(layer(np.zeros((2, 8, 8, 1)), training=True).shape)
        (2, 8, 8, 1)
    """

    def __init__(self, arguments=None, seed=None, **options):
        super().__init__(seed=seed, **options)
        self.given = SimpleNamespace(**_checked(arguments or {}))
        self.fitted = False  # kept with the weights: a copy from the configuration has not been fitted

    def build(self, input_shape):
        """Make room for the statistics that `fit` measures."""
        *size, channels = input_shape[1:]
        options = {"trainable": False, "dtype": "float32"}
        if self.given.featurewise_center:
            self.mean = self.add_weight((channels,), "zeros", name="mean", **options)
        if self.given.featurewise_std_normalization:
            self.std = self.add_weight((channels,), "ones", name="std", **options)
        if self.given.zca_whitening:
            values = math.prod(size) * channels
            self.whitening = self.add_weight((values, values), "zeros", name="whitening", **options)

    def fit(self, images, augment=False, rounds=1):
        """Measure what `featurewise_center`, `featurewise_std_normalization` and `zca_whitening` need.

        Args:
            images: `(N, H, W, C)`, the training images as they will come into the layer.
            augment: whether to measure them augmented.
            rounds: how many times each image is augmented for that, at least 1.

        Returns:
            The layer itself.

        Raises:
            ValueError: not a batch of finite numbers, rounds below 1.
        """
        images, rounds = np.asarray(images), _whole("rounds", rounds)
        if images.ndim != 4 or len(images) == 0 or not np.isfinite(images).all():
            raise ValueError(f"images {images.shape} must be finite numbers of shape (N, H, W, C), N > 0")
        if not self.built:
            self.build(images.shape)
            self.built = True
        moments = _Moments(images.shape[1:], self.given.zca_whitening)
        for _ in range(rounds if augment else 1):
            for start in range(0, len(images), 512):
                some = ops.convert_to_tensor(images[start : start + 512])
                some = super()._apply(some, self.seed_generator if augment else None)
                moments.add(ops.convert_to_numpy(some) * (self.given.rescale or 1))
        if self.given.featurewise_center:
            self.mean.assign(moments.mean())
        if self.given.featurewise_std_normalization:
            self.std.assign(moments.std())
        if self.given.zca_whitening:
            self.whitening.assign(moments.whitening(self.given.zca_epsilon))
        self.fitted = True
        return self

    def _apply(self, images, draws):
        return self.standardize(super()._apply(images, draws))

    def _augment(self, images, draws):
        return self.apply_transform(images, self._random_parameters(ops.shape(images), draws))

    def _random_parameters(self, shape, draws):
        """Random numbers for every image, under the names that the old class gave them."""
        count, height, width, _ = shape
        given, drawn = self.given, {}
        # All from one draw, 12 at most: for a small batch it is the number of calls that costs.
        units = iter(ops.unstack(keras.random.uniform((12, count), dtype="float32", seed=draws)))

        def uniform(low, high):
            return low + (high - low) * next(units)

        def one_of(values):
            chosen = ops.cast(len(values) * next(units), "int32")
            return ops.take(ops.convert_to_tensor(np.asarray(values, "float32")), chosen)

        def shift(limit, length):
            unit = ops.cast(length, "float32") if np.max(limit) < 1 else 1
            if isinstance(limit, float):
                return uniform(-limit, limit) * unit
            return one_of(range(limit) if isinstance(limit, int) else limit) * one_of([-1, 1]) * unit

        if given.rotation_range:
            drawn["theta"] = uniform(-given.rotation_range, given.rotation_range)
        if given.height_shift_range:
            drawn["tx"] = shift(given.height_shift_range, height)
        if given.width_shift_range:
            drawn["ty"] = shift(given.width_shift_range, width)
        if given.shear_range:
            drawn["shear"] = uniform(-given.shear_range, given.shear_range)
        if given.zoom_range != (1, 1):
            drawn |= {"zx": uniform(*given.zoom_range), "zy": uniform(*given.zoom_range)}
        if given.horizontal_flip:
            drawn["flip_horizontal"] = uniform(0, 1) < 0.5
        if given.vertical_flip:
            drawn["flip_vertical"] = uniform(0, 1) < 0.5
        if given.channel_shift_range:
            drawn["channel_shift_intensity"] = uniform(-given.channel_shift_range, given.channel_shift_range)
        if given.brightness_range:
            drawn["brightness"] = uniform(*given.brightness_range)
        return drawn

    def apply_transform(self, images, parameters):
        """Transform images as the old class's method of this name transformed one.

        Args:
            images: `(N, H, W, C)`.
            parameters: dict with any of theta, shear (degrees), tx, ty (pixels; tx moves sideways), zx, zy,
                flip_horizontal, flip_vertical, channel_shift_intensity, brightness: each one number, or one
                for each image, or None.

        Returns:
            Images of the same shape, float.
        """
        parameters = {k: ops.cast(v, "float32") for k, v in parameters.items() if v is not None}
        intensity = parameters.pop("channel_shift_intensity", None)
        brightness = parameters.pop("brightness", None)
        if parameters:
            given = self.given
            how = (self.compute_dtype, given.fill_mode, float(given.cval), given.interpolation_order)
            images = _transform(ops.convert_to_tensor(images), parameters, *how)
        else:
            images = ops.cast(images, self.compute_dtype)
        if intensity is not None:
            images = _shift_values(images, intensity)
        return images if brightness is None else _brighten(images, brightness)

    def standardize(self, images):
        """Rescale, centre, divide and whiten float images, as the arguments say; `fit` first where needed."""
        given = self.given
        if not self.fitted and _statistics(given):
            raise ValueError(f"{', '.join(_statistics(given))}: call `fit` with the training images first")
        if given.rescale:
            images = images * given.rescale
        if given.samplewise_center:
            images = images - ops.mean(images, axis=(1, 2, 3), keepdims=True)
        if given.samplewise_std_normalization:
            # At least in float32: squares of 0 to 255 do not fit into float16.
            wide = ops.cast(images, keras.backend.result_type(images.dtype, "float32"))
            std = ops.std(wide, axis=(1, 2, 3), keepdims=True)
            images = images / ops.cast(std + 1e-6, images.dtype)
        if given.featurewise_center:
            images = images - ops.cast(self.mean, images.dtype)
        if given.featurewise_std_normalization:
            images = images / (ops.cast(self.std, images.dtype) + 1e-6)
        if given.zca_whitening:
            flat = ops.reshape(images, (-1, math.prod(images.shape[1:])))
            images = ops.reshape(flat @ ops.cast(self.whitening, images.dtype), (-1, *images.shape[1:]))
        return images

    def get_config(self):
        return {**super().get_config(), "arguments": dict(vars(self.given))}

    def save_own_variables(self, store):
        super().save_own_variables(store)
        if _statistics(self.given):
            store["fitted"] = np.array(self.fitted)

    def load_own_variables(self, store):
        kept = {name: store[name] for name in list(store.keys())}  # a store of weights is no dict
        self.fitted = bool(np.array(kept.pop("fitted", False)))
        super().load_own_variables(kept)


def _statistics(given):
    names = ("featurewise_center", "featurewise_std_normalization", "zca_whitening")
    return [name for name in names if getattr(given, name)]


def _checked(arguments):
    """The arguments with the old class's defaults, completed as it completes them."""
    for name in sorted(set(arguments) - set(_DEFAULTS)):
        near = [known for known in _DEFAULTS if known.startswith(name)]
        hint = f"; did you mean {near[0]}?" if near else ""
        raise TypeError(f"{name}: not an argument of ImageDataGenerator{hint}")
    given = SimpleNamespace(**_DEFAULTS | arguments)
    for name, default in _DEFAULTS.items():
        value = getattr(given, name)
        missing = value is None and default is None  # as brightness_range may be
        if name != "fill_mode" and not missing and np.asarray(value).dtype.kind not in "buif":
            raise ValueError(f"{name}={value!r} must be a number, such as {default!r}")
    if given.zca_whitening and given.featurewise_std_normalization:
        raise ValueError("zca_whitening and featurewise_std_normalization exclude each other")
    feature = given.featurewise_center, given.zca_whitening, given.featurewise_std_normalization
    given.featurewise_center = any(feature)
    given.samplewise_center = bool(given.samplewise_center or given.samplewise_std_normalization)
    _check_ranges(given)
    if given.fill_mode not in _FILL_MODES:
        raise ValueError(f"fill_mode={given.fill_mode!r} must be one of {', '.join(_FILL_MODES)}")
    if given.interpolation_order not in (0, 1):
        raise ValueError(f"interpolation_order={given.interpolation_order!r}: only 0 and 1 can be honoured")
    return {name: _plain(value) for name, value in vars(given).items()}


def _check_ranges(given):
    """Check how far images may be changed, and write each range one way."""
    zoom = given.zoom_range
    given.zoom_range = (1 - zoom, 1 + zoom) if np.ndim(zoom) == 0 else tuple(sorted(zoom))
    for name in ("width_shift_range", "height_shift_range"):
        limit = np.abs(getattr(given, name))  # a random sign comes to it anyway
        if limit.size == 0 or not np.isfinite(limit).all():
            raise ValueError(f"{name}={getattr(given, name)!r} must be a number, or a list of numbers")
        setattr(given, name, limit.tolist())  # Python's own int, float or list
    for name in ("rotation_range", "shear_range", "channel_shift_range"):
        setattr(given, name, abs(getattr(given, name)))  # either way, as in the old class
        if not getattr(given, name) < math.inf:
            raise ValueError(f"{name}={getattr(given, name)!r} must be a finite number")
    if not given.zca_epsilon >= 0:
        raise ValueError(f"zca_epsilon={given.zca_epsilon!r} must be at least 0")
    if len(given.zoom_range) != 2 or not 0 < given.zoom_range[0] <= given.zoom_range[1]:
        raise ValueError(f"zoom_range={zoom!r} must be in [0, 1), or two numbers above 0")
    brightness = given.brightness_range
    if brightness is not None:
        if np.shape(brightness) != (2,) or not min(brightness) >= 0:
            raise ValueError(f"brightness_range={brightness!r} must be two numbers of at least 0")
        given.brightness_range = tuple(sorted(brightness))


def _plain(value):
    """Numbers of NumPy as Python's own, which JSON knows."""
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return value.item() if isinstance(value, (np.generic, np.ndarray)) and value.ndim == 0 else value


class _Moments:
    """Sums over images, in float64, and what follows from them."""

    def __init__(self, shape, whitening):
        self.channels, self.count = shape[-1], 0
        self.sum = np.zeros(math.prod(shape))
        self.squares = np.zeros((self.sum.size,) * 2) if whitening else np.zeros(self.sum.size)

    def add(self, images):
        flat = images.reshape(len(images), -1).astype("float64")
        self.count += len(flat)
        self.sum += flat.sum(axis=0)
        self.squares += flat.T @ flat if self.squares.ndim == 2 else (flat**2).sum(axis=0)

    def _per_channel(self, sums):
        return sums.reshape(-1, self.channels).mean(axis=0) / self.count

    def mean(self):
        return self._per_channel(self.sum)

    def std(self):
        return np.sqrt(np.maximum(self._per_channel(self.squares) - self.mean() ** 2, 0))

    def whitening(self, epsilon):
        """Σ^-½ of the centred values; directions in which the images do not vary at all are left out."""
        mean = np.tile(self.mean(), self.sum.size // self.channels)
        cross = np.outer(mean, self.sum)
        squares = self.squares - cross - cross.T + self.count * np.outer(mean, mean)
        values, vectors = np.linalg.eigh(squares)
        lengths = np.sqrt(np.maximum(values, 0))
        varies = lengths > 1e-6 * lengths.max()
        inverse = np.where(varies, np.sqrt(self.count) / (lengths + epsilon), 0)
        return (vectors * inverse) @ vectors.T


def _matrix(
    count, height, width, theta=0, tx=0, ty=0, shear=0, zx=1, zy=1, flip_horizontal=0, flip_vertical=0
):
    """Where each pixel of the new image lies in the old one, `(N, 2, 3)`: rows first, float32.

    The old class multiplies rotation, shift, shear and zoom about the centre, for coordinates (x, y), and
    then swaps the axes. It measures x by the height and y by the width, which shows where they differ.
    """
    height, width = (ops.cast(length, "float32") for length in (height, width))
    turned, sheared = (ops.cast(angle, "float32") * (math.pi / 180) for angle in (theta, theta + shear))
    cos, sin = ops.cos(turned), ops.sin(turned)
    xx, xy = cos * zx, -ops.sin(sheared) * zy
    yx, yy = sin * zx, ops.cos(sheared) * zy
    center_x, center_y = height / 2 - 0.5, width / 2 - 0.5
    x = cos * tx - sin * ty + center_x - xx * center_x - xy * center_y
    y = sin * tx + cos * ty + center_y - yx * center_x - yy * center_y
    # A flip afterwards: the new column c shows what column width - 1 - c would have shown.
    y = y + flip_vertical * yy * (height - 1) + flip_horizontal * yx * (width - 1)
    x = x + flip_vertical * xy * (height - 1) + flip_horizontal * xx * (width - 1)
    down, aside = 1 - 2 * flip_vertical, 1 - 2 * flip_horizontal
    rows = (yy * down, yx * aside, y, xy * down, xx * aside, x)
    return ops.reshape(ops.stack([ops.broadcast_to(value, (count,)) for value in rows], axis=1), (-1, 2, 3))


_EDGE = 1e-3  # pixels: what lies that little outside is the border, and rounding


def _fused(function):
    """Compiled as one piece where the backend compiles, which is several times faster."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=True, autograph=False)
    if backend == "jax":
        import jax

        options = {"dtype", "fill_mode", "cval", "order"} & {*inspect.signature(function).parameters}
        return jax.jit(function, static_argnames=sorted(options))
    return function


@_fused
def _transform(images, parameters, dtype, fill_mode, cval, order):
    """Read images of any type where the parameters say."""
    matrix = _matrix(*ops.shape(images)[:3], **parameters)
    return _read(ops.cast(images, dtype), matrix, fill_mode, cval, order)  # bytes are read as bytes


def _read(images, matrix, fill_mode, cval, order):
    """Read each new pixel of `(N, H, W, C)` where the matrix says, as SciPy's `affine_transform` does."""
    count, height, width, channels = ops.shape(images)
    bottom, right = (ops.cast(length - 1, "float32") for length in (height, width))
    row = ops.reshape(ops.arange(height, dtype="float32"), (1, -1, 1))
    column = ops.reshape(ops.arange(width, dtype="float32"), (1, 1, -1))
    yy, yx, y, xy, xx, x = ops.unstack(ops.reshape(matrix, (-1, 6, 1, 1)), axis=1)
    y, x = yy * row + yx * column + y, xy * row + xx * column + x
    if fill_mode == "constant":
        inside = (y >= -_EDGE) & (y <= bottom + _EDGE) & (x >= -_EDGE) & (x <= right + _EDGE)
    y, x = _place(y, bottom, fill_mode), _place(x, right, fill_mode)
    flat = ops.reshape(images, (-1, channels))
    first = ops.reshape(ops.arange(count, dtype="int32") * (height * width), (-1, 1, 1))

    def read(row, column):
        return ops.take(flat, row + column, axis=0)

    if order == 0:
        row, column = ops.floor(y + 0.5), ops.floor(x + 0.5)
        found = read(first + ops.cast(row, "int32") * width, ops.cast(column, "int32"))
    else:
        row, column = ops.floor(y), ops.floor(x)
        down, aside = (ops.cast(ops.expand_dims(part, -1), images.dtype) for part in (y - row, x - column))
        upper, lower = (
            first + ops.cast(number, "int32") * width for number in (row, ops.minimum(row + 1, bottom))
        )
        left, right = (ops.cast(number, "int32") for number in (column, ops.minimum(column + 1, right)))
        above = read(upper, left) * (1 - aside) + read(upper, right) * aside
        below = read(lower, left) * (1 - aside) + read(lower, right) * aside
        found = above * (1 - down) + below * down
    if fill_mode == "constant":
        found = ops.where(inside[..., None], found, ops.cast(cval, images.dtype))
    return found


_sample = _fused(_read)


def _place(v, last, fill_mode):
    """Coordinates inside the image that show what those outside stand for."""
    if fill_mode == "wrap":  # SciPy's way: the first and the last pixel share one place
        period = ops.maximum(last, 1)
        below = v + period * (ops.floor(-v / period) + 1)
        above = v - period * ops.floor(v / period)
        v = ops.where(v < -_EDGE, below, ops.where(v > last + _EDGE, above, v))
    elif fill_mode == "reflect":  # … 1 0 | 0 1 … last | last …
        v = ops.mod(v + 0.5, 2 * last + 2)
        v = ops.minimum(v, 2 * last + 2 - v) - 0.5
    return ops.clip(v, 0, last)


def _range(images):
    """The lowest and the highest value of each image, `(N, 1, 1, 1)`; no images, no error."""
    over = {"axis": (1, 2, 3), "keepdims": True}
    return ops.min(images, initial=np.inf, **over), ops.max(images, initial=-np.inf, **over)


def _shift_values(images, intensity):
    """Add a number to each image and keep it in the range that it had."""
    low, high = _range(images)
    return ops.clip(images + _grow(intensity, images), low, high)


def _brighten(images, brightness):
    """Multiply by the brightness: from 0, up to 255; or in an image's own range, if it leaves 0–255."""
    low, high = _range(images)
    own = (low < 0) | (high > 255)
    low, high = ops.where(own, low, 0), ops.where(own, high, 255)
    return ops.clip((images - low) * _grow(brightness, images), 0, high - low) + low


# Operations on images in [0, 1], with a magnitude in [-1, 1] for each image


def _grow(values, images):
    """One number for each image, or for all, ready to be broadcast over it."""
    return ops.reshape(ops.cast(values, images.dtype), (-1, 1, 1, 1))


def _blend(other, images, magnitude):
    """From `other` (-1) over the images (0) away from it (1), as Pillow's enhancers do, by up to 0.9."""
    return other + (1 + 0.9 * _grow(magnitude, images)) * (images - other)


def _gray(images):
    weights = {3: (0.299, 0.587, 0.114)}.get(images.shape[-1], (1 / images.shape[-1],) * images.shape[-1])
    return ops.sum(images * ops.convert_to_tensor(weights, images.dtype), axis=-1, keepdims=True)


def _contrast(images, magnitude):
    return _blend(ops.mean(_gray(images), axis=(1, 2), keepdims=True), images, magnitude)


def _sharpness(images, magnitude):
    """Against a picture that is smoothed everywhere but at its border."""
    channels = images.shape[-1]
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]).reshape(3, 3, 1, 1) / 13
    kernel = ops.convert_to_tensor(np.tile(kernel, (1, 1, channels, 1)), images.dtype)
    smooth = ops.depthwise_conv(images, kernel, 1, "same", data_format="channels_last")
    height, width = ops.shape(images)[1:3]
    row, column = ops.arange(height)[:, None], ops.arange(width)[None]
    inner = (row > 0) & (row < height - 1) & (column > 0) & (column < width - 1)
    return _blend(ops.where(inner[None, :, :, None], smooth, images), images, magnitude)


def _autocontrast(images, magnitude):
    low = ops.min(images, axis=(1, 2), keepdims=True, initial=np.inf)
    high = ops.max(images, axis=(1, 2), keepdims=True, initial=-np.inf)
    return ops.where(high > low, (images - low) / ops.maximum(high - low, 1e-6), images)


def _equalize(images, magnitude):
    """Equalize each image and channel by a histogram of 256 values."""
    count, height, width, channels = ops.shape(images)
    level = ops.clip(ops.cast(ops.floor(images * 255 + 0.5), "int32"), 0, 255)  # NaN is any number
    plane = ops.arange(count, dtype="int32")[:, None, None, None] * channels + ops.arange(
        channels, dtype="int32"
    )
    place = plane * 256 + level
    ones = ops.ones_like(ops.reshape(place, (-1,)), dtype="float32")
    counts = ops.segment_sum(ones, ops.reshape(place, (-1,)), count * channels * 256)
    below = ops.cumsum(ops.reshape(counts, (-1, 256)), axis=1)
    darkest = ops.min(ops.where(below > 0, below, np.inf), axis=1, keepdims=True, initial=np.inf)
    spread = ops.cast(height * width, "float32") - darkest
    table = ops.floor(255 * (below - darkest) / ops.maximum(spread, 1) + 0.5) / 255
    table = ops.where(spread > 0, table, ops.arange(256, dtype="float32") / 255)
    return ops.cast(ops.take(ops.reshape(table, (-1,)), place), images.dtype)


def _posterize(images, magnitude):
    """Keep 8 to 4 bits."""
    step = 2 ** ops.floor(4 * ops.abs(_grow(magnitude, images)) + 0.5)
    return ops.floor(ops.floor(images * 255 + 0.5) / step) * step / 255


def _solarize(images, magnitude):
    """Invert what is not darker than a threshold: of 256 grey values none at 0, all at full magnitude."""
    threshold = (256 * (1 - ops.abs(_grow(magnitude, images))) - 0.5) / 255
    return ops.where(images > threshold, 1 - images, images)


_ON_VALUES = {
    "identity": lambda images, magnitude: images,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "posterize": _posterize,
    "solarize": _solarize,
    "brightness": lambda images, magnitude: _blend(0 * images, images, magnitude),
    "color": lambda images, magnitude: _blend(_gray(images), images, magnitude),
    "contrast": _contrast,
    "sharpness": _sharpness,
}
_ON_PLACES = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")

OPERATIONS = (*_ON_VALUES, *_ON_PLACES)
"""What RandAugment and a policy can do to an image.

At full magnitude: rotate by 30 degrees, shear by 0.3, translate by 0.45 of the side, posterize to 4 bits,
solarize everything, and brightness, color, contrast and sharpness by a factor of 0.1 or 1.9. autocontrast,
equalize and identity have no magnitude.
"""


def _check_operations(operations, value_range):
    operations = [operations] if isinstance(operations, str) else operations
    unknown = sorted(set(operations) - set(OPERATIONS))
    if unknown or not operations:
        raise ValueError(f"operations: {unknown or 'none'}; known are {', '.join(OPERATIONS)}")
    if np.shape(value_range) != (2,) or not -math.inf < value_range[0] < value_range[1] < math.inf:
        raise ValueError(f"value_range={value_range!r} must be two numbers, the lower one first")
    return tuple(operations)


class _Operations(_Augmentation):
    """Applies one of `operations` to each image, chosen by number."""

    def __init__(self, operations, value_range, seed=None, **options):
        super().__init__(seed=seed, **options)
        self.operations = _check_operations(operations, value_range)
        self.value_range = tuple(value_range)

    def _augment(self, images, draws):
        low, high = self.value_range
        if high <= 1 and "int" in keras.backend.standardize_dtype(images.dtype):
            raise ValueError(
                f"{type(self).__name__}: images of {images.dtype} with value_range={self.value_range}; "
                "whole numbers have (0, 255)"
            )
        # At least float32, rounded once at the end: bfloat16 has too few digits to count 256 values.
        images = ops.cast(images, keras.backend.result_type(self.compute_dtype, "float32"))
        images = ops.clip((images - low) / (high - low), 0, 1)
        for chosen, magnitude in self._steps(ops.shape(images)[0], draws):
            images = self._operate(images, chosen, magnitude)
        return ops.cast(images * (high - low) + low, self.compute_dtype)

    def _operate(self, images, chosen, magnitude):
        result = images
        for number, name in enumerate(self.operations):
            if name in _ON_VALUES:
                here = (chosen == number)[:, None, None, None]
                result = ops.where(here, _ON_VALUES[name](images, magnitude), result)
        if set(self.operations) & set(_ON_PLACES):
            matrix = self._matrix(ops.shape(images), chosen, magnitude)
            result = _sample(result, matrix, "constant", 0.0, 1)
        return ops.clip(result, 0, 1)

    def _matrix(self, shape, chosen, magnitude):
        """As `_matrix`, but about the centre of any image: each has one operation at most."""

        def of(name, most):
            number = self.operations.index(name) if name in self.operations else -1
            return ops.where(chosen == number, most * magnitude, 0.0)

        height, width = (ops.cast(length, "float32") for length in shape[1:3])
        angle = of("rotate", math.pi / 6)
        yx, xy = ops.sin(angle) + of("shear_y", 0.3), of("shear_x", 0.3) - ops.sin(angle)
        middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
        y = (1 - ops.cos(angle)) * middle_y - yx * middle_x + of("translate_y", 0.45) * height
        x = (1 - ops.cos(angle)) * middle_x - xy * middle_y + of("translate_x", 0.45) * width
        rows = (ops.cos(angle), yx, y, xy, ops.cos(angle), x)
        return ops.reshape(ops.stack(rows, axis=1), (-1, 2, 3))

    def _sign(self, count, draws):
        return ops.where(keras.random.uniform((count,), seed=draws) < 0.5, -1.0, 1.0)

    def get_config(self):
        own = {"operations": self.operations, "value_range": self.value_range}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="evakeras")
class RandAugment(_Operations):
    """Apply a few operations to each image, chosen at random for every image anew (Cubuk and others 2020).

    Keras's own layer of this name chooses once for a whole batch and turns in one direction only. Every one
    of the `operations` on values is computed for all images, and one kept: fewer of them take less time.

    Args:
        count: how many operations follow each other, at least 1.
        magnitude: how strong they are, 0 to 1; the paper's M is this times 30. The direction is random.
        operations: names from `OPERATIONS`, each as likely as the others: identity, autocontrast, equalize,
            posterize, solarize, brightness, color, contrast, sharpness, rotate, shear_x, shear_y,
            translate_x, translate_y.
        value_range: lowest and highest value of the images, such as (0, 255) or (0, 1); what is outside is
            clipped.
        seed: integer that makes the choices repeat.

    Raises:
        ValueError: a value out of range, an unknown operation.

    Example:
        >>> images = RandAugment(value_range=(0, 1), seed=0)(np.random.rand(4, 32, 32, 3))
        >>> tuple(images.shape), bool(ops.max(images) <= 1)
        ((4, 32, 32, 3), True)

    Reference:
        RandAugment: practical automated data augmentation with a reduced search space, arXiv:1909.13719.
    """

    def __init__(self, count=2, magnitude=0.3, operations=OPERATIONS, *, value_range, seed=None, **options):
        super().__init__(operations, value_range, seed, **options)
        if not 0 <= magnitude <= 1:
            raise ValueError(f"magnitude={magnitude!r} must be between 0 and 1: the paper's M, divided by 30")
        self.count, self.magnitude = _whole("count", count), magnitude

    def _steps(self, count, draws):
        for _ in range(self.count):
            chosen = keras.random.randint((count,), 0, len(self.operations), "int32", draws)
            yield chosen, self.magnitude * self._sign(count, draws)

    def get_config(self):
        return {**super().get_config(), "count": self.count, "magnitude": self.magnitude}


@keras.saving.register_keras_serializable(package="evakeras")
class Policy(_Operations):
    """Apply one of several sub-policies to each image, as AutoAugment does (Cubuk and others 2019).

    Args:
        subpolicies: a list of lists of (operation, probability, magnitude), the last two in [0, 1]. The
            steps of a sub-policy follow each other, each with its probability, in a random direction.
        value_range: lowest and highest value of the images, such as (0, 255) or (0, 1); what is outside is
            clipped.
        seed: integer that makes the choices repeat.

    Raises:
        ValueError: no sub-policies, an empty one, an unknown operation, a number out of range.

    Example:
        >>> steps = [[("rotate", 1.0, 0.5), ("solarize", 0.2, 1.0)], [("shear_x", 0.7, 0.3)]]
        >>> policy = Policy(steps, value_range=(0, 255))
        >>> tuple(policy(np.zeros((4, 28, 28, 1)), training=True).shape)
        (4, 28, 28, 1)

    Reference:
        AutoAugment: learning augmentation policies from data, arXiv:1805.09501.
    """

    def __init__(self, subpolicies, value_range, seed=None, **options):
        try:
            subpolicies = tuple(tuple((n, p, m) for n, p, m in steps) for steps in subpolicies)
        except (TypeError, ValueError):
            subpolicies = ()
        if not subpolicies or not all(subpolicies):
            raise ValueError(
                "subpolicies must be a list of lists of (operation, probability, magnitude), none empty"
            )
        for name, probability, magnitude in itertools.chain(*subpolicies):
            if not (0 <= probability <= 1 and 0 <= magnitude <= 1):
                raise ValueError(
                    f"{name}: probability {probability} and magnitude {magnitude} must be in [0, 1]"
                )
        names = {step[0]: None for step in itertools.chain(*subpolicies)}  # in order, each once
        super().__init__(
            ["identity", *(name for name in names if name != "identity")], value_range, seed, **options
        )
        self.subpolicies = subpolicies

    def _steps(self, count, draws):
        which = keras.random.randint((count,), 0, len(self.subpolicies), "int32", draws)
        for steps in itertools.zip_longest(*self.subpolicies, fillvalue=("identity", 0.0, 0.0)):
            names, probabilities, magnitudes = zip(*steps, strict=True)
            numbers = np.array([self.operations.index(name) for name in names], "int32")
            happens = keras.random.uniform((count,), seed=draws) < self._pick(probabilities, which)
            chosen = ops.where(happens, ops.take(ops.convert_to_tensor(numbers), which), 0)
            yield chosen, self._pick(magnitudes, which) * self._sign(count, draws)

    @staticmethod
    def _pick(values, which):
        return ops.take(ops.convert_to_tensor(np.array(values, "float32")), which)

    def get_config(self):
        config = {**super().get_config(), "subpolicies": self.subpolicies}
        del config["operations"]
        return config


class PolicySearch(NamedTuple):
    """What `search_policy` found.

    `best` are the sub-policies with the highest reward, for `Policy(found.best, found.value_range)`.
    `rewards` and `policies` tell what was tried, one of each per trial. `shares`, `(trials, operations)`, is
    the share of each of `operations` in what the controller would have drawn after each trial.
    """

    best: list
    rewards: list
    policies: list
    operations: tuple
    shares: np.ndarray
    value_range: tuple


def search_policy(
    reward: Callable[[Policy], float],
    *,
    value_range: tuple[float, float],
    trials: int = 60,
    subpolicies: int = 2,
    operations: Sequence[str] = OPERATIONS,
    rate: float = 0.3,
    seed: int = 0,
    folder: str | Path | None = None,
    progress: bool = True,
) -> PolicySearch:
    """Learn an augmentation policy by REINFORCE (Williams 1992), a small version of AutoAugment.

    A controller draws the operation, the probability and the magnitude of each step, each from a distribution
    of its own. `reward` trains a small model with that policy and tells its validation accuracy. If that was
    better than usual, what was drawn becomes more likely. (AutoAugment's controller is a recurrent network.)

    Args:
        reward: function from a `Policy` layer to a number, the higher the better.
        value_range: lowest and highest value of the images, such as (0, 255) or (0, 1).
        trials: how many policies are tried. A kept search goes on if there are to be more.
        subpolicies: how many a policy consists of, each of two steps.
        operations: names from `OPERATIONS` to choose from; `RandAugment` lists them.
        rate: learning rate of the controller.
        seed: integer that makes the draws repeat.
        folder: where finished trials are kept, so that a search that was interrupted goes on. Choose another
            one for another `reward`: what it measures is not known here. One folder, one search at a time.
        progress: whether to show a progress bar where there is a terminal or a notebook.

    Returns:
        A `PolicySearch`.

    Raises:
        ValueError: a number below 1, an unknown operation, a reward that is no finite number, a folder in
            which a search with other settings is kept.
        TypeError: a seed that is not an integer.
        RuntimeError: another process is searching in `folder`, or its file system has no locks.

    Example:
        >>> likes_turns = lambda policy: str(policy.subpolicies).count("rotate")
        >>> some = ("identity", "rotate")
        >>> found = search_policy(likes_turns, value_range=(0, 1), operations=some, progress=False)
        >>> bool(found.shares[-1, 1] > found.shares[0, 1])
        True
        >>> layer = Policy(found.best, found.value_range)

    Reference:
        Williams: Simple statistical gradient-following algorithms, 1992; AutoAugment, arXiv:1805.09501.
    """
    trials, subpolicies = _whole("trials", trials), _whole("subpolicies", subpolicies)
    seed, rate = operator.index(seed), float(rate)
    if not rate > 0:
        raise ValueError(f"rate={rate} must be above 0")
    operations = _check_operations(operations, value_range)
    settings = [subpolicies, list(operations), [float(value) for value in value_range], rate, seed]
    file = Path(folder) / "search.json" if folder is not None else None
    controller = _Controller(subpolicies, operations, rate, seed)
    shares = []
    shown = progress and ("ipykernel" in sys.modules or sys.stderr.isatty())
    with _locked(file):
        done = _kept_trials(file, settings)
        _keep_trials(file, settings, done)  # a folder that cannot be written is noticed before any training
        for trial in tqdm(range(trials), "policy search", disable=not shown, leave=False):
            drawn = controller.draw(trial)
            if trial == len(done):
                policy = Policy(controller.steps(drawn), value_range, seed=trial)
                done.append(_check_reward(reward(policy), policy))
                _keep_trials(file, settings, done)
            controller.learn(drawn, done[trial])
            shares.append(controller.shares())
    policies = controller.tried
    return PolicySearch(
        policies[int(np.argmax(done[:trials]))],
        done[:trials],
        policies,
        operations,
        np.array(shares),
        tuple(value_range),
    )


def _check_reward(reward, policy):
    number = np.asarray(reward)  # a tensor too
    if number.ndim or number.dtype.kind not in "buif" or not np.isfinite(number):
        raise ValueError(f"reward returned {reward!r} for {policy.subpolicies}; expected a number")
    return float(number)


@contextmanager
def _locked(file):
    """Let no other search into the folder: the slower one would overwrite what the other has kept."""
    if file is None:
        yield
        return
    from filelock import FileLock, Timeout

    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file.with_name(".search.lock"))  # it ends with the process, also when that is killed
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RuntimeError(
            f"{file.parent}: another process is searching here; wait for it, or choose another folder"
        ) from None
    except NotImplementedError:  # some network drives
        raise RuntimeError(
            f"{file.parent} is on a file system without locks; choose a folder on another one"
        ) from None
    try:
        yield
    finally:
        lock.release()


class _Controller:
    """Independent categorical distributions over the choices of every step, learned by REINFORCE."""

    GRID = np.linspace(0, 1, 6).tolist()  # probabilities and magnitudes to choose from

    def __init__(self, subpolicies, operations, rate, seed):
        self.operations, self.rate, self.seed = operations, rate, seed
        kinds = (len(operations), len(self.GRID), len(self.GRID))
        self.logits = [np.zeros((subpolicies, 2, kind)) for kind in kinds]
        self.rewards, self.tried = [], []

    def _probabilities(self):
        return [scipy.special.softmax(logits, axis=-1) for logits in self.logits]

    def draw(self, trial):
        """One number for each choice, which follow from the seed, the trial and what was learned."""
        rng = np.random.default_rng((self.seed, trial))
        cumulated = [p.cumsum(axis=-1) for p in self._probabilities()]
        return [np.minimum((rng.random((*c.shape[:2], 1)) > c).sum(-1), c.shape[-1] - 1) for c in cumulated]

    def steps(self, drawn):
        """The sub-policies that numbers stand for."""
        return [
            [(self.operations[o], self.GRID[p], self.GRID[m]) for o, p, m in zip(*step, strict=True)]
            for step in zip(*drawn, strict=True)
        ]

    def learn(self, drawn, reward):
        """Move towards what was drawn, by how many standard deviations the reward was better than usual."""
        self.tried.append(self.steps(drawn))
        usual, spread = (np.mean(self.rewards), np.std(self.rewards)) if self.rewards else (reward, 0)
        self.rewards.append(reward)
        advantage = (reward - usual) / spread if spread > 0 else 0.0
        for logits, chosen, p in zip(self.logits, drawn, self._probabilities(), strict=True):
            logits += self.rate * advantage * (np.eye(logits.shape[-1])[chosen] - p)

    def shares(self):
        return self._probabilities()[0].mean(axis=(0, 1))


def _kept_trials(file, settings):
    if file is None or not file.exists():
        return []
    try:
        if not file.is_file() or file.stat().st_size > 2**20:
            raise ValueError("expected a file of at most 1 MiB")
        kept = json.loads(file.read_text())
        rewards = kept["rewards"]
        if not isinstance(rewards, list) or {*map(type, rewards)} - {float} or not np.isfinite(rewards).all():
            raise ValueError("rewards must be a list of finite numbers")
        names = ("subpolicies", "operations", "value_range", "rate", "seed")
        differ = [
            f"{name} was {str(old)[:200]}, is now {new}"
            for name, old, new in zip(names, kept["settings"], settings, strict=True)
            if old != new
        ]
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        raise ValueError(f"{file} is damaged: {problem}") from problem
    if differ:
        raise ValueError(f"{file} is of a search with other settings: {'; '.join(differ)}")
    return rewards


def _keep_trials(file, settings, rewards):
    if file is not None:
        draft = file.with_name(f"draft-{file.name}")
        draft.write_text(json.dumps({"settings": settings, "rewards": rewards}))
        draft.replace(file)  # whole or not at all


def same_class(labels: np.ndarray, k: int = 2, seed: int = 0) -> np.ndarray:
    """Group every image with others of its class, for `SmartAugmentation`.

    Args:
        labels: whole numbers `(N,)`.
        k: images to merge, at least 1.
        seed: integer that makes the choice repeat.

    Returns:
        int64 array `(N, k + 1)`: for every image the numbers of `k` others of its class and, last, its own.
        Where a class has one image only, its group is that image alone.

    Raises:
        ValueError: labels that are no whole numbers `(N,)`, N > 0; k below 1.

    Example:
        >>> labels = np.array([0, 1, 0, 1, 0])
        >>> bool((labels[same_class(labels)] == labels[:, None]).all())
        True
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or len(labels) == 0 or labels.dtype.kind not in "ui":
        raise ValueError(f"labels {labels.shape} of {labels.dtype} must be whole numbers (N,), N > 0")
    k = _whole("k", k)
    rng = np.random.default_rng(seed)
    groups = np.empty((len(labels), k + 1), np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        others = rng.integers(0, max(len(members) - 1, 1), (len(members), k))
        others += (others >= np.arange(len(members))[:, None]) & (len(members) > 1)  # never oneself
        groups[members] = np.column_stack([members[others], members])
    return groups


@keras.saving.register_keras_serializable(package="evakeras")
class SmartAugmentation(keras.Model):
    """A network that learns to merge images of one class, trained together with a classifier (Lemley 2017).

    Network A merges `k` images into one. Network B, the classifier, learns from the merged image and from a
    real one. The loss is `alpha` times the mean squared error between the two images, plus `beta` times B's
    loss. Fit it on `images[same_class(labels, k)]` and `labels`; then use `classifier`, and forget A: images
    to validate, to test and to predict are ordinary ones. Of groups, all metrics count both images.

    Args:
        classifier: a built Keras model from images `(H, W, C)` in [0, 1] to class probabilities.
        k: how many images are merged.
        alpha: weight of the merged image's distance.
        beta: weight of the classifier's loss.

    Raises:
        ValueError: a classifier that is not built, or not of one image; k below 1; negative weights.

    Example:
        >>> some = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")]
        >>> smart = SmartAugmentation(keras.Sequential(some))
        >>> tuple(smart.merge(np.zeros((5, 3, 8, 8, 1))).shape)
        (5, 8, 8, 1)

    Reference:
        Smart Augmentation: learning an optimal data augmentation strategy, arXiv:1703.08383.
    """

    def __init__(self, classifier, k=2, alpha=0.3, beta=0.7, **options):
        super().__init__(**options)
        if not getattr(classifier, "inputs", None) or len(classifier.inputs[0].shape) != 4:
            raise ValueError("classifier must be a built model of images (N, H, W, C)")
        k = _whole("k", k)
        if not (alpha >= 0 and beta > 0):
            raise ValueError(f"alpha={alpha} must be at least 0, beta={beta} above 0")
        channels = classifier.inputs[0].shape[-1]
        convolution = partial(keras.layers.Conv2D, kernel_size=3, padding="same", data_format="channels_last")
        self.merger = keras.Sequential(
            [
                keras.Input((*classifier.inputs[0].shape[1:-1], k * channels)),
                convolution(16, activation="relu"),
                convolution(16, activation="relu"),
                convolution(channels, activation="sigmoid"),
            ]
        )
        self.classifier, self.k, self.alpha, self.beta = classifier, k, alpha, beta
        self.built = True  # both networks are

    def get_config(self):
        classifier = keras.saving.serialize_keras_object(self.classifier)
        own = {"classifier": classifier, "k": self.k, "alpha": self.alpha, "beta": self.beta}
        return {**super().get_config(), **own}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)  # the caller's own stays as it is
        classifier = keras.saving.deserialize_keras_object(config.pop("classifier"), custom_objects)
        return cls(classifier, **config)

    def merge(self, groups):
        """The images that network A makes of the first `k` of each group, `(N, k + 1, H, W, C)`."""
        return self.merger(ops.concatenate([groups[:, i] for i in range(self.k)], axis=-1))

    def call(self, images, training=False):
        """Class probabilities; of groups, those of the merged images and then those of the real ones."""
        images = ops.cast(images, self.compute_dtype)
        if len(images.shape) == 4 and not training:  # ordinary images, to validate
            return self.classifier(images, training=False)
        if len(images.shape) != 5 or images.shape[1] != self.k + 1:
            raise ValueError(
                f"SmartAugmentation: images {tuple(images.shape)}; fit groups (N, {self.k + 1}, H, W, C), "
                f"that is images[same_class(labels, {self.k})]"
            )
        merged, real = self.merge(images), images[:, self.k]
        distance = ops.mean(ops.square(ops.cast(merged, "float32") - ops.cast(real, "float32")))
        self.add_loss(self.alpha / self.beta * distance)
        return self.classifier(ops.concatenate([merged, real], axis=0), training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        weight = self._twice(x, sample_weight)
        loss = super().compute_loss(x, self._twice(x, y), y_pred, weight, training)
        return loss if len(x.shape) == 4 else self.beta * loss  # of ordinary images the classifier's own

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return super().compute_metrics(x, self._twice(x, y), y_pred, self._twice(x, sample_weight))

    def _twice(self, x, values):
        return values if values is None or len(x.shape) == 4 else ops.concatenate([values, values], axis=0)
