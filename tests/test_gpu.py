"""`make test-gpu` fails at once, in one line, where there is no GPU."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def say(*command, folder, **environment):
    """What a command says that fails, with programs from `folder` alone."""
    plain = {name: value for name, value in os.environ.items() if "MAKE" not in name and name != "MFLAGS"}
    environment = plain | {"PATH": str(folder), "CUDA_VISIBLE_DEVICES": "-1"} | environment
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode != 0 and done.stdout == ""
    return done.stderr


@pytest.fixture
def card(tmp_path):
    """A driver that lists a GPU."""
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 'GPU 0: A Card (UUID: 1)'\n")
    driver.chmod(0o755)
    return tmp_path


def test_without_a_gpu_make_stops_before_it_installs_anything(tmp_path):
    make = shutil.which("make") or pytest.skip("make is not installed")
    said = say(make, "test-gpu", f"PYTHON={sys.executable}", folder=tmp_path)
    first, *rest = said.splitlines()
    assert first == "make test-gpu needs an NVIDIA GPU; `nvidia-smi --list-gpus` shows none here."
    assert all(line.startswith("make: ***") for line in rest)


def test_a_gpu_that_tensorflow_does_not_see_is_named(tf, card, tmp_path):
    said = say(sys.executable, ROOT / "tools" / "gpu.py", tmp_path / "copy", folder=card)
    expected = (
        f"make test-gpu: GPU 0: A Card (UUID: 1) is here, but TensorFlow {tf.__version__} does not see it."
    )
    assert said.splitlines()[-1] == expected and not (tmp_path / "copy").exists()
