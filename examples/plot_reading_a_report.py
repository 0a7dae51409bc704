"""
Reading a report
================

One page says what an edit did, to whom, and how sure that is. It is made for whoever has to decide
whether the model is used, and for whoever has to answer for it later.
"""

import tempfile
from pathlib import Path

import numpy as np

from fairsvd import FairLRFTransformer
from fairsvd.datasets import make_biased_classification
from fairsvd.report import FairnessReport

N_TRAIN, MAX_STEPS = 2500, 80

# %%
# A model
# -------

task = make_biased_classification(2 * N_TRAIN, random_state=0)
X, y, group = task.data.astype(np.float32), task.target, task.sensitive_features
fit, new = slice(None, N_TRAIN), slice(N_TRAIN, None)
editor = FairLRFTransformer(max_steps=MAX_STEPS, random_state=0)
editor.fit(X[fit], y[fit], sensitive_features=group[fit])

# %%
# The report
# ----------
# On rows that neither the network nor the edit has seen.

report = FairnessReport(
    editor, X[new], y[new], group[new],
    intended_use="An example; decides nothing.", owner="The documentation",
)  # fmt: skip
print(report.to_text())

# %%
# How to read it
# --------------
# 1. *Gaps*: is the interval below the tolerance, or is the gap only small on these rows? Is it
#    larger than the noise floor, which equal treatment would show?
# 2. *Who lost what*: a gap can be closed by serving one group worse.
# 3. *Impact ratio*: a flag marks a group that is selected less than four fifths as often as the
#    most selected one.
# 4. *Can the group be guessed*: if so, a model that never sees the group can still use it.

report.plot_errors()

# %%
# The scores of each group. Where they lie far apart, one threshold treats the groups differently.

report.plot_scores()

# %%
# The page itself, and the forms for machines.

with tempfile.TemporaryDirectory() as folder:
    for name in ("report.html", "report.md", "report.json", "report.csv"):
        report.save(Path(folder) / name)
        print(name, f"{(Path(folder) / name).stat().st_size:,} bytes")
