"""The supported versions: the same wherever they are stated; an old one is one line at import, no error."""

import os
import re

import pytest
from conftest import ROOT, pyproject, python
from packaging.requirements import Requirement
from packaging.version import Version

import evakeras

EXTRAS = ("cpu", "notebooks", "test")  # what `make test-oldest` installs


def pretend(folder, name, version):
    """Let `name` look installed in that version, for a Python that has `folder` on its path."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def said(folder, *options, code="import evakeras"):
    """What a fresh Python says to stderr, with `folder` before all other packages."""
    path = os.pathsep.join([str(folder), str(ROOT)])
    done = python(*options, "-c", code, cwd=folder, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    return done.stderr


def pinned(file, python="3.10"):
    """The version of each package that a constraints file asks for on that Python."""
    lines = (ROOT / file).read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    pins = [pin for pin in pins if not pin.marker or pin.marker.evaluate({"python_version": python})]
    return {pin.name: str(pin.specifier).removeprefix("==") for pin in pins}


def test_the_oldest_set_is_the_lower_bounds_of_pyproject():
    project = pyproject()["project"]
    extras = [line for name in EXTRAS for line in project["optional-dependencies"][name]]
    wanted = map(Requirement, project["dependencies"] + extras)
    bounds = {one.name: Version(str(one.specifier).removeprefix(">=")) for one in wanted}
    pins = pinned("constraints-oldest.txt")
    assert {name: Version(version) for name, version in pins.items()} == bounds


def test_the_readme_states_the_versions_that_were_verified():
    readme = " ".join((ROOT / "README.md").read_text().split())
    stated = re.findall(r"Python (3\.\d+), Keras ([\d.]+), TensorFlow ([\d.]+), NumPy ([\d.]+):", readme)
    dates = re.findall(r"Last verified on (\d{4}-\d\d-\d\d)", readme)
    files = {"constraints-oldest.txt": "3.10", "constraints.txt": "3.11"}
    for file, wanted in files.items():
        pins = pinned(file, wanted)
        assert stated.pop(0) == (wanted, pins["keras"], pins["tensorflow"], pins["numpy"])
        assert pins["tensorflow"] == pins["tensorflow-cpu"]
        assert re.findall(r"\((\d{4}-\d\d-\d\d)\)", (ROOT / file).read_text()) == dates
    assert not stated and pyproject()["project"]["requires-python"] == ">=3.10"


def test_the_oldest_versions_are_those_of_pyproject():
    project = pyproject()["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["cpu"]
    found = (re.match(r"(keras|tensorflow|tensorflow-cpu)>=([0-9.]+)", line) for line in wanted)
    assert dict(match.groups() for match in found if match) == evakeras._OLDEST


def test_supported_versions_are_not_mentioned(tmp_path):
    assert said(tmp_path) == ""
    assert evakeras.unsupported() == ""


@pytest.mark.parametrize("version", ["3.10", "3.10.0rc1", "3.100.2", "4.0.0.dev2026"])
def test_supported_numbers(tmp_path, version):
    pretend(tmp_path, "keras", version)
    assert said(tmp_path) == ""


@pytest.mark.parametrize("version", ["3.9.2", "3.2", "2.15.0"])
def test_old_keras_is_named_in_one_line(tmp_path, version):
    pretend(tmp_path, "keras", version)
    lines = said(tmp_path).splitlines()
    assert len(lines) == 1
    assert f"keras {version} (needs 3.10 or newer)" in lines[0]


def test_two_old_packages_are_named_in_one_line(tmp_path):
    pretend(tmp_path, "keras", "3.4.1")
    pretend(tmp_path, "tensorflow", "2.17.0")
    (line,) = said(tmp_path).splitlines()
    assert "keras 3.4.1 (" in line and "tensorflow 2.17.0 (needs 2.19 or newer)" in line


def test_it_is_said_once_per_process(tmp_path):
    pretend(tmp_path, "keras", "3.4.1")
    assert len(said(tmp_path, code="import evakeras; from evakeras import evaluate").splitlines()) == 1


def test_nothing_installed_or_nothing_readable_is_no_error(tmp_path):
    assert said(tmp_path, "-S") == ""  # no site-packages at all
    pretend(tmp_path, "keras", "unknown")
    assert said(tmp_path) == ""
    next(tmp_path.glob("keras-*/METADATA")).write_bytes(b"\xff\xfe\x00")
    assert said(tmp_path) == ""


def test_a_closed_stderr_is_no_error(tmp_path):
    pretend(tmp_path, "keras", "3.4.1")
    assert said(tmp_path, code="import sys; sys.stderr.close(); import evakeras") == ""
