"""Where images come from, and what damaged files do."""

import io
import re
import socket
import zipfile

import keras
import numpy as np
import pytest
from conftest import readable
from PIL import Image

from evakeras import data

UNREACHABLE = Exception("URL fetch failure on https://…: None -- [Errno -2] Name or service not known")


def digit_arrays(train=3, test=2, seed=0):
    """Random arrays in the layout of Keras's mnist.npz."""
    rng = np.random.default_rng(seed)
    return {
        f"{kind}_{part}": rng.integers(0, 256, (n, 28, 28), np.uint8) if kind == "x" else
        rng.integers(0, 10, n, np.uint8)
        for part, n in (("train", train), ("test", test)) for kind in "xy"
    }  # fmt: skip


def write(path, arrays=None, save=np.savez, **changes):
    arrays = {**(digit_arrays() if arrays is None else arrays), **changes}
    save(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def assert_holds(found, arrays):
    assert np.array_equal(found.x_train, arrays["x_train"][..., np.newaxis])
    assert np.array_equal(found.x_test, arrays["x_test"][..., np.newaxis])
    assert np.array_equal(found.y_train, arrays["y_train"])
    assert np.array_equal(found.y_test, arrays["y_test"])
    assert found.x_train.dtype == found.x_test.dtype == np.uint8
    assert found.y_train.dtype == found.y_test.dtype == np.int64


@pytest.fixture
def nothing_here(monkeypatch, tmp_path):
    """No EVAKERAS_DATA, no Keras cache, no network."""
    monkeypatch.delenv("EVAKERAS_DATA", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "empty"))

    def load_data():
        print("Downloading data from https://…")
        raise UNREACHABLE

    monkeypatch.setattr(keras.datasets.mnist, "load_data", load_data)
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", load_data)


# Digits and photographs: always there


def test_digits_look_like_mnist():
    found = data.load_digits()
    assert found.name == "digits"
    assert found.class_names == tuple("0123456789")
    assert found.x_train.shape == (1437, 28, 28, 1) and found.x_test.shape == (360, 28, 28, 1)
    for images, labels in ((found.x_train, found.y_train), (found.x_test, found.y_test)):
        assert images.dtype == np.uint8 and labels.dtype == np.int64
        assert (images.min(), images.max()) == (0, 255)
        assert set(labels) == set(range(10)) and labels.shape == images.shape[:1]
        inside = images[:, 4:-4, 4:-4]
        assert inside.sum(dtype=int) == images.sum(dtype=int)  # the margin of 4 is black


def test_digits_are_scikit_learns_drawn_larger():
    from sklearn.datasets import load_digits

    source, found = load_digits(), data.load_digits()
    assert np.array_equal(np.r_[found.y_train, found.y_test], source.target)
    for image, small in zip(found.x_train[:20], source.images, strict=False):
        large = Image.fromarray((small * 255 / 16).astype(np.float32)).resize((20, 20), Image.BILINEAR)
        assert np.abs(image[4:-4, 4:-4, 0] - np.asarray(large)).max() <= 0.51  # rounding


def test_digits_are_the_same_every_time():
    for first, second in zip(data.load_digits(), data.load_digits(), strict=True):
        assert np.array_equal(first, second)


@pytest.mark.parametrize("number, name", [(0, "china"), (1, "flower")])
def test_photos_are_scikit_learns(number, name, photos):
    found = data.load_photo(name)
    assert found.dtype == np.uint8 and np.array_equal(found, photos[number])
    found[:] = 0  # a copy that may be written to


@pytest.mark.parametrize("name", ["China", "china.jpg", "", None])
def test_unknown_photo_is_refused(name):
    with pytest.raises(ValueError, match=r"expected 'china' or 'flower'"):
        data.load_photo(name)


# MNIST: the order of the places


def test_mnist_comes_first_from_the_path(monkeypatch, tmp_path):
    monkeypatch.setenv("EVAKERAS_DATA", str(tmp_path))
    write(tmp_path / "mnist.npz", digit_arrays(seed=1))
    arrays = digit_arrays(seed=2)
    for path in (write(tmp_path / "other.npz", arrays), str(tmp_path / "other.npz")):
        found = data.load_mnist(path)
        assert found.name == "mnist" and found.class_names == tuple("0123456789")
        assert_holds(found, arrays)


def test_mnist_comes_second_from_the_folder_in_the_environment(monkeypatch, tmp_path, nothing_here):
    arrays = digit_arrays()
    write(tmp_path / "mnist.npz", arrays, np.savez_compressed)
    monkeypatch.setenv("EVAKERAS_DATA", str(tmp_path))
    assert_holds(data.load_mnist(), arrays)


@pytest.mark.parametrize("folder", [None, "", "without the file"])
def test_mnist_comes_third_from_keras(monkeypatch, tmp_path, folder, capfd):
    if folder is None:
        monkeypatch.delenv("EVAKERAS_DATA", raising=False)
    else:
        monkeypatch.setenv("EVAKERAS_DATA", folder and str(tmp_path))
    arrays = digit_arrays()
    parts = [(arrays["x_train"], arrays["y_train"]), (arrays["x_test"], arrays["y_test"])]
    monkeypatch.setattr(keras.datasets.mnist, "load_data", lambda: tuple(parts))
    found = data.load_mnist()
    assert found.name == "mnist"
    assert_holds(found, arrays)
    assert capfd.readouterr() == ("", "")


def test_without_mnist_digits_are_returned_and_one_line_says_so(nothing_here, capfd):
    timeout = socket.getdefaulttimeout()
    found = data.load_mnist()
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1 and "MNIST" in err and "EVAKERAS_DATA" in err
    assert "URL fetch failure" in err  # the reason
    for ours, digits in zip(found, data.load_digits(), strict=True):
        assert np.array_equal(ours, digits)
    assert socket.getdefaulttimeout() == timeout


@pytest.mark.parametrize(
    "error", [ValueError("file hash does not match"), KeyboardInterrupt("Ctrl-C")], ids=readable
)
@pytest.mark.parametrize("load", [data.load_mnist, data.load_cifar10])
def test_damaged_download_and_ctrl_c_are_no_reason_to_fall_back(error, load, monkeypatch, nothing_here):
    def load_data():
        raise error

    monkeypatch.setattr(keras.datasets.mnist, "load_data", load_data)
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", load_data)
    with pytest.raises(type(error), match=str(error)):
        load()


def test_damaged_file_in_keras_cache_is_an_error_and_no_fallback(monkeypatch, tmp_path, nothing_here):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    cached = tmp_path / "datasets" / "mnist.npz"
    cached.parent.mkdir()
    cached.write_bytes(b"junk")
    with pytest.raises(ValueError, match=re.escape(str(cached))):
        data.load_mnist()
    assert cached.read_bytes() == b"junk"  # which Keras would have deleted


@pytest.mark.parametrize("load", [data.load_mnist, data.load_cifar10])
def test_path_that_does_not_exist_is_refused_by_name(load, tmp_path, nothing_here):
    for path in (tmp_path / "nowhere.npz", tmp_path):
        with pytest.raises(FileNotFoundError, match=path.name):
            load(path)


@pytest.mark.parametrize("load", [data.load_mnist, data.load_cifar10])
def test_environment_folder_that_does_not_exist_is_refused_by_name(load, monkeypatch, nothing_here):
    monkeypatch.setenv("EVAKERAS_DATA", "/no/such/folder")
    with pytest.raises(FileNotFoundError, match="EVAKERAS_DATA='/no/such/folder'"):
        load()


@pytest.mark.parametrize("name", ["mnist.npz", "cifar10_jpeg.npz"])
def test_folder_in_place_of_the_file_is_refused_by_name(name, monkeypatch, tmp_path, nothing_here):
    (tmp_path / name).mkdir()
    monkeypatch.setenv("EVAKERAS_DATA", str(tmp_path))
    with pytest.raises((ValueError, OSError), match=name):
        data.load_mnist() if name == "mnist.npz" else data.load_cifar10()


@pytest.mark.parametrize("limit, kept", [(1, (1, 1)), (np.int64(2), (2, 2)), (3, (3, 2)), (99, (3, 2))])
def test_limit_keeps_the_first_images(limit, kept, tmp_path):
    arrays = digit_arrays()
    found = data.load_mnist(write(tmp_path / "m.npz", arrays), limit=limit)
    expected = {name: a[: kept["test" in name]] for name, a in arrays.items()}
    assert_holds(found, expected)


def test_limit_holds_for_the_fallback_too(nothing_here, capfd):
    assert data.load_mnist(limit=10).x_test.shape == (10, 28, 28, 1)


@pytest.mark.parametrize("limit", [0, -1])
def test_limit_below_one_is_refused(limit, tmp_path, nothing_here):
    with pytest.raises(ValueError, match="limit"):
        data.load_mnist(write(tmp_path / "m.npz"), limit=limit)


def test_mnist_is_all_there(mnist):
    assert mnist.x_train.shape == (60_000, 28, 28, 1) and mnist.x_test.shape == (10_000, 28, 28, 1)
    assert mnist.y_train[:5].tolist() == [5, 0, 4, 1, 9]
    assert np.bincount(mnist.y_test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


# MNIST: damaged and foreign files


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_file_cut_off_anywhere_is_refused_by_name(save, tmp_path):
    file = write(tmp_path / "cut.npz", save=save)
    whole = file.read_bytes()
    for length in range(0, len(whole), 97):
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut\.npz"):
            data.load_mnist(file)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_file_with_a_flipped_byte_is_refused_by_name_or_still_right(save, tmp_path):
    arrays = digit_arrays(train=2, test=1)
    file = write(tmp_path / "flipped.npz", arrays, save)
    whole = file.read_bytes()
    refused, others = 0, {}
    for position in range(0, len(whole), 5):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            assert_holds(data.load_mnist(file), arrays)
        except ValueError as error:
            assert "flipped.npz" in str(error)
            refused += 1
        except Exception as error:
            others[position] = repr(error)
    assert others == {}
    assert refused > 100  # most bytes are pixels, guarded by a checksum


def npy(path):
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))


def zip_of_text(path):
    with zipfile.ZipFile(path, "w") as file:
        for name in digit_arrays():
            file.writestr(name, "no array")


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("<html>404 not found</html>"),
        lambda path: path.write_bytes(bytes(range(256)) * 20),
        npy,
        zip_of_text,
    ],
    ids=["empty", "html", "bytes", "a single array", "a zip of text"],
)
def test_file_that_is_no_npz_is_refused_by_name(make, tmp_path):
    make(tmp_path / "junk.npz")
    with pytest.raises(ValueError, match=r"junk\.npz"):
        data.load_mnist(tmp_path / "junk.npz")


@pytest.mark.parametrize(
    "changes",
    [
        {"x_test": None},
        {"x_train": np.zeros((3, 32, 32), np.uint8)},
        {"x_train": np.zeros((3, 28, 28, 1), np.uint8)},
        {"x_train": np.zeros((4, 28, 28), np.uint8)},
        {"x_test": np.zeros((2, 28, 28), np.float32)},
        {"x_test": np.zeros((2, 28, 28), np.int64)},
        {"y_train": np.zeros((3, 10), np.uint8)},
        {"y_train": np.array(3, np.uint8)},
        {"y_test": np.zeros(2)},
        {"y_test": np.array([0, 10])},
        {"y_test": np.array([0, -1])},
        {"y_test": np.array(["0", "1"])},
        {"y_train": np.array([1, None, 2])},
        {"x_train": np.zeros((0, 28, 28), np.uint8), "y_train": np.zeros(0, np.uint8)},
    ],
    ids=lambda changes: "-".join(
        f"{k} {getattr(v, 'dtype', None)} {np.shape(v)}" for k, v in changes.items()
    ),
)
def test_npz_that_does_not_hold_mnist_is_refused_by_name(changes, tmp_path):
    file = write(tmp_path / "foreign.npz", **changes)
    with pytest.raises(ValueError, match=r"foreign\.npz"):
        data.load_mnist(file)


# CIFAR-10


def encoded(image):
    """A JPEG file; bytes stay as they are."""
    if isinstance(image, bytes):
        return image
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=95)
    return file.getvalue()


def flat_images(count=4, shape=(32, 32, 3)):
    """Images of one grey each: JPEG keeps them."""
    return [np.full(shape, 20 + 50 * i, np.uint8) for i in range(count)]


def cifar_file(path, images=None, **changes):
    files = [encoded(image) for image in (flat_images() if images is None else images)]
    part = {
        "jpeg": np.frombuffer(b"".join(files), np.uint8),
        "offsets": np.cumsum([0, *map(len, files)]),
        "labels": np.arange(len(files)) % 10,
    }
    arrays = {f"{split}_{name}": array for split in ("train", "test") for name, array in part.items()}
    return write(path, arrays, **changes)


def test_cifar10_is_decoded_from_jpeg(tmp_path, monkeypatch):
    cifar_file(tmp_path / "cifar10_jpeg.npz")
    monkeypatch.setenv("EVAKERAS_DATA", str(tmp_path))
    for found in (data.load_cifar10(), data.load_cifar10(tmp_path / "cifar10_jpeg.npz")):
        assert found.name == "cifar10"
        assert found.class_names[0] == "airplane" and found.class_names[9] == "truck"
        for images, labels in ((found.x_train, found.y_train), (found.x_test, found.y_test)):
            assert images.dtype == np.uint8 and labels.dtype == np.int64
            assert np.abs(images - np.array(flat_images(), int)).max() <= 2
            assert labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("limit, kept", [(1, 1), (3, 3), (99, 4)])
def test_cifar10_limit_keeps_the_first_images(limit, kept, tmp_path):
    file = cifar_file(tmp_path / "c.npz")
    found, whole = data.load_cifar10(file, limit=limit), data.load_cifar10(file)
    for ours, all_of_it in zip(found[1:5], whole[1:5], strict=True):
        assert np.array_equal(ours, all_of_it[:kept])


def test_cifar10_comes_from_keras_with_flat_labels(monkeypatch, nothing_here):
    images, labels = np.array(flat_images()), np.arange(4, dtype=np.uint8).reshape(4, 1)
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: ((images, labels), (images, labels)))
    found = data.load_cifar10(limit=3)
    assert found.x_train.shape == (3, 32, 32, 3) and found.y_train.tolist() == [0, 1, 2]


def test_without_cifar10_there_is_no_substitute(nothing_here):
    with pytest.raises(FileNotFoundError, match="EVAKERAS_DATA"):
        data.load_cifar10()


def test_real_cifar10_can_be_read(cifar10_file):
    found = data.load_cifar10(cifar10_file, limit=50)
    with np.load(cifar10_file) as file:
        labels, offsets, jpeg = (file[f"test_{part}"] for part in ("labels", "offsets", "jpeg"))
    assert found.x_train.shape == found.x_test.shape == (50, 32, 32, 3)
    assert np.array_equal(found.y_test, labels[:50])
    picture = Image.open(io.BytesIO(jpeg[offsets[7] : offsets[8]].tobytes()))
    assert np.array_equal(found.x_test[7], picture)


GOOD_OFFSETS = np.cumsum([0, *(len(encoded(image)) for image in flat_images())])


@pytest.mark.parametrize(
    "changes",
    [
        {"test_jpeg": None},
        {"train_offsets": GOOD_OFFSETS[[0, 2, 1, 3, 4]]},
        {"train_offsets": GOOD_OFFSETS[[0, 1, 1, 3, 4]]},
        {"train_offsets": GOOD_OFFSETS[[0, 2, 1, 3, 4]].astype(np.uint64)},
        {"train_offsets": GOOD_OFFSETS + np.array([0, 0, 0, 0, 1])},
        {"train_offsets": GOOD_OFFSETS + np.array([1, 0, 0, 0, 0])},
        {"train_offsets": GOOD_OFFSETS[:-1]},
        {"train_offsets": GOOD_OFFSETS.astype(float)},
        {"train_offsets": np.array(0)},
        {"train_labels": np.arange(3)},
        {"train_labels": np.zeros((4, 2), int)},
        {"train_labels": np.array(3)},
        {"train_labels": np.array([0, 1, 2, 10])},
        {"train_labels": np.zeros(4)},
        {"train_jpeg": np.zeros(3, np.uint8)},
        {"train_jpeg": np.array(0, np.uint8)},
        {"train_jpeg": np.zeros(GOOD_OFFSETS[-1])},
    ],
    ids=lambda changes: "-".join(
        f"{k} {np.array(v).dtype} {np.array(v).tolist()}"[:60] for k, v in changes.items()
    ),
)
def test_cifar10_file_that_does_not_fit_together_is_refused_by_name(changes, tmp_path):
    file = cifar_file(tmp_path / "odd.npz", **changes)
    with pytest.raises(ValueError, match=r"odd\.npz"):
        data.load_cifar10(file)


@pytest.mark.parametrize(
    "bad",
    [
        b"no picture",
        encoded(flat_images()[0])[:300],
        np.zeros((16, 16, 3), np.uint8),
        np.zeros((32, 33, 3), np.uint8),
        np.zeros((32, 32), np.uint8),
        np.zeros((1, 1, 3), np.uint8),
        np.zeros((1, 32, 3), np.uint8),
        np.zeros((32, 1, 3), np.uint8),
    ],
    ids=["no JPEG", "cut off", "16×16", "32×33", "grey", "1×1", "1×32", "32×1"],
)
def test_cifar10_picture_that_is_not_32_by_32_color_is_refused_by_name(bad, tmp_path):
    file = cifar_file(tmp_path / "odd.npz", [*flat_images(2), bad])
    with pytest.raises(ValueError, match=r"odd\.npz is damaged: image 2"):
        data.load_cifar10(file)
