"""
Synthetic rows for cells that are too small
===========================================

Where a (label, group) cell has a few rows, its rates are noise and nothing can be closed. A sampler
fills such cells with synthetic rows, by neighbours or by a model, in imbalanced-learn's interface.
Measure on real rows only.
"""

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score

from fairsvd import CellSampler

N_TRAIN, MAX_STEPS = 2000, 0

# %%
# A rare cell
# -----------

rng = np.random.default_rng(0)


def draw(n):
    group = rng.choice(["many", "few"], n, p=[0.93, 0.07])
    y = (rng.random(n) < np.where(group == "few", 0.15, 0.5)).astype(int)
    X = rng.normal(size=(n, 4)) + y[:, None] * np.array([1.2, 0.4, 0, 0])
    X[group == "few"] += np.array([0, 0, 1.5, -0.8])
    return pd.DataFrame(X, columns=list("abcd")), y, pd.Series(group, name="group")


X, y, group = draw(N_TRAIN)
print(pd.crosstab(group, y))

# %%
# Filling it
# ----------

sampler = CellSampler(random_state=0)
X_more, y_more = sampler.fit_resample(X, y, sensitive_features=group)
print(pd.crosstab(pd.Index(y_more.index, name="group"), np.asarray(y_more)))

# %%
# What it is worth: a classifier's recall in each group, on real rows.

X_new, y_new, group_new = draw(4 * N_TRAIN)
recalls = {}
for name, rows in {"as they are": (X, y), "filled": (X_more, np.asarray(y_more))}.items():
    model = LogisticRegression().fit(*rows)
    recalls[name] = {
        label: recall_score(y_new[group_new == label], model.predict(X_new[group_new == label]))
        for label in ("many", "few")
    }
table = pd.DataFrame(recalls)
print(table.round(3))
table.plot.bar(rot=0, figsize=(6, 3.5), color=["#C4C4C4", "#0072B2"])
plt.ylabel("recall on real rows")
plt.tight_layout()
