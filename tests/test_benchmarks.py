"""The runner of the benchmarks, with benchmarks that measure nothing."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]

FAKE = '''"""Of what is
compared.

More."""

def rows(quick=False):
    ratios = [3.0, 1.0, 2.0] if quick else [9.0, 8.0, 10.5]
    return [dict(what="apples", baseline="pears", ratios=ratios, ours=12345.6, theirs=0.5, unit="kg")]
'''
LAME = '"""No."""\n\ndef rows(quick=False):\n    raise OSError("no scales here")\n'


def load(file):
    spec = importlib.util.spec_from_file_location(f"benchmark_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "fake_one.py").write_text(FAKE)
    (tmp_path / "run.py").write_text("raise AssertionError('the runner is no benchmark')")
    yield tmp_path
    for name in ("fake_one", "lame_one"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def runner():
    return load(ROOT / "benchmarks" / "run.py")


def test_a_full_run_prints_the_table_and_writes_both_files(runner, folder, capsys):
    assert runner.main([], folder) == 0
    line = "| apples | pears | 9.0 | 8.0 – 10.5 | 12,346 | 0.5 | kg |"
    assert line in capsys.readouterr().out
    results = json.loads((folder / "results.json").read_text())
    assert results["fake_one"]["rows"][0]["ratios"] == [9.0, 8.0, 10.5]
    assert set(results["fake_one"]["versions"]) == {"python", "keras", "tensorflow", "numpy", "scipy"}
    assert results["fake_one"]["machine"]["cores"] >= 1
    page = (folder / "README.md").read_text()
    assert line in page and "Of what is compared.\n" in page and "More" not in page
    assert results["fake_one"]["date"] in page and f"numpy {np.__version__}" in page
    assert str(folder) not in page and "quick" not in page


def test_quick_writes_only_if_told_to_and_says_so(runner, folder, capsys):
    assert runner.main(["--quick"], folder) == 0
    assert "| 2.0 | 1.0 – 3.0 |" in capsys.readouterr().out
    assert not (folder / "README.md").exists() and not (folder / "results.json").exists()
    assert runner.main(["--quick", "--write"], folder) == 0
    assert "quick mode" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    "name, reason", [("lame_one", "OSError: no scales here"), ("absent", "No module named")]
)
def test_what_cannot_run_says_why_and_the_others_are_kept(runner, folder, capsys, name, reason):
    (folder / "lame_one.py").write_text(LAME)
    assert runner.main(["fake_one"], folder) == 0
    before = (folder / "results.json").read_text()
    assert runner.main([name], folder) == 1
    assert f"{name} cannot run: " in (error := capsys.readouterr().err) and reason in error
    assert (folder / "results.json").read_text() == before
    assert runner.main([], folder) == 1  # all: the one that runs is written, the other is reported
    assert list(json.loads((folder / "results.json").read_text())) == ["fake_one"]


def test_the_sides_of_the_augmentation_benchmark_make_the_same_images():
    benchmark = load(ROOT / "benchmarks" / "augmentation.py")
    images = benchmark.crops(3)
    assert images.shape == (3, 224, 224, 3) and images.dtype == np.uint8
    found = benchmark.in_turns(benchmark.passes(images, 2), repeats=2)
    assert set(found) == {"evakeras", "ImageDataGenerator.flow", "NumPy and SciPy"}
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in found.values())
    flat = np.full((5, 8, 8, 1), 7, "uint8")
    assert benchmark.moved(flat, 2, 2).shape == (2, 8, 8, 1) and (benchmark.moved(flat, 4, 2) == 7).all()
