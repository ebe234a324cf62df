"""Snapshots of a training, recipes, and the tables that are kept of them."""

import numpy as np
import pandas as pd
import pytest
import torch

from ebe_utils import conv_layers, embed, layer_neighbors, load_dataset, resnet18_for, train
from ebe_utils.study.claims import judge_claims
from ebe_utils.study.recipes import DEFAULT, RECIPES, judge_readings, norm_after, train_recipe, with_channels
from ebe_utils.study.snapshots import (
    AVERAGE,
    load_snapshots,
    read_together,
    shares_of_epochs,
    snapshot_tables,
    swept_training,
    train_snapshots,
    verdicts_over,
    write_together,
)
from ebe_utils.tables import joint_correctness
from ebe_utils.upkeep import conditions

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def trained_snapshots(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("snapshots")
    files = train_snapshots(*small, [1, 2, 3], folder, batch_size=50, progress=False)
    return folder, files


def test_a_snapshot_is_the_network_of_a_training_that_ended_there(small, trained_snapshots):
    _, files = trained_snapshots
    loaded = dict(load_snapshots(files, small[0]))
    assert list(loaded) == ["1", "2", "3"]
    for epoch in (2, 3):
        alone = train(resnet18_for(small[0]), *small, epochs=epoch, batch_size=50, progress=False).state_dict()
        for name, tensor in loaded[str(epoch)].state_dict().items():
            assert torch.equal(tensor, alone[name]), name


def test_finished_snapshots_are_not_trained_again(small, trained_snapshots):
    folder, files = trained_snapshots
    before = {file: file.stat().st_mtime_ns for file in files.values()}
    again = train_snapshots(*small, [1, 3], folder, batch_size=50, progress=False)
    assert again == {epoch: files[epoch] for epoch in (1, 3)}
    assert {file: file.stat().st_mtime_ns for file in files.values()} == before
    with pytest.raises(ValueError, match="need schedule='constant'"):
        train_snapshots(*small, [1], folder, schedule="linear")


def test_a_swept_training_is_the_sweep_of_its_snapshots(small, trained_snapshots):
    _, files = trained_snapshots
    layers, deep = swept_training(*small, [2, 3], 5, [14], batch_size=50, average=2)
    assert list(dict.fromkeys(layers["snapshot"])) == ["2", "3", AVERAGE]
    last = dict(load_snapshots(files, small[0]))["3"]
    found = layer_neighbors(last, *small, k=5, progress=False)
    part = layers[layers["snapshot"] == "3"].set_index("layer")["accuracy"]
    assert part.to_dict() == {layer: found.accuracy(layer, 5) for layer in found.names}
    assert deep["raw"].item() == pytest.approx(part[14], abs=0.02)


def test_the_average_has_the_mean_weights_and_statistics_of_its_own(small, trained_snapshots):
    _, files = trained_snapshots
    *loaded, (name, mean) = load_snapshots(files, small[0], [2, 3])
    assert name == AVERAGE and len(loaded) == 3
    two, three = (dict(net.named_parameters()) for _, net in loaded[1:])
    for key, value in mean.named_parameters():
        torch.testing.assert_close(value, (two[key] + three[key]) / 2, rtol=1e-5, atol=1e-7)
    # One batch holds all images, so the first layer's statistics are those of its output over all of them.
    maps = embed(mean, small[0], "conv1").reshape(len(small[0]), 64, -1)
    np.testing.assert_allclose(mean.bn1.running_mean, maps.mean((0, 2)), rtol=1e-3, atol=1e-4)
    assert not any(p.requires_grad for p in mean.parameters()) and not mean.training


@pytest.fixture(scope="module")
def swept(small, trained):
    return layer_neighbors(trained, *small, k=10, progress=False)


def test_tables_of_a_snapshot_are_counts_of_its_votes(swept):
    layers, together = snapshot_tables(swept, [1, 5])
    pd.testing.assert_frame_equal(together, joint_correctness(swept, [1, 5]))
    wrong = swept.network != swept.test_labels
    assert wrong.any()
    for row in layers.to_dict("records"):
        said = swept.votes(row["layer"])[:, row["k"] - 1]
        assert row["accuracy"] == pytest.approx(np.mean(said == swept.test_labels))
        assert row["agreement"] == pytest.approx(np.mean(said == swept.network))
        assert row["where wrong"] == pytest.approx(np.mean(said[wrong] == swept.network[wrong]))
        assert row["network_accuracy"] == pytest.approx(1 - wrong.mean())


def test_counts_survive_the_file(swept, tmp_path):
    tables = {"1": joint_correctness(swept, [1, 5]), AVERAGE: joint_correctness(swept, [3])}
    write_together(tmp_path / "t.csv.gz", tables)
    found = read_together(tmp_path / "t.csv.gz")
    assert list(found) == ["1", AVERAGE]
    for name, table in tables.items():
        np.testing.assert_array_equal(found[name], table)
        assert [*found[name].index] == [*found[name].columns] == [*table.index]


def test_shares_of_epochs_count_verdicts():
    said = {"1": "holds", "2": "holds", "9": "does not hold", "10": "undecided", AVERAGE: "holds"}
    verdicts = pd.DataFrame([{"snapshot": name, "claim": "1a", "measured": 0, "low": 0, "high": 0, "verdict": verdict}
                             for name, verdict in said.items()]
                            + [{"snapshot": "1", "claim": "2a", "measured": 0, "low": 0, "high": 0,
                                "verdict": "does not apply"}])
    (row,) = shares_of_epochs(verdicts, last=2).to_dict("records")
    assert row == {"claim": "1a", "snapshots": 4, "holds": 2, "undecided": 1, "does not hold": 1, "of the last": 2,
                   "holds at last": 0, "undecided at last": 1, "does not hold at last": 1, AVERAGE: "holds"}


def test_verdicts_over_are_those_of_each_snapshot(swept):
    together = joint_correctness(swept, [1, 3, 5, 10])
    found = verdicts_over({"1": together, "2": together}, "mnist")
    alone = judge_claims(together, "mnist")
    for snapshot in ("1", "2"):
        part = found[found["snapshot"] == snapshot].drop(columns="snapshot").reset_index(drop=True)
        pd.testing.assert_frame_equal(part, alone.drop(columns="text"))


# --- recipes --------------------------------------------------------------------------------------------------------


def test_the_norm_after_a_convolution_is_the_next_module(small):
    model = resnet18_for(small[0])
    norms = [name for name, module in model.named_modules() if isinstance(module, torch.nn.BatchNorm2d)]
    order = [norm_after(conv) for conv in conv_layers(model).values()]
    assert sorted(order) == sorted(norms)
    names = [name for name, _ in model.named_modules()]
    for conv, norm in zip(conv_layers(model).values(), order, strict=True):
        between = names[names.index(conv) + 1:names.index(norm)]
        assert not between, (conv, norm)


def test_three_equal_channels(small):
    coloured = with_channels(small[0], 3)
    assert coloured.shape == (3, 28, 28)
    assert all(torch.equal(coloured.images[:, channel], small[0].images[:, 0]) for channel in range(3))
    assert with_channels(coloured, 3) is coloured


@pytest.mark.parametrize("recipe", ["SGD, momentum 0.9", "three channels"])
def test_a_recipe_is_a_training_with_its_arguments(small, recipe, monkeypatch):
    seen = {}
    monkeypatch.setattr("ebe_utils.study.recipes.train", lambda model, *sets, **given: seen.update(given) or model)
    model, train_set, _ = train_recipe(recipe, *small, epochs=2, seed=5)
    assert seen["epochs"] == 2 and seen["seed"] == 5
    assert model.conv1.in_channels == train_set.shape[0] == RECIPES[recipe].get("channels", 1)
    assert seen.get("optimizer") == RECIPES[recipe].get("optimizer")


def test_readings_are_judged_as_sweeps_of_their_own(small, trained):
    claims, layers = judge_readings(trained, *small, "mnist", k_max=10, k=5)
    assert claims.groupby("reading").size().to_dict() == dict.fromkeys([DEFAULT, "batch norm", "pooled", "Euclidean"],
                                                                       10)
    settings = {DEFAULT: {}, "pooled": {"pooling": "avg"}, "Euclidean": {"metric": "euclidean"},
                "batch norm": {"layers": [norm_after(name) for name in conv_layers(trained).values()]}}
    for reading, given in settings.items():
        found = layer_neighbors(trained, *small, k=10, pixels=False, progress=False, **given)
        part = layers[layers["reading"] == reading]
        assert part["accuracy"].tolist() == [found.accuracy(layer, 5) for layer in found.names]
    deep = layers[(layers["reading"] == DEFAULT) & (layers["layer"] > 10)]
    assert deep["mean_cosine"].notna().all() and layers["mean_cosine"].notna().sum() == len(deep) == 10


# --- what is kept ---------------------------------------------------------------------------------------------------


def test_a_recipe_is_kept_once(small, tmp_path, monkeypatch):
    def tables(model, train_set, test_set, dataset):
        return (pd.DataFrame({"claim": ["1a"], "verdict": ["holds"], "reading": [DEFAULT]}),
                pd.DataFrame({"layer": [1], "accuracy": [0.5], "reading": [DEFAULT]}))

    trainings = []
    monkeypatch.setattr(conditions, "judge_readings", tables)
    monkeypatch.setattr(conditions, "train_recipe",
                        lambda recipe, *sets: trainings.append(recipe) or (None, *sets[:2]))
    for recipe, seed in ((DEFAULT, 0), ("SGD", 0), (DEFAULT, 0), (DEFAULT, 1)):
        conditions.keep_recipe("digits", recipe, seed, tmp_path, 100, 50, 1)
    assert trainings == [DEFAULT, "SGD", DEFAULT]
    kept = pd.read_csv(tmp_path / "claims.csv")
    assert kept[["recipe", "seed"]].values.tolist() == [[DEFAULT, 0], ["SGD", 0], [DEFAULT, 1]]
    with pytest.raises(ValueError, match="there is no recipe 'Adam'"):
        conditions.keep_recipe("digits", "Adam", 0, tmp_path)


def test_snapshots_are_kept_and_judged(tmp_path, monkeypatch):
    monkeypatch.setenv("EBE_RUNS_DIR", str(tmp_path / "runs"))
    small = load_dataset("digits", n_train=150, n_test=40)
    monkeypatch.setattr("ebe_utils.study.run.Run.load_data", lambda self: small)
    folder = conditions.keep_snapshots("digits-paper-seed0", tmp_path / "kept", [1, 2], 2, tmp_path)
    together = read_together(folder / "together.csv.gz")
    assert list(together) == ["1", "2", AVERAGE]
    verdicts = pd.read_csv(folder / "verdicts.csv")
    again = verdicts_over(together, "digits")
    pd.testing.assert_frame_equal(verdicts, again, rtol=1e-4, atol=1e-4)
    layers = pd.read_csv(folder / "layers.csv")
    at = layers[(layers["layer"] == 14) & (layers["k"] == 10)].set_index("snapshot")["accuracy"]
    assert {name: table.loc["14/10", "14/10"] / 40 for name, table in together.items()} == pytest.approx(at.to_dict())
    geometry = pd.read_csv(folder / "geometry.csv", dtype={"snapshot": str})
    assert sorted(geometry["layer"].unique()) == [12, 14, 15, 16, 20]
    blocks = pd.read_csv(tmp_path / "blocks.csv")  # of the last snapshot
    assert blocks[["dataset", "images", "epochs", "optimizer", "seed"]].drop_duplicates().values.tolist() == [
        ["digits", 150, 2, "adam", 0]]
    both = blocks.merge(geometry[geometry["snapshot"] == "2"], "inner", "layer")
    assert len(both) == 5 and both["top_x"].tolist() == pytest.approx(both["top_y"].tolist(), rel=1e-3)
    network = layers[layers["snapshot"].astype(str) == "2"]
    assert blocks["network"].iloc[0] == pytest.approx(network["network_accuracy"].iloc[0])
