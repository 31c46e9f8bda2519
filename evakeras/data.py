"""Images to learn from: MNIST, CIFAR-10, small sets that need no download, and `tf.data` batches.

This file works alone: copy it into an assignment and `import data`. It needs Keras 3, NumPy, SciPy and
scikit-learn; `batches` needs TensorFlow, CIFAR-10 and photographs need Pillow.
"""

import contextlib
import inspect
import io
import itertools
import math
import operator
import os
import socket
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import keras
import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf

__all__ = [
    "ImageDataset",
    "batches",
    "load_cifar10",
    "load_digits",
    "load_mnist",
    "load_photo",
]

DIGITS = tuple("0123456789")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_DOWNLOAD_TIMEOUT = 20  # seconds without an answer before a download counts as unreachable
_MOST_BYTES = 2**30  # of a file's arrays: half as much again as EMNIST, the largest set laid out like MNIST
_MOST_HEADER = 256  # letters of an array's header; those of a data set have 118
_MOST_JPEG = 2**16  # bytes of one picture; of 32×32 pixels they are about a thousand


class ImageDataset(NamedTuple):
    """Images and labels, split once into a training and a test part.

    `x_train` and `x_test` are uint8 `(N, H, W, C)` with values 0–255, `y_train` and `y_test` int64 `(N,)`
    in `0 … len(class_names) - 1`. `name` says where they came from: "mnist", "digits" or "cifar10".
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    class_names: tuple


def load_mnist(path: str | os.PathLike | None = None, *, limit: int | None = None) -> ImageDataset:
    """Load MNIST, or digits that ship with scikit-learn where MNIST cannot be had.

    Looks at `path`, then `$EVAKERAS_DATA/mnist.npz`, then Keras's own cache or download. Where none can be
    reached, it says so in one line on stderr and returns `load_digits()`: look at `.name` before you quote
    a figure.

    Args:
        path: an `.npz` file in the layout of Keras's own; None searches as above.
        limit: keep at most this many training and this many test images, the first ones.

    Returns:
        An `ImageDataset` of 28×28×1 images, named "mnist" or "digits".

    Raises:
        FileNotFoundError: `path` or the folder that `EVAKERAS_DATA` names does not exist.
        PermissionError: the file may not be read.
        ValueError: the file is damaged, holds something else or more than 1 GiB (it is never passed over);
            a limit that is not a whole number of at least 1.

    Example:
        >>> load_mnist(limit=100).x_train.shape
        (100, 28, 28, 1)

    Reference:
        LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition, 1998.
    """
    _check_limit(limit)
    path = _find("mnist.npz", path, cached=True)
    arrays, reason = (_read_mnist(path), "") if path else _keras_download(keras.datasets.mnist)
    if arrays is None:
        print(
            f"MNIST is not here and cannot be downloaded ({reason}): using scikit-learn's 1,797 UCI digits "
            "instead. "
            "For MNIST, put mnist.npz in a folder and set EVAKERAS_DATA to that folder.",
            file=sys.stderr,
        )
        return _limited(load_digits(), limit)
    return _limited(_dataset("mnist", *arrays, DIGITS), limit)


def load_cifar10(path: str | os.PathLike | None = None, *, limit: int | None = None) -> ImageDataset:
    """Load CIFAR-10 from a file, Keras's cache or its download.

    Looks at `path`, then `$EVAKERAS_DATA/cifar10_jpeg.npz`, then Keras's own cache or download.

    Args:
        path: an `.npz` of JPEG files: `train_jpeg` (uint8, all files end to end), `train_offsets`
            (N + 1 integers), `train_labels` (N integers), and the same for `test`.
        limit: keep at most this many training and this many test images, the first ones.

    Returns:
        An `ImageDataset` of 32×32×3 images, named "cifar10".

    Raises:
        FileNotFoundError: no such file, or no file and no way to download the set. There is no substitute.
        PermissionError: the file may not be read.
        ValueError: the file is damaged, holds something else or more than 1 GiB; a limit below 1.

    Example:
        >>> load_cifar10("nowhere.npz")
        Traceback (most recent call last):
        FileNotFoundError: path='nowhere.npz' is not a file that exists

    Reference:
        Krizhevsky: Learning multiple layers of features from tiny images, 2009.
    """
    _check_limit(limit)
    path = _find("cifar10_jpeg.npz", path)
    arrays, reason = (_read_cifar10(path, limit), "") if path else _keras_download(keras.datasets.cifar10)
    if arrays is None:
        raise FileNotFoundError(
            f"CIFAR-10 is not here and cannot be downloaded ({reason}); put cifar10_jpeg.npz in a folder and "
            "set EVAKERAS_DATA to that folder"
        )
    return _limited(_dataset("cifar10", *arrays, CIFAR10), limit)


def load_digits() -> ImageDataset:
    """Load scikit-learn's 1,797 UCI digits, drawn like MNIST: 20×20 in the middle of 28×28.

    The last 360 are the test part. The file does not name the writers: some may be in both parts.

    Returns:
        An `ImageDataset` of 1,437 + 360 images 28×28×1, named "digits".

    Example:
        >>> digits = load_digits()
        >>> digits.name, digits.x_train.shape, digits.x_test.shape
        ('digits', (1437, 28, 28, 1), (360, 28, 28, 1))

    Reference:
        Alpaydin, Kaynak: Optical recognition of handwritten digits, UCI repository, 1998.
    """
    from scipy import ndimage
    from sklearn import datasets

    small, labels = datasets.load_digits(return_X_y=True)
    small = small.reshape(-1, 8, 8) * (255 / 16)  # the file counts ink from 0 to 16
    drawn = ndimage.zoom(small, (1, 2.5, 2.5), order=1, mode="nearest", grid_mode=True)
    images = np.pad(np.rint(drawn).astype(np.uint8), ((0, 0), (4, 4), (4, 4)))
    train = slice(None, -360), slice(-360, None)
    return _dataset("digits", *[part[s] for s in train for part in (images, labels)], DIGITS)


def load_photo(name: str) -> np.ndarray:
    """Load one of scikit-learn's two photographs.

    Args:
        name: "china" (a temple) or "flower".

    Returns:
        uint8 array `(427, 640, 3)`, red green blue, values 0–255.

    Raises:
        ValueError: another name.

    Example:
        >>> load_photo("china").shape
        (427, 640, 3)
    """
    from sklearn import datasets

    if name not in ("china", "flower"):
        raise ValueError(f"name={name!r} is unknown; expected 'china' or 'flower'")
    return np.array(datasets.load_sample_image(f"{name}.jpg"))


def batches(
    x: np.ndarray,
    y: np.ndarray | None = None,
    batch_size: int = 128,
    *,
    shuffle: bool = False,
    seed: int | None = None,
    augment: Callable | None = None,
) -> "tf.data.Dataset":
    """Make a `tf.data.Dataset` of batches, its steps in the order that is safe.

    Cast to float32, shuffle over the whole set (anew in every epoch), batch, augment, prefetch.

    Args:
        x: images `(N, H, W, C)`, any number type; the values are kept, only the type becomes float32.
        y: labels `(N,)` or `(N, classes)`, or None for images alone.
        batch_size: images per batch, at least 1; the last batch may be smaller.
        shuffle: whether to shuffle.
        seed: integer that makes the shuffling repeat, and an `augment` with `stateless`; without it, that
            layer's own seed makes it repeat. What has no `stateless` (Keras's layers, a `Sequential`, `basic`
            of augment.py) needs a seed of its own, and must be made anew for each pipeline. TensorFlow mixes
            the global seed of `keras.utils.set_random_seed` in, if one was set: then the same two give the
            same order.
        augment: a layer or function from a batch of images to a batch of images; a layer is called with
            `training=True`. It runs one batch after another, so that its random numbers repeat. A layer with
            a method `stateless(images, seed)`, as those of `augment.py`, runs in parallel and repeats too; it
            gets the images in the type of `x`. If its `call` takes labels, as that of MixUp, it gets them
            and returns both.

    Returns:
        A `tf.data.Dataset` of `images` or `(images, labels)`, ready for `fit`.

    Raises:
        RuntimeError: Keras's backend is not TensorFlow.
        ValueError: empty or of different length, not four axes, NaN, a batch_size that is not a whole number
            of at least 1; an `augment` that is neither layer nor function, or a layer that changes labels
            without `y`; Keras's own MixUp or CutMix, which would mix the images and not the labels.

    Example:
        >>> digits = load_digits()
        >>> images, labels = next(iter(batches(digits.x_train, digits.y_train, 32)))
        >>> images.shape, images.dtype.name, labels.shape
        (TensorShape([32, 28, 28, 1]), 'float32', TensorShape([32]))
    """
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise RuntimeError(
            f"batches needs TensorFlow, but Keras runs on {backend}: give the arrays to "
            "`model.fit(x, y, batch_size=…)`, and put what augments into the model"
        )
    import tensorflow as tf

    x, y, batch_size = _check_batches(x, y, batch_size)
    # Whole images in memory are the cache; what is shuffled are their numbers, which costs nothing.
    order = tf.data.Dataset.range(len(x))
    if shuffle:
        order = order.shuffle(len(x), seed=seed, reshuffle_each_iteration=True)
    with tf.device("CPU:0"):  # where pipelines work: on a GPU the images would only take its memory
        images = tf.convert_to_tensor(x)
        labels = None if y is None else tf.convert_to_tensor(y)

    def pick(index, dtype="float32"):
        batch = tf.cast(tf.gather(images, index), dtype)
        return batch if labels is None else (batch, tf.gather(labels, index))

    order = order.batch(batch_size)
    if augment is None:
        return order.map(pick).prefetch(tf.data.AUTOTUNE)
    return _augmented(order, pick, augment, images.dtype, seed).prefetch(tf.data.AUTOTUNE)


def _augmented(order, pick, augment, dtype, seed):
    """Augment every batch: its images, and its labels where the layer takes them.

    Picked and augmented in one step, which is cheaper than two. A layer with `stateless` gets the images in
    the `dtype` of the set: it casts them itself, and bytes are fewer to move.
    """
    import tensorflow as tf

    if isinstance(augment, type) or not (callable(augment) or hasattr(augment, "stateless")):
        raise ValueError(f"augment={augment!r} must be a layer or a function; of several, a keras.Sequential")
    if _mixes_labels(augment):
        raise ValueError(
            f"augment={augment.name} changes labels too, but would get images alone here: take `MixUp` of "
            "augment.py, or map the layer over a dataset of dicts with images and labels"
        )
    is_layer, parallel = isinstance(augment, keras.Layer), hasattr(augment, "stateless")
    takes_labels = is_layer and "labels" in inspect.signature(augment.call).parameters

    def change(index, key):
        batch = pick(index, dtype if parallel else "float32")
        images, *labels = batch if isinstance(batch, tuple) else (batch,)
        if takes_labels and not labels:
            raise ValueError(f"augment={augment.name} changes labels too: give y")
        given, kept = ([images, *labels], []) if takes_labels else ([images], labels)
        if parallel:
            changed = augment.stateless(*given, seed=key)
        else:
            changed = augment(*given, training=True) if is_layer else augment(*given)
        return (changed, *kept) if kept else changed

    # Two random numbers for each batch, from the seed, other ones in every epoch.
    seed = getattr(augment, "seed", None) if seed is None else seed
    keys = tf.data.Dataset.random(seed, rerandomize_each_iteration=True).batch(2)
    return tf.data.Dataset.zip(order, keys).map(change, tf.data.AUTOTUNE if parallel else None)


def _mixes_labels(augment):
    """Whether it is, or holds, a layer of Keras's that leaves labels alone if it gets images alone."""
    inside = getattr(augment, "layers", ())
    return isinstance(augment, (keras.layers.MixUp, keras.layers.CutMix)) or any(map(_mixes_labels, inside))


def _check_batches(x, y, batch_size):
    x = np.asarray(x)
    if x.ndim != 4 or len(x) == 0 or x.dtype.kind not in "uif":
        raise ValueError(f"x has shape {x.shape} and dtype {x.dtype}; expected numbers (N, H, W, C), N > 0")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise ValueError("x holds NaN or infinity")
    if y is not None:
        y = np.asarray(y)
        if y.ndim == 0 or len(y) != len(x):
            raise ValueError(f"y has shape {y.shape}, expected {len(x)} labels, one for each image")
    return x, y, _whole("batch_size", batch_size)


def _whole(name, value, hint=""):
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"{name}={value!r} must be a whole number of at least 1{hint}")
    return number


def _find(filename, path, cached=False):
    """The file to read: `path`, the one in `$EVAKERAS_DATA`, the one in Keras's cache, or None."""
    if path is not None:
        if not Path(path).is_file():
            raise FileNotFoundError(f"path={str(path)!r} is not a file that exists")
        return Path(path)
    folder = os.environ.get("EVAKERAS_DATA")
    if folder and not Path(folder).is_dir():
        raise FileNotFoundError(f"EVAKERAS_DATA={folder!r} is not a folder that exists")
    places = [Path(folder)] if folder else []
    # We read Keras's cached file ourselves: Keras deletes a damaged one when it cannot download it again.
    home = Path(os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras"))
    places += [home / "datasets"] if cached else []
    files = [place / filename for place in places]
    return next((file for file in files if file.exists() or file.is_symlink()), None)


class _SmallReads(io.FileIO):
    """A file that is read in small pieces: no archive's table of contents can be gigabytes."""

    def read(self, size=-1):
        if size > 2**20:
            raise ValueError("its table of contents is too long")
        return super().read(size)


class _Header(NamedTuple):
    """What a member of an `.npz` says it is."""

    shape: tuple
    dtype: np.dtype


def _read_npz(path, names, check):
    """The named arrays of an `.npz` whose headers pass `check`; any other file is a ValueError that names it.

    All headers are looked at before memory is asked for: a small file can claim, and inflate to, gigabytes.
    """
    try:
        if not Path(path).is_file():
            raise ValueError("it is no file")  # a pipe would be waited for, a device has no end
        with _SmallReads(path) as file, zipfile.ZipFile(file) as archive:
            members = [_member(archive, name) for name in names]
            if sum(member.file_size for member in members) > _MOST_BYTES:
                raise ValueError(f"its arrays have more than {_MOST_BYTES:,} bytes")
            check(*[_header(archive, member) for member in members])
            return [_array(archive, member) for member in members]
    except PermissionError:
        raise
    except Exception as error:  # a damaged archive fails in a dozen ways, from zlib's to NumPy's
        wanted = ", ".join(names)
        raise ValueError(f"{path} is damaged or not an .npz of {wanted}: {str(error)[:300]}") from error


def _member(archive, name):
    """The one member of that name, packed as NumPy does: bzip2 and LZMA would inflate it without limit."""
    found = [member for member in archive.infolist() if member.filename in (name, f"{name}.npy")]
    if len(found) != 1:
        raise ValueError(f"it holds {name} {len(found)} times")
    if found[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is neither stored nor deflated")
    return found[0]


def _header(archive, member):
    """Shape and type of an array, if that is what the member has bytes for."""
    with archive.open(member) as file:
        if np.lib.format.read_magic(file) != (1, 0):  # later versions are for what no data set here has
            raise ValueError(f"{member.filename} is not of version 1.0")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file, max_header_size=_MOST_HEADER)
        bytes_left = member.file_size - file.tell()
    if dtype.hasobject or min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != bytes_left:
        raise ValueError(f"{member.filename} is {dtype} {shape} in {bytes_left:,} bytes")
    return _Header(shape, dtype)


def _array(archive, member):
    with archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False, max_header_size=_MOST_HEADER)


def _read_mnist(path):
    arrays = _read_npz(path, ["x_train", "y_train", "x_test", "y_test"], _check_mnist)
    for labels in arrays[1::2]:
        _check_labels(path, labels)
    return arrays


def _check_mnist(x_train, y_train, x_test, y_test):
    for part, images, labels in (("train", x_train, y_train), ("test", x_test, y_test)):
        if images.shape != (_count(labels), 28, 28) or images.dtype != np.uint8:
            raise ValueError(
                f"x_{part} is {images.dtype} {images.shape} and y_{part} is {labels.shape}, "
                "expected uint8 (N, 28, 28) and (N,)"
            )


def _count(labels):
    """How many labels there are, by their header."""
    if len(labels.shape) != 1 or labels.shape[0] == 0 or labels.dtype.kind not in "ui":
        raise ValueError(f"labels are {labels.dtype} {labels.shape}, expected integers (N,)")
    return labels.shape[0]


def _check_labels(path, labels):
    if labels.min() < 0 or labels.max() > 9:
        raise ValueError(f"{path}: labels reach {labels.min()} … {labels.max()}, expected 0 … 9")


def _read_cifar10(path, limit):
    parts = ["jpeg", "offsets", "labels"]
    names = [f"{split}_{part}" for split in ("train", "test") for part in parts]
    arrays = _read_npz(path, names, _check_cifar10)
    result = []
    for jpeg, offsets, labels in (arrays[:3], arrays[3:]):
        _check_labels(path, labels)
        if not _fits(jpeg, offsets):
            raise ValueError(
                f"{path} is damaged: its offsets do not cut it into pictures of at most {_MOST_JPEG:,} bytes"
            )
        n = len(labels) if limit is None else min(limit, len(labels))
        result += [_decode(path, jpeg, offsets[: n + 1]), labels[:n]]
    return result


def _check_cifar10(*headers):
    for jpeg, offsets, labels in (headers[:3], headers[3:]):
        if _count(labels) * 32 * 32 * 3 > _MOST_BYTES // 2:
            raise ValueError(f"its pictures would have more than {_MOST_BYTES:,} bytes")
        if offsets.shape != (_count(labels) + 1,) or offsets.dtype.kind not in "ui":
            raise ValueError(f"offsets are {offsets.dtype} {offsets.shape}, expected integers (N + 1,)")
        if len(jpeg.shape) != 1 or jpeg.dtype != np.uint8:
            raise ValueError(f"pictures are {jpeg.dtype} {jpeg.shape}, expected uint8 (bytes,)")


def _fits(jpeg, offsets):
    """Whether the offsets cut the bytes into files, none of them empty or far too long."""
    if offsets[0] != 0 or offsets[-1] != len(jpeg) or not (offsets[1:] > offsets[:-1]).all():
        return False
    return bool(np.diff(offsets).max() <= _MOST_JPEG)


def _decode(path, jpeg, offsets):
    from PIL import Image

    images = np.empty((len(offsets) - 1, 32, 32, 3), np.uint8)
    for i, (start, stop) in enumerate(itertools.pairwise(offsets)):
        try:
            picture = Image.open(io.BytesIO(jpeg[start:stop].tobytes()), formats=["JPEG"])
            if (picture.size, picture.mode) != ((32, 32), "RGB"):
                raise ValueError(f"it is {picture.size} {picture.mode}, expected (32, 32) RGB")
            images[i] = np.asarray(picture)
        except Exception as error:  # Pillow's for a picture that claims to be huge is of neither kind
            raise ValueError(f"{path} is damaged: image {i} cannot be read: {error}") from error
    return images


def _keras_download(module):
    """The four arrays of a Keras data set, or None and why it can be neither found nor loaded."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT)  # Keras sets none: a silent network would hang for ever
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # for all threads, as the timeout is
            (x_train, y_train), (x_test, y_test) = module.load_data()
        return (x_train, y_train, x_test, y_test), ""
    except Exception as error:
        # Keras raises a bare Exception where the address cannot be reached, a ValueError for a wrong hash.
        if isinstance(error, OSError) or type(error) is Exception:
            return None, " ".join(str(error).split())[:200] or type(error).__name__
        raise
    finally:
        socket.setdefaulttimeout(before)


def _dataset(name, x_train, y_train, x_test, y_test, class_names):
    images = [x if x.ndim == 4 else x[..., np.newaxis] for x in (x_train, x_test)]
    labels = [np.asarray(y).reshape(-1).astype(np.int64) for y in (y_train, y_test)]
    return ImageDataset(name, images[0], labels[0], images[1], labels[1], class_names)


def _check_limit(limit):
    if limit is not None:
        _whole("limit", limit, ", or None for all")


def _limited(dataset, limit):
    if limit is None:
        return dataset
    names = ("x_train", "y_train", "x_test", "y_test")  # copies, so that the rest can be forgotten
    return dataset._replace(**{name: getattr(dataset, name)[:limit].copy() for name in names})
