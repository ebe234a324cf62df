"""Saved classifiers: the same answers after reading, other networks and damaged files refused, nothing lost."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ebe_utils import EBEClassifier
from ebe_utils.saved import map_large, write_large

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def saved(tiny_net, stripes, tmp_path):
    train, _ = stripes
    ebe = EBEClassifier(tiny_net, 2, 5, weights="distance").fit(train)
    return ebe, ebe.save(tmp_path / "why")


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "manhattan"])
def test_the_same_answers_after_reading(tiny_net, stripes, tmp_path, metric):
    train, test = stripes
    ebe = EBEClassifier(tiny_net, 2, 5, metric).fit(train)
    again = EBEClassifier.load(ebe.save(tmp_path / "why"), tiny_net)
    for mine, theirs in zip(again.kneighbors(test.images), ebe.kneighbors(test.images), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(again.predict_proba(test.images), ebe.predict_proba(test.images))
    one, other = again.explain(test.images[0]), ebe.explain(test.images[0])
    assert str(one) == str(other) and one._repr_html_() == other._repr_html_()
    assert again.get_params()["k"] == 5 and isinstance(again._embeddings, np.memmap)
    assert [f.name for f in tmp_path.iterdir()] == ["why"]


def test_a_large_index_is_mapped_and_answers_alike(tmp_path):
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((3000, 20)) @ rng.standard_normal((20, 6000))).astype(np.float32)  # above the search's
    y = np.arange(3000) % 5                                                                        # brute-force size
    ebe = EBEClassifier.from_embeddings(rows, y, k=7)
    again = EBEClassifier.load(ebe.save(tmp_path / "large"))
    queries = rows[:40] + rng.standard_normal((40, 6000)).astype(np.float32)
    for mine, theirs in zip(again.kneighbors(queries), ebe.kneighbors(queries), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_text_labels_and_examples_of_your_own(tiny_net, stripes, tmp_path):
    train, test = stripes
    names, pixels = np.array(["l", "m", "r"])[train.labels], train.images.float() / 255
    data = torch.utils.data.TensorDataset(pixels)
    ebe = EBEClassifier(tiny_net, 2, 5).fit(data, names)
    folder = ebe.save(tmp_path / "why")
    queries = test.images.float() / 255
    again = EBEClassifier.load(folder, tiny_net)
    np.testing.assert_array_equal(again.predict(queries), ebe.predict(queries))
    assert again.explain(queries[:1]).examples is None
    shown = EBEClassifier.load(folder, tiny_net, data).explain(queries[:1])
    torch.testing.assert_close(torch.stack(list(shown.examples)), pixels[torch.from_numpy(shown.indices)])
    with pytest.raises(ValueError, match="48"):
        EBEClassifier.load(folder, tiny_net, torch.utils.data.TensorDataset(pixels[:3]))


def test_another_network_is_refused(saved, new_net):
    with pytest.raises(ValueError, match="not the one.*weights differ"):
        EBEClassifier.load(saved[1], new_net(seed=5).eval())
    with pytest.raises(ValueError, match="pass the same network"):
        EBEClassifier.load(saved[1])


@pytest.mark.parametrize("name", ["arrays.safetensors", "embeddings.safetensors", "examples.safetensors",
                                  "classifier.json"])
def test_damaged_files_are_refused(saved, tiny_net, name):
    file = saved[1] / name
    whole = file.read_bytes()
    file.write_bytes(whole[:-7])
    with pytest.raises(ValueError, match="damaged"):
        EBEClassifier.load(saved[1], tiny_net)
    file.write_bytes(whole[:-3] + bytes([whole[-3] ^ 4]) + whole[-2:])
    with pytest.raises(ValueError, match="damaged"):
        EBEClassifier.load(saved[1], tiny_net, verify=True)
    file.unlink()
    with pytest.raises((ValueError, FileNotFoundError), match="missing|no saved classifier"):
        EBEClassifier.load(saved[1], tiny_net)


def test_a_changed_setting_is_refused_and_files_without_a_checksum_are_read(saved, tiny_net):
    """One bit makes a 4 of the 5 in "k": 5, which votes would follow in silence."""
    file = saved[1] / "classifier.json"
    whole = file.read_text()
    assert whole.count('"k": 5') == 1
    file.write_text(whole.replace('"k": 5', '"k": 4'))
    with pytest.raises(ValueError, match="classifier.json is damaged.*checksum"):
        EBEClassifier.load(saved[1], tiny_net)
    file.write_text(json.dumps({name: value for name, value in json.loads(whole).items() if name != "checksum"}))
    assert EBEClassifier.load(saved[1], tiny_net).k == 5


def test_a_full_disk_is_an_os_error(saved, monkeypatch):
    def fail(*_):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("ebe_utils.saved.save_file", fail)
    with pytest.raises(OSError, match="why cannot be written .No space left"):
        saved[0].save(saved[1])


def test_a_rename_that_fails_puts_the_former_classifier_back(saved, tiny_net, monkeypatch):
    rename = Path.rename

    def fail(self, target):
        if self.name.endswith(".part"):
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="no"):
        saved[0].save(saved[1])
    assert [file.name for file in saved[1].parent.iterdir()] == ["why"]
    assert EBEClassifier.load(saved[1], tiny_net, verify=True).k == 5


def test_no_pickle_in_the_folder(saved):
    assert {f.suffix for f in saved[1].iterdir()} == {".json", ".safetensors"}
    json.loads((saved[1] / "classifier.json").read_text())
    np.testing.assert_array_equal(load_file(saved[1] / "embeddings.safetensors")["data"], saved[0]._embeddings)


def test_a_folder_with_something_else_is_left_alone(saved, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="something else"):
        saved[0].save(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_saving_again_replaces_whole_or_not_at_all(saved, tiny_net, stripes, monkeypatch):
    ebe, folder = saved
    before = {f.name: f.read_bytes() for f in folder.iterdir()}
    monkeypatch.setattr("ebe_utils.saved.save_file", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        ebe.save(folder)
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == before and len(list(folder.parent.iterdir())) == 1
    monkeypatch.undo()
    ebe.set_params(k=2).save(folder)
    assert EBEClassifier.load(folder, tiny_net).k == 2


def test_functions_cannot_be_saved(saved, tmp_path):
    with pytest.raises(ValueError, match="weights=.*without pickle"):
        saved[0].set_params(weights=lambda d: d + 1).save(tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.int64])
def test_large_arrays_are_safetensors(tmp_path, dtype):
    array = np.arange(2 * 3 * 5).reshape(2, 3, 5).astype(dtype)
    write_large(tmp_path / "a.safetensors", array)
    np.testing.assert_array_equal(load_file(tmp_path / "a.safetensors")["data"], array)
    found = map_large(tmp_path / "a.safetensors")
    assert found.dtype == dtype and not found.flags.writeable
    np.testing.assert_array_equal(found, array)


MEMORY = """
import sys, numpy as np
from ebe_utils import EBEClassifier
from ebe_utils.memory import peak_memory
ebe = EBEClassifier.load(sys.argv[1])
before = peak_memory()
query = np.array(ebe._embeddings[17]) + 1e-3
print(ebe.kneighbors(query[None])[1][0, 0], peak_memory() - before)
"""


def test_a_saved_index_is_not_read_into_memory(tmp_path):
    """One query of an index of 480 MB takes a small part of that."""
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((24, 8000)).astype(np.float32)
    rows = rng.standard_normal((15_000, 24)).astype(np.float32) @ basis
    ebe = EBEClassifier.from_embeddings(rows, np.arange(15_000) % 5, k=3)
    folder = ebe.save(tmp_path / "large")
    found = subprocess.run([sys.executable, "-c", MEMORY, folder], check=True, capture_output=True, text=True)
    nearest, grown = found.stdout.split()
    assert nearest == "17" and int(grown) < 240
