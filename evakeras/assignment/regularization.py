"""The ways to regularize: dropout, L1, L2, both."""

import keras

import settings
from helpers.regularizers import add_kernel_regularizer

PENALTIES = {
    "without": None,
    "L1": keras.regularizers.L1(settings.L1),
    "L2": keras.regularizers.L2(settings.L2),
    "both": keras.regularizers.L1L2(settings.L1, settings.L2),
}


def penalize(model, penalty):
    """Give every kernel of the model, whatever its layers, the penalty of that name."""
    return add_kernel_regularizer(model, PENALTIES[penalty])


def dropout():
    """A layer that drops values while the model trains; with a rate of 0 it does nothing."""
    return keras.layers.Dropout(settings.DROPOUT)
