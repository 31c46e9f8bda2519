"""Files that mean harm: an error that names the file, and never a crash, a wait or gigabytes of memory."""

import ast
import json
import os
import struct
import sys
import time
import tracemalloc
import zlib
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import ROOT, python

import evakeras
from evakeras import augment, data, train

fuzz = pytest.importorskip("fuzz_loaders")  # its children need what Windows has not
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere memory cannot be limited")
PACKAGE = Path(evakeras.__file__).parent


@pytest.fixture
def small():
    """What goes on here must stay quick and need little memory."""
    start = time.perf_counter()
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6 and time.perf_counter() - start < 20


def digits():
    """The parts of an honest mnist.npz."""
    return fuzz.mnist(fuzz.random.Random(0))


def entries(members, method=8):
    return [fuzz.entry(f"{name}.npy", fuzz.npy_bytes(member), method) for name, member in members.items()]


def write(path, listed):
    path.write_bytes(fuzz.archive(fuzz.random.Random(1), listed))
    return path


def read_error(path, message, load=data.load_mnist):
    with pytest.raises(ValueError, match=message) as caught:
        load(path)
    assert path.name in str(caught.value) and len(str(caught.value)) < 1000


# Arrays in an archive


def test_the_files_that_are_made_here_are_honest_before_they_are_changed(tmp_path):
    assert len(data.load_mnist(write(tmp_path / "m.npz", entries(digits()))).x_train) == 3
    pictures = entries(fuzz.cifar10(fuzz.random.Random(0)), 0)
    assert len(data.load_cifar10(write(tmp_path / "c.npz", pictures)).x_train) == 3


def test_the_limit_leaves_room_for_every_set_of_this_layout():
    assert data._MOST_BYTES > 814_255 * 785  # EMNIST
    assert data._MOST_BYTES > 2 * 50_000 * 32 * 32 * 3  # CIFAR-10 twice


@pytest.mark.parametrize(
    "shape", [(10**12, 28, 28), (-1, 28, 28), (2**63, 28, 28), (2**64, 0, 28), (4, 28, 28), (2, 28, 28), ()]
)
def test_shape_that_the_bytes_are_not_enough_for_is_refused(shape, tmp_path, small):
    members = digits()
    members["x_train"]["values"]["shape"] = repr(shape)
    read_error(write(tmp_path / "shape.npz", entries(members)), "x_train|too large")


@pytest.mark.parametrize("descr", ["'|O'", "[('a', '|O')]", "'|V0'", "'|S0'", "'<f8'", "'|V99999999999'"])
def test_type_that_is_no_byte_is_refused(descr, tmp_path, small):
    members = digits()
    members["x_train"]["values"]["descr"] = descr
    read_error(write(tmp_path / "type.npz", entries(members)), "damaged")


@pytest.mark.parametrize("text", ["(" * 250, "-" * 250, "[" * 60_000, "{" * 9_000, "9" * 60_000, ""])
def test_header_that_is_long_or_nested_is_refused(text, tmp_path, small):
    for place in ("text", "values"):
        members = digits()
        members["x_train"].update({place: text} if place == "text" else {"values": {"shape": text}})
        read_error(write(tmp_path / "header.npz", entries(members)), "damaged")


def test_header_of_a_hundred_megabytes_is_not_read(tmp_path, small):
    header = b"\x93NUMPY\2\0" + struct.pack("<I", 10**8)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    raw = packer.compress(header) + b"".join(packer.compress(bytes(10**6)) for _ in range(100))
    listed = entries(digits())
    listed[0].update(raw=raw + packer.flush(), size=len(header) + 10**8)
    listed[0]["packed"] = len(listed[0]["raw"])
    read_error(write(tmp_path / "header.npz", listed), "version 1.0")


def test_array_in_fortran_order_is_read_right(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
    np.savez(
        tmp_path / "f.npz",
        x_train=np.asfortranarray(images),
        y_train=[1, 2, 3],
        x_test=images,
        y_test=[1] * 3,
    )
    found = data.load_mnist(tmp_path / "f.npz")
    assert np.array_equal(found.x_train[..., 0], images) and np.array_equal(found.x_test[..., 0], images)


@pytest.fixture
def bomb():
    """Asked for before `small`: making it takes memory, reading it must not."""
    return fuzz.bomb(True)


@pytest.mark.parametrize("claims_less", [True, False])
def test_bomb_is_refused_before_it_is_inflated(claims_less, tmp_path, bomb, small, monkeypatch):
    monkeypatch.setattr(data, "_MOST_BYTES", fuzz.CAP)
    raw, size, checksum = bomb
    listed = entries(digits())
    listed[0].update(raw=raw, packed=len(raw), size=3000 if claims_less else size, checksum=checksum)
    read_error(write(tmp_path / "bomb.npz", listed), "CRC" if claims_less else "more than")


def test_member_that_claims_gigabytes_is_refused(tmp_path, small):
    listed = entries(digits())
    listed[0]["size"] = 2**32 - 2
    read_error(write(tmp_path / "claim.npz", listed), "more than 1,073,741,824 bytes")


def test_many_pictures_are_refused_before_there_is_room_for_them(tmp_path, small, monkeypatch):
    monkeypatch.setattr(data, "_MOST_BYTES", 15_000)
    file = write(tmp_path / "many.npz", entries(fuzz.cifar10(fuzz.random.Random(0))))
    read_error(file, "pictures would have more than", data.load_cifar10)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"method": 12}, "neither stored nor deflated"),
        ({"method": 14}, "neither stored nor deflated"),
        ({"method": 99}, "neither stored nor deflated"),
        ({"flags": 1}, "encrypted"),
        ({"flags": 0x41}, "encrypt"),
        ({"name": "x_test.npy"}, "x_train 0 times"),
        ({"name": "y_train.npy"}, "x_train 0 times"),
        ({"checksum": 1}, "CRC"),
        ({"packed": 20}, "damaged"),
        ({"offset": 2**31}, "damaged"),
        ({"extra": struct.pack("<HHQ", 1, 8, 2**63), "size": 2**32 - 1}, "more than"),
        ({"raw": b""}, "damaged"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_member_that_lies_is_refused(change, message, tmp_path, small):
    listed = entries(digits())
    listed[0].update(change)
    read_error(write(tmp_path / "lies.npz", listed), message)


def test_member_that_is_there_twice_is_refused(tmp_path, small):
    listed = entries(digits())
    read_error(write(tmp_path / "twice.npz", [*listed, listed[0]]), "x_train 2 times")
    read_error(write(tmp_path / "twice.npz", [*listed, {**listed[0], "name": "x_train"}]), "x_train 2 times")


def test_endless_table_of_contents_is_not_read(tmp_path, small):
    file = tmp_path / "table.npz"
    with open(file, "wb") as out:
        out.truncate(10**9)  # of holes, which take no room on the disk
        out.seek(0, os.SEEK_END)
        out.write(struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, 10**9, 0, 0))
    read_error(file, "table of contents")


# What is no file


@pytest.fixture(params=["mnist.npz", "cifar10_jpeg.npz"])
def place(request, tmp_path, monkeypatch):
    """Where a loader looks, and the loader."""
    monkeypatch.setenv("EVAKERAS_DATA", str(tmp_path))
    return tmp_path / request.param, {"m": data.load_mnist, "c": data.load_cifar10}[request.param[0]]


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "link to nothing", "link to itself"])
def test_what_is_no_file_is_refused_without_waiting(kind, place, small):
    path, load = place
    make = {
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "link to nothing": lambda: path.symlink_to("nowhere"),
        "link to itself": lambda: path.symlink_to(path.name),
    }
    make[kind]()
    for given in ((), (path,)):
        with pytest.raises((ValueError, OSError), match=path.name):
            load(*given)


def test_link_to_a_file_is_followed(tmp_path):
    write(tmp_path / "there.npz", entries(digits()))
    (tmp_path / "link.npz").symlink_to("there.npz")
    assert data.load_mnist(tmp_path / "link.npz").name == "mnist"


# Pictures


def picture_that_claims(width, height):
    picture = bytearray(fuzz.pictures()[0])
    start = picture.find(b"\xff\xc0") + 5
    picture[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(picture)


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize(
    "picture",
    [picture_that_claims(65535, 65535), picture_that_claims(10_000, 10_000), picture_that_claims(0, 0),
     picture_that_claims(32, 65535), *fuzz.pictures()[3:], fuzz.pictures()[0][:400]],
    ids=["4 gigapixels", "100 megapixels", "no pixels", "a strip", "grey", "CMYK", "33×32", "1×1", "500×500",
         "PNG", "GIF", "BMP", "TIFF", "PPM", "WEBP", "cut off"],
)  # fmt: skip
def test_picture_that_is_no_jpeg_of_32_by_32_is_refused_by_number(picture, tmp_path, small):
    files = [*fuzz.pictures()[:2], picture]
    file = write(tmp_path / "odd.npz", entries(fuzz.cifar10(fuzz.random.Random(0), files), 0))
    read_error(file, "image 2 cannot be read|65,536 bytes", data.load_cifar10)


def test_picture_of_many_bytes_is_refused(tmp_path, small):
    files = [fuzz.pictures()[0] + bytes(data._MOST_JPEG)]
    file = write(tmp_path / "long.npz", entries(fuzz.cifar10(fuzz.random.Random(0), files), 0))
    read_error(file, "65,536 bytes", data.load_cifar10)


# Runs and searches


def nested(depth):
    return "[" * depth + "]" * depth


def honest_state():
    return fuzz.state(fuzz.random.Random(0))


def with_model(text):
    """A state whose model is this JSON."""
    state = json.dumps({**honest_state(), "configuration": {**fuzz.CONFIGURATION, "model": "HERE"}})
    return state.replace('"HERE"', text)


@pytest.mark.parametrize(
    "text",
    [
        with_model(nested(100_000)),
        *(with_model(nested(depth)) for depth in range(900, 1000, 10)),  # read, but not shown
        nested(100_000),
        json.dumps({**honest_state(), "seconds": "a"}),
        json.dumps({**honest_state(), "seconds": {"a": 1.0}}),
        json.dumps({**honest_state(), "seconds": [True]}),
        json.dumps({**honest_state(), "history": {"loss": "a"}}),
        json.dumps({**honest_state(), "history": {"loss": [None]}}),
        json.dumps({**honest_state(), "history": {"loss": [10**400]}}),
        json.dumps({**honest_state(), "history": {}}),
        json.dumps({**honest_state(), "history": {"loss": []}, "seconds": []}),
        with_model("1" * 5000),
        " " * (2**24 + 1),
        "\udcff",
    ],
    ids=lambda text: text[-40:] + str(len(text)),
)
def test_state_that_cannot_be_is_refused_by_name(text, tmp_path, small):
    (tmp_path / "state.json").write_text(text, errors="surrogateescape")
    with pytest.raises(ValueError, match=r"state\.json is damaged|of another configuration") as caught:
        train._read_state(tmp_path, fuzz.CONFIGURATION)
    assert len(str(caught.value)) < 1000


def kept(**changes):
    return json.dumps({"settings": fuzz.SETTINGS, "rewards": [0.5], **changes})


@pytest.mark.parametrize(
    "text",
    [
        nested(100_000),
        kept(rewards=["0.5"]),
        kept(rewards="12"),
        kept(rewards=[10**400]),
        kept(rewards=[True]),
        kept(rewards=[[0.5]]),
        kept(rewards=None),
        kept(settings=None),
        kept(settings=3),
        kept(settings=[1]),
        kept(settings={}),
        kept() + " " * 2**20,
    ],
    ids=lambda text: text[:60],
)
def test_search_that_cannot_be_is_refused_by_name(text, tmp_path, small):
    (tmp_path / "search.json").write_text(text)
    with pytest.raises(ValueError, match=r"search\.json is damaged"):
        fuzz.read_policy(augment, tmp_path / "search.json")
    assert (tmp_path / "search.json").read_text() == text


def test_search_with_other_settings_is_told_in_few_words(tmp_path):
    for wrong in ("9" * 10**5, [[]], 3):
        (tmp_path / "search.json").write_text(kept(settings=[wrong, *fuzz.SETTINGS[1:]]))
        with pytest.raises(ValueError, match="other settings: subpolicies was") as caught:
            fuzz.read_policy(augment, tmp_path / "search.json")
        assert len(str(caught.value)) < 1000


def test_pipe_in_place_of_a_state_or_a_search_is_not_waited_for(tmp_path):
    for name in ("state.json", "search.json"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match=r"state\.json is damaged"):
        train._read_state(tmp_path, fuzz.CONFIGURATION)
    with pytest.raises(ValueError, match=r"search\.json is damaged"):
        fuzz.read_policy(augment, tmp_path / "search.json")


def run_with(model, folder):
    model.save(folder / "epoch-01.keras")
    return train.Run("name", 0, {"loss": [0.5]}, [1.5], folder)


def test_damaged_model_is_refused_by_name(tmp_path):
    run = run_with(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), tmp_path)
    whole = run.file().read_bytes()
    assert len(run.model().weights) == 2
    for damaged in (b"", b"junk", whole[:-100], whole.replace(b"HDF", b"HXF")):
        run.file().write_bytes(damaged)
        with pytest.raises(ValueError, match=r"epoch-01\.keras"):
            run.model()


def test_model_that_holds_code_is_refused(tmp_path):
    run = run_with(keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x)]), tmp_path)
    with pytest.raises(ValueError, match="safe"):
        run.model()


# What the package may use

MODULES = {
    *("pickle", "cPickle", "dill", "joblib", "marshal", "shelve"),
    *("subprocess", "pty", "ctypes", "runpy", "socket", "urllib", "http", "requests", "ftplib"),
}
CALLS = ("eval", "exec", "__import__", "os.system", "os.popen", "np.fromfile", "yaml.load")
ALLOWED = {
    # Keras sets no timeout of its own for its download, whose hash it checks.
    "data.py": {"socket.getdefaulttimeout", "socket.setdefaulttimeout"},
    # One fixed command, without a shell: Python, to see whether TensorFlow crashes.
    "_doctor.py": {"subprocess.Popen", "subprocess.PIPE", "subprocess.STDOUT"},
}


def faults(source, allowed=(), explicit=True):
    """What in a source could run foreign code or reach the network.

    `explicit`: loading a model must say that it is safe, and not just never say the contrary.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in MODULES:
            yield f"from {node.module}"
        if isinstance(node, ast.Import):
            used = {alias.name.split(".")[0] for alias in node.names} & MODULES
            yield from (f"import {name}" for name in used - {name.split(".")[0] for name in allowed})
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in MODULES:
            yield from {ast.unparse(node)} - {*allowed}
        if isinstance(node, ast.Call):
            yield from faults_of_call(node, explicit)


def faults_of_call(node, explicit):
    name, given = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
    if name in CALLS or name.startswith(("os.exec", "os.spawn")) or "shell" in given:
        yield name
    if name.endswith(("np.load", "numpy.load", "read_array")) and given.get("allow_pickle") != "False":
        yield f"{name} without allow_pickle=False"
    if name.endswith("load_model") and given.get("safe_mode", "" if explicit else "True") != "True":
        yield f"{name} without safe_mode=True"


@pytest.mark.parametrize(
    "file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE))
)
def test_source_runs_no_foreign_code_and_reaches_no_network(file):
    assert list(faults(file.read_text(), ALLOWED.get(file.name, ()), explicit=file.parent == PACKAGE)) == []


@pytest.mark.parametrize(
    "source",
    ["import pickle", "import os, urllib.request", "from subprocess import run", "from http import client",
     "eval('1')", "exec(text)", "import os; os.system('ls')", "os.execv(a, b)", "Popen(a, shell=True)",
     "np.load(f)",
     "np.load(f, allow_pickle=True)", "np.lib.format.read_array(f)", "keras.saving.load_model(f)",
     "keras.models.load_model(f, safe_mode=False)", "import socket; socket.create_connection(a)"],
)  # fmt: skip
def test_source_that_does_is_noticed(source):
    assert list(faults(source, ALLOWED["data.py"]))


def test_there_is_something_to_look_at():
    assert {"data.py", "train.py"} <= {file.name for file in PACKAGE.glob("*.py")}
    assert "socket.setdefaulttimeout" in (PACKAGE / "data.py").read_text()


# Many such files


@on_linux
def test_a_few_hundred_changed_files_are_read_or_refused():
    done = python("tests/fuzz_loaders.py", "--inputs", 600, "--seed", 1, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "600 inputs, 0 failures" in done.stdout


BROKEN = """
import os, sys
sys.path.insert(0, "tests")
import fuzz_loaders as fuzz
fuzz.prepare()
fuzz.SECONDS = 0.5
fuzz.keep = lambda seed, i: i
def read_too_much(*_): bytearray(2 * fuzz.MEMORY)
def wait(*_):
    while True: pass
def stop(*_): os.abort()
def fail(*_): raise KeyError("x")
broken = dict(zip(fuzz.LOADERS, (read_too_much, wait, stop, fail)))
fuzz.LOADERS = {name: (*fuzz.LOADERS[name][:2], read) for name, read in broken.items()}
counts, failures = fuzz.fuzz(8, 0)
print(*failures, sep="\\n")
"""


@on_linux
def test_the_search_notices_a_crash_a_wait_lost_memory_and_other_errors():
    done = python("-c", BROKEN, cwd=ROOT)
    lines = done.stdout.splitlines()
    assert len(lines) == 8, done.stdout + done.stderr
    for line, words in zip(lines, 2 * ["MemoryError", "took more than", "died", "KeyError"], strict=True):
        assert words in line
