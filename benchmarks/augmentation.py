"""Images per second of `data.batches` with the layer of `from_image_data_generator`, against the `flow` of
`ImageDataGenerator` with the same arguments, and against SciPy's `affine_transform` image by image, which
only turns them.

All run in one process on the same cores, in turns. A repeat is one pass over all images, its beginning and
its last, smaller batch included. Before, each has made one pass, in which TensorFlow compiles.
"""

import numpy as np
from scipy import ndimage
from tensorflow.keras.preprocessing.image import ImageDataGenerator
from timing import in_turns, speed_row

from evakeras import augment, data

ARGUMENTS = {
    "horizontal_flip": True,
    "width_shift_range": 0.1,
    "height_shift_range": 0.1,
    "rotation_range": 20,
    "zoom_range": 0.1,
}


def rows(quick=False):
    """One row for each set of images, batch size and baseline."""
    mnist = data.load_mnist().x_train
    if quick:
        mnist = mnist[:10_000]
    sets = {f"{len(mnist):,} digits 28×28×1": mnist, "photographs 224×224×3": crops(400 if quick else 1000)}
    result = []
    for name, images in sets.items():
        for batch_size in (32, 128):
            found = in_turns(passes(images, batch_size), repeats=3 if quick else 7)
            speeds = {side: [len(images) / each for each in seconds] for side, seconds in found.items()}
            ours, what = speeds.pop("evakeras"), f"{name}, batches of {batch_size}"
            result += [speed_row(what, side, ours, theirs, "images/s") for side, theirs in speeds.items()]
    return result


def crops(count):
    """Pieces of the photograph of a flower, uint8 `(count, 224, 224, 3)`."""
    photo, rng = data.load_photo("flower"), np.random.default_rng(0)
    corners = zip(rng.integers(0, 427 - 224, count), rng.integers(0, 640 - 224, count), strict=True)
    return np.stack([photo[row : row + 224, column : column + 224] for row, column in corners])


def passes(images, batch_size):
    """Functions that make one pass over the images and return how many came out."""
    layer = augment.from_image_data_generator(**ARGUMENTS)
    ours = data.batches(images, batch_size=batch_size, augment=layer)
    flow = ImageDataGenerator(**ARGUMENTS).flow(images, batch_size=batch_size)
    return {
        "evakeras": lambda: sum(len(batch) for batch in ours),
        "ImageDataGenerator.flow": lambda: sum(len(flow[number]) for number in range(len(flow))),
        "NumPy and SciPy": lambda: sum(
            len(moved(images, start, batch_size)) for start in range(0, len(images), batch_size)
        ),
    }


def moved(images, start, batch_size):
    """A batch by hand: each image turned by one matrix, channel by channel."""
    batch = images[start : start + batch_size].astype("float32")
    for image, angle in zip(batch, np.random.uniform(-np.pi / 9, np.pi / 9, len(batch)), strict=True):
        matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        center = (np.array(image.shape[:2]) - 1) / 2
        for channel in range(image.shape[2]):
            image[..., channel] = ndimage.affine_transform(
                image[..., channel], matrix, center - matrix @ center, order=1, mode="nearest"
            )
    return batch
