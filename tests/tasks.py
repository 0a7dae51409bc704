"""Small tasks of an edit: a network, its rows and a constraint, without a fit around them."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from fairsvd.arrays import LabelledRows, as_batches
from fairsvd.base import EditData, Task
from fairsvd.objective import Constraint, make_judge

CONSTRAINT = Constraint("equalized_odds", 0.1, 0.4, "balanced_accuracy", None, 1, "classes")


def smooth_net(n_outputs=2, seed=0):
    """Build a network of two hidden layers for 5 columns, without kinks."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        hidden = [nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.Tanh()]
        return nn.Sequential(*hidden, nn.Linear(4, n_outputs)).requires_grad_(False)


def small_task(net=None, *, n_rows=90, n_groups=2, margin=0.3, constraint=CONSTRAINT, **settings):
    """Make a task of two classes on rows whose columns lean on label and group.

    ``settings`` are fields of ``EditData``.
    """
    net = smooth_net() if net is None else net
    rng = np.random.default_rng(0)
    y, groups = rng.integers(2, size=n_rows), rng.integers(n_groups, size=n_rows)
    X = (rng.normal(size=(n_rows, 5)) + y[:, None] + 0.7 * groups[:, None]).astype(np.float32)
    rows = LabelledRows(as_batches(X), torch.as_tensor(y), torch.as_tensor(groups))
    own = {
        "editing": rows,
        "judged": rows.X,
        "judge": make_judge(y, groups, np.zeros_like(y), 2, n_groups, constraint),
        "untouched": net(torch.as_tensor(X)),
        "kind": "logits",
        "output_layer": "4",
        "n_classes": 2,
        "n_groups": n_groups,
        "group_labels": tuple(range(n_groups)),
        "margin": margin,
        "batch_size": 16,
        "device": torch.device("cpu"),
        "dtype": torch.float32,
    }
    return Task(net, EditData(**{**own, **settings}), constraint)
