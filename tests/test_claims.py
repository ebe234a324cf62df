"""The paper's claims, on tables made by hand so that each holds, or just does not."""

import itertools

import pandas as pd
import pytest

from ebe_utils.claims import KS, check_claims

NETWORK = 0.7


def table(changes=(), ks=KS, layers=range(21)):
    """A sweep with accuracy 0.8 everywhere, the network's 0.7; changes: {(layer, k): accuracy}, None for every k."""
    changes = dict(changes)
    rows = [{"layer": layer, "k": k, "network_accuracy": NETWORK,
             "accuracy": changes.get((layer, k), changes.get((layer, None), 0.8 if layer else 0.99))}
            for layer, k in itertools.product(layers, ks)]
    return pd.DataFrame(rows)


def every_layer(k, accuracy, but=()):
    return {(layer, k): accuracy for layer in range(1, 21)} | dict(but)


BEST = {(9, 1): 0.88, (9, 3): 0.89, (9, 5): 0.895, (9, 10): 0.9, (9, 20): 0.903, (9, 50): 0.9}

HOLDS = [
    ("1", "mnist", {}), ("1", "mnist", {(1, None): 0.1}),
    ("2a", "fashion_mnist", {}), ("2a", "fashion_mnist", {(8, None): 0.1}),
    ("2b", "fashion_mnist", {}), ("2b", "fashion_mnist", {(10, None): 0.1}),
    ("3", "mnist", {(6, None): 0.9}), ("3", "fashion_mnist", {(15, None): 0.9}),
    ("3", "mnist", {(20, 50): 0.99, (9, None): 0.85}),
    ("4", "cifar10", every_layer(1, 0.71, {(1, None): 0.6, (1, 1): 0.51})),
    ("5", "cifar10", {(16, 10): 0.695, (19, 10): 0.695}), ("5", "cifar10", {(16, 1): 0.1, (19, 50): 0.1}),
    ("6", "cifar10", {(15, 10): 0.785}),
    ("7", "cifar10", BEST),
    ("8", "digits", {}), ("8", "folder:x", every_layer(1, 0.6) | every_layer(3, 0.6)),
    ("8", "cifar10", {(layer, None): 0.6 for layer in range(1, 21)} | {(4, 10): 0.7})]

DOES_NOT_HOLD = [
    ("1", "mnist", {(2, 50): 0.7}), ("1", "mnist", {(20, 1): 0.6}),
    ("2a", "fashion_mnist", {(9, 1): 0.7}), ("2a", "fashion_mnist", {(20, 50): 0.6}),
    ("2b", "fashion_mnist", {(9, 1): 0.7}), ("2b", "fashion_mnist", {(1, 50): 0.6}),
    ("3", "mnist", {(5, None): 0.9}), ("3", "fashion_mnist", {(16, None): 0.9}), ("3", "mnist", {(1, None): 0.9}),
    ("4", "cifar10", every_layer(1, 0.69, {(1, None): 0.6, (1, 1): 0.49})), ("4", "mnist", every_layer(50, 0.2)),
    ("5", "cifar10", {(16, 10): 0.685}), ("5", "cifar10", {(19, 10): 0.685}),
    ("6", "cifar10", {}), ("6", "cifar10", {(15, 10): 0.795}), ("6", "cifar10", {(15, 1): 0.1}),
    ("6", "cifar10", {(15, 10): 0.785, (14, 10): 0.79}), ("6", "cifar10", {(15, 10): 0.785, (16, 10): 0.79}),
    ("7", "cifar10", BEST | {(9, 1): 0.897}), ("7", "cifar10", BEST | {(9, 20): 0.906}),
    ("8", "mnist", {(layer, None): 0.6 for layer in range(1, 21)}),
    ("8", "mnist", {(layer, k): 0.6 for layer in range(1, 21) for k in KS if k <= 10})]


@pytest.mark.parametrize("claim, dataset, changes, verdict", [(*case, "holds") for case in HOLDS]
                         + [(*case, "does not hold") for case in DOES_NOT_HOLD])
def test_verdicts(claim, dataset, changes, verdict):
    found = check_claims(table(changes), dataset).set_index("claim")
    assert found.loc[claim, "verdict"] == verdict, found.loc[claim, "measured"]


@pytest.mark.parametrize("dataset, about", [
    ("mnist", {"1", "3", "4", "8"}), ("fashion_mnist", {"2a", "2b", "3", "4", "8"}),
    ("cifar10", {"4", "5", "6", "7", "8"}), ("digits", {"8"}), ("folder:pictures", {"8"})])
def test_claims_about_other_data_sets_do_not_apply(dataset, about):
    found = check_claims(table(), dataset)
    assert list(found["claim"]) == ["1", "2a", "2b", "3", "4", "5", "6", "7", "8"]
    assert set(found.loc[found["verdict"] != "does not apply", "claim"]) == about
    assert (found["measured"] != "").all() and (found["text"] != "").all()


def test_what_is_measured():
    changes = {(2, 50): 0.65, (12, None): 0.9, (15, 10): 0.75}
    found = check_claims(table(changes), "cifar10").set_index("claim")["measured"]
    assert found["1"] == "113 of 114 (layer, k) above the network's 0.7000; smallest difference -0.0500"
    assert found["3"] == "best layer 12 (0.9000, mean over k); best of 16 to 20 0.8000"
    assert found["5"] == "layer 16 +0.1000, layer 19 +0.1000, k = 10"
    assert found["6"] == "layers 14, 15, 16: 0.8000, 0.7500, 0.8000, k = 10"
    assert found["7"] == "layer 12: k = 1 0.9000, k = 10 0.9000, best larger k 0.9000"
    assert found["8"].endswith("at some layer: 1")
    never = check_claims(table({(layer, None): 0.6 for layer in range(1, 21)}), "mnist").set_index("claim")["measured"]
    assert never["8"].endswith("at some layer: none")


def test_another_k():
    found = check_claims(table({(15, 3): 0.5, (16, 3): 0.5}), "cifar10", k=3).set_index("claim")
    assert found.loc["5", "verdict"] == found.loc["6", "verdict"] == "does not hold"
    assert found.loc["5", "measured"].endswith("k = 3")
    assert "k = 5 0.8000" in check_claims(table(ks=[5, 10, 20]), "cifar10").set_index("claim").loc["7", "measured"]


@pytest.mark.parametrize("sweep, k, words", [
    (table(layers=range(20)), 10, "layers 1 to 20"), (table(layers=[0, 14]), 10, "layers='all'"),
    (table(ks=[10]), 10, "at least two of"), (table(), 7, "it needs 7"), (table(ks=[2, 4, 10]), 10, "at least two of")])
def test_sweeps_that_cannot_answer(sweep, k, words):
    with pytest.raises(ValueError, match=words):
        check_claims(sweep, "mnist", k)
