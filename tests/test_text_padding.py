"""Padding is no token: means leave it out, whatever says where it is."""

import numpy as np
import pytest
import torch
from torch import nn

from ebe_utils import EBEClassifier, embed
from ebe_utils.pooling import real_tokens


class Net(nn.Module):
    """Token embeddings, a layer on each token, and the first token's logits; a mask as Hugging Face's networks take."""

    def __init__(self, padding=0, cut=0):
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(20, 4, padding_idx=padding)
        self.block = nn.Linear(4, 6)
        self.head = nn.Linear(6, 3)
        self.cut = cut

    def forward(self, input_ids, attention_mask=None):
        return self.head(self.block(self.words(input_ids[:, :input_ids.shape[1] - self.cut]))[:, 0])


LENGTHS = (1, 3, 5, 2)


@pytest.fixture
def tokens():
    """Four texts of 1 to 5 tokens, padded with 0 to 7."""
    rng = np.random.default_rng(1)
    rows = torch.zeros(4, 7, dtype=torch.int64)
    for row, n in zip(rows, LENGTHS, strict=True):
        row[:n] = torch.from_numpy(rng.integers(1, 20, n))
    return rows


def by_hand(net, tokens):
    """The mean over each text's own tokens, text by text, without padding."""
    with torch.no_grad():
        return np.stack([net.block(net.words(row[:n])).mean(0).numpy() for row, n in zip(tokens, LENGTHS, strict=True)])


def test_a_mean_leaves_out_padding_of_token_numbers(tokens):
    net = Net()
    np.testing.assert_allclose(embed(net, tokens, "block", "avg"), by_hand(net, tokens), rtol=1e-5)
    np.testing.assert_allclose(embed(net, tokens, "block", "avg-channels-last"), by_hand(net, tokens), rtol=1e-5)


def test_an_attention_mask_says_what_is_padding(tokens):
    net = Net(padding=None)  # nothing but the mask says it
    batch = {"input_ids": tokens, "attention_mask": (tokens > 0).long()}
    np.testing.assert_allclose(embed(net, batch, "block", "avg"), by_hand(net, tokens), rtol=1e-5)
    assert not np.allclose(embed(net, tokens, "block", "avg"), by_hand(net, tokens))


def test_the_neighbours_do_not_depend_on_the_amount_of_padding(tokens):
    net, labels = Net().eval(), np.array([0, 1, 2, 0])
    more = torch.cat([tokens, torch.zeros(4, 9, dtype=torch.int64)], 1)
    found = [EBEClassifier(net, "block", 3, "euclidean", pooling="avg").fit(rows, labels).kneighbors(rows)[0]
             for rows in (tokens, more)]
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)


def test_the_first_token_is_the_first_that_is_no_padding(tokens):
    net, left = Net(), torch.zeros_like(tokens)
    for row, old, n in zip(left, tokens, LENGTHS, strict=True):
        row[-n:] = old[:n]
    np.testing.assert_allclose(embed(net, left, "block", "first"), embed(net, tokens, "block", "first"), rtol=1e-5)
    np.testing.assert_allclose(embed(net, left, "block", "avg"), by_hand(net, tokens), rtol=1e-5)


def test_a_layer_that_drops_common_padding_is_averaged_and_one_that_drops_tokens_is_refused(tokens):
    np.testing.assert_allclose(embed(Net(cut=2), tokens, "block", "avg"), by_hand(Net(), tokens), rtol=1e-5)
    with pytest.raises(ValueError, match="outputs 4 positions for 7 tokens, so which of them are padding"):
        embed(Net(cut=3), tokens, "block", "avg")


@pytest.mark.parametrize("pooling", ["avg", "first"])
def test_nothing_but_padding_is_refused(tokens, pooling):
    tokens[2] = 0
    with pytest.raises(ValueError, match="input 2 of a batch is nothing but padding"):
        embed(Net(), tokens, "block", pooling)


def test_images_and_numbers_have_no_padding():
    net = Net()
    assert real_tokens(net, torch.zeros(2, 3, 8, 8)) is None
    assert real_tokens(net, torch.zeros(2, 5)) is None
    assert real_tokens(net, (torch.zeros(2, 5, dtype=torch.int64),)) is None
    assert real_tokens(Net(padding=None), torch.zeros(2, 5, dtype=torch.int64)) is None
    assert real_tokens(Net(padding=3), torch.tensor([[3, 4, 0]])).tolist() == [[False, True, True]]
