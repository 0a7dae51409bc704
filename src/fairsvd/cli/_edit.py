"""``fairsvd edit``: a file becomes an edited model in a folder, with a report."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from .. import persistence
from .._files import digest
from .._messages import did_you_mean
from .._rng import one_torch_thread, stage_rng
from ..base import EDITORS, split_rows
from ..comparison import table_encoder  # which registers every editor
from ..containers import label_codes, read_labels
from ..exceptions import FairsvdWarning
from ..groups import cell_codes, encode_groups, require_two_groups
from ..low_rank import FairLRFTransformer
from ..objective import EachAttribute
from ..report import FairnessReport
from ._columns import Rows
from ._features import Features
from ._folder import MODEL, REPORTS, Card, read_card, write_card
from ._labels import as_label, known_groups, say_positive
from ._output import say

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["run_edit", "write_reports"]


class Data(NamedTuple):
    """Rows that a model is made of: features, labels, groups, weights, and the positive label."""

    X: pd.DataFrame
    y: NDArray[Any]
    groups: pd.DataFrame
    weights: NDArray[np.float64] | None
    positive: Any

    def fit_options(self, rows: NDArray[np.int64]) -> dict[str, Any]:
        """Select what ``fit`` gets beside features and labels."""
        weights = None if self.weights is None else self.weights[rows]
        return {"sensitive_features": self.groups.iloc[rows], "sample_weight": weights}


def run_edit(options: argparse.Namespace, rows: Rows, features: Features) -> int:
    """Train or take a network, edit it, and write the folder of the model.

    Parameters
    ----------
    options : argparse.Namespace
        file, pos_label, missing_group, constraint, each_attribute, tolerance, method, network,
        held_out, out, overwrite, intended_use, owner, seed.
    rows : Rows
    features : Features

    Returns
    -------
    status : int
        0.

    Raises
    ------
    ValueError
        If an option or a column cannot be used.
    OSError
        If the folder cannot be written.
    """
    method = _find_method(options.method)
    data = _read_data(options, rows, features)
    fitting, held = _split(data, options)
    say(f"{options.file}: {len(data.y):,} rows, {len(fitting):,} to fit on, {len(held):,} held out")
    classes = np.unique(data.y).tolist()
    say(say_positive(classes, options.pos_label))
    for line in features.describe():
        say(line)
    if data.weights is not None:
        say(f"Weights: {rows.weights}, of the rows to fit on; the report counts rows once each")
    start = perf_counter()
    # One thread, which is faster for small networks and makes results reproducible.
    with one_torch_thread(), warnings.catch_warnings():
        # What the edit warns of is in the report and printed below.
        warnings.simplefilter("ignore", FairsvdWarning)
        encoder, network = _start(options, data, fitting, features)
        say(f"Editing with {options.method}, which takes a while for many rows")
        editor = method(network, **_settings(options, data), verbose=1)
        X = encoder.transform(data.X.iloc[fitting])
        editor.fit(X, data.y[fitting], **data.fit_options(fitting))
    model = Pipeline([("encode", encoder), ("edit", editor)])
    about = {"intended_use": options.intended_use, "owner": options.owner}
    given = data.X.iloc[held], data.y[held], data.groups.iloc[held]
    report = FairnessReport(model, *given, **about)
    say(f"\n{report.to_text()}")
    card = _make_card(options, rows, features, editor, classes, (len(fitting), len(held)))
    _write(options.out, model, card, report)
    say(f"\nModel:  {options.out}  ({perf_counter() - start:.0f} s)")
    say(f"Report: {options.out / REPORTS['html']}")
    say(f"Next:   fairsvd predict {options.out} NEW.csv --out predictions.csv")
    return 0


def _find_method(name: str) -> Any:
    if name not in EDITORS:
        raise ValueError(
            f"--method {name}: wanted one of {', '.join(sorted(EDITORS))}."
            f"{did_you_mean(name, EDITORS)}"
        )
    return EDITORS[name]


def _read_data(options: argparse.Namespace, rows: Rows, features: Features) -> Data:
    """Keep the rows whose groups are known, or make an own group of the others."""
    groups, known = known_groups(rows, options)
    y = read_labels(rows.frame[rows.target][known].to_numpy(), f"column {rows.target}")
    positive = as_label(np.unique(y).tolist(), options.pos_label)
    weights = rows.read_weights()
    weights = None if weights is None else weights[known.to_numpy()]
    return Data(features.frame[known].reset_index(drop=True), y, groups, weights, positive)


def _split(data: Data, options: argparse.Namespace) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Hold rows out within every (label, group) cell."""
    if not 0 < options.held_out < 1:
        raise ValueError(f"--held-out {options.held_out:g}: wanted a share between 0 and 1")
    groups = require_two_groups(encode_groups(data.groups, len(data.y)))
    classes, codes = label_codes(data.y)
    cells = cell_codes(codes, groups.codes, groups.n_groups)
    rng = stage_rng(options.seed, "split")
    fitting, held = split_rows(options.held_out, cells, codes, rng, np.array(classes))
    return np.sort(fitting), np.sort(held)


def _settings(options: argparse.Namespace, data: Data) -> dict[str, Any]:
    each = options.each_attribute
    return {
        "constraint": EachAttribute(options.constraint) if each else options.constraint,
        "tolerance": options.tolerance,
        "pos_label": data.positive,
        "random_state": options.seed,
    }


def _start(
    options: argparse.Namespace, data: Data, fitting: NDArray[np.int64], features: Features
) -> tuple[Any, Any]:
    """Return a fitted encoder and a trained network: those of another model, or new ones."""
    X = data.X.iloc[fitting]
    if options.network is not None:
        return _from_model(options.network, features)
    say("Training a network")
    encoder = table_encoder(features.numbers, features.categories).fit(X)
    # An edit without changes, which trains the default network; the same seed gives the edit the
    # same validation rows, which the network has not seen.
    plain = FairLRFTransformer(sparsity=0, refine=None, threshold=0.5, **_settings(options, data))
    plain.fit(encoder.transform(X), data.y[fitting], **data.fit_options(fitting))
    return encoder, plain.module_


def _from_model(folder: Path, features: Features) -> tuple[Any, Any]:
    card = read_card(folder)
    wanted, have = [*card.numbers, *card.categories], [*features.numbers, *features.categories]
    if wanted != have:
        raise ValueError(
            f"--network {folder}: its features are {', '.join(wanted)}, those of the file "
            f"{', '.join(have)}: choose the same columns with --drop and --keep"
        )
    model = persistence.load(folder / MODEL)
    return model[0], model[-1].module_


def _make_card(
    options: argparse.Namespace,
    rows: Rows,
    features: Features,
    editor: Any,
    classes: list[Any],
    sizes: tuple[int, int],
) -> Card:
    positive = options.pos_label if options.pos_label is None else editor.pos_label
    return Card(
        target=rows.target,
        sensitive=rows.sensitive,
        numbers=features.numbers,
        categories=features.categories,
        classes=classes,
        positive=classes[1] if positive is None and len(classes) == 2 else positive,
        bins=rows.bins,
        missing_group=options.missing_group,
        method=options.method,
        constraint=options.constraint + (" by each attribute" if options.each_attribute else ""),
        tolerance=options.tolerance,
        threshold=editor.threshold_,
        left_out=features.left_out,
        rows={"fitted": sizes[0], "held_out": sizes[1]},
        seed=options.seed,
        model_sha256="",
        intended_use=options.intended_use,
        owner=options.owner,
    )


def _write(folder: Path, model: Pipeline, card: Card, report: FairnessReport) -> None:
    """Write the model first and its card last, so that a folder with a card is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    persistence.save(model, folder / MODEL, overwrite=True)
    # With more than two classes nothing is a selection, which the last of them counts.
    formats = [name for name in REPORTS if name != "ll144" or len(card.classes) == 2]
    write_reports(report, {name: folder / REPORTS[name] for name in formats})
    checksum = digest((folder / MODEL).read_bytes())
    write_card(folder, Card(**{**vars(card), "model_sha256": checksum}))


def write_reports(report: FairnessReport, paths: dict[str, Path]) -> None:
    """Write a report in the formats that have a path: html, json, markdown, ll144."""
    made = {
        "html": report.to_html,
        "json": report.to_json,
        "markdown": report.to_markdown,
        "ll144": report.to_ll144_csv,
    }
    for name, path in paths.items():
        path.write_text(made[name](), encoding="utf-8")
