"""Read results: the gap between training and validation, mean and spread over seeds.

This file works alone: copy it into an assignment and `import evaluate`. It needs NumPy.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["Gap", "Summary", "gap", "summarize"]


class Gap(NamedTuple):
    """Training against validation accuracy, all as fractions of 1.

    `gap` is train − validation; `headroom` is 1 − train, what the notes add to the validation accuracy to
    guess what the model could `reach`.
    """

    train: float
    validation: float
    gap: float
    headroom: float
    reach: float


def gap(history: dict, epoch: int = -1) -> Gap:
    """Measure the gap between training and validation accuracy.

    Training accuracy in a Keras history is an average over the epoch, taken while the weights still changed
    and with dropout on. With dropout it is too low, the gap too small and `reach` may exceed 1.

    Args:
        history: dict with "accuracy" and "val_accuracy", a list of fractions each; a Keras `History` too.
        epoch: index of the epoch, the last by default.

    Returns:
        A `Gap`.

    Raises:
        ValueError: one of the two is missing, empty, or not between 0 and 1.

    Example:
        >>> gap({"accuracy": [0.9933], "val_accuracy": [0.9884]}).reach.__round__(4)
        0.9951
    """
    history = getattr(history, "history", history)
    if not isinstance(history, dict):
        raise ValueError(f"history is a {type(history).__name__}, expected a dict of lists or a History")
    values = []
    for key in ("accuracy", "val_accuracy"):
        if not len(history.get(key, ())):
            raise ValueError(f"history has no {key!r}; it has {sorted(history)}")
        try:
            values.append(float(history[key][epoch]))
        except IndexError:
            raise ValueError(f"epoch={epoch} is outside a history of {len(history[key])}") from None
    if len(history["accuracy"]) != len(history["val_accuracy"]):
        raise ValueError("history has 'accuracy' and 'val_accuracy' of different length")
    train, validation = values
    if not (0 <= train <= 1 and 0 <= validation <= 1):
        raise ValueError(f"accuracies {train} and {validation} must lie between 0 and 1")
    return Gap(train, validation, train - validation, 1 - train, validation + 1 - train)


class Summary(NamedTuple):
    """Mean, sample standard deviation (nan for a single value), smallest, largest and number of values."""

    mean: float
    std: float
    low: float
    high: float
    n: int

    def percent(self, digits: int = 2) -> str:
        """As text in percent, "99.43 ± 0.04"; a single value has no spread."""
        spread = "" if self.n == 1 else f" ± {100 * self.std:.{digits}f}"
        return f"{100 * self.mean:.{digits}f}{spread}"


def summarize(values: ArrayLike) -> Summary:
    """Summarize one figure over several seeds.

    Args:
        values: numbers, one per seed, at least one.

    Returns:
        A `Summary`; the standard deviation is the sample's, with n − 1.

    Raises:
        ValueError: no values, more than one axis, NaN.

    Example:
        >>> summarize([0.9940, 0.9944, 0.9945]).percent()
        '99.43 ± 0.03'
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f"values={values} must be a list of finite numbers, at least one")
    std = values.std(ddof=1) if len(values) > 1 else np.nan
    return Summary(*map(float, (values.mean(), std, values.min(), values.max())), len(values))
