"""The benchmark's arithmetic, on a few digits; how long anything takes is not tested."""

import json
import types

import numpy as np
import pandas as pd
import pytest

from ebe_utils.upkeep.benchmark import main
from ebe_utils.upkeep.benchmark_tables import ROWS, _agreement

WAYS = ["limits", "sklearn", "engine=torch", "engine=bounded"]


def measured_here(command, **_):
    main(command[3:])
    return types.SimpleNamespace(returncode=0)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The tables of a small benchmark whose ways are measured in this process."""
    folder = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ebe_utils.upkeep.benchmark.subprocess.run", measured_here)
        patch.setattr("ebe_utils.upkeep.benchmark._MUCH", 1e7)
        main(["TRAIN=320", "TEST=60", "--layers", "1", "14", "--epochs", "1", "--queries", "20", "--growth", "10",
                    "--save", str(folder), "--ways", *WAYS])
    return {file.stem: pd.read_csv(file) for file in folder.glob("*.csv")} | {
        "about": json.loads((folder / "about.json").read_text())}


def test_ways_agree_and_ratios_are_of_the_same_table(saved):
    table = saved["table"].set_index("way")
    ways = [ROWS[row] for row in ("paper", "sklearn", "engine=torch", "engine=bounded")]
    assert table.index.tolist() == [ROWS["forward"], ROWS["limit"], *ways]
    assert (table.loc[ways, "other votes"] == ["0 of 240", "0 of 240", "0 of 240", "0 of 240"]).all()
    assert table.loc[ways[2], "other neighbours"] == "0 of 6,000"
    assert (table.loc[ways, "distances differ by"] < 1e-6).all()
    assert table.loc[ways, "queries"].tolist() == [20, 20, 60, 60]
    seconds = table["seconds"]
    np.testing.assert_allclose(table["x forward"], seconds / seconds.iloc[0], rtol=1e-3)
    np.testing.assert_allclose(table["x ours"], seconds / seconds.iloc[-1], rtol=1e-3)
    assert (table["peak GiB"] > 0.1).all()


def test_one_way_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ebe_utils.upkeep.benchmark.subprocess.run", measured_here)
    main(["--train", "60", "--test", "20", "--layers", "14", "--epochs", "1", "--ways", "engine=torch"])
    assert ROWS["engine=torch"] in capsys.readouterr().out


def test_disagreement_is_counted(tmp_path):
    at = np.arange(12).reshape(3, 4)
    np.savez(tmp_path / "engine=bounded.npz", rows=[0, 1, 2], **{"indices.5": at, "distances.5": at / 100})
    np.savez(tmp_path / "paper.npz", rows=[0, 1, 2], **{"votes.5": at})
    np.savez(tmp_path / "sklearn.npz", rows=[2, 7], **{"indices.5": at[[2, 2]] + [0, 1, 0, 2], "votes.5": at[[2, 1]],
                                                      "distances.5": at[[2, 2]] / 100 + 0.25})
    found = _agreement(tmp_path, "sklearn")
    assert found["other neighbours"] == "2 of 4"
    assert found["other votes"] == "0 of 4"
    assert found["distances differ by"] == pytest.approx(0.25)
    assert _agreement(tmp_path, "paper") == {"other votes": "0 of 12"}


def test_layers_and_growth_are_tidy(saved):
    layers, growth = saved["layers"], saved["growth"]
    assert (layers.groupby("way")["layer"].apply(list).map(tuple) == (1, 14)).all()
    assert (layers.set_index("layer").loc[14, "dimension"] == 1024).all()
    assert layers.loc[layers["way"] == "engine=bounded", "exact"].between(0, 1).all()
    assert growth.groupby("way")["training images"].apply(list).map(tuple).unique().tolist() == [(20, 40, 80, 160, 320)]
    assert set(growth["way"]) == {"forward", "limit", "engine=bounded"}
    assert saved["about"]["training images"] == 320
    assert saved["about"]["versions"].keys() >= {"torch", "scikit-learn"}
