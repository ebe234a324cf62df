"""Folders of images: what would be lost in silence is put right or refused."""

import os

import numpy as np
import pytest
from PIL import Image

from ebe_utils import load_dataset
from ebe_utils.data import DataError


@pytest.fixture
def folder(tmp_path):
    """Two classes of five grey images, 6 by 4."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(5):
            Image.fromarray(rng.integers(0, 256, (4, 6)).astype(np.uint8)).save(tmp_path / name / f"{i}.png")
    return tmp_path


def load(folder, **options):
    return load_dataset(f"folder:{folder}", **options)


def test_a_pipe_is_refused_and_not_waited_for(folder):
    os.mkfifo(folder / "cat" / "9.png")
    with pytest.raises(DataError, match=r"9.png is not a readable image \(it is no regular file"):
        load(folder)


@pytest.mark.parametrize("name", ["9.gif", "9.TIFF", "9.ppm"])
def test_other_formats_are_refused_and_not_left_out(folder, name):
    Image.new("L", (6, 4)).save(folder / "dog" / name)
    with pytest.raises(DataError, match=f"{name} has a format that is not read.*convert it"):
        load(folder)


def test_animations_and_folders_in_folders_are_refused(folder):
    frames = [Image.new("L", (6, 4), shade) for shade in (0, 255)]
    frames[0].save(folder / "dog" / "9.png", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="animation of 2 images"):
        load(folder)
    (folder / "dog" / "9.png").unlink()
    (folder / "dog" / "more").mkdir()
    with pytest.raises(DataError, match="more is a folder inside the folder of a class"):
        load(folder)


@pytest.mark.parametrize("orientation, turned", [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_photographs_are_turned_upright(tmp_path, orientation, turned):
    """Orientation 6, say: the camera's top is the picture's right, so that it is turned by 90 degrees clockwise."""
    pixels = np.arange(36, dtype=np.uint8).reshape(6, 6) * 7
    exif = Image.Exif()
    exif[0x0112] = orientation
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.fromarray(pixels).save(tmp_path / part / name / "0.png", exif=exif)
    for part in load(tmp_path):
        for image in part.images:
            np.testing.assert_array_equal(image[0], np.rot90(pixels, turned))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparent_pixels_are_refused_and_opaque_ones_read(folder, mode):
    for file in folder.rglob("*.png"):
        Image.open(file).convert(mode).save(file)
    grey = load(folder)[0]
    assert grey.shape == ((1, 4, 6) if mode == "LA" else (3, 4, 6))
    first = np.asarray(Image.open(folder / "cat" / "0.png").convert("L"))
    assert any((image[0].numpy() == first).all() for part in load(folder) for image in part.images)
    image = Image.open(folder / "dog" / "3.png")
    image.putpixel((1, 1), (*image.getpixel((1, 1))[:-1], 254))
    image.save(folder / "dog" / "3.png")
    with pytest.raises(DataError, match="3.png has transparent pixels"):
        load(folder)


def test_a_transparent_colour_of_a_palette_is_refused(folder):
    image = Image.new("P", (6, 4), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.putpixel((0, 0), 1)
    image.save(folder / "cat" / "0.png", transparency=1)
    with pytest.raises(DataError, match="0.png has transparent pixels"):
        load(folder)


def test_colour_among_grey_images_is_not_dropped(folder):
    Image.new("RGB", (6, 4), (255, 0, 0)).save(folder / "dog" / "3.png")
    with pytest.raises(DataError, match="3.png is in colour, but the first training image of each class is grey"):
        load(folder)


def test_images_without_bound_are_refused(folder, monkeypatch):
    Image.new("L", (9000, 9000)).save(folder / "cat" / "3.png")
    with pytest.raises(DataError, match="3.png is not a readable image .9000 by 9000 pixels"):
        load(folder, image_size=8)
    (folder / "cat" / "3.png").unlink()
    with pytest.raises(ValueError, match="image_size=4097 is out of range; pass an integer from 1 to 4096"):
        load(folder, image_size=4097)
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 9 * 64**2}))
    with pytest.raises(DataError, match="GiB of memory.*smaller image_size"):
        load(folder, image_size=64)
    assert load(folder, image_size=16)[0].shape == (1, 16, 16)


@pytest.mark.parametrize("seed", [2**32, 2**64])
def test_seeds_that_scikit_learn_does_not_take(seed):
    with pytest.raises(ValueError, match=f"seed={seed} is out of range; pass an integer from 0 to 4294967295"):
        load_dataset("digits", seed=seed)
    assert len(load_dataset("digits", n_train=20, n_test=10, seed=2**32 - 1)[0]) == 20
