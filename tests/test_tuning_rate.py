"""How fast an edit is tuned: a rate that the network can bear."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairsvd.base._phase_steps import MAX_MOVE, TUNING_RATE, _steady_rate

X = torch.linspace(-1, 1, 40, dtype=torch.float64)[:, None]


def rate_of(logits, tensors):
    """The rate for leaves that make logits by a function of the rows."""
    data = SimpleNamespace(forward=lambda module, state, rows: logits(rows, *state))
    path = SimpleNamespace(data=data, module=None)
    edited = SimpleNamespace(state=lambda: tensors)
    batch = SimpleNamespace(X=X)
    return _steady_rate(
        path,
        lambda b: logits(b.X, *tensors)[:, 1].sum(),
        tensors,
        lambda: edited,
        batch,
        TUNING_RATE,
    )


def slope(rows, value):
    """Logits of two classes whose margin is the value everywhere, and opposite in sign."""
    margin = value.expand(len(rows))
    return torch.stack([-margin / 2, margin / 2], dim=1)


@given(steepness=st.floats(1e-3, 1e4), start=st.floats(-3, 3))
def test_the_first_step_moves_margins_by_no_more_than_the_limit(steepness, start):
    value = torch.tensor([start], dtype=torch.float64, requires_grad=True)

    def logits(rows, leaf):
        return slope(rows, steepness * leaf)

    rate = rate_of(logits, [value])
    assert rate * steepness <= MAX_MOVE * (1 + 1e-6)
    # And by no less than it may: the usual rate, or the limit.
    assert rate == TUNING_RATE or rate * steepness == pytest.approx(MAX_MOVE, rel=1e-6)
    assert value.item() == start
    assert value.grad is None


def test_the_move_is_measured_over_rows_classes_and_leaves():
    """Against the margins of each row, written out."""
    weight = torch.tensor([[3.0, -1.0, 0.5]], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    unused = torch.ones(2, dtype=torch.float64, requires_grad=True)

    def logits(rows, w, b, _):
        return 40 * (rows @ w + b)

    # The gradient of the second logit's sum: over rows that cancel in X the weight's is zero or
    # nearly so, and its sign decides; so measure what the leaves would do, by hand.
    grads = torch.autograd.grad(logits(X, weight, bias, unused)[:, 1].sum(), [weight, bias])
    moved = [t - TUNING_RATE * g.sign() for t, g in zip((weight, bias), grads, strict=True)]
    change = (logits(X, *moved, unused) - logits(X, weight, bias, unused)).detach()
    move = math.sqrt(sum((max(row) - min(row)) ** 2 for row in change.tolist()) / len(X))
    assert move > MAX_MOVE
    found = rate_of(logits, [weight, bias, unused])
    assert found == pytest.approx(TUNING_RATE * MAX_MOVE / move)
    assert unused.tolist() == [1, 1]


def test_a_step_into_the_infinite_is_too_long():
    value = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    assert rate_of(lambda rows, leaf: slope(rows, (1 - leaf).log()), [value]) < TUNING_RATE
