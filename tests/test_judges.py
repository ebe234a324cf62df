"""The judges' scores as they are kept and shown, and the small network on a few digits where quanda is installed."""

import json
import re
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ebe_utils import EBEClassifier
from ebe_utils.statistics import mean_interval
from ebe_utils.study.judge_tables import (
    SAME_CLASS,
    circularity_table,
    judges_table,
    kept_judges,
    selection_table,
    summary,
)
from ebe_utils.upkeep import judges
from ebe_utils.upkeep.judged import ebe_settings, small_network

CHECKOUT = Path(__file__).parents[1]


def test_summary_by_hand():
    rng = np.random.default_rng(0)
    parts = [rng.random(40), rng.random(30)]
    parts[1][3] = np.nan
    found = summary({("LDS", "a"): parts, ("top-k cardinality", "a"): [np.array([0.4]), np.array([0.6])],
                     ("LDS", "nothing"): [np.full(3, np.nan)]}).set_index("measure")
    every = np.concatenate(parts)
    every = every[~np.isnan(every)]
    assert found.loc["LDS", "score"] == pytest.approx(every.mean())
    assert tuple(found.loc["LDS", ["low", "high"]]) == pytest.approx(mean_interval(every))
    assert found.loc["LDS", ["images", "networks"]].tolist() == [69, 2]
    assert found.loc["top-k cardinality", ["score", "low", "high"]].tolist() == pytest.approx([0.5, 0.4, 0.6])
    assert len(found) == 2


def scores(*rows):
    return pd.DataFrame([(*row, 0.1, 0.9, 5, 1) for row in rows],
                        columns=["measure", "method", "score", "low", "high", "images", "networks"])


def test_tables_by_hand():
    table = scores(("class detection", "b", 0.25), ("LDS", "a", -0.5), ("class detection", "a", 1),
                   ("selection relevance", "a", 0.75), ("selection relevance", "same classes as a", 0.5),
                   ("same sign, noise", "a", 0.7), ("accuracy of the network", "", 0.9))
    assert judges_table(table).to_dict("list") == {
        "method": ["b", "a"], "class": ["0.25 (0.10 to 0.90)", "1.00 (0.10 to 0.90)"],
        "LDS": ["–", "-0.50 (0.10 to 0.90)"]}
    assert selection_table(table).to_dict("list") == {
        "method": ["a"], "selection relevance": ["0.75 (0.10 to 0.90)"],
        "same classes, random": ["0.50 (0.10 to 0.90)"]}
    assert circularity_table(table).to_dict("list") == {"method": ["a"], "same sign, noise": ["0.70 (0.10 to 0.90)"]}


def test_measures_with_the_same_settings_are_kept_together(tmp_path):
    about = {"train": 10, "seeds": [0, 1], "measures": ["plain"]}
    judges.keep(tmp_path, scores(("class detection", "a", 0.25)), about | {"seeds": [0]})
    judges.keep(tmp_path, scores(("class detection", "a", 0.5)), about)
    judges.keep(tmp_path, scores(("LDS", "a", 0.75)), about | {"measures": ["datamodels"]})
    found = pd.read_csv(tmp_path / "scores.csv")
    assert found["measure"].tolist() == ["class detection", "LDS"] and found["score"].tolist() == [0.5, 0.75]
    assert json.loads((tmp_path / "about.json").read_text()) == about | {"measures": ["plain", "datamodels"]}
    with pytest.raises(ValueError, match="other settings"):
        judges.keep(tmp_path, found, about | {"train": 11, "measures": ["shortcut"]})


def test_what_is_missing_is_named(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(judges, "version", missing)
    with pytest.raises(ImportError, match=r"the judges need quanda.*pip install quanda==0\.5\.0"):
        judges.versions()


def test_settings_of_both_networks(trained, small):
    for model, layer in ((trained, 14), (small_network(small[0], 0), 2)):
        found = ebe_settings(model)
        assert [settings["layer"] for settings in found.values()] == [layer, layer, layer, "avgpool", "fc"]
        assert {settings.get("choice") for settings in found.values()} == {None, "influence", "answers"}
        for settings in found.values():
            EBEClassifier(model, k=3, **settings)


def _measured():
    """Words that docs/results.md must contain, from the committed scores."""
    found = kept_judges("fashion_mnist").set_index(["measure", "method"])[["score", "low", "high"]]
    layer, answer, tracin, points = ("EBE, layer 2", "EBE, layer 2, influence", "TracIn, last layer",
                                     "representer points")
    low, high = found["low"], found["high"]

    def at(measure, method):
        return f"{found.loc[(measure, method), 'score']:.2f}"

    subclass, relevance, lds, moves = ("subclass detection", "selection relevance", "LDS", "moves with the network")
    yield (f"{at(subclass, layer)} at layer 2 and {at(subclass, answer)} by influence against {at(subclass, tracin)} "
           f"for TracIn and {at(subclass, points)} for representer")
    yield f"{at('class detection', answer)} by influence against {at('class detection', tracin)} for TracIn"
    yield f"The LDS, {at(lds, answer)} by influence, {at(lds, tracin)} for TracIn, and {at(lds, points)} for TRAK"
    yield f"The nearest ten have {at(lds, layer)}, and {at(lds, layer + ', signed')} if examples of other"
    yield f"{at('shortcut detection', layer)} at layer 2 and {at('shortcut detection', answer)} by influence, not far"
    for method, place in ((layer, "at layer 2"), (answer, "by influence")):
        yield f"{at(relevance, method)} against {at(relevance, SAME_CLASS + method)} {place}"
    yield f"cosine {at(f'{moves}, noise', layer)} under noise and {at(f'{moves}, shift', layer)} under a shift"
    yield f"By influence it is {at(f'{moves}, noise', answer)} and {at(f'{moves}, shift', answer)}"
    # What the sentences say is larger is so, beyond the intervals; what they call level overlaps.
    assert low[subclass, layer] > high[subclass, answer] and low[subclass, answer] > high[subclass, tracin]
    assert low["class detection", answer] > high["class detection", tracin] > high["class detection", layer]
    assert low[lds, answer] < high[lds, tracin] and low[lds, tracin] < high[lds, answer]
    assert low[lds, answer] > max(high[lds, "TRAK, last layer"], high[lds, points], high[lds, layer])
    assert low[subclass, layer] > high[subclass, "EBE, logits"] > high[subclass, "random"]
    for method, more in ((layer, True), (answer, True), (tracin, False), (points, False)):
        pair = (relevance, method), (relevance, SAME_CLASS + method)
        assert low[pair[0]] > high[pair[1]] if more else high[pair[0]] < low[pair[1]]
    for change in ("noise", "shift"):
        assert found.loc[(f"{moves}, {change}", layer), "score"] > high[f"{moves}, {change}", answer]


def test_sentences_state_what_the_scores_hold():
    page = " ".join((CHECKOUT / "docs" / "results.md").read_text(encoding="utf-8").split())
    for words in _measured():
        assert words in page, words


def test_sentences_state_what_the_scores_of_the_resnet18_hold():
    page = " ".join((CHECKOUT / "docs" / "results.md").read_text(encoding="utf-8").split())
    table = judges_table(kept_judges("fashion_mnist-resnet18")).set_index("method")
    score = table.map(lambda cell: cell.split(" ")[0])
    near, ours, tracin = "EBE, layer 14", "EBE, layer 14, influence", "TracIn, last layer"
    for words in (f"class always ({score.loc[ours, 'class']}), at layer 14 on {score.loc[near, 'class']}; "
                  f"TracIn has {score.loc[tracin, 'class']}",
                  f"({score.loc[near, 'subclass']} at layer 14 and {score.loc[ours, 'subclass']} by influence, against "
                  f"{score.loc[tracin, 'subclass']}",
                  f"({score.loc[near, 'mislabelled']}; TRAK {score.loc['TRAK, last layer', 'mislabelled']})",
                  f"{score.loc[near, 'shortcut']} at layer 14 and by influence, "
                  f"{score.loc['Captum similarity, layer 14', 'shortcut']} for Captum"):
        assert words in page
    assert score.loc[near, "mislabelled"] == score["mislabelled"].max()
    assert score.loc[near, "shortcut"] == score.loc[ours, "shortcut"]


@pytest.mark.parametrize(("page", "pairs"), [
    ("README.md", ["({class, ours}; TracIn {class, tracin})", "({LDS, ours}; {LDS, tracin})",
                   "({subclass, ours}; {subclass, tracin})", "({shortcut, ours}; Captum {shortcut, captum})"]),
    ("docs/findings.md", ["({class, ours}; TracIn {class, tracin})", "(LDS {LDS, ours} against {LDS, tracin})",
                          "which the nearest do not ({LDS, layer})", "({subclass, ours} against {subclass, tracin})",
                          "similarity {shortcut, captum}), and not by ten of them ({shortcut, ours})"])])
def test_the_findings_state_what_the_scores_hold(page, pairs):
    table = judges_table(kept_judges("fashion_mnist")).set_index("method")
    names = {"ours": "EBE, layer 2, influence", "tracin": "TracIn, last layer", "layer": "EBE, layer 2",
             "captum": "Captum similarity, layer 2"}
    text = " ".join((CHECKOUT / page).read_text(encoding="utf-8").split())
    for words in pairs:
        for asked in re.findall(r"{(.*?)}", words):
            column, method = asked.split(", ")
            words = words.replace(f"{{{asked}}}", table.loc[names[method], column].split(" ")[0])
        assert words in text


def test_a_few_digits_are_judged(tmp_path, capsys):
    pytest.importorskip("quanda", reason="quanda is not installed; docs/guide.md has its environment")
    judges.main(["--dataset", "digits", "--train", "300", "--test", "40", "--seeds", "0", "--candidates", "30",
                 "--randomised", "10", "--subsets", "12", "--small", "200", "--small-epochs", "10", "--save",
                 str(tmp_path)])
    found = pd.read_csv(tmp_path / "scores.csv").set_index(["measure", "method"])["score"]
    assert "class detection" not in capsys.readouterr().out  # in the table it is called class
    assert json.loads((tmp_path / "about.json").read_text())["seeds"] == [0]
    assert found["class detection", "EBE, pooled features"] > found["class detection", "random"] + 0.3
    assert found["mislabelling detection", "EBE, pooled features"] > 0.6
    own, other = (found[f"distance from {whose} answer", "EBE, layer 2, answers"]
                  for whose in ("its own", "another's"))
    assert other > own
