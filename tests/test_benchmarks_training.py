"""The benchmarks against PyTorch and on a GPU: both sides are the same, and what is missing is said."""

import importlib
import json
import re
import sys

import numpy as np
import pytest
from conftest import ROOT

from evakeras import data, models

pytestmark = pytest.mark.usefixtures("tf")
TORCH_MISSING = 'needs PyTorch: pip install ".[bench]"'


@pytest.fixture
def load(monkeypatch):
    """Import a file of benchmarks/, which is forgotten after the test."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    before = set(sys.modules)
    yield importlib.import_module
    for name in {"run", "timing", "training", "gpu"} - before:
        sys.modules.pop(name, None)


@pytest.fixture
def training(load):
    torch = pytest.importorskip("torch", reason=TORCH_MISSING)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for each other beside other tests
    yield load("training")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def digits():
    found = data.load_digits()
    return found.x_train[:64].astype("float32") / 255, found.y_train[:64]


def test_without_torch_it_says_how_to_get_it(load, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "training.py").write_text((ROOT / "benchmarks" / "training.py").read_text())
    assert load("run").main(["training"], tmp_path) == 1
    error = capsys.readouterr().err
    assert error.startswith('training cannot run: ImportError: PyTorch is missing: pip install ".[bench]"')
    assert "much smaller build" in error and not list(tmp_path.glob("*.json"))


def test_the_extra_is_pinned_and_the_makefile_brings_it():
    project, make = ((ROOT / name).read_text() for name in ("pyproject.toml", "Makefile"))
    wanted, pinned = re.search(r'^bench = \["torch>=([\d.]+)"\]', project, re.M)[1], ROOT / "constraints.txt"
    pinned = re.search(r"^torch==([\d.]+)$", pinned.read_text(), re.M)[1]
    assert tuple(map(int, pinned.split("."))) >= tuple(map(int, wanted.split(".")))
    assert '--editable ".[bench]"' in make
    assert re.findall(r"^(bench[\w-]*): \$\(VENV\)/ready-bench$", make, re.M) == ["bench", "bench-quick"]


@pytest.mark.parametrize("name", ["third", "sixth", "fast"])
def test_the_model_in_torch_is_the_same(training, digits, name):
    training.check(name, *digits)


def test_a_difference_between_the_models_is_found(training, digits, monkeypatch):
    right = training.convolution
    monkeypatch.setattr(training, "convolution", lambda kernel, bias: right(kernel[::-1].copy(), bias))
    with pytest.raises(AssertionError, match=r"third: .* of Keras and PyTorch are .* apart"):
        training.check("third", *digits)


def test_a_row_compares_with_the_faster_memory_format(training, digits, monkeypatch):
    seconds = {"evakeras": [1.0, 2.0], "channels first": [4.0, 4.0], "channels last": [2.0, 8.0]}

    def in_turns(functions, repeats):
        assert {name: function() for name, function in functions.items()} == dict.fromkeys(seconds, 64)
        return seconds

    monkeypatch.setattr(training, "in_turns", in_turns)
    row = training.compared("sixth", *digits, repeats=2)
    assert row["what"] == f"sixth, {models.build('sixth').count_params():,} parameters"
    assert row["baseline"].endswith(", channels last") and row["ratios"] == [2.0, 4.0]
    assert (row["ours"], row["theirs"]) == (48.0, 20.0)


class TestGpu:
    @pytest.fixture
    def gpu(self, load, monkeypatch):
        gpu = load("gpu")
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.setattr(gpu, "card_of", lambda backend: "A Card")
        monkeypatch.setattr(gpu, "digits", lambda: (None, None, "noise like MNIST"))
        return gpu

    @pytest.fixture
    def fake(self, gpu, monkeypatch):
        def measured(name, batch, jit, images, labels, quick):
            if jit:
                raise RuntimeError("no compiler\nhere")
            return {"images": 59_904, "speeds": [1e5, 3e5, 2e5], "median": 2e5}

        monkeypatch.setattr(gpu, "measured", measured)
        for name in ("CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS"):
            monkeypatch.setenv(name, "")  # put back as it was, after --cpu has changed it
        return gpu

    def test_without_a_gpu_it_refuses_in_one_line(self, gpu, monkeypatch, tmp_path, capsys):
        monkeypatch.setattr(gpu, "card_of", lambda backend: None)
        assert gpu.main(["--write"], tmp_path) == 1
        shown = capsys.readouterr()
        assert re.fullmatch(r"gpu.py: .* sees no GPU here; --cpu .*\n", shown.err) and not shown.out
        assert not list(tmp_path.iterdir())

    def test_what_the_cpu_gives_is_marked_and_never_written(self, fake, monkeypatch, tmp_path, capsys):
        monkeypatch.setattr(fake, "card_of", lambda backend: None)
        assert fake.main(["--cpu", "--quick"], tmp_path) == 0
        assert " on CPU, only to try the script\n" in capsys.readouterr().out
        with pytest.raises(SystemExit):
            fake.main(["--cpu", "--write"], tmp_path)
        assert not list(tmp_path.iterdir())

    def test_written_rows_reach_the_page_and_other_models_stay(self, fake, load, tmp_path, capsys):
        assert fake.main(["fast", "--write"], tmp_path) == 0
        assert fake.main(["third", "--write"], tmp_path) == 0
        found = json.loads((tmp_path / "gpu.json").read_text())["tensorflow"]
        assert [row["model"] for row in found["rows"]] == ["fast"] * 4 + ["third"] * 4
        assert set(found["versions"]) == {"python", "keras", "tensorflow"} and found["card"] == "A Card"
        page = (tmp_path / "README.md").read_text()
        assert "## GPU: tensorflow on A Card\n" in page and "noise like MNIST" in page
        assert "| third | 1,024 | no | 200,000 | 100,000 – 300,000 | 59,904 |" in page
        assert "| fast | 128 | yes | – | RuntimeError: no compiler | – |" in page
        (tmp_path / "gpu.json").unlink()
        load("run").write({}, tmp_path)
        assert "GPU" not in (tmp_path / "README.md").read_text()

    def test_another_card_or_version_replaces_all(self, gpu):
        before = {
            "card": "A Card",
            "versions": {},
            "images": "MNIST",
            "quick": False,
            "rows": [{"model": "fast"}],
        }
        after = {**before, "rows": [{"model": "third"}]}
        assert len(gpu.merged(before, after)["rows"]) == 2
        assert gpu.merged(before, {**after, "card": "Another"})["rows"] == after["rows"]

    def test_an_epoch_is_timed(self, gpu, digits):
        row = gpu.measured("fast", 8, False, digits[0][:60], digits[1][:60], quick=True)
        assert 40 <= row["images"] <= 56 and row["images"] % 8 == 0
        assert len(row["speeds"]) == 2 and min(row["speeds"]) <= row["median"] <= max(row["speeds"])

    def test_without_mnist_it_takes_noise(self, load, monkeypatch):
        def missing():
            raise ImportError("no scikit-learn")

        monkeypatch.setattr(data, "load_mnist", missing)
        gpu = load("gpu")
        monkeypatch.setattr(gpu, "COUNT", 600)
        images, labels, source = gpu.digits()
        assert images.shape == (600, 28, 28, 1) and images.dtype == np.float32 and source.startswith("noise")
        assert labels.shape == (600,) and labels.min() >= 0 and labels.max() == 9
