"""What `make test-gpu` asks for before it begins, so that it fails at once and not after hours.

python tools/gpu.py            an NVIDIA GPU; asked before gigabytes are installed for it
python tools/gpu.py build/gpu  that TensorFlow sees it, and MNIST; then copies the notebooks into that folder

The notebooks run as copies: what a GPU trained must not be read back where `make full` makes its figures.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from listing import NOTEBOOKS


def main(folder=None):
    if not cards():
        sys.exit("make test-gpu needs an NVIDIA GPU; `nvidia-smi --list-gpus` shows none here.")
    if folder is None:
        return
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        sys.exit(f"make test-gpu: {cards()[0]} is here, but TensorFlow {tf.__version__} does not see it.")
    from evakeras import data

    if data.load_mnist(limit=1).name != "mnist":
        sys.exit("make test-gpu needs MNIST: put mnist.npz in a folder, set EVAKERAS_DATA to that folder.")
    for old in Path(folder).rglob("*.ipynb"):  # one that was renamed must not run for ever
        old.unlink()
    left_out = shutil.ignore_patterns("runs", ".*", "__pycache__")
    shutil.copytree(NOTEBOOKS, folder, ignore=left_out, dirs_exist_ok=True)


def cards():
    """The GPUs, one line each, as NVIDIA's driver lists them."""
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)
    except OSError:  # no driver
        return []
    return [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]


if __name__ == "__main__":
    main(*sys.argv[1:])
