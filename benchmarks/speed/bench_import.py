"""Compare the import time of the package with that of the libraries that it needs.

Each statement runs in fresh interpreters. The statements take turns, so that a busy moment of the
machine affects all of them, and medians are compared. The bar is at most 1.2.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

REFERENCE = "import torch, skorch, sklearn.model_selection"
STATEMENTS = (REFERENCE, "import fairsvd", "from fairsvd import FairLRFTransformer")
BAR = 1.2


def seconds(statement: str) -> float:
    """Measure the wall-clock time of one statement in a fresh interpreter, with its start."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - start


def medians(repeats: int) -> dict[str, float]:
    """Compute each statement's median seconds, after a first round that fills the file cache."""
    rounds = [[seconds(statement) for statement in STATEMENTS] for _ in range(repeats + 1)][1:]
    return dict(zip(STATEMENTS, map(statistics.median, zip(*rounds, strict=True)), strict=True))


def main() -> int:
    """Print the table; the exit status is 1 where the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7, help="measured rounds (default 7)")
    measured = medians(parser.parse_args().repeats)
    for statement, median in measured.items():
        print(f"{median:6.2f} s  x{median / measured[REFERENCE]:.2f}  {statement}")
    return int(max(measured.values()) > BAR * measured[REFERENCE])


if __name__ == "__main__":
    sys.exit(main())
