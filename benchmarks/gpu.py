"""Images per second of training on a GPU, with Keras on TensorFlow, JAX or PyTorch.

    KERAS_BACKEND=jax python benchmarks/gpu.py            the progression from "third" on
    KERAS_BACKEND=jax python benchmarks/gpu.py fast       only this one; what is known of the others is kept
    KERAS_BACKEND=jax python benchmarks/gpu.py --write    write gpu.json, too, and with it the page
    KERAS_BACKEND=jax python benchmarks/gpu.py --cpu      only to try the script

It needs NumPy, Keras and one backend. `--quick` takes two models, batches of 128 and fewer steps.

What is timed is one epoch of `fit` with Adam, the loss and the accuracy: 60,000 images less those that fill
no batch, MNIST or, where it is not found, noise of that shape. `fit` has gone through `STEPS` batches twice
before, in which it compiles, and through one such epoch. Where an epoch would take longer than `LIMIT`
seconds, as on JAX without `jit_compile`, only as many batches are timed as fit in that time. "seventh" is the
network of "sixth" and is left out.

The images are float32, in batches made once, whose order is random in each epoch:

- JAX and PyTorch: all batches lie on the GPU (`keras.ops.convert_to_tensor`) in a `PyDataset`, which hands
  them to `fit` as they are.
- TensorFlow: all lie in the host's memory, in a `tf.data.Dataset`, and `prefetch_to_device` copies the next
  ones to the GPU while it computes.

`steps_per_execution` is `STEPS`, on PyTorch 1, since it has no other. On TensorFlow that is a loop inside one
call; Keras's trainer for JAX calls its compiled step as often as before, and only its callbacks less. On
PyTorch `jit_compile` is `torch.compile`, which breaks Keras's step into pieces and leaves some uncompiled.
"""

import argparse
import contextlib
import datetime
import io
import json
import os
import platform
import statistics
import sys
import time
import warnings
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
NAMES = ("third", "fourth", "fifth", "sixth", "eighth", "fast")
BATCHES = (128, 1024)
COUNT = 60_000
STEPS = 20  # batches in one call
LIMIT = 5.0  # seconds for one epoch


def main(arguments=None, folder=FOLDER):
    options = parsed(arguments)
    if options.cpu:  # before Keras comes
        os.environ.update(CUDA_VISIBLE_DEVICES="-1", JAX_PLATFORMS="cpu")
    sys.path[:0] = [str(FOLDER), str(FOLDER.parent)]
    import keras
    import run  # its page, beside this file

    backend = keras.backend.backend()
    card = card_of(backend)
    if card is None and not options.cpu:
        print(f"gpu.py: Keras's backend {backend} sees no GPU here; --cpu tries the script", file=sys.stderr)
        return 1
    images, labels, source = digits()
    found = {
        "card": card or "CPU, only to try the script",
        "date": datetime.date.today().isoformat(),
        "quick": options.quick,
        "images": source,
        "versions": versions(keras, backend),
        "rows": list(rows(options, images, labels)),
    }
    print(run.gpu_section(backend, found))
    if options.write:
        file = folder / "gpu.json"
        known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        known[backend] = merged(known.get(backend), found)
        run.write_whole(file, json.dumps(known, indent=1, ensure_ascii=False) + "\n")
        run.write({}, folder)
    return 0


def merged(before, found):
    """What was found, and what is known of other models from the same card and versions."""
    same = ("card", "versions", "images", "quick")
    if before is None or any(before[key] != found[key] for key in same):
        return found
    names = {row["model"] for row in found["rows"]}
    return {**found, "rows": [row for row in before["rows"] if row["model"] not in names] + found["rows"]}


def parsed(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", help="models; all if none is named")
    parser.add_argument("--quick", action="store_true", help="two models, one batch size, fewer steps")
    parser.add_argument("--write", action="store_true", help="write gpu.json, and the page anew")
    parser.add_argument("--cpu", action="store_true", help="on the CPU, only to try the script")
    options = parser.parse_args(arguments)
    if options.cpu and options.write:
        parser.error("what --cpu measures is never written")
    options.names = options.names or (("third", "fast") if options.quick else NAMES)
    return options


def card_of(backend):
    """The name of the GPU that the backend sees, or None."""
    if backend == "tensorflow":
        import tensorflow as tf

        found = tf.config.list_physical_devices("GPU")
        return (
            tf.config.experimental.get_device_details(found[0]).get("device_name", "GPU") if found else None
        )
    if backend == "jax":
        import jax

        return jax.devices()[0].device_kind if jax.default_backend() == "gpu" else None
    if backend == "torch":
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return None


def versions(keras, backend):
    module = sys.modules[backend]
    return {"python": platform.python_version(), "keras": keras.__version__, backend: module.__version__}


def digits():
    """`COUNT` images and labels, and what they are."""
    import numpy as np

    from evakeras import data

    silent = contextlib.redirect_stderr(io.StringIO())  # on the substitute, which is not taken here
    with silent, contextlib.suppress(ImportError):  # it is of scikit-learn
        mnist = data.load_mnist()
        if mnist.name == "mnist":
            return mnist.x_train.astype("float32") / 255, mnist.y_train.astype("int32"), "MNIST"
    rng = np.random.default_rng(0)
    return (
        rng.random((COUNT, 28, 28, 1), "float32"),
        rng.integers(0, 10, COUNT, "int32"),
        "noise like MNIST",
    )


def rows(options, images, labels):
    """One for each model, batch size and way to compile."""
    for name in options.names:
        for batch in BATCHES[:1] if options.quick else BATCHES:
            for jit in (True, False):
                row = {"model": name, "batch": batch, "jit_compile": jit}
                print(f"{name}, batches of {batch}, jit_compile={jit} ...", file=sys.stderr, flush=True)
                try:
                    row |= measured(name, batch, jit, images, labels, options.quick)
                except Exception as error:  # a compiler that is missing must not hide the rest
                    row["error"] = f"{type(error).__name__}: {str(error).strip()[:80]}".splitlines()[0]
                yield row


def measured(name, batch, jit, images, labels, quick):
    steps, limit, repeats = (5, 1.0, 2) if quick else (STEPS, LIMIT, 5)
    model = compiled(name, jit, steps)
    few = fed(images[: steps * batch], labels[: steps * batch], batch)
    epochs(model, few, 1)  # compiles
    seconds_each = epochs(model, few, 1)[0] / steps
    count = min(len(images) // batch, max(steps, int(limit / seconds_each))) * batch
    seconds = epochs(model, fed(images[:count], labels[:count], batch), 1 + repeats)[1:]
    speeds = [count / second for second in seconds]
    return {"images": count, "speeds": speeds, "median": statistics.median(speeds)}


def compiled(name, jit, steps):
    import keras

    from evakeras import models

    if keras.backend.backend() == "torch":
        import torch

        torch.compiler.reset()  # which else gives up after eight models
    keras.utils.clear_session()
    model = models.build(name)
    model.compile(
        keras.optimizers.Adam(),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=jit,
        steps_per_execution=1 if keras.backend.backend() == "torch" else steps,
    )
    return model


def epochs(model, batches, count):
    """Seconds of each epoch. It ends when `fit` has read the accuracy, for which the GPU must be done."""
    import keras

    starts, seconds = [], []
    clock = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: starts.append(time.perf_counter()),
        on_epoch_end=lambda epoch, logs: seconds.append(time.perf_counter() - starts[-1]),
    )
    shuffle = keras.backend.backend() != "tensorflow"  # whose dataset shuffles itself
    with warnings.catch_warnings():  # nor does it say how many batches it holds, after `prefetch_to_device`
        warnings.filterwarnings("ignore", "Your input ran out of data")
        model.fit(batches, epochs=count, shuffle=shuffle, callbacks=[clock], verbose=0)
    return seconds


def fed(images, labels, batch):
    """What `fit` reads: all batches, on the GPU or on their way."""
    import keras

    stacks = [part.reshape(-1, batch, *part.shape[1:]) for part in (images, labels)]
    if keras.backend.backend() == "tensorflow":
        return dataset(*stacks)
    batches = [
        tuple(keras.ops.convert_to_tensor(part) for part in pair) for pair in zip(*stacks, strict=True)
    ]

    class OnDevice(keras.utils.PyDataset):
        def __len__(self):
            return len(batches)

        def __getitem__(self, number):
            return batches[number]

    return OnDevice()


def dataset(images, labels):
    import tensorflow as tf

    device = "/GPU:0" if tf.config.list_logical_devices("GPU") else "/CPU:0"
    batches = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(len(images))
    return batches.apply(tf.data.experimental.prefetch_to_device(device))


if __name__ == "__main__":
    sys.exit(main())
