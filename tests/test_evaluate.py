"""The gap between training and validation, and summaries over seeds."""

import math
import statistics

import keras
import numpy as np
import pytest
from conftest import readable
from hypothesis import given
from hypothesis import strategies as st

from evakeras.evaluate import gap, misclassified, summarize

accuracies = st.floats(0, 1)
HISTORY = {"accuracy": [0.90, 0.99], "val_accuracy": [0.92, 0.95], "loss": [0.3, 0.1]}


@given(accuracies, accuracies)
def test_gap_headroom_and_reach_follow_from_the_two_accuracies(train, validation):
    found = gap({"accuracy": [train], "val_accuracy": [validation]})
    assert (found.train, found.validation) == (train, validation)
    assert found.gap == train - validation
    assert found.headroom == 1 - train
    assert math.isclose(found.reach, validation + (1 - train), abs_tol=1e-15)


def test_gap_reads_the_last_epoch_unless_told():
    assert gap(HISTORY).train == 0.99
    assert gap(HISTORY, epoch=0) == gap({"accuracy": [0.90], "val_accuracy": [0.92]})


def test_gap_takes_a_keras_history():
    history = keras.callbacks.History()
    history.history = HISTORY
    assert gap(history) == gap(HISTORY)


def test_gap_reads_numpy_arrays():
    assert gap({key: np.array(values) for key, values in HISTORY.items()}) == gap(HISTORY)


@pytest.mark.parametrize(
    "history, message",
    [
        ({}, "'accuracy'"),
        ({"accuracy": [0.9]}, "'val_accuracy'"),
        ({"accuracy": [], "val_accuracy": []}, "no list of fractions under 'accuracy'"),
        ({"accuracy": None, "val_accuracy": [0.9]}, "'accuracy'"),
        ({"accuracy": [99.4], "val_accuracy": [0.9]}, "between 0 and 1"),
        ({"accuracy": [0.9], "val_accuracy": [-0.1]}, "between 0 and 1"),
        ({"accuracy": [np.nan], "val_accuracy": [0.9]}, "between 0 and 1"),
    ],
)
def test_gap_refuses_a_history_without_two_accuracies(history, message):
    with pytest.raises(ValueError, match=message):
        gap(history)


@pytest.mark.parametrize("epoch", [2, -3])
def test_gap_refuses_an_epoch_outside_the_history(epoch):
    with pytest.raises(ValueError, match="outside a history of 2"):
        gap(HISTORY, epoch)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=10))
def test_summary_agrees_with_the_standard_library(values):
    found = summarize(values)
    assert math.isclose(found.mean, statistics.fmean(values), rel_tol=1e-12, abs_tol=1e-9)
    assert math.isclose(found.std, statistics.stdev(values), rel_tol=1e-9, abs_tol=1e-9)
    assert (found.low, found.high, found.n) == (min(values), max(values), len(values))


def test_summary_of_one_value_has_no_spread():
    found = summarize([0.9943])
    assert (found.mean, found.low, found.high, found.n) == (0.9943, 0.9943, 0.9943, 1)
    assert math.isnan(found.std)
    assert found.percent() == "99.43"


def test_summary_reads_as_percent():
    values = [0.990, 0.992, 0.994]
    assert summarize(values).percent() == "99.20 ± 0.20"
    assert summarize(values).percent(digits=1) == "99.2 ± 0.2"


@pytest.mark.parametrize("values", [[], [[0.9, 0.8]], [0.9, np.nan], [np.inf], 0.9], ids=readable)
def test_summary_refuses_what_is_not_a_list_of_finite_numbers(values):
    with pytest.raises(ValueError, match="values"):
        summarize(values)


class Table:
    """A model that looks its outputs up: the images are row numbers."""

    def __init__(self, outputs):
        self.outputs = np.asarray(outputs)

    def predict(self, x, batch_size, verbose):
        parts = [self.outputs[x[i : i + batch_size]] for i in range(0, len(x), batch_size)]
        return np.concatenate(parts)


OUTPUTS = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_misclassified_finds_exactly_the_wrong_ones_and_the_surest_first(rows, random):
    labels = np.array([random.randint(0, 1) for _ in rows])
    found = misclassified(Table(OUTPUTS), np.array(rows), labels, limit=None, batch_size=7)
    wrong = [i for i, row in enumerate(rows) if int(OUTPUTS[row][1] > 0.5) != labels[i]]
    assert sorted(found.index) == wrong
    assert list(found.actual) == [labels[i] for i in found.index]
    assert list(found.predicted) == [1 - labels[i] for i in found.index]
    assert list(found.confidence) == sorted((max(OUTPUTS[rows[i]]) for i in wrong), reverse=True)


def test_misclassified_keeps_to_the_limit_and_may_be_empty():
    x, wrong = np.arange(4), np.array([1, 0, 1, 0])
    for two in (2, np.int64(2)):
        assert list(misclassified(Table(OUTPUTS), x, wrong, limit=two).index) == [0, 1]
    assert [len(part) for part in misclassified(Table(OUTPUTS), x, 1 - wrong)] == [0, 0, 0, 0]


def test_misclassified_reads_a_keras_model():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Softmax()])
    found = misclassified(model, OUTPUTS.astype("float32"), np.array([1, 1, 1, 1]))
    assert list(found.index) == [0, 2]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"y": np.eye(2)[[0, 1, 0, 1]]}, "argmax"),
        ({"y": np.array([[0], [1], [0], [1]])}, "ravel"),
        ({"y": np.array([0.0, 1.0, 0.0, 1.0])}, "float64 .* class for each$"),
        ({"y": np.array([0, 1, 0])}, "4 images, expected one integer class for each$"),
        ({"x": np.arange(0), "y": np.arange(0)}, "0 images"),
        ({"y": np.array([0, 1, 2, 1])}, "knows 2 classes"),
        ({"y": np.array([0, 1, -1, 1])}, "from -1"),
        ({"limit": -1}, "limit=-1"),
        ({"limit": 2.5}, "limit=2.5"),
        ({"model": Table(OUTPUTS * np.nan)}, "finite"),
        ({"model": Table(OUTPUTS[:, 0])}, "classes"),
    ],
    ids=["one-hot", "a column", "float labels", "too few labels", "empty", "unknown class", "negative class",
         "negative limit", "half a limit", "NaN", "one output"],
)  # fmt: skip
def test_misclassified_refuses_bad_input(changes, message):
    arguments = {"model": Table(OUTPUTS), "x": np.arange(4), "y": np.array([1, 0, 1, 0]), **changes}
    with pytest.raises(ValueError, match=message):
        misclassified(**arguments)
