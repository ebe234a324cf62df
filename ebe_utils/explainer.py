"""The estimator: which training examples a prediction rests on, and with which weights (algorithm 1)."""

import numpy as np
import scipy.sparse as sp
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from .checks import one_of
from .data import as_batch, as_image_set
from .embeddings import iter_embeddings
from .explanation import Explanation
from .layers import layer_name
from .search.engines import check_k
from .search.index import Index
from .search.rows import METRICS
from .votes import check_weights, is_nnk, nnk_weights, one_hot, vote_weights


class EBEClassifier(ClassifierMixin, BaseEstimator):
    """Example-based explanations of a trained network (EBE-DNN, arXiv:2502.19768, algorithm 1).

    The embeddings of the training images at one layer are searched for the k nearest to a query's; these vote, and
    the weights of the votes are the example attribution: weights @ one_hot(labels) is the prediction.

    model: any torch classifier that maps a batch (n, ...) to logits; it is never changed. layer: the paper's number
    (convolutions from shallow to deep) or a module name. k: number of examples. metric: "cosine", "euclidean" or
    "manhattan". weights: "uniform", "distance" or a function, see `vote_weights`; or, with cosine distance, "nnk", see
    `nnk_weights`, which gives a part of the k all the weight (k = 50 is a good number). pooling: "none" or "avg", see
    `ebe_utils.embeddings`. device: "auto", or what torch calls it.

    After `fit`: classes_ (labels), class_names_, train_ (the training images), labels_ (n_train,), layer_name_,
    network_predictions_ (the network's own class of each training image).
    """

    def __init__(self, model, layer=14, k=10, metric="cosine", weights="uniform", pooling="none", batch_size=256,
                 device="auto"):
        self.model = model
        self.layer = layer
        self.k = k
        self.metric = metric
        self.weights = weights
        self.pooling = pooling
        self.batch_size = batch_size
        self.device = device

    def fit(self, train_set, y=None):
        """Embed the training images: a data set, or images with labels y. Raises ValueError for bad parameters."""
        train = as_image_set(train_set, y)
        self.layer_name_ = layer_name(self.model, self.layer)
        check_k(self.k, len(train))
        one_of("metric", self.metric, METRICS)
        check_weights("weights", self.weights, self.metric)
        self.train_, self.labels_ = train, train.labels
        self.classes_, self.class_names_ = np.arange(len(train.classes)), train.classes
        vars(self).pop("_index", None)  # a fit that fails leaves the classifier unfitted
        embeddings, self.network_predictions_ = self._embed(train.images)
        if self.network_predictions_.max() >= len(self.classes_):
            raise ValueError(f"the network predicts class {self.network_predictions_.max()}, but the training set has "
                             f"{len(self.classes_)} classes; pass the data set that the network was trained on.")
        self._embeddings, self._index = embeddings, Index(embeddings, self.metric)
        return self

    def _embed(self, images):
        """(embeddings (n, d), the network's classes (n,)) from one pass."""
        parts = [(batch[self.layer].cpu().numpy(), logits.argmax(1).cpu().numpy()) for _, batch, logits in
                 iter_embeddings(self.model, images, [self.layer], self.pooling, self.batch_size, self.device)]
        return tuple(np.concatenate(part) for part in zip(*parts, strict=True))

    def _query(self, images):
        check_is_fitted(self, "_index")
        return as_batch(images, (self.train_.images.dtype, self.train_.shape))[0]

    def kneighbors(self, images, k=None):
        """(distances, indices) of the k nearest training images, each (n, k), nearest first."""
        images, k = self._query(images), check_k(self.k if k is None else k, len(self.train_))
        return self._index.kneighbors(self._embed(images)[0], k)

    def _neighbors(self, embeddings):
        """(distances, indices, weights), each (n, k)."""
        distances, indices = self._index.kneighbors(embeddings, self.k)
        if is_nnk(check_weights("weights", self.weights, self.metric)):
            return distances, indices, nnk_weights(self._embeddings, embeddings, indices)
        return distances, indices, vote_weights(distances, self.weights)

    def attributions(self, images):
        """The weight of every training image for every query: scipy CSR (n, n_train), rows with sum 1.

        `attributions(images) @ one_hot(labels_) == predict_proba(images)`. So the mean of the attributions at several
        layers is an attribution, too, and its prediction is that of their summed votes (notebook 09).
        """
        _, indices, weights = self._neighbors(self._embed(self._query(images))[0])
        n, k = indices.shape
        found = sp.csr_array((weights.ravel(), indices.ravel(), np.arange(n + 1) * k), shape=(n, len(self.train_)))
        found.eliminate_zeros()
        return found

    def predict_proba(self, images):
        """Share of the votes for each class, (n, classes)."""
        return self.attributions(images) @ one_hot(self.labels_, len(self.classes_))

    def predict(self, images):
        """The class with most votes, (n,); of several, the one with the smallest index, as scikit-learn decides."""
        shares = self.predict_proba(images)
        return self.classes_[shares.argmax(1)]

    def network_predict(self, images):
        """The network's own prediction, (n,)."""
        return self._embed(self._query(images))[1]

    def explain(self, image):
        """An `Explanation` of the prediction for one image."""
        image = self._query(image)
        if len(image) != 1:
            raise ValueError(f"explain takes one image, not {len(image)}; call it for each of them.")
        embedding, network = self._embed(image)
        distances, indices, weights = (rows[0] for rows in self._neighbors(embedding))
        distances, indices, weights = (row[weights > 0] for row in (distances, indices, weights))
        # bincount adds in order, as the sparse product of predict_proba does, so that equal shares are equal.
        proba = np.bincount(self.labels_[indices], weights, len(self.classes_))
        return Explanation(
            indices=indices, labels=self.labels_[indices], distances=distances, weights=weights, proba=proba,
            prediction=int(proba.argmax()), network_prediction=int(network[0]), classes=self.class_names_,
            layer=self.layer, layer_name=self.layer_name_, metric=self.metric, image=image[0],
            examples=self.train_.images[indices])
