"""Is it the network's reason? How far the vote is from the network, and what happens to both when either changes."""

import copy

import numpy as np
import torch

from .checks import integer


def fidelity(proba, network_proba, truth):
    """Of the vote to the network: agreement, also where the network is right and where it is wrong, and kl.

    proba, network_proba: (n, classes); truth: (n,). kl: mean KL(votes || network's softmax) in nats, 0 for equal
    distributions. A dict; NaN where there is no image to count.
    """
    said = network_proba.argmax(1)
    same, right = proba.argmax(1) == said, said == truth
    ratio = np.log(np.where(proba > 0, proba, 1)) - np.log(np.maximum(network_proba, 1e-12))
    parts = {"agreement": same, "where right": same[right], "where wrong": same[~right]}
    return {name: float(part.mean()) if len(part) else np.nan for name, part in parts.items()} | {
        "kl": float((proba * ratio).sum(1).mean())}


def reinitialised(model, stages, seed=0):
    """A copy of the network whose last `stages` children with parameters are initialised anew, from the top down.

    For the model-randomisation check (Adebayo et al. 2018): what does not change with the network does not explain it.
    """
    net = copy.deepcopy(model)
    parts = [child for child in net.children() if next(child.parameters(), None) is not None]
    stages = integer("stages", stages, 0, len(parts), ", the children of the network that have parameters")
    chance = int(np.random.SeedSequence([seed, stages]).generate_state(1)[0])  # not the weights that seed began with
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(chance)
        for part in parts[len(parts) - stages:]:
            for module in part.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
    return net.eval()


def removal_effects(probability, n_train, groups):
    """{name: fall of the predicted class's probability when a group of training images is taken out}.

    probability: function of the indices of the training images that remain, which retrains and returns the
    probability of the class that the full training predicts; groups: {name: indices to remove}. Compare the
    attributed examples with as many random ones (the counterfactual test of Ilyas et al. 2022).
    """
    everything = np.arange(n_train)
    full = probability(everything)
    return {name: full - probability(np.setdiff1d(everything, out)) for name, out in groups.items()}
