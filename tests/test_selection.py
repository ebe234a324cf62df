"""Choosing layer, k, metric and votes from training images; whitening against its definition."""

import inspect
from collections import OrderedDict

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn import metrics
from sklearn.covariance import ledoit_wolf_shrinkage
from torch import nn

from ebe_utils import EBEClassifier, ImageSet, kneighbors
from ebe_utils.selection import choose, holdout_split, select, training_neighbors
from ebe_utils.statistics import compare_with
from ebe_utils.transforms import concatenated, lda, zca
from ebe_utils.votes import SoftmaxWeights

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def planted():
    """A network whose layer "good" hands on what tells the classes apart, with noise around it at "early" and "late".

    Inputs have 12 numbers: the first two are near the corner of their class, the others large noise.
    """
    def linear(rows, n_in):
        layer = nn.Linear(n_in, len(rows), bias=False)
        layer.weight = nn.Parameter(torch.as_tensor(np.array(rows), dtype=torch.float32))
        return layer

    eye = np.eye(12)
    net = nn.Sequential(OrderedDict(flat=nn.Flatten(), early=linear(eye, 12), good=linear(eye[:2], 12),
                                    late=linear([[1e-3, 0], [1e-3, 1e-9]], 2), head=linear(np.ones((3, 2)), 2)))
    rng = np.random.default_rng(1)
    labels = np.arange(120) % 3
    corners = np.array([[1, 0], [0, 1], [-1, -1]])[labels]
    inputs = np.hstack([corners + 0.15 * rng.normal(size=(120, 2)), 5 * rng.normal(size=(120, 10))])
    return net.eval(), ImageSet(inputs.astype(np.float32), labels, ("a", "b", "c"), "planted")


LAYERS = ["early", "good", "late"]


class TestSelect:
    @pytest.mark.parametrize("estimate", ["held-out", "leave-one-out"])
    @pytest.mark.parametrize("rule", ["best", "one-error"])
    def test_finds_the_planted_layer(self, planted, estimate, rule):
        found = select(*planted, LAYERS, ks=(1, 3, 5), rule=rule, estimate=estimate, criterion="accuracy")
        assert found.layer == "good"
        assert found.score == 1
        assert found.k == 1  # of equals, fewest examples
        assert (found.metric, found.weights) == ("cosine", "uniform")  # then the first listed
        assert 0 < found.error < 0.1
        assert len(found.table) == 3 * (3 * 2 * 3 + 1)  # NNK: once a layer

    def test_asks_for_no_test_set(self):
        for function in (select, training_neighbors):
            assert not [name for name in inspect.signature(function).parameters if "test" in name]

    def test_is_determined_by_the_seed(self, planted):
        tables = [select(*planted, LAYERS, ks=(1, 5), seed=seed, share=0.3).table for seed in (3, 3, 4)]
        pd.testing.assert_frame_equal(tables[0], tables[1])
        assert not tables[0].equals(tables[2])

    def test_scores_are_those_of_a_classifier_on_the_images_held_out(self, planted):
        model, data = planted
        found = select(model, data, LAYERS, ks=(1, 5), metrics=("euclidean",), criterion="accuracy")
        kept, held = (data.subset(part) for part in holdout_split(data))
        ebe = found.classifier(model, kept, device="cpu")
        assert (ebe.predict(held.images) == held.labels).mean() == found.score
        assert ebe.metric == found.metric == "euclidean"

    def test_agreement_counts_what_the_network_says(self, planted):
        model, data = planted
        found = select(model, data, LAYERS, ks=(1,), criterion="agreement")
        pd.testing.assert_series_equal(found.table["score"], found.table["agreement"], check_names=False)
        assert not found.table["score"].equals(found.table["accuracy"])

    def test_log_loss_is_scikit_learns_of_the_votes_with_one_more_for_every_class_alike(self, planted):
        model, data = planted
        found = select(model, data, LAYERS, ks=(1, 5), metrics=("euclidean",), criterion="log_loss")
        assert found.layer == "good"
        assert found.score == found.table["score"].max() == -found.table["log_loss"].min()
        kept, held = (data.subset(part) for part in holdout_split(data))
        for layer, k, weights, loss, error in found.table.query("weights in ['uniform', 'distance']")[
                ["layer", "k", "weights", "log_loss", "error"]].itertuples(index=False):
            ebe = EBEClassifier(model, layer, k, "euclidean", weights, device="cpu").fit(kept)
            proba = (k * ebe.predict_proba(held.images) + 1 / 3) / (k + 1)
            assert loss == pytest.approx(metrics.log_loss(held.labels, proba))
            assert error == pytest.approx(stats.sem(-np.log(proba[range(len(held)), held.labels]), ddof=0))

    def test_nnk_is_scored_as_a_classifier_with_it_would_be(self, planted):
        model, data = planted
        kept, held = (data.subset(part) for part in holdout_split(data))
        found = select(model, data, LAYERS, ks=(3, 30), criterion="accuracy", device="cpu")
        rows = found.table.query("weights == 'nnk'")
        assert rows["layer"].tolist() == LAYERS and set(rows["k"]) == {30} and set(rows["metric"]) == {"cosine"}
        for layer, accuracy in rows[["layer", "accuracy"]].itertuples(index=False):
            ebe = EBEClassifier(model, layer, 30, weights="nnk", device="cpu").fit(kept)
            assert ebe.score(held.images, held.labels) == accuracy
        chosen = select(model, data, LAYERS, ks=(3, 30), weights={"mine": "nnk"})
        assert chosen.weights == "mine" and chosen.classifier(model, kept).weights == "nnk"
        late = select(model, data, LAYERS, ks=(5,), weights={"nnk": "nnk"}, estimate="leave-one-out", share=1)
        assert len(late.table) == 3 and late.layer == "good"

    def test_one_error_takes_fewest_examples_within_it(self):
        table = pd.DataFrame({"layer": [3, 2, 1, 4], "k": [1, 3, 10, 3], "score": [0.85, 0.88, 0.9, 0.89],
                              "error": 0.03})
        assert choose(table)["layer"] == 1
        assert choose(table, "one-error")["layer"] == 4

    @pytest.mark.parametrize("bad, words", [
        ({"criterion": "loss"}, ["criterion='loss'", "accuracy, log_loss, agreement"]),
        ({"rule": "bst"}, ["rule='bst'", "one-error", "Did you mean 'best'"]),
        ({"estimate": "test"}, ["estimate='test'", "held-out, leave-one-out"]),
        ({"metrics": ("cosin",)}, ["metrics='cosin'", "Did you mean 'cosine'"]),
        ({"weights": {"mine": "rank"}}, ["weights['mine']='rank'", "uniform, distance, softmax, nnk"]),
        ({"weights": {"mine": "nnk"}, "metrics": ("euclidean",)}, ["nothing to choose from", "add 'cosine'"]),
        ({"weights": {}}, ["weights is empty", "at least one"]), ({"weights": ()}, ["weights is empty"]),
        ({"weights": "softmx"}, ["weights='softmx'", "Did you mean 'softmax'"]),
        ({"metrics": ()}, ["metrics is empty"]), ({"metrics": "cosin"}, ["metrics='cosin'"]),
        ({"pixels": True}, ["pixels=True", "cannot be built on raw pixels"]),
        ({"ks": ()}, ["ks is empty", "at least one"]),
        ({"ks": (0,)}, ["k=0", "from 1 to"]),
        ({"ks": (1, 100)}, ["k=100", "from 1 to"]),  # there are 96 to search
        ({"share": 0.0}, ["share=0.0", "greater than 0"]),
        ({"share": 1.0}, ["share=1.0", "above 0 and below 1"]),
        ({"share": 2, "estimate": "leave-one-out"}, ["share=2", "at most 1"]),
        ({"share": 0.001}, ["share=0.001", "0 of 120 images"]),
        ({"seed": -1}, ["seed=-1", "at least 0"]),
        ({"layers": ["goood"]}, ["goood"])])
    def test_bad_input(self, planted, bad, words):
        with pytest.raises(ValueError, match=r".") as error:
            select(*planted, **{"layers": LAYERS, "ks": (1, 3)} | bad)
        for word in words:
            assert word in str(error.value)


    @pytest.mark.parametrize("bad, words", [
        ({"ks": 5}, "ks=5 is a int; pass a list"), ({"ks": "5"}, "ks='5' is a str"),
        ({"ks": (1.5,)}, "k=1.5 is a float"),
        ({"metrics": 3}, "metrics=3 is a int"), ({"weights": 3}, "weights=3 has no name"),
        ({"weights": len}, "has no name; pass names")])
    def test_input_of_the_wrong_type(self, planted, bad, words):
        with pytest.raises(TypeError, match=words):
            select(*planted, **{"layers": LAYERS, "ks": (1, 3)} | bad)

    def test_weights_are_names_or_named(self, planted):
        one, many, mine = (select(*planted, LAYERS, ks=(3, 5), metrics="cosine", weights=weights).table for weights in (
            "softmax", ["softmax"], {"mine": SoftmaxWeights(0.1)}))
        pd.testing.assert_frame_equal(one, many)
        pd.testing.assert_frame_equal(one.drop(columns="weights"), mine.drop(columns="weights"))
        assert set(one["weights"]) == {"softmax"} and set(mine["weights"]) == {"mine"}

    def test_selections_can_be_compared(self, planted):
        one, same, other = (select(*planted, LAYERS, ks=(k,), weights={"mine": SoftmaxWeights(0.2)}) for k in (3, 3, 5))
        assert one == same and one != other and hash(one) == hash(same)


class TestNeighborsAmongTrainingImages:
    def test_split_divides_every_class_alike(self):
        labels = np.repeat([0, 1, 2], [50, 30, 20])
        data = ImageSet(np.zeros((100, 1, 2, 2), np.uint8), RNG.permutation(labels))
        kept, held = holdout_split(data, 0.2)
        assert sorted([*kept, *held]) == list(range(100))
        np.testing.assert_array_equal(np.bincount(data.labels[held]), [10, 6, 4])
        assert not np.array_equal(held, holdout_split(data, 0.2, seed=1)[1])

    @pytest.mark.parametrize("share", [0.25, 1])
    def test_leave_one_out_is_a_search_without_oneself(self, planted, share):
        model, data = planted
        found = training_neighbors(model, data, ["good"], 4, estimate="leave-one-out", share=share)
        held = np.arange(120) if share == 1 else holdout_split(data, share)[1]
        rows = data.images.numpy()[:, :2]
        for i, position in enumerate(held):
            others = np.delete(np.arange(120), position)
            expected = others[kneighbors(rows[others], rows[[position]], 4)[1][0]]
            np.testing.assert_array_equal(found.indices["good"][i], expected)

    def test_many_duplicates_do_not_break_leave_one_out(self, points):
        net, data = points
        same = ImageSet(torch.ones(6, 2), np.array([0, 1, 2, 0, 1, 2]), data.classes)
        found = training_neighbors(net, same, ["flat"], 2, estimate="leave-one-out", share=1)
        assert found.indices["flat"].shape == (6, 2)
        assert not (found.indices["flat"] == np.arange(6)[:, None]).any()


def test_each_is_compared_with_one_by_the_paired_interval():
    right = {"a": np.repeat([True, True, False, False], [70, 15, 5, 10]),
             "b": np.repeat([True, False, True, False], [70, 15, 5, 10])}
    found = compare_with(right, "a").set_index("name")
    assert found.loc["b", "difference"] == pytest.approx(-0.10)
    half = 1.959964 * np.sqrt(22 - 100 / 102) / 102  # Bonett and Price's, by hand
    assert found.loc["b", "low"] == pytest.approx(-10 / 102 - half)
    three = compare_with(right | {"c": right["b"]}, "a").set_index("name")  # Bonferroni: z of 0.025
    assert three.loc["b", "low"] == pytest.approx(-10 / 102 - half * 2.241403 / 1.959964)
    assert found.loc["a", ["difference", "low", "high"]].tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="against='c'"):
        compare_with(right, "c")


class TestWhitening:
    def correlated(self, n, d):
        rng = np.random.default_rng(2)
        return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 3

    def test_covariance_becomes_the_identity(self):
        rows = self.correlated(200, 8)
        white = zca(rows, 0)(rows)
        np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(8), atol=1e-9)
        np.testing.assert_allclose(white.mean(0), 0, atol=1e-9)

    @pytest.mark.parametrize("n, d", [(200, 8), (12, 30)])
    @pytest.mark.parametrize("shrinkage", [0.1, 1, "auto"])
    def test_is_the_inverse_root_of_the_shrunk_covariance(self, n, d, shrinkage):
        rows, queries = self.correlated(n, d), self.correlated(5, d)
        covariance = np.cov(rows.T, bias=True)
        s = ledoit_wolf_shrinkage(rows) if shrinkage == "auto" else shrinkage
        values, vectors = np.linalg.eigh((1 - s) * covariance + s * np.trace(covariance) / d * np.eye(d))
        root = vectors / np.sqrt(values) @ vectors.T
        np.testing.assert_allclose(zca(rows, shrinkage)(queries), (queries - rows.mean(0)) @ root, rtol=1e-6, atol=1e-8)

    @pytest.mark.parametrize("shrinkage, words", [(-0.1, "shrinkage=-0.1"), (1.5, "from 0 to 1"),
                                                  (0, "rank 11 in 30 dimensions; pass a larger")])
    def test_bad_shrinkage(self, shrinkage, words):
        with pytest.raises(ValueError, match=words):
            zca(self.correlated(12, 30), shrinkage)

    def test_lda_makes_the_scatter_within_classes_round(self):
        labels = np.arange(3000) % 3
        rows = np.random.default_rng(2).normal(size=(3000, 6)) * [1, 2, 1, 2, 1, 2] + 4 * np.eye(6)[labels]
        found = lda(rows, labels)(rows)
        assert found.shape == (3000, 2)
        within = found - np.stack([found[labels == c].mean(0) for c in range(3)])[labels]
        np.testing.assert_allclose(np.cov(within.T), np.eye(2), atol=0.1)  # shrinkage leaves a little


def test_concatenated_layers_have_the_mean_of_the_cosines():
    rng = np.random.default_rng(5)
    one, two = rng.normal(size=(4, 3)), 100 * rng.normal(size=(4, 7))

    def cosines(rows):
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return rows @ rows.T

    np.testing.assert_allclose(cosines(concatenated([one, two])), (cosines(one) + cosines(two)) / 2)
