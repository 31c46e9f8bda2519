"""A run ends with the same bits however often it was cut off, and never mixes two configurations."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import readable
from keras import layers

from evakeras import train

HERE = Path(__file__).parent
RNG = np.random.default_rng(0)
X, Y = RNG.random((40, 6, 6, 1), dtype=np.float32), RNG.integers(0, 3, 40)
VALIDATION = (RNG.random((10, 6, 6, 1), dtype=np.float32), RNG.integers(0, 3, 10))
EPOCHS = 3


def make(units=5, rate=0.01, dropout=0.3, loss="sparse_categorical_crossentropy"):
    """A small model with all that makes resuming hard: dropout, a random layer, moving averages, Adam."""
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.RandomFlip(),
            layers.Flatten(),
            layers.Dense(units, "relu"),
            layers.BatchNormalization(),
            layers.Dropout(dropout),
            layers.Dense(3, "softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    return model


def make_tiny(units=3):
    """A model that is quick to build, for what does not depend on the layers."""
    model = keras.Sequential([keras.Input((6, 6, 1)), layers.Flatten(), layers.Dense(units, "softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


def go(folder, build=make, x=X, y=Y, **changes):
    settings = {"epochs": EPOCHS, "seed": 3, "batch_size": 16, "validation_data": VALIDATION, **changes}
    return train.run(build, x, y, folder=folder, **settings)


def bits(result, epoch=None):
    """All that training changed: weights, moving averages, the optimizer's moments."""
    model = result.model(epoch)
    variables = [v for v in model.variables if "seed" not in v.path] + list(model.optimizer.variables)
    return [variable.numpy() for variable in variables]


def assert_same_bits(found, expected):
    assert found.history == expected.history
    for ours, theirs in zip(bits(found), bits(expected), strict=True):
        assert np.array_equal(ours, theirs)


def snapshot(folder):
    return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run in one piece. Tests that change its folder copy it first."""
    return go(tmp_path_factory.mktemp("runs") / "whole")


@pytest.fixture
def copied(whole, tmp_path):
    return Path(shutil.copytree(whole.folder, tmp_path / "whole"))


class Bar:
    """A progress bar that presses Ctrl-C after some epochs."""

    def __init__(self, stop_after=None):
        self.done, self.stop_after = 0, stop_after

    def update(self, epochs=1):
        self.done += epochs
        if self.done == self.stop_after:
            raise KeyboardInterrupt

    def set_description(self, *_, **__): ...

    def set_postfix(self, *_, **__): ...


def interrupt_call(monkeypatch, owner, name, number):
    """Let Ctrl-C arrive just before the given call of a function."""
    original, calls = getattr(owner, name), []

    def interrupted(*args, **kwargs):
        calls.append(name)
        if len(calls) == number:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, interrupted)


# What a run returns


def test_run_returns_one_number_per_epoch_for_each_metric(whole):
    assert set(whole.history) == {"accuracy", "loss", "val_accuracy", "val_loss"}
    assert all(len(values) == EPOCHS for values in whole.history.values())
    assert all(type(value) is float for values in whole.history.values() for value in values)
    assert len(whole.seconds) == EPOCHS and min(whole.seconds) > 0
    assert (whole.name, whole.seed, whole.read_back) == ("whole", 3, False)


def test_run_returns_what_the_model_measures(whole):
    measured = whole.model().evaluate(*VALIDATION, verbose=0, return_dict=True)
    for metric in ("loss", "accuracy"):
        assert measured[metric] == pytest.approx(whole.history[f"val_{metric}"][-1], rel=1e-6)


def test_run_keeps_its_state_and_the_last_model_only(whole):
    assert sorted(snapshot(whole.folder)) == [f"epoch-{EPOCHS:02d}.keras", "state.json"]
    with pytest.raises(FileNotFoundError, match="keep_epochs"):
        whole.model(1)


def test_run_trains_on_every_image_once_per_epoch(tmp_path):
    seen = []

    class Recorder(keras.Sequential):
        def train_step(self, batch):
            seen.append(np.ravel(batch[0]))
            return super().train_step(batch)

    def build():
        model = Recorder([keras.Input((1,)), layers.Dense(1)])
        model.compile("sgd", "mse", run_eagerly=True)
        return model

    numbers = np.arange(10, dtype=np.float32).reshape(10, 1)
    train.run(build, numbers, numbers, epochs=2, folder=tmp_path, batch_size=4)
    assert [len(batch) for batch in seen] == [4, 4, 2] * 2
    first, second = np.concatenate(seen[:3]), np.concatenate(seen[3:])
    assert sorted(first) == sorted(second) == list(range(10))
    assert not np.array_equal(first, second)


def test_keep_epochs_keeps_the_model_of_every_epoch(whole, tmp_path):
    kept = go(tmp_path / "kept", keep_epochs=True)
    assert_same_bits(kept, whole)
    names = [f"epoch-{epoch:02d}.keras" for epoch in range(1, EPOCHS + 1)]
    assert sorted(snapshot(kept.folder)) == [*names, "state.json"]
    for epoch in range(1, EPOCHS + 1):
        loss = kept.model(epoch).evaluate(*VALIDATION, verbose=0, return_dict=True)["loss"]
        assert loss == pytest.approx(kept.history["val_loss"][epoch - 1], rel=1e-6)
    with pytest.raises(FileNotFoundError):
        kept.model(EPOCHS + 1)


def test_finished_run_is_read_back_and_not_trained_again(whole, monkeypatch):
    before = snapshot(whole.folder)
    interrupt_call(monkeypatch, keras.Model, "fit", number=1)
    bar = Bar()
    again = go(whole.folder, progress=bar)
    assert again.read_back and bar.done == EPOCHS
    assert_same_bits(again, whole)
    assert again.seconds == whole.seconds
    assert snapshot(whole.folder) == before


def test_same_seed_gives_the_same_bits_and_another_seed_other_ones(whole, tmp_path):
    np.random.seed(99)
    keras.utils.set_random_seed(99)  # what happened before does not matter
    assert_same_bits(go(tmp_path / "same"), whole)
    other = go(tmp_path / "other", seed=4)
    assert other.history != whole.history
    assert not np.array_equal(bits(other)[0], bits(whole)[0])


def test_run_without_validation_data_has_no_validation_metrics(tmp_path):
    assert set(go(tmp_path, make_tiny, validation_data=None, epochs=1).history) == {"loss"}


# Interrupted runs


def test_run_interrupted_between_epochs_ends_with_the_same_bits(whole, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, progress=Bar(stop_after=1))
    bar = Bar()
    resumed = go(tmp_path, progress=bar)
    assert not resumed.read_back and bar.done == EPOCHS
    assert_same_bits(resumed, whole)
    assert sorted(snapshot(tmp_path)) == sorted(snapshot(whole.folder))


@pytest.mark.parametrize(
    "owner, name, number",
    [(keras.Model, "save", 2), (os, "replace", 4), (Path, "unlink", 2)],
    ids=["trained but not saved", "saved without its state", "old model not removed"],
)
def test_run_interrupted_while_writing_ends_with_the_same_bits(owner, name, number, whole, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        interrupt_call(patch, owner, name, number)
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path)
    assert_same_bits(go(tmp_path), whole)
    assert sorted(snapshot(tmp_path)) == sorted(snapshot(whole.folder))


KILLED = """
import os, signal, sys
sys.path[:0] = sys.argv[2:]
import test_train

original, calls = os.replace, []
def replace(*args):
    calls.append(args)
    if len(calls) == 3:  # the model of the second epoch is written, but not yet in its place
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args)
os.replace = replace
test_train.go(sys.argv[1])
"""


def test_killed_process_is_continued_by_another_with_the_same_bits(whole, tmp_path):
    paths = [str(HERE), str(HERE.parent)]
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), *paths], capture_output=True)
    assert killed.returncode == -9, killed.stderr.decode()[-2000:]
    assert len(json.loads((tmp_path / "state.json").read_text())["seconds"]) == 1
    assert_same_bits(go(tmp_path), whole)


def test_unfinished_drafts_are_ignored(whole, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, progress=Bar(stop_after=1))
    for name in ("draft-epoch-02.keras", "draft-state.json", "epoch-02.keras"):
        (tmp_path / name).write_bytes(b"cut off in the middle")
    assert_same_bits(go(tmp_path), whole)


# Other configurations, damaged files


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"epochs": EPOCHS + 1}, "epochs was 3, is now 4"),
        ({"seed": 4}, "seed was 3, is now 4"),
        ({"batch_size": 8}, "batch_size was 16, is now 8"),
        ({"keep_epochs": True}, "keep_epochs"),
        ({"build": lambda: make(units=6)}, "units was 5, is now 6"),
        ({"build": lambda: make(rate=0.02)}, "learning_rate"),
        ({"build": lambda: make(dropout=0.4)}, "rate was 0.3, is now 0.4"),
        ({"build": lambda: make(loss="poisson")}, "loss"),
        ({"x": X + 1}, "data"),
        ({"x": X[::-1].copy()}, "data"),
        ({"x": X.astype(np.float64)}, "data"),
        ({"y": (Y + 1) % 3}, "data"),
        ({"x": X[:20], "y": Y[:20]}, "data"),
        ({"validation_data": None}, "data"),
        ({"validation_data": (X, Y)}, "data"),
    ],
    ids=["epochs", "seed", "batch size", "keep_epochs", "width", "learning rate", "dropout", "loss", "images",
         "order of images", "type of images", "labels", "fewer images", "no validation", "other validation"],
)  # fmt: skip
def test_changed_configuration_is_refused_and_nothing_changed(changes, message, whole):
    before = snapshot(whole.folder)
    with pytest.raises(ValueError, match=f"another configuration: .*{message}"):
        go(whole.folder, **changes)
    assert snapshot(whole.folder) == before


def test_changed_configuration_is_refused_for_an_unfinished_run_too(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, make_tiny, progress=Bar(stop_after=1))
    with pytest.raises(ValueError, match="seed was 3, is now 4"):
        go(tmp_path, make_tiny, seed=4)


def without(key, state):
    return {k: v for k, v in state.items() if k != key}


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[:-20],
        lambda text: "\x00" * len(text),
        lambda text: "[]",
        lambda text: "null",
        lambda text: "{}",
        lambda text: json.dumps(without("history", json.loads(text))),
        lambda text: json.dumps(without("seconds", json.loads(text))),
        lambda text: json.dumps({**json.loads(text), "history": 3}),
        lambda text: json.dumps({**json.loads(text), "seconds": [1.0] * 9}),
        lambda text: json.dumps({**json.loads(text), "history": {"loss": [1.0]}}),
    ],
    ids=["empty", "cut off", "zeros", "a list", "null", "nothing in it", "no history", "no seconds",
         "history is a number", "too many epochs", "history too short"],
)  # fmt: skip
def test_damaged_state_is_refused_by_name(damage, copied):
    state = copied / "state.json"
    state.write_text(damage(state.read_text()))
    before = snapshot(copied)
    with pytest.raises(ValueError, match=r"state\.json is damaged"):
        go(copied)
    assert snapshot(copied) == before


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"epochs": 0}, "epochs=0"),
        ({"epochs": -1}, "epochs=-1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"build": lambda: keras.Sequential([keras.Input((6, 6, 1)), layers.Flatten()])}, "compile"),
        ({"x": X[:0], "y": Y[:0]}, "x and y"),
        ({"y": Y[:-1]}, "x and y"),
        ({"y": np.array(1)}, "x and y"),
        ({"x": np.where(X > 0.99, np.nan, X)}, "NaN"),
        ({"x": np.where(X > 0.99, np.inf, X)}, "infinity"),
        ({"validation_data": (X, Y[:-1])}, "validation_data"),
        ({"validation_data": (X[:0], Y[:0])}, "validation_data"),
        ({"validation_data": (X,)}, "validation_data"),
        ({"validation_data": (X * np.nan, Y)}, "validation_data.*NaN"),
    ],
    ids=["no epochs", "negative epochs", "empty batches", "not compiled", "no images", "few labels",
         "one label", "NaN", "infinity", "few validation labels", "no validation images",
         "validation without labels", "NaN in validation"],
)  # fmt: skip
def test_bad_arguments_are_refused_before_anything_is_written(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        go(tmp_path / "new", **changes)
    assert not (tmp_path / "new").exists()


# Studies


def study(folder, variants=None, **changes):
    variants = variants or {"narrow": lambda: make_tiny(3), "wide": lambda: make_tiny(9)}
    settings = {"epochs": 1, "seeds": (5, 1), "batch_size": 20, **changes}
    return train.study(variants, X, Y, folder=folder, **settings)


def test_study_orders_runs_by_variant_and_seed_and_prints_one_line(tmp_path, capfd):
    runs = study(tmp_path)
    assert capfd.readouterr().out == "4 runs of 1 epoch: 4 trained, 0 read back\n"
    assert list(runs) == ["narrow", "wide"]
    for name, done in runs.items():
        assert [(run.name, run.seed) for run in done] == [(name, 5), (name, 1)]
        assert [run.folder for run in done] == [tmp_path / f"{name}-seed{seed}" for seed in (5, 1)]
    histories = [run.history["loss"] for done in runs.values() for run in done]
    assert len({tuple(history) for history in histories}) == 4

    more = study(tmp_path, seeds=(1, 5, 7))
    assert capfd.readouterr().out == "6 runs of 1 epoch: 2 trained, 4 read back\n"
    assert [run.history for run in more["wide"][:2]] == [run.history for run in runs["wide"][::-1]]


def test_study_does_what_single_runs_do(tmp_path, capfd):
    (in_study,) = study(tmp_path, {"a": make_tiny}, seeds=(2,), epochs=2)["a"]
    assert "1 run of 2 epochs: 1 trained" in capfd.readouterr().out
    alone = train.run(make_tiny, X, Y, epochs=2, folder=tmp_path / "alone", seed=2, batch_size=20)
    assert_same_bits(in_study, alone)


def test_study_refuses_a_changed_configuration(tmp_path, capfd):
    study(tmp_path, {"a": make_tiny}, seeds=(1,))
    with pytest.raises(ValueError, match="batch_size was 20, is now 10"):
        study(tmp_path, {"a": make_tiny}, seeds=(1,), batch_size=10)


def test_study_takes_seeds_from_any_iterable(tmp_path, capfd):
    assert len(study(tmp_path, {"a": make_tiny}, seeds=iter([1]))["a"]) == 1


@pytest.mark.parametrize(
    "changes", [{"seeds": ()}, {"epochs": 0}, {"epochs": -1}, {"batch_size": 0}], ids=readable
)
def test_study_refuses_bad_arguments(changes, tmp_path):
    with pytest.raises(ValueError, match=next(iter(changes))):
        study(tmp_path, {"a": make_tiny}, **changes)
    assert list(tmp_path.iterdir()) == []


def test_study_refuses_no_variants(tmp_path):
    with pytest.raises(ValueError, match="variants"):
        train.study({}, X, Y, epochs=1, folder=tmp_path)
