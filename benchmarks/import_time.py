"""Seconds until a fresh interpreter has imported evakeras, or all its helpers, and has ended, against
the same with Keras and with TensorFlow.

Which `evakeras` alone does not load. The helpers import Keras, and Keras TensorFlow: they cannot be ahead.
One unmeasured start of each comes before, which writes the bytecode.
"""

import os
import subprocess
import sys
from pathlib import Path

from timing import in_turns, row

ROOT = Path(__file__).resolve().parents[1]
HELPERS = sorted(file.stem for file in (ROOT / "evakeras").glob("[a-z]*.py"))
OURS = {
    "import evakeras": "import evakeras",
    f"its {len(HELPERS)} helpers": f"from evakeras import {', '.join(HELPERS)}",
}
THEIRS = {"import keras": "import keras", "import tensorflow": "import tensorflow"}


def rows(quick=False):
    """One row for each of ours and theirs."""
    starts = {name: lambda code=code: start(code) for name, code in {**OURS, **THEIRS}.items()}
    seconds = in_turns(starts, repeats=3 if quick else 7)
    return [row(ours, theirs, seconds[ours], seconds[theirs], "s") for ours in OURS for theirs in THEIRS]


def start(code):
    """Run the code in an interpreter of its own, in the folder of the project."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{code!r} failed: {done.stderr.splitlines()[-1]}")
    return done.returncode
