"""Time and extra memory of `normalize.image_statistics`, against the `fit` of `ImageDataGenerator` with
`featurewise_center` and `featurewise_std_normalization`, which finds the same mean and standard deviation:
of an array in memory, and of a `np.memmap` ten times as large.

Each side works in processes of its own, in turns with the other. Each process imports and loads, then makes a
first call, of which time and memory are taken, then three more, of whose times the median is taken.

Extra memory is the peak of resident memory during the first call, as Linux counts it (VmHWM), above what was
resident just before. All pages of the images have been read by then, so that those of the memmap, which
Linux takes back when it needs them, count on neither side.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from timing import row

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def rows(quick=False):
    """Two rows of times and one of memory for the array, one of memory for the memmap."""
    from evakeras import data  # not above: a process of the other side has no use for it

    images, repeats = data.load_mnist().x_train, 7
    if quick:
        images, repeats = images[:6000], 3
    with tempfile.TemporaryDirectory() as folder:  # removed after Ctrl-C, too
        array = in_turns(saved(images, 1, folder), repeats, later=3)
        memmap = in_turns(saved(images, 10, folder), repeats, mapped=True)
    few, many = f"{len(images):,} digits", f"np.memmap of {10 * len(images):,} digits"
    chosen = [
        (f"first call in a process, {few}", array, "first", "s"),
        (f"later calls, {few}", array, "later", "s"),
        (f"extra memory, {few}", array, "megabytes", "MB"),
        (f"extra memory, {many}", memmap, "megabytes", "MB"),
    ]
    return [
        row(what, "ImageDataGenerator.fit", *([one[key] for one in side] for side in found), unit)
        for what, found, key, unit in chosen
    ]


def saved(images, times, folder):
    """A file of the images, again and again."""
    file = Path(folder) / f"{times}.npy"
    shape = (times * len(images), *images.shape[1:])
    into = np.lib.format.open_memmap(file, "w+", images.dtype, shape)
    for start in range(0, len(into), len(images)):
        into[start : start + len(images)] = images
    into.flush()
    return file


def in_turns(file, repeats, **how):
    """What each repeat measured, ours and theirs; that both found the same is checked."""
    ours, theirs = [], []
    for _ in range(repeats):
        ours.append(in_a_process("ours", file, **how))
        theirs.append(in_a_process("theirs", file, **how))
    for one in ours + theirs:
        np.testing.assert_allclose(one["found"], ours[0]["found"], rtol=1e-4)
    return ours, theirs


def in_a_process(side, file, **how):
    command = [sys.executable, __file__, json.dumps({"side": side, "file": str(file), **how})]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.splitlines() or ["killed?"])[-1]
        raise RuntimeError(f"{side} ended with {done.returncode}: {reason}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(side, file, mapped=False, later=0):
    """Memory and time of the first call here, the median time of later ones, and what was found."""
    images = np.load(file, mmap_mode="r" if mapped else None)
    fit = {"ours": ours, "theirs": theirs}[side]()
    images.reshape(-1)[:: os.sysconf("SC_PAGE_SIZE") // 4].max()  # touches every page
    RESET.write_text("5")  # VmHWM begins anew
    before = resident("VmRSS")
    first, found = timed(fit, images)
    extra = max(resident("VmHWM") - before, 4)  # a page at least
    seconds = [timed(fit, images)[0] for _ in range(later)]
    middle = statistics.median(seconds) if seconds else None
    return {"first": first, "later": middle, "megabytes": extra * 1024 / 1e6, "found": found}


def timed(fit, images):
    start = time.perf_counter()
    found = fit(images)
    return time.perf_counter() - start, [np.ravel(value).tolist() for value in found]


def resident(key):
    """kB of memory."""
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(key))


def ours():
    from evakeras import normalize

    return lambda images: normalize.image_statistics(images)[:2]


def theirs():
    from tensorflow.keras.preprocessing.image import ImageDataGenerator

    def fit(images):
        generator = ImageDataGenerator(featurewise_center=True, featurewise_std_normalization=True)
        generator.fit(images)
        return generator.mean, generator.std

    return fit


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))))
