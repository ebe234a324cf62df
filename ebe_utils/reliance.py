"""Does the network rely on these examples? What its answer would be had its last layer been fitted without them.

Agreement can be bought by fitting weights to an answer; reliance cannot. The network below the last layer stays as it
is, and the last layer is fitted again, by ridge-penalised cross-entropy, without the examples. For one example at a
time the effect is that of an influence function (Koh and Liang 2017), exact to first order; `LastLayer.refitted` does
the refit itself. Effects are in nats: by how much log p(answer) falls when the examples are taken away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from sklearn.linear_model import LogisticRegression

from .checks import integer, real
from .network_examples import total_variation


class LastLayer:
    """A linear softmax layer fitted to the features that the network gives its own last layer.

    features: (n, d); labels: (n,) class indices; ridge: half the weight of the squared weights (not of the biases) in
    the summed cross-entropy. coef (classes, d) and bias (classes,) minimise it (scikit-learn); proba: (n, classes).
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray, ridge: float = 1.0, classes: int | None = None):
        self.features, self.labels = np.asarray(features, float), np.asarray(labels)
        self.ridge, self.classes = real("ridge", ridge), int(labels.max()) + 1 if classes is None else classes
        if len(np.unique(labels)) < max(2, self.classes):
            raise ValueError(f"the labels hold {len(np.unique(labels))} of {self.classes} classes; the last layer "
                             "needs examples of each, and of two at least.")
        self.coef, self.bias = self._fit(self.features, self.labels)
        self.proba = self.predict_proba(self.features)
        self._factor = None

    def _fit(self, features, labels):
        if len(np.unique(labels)) < self.classes:
            raise ValueError("without these examples a class has none left; take fewer away.")
        model = LogisticRegression(C=1 / self.ridge, tol=1e-8, max_iter=5000).fit(features, labels)
        if self.classes > 2:
            return model.coef_, model.intercept_
        # scikit-learn has one row for two classes; as two rows of half of it, the penalty would be half as large.
        both = LogisticRegression(C=2 / self.ridge, tol=1e-8, max_iter=5000).fit(features, labels)
        return np.vstack([-both.coef_, both.coef_]) / 2, np.append(-both.intercept_, both.intercept_) / 2

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """(m, classes): the fitted layer's softmax."""
        return _softmax(np.asarray(features, float) @ self.coef.T + self.bias)

    def refitted(self, features: np.ndarray, answers: np.ndarray, without: np.ndarray) -> np.ndarray:
        """(m,): fall of log p(answer) for `features` (m, d) when the layer is fitted again without some examples."""
        keep = np.setdiff1d(np.arange(len(self.labels)), without)
        coef, bias = self._fit(self.features[keep], self.labels[keep])
        rows, after = np.arange(len(answers)), _softmax(np.asarray(features, float) @ coef.T + bias)
        return np.log(self.predict_proba(features)[rows, answers]) - np.log(after[rows, answers])

    def without(self, features: np.ndarray, answers: np.ndarray, indices: np.ndarray, batch: int = 25) -> np.ndarray:
        """(m,): fall of log p(answer) of each query when the layer is fitted again without the query's own examples.

        features: (m, d); answers: (m,); indices: (m, k). As many refits as queries, `batch` at a time: Newton's method
        from the fit to all examples, with the second derivatives of that fit, until no coefficient moves by more than a
        thousandth of how far the farthest has come; where that does not converge, scikit-learn fits.
        """
        rows, ones = _with_one(np.asarray(features, float)), _with_one(self.features)
        start = np.hstack([self.coef, self.bias[:, None]])
        before, found = _softmax(rows @ start.T), np.empty(len(rows))
        for at in range(0, len(rows), integer("batch", batch, 1)):
            now = slice(at, at + batch)
            theta, solved = self._newton(start, ones, np.asarray(indices[now]))
            for i, done in enumerate(solved):
                if not done:
                    theta[i] = np.column_stack(self._fit(*(np.delete(x, indices[now][i], 0)
                                                           for x in (self.features, self.labels))))
            after = _softmax(np.einsum("bcd,bd->bc", theta, rows[now]))
            own = np.arange(len(after)), answers[now]
            found[now] = np.log(before[now][own]) - np.log(after[own])
        return found

    def _newton(self, start, ones, indices, rounds=60):
        """(coefficients (b, classes, d + 1), which have converged (b,)) without the rows `indices` (b, k)."""
        theta, truth = np.repeat(start[None], len(indices), 0), np.eye(self.classes)[self.labels]
        shape, solved = theta.shape, np.zeros(len(indices), bool)
        penalty = np.append(np.full(start.shape[1] - 1, self.ridge), 0)
        for _ in range(rounds):
            left = (ones @ theta.reshape(-1, shape[2]).T).reshape(len(ones), *shape[:2])  # (n, b, classes): logits
            left -= left.max(2, keepdims=True)
            np.exp(left, out=left)
            left /= left.sum(2, keepdims=True)
            left -= truth[:, None]
            for i, gone in enumerate(indices):
                left[gone, i] = 0
            gradient = (left.reshape(len(ones), -1).T @ ones).reshape(shape) + penalty * theta
            step = cho_solve(self._curvature(), gradient.reshape(len(theta), -1).T).T.reshape(shape)
            theta -= step
            solved = np.abs(step).max((1, 2)) <= 1e-3 * np.abs(theta - start).max((1, 2)) + 1e-9
            if solved.all():
                break
        return theta, solved

    def _curvature(self):
        if self._factor is None:
            self._factor = cho_factor(self._hessian(), overwrite_a=True)
        return self._factor

    def effects(self, features: np.ndarray, answers: np.ndarray, batch: int = 64) -> Iterator[np.ndarray]:
        """Yield (b, n) for one batch of queries after another: what taking away each example costs each answer.

        features: (m, d); answers: (m,) class indices. To first order effects of several examples add up. A refit
        without the strongest ones moves the answer further, since the effects compound; their order is the same.
        """
        features, answers = np.asarray(features, float), np.asarray(answers)
        signs = self.proba - np.eye(self.classes)[self.labels]  # (n, classes): gradient of each loss by its logits
        for start in range(0, len(features), integer("batch", batch, 1)):
            rows = features[start:start + batch]
            up = np.eye(self.classes)[answers[start:start + batch]] - self.predict_proba(rows)  # of log p by the logits
            gradient = np.einsum("bc,bd->bcd", up, _with_one(rows)).reshape(len(rows), -1)
            pull = cho_solve(self._curvature(), gradient.T).T.reshape(len(rows), self.classes, -1)
            effect = np.zeros((len(rows), len(self.labels)))
            for c in range(self.classes):
                effect -= signs[:, c] * (pull[:, c, :-1] @ self.features.T + pull[:, c, -1:])
            yield effect

    def _hessian(self):
        """Of the penalised loss by coef and bias, (classes (d + 1)) squared."""
        rows, (n, d) = _with_one(self.features), self.features.shape
        found = np.empty((self.classes, d + 1, self.classes, d + 1))
        for a in range(self.classes):
            for b in range(a, self.classes):
                weight = self.proba[:, a] * ((a == b) - self.proba[:, b])
                found[a, :, b] = found[b, :, a] = rows.T @ (rows * weight[:, None])
        penalty = np.append(np.full(d, self.ridge), 1e-8 * n)  # the biases' common shift changes nothing: any will do
        for c in range(self.classes):
            found[c, range(d + 1), c, range(d + 1)] += penalty
        return found.reshape(self.classes * (d + 1), -1)


def like_network(features: np.ndarray, labels: np.ndarray, others: np.ndarray, proba: np.ndarray,
                 ridges: Sequence[float] = (10, 100, 1000, 10000)) -> LastLayer:
    """The `LastLayer` that answers most like the network, of one fit for each of `ridges`.

    features: (n, d) and labels (n,) of the training examples; others: (m, d), what goes into the last layer for images
    that the network was not trained on, and proba: (m, classes), its own softmax for them. The fit with the least mean
    total variation from it is returned. Effects say something of the network as far as that fit answers as it does.
    """
    fits = [LastLayer(features, labels, ridge, proba.shape[1]) for ridge in ridges]
    return min(fits, key=lambda fit: total_variation(fit.predict_proba(others), proba).mean())


def reliance(effects: np.ndarray, indices: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """(m,): share of the largest possible effect that the examples have; 1 for the best k, 0 for examples without any.

    effects: (m, n), see `LastLayer.effects`; indices: (m, k), the examples of each query; weights: (m, k), of which
    those with weight 0 do not count. The largest possible is that of the k examples with the largest effects, k being
    those that count. Negative where the answer rests on others *against* these.
    """
    counts = np.ones(indices.shape, bool) if weights is None else np.asarray(weights) > 0
    got = (np.take_along_axis(effects, indices, 1) * counts).sum(1)
    best = -np.sort(-effects, 1)[:, :indices.shape[1]].cumsum(1)
    most = best[np.arange(len(best)), counts.sum(1) - 1]
    return np.where(most > 0, got / np.where(most > 0, most, 1), np.nan)


def _with_one(rows):
    return np.hstack([rows, np.ones((len(rows), 1))])


def _softmax(logits):
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
