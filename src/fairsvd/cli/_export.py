"""``fairsvd export``: the edited network as an ONNX graph, and the numbers of its encoder."""

from __future__ import annotations

import argparse
from typing import Any

from .. import persistence
from .._files import write_atomically
from ._folder import MODEL, Card
from ._output import as_json, say

__all__ = ["run_export"]


def run_export(options: argparse.Namespace, card: Card) -> int:
    """Write the graph, and a JSON file of the same name that says what its inputs are.

    Parameters
    ----------
    options : argparse.Namespace
        model, onnx.
    card : Card

    Returns
    -------
    status : int
        0.

    Raises
    ------
    ValueError
        If the network cannot be written as a graph, or a package for it is missing.
    OSError
        If a file cannot be written.
    """
    model = persistence.load(options.model / MODEL)
    try:
        graph = persistence.onnx_graph(model[-1])
    except ImportError as error:
        raise ValueError(str(error)) from error
    about = options.onnx.with_suffix(".json")
    write_atomically(options.onnx, graph)
    write_atomically(about, as_json(_describe(model[0], card)).encode())
    say(f"Graph: {options.onnx}; its larger output is the prediction, the threshold included")
    say(f"Inputs and classes: {about}")
    return 0


def _describe(encoder: Any, card: Card) -> dict[str, Any]:
    """Say how the inputs of the graph are made of columns, and which class each output is."""
    columns: list[dict[str, Any]] = []
    parts = encoder.named_transformers_
    if "numbers" in parts:
        impute, scale = (step for _, step in parts["numbers"].steps)
        values = zip(card.numbers, impute.statistics_, scale.mean_, scale.scale_, strict=True)
        columns += [
            {"column": name, "empty": empty, "minus": mean, "divided_by": spread}
            for name, empty, mean, spread in values
        ]
    if "categories" in parts:
        encode = parts["categories"]
        columns += [
            {"column": name, "one_hot": [str(value) for value in known.tolist()]}
            for name, known in zip(card.categories, encode.categories_, strict=True)
        ]
    inputs = encoder.get_feature_names_out().tolist()
    return {"inputs": inputs, "columns": columns, "classes": card.classes}
