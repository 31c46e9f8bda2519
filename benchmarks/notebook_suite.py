"""Time of all notebooks in quick mode, each run by nbval as `make test-notebooks` does, against the limit of
360 seconds that the project sets itself.

Quick: one short session alone, against its share of the limit. Two workers have 720 seconds together; of
these each notebook, session or solutions, gets the same part.
"""

import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from timing import row

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
LIMIT, WORKERS = 360, 2
OPTIONS = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=300"]
OPTIONS += ["-n", str(WORKERS), "--dist", "loadscope", "-q"]
SHORT = NOTEBOOKS / "08_augmentation.ipynb"


def rows(quick=False):
    """A single row of one repeat: the limit is far longer than what chance adds."""
    files = [*NOTEBOOKS.glob("*.ipynb"), *NOTEBOOKS.glob("solutions/*.ipynb")]
    if quick:
        share, how = LIMIT * WORKERS / len(files), f"its share: {LIMIT} s × {WORKERS} / {len(files)}"
        return [row(SHORT.stem, how, [run(SHORT)], [share], "s")]
    return [row(f"{len(files)} notebooks", "the limit", [run(NOTEBOOKS)], [LIMIT], "s")]


def run(target):
    """Seconds that the tests of a notebook, or of a folder of them, take."""
    for package in ("pytest", "nbval", "xdist"):
        if find_spec(package) is None:
            raise ModuleNotFoundError(f"{package} is not installed: pip install -e '.[cpu,notebooks,test]'")
    command = [sys.executable, "-m", "pytest", str(target), *OPTIONS]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=variables(), capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"pytest ended with {done.returncode}:\n{(done.stdout + done.stderr)[-2000:]}")
    return seconds


def variables():
    """As the Makefile sets them; the notebooks run in their own folder."""
    found = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ, "EVAKERAS_QUICK": "1"}
    if found.get("EVAKERAS_DATA"):
        found["EVAKERAS_DATA"] = str(Path(found["EVAKERAS_DATA"]).resolve())
    return found
