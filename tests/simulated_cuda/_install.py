"""Put the device in place, here and in the processes that this one starts."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import torch

from . import _operators, _process, _tables, _torch_cuda

# The release whose C++ tables are known.
TORCH = "2.13"

# These look once whether there is a device, which has to be before there is one.
ASK_ONCE = ("torch._dynamo", "torch._inductor.utils", "torch.cuda.amp.common")


def why_not() -> str | None:
    """Say why the device cannot be simulated here, or return None where it can."""
    if torch.version.cuda is not None:
        return "this torch is built for CUDA itself"
    if sys.platform != "linux":
        return f"it is for Linux, this is {sys.platform}"
    if not torch.__version__.startswith(TORCH + "."):
        return f"it knows the C++ tables of torch {TORCH}, this is {torch.__version__}"
    return None


def installed() -> bool:
    """Tell whether the device of this process is the simulated one."""
    return _process.is_owned()


def install() -> None:
    """Put the device in place for the life of this process and of those it starts afresh.

    Raises
    ------
    RuntimeError
        It cannot be simulated here.
    """
    if installed():
        return
    reason = why_not()
    if reason is not None:
        raise RuntimeError(f"CUDA cannot be simulated: {reason}.")
    for name in ASK_ONCE:
        import_module(name)
    _process.own()
    _tables.write()
    if str(torch._C._get_accelerator()) != "cuda":
        raise RuntimeError(f"CUDA cannot be simulated: torch {torch.__version__} did not take it.")
    _operators.register()
    _torch_cuda.patch()
    _install_in_children()


def _install_in_children() -> None:
    """Leave a module of the name sitecustomize, which Python imports before anything else."""
    folder = Path(tempfile.mkdtemp(prefix="simulated_cuda_"))
    atexit.register(_remove, folder)
    parent = str(Path(__file__).resolve().parents[1])
    lines = [
        "import sys",
        f"sys.path.append({parent!r})",
        "import simulated_cuda",
        "simulated_cuda.install()",
    ]
    (folder / "sitecustomize.py").write_text("\n".join(lines) + "\n", encoding="utf-8")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), before]))


def _remove(folder: Path) -> None:
    if not _process.is_forked():
        shutil.rmtree(folder, ignore_errors=True)
