"""Runs: parameters, folders, manifests, locks, and what is said when something is missing, damaged or in use."""

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ebe_utils import load_dataset, resnet18_for, save_model
from ebe_utils.files import write_text
from ebe_utils.study.parameters import PROFILES, Parameters
from ebe_utils.study.run import Run, runs_root
from ebe_utils.study.step import CODE, NOTEBOOK_OF, RunError


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("EBE_RUNS_DIR", str(tmp_path / "runs"))
    return tmp_path / "runs"


def finish(run, name, text="result", **options):
    """Do a step that writes one file; whether it had to be done."""
    step = run.step(name, **options)
    if step.todo:
        with step:
            step.path("result.txt").write_text(text)
    return step.todo


# --- parameters ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, value, error, words", [
    ("dataset", "mnits", ValueError, "Did you mean 'mnist'"), ("dataset", "folder:", ValueError, "is unknown"),
    ("dataset", "", ValueError, "is unknown"), ("dataset", 3, TypeError, "pass a text"),
    ("profile", "papre", ValueError, "Did you mean 'paper'"), ("profile", None, TypeError, "pass a text"),
    ("seed", "0", TypeError, "pass an integer"), ("seed", -1, ValueError, "of at least 0"),
    ("epochs", 5.0, TypeError, "pass an integer"), ("epochs", True, TypeError, "is a bool"),
    ("epochs", -1, ValueError, "of at least 0"), ("n_train", "10", TypeError, "pass an integer"),
    ("n_train", -5, ValueError, "of at least 0"), ("n_test", -5, ValueError, "of at least 0"),
    ("image_size", -1, ValueError, "of at least 0"), ("image_size", 2.5, TypeError, "pass an integer"),
    ("batch_size", 1, ValueError, "of at least 2"), ("batch_size", "128", TypeError, "pass an integer"),
    ("learning_rate", "1e-3", TypeError, "pass a number"), ("learning_rate", True, TypeError, "is a bool"),
    ("learning_rate", 0, ValueError, "greater than 0"), ("learning_rate", float("nan"), ValueError, "greater than 0"),
    ("learning_rate", float("inf"), ValueError, "greater than 0"),
    ("optimizer", "sdg", ValueError, "Did you mean 'sgd'"), ("augment", "true", TypeError, "pass True or False"),
    ("augment", 1, TypeError, "pass True or False"), ("stem", "cifar10", ValueError, "Did you mean 'cifar'"),
    ("device", 0, TypeError, "pass a text"), ("layer", True, TypeError, "an integer or a text"),
    ("schedule", "cosine", ValueError, "is unknown"),
    ("layer", 14.0, TypeError, "an integer or a text"), ("layer", None, TypeError, "an integer or a text"),
    ("k", 0, ValueError, "of at least 1"), ("k", "10", TypeError, "pass an integer"),
    ("k_max", 0, ValueError, "of at least 1"), ("metric", "cosin", ValueError, "Did you mean 'cosine'"),
    ("weights", "distances", ValueError, "Did you mean 'distance'"), ("pooling", "mean", ValueError, "is unknown"),
    ("run", 5, TypeError, "pass a text"), ("seed", 2**32, ValueError, "from 0 to 4294967295"),
    ("image_size", 4097, ValueError, "from 0 to 4096"),
    ("run", "x" * 201, ValueError, "at most 200"),
    *(("run", name, ValueError, "cannot name a folder") for name in (
        "a/b", "..", ".hidden", "a b", "a\n", "a:b", "~", "a\\b", "*", "/tmp/x"))])
def test_parameters_that_are_refused(name, value, error, words):
    with pytest.raises(error, match=words) as caught:
        Parameters.of(**{name: value})
    assert name in str(caught.value)


@pytest.mark.parametrize("name, suggestion", [("dataste", "dataset"), ("batchsize", "batch_size"), ("K", None)])
def test_unknown_parameters(name, suggestion):
    with pytest.raises(TypeError, match=f"no parameter '{name}'") as caught:
        Parameters.of(**{name: 1})
    assert (f"Did you mean '{suggestion}'" in str(caught.value)) == (suggestion is not None)


def test_parameters_that_are_allowed():
    found = Parameters.of(learning_rate=1, layer="layer3.1.conv1", run="über-2.0_b", dataset="folder:some where")
    assert found.learning_rate == 1 and found.run == "über-2.0_b"


def test_the_name_tells_what_decides_the_network():
    assert Parameters().name == Parameters(k=3, layer=2, metric="euclidean", device="cpu").name == "digits-quick-seed0"
    found = Parameters(dataset="folder:/a b/c", profile="paper", epochs=3, learning_rate=0.01, augment=True, seed=2)
    assert found.name == "folder-a-b-c-paper-epochs-3-learning_rate-0.01-augment-True-seed2"
    assert Parameters(run="mine", epochs=3).name == "mine"


def test_sweeps_with_other_settings_are_steps_of_their_own():
    assert Parameters(k_max=9).sweep_step == "sweep"
    found = Parameters(metric="euclidean", weights="distance", pooling="avg")
    assert found.sweep_step == "sweep-euclidean-distance-avg"


def test_runs_lie_where_the_environment_says(root, monkeypatch, tmp_path):
    assert runs_root() == root.resolve()
    monkeypatch.delenv("EBE_RUNS_DIR")
    monkeypatch.setenv("EBE_DATA_DIR", str(tmp_path / "data"))
    assert runs_root() == (tmp_path / "data" / "runs").resolve()


# --- starting and opening ------------------------------------------------------------------------------------------


def test_a_started_run_can_be_opened(root):
    run = Run.start(dataset="digits", seed=3, k=7)
    assert run.path == root / "digits-quick-seed3"
    assert json.loads((run.path / "parameters.json").read_text())["k"] == 7
    for opened in (Run.open(seed=3), Run.open(run="digits-quick-seed3")):
        assert opened.path == run.path and opened.parameters == replace(run.parameters, run=run.name)
    assert Run.start(seed=3, k=9).path == run.path


def test_a_run_that_was_not_started():
    with pytest.raises(RunError, match=r"no run mnist-paper-seed2 yet.*01_train.ipynb") as caught:
        Run.open(dataset="mnist", profile="paper", seed=2)
    assert "-m ebe_utils run --dataset mnist --profile paper --seed 2" in str(caught.value)


@pytest.mark.parametrize("change", [{"epochs": 3}, {"seed": 1}, {"dataset": "mnist"}, {"stem": "cifar"},
                                    {"learning_rate": 0.01}])
def test_another_experiment_in_a_folder_of_the_same_name(change):
    Run.start(run="mine", learning_rate=0.001)
    name, value = next(iter(change.items()))
    with pytest.raises(RunError, match=f"holds another experiment.*{name} .* then, {value!r} now.*another name"):
        Run.start(run="mine", **change)
    assert Run.start(run="mine", k=3, metric="euclidean").name == "mine"


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"epochs": "5"}', '{"colour": 1}', '{"dataset": "x"}', "\x00"])
def test_damaged_parameters(content):
    run = Run.start(run="mine")
    (run.path / "parameters.json").write_text(content)
    for again in (Run.start, Run.open):
        with pytest.raises(RunError, match=r"parameters.json is damaged.*delete the run folder"):
            again(run="mine")


def test_a_changed_digit_of_the_parameters_is_noticed_and_files_without_a_checksum_are_read():
    run = Run.start(run="mine", k=10)
    file = run.path / "parameters.json"
    whole = file.read_text()
    assert whole.count('"k": 10') == 1
    file.write_text(whole.replace('"k": 10', '"k": 50'))
    with pytest.raises(RunError, match="parameters.json is damaged.*checksum"):
        Run.open(run="mine")
    file.write_text(json.dumps({name: value for name, value in json.loads(whole).items() if name != "checksum"}))
    assert Run.open(run="mine").parameters.k == 10


def test_run_folders_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    for impossible in ("/proc/nowhere", str(tmp_path / "file"), str(tmp_path / "file" / "below")):
        monkeypatch.setenv("EBE_RUNS_DIR", impossible)
        with pytest.raises(RunError, match="cannot be written.*EBE_RUNS_DIR"):
            Run.start()


def test_a_step_folder_that_cannot_be_made_does_not_keep_the_lock():
    run = Run.start()
    step = run.step("train")
    (run.path / "train").write_text("in the way")
    with pytest.raises(RunError, match="cannot be written"), step:
        pass
    (run.path / "train").unlink()
    assert finish(run, "train")


def test_the_command_can_be_pasted_into_a_shell():
    run = Run(Parameters(dataset="folder:/my cat's", k=3, augment=True, layer="layer4", n_train=50))
    words = shlex.split(run.command())
    assert words[1:4] == ["-m", "ebe_utils", "run"]
    assert dict(zip(words[4::2], words[5::2], strict=True)) == {
        "--dataset": "folder:/my cat's", "--k": "3", "--augment": "True", "--layer": "layer4", "--n-train": "50"}


# --- what a run reads ----------------------------------------------------------------------------------------------


def test_profiles_limit_the_data(monkeypatch):
    monkeypatch.setitem(PROFILES, "quick", (100, 30, 5))
    for options, sizes in (({}, (100, 30)), ({"profile": "paper"}, (1437, 360)), ({"profile": "fast"}, (1437, 360)),
                           ({"n_train": 50}, (50, 30)), ({"n_train": 200, "n_test": 9}, (200, 9))):
        assert tuple(len(part) for part in Run(Parameters(**options)).load_data()) == sizes


def test_data_of_a_run_are_those_of_its_seed():
    for seed in (0, 5):
        expected = load_dataset("digits", n_train=60, n_test=10, seed=seed)
        found = Run(Parameters(n_train=60, n_test=10, seed=seed)).load_data()
        assert [part.fingerprint() for part in found] == [part.fingerprint() for part in expected]


@pytest.mark.parametrize("options, images, epochs", [({}, 4999, 7), ({}, 5000, 3), ({"profile": "paper"}, 100, 60),
                                                     ({"profile": "fast"}, 100, 12),
                                                     ({"profile": "paper", "epochs": 3}, 100, 3)])
def test_epochs_of_the_profiles(options, images, epochs):
    assert Run(Parameters(**options)).epochs(range(images)) == epochs


@pytest.mark.parametrize("options, schedule", [({}, "linear"), ({"profile": "paper"}, "constant"),
                                               ({"profile": "fast"}, "linear"),
                                               ({"schedule": "constant"}, "constant"),
                                               ({"profile": "paper", "schedule": "linear"}, "linear")])
def test_schedules_of_the_profiles(options, schedule):
    assert Run(Parameters(**options)).schedule == schedule


def test_floor_of_the_accuracy():
    assert Run(Parameters(dataset="mnist")).floor > 0.9 > Run(Parameters(dataset="cifar10")).floor > 0.1
    for options in ({"dataset": "folder:x"}, {"epochs": 1}, {"n_train": 9}, {"stem": "cifar"}):
        assert Run(Parameters(**options)).floor == 0.1


@pytest.mark.parametrize("options, words", [
    ({"layer": 21}, "from 1 to 20"), ({"layer": "layer9.conv"}, "is no module"), ({"k": 61, "n_train": 60}, "k=61"),
    ({"k_max": 61, "n_train": 60}, "k_max=61"), ({"n_train": 1438}, "n_train=1438"), ({"n_test": 361}, "n_test=361"),
    ({"k": 51}, "k=51 is out of range.*k_max=50"), ({"device": "gpu"}, "device='gpu' cannot be used here"),
    ({"device": "cuda:99"}, "cuda.*99.*cannot be used here")])
def test_parameters_that_do_not_fit_the_data_are_found_before_any_work(options, words, root):
    with pytest.raises(ValueError, match=words):
        Run(Parameters(**options)).check()
    assert not root.exists()


def test_the_trained_network_is_loaded_for_the_data_it_was_trained_on(small):
    run = Run.start()
    net = resnet18_for(small[0], seed=4)
    with run.step("train", inputs={"train": small[0].fingerprint()}) as step:
        save_model(step.path("model.safetensors"), net, small[0])
    assert torch.equal(run.load_model(small[0]).conv1.weight, net.conv1.weight)
    with pytest.raises(RunError, match="not those that run digits-quick-seed0 was trained on.*01_train"):
        run.load_model(small[0].subset(range(100)))


# --- steps ---------------------------------------------------------------------------------------------------------


def test_a_finished_step_is_skipped_visibly(capsys):
    run = Run.start()
    options = {"settings": {"k": 3, "layers": (1, 2)}, "inputs": {"train": "abc"}}
    assert finish(run, "train", **options) and not finish(run, "train", **options)
    assert capsys.readouterr().out == "[train] running\n[train] skipped: its manifest matches\n"
    assert run.file("train", "result.txt").read_text() == "result"


def test_the_manifest_records_every_file_and_what_made_it():
    run = Run.start()
    with run.step("train", settings={"k": 3}, inputs={"train": "abc"}) as step:
        step.path("result.txt").write_text("result")
        step.path("deeper").mkdir()
        step.path("deeper/more.txt").write_text("more")
        step.path(".hidden").write_text("not a result")
    found = json.loads((run.path / "train" / "manifest.json").read_text())
    assert found == run.manifest("train")
    assert found["outputs"] == {name: hashlib.sha256(text).hexdigest() for name, text in (
        ("result.txt", b"result"), ("deeper/more.txt", b"more"))}
    assert (found["step"], found["settings"], found["inputs"]) == ("train", {"k": 3}, {"train": "abc"})
    assert found["versions"]["torch"] == version("torch") and found["seconds"] >= 0
    assert not list(run.path.rglob("*.part"))


def test_a_step_adds_files_in_further_blocks_even_later_and_its_seconds_are_those_of_all(monkeypatch):
    run, clock = Run.start(), iter([10.0, 12.5, 100.0, 103.0, 200.0, 300.0, 301.5])
    step = run.step("train")
    monkeypatch.setattr("ebe_utils.study.step.time", SimpleNamespace(perf_counter=lambda: next(clock)))

    def add(name):
        with step:
            step.path(name).write_text(name)
            if name == "fails":
                raise KeyboardInterrupt
        return run.manifest("train")

    assert add("first")["seconds"] == 2.5
    assert add("second")["seconds"] == 5.5
    whole = run.manifest("train")
    with pytest.raises(KeyboardInterrupt):
        add("fails")
    assert run.manifest("train") == whole
    step = run.step("train")
    assert not step.todo
    found = add("third")
    assert found["seconds"] == 7.0 and {*found["outputs"]} == {"first", "second", "fails", "third"}


@pytest.mark.parametrize("options", [{"settings": {"k": 4}, "inputs": {"train": "abc"}},
                                     {"settings": {"k": 3}, "inputs": {"train": "xyz"}}, {}])
def test_other_settings_or_inputs_do_a_step_again(options, capsys):
    run = Run.start()
    finish(run, "train", settings={"k": 3}, inputs={"train": "abc"})
    assert finish(run, "train", "other", **options)
    assert "running again: parameters or inputs have changed" in capsys.readouterr().out
    assert run.file("train", "result.txt").read_text() == "other"


@pytest.mark.parametrize("damage", [lambda f: f.unlink(), lambda f: f.write_text("resulT"), lambda f: f.write_text("")])
def test_a_missing_or_damaged_output_is_made_again(damage, capsys):
    run = Run.start()
    finish(run, "train")
    damage(run.path / "train" / "result.txt")
    assert finish(run, "train") and "result.txt is missing or damaged" in capsys.readouterr().out
    assert run.manifest("train")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"outputs": 3}', "\xff"])
def test_a_damaged_manifest_counts_as_none(content, capsys):
    run = Run.start()
    finish(run, "train")
    (run.path / "train" / "manifest.json").write_text(content, encoding="latin-1")
    with pytest.raises(RunError, match="manifest.json is damaged.*01_train.ipynb"):
        run.manifest("train")
    assert finish(run, "train") and run.manifest("train")
    assert "[train] running again: its manifest is damaged\n" in capsys.readouterr().out


@pytest.mark.parametrize("key", ["settings", "inputs", "outputs", "versions", "seconds", "device"])
@pytest.mark.parametrize("damage", [lambda found, key: found.pop(key), lambda found, key: found.update({key: None})])
def test_a_damaged_key_of_a_manifest_counts_as_none(key, damage, small):
    run = Run.start()
    finish(run, "train")
    found = run.manifest("train")
    damage(found, key)
    (run.path / "train" / "manifest.json").write_text(json.dumps(found))
    for use in (lambda: run.load_model(small[0]), lambda: run.step("sweep", needs=["train"])):
        with pytest.raises(RunError, match="manifest.json is damaged.*01_train.ipynb"):
            use()
    assert finish(run, "train") and not finish(run, "train")


def test_a_training_without_its_images_in_the_manifest_is_not_loaded(small):
    run = Run.start()
    finish(run, "train")
    with pytest.raises(RunError, match="not those that run digits-quick-seed0 was trained on"):
        run.load_model(small[0])


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_step_leaves_no_manifest_and_no_lock(error):
    run = Run.start()
    finish(run, "train")
    with pytest.raises(error), run.step("train", settings={"k": 4}) as step:
        step.path("result.txt").write_text("half")
        raise error
    assert not (run.path / "train" / "manifest.json").exists()
    with pytest.raises(RunError, match="has not run yet"):
        run.manifest("train")
    assert finish(run, "train", settings={"k": 4})


# --- what else decides a result: data, device, code ---


def draw_digits(root, n_test):
    """A data set of digits as a folder: 5 training and n_test test images for each of two classes."""
    found = load_dataset("digits")[0]
    for part, first, n in (("train", 0, 5), ("test", 5, n_test)):
        for label in (0, 1):
            folder = root / part / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            for i in np.flatnonzero(found.labels == label)[first:first + n]:
                Image.fromarray(found.images[i, 0].numpy()).save(folder / f"{i}.png")
    return f"folder:{root}"


@pytest.mark.parametrize("part", ["train", "test"])
def test_every_step_is_done_again_when_the_images_have_changed(tmp_path, part, capsys):
    options = {"dataset": draw_digits(tmp_path / "images", 4), "run": "mine"}
    Run.start(**options)
    assert finish(Run.open("mine"), "sweep") and not finish(Run.open("mine"), "sweep")
    for file in sorted((tmp_path / "images" / part / "1").iterdir())[::2]:
        file.unlink()
    assert finish(Run.open("mine"), "sweep") and not finish(Run.open("mine"), "sweep")
    assert "[sweep] running again: the data set has changed\n" in capsys.readouterr().out


def test_a_step_of_another_kind_of_device_is_done_again(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "a GPU")
    assert finish(Run.start(), "train")
    assert Run.open().manifest("train")["device_class"] == "cuda" and Run.open().manifest("train")["device"] == "a GPU"
    assert finish(Run.start(device="cpu"), "train"), "on the processor of the same machine"
    assert not finish(Run.open(), "train"), "the device of the last start"
    assert finish(Run.open(device="cuda:0"), "train") and not finish(Run.open(device="cuda:1"), "train")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert finish(Run.start(), "train"), "copied to a machine without one"
    assert "[train] running again: it was done on another kind of device\n" in capsys.readouterr().out


def test_a_device_that_is_none_is_refused_by_the_first_step():
    with pytest.raises(ValueError, match="device='gpu' is unknown"):
        Run.start(device="gpu").step("train")


def test_a_step_of_other_code_is_done_again(monkeypatch, capsys):
    run = Run.start()
    assert finish(run, "train") and finish(run, "sweep-avg") and finish(run, "new")
    monkeypatch.setitem(CODE, "sweep", 2)
    assert not finish(run, "train") and finish(run, "sweep-avg") and not finish(run, "new")
    assert not finish(run, "sweep-avg")
    assert "[sweep-avg] running again: its code has changed\n" in capsys.readouterr().out


def test_manifests_of_earlier_versions_hold(monkeypatch):
    """They lack code, device class, and, but for the training, the data."""
    run = Run.start()
    data = dict(zip(("train", "test"), (part.fingerprint() for part in run.load_data()), strict=True))
    finish(run, "train", inputs=data)
    finish(run, "sweep", needs=["train"])
    for step in ("train", "sweep"):
        file = run.path / step / "manifest.json"
        kept = {k: v for k, v in json.loads(file.read_text()).items() if k not in ("code", "device_class", "data")}
        file.write_text(json.dumps(kept))
    assert not run.step("train", inputs=data).todo and not run.step("sweep", needs=["train"]).todo
    other = Run.open()
    other._data = data | {"test": "other"}
    assert other.step("sweep", needs=["train"]).todo
    with monkeypatch.context() as patch:
        patch.setitem(CODE, "sweep", 2)
        assert run.step("sweep", needs=["train"]).todo
    file.write_text(json.dumps(kept | {"device": "NVIDIA H100"}))
    assert run.step("sweep", needs=["train"]).todo


def test_the_code_of_every_notebooks_step_has_a_version():
    assert set(CODE) == set(NOTEBOOK_OF)


# --- steps that need others ----------------------------------------------------------------------------------------


def test_a_step_is_done_again_when_what_it_needs_came_out_differently():
    run = Run.start()
    finish(run, "train")
    assert finish(run, "sweep", needs=["train"]) and not finish(run, "sweep", needs=["train"])
    finish(run, "train", settings={"k": 4})
    assert not finish(run, "sweep", needs=["train"]), "the same files came out"
    finish(run, "train", "other", settings={"k": 5})
    assert finish(run, "sweep", needs=["train"])


@pytest.mark.parametrize("step, notebook", [("train", "01_train"), ("embeddings", "02_embeddings"),
                                            ("attribution", "03_attribution"), ("sweep", "04_layer_sweep"),
                                            ("sweep-euclidean-avg", "04_layer_sweep"), ("figures", "05_figures")])
def test_what_is_needed_but_missing_or_damaged_names_notebook_and_command(step, notebook):
    run = Run.start(seed=3)
    for damage, words in ((None, "has not run yet"), ("result.txt", "result.txt is damaged or was changed")):
        if damage:
            finish(run, step)
            (run.path / step / damage).write_text("changed")
        for use in (lambda: run.step("next", needs=[step]), lambda: run.file(step, "result.txt")):
            with pytest.raises(RunError, match=words) as caught:
                use()
            assert f"notebooks/{notebook}.ipynb" in str(caught.value)
            assert "-m ebe_utils run --seed 3" in str(caught.value)


# --- locks ---------------------------------------------------------------------------------------------------------


def test_a_step_is_done_once_at_a_time_and_others_beside_it():
    run = Run.start()
    with run.step("train"):
        with pytest.raises(RunError, match="another process is working at step 'train' of run"), run.step("train"):
            pass
        assert finish(run, "sweep")
    assert run.manifest("train") and run.manifest("sweep")


def test_a_step_that_was_done_again_while_it_was_read_leaves_no_result():
    run = Run.start()
    finish(run, "train")
    step = run.step("sweep", needs=["train"])
    words = "'train' of run .* was done again while step 'sweep'.*04_layer_sweep"
    with pytest.raises(RunError, match=words), step, run.step("train", settings={"epochs": 2}) as again:
        again.path("result.txt").write_text("another")
    assert run.manifest("train")["settings"] == {"epochs": 2}
    with pytest.raises(RunError, match="'sweep' of run .* has not run yet"):
        run.manifest("sweep")


def test_a_lock_ends_with_its_block():
    run = Run.start()
    with run.lock(".sequence.lock"):
        for _ in range(2):
            with pytest.raises(RunError, match="another process"), run.lock(".sequence.lock"):
                pass
    with run.lock(".sequence.lock"):
        pass


def test_a_file_where_a_steps_folder_belongs():
    run = Run.start()
    (run.path / "train").write_text("in the way")
    step = run.step("train")
    assert step.todo
    with pytest.raises(RunError, match="train cannot be written"), step:
        pass
    (run.path / "train").unlink()
    with step:
        pass


def test_another_process_holds_the_run():
    code = ("from ebe_utils.study.run import Run\n"
            "with Run.start(run='shared').step('train') as step:\n"
            "    print('inside', flush=True)\n"
            "    step.path('result.txt').write_text(input())\n")
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as other:
        try:
            assert [other.stdout.readline() for _ in range(2)] == ["[train] running\n", "inside\n"]
            run = Run.start(run="shared")
            with pytest.raises(RunError, match="at step 'train' of run shared.*another name"):
                finish(run, "train")
        finally:
            other.communicate("theirs\n", timeout=60)
    assert other.returncode == 0
    assert run.file("train", "result.txt").read_text() == "theirs" and not finish(run, "train")


# --- files ---


def test_what_killed_processes_left_is_tidied_up():
    run = Run.start()
    finish(run, "train")
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    mine, theirs = (run.path / f".x.{number}.part" for number in (os.getppid(), ended.pid))
    inside = run.path / "train" / f".y.{os.getppid()}.part"
    for file in (mine, theirs, inside):
        file.touch()
    Run.start()
    assert mine.exists() and not theirs.exists(), "of a process that runs, of one that has ended"
    with run.step("train", settings={"k": 2}):
        assert not inside.exists(), "nobody else works in a step's folder while it is locked"


def test_what_a_manifest_vouches_for_is_on_the_disk_before_it(monkeypatch):
    done = []
    fsync, replaced = os.fsync, os.replace

    def note(name, call):
        def noted(*given):
            file = os.readlink(f"/proc/self/fd/{given[0]}") if name == "sync" else str(given[0])
            done.append((name, re.sub(r"\.\d+\.part$", ".part", file.rsplit("/", 1)[1])))
            return call(*given)
        return noted

    run = Run.start()
    monkeypatch.setattr("os.fsync", note("sync", fsync))
    monkeypatch.setattr("os.replace", note("rename", replaced))
    finish(run, "train")
    assert done == [("sync", "result.txt"), ("sync", ".manifest.json.part"), ("rename", ".manifest.json.part"),
                    ("sync", "train")]


# --- temporary files ------------------------------------------------------------------------------------------------


def test_a_text_that_cannot_be_written_keeps_the_old_file(tmp_path):
    path = tmp_path / "x.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
