"""The four tables: from AIF360's loaders they come as from ours."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pytest
from aif360.datasets import (
    AdultDataset,
    BankDataset,
    CompasDataset,
    GermanDataset,
)
from aif360.metrics import ClassificationMetric

from fairsvd import (
    FairLRFTransformer,
    fairness_score,
)
from fairsvd.interop import from_aif360, load_aif360, to_aif360
from helpers import IGNORE_SMALL_DATA

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]

EXACT = {"rtol": 0, "atol": 1e-12}


# The four tables.


def test_an_unknown_table():
    with pytest.raises(
        ValueError, match="name='census': wanted one of adult, german, compas, bank"
    ):
        load_aif360("census")


TABLES = {
    "adult": AdultDataset,
    "german": GermanDataset,
    "compas": CompasDataset,
    "bank": BankDataset,
}


COLUMNS = {
    "adult": {
        **{"age": [20, 30, 70], "workclass": ["Private", "?"], "fnlwgt": [1, 2]},
        **{"education": ["11th", "HS"], "education-num": [7, 9], "marital-status": ["Single"]},
        **{"occupation": ["Sales", "Tech"], "relationship": ["Wife", "Husband"]},
        **{"race": ["White", "Black", "Other"], "sex": ["Male", "Female"], "gain": [0, 99]},
        **{"loss": [0, 5], "hours": [20, 40], "country": ["Peru", "Cuba", "?"]},
        "income": ["<=50K", ">50K"],
    },
    "compas": {
        **{"sex": ["Male", "Female"], "age": [20, 30, 50], "age_cat": ["young", "old"]},
        **{"race": ["African-American", "Caucasian", "Other"], "juv_fel_count": [0, 1]},
        **{"juv_misd_count": [0, 2], "juv_other_count": [0], "priors_count": [0, 3, 9]},
        **{"days_b_screening_arrest": [-31, -30, 0, 30], "c_charge_degree": ["F", "M", "O"]},
        **{"c_charge_desc": ["Theft", "Arson", ""], "is_recid": [-1, 0, 1]},
        **{"score_text": ["Low", "High"], "two_year_recid": [0, 1]},
    },
    "german": {
        **{"status": ["A11", "A12"], "month": [6, 48], "history": ["A32", "A34"]},
        **{"purpose": ["A43", "A410"], "amount": [1169, 5951], "savings": ["A61", "A65"]},
        **{"employment": ["A71", "A75"], "income": [2, 4], "personal_status": ["A91", "A92"]},
        **{"debtors": ["A101"], "residence": [1, 4], "property": ["A121", "A124"]},
        **{"age": [25, 26, 67], "plans": ["A143"], "housing": ["A151", "A152"], "credits": [1, 2]},
        **{"skill": ["A171", "A173"], "people": [1, 2], "telephone": ["A191", "A192"]},
        **{"foreign": ["A201", "A202"], "credit": [1, 2]},
    },
    "bank": {
        **{"age": [24, 25, 59, 60], "job": ["maid", "chef", "unknown"], "marital": ["single"]},
        **{"education": ["basic", "unknown"], "default": ["no"], "housing": ["no", "yes"]},
        **{"loan": ["no", "yes"], "contact": ["cellular"], "month": ["may", "jun"]},
        **{"day_of_week": ["mon", "fri"], "duration": [5, 261], "poutcome": ["failure"]},
        "y": ["no", "yes"],
    },
}


def small_file(folder, name, file, seed, **options):
    """Write random rows in the form of a published file."""
    rng = np.random.default_rng(seed)
    data = pd.DataFrame({key: rng.choice(values, 80) for key, values in COLUMNS[name].items()})
    (folder / name).mkdir(exist_ok=True)
    data.rename_axis("id").to_csv(folder / name / file, **{"index": False, **options})


@pytest.fixture(params=["small", "real"])
def folder(request, tmp_path, monkeypatch):
    """A folder of small files of the same form, and that of the real ones."""
    if request.param == "real":
        return request.getfixturevalue("data_folder")
    small_file(tmp_path, "adult", "adult.data", 0, header=False)
    small_file(tmp_path, "adult", "adult.test", 1)  # its first line is not a row
    small_file(tmp_path, "compas", "compas-scores-two-years.csv", 2, index=True)
    small_file(tmp_path, "german", "german.data", 3, sep=" ", header=False)
    small_file(tmp_path, "bank", "bank-additional-full.csv", 4, sep=";")
    monkeypatch.setenv("FAIRSVD_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture
def aif360_s_files(folder):
    """Lead AIF360's classes to the files, and give them the string columns of pandas 2."""
    read_csv = pd.read_csv

    def read(path, *args, **kwargs):
        found = folder.joinpath(*path.split(os.sep)[-2:])
        data = read_csv(found, *args, **kwargs)
        texts = [name for name in data if pd.api.types.is_string_dtype(data[name])]
        return data.astype(dict.fromkeys(texts, object))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pd, "read_csv", read)
        yield patch


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_are_those_of_aif360_s_classes(aif360_s_files, name):
    theirs = TABLES[name]()
    aif360_s_files.undo()
    ours = load_aif360(name)
    assert ours.feature_names == theirs.feature_names
    assert ours.label_names == theirs.label_names
    if name == "compas":  # whose rows AIF360 names by a number of the file that is no column here
        theirs.instance_names = ours.instance_names
    assert ours == theirs
    if name != "bank":  # for which AIF360 has no names
        assert ours.metadata["label_maps"] == theirs.metadata["label_maps"]
        key = "protected_attribute_maps"
        assert ours.metadata[key] == theirs.metadata[key]


@pytest.mark.parametrize(
    ("name", "attribute", "rates"),
    [
        ("adult", "sex", {"Male": 0.312, "Female": 0.114}),
        ("german", "age", {"Old": 0.728, "Young": 0.579}),
        ("compas", "race", {"Caucasian": 0.609, "Not Caucasian": 0.511}),
        ("bank", "age", {"25 to 59": 0.114, "below 25 or above 59": 0.328}),
    ],
)
def test_groups_have_the_known_rates(data_folder, name, attribute, rates):
    d = from_aif360(load_aif360(name), group_names=True)
    groups = pd.DataFrame(d.sensitive_features)[attribute]
    found = (d.y == d.pos_label).groupby(groups).mean().round(3).to_dict()
    assert found == rates


def test_a_table_from_loader_to_metric(data_folder):
    train, test = load_aif360("german").split([0.7], shuffle=True, seed=0)
    d = from_aif360(train)
    age = d.sensitive_features["age"]
    editor = FairLRFTransformer(max_steps=10, random_state=0, pos_label=d.pos_label)
    predicted = to_aif360(test, editor.fit(d.X, d.y, sensitive_features=age))
    metric = ClassificationMetric(test, predicted, [{"age": 0}], [{"age": 1}])
    assert metric.accuracy() > 0.6
    found = fairness_score(
        "demographic_parity_difference",
        test.labels.ravel(),
        predicted.labels.ravel(),
        sensitive_features=test.protected_attributes[:, 1],
        pos_label=1.0,
    )
    np.testing.assert_allclose(found, abs(metric.statistical_parity_difference()), **EXACT)
