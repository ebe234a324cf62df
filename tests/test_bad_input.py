"""What a user can pass by mistake to the public functions: which error, and that it says what is wrong."""

import numpy as np
import pytest
import torch

from ebe_utils import EBEClassifier, ImageSet, layer_neighbors, load_dataset, resnet18_for, train
from ebe_utils.checks import did_you_mean, integer, real

GREY = ImageSet(np.zeros((4, 1, 8, 8), np.uint8), [0, 1, 0, 1])


@pytest.mark.parametrize("call, error, words", [
    # the data set
    (lambda net: load_dataset("fashion-mnist"), ValueError, "dataset='fashion-mnist' is unknown.*mean 'fashion_mnist'"),
    (lambda net: load_dataset("Digits"), ValueError, "Did you mean 'digits'"),
    (lambda net: load_dataset("imagenet1k"), ValueError, "choose one of digits, mnist, fashion_mnist, cifar10"),
    (lambda net: load_dataset(None), ValueError, "dataset=None is unknown"),
    (lambda net: load_dataset("digits", seed=-1), ValueError, "seed=-1"),
    (lambda net: load_dataset("digits", seed=0.5), TypeError, "seed=0.5 is a float"),
    (lambda net: load_dataset("digits", n_train=1438), ValueError, "n_train=1438.*from 1 to 1437"),
    (lambda net: load_dataset("digits", n_test=0), ValueError, "n_test=0.*from 1 to 360"),
    (lambda net: load_dataset("digits", n_train="100"), TypeError, "n_train='100' is a str"),
    (lambda net: load_dataset("digits", n_train=True), TypeError, "n_train=True is a bool"),
    *((lambda net, size=size: load_dataset("folder:anywhere", image_size=size), error, f"image_size={size!r}")
      for size, error in ((0, ValueError), (-3, ValueError), ("32", TypeError), (2.5, TypeError), (True, TypeError))),
    # what stands where a data set belongs
    *((lambda net, use=use, given=given: use(net, given), TypeError, "has no images and labels")
      for use in (lambda net, data: resnet18_for(data), lambda net, data: train(net, data),
                  lambda net, data: EBEClassifier(net).fit(data), lambda net, data: layer_neighbors(net, data, GREY))
      for given in (None, "digits", torch.zeros(2, 1, 8, 8), {"images": 1})),
    (lambda net: EBEClassifier(net).fit(GREY.images, [0, 1]), ValueError, "do not match 4 images"),
    (lambda net: EBEClassifier(net).fit(GREY.images, [0.5] * 4), TypeError, "integer class indices"),
    (lambda net: EBEClassifier(net).fit(GREY.images * np.nan, GREY.labels), ValueError, "NaN"),
    # the network
    (lambda net: resnet18_for(GREY, stem="imagent"), ValueError, "Did you mean 'imagenet'"),
    (lambda net: resnet18_for(GREY, seed="0"), TypeError, "seed='0' is a str"),
    (lambda net: resnet18_for(GREY, seed=-1), ValueError, "seed=-1"),
    (lambda net: layer_neighbors(net, GREY, GREY, k=5), ValueError, r"k=5.*there are 4 training images"),
    (lambda net: layer_neighbors(net, GREY, GREY, [1], k=None), TypeError, "k=None is a NoneType"),
])
def test_mistakes_are_named(tiny_net, call, error, words):
    with pytest.raises(error, match=words):
        call(tiny_net)


def test_suggestions_are_made_for_near_words_only():
    assert did_you_mean("cosin", ["cosine", "euclidean"]) == " Did you mean 'cosine'?"
    assert did_you_mean("xyz", ["cosine", "euclidean"]) == ""


def test_integers():
    assert integer("k", np.int64(3), 1, 5) == 3 and type(integer("k", np.int64(3))) is int
    assert integer("k", 1, 1, 1) == 1
    for value, error in ((0, ValueError), (6, ValueError), (2.0, TypeError), (True, TypeError), ("2", TypeError)):
        with pytest.raises(error, match="pass an integer from 1 to 5"):
            integer("k", value, 1, 5)
    with pytest.raises(TypeError, match=r"pass an integer\.$"):
        integer("k", None)


def test_real_numbers():
    assert real("rate", np.float32(0.5)) == 0.5 and real("rate", 2) == 2.0
    for value, error in ((0, ValueError), (-1.0, ValueError), (float("nan"), ValueError), (float("inf"), ValueError),
                         (True, TypeError), ("1", TypeError), (1j, TypeError)):
        with pytest.raises(error, match="greater than 0"):
            real("rate", value)
