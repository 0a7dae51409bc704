"""
Many groups and their intersections
===================================

Two attributes with two and three values make six groups. Gaps are the largest minus the smallest
rate of any of them, so small groups bring noise: read the noise floor first. A report shows each
attribute alone, too.
"""

import numpy as np
import pandas as pd

from fairsvd import BlindPostProcessor
from fairsvd.report import FairnessReport

N_TRAIN, MAX_STEPS = 4000, 100

# %%
# The data
# --------
# Older people of the first sex are favoured by past labels; each attribute alone shows half of it.

rng = np.random.default_rng(0)
sex = rng.choice(["f", "m"], N_TRAIN, p=[0.4, 0.6])
age = rng.choice(["below 30", "30 to 60", "above 60"], N_TRAIN, p=[0.3, 0.5, 0.2])
X = rng.normal(size=(N_TRAIN, 5)).astype(np.float32)
X[:, 1] += sex == "m"
X[:, 2] += age == "above 60"
favour = 0.9 * ((sex == "m") & (age == "above 60"))
y = (X[:, 0] + favour + 0.7 * rng.normal(size=N_TRAIN) > 0.3).astype(int)
groups = pd.DataFrame({"sex": sex, "age": age})

# %%
# The edit
# --------
# ``BlindPostProcessor`` predicts label and group of a row together and applies the fair rule, so it
# needs no group at prediction either.

fit, new = slice(None, 5 * N_TRAIN // 8), slice(5 * N_TRAIN // 8, None)
editor = BlindPostProcessor(random_state=0)
editor.fit(X[fit], y[fit], sensitive_features=groups[fit])
report = FairnessReport(editor, X[new], y[new], groups[new])
print(report.gaps[["before", "after", "noise_floor"]].round(3))

# %%
# Each group's errors, with intervals: those of the smallest group are wide.

report.plot_errors()
