"""Loaders of folders of images: small ones in exactly the published layout."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fairsvd import GapFineTuner, ImageFrame
from fairsvd.datasets import (
    load_celeba,
    load_fitzpatrick17k,
    load_ham10000,
    load_isic,
    load_utkface,
)
from fairsvd.exceptions import DatasetNotFoundError, ImageFileError, SkippedRowsWarning
from helpers import IGNORE_SMALL_DATA
from pictures import SHAPE, picture

FORTY = (
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose "
    "Black_Hair Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee "
    "Gray_Hair Heavy_Makeup High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard "
    "Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair "
    "Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young"
).split()


def cut_off(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def write_images(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        kind = "PNG" if name.endswith(".png") else "JPEG"
        picture(number, shade=60 * (number % 2)).save(folder / name, kind)


def celeba(root, n=12, anno="", eval_="", img=""):
    """Write CelebA of n rows: Smiling and Male alternate at their own pace, as do the splits."""
    names = [f"{i + 1:06d}.jpg" for i in range(n)]
    signs = -np.ones((n, 40), dtype=int)
    signs[np.arange(n) % 2 == 1, FORTY.index("Smiling")] = 1
    signs[np.arange(n) // 2 % 2 == 1, FORTY.index("Male")] = 1
    signs[:, FORTY.index("Young")] = 1
    rows = [
        f"{name} " + " ".join(f"{s:2d}" for s in own) + "\n"
        for name, own in zip(names, signs, strict=True)
    ]
    for folder in (anno, eval_):
        (root / folder).mkdir(parents=True, exist_ok=True)
    text = f"{n}\n{' '.join(FORTY)} \n{''.join(rows)}"
    (root / anno / "list_attr_celeba.txt").write_text(text)
    split = [0] * (n - 4) + [1, 1, 2, 2]
    lines = "".join(f"{name} {k}\n" for name, k in zip(names, split, strict=True))
    (root / eval_ / "list_eval_partition.txt").write_text(lines)
    write_images(root / img / "img_align_celeba", names)
    return root


@pytest.mark.parametrize("layout", [{}, {"anno": "Anno", "eval_": "Eval", "img": "Img"}])
def test_celeba(tmp_path, layout):
    root = celeba(tmp_path, **layout)
    faces = load_celeba(root)
    assert isinstance(faces.data, ImageFrame)
    assert faces.data.shape == (8, 3, *SHAPE)
    assert faces.target.tolist() == [0, 1] * 4
    assert (faces.target.name, faces.target.dtype) == ("Smiling", np.int64)
    assert faces.target_names == ["not Smiling", "Smiling"]
    males = faces.sensitive_features["Male"].tolist()
    assert males == (["not Male"] * 2 + ["Male"] * 2) * 2
    assert faces.group_columns == {"Male": ["Male"]}
    assert faces.frame is faces.data.data
    assert list(faces.frame.columns) == ["path", *FORTY]
    assert set(faces.frame["Young"]) == {1}
    assert "arXiv:1411.7766" in faces.DESCR
    assert len(faces.skipped) == 0
    assert "favourable_label" in faces
    assert [len(load_celeba(root, split=each).target) for each in ("valid", "test", None)] == [
        2,
        2,
        12,
    ]


def test_celeba_with_other_attributes_and_a_transform(tmp_path):
    faces = load_celeba(
        celeba(tmp_path), target="Young", sensitive=("Male", "Smiling"), mode="L", size=6
    )
    assert faces.data.shape == (8, 1, 6, 6)
    assert faces.target.tolist() == [1] * 8
    assert list(faces.sensitive_features) == ["Male", "Smiling"]
    assert faces.group_columns == {"Male": ["Male"], "Smiling": ["Smiling"]}


def test_celeba_says_what_is_wrong_with_its_arguments(tmp_path):
    root = celeba(tmp_path)
    for words, settings in {
        "target='Smile' is not known. Did you mean 'Smiling'": {"target": "Smile"},
        "sensitive='male' is not known. Did you mean 'Male'": {"sensitive": "male"},
        "'Smiling' is the target and cannot be sensitive too": {"sensitive": ["Smiling"]},
        r"sensitive must name one attribute or several, got \[\]": {"sensitive": []},
        "split='training' is not known. Did you mean 'train'": {"split": "training"},
        "on_error='warn' is not known. Wanted one of": {"on_error": "warn"},
    }.items():
        with pytest.raises(ValueError, match=words):
            load_celeba(root, **settings)


def without_a_column(text):
    return "\n".join(line.rsplit(maxsplit=1)[0] for line in text.splitlines()) + "\n"


DAMAGES = {
    "announces 13 rows .* holds 12 rows of 41 columns": lambda text: text.replace("12", "13", 1),
    "and 39 attributes, but holds 12 rows of 41": lambda text: text.replace(" Young", "", 1),
    "must begin with the number of its rows, got '5_o_Clock": lambda text: text[3:],
    "must hold -1 and 1, but not for 000001.jpg": lambda text: text.replace("-1", " 7", 1),
    "cannot be read as a table": lambda text: text.replace("000003.jpg", "000003.jpg 1", 1),
    "holds 11 rows": lambda text: text[: text.rindex("000012")],
}


@pytest.mark.parametrize("words", DAMAGES)
def test_a_changed_file_of_attributes_is_refused(tmp_path, words):
    path = celeba(tmp_path) / "list_attr_celeba.txt"
    path.write_text(DAMAGES[words](path.read_text()))
    with pytest.raises(ValueError, match=words) as caught:
        load_celeba(tmp_path)
    assert "list_attr_celeba.txt" in str(caught.value)


def test_a_partition_that_does_not_fit_is_refused(tmp_path):
    path = celeba(tmp_path) / "list_eval_partition.txt"
    whole = path.read_text()
    path.write_text(whole[whole.index("000002") :])
    with pytest.raises(ValueError, match=r"lacks 1 images, the first is 000001\.jpg"):
        load_celeba(tmp_path)
    path.write_text(whole.replace(".jpg 1", ".jpg 0"))
    with pytest.raises(ValueError, match="split='valid' has no rows"):
        load_celeba(tmp_path, split="valid")
    path.write_text(whole.replace(".jpg 1", ".jpg 3"))
    with pytest.raises(ValueError, match="must hold a file name and 0, 1 or 2"):
        load_celeba(tmp_path)


def test_files_that_are_not_there_are_named(tmp_path):
    with pytest.raises(DatasetNotFoundError, match=r"root=.*nowhere' is not a folder"):
        load_celeba(tmp_path / "nowhere")
    with pytest.raises(DatasetNotFoundError, match=r"does not hold list_attr_celeba\.txt or Anno"):
        load_celeba(tmp_path)
    celeba(tmp_path)
    (tmp_path / "img_align_celeba").rename(tmp_path / "images")
    with pytest.raises(DatasetNotFoundError, match="does not hold img_align_celeba or Img"):
        load_celeba(tmp_path)


def test_images_that_are_not_there_are_an_error_or_left_out(tmp_path):
    folder = celeba(tmp_path) / "img_align_celeba"
    (folder / "000002.jpg").unlink()
    with pytest.raises(ImageFileError) as caught:
        load_celeba(tmp_path)
    words = str(caught.value)
    assert words.startswith("1 of the images (")
    assert "000002.jpg: there is no such file)" in words
    assert 'on_error="skip" leaves such rows out' in words
    cut_off(folder / "000004.jpg")
    with pytest.warns(SkippedRowsWarning, match=r"left out: 2 of .*000002\.jpg: .*000004\.jpg: "):
        faces = load_celeba(tmp_path, on_error="skip")
    assert faces.skipped["path"].str[-10:].tolist() == ["000002.jpg", "000004.jpg"]
    assert "truncated" in faces.skipped["reason"][1].lower()
    # Labels, groups and images stay in step.
    assert faces.target.tolist() == [0, 0, 0, 1, 0, 1]
    assert faces.data.shape[0] == len(faces.sensitive_features) == 6
    assert faces.target.index.tolist() == list(range(6))


def test_a_cut_off_image_is_named_when_it_is_read(tmp_path):
    cut_off(celeba(tmp_path) / "img_align_celeba" / "000004.jpg")
    faces = load_celeba(tmp_path)
    with pytest.raises(ImageFileError, match=r"000004\.jpg cannot be read"):
        faces.data.read()


def test_many_missing_images_are_counted(tmp_path):
    for path in (celeba(tmp_path) / "img_align_celeba").iterdir():
        path.unlink()
    with pytest.raises(ImageFileError, match=r"8 of the images .*; and 3 more"):
        load_celeba(tmp_path)
    with pytest.raises(ImageFileError, match="no row can be used: 8 of the images"):
        load_celeba(tmp_path, on_error="skip")


UTK = [
    "25_0_0_20170116174525125.jpg.chip.jpg",
    "40_1_1_20170116174525126.jpg.chip.jpg",
    "35_1_4_20170116174525127.jpg",
    "8_0_2_20170116174525128.jpg",
    "116_1_3_20170116174525129.jpg.chip.jpg",
]
UTK_BAD = ["39_1_20170116174525125.jpg.chip.jpg", "61_1_9_20170109150557335.jpg.chip.jpg"]


@pytest.mark.parametrize("folders", [["."], ["UTKFace"], ["part1", "part3"]])
def test_utkface(tmp_path, folders):
    for k, folder in enumerate(folders):
        write_images(tmp_path / folder, UTK[k :: len(folders)])
    faces = load_utkface(tmp_path)
    frame = faces.frame
    assert sorted(frame["age"]) == [8, 25, 35, 40, 116]
    by_age = frame.set_index("age")
    assert by_age["race"].loc[[25, 40, 8, 116, 35]].tolist() == [
        "White",
        "Black",
        "Asian",
        "Indian",
        "Others",
    ]
    assert by_age["gender"].loc[[25, 40]].tolist() == ["male", "female"]
    assert by_age["age_group"].loc[[8, 25, 35, 40]].tolist() == ["<35", "<35", ">=35", ">=35"]
    assert faces.target_names == ["male", "female"]
    assert faces.target.tolist() == (frame["gender"] == "female").astype(int).tolist()
    assert list(faces.sensitive_features) == ["race"]
    assert faces.data.shape == (5, 3, *SHAPE)
    old = load_utkface(tmp_path, target="age", age_threshold=100, sensitive=["gender", "race"])
    assert old.target.sum() == 1
    assert old.target_names == ["<100", ">=100"]
    assert old.group_columns == {"gender": ["gender"], "race": ["race"]}
    aged = load_utkface(tmp_path, target="race", sensitive="age")
    assert aged.group_columns == {"age_group": ["age_group", "age"]}
    assert len(aged.target_names) == 5


def test_utkface_names_what_is_malformed(tmp_path):
    write_images(tmp_path, UTK + UTK_BAD)
    with pytest.raises(ImageFileError, match=r"2 of the images .*39_1_2017.*its name is not \[age"):
        load_utkface(tmp_path)
    with pytest.warns(SkippedRowsWarning, match="2 of the images"):
        faces = load_utkface(tmp_path, on_error="skip")
    assert len(faces.data) == len(faces.target) == 5
    assert len(faces.skipped) == 2
    with pytest.raises(ValueError, match=r"target='sex' is not known\. Wanted one of"):
        load_utkface(tmp_path, target="sex")
    with pytest.raises(ValueError, match="age_threshold must be an integer at least 1, got 0"):
        load_utkface(tmp_path, age_threshold=0)


def test_an_empty_folder_is_said(tmp_path):
    with pytest.raises(DatasetNotFoundError, match="no image files"):
        load_utkface(tmp_path)
    (tmp_path / "note.txt").write_text("no image")
    with pytest.raises(DatasetNotFoundError, match="no image files"):
        load_utkface(tmp_path)


def fitzpatrick(root, folder="."):
    n = 8
    hashes = [f"{i:032x}" for i in range(n)]
    table = pd.DataFrame(
        {
            "md5hash": hashes,
            "fitzpatrick_scale": [1, 2, 3, 4, 5, 6, -1, 3],
            "fitzpatrick_centaur": [1, 2, -1, 4, 5, 6, 4, 3],
            "label": ["psoriasis", "melanoma"] * 4,
            "nine_partition_label": ["inflammatory", "malignant melanoma"] * 4,
            "three_partition_label": ["non-neoplastic", "malignant"] * 3 + ["benign"] * 2,
            "qc": np.nan,
            "url": "https://example.org/a.jpg",
            "url_alphanum": "httpsexampleorgajpg",
        }
    )
    table.to_csv(root / "fitzpatrick17k.csv", index=False)
    write_images(root / folder, [f"{each}.jpg" for each in hashes])
    return table


@pytest.mark.parametrize("folder", [".", "images"])
def test_fitzpatrick17k(tmp_path, folder):
    table = fitzpatrick(tmp_path, folder)
    skin = load_fitzpatrick17k(tmp_path)
    groups = skin.sensitive_features["skin_type"]
    assert groups.iloc[:6].tolist() == ["1-3"] * 3 + ["4-6"] * 3
    assert groups.isna().tolist() == [False] * 6 + [True, False]
    assert skin.target_names == ["benign", "malignant", "non-neoplastic"]
    assert skin.target.tolist() == [2, 1, 2, 1, 2, 1, 0, 0]
    assert skin.data.shape == (8, 3, *SHAPE)
    assert "fitzpatrick_scale" in skin.group_columns["skin_type"]
    other = load_fitzpatrick17k(
        tmp_path, table, target="nine_partition_label", sensitive="fitzpatrick_centaur"
    )
    assert (
        other.sensitive_features["skin_type"].isna().tolist() == [False] * 2 + [True] + [False] * 5
    )
    assert other.target_names == ["inflammatory", "malignant melanoma"]


def test_fitzpatrick17k_says_what_is_wrong(tmp_path):
    table = fitzpatrick(tmp_path)
    with pytest.raises(ValueError, match=r"got 7 in row 0"):
        load_fitzpatrick17k(tmp_path, table.replace({"fitzpatrick_scale": {1: 7}}))
    with pytest.raises(ValueError, match=r"has no column \['md5hash'\]"):
        load_fitzpatrick17k(tmp_path, table.drop(columns="md5hash"))
    with pytest.raises(ValueError, match="target='three' is not known"):
        load_fitzpatrick17k(tmp_path, target="three")
    with pytest.raises(DatasetNotFoundError, match=r"other\.csv was not found"):
        load_fitzpatrick17k(tmp_path, "other.csv")
    with pytest.raises(ValueError, match="has no rows"):
        load_fitzpatrick17k(tmp_path, table[:0])
    table.loc[2, "three_partition_label"] = None
    (tmp_path / f"{table['md5hash'][4]}.jpg").unlink()
    with pytest.raises(ImageFileError, match=r"2 of the images .*three_partition_label is missing"):
        load_fitzpatrick17k(tmp_path, table)
    with pytest.warns(SkippedRowsWarning, match=f"{table['md5hash'][4]}.jpg: there is no such"):
        skin = load_fitzpatrick17k(tmp_path, table, on_error="skip")
    assert skin.target.tolist() == [2, 1, 1, 1, 0, 0]


def ham(root, folders):
    names = [f"ISIC_{24306 + i:07d}" for i in range(8)]
    table = pd.DataFrame(
        {
            "lesion_id": [f"HAM_{i // 2:07d}" for i in range(8)],
            "image_id": names,
            "dx": ["mel", "bcc", "akiec", "nv", "nv", "bkl", "df", "vasc"],
            "dx_type": "histo",
            "age": [80.0, 60, 55, 0, np.nan, 45, 70, 30],
            "sex": ["male", "female", "unknown", "male", "female", "male", "female", "male"],
            "localization": "back",
        }
    )
    table.to_csv(root / "HAM10000_metadata.csv", index=False)
    for k, folder in enumerate(folders):
        write_images(root / folder, [f"{each}.jpg" for each in names[k :: len(folders)]])
    return table


PARTS = ["HAM10000_images_part_1", "HAM10000_images_part_2"]


@pytest.mark.parametrize("folders", [["."], PARTS, ["images"]])
def test_ham10000(tmp_path, folders):
    ham(tmp_path, folders)
    lesions = load_ham10000(tmp_path, sensitive=("sex", "age"))
    assert lesions.target.tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    assert (lesions.favourable_label, lesions.target_names) == (0, ["benign", "malignant"])
    sex, age = (lesions.sensitive_features[name] for name in ("sex", "age_group"))
    assert sex.isna().tolist() == [False, False, True] + [False] * 5
    assert age.isna().tolist() == [False] * 4 + [True] + [False] * 3
    assert age.dropna().tolist() == [">=60", ">=60", "<60", "<60", "<60", ">=60", "<60"]
    assert lesions.group_columns == {"sex": ["sex"], "age_group": ["age_group", "age"]}
    assert lesions.data.shape == (8, 3, *SHAPE)
    kinds = load_ham10000(tmp_path, target="dx")
    assert [kinds.target_names[code] for code in kinds.target] == kinds.frame["dx"].tolist()
    strict = load_ham10000(tmp_path, malignant=("mel", "bcc"), age_threshold=50, sensitive="age")
    assert strict.target.sum() == 2
    assert strict.sensitive_features["age_group"].tolist()[2] == ">=50"


def test_ham10000_says_what_is_wrong(tmp_path):
    table = ham(tmp_path, ["."])
    with pytest.raises(ValueError, match="malignant='melanoma' is not known"):
        load_ham10000(tmp_path, malignant="melanoma")
    with pytest.raises(ValueError, match=r"sensitive='gender' is not known. Wanted one of \['sex'"):
        load_ham10000(tmp_path, sensitive="gender")
    for words, change in {
        "dx must be one of .* got 'melanoma'": {"dx": {"mel": "melanoma"}},
        "sex must be .* got 'm' in row 0": {"sex": {"male": "m"}},
        "age must be a number of years, got 'old' in row 0": {"age": {80.0: "old"}},
    }.items():
        table.astype({"age": object}).replace(change).to_csv(tmp_path / "HAM10000_metadata.csv")
        with pytest.raises(ValueError, match=words):
            load_ham10000(tmp_path)


ISIC_FORMS = {
    "archive": ("isic_id", "age_approx", "benign_malignant", ["malignant", "benign"]),
    "archive of today": ("isic_id", "age_approx", "diagnosis_1", ["Malignant", "Benign"]),
    "challenge of 2020": ("image_name", "age_approx", "target", [1, 0]),
}


def isic(root, form, folder="."):
    image, age, diagnosis, values = ISIC_FORMS[form]
    names = [f"ISIC_{i:07d}" for i in range(6)]
    table = pd.DataFrame(
        {
            image: names,
            age: [60.0, 45, np.nan, 85, 30, 5],
            diagnosis: values * 3,
            "sex": ["male", "female", None, "female", "male", "male"],
        }
    )
    table.to_csv(root / "metadata.csv", index=False)
    write_images(root / folder, [f"{each}.jpg" for each in names])
    return table


@pytest.mark.parametrize("folder", [".", "images"])
@pytest.mark.parametrize("form", ISIC_FORMS)
def test_isic(tmp_path, form, folder):
    table = isic(tmp_path, form, folder)
    lesions = load_isic(tmp_path, sensitive=["age", "sex"])
    assert lesions.target.tolist() == [1, 0] * 3
    age = lesions.sensitive_features["age_group"]
    assert age.dropna().tolist() == [">=60", "<60", ">=60", "<60", "<60"]
    assert lesions.sensitive_features["sex"].isna().sum() == 1
    assert lesions.data.shape == (6, 3, *SHAPE)
    again = load_isic(tmp_path, table)
    assert again.frame["path"].tolist() == lesions.frame["path"].tolist()


def test_isic_says_what_is_wrong(tmp_path):
    table = isic(tmp_path, "archive")
    for column, words in {
        "isic_id": "no column for the image: wanted isic_id or image_name",
        "age_approx": "no column for the age",
        "benign_malignant": "no column for the diagnosis",
        "sex": r"has no column \['sex'\]",
    }.items():
        with pytest.raises(ValueError, match=words):
            load_isic(tmp_path, table.drop(columns=column))
    table.loc[1, "benign_malignant"] = "indeterminate"
    with pytest.raises(ImageFileError, match="benign_malignant is 'indeterminate', not benign or"):
        load_isic(tmp_path, table)
    with pytest.warns(SkippedRowsWarning, match="1 of the images"):
        lesions = load_isic(tmp_path, table, on_error="skip")
    assert lesions.target.tolist() == [1, 1, 0, 1, 0]
    with pytest.raises(DatasetNotFoundError, match=r"none\.csv was not found"):
        load_isic(tmp_path, "none.csv")


@pytest.mark.filterwarnings(*IGNORE_SMALL_DATA)
def test_a_loaded_folder_goes_straight_into_an_editor(tmp_path):
    faces = load_celeba(celeba(tmp_path, 36), size=8, split=None)
    editor = GapFineTuner(max_steps=2, gap_weight=1.0, sensitive_columns="Male", random_state=0)
    fitted = editor.fit(faces.data, faces.target)
    assert fitted.groups_ == ["Male", "not Male"]
    assert fitted.sensitive_source_ == "columns of X"
    assert len(fitted.predict(faces.data[:5])) == 5
