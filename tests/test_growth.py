"""The growth of time and memory, on a few thousand rows; how long anything takes is not tested."""

import contextlib
import io
import json
import types

import numpy as np
import pandas as pd
import pytest

from ebe_utils.upkeep.domain_tables import growth_table
from ebe_utils.upkeep.growth import QUERIES, WAYS, main
from ebe_utils.upkeep.simulation import FOLDER, Simulation

SPECTRUM = pd.read_csv(FOLDER / "spectrum.csv")


def test_the_simulation_has_the_layers_mean_and_variances():
    sim = Simulation(SPECTRUM, seed=3)
    rows, labels = sim.block(0)
    other, _ = sim.block(1)
    both = np.concatenate([rows, other]).astype(float)
    first = slice(0, 50)  # 50 of 2,048 directions, over half of the variance
    assert SPECTRUM["variance"][first].sum() > 0.55 * SPECTRUM["variance"].sum()
    np.testing.assert_allclose(both.var(0)[first].sum(), SPECTRUM["variance"][first].sum(), rtol=0.05)
    np.testing.assert_allclose(both.mean(0)[first], SPECTRUM["mean"][first],
                               atol=6 * np.sqrt(SPECTRUM["variance"][0] / 1000))
    within = rows - sim.centers[labels]
    left = (SPECTRUM["variance"] - SPECTRUM["between"])[first].sum()
    np.testing.assert_allclose((within**2).mean(0)[first].sum(), left, rtol=0.05)
    np.testing.assert_array_equal(Simulation(SPECTRUM, seed=3).block(0)[0], rows)
    assert not np.array_equal(other, rows) and not np.array_equal(Simulation(SPECTRUM, seed=4).block(0)[0], rows)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The table of a small run, whose ways are measured in this process, and what it saved."""
    pytest.importorskip("faiss")

    def here(command, **_):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            main(command[3:])
        return types.SimpleNamespace(returncode=0, stdout=out.getvalue(), stderr="")

    folder = tmp_path_factory.mktemp("growth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ebe_utils.upkeep.growth.subprocess.run", here)
        patch.setattr("ebe_utils.upkeep.growth.SHARD", 1000)
        patch.setattr("ebe_utils.upkeep.growth.PART", 2000)
        patch.setattr("ebe_utils.upkeep.growth.FITS", 2048 * 4 * 2500)  # the larger size is searched block by block
        main(["--sizes", "2000", "5000", "--folder", str(folder / "work"), "--save", str(folder / "kept")])
    return pd.read_csv(folder / "kept" / "growth.csv"), folder


def test_every_way_is_measured_and_the_exact_ones_find_all(measured):
    table, folder = measured
    assert table["embeddings"].tolist() == [2000] * 6 + [5000] * 6 and table["way"].tolist() == [*WAYS] * 2
    by = table.set_index(["way", "embeddings"])
    assert (by.loc[["ask", "parts", "stream"], "recall"] == 1).all() and (by.loc["flat", "recall"] > 0.99).all()
    assert ((by.loc["ivf", "recall"] > 0.2) & (by.loc["ivf", "recall"] <= 1)).all()
    assert by.loc["flat", "build"].notna().tolist() == [True, False]
    rows = np.fromfile(folder / "work" / "rows", np.float32).reshape(5000, 2048)
    queries = Simulation(SPECTRUM).block(-1)[0][:QUERIES]
    unit, asked = (part / np.linalg.norm(part.astype(float), axis=1, keepdims=True) for part in (rows, queries))
    truth = np.argsort(-(asked @ unit.T), axis=1, kind="stable")[:, :10]
    np.testing.assert_array_equal(np.load(folder / "work" / "ask-5000.npz")["indices"], truth)
    assert json.loads((folder / "kept" / "about.json").read_text())["k"] == 10
    assert not [path for path in (folder / "work").iterdir() if path.is_dir()]


def test_the_table_shows_what_was_measured(measured):
    shown = growth_table(measured[0])
    assert len(shown) == 12 and shown["embeddings"].iloc[-1] == "5,000"
    assert shown["recall"][shown["way"] == "one pass, no index"].tolist() == ["1.000", "1.000"]
