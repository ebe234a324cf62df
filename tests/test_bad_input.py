"""What a user can pass by mistake to the public functions: which error, and that it says what is wrong."""

import numpy as np
import pytest
import torch

from ebe_utils import (
    EBEClassifier,
    ImageSet,
    conv_layers,
    embed,
    layer_neighbors,
    layer_sweep,
    layer_table,
    load_dataset,
    resnet18_for,
    train,
)
from ebe_utils.checks import did_you_mean, integer, real
from ebe_utils.embeddings import feature_maps
from ebe_utils.model import predict_logits
from ebe_utils.training import evaluate

GREY = ImageSet(np.zeros((4, 1, 8, 8), np.uint8), [0, 1, 0, 1])
BYTES = np.arange(256, dtype=np.uint8).reshape(4, 1, 8, 8)


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
                  lambda net, data: layer_neighbors(net, data, GREY))
      for given in (None, "digits", torch.zeros(2, 1, 8, 8), {"images": 1})),
    (lambda net: EBEClassifier(net).fit(None), TypeError, "a NoneType holds no examples"),
    (lambda net: EBEClassifier(net).fit("digits"), TypeError, "a str holds no examples"),
    (lambda net: EBEClassifier(net).fit(torch.zeros(2, 1, 8, 8)), ValueError, "have no labels"),
    (lambda net: EBEClassifier(net).fit({"images": 1}), ValueError, "have no labels"),
    (lambda net: EBEClassifier(net).fit(GREY.images, [0, 1]), ValueError, "do not match 4 images"),
    (lambda net: EBEClassifier(net).fit(GREY.images, [0.5] * 4), TypeError, "integer class indices"),
    (lambda net: EBEClassifier(net).fit(GREY.images * np.nan, GREY.labels), ValueError, "NaN"),
    # numbers from 0 to 255 that are no uint8, wherever images go in
    *((lambda net, use=use, kind=kind: use(net, BYTES.astype(kind)), error, words)
      for use in (lambda net, x: embed(net, x, 1), predict_logits, lambda net, x: feature_maps(net, x, 1),
                  lambda net, x: train(net, (x, GREY.labels)), lambda net, x: train(net, GREY, (x, GREY.labels)),
                  lambda net, x: evaluate(net, (x, GREY.labels)), lambda net, x: EBEClassifier(net).fit(x, GREY.labels),
                  lambda net, x: layer_sweep(net, GREY, (x, GREY.labels), ks=[1]),
                  lambda net, x: layer_sweep(net, (x, GREY.labels), GREY, ks=[1]))
      for kind, error, words in ((float, ValueError, "whole numbers from 0 to 255"), (np.int64, TypeError, "int64"),
                                 (np.uint16, TypeError, "uint16"))),
    # what stands where images belong
    *((lambda net, use=use, given=given: use(net, given), TypeError, words)
      for use in (lambda net, x: embed(net, x, 1), predict_logits)
      for given, words in (("digits", "a str holds no examples"), (None, "a NoneType holds no examples"))),
    *((lambda net, use=use: use(net, {"images": 1}), ValueError, r"does not take this input \(images \(1,\)\)")
      for use in (lambda net, x: embed(net, x, 1), predict_logits)),
    # the network
    (lambda net: embed("resnet18", BYTES, 1), TypeError, "the network is a str"),
    (lambda net: layer_neighbors(None, GREY, GREY, k=1), TypeError, "the network is a NoneType"),
    (lambda net: train("resnet18", GREY), TypeError, "the network is a str"),
    (lambda net: embed(torch.jit.script(net), BYTES, 1), TypeError, "the network is a ScriptModule"),
    (lambda net: conv_layers(print), TypeError, "the network is a builtin_function_or_method"),
    (lambda net: layer_table(torch.nn.Linear(2, 2), (2,)), ValueError, "no convolutions"),
    (lambda net: layer_table(net, (3, 8, 8)), ValueError, r"does not take this input.*takes \(n, 1, height, width\)"),
    (lambda net: resnet18_for(GREY, stem="imagent"), ValueError, "Did you mean 'imagenet'"),
    (lambda net: resnet18_for(GREY, seed="0"), TypeError, "seed='0' is a str"),
    (lambda net: resnet18_for(GREY, seed=-1), ValueError, "seed=-1"),
    (lambda net: layer_neighbors(net, GREY, GREY, k=5), ValueError, r"k=5.*there are 4 training images"),
    (lambda net: layer_neighbors(net, GREY, GREY, [1], k=None), TypeError, "k=None is a NoneType"),
])
@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
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
