"""A run ends with the same bits however often it was cut off, and never mixes two configurations."""

import errno
import io
import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import readable
from filelock import FileLock
from keras import layers
from tqdm import tqdm

from evakeras import augment, train

RNG = np.random.default_rng(0)
X, Y = RNG.random((40, 6, 6, 1), dtype=np.float32), RNG.integers(0, 3, 40)
VALIDATION = (RNG.random((10, 6, 6, 1), dtype=np.float32), RNG.integers(0, 3, 10))
EPOCHS = 3


def make(units=5, rate=0.01, dropout=0.3, loss="sparse_categorical_crossentropy", run_eagerly=True):
    """A small model with all that makes resuming hard: dropout, a random layer, moving averages, Adam.

    Eager, since tracing takes longer than these few images.
    """
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
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"], run_eagerly=run_eagerly)
    return model


def make_traced():
    """The same as a graph, which is how models are trained."""
    return make(run_eagerly=False)


def make_tiny(units=3, optimizer="sgd"):
    """A model that is quick to build, for what does not depend on the layers."""
    model = keras.Sequential([keras.Input((6, 6, 1)), layers.Flatten(), layers.Dense(units, "softmax")])
    model.compile(optimizer, "sparse_categorical_crossentropy", run_eagerly=True)
    return model


def made(changes):
    """The changes with their layer, made late: test_train_killed forks from where this is imported."""
    return {name: value() if name == "augment" else value for name, value in changes.items()}


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
    """What the files of a run hold; that of the lock comes and goes as it likes."""
    return {file.name: file.read_bytes() for file in Path(folder).iterdir() if file.name != ".lock"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run in one piece. Tests that change its folder copy it first."""
    return go(tmp_path_factory.mktemp("runs") / "whole")


@pytest.fixture
def copied(whole, tmp_path):
    return Path(shutil.copytree(whole.folder, tmp_path / "whole"))


class Bar(tqdm):
    """A progress bar that nobody sees and that presses Ctrl-C after some epochs."""

    def __init__(self, stop_after=None):
        super().__init__(total=EPOCHS, file=io.StringIO())
        self.stop_after = stop_after

    def update(self, n=1):
        super().update(n)
        if self.n == self.stop_after:
            raise KeyboardInterrupt


def interrupt(folder, build=make, **changes):
    """Train one epoch, then Ctrl-C."""
    with pytest.raises(KeyboardInterrupt):
        go(folder, build, progress=Bar(stop_after=1), **changes)


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

    @keras.saving.register_keras_serializable(package="test")
    class Recorder(keras.Sequential):
        def train_step(self, *given):  # the batch; on JAX, the model's state before it
            seen.append(np.ravel(given[-1][0]))
            return super().train_step(*given)

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


def test_finished_run_is_read_back_and_not_trained_again(whole, monkeypatch):
    before = snapshot(whole.folder)
    interrupt_call(monkeypatch, keras.Model, "fit", number=1)
    bar = Bar()
    again = go(whole.folder, progress=bar)
    assert again.read_back and bar.initial == bar.n == EPOCHS
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
    interrupt(tmp_path)
    bar = Bar()
    resumed = go(tmp_path, progress=bar)
    assert not resumed.read_back and bar.n == EPOCHS
    assert bar.initial == 1  # the time that remains is told from the epochs trained now
    assert_same_bits(resumed, whole)
    assert sorted(snapshot(tmp_path)) == sorted(snapshot(whole.folder))


def test_run_of_a_graph_interrupted_between_epochs_ends_with_the_same_bits(tmp_path):
    interrupt(tmp_path / "cut", make_traced)
    assert_same_bits(go(tmp_path / "cut", make_traced), go(tmp_path / "whole", make_traced))


@pytest.mark.parametrize(
    "owner, name, number",
    [(keras.Model, "save", 3), (os, "replace", 4), (Path, "unlink", 3)],  # the first tries out the model
    ids=["trained but not saved", "saved without its state", "old model not removed"],
)
def test_run_interrupted_while_writing_ends_with_the_same_bits(owner, name, number, whole, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        interrupt_call(patch, owner, name, number)
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path)
    assert_same_bits(go(tmp_path), whole)
    assert sorted(snapshot(tmp_path)) == sorted(snapshot(whole.folder))


def test_unfinished_drafts_are_ignored(whole, tmp_path):
    interrupt(tmp_path)
    for name in ("draft-epoch-02.keras", "draft-state.json", "epoch-02.keras"):
        (tmp_path / name).write_bytes(b"cut off in the middle")
    assert_same_bits(go(tmp_path), whole)


@pytest.mark.parametrize(
    "rate, callbacks",
    [
        (lambda: train.OneCycle(0.1, steps=3 * EPOCHS), list),
        (
            lambda: 0.1,
            lambda: [keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / (epoch + 2))],
        ),
    ],
    ids=["one cycle", "scheduler"],
)
def test_learning_rate_goes_on_where_the_run_was_interrupted(rate, callbacks, tmp_path):
    def build():
        return make_tiny(optimizer=keras.optimizers.Adam(rate()))

    constant = go(tmp_path / "constant", lambda: make_tiny(optimizer=keras.optimizers.Adam(0.1)))
    whole = go(tmp_path / "whole", build, callbacks=callbacks())
    interrupt(tmp_path / "cut", build, callbacks=callbacks())
    assert_same_bits(go(tmp_path / "cut", build, callbacks=callbacks()), whole)
    assert not np.array_equal(bits(whole)[0], bits(constant)[0])


# Progress


class Stream(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "file"])
def test_progress_is_shown_where_someone_can_see_it(terminal, tmp_path, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    monkeypatch.setattr(sys, "stderr", Stream(terminal))
    go(tmp_path / "some name", make_tiny, epochs=1)
    shown = sys.stderr.getvalue()
    assert ("some name seed 3" in shown and "1/1" in shown) if terminal else shown == ""
    assert capsys.readouterr().out == ""


def test_progress_of_a_study_counts_the_epochs_of_all_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", Stream(terminal=True))
    study(tmp_path, {"a": make_tiny}, seeds=(1,), epochs=2)
    study(tmp_path, {"a": make_tiny}, seeds=(1, 2), epochs=2)
    assert "2/2" in sys.stderr.getvalue() and "4/4" in sys.stderr.getvalue()


# Callbacks


class Noted(keras.callbacks.Callback):
    """Notes the epochs that it was told of; `factor` stands for a setting."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.factor, self.begun, self.ended = factor, [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.begun.append(epoch)

    def on_epoch_end(self, epoch, logs=None):
        self.ended.append((epoch, logs["loss"], logs["val_loss"]))


def test_callbacks_are_told_of_every_epoch_once(tmp_path):
    first, second, third = Noted(), Noted(), Noted()
    interrupt(tmp_path, make_tiny, callbacks=[first])
    result = go(tmp_path, make_tiny, callbacks=(second,))  # any sequence will do
    go(tmp_path, make_tiny, callbacks=[third])
    assert (first.begun, second.begun, third.begun) == ([0], [1, 2], [])
    losses = zip(range(EPOCHS), result.history["loss"], result.history["val_loss"], strict=True)
    assert first.ended + second.ended == list(losses)


def test_callbacks_may_be_used_again(tmp_path, capfd):
    noted = Noted()
    interrupt(tmp_path, make_tiny, callbacks=[noted])
    go(tmp_path, make_tiny, callbacks=[noted])
    assert go(tmp_path, make_tiny, callbacks=[noted]).read_back
    assert noted.begun == [0, 1, 2]
    study(tmp_path / "study", {"a": make_tiny}, callbacks=[noted], validation_data=VALIDATION)
    assert noted.begun == [0, 1, 2, 0, 0]


def test_callbacks_may_have_numbers_of_numpy(tmp_path):
    go(tmp_path, make_tiny, callbacks=[Noted(np.int64(1))])
    assert go(tmp_path, make_tiny, callbacks=[Noted(1)]).read_back
    with pytest.raises(ValueError, match="factor was 1, is now 2"):
        go(tmp_path, make_tiny, callbacks=[Noted(np.int64(2))])


@pytest.mark.parametrize(
    "callbacks, message",
    [
        (lambda: [Noted(2.0)], r"callbacks\[0\]\.factor was 1\.0, is now 2\.0"),
        (lambda: [keras.callbacks.LearningRateScheduler(abs)], r"callbacks\[0\]\.class was 'Noted'"),
        (lambda: [Noted(), Noted()], "callbacks was"),
        (lambda: [], "callbacks was"),
    ],
    ids=["attribute", "class", "more", "none"],
)
def test_changed_callbacks_are_refused(callbacks, message, tmp_path):
    interrupt(tmp_path, make_tiny, callbacks=[Noted()])
    before = snapshot(tmp_path)
    with pytest.raises(ValueError, match=f"another configuration: .*{message}"):
        go(tmp_path, make_tiny, callbacks=callbacks())
    assert snapshot(tmp_path) == before


class Patient(keras.callbacks.EarlyStopping):
    pass


@pytest.mark.parametrize(
    "callback, message",
    [
        (lambda: keras.callbacks.EarlyStopping(), "EarlyStopping remembers epochs"),
        (lambda: Patient(), "Patient remembers epochs"),
        (lambda: keras.callbacks.ReduceLROnPlateau(), "ReduceLROnPlateau"),
        (lambda: keras.callbacks.BackupAndRestore("backup"), "BackupAndRestore"),
        (lambda: keras.callbacks.CSVLogger("log.csv"), "CSVLogger"),
        (lambda: keras.callbacks.ModelCheckpoint("best.keras"), "ModelCheckpoint"),
        (lambda: train.LearningRateRangeTest(), "LearningRateRangeTest"),
        (lambda: Noted, "not a keras.callbacks.Callback object"),
        (lambda: "EarlyStopping", "not a keras.callbacks.Callback object"),
        (lambda: None, "not a keras.callbacks.Callback object"),
    ],
    ids=[
        "early stopping",
        "its subclass",
        "plateau",
        "backup",
        "log",
        "checkpoint",
        "range test",
        "class",
        "text",
        "none",
    ],
)
def test_callbacks_that_cannot_work_are_refused(callback, message, tmp_path):
    with pytest.raises(ValueError, match=f"callbacks: .*{message}"):
        go(tmp_path / "new", make_tiny, callbacks=[Noted(), callback()])
    with pytest.raises(ValueError, match=f"callbacks: .*{message}"):
        study(tmp_path / "new", callbacks=[callback()])
    assert not (tmp_path / "new").exists()


def test_a_callback_that_stops_the_training_ends_the_run_and_keeps_the_epochs_before(tmp_path):
    class Stopper(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    with pytest.raises(RuntimeError, match="stopped the training in epoch 2"):
        go(tmp_path, make_tiny, callbacks=[Stopper()])
    assert len(json.loads((tmp_path / "state.json").read_text())["seconds"]) == 1


# Locks


def test_finished_run_is_read_back_while_another_holds_the_lock(whole, copied):
    with FileLock(copied / ".lock", timeout=0):
        again = go(copied)
    assert again.read_back
    assert_same_bits(again, whole)


def test_finished_run_is_read_back_without_writing(whole, copied, monkeypatch):
    def refuse(*_, **__):  # what a read-only file system says, also of files that do not exist
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    (copied / ".lock").unlink()
    with monkeypatch.context() as patch:
        for name in ("unlink", "remove", "replace", "mkdir"):
            patch.setattr(os, name, refuse)
        again = go(copied)
    assert again.read_back and again.history == whole.history
    assert sorted(file.name for file in copied.iterdir()) == sorted(snapshot(whole.folder))


def test_run_that_another_process_finishes_in_the_meantime_is_read_back(whole, tmp_path, monkeypatch):
    interrupt(tmp_path)
    original = Path.read_text

    def read_text(path, *args, **kwargs):
        text = original(path, *args, **kwargs)
        if path == tmp_path / "state.json" and (tmp_path / "epoch-01.keras").exists():
            for name, content in snapshot(whole.folder).items():  # the other process comes to its end
                (tmp_path / name).write_bytes(content)
            (tmp_path / "epoch-01.keras").unlink()
        return text

    bar = Bar()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", read_text)
        interrupt_call(patch, keras.Model, "fit", number=1)
        result = go(tmp_path, progress=bar)
    assert result.read_back and bar.n == bar.initial == EPOCHS
    assert_same_bits(result, whole)


# Augmentation of batches


@keras.saving.register_keras_serializable(package="test")
class Noisy(keras.Layer):
    """Adds a random number to each image and swaps its label for the next one, and notes both."""

    def __init__(self, size=1.0, **options):
        super().__init__(**options)
        self.size, self.seen = size, []

    def call(self, images, labels, training=True):
        assert not training, "only `stateless` repeats"
        return images, labels

    def stateless(self, images, labels, seed):
        noise = np.random.default_rng(seed).normal(0, self.size, (len(images), 1, 1, 1)).astype("float32")
        self.seen.append((images, labels, noise))
        return images + noise, (labels + 1) % 3

    def get_config(self):
        return {**super().get_config(), "size": self.size}


@keras.saving.register_keras_serializable(package="test")
class Darker(keras.Layer):
    """Changes images alone."""

    def call(self, images, training=True):
        assert not training, "only `stateless` repeats"
        return images

    def stateless(self, images, seed):
        return images / 2


def test_every_image_is_augmented_once_per_epoch_in_another_way(tmp_path):
    noisy = Noisy()
    go(tmp_path, make_tiny, augment=noisy, epochs=2, validation_data=None)
    # Keras looks at the first batches to know their shape: they are made again, the same.
    noise = {images.tobytes(): made for images, _, made in noisy.seen}
    assert sorted(len(made) for made in noise.values()) == [8, 8, 16, 16, 16, 16]
    assert len({float(one) for made in noise.values() for one in made.ravel()}) == 80
    for images, labels, _ in noisy.seen:
        where = [int(np.flatnonzero((image == X).all(axis=(1, 2, 3)))[0]) for image in images]
        assert np.array_equal(Y[where], labels)


def test_augmented_images_and_labels_are_what_is_trained_on(tmp_path):
    changed = go(tmp_path / "a", make_tiny, augment=Darker(), validation_data=None)
    by_hand = go(tmp_path / "b", make_tiny, x=X / 2, validation_data=None)
    assert changed.history["loss"] == pytest.approx(by_hand.history["loss"], rel=1e-6)
    shifted = go(tmp_path / "c", make_tiny, augment=Noisy(size=0.0), validation_data=None)
    by_hand = go(tmp_path / "d", make_tiny, y=(Y + 1) % 3, validation_data=None)
    assert shifted.history["loss"] == pytest.approx(by_hand.history["loss"], rel=1e-6)


def test_augmented_run_interrupted_between_epochs_ends_with_the_same_bits(tmp_path):
    expected = go(tmp_path / "whole", augment=Noisy())
    interrupt(tmp_path / "cut", augment=Noisy())
    assert_same_bits(go(tmp_path / "cut", augment=Noisy()), expected)


@keras.saving.register_keras_serializable(package="test")
class Weighted(Darker):
    """Has something that its configuration does not tell."""

    def __init__(self, **options):
        super().__init__(**options)
        self.number = self.add_weight((), "zeros", trainable=False)
        self.built = True


def test_weights_of_the_augmentation_are_part_of_the_configuration(tmp_path):
    layer = Weighted()
    go(tmp_path, make_tiny, augment=layer)
    assert go(tmp_path, make_tiny, augment=layer).read_back
    layer.number.assign(2.0)
    with pytest.raises(ValueError, match="augment_weights was"):
        go(tmp_path, make_tiny, augment=layer)


def test_mixup_trains_in_a_study(tmp_path, capfd):
    def build():
        model = make_tiny()
        model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
        return model

    one_hot = np.eye(3, dtype="float32")[Y]
    mixup = augment.MixUp(1.0)
    runs = train.study({"tiny": build}, X, one_hot, epochs=2, seeds=(0,), folder=tmp_path, augment=mixup)
    again = train.study(
        {"tiny": build}, X, one_hot, epochs=2, seeds=(0,), folder=tmp_path, augment=augment.MixUp(1.0)
    )
    assert again["tiny"][0].read_back and again["tiny"][0].history == runs["tiny"][0].history
    with pytest.raises(ValueError, match=r"alpha was 1.0, is now 0.5"):
        train.study(
            {"tiny": build}, X, one_hot, epochs=2, seeds=(0,), folder=tmp_path, augment=augment.MixUp(0.5)
        )


def test_every_run_begins_with_the_weights_of_the_augmentation_that_were_given(tmp_path, capfd):
    def pairing():
        layer = augment.SamplePairing(seed=0)
        schedule = augment.SamplePairingSchedule(0, 1, on=1, off=0, layer=layer)  # off in the second epoch
        return layer, study(tmp_path, {"a": make_tiny}, epochs=2, augment=layer, callbacks=[schedule])["a"]

    layer, first = pairing()
    assert float(layer.share) == 1.0 and not first[1].read_back
    assert all(run.read_back for run in pairing()[1])


@keras.saving.register_keras_serializable(package="test")
class Shrinking(Darker):
    def call(self, images, training=True):
        return images[:, 1:] if not training else super().call(images, training)


def test_augmentation_is_tried_on_more_than_the_first_images(tmp_path):
    black = np.where(np.arange(40)[:, None, None, None] < 2, 0, X)
    for layer in (augment.from_image_data_generator(rescale=1 / 255), Shrinking()):
        with pytest.raises(ValueError, match="put it into the model"):
            go(tmp_path, make_tiny, x=black, augment=layer)


def test_augmentation_is_built_as_in_the_runs_that_are_kept_already(tmp_path):
    layer = augment.from_image_data_generator(rotation_range=5)
    go(tmp_path, make_tiny, epochs=1, augment=layer)
    assert layer.get_build_config()["input_shape"][0] == 2


# What could not be kept


class Unregistered(layers.Dense):
    pass


def ended(last):
    model = keras.Sequential([keras.Input((6, 6, 1)), layers.Flatten(), layers.Dense(3, "softmax"), last])
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    return model


@pytest.mark.parametrize(
    "last", [lambda: layers.Lambda(lambda x: 2 * x), lambda: Unregistered(3)], ids=["lambda", "unregistered"]
)
def test_a_model_that_cannot_be_loaded_is_refused_before_it_is_trained(last, tmp_path, monkeypatch):
    monkeypatch.setattr(keras.Model, "fit", None)
    with pytest.raises(ValueError, match=r"could not be loaded again.*register_keras_serializable"):
        go(tmp_path, lambda: ended(last()))
    assert not snapshot(tmp_path)


def test_a_model_of_an_unknown_layer_is_named_when_it_is_loaded(tmp_path):
    ended(Unregistered(3)).save(tmp_path / "epoch-01.keras")
    with pytest.raises(ValueError, match=r"epoch-01\.keras cannot be loaded: .*Unregistered"):
        train.Run("a", 0, {"loss": [1.0]}, [1.0], tmp_path).model()


def test_every_generator_of_random_numbers_gets_its_own_in_every_epoch():
    # They are known by the names that Keras gives their variables; were those others, nothing would repeat.
    found = [v for v in make().variables if v.path.endswith("seed_generator_state")]
    assert len(found) == 2  # of the random flip and of the dropout


@keras.saving.register_keras_serializable(package="test_train")
class Calm(keras.Sequential):
    """A class of its own, which could train in a way of its own."""


def make_calm():
    model = Calm([keras.Input((6, 6, 1)), layers.Flatten(), layers.Dense(3, "softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    return model


def test_a_run_of_another_class_of_model_is_refused(tmp_path):
    go(tmp_path, make_tiny)
    with pytest.raises(ValueError, match="class was 'Sequential', is now 'test_train>Calm'"):
        go(tmp_path, make_calm)


def test_a_run_from_before_the_class_was_kept_is_read_back(tmp_path):
    go(tmp_path, make_calm)
    file = tmp_path / "state.json"
    state = json.loads(file.read_text())
    del state["configuration"]["class"]
    file.write_text(json.dumps(state))
    assert go(tmp_path, make_calm).read_back


@pytest.mark.parametrize("name", ["max_epochs", "max_steps_per_epoch"])
def test_limits_that_would_cut_a_training_off_are_refused(name, tmp_path):
    if not hasattr(keras.config, name):
        pytest.skip("this version of Keras has no such limit")
    getattr(keras.config, f"set_{name}")(1)
    try:
        with pytest.raises(ValueError, match=f"keras.config.{name} would cut"):
            go(tmp_path / "new", make_tiny)
    finally:
        getattr(keras.config, f"set_{name}")(None)
    assert not (tmp_path / "new").exists()


def test_what_the_user_has_set_stays(tmp_path):
    config = keras.config
    config.disable_interactive_logging()
    config.disable_traceback_filtering()
    try:
        go(tmp_path, make_tiny)
        assert not config.is_interactive_logging_enabled() and not config.is_traceback_filtering_enabled()
    finally:
        config.enable_interactive_logging()
        config.enable_traceback_filtering()


@pytest.mark.parametrize("epoch", [0, -1, EPOCHS + 1])
def test_an_epoch_that_never_was_is_named(epoch, whole):
    with pytest.raises(ValueError, match=f"epoch={epoch} must be between 1 and {EPOCHS}"):
        whole.file(epoch)


def test_a_configuration_that_holds_an_address_is_refused(tmp_path):
    class Own(keras.Model):
        def call(self, x):
            return keras.ops.softmax(keras.ops.mean(x, (1, 3))[:, :3])

        def get_config(self):
            return {"value": object()}

    def build():
        model = Own()
        model.compile("sgd", "sparse_categorical_crossentropy")
        model(X[:1])
        return model

    with pytest.raises(ValueError, match=r"the configuration holds <object object.*give it a get_config"):
        go(tmp_path / "new", build)
    assert not (tmp_path / "new").exists()


def test_a_state_too_large_to_be_read_is_refused_before_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "_MOST_BYTES", 1000)
    monkeypatch.setattr(keras.Model, "fit", None)
    with pytest.raises(ValueError, match="of which at most 1,000 are read again"):
        go(tmp_path, make_tiny)
    assert not snapshot(tmp_path)


def test_ctrl_c_while_writing_leaves_no_draft(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        interrupt_call(patch, os, "replace", 1)
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path, make_tiny)
    assert not snapshot(tmp_path)


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise NotImplementedError

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with pytest.raises(RuntimeError, match="a file system without locks"):
        go(tmp_path, make_tiny)


def test_numbers_may_be_those_of_numpy(tmp_path):
    first = go(tmp_path, make_tiny, epochs=1)
    numbers = {"epochs": np.int64(1), "seed": np.uint8(3), "batch_size": np.int32(16)}
    again = go(tmp_path, make_tiny, **numbers)
    assert again.read_back and again.history == first.history


@pytest.mark.parametrize(
    "other", [lambda epoch: 0.2, lambda epoch, rate: rate / 3], ids=["epoch", "epoch and rate"]
)
def test_another_schedule_of_the_learning_rate_is_another_configuration(other, tmp_path):
    def scheduler(schedule):
        return [keras.callbacks.LearningRateScheduler(schedule)]

    go(tmp_path, make_tiny, callbacks=scheduler(lambda epoch: 0.1))
    assert go(tmp_path, make_tiny, callbacks=scheduler(lambda epoch: 0.2 / 2)).read_back
    with pytest.raises(ValueError, match=r"callbacks\[0\]\.rates"):
        go(tmp_path, make_tiny, callbacks=scheduler(other))


@keras.saving.register_keras_serializable(package="test")
class Named(keras.losses.SparseCategoricalCrossentropy):
    """A loss whose name is an argument that decides."""


def test_names_of_losses_are_part_of_the_configuration_and_those_of_layers_not(tmp_path):
    def build(loss="a", layer="b"):
        inputs = [keras.Input((6, 6, 1)), layers.Flatten()]
        model = keras.Sequential([*inputs, layers.Dense(3, "softmax", name=layer)])
        model.compile("sgd", Named(name=loss), run_eagerly=True)
        return model

    go(tmp_path, build, epochs=1)
    assert go(tmp_path, lambda: build(layer="c"), epochs=1).read_back
    with pytest.raises(ValueError, match="name was 'a', is now 'c'"):
        go(tmp_path, lambda: build(loss="c"), epochs=1)


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
        ({"augment": Darker}, "augment was None"),
    ],
    ids=["epochs", "seed", "batch size", "keep_epochs", "width", "learning rate", "dropout", "loss", "images",
         "order of images", "type of images", "labels", "fewer images", "no validation", "other validation",
         "augmentation"],
)  # fmt: skip
def test_changed_configuration_is_refused_and_nothing_changed(changes, message, whole):
    before = snapshot(whole.folder)
    with pytest.raises(ValueError, match=f"another configuration: .*{message}"):
        go(whole.folder, **made(changes))
    assert snapshot(whole.folder) == before


def test_changed_data_are_named(whole):
    part = r"(float32|int64) \(\d+.*\) with hash \w+"
    for changes, name in (
        ({"x": X + 1}, "data.x"),
        ({"y": (Y + 1) % 3}, "data.y"),
        ({"validation_data": (VALIDATION[0] + 1, VALIDATION[1])}, "data.validation x"),
    ):
        with pytest.raises(ValueError, match=f"{name} was '{part}', is now '{part}'"):
            go(whole.folder, **changes)
    with pytest.raises(ValueError, match=f"data.validation x was '{part}', is now None"):
        go(whole.folder, validation_data=None)


def test_changed_configuration_is_refused_for_an_unfinished_run_too(tmp_path):
    interrupt(tmp_path, make_tiny)
    with pytest.raises(ValueError, match="seed was 3, is now 4"):
        go(tmp_path, make_tiny, seed=4)


def without(key, state):
    return {k: v for k, v in state.items() if k != key}


@pytest.mark.parametrize(
    "owner, name, value, message",
    [
        (keras, "__version__", "3.0.0", f"keras was '{keras.__version__}', is now '3.0.0'"),
        (np, "__version__", "9.8.7", r"numpy was '\d+\.\d+', is now '9\.8'"),
        (sys.modules[keras.backend.backend()], "__version__", "0.1.2", "backend was '.*', is now '.* 0.1.2'"),
    ],
    ids=["keras", "numpy", "backend"],
)
def test_other_versions_are_refused_by_name(owner, name, value, message, whole, monkeypatch):
    monkeypatch.setattr(owner, name, value)
    with pytest.raises(ValueError, match=f"another configuration: {message}"):
        go(whole.folder)


def test_another_patch_of_numpy_is_the_same_configuration(whole, monkeypatch):
    monkeypatch.setattr(np, "__version__", ".".join(np.__version__.split(".")[:2]) + ".999")
    assert go(whole.folder).read_back


def test_missing_model_is_refused(copied):
    (copied / f"epoch-{EPOCHS:02d}.keras").unlink()
    before = snapshot(copied)
    with pytest.raises(ValueError, match=f"is damaged: no model after epoch {EPOCHS}"):
        go(copied)
    assert snapshot(copied) == before


def test_missing_model_of_an_unfinished_run_is_refused(tmp_path):
    interrupt(tmp_path, make_tiny)
    (tmp_path / "epoch-01.keras").unlink()
    with pytest.raises(ValueError, match="is damaged: no model after epoch 1"):
        go(tmp_path, make_tiny)


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
        lambda text: json.dumps({**json.loads(text), "configuration": 3}),
        lambda text: json.dumps({**json.loads(text), "configuration": {"data": [{}]}}),
    ],
    ids=["empty", "cut off", "zeros", "a list", "null", "nothing in it", "no history", "no seconds",
         "history is a number", "too many epochs", "history too short",
         "configuration is a number", "nothing about the data"],
)  # fmt: skip
def test_damaged_state_is_refused_by_name(damage, copied):
    state = copied / "state.json"
    state.write_text(damage(state.read_text()))
    before = snapshot(copied)
    with pytest.raises(ValueError, match=r"state\.json is damaged"):
        go(copied)
    assert snapshot(copied) == before


def average(**settings):
    return keras.optimizers.SGD(use_ema=True, **settings)


def make_without_input():
    model = keras.Sequential([layers.Flatten(), layers.Dense(3, "softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"epochs": 0}, "epochs=0"),
        ({"epochs": -1}, "epochs=-1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"build": lambda: keras.Sequential([keras.Input((6, 6, 1)), layers.Flatten()])}, "compile"),
        ({"build": lambda: make_tiny(optimizer=average())}, "use_ema"),
        ({"build": lambda: make_tiny(optimizer=average(ema_overwrite_frequency=2))}, "use_ema"),
        ({"build": lambda: make_tiny(optimizer=keras.optimizers.LossScaleOptimizer(average()))}, "use_ema"),
        ({"build": make_without_input}, "keras.Input"),
        ({"seed": -3}, "seed=-3 .* at least 0"),
        ({"seed": 0.5}, "seed=0.5 must be a whole number"),
        ({"strategy": "mirrored"}, "strategy='mirrored'"),
        ({"augment": layers.RandomFlip}, "goes into the model"),
        ({"augment": partial(augment.from_image_data_generator, rescale=1 / 255)}, "rescale or standardize"),
        ({"validation_data": 0.2}, "validation_data must be a pair of arrays"),
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
    ids=["no epochs", "negative epochs", "empty batches", "not compiled", "moving average of weights",
         "one that overwrites", "one inside another optimizer", "no input", "negative seed", "half a seed",
         "strategy",
         "augmentation that does not repeat", "augmentation that validation needs too",
         "share to validate", "no images",
         "few labels", "one label", "NaN", "infinity", "few validation labels", "no validation images",
         "validation without labels", "NaN in validation"],
)  # fmt: skip
def test_bad_arguments_are_refused_before_anything_is_written(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        go(tmp_path / "new", **made(changes))
    assert not (tmp_path / "new").exists()


def test_a_dataset_is_refused(tf, tmp_path):
    with pytest.raises(ValueError, match=r"x and y: a tf\.data\.Dataset has no fixed order"):
        go(tmp_path / "new", x=tf.data.Dataset.from_tensors(X))
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


def test_study_says_what_does_not_fit_before_it_trains_the_others(tmp_path):
    study(tmp_path, {"old": make_tiny}, seeds=(1,))
    with pytest.raises(ValueError, match=r"batch_size was 20, is now 10.*or delete .*old-seed1"):
        study(tmp_path, {"new": make_tiny, "old": make_tiny}, seeds=(1,), batch_size=10)
    assert [folder.name for folder in tmp_path.iterdir()] == ["old-seed1"]


def test_study_takes_seeds_from_any_iterable(tmp_path, capfd):
    assert len(study(tmp_path, {"a": make_tiny}, seeds=iter([1]))["a"]) == 1


@pytest.mark.parametrize(
    "changes",
    [{"seeds": ()}, {"seeds": 2}, {"seeds": "ab"}, {"epochs": 0}, {"epochs": -1}, {"batch_size": 0}],
    ids=readable,
)
def test_study_refuses_bad_arguments(changes, tmp_path):
    with pytest.raises(ValueError, match=next(iter(changes))):
        study(tmp_path, {"a": make_tiny}, **changes)
    assert list(tmp_path.iterdir()) == []


def test_study_refuses_a_model_where_a_function_is_expected(tmp_path):
    with pytest.raises(ValueError, match=r"variants\['a'\] must be a function"):
        study(tmp_path, {"a": make_tiny()})


@pytest.mark.parametrize("name", ["a/b", "a\\b", "a: b", "what?", ".hidden", "", 3])
def test_study_refuses_names_that_no_folder_can_have_everywhere(name, tmp_path):
    with pytest.raises(ValueError, match="cannot name a folder"):
        study(tmp_path, {name: make_tiny})


def test_study_refuses_names_that_some_systems_take_for_one(tmp_path):
    with pytest.raises(ValueError, match="differ only in capital letters"):
        study(tmp_path, {"L1": make_tiny, "l1": make_tiny})


def test_study_refuses_no_variants(tmp_path):
    with pytest.raises(ValueError, match="variants"):
        train.study({}, X, Y, epochs=1, folder=tmp_path)
