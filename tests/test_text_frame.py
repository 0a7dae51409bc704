"""TextFrame: rows of named inputs as an array, and how they travel as one tensor."""

from __future__ import annotations

import pickle
from collections import UserDict

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.model_selection import train_test_split
from sklearn.utils import _safe_indexing, indexable
from sklearn.utils.validation import _num_samples

from fairsvd import TextFrame
from fairsvd.arrays import Fields, as_batches
from fairsvd.caching import fingerprint
from fairsvd.groups import find_sensitive

IDS = np.arange(12).reshape(4, 3)
MASK = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1]], dtype=bool)


def frame():
    table = pd.DataFrame({"sex": list("fmfm")}, index=[7, 7, 8, 9])
    return TextFrame({"input_ids": IDS, "mask": MASK}, table)


@pytest.mark.parametrize(
    "convert",
    [np.asarray, torch.as_tensor, lambda each: each.tolist(), lambda each: pd.DataFrame(each)],
    ids=["arrays", "tensors", "lists", "tables"],
)
def test_inputs_come_in_any_container(convert):
    """What a tokeniser returns is a UserDict."""
    made = TextFrame(UserDict({"input_ids": convert(IDS), "mask": convert(MASK)}))
    assert (len(made), made.shape, made.ndim) == (4, (4,), 1)
    np.testing.assert_array_equal(made.inputs["input_ids"], IDS)
    np.testing.assert_array_equal(made.inputs["mask"], MASK)
    assert repr(made) == "TextFrame(4 rows of {'input_ids': (3,), 'mask': (3,)})"


KEYS = {
    "slice": slice(1, 4, 2),
    "mask": np.array([True, False, True, False]),
    "mask as a list": [True, False, True, False],
    "integers": np.array([3, 0, 3]),
    "negative": [-1, 0],
    "none": [],
    "as scikit-learn asks": (np.array([2, 1]), Ellipsis),
}


@pytest.mark.parametrize("name", KEYS)
def test_rows_are_selected(name):
    key = KEYS[name][0] if isinstance(KEYS[name], tuple) else KEYS[name]
    rows = np.arange(4)[np.array(key, int) if name == "none" else key]
    part = frame()[KEYS[name]]
    np.testing.assert_array_equal(part.inputs["input_ids"], IDS[rows])
    np.testing.assert_array_equal(part.inputs["mask"], MASK[rows])
    assert part.data["sex"].tolist() == [list("fmfm")[row] for row in rows]
    assert len(frame()) == 4


def test_one_row_is_a_dictionary():
    row = frame()[np.int64(-2)]
    assert {name: value.tolist() for name, value in row.items()} == {
        "input_ids": [6, 7, 8],
        "mask": [True, False, False],
    }


@pytest.mark.parametrize("key", [4, -5, [4], [[0]], "sex", [0.5], (), (0, 1)])
def test_what_is_no_row_is_refused(key):
    with pytest.raises(IndexError):
        frame()[key]


def test_scikit_learn_indexes_it():
    own = frame()
    assert _num_samples(own) == 4
    assert indexable(own, IDS)[0] is own
    assert (
        _safe_indexing(own, np.array([3, 1])).inputs["input_ids"].tolist() == IDS[[3, 1]].tolist()
    )
    train, test = train_test_split(own, random_state=0)
    assert (len(train), len(test)) == (3, 1)
    assert pickle.loads(pickle.dumps(own))[[1]].data["sex"].tolist() == ["m"]
    assert find_sensitive(own, None, "sex").values.ravel().tolist() == list("fmfm")
    with pytest.raises(TypeError, match=r"does not become one array.*\[input_ids, mask\]"):
        np.asarray(own)


@pytest.mark.parametrize(
    ("inputs", "data", "message"),
    [
        ({}, None, "mapping of names to arrays, got dict without any"),
        (IDS, None, "mapping of names to arrays, got ndarray: pass what the tokeniser"),
        ({"ids": [[1, 2], [3]]}, None, r"'ids' makes no array .*padding=True"),
        ({"text": ["a b", "c"]}, None, r"'text' must be an array of numbers.*tokenise"),
        ({7: IDS}, None, "named as the network's arguments, got the name 7"),
        ({"ids": 3}, None, r"'ids' must be an array of numbers with a row for each"),
        ({"ids": IDS, "mask": MASK[:3]}, None, r"numbers of rows: \{'ids': 4, 'mask': 3\}"),
        ({"ids": IDS}, pd.DataFrame({"a": [1]}), r"numbers of rows: \{'ids': 4, 'data': 1\}"),
        ({"ids": IDS}, [1, 2, 3, 4], "data must be a DataFrame, got list"),
    ],
)
def test_what_is_wrong_is_named(inputs, data, message):
    with pytest.raises(ValueError, match=message):
        TextFrame(inputs, data)


# Names of inputs, and a row of each.
ITEMS = {
    "words": {"input_ids": np.arange(3), "mask": np.array([True, False, True])},
    "a picture and a number": {
        "pixels": np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 2, 2),
        "age": np.int32(41),
        "code": np.array([2**24]),
    },
    "double precision": {"x": np.array([0.1, 1e-12]), "seen": np.True_},
}


@pytest.mark.parametrize("name", ITEMS)
def test_what_is_packed_comes_out_again(name):
    item = ITEMS[name]
    own = TextFrame({key: np.stack([value, value]) for key, value in item.items()})
    batches = as_batches(own, torch.float64 if "x" in item else torch.float32)
    packed = batches[:]
    assert packed.shape[:2] == (2, 1)
    assert packed.dtype == batches.fields.dtype
    found = batches.fields.unpack(packed)
    assert list(found) == sorted(item)
    for key, value in item.items():
        wanted = torch.as_tensor(np.stack([value, value]))
        assert found[key].dtype == wanted.dtype
        assert torch.equal(found[key], wanted)


def test_inputs_of_other_names_are_other_rows():
    one, same, other = (
        fingerprint(as_batches(TextFrame({"input_ids": IDS, name: MASK})))
        for name in ("mask", "mask", "seen")
    )
    assert one == same != other


def test_words_may_be_padded_to_another_length():
    fields = as_batches(frame()).fields
    longer = TextFrame({k: np.pad(v, ((0, 0), (0, 2))) for k, v in frame().inputs.items()})
    rows = as_batches(longer)
    fields.check_fits(rows.fields)
    for name, value in fields.unpack(rows[:]).items():
        np.testing.assert_array_equal(value, longer.inputs[name])


def test_other_rows_do_not_fit():
    words, picture = (Fields.of(ITEMS[name]) for name in ("words", "a picture and a number"))
    with pytest.raises(
        ValueError, match=r"inputs \[age, code, pixels\].*fit were \[input_ids, mask"
    ):
        words.check_fits(picture)
    smaller = Fields.of({**ITEMS["a picture and a number"], "pixels": np.zeros((3, 1, 1))})
    with pytest.raises(ValueError, match=r"'pixels': \(3, 1, 1\)\}.*'pixels': \(3, 2, 2\)"):
        picture.check_fits(smaller)
    for item in ({}, {7: IDS[0]}):
        with pytest.raises(ValueError, match=r"inputs are named \[7?\]: an item must be a dict"):
            Fields.of(item)
    halves = Fields.of({"input_ids": np.array([0.5, 1, 2]), "mask": np.ones(3, bool)})
    with pytest.raises(ValueError, match="'input_ids' of float64, but in fit it was of int64"):
        words.check_fits(halves)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            {"x": np.ones((2, 2), np.float32), "code": np.array([1, 2**24 + 1])},
            r"'code' holds integers beyond 16,777,216",
        ),
        ({"x": np.array([[1.0, np.nan], [0, 0]])}, "NaN or infinite values in row 0"),
    ],
)
def test_numbers_that_would_be_lost_are_refused(inputs, message):
    with pytest.raises(ValueError, match=message):
        as_batches(TextFrame(inputs))[:]
