"""Step 1: the digits, torchvision's files, folders of images, and `ImageSet`."""

import hashlib
import pickle
import struct
import zlib
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors
from torchvision import datasets

from ebe_utils import ImageSet, load_dataset
from ebe_utils.data import DataError, as_image_set, as_tensor, check_together, check_values, random_part, scale
from ebe_utils.datasets import data_root

# --- digits --------------------------------------------------------------------------------------------------------


def test_digits_have_the_shapes_that_the_network_takes(digits):
    train, test = digits
    assert (len(train), len(test)) == (1437, 360)
    for part in digits:
        assert part.images.dtype == torch.uint8 and part.labels.dtype == np.int64
        assert part.images.shape == (len(part), 1, 28, 28) and part.shape == (1, 28, 28)
        assert part.classes == tuple("0123456789") and part.name == "digits"
    assert train.images.min() == 0 and train.images.max() == 255
    image, label = train[3]
    assert torch.equal(image, train.images[3]) and label == train.labels[3]


def test_digits_are_stratified(digits):
    train, test = (np.bincount(part.labels) for part in digits)
    np.testing.assert_allclose(test, (train + test) / 5, atol=1)


def test_digits_are_scikit_learns_enlarged_each_once(digits):
    """The oracle enlarges with numpy.interp, row by row and then column by column."""
    raw = load_digits()
    at = (np.arange(28) + 0.5) * 8 / 28 - 0.5
    rows = np.array([[np.interp(at, np.arange(8), line) for line in image] for image in raw.images])
    expected = np.array([[np.interp(at, np.arange(8), line) for line in image.T] for image in rows]).transpose(0, 2, 1)
    expected = (expected * 255 / 16).reshape(1797, -1)
    images = np.concatenate([part.images.numpy().reshape(len(part), -1) for part in digits])
    labels = np.concatenate([part.labels for part in digits])
    found = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(expected).kneighbors(images)[1][:, 0]
    assert sorted(found) == list(range(1797))
    assert (labels == raw.target[found]).all()
    assert np.abs(images - expected[found]).max() <= 1


def test_seed_decides_the_split(digits):
    again, other = load_dataset("digits", seed=0), load_dataset("digits", seed=1)
    assert [p.fingerprint() for p in again] == [p.fingerprint() for p in digits]
    assert all(a.fingerprint() != b.fingerprint() for a, b in zip(other, digits, strict=True))


def test_parts_are_drawn_without_repetition_from_the_whole(digits, small):
    for part, whole, size in zip(small, digits, (200, 60), strict=True):
        assert len(part) == size
        whole = {(image.tobytes(), label) for image, label in zip(whole.images.numpy(), whole.labels, strict=True)}
        part = [(image.tobytes(), label) for image, label in zip(part.images.numpy(), part.labels, strict=True)]
        assert len(set(part)) == size and set(part) <= whole
    again, other = (load_dataset("digits", n_train=200, n_test=60, seed=seed) for seed in (0, 1))
    assert again[0].fingerprint() == small[0].fingerprint() != other[0].fingerprint()
    one, same, another = (random_part(*digits, 200, 60, seed) for seed in (0, 0, 1))
    for a, b, c, d in zip(one, same, another, digits, strict=True):
        first = d.subset(range(len(a)))
        assert len({a.fingerprint(), c.fingerprint(), first.fingerprint()}) == 3 and a.fingerprint() == b.fingerprint()


# --- torchvision's data sets ---------------------------------------------------------------------------------------

IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@pytest.mark.parametrize("error", [URLError("no route to host"), RuntimeError("download failed"), OSError("offline")])
@pytest.mark.parametrize("name, file", [("mnist", "MNIST/raw/train-labels-idx1-ubyte"),
                                        ("fashion_mnist", "FashionMNIST/raw/t10k-images-idx3-ubyte"),
                                        ("cifar10", "cifar-10-batches-py/data_batch_3")])
def test_missing_files_without_a_network(name, file, error, tmp_path, monkeypatch):
    def fail(*args, **options):
        raise error

    for module in (datasets.mnist, datasets.cifar):
        monkeypatch.setattr(module, "download_and_extract_archive", fail)
    with pytest.raises(DataError) as caught:
        load_dataset(name, tmp_path / "new")
    for word in (file, str(tmp_path / "new"), "'digits'", "EBE_DATA_DIR"):
        assert word in str(caught.value)


@pytest.mark.parametrize("name, folder, files", [
    ("mnist", "MNIST/raw", IDX), ("fashion_mnist", "FashionMNIST/raw", IDX),
    ("cifar10", "cifar-10-batches-py", ("batches.meta", "test_batch", *(f"data_batch_{i}" for i in range(1, 6))))])
def test_files_that_are_not_the_official_ones(name, folder, files, tmp_path):
    (tmp_path / folder).mkdir(parents=True)
    for file in files:
        (tmp_path / folder / file).write_bytes(b"not the official file")
    with pytest.raises(DataError, match="damaged or incomplete") as caught:
        load_dataset(name, tmp_path)
    assert any(str(tmp_path / folder / file) in str(caught.value) for file in files)


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """Two tiny sets in MNIST's format, declared official: (root, images, labels) of the training part."""
    rng = np.random.default_rng(0)
    folder, sums, kept = tmp_path / "MNIST" / "raw", {}, None
    folder.mkdir(parents=True)
    for part, n in (("train", 5), ("t10k", 3)):
        images, labels = rng.integers(0, 256, (n, 28, 28), np.uint8), rng.integers(0, 10, n).astype(np.uint8)
        kept = kept or (images, labels)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, n, 28, 28) + images.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, n) + labels.tobytes())
    for file in folder.iterdir():
        sums[f"MNIST/raw/{file.name}"] = hashlib.md5(file.read_bytes()).hexdigest()
    monkeypatch.setattr("ebe_utils.datasets._MD5", sums)
    return tmp_path, *kept


def test_mnist_files_are_read_as_they_are(mnist, monkeypatch):
    root, images, labels = mnist
    monkeypatch.setenv("EBE_DATA_DIR", str(root))
    train, test = load_dataset("mnist")
    np.testing.assert_array_equal(train.images, images[:, None])
    np.testing.assert_array_equal(train.labels, labels)
    assert (len(test), test.shape, test.name, len(test.classes)) == (3, (1, 28, 28), "mnist", 10)


@pytest.mark.parametrize("name", IDX)
def test_a_truncated_file_is_named(mnist, name):
    file = mnist[0] / "MNIST" / "raw" / name
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match=f"{name} is damaged or incomplete.*Delete it"):
        load_dataset("mnist", mnist[0])


def test_cifar10_files_are_read_as_they_are(tmp_path, monkeypatch):
    folder, rng, rows = tmp_path / "cifar-10-batches-py", np.random.default_rng(0), []
    folder.mkdir()
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        rows.append(rng.integers(0, 256, (2, 3072)).astype(np.uint8))
        (folder / name).write_bytes(pickle.dumps({"data": rows[-1], "labels": [3, 7]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {i}" for i in range(10)]}))
    monkeypatch.setattr("ebe_utils.datasets._MD5", {f"{folder.name}/{f.name}": hashlib.md5(f.read_bytes()).hexdigest()
                                       for f in folder.iterdir()})
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(datasets.cifar, "check_integrity", lambda *args: True)
    train, test = load_dataset("cifar10", tmp_path)
    np.testing.assert_array_equal(train.images, np.concatenate(rows[:5]).reshape(10, 3, 32, 32))
    np.testing.assert_array_equal(test.images, rows[5].reshape(2, 3, 32, 32))
    assert train.labels.tolist() == [3, 7] * 5 and train.classes[7] == "class 7"


def test_data_root_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("EBE_DATA_DIR", str(tmp_path))
    assert data_root() == tmp_path.resolve()
    monkeypatch.delenv("EBE_DATA_DIR")
    assert data_root().name == "data"


# --- folders of images ---------------------------------------------------------------------------------------------


def draw(path, seed=0, mode="L", size=(6, 4)):
    """Write a PNG of random pixels, (width, height) = size, and return the pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = size[::-1] if mode == "L" else (*size[::-1], 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def draw_classes(root, names=("dog", "cat"), n=5, **options):
    for c, name in enumerate(names):
        for i in range(n):
            draw(root / name / f"{i}.png", seed=100 * c + i, **options)


@pytest.mark.parametrize("mode, shape", [("L", (1, 4, 6)), ("RGB", (3, 4, 6))])
def test_folder_with_train_and_test(tmp_path, mode, shape):
    pixels = {(part, name): draw(tmp_path / part / name / "1.png", seed, mode) for seed, (part, name) in enumerate(
        [("train", "dog"), ("train", "cat"), ("test", "dog"), ("test", "cat")])}
    train, test = load_dataset(f"folder:{tmp_path}")
    assert train.classes == test.classes == ("cat", "dog") and train.shape == shape
    for part, found in (("train", train), ("test", test)):
        assert found.labels.tolist() == [0, 1]
        for i, name in enumerate(found.classes):
            image = found.images[i].permute(1, 2, 0).numpy()
            np.testing.assert_array_equal(image.squeeze(), pixels[part, name])


def test_folder_without_parts_holds_out_a_stratified_fifth(tmp_path):
    draw_classes(tmp_path, ("cat", "dog", "eel"), n=10)
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    (tmp_path / ".hidden").mkdir()
    train, test = load_dataset(f"folder:{tmp_path}")
    assert np.bincount(train.labels).tolist() == [8, 8, 8] and np.bincount(test.labels).tolist() == [2, 2, 2]
    assert len({image.tobytes() for part in (train, test) for image in part.images.numpy()}) == 30


def test_one_colour_class_makes_all_images_colour(tmp_path):
    draw_classes(tmp_path, ("cat",), mode="L")
    draw_classes(tmp_path, ("dog",), mode="RGB")
    assert load_dataset(f"folder:{tmp_path}")[0].shape == (3, 4, 6)


def test_image_size_makes_different_sizes_one(tmp_path):
    draw_classes(tmp_path)
    Image.new("L", (9, 9), 77).save(tmp_path / "dog" / "big.png")
    with pytest.raises(DataError, match="2 different sizes.*image_size"):
        load_dataset(f"folder:{tmp_path}")
    parts = load_dataset(f"folder:{tmp_path}", image_size=5)
    assert {part.shape for part in parts} == {(1, 5, 5)}
    assert any((image == 77).all() for part in parts for image in part.images)


def test_test_images_take_the_size_of_the_training_images(tmp_path):
    draw_classes(tmp_path / "train", size=(6, 4))
    draw_classes(tmp_path / "test", size=(12, 8))
    assert [part.shape for part in load_dataset(f"folder:{tmp_path}")] == [(1, 4, 6)] * 2


def test_sixteen_bit_grey_keeps_its_shades(tmp_path):
    shades = np.linspace(0, 65535, 24).reshape(4, 6).astype(np.uint16)
    draw_classes(tmp_path)
    for file in tmp_path.rglob("*.png"):
        Image.fromarray(shades).save(file)
    train = load_dataset(f"folder:{tmp_path}")[0]
    np.testing.assert_allclose(train.images[0, 0], shades / 257, atol=1)


def _png_with_a_wrong_chunk_length(path):
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"IDAT") - 1] -= 9
    path.write_bytes(raw)


def _png_of_absurd_size(path):
    header = b"IHDR" + struct.pack(">2I5B", 200_000, 200_000, 8, 0, 0, 0, 0)
    raw = path.read_bytes()
    path.write_bytes(raw[:12] + header + struct.pack(">I", zlib.crc32(header)) + raw[33:])


@pytest.mark.parametrize("damage", [
    lambda p: p.write_bytes(b""), lambda p: p.write_text("no image"), _png_with_a_wrong_chunk_length,
    lambda p: p.write_bytes(p.read_bytes()[:60]), _png_of_absurd_size], ids=["empty", "text", "length", "cut", "size"])
@pytest.mark.parametrize("name", ["cat/0.png", "cat/3.png"])
def test_unreadable_image_is_named(tmp_path, name, damage):
    draw_classes(tmp_path)
    damage(tmp_path / name)
    with pytest.raises(DataError, match=f"{name} is not a readable image"):
        load_dataset(f"folder:{tmp_path}")


@pytest.mark.parametrize("make, words", [
    (lambda p: None, ["at least two sub-folders", "found 0"]),
    (lambda p: draw_classes(p, ("cat",)), ["at least two sub-folders", "found 1"]),
    (lambda p: (draw_classes(p), (p / "eel").mkdir()), ["without images: eel"]),
    (lambda p: draw_classes(p / "train"), ["only one of train/ and test/"]),
    (lambda p: (draw_classes(p / "train"), draw_classes(p / "test", ("cat", "yak"))), ["train/ has not: yak"]),
    (lambda p: draw_classes(p, n=1), ["cannot be split", "at least five images"]),
    (lambda p: draw_classes(p, ("cat", "dog", "eel"), n=3), ["cannot be split", "at least five images"])])
def test_folders_that_are_no_data_set(tmp_path, make, words):
    make(tmp_path)
    with pytest.raises(DataError) as caught:
        load_dataset(f"folder:{tmp_path}")
    assert all(word in str(caught.value) for word in words)


def test_folder_that_does_not_exist(tmp_path):
    with pytest.raises(DataError, match="nowhere does not exist"):
        load_dataset(f"folder:{tmp_path / 'nowhere'}")


# --- ImageSet ------------------------------------------------------------------------------------------------------

GREY = np.arange(32, dtype=np.uint8).reshape(2, 4, 4)


def test_grey_images_get_a_channel_and_labels_their_names():
    found = ImageSet(GREY, [0, 2])
    assert found.shape == (1, 4, 4) and found.classes == ("0", "1", "2") and len(found) == 2
    assert found.labels.dtype == np.int64


def test_subset_keeps_the_order_asked_for():
    part = ImageSet(GREY, [0, 2]).subset([1, 0, 1])
    assert part.labels.tolist() == [2, 0, 2] and part.classes == ("0", "1", "2")
    np.testing.assert_array_equal(part.images[:, 0], GREY[[1, 0, 1]])


@pytest.mark.parametrize("given", [
    (GREY, [0, 1]), [torch.from_numpy(GREY), torch.tensor([0, 1])], SimpleNamespace(images=GREY, labels=[0, 1]),
    SimpleNamespace(images=GREY / 255, target=[0, 1]), ImageSet(GREY, [0, 1])])
def test_what_is_understood_as_images_with_labels(given):
    found = as_image_set(given)
    assert found.shape == (1, 4, 4)
    np.testing.assert_allclose(scale(found.images).reshape(2, 4, 4), GREY / 255, rtol=1e-6)
    assert found.labels.tolist() == [0, 1]


def test_float64_becomes_float32():
    assert ImageSet(GREY / 255, [0, 1]).images.dtype == torch.float32


@pytest.mark.parametrize("indices", [[], [0.5], ["a"], 1, [[0]]])
def test_subsets_of_no_positions_are_refused(indices):
    with pytest.raises(ValueError, match="pass at least one position"):
        ImageSet(GREY, [0, 2]).subset(indices)


def test_subsets_by_any_integers_or_truth_values():
    """torch takes uint8 for truth values, NumPy for numbers."""
    data = ImageSet(np.arange(48, dtype=np.uint8).reshape(3, 4, 4), [0, 1, 2])
    for indices, expected in ((np.array([1, 0, 1], np.uint8), [1, 0, 1]), (np.array([False, True, True]), [1, 2])):
        part = data.subset(indices)
        assert part.labels.tolist() == expected
        np.testing.assert_array_equal(part.images, data.images[expected])


def test_fingerprint_tells_pixels_labels_and_class_names_apart():
    other_pixel = GREY.copy()
    other_pixel[1, 2, 3] += 1
    marks = [ImageSet(*given).fingerprint() for given in (
        (GREY, [0, 1]), (other_pixel, [0, 1]), (GREY, [1, 1], ("0", "1")), (GREY, [0, 1], ("a", "b")),
        (GREY.reshape(2, 1, 2, 8), [0, 1]), (GREY.astype(np.float32), [0, 1]))]
    assert len(set(marks)) == len(marks)
    assert ImageSet(GREY.copy(), np.array([0, 1])).fingerprint() == marks[0]


@pytest.mark.parametrize("images, labels, error, words", [
    (GREY, [0, 1, 2], ValueError, "do not match 2 images"),
    (GREY, [[0], [1]], ValueError, "do not match 2 images"),
    (GREY, [0.0, 1.0], TypeError, "integer class indices"),
    (GREY, ["a", "b"], TypeError, "integer class indices"),
    (GREY, [-1, 0], ValueError, "from -1 to 0"),
    (GREY[:0], [], ValueError, "are empty"),
    (np.zeros((2, 0, 4)), [0, 1], ValueError, "are empty"),
    (np.where(GREY == 20, np.nan, 0), [0, 1], ValueError, "NaN.*position 1"),
    (np.where(GREY == 3, np.inf, 0), [0, 1], ValueError, "infinite.*position 0"),
    (GREY.astype(str), [0, 1], TypeError, "dtype <U"),
    (GREY.astype(complex), [0, 1], TypeError, "complex"),
    (GREY.tolist(), [0, 1], TypeError, r"int64 and shape \(2, 4, 4\); pass uint8"),
    (GREY.astype(np.uint16), [0, 1], TypeError, "uint16.*pass uint8"),
    ([[[1, 2]], [[1]]], [0, 1], ValueError, "different lengths"),
    ([torch.zeros(1, 2), torch.zeros(1, 3)], [0, 1], ValueError, "different lengths"),
    (np.zeros(2), [0, 1], ValueError, "one input per row"),
    (ImageSet(GREY, [0, 1]), [0, 1], TypeError, "a ImageSet is a data set; pass its images"),
    (torch.utils.data.TensorDataset(torch.zeros(2, 3)), [0, 1], TypeError, "a TensorDataset is a data set"),
    (torch.zeros(2, 3, device="meta"), [0, 1], TypeError, "meta"),
    (torch.zeros(2, 3).to_sparse(), [0, 1], TypeError, "dense tensor"),
    (np.zeros((2, 5, 6, 3), np.uint8), [0, 1], ValueError, r"channels last; put them first.*permute\(0, 3, 1, 2\)"),
    (GREY, [0, 10**9], ValueError, "labels run up to 1000000000 for 2 images.*return_inverse"),
    (GREY[:, None].astype(float), [0, 1], ValueError, "whole numbers from 0 to 31.*or pass uint8"),
    (GREY[:, None] * 8., [0, 1], ValueError, "whole numbers from 0 to 248"),
    (torch.zeros(2, 4, 4, dtype=torch.bool), [0, 1], TypeError, "bool")])
def test_images_and_labels_that_are_refused(images, labels, error, words):
    with pytest.raises(error, match=words):
        ImageSet(images, labels)


def test_more_labels_than_class_names():
    with pytest.raises(ValueError, match="there are 2 classes"):
        ImageSet(GREY, [0, 2], ("a", "b"))


# --- what runs from 0 to 255 is not taken for 0 to 1 ---------------------------------------------------------------

COLOUR = np.random.default_rng(0).integers(0, 256, (6, 3, 5, 5)).astype(np.uint8)


def test_scikit_learns_digits_say_what_to_do():
    """Floats from 0 to 16: the error names the divisor, and what it asks for works."""
    raw = load_digits()
    with pytest.raises(ValueError, match=r"whole numbers from 0 to 16.*16 for load_digits\(\)"):
        as_image_set(raw)
    raw.images /= 16
    assert as_image_set(raw).shape == (1, 8, 8) and ImageSet(raw.images, raw.target).shape == (8, 8)


def test_only_uint8_gets_an_axis():
    """Floats of three axes are sequences (n, channels, length), of which no axis is missing."""
    assert ImageSet(GREY, [0, 1]).shape == (1, 4, 4)
    assert ImageSet(GREY / 255, [0, 1]).shape == (4, 4)


@pytest.mark.parametrize("fine", [
    COLOUR, COLOUR / 255, (COLOUR > 99).astype(float), COLOUR / 127.5 - 1, COLOUR - 128., COLOUR * 2., COLOUR / 2,
    COLOUR[:, 0] * 1., COLOUR[:, 0, 0] * 1., np.arange(6)[:, None], np.zeros((6, 1, 2, 2))],
    ids=["uint8", "0 to 1", "black and white", "-1 to 1", "negative", "beyond 255", "no whole numbers", "sequences",
         "tables", "token numbers", "zeros"])
def test_other_floats_are_taken_as_they_are(fine):
    data = ImageSet(fine, np.arange(6))
    np.testing.assert_allclose(data.images, fine, rtol=1e-6)


@pytest.mark.parametrize("train, test, error, words", [
    (COLOUR, COLOUR * 0.9, ValueError, "between 0 and 1, like the training images"),
    (COLOUR, COLOUR / -255., ValueError, "between 0 and 1"),
    (COLOUR / 255, COLOUR, TypeError, "dtype torch.uint8, the training images torch.float32"),
    (COLOUR / 255, COLOUR * 0.9, ValueError, "the training images run from 0 to 1, the test images from 0 to 23"),
    (COLOUR * 0.9, COLOUR / 255, ValueError, "bring both to the same range"),
    (COLOUR.reshape(6, -1) / 255, np.zeros((6, 75), int), TypeError, "pass the same kind"),
    (np.zeros((6, 75), int), COLOUR.reshape(6, -1), TypeError, "pass the same kind")])
def test_sets_of_different_kinds_are_refused(train, test, error, words):
    with pytest.raises(error, match=words):
        check_together(as_tensor(train), as_tensor(test))


@pytest.mark.parametrize("train, test", [
    (COLOUR, COLOUR[:2]), (COLOUR, COLOUR / 255), (COLOUR / 255, COLOUR / 250), (COLOUR / 127.5 - 1, COLOUR / 25),
    (COLOUR[:, 0] / 255, COLOUR[:, 0] * 0.9), (np.zeros((6, 75), int), np.ones((6, 75), int))])
def test_sets_of_one_kind_go_together(train, test):
    check_together(as_tensor(train), as_tensor(test))


def test_values_are_checked_in_pieces(tmp_path, monkeypatch):
    """A memory-mapped set is not copied as a whole, and the position counts over all pieces."""
    seen, isfinite = [], torch.isfinite
    monkeypatch.setattr(torch, "isfinite", lambda part: seen.append(part.numel()) or isfinite(part))
    monkeypatch.setattr("ebe_utils.values._CHUNK", 200)
    values = np.random.default_rng(0).random((40, 3, 5, 5)).astype(np.float32)
    np.save(tmp_path / "images.npy", values)
    images = as_tensor(np.load(tmp_path / "images.npy", mmap_mode="r"))
    check_values(images, "the images")
    assert seen == [150] * 20
    values[31, 2, 0, 1] = np.nan
    with pytest.raises(ValueError, match="position 31"):
        check_values(torch.from_numpy(values), "the images")
    values[31] = 7  # whole numbers in one piece only
    check_values(torch.from_numpy(values), "the images")


def test_arrays_of_every_float_and_byte_order():
    for kind in (np.float16, np.float64, np.longdouble, ">f4"):
        found = as_tensor((GREY / 256).astype(kind))
        assert found.dtype == torch.float32
        np.testing.assert_array_equal(found, GREY / 256)


def test_sets_are_equal_if_all_they_hold_is():
    data = ImageSet(GREY, [0, 1], ("a", "b"))
    assert data == ImageSet(GREY.copy(), np.array([0, 1]), ["a", "b"]) and data == data.subset([0, 1])
    other = GREY.copy()
    other[1, 2, 3] += 1
    for changed in (ImageSet(other, [0, 1], ("a", "b")), ImageSet(GREY, [1, 1], ("a", "b")), data.subset([0]),
                    ImageSet(GREY, [0, 1], ("a", "c")), ImageSet(GREY, [0, 1], ("a", "b"), "name"), "images",
                    ImageSet(GREY[:, None] / 255, [0, 1], ("a", "b")), ImageSet(GREY[:, :2], [0, 1], ("a", "b"))):
        assert data != changed
    with pytest.raises(TypeError, match="unhashable"):
        hash(data)
