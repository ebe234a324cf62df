"""Words and the cosine: sums against embeddings made independently, and a case by hand."""

import numpy as np
import pytest
import torch

from ebe_utils import embed
from ebe_utils.text_model import TextClassifier, encode_texts, train_tokenizer
from ebe_utils.words import joined, text_layers, top_pairs, word_match

TEXTS = ["Compute the singular value decomposition of a matrix.", "Plot the values of a matrix as an image.",
         "The decomposition, of what?", "Set the (tick) labels; rotate them twice, unbelievably."] * 3
LENGTH = 12


@pytest.fixture(scope="module")
def made():
    tokenizer = train_tokenizer(TEXTS, 90)
    torch.manual_seed(0)
    return tokenizer, TextClassifier(tokenizer.get_vocab_size(), 40, 3, 16, 2, 2).eval()


def cosine(a, b):
    return a @ b / np.sqrt((a @ a) * (b @ b))


@pytest.mark.parametrize("pooling", ["avg", "first"])
@pytest.mark.parametrize("layer", ["tokens", "encoder.layers.1"])
@pytest.mark.parametrize("pair", [(0, 1), (3, 2), (2, 2)])
def test_pairs_and_words_sum_to_the_cosine_of_the_embeddings(pair, layer, pooling, made):
    tokenizer, model = made
    texts = [TEXTS[i] for i in pair]
    match = word_match(model, tokenizer, *texts, layer, LENGTH, pooling)
    a, b = embed(model, encode_texts(tokenizer, texts, LENGTH), layer, pooling).astype(float)
    assert match.cosine == pytest.approx(cosine(a, b), abs=1e-6)
    np.testing.assert_allclose(match.pairs.sum(1), match.cosines[0], atol=1e-9)
    np.testing.assert_allclose(match.pairs.sum(0), match.cosines[1], atol=1e-9)
    assert [joined(words) for words in match.words] == texts
    assert match.leads is not None
    assert match.pairs.shape == (len(match.words[0]), len(match.words[1]))


def test_the_lead_is_over_the_mean_cosine_with_other_texts(made):
    tokenizer, model = made
    others = embed(model, encode_texts(tokenizer, TEXTS, LENGTH), "encoder.layers.0", "avg")
    match = word_match(model, tokenizer, TEXTS[0], TEXTS[1], "encoder.layers.0", LENGTH, others=others)
    a, b = others[:2].astype(float)
    for lead, one in zip(match.lead, (a, b), strict=True):
        expected = cosine(a, b) - np.mean([cosine(one, other.astype(float)) for other in others])
        assert lead == pytest.approx(expected, abs=1e-6)


def test_one_word_is_all_tokens_of_it(made):
    tokenizer, model = made
    match = word_match(model, tokenizer, TEXTS[3], TEXTS[0], "tokens", 40)
    assert [word.strip() for word in match.words[0]] == [
        "[CLS]", "Set", "the", "(", "tick", ")", "labels", ";", "rotate", "them", "twice", ",", "unbelievably", "."]
    assert len(tokenizer.encode(TEXTS[3]).ids) > len(match.words[0])  # words of several tokens are among them


def test_what_the_network_did_not_read_adds_nothing(made):
    tokenizer, model = made
    long = TEXTS[0] + " " + TEXTS[1]
    match = word_match(model, tokenizer, long, TEXTS[2], "encoder.layers.1", LENGTH)
    assert joined(match.words[0]) == long
    assert match.words[0][-1].endswith("as an image.")
    assert match.cosines[0][-1] == 0 != match.cosines[0][-2]
    again = word_match(model, tokenizer, long + " Tail.", TEXTS[2], "encoder.layers.1", LENGTH)
    assert again.cosine == match.cosine


def test_top_pairs_are_the_largest(made):
    tokenizer, model = made
    match = word_match(model, tokenizer, TEXTS[0], TEXTS[1], "tokens", LENGTH)
    found = top_pairs(match, 2)
    assert found[0][2] == pytest.approx(match.pairs[1:, 1:].max())
    assert found[0][2] >= found[1][2]


def test_layers_of_a_text_encoder(made):
    assert text_layers(made[1]) == {0: "tokens", 1: "encoder.layers.0", 2: "encoder.layers.1"}
    with pytest.raises(ValueError, match="is not built as a text encoder is"):
        text_layers(torch.nn.Linear(2, 2))
