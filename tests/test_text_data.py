"""Texts: docstrings of packages made for the test, and of the real ones; TREC's files."""

import hashlib
import re

import numpy as np
import pytest

from ebe_utils import docstrings, text_data
from ebe_utils.data import DataError
from ebe_utils.docstrings import LIBRARIES, Docstring, read_docstrings
from ebe_utils.text_data import TextSet, load_texts

FILES = {
    "aaa_lib/__init__.py": '"""Short."""\n',
    "aaa_lib/signal/waves.py": '''"""Signals of many kinds, read from files and written to them.

A second paragraph is not read.
"""
class Sampler:
    """Return a :class:`Wave` from `numpy.array`, with a Sampler of the right size, or plt.figure, or a sampler."""
    def resample(self):
        """Resample the signal to another number of points along an axis.

        Parameters
        ----------
        """
        def inner():
            """Nothing inside of functions is read, however long it may be."""
    async def later(self):
        """
        Args:
            long: a first paragraph that is but a list of arguments is none.
        """
''',
    "aaa_lib/_private/hidden.py": '"""Private folders are not read, since nobody is meant to use them."""\n',
    "aaa_lib/tests/test_it.py": '"""Tests are not read, since they are written for those who write them."""\n',
    "bbb_lib/other.py": '''"""Resample the signals to another number of points along an axis!"""
class Wave:
    """A wave that travels through the water and comes back from the other side."""
def copied():
    """A wave that travels through the water, and comes back from the other side."""
def plain():
    """Draw the outline of a polygon on the page, with a line of the given width."""
''',
    "bbb_lib/__init__.py": "",
}


@pytest.fixture
def packages(tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)


def test_first_paragraphs_are_read_masked_and_without_duplicates(packages):
    assert read_docstrings(("aaa_lib", "bbb_lib")) == [
        Docstring("Signals of many kinds, read from files and written to them.", "aaa_lib", "aaa_lib.signal"),
        Docstring("Return a … from …, with a … of the right size, or …, or a sampler.", "aaa_lib", "aaa_lib.signal"),
        # "Resample ..." is in both libraries, and so in neither; of two copies in one library the first is left.
        Docstring("A wave that travels through the water and comes back from the other side.", "bbb_lib",
                  "bbb_lib.other"),
        Docstring("Draw the outline of a polygon on the page, with a line of the given width.", "bbb_lib",
                  "bbb_lib.other")]


def test_a_library_that_is_not_installed_is_named():
    with pytest.raises(DataError, match="docstrings of no_such_library are part of this data set"):
        read_docstrings(("no_such_library",))


@pytest.fixture(scope="module")
def real():
    return read_docstrings()


def test_real_docstrings_give_nothing_away(real):
    names = re.compile(r"\b(?:numpy|np|scipy|scikit|sklearn|pandas|matplotlib|pyplot|torch|pytorch|DataFrame|Axes"
                       r"|ndarray|Tensor)\b")
    assert not [one.text for one in real if names.search(one.text)]
    assert {one.library for one in real} == set(LIBRARIES)
    assert all(40 <= len(one.text) <= 400 for one in real)
    assert len({one.text for one in real}) == len(real)


def test_the_data_set_is_balanced_disjoint_and_decided_by_the_seed(real, monkeypatch):
    monkeypatch.setattr(text_data, "read_docstrings", lambda: real)
    train, test = load_texts("docstrings", seed=3)
    for part in (train, test):
        sizes = np.bincount(part.labels)
        assert (sizes == sizes[0]).all()
        assert part.classes == LIBRARIES
        for library, package in zip(part.labels, part.fine, strict=True):
            name = {"scikit-learn": "sklearn"}.get(LIBRARIES[library], LIBRARIES[library])
            assert part.fine_classes[package].startswith(name)
    assert not {*train.texts} & {*test.texts}
    assert len(train) > 3000
    assert len(train) == pytest.approx(4 * len(test), abs=24)
    again, other = (load_texts("docstrings", seed=seed)[0].fingerprint() for seed in (3, 4))
    assert train.fingerprint() == again != other
    few = load_texts("docstrings", seed=3, n_train=50, n_test=10)
    assert [len(part) for part in few] == [50, 10]
    assert {*few[0].texts} < {*train.texts}


TREC = {"train_5500.label": b"DESC:manner How did serfdom develop ?\nNUM:dist How far is it ?\n"
                            b"HUM:ind Who was \xe9mile ?\n",
        "TREC_10.label": b"NUM:dist How deep is it ?\n"}


@pytest.fixture
def trec(tmp_path, monkeypatch):
    (tmp_path / "TREC").mkdir()
    for name, raw in TREC.items():
        (tmp_path / "TREC" / name).write_bytes(raw)
    monkeypatch.setattr(text_data, "_TREC", {name: hashlib.md5(raw).hexdigest() for name, raw in TREC.items()})
    monkeypatch.setenv("EBE_DATA_DIR", str(tmp_path))
    return tmp_path / "TREC"


def test_trec_has_coarse_and_fine_classes(trec):
    train, test = load_texts("trec")
    assert train.texts == ("How did serfdom develop ?", "How far is it ?", "Who was émile ?")
    assert [train.classes[label] for label in train.labels] == ["description", "number", "human"]
    assert [train.fine_classes[label] for label in train.fine] == ["DESC:manner", "NUM:dist", "HUM:ind"]
    assert test.fine.tolist() == [train.fine_classes.index("NUM:dist")]


def test_a_damaged_file_of_trec_is_refused(trec):
    (trec / "TREC_10.label").write_bytes(b"NUM:dist How deep is ?\n")
    with pytest.raises(DataError, match="TREC_10.label is damaged or incomplete .md5"):
        load_texts("trec")


def test_without_a_network_the_error_says_which_files_where(trec, monkeypatch):
    (trec / "train_5500.label").unlink()

    def no_network(url, *rest):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", no_network)
    with pytest.raises(DataError, match="could not be downloaded .no route to host.. Put train_5500.label and "
                                        "TREC_10.label from https://.*'docstrings' needs no download"):
        load_texts("trec")


def test_trec_is_downloaded_from_its_address(trec, monkeypatch):
    (trec / "train_5500.label").unlink()
    asked = []

    def download(url, folder, file, md5):
        asked.append(url)
        (folder / file).write_bytes(TREC[file])

    monkeypatch.setattr("torchvision.datasets.utils.download_url", download)
    assert len(load_texts("trec")[0]) == 3
    assert asked == ["https://cogcomp.seas.upenn.edu/Data/QA/QC/train_5500.label"]


@pytest.mark.parametrize(("given", "message"), [
    ({"name": "trek"}, "Did you mean 'trec'"), ({"name": "trec", "n_train": 9}, "there are 3 texts"),
    ({"name": "trec", "seed": -1}, "seed=-1")])
def test_bad_arguments(given, message, trec):
    with pytest.raises(ValueError, match=message):
        load_texts(**given)


@pytest.mark.parametrize(("texts", "labels", "message"), [
    (["a", ""], [0, 1], "text 1 is ''"), (["a"], [0, 1], r"labels of shape \(2,\)"),
    (["a", "b"], [0, 2], "there are 2")])
def test_text_sets_are_checked(texts, labels, message):
    with pytest.raises(ValueError, match=message):
        TextSet(texts, labels, ("x", "y"))


def test_masks_are_for_whole_words():
    assert docstrings._masked("An Index of indices by torch.nn.Index, a torchlight.", {"Index"}) == (
        "An … of indices by …, a torchlight.")
