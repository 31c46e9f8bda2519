"""`make test-gpu` fails at once, in one line, where there is no GPU."""

import importlib
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT


def test_without_a_gpu_make_stops_before_it_installs_anything(tmp_path):
    make = shutil.which("make") or pytest.skip("make is not installed")
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    environment = environment | {"PATH": str(tmp_path), "MFLAGS": ""}  # no nvidia-smi, and nothing else
    command = [make, "test-gpu", f"PYTHON={sys.executable}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode != 0 and done.stdout == ""
    first, *rest = done.stderr.splitlines()
    assert first == "make test-gpu needs an NVIDIA GPU; `nvidia-smi --list-gpus` shows none here."
    assert all(line.startswith("make: ***") for line in rest)


@pytest.fixture
def gpu(tmp_path, monkeypatch):
    """The tool, where a driver lists a GPU."""
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 'GPU 0: A Card (UUID: 1)'\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.syspath_prepend(ROOT / "tools")
    yield importlib.import_module("gpu")
    sys.modules.pop("gpu")  # a benchmark has this name too


def test_a_gpu_that_tensorflow_does_not_see_is_named(tf, gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    with pytest.raises(SystemExit) as said:
        gpu.main(tmp_path / "copy")
    assert said.value.code == (
        f"make test-gpu: GPU 0: A Card (UUID: 1) is here, but TensorFlow {tf.__version__} does not see it."
    )
    assert not (tmp_path / "copy").exists()
