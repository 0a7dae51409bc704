"""The simulated CUDA device behaves as a device: what it refuses, what it gives, what it counts."""

from __future__ import annotations

import copy
import io
import os
import pickle
import subprocess
import sys

import joblib
import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import simulated_cuda

pytestmark = pytest.mark.skipif(
    not simulated_cuda.installed(), reason="needs FAIRSVD_SIMULATED_CUDA=1 and no real device"
)


def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def here():
    return torch.randn(8, 6, generator=generator())


@pytest.fixture
def there(here):
    return here.to("cuda")


def test_a_tensor_there_is_plain_and_comes_back(here, there):
    assert type(there) is torch.Tensor
    assert (there.device, there.is_cuda) == (torch.device("cuda:0"), True)
    assert torch.equal(there.cpu(), here)
    assert there.to("cuda") is there
    assert there.cuda() is there


def test_views_share_memory(there):
    view = there[2:, 1:]
    assert view.storage_offset() == 13
    assert view.untyped_storage().data_ptr() == there.untyped_storage().data_ptr()
    view.zero_()
    assert float(there[2:, 1:].abs().sum()) == 0


def test_an_out_argument_grows(there):
    grown = torch.empty(0, device="cuda")
    torch.add(there, there, out=grown)
    assert torch.equal(grown, there + there)


def test_numbers_promote_nothing():
    ints = torch.arange(6, device="cuda")
    assert torch.equal((ints % 2).cpu(), torch.arange(6) % 2)
    assert (ints > 0.5).sum().item() == 5
    assert (ints + 0.5).dtype == torch.float32


REFUSED = {
    "a sum": (RuntimeError, "same device", lambda x, c: c + x),
    "a product": (RuntimeError, "same device", lambda x, c: c @ x.T),
    "a list": (RuntimeError, "same device", lambda x, c: torch.cat([c, x])),
    "an embedding": (RuntimeError, "same device", lambda x, c: F.embedding(torch.tensor([1]), c)),
    "an index there": (RuntimeError, "device", lambda x, c: x[torch.tensor([1]).cuda()]),
    "numpy": (TypeError, "can't convert cuda:0", lambda x, c: c.numpy()),
    "asarray": (TypeError, "can't convert cuda:0", lambda x, c: np.asarray(c)),
    "a generator": (
        RuntimeError,
        "found 'cpu'",
        lambda x, c: torch.randn(3, device="cuda", generator=generator()),
    ),
    "integers": (RuntimeError, "not implemented", lambda x, c: c.long() @ c.long().T),
    "no kernel": (NotImplementedError, "CUDA", lambda x, c: torch.histogram(c.flatten(), 4)),
    "a second device": (RuntimeError, "ordinal", lambda x, c: torch.zeros(1, device="cuda:1")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name, here, there):
    kind, text, call = REFUSED[name]
    with pytest.raises(kind, match=text):
        call(here, there)


ALLOWED = {
    "a number from the host": lambda c: c + torch.tensor(2.0),
    "an index from the host": lambda c: c[torch.tensor([1, 2])],
    "a mask": lambda c: c[c[:, 0] > 0],
    "a choice": lambda c: torch.where(c > 0, c, torch.tensor(0.0)),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_cuda_allows(name, here, there):
    made = ALLOWED[name](there)
    assert made.is_cuda
    assert torch.equal(made.cpu(), ALLOWED[name](here))


def network():
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.Conv2d(6, 6, 3, groups=6), nn.GELU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.LayerNorm(6), nn.Linear(6, 2)),
    )


def train(device, fused):
    X, y = torch.randn(16, 3, 8, 8, generator=generator()), torch.arange(16) % 2
    torch.manual_seed(0)
    module = network().to(device)
    optimizer = torch.optim.Adam(module.parameters(), fused=fused)
    with simulated_cuda.count() as counts:
        for _ in range(5):
            optimizer.zero_grad()
            F.cross_entropy(module(X.to(device)), y.to(device)).backward()
            optimizer.step()
    return module, counts


@pytest.mark.parametrize("fused", [False, True])
def test_training_gives_what_the_cpu_gives(fused):
    here, _ = train("cpu", fused)
    there, counts = train("cuda", fused)
    for name, value in here.state_dict().items():
        found = there.state_dict()[name]
        assert found.is_cuda
        torch.testing.assert_close(found.cpu(), value, rtol=1e-3, atol=1e-4)
    assert (counts.total["h2d"], counts.total["d2h"], counts.total["sync"]) == (10, 0, 10)
    assert counts.total["launch"] > 100


def test_copies_of_a_module_stay_there():
    module = network().cuda()
    for again in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert all(parameter.is_cuda for parameter in again.parameters())
        assert again[0].weight.data_ptr() != module[0].weight.data_ptr()
    file = io.BytesIO()
    joblib.dump(module, file)
    file.seek(0)
    assert torch.equal(joblib.load(file)[0].weight, module[0].weight)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    assert not any(value.is_cuda for value in torch.load(file, map_location="cpu").values())


def test_attention():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).cuda()
    z = torch.randn(2, 5, 8, device="cuda")
    layer(z).sum().backward()
    with torch.no_grad():
        assert layer.eval()(z).is_cuda
    q = torch.randn(2, 2, 5, 4, device="cuda", requires_grad=True)
    F.scaled_dot_product_attention(q, q, q).sum().backward()
    assert q.grad.is_cuda


def test_functions_of_modules(there):
    linear = nn.Linear(6, 2).cuda()

    def loss(parameters, row):
        return functional_call(linear, parameters, (row[None],)).logsumexp(1).sum()

    found = vmap(grad(loss), in_dims=(None, 0))(dict(linear.named_parameters()), there)
    assert found["weight"].is_cuda
    assert found["weight"].shape == (8, 2, 6)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert linear(there).dtype == torch.bfloat16


def test_generators_are_the_device_s_own():
    torch.manual_seed(1)
    first = torch.randn(3, device="cuda")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        assert torch.equal(torch.randn(3, device="cuda"), first)
    own = torch.randn(3, device="cuda", generator=torch.Generator("cuda").manual_seed(3)).cpu()
    assert not torch.equal(own, torch.randn(3, generator=torch.Generator().manual_seed(3)))
    assert isinstance(torch.default_generator, torch.Generator)


def test_counts_by_kind_size_and_line(here):
    with simulated_cuda.count() as counts:
        there = here.cuda()
        float(there.sum()), there.nonzero(), there.cpu()
    assert counts.total == {"h2d": 1, "sync": 4, "launch": 2, "d2h": 2}
    assert counts.bytes["h2d"] == here.nbytes
    assert {line.rpartition(":")[0] for _, _, line in counts.where} == {__file__}


@pytest.mark.parametrize("change", [False, True])
def test_pinned_memory_that_changes_under_its_copy_is_a_race(change, here):
    pinned = here.pin_memory()
    assert pinned.is_pinned()
    assert not here.is_pinned()
    with simulated_cuda.count() as counts:
        there = pinned.to("cuda", non_blocking=True)
        if change:
            pinned.zero_()
        there.sum().item()
    assert counts.total["race"] == change


def test_a_data_loader_pins():
    batches = DataLoader(TensorDataset(torch.zeros(8, 6)), batch_size=3, pin_memory=True)
    assert all(rows.is_pinned() for (rows,) in batches)


def test_a_fork_is_refused():
    torch.zeros(1, device="cuda")
    read, write = os.pipe()
    if os.fork() == 0:
        try:
            torch.zeros(1, device="cuda")
        except RuntimeError as error:
            os.write(write, str(error).encode())
        os._exit(0)
    os.wait()
    assert b"forked subprocess" in os.read(read, 1000)


def test_a_process_that_is_started_afresh_has_the_device_too():
    code = "import torch; print(torch.zeros(1, device='cuda').device)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "cuda:0"


def test_another_torch_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.14.1+cpu")
    assert simulated_cuda.why_not() == ("it knows the C++ tables of torch 2.13, this is 2.14.1+cpu")
