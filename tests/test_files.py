"""Files: what is written is read again, and what has changed since is noticed."""

import json

import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from ebe_utils import files, train
from ebe_utils.files import DamagedFileError, read_tensors, write_tensors

KINDS = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool)


@pytest.fixture
def tensors():
    found = {str(kind): (100 * torch.rand(3, 4, generator=torch.Generator().manual_seed(0))).to(kind) for kind in KINDS}
    return found | {"empty": torch.zeros(0, 3), "scalar": torch.tensor(3.5), "turned": torch.arange(12.).view(3, 4).T}


def test_tensors_come_back_as_they_were_and_plain_safetensors_reads_them(tensors, tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, tensors, {"a": "1", "b": "é"})
    found, metadata = read_tensors(path)
    assert metadata == {"a": "1", "b": "é"}
    for other in (found, load_file(path)):
        assert other.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert other[name].dtype == tensor.dtype and torch.equal(other[name], tensor)
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]
    with safe_open(path, "pt") as file:
        everything = file.metadata()
    for again in (metadata, everything):
        write_tensors(path, found, again)
        assert read_tensors(path)[1] == metadata


def test_every_flipped_bit_is_noticed(tensors, tmp_path):
    """In the tensors, their names, types and shapes, and in the metadata; but for blanks that fill up the header."""
    path = tmp_path / "x.safetensors"
    write_tensors(path, tensors, {"history": json.dumps([1, 2, 3])})
    whole = path.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    places = [*range(8 + len(whole[8:8 + header].rstrip())), *range(8 + header, len(whole))]
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 1 << (place % 8)
        path.write_bytes(changed)
        with pytest.raises(DamagedFileError, match="x.safetensors is damaged.*delete it"):
            read_tensors(path)


def test_files_without_a_checksum_are_read(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "old", {"k": "v"})
    assert read_tensors(tmp_path / "old")[1] == {"k": "v"}
    save_file({"a": torch.ones(2)}, tmp_path / "bare")
    assert read_tensors(tmp_path / "bare")[1] == {}


def test_a_training_starts_over_where_its_state_is_damaged(stripes, tmp_path, new_net, one_thread, capsys):
    state = tmp_path / "state"
    options = {"batch_size": 16, "progress": False, "epochs": 3}
    expected = train(new_net(), stripes[0], **options)
    train(new_net(), stripes[0], **options | {"epochs": 1}, state=state)
    whole = state.read_bytes()
    for place in np.random.default_rng(0).integers(8, len(whole), 14):
        changed = bytearray(whole)
        changed[place] ^= 1
        state.write_bytes(changed)
        found = train(new_net(), stripes[0], **options, state=state)
        assert capsys.readouterr().out == f"the training state {state} is damaged: the training starts over\n"
        assert len(found.history) == 3
        for name, tensor in expected.state_dict().items():
            assert torch.equal(found.state_dict()[name], tensor)


def test_a_state_of_another_kind_of_device_is_refused_and_one_without_is_read(stripes, tmp_path, new_net):
    state = tmp_path / "state"
    train(new_net(), stripes[0], epochs=1, batch_size=16, progress=False, state=state)
    tensors, metadata = read_tensors(state)
    settings = json.loads(metadata["settings"])
    write_tensors(state, tensors, metadata | {"settings": json.dumps(settings | {"device": "cuda"})})
    with pytest.raises(ValueError, match="other settings .device cuda then, cpu now"):
        train(new_net(), stripes[0], epochs=2, batch_size=16, progress=False, state=state)
    settings.pop("device")
    write_tensors(state, tensors, metadata | {"settings": json.dumps(settings)})
    assert len(train(new_net(), stripes[0], epochs=2, batch_size=16, progress=False, state=state).history) == 2


def test_writing_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.ones(1)}, {})
    monkeypatch.setattr(files, "sync", lambda path: (_ for _ in ()).throw(OSError("the disk is full")))
    with pytest.raises(OSError, match="full"):
        write_tensors(path, {"a": torch.zeros(1)}, {})
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert read_tensors(path)[0]["a"].item() == 1


def test_a_full_disk_is_an_os_error(tmp_path, monkeypatch):
    """safetensors has an error of its own for it, which no caller expects."""
    def fail(*_):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(files, "save_file", fail)
    with pytest.raises(OSError, match="x.safetensors cannot be written .No space left"):
        write_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)}, {})
    assert not list(tmp_path.iterdir())
