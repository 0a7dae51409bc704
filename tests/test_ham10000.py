"""The table of 8 x 8 pixels of HAM10000: a small one, and the real one where it is."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fairsvd import FairLRFTransformer
from fairsvd.datasets import load_ham10000_8x8
from fairsvd.exceptions import DatasetNotFoundError
from helpers import IGNORE_SMALL_DATA

CODES = {"akiec": 0, "bcc": 1, "mel": 6, "nv": 4}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A small copy of both files below FAIRSVD_DATA."""
    monkeypatch.setenv("FAIRSVD_DATA", str(tmp_path))
    monkeypatch.setenv("FAIRSVD_CACHE", str(tmp_path / "cache"))
    own = tmp_path / "ham10000"
    own.mkdir()
    metadata = pd.DataFrame(
        {
            "lesion_id": list("aabbcdef"),
            "image_id": [f"ISIC_{i:07d}" for i in range(8)],
            "dx": ["mel", "nv", "nv", "bcc", "akiec", "nv", "nv", "mel"],
            "age": [60, 59.9, np.nan, 85, 0, 30, 40, 70],
            "sex": ["male", "female", "unknown", "male", "female", "female", "male", "female"],
        }
    )
    metadata.to_csv(own / "HAM10000_metadata.csv", index=False)
    pixels = pd.DataFrame(
        np.arange(512).reshape(8, 64) // 2, columns=[f"pixel{k:04d}" for k in range(64)]
    )
    pixels["label"] = metadata["dx"].map(CODES)
    pixels.to_csv(own / "hmnist_8_8_L.csv", index=False)
    return own


def test_the_small_table(folder):
    lesions = load_ham10000_8x8()
    assert lesions.images.shape == (8, 1, 8, 8)
    assert lesions.images.dtype == np.float32
    assert lesions.images[0, 0, 0, :3].tolist() == [0, 0, np.float32(1) / 255]
    assert (lesions.images.min(), lesions.images.max()) == (0, 1)
    np.testing.assert_array_equal(lesions.data, lesions.images.reshape(8, 64))
    assert lesions.target.tolist() == [1, 0, 0, 1, 1, 0, 0, 1]
    assert lesions.favourable_label == 0
    assert lesions.sensitive_features["sex"].isna().tolist() == [False] * 2 + [True] + [False] * 5
    ages = lesions.sensitive_features["age_group"]
    assert ages.dropna().tolist() == [">=60", "<60", ">=60", "<60", "<60", "<60", ">=60"]
    assert load_ham10000_8x8(folder, malignant="mel").target.sum() == 2
    kinds = load_ham10000_8x8(target="dx")
    assert [kinds.target_names[code] for code in kinds.target] == kinds.frame["dx"].tolist()


def test_files_that_do_not_belong_together_are_refused(folder):
    pixels = pd.read_csv(folder / "hmnist_8_8_L.csv")
    for words, changed in {
        "does not match the metadata: row 1": pixels.assign(label=np.roll(pixels["label"], 1)),
        "holds 7 rows, the metadata 8": pixels[:7],
        "must hold pixels from 0 to 255": pixels.assign(pixel0003=256),
        r"has no column \['pixel0063'\]": pixels.drop(columns="pixel0063"),
    }.items():
        changed.to_csv(folder / "hmnist_8_8_L.csv", index=False)
        with pytest.raises(ValueError, match=words):
            load_ham10000_8x8()


def test_without_the_files_the_error_says_where_to_put_them(folder):
    (folder / "hmnist_8_8_L.csv").unlink()
    with pytest.raises(DatasetNotFoundError, match=r"ham10000 or .*cache.*FAIRSVD_DATA"):
        load_ham10000_8x8()
    with pytest.raises(DatasetNotFoundError, match="does not hold hmnist_8_8_L"):
        load_ham10000_8x8(folder)


def test_the_real_table(data_folder):
    if not (data_folder / "ham10000").is_dir():
        pytest.skip("FAIRSVD_DATA has no ham10000")
    lesions = load_ham10000_8x8(data_folder / "ham10000")
    assert lesions.images.shape == (10_015, 1, 8, 8)
    groups = lesions.sensitive_features
    by_sex = lesions.target.groupby(groups["sex"], observed=True).mean().round(3)
    assert by_sex.to_dict() == {"female": 0.160, "male": 0.227}
    by_age = lesions.target.groupby(groups["age_group"], observed=True).mean().round(3)
    assert by_age.to_dict() == {"<60": 0.100, ">=60": 0.366}
    assert groups.isna().sum().to_dict() == {"sex": 57, "age_group": 57}
    assert round(lesions.target.mean(), 3) == 0.195


@pytest.mark.filterwarnings(*IGNORE_SMALL_DATA)
def test_missing_groups_can_be_left_out_of_a_fit(folder):
    lesions = load_ham10000_8x8()
    images, target = np.tile(lesions.images, (6, 1, 1, 1)), np.tile(lesions.target, 6)
    sex = pd.concat([lesions.sensitive_features["sex"]] * 6)
    editor = FairLRFTransformer(
        criterion="magnitude", sparsity=0.1, refine=None, missing_group="ignore", random_state=0
    )
    fitted = editor.fit(images, target, sensitive_features=sex)
    assert fitted.groups_ == ["female", "male"]
    assert any("6 rows without a group" in note for note in fitted.report_.notes)
