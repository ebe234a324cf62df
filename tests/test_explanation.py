"""What an explanation can be asked: why not another class, what would change it, near-duplicates, and its page."""

import pickle
import re
from collections import OrderedDict
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import pairwise_distances
from torch import nn

from ebe_utils import EBEClassifier, Explanation, ImageSet
from ebe_utils.contest import removal_flip
from ebe_utils.contrast import which_classes
from ebe_utils.duplicates import groups_of, in_order, typical_distance
from ebe_utils.example_html import one_by_one
from ebe_utils.fingerprint import network_fingerprint
from ebe_utils.search import Index
from ebe_utils.votes import nnk_weights

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def cloud():
    """(rows (120, 6), labels of 3 classes, queries (20, 6)): overlapping classes."""
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 3, 140)
    rows = (rng.normal(size=(140, 6)) + 1.2 * np.eye(6)[labels] * 2).astype(np.float32)
    return rows[:120], labels[:120], rows[120:]


def fitted(cloud, **settings):
    return EBEClassifier.from_embeddings(cloud[0], cloud[1], classes=["a", "b", "c"], **settings)


# --- why this and not that -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "manhattan",
                                    lambda a, b: pairwise_distances(a, b, "chebyshev")])
def test_the_sides_are_the_nearest_of_each_class(cloud, metric):
    rows, labels, queries = cloud
    ebe = fitted(cloud, k=7, metric=metric)
    how = metric if callable(metric) else lambda a, b: pairwise_distances(a, b, metric)
    exact = how(queries.astype(float), rows.astype(float))
    for e, far in zip(ebe.explain_batch(queries), exact, strict=True):
        found = e.contrast(3, examples=4)
        assert [side.share for side in found.sides] == sorted(e.proba, reverse=True)
        for side in found.sides:
            mine = np.flatnonzero(labels == side.label)
            expected = mine[np.argsort(far[mine], kind="stable")[:4]]
            assert side.indices.tolist() == expected.tolist() and side.name == "abc"[side.label]
            np.testing.assert_allclose(side.distances, far[expected], rtol=1e-5)
            assert side.copies.tolist() == [1] * 4 and side.network_proba is None
        frame = found.to_frame()
        assert len(frame) == 12 and frame["rank"].tolist() == [1, 2, 3, 4] * 3


def test_classes_are_the_networks_most_probable_or_those_that_are_asked_for():
    shares, said = np.array([0.2, 0.5, 0.3, 0]), np.array([0.6, 0.0, 0.1, 0.3])
    names = ("a", "b", "c", "d")
    assert which_classes(2, names, shares, None) == [1, 2]
    assert which_classes(3, names, shares, said) == [0, 3, 1]  # the vote's own is always among them
    assert which_classes(1, names, shares, said) == [0, 1]
    assert which_classes("d", names, shares, said) == [3]
    assert which_classes(["c", 0, "c"], names, shares, said) == [2, 0]
    for wrong, error, words in (("e", ValueError, "class 'e' is unknown"), ([4], ValueError, "from 0 to 3"),
                                ([], ValueError, "name at least one"), (0, ValueError, "classes=0"),
                                (5, ValueError, "from 1 to 4"), (1.5, TypeError, "float")):
        with pytest.raises(error, match=words):
            which_classes(wrong if not isinstance(wrong, float) else [wrong], names, shares, said)


def test_copies_are_shown_once_and_counted():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(60, 5)).astype(np.float32)
    rows[1:20] = rows[0]  # twenty of one thing
    rows[31] = rows[30] * (1 + 1e-6)
    labels = np.repeat([0, 1], 30)
    ebe = EBEClassifier.from_embeddings(rows, labels, k=40, metric="euclidean")
    e = ebe.explain(rows[0])
    assert e.groups[:20].tolist() == [0] * 20 and e.groups.max() in (19, 20)
    found = e.contrast([0, 1], examples=30)
    zero, one = found.sides
    assert zero.indices[0] == 0 and zero.copies.tolist() == [20] + [1] * 10
    assert len(one.indices) == 29 and one.copies.sum() == 30 and {30, 31} > {*one.indices} & {30, 31}
    assert ebe.explain(rows[0]).contrast([0], examples=2)[0].copies[0] >= 4  # it searches on for another thing


def test_what_has_no_weight_stays_in_the_arrays_of_several_explanations(cloud):
    """The sparse attributions leave zeros out; the arrays that they were made from must not be compacted with them."""
    ebe = fitted(cloud, k=30, weights="nnk")
    found, near = ebe.explain_batch(cloud[2]), ebe.kneighbors(cloud[2])[1]
    np.testing.assert_array_equal(found.indices, near)
    np.testing.assert_array_equal(found.weights, nnk_weights(cloud[0], cloud[2], near))
    assert (found.weights == 0).any()
    for i, e in enumerate(found):
        np.testing.assert_array_equal(e.indices, near[i][found.weights[i] > 0])
        np.testing.assert_allclose(e.proba, found.proba[i])


def test_copies_with_another_label_are_shown_on_their_side(cloud, tmp_path):
    rows, labels, queries = cloud
    rows, labels = np.concatenate([rows, np.repeat(queries[:1], 5, 0)]), np.append(labels, [0, 0, 1, 0, 2])
    ebe = EBEClassifier.from_embeddings(rows, labels, classes=["a", "b", "c"], k=5, metric="euclidean")
    e = ebe.explain(queries[0])
    assert e.groups.max() == 0 and e.prediction == 0
    words = Page(e.to_html(tmp_path / "a.html").read_text()).words
    assert "They show 1 different thing" in words and "No example speaks against it" not in words
    for said in ("aweight 0.60no. 120and 2 near-duplicateslike no. 122, which has another label",
                 "bweight 0.20no. 122like no. 120", "cweight 0.20no. 124like no. 120"):
        assert said in words


def test_a_class_without_examples_has_an_empty_side(cloud):
    rows, labels, queries = cloud
    ebe = EBEClassifier.from_embeddings(rows, labels, classes=["a", "b", "c", "none"], k=5)
    side = ebe.explain(queries[0]).contrast(["none", "a"])[0]
    assert len(side.indices) == len(side.copies) == 0 and side.share == 0
    assert "none (votes 0%): no training example" in str(ebe.explain(queries[0]).contrast(["none"]))


def test_supporting_and_opposing_examples(cloud):
    ebe = fitted(cloud, k=9)
    for e in ebe.explain_batch(cloud[2]):
        assert sorted([*e.supporting, *e.opposing]) == sorted(e.indices)
        assert (cloud[1][e.supporting] == e.prediction).all() and (cloud[1][e.opposing] != e.prediction).all()


def test_what_a_near_duplicate_is():
    rows = np.array([[0, 0], [10, 0], [10.4, 0], [20, 0], [20, 0], [30, 0], [10.8, 0.0]], np.float32)
    assert groups_of(rows, "euclidean", 5).tolist() == [0, 1, 1, 2, 2, 3, 1]  # within 0.5: a chain of three
    assert groups_of(rows, "euclidean", 3).tolist() == [0, 1, 2, 3, 3, 4, 5]
    assert groups_of(rows, "euclidean", 0).tolist() == [0, 1, 2, 3, 3, 4, 5]  # equal ones, whatever is typical
    assert groups_of(rows, "euclidean", 5, tolerance=1e-9).max() == 5
    assert in_order(np.array([7, 2, 7, 0])).tolist() == [0, 1, 0, 2]
    index = Index(rows, "euclidean")
    assert typical_distance(index, rows) == pytest.approx(np.median([10, 0.4, 0.4, 0, 0, 10, 0.4]))


# --- what would change it ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 5, 12])
def test_contest_removes_and_relabels_what_it_says(cloud, k):
    rows, labels, queries = cloud
    ebe = fitted(cloud, k=k)
    for e, query in zip(ebe.explain_batch(queries), queries, strict=True):
        found = e.contest
        rest = np.setdiff1d(np.arange(len(rows)), found.removed)
        again = EBEClassifier.from_embeddings(rows[rest], labels[rest], classes=["a", "b", "c"], k=k)
        assert again.explain(query).prediction == found.removal.becomes != e.prediction
        one_less = np.setdiff1d(np.arange(len(rows)), found.removed[1:])
        again = EBEClassifier.from_embeddings(rows[one_less], labels[one_less], classes=["a", "b", "c"], k=k)
        assert again.explain(query).prediction == e.prediction
        changed = labels.copy()
        changed[list(found.relabelled)] = found.relabelling.becomes
        again = EBEClassifier.from_embeddings(rows, changed, classes=["a", "b", "c"], k=k)
        assert again.explain(query).prediction == found.relabelling.becomes != e.prediction


def test_contest_says_what_it_does_not_know(cloud, trained, small):
    e = fitted(cloud, k=5, weights="distance").explain(cloud[2][0])
    assert e.contest.removal is None and "votes that count equally" in e.contest.removal_note
    assert e.contest.relabelling is not None and e.contest.relabelling_note == ""
    e = EBEClassifier(trained, 14, 5, target="network").fit(small[0]).explain(small[1].images[0])
    assert e.contest.removal is None and "target='labels'" in e.contest.removal_note
    rows = cloud[0]
    alone = EBEClassifier.from_embeddings(rows, np.zeros(120, int), classes=["a", "b"], k=5).explain(rows[0])
    assert alone.contest.removal_note == "no removal changes it, as long as 5 training examples are left."
    assert len(alone.contest.relabelling) == 3
    none = EBEClassifier.from_embeddings(rows, np.zeros(120, int), k=5).explain(rows[0]).contest
    assert none.relabelling is None and "only one class" in none.relabelling_note


def test_contest_searches_no_deeper_than_it_says(monkeypatch):
    rows = np.linspace(0, 1, 200, dtype=np.float32)[:, None]
    ebe = EBEClassifier.from_embeddings(rows, (np.arange(200) > 150).astype(int), k=5, metric="euclidean")
    found = ebe.explain(rows[0]).contest
    assert len(found.removal) == 149  # of 0 to 150, the two that are left are outvoted by three
    assert removal_flip((np.arange(200) > 150).astype(int), 5, 2) == found.removal
    monkeypatch.setattr("ebe_utils.contest.DEEPEST", 50)
    assert ebe.explain(rows[0]).contest.removal_note == "more than 35 examples would have to be removed."


# --- without the classifier ----------------------------------------------------------------------------------------


def test_an_explanation_is_pickled_without_the_classifier(cloud):
    e = fitted(cloud, k=5).explain(cloud[2][0])
    before = e.contest
    again = pickle.loads(pickle.dumps(e))
    assert again.contest == before and again.evidence is None and again.doubt is None
    assert len(pickle.dumps(e)) < 5000
    with pytest.raises(ValueError, match="contrast needs the classifier's training examples.*explain for it again"):
        again.contrast()
    one = np.array([0, 1])
    bare = Explanation(one, one, one + 1.0, one + 1.0, np.array([0.6, 0.4]), 0, None, ("a", "b"), 1, "conv", "cosine")
    assert "made without its classifier" in bare.contest.removal_note


def test_later_changes_of_the_classifier_leave_an_explanation_as_it_was(cloud):
    ebe = fitted(cloud, k=5)
    e, fresh = ebe.explain(cloud[2][0]), ebe.explain(cloud[2][0])
    expected = fresh.contest
    ebe.set_params(k=1, weights="distance")
    assert e.contest == expected and e.contest.removal_note == ""


# --- as a page -----------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.open = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data if "style" not in self.open else ""


@pytest.fixture(scope="module")
def calibrated(trained, small, digits):
    held = digits[1].images[100:300], digits[1].labels[100:300]
    return EBEClassifier(trained, 14, 10).fit(small[0]).calibrate(*held, coverage=0.9)


def test_the_page_stands_alone_and_says_all(calibrated, small, tmp_path):
    e = calibrated.explain(small[1].images[3])
    path = e.to_html(tmp_path / "why.html", classes=3, note="Case <1> & more")
    assert path == tmp_path / "why.html" and [f.name for f in tmp_path.iterdir()] == ["why.html"]
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert not page.open and "http" not in text.replace("http-equiv", "") and "Case <1> & more" in page.words
    kinds = {tag for tag, _ in page.tags}
    assert not kinds & {"script", "link", "iframe", "object"} and "default-src 'none'" in text
    pictures = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(pictures) == 1 + e.groups.max() + 1 + 15
    assert all(attrs["src"].startswith("data:image/png;base64,") and attrs["alt"] for attrs in pictures)
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags
    words = re.sub(r"\s+", " ", page.words)
    for said in (f"The network says {e.network_prediction}", f"The examples say {e.prediction}",
                 network_fingerprint(calibrated.model), "14 (layer3.1.conv1)", "training examples200", "k10",
                 "weightsuniform", "cosine", "ebe-utils", "90 % coverage", "total variation",
                 f"had another label, the answer would be {e.classes[e.contest.relabelling.becomes]}"):
        assert said in words, said
    for index in (*e.contest.removed[:20], *e.indices):
        assert f"{index}" in words


def test_the_page_warns(calibrated, points, tmp_path):
    noise = torch.randint(0, 256, (1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    words = Page(calibrated.explain(noise).to_html(tmp_path / "a.html").read_text()).words
    assert "None of the training examples is near" in words
    net, data = points
    e = EBEClassifier(net, "flat", k=1, metric="euclidean").fit(data).explain(data.images[0])
    text = e.to_html(tmp_path / "b.html", classes=3).read_text()
    words = Page(text).words
    assert "They disagree" in words and "Do not take the examples as the network's reason" in words
    assert "Why b?" in words and "The examples say <c>" in words and "<c>" not in text
    assert "has not been calibrated" in words and "an input of shape (2,)" in words


def test_a_page_that_cannot_be_written_leaves_the_old_one(calibrated, small, tmp_path, monkeypatch):
    path = tmp_path / "why.html"
    path.write_text("old")
    monkeypatch.setattr("ebe_utils.files.os.replace", lambda a, b: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        calibrated.explain(small[1].images[0]).to_html(path)
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere; make it first"):
        calibrated.explain(small[1].images[0]).to_html(tmp_path / "nowhere" / "why.html")
    assert path.read_text() == "old" and [f.name for f in tmp_path.iterdir()] == ["why.html"]


def test_examples_that_come_as_a_dict_are_shown_one_by_one():
    net = nn.Sequential(OrderedDict(flat=nn.Flatten(), head=nn.Linear(2, 2))).eval()

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = net

        def forward(self, values):
            return self.body(values)

    rows = {"values": torch.arange(12.).reshape(6, 2)}
    ebe = EBEClassifier(Named().eval(), "body.flat", k=3).fit(rows, [0, 1] * 3)
    e = ebe.explain({"values": rows["values"][:1]})
    assert e._repr_html_().count("an input with values") == 4
    assert [part["values"].tolist() for part in one_by_one(rows, 2)] == [[0, 1], [2, 3]]
    assert one_by_one((np.arange(2), np.arange(2)), 2) == [(0, 0), (1, 1)]


def test_the_guides_examples_run(ebe_of_the_guide, tmp_path, monkeypatch):
    """Those of the sections on why not, how sure, what would change it, and on the audit."""
    page = (Path(__file__).parents[1] / "docs" / "guide.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names = ebe_of_the_guide
    for title in ("Why not, how sure, and what would change it", "Audit the training set"):
        section = page.split(f"## {title}\n")[1].split("\n## ")[0]
        for code in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
            exec(code, names)
    assert (tmp_path / "why.html").stat().st_size > 5000
    assert set(names["e"].contrast(["7", "1"]).to_frame()["class"]) == {"7", "1"}
    assert names["found"].influence.shape == (200,)


@pytest.fixture
def ebe_of_the_guide(trained, small, digits):
    held_out = ImageSet(digits[1].images[100:300], digits[1].labels[100:300], digits[1].classes)
    ebe = EBEClassifier(trained, 14, 10).fit(small[0])
    return {"ebe": ebe, "held_out": held_out, "image": small[1].images[0], "test_set": small[1]}
