"""Seconds of training until the mean test accuracy on MNIST is 99.40 %: "fast" with its recipe against the
notes' eighth model with the notes' learning rate (Adam at 0.003 / (1 + 0.319 · epoch), batches of 128).

"fast" is trained five times to its end, on the 55,000 digits of session 03, and reads the test digits once
each time; compiling and augmentation are part of its time. After each of these trainings one epoch of the
eighth model is timed on the same cores, without what compiling takes. How many epochs it needs is known from
session 03, which trains it with several seeds and has its mean test accuracy after each epoch. If none
reaches the goal, the time of all of them is a lower bound, and the row says so. In quick mode only an epoch
of each is timed.
"""

import json
import time
from pathlib import Path

import keras
import numpy as np
from timing import row

from evakeras import augment, data, models

GOAL = 0.994
RESULTS = Path(__file__).resolve().parents[1] / "assets" / "results.json"


def rows(quick=False):
    digits = data.load_mnist(limit=3_000 if quick else None)
    if digits.name != "mnist":
        raise FileNotFoundError("MNIST is not here: set EVAKERAS_DATA to a folder with mnist.npz")
    count = len(digits.x_train) - len(digits.x_train) // 12
    x, y = digits.x_train[:count].astype("float32") / 255, digits.y_train[:count]
    eighth = notes_model(count)
    eighth.fit(x[:1280], y[:1280], batch_size=128, verbose=0)  # compiles
    epochs = 1 if quick else models.RECIPES["fast"].epochs
    if not quick:  # before the trainings: it may be missing
        needed, baseline = needed_epochs(json.loads(RESULTS.read_text(encoding="utf-8")))
    ours, theirs, scores = [], [], []
    for seed in range(2 if quick else 5):
        keras.utils.set_random_seed(seed)
        fast = models.compiled("fast", count, epochs=epochs)
        if quick:  # a single epoch: leave out of it what compiling takes
            fast.fit(batches(x[:1280], y[:1280], seed), shuffle=False, verbose=0)
        ours.append(seconds(fast, batches(x, y, seed), epochs))
        scores.append(accuracy(fast, digits.x_test, digits.y_test))
        theirs.append(seconds(eighth, data.batches(x, y, 128, shuffle=True, seed=seed), 1))
    if quick:
        return [row(f"an epoch of {count:,} digits", "eighth model", ours, theirs, "s")]
    mean = np.mean(scores)
    if mean < GOAL:
        raise RuntimeError(f'"fast" does not reach {GOAL:.2%} but {mean:.2%}: {scores}')
    what = f"{epochs} epochs of fast, {mean:.2%} ± {np.std(scores, ddof=1):.2%} ({len(scores)} seeds)"
    return [row(what, baseline, ours, [needed * one for one in theirs], "s")]


def notes_model(count):
    model = models.build("eighth")
    steps = -(-count // 128)
    rate = keras.optimizers.schedules.InverseTimeDecay(0.003, steps, 0.319, staircase=True)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def batches(x, y, seed):
    recipe = models.RECIPES["fast"]
    moved = augment.from_image_data_generator(**recipe.augmentation)
    return data.batches(x, y, recipe.batch_size, shuffle=True, seed=seed, augment=moved)


def seconds(model, images, epochs):
    start = time.perf_counter()
    model.fit(images, epochs=epochs, shuffle=False, verbose=0)  # `batches` has done it
    return time.perf_counter() - start


def accuracy(model, x, y):
    return float(np.mean(model.predict(x.astype("float32") / 255, verbose=0).argmax(axis=1) == y))


def needed_epochs(results):
    """Epochs after which the eighth model's mean of session 03 reaches the goal, and what to call them."""
    if "03-compact" not in results:
        raise LookupError(f"{RESULTS} lacks the results of session 03: make refresh")
    means = results["03-compact"]["by_epoch"]["eighth"]
    reached = [epoch for epoch, mean in enumerate(means, 1) if mean >= GOAL]
    if reached:
        return reached[0], f"eighth model: {reached[0]} epochs"
    return len(means), f"eighth model: {len(means)} epochs, which reach {max(means):.2%} only: a lower bound"
