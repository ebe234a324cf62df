"""The estimator: which training examples a prediction rests on, and with which weights (algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from .calibration import calibrate
from .checks import integer, one_of
from .evidence import Evidence
from .explanation import Explanation
from .explanations import Explanations
from .fingerprint import NetworkWatch
from .forward import softmax
from .inputs import Inputs, as_inputs, first_example
from .labels import encode_labels, warn_of_other_classes
from .layers import default_layer, last_layer, layer_name
from .network_at_a_layer import NetworkAtALayer
from .network_examples import CHOICES, TARGETS, NetworkView
from .saved import load_classifier, save_classifier
from .search import Index, check_k, check_metric
from .search.rows import Metric, as_rows, metric_name
from .votes import Weights, check_weights, nnk_weights, one_hot, vote_weights


class EBEClassifier(NetworkAtALayer, ClassifierMixin, BaseEstimator):
    """Example-based explanations of a trained network (EBE-DNN, arXiv:2502.19768, algorithm 1).

    The embeddings of the training examples at one layer are searched for the k nearest to a query's; these vote, and
    the weights of the votes are the example attribution: weights @ one_hot(labels) is the vote's prediction.

    model: any torch classifier; it is never changed. layer: the paper's number (convolutions from shallow to deep) or
    a module name; None takes the paper's 14 in a network of 20 convolutions, else see `layers.default_layer`. k: number
    of examples. metric: "cosine", "euclidean", "manhattan" or a function, see `search.rows.check_metric`. weights: a
    name or a function, see `ebe_utils.votes`; "nnk", with cosine distance, gives a part of the k all the weight (k = 50
    is a good number). pooling: see `ebe_utils.embeddings`. target: "labels", the paper's k nearest examples; or
    "network", k of the `candidates` nearest that explain the network's own answer, also where it is wrong. choice: how
    these are chosen, by their "influence" on the answer or by the "answers" they get, see `ebe_utils.network_examples`.
    device: "auto", or what torch calls it. memory_budget: GiB that the process may take for the index; None for no
    limit. describe: a function that turns one example into text, or into an object with `_repr_html_`, where an example
    is no image.

    After `fit`: classes_ (labels as they were given), class_names_ (texts), labels_ (n_train,) indices into them,
    layer_ and layer_name_, metric_, pooling_, network_proba_ (n_train, outputs), network_predictions_ (n_train,), the
    index of the network's largest output, comparable_ (whether the network has as many outputs as there are classes),
    train_ (`Inputs`), n_features_in_ (dimensions of the embedding). After `calibrate`: calibration_.

    k and weights may be changed after `fit`; layer, metric, pooling or the network's weights may not: every method then
    raises ValueError and asks for another `fit`.
    """

    _said = NetworkView()  # what it says of the training examples

    def __init__(self, model: torch.nn.Module | None, layer: int | str | None = None, k: int = 10,
                 metric: Metric = "cosine", weights: Weights = "uniform", pooling: str = "none",
                 target: str = "labels", candidates: int = 200, choice: str = "influence", batch_size: int = 256,
                 device: str = "auto", memory_budget: float | None = None,
                 describe: Callable[[Any], Any] | None = None):
        self.model: Any = model  # None is refused where a network is needed
        self.layer = layer
        self.k = k
        self.metric = metric
        self.weights = weights
        self.pooling = pooling
        self.target = target
        self.candidates = candidates
        self.choice = choice
        self.batch_size = batch_size
        self.device = device
        self.memory_budget = memory_budget
        self.describe = describe

    def fit(self, train_set: Any, y: Any = None, classes: Sequence[str] | None = None) -> EBEClassifier:
        """Embed the training examples; see `ebe_utils.inputs.as_inputs` for what they may be.

        y: (n,) integers or texts, where `train_set` has no labels of its own. classes: the names of the network's
        outputs in their order; by default those of the data set, else the sorted labels. Raises ValueError for
        parameters that do not fit. Warns where the network's outputs are not the classes of the labels.
        """
        train = as_inputs(train_set, y)
        if train.labels is None and not train.labels_come:
            raise ValueError("the training examples have no labels; pass them as y, or with each example.")
        integer("batch_size", self.batch_size, 1)
        if train.n is not None:
            check_k(self.k, train.n)
        check_metric(self.metric)
        check_weights("weights", self.weights, self.metric)
        one_of("target", self.target, TARGETS)
        for name in ("_index", "calibration_"):  # a fit that fails leaves the classifier unfitted
            self.__dict__.pop(name, None)
        self._moved = None
        self.layer_ = default_layer(self.model) if self.layer is None else self.layer
        self.layer_name_ = layer_name(self.model, self.layer_)
        one_of("choice", self.choice, CHOICES)
        self._last = last_layer(self.model) if self._needs_features else None
        embeddings, logits, features = self._embed(train)
        self._encode(train, classes)
        self._finish(train, embeddings, softmax(logits), logits.shape[1] == len(self.classes_))
        self._said = NetworkView(self.labels_ if self.comparable_ else None, self.network_proba_, features)
        self._watch = NetworkWatch(self.model)
        warn_of_other_classes(self.network_proba_, self.comparable_, self.labels_, len(self.classes_))
        return self

    @classmethod
    def from_embeddings(cls, embeddings: np.ndarray, y: Any, network_proba: np.ndarray | None = None,
                        classes: Sequence[str] | None = None, examples: Any = None, name: str = "embeddings",
                        **settings: Any) -> EBEClassifier:
        """A fitted classifier of embeddings (n, d) that someone already has; its queries are embeddings, too.

        y: (n,) labels. network_proba: (n, outputs), what the network said of the training examples, if it is known.
        examples: (n, ...) to be shown. name: of the layer. settings: k, metric, weights, memory_budget, describe.
        """
        self = cls(None, **settings)
        rows = as_rows(embeddings, "the embeddings")
        train = as_inputs(rows if examples is None else examples, y)
        if train.n != len(rows):
            raise ValueError(f"{train.n} examples do not match {len(rows)} embeddings; pass one for each.")
        check_k(self.k, len(rows))
        check_metric(self.metric)
        check_weights("weights", self.weights, self.metric)
        self.layer_ = self.layer_name_ = name
        self._encode(train, classes)
        self._finish(train, rows, network_proba, True)
        self._has_examples = examples is not None
        return self

    def _encode(self, train: Inputs, classes: Sequence[str] | None) -> None:
        if train.labels is None:
            raise ValueError("the training examples have no labels; pass them as y, or with each example.")
        self.classes_, self.class_names_, self.labels_ = encode_labels(train.labels, classes or train.classes)

    def _finish(self, train, embeddings, network_proba, comparable):
        self.train_, self.network_proba_, self._embeddings = train, network_proba, embeddings
        self.network_predictions_ = None if network_proba is None else network_proba.argmax(1)
        self.comparable_ = comparable and network_proba is not None
        self.metric_, self.pooling_, self.n_features_in_ = self.metric, self.pooling, embeddings.shape[1]
        self._signature, self._has_examples = train.signature(), True
        self._index = Index(embeddings, self.metric, self._network()[1], self.memory_budget)

    # --- from embeddings to votes -----------------------------------------------------------------------------------

    def _vote(self, embeddings, proba, features):
        """(distances, indices, weights), each (n, k)."""
        k = check_k(self.k, len(self.labels_))
        if one_of("target", self.target, TARGETS) == "labels":
            distances, indices = self._index.kneighbors(embeddings, k)
        else:
            many = integer("candidates", self.candidates, k, None, ", the number of examples k")
            distances, indices = self._index.kneighbors(embeddings, min(many, len(self.labels_)))
            ranks, shares = self._said.choose(indices, proba, features, self.choice, k)
            ranks = np.sort(ranks, 1)  # nearest first
            distances, indices = (np.take_along_axis(of, ranks, 1) for of in (distances, indices))
            if shares is not None:
                if self.weights != "uniform":
                    raise ValueError(f"choice='shares' gives each example its weight; pass weights='uniform' with it, "
                                     f"not {self.weights!r}.")
                return distances, indices, shares
        if check_weights("weights", self.weights, self.metric_) == "nnk":
            return distances, indices, nnk_weights(self._embeddings, embeddings, indices)
        return distances, indices, vote_weights(distances, self.weights)

    def kneighbors(self, X: Any, k: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(distances float32, indices int64) of the k nearest training examples, each (n, k), nearest first."""
        check_is_fitted(self, "_index")
        k = check_k(self.k if k is None else k, len(self.labels_))
        return self._index.kneighbors(self._query(X)[0], k)

    def attributions(self, X: Any) -> sp.csr_array:
        """The weight of every training example for every query: scipy CSR (n, n_train), rows with sum 1.

        `attributions(X) @ one_hot(labels_) == predict_proba(X)`. So the mean of the attributions at several layers is
        an attribution, too, and its prediction is that of their summed votes (notebook 09).
        """
        return self.explain_batch(X).attributions

    def predict_proba(self, X: Any) -> np.ndarray:
        """Share of the votes for each class, (n, classes)."""
        return self.attributions(X) @ one_hot(self.labels_, len(self.classes_))

    def predict(self, X: Any) -> np.ndarray:
        """The class with most votes, (n,); of several, the one with the smallest index, as scikit-learn decides."""
        shares = self.predict_proba(X)
        return self.classes_[shares.argmax(1)]

    def network_predict(self, X: Any) -> np.ndarray | None:
        """The network's own prediction, (n,): the number of its largest output; None without a network."""
        proba = self._query(X)[1]
        return None if proba is None else proba.argmax(1)

    def calibrate(self, held_out: Any, y: Any = None, coverage: float = 0.95, alarm: float = 0.01) -> EBEClassifier:
        """Learn from held-out examples how sure the votes are: `Explanation.doubt`; see `ebe_utils.calibration`.

        held_out: examples with labels, as in `fit`, that neither the network was trained on nor the classifier fitted.
        coverage: how often prediction sets hold the true class. alarm: share of ordinary inputs of which a warning may
        say that no training example is near. Call it again after a change of k, weights, target or candidates.
        """
        self.calibration_ = calibrate(self, as_inputs(held_out, y), coverage, alarm)
        return self

    def explain(self, x: Any) -> Explanation:
        """An `Explanation` of the prediction for one input, with or without its batch axis."""
        found = self.explain_batch(x)
        if len(found) != 1:
            raise ValueError(f"explain takes one image, not {len(found)}; pass them to explain_batch.")
        return found[0]

    def explain_batch(self, X: Any) -> Explanations:
        """`Explanations` of several inputs, from one forward pass and one search."""
        embeddings, proba, inputs, features = self._query(X)
        distances, indices, weights = self._vote(embeddings, proba, features)
        fetch = self.train_.fetch if self._has_examples else lambda at: None
        evidence = Evidence.of(self, embeddings, proba, fetch)

        def make(i):
            shown = inputs.fetch(np.array([i]))
            return Explanation.of_votes(
                indices[i], distances[i], weights[i], self.labels_, self.class_names_, fetch,
                network_prediction=None if proba is None else int(proba[i].argmax()),
                network_proba=None if proba is None else proba[i], comparable=self.comparable_, layer=self.layer_,
                layer_name=self.layer_name_, metric=metric_name(self.metric_), describe=self.describe,
                image=None if shown is None or self.model is None else first_example(shown),
                evidence=evidence.of_query(i))

        return Explanations(indices, distances, weights, self.labels_, self.class_names_, proba, self.comparable_, make,
                            evidence)

    # --- keeping it --------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> Path:
        """Write the fitted classifier to a folder, as safetensors and JSON; see `ebe_utils.saved`."""
        return save_classifier(self, folder)

    @classmethod
    def load(cls, folder: str | Path, model: torch.nn.Module | None = None, train_set: Any = None,
             verify: bool = False) -> EBEClassifier:
        """Read what `save` wrote, for the same network; see `ebe_utils.saved`."""
        return load_classifier(cls, folder, model, train_set, verify)

    def __sklearn_clone__(self):
        """The same parameters, not fitted, around the same network: its weights are not copied."""
        return type(self)(**self.get_params(deep=False))

    def __sklearn_is_fitted__(self):
        return hasattr(self, "_index")
