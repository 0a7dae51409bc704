"""
A table with text, a Pipeline and a search
==========================================

A DataFrame with numbers, text and empty cells goes through a Pipeline, and a grid search chooses
the edit: the best utility among the settings whose gap stays below a limit. Metadata routing passes
the group to the editor, the scorer and the folds; nothing else needs it.
"""

import numpy as np
import pandas as pd
import sklearn
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from fairsvd import GapFineTuner, JointStratifiedKFold, best_under_gap, fairness_scorer
from fairsvd.report import FairnessReport, plot_errors

N_TRAIN, MAX_STEPS = 2000, 60

# %%
# The data
# --------
# Applications for a loan. Past decisions favoured one group, and the district tells which it is.

rng = np.random.default_rng(0)
group = rng.choice(["north", "south"], N_TRAIN)
income = rng.normal(30, 8, N_TRAIN).round(1)
district = np.where(rng.random(N_TRAIN) < 0.8, group, rng.choice(["north", "south"], N_TRAIN))
job = rng.choice(["clerk", "smith", "cook"], N_TRAIN)
score = 0.12 * (income - 30) + (job == "smith") + 0.9 * (group == "north")
granted = np.where(score + rng.normal(size=N_TRAIN) > 0.7, "yes", "no")
income[rng.random(N_TRAIN) < 0.03] = np.nan
people = pd.DataFrame({"income": income, "district": district, "job": job})
print(people.head(3))

# %%
# The search
# ----------

sklearn.set_config(enable_metadata_routing=True)
encode = make_column_transformer(
    (
        make_pipeline(SimpleImputer(strategy="median"), StandardScaler()),
        make_column_selector(dtype_include="number"),
    ),
    (OneHotEncoder(sparse_output=False), make_column_selector(dtype_exclude="number")),
)
pipe = make_pipeline(encode, GapFineTuner(max_steps=MAX_STEPS, random_state=0))
search = GridSearchCV(
    pipe,
    {"gapfinetuner__tolerance_fraction": [0.2, 0.8]},
    scoring={
        "utility": "balanced_accuracy",
        "gap": fairness_scorer("equalized_odds_difference", pos_label="yes"),
    },
    cv=JointStratifiedKFold(2),
    refit=best_under_gap("utility", "gap", limit=0.15),
)
X, X_new, y, y_new, g, g_new = train_test_split(
    people, granted, group, stratify=granted, random_state=0
)
search.fit(X, y, sensitive_features=g)
print(search.best_params_)

# %%
# What it did
# -----------
# First on the validation rows of the fit, then on rows that nothing has seen.

plot_errors(search.best_estimator_[-1])
print(FairnessReport(search, X_new, y_new, g_new).to_text())
sklearn.set_config(enable_metadata_routing=False)
