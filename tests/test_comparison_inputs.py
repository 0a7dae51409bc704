"""What compare takes: Pipelines around editors, tables with text, and a preprocessing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from fairsvd import GapFineTuner, JointStratifiedKFold, compare
from fairsvd.comparison import table_encoder
from helpers import IGNORE_SMALL_DATA, table

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]

QUICK = GapFineTuner(gap_weight=1.0, max_steps=10)


@pytest.fixture(scope="module")
def people():
    """Numbers and text, labels, and a group as a named column."""
    rows = table(240)
    X = pd.DataFrame(rows.X[:, :3], columns=["a", "b", "c"])
    X["job"] = np.where(rows.X[:, 3] > 0, "clerk", "smith").astype(object)
    return X, rows.y, pd.Series(np.array(["f", "m"])[rows.group], name="sex")


def encoder():
    return make_column_transformer(
        (StandardScaler(), make_column_selector(dtype_include="number")),
        (OneHotEncoder(sparse_output=False), make_column_selector(dtype_exclude="number")),
    )


def numbers(found) -> pd.DataFrame:
    return pd.DataFrame(found).drop(columns=["seconds"])


def test_the_pipeline_of_a_search_is_compared(people):
    X, y, sex = people
    pipe = Pipeline([("encode", encoder()), ("edit", QUICK)])
    search = GridSearchCV(pipe, {"edit__max_steps": [5]}, cv=2)
    best = search.fit(X, y, edit__sensitive_features=sex).best_estimator_
    found = compare([best, "threshold"], X, y, sex, cv=2, random_state=0)
    assert not found.failed.any(), found["error"].tolist()
    assert found["method"].tolist()[:3] == ["untouched", "GapFineTuner", "threshold"]
    named = compare({"mine": best}, X, y, sex, cv=2, random_state=0)
    assert named["method"].unique().tolist() == ["untouched", "mine"]


def test_a_pipeline_is_its_editor_on_encoded_rows_of_the_fold(people):
    X, y, sex = people
    pipe = make_pipeline(encoder(), QUICK)
    found = compare(pipe, X, y, sex, cv=2, random_state=0)
    given = compare(
        {"GapFineTuner": QUICK}, X, y, sex, preprocessing=encoder(), cv=2, random_state=0
    )
    pd.testing.assert_frame_equal(numbers(found), numbers(given))
    own = compare({"GapFineTuner": QUICK}, X, y, sex, cv=2, random_state=0)
    default = table_encoder(["a", "b", "c"], ["job"])
    same = compare({"GapFineTuner": QUICK}, X, y, sex, preprocessing=default, cv=2, random_state=0)
    pd.testing.assert_frame_equal(numbers(own), numbers(same))


class Remembering(StandardScaler):
    """Notes how many rows it was fitted on."""

    fitted: list[int] = []  # noqa: RUF012 (shared by clones on purpose)

    def fit(self, X, y=None):
        self.fitted.append(len(X))
        return super().fit(X, y)


def test_the_preprocessing_never_sees_test_rows(people):
    X, y, sex = people
    Remembering.fitted.clear()
    X = X[["a", "b", "c"]]
    folds = JointStratifiedKFold(3)
    found = compare("threshold", X, y, sex, preprocessing=Remembering(), cv=folds, random_state=0)
    assert not found.failed.any()
    # Once on all rows, to check them, and on 70 % of the other two thirds in each fold.
    assert Remembering.fitted[0] == 240
    assert len(Remembering.fitted) == 4
    assert all(abs(n - 0.7 * 160) <= 4 for n in Remembering.fitted[1:])


def test_pipelines_around_other_classifiers_get_the_table_as_it_is(people):
    X, y, sex = people
    seen = []

    class Spy(StandardScaler):
        def fit(self, X, y=None):
            seen.append(list(X.columns))
            return super().fit(X, y)

        def transform(self, X):
            return super().transform(X)

    class OnNumbers(LogisticRegression):
        pass

    part = make_column_transformer((Spy(), ["a", "b"]))
    other = make_pipeline(part, OnNumbers())
    found = compare({"mine": make_pipeline(encoder(), QUICK), "logit": other}, X, y, sex, cv=2,
                    random_state=0)  # fmt: skip
    assert not found.failed.any(), found["error"].tolist()
    assert seen == [["a", "b"]] * 2


def test_pipelines_with_different_steps_are_refused(people):
    X, y, sex = people
    two = {"a": make_pipeline(encoder(), QUICK), "b": make_pipeline(StandardScaler(), QUICK)}
    with pytest.raises(ValueError, match="Pipelines a, b have different steps"):
        compare(two, X, y, sex, cv=2)


def test_dates_and_text_in_an_array_are_refused_with_advice(people):
    X, y, sex = people
    dated = X.assign(day=pd.date_range("2020-01-01", periods=len(X)))
    with pytest.raises(ValueError, match="day"):
        compare("threshold", dated, y, sex, cv=2)
    with pytest.raises(ValueError, match="OneHotEncoder"):
        compare("threshold", X.to_numpy(), y, sex, cv=2)


def test_results_name_data_groups_constraints_and_folds(people):
    X, y, sex = people
    gaps = ["equalized_odds", "demographic_parity"]
    found = compare("threshold", X, y, sex, cv=2, constraints=gaps, tolerance=0.1, random_state=0)
    counts = sex.value_counts()
    assert found.about == (
        f"240 rows of 4 features, 2 classes; sex: f {counts['f']}, m {counts['m']}; equalized "
        "odds, demographic parity, tolerance 0.1; means over 2 folds on test rows"
    )
    assert found[found["fold"] == 0].about == found.about
    assert type(found)(found).about == found.about
    assert pd.concat([found, found]).about == found.about
