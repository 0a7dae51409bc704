"""Networks of every kind and the loop over single rows that their curvature is held to."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fairsvd.curvature import group_curvature
from fairsvd.curvature._checks import find_target
from fairsvd.curvature._func import gradients_by_row

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


class Attention(nn.Module):
    """Attention over positions (N, T, 8), averaged over them."""

    def __init__(self, bias=True, mask=False, weights=False, first=True, **options):
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2, bias=bias, batch_first=first, **options)
        if bias:
            nn.init.normal_(self.attn.in_proj_bias)
        self.mask, self.weights, self.first = mask, weights, first

    def forward(self, x):
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1) if self.mask else None
        x = x if self.first else x.transpose(0, 1)
        out, shares = self.attn(x, x, x, need_weights=self.weights, attn_mask=mask)
        out = out if self.first else out.transpose(0, 1)
        return out.mean(1) + (0 if shares is None else 3 * shares.sum((1, 2))[:, None])


class Cross(nn.Module):
    """Attention of few queries to keys and values of other lengths and widths."""

    def __init__(self):
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2, kdim=5, vdim=6, add_bias_kv=True, batch_first=True)
        self.keys, self.values = nn.Linear(8, 5), nn.Linear(8, 6)

    def forward(self, x):
        return self.attn(x[:, :2], self.keys(x), self.values(x))[0].mean(1)


class Packed(Cross):
    """The same with all projections in one weight."""

    def __init__(self):
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2, bias=False, add_zero_attn=True, batch_first=True)
        self.keys, self.values = nn.Linear(8, 8), nn.Identity()


class Pool(nn.Module):
    """Attention from linear layers whose weights its parent hands to the function itself."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
        self.c = nn.Linear(8, 5)

    def forward(self, x):
        x = x.transpose(0, 1)
        bias = torch.cat([self.q.bias, self.k.bias, self.v.bias])
        out, _ = nn.functional.multi_head_attention_forward(
            x[:1],
            x,
            x,
            8,
            2,
            None,
            bias,
            None,
            None,
            False,
            0.0,
            self.c.weight,
            self.c.bias,
            training=self.training,
            need_weights=False,
            use_separate_proj_weight=True,
            q_proj_weight=self.q.weight,
            k_proj_weight=self.k.weight,
            v_proj_weight=self.v.weight,
        )
        return out[0]


class Windows(nn.Module):
    """Attention within halves of the positions (N, T, 8), as rows of their own; then over time."""

    def __init__(self):
        super().__init__()
        self.attn, self.layer = Attention(), nn.Linear(8, 8)

    def forward(self, x):
        x = torch.tanh(self.layer(x.transpose(0, 1))).transpose(0, 1)  # the rows come second
        halves = x[:, :4].reshape(2 * len(x), 2, 8)
        return self.attn(halves).reshape(len(x), 2, 8).flatten(1)


class Tied(nn.Module):
    """Two layers with one weight, which is also used transposed, outside of any layer."""

    def __init__(self, kind=nn.Linear, transposed=False, **options):
        super().__init__()
        self.first, self.second = kind(6, 6, **options), kind(6, 6, **options)
        self.second.weight = self.first.weight
        self.transposed = transposed

    def forward(self, x):
        x = torch.tanh(self.second(torch.tanh(self.first(x))))
        return x @ self.first.weight if self.transposed else x


class Doubled(nn.Linear):
    """A layer of another kind: a subclass whose forward pass is its own."""

    def forward(self, x):
        return 2 * super().forward(x)


def image_net(*body, channels=4):
    head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, N_CLASSES)]
    return nn.Sequential(*body, *head)


def encoder_layer(**options):
    return nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, **options)


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
    "attention": lambda: nn.Sequential(Attention(), nn.Linear(8, 3)),
    "attention, rows second": lambda: nn.Sequential(Attention(first=False), nn.Linear(8, 3)),
    "attention, masked": lambda: nn.Sequential(Attention(False, True, True), nn.Linear(8, 3)),
    "attention to others": lambda: nn.Sequential(Cross(), nn.Linear(8, 3)),
    "attention, packed": lambda: nn.Sequential(Packed(), nn.Linear(8, 3)),
    "attention of layers": lambda: nn.Sequential(Pool(), nn.Linear(5, 3)),
    "transformer": lambda: nn.Sequential(
        nn.TransformerEncoder(encoder_layer(), 2, enable_nested_tensor=False),
        Mean(),
        nn.Linear(8, 3),
    ),
    "transformer, norm first": lambda: nn.Sequential(
        encoder_layer(norm_first=True, activation="gelu"), Mean(), nn.Linear(8, 3)
    ),
    "attention in windows (torch.func)": lambda: nn.Sequential(Windows(), nn.Linear(16, 3)),
    "tied": lambda: nn.Sequential(Tied(), nn.Linear(6, 3)),
    "tied convolutions": lambda: nn.Sequential(
        nn.Unflatten(1, (6, 1, 1)), Tied(nn.Conv2d, kernel_size=1), nn.Flatten(), nn.Linear(6, 3)
    ),
    "tied, transposed (torch.func)": lambda: nn.Sequential(Tied(transposed=True), nn.Linear(6, 3)),
    "subclass (torch.func)": lambda: nn.Sequential(Doubled(6, 5), nn.Tanh(), nn.Linear(5, 3)),
}
INPUTS = {"positions": (7, 6), "conv1d (torch.func)": (4, 6)}
FLAT = {"mlp", "linear used twice", "subclass (torch.func)"}


def input_shape(kind):
    if kind in FLAT or kind.startswith("tied"):
        return (6,)
    sequences = kind.startswith(("attention", "transformer"))
    return (5, 8) if sequences else INPUTS.get(kind, (4, 9, 8))


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
    return module, layer_names(module), (x, y, group)


def layer_names(module):
    """Names of everything whose curvature is asked for, one of each weight."""
    names, seen = [], set()
    for name, part in module.named_modules():
        if isinstance(part, nn.MultiheadAttention):
            for each in ("in_proj", "q_proj", "k_proj", "v_proj"):
                if getattr(part, f"{each}_weight") is not None:
                    names.append(f"{name}.{each}".lstrip("."))
        elif isinstance(part, (nn.Linear, nn.Conv2d, nn.Conv1d)) and part.weight not in seen:
            seen.add(part.weight)
            names.append(name)
    return names


def weight_of(module, name):
    """Weight of a layer and the number of matrices in it."""
    owner, _, last = name.rpartition(".")
    owner = module.get_submodule(owner)
    if isinstance(owner, nn.MultiheadAttention) and last != "out_proj":
        return owner.get_parameter(f"{last}_weight"), 3 if last == "in_proj" else 1
    layer = module.get_submodule(name)
    return layer.weight, getattr(layer, "groups", 1)


def matrices(module, name):
    weight, c = weight_of(module, name)
    return weight.detach().reshape(c, weight.shape[0] // c, -1)


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
    weights = [weight_of(module, name)[0] for name in names]
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


def per_sample_gradients(module, names, x, cotangents, to_logits):
    """Differentiate (cotangent . logits) of each row with respect to the weights of some layers."""
    weights = {name: find_target(module, name).parameter for name in names}
    gradients = gradients_by_row(module, [*weights.values()], x, cotangents, to_logits, None)
    return {name: gradients[weight] for name, weight in weights.items()}
