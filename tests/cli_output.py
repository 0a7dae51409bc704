"""Running the program inside a test, and reading its tables back."""

from __future__ import annotations

import numpy as np
import pytest
from fairlearn.metrics import (
    false_positive_rate,
    selection_rate,
    true_positive_rate,
)
from sklearn.metrics import accuracy_score

from fairsvd.cli import main

RATES = {
    "selection_rate": selection_rate,
    "tpr": true_positive_rate,
    "fpr": false_positive_rate,
    "accuracy": accuracy_score,
}


def run(capsys, *argv: object) -> tuple[int, str, str]:
    """Run the command line: its status, and what it printed on stdout and on stderr."""
    status = main([str(argument) for argument in argv])
    return status, *capsys.readouterr()


def stop(capsys, *argv: str) -> tuple[int, str, str]:
    """The same where argparse ends the program."""
    with pytest.raises(SystemExit) as end:
        main(list(argv))
    return end.value.code, *capsys.readouterr()


def tables(text: str) -> dict[str, list[list[str]]]:
    """Rows of every printed table by the first word of its headings, cells split at two spaces."""
    found: dict[str, list[list[str]]] = {}
    lines = text.splitlines()
    for i, line in enumerate(lines):
        if line and set(line) <= {"-", " "} and "--" in line:
            widths = [len(rule) for rule in line.split("  ")]
            starts = np.cumsum([0, *(w + 2 for w in widths)])
            end = next((k for k in range(i + 1, len(lines)) if not lines[k]), len(lines))
            cut = [
                [row[a : a + w].strip() for a, w in zip(starts[:-1], widths, strict=True)]
                for row in [lines[i - 1], *lines[i + 1 : end]]
            ]
            found[cut[0][0]] = cut
    return found
