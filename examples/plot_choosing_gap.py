"""
Choosing a gap
==============

Six gaps can be closed, and closing one can open another. The same network is edited for three of
them, and all are measured each time. Which one matters is a question about the use, not about the
data: demographic parity asks for equal shares of positive decisions, equal opportunity for equal
shares of justified ones among those who deserve one, equalized odds for that and for equal false
alarms.
"""

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from fairsvd import FairLRFTransformer, GapFineTuner
from fairsvd.datasets import make_biased_classification
from fairsvd.metrics import gap_table
from fairsvd.report import format_table

N_TRAIN, MAX_STEPS = 2000, 80

# %%
# One network
# -----------

task = make_biased_classification(2 * N_TRAIN, random_state=0)
X, y, group = task.data.astype(np.float32), task.target, task.sensitive_features
fit, new = slice(None, N_TRAIN), slice(N_TRAIN, None)
plain = FairLRFTransformer(sparsity=0, refine=None, threshold=0.5, random_state=0)
plain.fit(X[fit], y[fit], sensitive_features=group[fit])

# %%
# Three aims
# ----------

aims = ("demographic_parity", "equal_opportunity", "equalized_odds")
found = {"untouched": gap_table(y[new], plain.predict(X[new]), group[new])["difference"]}
for aim in aims:
    editor = GapFineTuner(plain.module_, constraint=aim, max_steps=MAX_STEPS, random_state=0)
    editor.fit(X[fit], y[fit], sensitive_features=group[fit])
    found[f"for {aim}"] = gap_table(y[new], editor.predict(X[new]), group[new])["difference"]
table = pd.DataFrame(found).loc[list(aims)]
print(format_table(table))

# %%
# Bars of one colour belong to one edited network.

ax = table.plot.bar(rot=0, figsize=(8, 4), color=["#999999", "#0072B2", "#E69F00", "#009E73"])
ax.set_ylabel("gap on new rows")
ax.set_xticks(range(len(aims)), [aim.replace("_", " ") for aim in aims])
ax.axhline(0.05, color="black", lw=1, ls="--", label="tolerance")
plt.tight_layout()
