"""Step 5, attributions: which training images a prediction rests on, and with which weights (algorithm 1)."""

import base64
import html
import io
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp
from scipy.linalg import solve_triangular
from scipy.optimize import nnls
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from .checks import one_of, real
from .data import as_image_set
from .embeddings import iter_embeddings
from .model import as_batch, layer_name
from .neighbors import METRICS, Index, check_k

WEIGHTS = ("uniform", "distance")  # that follow from the distances
NNK = "nnk"  # weights that follow from the embeddings


def one_hot(labels, n_classes=None):
    """(n, classes) float64 with a one at each row's label (integers from 0)."""
    labels = np.asarray(labels)
    return np.eye(int(labels.max()) + 1 if n_classes is None else n_classes)[labels]


def vote_weights(distances, weights="uniform"):
    """Weights of the neighbours, (n, k) float64, each row non-negative with sum 1.

    distances: (n, k). weights: "uniform" (1/k each, the paper's), "distance" (1/distance; where some distances are
    zero, those examples share the weight), or a function of the distances that returns as many weights:
    scikit-learn's meaning of the word. Raises ValueError if the function returns anything that cannot be weights.
    """
    distances = np.asarray(distances, dtype=float)
    if callable(weights):
        raw = np.asarray(weights(distances), dtype=float)
        if raw.shape != distances.shape:
            raise ValueError(f"weights returned shape {raw.shape} for distances of shape {distances.shape}; "
                             "return one weight per distance.")
        if not np.isfinite(raw).all() or (raw < 0).any() or (raw.sum(1) <= 0).any():
            raise ValueError("weights returned negative, infinite or NaN values, or a row without weight; "
                             "return non-negative weights with a positive sum.")
    elif check_weights("weights", weights) == "uniform":
        return np.full(distances.shape, 1 / distances.shape[1])
    else:
        zero = distances == 0
        raw = np.where(zero.any(1, keepdims=True), zero, 1 / np.where(zero, 1, distances))
    return raw / raw.sum(1, keepdims=True)


def softmax_weights(temperature=0.1):
    """A function for `vote_weights`: weights in proportion to exp(-distance / (temperature * mean distance)).

    Distances are taken relative to the mean of each row, since their scale differs by orders of magnitude between
    layers. Temperature 0.1: an example farther by a tenth of the mean distance has 1/e of the weight.
    """
    real("temperature", temperature)

    def weights(distances):
        mean = distances.mean(1, keepdims=True)
        return np.exp(-(distances - distances.min(1, keepdims=True)) / np.where(mean > 0, temperature * mean, 1))

    return weights


def nnk_weights(train, queries, indices):
    """Votes by non-negative kernel regression, (m, k) with rows that sum to 1.

    Of Shekkizhar & Ortega (arXiv:1910.09383); in the embedding of a network it is their DeepNNK (arXiv:2007.10505).
    train: (n, d); queries: (m, d); indices: (m, k), the candidates of each query. A query is written as a non-negative
    combination of its candidates in the space of the kernel (1 + cos) / 2, as well as that is possible: a candidate
    behind another one, seen from the query, gets weight 0. The weights are those numbers divided by their sum.
    """
    weights, points = np.zeros(indices.shape), np.empty((indices.shape[1] + 1, train.shape[1]))
    ridge = 1e-10 * np.eye(indices.shape[1])  # above what rounding can take off, so that equal candidates have a root
    for query, row, out in zip(queries, indices, weights, strict=True):
        points[0], points[1:] = query, train[row]
        gram = points @ points.T
        length = np.sqrt(gram.diagonal()).clip(1e-12)
        gram = (1 + gram / length / length[:, None]) / 2
        # min 1/2 w' K w - w' q over w >= 0 is non-negative least squares with K = L L', A = L' and L b = q.
        root = np.linalg.cholesky(gram[1:, 1:] + ridge)
        found = nnls(root.T, solve_triangular(root, gram[1:, 0], lower=True))[0]
        out[:] = found / found.sum() if found.sum() > 0 else 1 / len(row)
    return weights


def is_nnk(weights):
    """Whether these are the weights that need embeddings; anything may be asked, a function too."""
    return isinstance(weights, str) and weights == NNK


def check_weights(name, weights, metric=None):
    """`weights` if they are "uniform", "distance", a function, or, with cosine distance, "nnk"; else ValueError.

    metric: of the embeddings, or None where only distances are known.
    """
    if is_nnk(weights) and metric != "cosine":
        raise ValueError(f"{name}='nnk' follow from the embeddings, and here only distances are known; choose uniform "
                         "or distance here, or use EBEClassifier or select." if metric is None else
                         f"{name}='nnk' compares examples by their angles; pass metric='cosine' with it, not "
                         f"{metric!r}.")
    return weights if callable(weights) else one_of(name, weights, WEIGHTS if metric is None else (*WEIGHTS, NNK))


def effective_number(weights):
    """(n,): 1 / Σw², how many examples with equal weights would be as concentrated (Kish 1965); from 1 to k."""
    return 1 / np.square(weights).sum(1)


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


@dataclass(frozen=True, repr=False)
class Explanation:
    """Why one image is classified as it is: the training images whose votes have weight, nearest first.

    indices, labels, weights, distances: (k,), or fewer where some of the k nearest have weight 0; proba: (classes,),
    equal to weights @ one_hot(labels); prediction and network_prediction: class indices of EBE and of the network;
    agreement: whether the two are the same.
    """

    indices: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    distances: np.ndarray
    proba: np.ndarray
    prediction: int
    network_prediction: int
    classes: tuple
    layer: int | str
    layer_name: str
    metric: str
    image: object = field(default=None)
    examples: object = field(default=None)

    @property
    def agreement(self):
        return self.prediction == self.network_prediction

    def __repr__(self):
        return f"Explanation(layer={self.layer!r}, k={len(self.indices)}, metric={self.metric!r})"

    def _summary(self):
        both = "the same" if self.agreement else "another class"
        return (f"EBE predicts {self.classes[self.prediction]} ({self.proba[self.prediction]:.0%} of the weight), "
                f"the network {self.classes[self.network_prediction]}: {both}.")

    def _rows(self):
        for rank, (i, label, weight, distance) in enumerate(
                zip(self.indices, self.labels, self.weights, self.distances, strict=True), start=1):
            yield rank, str(int(i)), self.classes[label], f"{weight:.3f}", f"{distance:.4f}"

    def __str__(self):
        width = max(5, *(len(c) for c in self.classes))
        lines = [f"{'rank':>4}  {'index':>6}  {'class':<{width}}  {'weight':>6}  {self.metric + ' distance':>18}"]
        lines += [f"{r:>4}  {i:>6}  {c:<{width}}  {w:>6}  {d:>18}" for r, i, c, w, d in self._rows()]
        return "\n".join([f"Layer {self.layer} ({self.layer_name}). {self._summary()}", *lines])

    def _repr_html_(self):
        """The table with its images; cells of class "measured" depend on the trained network."""
        head = "".join(f"<th>{h}</th>" for h in ("rank", "example", "index", "class", "weight",
                                                 f"{html.escape(self.metric)} distance"))
        rows = []
        for (rank, *cells), image in zip(self._rows(), self.examples, strict=True):
            values = "".join(f'<td class="measured">{html.escape(c)}</td>' for c in cells)
            rows.append(f'<tr><td>{rank}</td><td>{_picture(image)}</td>{values}</tr>')
        return (f"<p>Layer {html.escape(str(self.layer))} ({html.escape(self.layer_name)}). "
                f'<span class="measured">{html.escape(self._summary())}</span></p>'
                f"<p>The image explained: {_picture(self.image)}</p>"
                f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>")


def _picture(image, side=56):
    """An <img> of one (C, H, W) image, or its shape if it is no grey or colour image."""
    from PIL import Image

    from .model import scale

    pixels = scale(image).float().numpy()
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
        return f"an input of shape {tuple(pixels.shape)}"
    pixels = (pixels.clip(0, 1) * 255).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(buffer, "png")
    data = base64.b64encode(buffer.getvalue()).decode()
    return (f'<img class="measured" width="{side}" style="image-rendering:pixelated" alt="training or test image" '
            f'src="data:image/png;base64,{data}">')
