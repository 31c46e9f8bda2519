"""Train models and keep what came out: one run, or a study of several variants and seeds.

A run lives in a folder of its own. A finished run is read back, an interrupted one goes on after its last
finished epoch, and a folder that was made with another configuration is refused. Beside it: a one-cycle
learning-rate schedule, and a test that shows which learning rates a model bears.

This file works alone: copy it into an assignment and `import train`. It needs Keras 3, NumPy, tqdm and
filelock.
"""

import hashlib
import inspect
import json
import math
import operator
import os
import random
import re
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

__all__ = ["LearningRateRangeTest", "OneCycle", "Run", "run", "study"]

_MOST_BYTES = 2**24  # of state.json: that of a thousand layers and ten thousand epochs has a few million


@dataclass
class Run:
    """What one training left behind.

    `history` maps each metric to one float per epoch, as Keras's own does; `seconds` is the time that the
    epochs took, one float each. `folder` holds `state.json` and the last `epoch-NN.keras` (or all of them).
    `name` and `seed` are those it was given; `read_back` says that it was found finished, not trained now.
    """

    name: str
    seed: int
    history: dict
    seconds: list
    folder: Path
    read_back: bool = False

    def file(self, epoch: int | None = None) -> Path:
        """Path of the `.keras` file of the model as it was after `epoch` (from 1; None is the last)."""
        last = len(self.seconds)
        if epoch is not None and not 1 <= epoch <= last:
            raise ValueError(f"epoch={epoch} must be between 1 and {last}, the epochs of this run")
        file = _model_file(self.folder, last if epoch is None else epoch)
        if not file.is_file():
            raise FileNotFoundError(f"{file} was not kept; train with keep_epochs=True")
        return file

    def model(self, epoch: int | None = None) -> keras.Model:
        """Load the model as it was after `epoch` (from 1; None is the last)."""
        return _load(self.file(epoch))


def run(
    build: Callable[[], keras.Model],
    x: np.ndarray,
    y: np.ndarray,
    *,
    epochs: int,
    folder: str | os.PathLike,
    seed: int = 0,
    batch_size: int = 128,
    validation_data: tuple | None = None,
    augment: keras.Layer | None = None,
    keep_epochs: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    strategy=None,
    name: str | None = None,
    progress: tqdm | None = None,
) -> Run:
    """Train one model and keep its history and weights in `folder`.

    The order of the images and the numbers behind Dropout and random layers depend on `seed` and the epoch
    alone, so that on a CPU a run that was interrupted (Ctrl-C, a killed process, a lost machine) and goes on
    ends with the same bits as one in one piece. Keras is reset before (`clear_session`, `set_random_seed`).
    A run is known by its configuration, first weights, data and the versions of Keras, its backend and NumPy:
    custom layers, losses and schedules must be registered (`keras.saving.register_keras_serializable`; a
    `custom_object_scope` ends with the reset) and have a `get_config` that tells all. Random layers of your
    own must draw from a `keras.random.SeedGenerator` that is an attribute of theirs.

    Args:
        build: function without arguments that returns a compiled model.
        x: array of images `(N, …)`, as the model takes them. Without `augment`, every epoch copies them in
            its order: keep room for three times the images.
        y: array of `N` labels, as the model's loss expects them.
        epochs: passes over the images, at least 1. A part of the configuration, for schedules depend on it: a
            finished run is not continued with more epochs.
        folder: where to keep the run; made if it does not exist. One run, one folder.
        seed: integer, at least 0, behind the initial weights, the order and the dropout.
        batch_size: images per step; the last, smaller batch is used too.
        validation_data: `(x, y)` to measure after each epoch, or None.
        augment: a layer of `augment.py` that changes each batch before it is trained on, with its labels if
            its `call` takes them, as that of MixUp (which needs one-hot labels in `validation_data`); None
            for none. A layer that changes images alone is better placed in the model, and one that rescales
            or standardizes must be there: images to validate do not go through this one. Every run begins
            with the layer's weights as they are given, and leaves them so.
        keep_epochs: keep the model after every epoch, not only after the last.
        callbacks: Keras callbacks that remember nothing from one epoch to the next: every epoch is a `fit` of
            its own. They are known by their class and those arguments that are numbers or text, a
            `LearningRateScheduler` by the rates that it makes of a rate of 1.
        strategy: a `tf.distribute.Strategy` to build and train the model in; `batch_size` is split over its
            replicas. Give batch normalization `synchronized=True`, else each replica has its own statistics.
            On JAX call `keras.distribution.set_distribution` before, instead.
        name: what to call the run in the progress bar and the result; None takes the folder's name.
        progress: a `tqdm` bar to advance by one per epoch; None makes one where someone can see it.

    Returns:
        A `Run`.

    Raises:
        ValueError: bad arguments, a model that could not be loaded again, or `folder` holds a run of another
            configuration; the message says what differs. Nothing in the folder is changed.
        RuntimeError: another process is training in `folder`, its file system has no locks, or a callback
            stopped the training.
        OSError: the model could not be written, on a full disk, say; the epoch before it is kept.

    Example:
        >>> import tempfile
        >>> def build():
        ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, "softmax")])
        ...     model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        ...     return model
        >>> x, y = np.random.rand(32, 4).astype("float32"), np.arange(32) % 2
        >>> folder = tempfile.mkdtemp()
        >>> first = run(build, x, y, epochs=2, folder=folder)
        >>> again = run(build, x, y, epochs=2, folder=folder)
        >>> again.read_back, again.history == first.history
        (True, True)
    """
    seed = _whole("seed", seed, least=0)
    plan = _plan(x, y, epochs, batch_size, validation_data, augment, keep_epochs, callbacks, strategy)
    folder = Path(folder)
    bar = _bar(plan.epochs) if progress is None else progress
    try:
        return _run(build, plan, folder, seed, folder.name if name is None else name, bar)
    finally:
        if progress is None:
            bar.close()


def study(
    variants: dict[str, Callable[[], keras.Model]],
    x: np.ndarray,
    y: np.ndarray,
    *,
    epochs: int,
    folder: str | os.PathLike,
    seeds: Iterable[int] = (0, 1, 2),
    batch_size: int = 128,
    validation_data: tuple | None = None,
    augment: keras.Layer | None = None,
    keep_epochs: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    strategy=None,
) -> dict[str, list[Run]]:
    """Train every variant with every seed, one progress bar for all; finished runs are read back.

    Args:
        variants: dict from a name to a function that returns a compiled model.
        seeds: integers, at least 0; each variant is trained once with each.
        folder: each run is kept in `folder/<name>-seed<seed>`.
        x, y, epochs, batch_size, validation_data, augment, keep_epochs, callbacks, strategy: as for `run`.

    Returns:
        Dict from each variant's name to its list of `Run`s, one per seed.

    Raises:
        ValueError, RuntimeError, OSError: as for `run`, or no variants or seeds.

    Example:
        >>> import tempfile
        >>> def build(units):
        ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(units, "relu"),
        ...                               keras.layers.Dense(2, "softmax")])
        ...     model.compile("adam", "sparse_categorical_crossentropy")
        ...     return model
        >>> x, y = np.random.rand(32, 4).astype("float32"), np.arange(32) % 2
        >>> variants = {"narrow": lambda: build(2), "wide": lambda: build(20)}
        >>> runs = study(variants, x, y, epochs=1, seeds=(0, 1), folder=tempfile.mkdtemp())
        4 runs of 1 epoch: 4 trained, 0 read back
        >>> [run.seed for run in runs["wide"]]
        [0, 1]
    """
    seeds = _check_seeds(seeds)
    if not variants or not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"variants={list(variants)} and seeds={seeds} must not be empty, no seed twice")
    for name in variants:
        if not isinstance(name, str) or not name or name.startswith(".") or set(name) & set('/\\<>:"|?*'):
            raise ValueError(f"variants: {name!r} cannot name a folder everywhere; expected plain text")
        if not callable(variants[name]) or isinstance(variants[name], keras.Model):
            raise ValueError(f"variants[{name!r}] must be a function that builds and compiles a model")
    if len({name.casefold() for name in variants}) < len(variants):
        raise ValueError("variants: two names differ only in capital letters, and would share a folder")
    plan = _plan(x, y, epochs, batch_size, validation_data, augment, keep_epochs, callbacks, strategy)
    jobs = {(name, seed): Path(folder) / f"{name}-seed{seed}" for name in variants for seed in seeds}
    # What is there comes first: if it does not fit, that is said before hours are spent on the others.
    found_first = sorted(jobs, key=lambda job: not (jobs[job] / "state.json").exists())
    with _bar(plan.epochs * len(jobs)) as bar:
        done = {job: _run(variants[job[0]], plan, jobs[job], job[1], job[0], bar) for job in found_first}
    runs = {name: [done[name, seed] for seed in seeds] for name in variants}
    read = sum(result.read_back for result in done.values())
    trained = f"{len(jobs) - read} trained, {read} read back"
    print(f"{_count(len(jobs), 'run')} of {_count(epochs, 'epoch')}: {trained}")
    return runs


def _check_seeds(seeds):
    try:
        numbers = [operator.index(seed) for seed in seeds]
    except TypeError:
        numbers = [-1]
    if min(numbers, default=0) < 0:
        raise ValueError(f"seeds={seeds!r} must be a list of whole numbers of at least 0, such as (0, 1, 2)")
    return numbers


class _Plan(NamedTuple):
    """What all runs of a study share, checked."""

    x: np.ndarray
    y: np.ndarray
    epochs: int
    batch_size: int
    validation_data: tuple | None
    augment: keras.Layer | None
    keep_epochs: bool
    callbacks: list
    callback_configurations: list
    strategy: object
    fingerprint: list
    augment_weights: list


def _plan(x, y, epochs, batch_size, validation_data, augment, keep_epochs, callbacks, strategy):
    _check_limits()
    epochs, batch_size = _whole("epochs", epochs), _whole("batch_size", batch_size)
    x, y = _check_pair("x and y", (x, y))
    arrays = [x, y]
    if validation_data is not None:
        validation_data = _check_pair("validation_data", validation_data)
        arrays += validation_data
    if strategy is not None and not hasattr(strategy, "scope"):
        raise ValueError(f"strategy={strategy!r} must be a tf.distribute.Strategy or None")
    backend = keras.backend.backend()
    if strategy is not None and backend != "tensorflow":
        raise ValueError(
            f"strategy needs TensorFlow, but Keras runs on {backend}: leave it out; on JAX call "
            "`keras.distribution.set_distribution` before"
        )
    _check_augment(augment, x, y)
    callbacks = _check_callbacks(callbacks)
    return _Plan(
        x=x,
        y=y,
        epochs=epochs,
        batch_size=batch_size,
        validation_data=validation_data,
        augment=augment,
        keep_epochs=keep_epochs,
        callbacks=callbacks,
        callback_configurations=[_callback_configuration(callback, epochs) for callback in callbacks],
        strategy=strategy,
        fingerprint=[_fingerprint(array) for array in arrays],
        augment_weights=augment.get_weights() if getattr(augment, "weights", ()) else [],
    )


def _check_limits():
    for name in ("max_epochs", "max_steps_per_epoch"):  # which not every version of Keras has
        if getattr(keras.config, name, lambda: None)() is not None:
            raise ValueError(f"keras.config.{name} would cut the training off; set it to None")


def _whole(what, value, least=1):
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"{what}={value!r} must be a whole number of at least {least}")
    return number


def _check_augment(augment, x, y):
    if augment is None:
        return
    if not hasattr(augment, "stateless"):
        raise ValueError(
            f"augment={augment!r} has no method stateless(images, seed), so that it would not repeat; "
            "a layer of Keras goes into the model"
        )
    for count in (2, 32):  # two first: it builds the layer, whose configuration keeps the shape
        given = (x[:count], y[:count]) if _changes_labels(augment) else (x[:count],)
        kept = augment(*given, training=False)
        kept = keras.ops.convert_to_numpy(kept[0] if _changes_labels(augment) else kept)
        # Rounded, in a type of half precision.
        if kept.shape != x[:count].shape or not np.allclose(kept, x[:count], rtol=1e-2):
            raise ValueError(
                f"augment={augment.name} changes images that are not trained on too, to resize, rescale or "
                "standardize them; put it into the model"
            )


def _changes_labels(augment):
    return "labels" in inspect.signature(augment.call).parameters


def _run(build, plan, folder, seed, name, bar):
    bar.set_description(f"{name} seed {seed}")
    _reset(seed)
    with _scope(plan.strategy):
        model = build()
    with _kept_weights(plan):
        return _run_model(model, plan, folder, seed, name, bar)


@contextmanager
def _kept_weights(plan):
    """Begin with the weights of the augmentation as they were given, whatever callbacks do to them."""
    try:
        _restore(plan)
        yield
    finally:
        _restore(plan)


def _restore(plan):
    if plan.augment_weights:
        plan.augment.set_weights(plan.augment_weights)


def _run_model(model, plan, folder, seed, name, bar):
    config = _configuration(model, plan, seed)
    state = _read_state(folder, config)
    if len(state["seconds"]) < plan.epochs:
        with _locked(folder):
            state = _read_state(folder, config)  # again: another process may have gone on in the meantime
            if len(state["seconds"]) < plan.epochs:
                result = Run(name, seed, state["history"], state["seconds"], folder)
                _train(model, plan, result, config, bar)
                return result
    return _read_back(plan, folder, seed, name, state, bar)


def _reset(seed):
    """Forget what was built before, on which the names of layers depend; what the user has set stays."""
    policy, distribution = keras.config.dtype_policy(), keras.distribution.distribution()
    logs, short_tracebacks = (
        keras.config.is_interactive_logging_enabled(),
        keras.config.is_traceback_filtering_enabled(),
    )
    keras.utils.clear_session()  # forgets these four as well
    keras.config.set_dtype_policy(policy)
    keras.distribution.set_distribution(distribution)
    if not logs:
        keras.config.disable_interactive_logging()
    if not short_tracebacks:
        keras.config.disable_traceback_filtering()
    keras.utils.set_random_seed(seed)


def _read_back(plan, folder, seed, name, state, bar):
    _check_model_file(folder, plan.epochs)
    if not plan.keep_epochs:  # the run may have been cut off just before it tidied up
        _remove_older(folder, plan.epochs)
    _skip(bar, plan.epochs)
    return Run(name, seed, state["history"], state["seconds"], folder, read_back=True)


def _train(model, plan, result, config, bar):
    """The epochs that are still to be done, each kept as soon as it is finished."""
    done = len(result.seconds)
    _skip(bar, done)
    if done:
        _check_model_file(result.folder, done)
        with _scope(plan.strategy):
            model = _load(_model_file(result.folder, done))
    else:
        _check_keeps(model, plan, result.folder, config)
    for epoch in range(done, plan.epochs):
        logs, seconds = _train_epoch(model, plan, result.seed, epoch)
        if model.stop_training:
            raise RuntimeError(
                f"{result.folder}: a callback stopped the training in epoch {epoch + 1}, which is not kept"
            )
        result.seconds.append(seconds)
        for metric, values in logs.items():
            result.history.setdefault(metric, []).append(float(values[0]))
        _keep(model, result, config, plan.keep_epochs)
        bar.update()
        bar.set_postfix({k: f"{v[-1]:.4f}" for k, v in result.history.items() if "acc" in k})


def _check_keeps(model, plan, folder, config):
    """Whether what a run keeps can be read again: found out before hours are spent, not after."""
    _state_text({}, [], config)
    draft, state = folder / "draft-check.keras", random.getstate()
    try:
        with _scope(plan.strategy):
            model.save(draft)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the optimizer, which has no variables yet
                _load(draft)
    except OSError as error:
        raise OSError(f"{draft} could not be written: {error}") from error
    except Exception as error:  # of any kind: what Keras raises depends on what it cannot load
        raise ValueError(
            f"build returns a model that could not be loaded again: {_reason(error)}. Register its layers, "
            "losses and metrics with keras.saving.register_keras_serializable; a Lambda layer holds code, "
            "which is never loaded"
        ) from error
    finally:
        random.setstate(state)  # the seeds of layers that were loaded came from it
        draft.unlink(missing_ok=True)


@contextmanager
def _locked(folder):
    """Let no other process into the folder. The lock ends with the process, also when it is killed."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RuntimeError(
            f"{folder}: another process is training here; wait for it, stop it, or choose another folder"
        ) from None
    except NotImplementedError:  # some network drives
        raise RuntimeError(
            f"{folder} is on a file system without locks, where two processes could spoil each other's run; "
            "choose a folder on another one"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _train_epoch(model, plan, seed, epoch):
    """One epoch whose order and dropout depend on the seed and the number of the epoch alone."""
    order = np.random.default_rng((seed, epoch)).permutation(len(plan.x))
    rng = np.random.default_rng((seed, epoch, 1))
    for variable in model.variables:
        if variable.path.endswith("seed_generator_state"):
            variable.assign(rng.integers(0, 2**31, variable.shape))
    callbacks = list(plan.callbacks)
    if keras.backend.backend() == "torch":
        # There a Dropout without a seed draws from PyTorch itself, and so does `fit` before its first epoch.
        number = int(rng.integers(2**31))
        callbacks.append(keras.callbacks.LambdaCallback(lambda *_: keras.utils.set_random_seed(number)))
    if plan.augment is None:
        batches = {"x": plan.x[order], "y": plan.y[order], "batch_size": plan.batch_size}
    else:
        batches = {"x": _AugmentedBatches(plan, order, (seed, epoch, 2))}
    start = time.perf_counter()
    fitted = model.fit(
        **batches,
        shuffle=False,
        verbose=0,
        initial_epoch=epoch,
        epochs=epoch + 1,
        validation_data=plan.validation_data,
        callbacks=callbacks,
    )
    return fitted.history, time.perf_counter() - start


class _AugmentedBatches(keras.utils.PyDataset):
    """The batches of one epoch, each augmented with a seed of its own."""

    def __init__(self, plan, order, seed):
        super().__init__()
        self.plan, self.order, self.seed = plan, order, seed
        self.changes_labels = _changes_labels(plan.augment)

    def __len__(self):
        return math.ceil(len(self.order) / self.plan.batch_size)

    def __getitem__(self, number):
        size, augment = self.plan.batch_size, self.plan.augment
        chosen = self.order[number * size : (number + 1) * size]
        images, labels = self.plan.x[chosen], self.plan.y[chosen]
        key = np.random.default_rng((*self.seed, number)).integers(0, 2**31, 2)
        if self.changes_labels:
            return augment.stateless(images, labels, seed=key)
        return augment.stateless(images, seed=key), labels


def _keep(model, result, config, keep_epochs):
    """Write the model, then the state that names it: a run cut off in between goes on from the one before."""
    done = len(result.seconds)
    text = _state_text(result.history, result.seconds, config)
    _write(_model_file(result.folder, done), model.save)
    _write(result.folder / "state.json", lambda file: file.write_text(text))
    if not keep_epochs:
        _remove_older(result.folder, done)


def _state_text(history, seconds, config):
    text = json.dumps({"history": history, "seconds": seconds, "configuration": config}, indent=1)
    if len(text) > _MOST_BYTES:  # json.dumps writes ASCII
        raise ValueError(
            f"history and configuration have {len(text):,} bytes, of which at most {_MOST_BYTES:,} are read "
            "again: keep large arrays out of the `get_config` of layers"
        )
    return text


def _remove_older(folder, epoch):
    for older in range(1, epoch):
        if _model_file(folder, older).exists():  # a read-only disk refuses to remove even what is not there
            _model_file(folder, older).unlink(missing_ok=True)


def _write(path, write):
    """Write a file whole or not at all: under another name first, then renamed."""
    draft = path.with_name(f"draft-{path.name}")
    try:
        write(draft)
        with open(draft, "rb+") as file:
            os.fsync(file.fileno())  # on the disk before it gets its name, should the machine go down
        os.replace(draft, path)
        _sync(path.parent)
    except BaseException as error:  # a full disk, Ctrl-C: what was there before stays
        draft.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise OSError(
            f"{path} could not be written: {error}; the run goes on from the epoch before"
        ) from error


def _sync(folder):
    """Have the new name on the disk before an older file is removed."""
    if os.name == "posix":
        with suppress(OSError):  # some file systems cannot, and need not
            number = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(number)
            finally:
                os.close(number)


def _load(file):
    """The model in a `.keras` file, which may hold no code."""
    try:
        return keras.saving.load_model(file, safe_mode=True)
    except (zipfile.BadZipFile, OSError, KeyError) as error:  # these do not name the file
        raise ValueError(f"{file} is damaged: {error}") from error
    except TypeError as error:
        raise ValueError(f"{file} cannot be loaded: {_reason(error)}") from error


def _reason(error):
    """The end of Keras's message, which may repeat a whole configuration before it."""
    return str(error).rsplit("Exception encountered:", 1)[-1].strip()[:300]


def _model_file(folder, epoch):
    return Path(folder) / f"epoch-{epoch:02d}.keras"


def _configuration(model, plan, seed):
    """All that decides the result of a run, as plain JSON."""
    _check_model(model)
    backend = keras.backend.backend()
    config = {
        "epochs": plan.epochs,
        "seed": seed,
        "batch_size": plan.batch_size,
        "keep_epochs": plan.keep_epochs,
        "class": keras.saving.get_registered_name(type(model)),
        "model": model.get_config(),
        "compile": model.get_compile_config(),
        "initial_weights": _hash(*model.get_weights()),
        "data": plan.fingerprint,
        "augment": plan.augment and keras.saving.serialize_keras_object(plan.augment),
        "augment_weights": _hash(*plan.augment.get_weights())
        if getattr(plan.augment, "weights", ())
        else None,
        "callbacks": plan.callback_configurations,
        "strategy": _strategy_name(plan.strategy),
        "keras": keras.__version__,
        "backend": f"{backend} {getattr(sys.modules.get(backend), '__version__', '')}".strip(),
        "numpy": ".".join(np.__version__.split(".")[:2]),  # the order of the images comes from it
    }
    return json.loads(json.dumps(config, default=_as_text))


def _as_text(value):
    text = str(value)
    if re.search(r" at 0x[0-9a-f]+", text):  # an address, which is another one in every process
        raise ValueError(f"the configuration holds {text[:80]}, which tells nothing: give it a get_config")
    return text


def _check_model(model):
    if not getattr(model, "compiled", False):
        raise ValueError("build must return a compiled model; call model.compile(...) in it")
    if not model.built:
        raise ValueError("build must return a model that knows its input: begin it with keras.Input(...)")
    if getattr(_inner(model.optimizer), "use_ema", False):
        raise ValueError(
            "the optimizer's use_ema would replace the weights after each epoch, since every epoch is a fit "
            "of its own; average the models that keep_epochs=True keeps instead"
        )


def _inner(optimizer):
    """The optimizer that has the settings, in mixed precision inside another that scales the loss."""
    return getattr(optimizer, "inner_optimizer", optimizer)


_FORGETFUL = (
    keras.callbacks.EarlyStopping,
    keras.callbacks.ReduceLROnPlateau,
    keras.callbacks.BackupAndRestore,
    keras.callbacks.CSVLogger,
    keras.callbacks.ModelCheckpoint,
)


def _check_callbacks(callbacks):
    for callback in callbacks:
        if not isinstance(callback, keras.callbacks.Callback):
            raise ValueError(f"callbacks: {callback!r} is not a keras.callbacks.Callback object")
        if isinstance(callback, (*_FORGETFUL, LearningRateRangeTest)):
            raise ValueError(
                f"callbacks: {type(callback).__name__} remembers epochs and would begin anew with each, "
                "since every epoch is a fit of its own; use it in a plain fit"
            )
    return list(callbacks)


def _callback_configuration(callback, epochs):
    """Class and simple attributes that are arguments of it; what changes during a fit is left out."""
    values = {name: getattr(callback, name, None) for name in inspect.signature(type(callback)).parameters}
    values = {k: v.item() if isinstance(v, np.generic) else v for k, v in values.items()}
    simple = {k: v for k, v in values.items() if isinstance(v, (bool, int, float, str))}
    if isinstance(callback, keras.callbacks.LearningRateScheduler):
        simple["rates"] = _rates(callback.schedule, epochs)
    return {"class": type(callback).__name__, **simple}


def _rates(schedule, epochs):
    """What a scheduler's function, which has no configuration, makes of a rate of 1 in every epoch."""
    rate, rates = 1.0, []
    for epoch in range(epochs):
        try:
            rate = float(schedule(epoch, rate))
        except TypeError:  # Keras, too, tries it with the epoch alone
            rate = float(schedule(epoch))
        rates.append(rate)
    return rates


def _scope(strategy):
    return nullcontext() if strategy is None else strategy.scope()


def _strategy_name(strategy):
    if strategy is None:
        return None
    return f"{type(strategy).__name__} with {strategy.num_replicas_in_sync} replicas"


def _read_state(folder, config):
    """The history of the run in `folder`: empty for a new one, refused where the configuration differs."""
    file = folder / "state.json"
    if not file.exists():
        return {"history": {}, "seconds": []}
    try:
        state = _read_json(file)
        done = _epochs_done(state)
        known = state["configuration"]
        now = {k: v for k, v in config.items() if k in known or k != "class"}  # which early runs have not
        differences = list(_differences(_readable(known), _readable(now)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} is damaged: {_short(error)}; delete the folder to train anew") from error
    if differences:
        raise ValueError(
            f"{folder} holds a run of another configuration: {'; '.join(differences[:5])}. "
            f"Choose another folder, or delete {folder}"
        )
    if done > config["epochs"]:
        raise ValueError(f"{file} is damaged: {done} epochs in it; delete the folder to train anew")
    return state


def _read_json(file):
    if not file.is_file() or file.stat().st_size > _MOST_BYTES:
        raise ValueError(f"expected a file of at most {_MOST_BYTES:,} bytes")
    return json.loads(file.read_text())


def _epochs_done(state):
    """How many epochs a state tells of, if history and seconds are as `_keep` writes them."""
    lists = [state["seconds"], *state["history"].values()]
    if any(not isinstance(values, list) or {type(value) for value in values} != {float} for values in lists):
        raise ValueError("history and seconds must be lists of numbers")
    if len(lists) == 1 or len({len(values) for values in lists}) > 1:
        raise ValueError("history and seconds do not match")
    return len(lists[0])


def _check_model_file(folder, done):
    """Look for the model only under the lock or of a finished run: else another process may remove it."""
    if not _model_file(folder, done).is_file():
        raise ValueError(f"{folder} is damaged: no model after epoch {done}; delete it to train anew")


def _readable(config):
    """The configuration with its data as one line for each array, under the name of the argument."""
    names = ("x", "y", "validation x", "validation y")
    lines = [f"{a['dtype']} {tuple(a['shape'])} with hash {a['hash']}" for a in config.get("data", ())]
    return {**config, "data": dict(zip(names, lines, strict=False))}


def _differences(old, new, path=""):
    """Where two nested configurations differ, as readable lines."""
    if isinstance(old, dict) and isinstance(new, dict):
        decide = ("compile.loss", "compile.metrics", "compile.weighted_metrics", "callbacks")
        kept = path.endswith("dtype.config") or path.startswith(decide)
        names = set() if kept else {"name"}  # those of layers and optimizers, which Keras numbers
        for key in sorted((old.keys() | new.keys()) - names):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, pair in enumerate(zip(old, new, strict=True)):
            yield from _differences(*pair, f"{path}[{i}]")
    elif old != new:
        yield f"{path} was {_short(old)}, is now {_short(new)}"


def _short(value):
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _fingerprint(array):
    """Shape, type and hash: enough to notice other data."""
    return {"shape": list(array.shape), "dtype": array.dtype.name, "hash": _hash(array)}


def _hash(*arrays):
    digest = hashlib.blake2b(digest_size=8)
    for array in arrays:
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def _check_pair(what, pair):
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise ValueError(f"{what} must be a pair of arrays, images and labels; got {type(pair).__name__}")
    if any(hasattr(part, "element_spec") for part in pair):
        raise ValueError(f"{what}: a tf.data.Dataset has no fixed order; give arrays, augment in the model")
    images, labels = (np.asarray(part) for part in pair)
    if images.ndim == 0 or labels.ndim == 0 or not 0 < len(images) == len(labels):
        raise ValueError(
            f"{what}: images {images.shape} and labels {labels.shape} must have the same length, not 0"
        )
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        raise ValueError(f"{what}: the images hold NaN or infinity")
    return images, labels


def _skip(bar, epochs):
    """Advance the bar by epochs that were found: they say nothing of the time that the others will take."""
    if not bar.disable:
        bar.initial += epochs
        bar.last_print_n += epochs
        bar.n += epochs
        bar.refresh()


def _count(n, noun):
    return f"{n} {noun}{'s' * (n != 1)}"


def _bar(total):
    """A progress bar where someone can see it: a terminal or a notebook."""
    seen = sys.stderr.isatty() or "ipykernel" in sys.modules
    return tqdm(total=total, unit="epoch", disable=not seen, leave=False, dynamic_ncols=True, mininterval=0.5)


@keras.saving.register_keras_serializable(package="evakeras")
class OneCycle(keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate that rises to a peak and falls to almost nothing, along two halves of a cosine.

    With p the peak, w = warmup · steps and c(t) = (1 + cos πt) / 2, which goes from 1 to 0:
    step s ≤ w has the rate start + (p − start) · (1 − c(s / w)), later ones
    end + (p − end) · c((s − w) / (steps − w)), where start = p / start_divisor, end = start / end_divisor.
    The momentum stays as it is; Smith's policy lowers it while the rate is high.

    Args:
        peak: the highest rate, above 0; `LearningRateRangeTest.suggest()` is a good guess.
        steps: batches of the whole training, epochs · ⌈images / batch size⌉, at least 2; after them the rate
            stays at `end`.
        warmup: fraction of the steps that rise, in (0, 1).
        start_divisor: peak / first rate, at least 1.
        end_divisor: first rate / last rate, at least 1.

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> schedule = OneCycle(peak=0.01, steps=100)
        >>> [round(float(schedule(step)), 6) for step in (0, 15, 30, 65, 100)]
        [0.0004, 0.0052, 0.01, 0.005, 0.0]
        >>> optimizer = keras.optimizers.Adam(schedule)  # it is a learning rate, not a callback

    Reference:
        Smith, Topin: Super-convergence, 2019 (arXiv:1708.07120).
    """

    def __init__(self, peak, steps, *, warmup=0.3, start_divisor=25.0, end_divisor=1e4):
        super().__init__()
        try:
            numbers = [float(value) for value in (peak, steps, warmup, start_divisor, end_divisor)]
        except (TypeError, ValueError):
            raise ValueError(
                f"peak={peak!r}, steps={steps!r}, warmup={warmup!r}, start_divisor={start_divisor!r} and "
                f"end_divisor={end_divisor!r} must be numbers"
            ) from None
        if not numbers[1].is_integer():
            raise ValueError(f"steps={steps!r} must be a whole number of batches")
        self.peak, _, self.warmup, self.start_divisor, self.end_divisor = numbers
        self.steps = int(steps)
        if not (0 < self.peak < math.inf and self.steps >= 2 and 0 < self.warmup < 1):
            raise ValueError(
                f"peak={peak} must be above 0, steps={steps} at least 2, warmup={warmup} in (0, 1)"
            )
        if not (1 <= self.start_divisor < math.inf and 1 <= self.end_divisor < math.inf):
            raise ValueError(
                f"start_divisor={start_divisor} and end_divisor={end_divisor} must be at least 1"
            )

    def __call__(self, step):
        step, rise = keras.ops.cast(step, "float32"), self.warmup * self.steps
        start = self.peak / self.start_divisor
        end = start / self.end_divisor
        rising = self.peak + (start - self.peak) * _half_cosine(step / rise)
        falling = end + (self.peak - end) * _half_cosine((step - rise) / (self.steps - rise))
        return keras.ops.where(step < rise, rising, falling)

    def get_config(self):
        names = ("peak", "steps", "warmup", "start_divisor", "end_divisor")
        return {name: getattr(self, name) for name in names}


def _half_cosine(t):
    """From 1 at t = 0 to 0 at t = 1 and after."""
    return (1 + keras.ops.cos(math.pi * keras.ops.clip(t, 0.0, 1.0))) / 2


class LearningRateRangeTest(keras.callbacks.Callback):
    """Raise the learning rate exponentially, batch by batch of a `fit`, and note what becomes of the loss.

    The test ends the fit by itself and leaves model, optimizer and rate as they were before (a fit that an
    error or Ctrl-C ends does not). After it, `history` maps "learning_rate", "loss" and each compiled metric
    to one float per batch, each measured on that batch alone.

    Args:
        low, high: first and last rate, 0 < low < high.
        steps: number of batches, at least 2; give `fit` enough epochs for them.
        stop_factor: end early when the loss is not finite or exceeds this multiple (above 1) of the lowest
            so far; None goes on to the end whatever happens.

    Raises:
        ValueError: an argument outside its range; during `fit`: too few batches, an optimizer whose rate is
            a schedule or which gathers gradients of several batches, or several steps per execution.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, "softmax")])
        >>> model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> x, y = np.random.rand(64, 4).astype("float32"), np.arange(64) % 2
        >>> test = LearningRateRangeTest(low=1e-4, high=1.0, steps=5)
        >>> _ = model.fit(x, y, batch_size=16, epochs=2, verbose=0, callbacks=[test])
        >>> [float(f"{rate:.6g}") for rate in test.history["learning_rate"]]
        [0.0001, 0.001, 0.01, 0.1, 1.0]

    Reference:
        Smith: Cyclical learning rates for training neural networks, 2017 (arXiv:1506.01186).
    """

    def __init__(self, low=1e-5, high=10.0, steps=200, *, stop_factor=4.0):
        super().__init__()
        try:
            self.low, self.high, self.steps = float(low), float(high), operator.index(steps)
            self.stop_factor = math.inf if stop_factor is None else float(stop_factor)
        except (TypeError, ValueError):
            raise ValueError(
                f"low={low!r}, high={high!r} and stop_factor={stop_factor!r} must be numbers, "
                f"steps={steps!r} a whole one"
            ) from None
        if not (0 < self.low < self.high < math.inf and self.steps >= 2 and self.stop_factor > 1):
            raise ValueError(
                f"low={low} and high={high} must be above 0 and rise, steps={steps} at least 2, "
                f"stop_factor={stop_factor} above 1 or None"
            )
        self.history = {}

    def suggest(self):
        """A tenth of the rate at which the smoothed loss was lowest: fast, at a distance from the edge."""
        if not self.history:
            raise ValueError("the test has not run yet: pass it to fit(..., callbacks=[test])")
        smoothed, best = 0.0, (math.inf, self.low)
        pairs = zip(self.history["learning_rate"], self.history["loss"], strict=True)
        for step, (rate, loss) in enumerate(pairs, 1):
            smoothed = 0.9 * smoothed + 0.1 * loss  # as Adam does, with the same correction of the start
            best = min(best, (smoothed / (1 - 0.9**step), rate))
        if not math.isfinite(best[0]):
            raise ValueError("no loss of the test was finite: look at the data and the model")
        return best[1] / 10

    def on_train_begin(self, logs=None):
        optimizer, batches = self.model.optimizer, self.params["steps"]
        if self.model.steps_per_execution != 1:  # the callback is asked once for each execution
            steps = self.model.steps_per_execution
            raise ValueError(f"the model is compiled with steps_per_execution={steps}; expected 1")
        if getattr(_inner(optimizer), "gradient_accumulation_steps", None):
            raise ValueError("the optimizer accumulates gradients; expected a step for each batch")
        if isinstance(_inner(optimizer).get_config()["learning_rate"], dict):
            raise ValueError(
                "the optimizer's learning rate is a schedule; compile with a number for this test"
            )
        if batches is not None and batches * self.params["epochs"] < self.steps:
            needed = math.ceil(self.steps / batches)
            raise ValueError(
                f"steps={self.steps} need {needed} epochs of {batches} batches: fit(epochs={needed})"
            )
        optimizer.build(self.model.trainable_variables)
        self._variables = self.model.variables + optimizer.variables
        self._before = [keras.ops.convert_to_numpy(variable) for variable in self._variables]
        self.history = {"learning_rate": []}

    def on_train_batch_begin(self, batch, logs=None):
        self.model.reset_metrics()  # Keras reports averages since the last reset: now that of one batch
        exponent = len(self.history["learning_rate"]) / (self.steps - 1)
        rate = self.low * (self.high / self.low) ** exponent
        self.model.optimizer.learning_rate = rate
        self.history["learning_rate"].append(rate)

    def on_train_batch_end(self, batch, logs=None):
        for name, value in logs.items():
            self.history.setdefault(name, []).append(float(value))
        losses = self.history["loss"]
        limit = min(losses) + (self.stop_factor - 1) * abs(min(losses))  # a loss may be negative
        lost = not losses[-1] <= limit  # NaN too
        if len(losses) == self.steps or (lost and self.stop_factor < math.inf):
            self.model.stop_training = True

    def on_train_end(self, logs=None):
        for variable, value in zip(self._variables, self._before, strict=True):
            variable.assign(value)
