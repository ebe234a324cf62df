"""Do attributions predict what a network trained on other examples says? The linear datamodelling score.

Networks are trained on random subsets of the training set. An attribution predicts the output of each by the sum of the
weights of its subset. The score is the rank correlation of the two, over subsets, for each image (Ilyas et al. 2022,
"Datamodels"; Park et al. 2023, "TRAK").
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from .checks import integer, real
from .metrics import rank_correlation


def random_subsets(n_train: int, m: int, share: float = 0.5, seed: int = 0) -> np.ndarray:
    """(m, n_train) booleans: m subsets of that share of the training set, drawn without replacement."""
    size = round(real("share", share) * integer("n_train", n_train, 1))
    if not 0 < size < n_train:
        raise ValueError(f"share={share} leaves {size} of {n_train} training examples; pass a share between 0 and 1.")
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(n_train) < size for _ in range(integer("m", m, 2))])


def answer_margins(logits: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """(..., n): log p / (1 - p) of the class answers (n,), from logits (..., n, classes).

    The output that Park et al. (2023, equation 19) correlate: it does not saturate as the probability does.
    """
    logits = np.asarray(logits, float)
    chosen = np.arange(logits.shape[-1]) == np.asarray(answers)[:, None]
    own = np.where(chosen, logits, -np.inf).max(-1)
    return own - np.logaddexp.reduce(np.where(chosen, -np.inf, logits), -1)


def linear_datamodeling_score(attributions: np.ndarray | sp.csr_array, subsets: np.ndarray, outputs: np.ndarray
                              ) -> np.ndarray:
    """(n,): Spearman's correlation, over subsets, of predicted and real outputs; 1 is a perfect order, 0 chance.

    attributions: (n, n_train), dense or sparse; subsets: (m, n_train) booleans, what each network was trained on;
    outputs: (m, n), what it says of each image, `answer_margins` say. NaN where an attribution predicts the same of all
    subsets, or the networks say the same. Raises ValueError for shapes that do not match.
    """
    subsets, outputs = np.asarray(subsets, bool), np.asarray(outputs, float)
    expected = (len(subsets), attributions.shape[0])
    if subsets.ndim != 2 or subsets.shape[1] != attributions.shape[1] or outputs.shape != expected:
        raise ValueError(f"attributions {attributions.shape} (images, training examples), subsets {subsets.shape} "
                         f"(networks, training examples) and outputs {outputs.shape} (networks, images) do not match.")
    predicted = np.asarray(attributions @ subsets.T.astype(float))
    # Sums of the same weights in another order differ by rounding, which is no order.
    largest = np.abs(predicted).max(1, keepdims=True)
    return rank_correlation((predicted / np.where(largest > 0, largest, 1)).round(12), outputs.T)
