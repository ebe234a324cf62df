"""The sequence on a small part of the real data sets, where they are on this machine."""

import pandas as pd
import pytest

from ebe_utils.data import DataError
from ebe_utils.datasets import data_root, load_dataset
from ebe_utils.study.notebooks import run_notebooks
from ebe_utils.study.parameters import Parameters

FILES = {"mnist": "MNIST/raw/train-images-idx3-ubyte", "fashion_mnist": "FashionMNIST/raw/train-images-idx3-ubyte",
         "cifar10": "cifar-10-batches-py/data_batch_1"}


def needs(name):
    return pytest.mark.skipif(not (data_root() / FILES[name]).is_file(), reason=f"{name} is not in {data_root()}")


@pytest.mark.parametrize(("name", "sizes", "shape", "first_labels"), [
    pytest.param("mnist", (60_000, 10_000), (1, 28, 28), [5, 0, 4, 1, 9], marks=needs("mnist")),
    pytest.param("fashion_mnist", (60_000, 10_000), (1, 28, 28), [9, 0, 0, 3, 0], marks=needs("fashion_mnist")),
    pytest.param("cifar10", (50_000, 10_000), (3, 32, 32), [6, 9, 9, 4, 1], marks=needs("cifar10")),
])
def test_official_data_sets_load_whole_and_in_order(name, sizes, shape, first_labels):
    train, test = load_dataset(name)
    assert (len(train), len(test)) == sizes
    assert train.shape == test.shape == shape
    assert train.labels[:5].tolist() == first_labels
    assert len(train.classes) == 10


@needs("mnist")
def test_a_truncated_file_is_named(tmp_path):
    for file in (data_root() / "MNIST" / "raw").glob("*-ubyte"):
        (tmp_path / "MNIST" / "raw").mkdir(parents=True, exist_ok=True)
        (tmp_path / "MNIST" / "raw" / file.name).write_bytes(file.read_bytes())
    broken = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    broken.write_bytes(broken.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte is damaged or incomplete"):
        load_dataset("mnist", root=tmp_path)


@pytest.mark.parametrize(("name", "network", "best", "notebooks"), [
    pytest.param("mnist", 0.80, 0.90, ["01", "04", "07"], marks=needs("mnist")),
    pytest.param("cifar10", 0.22, 0.27, ["01", "04"], marks=needs("cifar10")),
])
def test_sequence_on_a_part_of_the_real_data(name, network, best, notebooks):
    """1,000 training images and six epochs: little, but far above the tenth that guessing reaches."""
    run = run_notebooks(Parameters(dataset=name, n_train=1000, n_test=200, epochs=6, run=f"part-of-{name}"),
                        only=notebooks)
    sweep = pd.read_csv(run.file("sweep", "sweep.csv"))
    assert sweep["network_accuracy"].iloc[0] >= network
    assert sweep.loc[(sweep["k"] == 10) & (sweep["layer"] > 0), "accuracy"].max() >= best
