"""
A colour that a network must not rely on
========================================

A network learns to tell shirts from T-shirts of Fashion-MNIST. In its training rows nine of ten
shirts are blue and nine of ten T-shirts are red, so it learns the colour too. The only rows that
are available to repair it are as biased as its training rows.

The images are read from the folder that ``FAIRSVD_DATA`` names, or from the user's cache. If they
are in neither, they are downloaded, or an error says which files to put where. On an idle core the
script takes less than a minute.
"""

import numpy as np
import torch

from fairsvd import ConvNet, FairLRFTransformer
from fairsvd.datasets import load_fashion_mnist, make_tinted
from fairsvd.metrics import gap_table
from fairsvd.report import plot_cells, plot_tradeoff

T_SHIRT, SHIRT = 0, 6
N_TRAIN, N_EDIT, N_TEST = 6000, 2000, 2000
EPOCHS, MAX_STEPS = 6, 40

# %%
# The data
# --------
# The colour follows the label for 90 % of the training and editing rows, and for half of the test
# rows. On test rows a network that decides by the colour is wrong half of the time.


def tint(images, labels, strength, seed):
    names = np.where(labels == SHIRT, "shirt", "T-shirt")
    # "T-shirt" sorts before "shirt": it agrees with the first colour, red.
    return make_tinted(images, names, strength, random_state=seed)


source = load_fashion_mnist(subset="train", classes=(T_SHIRT, SHIRT))
held_out = load_fashion_mnist(subset="test", classes=(T_SHIRT, SHIRT))
order = np.random.default_rng(0).permutation(len(source.target))
rows, more = order[:N_TRAIN], order[N_TRAIN : N_TRAIN + N_EDIT]
train = tint(source.images[rows], source.target[rows], 0.9, seed=0)
edit = tint(source.images[more], source.target[more], 0.9, seed=1)
test = tint(held_out.images[:N_TEST], held_out.target[:N_TEST], 0.5, seed=2)

# %%
# The network
# -----------
# Any ``torch.nn.Module`` will do. This one is trained in the usual way.

torch.manual_seed(0)
network = ConvNet(3, 2)
images = torch.from_numpy(train.images)
labels = torch.from_numpy((train.target == "shirt").astype(np.int64))
optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
for _ in range(EPOCHS):
    for batch in torch.randperm(len(images)).split(128):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images[batch]), labels[batch]).backward()
        optimizer.step()
network.eval()

# %%
# The edit
# --------
# Some (label, group) cells of the editing rows are nearly empty. The editor notices this and gives
# every cell equal weight. It changes a copy; ``network`` stays as it is.

color = edit.sensitive_features
editor = FairLRFTransformer(network, max_steps=MAX_STEPS, random_state=0)
editor.fit(edit.images, edit.target, sensitive_features=color)
print(f"weighs {editor.balance_} alike, removed {editor.removed_fraction_:.0%} of the entries")

# %%
# What it did
# -----------
# The colours of the test rows carry no information about the label.

with torch.no_grad():
    codes = network(torch.from_numpy(test.images)).argmax(dim=1).numpy()
before, after = editor.classes_[codes], editor.predict(test.images)
for name, predicted in (("before", before), ("after", after)):
    gap = gap_table(test.target, predicted, test.groups, pos_label="shirt")
    worst = gap.loc["equalized_odds", "difference"]
    accuracy = np.mean(predicted == test.target)
    print(f"{name}: accuracy {accuracy:.3f}, equalized-odds gap {worst:.3f}")

# %%
# The contact sheet shows where the network was wrong: on red shirts and blue T-shirts.

sheet = plot_cells(editor, test.images, test.target, test.sensitive_features, before=before)

# %%
# The plot shows all candidates, measured on the rows on which the choice was made.

candidates = plot_tradeoff(editor)
