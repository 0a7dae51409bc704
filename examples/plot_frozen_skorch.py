"""
A fitted skorch net stays as it is
==================================

``FrozenEstimator`` around a fitted skorch net tells an editor not to train it again. The editor
works on a copy, and ``to_skorch`` gives a net of the same kind back, which can be trained further.
"""

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator
from skorch import NeuralNetClassifier
from torch import nn

from fairsvd import GapFineTuner
from fairsvd.datasets import make_biased_classification
from fairsvd.report import plot_tradeoff

N_TRAIN, MAX_STEPS, EPOCHS = 1500, 60, 20

# %%
# The net
# -------

task = make_biased_classification(2 * N_TRAIN, random_state=0)
X, y, group = task.data.astype(np.float32), task.target, task.sensitive_features
train, rest = slice(None, N_TRAIN), slice(N_TRAIN, None)
torch.manual_seed(0)
net = NeuralNetClassifier(
    nn.Sequential(nn.Linear(X.shape[1], 32), nn.ReLU(), nn.Linear(32, 2)),
    criterion=nn.CrossEntropyLoss,
    max_epochs=EPOCHS,
    lr=0.1,
    train_split=None,
    verbose=0,
)
net.fit(X[train], y[train])

# %%
# The edit
# --------
# The weights of ``net`` are the same to the bit afterwards.

before = [value.clone() for value in net.module_.parameters()]
editor = GapFineTuner(FrozenEstimator(net), constraint="demographic_parity", max_steps=MAX_STEPS,
                      random_state=0)  # fmt: skip
editor.fit(X[rest], y[rest], sensitive_features=group[rest])
print(editor.report_.gaps[["before", "after", "noise_floor"]].round(3))
print(all(torch.equal(a, b) for a, b in zip(net.module_.parameters(), before, strict=True)))

# %%
# Every candidate, and the chosen one.

plot_tradeoff(editor)

# %%
# A skorch net again, with the threshold inside.

edited = editor.to_skorch()
print((edited.predict(X[rest]) == editor.predict(X[rest])).mean())
