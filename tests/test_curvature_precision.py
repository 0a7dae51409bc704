"""Curvature whose forward and backward passes run in a lower precision."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from curvature_reference import assert_same, curvature, factorise, identity, in_batches, make
from fairsvd.curvature import group_curvature, group_weight_curvature
from fairsvd.networks import MLP, ConvNet

# torch.func itself still calls torch.jit.script on its first use.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")

HALF = torch.bfloat16
# bfloat16 keeps 8 bits, a rounding is within 0.4 percent and a square within 0.8. A few layers in a
# row add theirs, and at a ReLU some inputs change sides: 3 percent are found in the first layers.
CLOSE = 0.05


class FoldedConv1d(nn.Conv1d):
    """A layer that only torch.func can differentiate row by row."""


def network(kind):
    """A network, its layers and rows with a signal, so that gradients are no mere noise."""
    generator = torch.Generator().manual_seed(0)
    if kind == "mlp":
        module, shape = MLP(20, 2, (64, 64), generator=generator), (20,)
    elif kind == "convnet":
        module, shape = ConvNet(3, 2, (8, 16), generator=generator), (3, 16, 16)
    else:
        torch.manual_seed(0)
        body = FoldedConv1d(4, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 10, 2)
        module, shape = nn.Sequential(*body), (4, 12)
    x = torch.randn(200, *shape, generator=generator)
    y = (x.flatten(1)[:, :5].sum(1) > 0).long()
    kinds = (nn.Linear, nn.Conv2d, nn.Conv1d)
    names = [name for name, part in module.named_modules() if isinstance(part, kinds)]
    return module, names, (x, y, torch.arange(200) % 3 - 1)


def ranks(values):
    return values.flatten().argsort().argsort().double()


def rank_correlation(one, other):
    return torch.corrcoef(torch.stack([ranks(one), ranks(other)]))[0, 1]


@pytest.mark.parametrize("hessian", ["fisher", "ggn"])
@pytest.mark.parametrize("kind", ["mlp", "convnet", "torch.func"])
def test_half_precision_is_close_to_full(kind, hessian):
    module, names, rows = network(kind)
    factors = factorise(module, names)
    wanted = curvature(module, factors, in_batches(rows, 64), hessian=hessian)
    found = curvature(module, factors, in_batches(rows, 64), hessian=hessian, autocast=HALF)
    for name in names:
        for mine, full in zip(found[name], wanted[name], strict=True):
            assert mine.dtype == torch.float32
            assert 0 < torch.linalg.norm(mine - full) < CLOSE * torch.linalg.norm(full)
            if name != names[-1]:  # two logits of opposite gradients: most entries are ties
                assert rank_correlation(mine, full) > 0.99


@pytest.mark.parametrize("kind", ["mlp", "convnet", "torch.func"])
def test_weights_in_half_precision(kind):
    module, names, rows = network(kind)
    options = {"n_groups": 2, "to_logits": identity}
    wanted = group_weight_curvature(module, names, [rows], **options)
    found = group_weight_curvature(module, names, [rows], **options, autocast=HALF)
    for name in names:
        assert found[name].dtype == torch.float32
        error = torch.linalg.norm(found[name] - wanted[name])
        assert 0 < error < CLOSE * torch.linalg.norm(wanted[name])


@pytest.mark.parametrize("autocast", [HALF, torch.float16])
@pytest.mark.parametrize("kind", ["mlp", "torch.func"])
def test_the_module_runs_in_half_precision_and_its_logits_are_full(kind, autocast):
    module, names, rows = network(kind)
    outputs, logits = set(), set()
    module.get_submodule(names[0]).register_forward_hook(
        lambda layer, args, output: outputs.add(output.dtype)
    )

    def to_logits(output):
        logits.add(output.dtype)
        assert not torch.is_autocast_enabled("cpu")
        return output

    group_curvature(
        module,
        factorise(module, names),
        [rows],
        n_groups=2,
        to_logits=to_logits,
        autocast=autocast,
    )
    assert (outputs, logits) == ({autocast}, {torch.float32})


@pytest.mark.parametrize("kind", ["mlp", "convnet", "torch.func"])
def test_an_autocast_of_the_caller_changes_nothing(kind):
    module, names, rows = network(kind)
    factors = factorise(module, names)
    wanted = curvature(module, factors, [rows]), curvature(module, factors, [rows], autocast=HALF)
    with torch.autocast("cpu", HALF):
        found = (
            curvature(module, factors, [rows]),
            curvature(module, factors, [rows], autocast=HALF),
        )
        assert torch.is_autocast_enabled("cpu")
    for mine, other in zip(found, wanted, strict=True):
        assert_same(mine, other, 0)


def test_an_output_that_is_no_tensor_has_full_logits_as_well():
    class InDict(nn.Module):
        def __init__(self, inside):
            super().__init__()
            self.inside = inside

        def forward(self, x):
            return {"logits": self.inside(x)}

    module, names, rows = network("mlp")
    factors = factorise(module, names)
    wanted = curvature(module, factors, [rows], autocast=HALF)
    found = group_curvature(
        InDict(module),
        {f"inside.{name}": triple for name, triple in factors.items()},
        [rows],
        n_groups=2,
        to_logits=lambda output: output["logits"],
        autocast=HALF,
    )
    assert_same({name.removeprefix("inside."): h for name, h in found.items()}, wanted, 0)


def test_batches_are_drawn_outside():
    module, names, rows = network("mlp")

    def batches():
        for batch in in_batches(rows, 50):
            assert not torch.is_autocast_enabled("cpu")
            yield batch

    curvature(module, factorise(module, names), batches(), autocast=HALF)


def test_a_module_that_is_half_itself_has_full_sums():
    module, names, rows = network("mlp")
    factors = factorise(module, names)
    wanted = curvature(module, factors, [rows])
    module.to(HALF)
    found = curvature(module, factors, [(rows[0].to(HALF), *rows[1:])])
    for name in names:
        for mine, full in zip(found[name], wanted[name], strict=True):
            assert mine.dtype == torch.float32
            assert torch.linalg.norm(mine - full) < CLOSE * torch.linalg.norm(full)


@pytest.mark.parametrize("kind", ["residual", "conv1d (torch.func)"])
def test_double_precision_stays_as_it_is(kind):
    module, names, rows = make(kind)
    factors = factorise(module, names)
    wanted = curvature(module, factors, in_batches(rows))
    assert_same(curvature(module, factors, in_batches(rows), autocast=HALF), wanted, 1e-12)
