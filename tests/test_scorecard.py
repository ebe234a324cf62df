"""The scorecard: means, intervals and checks of metrics beside explanations made wrong on purpose."""

import numpy as np
import pytest
from scipy.stats import binomtest

from ebe_utils.layer_neighbors import PIXELS
from ebe_utils.metrics import ANOTHER, RANDOM
from ebe_utils.study.scorecard import Scorecard


def test_a_line_has_means_and_the_interval_of_the_judged_one(capsys):
    card = Scorecard(14)
    values = {14: np.repeat([1, 0], [90, 10]), PIXELS: np.repeat([1, 0], [60, 40]), RANDOM: np.zeros(100)}
    card.line("agreement", values)
    line, = card.table().to_dict("records")
    wilson = binomtest(90, 100).proportion_ci(0.95, method="wilson")
    assert {name: line[name] for name in ("metric", "examples from", "better", "value", "raw pixels", "random")} == {
        "metric": "agreement", "examples from": "layer 14", "better": "high", "value": 0.9, "raw pixels": 0.6,
        "random": 0}
    assert np.isnan(line["another's"])
    assert (line["low"], line["high"]) == pytest.approx((wilson.low, wilson.high))
    assert capsys.readouterr().out == "PASS agreement: better than random\n"


@pytest.mark.parametrize(("better", "control", "ok"), [(1, 0.4, True), (1, 0.6, False), (-1, 0.6, True),
                                                       (-1, 0.4, False), (1, 0.5, False), (0, 0.9, True)])
def test_a_control_that_is_not_worse_fails(better, control, ok, capsys):
    card = Scorecard("layer4", "several layers")
    mean = {"layer4": 0.5, ANOTHER: control}
    if ok:
        card.add("metric", better, mean, 0.4, 0.6, examples_from="two layers")
        assert ("PASS" in capsys.readouterr().out) == bool(better)
        assert card.table()["examples from"].tolist() == ["two layers"]
    else:
        with pytest.raises(AssertionError, match="FAIL metric: better than another's"):
            card.add("metric", better, mean, 0.4, 0.6)
