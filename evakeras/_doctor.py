"""`python -m evakeras doctor`: look whether this computer is ready for the course.

Keras and TensorFlow are loaded in a process of their own: where that one crashes, this one can still say so.
"""

import importlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path

from evakeras._copy import DISTRIBUTIONS, PACKAGE, requirements

OK, NOTE, PROBLEM = "ok", "note", "PROBLEM"
DOWNLOADED = "Sessions download it once; without a network they use 1,797 small digits."
PATIENCE = 180  # seconds for the other process in all, which takes ten on most computers
CODE = f"import sys; sys.path.append({str(PACKAGE.parent)!r}); from evakeras._doctor import probe; probe()"


def doctor():
    """Print one line for each finding; return 1 if one of them is a problem, else 0."""
    problems = 0
    looks = (_python, _folder, _hiding_files, _packages, _probed)
    if _environment_beside():
        looks = (_python, _wrong_python)
    for findings in looks:
        for level, text in findings():
            print(f"{level:8} {' '.join(text.split())}", flush=True)
            problems += level == PROBLEM
    count = f"{problems} problem{'s' * (problems != 1)}"
    print(f"{count}: the lines above say what to do." if problems else "No problem: you can begin.")
    return int(problems > 0)


def _environment_beside():
    """How to enter the environment that `make` made in this folder, where another Python was started."""
    if _installed("keras"):
        return None
    if Path(".venv/bin/activate").is_file():
        return "source .venv/bin/activate"
    return r".venv\Scripts\activate" if Path(".venv/Scripts/activate").is_file() else None


def _wrong_python():
    yield PROBLEM, f"This is not the Python of the course's environment. Run: {_environment_beside()}"


def _install(*names):
    """The command that installs packages in a version that fits."""
    ranges = requirements()
    if "tensorflow" in names and _installed("tensorflow-cpu"):
        names = ["tensorflow-cpu" if name == "tensorflow" else name for name in names]
    return "python -m pip install --upgrade " + " ".join(f'"{name}{ranges.get(name, "")}"' for name in names)


def _installed(name):
    """The version of a package, or None; nothing is imported."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _supported(name):
    """The supported range in words."""
    versions = requirements().get(name, "")
    oldest = re.fullmatch(r">=([\d.]+)", versions)
    return f" (supported: {f'{oldest[1]} or newer' if oldest else versions})" if versions else ""


def fits(version, versions):
    """Whether a version lies in a range such as ">=3.10,<4"; only its numbers count."""
    tests = {
        ">=": lambda a, b: a >= b,
        "<=": lambda a, b: a <= b,
        "==": lambda a, b: a == b,
        "!=": lambda a, b: a != b,
        ">": lambda a, b: a > b,
        "<": lambda a, b: a < b,
    }
    limits = re.findall(r"([<>=!]=|[<>])\s*([\d.]+)", versions)
    return all(tests[sign](_numbers(version), _numbers(limit)) for sign, limit in limits)


def _numbers(version):
    numbers = [int(n) for n in re.match(r"[\d.]*", version)[0].split(".") if n]
    return numbers + [0] * (6 - len(numbers))


def _version(name, label, advice):
    """A finding on a version: in the supported range or not."""
    fine = fits(label.split()[1], requirements().get(name, ""))
    text = f"{label}{_supported(name)}"
    return (OK, text) if fine else (PROBLEM, f"{text}. {advice}")


def _python():
    version = ".".join(map(str, sys.version_info[:3]))
    yield _version("python", f"Python {version}", "Install a newer Python, and the course for that one")


def _folder():
    try:
        here = Path.cwd()
        free = shutil.disk_usage(here).free / 1e9
        with tempfile.TemporaryFile(dir=here) as file:
            file.write(b"can this folder be written to?")
    except OSError as error:
        yield (
            PROBLEM,
            f"This folder cannot be written to ({error.strerror}). Go to one of your own, with `cd` or "
            "where you start Jupyter: the trainings are kept there",
        )
        return
    space = f"{here} can be written to, {free:,.1f} GB are free"
    if free < 0.2:
        yield PROBLEM, f"{space}. Make room for at least 1 GB: the trainings are kept here"
    elif free < 1:
        yield NOTE, f"{space}. Trainings in full length take up to 1 GB"
    else:
        yield OK, space


def _hiding_files():
    """Files in this folder that Python would import in place of a library."""
    modules = {distribution: module for module, distribution in DISTRIBUTIONS.items()}
    libraries = {modules.get(name, name) for name in requirements(extras=False)} | {"tensorflow"}
    for name in sorted((libraries | sys.stdlib_module_names) - {"python", "test"}):
        if Path(f"{name}.py").is_file():
            yield (
                PROBLEM,
                f"{name}.py in this folder hides the library of that name. Give it another name",
            )


def _packages():
    """What the package asks for, without Keras, which has a line of its own."""
    wanted = {n: v for n, v in requirements(extras=False).items() if n not in ("python", "keras")}
    missing, old = [], []
    for name, versions in wanted.items():
        version = _installed(name)
        if version is None:
            missing.append(name)
        elif not fits(version, versions):
            old.append(f"{name} {version}")
    if missing or old:
        found = [f"{', '.join(missing)} not installed"] * bool(missing)
        found += [f"{', '.join(old)} not in the supported range"] * bool(old)
        names = [*missing, *(text.split()[0] for text in old)]
        yield PROBLEM, f"Other packages: {'; '.join(found)}. {_install(*names)}"
    elif wanted:
        yield OK, f"Other packages: {', '.join(wanted)}"


def _probed():
    """The findings of the other process, and one more if it crashes."""
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3"} | os.environ
    step, last, late = "starting Python", "no message", threading.Event()
    command = [sys.executable, "-c", CODE]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)

    def end():
        late.set()
        process.kill()

    timer = threading.Timer(PATIENCE, end)  # a broken driver may hang for ever
    timer.daemon = True
    timer.start()
    try:
        for line in process.stdout:
            word, text = _read(line)
            if word == "step":
                step = text
            elif word:
                yield word, text
            else:  # what libraries print; a crash tells its reason last
                last = line.decode(errors="replace").strip() or last
    finally:
        timer.cancel()
        process.kill()
        process.wait()
        process.stdout.close()
    if late.is_set():
        yield PROBLEM, f"No answer in {PATIENCE} seconds while {step}: look at the drivers, and start anew"
    elif step != "done":
        yield PROBLEM, f"Python crashed while {step}: {last}. Install it anew: {_install('tensorflow')}"


def _read(line):
    """A pair from the other process, or two None for what a library prints."""
    try:
        word, text = json.loads(line)
    except (ValueError, TypeError):
        return None, None
    return (word, text) if word in ("step", OK, NOTE, PROBLEM) else (None, None)


def probe():
    """What the other process does: load TensorFlow and Keras, look for MNIST, train."""
    steps = {
        "loading TensorFlow": _tensorflow,
        "loading Keras": _keras,
        "looking for a GPU": _gpu,
        "looking for MNIST": _mnist,
        "training a tiny network": _training,
    }
    for step, findings in steps.items():
        _tell("step", step)
        try:
            for level, text in findings():
                _tell(level, text)
        except Exception as error:
            advice = f"Install anew: {_install('keras', 'tensorflow')} --force-reinstall"
            _tell(PROBLEM, f"An error while {step} ({_in_words(error)}). {advice}")
        if findings is _keras and not hasattr(sys.modules.get("keras"), "config"):
            _tell(NOTE, "GPU, MNIST and a tiny training: not looked at, since Keras does not work")
            break
    _tell("step", "done")


def _tell(word, text):
    print(json.dumps([word, text]), flush=True)


def _in_words(error):
    lines = str(error).strip().splitlines() or ["no message"]
    return f"{type(error).__name__}: {lines[0][:200]}"


def _backend():
    """The backend that Keras is told to use, and where it is told so."""
    if os.environ.get("KERAS_BACKEND"):
        return os.environ["KERAS_BACKEND"], "the environment variable KERAS_BACKEND"
    try:
        return json.loads(_keras_json().read_text())["backend"], str(_keras_json())
    except (OSError, ValueError, KeyError, TypeError):
        return "tensorflow", str(_keras_json())


def _keras_json():
    return Path(os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras")) / "keras.json"


def _in_keras(error):
    """Whether an error was raised by Keras's own code. TensorFlow loads it, and an old copy of it, too."""
    files = [Path(frame.filename).as_posix() for frame in traceback.extract_tb(error.__traceback__)]
    return bool(files) and re.search(r"/(site|dist)-packages/(.*/)?keras/", files[-1]) is not None


def _tensorflow():
    try:
        version = importlib.import_module("tensorflow").__version__
    except ModuleNotFoundError as error:
        module = (error.name or "").split(".")[0]
        if module == "tensorflow":
            level = PROBLEM if _backend()[0] == "tensorflow" else NOTE
            yield level, f"TensorFlow is not installed; the sessions need it. {_install('tensorflow')}"
        elif module != "keras":  # that has a line of its own
            yield PROBLEM, f"TensorFlow does not load: it misses {module}. {_install(module)}"
    except Exception as error:
        if not _in_keras(error):
            advice = f"Install it anew: {_install('tensorflow')} --force-reinstall"
            yield PROBLEM, f"TensorFlow is installed, but does not load ({_in_words(error)}). {advice}"
    else:
        yield _version("tensorflow", f"TensorFlow {version}", _install("tensorflow"))


def _keras():
    backend, place = _backend()
    try:
        label = f"Keras {importlib.import_module('keras').__version__} with {backend}"
    except Exception as error:
        yield _keras_problem(error, backend, place)
        return
    yield _version("keras", label, _install("keras"))
    if backend != "tensorflow":
        yield NOTE, f"The helpers run on {backend} too, but the sessions expect tensorflow (see {place})"


def _keras_problem(error, backend, place):
    """The finding on an error that Keras raised when it was loaded."""
    missing = isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0]
    if missing == "keras":
        return PROBLEM, f"Keras is not installed. {_install('keras')}"
    if "Unable to import backend" in str(error):
        return PROBLEM, f"{place} asks for {backend!r}, which Keras does not know. Set it to tensorflow"
    if missing and missing == backend != "tensorflow":
        return PROBLEM, f"{place} asks for {backend}, which is not installed. Set it to tensorflow"
    if isinstance(error, (ValueError, TypeError, AttributeError)) and _in_keras(error):
        advice = f"Look at {_keras_json()}, or delete it: Keras writes a new one"
        return PROBLEM, f"Keras does not load ({_in_words(error)}). {advice}"
    told = missing == "tensorflow" or not ("tensorflow" in sys.modules or _in_keras(error))
    if backend == "tensorflow" and told:
        return NOTE, "Keras does not load without TensorFlow"
    if missing:
        return PROBLEM, f"Keras does not load: it misses {missing}. {_install(missing)}"
    advice = f"Install it anew: {_install('keras')} --force-reinstall"
    return PROBLEM, f"Keras does not load ({_in_words(error)}). {advice}"


def _gpu():
    import keras

    backend = keras.config.backend()
    if backend == "tensorflow":
        gpus = importlib.import_module("tensorflow").config.list_physical_devices("GPU")
    elif backend == "jax":
        gpus = [d for d in importlib.import_module("jax").devices() if d.platform == "gpu"]
    else:
        torch = sys.modules.get("torch")
        gpus = range(torch.cuda.device_count() if torch else 0)
    if len(gpus):
        yield OK, f"GPU: {len(gpus)} seen by {backend}"
    else:
        yield NOTE, "GPU: none seen. All works without; trainings in full length take longer"


def _mnist():
    from evakeras import data

    try:
        file = data._find("mnist.npz", None, cached=True)
    except FileNotFoundError as error:
        yield PROBLEM, f"MNIST: {error}. Make that folder, or set EVAKERAS_DATA to the one with mnist.npz"
        return
    folder = os.environ.get("EVAKERAS_DATA")
    if file is None and folder:
        yield NOTE, f"MNIST: neither EVAKERAS_DATA={folder} nor Keras's cache holds mnist.npz. {DOWNLOADED}"
        return
    if file is None:
        advice = "To have it without a network, set EVAKERAS_DATA to a folder with mnist.npz"
        yield NOTE, f"MNIST: not on this computer. {DOWNLOADED} {advice}"
        return
    try:
        data.load_mnist(file, limit=1)
    except PermissionError:
        yield PROBLEM, f"MNIST: {file} may not be read. Change its permissions"
    except (OSError, ValueError) as error:
        yield PROBLEM, f"MNIST: {error}. Delete that file, and download it again"
    else:
        place = "EVAKERAS_DATA" if folder and file.parent == Path(folder) else "Keras's cache"
        yield OK, f"MNIST: {file} ({place})"


def _training():
    import keras
    import numpy as np

    try:
        model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(2, 3), keras.layers.Flatten()])
        model.add(keras.layers.Dense(2, "softmax"))
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(np.ones((4, 8, 8, 1), "float32"), np.array([0, 1, 0, 1]), batch_size=4, verbose=0)
        outputs = np.asarray(model.predict(np.ones((4, 8, 8, 1), "float32"), verbose=0))
        if outputs.shape != (4, 2) or not np.allclose(outputs.sum(axis=1), 1, atol=1e-3):
            raise RuntimeError("its outputs are no probabilities")
    except Exception as error:
        advice = f"Install anew: {_install('keras', 'tensorflow')} --force-reinstall"
        yield PROBLEM, f"A tiny network does not train ({_in_words(error)}). {advice}"
    else:
        yield OK, "A tiny network was built, trained for one step, and predicts"
