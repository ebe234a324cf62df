"""The trial, bad inputs: calls as a user could write them by mistake, with the error that each one gets.

A row is (call, error, words): the call in Python, in the names of `names`; the class of the error; a regular
expression that its message matches. Votes, saved classifiers and searches are in `trial_more_inputs`.
"""

import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

import ebe_utils
from ebe_utils import ImageSet
from ebe_utils.embeddings import feature_maps
from ebe_utils.model import predict_logits
from ebe_utils.study.parameters import Parameters
from ebe_utils.training import evaluate

from .trial_more_inputs import MORE_INPUTS
from .trial_run import network

Row = tuple[str, type[Exception], str]

_EVERYWHERE = ("embed(net, {}, 1)", "predict_logits(net, {})", "feature_maps(net, {}, 1)", "train(net, ({}, y))",
               "train(net, grey, ({}, y))", "evaluate(net, ({}, y))", "EBEClassifier(net).fit({}, y)",
               "layer_sweep(net, grey, ({}, y), ks=[1])", "layer_sweep(net, ({}, y), grey, ks=[1])")

INPUTS: list[Row] = [
    # the data set
    ("load_dataset('fashion-mnist')", ValueError, "dataset='fashion-mnist' is unknown.*mean 'fashion_mnist'"),
    ("load_dataset('Digits')", ValueError, "Did you mean 'digits'"),
    ("load_dataset('imagenet1k')", ValueError, "choose one of digits, mnist, fashion_mnist, cifar10"),
    ("load_dataset(None)", ValueError, "dataset=None is unknown"),
    ("load_dataset('digits', seed=-1)", ValueError, "seed=-1"),
    ("load_dataset('digits', seed=0.5)", TypeError, "seed=0.5 is a float"),
    ("load_dataset('digits', n_train=1438)", ValueError, "n_train=1438.*from 1 to 1437"),
    ("load_dataset('digits', n_test=0)", ValueError, "n_test=0.*from 1 to 360"),
    ("load_dataset('digits', n_train='100')", TypeError, "n_train='100' is a str"),
    ("load_dataset('digits', n_train=True)", TypeError, "n_train=True is a bool"),
    *((f"load_dataset('folder:anywhere', image_size={size!r})", error, f"image_size={size!r}")
      for size, error in ((0, ValueError), (-3, ValueError), ("32", TypeError), (2.5, TypeError), (True, TypeError))),
    # what stands where a data set belongs
    *((use.format(given), TypeError, "has no images and labels")
      for use in ("resnet18_for({})", "train(net, {})", "layer_neighbors(net, {}, grey)")
      for given in ("None", "'digits'", "torch.zeros(2, 1, 8, 8)", "{'images': 1}")),
    ("EBEClassifier(net).fit(None)", TypeError, "a NoneType holds no examples"),
    ("EBEClassifier(net).fit('digits')", TypeError, "a str holds no examples"),
    ("EBEClassifier(net).fit(torch.zeros(2, 1, 8, 8))", ValueError, "have no labels"),
    ("EBEClassifier(net).fit({'images': 1})", ValueError, "have no labels"),
    ("EBEClassifier(net).fit(grey.images, [0, 1])", ValueError, "do not match 4 images"),
    ("EBEClassifier(net).fit(grey.images, [0.5] * 4)", TypeError, "integer class indices"),
    ("EBEClassifier(net).fit(grey.images * np.nan, y)", ValueError, "NaN"),
    # numbers from 0 to 255 that are no uint8, wherever images go in
    *((use.format(f"x.astype({kind})"), error, words) for use in _EVERYWHERE
      for kind, error, words in (("float", ValueError, "whole numbers from 0 to 255"), ("np.int64", TypeError, "int64"),
                                 ("np.uint16", TypeError, "uint16"))),
    # what stands where images belong
    *((use.format(given), TypeError, words) for use in ("embed(net, {}, 1)", "predict_logits(net, {})")
      for given, words in (("'digits'", "a str holds no examples"), ("None", "a NoneType holds no examples"))),
    *((use.format("{'images': 1}"), ValueError, r"does not take this input \(images \(1,\)\)")
      for use in ("embed(net, {}, 1)", "predict_logits(net, {})")),
    ("embed(net, np.zeros((2, 3, 8, 8), np.uint8), 1)", ValueError, r"does not take this input.*\(n, 1, height, width"),
    ("embed(net, np.zeros((2, 8, 8, 1), np.uint8), 1)", ValueError, r"does not take this input.*\(n, 1, height, width"),
    ("embed(net, np.zeros((8, 8), np.uint8), 1)", ValueError, r"does not take this input.*\(n, 1, height, width"),
    ("embed(net, np.zeros((1, 2, 1, 8, 8), np.uint8), 1)", ValueError, "does not take this input"),
    ("embed(net, np.zeros((0, 1, 8, 8), np.uint8), 1)", ValueError, "the inputs are empty.*pass at least one"),
    ("embed(net, [[1, 2], [3]], 1)", ValueError, "different lengths"),
    ("embed(net, [torch.zeros(1, 8, 8), torch.zeros(1, 9, 8)], 1)", ValueError, "different lengths"),
    ("embed(net, np.array(['a']), 1)", TypeError, "dtype <U1; pass uint8"),
    ("embed(net, np.array([None]), 1)", TypeError, "dtype object; pass uint8"),
    ("embed(net, torch.zeros(2, 1, 8, 8, device='meta'), 1)", TypeError, "on meta; pass a dense tensor"),
    # the network
    ("embed('resnet18', x, 1)", TypeError, "the network is a str"),
    ("layer_neighbors(None, grey, grey, k=1)", TypeError, "the network is a NoneType"),
    ("train('resnet18', grey)", TypeError, "the network is a str"),
    ("embed(torch.jit.script(net), x, 1)", TypeError, "the network is a ScriptModule"),
    ("conv_layers(print)", TypeError, "the network is a builtin_function_or_method"),
    ("layer_table(torch.nn.Linear(2, 2), (2,))", ValueError, "no convolutions"),
    ("layer_table(net, (3, 8, 8))", ValueError, r"does not take this input.*takes \(n, 1, height, width\)"),
    ("resnet18_for(grey, stem='imagent')", ValueError, "Did you mean 'imagenet'"),
    ("resnet18_for(grey, seed='0')", TypeError, "seed='0' is a str"),
    ("resnet18_for(grey, seed=-1)", ValueError, "seed=-1"),
    ("embed(net.to('meta'), x, 1)", ValueError, "have no values.*load its weights first"),
    ("train(net.to('meta'), grey)", ValueError, "have no values.*load its weights first"),
    ("train(torch.nn.Flatten(), grey)", ValueError, "is frozen .requires_grad=False., or it has none"),
    ("train(net, ImageSet(x, y + 12), epochs=1, progress=False)", ValueError, "labels run up to 13.*10 outputs"),
    # layers, k, parameters of a run
    ("layer_neighbors(net, grey, grey, k=5)", ValueError, "k=5.*there are 4 training images"),
    ("layer_neighbors(net, grey, grey, [1], k=None)", TypeError, "k=None is a NoneType"),
    ("layer_sweep(net, grey, grey, ks=[1.5])", TypeError, "k=1.5 is a float; pass an integer from 1 to 4"),
    ("layer_sweep(net, grey, grey, ks='abc')", TypeError, "ks='abc' is a str; pass the numbers of examples"),
    ("layer_sweep(net, grey, grey, layers='al', ks=[1])", ValueError, "layer='al' is no module"),
    ("layer_sweep(net, grey, grey, ks=[1], metric=4)", ValueError, "metric=4 is unknown"),
    ("layer_sweep(net, grey, grey, ks=[1], metric='cosin')", ValueError, "Did you mean 'cosine'"),
    ("layer_sweep(net, grey, grey, ks=[1], weights=4)", ValueError, "weights=4 is unknown"),
    ("Parameters.of(seed=2**32)", ValueError, "seed=4294967296.*from 0 to 4294967295"),
    ("Parameters.of(image_size=10**6)", ValueError, "image_size=1000000.*from 0 to 4096"),
    ("Parameters.of(learning_rate='1e-3')", TypeError, "learning_rate='1e-3' is a str; pass a number"),
    ("Parameters.of(run='a/b')", ValueError, "run='a/b' cannot name a folder"),
    ("Parameters.of(dataste='digits')", TypeError, "Did you mean 'dataset'"),
    ("Parameters.of(augment='true')", TypeError, "pass True or False"),
    *MORE_INPUTS]


def names() -> dict[str, Any]:
    """What the calls of the table are written in: the package, a network, four images x with their labels y."""
    x, y = np.arange(256, dtype=np.uint8).reshape(4, 1, 8, 8), np.array([0, 1, 0, 1])
    rows = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
    given = {"np": np, "torch": torch, "net": network().eval(), "x": x, "y": y, "rows": rows,
             "of_rows": np.arange(12) % 3,
             "grey": ImageSet(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), y), "feature_maps": feature_maps,
             "predict_logits": predict_logits, "evaluate": evaluate, "Parameters": Parameters}
    return {**{name: getattr(ebe_utils, name) for name in ebe_utils.__all__}, **given}


def refused(row: Row) -> str:
    """What is wrong with the error that a call gets, or ""."""
    call, error, words = row
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scripted networks are out of fashion
            eval(call, names())  # the calls are those of the table above
    except Exception as caught:
        if not isinstance(caught, error):
            return f"{call}: {type(caught).__name__} in place of {error.__name__}: {caught}"
        return "" if re.search(words, str(caught), re.DOTALL) else f"{call}: {caught}"
    return f"{call}: nothing was refused"


def inputs(rows: Sequence[Row] = INPUTS) -> list[str]:
    """What is wrong with each row of the table, or ""."""
    return [refused(row) for row in rows]
