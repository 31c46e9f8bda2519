"""`python -m evakeras doctor`, `copy` and `assignment`, and the folder that the last one makes."""

import ast
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, pyproject, python

import evakeras
from evakeras import _assignment, _copy, _doctor
from evakeras.__main__ import main

PATIENCE = 500  # seconds; nothing takes that long, but a test must not hang
OWN = {"data", "misc", "model", "regularization", "settings", "test", "train"}  # a student's files


def command(*arguments, cwd, **environment):
    """Run `python -m evakeras` in a process of its own."""
    return python("-m", "evakeras", *arguments, cwd=cwd, **{"PYTHONPATH": str(ROOT)} | environment)


def refused(capsys, *arguments):
    """What a command says that is not carried out."""
    assert main([str(argument) for argument in arguments]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith(f"evakeras {arguments[0]}: ")
    return said.err


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# Without a command


def test_without_arguments_it_prints_help(capsys):
    assert main([]) == 0
    assert re.search(r"doctor.*copy.*assignment", capsys.readouterr().out, re.S)


def test_version(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["--version"])
    assert exit.value.code == 0 and capsys.readouterr().out == f"evakeras {evakeras.__version__}\n"


def test_the_command_line_loads_nothing_but_the_standard_library(tmp_path):
    code = (
        "import sys, evakeras.__main__; known = sys.stdlib_module_names | {'evakeras'}; "
        "print({name.split('.')[0] for name in sys.modules if '__' not in name} - known)"
    )
    # -S: no .pth file of an installed package loads anything
    done = python("-S", "-c", code, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.stdout == "set()\n", done.stdout + done.stderr


# doctor


def findings(text):
    """The lines of doctor as pairs; every line but the last is a finding."""
    *lines, last = text.splitlines()
    pairs = [line.split(maxsplit=1) for line in lines]
    assert {level for level, _ in pairs} <= {"ok", "note", "PROBLEM"}
    problems = [text for level, text in pairs if level == "PROBLEM"]
    assert last.startswith(f"{len(problems)} problem" if problems else "No problem")
    return pairs, problems


def test_doctor_finds_nothing_wrong_here(tf, tmp_path):
    done = command("doctor", cwd=tmp_path)
    pairs, problems = findings(done.stdout)
    assert done.returncode == 0 and not problems, done.stdout + done.stderr
    for about in ("Python 3", "TensorFlow 2", "Keras 3", "GPU", "MNIST", "tiny network", str(tmp_path)):
        assert sum(about in text for _, text in pairs) == 1, about
    assert not list(tmp_path.iterdir())


BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tensorflow":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
"""


@pytest.mark.parametrize(
    ("file", "code", "words"),
    [
        ("sitecustomize.py", BLOCKER, ["TensorFlow is not installed", "pip install", ">="]),
        (
            "tensorflow.py",
            "import os; os.abort()",
            ["Python crashed while loading TensorFlow", "pip install"],
        ),
        (
            "tensorflow.py",
            "raise ImportError('no libcudart')",
            ["does not load", "no libcudart", "pip install"],
        ),
    ],
    ids=["missing", "crashing", "broken"],
)
def test_doctor_says_what_to_do_about_tensorflow(tmp_path, file, code, words):
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / file).write_text(code)
    path = os.pathsep.join([str(tmp_path / "path"), str(ROOT)])
    done = command("doctor", cwd=tmp_path, PYTHONPATH=path, KERAS_BACKEND="tensorflow")
    _, problems = findings(done.stdout)
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    assert len(problems) == 1, done.stdout
    assert all(word in problems[0] for word in words), problems


def test_doctor_does_not_wait_for_ever(monkeypatch):
    monkeypatch.setattr(_doctor, "PATIENCE", 0.2)
    monkeypatch.setattr(_doctor, "CODE", "import time; time.sleep(600)")
    ((level, text),) = _doctor._probed()
    assert level == "PROBLEM" and "No answer" in text and "starting Python" in text


@pytest.mark.parametrize(
    ("code", "told", "last"),
    [
        ("print('\"ok\"'); print('[1, 2]'); print('No module named x')", [], "No module named x"),
        ('print(\'["step", "loading Keras"]\'); print(\'["ok", "Keras"]\')', [("ok", "Keras")], "no message"),
    ],
    ids=["words of a library", "findings and then nothing"],
)
def test_doctor_passes_over_what_libraries_print(monkeypatch, code, told, last):
    monkeypatch.setattr(_doctor, "CODE", code)
    *found, (level, text) = _doctor._probed()
    assert found == told and level == "PROBLEM" and f": {last}. Install" in text


def test_what_is_printed_after_the_end_is_no_crash(monkeypatch):
    monkeypatch.setattr(_doctor, "CODE", "print('[\"step\", \"done\"]'); print('bye')")
    assert not list(_doctor._probed())


def test_doctor_names_a_wrong_backend_and_where_it_is_set(tmp_path):
    done = command("doctor", cwd=tmp_path, KERAS_BACKEND="tensroflow")
    _, problems = findings(done.stdout)
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    assert len(problems) == 1, done.stdout
    assert "KERAS_BACKEND" in problems[0] and "'tensroflow'" in problems[0]


def test_the_backend_is_read_where_keras_reads_it(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    assert _doctor._backend() == ("tensorflow", str(tmp_path / "keras.json"))
    (tmp_path / "keras.json").write_text('{"backend": "jax"}')
    assert _doctor._backend() == ("jax", str(tmp_path / "keras.json"))
    (tmp_path / "keras.json").write_text("{")
    assert _doctor._backend()[0] == "tensorflow"
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    assert _doctor._backend() == ("torch", "the environment variable KERAS_BACKEND")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            ModuleNotFoundError("keras", name="keras"),
            ["Keras is not installed", 'pip install --upgrade "keras>='],
        ),
        (ModuleNotFoundError("jax", name="jax"), ["asks for jax", "Set it to tensorflow"]),
        (ModuleNotFoundError("h5py", name="h5py"), ["misses h5py", "pip install"]),
        (RuntimeError("odd"), ["RuntimeError: odd", "--force-reinstall"]),
    ],
)
def test_doctor_tells_why_keras_does_not_load(error, words):
    level, text = _doctor._keras_problem(error, "jax", "keras.json")
    assert level == "PROBLEM" and all(word in text for word in words), text


def write_mnist(folder):
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = np.zeros((3, 28, 28), np.uint8), np.arange(3, dtype=np.uint8)
    arrays = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    np.savez(folder / "mnist.npz", **arrays)
    return folder / "mnist.npz"


@pytest.fixture
def no_mnist(tmp_path, monkeypatch):
    """MNIST is nowhere, and nobody may try to download it."""
    from evakeras import data

    monkeypatch.delenv("EVAKERAS_DATA", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(data, "_keras_download", lambda module: pytest.fail("a download"))
    return tmp_path


def test_doctor_finds_mnist_in_the_folder_of_evakeras_data(no_mnist, monkeypatch):
    file = write_mnist(no_mnist / "data")
    monkeypatch.setenv("EVAKERAS_DATA", str(no_mnist / "data"))
    assert list(_doctor._mnist()) == [("ok", f"MNIST: {file} (EVAKERAS_DATA)")]


def test_doctor_finds_mnist_in_the_cache_of_keras(no_mnist):
    file = write_mnist(no_mnist / "keras" / "datasets")
    assert list(_doctor._mnist()) == [("ok", f"MNIST: {file} (Keras's cache)")]


def test_doctor_names_the_folder_that_lacks_mnist(no_mnist, monkeypatch):
    monkeypatch.setenv("EVAKERAS_DATA", str(no_mnist))
    ((level, text),) = _doctor._mnist()
    assert level == "note" and f"neither EVAKERAS_DATA={no_mnist} nor" in text and "1,797" in text


def test_doctor_leads_to_the_environment_that_is_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_doctor, "_installed", lambda name: None)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").write_text("")
    assert _doctor.doctor() == 1
    *_, problem, count = capsys.readouterr().out.splitlines()
    assert problem.startswith("PROBLEM") and problem.endswith("Run: source .venv/bin/activate")
    assert count.startswith("1 problem:")


def test_doctor_notes_that_mnist_is_nowhere(no_mnist):
    [(level, text)] = _doctor._mnist()
    assert level == "note" and "1,797" in text and "set EVAKERAS_DATA" in text


def test_doctor_reports_a_damaged_mnist(no_mnist, monkeypatch):
    file = write_mnist(no_mnist)
    file.write_bytes(file.read_bytes()[:1000])
    monkeypatch.setenv("EVAKERAS_DATA", str(no_mnist))
    [(level, text)] = _doctor._mnist()
    assert level == "PROBLEM" and str(file) in text and "damaged" in text and "Delete" in text
    assert file.exists()


def test_doctor_reports_a_missing_folder_of_data(no_mnist, monkeypatch):
    monkeypatch.setenv("EVAKERAS_DATA", str(no_mnist / "nowhere"))
    [(level, text)] = _doctor._mnist()
    assert level == "PROBLEM" and "nowhere" in text and "Make that folder, or set EVAKERAS_DATA" in text


def test_doctor_reports_a_folder_that_cannot_be_written_to(monkeypatch):
    def refuse(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    [(level, text)] = _doctor._folder()
    assert level == "PROBLEM" and "Permission denied" in text and "Go to one of your own" in text


@pytest.mark.parametrize(("free", "level"), [(5e9, "ok"), (5e8, "note"), (1e8, "PROBLEM")])
def test_doctor_looks_at_the_space_that_is_left(free, level, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    assert [found for found, _ in _doctor._folder()] == [level]


def test_doctor_names_files_that_hide_a_library(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("keras.py", "test.py", "mine.py", "random.py"):
        Path(name).write_text("")
    assert [text.split()[0] for _, text in _doctor._hiding_files()] == ["keras.py", "random.py"]
    done = command("doctor", cwd=tmp_path)
    assert done.returncode == 1 and "random.py" in done.stderr and "Traceback" not in done.stderr


def test_doctor_names_packages_that_are_missing_or_old(monkeypatch):
    version = importlib.metadata.version

    def pretend(name):
        if name == "scipy":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0" if name == "numpy" else version(name)

    monkeypatch.setattr(importlib.metadata, "version", pretend)
    [(level, text)] = _doctor._packages()
    assert level == "PROBLEM" and "scipy not installed" in text and "numpy 1.0 not in" in text
    assert re.search(r'pip install --upgrade "scipy>=[\d.]+" "numpy>=[\d.]+"$', text)


def test_doctor_calls_an_old_version_a_problem():
    level, text = _doctor._version("keras", "Keras 2.15.0", "Do this")
    assert level == "PROBLEM" and text.startswith("Keras 2.15.0 (supported: 3.") and text.endswith("Do this")


@pytest.mark.parametrize(
    ("version", "versions", "expected"),
    [
        ("3.10.0", ">=3.10", True),
        ("3.9.2", ">=3.10", False),
        ("2.19.0rc1", ">=2.19", True),
        ("4.0", ">=3.10,<4", False),
        ("3.11", ">=3.10,!=3.11", False),
        ("1", "", True),
    ],
)
def test_versions_are_compared_as_numbers(version, versions, expected):
    assert _doctor.fits(version, versions) is expected


def test_ranges_come_from_the_package_itself(monkeypatch):
    project = pyproject()["project"]
    found = _copy.requirements(extras=False)
    assert found.pop("python") == project["requires-python"]
    assert [f"{name}{versions}" for name, versions in found.items()] == project["dependencies"]
    assert {"tensorflow", "tensorflow-cpu"} <= _copy.requirements().keys()
    installed = SimpleNamespace(
        metadata={"Requires-Python": ">=3.10"},
        requires=["keras>=3", "tensorflow[and-cuda] (>=2) ; extra == 'gpu'"],
    )
    monkeypatch.setattr(_copy, "_pyproject", lambda: None)
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: installed)
    assert _copy.requirements() == {"python": ">=3.10", "keras": ">=3", "tensorflow": ">=2"}
    assert _copy.requirements(extras=False) == {"python": ">=3.10", "keras": ">=3"}


# copy


def test_copy_lists_what_there_is(capsys):
    assert main(["copy", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = {file.name for file in (ROOT / "evakeras").glob("*.py") if not file.name.startswith("_")}
    assert {line.split()[0] for line in lines} == names and len(lines) == len(names)
    assert all(line.endswith(".") for line in lines)


def test_copies_are_the_same_and_their_needs_are_told(tmp_path, capsys):
    assert main(["copy", "data", "evaluate.py", "data.py", "--to", str(tmp_path / "mine")]) == 0
    original = {name: (ROOT / "evakeras" / name).read_bytes() for name in ("data.py", "evaluate.py")}
    assert contents(tmp_path / "mine") == original
    said = capsys.readouterr().out.splitlines()
    ranges = _copy.requirements()
    assert said[1] == f"{tmp_path / 'mine' / 'evaluate.py'}: needs numpy{ranges['numpy']}"
    always, _, sometimes = said[0].partition("; for some of it ")
    assert all(f"{name}{ranges[name]}" in always for name in ("keras", "numpy", "tensorflow"))
    assert all(f"{name}{ranges[name]}" in sometimes for name in ("pillow", "scikit-learn", "scipy"))


def test_a_copy_works_alone(tmp_path):
    main(["copy", "evaluate", "plots", "--to", str(tmp_path)])  # which load no Keras; test_package has all
    code = (
        "import sys; sys.modules['evakeras'] = None\n"
        "import evaluate, plots\n"
        "print(evaluate.__file__, evaluate.summarize([1, 3]).mean, plots.histograms({'a': [1]}).axes)"
    )
    done = python("-c", code, cwd=tmp_path)
    assert done.stdout.startswith(f"{tmp_path / 'evaluate.py'} 2.0 [<Axes"), done.stderr


def test_every_helper_needs_only_what_the_package_asks_for():
    for file in _copy.helpers().values():
        always, sometimes = _copy.needs(file)
        for requirement in always + sometimes:
            assert re.fullmatch(r"[a-z-]+>=[\d.]+", requirement), f"{file.name}: {requirement}"


def test_copy_overwrites_only_by_force_and_nothing_by_halves(tmp_path, capsys):
    (tmp_path / "plots.py").write_text("mine")
    said = refused(capsys, "copy", "data", "plots", "--to", tmp_path)
    assert "plots.py is there already" in said and "--force" in said
    assert contents(tmp_path) == {"plots.py": b"mine"}
    assert main(["copy", "data", "plots", "--to", str(tmp_path), "--force"]) == 0
    assert contents(tmp_path).keys() == {"data.py", "plots.py"}
    assert (tmp_path / "plots.py").read_bytes() == (ROOT / "evakeras" / "plots.py").read_bytes()


def test_an_unknown_name_is_answered_with_a_near_one(tmp_path, capsys):
    said = refused(capsys, "copy", "data", "regularisers", "--to", tmp_path / "new")
    assert "'regularisers'" in said and "Did you mean regularizers" in said
    assert "Did you mean" not in refused(capsys, "copy", "xyz", "--to", tmp_path / "new")
    for name in ("__init__", "_doctor", "../setup", ""):
        refused(capsys, "copy", name, "--to", tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_copy_refuses_places_that_are_none(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder" / "data.py").mkdir(parents=True)
    assert "is a file" in refused(capsys, "copy", "data", "--to", tmp_path / "file")
    assert "does not exist" in refused(capsys, "copy", "data", "--to", tmp_path / "no" / "folder")
    assert "is a folder" in refused(capsys, "copy", "data", "--to", tmp_path / "folder", "--force")
    with pytest.raises(SystemExit):
        main(["copy", "data"])
    assert "--to" in capsys.readouterr().err


@pytest.mark.parametrize("step", ["copyfile", "replace"])
def test_copy_that_fails_leaves_nothing(step, tmp_path, monkeypatch, capsys):
    module = {"copyfile": shutil, "replace": os}[step]
    done = []

    def fail(source, target):
        done.append(target)
        if step == "replace" or len(done) == 2:
            raise OSError(28, "No space left on device")
        Path(target).write_text("")

    monkeypatch.setattr(module, step, fail)
    said = refused(capsys, "copy", "data", "plots", "--to", tmp_path / "new")
    assert "nothing was copied" in said and "No space left" in said
    assert not list(tmp_path.iterdir())


def test_copy_that_fails_on_the_way_says_how_far_it_came(tmp_path, monkeypatch, capsys):
    replace, done = os.replace, []

    def fail_at_second(source, target):
        if done:
            raise PermissionError(1, "Operation not permitted")
        done.append(replace(source, target))

    monkeypatch.setattr(os, "replace", fail_at_second)
    said = refused(capsys, "copy", "data", "plots", "--to", tmp_path)
    assert "only 1 of 2 files were copied: Operation not permitted" in said
    assert [file.name for file in tmp_path.iterdir()] == ["data.py"]


def test_commands_work_where_the_output_is_no_terminal_of_python(monkeypatch):
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(write=len, flush=lambda: None))  # as a notebook's
    assert main(["copy", "--list"]) == 0


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_nothing_is_made_in_a_folder_that_is_read_only(tmp_path, capsys):
    tmp_path.chmod(0o500)
    try:
        assert "Permission denied" in refused(capsys, "copy", "data", "--to", tmp_path)
        assert "Permission denied" in refused(capsys, "assignment", tmp_path / "new")
    finally:
        tmp_path.chmod(0o700)
    assert not list(tmp_path.iterdir())


def test_copy_that_is_interrupted_leaves_nothing(tmp_path, monkeypatch, capsys):
    def interrupt(source, target):
        Path(target).write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copyfile", interrupt)
    assert main(["copy", "data", "--to", str(tmp_path / "new")]) == 130
    assert capsys.readouterr().err == "\nStopped.\n"
    assert not list(tmp_path.iterdir())


# assignment: the folder


def imported(file):
    """Full names of the modules that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return names


def test_assignment_makes_a_whole_folder(tmp_path, capsys):
    assert main(["assignment", str(tmp_path / "my work")]) == 0
    said = capsys.readouterr().out
    assert f'python "{tmp_path / "my work" / "train.py"}" --quick' in said and "YOUR NAME" in said
    folder = tmp_path / "my work"
    files = contents(folder)
    helpers = {f"helpers/{name}.py" for name in _assignment.HELPERS}
    others = {".gitignore", "README.md", "assignment.ipynb", "requirements.txt"}
    assert files.keys() == {f"{name}.py" for name in OWN} | others | helpers | set(_assignment.PLAIN)
    assert not any(b"{{" in files[name] for name in ("README.md", "assignment.ipynb"))
    for name in _assignment.HELPERS:
        assert files[f"helpers/{name}.py"] == (ROOT / "evakeras" / f"{name}.py").read_bytes()
    assert files["helpers/LICENSE"] == (ROOT / "LICENSE").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["my work"]


def test_the_folder_needs_nothing_but_its_requirements(tmp_path):
    folder = _assignment.create(tmp_path / "new")
    names = set().union(*map(imported, folder.rglob("*.py")))
    assert {name.split(".")[1] for name in names if name.startswith("helpers.")} == set(_assignment.HELPERS)
    outside = {name.split(".")[0] for name in names} - sys.stdlib_module_names - OWN - {"helpers"}
    assert "evakeras" not in outside
    wanted = (folder / "requirements.txt").read_text().split()
    packages = {_copy.DISTRIBUTIONS.get(name, name) for name in outside}
    assert {re.match("[a-z-]+", line)[0] for line in wanted} == packages
    assert wanted == sorted(f"{name}{_copy.requirements()[name]}" for name in packages)


@pytest.mark.parametrize(
    "name",
    [
        "Zoë O'Brien",
        '"Quoted" \\ back',
        "*bold* _x_ <b>",
        "<!-- results -->",
        "{{version}}",
        "李 🙂",
        "a|b~$",
    ],
)
def test_any_name_can_be_given(name, tmp_path):
    folder = _assignment.create(tmp_path / "new", name)
    text = (folder / "README.md").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("By "))
    assert re.sub(r"\\([^\w\s]|_)", r"\1", line) == f"By {name}"  # as Markdown shows it
    assert text.count("<!-- results -->") == text.count("<!-- end results -->") == 1
    notebook = json.loads((folder / "assignment.ipynb").read_text(encoding="utf-8"))
    assert line in "".join(notebook["cells"][0]["source"]).splitlines()


@pytest.mark.parametrize("name", ["", "  ", "two\nlines", "bell\a"])
def test_names_that_are_none_are_refused(name, tmp_path, capsys):
    assert "--name" in refused(capsys, "assignment", tmp_path / "new", "--name", name)
    assert not list(tmp_path.iterdir())


def test_assignment_refuses_what_is_there(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    assert "is a file" in refused(capsys, "assignment", tmp_path / "file")
    assert "is not empty" in refused(capsys, "assignment", tmp_path / "full")
    assert "does not exist" in refused(capsys, "assignment", tmp_path / "no" / "new")
    assert contents(tmp_path) == {"file": b"mine", "full/x": b"mine"}
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert "go one up" in refused(capsys, "assignment", ".")
    monkeypatch.chdir(tmp_path)
    assert main(["assignment", "empty"]) == 0
    assert (tmp_path / "empty" / "train.py").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
@pytest.mark.parametrize("number", [1, 12])
def test_assignment_that_is_cut_off_leaves_nothing(error, number, tmp_path, monkeypatch, capsys):
    copyfile, calls = shutil.copyfile, []

    def fail(source, target):
        calls.append(target)
        if len(calls) == number:
            raise error
        return copyfile(source, target)

    monkeypatch.setattr(shutil, "copyfile", fail)
    assert main(["assignment", str(tmp_path / "new")]) == (1 if isinstance(error, OSError) else 130)
    assert "Traceback" not in capsys.readouterr().err
    assert len(calls) == number and not list(tmp_path.iterdir())


def test_assignment_leaves_a_folder_of_others_alone(tmp_path, capsys):
    others = tmp_path / f".mine.draft-{os.getpid()}"
    others.mkdir()
    (others / "work.txt").touch()
    refused(capsys, "assignment", tmp_path / "mine")
    assert (others / "work.txt").exists() and not (tmp_path / "mine").exists()


def test_the_templates_travel_with_the_package():
    patterns = pyproject()["tool"]["setuptools"]["package-data"]
    packed = {file for pattern in patterns["evakeras"] for file in (ROOT / "evakeras").glob(pattern)}
    for file in (*_assignment.PLAIN, *_assignment.NAMED):
        assert _assignment.TEMPLATES / file in packed


# assignment: what a student does with it


class Student:
    """A folder with the assignment, and an environment without MNIST, network and evakeras."""

    def __init__(self, place):
        self.elsewhere, path = place / "elsewhere", place / "path"
        for folder in (self.elsewhere, path):
            folder.mkdir()
        (path / "evakeras.py").write_text("raise ImportError('not here')")
        self.folder = _assignment.create(place / "my work", "Zoë *Z*")
        self.environment = os.environ | {"PYTHONPATH": str(path), "KERAS_HOME": str(place / "keras")}
        self.environment.pop("EVAKERAS_DATA", None)
        self.environment.pop("KERAS_BACKEND", None)

    def start(self, *arguments):
        def listen():  # to Ctrl-C, whoever started the tests
            signal.signal(signal.SIGINT, signal.default_int_handler)

        return subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=self.elsewhere,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=listen if os.name == "posix" else None,
        )

    def run(self, *arguments):
        """Run Python to its end; `(exit code, stdout, stderr)`."""
        process = self.start(*arguments)
        try:
            out, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
        return process.returncode, out, err

    def interrupted(self, *arguments):
        """Run Python until a first epoch is kept, then press Ctrl-C."""
        process, end = self.start(*arguments), time.monotonic() + PATIENCE
        try:
            while not list(self.folder.glob("runs/*/*/state.json")) and process.poll() is None:
                assert time.monotonic() < end
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
        return process.returncode, out, err

    def run_notebook(self, more):
        """Run the assignment's notebook and then more cells; what it printed, and what each of those did."""
        import nbclient
        import nbformat

        notebook = nbformat.read(self.folder / "assignment.ipynb", 4)
        own = len(notebook.cells)
        notebook.cells += [nbformat.v4.new_code_cell(code) for code in more.values()]
        place = {"metadata": {"path": str(self.folder)}}
        client = nbclient.NotebookClient(notebook, timeout=PATIENCE, kernel_name="python3", resources=place)
        client.execute(env=self.environment)
        said = ["".join(map(text_of, cell.get("outputs", ()))) for cell in notebook.cells]
        return {"notebook": "".join(said[:own])} | dict(zip(more, said[own:], strict=True))

    def readme(self):
        return (self.folder / "README.md").read_text(encoding="utf-8")


def text_of(output):
    """What an output of a cell shows as text, but not what a library said to stderr."""
    if output.output_type == "stream":
        return output.text if output.name == "stdout" else ""
    return output.data["text/plain"] + "\n"


LATER = {  # cells below those of the assignment's notebook, which have imported the student's files
    "test": """
import runpy, sys
def script(name):
    sys.argv = [name]
    runpy.run_path(str(settings.HERE / name), run_name="__main__")
script("test.py")
""",
    "mistakes": """
import numpy
class Perfect:
    def predict(self, x, **options):
        return numpy.eye(10)[digits.y_test]
print(misc.draw_mistakes("L1", Perfect(), digits).axes[0].texts[0].get_text())
""",
    "changed": """
refusals = []
def refuse_once(*arguments, **options):
    if not refusals:
        refusals.append(options["folder"])
        raise ValueError("it holds a run of another configuration: x. Choose another folder")
    assert not options["folder"].exists()
    return {}
train.study = refuse_once
print(train.train(settings.QUICK, digits), len(refusals))
""",
    "refused": """
import helpers.train
def refuse(*arguments, **options):
    raise ValueError("it holds a run of another configuration: x. Choose another folder")
helpers.train.study = refuse
try:
    script("train.py")
except SystemExit as end:
    print(end.code)
""",
}


def test_a_student_does_the_assignment(tf, tmp_path):
    """A quick training, interrupted once and then run to its end; after that all else, in the notebook.

    One test, because the training is the long part: spread over processes, each would train.
    """
    student = Student(tmp_path)
    quick = (student.folder / "train.py", "--quick")
    student.first = student.interrupted(*quick)
    student.second = student.run(*quick)
    student.filled, student.made = student.readme(), contents(student.folder)
    student.said = student.run_notebook(LATER)
    check_ctrl_c_ends_with_one_line_that_says_how_to_go_on(student)
    check_quick_training_goes_on_and_ends(student)
    check_quick_training_draws_the_pictures_of_the_assignment(student)
    check_readme_holds_the_students_own_figures(student)
    check_the_cells_of_the_notebook_run(student)
    check_a_second_run_reads_back_and_changes_nothing(student)
    check_the_test_reads_the_trained_models(student)
    check_a_model_without_mistakes_is_no_error(student)
    check_changes_are_noticed(student)


def check_ctrl_c_ends_with_one_line_that_says_how_to_go_on(student):
    code, out, err = student.first
    assert code == 130 and "Traceback" not in out + err, err
    assert out.splitlines()[-1] == (
        "Stopped. Run the same command again: it goes on after the last finished epoch."
    )


def check_quick_training_goes_on_and_ends(student):
    code, out, err = student.second
    assert code == 0, err
    assert "not MNIST" in out and "README.md holds the results" in out
    assert sum(name.endswith("epoch-03.keras") for name in student.made) == 4
    assert not list(student.elsewhere.glob("runs")), "it must not matter where it is started"


def check_quick_training_draws_the_pictures_of_the_assignment(student):
    pictures = student.folder / "pictures" / "quick"
    names = {"accuracy.png", "loss.png", "misclassified-L1.png", "misclassified-L2.png"}
    assert {file.name for file in pictures.iterdir()} == names
    assert all(student.made[f"pictures/quick/{name}"].startswith(b"\x89PNG") for name in names)


def check_readme_holds_the_students_own_figures(student):
    before, rest = student.filled.split("<!-- results -->\n")
    results, after = rest.split("<!-- end results -->")
    template = (_assignment.TEMPLATES / "README.md").read_text(encoding="utf-8")
    assert before.startswith("# Assignment") and "\nBy Zoë \\*Z\\*\n" in before
    assert after.split("helpers/")[0] == template.split("<!-- end results -->")[1].split("helpers/")[0]
    rows = [line.split(" | ") for line in results.splitlines() if line.startswith("| ")][1:]
    assert [row[0].strip("| ") for row in rows] == ["without", "L1", "L2", "both"]
    accuracies = [float(cell.split()[0]) for row in rows for cell in row[1:4]]
    assert all(50 < accuracy <= 100 for accuracy in accuracies), "even the quick training must learn"
    assert "A quick run" in results and "small digits" in results
    assert re.search(
        r"Trained on \d{4}-\d\d-\d\d in [\d.]+ minutes, with Keras 3\.\S+ and tensorflow 2\.", results
    )
    for path in re.findall(r"!\[.+?\]\((.+?)\)", results):
        assert (student.folder / path).is_file()


def check_a_second_run_reads_back_and_changes_nothing(student):
    assert "0 trained, 4 read back" in student.said["notebook"]
    assert student.readme() == student.filled


def check_the_test_reads_the_trained_models(student):
    lines = student.said["test"].splitlines()
    assert "quick" in lines[0] and "360 to test" in lines[1]
    accuracies = re.findall(r"\| (?:without|L1|L2|both) \|.*?\|.*?\| (\S+) %", student.filled)
    assert [line.split()[1] for line in lines[2:]] == accuracies and len(accuracies) == 4


def check_the_cells_of_the_notebook_run(student):
    assert "18,814" in student.said["notebook"]
    assert len(re.findall(r"^ +3 +\d", student.said["notebook"], re.M)) == 4, "the logs of four trainings"
    assert student.said["notebook"].count("<Figure") == 4


def check_a_model_without_mistakes_is_no_error(student):
    assert student.said["mistakes"] == "L1: no test image is misread\n"


def check_changes_are_noticed(student):
    assert student.said["changed"] == "{} 1\n"
    last = student.said["refused"].splitlines()[-1]
    assert last.startswith("So you changed something. To train all anew, delete or rename")


def test_the_notebook_is_a_valid_one():
    import nbformat

    notebook = nbformat.read(_assignment.TEMPLATES / "assignment.ipynb", 4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)
