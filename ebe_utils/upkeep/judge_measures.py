"""What the judges measure: quanda's metrics and selection relevance, each by a network made for it.

Each function yields (measure, method, values), mostly a value for each image explained.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from scipy.stats import rankdata

from ..circularity import CHANGES, change_alignment, changed_images, exchanged_answers, sign_agreement
from ..data import ImageSet, scale
from ..datamodels import answer_margins, linear_datamodeling_score, random_subsets
from ..embeddings import embed
from ..explainer import EBEClassifier
from ..forward import softmax
from ..label_errors import flip_labels
from ..metrics import plant_shortcut
from ..model import predict_logits
from ..network_examples import NetworkView
from ..selection_relevance import same_class_examples, selection_relevance
from ..study.judge_tables import SAME_CLASS
from .judged import Judged, K, ebe_settings, scores_of, trained_network

WRONG = 0.1  # share of labels made wrong
MARKED = 0.5  # share of class 0 that carries the shortcut


def plain(options: argparse.Namespace, seed: int, folder: Path) -> Iterator[tuple[str, str, np.ndarray]]:
    """Class detection, cardinality, model randomisation, and selection relevance, of the network as it is."""
    from quanda.metrics.downstream_eval import ClassDetectionMetric
    from quanda.metrics.heuristics import ModelRandomizationMetric, TopKCardinalityMetric

    train_set, test_set = options.load(seed)
    judged = Judged(trained_network(train_set, options, seed), train_set, options, folder)
    images = scale(test_set.images)
    logits, train_logits = (predict_logits(judged.model, part.images) for part in (test_set, train_set))
    targets = torch.from_numpy(logits.argmax(1))
    yield "accuracy of the network", "", (logits.argmax(1) == test_set.labels).astype(float)
    features, train_features = (np.asarray(embed(judged.model, part.images, "avgpool"))
                                for part in (test_set, train_set))
    few = slice(0, options.randomised)
    for name, explainer in judged.made():
        scores = scores_of(explainer, images, targets)
        detection = ClassDetectionMetric(judged.model, judged.data)
        detection.update(scores, targets)
        yield "class detection", name, torch.cat(detection.scores).numpy()
        cardinality = TopKCardinalityMetric(judged.model, judged.data, top_k=K)
        cardinality.update(scores)
        yield "top-k cardinality", name, np.array([cardinality.compute()["score"]])
        kind, arguments = judged.methods[name]
        randomised = ModelRandomizationMetric(
            judged.model, "random", str(folder / "random" / name.replace(" ", "")), judged.data, [str(judged.file)],
            kind, arguments)
        randomised.update(scores[few], images[few], targets[few])
        yield "model randomisation", name, torch.cat(randomised.results["scores"]).numpy()
        chosen = scores.topk(K, 1).indices.numpy()
        for who, at in ((name, chosen), (SAME_CLASS + name, same_class_examples(chosen, train_set.labels, seed))):
            yield "selection relevance", who, selection_relevance(
                at, features, softmax(logits), targets.numpy(), train_features, softmax(train_logits),
                train_set.labels)


def subclass(options: argparse.Namespace, seed: int, folder: Path) -> Iterator[tuple[str, str, np.ndarray]]:
    """Do the examples show the class, of a network that was trained on even against odd classes only?"""
    from quanda.metrics.downstream_eval import SubclassDetectionMetric

    train_set, test_set = options.load(seed)
    merged = ImageSet(train_set.images, train_set.labels % 2, ("even", "odd"), train_set.name)
    judged = Judged(trained_network(merged, options, seed), merged, options, folder)
    targets = torch.from_numpy(predict_logits(judged.model, test_set.images).argmax(1))
    for name, explainer in judged.made():
        metric = SubclassDetectionMetric(judged.model, judged.data, torch.from_numpy(train_set.labels))
        metric.update(scores_of(explainer, scale(test_set.images), targets), torch.from_numpy(test_set.labels))
        yield "subclass detection", name, torch.cat(metric.scores).numpy()


def mislabelled(options: argparse.Namespace, seed: int, folder: Path) -> Iterator[tuple[str, str, np.ndarray]]:
    """How early the wrongly labelled images come where all are checked in order of self-influence.

    quanda adds 0.0001 times the position to every score, to break ties. That would decide the order of scores between
    0 and 1, so each method's ranks are handed over instead (equal scores, equal ranks).
    """
    from quanda.metrics.downstream_eval import MislabelingDetectionMetric

    train_set = options.load(seed)[0]
    labels, flipped = flip_labels(train_set.labels, WRONG, len(train_set.classes), seed)
    wrong = ImageSet(train_set.images, labels, train_set.classes, train_set.name)
    judged = Judged(trained_network(wrong, options, seed), wrong, options, folder)
    for name, explainer in judged.made():
        own = explainer.self_influence(batch_size=250).detach().double().numpy()
        ranks = rankdata((own / np.abs(own).max()).round(6), "dense")
        metric = MislabelingDetectionMetric(judged.model, judged.data, np.flatnonzero(flipped).tolist(),
                                            precomputed_self_influence=torch.from_numpy(ranks).double())
        found = metric.compute()
        # The area, image by image: what share of all images comes after each wrong one.
        places = np.flatnonzero(found["success_arr"].numpy())
        values = 1 - (places + 1) / len(labels)
        if abs(values.mean() - found["score"]) > 2 / len(labels):
            raise RuntimeError(f"quanda's area of {name} is {found['score']:.4f}, image by image {values.mean():.4f}.")
        yield "mislabelling detection", name, values


def shortcut(options: argparse.Namespace, seed: int, folder: Path) -> Iterator[tuple[str, str, np.ndarray]]:
    """Average precision of the marked training images, where a mark makes the network say class 0."""
    from quanda.metrics.downstream_eval import ShortcutDetectionMetric

    train_set, test_set = options.load(seed)
    own = np.flatnonzero(train_set.labels == 0)
    marked = np.sort(np.random.default_rng(seed).choice(own, round(MARKED * len(own)), replace=False))
    images = train_set.images.clone()
    images[marked] = plant_shortcut(images[marked])
    shown = ImageSet(images, train_set.labels, train_set.classes, train_set.name)
    judged = Judged(trained_network(shown, options, seed), shown, options, folder)
    queries = plant_shortcut(test_set.images)
    fooled = (predict_logits(judged.model, queries).argmax(1) == 0) & (test_set.labels != 0)
    yield "images that the shortcut fools", "", fooled[test_set.labels != 0].astype(float)
    at = torch.from_numpy(np.flatnonzero(fooled))
    if not len(at):
        return
    images, targets = scale(queries[at]), torch.zeros(len(at), dtype=torch.long)
    for name, explainer in judged.made():
        metric = ShortcutDetectionMetric(judged.model, judged.data, marked.tolist(), 0)
        metric.update(scores_of(explainer, images, targets), images, torch.from_numpy(test_set.labels)[at])
        yield "shortcut detection", name, torch.stack(metric.auprc_scores).numpy()


def datamodels(options: argparse.Namespace, seed: int, folder: Path) -> Iterator[tuple[str, str, np.ndarray]]:
    """The linear datamodelling score, of small networks that were trained on halves of the training images."""
    from quanda.metrics.ground_truth import LinearDatamodelingMetric

    train_set, test_set = options.load(seed)
    train_set, test_set = (part.subset(np.arange(min(len(part), most)))
                           for part, most in ((train_set, options.small), (test_set, 200)))

    model = trained_network(train_set, options, seed, small=True)
    targets = predict_logits(model, test_set.images).argmax(1)
    subsets = random_subsets(len(train_set), options.subsets, 0.5, seed)
    logits = np.stack([predict_logits(trained_network(train_set.subset(part), options, seed, small=True),
                                      test_set.images) for part in subsets])
    judged = Judged(model, train_set, options, folder, signed=True)
    images = scale(test_set.images)
    for name, explainer in judged.made():
        scores = scores_of(explainer, images, torch.from_numpy(targets))
        metric = LinearDatamodelingMetric(
            judged.model, judged.data, m=len(subsets), subset_ids=[np.flatnonzero(s).tolist() for s in subsets],
            subset_ckpt_filenames=[""] * len(subsets))
        metric.update(scores, torch.from_numpy(targets), images, dict(enumerate(torch.from_numpy(logits))))
        values = torch.cat(metric.results["scores"]).numpy()
        own = linear_datamodeling_score(scores.double().numpy(), subsets, answer_margins(logits, targets))
        if abs(values.mean() - np.nan_to_num(own).mean()) > 0.05:  # equal sums differ by rounding in float32
            raise RuntimeError(f"quanda's LDS of {name} is {values.mean():.3f}, this package's {np.nanmean(own):.3f}.")
        yield "LDS", name, values


def circularity(options: argparse.Namespace, seed: int, folder: Path) -> Iterator[tuple[str, str, np.ndarray]]:
    """Does EBE's vote move as the network does, and would its candidates rebuild another image's answer as well?

    With target="network" the examples of a changed image are chosen by the answer to the unchanged one: the choice has
    not seen what it is to predict. Beside them random candidates, and those of another image.
    """
    train_set, test_set = options.load(seed)
    model = trained_network(train_set, options, seed)
    proba, train_proba = (softmax(predict_logits(model, part.images)) for part in (test_set, train_set))
    features, train_features = (np.asarray(embed(model, part.images, "avgpool")) for part in (test_set, train_set))
    view = NetworkView(train_set.labels, train_proba, train_features)
    rng, votes = np.random.default_rng(seed), np.eye(len(train_set.classes))[train_set.labels]

    def shares(near, choice):
        if choice:
            near = np.take_along_axis(near, view.choose(near, proba, features, choice, K)[0], 1)
        return votes[near[:, :K]].mean(1)

    for name, settings in ebe_settings(model).items():
        ebe, choice = EBEClassifier(model, settings["layer"], K).fit(train_set), settings.get("choice")
        near = ebe.kneighbors(test_set.images, options.candidates)[1]
        chance = np.stack([rng.permutation(len(train_set))[:options.candidates] for _ in near])
        turn = np.roll(np.arange(len(near)), 1)
        for change in CHANGES:
            images = changed_images(test_set.images, change, seed=seed)
            after, moved = softmax(predict_logits(model, images)), ebe.kneighbors(images, options.candidates)[1]
            for who, old, new in ((name, near, moved), (f"another's, {name}", near[turn], moved[turn])):
                given = shares(old, choice), shares(new, choice), proba, after
                yield f"moves with the network, {change}", who, change_alignment(*given)
                yield f"same sign, {change}", who, sign_agreement(*given)
        if choice == "answers":
            for who, at in ((name, near), (f"random, {name}", chance)):
                own, other = exchanged_answers(at, train_proba, proba, "nearest", K, seed)
                yield "distance from its own answer", who, own
                yield "distance from another's answer", who, other


MEASURES: dict[str, Callable[..., Iterator]] = {
    "plain": plain, "subclass": subclass, "mislabelled": mislabelled, "shortcut": shortcut, "datamodels": datamodels,
    "circularity": circularity}
