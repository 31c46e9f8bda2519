"""Give damaged and hostile files to everything in the package that reads files, and see what comes out.

python tests/fuzz_loaders.py --inputs 10000 --seed 0
python tests/fuzz_loaders.py --replay build/fuzz/mnist-0-123

Input i follows from the seed and i alone. Children read the files, each a few hundred of them and with a
memory limit, so that a crash or a loop without end costs one child and is told with the input that caused it.
For Linux alone: elsewhere memory cannot be limited.
"""

import argparse
import bz2
import functools
import io
import json
import lzma
import os
import random
import resource
import select
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # threads would not survive the fork

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "build" / "fuzz"
PER_CHILD = 250
SECONDS = 5  # for one input, which takes a few milliseconds
CAP = 2**26  # stands for the gigabyte of arrays that `data` allows: a bomb above it is quick to make
MEMORY = 2**29  # the arrays twice, pictures once more, and 16 MiB of JSON, which becomes twenty times as much


class Absent(type):
    """A stand-in for Keras, which no loader needs: children start in a tenth of a second."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent(name, (), {})

    def __call__(cls, *_, **__):
        return lambda decorated: decorated


class TooLong(BaseException):
    """Not an Exception: no loader can take it for a damaged file."""


# What is honest: small files of each kind, as members of an archive or as JSON


def npy(array):
    """Header and bytes of an array, in parts that can be changed one by one."""
    values = {"descr": repr(array.dtype.str), "fortran_order": "False", "shape": repr(array.shape)}
    return {"values": values, "text": None, "version": (1, 0), "length": None, "data": array.tobytes()}


def header(member):
    values = ", ".join(f"{key!r}: {value}" for key, value in member["values"].items())
    return member["text"] if member["text"] is not None else f"{{{values}, }}"


@functools.cache
def pictures():
    """Encoded pictures, the first three as the loader wants them."""
    rng, found = np.random.default_rng(0), []
    for size, mode, kind, options in (
        ((32, 32), "RGB", "JPEG", {}),
        ((32, 32), "RGB", "JPEG", {"progressive": True}),
        ((32, 32), "RGB", "JPEG", {"subsampling": 0, "comment": b"text"}),
        ((32, 32), "L", "JPEG", {}),
        ((32, 32), "CMYK", "JPEG", {}),
        ((33, 32), "RGB", "JPEG", {}),
        ((1, 1), "RGB", "JPEG", {}),
        ((500, 500), "RGB", "JPEG", {}),
        ((32, 32), "RGB", "PNG", {}),
        ((32, 32), "RGB", "GIF", {}),
        ((32, 32), "RGB", "BMP", {}),
        ((32, 32), "RGB", "TIFF", {}),
        ((32, 32), "RGB", "PPM", {}),
        ((32, 32), "RGB", "WEBP", {}),
    ):
        noise = rng.bytes(size[0] * size[1] * len(mode))
        file = io.BytesIO()
        Image.frombytes(mode, size, noise).save(file, kind, **options)
        found.append(file.getvalue())
    return found


def mnist(rng):
    arrays = {}
    for part, count in (("train", 3), ("test", 2)):
        arrays[f"x_{part}"] = np.arange(count * 784, dtype=np.uint8).reshape(count, 28, 28)
        arrays[f"y_{part}"] = np.arange(count, dtype=rng.choice(["u1", "i8", ">i4"]))
    return {name: npy(array) for name, array in arrays.items()}


def cifar10(rng, pieces=None):
    members = {}
    for part, count in (("train", 3), ("test", 2)):
        files = pieces or pictures()[:count]
        lengths = [0, *map(len, files)]
        members[f"{part}_jpeg"] = npy(np.frombuffer(b"".join(files), np.uint8))
        members[f"{part}_offsets"] = npy(np.cumsum(lengths).astype(rng.choice(["i8", "u8", "i4"])))
        members[f"{part}_labels"] = npy(np.arange(len(files), dtype="u1") % 10)
    return members


SETTINGS = [2, ["identity", "rotate"], [0, 255], 0.3, 0]
CONFIGURATION = {
    "epochs": 3,
    "seed": 0,
    "model": {"name": "m", "layers": [{"class": "Dense", "units": 3}, {"class": "Flatten"}]},
    "data": [
        {"shape": [9, 4], "dtype": "float32", "hash": "0a"},
        {"shape": [9], "dtype": "u1", "hash": "1b"},
    ],
    "callbacks": [],
    "strategy": None,
}


def state(rng):
    done = rng.randint(1, 3)
    history = {"loss": [0.5] * done, "accuracy": [float("nan")] * done}
    return {"history": history, "seconds": [1.5] * done, "configuration": CONFIGURATION}


def policy(rng):
    return {"settings": SETTINGS, "rewards": [0.25, 0.5, 0.125][: rng.randint(0, 3)]}


# What is changed: an array, its header, a member of the archive, the bytes, or a value in JSON

NUMBERS = (0, 1, -1, 2, 3, 28, 255, 10**6, 2**31 - 1, 2**31, 2**32, 10**12, 2**63 - 1, 2**63, 2**64, 10**400)
TYPES = (
    *("'|u1'", "'|i1'", "'<i8'", "'>u8'", "'<f8'", "'|b1'", "'<c16'", "'|O'", "'|S0'", "'|V0'", "'<U3'"),
    *("'<M8[s]'", "'|V2147483647'", "'|S99999999999'", "[('a', '<i4')]", "[('a', '|O')]", "[('', '|V9')]"),
    *("('<i4', (1000000000,))", "'(9999999,9999)u1'", "[('a', [('b', [('c', '|u1')])])]", "[]", "()", "3"),
    *("None", "'nonsense'", "'\\x00'"),
)
NESTS = ("(", "[", "{", "-", "~", "not ", "{1:", "lambda:", "f'{", "1+", "1if 1else ", "a.", "''")


def change_shape(rng, member):
    shape = [rng.choice(NUMBERS) for _ in range(rng.choice((0, 1, 1, 2, 3, 3, 40)))]
    member["values"]["shape"] = repr(tuple(shape))


def change_type(rng, member):
    member["values"]["descr"] = rng.choice(TYPES)


def change_shape_and_data(rng, member):
    """Header and bytes fit, but nothing else does."""
    shape = tuple(rng.choice((0, 1, 2, 3, 4, 28)) for _ in range(rng.randint(0, 3)))
    array = np.resize(np.arange(200), shape).astype(rng.choice(["u1", "i1", "i8", "u8", "f4", "S1", "?"]))
    member.update(npy(array))


def change_order(rng, member):
    member["values"]["fortran_order"] = rng.choice(("True", "1", "None"))


def change_text(rng, member):
    """The header as text: nested, cut off, with too much in it, or none."""
    nested = rng.choice(NESTS) * rng.choice((1, 20, 60, 100, 199, 240, 900, 60000))
    text = header(member)
    changed = (text[:-1] + "'x': 1}", text * 2, text + " " * 70000, text.swapcase(), text.replace(",", "\n"))
    from_python_2 = text.replace("3", "3L")
    junk = ("", "None", "9" * 900, "\\", "\u0660", "'''", "#" + text, f"{{'shape': {nested}", nested)
    if rng.random() < 0.3:
        member["values"]["shape"] = nested
    else:
        member["text"] = rng.choice((*changed, from_python_2, *junk))


def change_version(rng, member):
    member["version"] = rng.choice(((2, 0), (3, 0), (0, 0), (1, 1), (9, 9), (255, 255)))


def change_length(rng, member):
    member["length"] = rng.choice((0, 1, 60, 1000, 9999, 65535, 10**8, 2**32 - 1))


def change_data(rng, member):
    data = member["data"]
    member["data"] = rng.choice((b"", data[:-1], data[: len(data) // 2], data + b"\0", data * 3))


def change_values(rng, member):
    width = rng.choice((1, 4, 8))
    data = bytearray(member["data"])
    for _ in range(rng.randint(1, 4)):
        value = rng.choice((0, 1, 9, 10, 127, 128, 255, 2**16, 2**31, 2**63 - 1, 2**63, 2**64 - 1))
        start = rng.randrange(0, max(len(data), 1), width)
        data[start : start + width] = (value % 256**width).to_bytes(width, rng.choice(("little", "big")))
    member["data"] = bytes(data)


CHANGES = (
    change_shape,
    change_type,
    change_shape_and_data,
    change_order,
    change_text,
    change_version,
    change_length,
    change_data,
    change_values,
)


def npy_bytes(member):
    """The file that the parts of a member make, padded as NumPy does."""
    text = header(member).encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    length = len(text) if member["length"] is None else member["length"]
    width = "<H" if member["version"][0] == 1 else "<I"
    size = struct.pack(width, min(length, 65535 if width == "<H" else 2**32 - 1))
    return b"\x93NUMPY" + bytes(member["version"]) + size + text + member["data"]


@functools.cache
def bomb(stack):
    """A member of more than CAP bytes, images or a flat array, packed a thousand times smaller."""
    shape = (CAP // 784 + 1, 28, 28) if stack else (CAP + 1,)
    content = npy_bytes(npy(np.zeros(shape, np.uint8)))
    return packed(content, 8), len(content), zlib.crc32(content)


def packed(content, method):
    if method == 8:
        packer = zlib.compressobj(6, zlib.DEFLATED, -15)
        return packer.compress(content) + packer.flush()
    if method == 14:
        options = {"id": lzma.FILTER_LZMA1, "dict_size": 2**12, "preset": 0}
        raw = lzma.compress(content, lzma.FORMAT_RAW, filters=[options])
        return bytes.fromhex("090405005d00100000") + raw  # how a zip file tells the options
    return bz2.compress(content) if method == 12 else content


def entry(name, content, method):
    raw = packed(content, method)
    sizes = {"checksum": zlib.crc32(content), "packed": len(raw), "size": len(content)}
    return {"name": name, "method": method, "flags": 0, **sizes, "raw": raw, "offset": None, "extra": b""}


def change_entries(rng, entries):
    """Drop, repeat, rename, blow up a member, or lie about it."""
    chosen = rng.choice(entries)
    kind = rng.randrange(10)
    if kind == 0:
        entries.remove(chosen)
    elif kind == 1:
        entries.insert(rng.randrange(len(entries)), {**chosen, "name": rng.choice(entries)["name"]})
    elif kind == 2:
        names = ("x_train", "", "../x_train.npy", "/x.npy", "ü.npy", "x" * 65535, "x_train.npy\0.txt")
        chosen["name"] = rng.choice(names)
    elif kind == 3:
        chosen["raw"], chosen["size"], chosen["checksum"] = bomb(chosen["name"].startswith("x"))
        chosen.update(method=8, packed=len(chosen["raw"]))
        chosen["size"] = rng.choice((chosen["size"], 2000))  # honest about it, or not
    elif kind == 4:
        chosen["method"] = rng.choice((0, 8, 9, 12, 14, 98, 99, 65535))  # not how it is packed
    elif kind == 5:
        chosen["flags"] = rng.choice((1, 8, 0x20, 0x40, 0x41, 0x800, 0x2000, 0xFFFF))
    elif kind == 6:
        sizes = (0, 1, 127, 2000, 2**28, 2**31, 2**32 - 2, 2**32 - 1)
        chosen[rng.choice(("size", "packed"))] = rng.choice(sizes)
    elif kind == 7:
        chosen["checksum"] ^= 1
    elif kind == 8:
        chosen["offset"] = rng.choice((0, 1, 30, 400, 2**31, 2**32 - 1))
    else:
        sizes = [rng.choice((0, 1, 2000, 2**40, 2**63, 2**64 - 1)) for _ in range(rng.randint(0, 3))]
        chosen.update(size=2**32 - 1, packed=rng.choice((2**32 - 1, chosen["packed"])))
        chosen["extra"] = struct.pack(f"<HH{len(sizes)}Q", 1, rng.choice((8 * len(sizes), 9, 65535)), *sizes)


def archive(rng, entries):
    """The zip file, written by hand, so that it can lie."""
    body, directory = b"", b""
    for e in entries:
        name, offset = e["name"].encode(), e["offset"] if e["offset"] is not None else len(body)
        what = (e["flags"], e["method"], 0, 33, e["checksum"], e["packed"], e["size"])
        lengths, tail = (len(name), len(e["extra"])), name + e["extra"]
        body += struct.pack("<4s5H3I2H", b"PK\3\4", 20, *what, *lengths) + tail + e["raw"]
        where = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, *what, *lengths, 0, 0, 0, 0, offset)
        directory += where + tail
    end = [len(entries), len(entries), len(directory), len(body), 0]
    if rng.random() < 0.05:
        end[rng.randrange(5)] = rng.choice((0, 1, 60, 65535))
    return body + directory + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, *end)


def npz(rng, members, count):
    """An archive of the members after `count` changes."""
    where = [rng.choice("aaaazzb") for _ in range(count)]
    for _ in range(where.count("a")):
        rng.choice(CHANGES)(rng, rng.choice(list(members.values())))
    method = rng.choice((0, 8)) if "z" not in where else rng.choice((0, 8, 8, 12, 14))
    entries = [entry(f"{name}.npy", npy_bytes(member), method) for name, member in members.items()]
    for _ in range(where.count("z")):
        if entries:
            change_entries(rng, entries)
    content = archive(rng if count else random.Random(1), entries)
    return change_bytes(rng, content) if "b" in where else content


def change_bytes(rng, content):
    """Flip, overwrite, insert, remove or repeat, in a few places."""
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8, 40))):
        start = rng.randrange(len(content) + 1)
        stop = start + rng.choice((1, 1, 2, 4, 60))
        piece = rng.choice((rng.randbytes(stop - start), b"\xff" * (stop - start), bytes(stop - start)))
        kind = rng.randrange(5)
        if kind == 0:
            del content[start:stop]
        elif kind == 1:
            content[start:start] = piece
        elif kind == 2:
            content[start:start] = content[start:stop]
        else:
            content[start:stop] = piece
    return bytes(content[: rng.randrange(len(content) + 1)] if rng.random() < 0.1 else content)


def change_picture(rng):
    """A picture that is no JPEG of 32×32 pixels, or was damaged: its size first of all."""
    picture = bytearray(rng.choice(pictures()))
    start = max(picture.find(b"\xff\xc0"), picture.find(b"\xff\xc2"))
    if start >= 0 and rng.random() < 0.4:
        sizes = rng.choice(((65535, 65535), (9500, 9500), (32, 65535), (0, 0), (32, 33)))
        picture[start + 5 : start + 9] = struct.pack(">HH", *sizes)
    if rng.random() < 0.1:
        picture *= rng.choice((2, 200))
    return change_bytes(rng, bytes(picture)) if rng.random() < 0.5 else bytes(picture)


VALUES = (
    *(None, True, 0, -1, 10**400, 1e308, float("nan"), float("inf")),
    *("", "text", "abcde", "\ud800", "9" * 10**5),
    *([], {}, [[]], {"a": 1}, [1.0] * 3, ["a"] * 3),
)


def change_value(rng, value):
    """The same JSON with one value changed somewhere."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.8:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        chosen = rng.choice(keys)
        changed = change_value(rng, value[chosen])
        items = {key: changed if key == chosen else value[key] for key in keys}
        if rng.random() < 0.1:
            del items[chosen]
        return items if isinstance(value, dict) else list(items.values())
    if rng.random() < 0.2:
        return functools.reduce(lambda inner, _: [inner], range(rng.choice((5, 300, 700, 900))), 0)
    return rng.choice(VALUES)


def json_bytes(rng, value, count):
    for _ in range(count):
        value = change_value(rng, value)
    content = json.dumps(value).encode()
    kind = rng.random() if count else 1
    if kind < 0.2:
        return change_bytes(rng, content)
    if kind < 0.3:
        nested = rng.choice(("[", '{"a":', '[{"b":[')) * rng.choice((300, 990, 5000, 10**5))
        place = rng.choice((b"null", b"[]", b"0.25", b"1.5"))
        return content.replace(place, nested.encode(), 1)
    if kind < 0.33:
        return content.replace(b"1", b"1" * 5000, 1)
    if kind < 0.335:
        return content[:-1] + b', "more": [' + b"[]," * (2**24 // 3) + b"0]}"
    return content


def make(seed, i):
    """Input i: which loader, the bytes of the file, and whether they are honest."""
    rng = random.Random(f"{seed} {i}")
    loader = tuple(LOADERS)[i % len(LOADERS)]
    count = rng.choice((0, 1, 1, 1, 1, 2, 2, 3, 5))
    if loader == "mnist":
        content = npz(rng, mnist(rng), count)
    elif loader == "cifar10":
        odd = [*pictures()[:2], change_picture(rng)] if count and rng.random() < 0.4 else None
        content = npz(rng, cifar10(rng, odd), 0 if odd else count)
    else:
        content = json_bytes(rng, state(rng) if loader == "state" else policy(rng), count)
    return loader, content, count == 0


# What reads them


def read_mnist(data, path):
    check(data.load_mnist(path), (28, 28, 1))


def read_cifar10(data, path):
    check(data.load_cifar10(path), (32, 32, 3))


def check(found, shape):
    """What was accepted is a data set."""
    for images, labels in ((found.x_train, found.y_train), (found.x_test, found.y_test)):
        assert images.dtype == np.uint8 and images.shape == (len(labels), *shape), "odd images were accepted"
        assert labels.dtype == np.int64 and set(labels.tolist()) <= set(range(10)), "odd labels were accepted"


def read_state(train, path):
    found = train._read_state(path.parent, CONFIGURATION)
    lists = [found["seconds"], *found["history"].values()]
    numbers = {type(value) for values in lists for value in values}
    assert len({*map(len, lists)}) == 1 and numbers == {float}, "an odd state was accepted"


def read_policy(augment, path):
    found = augment.search_policy(
        lambda policy: 0.5, value_range=(0, 255), trials=2, operations=("identity", "rotate"),
        folder=path.parent, progress=False,
    )  # fmt: skip
    assert len(found.rewards) == 2 and np.isfinite(found.rewards).all(), "odd rewards were accepted"


LOADERS = {
    "mnist": ("data", "mnist.npz", read_mnist),
    "cifar10": ("data", "cifar10_jpeg.npz", read_cifar10),
    "state": ("train", "state.json", read_state),
    "policy": ("augment", "search.json", read_policy),
}


def attempt(loader, path):
    """Read one file: "read", "ValueError" or "OSError", else what is wrong."""
    name, _, read = LOADERS[loader]
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        read(MODULES[name], path)
        return "read"
    except TooLong:
        return f"! took more than {SECONDS} seconds"
    except BaseException as error:
        return judge(error, path)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def judge(error, path):
    """Whether this is an error that the documentation promises."""
    cause = error
    while cause is not None:
        if isinstance(cause, MemoryError):
            return f"! {cause!r} beyond {MEMORY:,} bytes"
        cause = cause.__cause__ or cause.__context__
    if not isinstance(error, (ValueError, OSError)):
        return f"! {error!r}"[:300]
    if path.name not in str(error) and path.parent.name not in str(error):
        return f"! the file is not named: {error!r}"[:300]
    if len(str(error)) > 5000:
        return f"! a message of {len(str(error)):,} letters: {error!r}"[:300]
    return "OSError" if isinstance(error, OSError) else "ValueError"


# Children and their parent

MODULES = {}


def prepare():
    """Import what reads, without Keras, and lower its limit for arrays."""
    sys.path.insert(0, str(ROOT))
    sys.modules["keras"] = Absent("keras", (), {})
    from evakeras import augment, data, train

    data._MOST_BYTES = CAP
    MODULES.update(augment=augment, data=data, train=train)
    warnings.simplefilter("ignore")


def limit():
    """Let this process have so much more memory, and stop what takes too long."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def stop(*_):
        raise TooLong

    signal.signal(signal.SIGALRM, stop)


def child(seed, numbers, folder, pipe):
    limit()
    for i in numbers:
        loader, content, honest = make(seed, i)
        path = Path(folder, LOADERS[loader][1])
        path.write_bytes(content)
        outcome = attempt(loader, path)
        if honest and outcome != "read":
            outcome = f"! refused, but nothing is wrong with it: {outcome}"
        os.write(pipe, outcome.replace("\n", " ").encode("utf-8", "replace") + b"\n")


def batch(seed, numbers, folder):
    """What became of each input, in order; fewer than there are where the child died or hung."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            child(seed, numbers, folder, writing)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writing)
    lines = list(spoken(reading))
    end = "" if len(lines) == len(numbers) else "silence"
    os.kill(pid, signal.SIGKILL)  # it has ended, or never will
    status = os.waitpid(pid, 0)[1]
    if end and not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
        end = f"wait status {status}"
    return lines, end


def spoken(pipe):
    """The lines that come through a pipe until it is closed or silent for long."""
    with open(pipe, "rb", buffering=0) as file:
        text = b""
        while select.select([file], [], [], 6 * SECONDS)[0]:
            piece = file.read(65536)
            if not piece:
                break
            *lines, text = (text + piece).split(b"\n")
            yield from (line.decode() for line in lines)


def fuzz(inputs, seed):
    counts, failures, i = Counter(), [], 0
    bomb(True), bomb(False), pictures()  # made once, for all children
    while i < inputs:
        numbers = range(i, min(i + PER_CHILD, inputs))
        with tempfile.TemporaryDirectory() as folder:  # here, where no crash keeps it from being removed
            outcomes, end = batch(seed, numbers, folder)
        if end:
            outcomes.append(f"! the process died or hung ({end})")
        for outcome in outcomes:
            loader = tuple(LOADERS)[i % len(LOADERS)]
            counts[loader, outcome.split(" ")[0]] += 1
            if outcome.startswith("!"):
                failures.append(f"{keep(seed, i)}: {outcome}")
            i += 1
    return counts, failures


def keep(seed, i):
    loader, content, _ = make(seed, i)
    KEPT.mkdir(parents=True, exist_ok=True)
    file = KEPT / f"{loader}-{seed}-{i}"
    file.write_bytes(content)
    return file.relative_to(ROOT)


def replay(file):
    """Read one kept input in this process, and show where the error comes from."""
    loader = file.name.split("-")[0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, LOADERS[loader][1])
        path.write_bytes(file.read_bytes())
        LOADERS[loader][2](MODULES[LOADERS[loader][0]], path)
    print(f"{loader}: read")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--replay", type=Path, metavar="FILE")
    options = parser.parse_args()
    prepare()
    if options.replay:
        return replay(options.replay)
    start = time.perf_counter()
    counts, failures = fuzz(options.inputs, options.seed)
    for loader in LOADERS:
        told = ", ".join(f"{n:,} {what}" for (name, what), n in sorted(counts.items()) if name == loader)
        print(f"{loader:8} {told}")
    print("\n".join(failures[:20]))
    print(f"{options.inputs:,} inputs, {len(failures)} failures, {time.perf_counter() - start:.0f} s")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
