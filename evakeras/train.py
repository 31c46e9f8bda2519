"""Train models and keep what came out: one run, or a study of several variants and seeds.

A run lives in a folder of its own. A finished run is read back, an interrupted one goes on after its last
finished epoch, and a folder that was made with another configuration is refused.

This file works alone: copy it into an assignment and `import train`. It needs Keras 3, NumPy and tqdm.
"""

import hashlib
import json
import operator
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from tqdm import tqdm

__all__ = ["Run", "run", "study"]


@dataclass
class Run:
    """What one training left behind.

    `history` maps each metric to one float per epoch, as Keras's own does; `seconds` is the time that the
    epochs took, one float each. `folder` holds `state.json` and the last `epoch-NN.keras` (or all of them).
    """

    name: str
    seed: int
    history: dict
    seconds: list
    folder: Path
    read_back: bool = False

    def file(self, epoch: int | None = None) -> Path:
        """Path of the `.keras` file of the model as it was after `epoch` (from 1; None is the last)."""
        file = _model_file(self.folder, len(self.seconds) if epoch is None else epoch)
        if not file.exists():
            raise FileNotFoundError(f"{file} was not kept; train with keep_epochs=True")
        return file

    def model(self, epoch: int | None = None) -> keras.Model:
        """Load the model as it was after `epoch` (from 1; None is the last)."""
        return keras.saving.load_model(self.file(epoch))


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
    keep_epochs: bool = False,
    name: str | None = None,
    progress: tqdm | None = None,
) -> Run:
    """Train one model and keep its history and weights in `folder`.

    The order of the images and the numbers behind Dropout and random layers depend on `seed` and the epoch
    alone, so that on a CPU an interrupted run that goes on ends with the same bits as one in one piece.
    Keras is reset before (`clear_session`, `set_random_seed`). A run is known by its configuration and first
    weights: custom layers, losses and schedules must be registered and have a `get_config` that tells all.

    Args:
        build: function without arguments that returns a compiled model.
        x: float images `(N, …)`; y: labels, `N` of them, as the model's loss expects.
        epochs: passes over the images, at least 1.
        folder: where to keep the run; made if it does not exist. One run, one folder.
        seed: integer behind the initial weights, the order and the dropout.
        batch_size: images per step; the last, smaller batch is used too.
        validation_data: `(x, y)` to measure after each epoch, or None.
        keep_epochs: keep the model after every epoch, not only after the last.
        name: what to call the run in the progress bar and the result; None takes the folder's name.
        progress: a `tqdm` bar to advance by one per epoch; None makes one where someone can see it.

    Returns:
        A `Run`.

    Raises:
        ValueError: bad arguments, or `folder` holds a run of another configuration; the message says what
            differs. Nothing in the folder is changed.

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
    plan = _plan(x, y, epochs, batch_size, validation_data, keep_epochs)
    folder = Path(folder)
    bar = _bar(epochs) if progress is None else progress
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
    keep_epochs: bool = False,
) -> dict[str, list[Run]]:
    """Train every variant with every seed, one progress bar for all; finished runs are read back.

    Args:
        variants: dict from a name to a function that returns a compiled model.
        seeds: integers; each variant is trained once with each.
        folder: each run is kept in `folder/<name>-seed<seed>`.
        x, y, epochs, batch_size, validation_data, keep_epochs: as for `run`.

    Returns:
        Dict from each variant's name to its list of `Run`s, one per seed.

    Raises:
        ValueError: as for `run`, or no variants or seeds.

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
    seeds = [operator.index(seed) for seed in seeds]
    if not variants or not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"variants={list(variants)} and seeds={seeds} must not be empty, no seed twice")
    for name in variants:
        if not isinstance(name, str) or not name or "/" in name or "\\" in name or name.startswith("."):
            raise ValueError(f"variants: {name!r} cannot name a folder; expected text without slashes")
    plan = _plan(x, y, epochs, batch_size, validation_data, keep_epochs)
    jobs = [(name, seed) for name in variants for seed in seeds]
    runs = {name: [] for name in variants}
    with _bar(epochs * len(jobs)) as bar:
        for name, seed in jobs:
            run_folder = Path(folder) / f"{name}-seed{seed}"
            runs[name].append(_run(variants[name], plan, run_folder, seed, name, bar))
    read = sum(r.read_back for done in runs.values() for r in done)
    trained = f"{len(jobs) - read} trained, {read} read back"
    print(f"{_count(len(jobs), 'run')} of {_count(epochs, 'epoch')}: {trained}")
    return runs


class _Plan(NamedTuple):
    """What all runs of a study share, checked."""

    x: np.ndarray
    y: np.ndarray
    epochs: int
    batch_size: int
    validation_data: tuple | None
    keep_epochs: bool
    fingerprint: list


def _plan(x, y, epochs, batch_size, validation_data, keep_epochs):
    for what, value in (("epochs", epochs), ("batch_size", batch_size)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{what}={value!r} must be a whole number of at least 1")
    x, y = _check_pair("x and y", (x, y))
    arrays = [x, y]
    if validation_data is not None:
        validation_data = _check_pair("validation_data", validation_data)
        arrays += validation_data
    return _Plan(x, y, epochs, batch_size, validation_data, keep_epochs, [_fingerprint(a) for a in arrays])


def _run(build, plan, folder, seed, name, bar):
    bar.set_description(f"{name} seed {seed}")
    keras.utils.clear_session()  # so that the names of layers do not depend on what was built before
    keras.utils.set_random_seed(seed)
    model = build()
    config = _configuration(model, plan, seed)
    state = _read_state(folder, config)
    result = Run(name, seed, state["history"], state["seconds"], folder)
    done = len(result.seconds)
    bar.update(done)
    if done == plan.epochs:
        if not plan.keep_epochs:  # the run may have been cut off just before it tidied up
            _remove_older(folder, done)
        result.read_back = True
        return result
    if done:
        model = keras.saving.load_model(_model_file(folder, done))
    for epoch in range(done, plan.epochs):
        logs, seconds = _train_epoch(model, plan, seed, epoch)
        result.seconds.append(seconds)
        for metric, values in logs.items():
            result.history.setdefault(metric, []).append(float(values[0]))
        _keep(model, result, config, plan.keep_epochs)
        bar.update()
        bar.set_postfix({k: f"{v[-1]:.4f}" for k, v in result.history.items() if "acc" in k})
    return result


def _train_epoch(model, plan, seed, epoch):
    """One epoch whose order and dropout depend on the seed and the number of the epoch alone."""
    order = np.random.default_rng((seed, epoch)).permutation(len(plan.x))
    rng = np.random.default_rng((seed, epoch, 1))
    for variable in model.variables:
        if variable.path.endswith("seed_generator_state"):
            variable.assign(rng.integers(0, 2**31, variable.shape))
    start = time.perf_counter()
    fitted = model.fit(
        plan.x[order],
        plan.y[order],
        batch_size=plan.batch_size,
        shuffle=False,
        verbose=0,
        initial_epoch=epoch,
        epochs=epoch + 1,
        validation_data=plan.validation_data,
    )
    return fitted.history, time.perf_counter() - start


def _keep(model, result, config, keep_epochs):
    """Write the model, then the state that names it: a run cut off in between goes on from the one before."""
    result.folder.mkdir(parents=True, exist_ok=True)
    done = len(result.seconds)
    _write(_model_file(result.folder, done), model.save)
    state = {"history": result.history, "seconds": result.seconds, "configuration": config}
    text = json.dumps(state, indent=1)
    _write(result.folder / "state.json", lambda file: file.write_text(text))
    if not keep_epochs:
        _remove_older(result.folder, done)


def _remove_older(folder, epoch):
    for older in range(1, epoch):
        _model_file(folder, older).unlink(missing_ok=True)


def _write(path, write):
    """Write a file whole or not at all: under another name first, then renamed."""
    draft = path.with_name(f"draft-{path.name}")
    try:
        write(draft)
        os.replace(draft, path)
    except OSError as error:  # a full disk, say: what was there before stays
        draft.unlink(missing_ok=True)
        raise OSError(
            f"{path} could not be written: {error}; the run goes on from the epoch before"
        ) from error


def _model_file(folder, epoch):
    return Path(folder) / f"epoch-{epoch:02d}.keras"


def _configuration(model, plan, seed):
    """All that decides the result of a run, as plain JSON."""
    if not getattr(model, "compiled", False):
        raise ValueError("build must return a compiled model; call model.compile(...) in it")
    config = {
        "epochs": plan.epochs,
        "seed": seed,
        "batch_size": plan.batch_size,
        "keep_epochs": plan.keep_epochs,
        "model": model.get_config(),
        "compile": model.get_compile_config(),
        "initial_weights": _hash(*model.get_weights()),
        "data": plan.fingerprint,
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
    }
    return json.loads(json.dumps(config, default=str))


def _read_state(folder, config):
    """The history of the run in `folder`: empty for a new one, refused where the configuration differs."""
    file = folder / "state.json"
    if not file.exists():
        return {"history": {}, "seconds": []}
    try:
        state = json.loads(file.read_text())
        kept, done = state["configuration"], len(state["seconds"])
        if done == 0 or {len(values) for values in state["history"].values()} != {done}:
            raise ValueError("history and seconds do not match")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is damaged: {error!r}; delete the folder to train anew") from error
    differences = list(_differences(kept, config))
    if differences:
        raise ValueError(
            f"{folder} holds a run of another configuration: {'; '.join(differences[:5])}. "
            "Choose another folder, or delete this one"
        )
    if done > config["epochs"] or not _model_file(folder, done).exists():
        raise ValueError(f"{folder} is damaged: no model after epoch {done}; delete it to train anew")
    return state


def _differences(old, new, path=""):
    """Where two nested configurations differ, as readable lines."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted((old.keys() | new.keys()) - {"name"}):  # names of layers change nothing
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, pair in enumerate(zip(old, new, strict=True)):
            yield from _differences(*pair, f"{path}[{i}]")
    elif old != new:
        yield f"{path} was {_short(old)}, is now {_short(new)}"


def _short(value):
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _fingerprint(array):
    """Shape, type and hash: enough to notice other data."""
    return {"shape": list(array.shape), "dtype": array.dtype.name, "hash": _hash(array)}


def _hash(*arrays):
    digest = hashlib.blake2b(digest_size=8)
    for array in arrays:
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def _check_pair(what, pair):
    if len(pair) != 2:
        raise ValueError(f"{what} has {len(pair)} parts, expected images and labels")
    images, labels = (np.asarray(part) for part in pair)
    if images.ndim == 0 or labels.ndim == 0 or not 0 < len(images) == len(labels):
        raise ValueError(
            f"{what}: images {images.shape} and labels {labels.shape} must have the same length, not 0"
        )
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        raise ValueError(f"{what}: the images hold NaN or infinity")
    return images, labels


def _count(n, noun):
    return f"{n} {noun}{'s' * (n != 1)}"


def _bar(total):
    """A progress bar where someone can see it: a terminal or a notebook."""
    seen = sys.stderr.isatty() or "ipykernel" in sys.modules
    return tqdm(total=total, unit="epoch", disable=not seen, leave=False, dynamic_ncols=True, mininterval=0.5)
