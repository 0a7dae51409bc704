"""Saved values: each comes back with its type, its dtype and its bits."""

from __future__ import annotations

import datetime
import decimal
import functools
import pathlib
import re
import shutil
import threading
import uuid
from collections import OrderedDict

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import PredefinedSplit, StratifiedShuffleSplit
from sklearn.utils import Bunch
from torch import nn

import fairsvd
from fairsvd import GapFineTuner, PhiObjective
from fairsvd.exceptions import ModelFileError, UntrustedError
from saved_files import tiny_editor, toy_rows

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::fairsvd.exceptions.FairsvdWarning"),
]


@pytest.fixture(scope="module")
def editor():
    return tiny_editor()


@pytest.fixture
def through(editor, tmp_path):
    """Send a value through a file, as a fitted attribute."""

    def send(value, **load):
        editor.extra_ = value
        try:
            fairsvd.save(editor, tmp_path / "model", overwrite=True)
            return fairsvd.load(tmp_path / "model", **load).extra_
        finally:
            del editor.extra_

    return send


def twin(values, dtype=object):
    array = np.empty(len(values), dtype=dtype)
    array[:] = values
    return array


PLAIN = [
    *(None, True, 0, -(10**30), 1.5, -0.0, 5e-324, "", "ä\ud800\0\n", b"", b"\xff\0"),
    *((), (1, ("a", None)), [], [[1], [2.0]], {}, {"a": 1, 2: "b", None: 3, (1, "x"): []}),
    *(OrderedDict(b=1, a=2), Bunch(x=1), {1, 2}, frozenset("ab"), range(1, 9, 3), 1 + 2j),
    *(datetime.date(2020, 2, 29), datetime.datetime(2020, 1, 1, 2, 3, 4, 5), datetime.time(1, 2)),
    datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC),
    *(datetime.timedelta(-1, 5, 7), decimal.Decimal("1.10"), uuid.UUID(int=5)),
    *(pathlib.Path("a/b"), re.compile(r"a.*", re.IGNORECASE), re.compile(rb"\d")),
    *(
        torch.float16,
        torch.device("cuda", 1),
        torch.Size([2, 3]),
        np.dtype("<M8[D]"),
        np.dtype(">f4"),
    ),
    *(
        np.int8(3),
        np.uint64(2**64 - 1),
        np.float16(1.5),
        np.bool_(True),
        np.str_("ä"),
        np.bytes_(b"x"),
    ),
    *(np.datetime64("2020-01-01T01", "h"), np.timedelta64(3, "D"), np.complex64(1j)),
    *(pd.Timestamp("2020-01-01 01:02:03.000000004"), pd.Timestamp("2020", tz="Europe/Berlin")),
    *(
        pd.Timedelta("3h"),
        pd.Interval(0, 1.5, "left"),
        pd.Interval(pd.Timestamp(0), pd.Timestamp(9)),
    ),
    *(pd.Period("2020-03", "M"), pd.NA, pd.NaT),
    *(nn.ReLU, torch.optim.Adam, fairsvd.GapFineTuner, torch.nn.functional.gelu),
]


@pytest.mark.parametrize("value", PLAIN)
def test_single_values(through, value):
    again = through(value)
    assert type(again) is type(value)
    # The order of a set is no part of it.
    assert repr(again) == repr(value) or isinstance(value, (set, frozenset))
    if value is not pd.NA and value is not pd.NaT:
        assert again == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), np.float32("nan")])
def test_numbers_that_json_lacks(through, value):
    again = through(value)
    assert type(again) is type(value)
    assert np.array_equal([again], [value], equal_nan=True)


ARRAYS = [
    np.arange(6).reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2),
    np.zeros((0, 3), np.float32),
    np.array(5),
    np.array([True, False]),
    np.array([1.5, np.nan, np.inf, -0.0], np.float16),
    np.arange(3, dtype=">i4"),
    np.array([1, 2**63], np.uint64),
    np.array([1 + 2j], np.complex128),
    np.array(["a", "größe", ""]),
    np.array([b"a", b"\xff"]),
    np.array(["2020-01-01", "NaT"], "M8[s]"),
    np.array([1, 2], "m8[ns]"),
    twin([1, "a", None, 2.5, (1, 2), float("inf")]),
    twin([[1], {"a": np.arange(2)}]).reshape(2, 1),
    np.broadcast_to(np.int64(7), (1,)),
    np.broadcast_to(np.arange(2), (3, 2)),
]


@pytest.mark.parametrize("value", ARRAYS, ids=lambda a: f"{a.dtype} {a.shape}")
def test_arrays(through, value):
    again = through(value)
    assert (again.dtype, again.shape) == (value.dtype, value.shape)
    assert again.flags.f_contiguous or not value.flags.f_contiguous
    assert repr(again.tolist()) == repr(value.tolist())
    if value.dtype != object:
        assert again.tobytes() == value.tobytes()


def test_masked_arrays(through):
    value = np.ma.MaskedArray([1.0, 2.0, 3.0], [True, False, True], fill_value=9)
    again = through(value)
    assert type(again) is np.ma.MaskedArray
    assert repr(again) == repr(value)


def test_a_masked_array_of_which_nothing_is_masked_stays_one(through):
    """A mask that is False everywhere makes another array."""
    value = np.ma.MaskedArray([1.0, 2.0])
    assert value.mask is np.ma.nomask
    assert through(value).mask is np.ma.nomask


TENSORS = [
    torch.arange(6).reshape(2, 3),
    torch.tensor(1.5, dtype=torch.bfloat16),
    torch.zeros(0, 2, dtype=torch.float16),
    torch.arange(6.0).reshape(2, 3).T,
    torch.arange(3.0).expand(2, 3),
    torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
    torch.tensor([1 + 2j]),
    torch.tensor([True, False]),
    torch.tensor([1.0], requires_grad=True),
    nn.Parameter(torch.ones(2), requires_grad=False),
    torch.tensor([float("nan"), float("inf")]),
]


@pytest.mark.parametrize("value", TENSORS, ids=lambda t: f"{t.dtype} {tuple(t.shape)}")
def test_tensors(through, value):
    again = through(value)
    assert type(again) is type(value)
    assert again.dtype == value.dtype
    assert again.requires_grad == value.requires_grad
    assert again.equal(value) or value.isnan().any()
    if value.is_contiguous(memory_format=torch.channels_last) and value.ndim == 4:
        assert again.stride() == value.stride()


def test_one_tensor_in_two_places_stays_one(through):
    tensor = torch.ones(2)
    first, second, other = through([tensor, tensor, tensor.clone()])
    assert first is second
    assert other is not first


@pytest.mark.parametrize("source", [np.random.RandomState(3), np.random.default_rng(3)])
def test_sources_of_random_numbers_go_on(through, source):
    source.normal(size=3)
    again = through(source)
    assert np.array_equal(again.normal(size=5), source.normal(size=5))


def test_a_torch_generator_goes_on(through):
    generator = torch.Generator().manual_seed(3)
    torch.rand(5, generator=generator)
    again = through(generator)
    assert torch.equal(torch.rand(5, generator=again), torch.rand(5, generator=generator))


TABLE = pd.DataFrame(
    {
        "whole": [1, 2, 3],
        "small": np.array([1, 2, 3], np.int8),
        "real": [1.5, np.nan, -0.0],
        "flag": [True, False, True],
        "text": ["a", None, "ä"],
        "any": twin(["a", 1, None]),
        "maybe": pd.array([1, None, 3], dtype="Int64"),
        "yes": pd.array([True, None, False], dtype="boolean"),
        "string": pd.array(["a", None, "b"], dtype="string"),
        "kind": pd.Categorical(["b", "a", None], categories=["b", "a", "c"], ordered=True),
        "bin": pd.cut([0.1, 0.5, 0.9], 2),
        "day": pd.to_datetime(["2020-01-01", None, "2021-01-01"]),
        "zone": pd.to_datetime(["2020-01-01", None, "2021-07-01"]).tz_localize("Europe/Berlin"),
        "long": pd.to_timedelta([1, 2, 3], unit="h"),
        "month": pd.period_range("2020-01", periods=3, freq="M"),
    }
)
INDICES = [
    pd.RangeIndex(3, name="n"),
    pd.Index([1, 2, 3], dtype=np.int16),
    pd.Index(["a", "b", None], name="x"),
    pd.Index(twin(["a", 1, (2, 3)])),
    pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)], names=["k", None]),
    pd.CategoricalIndex(["a", "b", "a"]),
    pd.date_range("2020", periods=3, freq="D"),
    pd.IntervalIndex.from_breaks([0, 1, 2, 3]),
    pd.Index([1.5, np.nan, 2.5]),
]


@pytest.mark.parametrize("column", TABLE.columns)
def test_columns(through, column):
    again = through(TABLE[column])
    pd.testing.assert_series_equal(again, TABLE[column], check_exact=True)


@pytest.mark.parametrize("index", INDICES, ids=lambda i: f"{type(i).__name__} {i.dtype}")
def test_frames_with_any_index(through, index):
    frame = TABLE.set_index(index)
    again = through(frame)
    pd.testing.assert_frame_equal(again, frame, check_exact=True, check_freq=True)
    pd.testing.assert_frame_equal(through(frame.iloc[:0]), frame.iloc[:0])
    wide = pd.DataFrame(np.eye(3), columns=index)
    pd.testing.assert_frame_equal(through(wide), wide)


def test_frames_with_repeated_columns_and_without_any(through):
    twice = pd.DataFrame([[1, "a"]], columns=["x", "x"])
    pd.testing.assert_frame_equal(through(twice), twice)
    pd.testing.assert_frame_equal(through(pd.DataFrame(index=[3])), pd.DataFrame(index=[3]))


GROUPS = {
    "text": ["f", "m"],
    "numbers": [1, 0],
    "flags": [True, False],
    "reals": [0.5, 1.5],
    "bytes": [b"x", b"y"],
    "none": ["f", None],
    "mixed": ["f", 1],
    "times": [pd.Timestamp("2020"), pd.Timestamp("2021")],
    "bins": [pd.Interval(0, 1), pd.Interval(1, 2)],
    "big": [10**25, 1],
}


@pytest.mark.parametrize("labels", GROUPS.values(), ids=GROUPS)
def test_reports_of_groups_of_any_labels(tmp_path, labels):
    X, y, codes = toy_rows()
    groups = twin([labels[c] for c in codes])
    editor = GapFineTuner(nn.Linear(2, 2), max_steps=1, random_state=0, missing_group="own_group")
    editor.fit(X, y, sensitive_features=groups)
    check_reports(editor, tmp_path)


def test_reports_of_several_attributes(tmp_path):
    X, y, codes = toy_rows()
    table = pd.DataFrame({"sex": np.where(codes, "f", "m"), "old": np.arange(40) % 8 < 4})
    editor = GapFineTuner(nn.Linear(2, 2), max_steps=1, random_state=0)
    check_reports(editor.fit(X, y, sensitive_features=table), tmp_path)


def check_reports(editor, folder):
    fairsvd.save(editor, folder / "model")
    again = fairsvd.load(folder / "model")
    assert repr(again.groups_) == repr(editor.groups_)
    assert [type(label) for label in again.groups_] == [type(label) for label in editor.groups_]
    pd.testing.assert_frame_equal(again.history_, editor.history_, check_exact=True)
    for name in ("groups", "gaps"):
        pd.testing.assert_frame_equal(again.report_[name], editor.report_[name], check_exact=True)
    assert again.report_.notes == editor.report_.notes


@pytest.mark.parametrize(
    "labels", [["no", "yes"], [False, True], [3, 7], twin(["a", "b"]), np.array([1, 2], np.int8)]
)
def test_classes_keep_their_type(tmp_path, labels):
    X, y, groups = toy_rows()
    y = np.asarray(labels)[y]
    editor = GapFineTuner(nn.Linear(2, 2), max_steps=1, random_state=0)
    editor.fit(X, y, sensitive_features=groups)
    fairsvd.save(editor, tmp_path / "model")
    again = fairsvd.load(tmp_path / "model")
    assert again.classes_.dtype == editor.classes_.dtype
    assert again.predict(X).tolist() == editor.predict(X).tolist()


def accuracy(y_true, y_pred):
    return float((y_true == y_pred).mean())


PARAMETERS = {
    "validation": PredefinedSplit(np.arange(40) % 2 - 1),
    "validation of random rows": StratifiedShuffleSplit(1, random_state=np.random.RandomState(1)),
    "random_state": np.random.RandomState(0),
    "utility": balanced_accuracy_score,
    "constraint": PhiObjective(n_bootstrap=2),
    "device": torch.device("cpu"),
    "pos_label": np.int64(1),
    "threshold": np.float64(0.4),
    "sensitive_columns": None,
    "memory": None,
}


def without_address(value):
    return re.sub("at 0x[0-9A-F]+", "", repr(value))


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_that_are_objects(tmp_path, name):
    value, name = PARAMETERS[name], name.split()[0]
    editor = tiny_editor().set_params(**{name: value})
    fairsvd.save(editor, tmp_path / "model")
    again = getattr(fairsvd.load(tmp_path / "model"), name)
    assert type(again) is type(value)
    assert without_address(again) == without_address(value)


@pytest.mark.parametrize("kind", [str, pathlib.Path, joblib.Memory])
def test_the_folder_of_a_cache_stays_a_parameter_and_is_not_made(tmp_path, kind):
    folder = tmp_path / "cache"
    memory = joblib.Memory(folder, verbose=0) if kind is joblib.Memory else kind(folder)
    fairsvd.save(tiny_editor().set_params(memory=memory), tmp_path / "model")
    shutil.rmtree(folder, ignore_errors=True)
    again = fairsvd.load(tmp_path / "model").memory
    assert str(again) == str(folder)
    assert not folder.exists()


def test_a_device_that_is_not_here_stays_a_parameter(tmp_path):
    editor = tiny_editor().set_params(device="cuda:7")
    fairsvd.save(editor, tmp_path / "model")
    again = fairsvd.load(tmp_path / "model")
    assert again.device == "cuda:7"
    assert len(again.predict(toy_rows()[0])) == 40


def test_a_function_needs_the_callers_trust(tmp_path):
    editor = tiny_editor(utility=accuracy)
    fairsvd.save(editor, tmp_path / "model")
    path = f"{__name__}.accuracy"
    with pytest.raises(UntrustedError, match=re.escape(f"trusted=('{path}',)")):
        fairsvd.load(tmp_path / "model")
    for trusted in ([path], path, (accuracy,), accuracy):
        assert fairsvd.load(tmp_path / "model", trusted=trusted).utility is accuracy


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("utility", lambda y, p: 0.0),
        ("utility", functools.partial(lambda y, p: 0.0)),
        ("validation", threading.Lock()),
        ("memory", iter([1])),
        ("pos_label", np.longdouble(1)),
        ("pos_label", np.zeros(1, [("a", int)])[0]),
        ("random_state", torch.zeros(2, device="meta")),
        ("random_state", torch.zeros(2).to_sparse()),
    ],
)
def test_a_parameter_that_cannot_be_saved_is_named(editor, tmp_path, name, value):
    fairsvd.save(editor, tmp_path / "model")
    before = (tmp_path / "model").read_bytes()
    wrong = tiny_editor().set_params(**{name: value})
    with pytest.raises(ModelFileError, match=f"RandomPerturbation.{name}"):
        fairsvd.save(wrong, tmp_path / "model", overwrite=True)
    assert (tmp_path / "model").read_bytes() == before
    # The advice of the message.
    fairsvd.save(wrong.set_params(**{name: None}), tmp_path / "model", overwrite=True)


@pytest.mark.parametrize("trusted", [[3], [None], 5])
def test_what_is_trusted_has_to_be_a_name_or_code(editor, tmp_path, trusted):
    fairsvd.save(editor, tmp_path / "model")
    with pytest.raises(ValueError, match="trusted"):
        fairsvd.load(tmp_path / "model", trusted=trusted)
