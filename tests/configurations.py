"""Kinds of data that every editor takes, a network for each, and promises that all keep."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
from sklearn.base import clone

from helpers import Rows, convolutions, images, mlp, table, trained


def five_classes():
    return table(150, n_classes=5)


def coded(rows, names):
    return np.array(names, dtype=object)[rows]


def uint8_images():
    rows = images()
    return rows._replace(X=np.clip(60 * rows.X + 120, 0, 255).astype(np.uint8))


DATA = {
    "plain": table,
    "three groups": lambda: table(150, n_groups=3),
    "string groups": lambda: (r := table())._replace(group=coded(r.group, ["f", "m"])),
    "string labels": lambda: (r := table())._replace(y=coded(r.y, ["yes", "no"])),
    "boolean labels": lambda: (r := table())._replace(y=r.y == 1),
    "five classes": five_classes,
    "several columns": lambda: (r := table())._replace(
        group=pd.DataFrame({"sex": coded(r.group, ["f", "m"]), "old": np.arange(120) % 2})
    ),
    "DataFrame": lambda: (r := table())._replace(X=pd.DataFrame(r.X, columns=list("abcdef"))),
    "images": images,
    "grouped convolution": images,
    "images, five classes": lambda: images(100, n_classes=5),
    "uint8 images": uint8_images,
}


def network_for(rows, name=""):
    """Train a small network on the rows, with codes for labels."""
    classes, codes = np.unique(rows.y, return_inverse=True)
    X = np.asarray(rows.X, dtype=np.float32)
    groups = 4 if name == "grouped convolution" else 1
    make = mlp(len(classes)) if X.ndim == 2 else convolutions(len(classes), groups)
    return trained(make, Rows(X, codes, rows.group))


def check_transform(editor, X):
    Z, names = editor.transform(X), editor.get_feature_names_out()
    assert Z.shape == (len(X), len(names))
    wanted = {"features": 8, "logits": len(editor.classes_), "probabilities": len(editor.classes_)}
    assert Z.shape[1] == wanted[editor.output]
    if editor.output == "probabilities":
        assert np.array_equal(Z, editor.predict_proba(X))
    if editor.output == "logits" and len(editor.classes_) == 2:
        assert np.array_equal(Z[:, 1] - Z[:, 0], editor.decision_function(X))


def check_copies(editor, X):
    """A clone knows the parameters only; a pickle predicts the same bits."""
    fresh = clone(editor)
    assert not hasattr(fresh, "module_")
    assert repr(fresh.get_params(deep=False)) == repr(editor.get_params(deep=False))
    again = pickle.loads(pickle.dumps(editor))
    assert np.array_equal(again.predict_proba(X), editor.predict_proba(X))
    assert again.report_.gaps.equals(editor.report_.gaps)
