"""Who does not use CUDA does not start it; its draws are seeded and restored where it runs."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from fairsvd._rng import seeded_globally

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

START = """
import multiprocessing, sys, torch, warnings
sys.path[:0] = sys.argv[1:]
from fairsvd._rng import seeded_globally
from fairsvd.exceptions import FairsvdWarning
from helpers import quick, skorch_net, table
warnings.simplefilter("error")
warnings.simplefilter("ignore", FairsvdWarning)
rows, nn = table(), torch.nn

def fit():
    net = skorch_net(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)))
    # Without a step of Adam, with which torch itself asks for the device.
    editor = quick(net, criterion="curvature", sparsity=0.1, refine=None)
    return editor.fit(rows.X, rows.y, sensitive_features=rows.group)
"""

ON_THE_CPU = """
# Of several devices fork_rng warns where it is not told which are meant.
n_devices, torch.cuda.device_count = torch.cuda.device_count, lambda: 4
fit()
assert not torch.cuda.is_initialized()
torch.cuda.device_count = n_devices
drawn = []
for _ in range(2):
    with seeded_globally(1, "cuda"):
        drawn.append(torch.randn(3, device="cuda"))
assert torch.equal(*drawn)
"""

# The parent has not run a backward pass: torch refuses one in a child of a process that has.
IN_A_CHILD = """
torch.zeros(1, device="cuda")
context = multiprocessing.get_context("fork")
queue = context.SimpleQueue()

def run():
    try:
        queue.put(fit().score(rows.X, rows.y))
    except BaseException as error:
        queue.put(repr(error))

child = context.Process(target=run)
child.start()
result = queue.get()
child.join()
assert isinstance(result, float), result
"""


@pytest.mark.parametrize("script", [ON_THE_CPU, IN_A_CHILD], ids=["alone", "in a forked child"])
def test_a_fit_on_the_cpu_leaves_cuda_alone(script):
    # In a process of its own: other tests have started the device in this one.
    command = [sys.executable, "-c", START + script, *sys.path]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_the_device_s_generator_is_seeded_and_restored():
    torch.cuda.manual_seed(3)
    wanted = torch.randn(3, device=DEVICE)
    torch.cuda.manual_seed(3)
    drawn = []
    for seed in (1, 1, 2):
        with seeded_globally(seed, DEVICE):
            drawn.append(torch.randn(3, device=DEVICE))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(torch.randn(3, device=DEVICE), wanted)
