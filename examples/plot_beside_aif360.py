"""
In an AIF360 notebook
=====================

Who works with AIF360's ``BinaryLabelDataset`` can put an editor where one of its own algorithms
stands: ``AIF360Mitigator`` takes a dataset and gives one back, and its ``ClassificationMetric``
measures both.
"""

import warnings

import pandas as pd
from aif360.datasets import BinaryLabelDataset
from aif360.metrics import ClassificationMetric
from matplotlib import pyplot as plt

from fairsvd import FairLRFTransformer, GapFineTuner
from fairsvd.datasets import make_biased_classification
from fairsvd.interop import AIF360Mitigator

N_TRAIN, MAX_STEPS = 2000, 80

# %%
# The data, as AIF360 has it
# --------------------------

task = make_biased_classification(2 * N_TRAIN, random_state=0)
frame = pd.DataFrame(task.data, columns=[f"x{k}" for k in range(task.data.shape[1])])
codes = pd.factorize(task.sensitive_features["group"], sort=True)[0].astype(float)
frame = frame.assign(group=codes, label=task.target.astype(float))
dataset = BinaryLabelDataset(
    df=frame, label_names=["label"], protected_attribute_names=["group"],
    favorable_label=1.0, unfavorable_label=0.0,
)  # fmt: skip
train, new = dataset.split([N_TRAIN], shuffle=False)
unprivileged, privileged = [{"group": 0.0}], [{"group": 1.0}]

# %%
# Two editors as algorithms of AIF360
# -----------------------------------

settings = {"constraint": "average_odds", "random_state": 0}
editors = {
    "untouched": FairLRFTransformer(sparsity=0, refine=None, threshold=0.5, **settings),
    "edited": GapFineTuner(max_steps=MAX_STEPS, **settings),
}
found = {}
for name, editor in editors.items():
    mitigator = AIF360Mitigator(editor, unprivileged, privileged)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # AIF360 divides by empty cells
        predicted = mitigator.fit(train).predict(new)
        metric = ClassificationMetric(new, predicted, unprivileged, privileged)
        found[name] = {
            "accuracy": metric.accuracy(),
            "average odds difference": abs(metric.average_odds_difference()),
            "disparate impact": metric.disparate_impact(),
        }
table = pd.DataFrame(found)
print(table.round(3))

# %%
# The same as bars.

ax = table.plot.bar(rot=0, figsize=(7, 3.5), color=["#C4C4C4", "#0072B2"])
ax.axhline(0, color="black", lw=0.8)
plt.tight_layout()
