"""The package as a whole: light to import, every module a file that works alone, every name documented."""

import ast
import importlib
import inspect
import re
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import python

import evakeras

PACKAGE = Path(evakeras.__file__).parent
MODULES = sorted(file.stem for file in PACKAGE.glob("*.py") if not file.stem.startswith("_"))
PUBLIC = {
    "augment": [
        "Cutout", "MixUp", "Policy", "RandAugment", "SamplePairing", "SmartAugmentation", "basic",
        "from_image_data_generator", "resize_and_rescale", "search_policy",
    ],
    "data": ["ImageDataset", "batches", "load_cifar10", "load_digits", "load_mnist", "load_photo"],
    "evaluate": ["gap", "misclassified", "summarize"],
    "explain": [
        "activation_maximization", "grad_cam", "guided_backprop", "occlusion", "randomize", "saliency",
    ],
    "models": ["COMPACT", "PROGRESSION", "RECIPES", "build", "compiled", "receptive_field"],
    "normalize": [
        "BatchNormCache", "ImageStatistics", "batch_norm", "batch_norm_backward", "equalize",
        "fold_batch_norm", "image_statistics", "min_max", "standardization_layer", "standardize",
    ],
    "plots": ["histograms", "image_grid", "learning_curves", "misclassified_grid", "surface"],
    "regularizers": ["ProximalL1", "add_kernel_regularizer", "dropout", "penalty", "prune", "sparsity"],
    "train": ["LearningRateRangeTest", "OneCycle", "Run", "run", "study"],
}  # fmt: skip


def public_names(module):
    return [(name, getattr(module, name)) for name in module.__all__]


def test_importing_the_package_loads_nothing_heavy(tmp_path):
    heavy = {"keras", "tensorflow", "numpy", "matplotlib", "sklearn", "scipy", "PIL", "tqdm", "filelock"}
    code = f"import sys, evakeras; print(evakeras.__version__, sorted({heavy} & set(sys.modules)))"
    done = python("-c", code, cwd=tmp_path, PYTHONPATH=str(PACKAGE.parent))
    assert done.stdout.split(maxsplit=1) == [evakeras.__version__, "[]\n"], done.stderr


@pytest.mark.parametrize("name", MODULES)
def test_module_imports_no_other_module_of_the_package(name):
    imported = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{name}.py").read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            imported.add(node.module.split(".")[0])
    assert imported
    assert not imported & {"evakeras", *MODULES}


ALONE = """
import sys
sys.modules["evakeras"] = None  # an installed evakeras is out of reach too
import doctest
import importlib
for name in sys.argv[1:]:
    sys.path[0] = name  # a folder that holds this one file
    module = importlib.import_module(name)
    if hasattr(module, "batches") and module.keras.backend.backend() != "tensorflow":
        module.batches.__doc__ = None  # the one function that needs TensorFlow
    result = doctest.testmod(module)
    print("examples:", name, result.attempted, result.failed, module.__file__)
    del sys.modules[name]
"""


def test_each_module_copied_alone_into_an_empty_folder_runs_its_examples(tmp_path):
    for name in MODULES:  # one process for all: most of the time goes into importing Keras
        (tmp_path / name).mkdir()
        shutil.copy(PACKAGE / f"{name}.py", tmp_path / name)
    done = python("-c", ALONE, *MODULES, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("examples: ")]
    assert [line[1] for line in lines] == list(MODULES)
    for _, name, attempted, failed, file in lines:
        assert int(failed) == 0, done.stdout
        assert int(attempted) > 0
        assert (tmp_path / file).resolve() == (tmp_path / name / f"{name}.py").resolve()


@pytest.mark.parametrize("name", MODULES)
def test_public_functions_are_documented_with_an_example(name):
    module = importlib.import_module(f"evakeras.{name}")
    functions = [(n, value) for n, value in public_names(module) if inspect.isfunction(value)]
    assert functions
    for function_name, function in functions:
        text = inspect.getdoc(function) or ""
        assert text.splitlines()[0].endswith("."), f"{function_name}: one line of summary"
        assert "Returns:" in text, function_name
        assert "Example:" in text and ">>>" in text, function_name
        assert "Args:" in text or not inspect.signature(function).parameters, function_name


@pytest.mark.parametrize("name", MODULES)
def test_public_arguments_are_all_explained(name):
    module = importlib.import_module(f"evakeras.{name}")
    for function_name, function in public_names(module):
        if inspect.isfunction(function):
            section = (inspect.getdoc(function) + "\nReturns:").split("Returns:")[0]
            for argument in inspect.signature(function).parameters:
                listed = rf"^ {{4}}(?:\w+, )*{argument}(?:, \w+)*:"
                assert re.search(listed, section.split("Args:")[-1], re.M), f"{function_name}: {argument}"


@pytest.mark.parametrize("name", MODULES)
def test_public_classes_and_constants_are_documented(name):
    module = importlib.import_module(f"evakeras.{name}")
    assert inspect.getdoc(module)
    body = ast.parse((PACKAGE / f"{name}.py").read_text()).body
    explained = {
        node.targets[0].id
        for node, after in pairwise(body)
        if isinstance(node, ast.Assign) and isinstance(after, ast.Expr)
    }
    for public_name, value in public_names(module):
        if inspect.isclass(value):
            own = vars(value).get("__doc__") or ""
            assert own and not own.startswith(f"{public_name}("), public_name
        elif not callable(value):
            assert public_name in explained, f"{public_name}: a text under the constant"


@pytest.mark.parametrize("name", PUBLIC)
def test_the_names_of_the_design_are_public(name):
    module = importlib.import_module(f"evakeras.{name}")
    assert set(PUBLIC[name]) <= set(module.__all__)
    assert all(hasattr(module, public_name) for public_name in module.__all__)
