"""
A network that somebody else trained
====================================

The network tells women from men by their faces. It is dlib's gender classifier: its weights are
public, its training pictures are not. FairFace has faces in seven groups, and the network errs far
more often on some of them. Nothing but the weights and some new labelled faces is needed to edit
it.

The faces are read from the folder ``fairface`` in the folder that ``FAIRSVD_DATA`` names, and the
network is made by ``gender_net()`` of ``nets/gender_net.py`` beside it. Where they are missing, the
script says so, and a small network that only saw drawn bars takes their place.
"""

import os
import runpy
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from fairsvd import ConvNet, GapFineTuner
from fairsvd.datasets import load_fairface, make_biased_images
from fairsvd.report import FairnessReport

N_EDIT, N_TEST, EPOCHS, MAX_STEPS = 2000, 3000, 10, 60
NETWORK = Path(os.environ.get("FAIRSVD_DATA", "")) / "nets" / "gender_net.py"
FACES = NETWORK.parents[1] / "fairface" / "labels.csv"

# %%
# The given network and the new rows
# ----------------------------------
# It wants 32 x 32 pixels from 0 to 255, so a transform gives it those. The rows to edit come from
# another folder than those to test on.


def pixels(image):
    return np.asarray(image, dtype=np.float32).transpose(2, 0, 1)


def faces(split, n_rows):
    found = load_fairface(split=split, size=32, transform=pixels)
    rows = np.random.default_rng(0).choice(len(found.target), n_rows, replace=False)
    woman = np.asarray(found.target)[rows]
    sex = np.where(woman == 1, "woman", "man")
    return found.data[rows].read(), sex, found.sensitive_features.iloc[rows]


def bars(n_rows, seed, strength=0.5):
    made = make_biased_images(n_rows, strength=strength, noise=[0.5, 0.7], random_state=seed)
    return made.images, np.array(["man", "woman"])[made.target], made.sensitive_features


def network_of_bars():
    images, label, _ = bars(600, seed=0, strength=0.9)
    torch.manual_seed(0)
    net = ConvNet(3, 2)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(MAX_STEPS):
        optimizer.zero_grad()
        scores = net(torch.from_numpy(images))
        torch.nn.functional.cross_entropy(
            scores, torch.from_numpy(label == "woman").long()
        ).backward()
        optimizer.step()
    return net.eval()


if NETWORK.is_file() and FACES.is_file() and find_spec("onnx"):
    given = runpy.run_path(str(NETWORK))["gender_net"]()
    # This network's first output is woman; the labels in alphabetical order begin with man.
    given[-1].weight.data, given[-1].bias.data = (
        given[-1].weight.flip(0).data,
        given[-1].bias.flip(0).data,
    )
    edit, test = faces("train", N_EDIT), faces("val", N_TEST)
    print("Faces of FairFace, read by dlib's gender classifier")
else:
    given = network_of_bars()
    edit, test = bars(N_EDIT, seed=1), bars(N_TEST, seed=2)
    print("FairFace or dlib's network is missing: drawn bars and a network made here stand in.")

# %%
# The edit
# --------
# The group is used here, and never again. The network that was given stays as it is.

editor = GapFineTuner(given, max_epochs=EPOCHS, random_state=0)
editor.fit(edit[0], edit[1], sensitive_features=edit[2])
print(editor.report_.summary())

# %%
# On new faces
# ------------
# Each group's missed women and men that are taken for one, before and after. With so many groups
# the largest of all differences is partly noise; the column noise_floor says how much.

report = FairnessReport(editor, *test)
print(report.gaps[["before", "after", "noise_floor"]].round(3))
report.plot_errors()
