"""Which words make two texts close: the cosine of two averaged embeddings, taken apart into pairs of tokens.

The mean over tokens makes the cosine a sum over all pairs of a token of the one and a token of the other text, exactly
(`ebe_utils.similarity.contributions`, of which this is the form for texts). Tokens are added up to words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from .checks import one_of
from .embeddings import feature_maps
from .similarity import contributions, pair_contributions
from .text_model import PADDING, READS, encode_texts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FIRST_TOKEN = "[CLS]"


@dataclass(frozen=True, repr=False, eq=False)  # equal means the same one: arrays have no truth
class WordMatch:
    """Why two texts are similar at a layer, word by word.

    words: of the text and of the example, pieces that join to the whole text, but for the first, the tokenizer's own
    first token. pairs: (words of the text, words of the example), sums to `cosine`. cosines: two arrays, what each word
    of the text, and of the example, adds to the cosine; leads: what each adds to the cosine's lead over other texts, or
    the cosines if there were none; their sums are `lead`, one for each side. Words at the end of a long text, which the
    network did not read, add 0.
    """

    words: tuple[list[str], list[str]]
    pairs: np.ndarray
    cosines: tuple[np.ndarray, np.ndarray]
    leads: tuple[np.ndarray, np.ndarray]

    @property
    def cosine(self) -> float:
        """Of the two embeddings."""
        return float(self.pairs.sum())

    @property
    def lead(self) -> tuple[float, float]:
        """By how much the cosine is above that of the text, and of the example, with other texts."""
        return float(self.leads[0].sum()), float(self.leads[1].sum())


def word_match(model: nn.Module, tokenizer: Tokenizer, text: str, example: str, layer: int | str, length: int,
               pooling: str = "avg", others: np.ndarray | None = None, device: str | torch.device = "auto",
               ) -> WordMatch:
    """The `WordMatch` of two texts at a layer with outputs (n, tokens, channels).

    length: tokens that the network reads, see `encode_texts`. pooling: "avg", or "first", where all of the cosine is
    the first token's. others: embeddings (n, channels) of other texts at that layer with that pooling, whose mean
    cosine is taken off, so that what any text has is left.
    """
    one_of("pooling", pooling, READS)
    tokens = encode_texts(tokenizer, [text, example], length)
    outputs = feature_maps(model, tokens, layer, device)  # (2, tokens, channels)
    sides, words, at = [], [], []
    for one, row, out in zip((text, example), tokens, outputs, strict=True):
        read = int((row != PADDING).sum())
        pieces, owners = _words(tokenizer, one, read)
        words.append(pieces)
        kept = 1 if pooling == "first" else read
        at.append(owners[:kept])
        sides.append(out[:kept].T[:, None].astype(float))  # (channels, 1, tokens)
    f, g = sides
    pairs = pair_contributions(f, g)[0, :, 0]  # (tokens, tokens)
    cosines = [side[0] for side in contributions(f, g, pooling="avg")]  # two of (tokens,)
    leads = cosines
    if others is not None:
        center = _unit(np.asarray(others, float)).mean(0)
        leads = [mine - (side[:, 0] * center[:, None]).sum(0) / (side.shape[2] * np.linalg.norm(side[:, 0].mean(1)))
                 for mine, side in zip(cosines, sides, strict=True)]
    whole = np.zeros((len(words[0]), len(words[1])))
    np.add.at(whole, (at[0][:, None], at[1][None]), pairs)


    def by_word(values):
        return tuple(np.bincount(at[i], values[i], len(words[i])) for i in (0, 1))

    return WordMatch((words[0], words[1]), whole, by_word(cosines), by_word(leads))


def _words(tokenizer, text: str, read: int) -> tuple[list[str], np.ndarray]:
    """(pieces of the text, the piece of each of its first `read` tokens); piece 0 is the first token."""
    encoding = tokenizer.encode(text)
    starts: dict[int, int] = {}
    for word, (start, _) in zip(encoding.word_ids[:read], encoding.offsets[:read], strict=True):
        if word is not None:
            starts.setdefault(word, start)
    numbers = {word: i for i, word in enumerate(starts, start=1)}
    owners = np.array([0 if word is None else numbers[word] for word in encoding.word_ids[:read]])
    end = max((stop for _, stop in encoding.offsets[:read]), default=0)
    edges = [*starts.values(), end]
    pieces = [FIRST_TOKEN, *(text[a:b] for a, b in zip(edges[:-1], edges[1:], strict=True))]
    return (pieces + [text[end:]] if text[end:] else pieces), owners


def _unit(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)


def top_pairs(match: WordMatch, n: int = 3) -> list[tuple[str, str, float]]:
    """The n pairs of words (of the text, of the example) that add most to the cosine, with what they add."""
    order = match.pairs[1:, 1:].ravel().argsort()[::-1][:n]
    rows, columns = np.unravel_index(order, match.pairs[1:, 1:].shape)
    return [(match.words[0][i + 1].strip(), match.words[1][j + 1].strip(), float(match.pairs[i + 1, j + 1]))
            for i, j in zip(rows.tolist(), columns.tolist(), strict=True)]


def text_layers(model: nn.Module) -> dict[int, str]:
    """{0: "tokens", 1: the first block, ...} of a `TextClassifier`, or of a BERT of the package transformers.

    ValueError for a network that has neither `tokens` nor `embeddings`, and blocks.
    """
    for first, blocks in (("tokens", "encoder.layers"), ("embeddings", "encoder.layer")):
        names = [name for name, _ in model.named_modules()]
        for prefix in ("", "bert."):
            found = [name for name in names if name.rpartition(".")[0] == prefix + blocks]
            if prefix + first in names and found:
                return dict(enumerate([prefix + first, *found]))
    raise ValueError(f"a {type(model).__name__} is not built as a text encoder is; pass its layers by name. "
                     "`dict(model.named_modules())` lists them.")


def joined(pieces: Sequence[str]) -> str:
    """The whole text of a `WordMatch`'s words."""
    return "".join(pieces[1:])
