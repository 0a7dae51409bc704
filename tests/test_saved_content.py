"""Saved models whose content is not valid, or was made to run code, are refused."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

import fairsvd
from fairsvd.exceptions import DamagedModelError, ModelFileError, UntrustedError
from saved_files import (
    TEXT,
    header_of,
    rewrite,
    saved,
    text_of,
    tiny_editor,
    toy_rows,
    write_with_header,
)

pytestmark = pytest.mark.filterwarnings("ignore::fairsvd.exceptions.FairsvdWarning")


editor = pytest.fixture(tiny_editor, scope="module")
path = pytest.fixture(saved)


def node_at(text, name):
    return next(pair for pair in text["estimator"]["attributes"] if pair[0] == name)


def put(name, node):
    """Put another node in the place of an attribute."""

    def change(text):
        node_at(text, name)[1] = node

    return change


def test_the_rewriting_of_these_tests_is_no_damage(path, editor):
    rewrite(path)
    assert np.array_equal(
        fairsvd.load(path).predict_proba(toy_rows()[0]), editor.predict_proba(toy_rows()[0])
    )


CODE = {"kind": "code", "path": "os.system"}
NOT_VALID = {
    "a list in the place of the JSON": lambda text: [1],
    "no estimator": lambda text: {"versions": {}},
    "a number as the estimator": lambda text: {"estimator": 3},
    "an unknown kind": put("tolerance", {"kind": "pickle", "data": "x"}),
    "no kind": put("tolerance", {"x": 1}),
    "a reference to nothing": put("tolerance", {"kind": "same", "id": 10**6}),
    "a part that is missing": put("classes_", {"kind": "tensor", "part": "../../etc/passwd"}),
    "an array of objects from numbers": put(
        "classes_",
        {"kind": "array", "dtype": {"kind": "dtype", "text": "O"}, "shape": [2], "part": "x"},
    ),
    "a shape that does not fit": put(
        "classes_",
        {"kind": "array", "dtype": 0, "shape": [10**9], "by_column": False, "items": [1]},
    ),
    "an attribute instead of a method": lambda text: text["estimator"]["attributes"].append(
        ["predict", 1]
    ),
    "a reserved attribute": lambda text: text["estimator"]["attributes"].append(["__class__", 1]),
    "an attribute twice": lambda text: text["estimator"]["attributes"].append(["tolerance", 1]),
    "a network that is none": put("module_", 3),
    "an editor as a network": put("network", {"kind": "module", "path": "fairsvd.GapFineTuner"}),
    "a random state of no generator": put(
        "random_state",
        {"kind": "random state", "state": {"kind": "mapping", "type": "dict", "items": []}},
    ),
    "a number with too many digits": put("tolerance", {"kind": "text", "type": "x", "text": "9"}),
}


@pytest.mark.parametrize("change", NOT_VALID.values(), ids=NOT_VALID)
def test_content_that_is_not_valid_is_refused(path, change):
    rewrite(path, change)
    with pytest.raises(DamagedModelError, match="path="):
        fairsvd.load(path)


@pytest.mark.parametrize("depth", [300, 900, 100_000])
def test_deep_nesting_is_refused(path, depth):
    rewrite(path, raw=b'{"estimator":' + b"[" * depth + b"]" * depth + b"}")
    with pytest.raises(DamagedModelError):
        fairsvd.load(path)


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"\xff\xfe", b'{"estimator":1,"estimator":2}', b"9" * 5000]
)
def test_a_text_that_is_no_json_or_names_twice_is_refused(path, raw):
    rewrite(path, raw=raw)
    with pytest.raises(DamagedModelError):
        fairsvd.load(path)


def test_a_part_that_is_missing_or_another_one_is_named(path):
    name = next(name for name in header_of(path.read_bytes())[0] if len(name) == 64)

    def drop(parts):
        del parts[name]

    def zero(parts):
        parts[name] = torch.zeros_like(parts[name]) + 5

    for alter, words in ((zero, "another content"), (drop, "missing")):
        rewrite(path, tensors=alter)
        with pytest.raises(DamagedModelError, match=f"{name[:12]}.*{words}"):
            fairsvd.load(path)


def test_a_header_of_impossible_length_is_refused(path):
    header, body = header_of(path.read_bytes())
    del header["__metadata__"]
    for length in (0, 2**62, 2**64 - 1):
        write_with_header(path, header, body, length=length)
        with pytest.raises(DamagedModelError, match="no valid safetensors"):
            fairsvd.load(path)


def test_a_header_that_names_a_tensor_twice_is_refused(path):
    header, body = header_of(path.read_bytes())
    del header["__metadata__"]
    entries = json.dumps(header, separators=(",", ":"))
    again = json.dumps({TEXT: header[TEXT]}, separators=(",", ":"))[1:-1]
    write_with_header(path, entries[:-1] + "," + again + "}", body)
    with pytest.raises(DamagedModelError, match="twice"):
        fairsvd.load(path)


ATTACKS = {
    "a function": put("utility", CODE),
    "a function in a partial": put(
        "utility", {"kind": "partial", "function": CODE, "args": [], "keywords": {}}
    ),
    "an object": put(
        "validation", {"kind": "object", "id": 999, "path": "subprocess.Popen", "attributes": []}
    ),
    "a module": put("module_", {"kind": "module", "id": 99, "path": "os.system"}),
    "a net": put("network", {"kind": "net", "id": 99, "path": "skorch.hf.HfHubStorage"}),
    "a callback that writes": put(
        "network",
        {"kind": "object", "id": 99, "path": "skorch.callbacks.Checkpoint", "attributes": []},
    ),
    "a named tuple": put("groups_", {"kind": "named tuple", "path": "os.terminal_size"}),
    "through the package": put("utility", {"kind": "code", "path": "fairsvd.networks._adopt.copy"}),
    "the command line": put("utility", {"kind": "code", "path": "fairsvd.cli.main"}),
    "a builtin": put("utility", {"kind": "code", "path": "builtins.eval"}),
    "through torch": put("utility", {"kind": "code", "path": "torch.nn.Module.__init__"}),
    "torch's loader": put("utility", {"kind": "code", "path": "torch.load"}),
    "something not imported": put("utility", {"kind": "code", "path": "this.s"}),
}


@pytest.mark.parametrize("change", ATTACKS.values(), ids=ATTACKS)
def test_code_that_nobody_allowed_is_refused_and_not_imported(path, change):
    rewrite(path, change)
    with pytest.raises(UntrustedError, match="trusted="):
        fairsvd.load(path)
    assert "this" not in sys.modules


@pytest.mark.parametrize(
    "node",
    [
        {"kind": "object", "id": 99, "path": "fairsvd.GapFineTuner", "attributes": 3},
        {"kind": "net", "id": 99, "path": "torch.nn.Linear"},
        {"kind": "module", "id": 99, "path": "torch.optim.Adam", "hooks": False, "settings": []},
        {"kind": "object", "id": 99, "path": "torch.nn.Linear", "attributes": []},
        {"kind": "pipeline", "id": 99, "path": "fairsvd.GapFineTuner", "steps": []},
        {"kind": "code", "path": "fairsvd.NoSuchEditor"},
    ],
)
def test_known_classes_are_refused_in_places_of_other_kinds(path, node):
    rewrite(path, put("network", node))
    with pytest.raises(ModelFileError, match="path="):
        fairsvd.load(path)


def nodes_of(node):
    """Yield every place of a JSON tree as (container, key)."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, each in list(items):
        yield node, key
        if isinstance(each, (dict, list)):
            yield from nodes_of(each)


@pytest.mark.parametrize("junk", [None, -1, "x", [[]], {}, CODE], ids=repr)
def test_junk_in_any_place_is_refused_or_harmless(path, junk):
    """Every place in turn: an error of ours, or an estimator with another value there."""
    text = text_of(path)
    whole = path.read_bytes()
    places = list(nodes_of(text["estimator"]))
    other = []
    for container, key in places[:: max(1, len(places) // 60)]:
        before = container[key]
        container[key] = junk
        rewrite(path, lambda _: text)
        container[key] = before
        try:
            loaded = fairsvd.load(path)
            assert isinstance(loaded, fairsvd.RandomPerturbation)
        except ModelFileError:
            pass
        except Exception as error:
            other.append((key, repr(error)))
        path.write_bytes(whole)
    assert other == []


@pytest.mark.parametrize("key", ["a secret", b"\0\xff", "ключ"])
def test_a_key_proves_the_origin(editor, path, key):
    fairsvd.save(editor, path, key=key, overwrite=True)
    assert fairsvd.load(path, key=key).threshold_ == editor.threshold_
    as_bytes = key.encode() if isinstance(key, str) else key
    assert fairsvd.load(path, key=as_bytes).threshold_ == editor.threshold_
    with pytest.raises(UntrustedError, match="pass the same key="):
        fairsvd.load(path)
    with pytest.raises(DamagedModelError, match="another key"):
        fairsvd.load(path, key="another")
    rewrite(path, put("tolerance", 0.9), key=b"another")
    with pytest.raises(DamagedModelError):
        fairsvd.load(path, key=key)
    rewrite(path, put("tolerance", 0.9))
    with pytest.raises(UntrustedError, match="without a key"):
        fairsvd.load(path, key=key)
