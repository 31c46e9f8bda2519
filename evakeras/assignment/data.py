"""Load the digits, and augment them."""

from typing import NamedTuple

import keras
import numpy as np

from helpers.data import load_mnist


class Digits(NamedTuple):
    """Images `(N, 28, 28, 1)` from 0 to 1, and labels 0 to 9.

    Some to fit, some to validate after each epoch, and those to test, read once at the end.
    """

    name: str
    x_fit: np.ndarray
    y_fit: np.ndarray
    x_validation: np.ndarray
    y_validation: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray

    def __str__(self):
        name = "MNIST" if self.name == "mnist" else "scikit-learn's small digits (not MNIST)"
        parts = f"{len(self.x_fit):,} images to fit, {len(self.x_validation):,} to validate"
        return f"{name}, {parts}, {len(self.x_test):,} to test"


def load(plan):
    """MNIST, or small digits where it cannot be had. The last twelfth to train with is kept to validate."""
    found = load_mnist(limit=plan.images)
    images = found.x_train.astype("float32") / 255
    fit = len(images) - len(images) // 12
    return Digits(
        found.name,
        images[:fit],
        found.y_train[:fit],
        images[fit:],
        found.y_train[fit:],
        found.x_test.astype("float32") / 255,
        found.y_test,
    )


def augmentation():
    """Layers for the beginning of the model. They change images while it trains, and only then."""
    return [
        keras.layers.RandomRotation(10 / 360, fill_mode="constant"),  # up to 10 degrees either way
        keras.layers.RandomTranslation(0.08, 0.08, fill_mode="constant"),  # up to 2 pixels
    ]
