"""Tests of an explanation that its choice has not seen: a changed image, and another image's answer.

Examples that were chosen or weighted by the network's answer agree with it by construction, so that agreement is no
evidence. Two questions that the choice did not look at: does the vote move as the network does when the image changes a
little, and would the same examples have rebuilt any other answer just as well?
"""

from __future__ import annotations

import numpy as np
import torch

from .checks import one_of, same_shape
from .network_examples import convex_weights, nearest_answers, total_variation

CHANGES = ("noise", "shift")
WAYS = ("nearest", "convex")


def changed_images(images: torch.Tensor, change: str, amount: float | None = None, seed: int = 0) -> torch.Tensor:
    """The images (n, C, H, W), slightly changed: "noise" of a standard deviation, or a "shift" to the right by pixels.

    amount: by default 0.05 of the range (0 to 255 of uint8, else 0 to 1), or one pixel; zeros come in from the left.
    Noisy values are cut to the range; uint8 stays uint8.
    """
    if one_of("change", change, CHANGES) == "shift":
        by, moved = int(1 if amount is None else amount), torch.zeros_like(images)
        if not 0 <= by < images.shape[-1]:
            raise ValueError(f"amount={amount} is out of range; images of width {images.shape[-1]} can be shifted by 0 "
                             f"to {images.shape[-1] - 1} pixels.")
        moved[..., by:] = images[..., :images.shape[-1] - by]
        return moved
    top = 255 if images.dtype == torch.uint8 else 1
    noise = np.random.default_rng(seed).normal(0, (0.05 if amount is None else amount) * top, images.shape)
    noisy = (images.numpy() + noise).clip(0, top)
    return torch.from_numpy(noisy.round() if top == 255 else noisy).to(images.dtype)


def change_alignment(shares: np.ndarray, changed_shares: np.ndarray, proba: np.ndarray, changed_proba: np.ndarray,
                     least: float = 1e-3) -> np.ndarray:
    """(n,): cosine between the change of the vote and the change of the network's softmax; 1: the same direction.

    shares, proba: (n, classes) of the images; changed_...: of the same images, slightly changed, their examples found
    anew and nothing fitted to the network's new answer. 0 where the vote does not move although the network does, NaN
    where the network moves by less than `least` (total variation): there is nothing to predict. For target="network",
    whose choice looks at the new answer, choose by the old one: `nearest_answers(indices, distances, train_proba,
    proba, k)` with the changed images' candidates.
    """
    for name, other in (("changed_shares", changed_shares), ("proba", proba), ("changed_proba", changed_proba)):
        same_shape(name, other, shares)
    vote, network = changed_shares - shares, changed_proba - proba
    lengths = np.linalg.norm(vote, axis=1) * np.linalg.norm(network, axis=1)
    found = (vote * network).sum(1) / np.where(lengths > 0, lengths, 1)
    return np.where(total_variation(changed_proba, proba) >= least, found, np.nan)


def sign_agreement(shares: np.ndarray, changed_shares: np.ndarray, proba: np.ndarray, changed_proba: np.ndarray,
                   least: float = 1e-3) -> np.ndarray:
    """(n,) 1, 0 or 0.5: does the vote for the network's answer rise or fall as the network's probability of it does?

    0.5 where the vote stays; NaN where the probability moves by less than `least`. 0.5 on average for votes that know
    nothing of the change. Arguments: `change_alignment`.
    """
    for name, other in (("changed_shares", changed_shares), ("proba", proba), ("changed_proba", changed_proba)):
        same_shape(name, other, shares)
    rows, said = np.arange(len(proba)), proba.argmax(1)
    network, vote = (changed_proba - proba)[rows, said], (changed_shares - shares)[rows, said]
    vote = np.where(np.abs(vote) < 1e-9, 0, vote)
    return np.where(np.abs(network) >= least, (1 + np.sign(vote) * np.sign(network)) / 2, np.nan)


def exchanged_answers(indices: np.ndarray, train_proba: np.ndarray, proba: np.ndarray, way: str = "nearest",
                      k: int = 10, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(own, other), each (n,): total variation between an answer and what candidates of this image rebuild of it.

    own: of the network's answer to the image itself; other: of its answer to another image, one that it gives another
    class, drawn by the seed. indices: (n, c), the candidates near each image; train_proba (n_train, outputs) and proba
    (n, outputs): the network's softmax. way: "nearest", the mean softmax of the k candidates with the nearest answers,
    or "convex", the weights of `convex_weights`. If `other` is no larger than `own`, the candidates rebuild whatever
    is asked of them, and that they rebuild this answer says nothing about this image. Raises ValueError if all images
    get the same class.
    """
    one_of("way", way, WAYS)
    rng, said = np.random.default_rng(seed), proba.argmax(1)
    if (said == said[0]).all():
        raise ValueError("the network gives all images the same class; pass images of two classes at least.")
    asked = np.stack([proba[rng.choice(np.flatnonzero(said != c))] for c in said])

    def rebuilt(answers):
        if way == "convex":
            return np.einsum("nc,nco->no", convex_weights(train_proba, answers, indices), train_proba[indices])
        chosen = nearest_answers(indices, np.zeros(indices.shape), train_proba, answers, k)[1]
        return train_proba[chosen].mean(1)

    return total_variation(rebuilt(proba), proba), total_variation(rebuilt(asked), asked)
