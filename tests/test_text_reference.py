"""The committed tables of notebook 12's runs agree with each other, and with what is computed from them anew."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from ebe_utils.files import sha256
from ebe_utils.statistics import paired_difference
from ebe_utils.study.claims import judge_other_claims
from ebe_utils.study.domains import DomainRun
from ebe_utils.study.step import RunError
from ebe_utils.upkeep.committed import REFERENCE, keep_domain_run

FOLDERS = sorted((REFERENCE / "text").glob("text-trec-seed*"))


def test_three_seeds_are_kept():
    assert [folder.name for folder in FOLDERS] == [f"text-trec-seed{seed}" for seed in range(3)]
    trained = [json.loads((folder / "text-train" / "manifest.json").read_text()) for folder in FOLDERS]
    assert len({manifest["data"]["train"] for manifest in trained}) == 1  # the official questions
    assert len({json.dumps(manifest["settings"]) for manifest in trained}) == 1
    assert len({manifest["not_kept"]["model.safetensors"] for manifest in trained}) == 3  # three networks


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
class TestRun:
    def test_every_table_is_what_its_manifest_says(self, folder):
        for step in ("text-train", "text"):
            manifest = json.loads((folder / step / "manifest.json").read_text())
            tables = {file.name for file in (folder / step).iterdir()} - {"manifest.json"}
            assert tables == set(manifest["outputs"])
            for name, digest in manifest["outputs"].items():
                assert sha256(folder / step / name) == digest

    def test_accuracies_are_those_of_the_counts(self, folder):
        sweep = pd.read_csv(folder / "text" / "sweep.csv").set_index(["layer", "k"])
        together = pd.read_csv(folder / "text" / "together.csv", index_col=0)
        n = together.loc["all", "all"]
        assert n == 500
        assert together.loc["network", "network"] / n == pytest.approx(sweep["network_accuracy"].iloc[0])
        history = pd.read_csv(folder / "text-train" / "history.csv")
        assert history["test_accuracy"].iloc[-1] == pytest.approx(sweep["network_accuracy"].iloc[0], abs=1e-5)
        for predictor in together.index.drop(["all", "network"]):
            layer, k = map(int, predictor.split("/"))
            assert together.loc[predictor, predictor] / n == pytest.approx(sweep["accuracy"][layer, k], abs=1e-5)
        # Both right is at most agreement, and agreement at most what both right and both wrong leave room for.
        for layer, k in sweep.index:
            if f"{layer}/{k}" in together:
                both = together.loc["network", f"{layer}/{k}"] / n
                assert both - 1e-6 <= sweep["agreement"][layer, k]
        whole = sweep["agreement"] - sweep["where wrong"] * (1 - sweep["network_accuracy"])
        assert whole.between(-1e-6, 1).all()

    def test_claims_and_summary_follow(self, folder):
        sweep = pd.read_csv(folder / "text" / "sweep.csv")
        together = pd.read_csv(folder / "text" / "together.csv", index_col=0)
        layers = sorted(sweep["layer"].unique())
        claims = pd.read_csv(folder / "text" / "claims.csv", dtype={"claim": str})
        anew = judge_other_claims(together, layers, seed=int(re.search(r"\d+$", folder.name)[0]))
        assert claims["verdict"].tolist() == anew["verdict"].tolist()
        np.testing.assert_allclose(claims["measured"], anew["measured"], atol=1e-5)
        summary = pd.read_csv(folder / "text" / "summary.csv").set_index("explanation")
        at = sweep.set_index(["layer", "k"])
        for layer in at.index.get_level_values("layer").unique():
            for mine, theirs in (("accuracy", "accuracy"), ("agreement", "agreement"), ("where wrong", "where wrong")):
                assert summary[mine][f"layer {layer}, k = 10"] == pytest.approx(at[theirs][layer, 10], abs=1e-5)
        lead = paired_difference(together, f"{layers[-1]}/10", "network")["difference"]
        assert lead == pytest.approx(at["accuracy"][layers[-1], 10] - sweep["network_accuracy"].iloc[0], abs=1e-5)


def test_tables_are_kept_with_their_manifests_and_only_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("EBE_RUNS_DIR", str(tmp_path / "runs"))
    run = DomainRun("text", "trec", 7, {"train": "a", "test": "b"}, "cpu")
    with run.step("text-train") as step:
        step.path("history.csv").write_text("epoch\n1\n")
        step.path("model.safetensors").write_bytes(b"weights")
    with pytest.raises(RunError, match="no whole step 'text' in .*; run notebooks/12_text.ipynb"):
        keep_domain_run(run.name, tmp_path / "kept")
    with run.step("text", needs=["text-train"]) as step:
        step.path("sweep.csv").write_text("k\n1\n")
    target = keep_domain_run(run.name, tmp_path / "kept")
    assert target == tmp_path / "kept" / "text" / "text-trec-seed7"
    assert sorted(file.relative_to(target).as_posix() for file in target.rglob("*.*")) == [
        "text-train/history.csv", "text-train/manifest.json", "text/manifest.json", "text/sweep.csv"]
    assert list(json.loads((target / "text-train" / "manifest.json").read_text())["not_kept"]) == ["model.safetensors"]
