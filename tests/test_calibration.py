"""How sure: p-values and coverage against hand-made cases, theory and other people's definitions."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from ebe_utils import EBEClassifier, resnet18_for, train
from ebe_utils.calibration import nonconformity_of_votes
from ebe_utils.conformal import p_values, prediction_sets
from ebe_utils.data import ImageSet

pytestmark = pytest.mark.usefixtures("one_thread")


def test_p_values_and_sets_by_hand():
    own = np.array([0.1, 0.2, 0.2, 0.5])
    assert p_values(own, np.array([[0.0, 0.2, 0.3], [0.5, 0.6, 0.1]])).tolist() == [[1, 0.8, 0.4], [0.4, 0.2, 1]]
    p = np.array([[1, 0.8, 0.2], [0.1, 0.2, 0.15]])
    assert prediction_sets(p, 0.8).tolist() == [[True, True, False], [False] * 3]
    assert prediction_sets(np.array([[0.05, 0.1]]), 0.95).tolist() == [[False, True]]
    assert prediction_sets(np.array([[0.05, 0.1]]), 0.9).tolist() == [[False, False]]  # 1 - 0.9 is below 0.1 in floats
    for wrong in (0, 1, 1.5, -0.1):
        with pytest.raises(ValueError, match="coverage"):
            prediction_sets(p, wrong)


@pytest.mark.parametrize("coverage", [0.9, 0.95])
@pytest.mark.parametrize("held_out", [19, 20, 57])
def test_coverage_of_continuous_scores_is_what_theory_says(coverage, held_out):
    """Exactly ceil((m + 1) coverage) / (m + 1) on average, by exchangeability (Vovk et al.)."""
    rng = np.random.default_rng(0)
    hits, trials = 0, 4000
    for _ in range(trials):
        scores = rng.normal(size=held_out + 1)
        hits += prediction_sets(p_values(scores[:-1], scores[-1:]), coverage).item()
    expected = math.ceil(round((held_out + 1) * coverage, 9)) / (held_out + 1)
    low, high = binomtest(hits, trials).proportion_ci(0.999)
    assert low <= expected <= high


def test_sets_of_the_network_are_split_conformals_quantile(trained, small, digits):
    """The usual form: all classes with 1 - softmax up to the ceil((m + 1) coverage)-th smallest of the held-out."""
    held, new = slice(100, 300), slice(300, 360)
    ebe = EBEClassifier(trained, 14, 5).fit(small[0]).calibrate(digits[1].images[held], digits[1].labels[held],
                                                                coverage=0.9)
    with torch.no_grad():
        softmax = trained(digits[1].images.float() / 255).softmax(1).numpy().astype(float)
    own = np.sort(1 - softmax[held][np.arange(200), digits[1].labels[held]])
    threshold = own[math.ceil(201 * 0.9) - 1]
    expected = 1 - softmax[new] <= threshold + 1e-7
    doubts = ebe.explain_batch(digits[1].images[new]).doubts
    found = prediction_sets(doubts.network_p, 0.9)
    assert (found != expected).mean() < 0.005
    one = ebe.explain(digits[1].images[300]).doubt
    assert set(one.network_set()) == set(np.flatnonzero(found[0]))
    assert one.network_set()[0] == softmax[300].argmax()


def test_nonconformity_by_hand():
    near = np.array([[0, 1, 0, 2], [1, 1, 1, 1]])
    shares = np.array([[1, 0, 0, 0], [0, 1, 0, 0.0]])  # of the first alone, k = 1
    expected = [[0, 1 + 1 / 8, 1 + 3 / 8, 1.5], [1.5, 0, 1.5, 1.5]]
    np.testing.assert_allclose(nonconformity_of_votes(shares, near, 1), expected)
    rng = np.random.default_rng(0)  # the place in the list never counts more than a vote
    near = rng.integers(0, 4, (200, 50))
    shares = np.eye(4)[near[:, :7]].mean(1)
    scores = nonconformity_of_votes(shares, near, 7)
    for row, share in zip(scores, shares, strict=True):
        assert (np.diff(row[np.argsort(-share, kind="stable")]) > -1 / 7 - 1e-9).all()
        order = np.argsort(row)
        assert (np.diff(share[order]) <= 1e-9).all()


@pytest.fixture(scope="module")
def blobs():
    """(rows, labels) of 4,000 points of four overlapping classes in five dimensions."""
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 4, 4000)
    return (rng.normal(size=(4000, 5)) + 1.5 * np.eye(4, 5)[labels]).astype(np.float32), labels


@pytest.mark.parametrize("coverage", [0.9, 0.95])
@pytest.mark.parametrize("settings", [{"k": 10}, {"k": 1}, {"k": 30, "weights": "nnk"},
                                      {"k": 25, "weights": "distance", "metric": "euclidean"}])
def test_coverage_on_synthetic_data(blobs, coverage, settings):
    rows, labels = blobs
    ebe = EBEClassifier.from_embeddings(rows[:1000], labels[:1000], **settings)
    ebe.calibrate(rows[1000:2000], labels[1000:2000], coverage=coverage)
    sets = ebe.explain_batch(rows[2000:]).doubts.prediction_sets()
    covered = sets[np.arange(2000), labels[2000:]]
    # Both samples vary: the coverage of one calibration is a beta variable, of standard deviation 0.0095 at most.
    low, high = binomtest(int(covered.sum()), 2000).proportion_ci(0.99)
    assert low - 0.02 <= coverage <= high + 0.02
    assert 1 < sets.sum(1).mean() < 3.9
    accuracy = (ebe.predict(rows[2000:]) == labels[2000:]).mean()
    assert accuracy < 0.85 < coverage  # the sets do more than the prediction


def test_sets_and_alarm_on_digits(digits):
    train_set, test_set = digits
    own = ImageSet(train_set.images[:900], train_set.labels[:900], train_set.classes)
    net = train(resnet18_for(own), own, epochs=2, seed=0, progress=False)
    ebe = EBEClassifier(net, 14, 10).fit(own).calibrate(train_set.images[900:], train_set.labels[900:])
    found = ebe.explain_batch(test_set.images).doubts
    for coverage in (0.9, 0.95):
        covered = found.prediction_sets(coverage)[np.arange(len(test_set)), test_set.labels]
        assert binomtest(int(covered.sum()), len(covered)).proportion_ci(0.99).high >= coverage
        network = prediction_sets(found.network_p, coverage)[np.arange(len(test_set)), test_set.labels]
        assert binomtest(int(network.sum()), len(network)).proportion_ci(0.99).high >= coverage
    assert found.none_near.mean() <= 0.05  # about 1 % of ordinary images, some of 360
    noise = torch.randint(0, 256, (40, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    assert ebe.explain_batch(noise).doubts.none_near.mean() > 0.9
    one, many = ebe.explain(test_set.images[7]), ebe.explain_batch(test_set.images[:20])
    np.testing.assert_allclose(one.doubt.p, many.doubts.p[7])
    assert one.doubt.far_p == many[7].doubt.far_p == many.doubts[7].far_p
    second, first = np.sort(one.doubt.p)[-2:]
    assert (one.doubt.credibility, one.doubt.confidence) == (first, 1 - second)
    ranked = np.argsort(-one.doubt.p, kind="stable")
    assert one.doubt.prediction_set(0.5) == tuple(ranked[:(one.doubt.p > 0.5).sum()])


def test_labels_may_be_texts_and_data_may_be_anything(blobs):
    rows, labels = blobs
    names = np.array(["d", "c", "b", "a"])[labels]
    ebe = EBEClassifier.from_embeddings(rows[:500], names[:500], k=9)
    ebe.calibrate(rows[500:900], names[500:900])
    other = EBEClassifier.from_embeddings(rows[:500], 3 - labels[:500], k=9)
    other.calibrate(rows[500:900], 3 - labels[500:900])
    np.testing.assert_array_equal(ebe.calibration_.own, other.calibration_.own)
    with pytest.raises(ValueError, match="label 'e' of the held-out examples is not among the classes"):
        ebe.calibrate(rows[500:540], ["e"] * 40)
    with pytest.raises(ValueError, match="have no labels"):
        ebe.calibrate(rows[500:540])


def test_what_cannot_calibrate(blobs):
    rows, labels = blobs
    ebe = EBEClassifier.from_embeddings(rows[:500], labels[:500], k=9)
    assert ebe.explain(rows[0]).doubt is None and ebe.explain_batch(rows[:2]).doubts is None
    with pytest.raises(ValueError, match="100% of the held-out examples are training examples"):
        ebe.calibrate(rows[:100], labels[:100])
    with pytest.raises(ValueError, match="coverage=0.95 takes at least 19 held-out examples, and there are 18"):
        ebe.calibrate(rows[500:518], labels[500:518])
    ebe.calibrate(rows[500:519], labels[500:519])
    with pytest.raises(ValueError, match="takes at least 99 held-out"):
        ebe.explain(rows[0]).doubt.prediction_set(0.99)
    for wrong in ({"coverage": 1}, {"coverage": 0}, {"alarm": 1.0}, {"alarm": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ebe.calibrate(rows[500:900], labels[500:900], **wrong)


def test_another_vote_needs_another_calibration(blobs):
    rows, labels = blobs
    ebe = EBEClassifier.from_embeddings(rows[:500], labels[:500], k=9).calibrate(rows[500:900], labels[500:900])
    before = ebe.explain(rows[1000])
    ebe.set_params(k=5)
    with pytest.raises(ValueError, match="k is 5, but the calibration was made with k=9; call calibrate again"):
        ebe.explain(rows[1000]).doubt  # noqa: B018
    assert before.doubt.held_out == 400 and ebe.predict(rows[1000:1001]).shape == (1,)
    assert ebe.calibrate(rows[500:900], labels[500:900]).explain(rows[1000]).doubt.held_out == 400


def test_a_saved_classifier_keeps_its_calibration(trained, small, digits, tmp_path):
    ebe = EBEClassifier(trained, 14, 5).fit(small[0])
    ebe.calibrate(digits[1].images[100:200], digits[1].labels[100:200], coverage=0.9, alarm=0.02)
    again = EBEClassifier.load(ebe.save(tmp_path / "why"), trained)
    mine, other = (e.explain_batch(small[1].images[:9]).doubts for e in (ebe, again))
    for name in ("p", "network_p", "far_p", "coverage", "alarm", "held_out"):
        np.testing.assert_array_equal(getattr(mine, name), getattr(other, name))
    again.explain(small[1].images[0]).to_html(tmp_path / "why.html")
    ebe.set_params(k=4).save(tmp_path / "other")
    assert EBEClassifier.load(tmp_path / "other", trained).explain(small[1].images[0]).doubt is None


def test_a_new_fit_forgets_the_calibration(trained, small, digits):
    ebe = EBEClassifier(trained, 14, 5).fit(small[0]).calibrate(digits[1].images[100:200], digits[1].labels[100:200])
    assert ebe.explain(small[1].images[0]).doubt is not None
    assert ebe.fit(small[0]).explain(small[1].images[0]).doubt is None
