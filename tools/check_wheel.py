"""Build the wheel, install it into an empty environment, and try what people do with it there.

python tools/check_wheel.py

The environment sees the packages of this one, but not this checkout. In it: `import evakeras` loads nothing
heavy, the commands `doctor` and `assignment` work, and session 08 runs in quick mode.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from listing import NOTEBOOKS, ROOT
from run_colab import environment_without_evakeras, forget_this_checkout, run_alone

NOTEBOOK = NOTEBOOKS / "08_augmentation.ipynb"
LIGHT = """
import sys, evakeras
heavy = {"keras", "tensorflow", "numpy", "matplotlib", "sklearn", "scipy", "PIL"} & set(sys.modules)
print(evakeras.__file__, *sorted(heavy), sep="\\n")
"""


def main():
    forget_this_checkout()
    with tempfile.TemporaryDirectory(prefix="evakeras-") as folder:
        folder = Path(folder).resolve()
        wheel = build(folder)
        check_contents(wheel)
        python = environment_without_evakeras(folder / "environment")
        install(python, wheel)
        check_import(python, folder)
        check_commands(python, folder)
        check_notebook(python)
    print("make test-wheel: the wheel works.")


def build(folder):
    """Build from a copy: what an earlier build left in this checkout would be packed again."""
    source = folder / "source"
    shutil.copytree(ROOT / "evakeras", source / "evakeras", ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE", "LICENSE-prose"):
        shutil.copy(ROOT / file, source)
    call([*pip(), "wheel", "--no-deps", "--wheel-dir", folder, "."], source)
    return next(folder.glob("*.whl"))


def check_contents(wheel):
    """The wheel holds every file of the package."""
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("evakeras/")}
    files = [file for file in (ROOT / "evakeras").rglob("*") if file.is_file()]
    wanted = {file.relative_to(ROOT).as_posix() for file in files if "__pycache__" not in file.parts}
    if packed != wanted or "evakeras/py.typed" not in packed:
        sys.exit(f"{wheel.name} lacks {sorted(wanted - packed)} and has too much: {sorted(packed - wanted)}")
    print(f"{wheel.name}: all {len(packed)} files of the package", flush=True)


def install(python, wheel):
    call(
        [*pip(), "--python", python, "install", "--no-deps", "--no-index", "--ignore-installed", wheel],
        wheel.parent,
    )


def check_import(python, folder):
    """`import evakeras` finds the installed one, and loads nothing heavy."""
    file, *heavy = call([python, "-c", LIGHT], folder).split()
    if heavy or not Path(file).is_relative_to(folder / "environment"):
        sys.exit(f"import evakeras: {file} loads {heavy}")
    print("import evakeras: nothing heavy", flush=True)


def check_commands(python, folder):
    call([python, "-m", "evakeras", "doctor"], folder)
    call([python, "-m", "evakeras", "assignment", folder / "mine"], folder)
    if not (folder / "mine" / "train.py").is_file():
        sys.exit("python -m evakeras assignment: made no train.py")
    print("python -m evakeras: doctor, assignment", flush=True)


def check_notebook(python):
    seconds, error = run_alone(python, NOTEBOOK, 600)
    if error:
        sys.exit(f"{NOTEBOOK.stem} FAILED after {seconds:.0f} s:\n{error}")
    print(f"{NOTEBOOK.stem}: {seconds:.0f} s")


def pip():
    return [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


def call(command, folder):
    """What a command prints; where it fails, what it said is the last word."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command[1:5]))} … FAILED:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
