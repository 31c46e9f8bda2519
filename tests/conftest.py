"""What all tests share: a fixed hypothesis profile, no display, no network, the data sets where they are."""

import contextlib
import functools
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SESSIONS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
NOTEBOOKS = SESSIONS + sorted((ROOT / "notebooks" / "solutions").glob("[0-9]*.ipynb"))
sys.path.insert(0, str(ROOT))  # so that a checkout is tested, installed or not

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["MPLBACKEND"] = "Agg"
os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = tempfile.gettempdir() + "/hypothesis"
for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
    os.environ[proxy] = "http://127.0.0.1:9"  # nobody answers there: a test that downloads fails everywhere
os.environ["no_proxy"] = os.environ["NO_PROXY"] = ""

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest brings the same reader under its old name
    import tomli as tomllib

BACKEND = os.environ.get("KERAS_BACKEND", "tensorflow")

settings.register_profile(
    "course",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=25 if BACKEND == "tensorflow" else 5,  # elsewhere each new shape is compiled, or slow anyway
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.load_profile("course")


def readable(value):
    """Test ids without addresses, so that every process of a parallel run collects the same."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


def pyproject():
    """What pyproject.toml says."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@functools.cache
def read_notebook(file):
    """A notebook as it is saved. It is read once for all tests: copy it before you change it."""
    import nbformat  # which not every environment has

    return nbformat.read(file, 4)


def python(*arguments, cwd, **variables):
    """Run Python in a process of its own, which knows this checkout only from a given PYTHONPATH."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=500)


@contextlib.contextmanager
def configured(**settings):
    """Keras with other settings, such as `dtype_policy="mixed_bfloat16"`; then as it was."""
    import keras

    before = {name: getattr(keras.config, name)() for name in settings}
    try:
        for name, value in settings.items():
            getattr(keras.config, f"set_{name}")(value)
        yield
    finally:
        for name, value in before.items():
            getattr(keras.config, f"set_{name}")(value)


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same seed, so that it gives the same result alone and among the others."""
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(0)


@pytest.fixture(scope="session")
def tf():
    """TensorFlow, or a skip: for tests of what needs it, be it only as Keras's backend."""
    import keras

    if keras.backend.backend() != "tensorflow":
        pytest.skip("needs TensorFlow")
    import tensorflow

    return tensorflow


def _data_file(name):
    folder = os.environ.get("EVAKERAS_DATA")
    if not folder or not (Path(folder) / name).is_file():
        pytest.skip(f"needs {name}: set EVAKERAS_DATA to its folder")
    return Path(folder) / name


@pytest.fixture(scope="session")
def mnist():
    """All of MNIST, or a skip."""
    from evakeras import data

    return data.load_mnist(_data_file("mnist.npz"))


@pytest.fixture(scope="session")
def cifar10_file():
    return _data_file("cifar10_jpeg.npz")


@pytest.fixture(scope="session")
def photos():
    """scikit-learn's two photographs, `(2, 427, 640, 3)` uint8."""
    import numpy as np
    from sklearn.datasets import load_sample_image

    return np.stack([load_sample_image(name) for name in ("china.jpg", "flower.jpg")])
