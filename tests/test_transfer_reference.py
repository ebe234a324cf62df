"""The committed tables of notebook 14's runs on CIFAR-10 agree with each other, and with what is computed anew."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from ebe_utils.files import sha256
from ebe_utils.study.claims import judge_other_claims
from ebe_utils.upkeep.committed import REFERENCE
from ebe_utils.upkeep.domain_tables import domains_table, labels_table, transfer_table

FOLDERS = sorted((REFERENCE / "transfer").glob("transfer-cifar10-seed*"))


def test_the_seeds_are_runs_of_one_kind_on_different_images():
    assert [folder.name for folder in FOLDERS] == [f"transfer-cifar10-seed{seed}" for seed in range(3)]
    trained = [json.loads((folder / "transfer-train" / "manifest.json").read_text()) for folder in FOLDERS]
    assert len({json.dumps(manifest["settings"]) for manifest in trained}) == 1
    assert len({manifest["data"]["train"] for manifest in trained}) == len(FOLDERS)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_tables_are_what_manifests_say_and_agree(folder):
    for step in ("transfer-train", "transfer"):
        manifest = json.loads((folder / step / "manifest.json").read_text())
        assert {file.name for file in (folder / step).iterdir()} - {"manifest.json"} == set(manifest["outputs"])
        for name, digest in manifest["outputs"].items():
            assert sha256(folder / step / name) == digest
    sweep = pd.read_csv(folder / "transfer" / "sweep.csv", dtype={"layer": str}).set_index(["layer", "k"])
    together = pd.read_csv(folder / "transfer" / "together.csv", index_col=0)
    n = together.loc["all", "all"]
    answers = pd.read_csv(folder / "transfer-train" / "answers.csv")
    assert len(answers) == n == 2000
    for predictor in together.index.drop(["all", "network"]):
        layer, k = predictor.split("/")
        assert together.loc[predictor, predictor] / n == pytest.approx(sweep["accuracy"][layer, int(k)], abs=1e-5)
    summary = pd.read_csv(folder / "transfer" / "summary.csv")
    assert (summary.loc[summary["network"] == "probe", "its accuracy"] - together.loc["network", "network"] / n
            ).abs().max() < 1e-5
    curve = pd.read_csv(folder / "transfer" / "curve.csv").set_index(["predictor", "labelled"])
    assert curve["accuracy"]["probe", 1000] == pytest.approx(together.loc["network", "network"] / n, abs=1e-5)
    assert curve["agreement"]["features, k = 10", 1000] == pytest.approx(sweep["agreement"]["features", 10], abs=1e-5)
    claims = pd.read_csv(folder / "transfer" / "claims.csv", dtype={"claim": str})
    anew = judge_other_claims(together, range(1, 50), seed=int(re.search(r"\d+$", folder.name)[0]))
    assert claims["verdict"].tolist() == anew["verdict"].tolist()
    np.testing.assert_allclose(claims["measured"], anew["measured"], atol=1e-5)


def test_the_tables_of_the_results_page_are_means_of_these():
    table = domains_table().set_index("data")
    sweeps = [pd.read_csv(folder / "transfer" / "sweep.csv", dtype={"layer": str}) for folder in FOLDERS]
    at = pd.concat(sweeps).query("k == 10").groupby("layer")["accuracy"].mean()
    line = table.loc["cifar10, pretrained network"]
    assert line["best layer"] == at.idxmax() and line["accuracy"] == f"{100 * at.max():.1f}"
    assert {"mnist", "fashion_mnist", "cifar10", "docstrings", "trec", "gunpoint"} <= {*table.index}
    curve = pd.concat([pd.read_csv(folder / "transfer" / "curve.csv") for folder in FOLDERS])
    mean = curve.query("predictor == 'probe' and labelled == 1000")["accuracy"].mean()
    shown = labels_table().set_index(["data", "labelled images"])
    assert shown["probe"]["cifar10", "1,000"] == f"{100 * mean:.1f}"
    assert len(transfer_table()) == 14
