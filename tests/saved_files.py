"""Files of saved models, whole and altered, read and written by their published layout alone."""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
import warnings

import numpy as np
import torch
from safetensors.torch import load, save
from torch import nn

from fairsvd import RandomPerturbation
from fairsvd import save as save_editor

TEXT = "estimator.json"


def toy_rows(n=40):
    """Two features, labels and groups, of fixed numbers."""
    X = np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32)
    return X, np.arange(n) % 2, np.arange(n) // 2 % 2


def toy_network(width=3):
    """A small network with fixed weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 2))


def tiny_editor(network=None, **params):
    """A fitted editor of few numbers, without the warnings, which are about the toy data."""
    X, y, groups = toy_rows()
    network = toy_network() if network is None else network
    editor = RandomPerturbation(network, n_trials=1, tolerance=1.0, random_state=0, **params)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return editor.fit(X, y, sensitive_features=groups)


def saved(editor, tmp_path):
    """Save an editor; the path of its file."""
    path = tmp_path / "model.safetensors"
    save_editor(editor, path)
    return path


def header_of(data):
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def text_of(path):
    """Return the JSON of a saved model."""
    return json.loads(load(path.read_bytes())[TEXT].numpy().tobytes())


def rewrite(path, change=None, tensors=None, key=None, raw=None):
    """Alter a saved model and give it a checksum that fits, as an attacker would.

    `change` gets the JSON and may return another; `tensors` gets the dict of tensors; `raw` is
    written in the place of the JSON's bytes.
    """
    parts = load(path.read_bytes())
    text = json.loads(parts[TEXT].numpy().tobytes())
    text = (change(text) or text) if change else text
    content = json.dumps(text).encode() if raw is None else raw
    parts[TEXT] = torch.from_numpy(np.frombuffer(content, dtype=np.uint8).copy())
    if tensors:
        tensors(parts)
    header, body = header_of(save(parts))
    write_with_header(path, header, body, key)


def write_with_header(path, entries, body, key=None, version=1, length=None):
    keyed = "no" if key is None else "yes"
    start = {"fairsvd_format": str(version), "keyed": keyed, "digest": "0" * 64}
    if isinstance(entries, dict):
        entries = json.dumps(entries, separators=(",", ":"))
    begin = json.dumps({"__metadata__": start}, separators=(",", ":"))
    header = f'{begin[:-2]},"estimator":"x"}},{entries.removeprefix("{")}'.encode()
    header += b" " * (-len(header) % 8)
    data = struct.pack("<Q", len(header) if length is None else length) + header + body
    code = hashlib.sha256(data) if key is None else hmac.new(key, data, hashlib.sha256)
    path.write_bytes(data.replace(b"0" * 64, code.hexdigest().encode(), 1))
