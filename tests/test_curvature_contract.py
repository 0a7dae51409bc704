"""What the curvature pass leaves behind, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from curvature_reference import (
    N_CLASSES,
    Doubled,
    Mean,
    assert_close,
    assert_same,
    curvature,
    factorise,
    identity,
    in_batches,
    make,
    per_sample_gradients,
)
from fairsvd.curvature import group_curvature

# torch.func itself still calls torch.jit.script on its first use.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")


def state(module):
    """All that the pass may not change."""
    parts = list(module.modules())
    return (
        [part.training for part in parts],
        [len(part._forward_hooks) for part in parts],
        [parameter.requires_grad for parameter in module.parameters()],
        [parameter.grad for parameter in module.parameters()],
        [tensor.clone() for tensor in module.state_dict().values()],
    )


def assert_untouched(module, before):
    *flags, values = state(module)
    assert flags[:3] == list(before[:3])
    assert all(now is then for now, then in zip(flags[3], before[3], strict=True))
    assert all(map(torch.equal, values, before[4]))


def prepared(kind="residual", dtype=torch.float64):
    """A network whose modes, flags and gradients are all mixed."""
    module, names, rows = make(kind, dtype)
    module.train()
    module[-1].eval()
    next(module.parameters()).requires_grad_(False)
    module[-1].weight.grad = torch.ones_like(module[-1].weight)
    return module, names, rows


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
@pytest.mark.parametrize("kind", ["residual", "mlp", "conv1d (torch.func)"])
def test_the_module_is_left_as_it_was(kind, autocast):
    module, names, rows = prepared(kind, torch.float32)
    before = state(module)
    random_state = torch.get_rng_state()
    options = {"hessian": "ggn", "autocast": autocast}
    curvature(module, factorise(module, names), in_batches(rows), **options)
    assert_untouched(module, before)
    assert not torch.is_autocast_enabled("cpu")
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.is_grad_enabled()


class Failure(Exception):
    pass


@pytest.mark.parametrize("where", ["batches", "forward", "logits", "labels"])
def test_the_module_is_left_as_it_was_after_a_failure(where):
    module, names, rows = prepared()
    factors = factorise(module, names)
    if where == "forward":
        module[-1].register_forward_pre_hook(fail)
    before = state(module)

    def batches():
        yield rows
        if where == "batches":
            fail()
        yield rows[0], rows[1] + 5, rows[2]

    to_logits = fail if where == "logits" else identity
    with pytest.raises(ValueError if where == "labels" else Failure):
        group_curvature(module, factors, batches(), n_groups=2, to_logits=to_logits)
    assert_untouched(module, before)


def fail(*_):
    raise Failure


def test_per_sample_gradients_of_the_loss():
    module, names, (x, y, _) = make("residual")
    cotangents = module(x).detach().softmax(1) - nn.functional.one_hot(y, N_CLASSES)
    found = per_sample_gradients(module, names, x, cotangents, identity)
    for i in range(len(x)):
        module.zero_grad()
        nn.functional.cross_entropy(module(x[i : i + 1]), y[i : i + 1]).backward()
        for name in names:
            assert_close(found[name][i], module.get_submodule(name).weight.grad)


def attempt(**changes):
    module, names, (x, y, group) = make("mlp")
    arguments = {"module": module, "factors": factorise(module, names), "n_groups": 2}
    arguments |= {"to_logits": identity, "batches": [(x, y, group)], **changes}
    return group_curvature(**arguments)


TRIPLE = torch.zeros(1, 5, 2), torch.zeros(1, 2), torch.zeros(1, 6, 2)
X, CODES = torch.zeros(4, 6).double(), torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hessian": "exact"}, "hessian must be 'fisher' or 'ggn', got 'exact'"),
        ({"n_groups": 0}, "n_groups must be at least 1, got 0"),
        ({"max_memory": 0}, "max_memory must be positive, got 0"),
        ({"autocast": torch.float64}, "autocast must be torch.bfloat16.*got torch.float64"),
        ({"autocast": "bfloat16"}, "autocast must be torch.bfloat16.*got 'bfloat16'"),
        ({"factors": {"nothing": TRIPLE}}, "no layer 'nothing'"),
        ({"factors": {"1": TRIPLE}}, r"'1' is a ReLU.*nn.Linear, nn.Conv2d"),
        ({"factors": {"2": TRIPLE}}, r"factors\['2'\]: U, S, V must have the shapes"),
        ({"batches": [(X, CODES, CODES[:3])]}, "same length, got 4, 4 and 3"),
        ({"batches": [(X, CODES, CODES + 2)]}, "group codes must lie in"),
        ({"batches": [(X, CODES, CODES - 2)]}, "group codes must lie in"),
        ({"batches": [(X, CODES + 3, CODES)]}, "class codes in .0, 3.*from 3 to 3"),
        ({"batches": [(X, CODES - 1, CODES)]}, "class codes in .0, 3.*from -1 to -1"),
        ({"to_logits": lambda output: output[:, :1]}, "n_classes.*got shape"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        attempt(**changes)


def test_a_layer_that_never_runs_is_refused():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x):
            return self.used(x)

    module = Idle().double()
    with pytest.raises(ValueError, match=r"'idle'.* never ran"):
        attempt(module=module, factors=factorise(module, ["used", "idle"]))


def test_a_weight_that_is_computed_is_taken_where_the_layer_is_known():
    module = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    _, _, rows = make("mlp")
    wanted = curvature(module, factorise(module, ["0"]), [rows])
    nn.utils.parametrizations.weight_norm(module[0])
    assert not isinstance(module[0].weight, nn.Parameter)
    assert_same(curvature(module, factorise(module, ["0"]), [rows]), wanted)


def test_a_weight_that_is_computed_is_refused_elsewhere():
    module = nn.Sequential(Doubled(6, 3)).double()
    nn.utils.parametrizations.weight_norm(module[0])
    with pytest.raises(ValueError, match="without a floating-point parameter"):
        attempt(module=module, factors=factorise(module, ["0"]))


def test_a_computed_weight_without_one_input_a_row_is_refused():
    module = nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Flatten(0, 1), nn.Linear(3, 3))
    module = nn.Sequential(*module, nn.Unflatten(0, (-1, 2)), Mean()).double()
    attempt(module=module, factors=factorise(module, ["2"]))
    nn.utils.parametrizations.weight_norm(module[2])
    with pytest.raises(ValueError, match="first dimension must be the rows"):
        attempt(module=module, factors=factorise(module, ["2"]))


def test_an_input_that_changes_after_the_layer_is_refused():
    class Changing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 6).requires_grad_(False)

        def forward(self, x):
            x = x * 1.0
            out = self.layer(x)
            x += 1
            return out[:, :3] + x[:, :3]

    module = Changing().double()
    with pytest.raises(ValueError, match="changed in place"):
        attempt(module=module, factors=factorise(module, ["layer"]))
