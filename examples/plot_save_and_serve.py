"""
Save, export, serve
===================

An edited model is kept in one file without pickle, comes back unchanged, and its network runs in
places that know nothing of this package.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot as plt
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fairsvd
from fairsvd.datasets import make_biased_classification

N_TRAIN, MAX_STEPS = 1500, 40

# %%
# A model
# -------

task = make_biased_classification(N_TRAIN, random_state=0)
X, y, group = task.data, task.target, task.sensitive_features["group"]
editor = fairsvd.GapFineTuner(max_steps=MAX_STEPS, random_state=0)
model = make_pipeline(StandardScaler(), editor).fit(X, y, gapfinetuner__sensitive_features=group)

# %%
# Keep all of it
# --------------
# Scaler, network, threshold, report and history, behind a checksum. With ``key=`` the checksum
# proves
# who wrote the file.

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "model.safetensors"
    fairsvd.save(model, path, key="a long secret")
    print(f"{path.stat().st_size:,} bytes")
    again = fairsvd.load(path, key="a long secret")
print((again.predict_proba(X) == model.predict_proba(X)).all())

# %%
# Keep the network alone
# ----------------------
# ``to_module`` folds the threshold in, so the larger output is the prediction.

module = model[-1].to_module()
scaled = torch.from_numpy(model[0].transform(X).astype(np.float32))
with torch.no_grad():
    scores = module(scaled).numpy()
print((scores.argmax(axis=1) == model.predict(X)).mean())

# %%
# The margin of the exported network, by group; the decision is at 0.

margin = scores[:, 1] - scores[:, 0]
fig, ax = plt.subplots(figsize=(7, 3), layout="constrained")
for label in np.unique(group):
    ax.hist(
        margin[group == label], 40, density=True, histtype="step", lw=1.6, label=f"group {label}"
    )
ax.axvline(0, color="black", lw=1, ls="--")
ax.set_xlabel("margin of the exported network")
ax.legend(frameon=False)
