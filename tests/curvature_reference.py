"""Networks of every kind and the loop over single rows that their curvature is held to."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fairsvd.curvature import group_curvature

N_CLASSES = 3


class Mean(nn.Module):
    """Average over the positions (N, T, n) -> (N, n)."""

    def forward(self, x):
        return x.mean(1)


class Twice(nn.Module):
    """One layer used twice in a forward pass."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(torch.tanh(self.layer(x)))


class Residual(nn.Module):
    """Residual block with batch normalisation and in-place activations."""

    def __init__(self, channels):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        out = self.norm(self.second(self.relu(self.first(x))))
        out += x
        return self.relu(out)


class Doubled(nn.Linear):
    """A layer of another kind: a subclass whose forward pass is its own."""

    def forward(self, x):
        return 2 * super().forward(x)


def image_net(*body, channels=4):
    head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, N_CLASSES)]
    return nn.Sequential(*body, *head)


def conv_net(**options):
    first = nn.Conv2d(4, 8, **{"kernel_size": 3, **options})
    return image_net(first, nn.ReLU(inplace=True), nn.Conv2d(8, 4, 1), nn.Tanh())


NETWORKS = {
    "mlp": lambda: nn.Sequential(
        nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)
    ),
    "positions": lambda: nn.Sequential(
        nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), Mean(), nn.Linear(4, 3)
    ),
    "linear used twice": lambda: nn.Sequential(Twice(nn.Linear(6, 6)), nn.Linear(6, 3)),
    "conv used twice": lambda: image_net(Twice(nn.Conv2d(4, 4, 3, padding=1))),
    "residual": lambda: image_net(Residual(4)),
    "conv": lambda: conv_net(),
    "stride": lambda: conv_net(stride=2, padding=1),
    "strides": lambda: conv_net(stride=(2, 1), padding=(0, 2), kernel_size=(2, 3)),
    "same": lambda: conv_net(kernel_size=(3, 5), padding="same", dilation=(1, 2)),
    "same, even": lambda: conv_net(kernel_size=(4, 3), padding="same"),
    "reflect": lambda: conv_net(padding=(1, 2), padding_mode="reflect"),
    "dilation": lambda: conv_net(dilation=2, padding=2),
    "groups": lambda: conv_net(groups=2, padding=1),
    "depthwise": lambda: conv_net(groups=4, padding=1, stride=2),
    "pointwise": lambda: conv_net(kernel_size=1, groups=2),
    "conv1d (torch.func)": lambda: nn.Sequential(
        nn.Conv1d(4, 4, 3, groups=2), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)
    ),
    "subclass (torch.func)": lambda: nn.Sequential(Doubled(6, 5), nn.Tanh(), nn.Linear(5, 3)),
}
INPUTS = {"positions": (7, 6), "conv1d (torch.func)": (4, 6)}
FLAT = {"mlp", "linear used twice", "subclass (torch.func)"}


def input_shape(kind):
    return (6,) if kind in FLAT else INPUTS.get(kind, (4, 9, 8))


# torch says that an even window with padding="same" copies its input.
ignore_copy = pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")


def identity(output):
    return output


def make(kind, dtype=torch.float64, n_rows=13, n_groups=2, seed=0):
    """Network, its layers with weights, and rows of which some have no group."""
    torch.manual_seed(seed)
    module = NETWORKS[kind]().to(dtype).eval()
    x = torch.randn(n_rows, *input_shape(kind), dtype=dtype)
    y = torch.randint(N_CLASSES, (n_rows,))
    group = torch.arange(n_rows) * 7 % (n_groups + 1) - 1
    kinds = (nn.Linear, nn.Conv2d, nn.Conv1d)
    names = [name for name, part in module.named_modules() if isinstance(part, kinds)]
    return module, names, (x, y, group)


def matrices(module, name):
    layer = module.get_submodule(name)
    c = getattr(layer, "groups", 1)
    return layer.weight.detach().reshape(c, layer.weight.shape[0] // c, -1)


def factorise(module, names, share=1.0):
    factors = {}
    for name in names:
        U, S, Vh = torch.linalg.svd(matrices(module, name), full_matrices=False)
        r = max(1, round(share * S.shape[-1]))
        factors[name] = U[..., :r], S[..., :r], Vh.mT[..., :r]
    return factors


def in_batches(rows, size=5):
    return [tuple(part[i : i + size] for part in rows) for i in range(0, len(rows[0]), size)]


def directions(logits, label, hessian):
    """What is backpropagated for one row: one vector, or one a class."""
    p = logits.detach().softmax(0)
    unit = torch.eye(len(p), dtype=p.dtype)
    return [p - unit[label]] if hessian == "fisher" else [*(p.sqrt()[:, None] * (unit - p))]


def loop(module, names, rows, n_groups, hessian):
    """Squared gradients one row at a time: name -> gradients per group (rows, c, m, n)."""
    found = {name: [[] for _ in range(n_groups)] for name in names}
    weights = [module.get_submodule(name).weight for name in names]
    for x, label, group in zip(*rows, strict=True):
        logits = module(x[None])[0]
        for vector in directions(logits, label, hessian):
            grads = torch.autograd.grad(logits, weights, vector, retain_graph=True)
            if group >= 0:
                for name, g in zip(names, grads, strict=True):
                    found[name][group].append(g.reshape(matrices(module, name).shape))
    return found


def reference(module, factors, rows, n_groups, hessian="fisher"):
    """hU, hV and the curvature of W by the definition, row by row."""
    gradients = loop(module, list(factors), rows, n_groups, hessian)
    counts = [max(1, int((rows[2] == g).sum())) for g in range(n_groups)]
    result = {}
    for name, (U, S, V) in factors.items():
        totals = [torch.zeros(n_groups, *each.shape).to(U) for each in (U, V, U @ V.mT)]
        for g in range(n_groups):
            for G in gradients[name][g]:
                parts = (G @ V * S[:, None], G.mT @ U * S[:, None], G)
                for total, part in zip(totals, parts, strict=True):
                    total[g] += part**2 / counts[g]
        result[name] = totals
    return result


def curvature(module, factors, batches, n_groups=2, **options):
    return group_curvature(
        module, factors, batches, n_groups=n_groups, to_logits=identity, **options
    )


def assert_close(found, wanted, tolerance=1e-9):
    scale = wanted.abs().max().item()
    assert scale > 0
    torch.testing.assert_close(found / scale, wanted / scale, rtol=0, atol=tolerance)


def assert_same(found, wanted, tolerance=1e-9):
    assert list(found) == list(wanted)
    for name in wanted:
        for mine, other in zip(found[name], wanted[name], strict=True):
            assert mine.shape == other.shape
            assert_close(mine, other, tolerance)
