"""Mean reliance for the notebooks' tables: 1 for the examples with the largest effects, and what weights leave out."""

import numpy as np
import pytest

from ebe_utils import embed
from ebe_utils.forward import predict_logits, softmax
from ebe_utils.reliance import like_network
from ebe_utils.study.relied_on import mean_reliance

K = 5


@pytest.fixture(scope="module")
def effects(trained, small):
    """(n_test, n_train): what taking each training image away costs each answer, to first order."""
    train_set, test_set = small
    features = [embed(trained, part.images, "input of fc") for part in small]
    proba = softmax(predict_logits(trained, test_set.images))
    fit = like_network(features[0], train_set.labels, features[1], proba, (10, 100))
    return np.concatenate([*fit.effects(features[1], proba.argmax(1))])


def test_the_strongest_examples_have_all_of_it_and_their_order_does_not_count(trained, small, effects):
    best = (-effects).argsort(1)[:, :K]
    found = mean_reliance(trained, *small, {"best": best, "turned": best[:, ::-1], "worst": effects.argsort(1)[:, :K]})
    assert found["best"] == pytest.approx(1)
    assert found["turned"] == pytest.approx(1)
    assert found["worst"] < 0


def test_it_is_the_mean_over_the_first_images_of_the_share_of_the_largest_effect(trained, small, effects):
    rng = np.random.default_rng(0)
    some = np.stack([rng.choice(effects.shape[1], K, replace=False) for _ in effects])
    shares = [row[chosen].sum() / np.sort(row)[-K:].sum() for row, chosen in zip(effects, some, strict=True)]
    assert mean_reliance(trained, *small, {"some": some})["some"] == pytest.approx(np.mean(shares))
    assert mean_reliance(trained, *small, {"some": some}, most=7)["some"] == pytest.approx(np.mean(shares[:7]))


def test_examples_without_weight_do_not_count(trained, small, effects):
    best = (-effects).argsort(1)
    mixed = np.column_stack([best[:, :2], best[:, -3:]])
    weights = np.tile([0.5, 0.5, 0, 0, 0], (len(best), 1))
    assert mean_reliance(trained, *small, {"mixed": mixed}, {"mixed": weights})["mixed"] == pytest.approx(1)
    assert mean_reliance(trained, *small, {"mixed": mixed})["mixed"] < 1
