"""A CUDA device that is not there, so that what is written for one runs on a machine without.

``FAIRSVD_SIMULATED_CUDA=1 python -m pytest tests/test_cuda.py`` puts it in place before any test
is collected (tests/conftest.py); ``install()`` does so in a program. Where torch finds a real
device, or knows how to talk to one, nothing is simulated.

What it is: a tensor "on cuda:0" is a plain ``torch.Tensor`` whose device says cuda and whose memory
is the host's. A CPU build of torch has no kernels for CUDA, hence a fallback runs every operator on
aliases of its tensors that say cpu (_operators.py), after it refused what CUDA refuses: operands on
two devices, a CPU generator, an operator or an integer product without a kernel, any use after a
fork. Autograd, autocast, ``torch.func``, views, ``deepcopy`` and pickle are torch's own code.

What it counts (_counts.py)::

    with simulated_cuda.count() as counts:
        editor.fit(X, y)
    counts.total["sync"]  # the host waited for the device
    counts.total["launch"]  # operators that start a kernel
    counts.total["h2d"]  # copies from the host to the device; "d2h" the other way
    counts.bytes["h2d"]
    counts.where  # how often by (kind, operator, "file:line")
    counts.total["race"]  # pinned memory was changed before its asynchronous copy was waited for

What it is not: numbers of a GPU (TF32, atomics), its speed or its memory, streams, graphs, the
recurrent layers of cuDNN, a second device. Copies to the host count as waited for, also those with
``non_blocking=True``. Waiting operators are known from a list.

It writes to tables of torch's C++ library whose layout is that of torch 2.13: a process of its own.
"""

from __future__ import annotations

from ._counts import Counts, count
from ._install import install, installed, why_not

__all__ = ["Counts", "count", "install", "installed", "why_not"]
