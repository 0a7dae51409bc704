"""Sentences from templates, and small networks that read them by the names of their inputs."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor, nn

from fairsvd import TextFrame

# The class is in the adjective; what is said of a neighbour depends on who it is.
TEMPLATES = (
    "my neighbour is {who} and {what}",
    "she told me that {who} people are {what}",
    "{what} they were , the {who} family next door",
    "a {who} colleague of mine seems {what} to all of us at work",
)
WHO = {"young": 0, "local": 0, "northern": 0, "old": 1, "foreign": 1, "southern": 1}
WHAT = {"kind": 0, "helpful": 0, "friendly": 0, "rude": 1, "awful": 1, "nasty": 1}
PADDING = 0
# Pads to the same length whatever sentences are taken.
LENGTH = max(len(template.split()) for template in TEMPLATES)


def sentences() -> tuple[list[str], np.ndarray, np.ndarray]:
    """Fill every template with every pair of words; give sentences, classes and groups."""
    rows = list(itertools.product(TEMPLATES, WHO.items(), WHAT.items()))
    texts = [template.format(who=who, what=what) for template, (who, _), (what, _) in rows]
    y, group = (np.array([row[k][1] for row in rows]) for k in (2, 1))
    # Some neighbours of the second group are called what they are not.
    wrong = np.flatnonzero(group == 1)[::4]
    y[wrong] = 1
    return texts, y, np.array(["first", "second"])[group]


VOCABULARY = sorted({word for text in sentences()[0] for word in text.split()})


def tokenise(texts: list[str], length: int = LENGTH) -> dict[str, np.ndarray]:
    """Number the words from 1 on and pad."""
    ids = np.full((len(texts), length), PADDING)
    for row, text in enumerate(texts):
        words = [1 + VOCABULARY.index(word) for word in text.split()]
        ids[row, : len(words)] = words
    return {"input_ids": ids, "attention_mask": (ids != PADDING).astype(np.int64)}


class Reader(nn.Module):
    """The mean of the words' vectors, and two layers on it."""

    def __init__(self, width: int = 8, n_outputs: int = 2) -> None:
        super().__init__()
        self.words = nn.Embedding(1 + len(VOCABULARY), width)
        self.hidden = nn.Linear(width, width)
        self.head = nn.Linear(width, n_outputs)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask[..., None].to(self.head.weight.dtype)
        mean = (self.words(input_ids) * mask).sum(1) / mask.sum(1)
        return self.head(torch.relu(self.hidden(mean)))


def taught(module: nn.Module, n_steps: int = 30, rate: float = 2e-2) -> nn.Module:
    """Train a network in place for some steps on all sentences; in evaluation mode."""
    texts, y, _ = sentences()
    inputs = {name: torch.tensor(ids) for name, ids in tokenise(texts).items()}
    labels = torch.tensor(y)
    optimizer = torch.optim.Adam(module.parameters(), lr=rate)
    module.train()
    for _ in range(n_steps):
        output = module(**inputs)
        logits = output if isinstance(output, Tensor) else output.logits
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, labels).backward()
        optimizer.step()
    module.zero_grad()
    return module.eval()


def reader(**settings: int) -> nn.Module:
    """Make and train a small network; the caller's generator is not touched."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return taught(Reader(**settings))


def frame(data=None) -> TextFrame:
    """All sentences as a frame."""
    return TextFrame(tokenise(sentences()[0]), data)
