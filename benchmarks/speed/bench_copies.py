"""Measure the peak memory of a fit, in copies of the network that is edited.

Each editor fits in a fresh process, first a small network, whose memory stays, then a large one.
What the process grows by is divided by the bytes of the network; the user's own is not counted.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.speed.bench_edit import STEADY_MALLOC, peak_bytes

N_ROWS, N_FEATURES = 200, 20
# With a teacher two networks of the same architecture are held beside the edit.
EDITORS: dict[str, tuple[str, dict[str, Any]]] = {
    "GapFineTuner, soft gap": ("GapFineTuner", {"objective": "soft_gap", "max_steps": 20}),
    "GapFineTuner, teacher": ("GapFineTuner", {"max_steps": 20}),
    "FairLRFTransformer": ("FairLRFTransformer", {"max_steps": 10}),
    "FairLRFTransformer, curvature": (
        "FairLRFTransformer",
        {"criterion": "curvature", "gap_weight": 1.0, "max_steps": 10},
    ),
    "FairPruner": ("FairPruner", {"max_steps": 10}),
    "BiasMaskFineTuner": ("BiasMaskFineTuner", {"objective": "soft_gap", "impair_epochs": 1}),
    "RandomPerturbation": ("RandomPerturbation", {"n_trials": 10}),
    "LayerwiseOptimizer": ("LayerwiseOptimizer", {"n_calls": 5, "n_initial": 5}),
    "AdversarialFineTuner": ("AdversarialFineTuner", {"epochs": 2, "actor_steps": 5}),
    "AdversarialDebiasing": ("AdversarialDebiasing", {"max_steps": 20}),
}


def network(width: int) -> nn.Module:
    torch.manual_seed(0)
    hidden = [layer for _ in range(3) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(nn.Linear(N_FEATURES, width), nn.ReLU(), *hidden, nn.Linear(width, 2))


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def child(name: str, width: int) -> float:
    """Fit a small and a large network; return the growth in copies of the large one."""
    import fairsvd

    rng = np.random.default_rng(0)
    X, group = rng.normal(size=(N_ROWS, N_FEATURES)), np.arange(N_ROWS) % 2
    y = (X[:, 0] + group + rng.normal(size=N_ROWS) > 0.5).astype(int)
    kind, settings = EDITORS[name]

    def fit(module: nn.Module) -> object:
        editor = getattr(fairsvd, kind)(module, random_state=0, **settings)
        return editor.fit(X.astype(np.float32), y, sensitive_features=group)

    fit(network(8))
    module = network(width)
    before = resident_bytes()
    fit(module)
    return (peak_bytes() - before) / sum(p.nbytes for p in module.parameters())


def main() -> int:
    """Print a line an editor."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--editors", nargs="+", choices=EDITORS, default=list(EDITORS))
    parser.add_argument("--width", type=int, default=2500, help="of the three hidden layers")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(child(options.child, options.width))
        return 0
    print("| editor | copies beside the user's own |\n|---|---|")
    for name in options.editors:
        command = [sys.executable, __file__, "--child", name, "--width", str(options.width)]
        environment = {**os.environ, **STEADY_MALLOC}
        run = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        print(f"| {name} | {float(run.stdout):.1f} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
