"""The runner of the benchmarks, with some that measure nothing; the benchmarks, with hardly any work."""

import importlib.util
import json
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from conftest import ROOT

pytestmark = pytest.mark.usefixtures("tf")

FAKE = '''"""Of what is
compared.

More."""

def rows(quick=False):
    ratios = [3.0, 1.0, 2.0] if quick else [9.0, 8.0, 10.5]
    return [dict(what="apples", baseline="pears", ratios=ratios, ours=12345.6, theirs=0.5, unit="kg")]
'''
LAME = '"""No."""\n\ndef rows(quick=False):\n    raise OSError("no scales here")\n'


def benchmark(name):
    file = ROOT / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", file)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(file.parent)  # where it finds timing.py
        spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "fake_one.py").write_text(FAKE)
    for name in ("run", "timing", "gpu"):
        (tmp_path / f"{name}.py").write_text("raise AssertionError('this is no benchmark')")
    yield tmp_path
    for name in ("fake_one", "lame_one"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def runner():
    return benchmark("run")


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
    augmentation = benchmark("augmentation")
    images = augmentation.crops(3)
    assert images.shape == (3, 224, 224, 3) and images.dtype == np.uint8
    found = augmentation.in_turns(augmentation.passes(images, 2), repeats=2)
    assert set(found) == {"evakeras", "ImageDataGenerator.flow", "NumPy and SciPy"}
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in found.values())
    flat = np.full((5, 8, 8, 1), 7, "uint8")
    assert augmentation.moved(flat, 2, 2).shape == (2, 8, 8, 1)
    assert (augmentation.moved(flat, 4, 2) == 7).all()


def check_rows(rows, count, repeats, unit=None):
    keys = ["what", "baseline", "ratios", "ours", "theirs", "unit"]
    assert len(rows) == count
    for row in rows:
        assert list(row) == keys and unit in (None, row["unit"])
        assert (
            len(row["ratios"]) == repeats and min(row["ratios"]) > 0 and min(row["ours"], row["theirs"]) > 0
        )
    json.dumps(rows)


def test_no_file_hides_a_standard_module_and_each_benchmark_has_rows(runner):
    for file in (ROOT / "benchmarks").glob("*.py"):
        assert file.stem not in sys.stdlib_module_names
        assert "\ndef rows(quick" in file.read_text() or file.stem in runner.OTHERS, file.stem


def test_a_row_of_costs_is_above_1_where_ours_is_less():
    row = benchmark("timing").row("cakes", "pies", [1.0, 2.0, 4.0], [3.0, 4.0, 4.0], "s")
    assert row["ratios"] == [3.0, 2.0, 1.0] and (row["ours"], row["theirs"]) == (2.0, 4.0)
    check_rows([row], 1, 3, "s")


def test_in_turns_refuses_sides_that_do_not_give_the_same():
    with pytest.raises(AssertionError, match="not the same"):
        benchmark("timing").in_turns({"one": lambda: 1, "other": lambda: 2}, 1)


# Statistics of images

on_linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux resets VmHWM")


@pytest.fixture
def image_statistics():
    return benchmark("image_statistics")


@pytest.fixture
def file(image_statistics, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3000, 28, 28, 1), np.uint8)
    return image_statistics.saved(images, 10, tmp_path)


@on_linux
@pytest.mark.parametrize("mapped", [False, True])
def test_both_sides_find_the_same_statistics_of_the_file(image_statistics, file, mapped):
    ours, theirs = (image_statistics.measure(side, file, mapped, later=2) for side in ("ours", "theirs"))
    images = np.load(file)
    np.testing.assert_allclose(ours["found"], [[images.mean()], [images.std()]], rtol=1e-12)
    np.testing.assert_allclose(theirs["found"], ours["found"], rtol=1e-4)
    assert min(ours["first"], ours["later"], theirs["first"], theirs["later"]) > 0


@on_linux
@pytest.mark.parametrize("mapped", [False, True])
def test_extra_memory_is_what_a_call_takes_and_not_the_pages_of_the_images(
    image_statistics, file, mapped, monkeypatch
):
    def take(images):
        more = np.ones(5_000_000)  # 40 MB, given back before the call ends
        return images.max() + more[:1], 0

    monkeypatch.setattr(image_statistics, "ours", lambda: take)
    assert 39 < image_statistics.measure("ours", file, mapped)["megabytes"] < 45  # the images are 24 MB
    monkeypatch.setattr(image_statistics, "ours", lambda: lambda images: (images.max(), 0))
    assert 0 < image_statistics.measure("ours", file, mapped)["megabytes"] < 5


@on_linux
def test_a_side_measured_in_a_process_of_its_own_says_why_it_failed(image_statistics, file):
    found = image_statistics.in_a_process("ours", file, mapped=True, later=1)
    assert found["megabytes"] < 10 and len(found["found"]) == 2
    with pytest.raises(RuntimeError, match=r"ours ended with 1: .*absent\.npy"):
        image_statistics.in_a_process("ours", file.parent / "absent.npy")


def test_rows_of_statistics_compare_both_files_and_remove_them(image_statistics, monkeypatch):
    seen = []

    def pretend(side, file, mapped=False, later=0):
        images = np.load(file, mmap_mode="r")
        seen.append((file.parent, len(images), mapped, later))
        many = 1 if side == "ours" else len(images)
        return {"first": 1.0, "later": 2.0, "megabytes": many, "found": [[1.0], [2.0]]}

    monkeypatch.setattr(image_statistics, "in_a_process", pretend)
    rows = image_statistics.rows(quick=True)
    check_rows(rows, 4, repeats=3)
    assert [row["unit"] for row in rows] == ["s", "s", "MB", "MB"]
    assert rows[3]["ratios"] == [10 * ratio for ratio in rows[2]["ratios"]]
    few = seen[0][1]
    assert {what[1:] for what in seen} == {(few, False, 3), (10 * few, True, 0)}
    assert not any(folder.exists() for folder, *_ in seen)


@pytest.mark.parametrize("reason", [KeyboardInterrupt, RuntimeError])
def test_the_memmap_is_removed_when_it_is_interrupted(image_statistics, monkeypatch, reason):
    seen = []

    def stop(side, file, mapped=False, later=0):
        seen.append(file.parent)
        if mapped:
            assert file.exists()
            raise reason
        return {"found": [[1.0], [2.0]]}

    monkeypatch.setattr(image_statistics, "in_a_process", stop)
    with pytest.raises(reason):
        image_statistics.rows(quick=True)
    assert len(seen) == 7 and not seen[0].exists()


def test_sides_that_find_other_statistics_are_refused(image_statistics, monkeypatch):
    monkeypatch.setattr(
        image_statistics, "in_a_process", lambda side, file: {"found": [[1.0], [2.0 + (side == "theirs")]]}
    )
    with pytest.raises(AssertionError, match="Not equal"):
        image_statistics.in_turns("file", 1)


# Explanation


def test_all_sides_explain_alike_and_make_rows():
    explanation = benchmark("explanation")
    digits, crops = explanation.images(3)
    assert digits.shape == (3, 28, 28, 1) and crops.shape == (3, 96, 96, 3)
    assert (digits.min(), digits.max(), crops.min() >= -1, crops.max() <= 1) == (0, 1, True, True)
    model = explanation.calibrated(explanation.models.build("fast"), digits)
    rows = explanation.compared("fast", model, digits, "conv_3", 14, 14, repeats=1)  # checks the maps
    check_rows(rows, 6, repeats=1)
    assert "9 places" in rows[0]["what"] and "3 images" in rows[-1]["what"]


def test_a_calibrated_deep_network_tells_images_apart():
    explanation = benchmark("explanation")
    crops = explanation.images(8)[1]
    model = explanation.calibrated(explanation.mobile_net(), crops)
    assert model.get_layer("out_relu") and model.layers[-2].output.shape == (None, 10)
    assert np.ptp(model(crops).numpy(), axis=0).max() > 0.1


def test_maps_that_differ_or_are_empty_are_refused():
    same_maps, one = benchmark("explanation").same_maps, np.ones((1, 2, 2))
    same_maps({"evakeras": one, "other": one + 1e-6})
    for other in (one + 1e-4, one[:, :1]):
        with pytest.raises(AssertionError, match="other"):
            same_maps({"evakeras": one, "other": other})
    with pytest.raises(AssertionError):
        same_maps({"evakeras": one * 0, "other": one * 0})


# Import


def test_import_time_imports_all_helpers():
    code = next(code for name, code in benchmark("import_time").OURS.items() if "helpers" in name)
    names = code.removeprefix("from evakeras import ").split(", ")
    assert {"data", "explain", "normalize", "train"} <= set(names)


def test_rows_of_import_time_start_each_anew(monkeypatch):
    import_time = benchmark("import_time")
    monkeypatch.setattr(import_time, "THEIRS", {"one": "import json", "other": "import csv"})
    monkeypatch.setattr(import_time, "OURS", {"none": "pass", "evakeras": "import evakeras"})
    check_rows(import_time.rows(quick=True), 4, 3, "s")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    assert import_time.start("import sys; assert not sys.dont_write_bytecode") == 0
    with pytest.raises(RuntimeError, match="No module named 'no_such_thing'"):
        import_time.start("import no_such_thing")


# The suite of notebooks


@pytest.fixture
def notebook_suite():
    return benchmark("notebook_suite")


def notebook(file, code):
    cell = nbformat.v4.new_code_cell(code)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), file)
    return file


def test_the_quick_suite_runs_one_notebook_against_its_share(notebook_suite, tmp_path, monkeypatch):
    code = "import os\nassert os.environ['EVAKERAS_QUICK'] == '1'"
    monkeypatch.setattr(notebook_suite, "SHORT", notebook(tmp_path / "short.ipynb", code))
    rows = notebook_suite.rows(quick=True)
    check_rows(rows, 1, 1, "s")
    assert 0 < rows[0]["theirs"] < 360 and "360 s" in rows[0]["baseline"]


def test_the_full_suite_runs_all_against_the_limit(notebook_suite, monkeypatch):
    monkeypatch.setattr(notebook_suite, "run", lambda target: {ROOT / "notebooks": 180.0}[target])
    rows = notebook_suite.rows()
    check_rows(rows, 1, 1, "s")
    assert rows[0]["ratios"] == [2.0] and rows[0]["theirs"] == 360


def test_the_suite_is_that_of_the_makefile(notebook_suite):
    recipe = (ROOT / "Makefile").read_text().split("\ntest-notebooks:")[1].split("\n\n")[0]
    wanted = recipe.replace("\\\n", " ").split("-m pytest notebooks ")[1].split()
    assert wanted == notebook_suite.OPTIONS


def test_a_failing_notebook_says_why(notebook_suite, tmp_path, monkeypatch):
    monkeypatch.setattr(notebook_suite, "OPTIONS", notebook_suite.OPTIONS[:3])  # without workers: faster
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        notebook_suite.run(notebook(tmp_path / "lame.ipynb", "1 / 0"))


def test_no_suite_without_nbval(notebook_suite, monkeypatch):
    monkeypatch.setattr(notebook_suite, "find_spec", lambda name: None if name == "nbval" else True)
    with pytest.raises(ModuleNotFoundError, match="nbval is not installed"):
        notebook_suite.run("anything")


@pytest.mark.parametrize(
    "means, epochs, text",
    [([0.98, 0.9941, 0.9939], 2, "2 epochs"), ([0.98, 0.9933], 2, "99.33% only: a lower bound")],
)
def test_the_eighth_model_needs_the_epochs_that_session_03_found(means, epochs, text):
    given = {"03-compact": {"by_epoch": {"eighth": means}}}
    found, baseline = benchmark("time_to_accuracy").needed_epochs(given)
    assert found == epochs and text in baseline
