"""ImageFrame: an array of image files that is read when rows are asked for."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.model_selection import train_test_split
from sklearn.utils import _safe_indexing, indexable
from sklearn.utils.validation import _num_samples
from torch.utils.data import DataLoader

from fairsvd import ImageFrame, JointStratifiedKFold, fairness_scorer
from fairsvd.exceptions import GroupError, ImageFileError
from fairsvd.groups import drop_sensitive, find_sensitive
from pictures import SHAPE, Folder, Noting, picture

N_ROWS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return Folder(tmp_path_factory.mktemp("images"), N_ROWS)


def to_tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def test_it_looks_like_an_array_of_images(folder):
    frame = folder.frame()
    assert "not read yet" in repr(frame)
    assert len(frame) == N_ROWS
    assert frame.shape == (N_ROWS, 3, *SHAPE)
    assert (frame.ndim, frame.dtype) == (4, np.float32)
    assert "shape (3, 12, 10)" in repr(frame)


def test_the_table_may_be_one_of_another_package(folder):
    polars = pytest.importorskip("polars")
    ours = folder.frame()
    table = polars.DataFrame({name: ours.data[name].tolist() for name in ours.data.columns})
    frame = ImageFrame(table, ours.path, root=ours.root)
    assert list(frame.data.columns) == list(ours.data.columns)
    np.testing.assert_array_equal(frame.read(np.arange(2)), ours.read(np.arange(2)))


def test_the_default_transform_scales_bytes(folder):
    pixels = np.asarray(Image.open(folder.path / "3.png"))
    image = folder.frame()[3]
    np.testing.assert_array_equal(image, pixels.transpose(2, 0, 1).astype(np.float32) / 255)
    grey = folder.frame(mode="L")
    assert grey.shape == (N_ROWS, 1, *SHAPE)
    wanted = np.asarray(Image.open(folder.path / "3.png").convert("L"), dtype=np.float32) / 255
    np.testing.assert_array_equal(grey[3][0], wanted)


@pytest.mark.parametrize(("size", "shape"), [(8, (8, 8)), ((6, 9), (6, 9)), (SHAPE, SHAPE)])
def test_size_is_height_and_width(folder, size, shape):
    frame = folder.frame(size=size)
    assert frame.shape[2:] == shape
    resized = Image.open(folder.path / "1.png").resize(shape[::-1], Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(frame[1][0], np.asarray(resized)[..., 0].astype(np.float32) / 255)


KEYS = {
    "slice": slice(2, 9, 3),
    "all": slice(None),
    "mask": np.arange(N_ROWS) % 3 == 0,
    "mask as a Series": pd.Series(np.arange(N_ROWS) % 3 == 0, index=range(50, 50 + N_ROWS)),
    "mask as a list": [k % 3 == 0 for k in range(N_ROWS)],
    "integers": np.array([7, 1, 7]),
    "integers as a list": [7, -1, 0],
    "none": [],
    "as scikit-learn asks": (np.array([4, 2]), Ellipsis),
}


@pytest.mark.parametrize("name", KEYS)
def test_rows_are_selected_without_reading(folder, name):
    noting = Noting()
    frame = folder.frame(transform=noting)
    part = frame[KEYS[name]]
    assert noting.seen == []
    key = KEYS[name][0] if isinstance(KEYS[name], tuple) else KEYS[name]
    wanted = np.arange(N_ROWS)[np.asarray(key) if not isinstance(key, slice) and len(key) else key]
    assert isinstance(part, ImageFrame)
    assert part.data["row"].tolist() == wanted.tolist()
    assert [int(Path(path).stem) for path in part.paths] == wanted.tolist()
    if len(wanted):
        part.read()
        assert noting.seen == list(dict.fromkeys(wanted.tolist()))  # a repeat is read once
    assert len(frame) == N_ROWS


@pytest.mark.parametrize("key", [N_ROWS, -N_ROWS - 1, [N_ROWS], [[0]], "sex", [0.5], (), (0, 1)])
def test_what_is_no_row_is_refused(folder, key):
    with pytest.raises(IndexError):
        folder.frame()[key]


def test_one_image_is_what_the_transform_returns(folder):
    frame = folder.frame(transform=to_tensor)
    assert isinstance(frame[np.int64(2)], torch.Tensor)
    assert torch.equal(frame[-1], frame[N_ROWS - 1])
    assert frame.dtype == np.uint8
    rows = list(frame)
    assert len(rows) == N_ROWS
    assert torch.equal(torch.stack(rows), torch.from_numpy(frame.read()))
    loader = DataLoader(frame, batch_size=5, generator=torch.Generator())
    assert [len(batch) for batch in loader] == [5, 5, 2]


def test_rows_are_read_in_any_order_and_each_file_once(folder):
    noting = Noting()
    frame = folder.frame(transform=noting)
    images = frame.read([5, 0, 5, 11, 0])
    assert noting.seen == [5, 0, 11]
    np.testing.assert_array_equal(images, folder.frame().read()[[5, 0, 5, 11, 0]])
    assert frame.read([]).shape == (0, 3, *SHAPE)


def test_the_shape_is_learnt_once_and_travels(folder):
    noting = Noting()
    frame = folder.frame(transform=noting)
    assert frame.shape[1:] == frame[3:].shape[1:] == pickle.loads(pickle.dumps(frame)).shape[1:]
    assert noting.seen == [0]
    copy = pickle.loads(pickle.dumps(frame[[4, 2]]))
    assert copy.data.equals(frame.data.iloc[[4, 2]])
    np.testing.assert_array_equal(copy.read(), frame.read([4, 2]))


def test_scikit_learn_indexes_it_without_reading_it(folder):
    noting = Noting()
    frame = folder.frame(transform=noting)
    assert _num_samples(frame) == N_ROWS
    assert indexable(frame, folder.y)[0] is frame
    assert _safe_indexing(frame, np.array([3, 1])).data["row"].tolist() == [3, 1]
    assert _safe_indexing(frame, folder.y == 1).data["row"].tolist() == [1, 3, 5, 7, 9, 11]
    assert _safe_indexing(frame, slice(2)).data["row"].tolist() == [0, 1]
    train, test = train_test_split(frame, random_state=0)
    assert sorted([*train.data["row"], *test.data["row"]]) == list(range(N_ROWS))
    assert noting.seen == [0]  # for the shape


def test_no_array_is_made_by_accident(folder):
    frame = folder.frame()
    for convert in (np.asarray, np.array, lambda X: np.asarray(X, dtype=np.float32)):
        with pytest.raises(TypeError, match=r"read every file.*frame\[rows\].read\(\)"):
            convert(frame)


def test_other_columns_are_found_by_name(folder):
    frame = folder.frame()
    located = find_sensitive(frame, folder.y, "sex")
    assert located.values[:, 0].tolist() == folder.group.tolist()
    assert (located.names, located.source) == (("sex",), "columns of X")
    assert located.X is frame
    assert drop_sensitive(frame, "sex", 3) is frame
    assert find_sensitive(frame, None, [1, "row"]).names == ("sex", "row")
    indexed = ImageFrame(folder.table().set_index("sex"), root=folder.path)
    assert find_sensitive(indexed, None, "sex").source == "index of X"
    labels = pd.Series(folder.y, index=pd.Index(folder.group, name="gender"))
    assert find_sensitive(frame, labels, "gender").source == "index of y"
    with pytest.raises(GroupError, match=r"Columns of X: \['path', 'sex', 'row'\]"):
        find_sensitive(frame, folder.y, "race")


def test_splitters_and_scorers_find_them_too(folder):
    frame = folder.frame()
    folds = JointStratifiedKFold(3, sensitive_columns="sex")
    assert [len(test) for _, test in folds.split(frame, folder.y)] == [4, 4, 4]

    class AllOfOneGroup:
        classes_ = np.array([0, 1])

        def predict(self, X):
            return (X.data["sex"] == "m").to_numpy().astype(int)

    scorer = fairness_scorer("demographic_parity_difference", sensitive_columns="sex")
    assert scorer(AllOfOneGroup(), frame, folder.y) == -1.0


def broken(folder, tmp_path):
    """Copy the folder's table with a missing file, a text file and a file that is cut off."""
    table = folder.table()
    (tmp_path / "text.png").write_text("no image")
    whole = (folder.path / "5.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    names = [str(folder.path / name) for name in table["path"]]
    names[0], names[4], names[5] = (
        str(tmp_path / name) for name in ("gone.png", "text.png", "half.png")
    )
    return ImageFrame(table.assign(path=names))


def test_unreadable_files_are_named_and_told_beforehand(folder, tmp_path):
    frame = broken(folder, tmp_path)
    bad = {0: "gone.png cannot be read: there is no such file", 4: "text.png", 5: "half.png"}
    for row, words in bad.items():
        with pytest.raises(ImageFileError, match=words):
            frame[row]
        with pytest.raises(ImageFileError, match=words):
            frame.read([1, row])
    mask = frame.readable()
    assert np.flatnonzero(~mask).tolist() == list(bad)
    assert frame[mask].read().shape == (N_ROWS - 3, 3, *SHAPE)
    assert frame.shape == (N_ROWS, 3, *SHAPE)  # from the first that can be read
    with pytest.raises(ImageFileError, match=r"gone\.png"):
        broken(folder, tmp_path)[[0, 4]].shape  # noqa: B018
    with pytest.raises(ImageFileError, match=r"gone\.png cannot be read: No such file"):
        frame.stamp([0])
    with pytest.raises(ImageFileError, match="without rows has no shape"):
        folder.frame()[[]].shape  # noqa: B018


def test_images_of_another_size_are_named(folder, tmp_path):
    picture(1, shape=(5, 7)).save(tmp_path / "other.png")
    names = [str(folder.path / "0.png"), str(tmp_path / "other.png")]
    frame = ImageFrame(pd.DataFrame({"path": names}))
    with pytest.raises(ImageFileError) as caught:
        frame.read()
    words = str(caught.value)
    assert "other.png has the shape (3, 5, 7)" in words
    assert "0.png has (3, 12, 10): pass size=" in words
    assert ImageFrame(frame.data, size=8).read().shape == (2, 3, 8, 8)


TRANSFORMS = {
    r"0\.png: transform must return .* of shape \(C, H, W\), got Image": lambda image: image,
    r"got ndarray of shape \(12, 10\)": lambda image: np.asarray(image)[..., 0],
    "got str": lambda image: "text",
    "got ndarray of shape": lambda image: np.asarray(image).astype(str),
    "holds NaN or infinite values": lambda image: to_tensor(image) / torch.tensor(0.0),
    "returned bfloat16": lambda image: to_tensor(image).bfloat16(),
}


@pytest.mark.parametrize("words", TRANSFORMS)
def test_what_a_transform_must_not_return_is_said(folder, words):
    with pytest.raises(ImageFileError, match=words):
        folder.frame(transform=TRANSFORMS[words]).read()


def test_a_transform_that_changes_its_type_or_fails_is_named(folder):
    noting = Noting()

    def changing(image):
        return noting(image).astype(np.float64 if len(noting.seen) > 1 else np.float32)

    with pytest.raises(ImageFileError, match=r"1\.png is of float64 .* of float32"):
        folder.frame(transform=changing).read()

    def failing(image):
        raise KeyError("x")

    with pytest.raises(KeyError) as caught:
        folder.frame(transform=failing)[4]
    assert caught.value.__notes__ == [f"while transforming {folder.path / '4.png'}"]


def test_arguments_are_checked(folder):
    table = folder.table()
    for words, call in {
        "data must be a DataFrame.*got list": lambda: ImageFrame(["a.png"]),
        "path='file' is not one column": lambda: ImageFrame(table, "file"),
        "Did you mean 'path'": lambda: ImageFrame(table, "paths"),
        r"data\['row'\] must hold strings or paths, got 0 in row 0": lambda: ImageFrame(
            table, "row"
        ),
        "mode must be one of RGB, L, got 'CMYK'": lambda: folder.frame(mode="CMYK"),
        "transform must be callable, got int": lambda: folder.frame(transform=3),
        "augment must be callable, got str": lambda: folder.frame(augment="flip"),
        "size must be a number of pixels": lambda: folder.frame(size=0),
        r"got \(1, 2, 3\)": lambda: folder.frame(size=(1, 2, 3)),
        r"got 4\.5": lambda: folder.frame(size=4.5),
    }.items():
        with pytest.raises(ValueError, match=words):
            call()


def test_paths_may_be_path_objects_and_absolute(folder):
    paths = [folder.path / "2.png", folder.path / "1.png"]
    frame = ImageFrame(pd.DataFrame({"file": paths}), "file")
    np.testing.assert_array_equal(frame.read(), folder.frame().read([2, 1]))


def test_without_pillow_the_error_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"pip install 'fairsvd\[images\]'"):
        folder.frame()[0]


def test_augmentation_is_drawn_anew_for_each_repeat(folder):
    def brighter(image):
        factor = float(torch.rand(()))
        return image.point(lambda value: value * factor)

    frame = folder.frame(augment=brighter)
    plain = frame.read([3, 3])
    np.testing.assert_array_equal(plain[0], plain[1])
    torch.manual_seed(0)
    first = frame.read([3, 3, 1], augmented=True)
    assert not np.array_equal(first[0], first[1])
    torch.manual_seed(0)
    np.testing.assert_array_equal(frame.read([3, 3, 1], augmented=True), first)
    np.testing.assert_array_equal(folder.frame().read([3], augmented=True), plain[:1])
