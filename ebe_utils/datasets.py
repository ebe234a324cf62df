"""The data sets: digits (scikit-learn), MNIST, Fashion-MNIST, CIFAR-10 (torchvision), or a folder of your own."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate

from .checks import did_you_mean, integer
from .data import DataError, ImageSet, random_part
from .folders import read_folder
from .paths import data_root

DATASETS = ("digits", "mnist", "fashion_mnist", "cifar10")
# md5 of the official files, unpacked, as torchvision lays them out; torchvision itself checks CIFAR-10.
_MD5 = {
    "MNIST/raw/train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "MNIST/raw/train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "MNIST/raw/t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "MNIST/raw/t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    "FashionMNIST/raw/train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "FashionMNIST/raw/train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "FashionMNIST/raw/t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "FashionMNIST/raw/t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    "cifar-10-batches-py/batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    "cifar-10-batches-py/data_batch_1": "c99cafc152244af753f735de768cd75f",
    "cifar-10-batches-py/data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "cifar-10-batches-py/data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "cifar-10-batches-py/data_batch_4": "634d18415352ddfa80567beed471001a",
    "cifar-10-batches-py/data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "cifar-10-batches-py/test_batch": "40351d587109b95175f43aff81a1287e",
}
_FOLDER = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "cifar-10-batches-py"}
LARGEST_SEED = 2**32 - 1  # that NumPy and scikit-learn take
LARGEST_SIDE = 4096  # pixels that a folder's images can be resized to


def check_name(name: str) -> str:
    """`name` if it names a data set, else ValueError."""
    if isinstance(name, str) and (name in DATASETS or name.startswith("folder:") and len(name) > 7):
        return name
    raise ValueError(f"dataset={name!r} is unknown; choose one of {', '.join(DATASETS)}, or folder:PATH with "
                     f"one sub-folder of images per class.{did_you_mean(name, DATASETS)}")


def load_dataset(name: str = "digits", root: str | Path | None = None, n_train: int | None = None,
                 n_test: int | None = None, seed: int = 0, image_size: int | None = None) -> tuple[ImageSet, ImageSet]:
    """Load a data set as (train_set, test_set), two `ImageSet`s.

    name: "digits" (1,797 real digits that scikit-learn carries, enlarged to 28 by 28, a stratified fifth held
    out by `seed`), "mnist", "fashion_mnist", "cifar10" (official splits), or "folder:PATH" (one sub-folder per
    class, inside train/ and test/, or a stratified fifth held out by `seed`).
    root: where torchvision's files are, or are downloaded to (default `data_root()`).
    n_train, n_test: keep a random part of that size, drawn by `seed`; None keeps all.
    image_size: side in pixels that a folder's images are resized to; None if they all have one size.

    Raises ValueError for an unknown name, `DataError` for files that are missing, damaged or unreadable.
    """
    check_name(name)
    integer("seed", seed, 0, LARGEST_SEED)
    if image_size is not None:
        image_size = integer("image_size", image_size, 1, LARGEST_SIDE)
    if name == "digits":
        train, test = _digits(seed)
    elif name.startswith("folder:"):
        parts = read_folder(Path(name[7:]).expanduser(), image_size)
        train, test = parts if len(parts) == 2 else _hold_out(parts[0], seed)
    else:
        train, test = _torchvision(name, Path(root) if root else data_root())
    return random_part(train, test, n_train, n_test, seed)


def _hold_out(data: ImageSet, seed: int) -> tuple[ImageSet, ImageSet]:
    """Split off a stratified fifth for testing."""
    from sklearn.model_selection import train_test_split

    try:
        train, test = train_test_split(np.arange(len(data)), test_size=0.2, stratify=data.labels, random_state=seed)
    except ValueError as error:
        raise DataError(f"{data.name} cannot be split into training and test images: {error} "
                        "Give each class at least five images, or make train/ and test/ folders.") from None
    return data.subset(np.sort(train)), data.subset(np.sort(test))


def _digits(seed: int) -> tuple[ImageSet, ImageSet]:
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = torch.from_numpy(raw.images).float()[:, None] * (255 / 16)
    images = interpolate(images, size=28, mode="bilinear", align_corners=False).round().to(torch.uint8)
    return _hold_out(ImageSet(images, raw.target, tuple("0123456789"), "digits"), seed)


def _torchvision(name: str, root: Path) -> list[ImageSet]:
    from torchvision import datasets

    kind = {"mnist": datasets.MNIST, "fashion_mnist": datasets.FashionMNIST, "cifar10": datasets.CIFAR10}[name]
    files = [f for f in _MD5 if f.startswith(_FOLDER[name] + "/")]
    missing = [f for f in files if not (root / f).is_file()]
    if missing:
        try:
            root.mkdir(parents=True, exist_ok=True)
            kind(root, train=True, download=True)
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"{name} is not on this machine and could not be downloaded ({error}). Put these files under {root} "
                f"(or set EBE_DATA_DIR to the folder that has them): {', '.join(missing)}. "
                "The data set 'digits' needs no download.") from None
    for file in files:
        found = hashlib.md5((root / file).read_bytes()).hexdigest() if (root / file).is_file() else "no file"
        if found != _MD5[file]:
            raise DataError(f"{root / file} is damaged or incomplete (md5 {found}, expected {_MD5[file]}). "
                            "Delete it and run again to download it anew, or put the official file there.")
    parts = []
    for part in (kind(root, train=True), kind(root, train=False)):
        images = torch.as_tensor(part.data)
        images = images.permute(0, 3, 1, 2).contiguous() if name == "cifar10" else images[:, None]
        parts.append(ImageSet(images, np.asarray(part.targets), tuple(part.classes), name))
    return parts
