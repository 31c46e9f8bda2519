"""Runs that are killed, crowded, out of disk or spread over devices end with the same bits.

Real processes, forked from a server that has imported Keras, so that each starts in a moment.
"""

import json
import multiprocessing
import os
import random
import signal
import time
import traceback
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from test_train import VALIDATION, X, Y, bits, make, snapshot

from evakeras import train

if "forkserver" not in multiprocessing.get_all_start_methods():
    pytest.skip("this system cannot fork", allow_module_level=True)
pytestmark = pytest.mark.usefixtures("tf")  # PyTorch hangs where it is forked, and JAX may
CONTEXT = multiprocessing.get_context("forkserver")
HERE = Path(__file__).parent
PATIENCE = 300  # seconds; nothing takes that long, but a test must not hang
EPOCHS = 3
KILLS, MOST_PROCESSES = 20, 120


@pytest.fixture(scope="module", autouse=True)
def server():
    """Start the server with its imports. No TensorFlow op may run in it: a fork copies no threads."""
    paths = [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))
        CONTEXT.set_forkserver_preload([__name__])
        multiprocessing.forkserver.ensure_running()


class Child:
    """A process that plays a role and tells what happens; it is killed at the end in any case."""

    def __init__(self, role, *args):
        self.pipe, theirs = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=_play, args=(role, theirs, *args), daemon=True)
        self.process.start()
        theirs.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
        self.pipe.close()

    def hear(self):
        """The next `(word, value)` that the process sends."""
        assert self.pipe.poll(PATIENCE), "the process says nothing"
        word, value = self.pipe.recv()
        assert word != "error", value
        return word, value

    def end(self):
        """Wait until the process has done its part, and return the result."""
        word, value = self.hear()
        while word != "done":
            word, value = self.hear()
        self.process.join(PATIENCE)
        assert self.process.exitcode == 0
        return value

    def kill(self):
        """SIGKILL, if it is not too late; return the exit code."""
        if self.process.is_alive():
            self.process.kill()
        self.process.join(PATIENCE)
        return self.process.exitcode


# What the processes do


def _play(role, pipe, *args):
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    try:
        pipe.send(("done", role(pipe, *args)))
    except BaseException:
        pipe.send(("error", traceback.format_exc()))


class Tell(keras.callbacks.Callback):
    """Tells when the first batch is trained; waits at the beginning of one epoch until it is killed."""

    def __init__(self, pipe, wait_in=None):
        super().__init__()
        self._pipe, self._wait_in, self._told = pipe, wait_in, False

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self._wait_in:
            self._pipe.send(("waits", epoch))
            self._pipe.recv()

    def on_train_batch_end(self, batch, logs=None):
        if not self._told:
            self._pipe.send(("trains", time.monotonic()))
        self._told = True


def go(pipe, folder, build=make, wait_in=None, **changes):
    settings = {"epochs": EPOCHS, "seed": 3, "batch_size": 16, "validation_data": VALIDATION, **changes}
    return train.run(build, X, Y, folder=folder, callbacks=[Tell(pipe, wait_in)], **settings)


def finish(pipe, folder):
    return go(pipe, folder).read_back


def finish_when_told(pipe, folder):
    """Whether it was read back, or None where another process is in the folder."""
    pipe.send(("ready", None))
    pipe.recv()
    try:
        return finish(pipe, folder)
    except RuntimeError as error:
        assert "another process is training here" in str(error)


def wait_in_epoch(pipe, folder, epoch):
    go(pipe, folder, wait_in=epoch)


def die_before_rename(pipe, folder, number):
    """Be killed when a file is written, but does not have its name yet."""
    original, calls = os.replace, []

    def replace(*args):
        calls.append(args)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args)

    os.replace = replace
    go(pipe, folder)


def fill_disk(pipe, folder, limit, last):
    """Let no file grow beyond the limit as soon as `last` is written; return what is said then."""
    import resource

    original = os.replace

    def replace(draft, path):
        original(draft, path)
        if Path(path).name == last:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    os.replace = replace
    with pytest.raises(OSError) as raised:
        go(pipe, folder)
    return str(raised.value)


def make_synchronized(dropout=0.0):
    inputs = [keras.Input((6, 6, 1))] + [layers.RandomFlip()] * (dropout > 0)
    hidden = [layers.Flatten(), layers.Dense(5, "relu"), layers.BatchNormalization(synchronized=True)]
    model = keras.Sequential([*inputs, *hidden, layers.Dropout(dropout), layers.Dense(3, "softmax")])
    model.compile(keras.optimizers.SGD(0.1, 0.9), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def make_random():
    return make_synchronized(dropout=0.3)


def train_on_two_devices(pipe, folder):
    """Train alone and in a strategy, in one piece and in two; return what is said to a mix of them."""
    import tensorflow as tf

    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], two)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    settings = {"epochs": 2, "batch_size": 20}
    go(pipe, folder / "alone", make_synchronized, **settings)
    go(pipe, folder / "spread", make_synchronized, strategy=strategy, **settings)
    random = {"build": make_random, "strategy": strategy, "validation_data": None, **settings}
    go(pipe, folder / "whole", **random)
    with pytest.raises(KeyboardInterrupt):
        go(pipe, folder / "cut", progress=Interrupted(), **random)
    assert not (folder / "cut" / "epoch-02.keras").exists()
    go(pipe, folder / "cut", **random)
    with pytest.raises(ValueError, match="another configuration") as without:
        go(pipe, folder / "spread", make_synchronized, **settings)
    with pytest.raises(ValueError, match="another configuration") as within:
        go(pipe, folder / "alone", make_synchronized, strategy=strategy, **settings)
    return str(without.value), str(within.value)


class Interrupted(train.tqdm):
    def __init__(self):
        super().__init__(disable=True)

    def update(self, n=1):
        raise KeyboardInterrupt


# The tests


def outcome(folder, epochs=EPOCHS):
    """History and bits of a finished run, read without `train.run`."""
    history = json.loads((folder / "state.json").read_text())["history"]
    result = train.Run("", 3, history, [0.0] * epochs, folder)
    return history, bits(result)


def is_same(one, other):
    (history, arrays), (other_history, other_arrays) = one, other
    pairs = zip(arrays, other_arrays, strict=True)
    return history == other_history and all(np.array_equal(a, b) for a, b in pairs)


def epochs_done(folder):
    """Epochs that the state tells of. It may be missing, but never broken or without its model."""
    if not (folder / "state.json").exists():
        return 0
    state = json.loads((folder / "state.json").read_text())
    done = len(state["seconds"])
    assert {len(values) for values in state["history"].values()} == {done}
    assert (folder / f"epoch-{done:02d}.keras").stat().st_size > 0
    return done


def drafts(folder):
    return list(folder.glob("draft-*"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Outcome of a run in one piece, its seconds per epoch with writing, and the size of its file."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with Child(finish, folder) as child:
        start = child.hear()[1]
        assert child.end() is False
        seconds = (time.monotonic() - start) / EPOCHS
    assert sorted(snapshot(folder)) == [f"epoch-{EPOCHS:02d}.keras", "state.json"]
    return outcome(folder), seconds, (folder / f"epoch-{EPOCHS:02d}.keras").stat().st_size


def run_until_killed(folder, seconds):
    """Go on with a run, kill it after `seconds` for each epoch left; whether that hit, seconds if not."""
    left = EPOCHS - epochs_done(folder)
    with Child(finish, folder) as child:
        word, start = child.hear()
        if word == "trains" and not child.pipe.poll(seconds * left):
            return child.kill() == -signal.SIGKILL, None
        if word == "trains":
            child.end()
            return False, (time.monotonic() - start) / left
        return False, None  # it had been killed after its last epoch


def test_killed_runs_end_with_the_same_bits(whole, tmp_path, record_property):
    rng = random.Random(0)
    expected, seconds, _ = whole
    processes = kills = writing = runs = identical = 0
    while kills < KILLS and processes < MOST_PROCESSES:
        folder = tmp_path / f"run{runs}"
        hit = True
        while hit and kills < KILLS:
            before = epochs_done(folder)
            hit, measured = run_until_killed(folder, rng.random() * seconds)
            if hit and epochs_done(folder) == before:
                seconds *= 1.2  # the machine may be busier than it was: let it get on
            seconds = measured or seconds
            processes, kills = processes + 1, kills + hit
            writing += hit and bool(drafts(folder))
        with Child(finish, folder) as child:
            child.end()
        runs, identical = runs + 1, identical + is_same(outcome(folder), expected)
        assert sorted(snapshot(folder)) == [f"epoch-{EPOCHS:02d}.keras", "state.json"]
    summary = f"{kills} kills, {writing} in the middle of writing, {runs} runs, {identical} identical"
    record_property("killed", summary)
    print(summary)
    assert identical == runs and kills >= KILLS


@pytest.mark.parametrize("number", [1, 2, 3, 4], ids=["model 1", "state 1", "model 2", "state 2"])
def test_process_killed_before_a_file_has_its_name(number, whole, tmp_path):
    with Child(die_before_rename, tmp_path, number) as child:
        child.process.join(PATIENCE)
        assert child.process.exitcode == -signal.SIGKILL
    assert epochs_done(tmp_path) == (number - 1) // 2
    assert len(drafts(tmp_path)) == 1
    with Child(finish, tmp_path) as child:
        child.end()
    assert is_same(outcome(tmp_path), whole[0]) and not drafts(tmp_path)


def test_second_process_is_kept_out_until_the_first_ends(whole, tmp_path):
    with Child(wait_in_epoch, tmp_path, 1) as first:
        while first.hear()[0] != "waits":
            pass
        before = snapshot(tmp_path)
        with pytest.raises(RuntimeError, match=f"{tmp_path.name}: another process is training here"):
            go(None, tmp_path)
        assert snapshot(tmp_path) == before and first.process.is_alive()
        assert first.kill() == -signal.SIGKILL
    with Child(finish, tmp_path) as second:
        assert second.end() is False
    assert is_same(outcome(tmp_path), whole[0])


@pytest.mark.parametrize("attempt", range(3))
def test_two_processes_at_once_train_once(attempt, whole, tmp_path):
    with Child(finish_when_told, tmp_path) as one, Child(finish_when_told, tmp_path) as two:
        for child in (one, two):
            assert child.hear()[0] == "ready"
        for child in (one, two):
            child.pipe.send("go")
        results = [child.end() for child in (one, two)]
    assert results.count(False) == 1  # one trains; the other is refused, or comes late and reads
    assert is_same(outcome(tmp_path), whole[0]) and not drafts(tmp_path)


@pytest.mark.parametrize("share", [0, 0.1, 0.6, 1])
def test_full_disk_at_the_model_keeps_the_epoch_before(share, whole, tmp_path):
    limit = int(share * whole[2]) - (share == 1)  # up to one byte too few
    with Child(fill_disk, tmp_path, limit, "state.json") as child:
        message = child.end()
    assert "epoch-02.keras could not be written" in message
    assert "goes on from the epoch before" in message
    assert sorted(snapshot(tmp_path)) == ["epoch-01.keras", "state.json"] and epochs_done(tmp_path) == 1
    with Child(finish, tmp_path) as child:
        child.end()
    assert is_same(outcome(tmp_path), whole[0])


def test_full_disk_at_the_state_keeps_the_epoch_before(whole, tmp_path):
    with Child(fill_disk, tmp_path, 1000, "epoch-02.keras") as child:
        message = child.end()
    assert "state.json could not be written" in message and "goes on from the epoch before" in message
    assert epochs_done(tmp_path) == 1 and not drafts(tmp_path)
    with Child(finish, tmp_path) as child:
        child.end()
    assert is_same(outcome(tmp_path), whole[0])


def test_strategy_trains_like_one_device_and_goes_on_with_the_same_bits(tmp_path):
    with Child(train_on_two_devices, tmp_path) as child:
        without, within = child.end()
    name = "'MirroredStrategy with 2 replicas'"
    assert f"strategy was {name}, is now None" in without
    assert f"strategy was None, is now {name}" in within
    outcomes = {name: outcome(tmp_path / name, epochs=2) for name in ("alone", "spread", "whole", "cut")}
    assert is_same(outcomes["cut"], outcomes["whole"])
    for ours, theirs in zip(outcomes["spread"][1], outcomes["alone"][1], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
