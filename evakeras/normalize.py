"""Bring images to a common scale: statistics, min-max, equalization, standardization.

This file works alone: copy it into an assignment and `import normalize`. It needs Keras 3 and NumPy.
"""

import math
from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple

import keras
import numpy as np
from numpy.typing import ArrayLike

__all__ = [
    "ImageStatistics",
    "equalize",
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
        rows = max(1, _CHUNK // math.prod(part.shape[1:]))
        for start in range(0, len(part), rows):
            total.add(part[start : start + rows])
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
            self.second[channel] += int(values @ values)
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
    rows = max(1, _CHUNK // math.prod(batch.shape[1:]))
    for start in range(0, len(batch), rows):
        chunk = np.moveaxis(batch[start : start + rows], -1, 1)  # (n, C, H, W): a plane is one histogram
        planes = chunk.reshape(chunk.shape[0] * chunk.shape[1], -1)
        tables = np.stack([_equalizing_table(plane) for plane in planes])
        new = np.take_along_axis(tables, planes.astype(np.intp), axis=1)
        result[start : start + rows] = np.moveaxis(new.reshape(chunk.shape), 1, -1)
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
        ValueError: a channel with a standard deviation of 0: it is constant, and cannot be scaled.

    Example:
        >>> layer = standardization_layer(ImageStatistics(np.array([100.0]), np.array([50.0]), 784))
        >>> float(layer(np.full((1, 2, 2, 1), 200.0)).numpy().max())
        2.0
    """
    mean, std = _check_moments(statistics.mean, statistics.std, np.size(statistics.mean))
    return keras.layers.Normalization(mean=mean, variance=std**2)


def _by_chunks(images, function):
    """`function` of a few images at a time, in float64 and with the number of the first; float32 out."""
    batch = images.reshape(-1, *images.shape[-3:])
    result = np.empty(batch.shape, np.float32)
    rows = max(1, _CHUNK // math.prod(batch.shape[1:]))
    for start in range(0, len(batch), rows):
        with np.errstate(over="ignore", invalid="ignore"):
            result[start : start + rows] = function(batch[start : start + rows].astype(np.float64), start)
        if not np.isfinite(result[start : start + rows]).all():
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
    batch = batch if isinstance(batch, np.ndarray) else np.asarray(batch)
    if batch.ndim != 4 or batch.size == 0:
        raise ValueError(f"images have shape {batch.shape}, expected (N, H, W, C), none of them 0")
    if batch.dtype.kind not in "uif":
        raise ValueError(f"images have dtype {batch.dtype}, expected real numbers")
    return batch
