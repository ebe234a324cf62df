"""A folder of images of your own as a data set: one sub-folder of images per class."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image, ImageOps

from .data import DataError, ImageSet

_READ = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}
_GREY = ("L", "LA", "La", "1", "I", "I;16")
_LARGEST_IMAGE = 2**26  # pixels that one file may have: 8192 by 8192


def read_folder(path: Path, size: int | None = None) -> list[ImageSet]:
    """[all images], or [training images, test images] where `path` has folders train/ and test/.

    size: side in pixels that images are resized to. Photographs are turned upright as their EXIF data say. Raises
    `DataError` for what cannot be read, or not without a loss: other formats, animations, transparent pixels, colour
    among grey images.
    """
    if not path.is_dir():
        raise DataError(f"folder:{path} does not exist or is not a folder; "
                        "pass a folder with one sub-folder of images per class.")
    if (path / "train").is_dir() != (path / "test").is_dir():
        raise DataError(f"folder:{path} has only one of train/ and test/; add the other, or put the class "
                        "folders directly into it and a stratified fifth is held out.")
    side = None if size is None else (size, size)
    if not (path / "train").is_dir():
        files = _class_files(path)
        return [_read_images(files, list(files), side, _is_grey(files), path)]
    files, test_files = _class_files(path / "train"), _class_files(path / "test")
    if extra := sorted(set(test_files) - set(files)):
        raise DataError(f"test/ of folder:{path} has classes that train/ has not: {', '.join(extra)}; "
                        "give both the same sub-folders.")
    grey = _is_grey(files)
    train = _read_images(files, list(files), side, grey, path)
    return [train, _read_images(test_files, list(train.classes), side or train.shape[1:], grey, path)]


def _class_files(path: Path) -> dict[str, list[Path]]:
    """{class name: its image files}, both sorted."""
    files = {d.name: _image_files(d) for d in sorted(path.iterdir()) if d.is_dir() and not d.name.startswith(".")}
    empty = [name for name, found in files.items() if not found]
    if len(files) < 2 or empty:
        raise DataError(f"{path} needs at least two sub-folders (one per class) with images "
                        f"({', '.join(sorted(_READ))}); found {len(files)}"
                        + (f", without images: {', '.join(empty)}." if empty else "."))
    return files


def _image_files(folder: Path) -> list[Path]:
    """The image files of one class; whatever else could be an image is refused rather than left out."""
    others = {*Image.registered_extensions()} - _READ
    found = []
    for file in sorted(f for f in folder.iterdir() if not f.name.startswith(".")):
        if file.is_dir():
            raise DataError(f"{file} is a folder inside the folder of a class, and would be left out; move its images "
                            f"up into {folder}, or remove it.")
        if file.suffix.lower() in others:
            raise DataError(f"{file} has a format that is not read, and would be left out; convert it to one of "
                            f"{', '.join(sorted(_READ))}, or remove it.")
        if file.suffix.lower() in _READ:
            if not file.is_file():
                raise DataError(f"{file} is not a readable image (it is no regular file); replace or remove it.")
            found.append(file)
    return found


def _is_grey(files: dict[str, list[Path]]) -> bool:
    """Whether the first image of each class is grey."""
    modes = []
    for first, *_ in files.values():
        try:
            with Image.open(first) as image:
                modes.append(image.mode)
        except Exception as error:  # Pillow raises many kinds for damaged files
            raise DataError(f"{first} is not a readable image ({error}); replace or remove it.") from None
    return all(mode in _GREY for mode in modes)


def _read_images(files: dict[str, list[Path]], classes: Sequence[str], size: tuple[int, ...] | None, grey: bool,
                 path: Path) -> ImageSet:
    images: list[np.ndarray] = []
    labels = []
    total = sum(len(found) for found in files.values())
    for label, name in enumerate(classes):
        for file in files.get(name, ()):
            try:
                image = _read_image(file, grey)
            except DataError:
                raise
            except Exception as error:  # Pillow raises many kinds for damaged files
                raise DataError(f"{file} is not a readable image ({error}); replace or remove it.") from None
            if not images:
                height, width = size or (image.height, image.width)
                _check_memory(total * height * width * (1 if grey else 3), path)
            if size is not None:
                image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
            images.append(np.asarray(image))
            labels.append(label)
    _check_shapes({image.shape[:2] for image in images}, path)
    stack = torch.from_numpy(np.stack(images))
    stack = stack[:, None] if grey else stack.permute(0, 3, 1, 2).contiguous()
    return ImageSet(stack, np.array(labels), tuple(classes), path.name)


def _read_image(file: Path, grey: bool) -> Image.Image:
    """One image, upright, 8 bits, grey or colour."""
    with Image.open(file) as opened:
        if opened.width * opened.height > _LARGEST_IMAGE:
            raise DataError(f"{file} is not a readable image ({opened.width} by {opened.height} pixels are more than "
                            f"{_LARGEST_IMAGE:,}); shrink or remove it.")
        if (frames := getattr(opened, "n_frames", 1)) > 1:
            raise DataError(f"{file} is an animation of {frames} images, of which only the first would be "
                            "read; save that one alone, or remove the file.")
        image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I"):  # 16 bits, which convert would cut off at 255
            image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("LA" if image.mode in _GREY else "RGBA")
            if (np.asarray(image.getchannel("A")) < 255).any():
                raise DataError(f"{file} has transparent pixels, whose colour is undefined; put it on a background "
                                "first (with Pillow: Image.alpha_composite), or remove it.")
        if grey and image.mode not in _GREY:
            raise DataError(f"{file} is in colour, but the first training image of each class is grey; "
                            "convert all of them to one kind.")
        return image.convert("L" if grey else "RGB")


def _check_memory(size: int, path: Path) -> None:
    free = psutil.virtual_memory().available
    if 2 * size > free:  # once as a list, once as one tensor
        raise DataError(f"the images of folder:{path} would take {2 * size / 2**30:.1f} GiB of memory, and "
                        f"{free / 2**30:.1f} are free; pass a smaller image_size, or fewer images.")


def _check_shapes(shapes: Iterable[tuple[int, ...]], path: Path) -> None:
    shapes = set(shapes)
    if len(shapes) > 1:
        raise DataError(f"the images of folder:{path} have {len(shapes)} different sizes, from {min(shapes)} to "
                        f"{max(shapes)}; pass image_size, the side in pixels to resize them to (32, say).")
