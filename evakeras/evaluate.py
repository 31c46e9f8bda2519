"""Read results: the gap between training and validation, mean and spread over seeds, misread images.

This file works alone: copy it into an assignment and `import evaluate`. It needs NumPy.
"""

import operator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["Gap", "Misclassified", "Summary", "gap", "misclassified", "summarize"]


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
        ValueError: not a dict or `History`; one of the two lists is missing, empty, longer than the other, or
            not between 0 and 1; an epoch outside of them.

    Example:
        >>> gap({"accuracy": [0.9933], "val_accuracy": [0.9884]}).reach.__round__(4)
        0.9951
    """
    history = getattr(history, "history", history)
    if not isinstance(history, dict):
        raise ValueError(f"history is a {type(history).__name__}, expected a dict of lists or a History")
    values = []
    for key in ("accuracy", "val_accuracy"):
        if np.ndim(history.get(key)) != 1 or not len(history[key]):
            raise ValueError(f"history has no list of fractions under {key!r}; it has {sorted(history)}")
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


class Misclassified(NamedTuple):
    """Images that a model puts into the wrong class, the surest mistake first.

    `index` tells where they are in the images given; `actual` and `predicted` are classes, all int64 `(n,)`.
    `confidence` is the model's output for the predicted class, float64 `(n,)`: with a softmax, a probability.
    """

    index: np.ndarray
    actual: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray


def misclassified(
    model, x: np.ndarray, y: np.ndarray, limit: int | None = 25, *, batch_size: int = 256
) -> Misclassified:
    """Find images that the model puts into the wrong class.

    Args:
        model: a Keras model, or anything whose `predict(x, batch_size=…, verbose=0)` returns `(N, classes)`.
        x: the images `(N, …)` as the model takes them.
        y: their classes, integers `(N,)`.
        limit: how many to return at most; None returns all.
        batch_size: images that are read at a time.

    Returns:
        A `Misclassified`, at most `limit` long; empty where every image is read right.

    Raises:
        ValueError: labels that do not fit to images or outputs, a negative limit, outputs that hold NaN.

    Example:
        >>> class Always7:
        ...     def predict(self, x, **options):
        ...         return np.tile(np.eye(10)[7], (len(x), 1))
        >>> misclassified(Always7(), np.zeros((3, 28, 28, 1)), np.array([7, 1, 7])).index
        array([1])
    """
    x, y = np.asarray(x), np.asarray(y)
    if y.ndim != 1 or y.dtype.kind not in "ui" or len(y) == 0 or len(x) != len(y):
        hint = ""
        if y.ndim == 2:
            column = y.shape[1] == 1  # as Keras's own CIFAR-10
            hint = "; a column of labels: y.ravel()" if column else "; one-hot labels: y.argmax(axis=1)"
        raise ValueError(
            f"y is {y.dtype} {y.shape} for {len(x)} images, expected one integer class for each{hint}"
        )
    try:
        if limit is not None and operator.index(limit) < 0:
            raise TypeError
    except TypeError:
        raise ValueError(f"limit={limit!r} must be a whole number of at least 0, or None") from None
    outputs = np.asarray(model.predict(x, batch_size=batch_size, verbose=0), np.float64)
    if outputs.ndim != 2 or len(outputs) != len(y) or not np.isfinite(outputs).all():
        raise ValueError(f"the model returns {outputs.shape}, expected finite numbers ({len(y)}, classes)")
    if y.min() < 0 or y.max() >= outputs.shape[1]:
        raise ValueError(
            f"y goes from {y.min()} to {y.max()}, but the model knows {outputs.shape[1]} classes"
        )
    predicted = outputs.argmax(axis=1)
    confidence = outputs.max(axis=1)
    wrong = np.flatnonzero(predicted != y)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][:limit]
    return Misclassified(wrong, y[wrong].astype(np.int64), predicted[wrong], confidence[wrong])
