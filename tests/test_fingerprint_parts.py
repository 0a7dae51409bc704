"""Whatever a result may depend on is part of its fingerprint: pairs that differ in one thing."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn

from fairsvd.arrays import as_batches
from fairsvd.caching import fingerprint
from helpers import mlp


def double(layer, inputs):
    return (2 * inputs[0],)


def triple(layer, inputs):
    return (3 * inputs[0],)


def with_pre_hook(hook):
    module = mlp()
    module[2].register_forward_pre_hook(hook)
    return module


def with_hook(factor):
    module = mlp()
    module[2].register_forward_hook(lambda layer, inputs, output: factor * output)
    return module


def shared_layer(last):
    """Two layers without weights, one of which comes a second time."""
    layers = nn.ReLU(), nn.Tanh()
    return nn.Sequential(*layers, layers[last])


def power(x, exponent=2):
    return x**exponent


def cube(x, exponent=3):
    return x**exponent


cube.__qualname__ = power.__qualname__


def kept(x, *, exponent=2):
    return x**exponent


def kept_cube(x, *, exponent=3):
    return x**exponent


kept_cube.__qualname__ = kept.__qualname__


class Scale:
    """Holds a number and has two methods."""

    def __init__(self, factor):
        self.factor = factor

    def up(self, x):
        return x * self.factor

    def down(self, x):
        return x / self.factor


def numbered(body):
    """A function of one name, whatever it computes."""
    body.__qualname__ = body.__name__ = "numbered"
    return body


def with_property(value):
    class Holder:
        @property
        def rate(self):
            return value

    Holder.__qualname__ = "Holder"
    return Holder


def with_static(value):
    class Holder:
        @staticmethod
        def rate():
            return value

    Holder.__qualname__ = "Holder"
    return Holder


def derived(value):
    """A class of which only the parent differs."""

    class Parent:
        def rate(self):
            return value

    class Child(Parent):
        pass

    Parent.__qualname__, Child.__qualname__ = "Parent", "Child"
    return Child


def with_class_attribute(value):
    class Holder:
        rate = value

    Holder.__qualname__ = "Holder"
    return Holder


def normalised(eps):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, eps=eps))


def counted(value):
    """A network of which a buffer alone differs."""
    module = normalised(1e-5)
    module[1].running_mean.fill_(value)
    return module


def bent(slope):
    """A layer of the library that says of itself what it does in words only."""
    return nn.Sequential(nn.LeakyReLU(slope))


class Own(nn.Module):
    """Keeps what it computes with in a plain attribute."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps


class Other(nn.Module):
    """Has no parameters either."""


class Another(nn.Module):
    """Nor has this one."""


DIFFERING = {
    "a hook before a layer": (mlp, lambda: with_pre_hook(double)),
    "another hook before a layer": (lambda: with_pre_hook(double), lambda: with_pre_hook(triple)),
    "a hook after a layer": (lambda: with_hook(2), lambda: with_hook(3)),
    "which layer comes twice": (lambda: shared_layer(0), lambda: shared_layer(1)),
    "a buffer": (lambda: counted(0.0), lambda: counted(0.5)),
    "what a layer says of itself": (lambda: normalised(1e-5), lambda: normalised(1e-3)),
    "a slope": (lambda: bent(0.1), lambda: bent(0.2)),
    "an attribute of a network's own": (lambda: Own(1), lambda: Own(2)),
    "the class of a part": (lambda: nn.Sequential(Other()), lambda: nn.Sequential(Another())),
    "the name of a part": (
        lambda: nn.ModuleDict({"a": nn.ReLU()}),
        lambda: nn.ModuleDict({"b": nn.ReLU()}),
    ),
    "types of arrays of equal bytes": (
        lambda: np.zeros(4, dtype=np.int32),
        lambda: np.zeros(4, dtype=np.float32),
    ),
    "types of tensors of equal bytes": (
        lambda: torch.zeros(4, dtype=torch.int32),
        lambda: torch.zeros(4, dtype=torch.float32),
    ),
    "shapes of arrays": (lambda: np.zeros((2, 3)), lambda: np.zeros((3, 2))),
    "shapes of tensors": (lambda: torch.zeros(2, 3), lambda: torch.zeros(3, 2)),
    "places in a list": (lambda: [1, 2], lambda: [2, 1]),
    "lengths of neighbours": (lambda: ([1, 2], [3]), lambda: ([1], [2, 3])),
    "keys": (lambda: {"a": 1}, lambda: {"b": 1}),
    "members of a set": (lambda: {"a", "b"}, lambda: {"a", "c"}),
    "a default": (lambda: power, lambda: cube),
    "a default of a named argument": (lambda: kept, lambda: kept_cube),
    "a number inside a function": (
        lambda: numbered(lambda x: x + 1000),
        lambda: numbered(lambda x: x + 2000),
    ),
    "a name inside a function": (
        lambda: numbered(lambda x: x.real),
        lambda: numbered(lambda x: x.imag),
    ),
    "an operator inside a function": (
        lambda: numbered(lambda x: x + 1000),
        lambda: numbered(lambda x: x - 1000),
    ),
    "a name given to a partial": (
        lambda: functools.partial(power, exponent=2),
        lambda: functools.partial(power, exponent=3),
    ),
    "the function of a partial": (
        lambda: functools.partial(min, 1),
        lambda: functools.partial(max, 1),
    ),
    "whose method": (lambda: Scale(2).up, lambda: Scale(3).up),
    "which method": (lambda: Scale(2).up, lambda: Scale(2).down),
    "a property": (lambda: with_property(1), lambda: with_property(2)),
    "a static method": (lambda: with_static(1), lambda: with_static(2)),
    "a class attribute": (lambda: with_class_attribute(1), lambda: with_class_attribute(2)),
    "a parent's method": (lambda: derived(1), lambda: derived(2)),
    "a generator of torch": (
        lambda: torch.Generator().manual_seed(1),
        lambda: torch.Generator().manual_seed(2),
    ),
    "draws taken from a generator of torch": (
        lambda: torch.Generator().manual_seed(1),
        lambda: (generator := torch.Generator().manual_seed(1), torch.rand(1, generator=generator))[
            0
        ],
    ),
    "draws taken from a generator": (
        lambda: np.random.RandomState(0),
        lambda: (state := np.random.RandomState(0), state.rand())[0],
    ),
}


@pytest.mark.parametrize("name", DIFFERING)
def test_it_is_part_of_the_fingerprint(name):
    first, second = DIFFERING[name]
    assert fingerprint(first()) == fingerprint(first())
    assert fingerprint(second()) == fingerprint(second())
    assert fingerprint(first()) != fingerprint(second())


def test_the_order_in_which_a_set_grew_is_none_of_it():
    """0, 8, 16 and 24 share a place in the table of a small set: the first to come stands first."""
    first, second = set(range(0, 32, 8)), set(range(24, -1, -8))
    assert first == second and list(first) != list(second)
    assert fingerprint(first) == fingerprint(second)
    assert fingerprint({"rows": first}) == fingerprint({"rows": second})


@pytest.mark.parametrize("n_rows", [8192, 8193, 20000])
@pytest.mark.parametrize("row", [0, 8191, -1])
def test_every_row_counts_in_however_many_blocks_it_is_read(n_rows, row):
    X = np.random.default_rng(0).normal(size=(n_rows, 2)).astype(np.float32)
    key = fingerprint(as_batches(X))
    assert fingerprint(as_batches(torch.tensor(X))) == key
    changed = X.copy()
    changed[row, 1] += 1
    assert fingerprint(as_batches(changed)) != key
    assert fingerprint(as_batches(torch.tensor(changed))) != key
    assert fingerprint(as_batches(X).subset(np.arange(n_rows - 1))) != key


def test_layers_that_share_a_weight_are_told_from_layers_with_equal_ones():
    def network(shared):
        torch.manual_seed(0)
        first, second = nn.Linear(3, 3), nn.Linear(3, 3)
        second.load_state_dict(first.state_dict())
        if shared:
            second.weight = first.weight
        return nn.Sequential(first, nn.ReLU(), second)

    with torch.random.fork_rng():
        tied, again, equal = (fingerprint(network(shared)) for shared in (True, True, False))
    assert tied == again
    assert tied != equal
