"""Networks trained again without an image's examples: by hand where the answer can be computed, and on a few digits."""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from ebe_utils import ImageSet
from ebe_utils.data import scale
from ebe_utils.embeddings import embed
from ebe_utils.forward import predict_logits, softmax
from ebe_utils.statistics import mean_interval
from ebe_utils.study.removals import (
    PIXELS,
    fall_beyond,
    falls,
    kept_removals,
    removals,
    removals_table,
    small_network,
)
from ebe_utils.upkeep import removing

CHECKOUT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def images():
    """(80 training images of three classes, most of class 2; 30 test images)."""
    rng = np.random.default_rng(0)
    labels = np.array([0] * 20 + [1] * 25 + [2] * 35)
    pictures = torch.from_numpy(rng.integers(0, 256, (110, 1, 8, 8), np.uint8))
    return (ImageSet(pictures[:80], labels, ("a", "b", "c")),
            ImageSet(pictures[80:], np.arange(30) % 3, ("a", "b", "c")))


def counting(data, seed):
    """A network whose softmax is the share of each class among the images that it was trained on."""
    torch.manual_seed(seed)
    net = nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 4, 3), flat=nn.Flatten(), fc=nn.Linear(4 * 36, 3)))
    with torch.no_grad():
        net.fc.weight.zero_()
        net.fc.bias.copy_(torch.from_numpy(np.log(np.bincount(data.labels, minlength=3))))
    return net.eval()


def test_falls_that_can_be_computed(images):
    train_set, test_set = images
    found = pd.DataFrame([row for rows in removals(*images, images=4, seeds=2, network=counting, layer=1, candidates=30)
                          for row in rows])
    # It answers class 2 always: right on every third image.
    assert found.groupby("answer")["image"].unique().map(list).to_dict() == {"right": [2, 5, 8, 11],
                                                                            "wrong": [0, 1, 3, 4]}
    np.testing.assert_allclose(found["before"], 35 / 80, rtol=1e-6)
    assert (found["kept before"] == 2).all() and (found["kept after"] <= 2).all()
    after = found.pivot(index="image", columns="choice", values="after")
    np.testing.assert_allclose(after["random of the answer's class"], 25 / 70, rtol=1e-6)
    np.testing.assert_allclose(after["nearest of the answer's class"], 25 / 70, rtol=1e-6)
    rows, queries = (scale(part.images).flatten(1).double().numpy() for part in images)
    rows, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rows, queries))
    embedded = [np.asarray(embed(counting(train_set, 0), part, 1), float) for part in images]
    embedded = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in embedded]
    for name, cosine in ((PIXELS, queries @ rows.T), ("layer 1, nearest (the paper)", embedded[1] @ embedded[0].T)):
        nearest = (-cosine).argsort(1)[:, :10]
        expected = (35 - (train_set.labels[nearest] == 2).sum(1)) / 70
        np.testing.assert_allclose(after[name], expected[after.index], rtol=1e-6)
        same = found[found["choice"] == name].set_index("image")["same label"]
        np.testing.assert_allclose(same, (train_set.labels[nearest] == 2).mean(1)[same.index])


def test_networks_are_trained_without_the_examples(images):
    def network(data, seed):
        return small_network(data, seed, epochs=1)

    [rows] = removals(*images, images=1, seeds=2, seed=3, k=5, candidates=10, network=network,
                      done=[i for i in range(30) if i != first_right(network(images[0], 3), images[1])])
    row = next(row for row in rows if row["choice"] == PIXELS)
    train_set, test_set = images
    pixels = [scale(part.images).flatten(1).numpy() for part in images]
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in pixels]
    image = row["image"]
    out = (-(unit[1][image] @ unit[0].T)).argsort()[:5]
    kept = train_set.subset([i for i in range(80) if i not in out])
    before, after = ([softmax(predict_logits(network(data, seed), test_set.images[image:image + 1]))[0]
                      for seed in (3, 4)] for data in (train_set, kept))
    answer = test_set.labels[image]  # which the network gives
    assert row["before"] == pytest.approx(np.mean([p[answer] for p in before]), rel=1e-5)
    assert row["after"] == pytest.approx(np.mean([p[answer] for p in after]), rel=1e-5)
    assert row["kept after"] == sum(p.argmax() == answer for p in after)


def first_right(model, test_set):
    return np.flatnonzero(predict_logits(model, test_set.images).argmax(1) == test_set.labels)[0]


def rows_of(dataset, choice, answer, pairs):
    return [{"dataset": dataset, "choice": choice, "answer": answer, "image": i, "before": before, "after": after}
            for i, (before, after) in enumerate(pairs)]


def test_tables_by_hand():
    rows = pd.DataFrame([*rows_of("mnist", "near", "wrong", [(0.5, 0.5), (0.75, 0.5), (0.5, 0.25)]),
                         *rows_of("mnist", "far", "wrong", [(0.5, 0.25), (0.75, 0.25), (0.5, 0.125)])])
    table = falls(rows).set_index("choice")
    assert table.loc["near", "fall"] == pytest.approx(50 / 3) and table.loc["near", "images"] == 3
    assert tuple(table.loc["near", ["low", "high"]]) == pytest.approx(mean_interval([0, 25, 25]))
    difference, low, high = fall_beyond(rows, "far", "near")
    assert difference == pytest.approx((25 + 25 + 12.5) / 3) and low > 0 and high <= 25
    shown = removals_table(rows)
    assert list(shown) == ["choice", "mnist, wrong"] and shown["choice"].tolist() == ["near", "far"]
    assert shown["mnist, wrong"][0].startswith("16.7 (")


def test_an_interrupted_table_goes_on(tmp_path, monkeypatch):
    def table(folder):
        return removing.keep_removals("digits", 2, 1, 0, folder, 200, 60).read_text(encoding="utf-8")

    whole, original, asked = table(tmp_path / "whole"), removing.removals, []
    assert set(kept_removals(tmp_path / "nothing")) == set()

    def interrupted(*args, **options):
        for rows in original(*args, **options):
            if asked:
                raise KeyboardInterrupt
            asked.append(rows[0]["image"])
            yield rows

    monkeypatch.setattr(removing, "removals", interrupted)
    with pytest.raises(KeyboardInterrupt):
        table(tmp_path / "removals")
    assert kept_removals(tmp_path)["image"].unique().tolist() == asked
    monkeypatch.setattr(removing, "removals", original)
    assert table(tmp_path / "removals") == whole
    monkeypatch.setattr(removing, "removals", None)  # a finished table needs no network
    assert table(tmp_path / "removals") == whole
    kept = kept_removals(tmp_path)
    assert set(kept["dataset"]) == {"digits"} and kept.groupby("answer")["image"].nunique().tolist() == [2, 2]


# --- what the pages say of the committed rows ----------------------------------------------------------------------

NEAREST, INFLUENCE, OF_CLASS = "layer 3, nearest (the paper)", "influence, of 50", "nearest of the answer's class"
RANDOM_OF_CLASS, REPRESENTERS = "random of the answer's class", "representer points"
DATASETS = ("mnist", "fashion_mnist", "cifar10")


@pytest.fixture(scope="module")
def kept():
    return kept_removals(CHECKOUT / "data" / "reference")


@pytest.mark.parametrize("page", ["README.md", "docs/findings.md", "docs/results.md", "notebooks/18_retraining.ipynb"])
def test_the_pages_state_the_falls(page, kept):
    table = falls(kept).set_index(["choice", "answer", "dataset"])["fall"]
    text = " ".join((CHECKOUT / page).read_text(encoding="utf-8").split())

    def said(choice, answer):
        return "{:.1f}, {:.1f} and {:.1f}".format(*(table.loc[choice, answer, name] for name in DATASETS))

    asked = [(NEAREST, "wrong"), (INFLUENCE, "wrong")]
    if page != "README.md":
        asked.append((RANDOM_OF_CLASS, "wrong"))
    if page.endswith(("results.md", "ipynb")):
        asked += [(NEAREST, "right"), (RANDOM_OF_CLASS, "right"), (OF_CLASS, "right"), (OF_CLASS, "wrong")]
        labels = 100 * kept[kept["choice"] == NEAREST].groupby(["answer", "dataset"])["same label"].mean()
        for answer in ("right", "wrong"):
            assert "{:.0f}, {:.0f} and {:.0f} %".format(*(labels[answer, name] for name in DATASETS)) in text
    for choice, answer in asked:
        assert said(choice, answer) in text, (choice, answer)


def test_what_the_pages_compare_is_so(kept):
    assert kept.groupby(["dataset", "answer"])["image"].nunique().eq(30).all() and set(kept["dataset"]) == set(DATASETS)
    assert not kept.duplicated(["dataset", "image", "choice"]).any()

    def sign(choice, other, answer):
        """Of each data set: 1 or -1 where the interval of the difference excludes zero, else 0."""
        found = []
        for name in DATASETS:
            _, low, high = fall_beyond(kept[(kept["dataset"] == name) & (kept["answer"] == answer)], choice, other)
            found.append(int(low > 0) - int(high < 0))
        return found

    assert max(sign(NEAREST, RANDOM_OF_CLASS, "wrong")) <= 0
    assert sign(NEAREST, RANDOM_OF_CLASS, "right") == [1, 1, 0]
    assert sign(INFLUENCE, NEAREST, "wrong") == [1, 1, 1]
    assert sign(OF_CLASS, INFLUENCE, "right") == [1, 1, 1] and sign(OF_CLASS, INFLUENCE, "wrong") == [0, 1, 1]
    assert sign(INFLUENCE, REPRESENTERS, "right") == [1, 1, 1] and sign(INFLUENCE, REPRESENTERS, "wrong") == [1, 1, 0]
    table = falls(kept)
    largest = table.loc[table.groupby(["dataset", "answer"])["fall"].idxmax(), "choice"]
    assert set(largest) == {OF_CLASS}
