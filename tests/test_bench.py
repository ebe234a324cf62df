"""The benchmark's arithmetic, on a few digits; how long anything takes is not tested."""

import argparse
import json
import subprocess
import sys
import types

import numpy as np
import pandas as pd
import pytest

from ebe_utils.upkeep import benchmark_explanations
from ebe_utils.upkeep.benchmark import main
from ebe_utils.upkeep.benchmark_explanations import EXPLAINERS
from ebe_utils.upkeep.benchmark_stages import STAGES, Clock
from ebe_utils.upkeep.benchmark_tables import ROWS, SAID, _agreement, benchmark_tables, stages_table, worse
from ebe_utils.upkeep.benchmark_ways import Bench

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
        patch.setattr("ebe_utils.upkeep.benchmark_ways._MUCH", 1e7)
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


def test_some_ways_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ebe_utils.upkeep.benchmark.subprocess.run", measured_here)
    main(["--train=60", "--test=20", "--layers=14", "--epochs=1", "--ways=engine=torch engine=bounded"])
    printed = capsys.readouterr().out
    assert ROWS["engine=torch"] in printed and ROWS["engine=bounded"] in printed


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


def test_stages_make_up_the_search_of_each_layer(saved):
    ours = saved["layers"].query("way == 'engine=bounded'")
    assert (ours[list(STAGES)] >= 0).all(axis=None) and (ours[["choice", "distances"]] > 0).all(axis=None)
    # What is left is the wait for threads, and what the engine's front door checks.
    assert (ours[list(STAGES)].sum(axis=1) < 1.05 * ours["seconds"]).all()
    assert saved["layers"].query("way != 'engine=bounded'")[list(STAGES)].isna().all(axis=None)


def test_a_clock_stops_for_the_stage_within(monkeypatch):
    now = iter([0, 3, 10, 12])
    monkeypatch.setattr("ebe_utils.upkeep.benchmark_stages.perf_counter", lambda: next(now))
    clock = Clock()
    with clock.stage("outer"), clock.stage("inner", threads=2):
        pass
    assert dict(clock.spent) == {"outer": 3 + 2, "inner": 7 / 2}


def test_stages_by_hand():
    table = pd.DataFrame({"way": [ROWS["forward"], ROWS["engine=bounded"]], "seconds": [10, 40]})
    layers = pd.DataFrame({"way": ["limit", "engine=bounded"], "layer": [1, 1], "dimension": [1000, 1000],
                           "seconds": [20, 25], "directions": [None, 100], "coarse": [None, 18], "exact": [None, 0.01],
                           **{stage: [None, place + 1] for place, stage in enumerate(STAGES)}})
    found = stages_table(table, layers, {"test images": 10_000, "training images": 40_000}).set_index("stage")
    assert found["seconds"].to_dict() == {
        "the bare forward pass": "10.0", "embeddings kept, and all else": "5.0", SAID["choice"]: "1.0",
        SAID["projection"]: "2.0", SAID["products"]: "3.0", SAID["picking"]: "4.0", SAID["first"]: "5.0",
        SAID["distances"]: "6.0", "the whole sweep": "40.0"}
    assert found.loc[SAID["projection"], "rate"] == "5 of 40 GFLOP/s"  # 2 · 50,000 · 1,000 · 100 in 2 s
    assert found.loc[SAID["products"], "rate"] == "5 of 40 GFLOP/s"  # 2 · 4e8 · 20 in 3 s
    assert found.loc[SAID["distances"], "rate"] == "3 GB/s"  # 4 · 0.01 · 4e8 · 1,000 in 6 s
    assert found.loc["the bare forward pass", "%"] == "25"


def test_a_benchmark_without_stages_has_no_table_of_them(tmp_path):
    for name, more in (("old", {}), ("new", dict.fromkeys(STAGES, [1, 1]))):
        (tmp_path / name).mkdir()
        pd.DataFrame({"way": [ROWS["forward"], ROWS["engine=bounded"]], "seconds": [1, 8], "x forward": [1, 8],
                      "peak GiB": 1, "queries": 1}).to_csv(tmp_path / name / "table.csv")
        pd.DataFrame({"way": ["limit", "engine=bounded"], "dimension": 9, "seconds": [1, 7], "directions": 1,
                      "coarse": 1, "exact": 0.1, **more}).to_csv(tmp_path / name / "layers.csv")
        (tmp_path / name / "about.json").write_text('{"test images": 3, "training images": 5}')
    pd.DataFrame({"way": ["ours"], "layer": [1], "one (ms)": [7.123]}).to_csv(tmp_path / "old" / "explanations.csv",
                                                                          index=False)
    tables = benchmark_tables(tmp_path)
    assert set(tables) == {"benchmark old", "explanations old", "benchmark new", "stages new"}
    assert tables["explanations old"].to_numpy().tolist() == [["ours", 1, 7.12]]


# --- against an earlier table ---------------------------------------------------------------------------------------


def times(forward, faiss, ours):
    return pd.DataFrame({"way": [ROWS[row] for row in ("forward", "faiss-flat", "engine=bounded")],
                         "seconds": [forward, faiss, ours]})


@pytest.mark.parametrize(("now", "lines"), [
    ((10, 40, 30), []), ((20, 80, 60), []), ((10, 40, 39), []), ((10, 40, 20), []),
    ((10, 40, 41), ["4.10 times the bare forward pass, and took 3.00", "1.02 times FAISS IndexFlatIP"]),
    ((10, 60, 41), ["4.10 times the bare forward pass"]), ((20, 40, 50), ["1.25 times FAISS IndexFlatIP"])])
def test_a_ratio_that_got_worse_by_more_than_a_third_is_named(now, lines):
    found = worse(times(*now), times(10, 40, 30))
    assert len(found) == len(lines)
    assert all(words in line for words, line in zip(lines, found, strict=True))


def test_a_way_that_was_not_measured_is_not_compared():
    assert not worse(times(10, 40, 90).iloc[[0, 2]], times(10, 40, 30).iloc[1:])


def test_the_command_fails_where_ours_got_slower(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ebe_utils.upkeep.benchmark.subprocess.run", measured_here)
    words = ["--train", "60", "--test", "20", "--layers", "14", "--epochs", "1", "--ways", "limits", "engine=bounded"]
    kept = tmp_path / "kept"
    assert main([*words, "--save", str(kept), "--against", str(kept)]) == 0  # the first time
    assert "nothing to compare with" in capsys.readouterr().err
    table = pd.read_csv(kept / "table.csv")
    for factor, code in ((1000, 0), (0.001, 1)):  # ours was so much slower, or faster, then
        table.assign(seconds=table["seconds"].where(table["way"] != ROWS["engine=bounded"], table["seconds"] * factor)
                     ).to_csv(kept / "table.csv", index=False)
        assert main([*words, "--against", str(kept)]) == code
        assert ("times the bare forward pass" in capsys.readouterr().err) == bool(code)
    with pytest.raises(ValueError, match="another benchmark: test images 20, here 30"):
        main([*words, "--test", "30", "--against", str(kept)])


def test_the_command_is_a_command():
    """`make bench` starts the module, which must do something, not only be imported."""
    command = [sys.executable, "-m", "ebe_utils.upkeep.benchmark", "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "--against" in done.stdout, done.stderr


# --- one explanation ------------------------------------------------------------------------------------------------


def test_explanations_are_measured_at_each_layer(tmp_path, monkeypatch):
    monkeypatch.setattr("ebe_utils.upkeep.benchmark.subprocess.run", measured_here)
    main(["--train", "200", "--test", "20", "--epochs", "1", "--ways", "limits", "--explain", "14", "20",
          "--explainers", *EXPLAINERS, "--save", str(tmp_path)])
    table = pd.read_csv(tmp_path / "explanations.csv")
    assert list(zip(table["way"], table["layer"], strict=True)) == [
        (name, layer) for layer in (14, 20) for name in EXPLAINERS.values()]
    assert (table["ready (s)"] > 0).all() and np.isfinite(table["one (ms)"]).all()
    assert table["beyond (ms)"].notna().tolist() == [key in ("ours", "network") for key in EXPLAINERS] * 2
    assert table.set_index("way")["1000 (s)"].isna().groupby(level=0).all().to_dict() == {
        name: key == "captum" for key, name in EXPLAINERS.items()}  # Captum gets one query


@pytest.mark.parametrize("way", ["faiss", "captum"])
def test_the_explainers_find_the_same_examples(way, tmp_path):
    """What is timed beside ours is the same search."""
    options = argparse.Namespace(dataset="digits", train=200, test=20, stem="imagenet", epochs=1, network=None,
                                 layers=None, folder=str(tmp_path))
    bench = Bench(options)
    ours = benchmark_explanations._ours(bench, 14, bench.train)(bench.test.images[:5]).indices
    found = getattr(benchmark_explanations, f"_{way}")(bench, 14, bench.train)(bench.test.images[:5])
    assert np.mean([np.isin(a, b).mean() for a, b in zip(ours, found[1], strict=True)]) > 0.98
