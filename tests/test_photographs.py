"""Photographs in zip archives, decoded by several processes, and the loaders that read them."""

from __future__ import annotations

import os
import pickle
import zipfile

import numpy as np
import pandas as pd
import pytest
from joblib import parallel_config

from fairsvd import ImageFrame
from fairsvd.arrays import as_batches
from fairsvd.caching import fingerprint
from fairsvd.datasets import load_fairface, load_ham10000_photos
from fairsvd.exceptions import DatasetNotFoundError, ImageFileError, SkippedRowsWarning
from pictures import Folder, picture


def zipped(folder, archive):
    """Pack a folder's files, with paths below it."""
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(folder.rglob("*.*")):
            packed.write(path, path.relative_to(folder).as_posix())
    return archive


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return Folder(tmp_path_factory.mktemp("images"), 40)


@pytest.fixture
def archive(folder, tmp_path):
    return zipped(folder.path, tmp_path / "faces.zip")


def test_an_archive_reads_as_its_folder(folder, archive):
    frame = folder.frame(root=archive)
    np.testing.assert_array_equal(frame.read(), folder.frame().read())
    assert frame.paths[3] == os.path.join(archive, "3.png")
    assert frame.readable().all()
    again = pickle.loads(pickle.dumps(frame))
    np.testing.assert_array_equal(again[[5]].read(), folder.frame()[[5]].read())


def test_a_folder_may_have_the_name_of_an_archive(tmp_path):
    (tmp_path / "old.zip").mkdir()
    own = Folder(tmp_path / "old.zip", 2)
    assert own.frame().read().shape[0] == 2


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda path: path.unlink(), r"faces\.zip.0\.png cannot be read: there is no such file"),
        (lambda path: path.write_bytes(b"PK"), r"0\.png cannot be read: .*not a zip file"),
        (
            lambda path: zipfile.ZipFile(path, "w").close(),
            r"faces\.zip.0\.png cannot be read: there is no such file",
        ),
    ],
)
def test_a_broken_archive_is_named(folder, archive, break_it, message):
    break_it(archive)
    frame = folder.frame(root=archive)
    with pytest.raises(ImageFileError, match=message):
        frame.read()
    assert not frame.readable().any()


def test_a_damaged_member_is_named(folder, archive):
    content = bytearray(archive.read_bytes())
    place = content.index(b"0.png") + len(b"0.png") + 60
    content[place] ^= 255
    archive.write_bytes(content)
    frame = folder.frame(root=archive)
    with pytest.raises(ImageFileError, match=r"0\.png cannot be read"):
        frame[[0]].read()
    assert frame.readable().tolist() == [False] + [True] * 39


def test_a_changed_archive_is_read_anew_and_has_another_fingerprint(folder, archive, tmp_path):
    frame = folder.frame(root=archive)
    before, stamp = frame.read(), fingerprint(as_batches(frame))
    assert fingerprint(as_batches(folder.frame(root=archive))) == stamp
    picture(99).save(tmp_path / "0.png")
    with zipfile.ZipFile(archive) as packed:
        others = {name: packed.read(name) for name in packed.namelist() if name != "0.png"}
    with zipfile.ZipFile(archive, "w") as packed:
        packed.write(tmp_path / "0.png", "0.png")
        for name, content in others.items():
            packed.writestr(name, content)
    after = frame.read()
    assert not np.array_equal(after[0], before[0])
    np.testing.assert_array_equal(after[1:], before[1:])
    assert fingerprint(as_batches(frame)) != stamp


def test_a_missing_member_has_no_stamp(folder, archive):
    table = pd.DataFrame({"path": ["none.png"]})
    with pytest.raises(ImageFileError, match=r"none\.png cannot be read: No such file"):
        ImageFrame(table, root=archive).stamp([0])


def flipped(image):
    """Flip an image or not, by numpy's global generator."""
    from PIL import ImageOps

    return ImageOps.mirror(image) if np.random.random() < 0.5 else image


@pytest.mark.parametrize(
    ("mode", "backend"),
    [("RGB", "threading"), ("L", "threading"), pytest.param("RGB", "loky", marks=pytest.mark.slow)],
)
def test_processes_that_decode_change_no_bit(folder, archive, mode, backend):
    frames = [
        folder.frame(root=archive, mode=mode, size=(7, 9), augment=flipped, n_jobs=n)
        for n in (None, 2)
    ]
    rows = [*range(40), 3, 3]
    drawn = []
    with parallel_config(backend):
        one, two = (frame.read(rows) for frame in frames)
        for frame in frames:
            np.random.seed(0)
            drawn.append(frame.read(rows, augmented=True))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(*drawn)
    assert not np.array_equal(drawn[0], one)


def test_a_file_that_another_process_cannot_read_is_named(folder, archive):
    table = pd.concat([folder.table(), pd.DataFrame({"path": ["none.png"]})])
    frame = ImageFrame(table, root=archive, n_jobs=2)
    wanted = pytest.raises(ImageFileError, match=r"none\.png cannot be read: there is no such file")
    with wanted, parallel_config("threading"):
        frame.read()


@pytest.mark.parametrize("n_jobs", [0, 1.5, True, "2"])
def test_a_number_of_processes_is_checked(folder, n_jobs):
    with pytest.raises(ValueError, match="n_jobs must be a number of processes"):
        folder.frame(n_jobs=n_jobs)


FACES = pd.DataFrame(
    {
        "file": [f"{'val' if k > 5 else 'train'}/{k}.jpg" for k in range(8)],
        "age": ["0-2", "30-39", "40-49", "more than 70", "20-29", "50-59", "60-69", "3-9"],
        "gender": ["Male", "Female"] * 4,
        "race": ["Black", "White", "Middle Eastern", "East Asian"] * 2,
        "service_test": [True, False] * 4,
    }
)


def write_faces(root, below=""):
    for number, name in enumerate(FACES["file"]):
        path = root / below / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(path)
    return root


def published(root):
    for split in ("train", "val"):
        rows = FACES[FACES["file"].str.startswith(split)]
        rows.to_csv(root / f"fairface_label_{split}.csv", index=False)
    return write_faces(root)


def in_one_table(root):
    own = FACES.rename(columns={"file": "path", "gender": "sex"})
    own.to_csv(root / "labels.csv", index=False)
    zipped(write_faces(root, "faces") / "faces", root / "images.zip")
    return root


@pytest.mark.parametrize("layout", [published, in_one_table])
def test_fairface(tmp_path, layout):
    root = layout(tmp_path)
    faces = load_fairface(root)
    assert faces.target.tolist() == [0, 1, 0, 1, 0, 1]
    assert (faces.target.name, faces.target_names) == ("gender_code", ["Male", "Female"])
    assert faces.sensitive_features["race"].tolist() == FACES["race"].tolist()[:6]
    assert faces.data.shape == (6, 3, 12, 10)
    assert "arXiv:1908.04913" in faces.DESCR
    older = load_fairface(root, split=None, target="age", sensitive=("race", "gender"))
    assert older.target.tolist() == [0, 0, 1, 1, 0, 1, 1, 0]
    assert older.target_names == ["<40", ">=40"]
    assert older.group_columns == {"race": ["race"], "gender": ["gender"]}
    held = load_fairface(root, split="val", target="race", sensitive="age", age_threshold=3)
    assert held.sensitive_features["age_group"].tolist() == [">=3", ">=3"]
    assert [held.target_names[code] for code in held.target] == ["Middle Eastern", "East Asian"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "sex"}, "target='sex' is not known"),
        ({"target": "race"}, "'race' is the target and cannot be sensitive too"),
        ({"split": "test"}, "split='test' is not known"),
        ({"age_threshold": 35}, r"first year of a class of ages, one of \(3, 10, .*got 35"),
    ],
)
def test_fairface_says_what_is_wrong(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        load_fairface(in_one_table(tmp_path), **settings)


def test_fairface_refuses_other_tables(tmp_path):
    root = in_one_table(tmp_path)
    table = pd.read_csv(root / "labels.csv")
    table.drop(columns="race").to_csv(root / "labels.csv", index=False)
    with pytest.raises(ValueError, match=r"labels\.csv has no column \['race'\]"):
        load_fairface(root)
    table.assign(race="Martian").to_csv(root / "labels.csv", index=False)
    with pytest.raises(ValueError, match=r"race must be one of White, .* got 'Martian'"):
        load_fairface(root)
    table[:6].to_csv(root / "labels.csv", index=False)
    with pytest.raises(ValueError, match="split='val' has no rows"):
        load_fairface(root, split="val")


def test_fairface_names_missing_images(tmp_path):
    root = published(tmp_path)
    (root / "train" / "2.jpg").unlink()
    with pytest.raises(ImageFileError, match=r"1 of the images .*2\.jpg: there is no such file"):
        load_fairface(root)
    with pytest.warns(SkippedRowsWarning, match=r"2\.jpg"):
        faces = load_fairface(root, on_error="skip")
    assert faces.target.tolist() == [0, 1, 1, 0, 1]


LESIONS = pd.DataFrame(
    {
        "lesion_id": list("aabc"),
        "image_id": [f"ISIC_{k:07d}" for k in range(4)],
        "dx": ["mel", "nv", "nv", "bcc"],
        "age": [60, 59, np.nan, 85],
        "sex": ["male", "female", "unknown", "male"],
    }
)


def write_lesions(root, names):
    root.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        picture(number).save(root / f"{name}.jpg")


def lesions_in_parts(root):
    """The published archives, not unpacked."""
    LESIONS.to_csv(root / "HAM10000_metadata", index=False)
    for part, names in (("1", LESIONS["image_id"][:2]), ("2", LESIONS["image_id"][2:])):
        write_lesions(root / f"own_{part}", names)
        zipped(root / f"own_{part}", root / f"HAM10000_images_part_{part}.zip")


def lesions_in_one(root):
    LESIONS.assign(malignant=[1, 0, 0, 1]).to_csv(root / "labels.csv", index=False)
    write_lesions(root / "own", LESIONS["image_id"])
    zipped(root / "own", root / "images.zip")


@pytest.mark.parametrize("layout", [lesions_in_parts, lesions_in_one])
def test_photographs_of_lesions(tmp_path, monkeypatch, layout):
    own = tmp_path / "ham10000_photos"
    own.mkdir()
    layout(own)
    monkeypatch.setenv("FAIRSVD_DATA", str(tmp_path))
    lesions = load_ham10000_photos(sensitive=("sex", "age"), size=8)
    assert lesions.data.shape == (4, 3, 8, 8)
    assert lesions.target.tolist() == [1, 0, 0, 1]
    assert lesions.sensitive_features["sex"].isna().tolist() == [False, False, True, False]
    assert lesions.frame["lesion_id"].tolist() == list("aabc")
    assert all(lesions.data.readable())
    assert load_ham10000_photos(own, malignant="mel").target.tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("load", [load_fairface, load_ham10000_photos])
def test_missing_files_are_named(tmp_path, monkeypatch, load):
    monkeypatch.setenv("FAIRSVD_DATA", str(tmp_path))
    monkeypatch.setenv("FAIRSVD_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DatasetNotFoundError, match=r"labels\.csv.* not found in .*Take the"):
        load()


@pytest.mark.skipif(
    not os.path.isfile(os.path.join(os.environ.get("FAIRSVD_DATA", ""), "fairface/labels.csv")),
    reason="the photographs are not on this machine",
)
def test_the_real_ones():
    faces = load_fairface(split="val")
    assert (len(faces.target), faces.target.mean().round(3)) == (5000, 0.473)
    assert faces.data[:3].read().shape == (3, 3, 64, 64)
    lesions = load_ham10000_photos(sensitive="age")
    rates = lesions.target.groupby(lesions.sensitive_features["age_group"].to_numpy()).mean()
    assert rates.round(3).to_dict() == {"<60": 0.1, ">=60": 0.366}
