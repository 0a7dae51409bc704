"""The folder of a model: a card in JSON, the model without pickle, the report beside them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .. import __version__
from .._files import digest, write_atomically
from ._output import as_json

__all__ = ["CARD", "MODEL", "REPORTS", "Card", "check_place", "read_card", "write_card"]

CARD, MODEL = "card.json", "model.safetensors"
# What an edit writes beside them, by what it is.
REPORTS = {
    "html": "report.html",
    "json": "report.json",
    "markdown": "report.md",
    "ll144": "report-ll144.csv",
}
FORMAT = 1


@dataclass(frozen=True)
class Card:
    """What has to be known about a model to use it on a file.

    Attributes
    ----------
    target, sensitive : str, list of str
        The columns that it was fitted with.
    numbers, categories : list of str
        The columns of features, in their order.
    classes, positive : list, object
        All labels, and the positive one; None for more than two.
    bins : dict
        Edges by which columns are cut.
    missing_group, method, constraint : str
    tolerance : float
    threshold : float or None
    left_out : dict
        Columns that are not used, and why.
    rows : dict of str to int
        Rows to fit on and held out.
    seed : int
    model_sha256, version : str
    intended_use, owner : str
    format : int
        Number of this form of a card.
    """

    target: str
    sensitive: list[str]
    numbers: list[str]
    categories: list[str]
    classes: list[Any]
    positive: Any
    bins: dict[str, list[float]]
    missing_group: str
    method: str
    constraint: str
    tolerance: float
    threshold: float | None
    left_out: dict[str, str]
    rows: dict[str, int]
    seed: int
    model_sha256: str
    intended_use: str = ""
    owner: str = ""
    version: str = field(default=__version__)
    format: int = FORMAT


def check_place(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that holds anything else than a model that may be replaced.

    Raises
    ------
    FileExistsError
        If it does; the message says what to pass.
    """
    if folder.is_file():
        raise FileExistsError(f"--out {folder} is a file: name a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / CARD).is_file():
        raise FileExistsError(f"--out {folder} holds other files: name a new folder")
    if not overwrite:
        raise FileExistsError(f"--out {folder} holds a model: pass --overwrite, or another folder")


def write_card(folder: Path, card: Card) -> None:
    """Write the card, whole or not at all."""
    write_atomically(folder / CARD, as_json(asdict(card)).encode())


def read_card(folder: Path) -> Card:
    """Read the card of a model, and compare the checksum of the model with it.

    Raises
    ------
    ValueError
        If the folder holds no model of ``fairsvd edit``, or one of a later version, or the files do
        not belong together.
    """
    path = folder / CARD
    if not path.is_file():
        raise ValueError(f"{folder} holds no {CARD}: wanted a folder that fairsvd edit wrote")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"it is of form {content['format']}, and this version knows {FORMAT}")
        card = Card(**content)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is no card of this version ({error})") from error
    if digest((folder / MODEL).read_bytes()) != card.model_sha256:
        raise ValueError(f"{folder / MODEL} is not the file that {CARD} belongs to")
    return card
