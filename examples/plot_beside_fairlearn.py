"""
Beside fairlearn
================

fairlearn's ``ThresholdOptimizer`` moves a threshold for each group, so it needs the group of
everybody it decides about. An edit does not. Where the group may be used, the former is simpler;
where it may not, or is not known, it cannot be used at all.
"""

import numpy as np
import pandas as pd
from fairlearn.metrics import MetricFrame, equalized_odds_difference, selection_rate
from fairlearn.postprocessing import ThresholdOptimizer
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from fairsvd import BlindPostProcessor, FairLRFTransformer
from fairsvd.datasets import make_biased_classification

N_TRAIN, MAX_STEPS = 2500, 80

# %%
# One network, three ways
# -----------------------

task = make_biased_classification(2 * N_TRAIN, random_state=0)
X, y, group = task.data.astype(np.float32), task.target, task.sensitive_features
fit, new = slice(None, N_TRAIN), slice(N_TRAIN, None)
plain = FairLRFTransformer(sparsity=0, refine=None, threshold=0.5, random_state=0)
plain.fit(X[fit], y[fit], sensitive_features=group[fit])
blind = BlindPostProcessor(plain.module_, random_state=0)
blind.fit(X[fit], y[fit], sensitive_features=group[fit])
told = ThresholdOptimizer(
    estimator=plain, constraints="equalized_odds", objective="balanced_accuracy_score",
    prefit=True, predict_method="predict_proba",
)  # fmt: skip
told.fit(X[fit], y[fit], sensitive_features=group[fit])

# %%
# On new rows
# -----------
# fairlearn's own measures take predictions of either.

predictions = {
    "untouched": plain.predict(X[new]),
    "edited, no group": blind.predict(X[new]),
    "thresholds by group": told.predict(X[new], sensitive_features=group[new], random_state=0),
}
rows = {
    name: {
        "balanced accuracy": balanced_accuracy_score(y[new], p),
        "equalized odds": equalized_odds_difference(y[new], p, sensitive_features=group[new]),
    }
    for name, p in predictions.items()
}
print(pd.DataFrame(rows).T.round(3))

# %%
# A MetricFrame of the edited network, drawn.

frame = MetricFrame(
    metrics={"accuracy": accuracy_score, "selection rate": selection_rate},
    y_true=y[new], y_pred=predictions["edited, no group"], sensitive_features=group[new],
)  # fmt: skip
frame.by_group.plot.bar(subplots=True, rot=0, legend=False, figsize=(6, 5))
