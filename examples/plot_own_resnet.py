"""
Your own residual network, read from a Dataset
==============================================

A small residual network was trained on digits whose colour follows the label. It comes with its own
``Dataset``, as image models do. The editor reads it batch by batch, edits a copy of the network,
and hands back an ordinary module.
"""

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from fairsvd import FairLRFTransformer
from fairsvd.datasets import load_biased_digits
from fairsvd.report import plot_cells, plot_mask

MAX_STEPS, EPOCHS, N_TEST = 60, 30, 120


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, X):
        return torch.relu(X + self.second(torch.relu(self.first(X))))


class ResNet(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.Sequential(Block(width), nn.MaxPool2d(2), Block(width))
        self.head = nn.Linear(width, 2)

    def forward(self, X):
        return self.head(self.blocks(torch.relu(self.stem(X))).mean(dim=(2, 3)))


class Digits(Dataset):
    """Images one by one, as if from a folder."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, k):
        return torch.from_numpy(self.images[k])


# %%
# The network, trained in the usual way
# -------------------------------------

digits = load_biased_digits(classes=(3, 8), strength=0.9)
labels = (digits.target == 8).astype(np.int64)
order = np.random.default_rng(0).permutation(len(labels))
train, rest = order[:-N_TEST], order[-N_TEST:]
torch.manual_seed(0)
network = ResNet()
optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
X, y = torch.from_numpy(digits.images[train]), torch.from_numpy(labels[train])
for _ in range(EPOCHS):
    optimizer.zero_grad()
    nn.functional.cross_entropy(network(X), y).backward()
    optimizer.step()
network.eval()

# %%
# The edit
# --------
# On rows that the network was not trained on.

editor = FairLRFTransformer(network, constraint="accuracy_parity", max_steps=MAX_STEPS,
                            random_state=0)  # fmt: skip
editor.fit(Digits(digits.images[rest]), labels[rest], sensitive_features=digits.groups[rest])
print(editor.report_.summary())

# %%
# What changed, cell by cell, and where in the network.

plot_cells(editor, digits.images[rest], labels[rest], digits.groups[rest], n_images=6)
plot_mask(editor)

# %%
# Back to PyTorch: the same architecture, with the threshold inside.

edited = editor.to_module()
print(type(edited).__name__, sum(value.numel() for value in edited.parameters()), "parameters")
