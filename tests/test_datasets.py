"""Loaders: tiny files in the exact layout, and the real files where they are."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fairsvd import datasets

LOADERS = {
    "adult": datasets.load_adult,
    "bank": datasets.load_bank,
    "compas": datasets.load_compas,
    "german": datasets.load_german,
}

ADULT = """\
39, State-gov, 77516, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, White, Male, \
2174, 0, 40, United-States, <=50K
28, ?, 338409, Bachelors, 13, Married-civ-spouse, ?, Wife, Black, Female, 0, 0, 40, Cuba, >50K

"""
ADULT_TEST = """\
|1x3 Cross validator
25, Private, 226802, 11th, 7, Never-married, Sales, Own-child, Other, Female, 0, 0, 40, Peru, >50K.

"""
COMPAS_HEADER = (
    "id,name,sex,age,age_cat,race,juv_fel_count,decile_score,juv_misd_count,juv_other_count,"
    "priors_count,days_b_screening_arrest,c_charge_degree,c_charge_desc,is_recid,score_text,"
    "two_year_recid,priors_count\n"
)
COMPAS = COMPAS_HEADER + (
    "1,x,Male,69,Greater than 45,Other,0,1,0,0,5,-1,F,Assault,0,Low,0,9\n"
    "2,x,Male,34,25 - 45,African-American,0,3,0,0,0,-30,M,,1,Low,1,9\n"
    "3,x,Male,34,25 - 45,Caucasian,0,3,0,0,0,31,F,too late,1,Low,1,9\n"
    "4,x,Male,34,25 - 45,Caucasian,0,3,0,0,0,,F,no date,1,Low,1,9\n"
    "5,x,Male,34,25 - 45,Caucasian,0,3,0,0,0,0,O,traffic,1,Low,1,9\n"
    "6,x,Male,34,25 - 45,Caucasian,0,3,0,0,0,0,F,unknown,-1,Low,1,9\n"
    "7,x,Male,34,25 - 45,Caucasian,0,3,0,0,0,0,F,no score,0,N/A,1,9\n"
)
GERMAN = (
    "A11 6 A34 A43 1169 A65 A75 4 A93 A101 4 A121 67 A143 A152 2 A173 1 A192 A201 1\n"
    "A12 48 A32 A43 5951 A61 A73 2 A92 A101 2 A121 25 A143 A152 1 A173 1 A191 A201 2\n"
)
BANK = (
    '"age";"job";"default";"duration";"y"\n25;"maid";"unknown";261;"no"\n24;"chef";"no";5;"yes"\n'
)


def idx(values: np.ndarray) -> bytes:
    header = struct.pack(f">{1 + values.ndim}I", 0x0800 + values.ndim, *values.shape)
    return gzip.compress(header + values.astype(np.uint8).tobytes())


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A FAIRSVD_DATA with the files of every loader, a few rows each."""
    monkeypatch.setenv("FAIRSVD_DATA", str(tmp_path))
    contents: dict[str, str | bytes] = {
        "adult/adult.data": ADULT,
        "adult/adult.test": ADULT_TEST,
        "compas/compas-scores-two-years.csv": COMPAS,
        "german/german.data": GERMAN,
        "bank/bank-additional-full.csv": BANK,
        "fashion-mnist/t10k-images-idx3-ubyte.gz": idx(np.arange(3 * 4).reshape(3, 2, 2)),
        "fashion-mnist/t10k-labels-idx1-ubyte.gz": idx(np.array([6, 0, 9])),
    }
    for name, content in contents.items():
        write(tmp_path / name, content)
    return tmp_path


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def rates(bunch, column: str) -> dict[str, float]:
    groups = bunch.sensitive_features[column]
    return bunch.target.groupby(groups, observed=True).mean().round(3).to_dict()


# Tiny files in the exact layout


@pytest.mark.parametrize("name", LOADERS)
def test_a_table_has_the_promised_parts(tiny, name):
    bunch = LOADERS[name]()
    assert list(bunch.data.columns) == bunch.feature_names
    assert bunch.target.dtype == np.int64 and set(bunch.target) <= {0, 1}
    assert len(bunch.target_names) == 2 and bunch.favourable_label in (0, 1)
    assert bunch.data.index.equals(pd.RangeIndex(len(bunch.target)))
    assert bunch.target.index.equals(bunch.data.index)
    assert list(bunch.frame.columns) == [*bunch.feature_names, bunch.target.name]
    assert list(bunch.group_columns) == list(bunch.sensitive_features.columns)
    assert {c for cs in bunch.group_columns.values() for c in cs} <= set(bunch.feature_names)
    for column in bunch.sensitive_features:
        pd.testing.assert_series_equal(bunch.sensitive_features[column], bunch.data[column])
        assert not bunch.data[column].isna().any()
    kinds = {d.kind if isinstance(d, np.dtype) else d.name for d in bunch.data.dtypes}
    assert kinds <= {"i", "f", "category"}
    assert "Target: 1 = " in bunch.DESCR


def test_adult_reads_both_files(tiny):
    everything = datasets.load_adult()
    assert everything.target.tolist() == [0, 1, 1]
    assert everything.sensitive_features["race"].tolist() == ["White", "Black", "Other"]
    assert everything.data["age"].tolist() == [39, 28, 25]
    assert everything.data["workclass"].isna().tolist() == [False, True, False]
    assert "fnlwgt" not in everything.data


def test_adult_subsets_share_their_categories(tiny):
    train, test = datasets.load_adult(subset="train"), datasets.load_adult(subset="test")
    assert train.target.tolist() == [0, 1] and test.target.tolist() == [1]
    for column in ("race", "native-country", "education"):
        assert train.data[column].dtype == test.data[column].dtype
    with pytest.raises(ValueError, match=r"subset must be .* got 'valid'"):
        datasets.load_adult(subset="valid")


def test_compas_filters_and_leaves_the_scores_out(tiny):
    bunch = datasets.load_compas()
    assert bunch.target.tolist() == [0, 1] and bunch.favourable_label == 0
    assert bunch.data["priors_count"].tolist() == [5, 0]  # not the second column of that name
    assert not {"decile_score", "score_text", "is_recid", "name", "id"} & set(bunch.data)


def test_compas_keeps_the_races_asked_for(tiny):
    bunch = datasets.load_compas(races=["African-American"])
    assert list(bunch.data["race"].cat.categories) == ["African-American"]
    assert datasets.load_compas(races="Other").target.tolist() == [0]
    for wrong in (["Martian"], []):
        with pytest.raises(ValueError, match=r"races must name some of \['African-American', "):
            datasets.load_compas(races=wrong)


def test_german_reads_sex_and_age_group(tiny):
    bunch = datasets.load_german()
    assert bunch.target.tolist() == [1, 0]
    assert bunch.sensitive_features["sex"].tolist() == ["male", "female"]
    assert bunch.sensitive_features["age_group"].tolist() == [">25", "<=25"]
    assert "personal_status" not in bunch.data


def test_bank_reads_age_group_and_missing_values(tiny):
    bunch = datasets.load_bank()
    assert bunch.target.tolist() == [0, 1]
    assert bunch.sensitive_features["age_group"].tolist() == [">=25", "<25"]
    assert bunch.data["default"].isna().tolist() == [True, False]
    assert "duration" in bunch.data


def test_fashion_mnist_reads_idx_files(tiny):
    bunch = datasets.load_fashion_mnist(subset="test")
    assert bunch.images.dtype == np.uint8 and bunch.images.flags.writeable
    np.testing.assert_array_equal(bunch.images, np.arange(12).reshape(3, 2, 2))
    assert [bunch.target_names[k] for k in bunch.target] == ["Shirt", "T-shirt/top", "Ankle boot"]
    some = datasets.load_fashion_mnist(subset="test", classes=(0, 9))
    assert some.target.tolist() == [0, 9]
    np.testing.assert_array_equal(some.images, bunch.images[1:])


def test_fashion_mnist_refuses_unknown_arguments(tiny):
    with pytest.raises(ValueError, match="subset must be"):
        datasets.load_fashion_mnist(subset="all")
    with pytest.raises(ValueError, match=r"classes must name some of \[0, 6, 9\]"):
        datasets.load_fashion_mnist(subset="test", classes=(3,))


@pytest.mark.parametrize(
    ("loader", "file", "content"),
    [
        (datasets.load_adult, "adult/adult.data", "<html>not found</html>"),
        (datasets.load_adult, "adult/adult.data", ADULT.replace("<=50K", "<=60K")),
        (datasets.load_compas, "compas/compas-scores-two-years.csv", "id,sex\n1,Male\n"),
        (datasets.load_compas, "compas/compas-scores-two-years.csv", ""),
        (datasets.load_german, "german/german.data", GERMAN.replace("A201 2", "A201 3")),
        (datasets.load_bank, "bank/bank-additional-full.csv", BANK.replace(";", ",")),
        (datasets.load_bank, "bank/bank-additional-full.csv", BANK.replace('"no"\n', '"nope"\n')),
    ],
)
def test_a_wrong_table_is_named(tiny, loader, file, content):
    write(tiny / file, content)
    with pytest.raises(ValueError, match=f"{file} is not the expected file .*https://"):
        loader()


@pytest.mark.parametrize(
    "content",
    [
        b"not gzipped",
        gzip.compress(b"short"),
        idx(np.zeros((3, 2))),
        idx(np.zeros((3, 2, 2)))[:-12],
        gzip.compress(gzip.decompress(idx(np.zeros((3, 2, 2))))[:-1]),
    ],
    # gzip writes the time into its header: the bytes must not name the test.
    ids=["not gzipped", "too short", "labels", "cut off", "a pixel short"],
)
def test_a_wrong_image_file_is_named(tiny, content):
    write(tiny / "fashion-mnist/t10k-images-idx3-ubyte.gz", content)
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte.gz is not a gzipped idx file"):
        datasets.load_fashion_mnist(subset="test")


def test_images_and_labels_of_different_lengths_are_refused(tiny):
    write(tiny / "fashion-mnist/t10k-labels-idx1-ubyte.gz", idx(np.array([6, 0])))
    with pytest.raises(ValueError, match=r"holds 3 images and .* 2 labels"):
        datasets.load_fashion_mnist(subset="test")


# The real files


def test_adult_base_rates(data_folder):
    bunch = datasets.load_adult()
    assert bunch.data.shape == (48842, 13) and round(bunch.target.mean(), 3) == 0.239
    assert rates(bunch, "sex") == {"Female": 0.109, "Male": 0.304}
    assert len(bunch.frame.dropna()) == 45222
    train, test = datasets.load_adult(subset="train"), datasets.load_adult(subset="test")
    assert (len(train.target), len(test.target)) == (32561, 16281)
    assert round(train.target.mean(), 3) == 0.241
    assert rates(train, "sex") == {"Female": 0.109, "Male": 0.306}


def test_compas_base_rates(data_folder):
    bunch = datasets.load_compas()
    assert bunch.data.shape == (6172, 10) and round(bunch.target.mean(), 3) == 0.455
    pair = datasets.load_compas(races=("African-American", "Caucasian"))
    assert len(pair.target) == 5278
    assert rates(pair, "race") == {"African-American": 0.523, "Caucasian": 0.391}


def test_german_base_rates(data_folder):
    bunch = datasets.load_german()
    assert bunch.data.shape == (1000, 21) and bunch.target.mean() == 0.7
    assert rates(bunch, "age_group") == {"<=25": 0.579, ">25": 0.728}


def test_bank_base_rates(data_folder):
    bunch = datasets.load_bank()
    assert bunch.data.shape == (41188, 21) and round(bunch.target.mean(), 3) == 0.113
    assert rates(bunch, "age_group") == {"<25": 0.24, ">=25": 0.109}
    assert len(bunch.frame.dropna()) == 30488


@pytest.mark.parametrize(("subset", "n"), [("train", 60000), ("test", 10000)])
def test_fashion_mnist_is_whole(data_folder, subset, n):
    bunch = datasets.load_fashion_mnist(subset=subset)
    assert bunch.images.shape == (n, 28, 28)
    assert np.bincount(bunch.target).tolist() == [n // 10] * 10
