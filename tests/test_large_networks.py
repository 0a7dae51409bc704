"""What is done to hold fewer copies of a large network's weights changes no bit of a result."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
import torch
from torch import nn

import fairsvd.phases
from editors import CONFIGURATIONS, make
from fairsvd.layers import factorise, full_rank
from fairsvd.low_rank._factor_edit import keep_all
from fairsvd.low_rank._rebuild import masked_product
from fairsvd.masks import mask_variables, packed
from fairsvd.training import FactoredRMS, tune
from helpers import IGNORE_SMALL_DATA, fingerprint, mlp, table, trained

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]

ROWS = table(60)
NETWORK = trained(mlp(), ROWS)


def outcome(name):
    editor = make(name, NETWORK).fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    return fingerprint(editor.module_), editor.history_.to_json(), editor.threshold_


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_weights_updated_one_by_one_get_the_same_bits(name, monkeypatch):
    wanted = outcome(name)
    monkeypatch.setattr("fairsvd.training._tune.LARGE_BYTES", 0)
    assert outcome(name) == wanted


MASKED = {
    "teacher": {"objective": "teacher", "gap_weight": None},
    "teacher, capped": {"objective": "teacher", "gap_weight": None, "sparsity": 0.02},
    "soft gap": {"objective": "soft_gap", "gap_weight": 1.0},
    "soft gap, budget": {"objective": "soft_gap", "max_epochs": 6, "sparsity": 0.1},
}


def masked(name, settings):
    editor = make(name, NETWORK, max_steps=6, random_state=0, **settings)
    editor.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    masks = [array.tobytes() for _, array in sorted(flat(editor.masks_))]
    return fingerprint(editor.module_), editor.history_.to_json(), editor.threshold_, masks


def flat(masks):
    for name, value in masks.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        yield from ((f"{name}/{side}", array) for side, array in inner)


@pytest.mark.parametrize("name", ["FairLRFTransformer", "FairPruner"])
@pytest.mark.parametrize("settings", MASKED)
def test_masks_kept_as_bits_give_the_same_bits(name, settings, monkeypatch):
    wanted = masked(name, MASKED[settings])
    monkeypatch.setattr("fairsvd.masks._packed.FEW_ENTRIES", 0)
    assert masked(name, MASKED[settings]) == wanted


@pytest.mark.parametrize("shape", [(1,), (7,), (8,), (3, 5), (2, 4, 9)])
def test_a_packed_mask_is_an_eighth_and_comes_back(shape, monkeypatch):
    monkeypatch.setattr("fairsvd.masks._packed.FEW_ENTRIES", 0)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) > 0.5
    kept = packed({"a": mask, "b": ~mask})
    assert list(kept) == ["a", "b"]
    assert torch.equal(kept["a"], mask)
    assert torch.equal(kept["b"], ~mask)
    assert kept.bits["a"].nbytes == -(-mask.numel() // 8)


def test_a_vast_network_of_a_table_is_taught_by_a_small_one(monkeypatch):
    taught = []
    found = fairsvd.phases.train_cells

    def noted(*args):
        networks = found(*args)
        taught.extend(type(network.network).__name__ for network in networks)
        return networks

    monkeypatch.setattr("fairsvd.phases._teacher.train_cells", noted)
    masked("FairLRFTransformer", MASKED["teacher"])
    assert set(taught) == {"Sequential"}
    taught.clear()
    monkeypatch.setattr("fairsvd.phases._cells.VAST_BYTES", 0)
    masked("FairLRFTransformer", MASKED["teacher"])
    assert set(taught) == {"MLP"}


def fit(network, **settings):
    editor = make("GapFineTuner", network, objective="soft_gap", **settings)
    return editor.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)


@pytest.mark.parametrize("interrupt", ["raise", "keep"])
def test_the_fitted_network_has_weights_of_its_own(interrupt):
    before = fingerprint(NETWORK)
    fitted = fit(NETWORK, on_interrupt=interrupt)
    with torch.no_grad():
        for parameter in fitted.module_.parameters():
            parameter.fill_(7.0)
    assert fingerprint(NETWORK) == before


class Shrinking(nn.Sequential):
    """Changes its own weights in every pass, behind the back of torch's version counters."""

    def forward(self, X):
        for parameter in self.parameters():
            parameter.data.mul_(0.999)
        return super().forward(X)


def test_a_network_that_changes_its_own_weights_keeps_them():
    network = Shrinking(*mlp())
    before = fingerprint(network)
    fit(network)
    assert fingerprint(network) == before


def test_gradients_that_a_network_came_with_are_neither_copied_nor_taken():
    network = mlp()
    network(torch.ones(3, 6)).sum().backward()
    before = fingerprint(network)
    fitted = fit(network)
    assert all(parameter.grad is None for parameter in fitted.module_.parameters())
    assert fingerprint(network) == before


# The size of the layer occurs nowhere else, so that its copies are told by it.
WIDTH, OUT = 47, 43


def count_copies():
    """Count the distinct memories of tensors as large as the layer's weight, made since freeze."""
    found = set()
    for value in gc.get_objects():
        if issubclass(type(value), torch.Tensor):
            for each in (value, value.grad if value.is_leaf else None):
                if each is not None and each.is_floating_point() and each.numel() == WIDTH * OUT:
                    found.add(each.data_ptr())
    return len(found)


class Watched(nn.Sequential):
    """Counts copies in every pass; all copies of the network share the note."""

    most = 0

    def forward(self, X):
        Watched.most = max(Watched.most, count_copies())
        return super().forward(X)


@pytest.fixture
def counted(monkeypatch):
    """Count in every pass, and before every update, beside which the gradients are held."""
    for kind in (torch.optim.Adam, torch.optim.SGD):
        step = kind.step

        def counted_step(self, *args, step=step, **kwargs):
            Watched.most = max(Watched.most, count_copies())
            return step(self, *args, **kwargs)

        monkeypatch.setattr(kind, "step", counted_step)
    gc.collect()
    gc.freeze()
    Watched.most = 0
    yield
    gc.unfreeze()


# Copies of the weight beside the user's own. To tune it takes four (the weight, its gradient and
# two moments); the best so far and the start of the next phase may be one each. A teacher has two
# networks of the same architecture.
MOST = {
    "AdversarialDebiasing": 5,
    "AdversarialFineTuner": 5,
    "BMFT": 5,
    "FairPruner, curvature": 3,
    "GapFineTuner": 6,
    "LayerwiseOptimizer": 1,
    "RandomPerturbation": 5,
}


def fit_watched(name):
    """Count the copies of the weight beside the user's own that a fit holds at its peak."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(6, WIDTH), nn.ReLU(), nn.Linear(WIDTH, OUT), nn.ReLU()]
        network = Watched(*layers, nn.Linear(OUT, 2))
    settings = {"objective": "soft_gap", "max_steps": 8} if name == "GapFineTuner" else {}
    make(name, network, **settings).fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    return Watched.most - 1


@pytest.mark.parametrize("name", MOST)
def test_a_fit_holds_few_copies_of_a_large_weight(name, counted):
    assert 1 <= fit_watched(name) <= MOST[name]


@pytest.mark.parametrize("name", ["AdversarialDebiasing", "AdversarialFineTuner", "GapFineTuner"])
def test_of_vast_networks_the_second_moment_is_no_copy(name, counted, monkeypatch):
    monkeypatch.setattr("fairsvd.training._tune.VAST_BYTES", 0)
    monkeypatch.setattr("fairsvd.training._tune.MATRIX_BYTES", WIDTH * OUT)
    assert 1 <= fit_watched(name) <= MOST[name] - 1


VAST = {
    "teacher": MASKED["teacher"],
    "teacher, capped": MASKED["teacher, capped"],
    "soft gap": MASKED["soft gap"],
}


@pytest.mark.parametrize("settings", VAST)
def test_masks_of_vast_factors_are_learned_in_half_precision(settings, monkeypatch):
    kinds = []
    made = fairsvd.masks.MaskVariables

    def noted(blocks):
        kinds.extend((block.leaf.dtype, block.leaf.ndim, len(block.shapes)) for block in blocks)
        return made(blocks)

    monkeypatch.setattr("fairsvd.masks._variables.MaskVariables", noted)
    masked("FairLRFTransformer", VAST[settings])
    assert {kind[:2] for kind in kinds} == {(torch.float32, 1)}
    kinds.clear()
    monkeypatch.setattr("fairsvd.low_rank._factor_edit.VAST_BYTES", 0)
    found = masked("FairLRFTransformer", VAST[settings])
    assert set(kinds) == {(torch.bfloat16, 2, 2)}
    assert found == masked("FairLRFTransformer", VAST[settings])


def test_the_gradients_of_lean_variables_are_those_of_others(monkeypatch):
    monkeypatch.setattr("fairsvd.low_rank._rebuild.COLUMNS", 3)
    layers = {"0": nn.Linear(9, 7), "2": nn.Linear(7, 5)}
    factors = {name: factorise(layer, full_rank(layer)) for name, layer in layers.items()}
    factors = {n: replace(f, S=f.S.requires_grad_(), parameter=n) for n, f in factors.items()}
    edit = keep_all(factors, compress=False)
    found = []
    for lean in (False, True):
        variables = mask_variables(edit.units(), lean=lean)
        drawn = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for value in variables.by_name().values():
                value.copy_(torch.rand(value.shape, generator=drawn) - 0.3)
        state = edit.masked_state(variables)
        loss = sum(
            (w * torch.arange(w.numel()).reshape(w.shape)).square().sum() for w in state.values()
        )
        of_values = torch.autograd.grad(loss, [f.S for f in factors.values()], retain_graph=True)
        leaves = torch.autograd.grad(loss, variables.leaves)
        blocks = zip(variables.blocks, leaves, strict=True)
        named = {n: v.float() for block, leaf in blocks for n, v in block.cut(leaf).items()}
        found.append((state, of_values, named))
    (state, of_values, named), (other, values, near) = found
    torch.testing.assert_close(other, state, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(values, of_values, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(near, named, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("shape", [(600, 6), (600, 2, 3)])
def test_a_factored_step_is_that_of_adam_where_squares_are_a_product(shape, momentum):
    """Of gradients whose squares are a row times a column the second moment is known exactly."""
    generator = torch.Generator().manual_seed(0)
    start = torch.rand(shape, generator=generator)
    size = torch.rand(600, 1, generator=generator) * torch.rand(1, 6, generator=generator)
    signs = [torch.randn(600, 6, generator=generator).sign() for _ in range(6)]
    ends = []
    for make_ in (
        lambda p: torch.optim.Adam([p], lr=0.1, betas=(momentum, 0.999)),
        lambda p: FactoredRMS([p], lr=0.1, momentum=momentum),
    ):
        parameter = start.clone().requires_grad_()
        optimizer = make_(parameter)
        for factor, sign in enumerate(signs, start=1):
            parameter.grad = (factor * size * sign).view(shape)
            optimizer.step()
        ends.append(parameter.detach())
        held = [
            value.numel()
            for value in optimizer.state[parameter].values()
            if hasattr(value, "numel")
        ]
    torch.testing.assert_close(*ends, rtol=0, atol=1e-4)
    assert (ends[0] - start).abs().mean() > 0.05
    assert sum(held) == 606 + (3600 if momentum else 0)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_large_matrices_among_many_parameters_are_moved_by_a_factored_moment(
    weight_decay, monkeypatch
):
    """Where the second moment is no product the step differs; small tensors keep Adam's bits."""
    ends = []
    for bytes_ in (2**26, 0):
        monkeypatch.setattr("fairsvd.training._tune.VAST_BYTES", bytes_)
        monkeypatch.setattr("fairsvd.training._tune.MATRIX_BYTES", 40)
        generator = torch.Generator().manual_seed(0)
        shapes = [(5, 4), (5, 2), (60,)]  # 80 and 40 bytes, and no matrix
        leaves = [torch.rand(shape, generator=generator).requires_grad_() for shape in shapes]
        batches = [torch.rand(60, generator=generator) for _ in range(4)]

        def loss(batch, leaves=leaves):
            return sum((leaf.flatten() * batch[: leaf.numel()]).sum().square() for leaf in leaves)

        settings = {"learning_rate": 0.1, "every": 4, "weight_decay": weight_decay}
        assert list(tune(loss, leaves, batches, n_steps=4, **settings)) == [4]
        ends.append([leaf.detach() for leaf in leaves])
    (wide, small, vector), found = ends
    assert torch.equal(found[1], small)
    assert torch.equal(found[2], vector)
    assert torch.equal(found[0], wide) == bool(weight_decay)


def test_large_layers_with_fixed_masks_are_multiplied_in_parts(monkeypatch):
    monkeypatch.setattr("fairsvd.low_rank._rebuild.COLUMNS", 3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        f = factorise(nn.Linear(9, 7), 7)
    f = replace(f, S=f.S.clone().requires_grad_())
    generator = torch.Generator().manual_seed(0)
    keep = [torch.rand(side.shape, generator=generator) > 0.3 for side in (f.U, f.V)]
    found = []
    for entries in (63, 62):
        monkeypatch.setattr("fairsvd.low_rank._rebuild.LARGE", entries)
        product = masked_product(f, *keep)
        weigh = torch.arange(63.0).view(7, 9)
        found.append([product.detach(), *torch.autograd.grad((product * weigh).sum(), f.S)])
    whole, parts = found
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(whole[0], f.masked(*keep).weight().detach())
    assert any(not torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_large_matrices_are_decomposed_in_single_precision(monkeypatch):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = nn.Linear(96, 80)
    whole = factorise(layer, 80)
    monkeypatch.setattr("fairsvd.layers._factors.LARGE", 80 * 96 - 1)
    found = factorise(layer, 80)
    assert not torch.equal(found.S, whole.S)
    assert found.U.dtype == found.V.dtype == torch.float32
    torch.testing.assert_close(found.S, whole.S, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.weight(), layer.weight.detach(), rtol=0, atol=3e-6)
    wide = factorise(layer.double(), 80)
    torch.testing.assert_close(wide.weight(), layer.weight.detach(), rtol=0, atol=1e-14)
