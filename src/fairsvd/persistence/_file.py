"""Save a fitted estimator to a file, and load it, without pickle."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np
import sklearn
import skorch
import torch
from torch import Tensor

from .. import __version__
from .._files import write_atomically
from ..exceptions import DamagedModelError, ModelFileError, UntrustedError
from ._arguments import (
    as_key,
    as_list,
    as_module,
    as_path,
    bytes_of,
    check_estimator,
    check_place,
    holds_own,
    lent_classes,
)
from ._arrays import ARRAYS
from ._envelope import seal, unseal, without_repeats
from ._frames import FRAMES
from ._graphs import GRAPHS, with_graphs
from ._kind import Node, Reader, Writer, bytes_as_tensor
from ._modules import MODULES
from ._names import Names
from ._nets import NETS
from ._objects import OBJECTS
from ._plain import PLAIN
from ._steps import STEPS
from ._tensors import TENSORS

__all__ = ["load", "save"]

PathLike: TypeAlias = str | os.PathLike[str]

# In the order in which they are asked whether a value is theirs.
KINDS = (*PLAIN, *ARRAYS, *FRAMES, *TENSORS, *GRAPHS, *MODULES, *NETS, *OBJECTS, *STEPS)

# Name of the JSON text among the tensors, whose names are checksums.
TEXT = "estimator.json"


def save(
    estimator: Any,
    path: PathLike,
    *,
    key: str | bytes | None = None,
    overwrite: bool = False,
    onnx: bool = False,
) -> None:
    """Save a fitted estimator to one file, without pickle.

    The file holds everything that :func:`load` needs to make an equal estimator: parameters,
    networks, thresholds, classes, groups, history and report. It is a safetensors file, with the
    objects as JSON, versions, and a SHA-256 of each part and of the whole. It is written whole or
    not at all.

    Parameters
    ----------
    estimator : estimator
        Fitted: an editor of this package, a :class:`CellSampler`, a :class:`HyperGenerator` or
        another generator, or a Pipeline with one of these. scikit-learn's own steps are saved
        through skops (``pip install fairsvd[pipelines]``).
    path : str or path
        The file, in a folder that exists. "~" is the home folder.
    key : str or bytes, optional
        Secret that :func:`load` has to be given, too. The checksum then proves that the file comes
        from someone who knows it (HMAC-SHA-256). Without a key it tells damage only.
    overwrite : bool, default=False
        Whether a file that stands there may be replaced.
    onnx : bool, default=False
        Whether the networks of editors are stored as ONNX graphs, too. ``load(network="onnx")``
        then predicts without the code of the network (``pip install fairsvd[onnx]``).

    Raises
    ------
    ModelFileError
        A parameter, an attribute or a step cannot be saved; the message names it.
    FileExistsError
        There is such a file and ``overwrite`` is False.
    NotFittedError
        The estimator was not fitted.

    See Also
    --------
    load : The way back.

    Notes
    -----
    The file holds rows of the data: up to 32 rows of X in each editor, on which exports are
    checked, and all rows in the generators that draw from them. The code of a network of your own
    class is not saved, nor are hooks; see ``network=`` and ``trusted=`` of :func:`load`. A
    ``joblib.Memory`` comes back as the path of its folder. Optimizers of a skorch net start anew
    from the learning rates that were reached.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import torch
    >>> import fairsvd
    >>> from fairsvd.datasets import make_biased_classification
    >>> data = make_biased_classification(600, random_state=0)
    >>> network = fairsvd.MLP(10, 2, generator=torch.Generator().manual_seed(0))
    >>> editor = fairsvd.GapFineTuner(network, max_steps=5, tolerance=1.0, random_state=0)
    >>> editor = editor.fit(data.data, data.target, sensitive_features=data.sensitive_features)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fairsvd.save(editor, Path(folder) / "editor.safetensors")
    ...     again = fairsvd.load(Path(folder) / "editor.safetensors")
    >>> bool((again.predict_proba(data.data) == editor.predict_proba(data.data)).all())
    True
    """
    check_estimator(estimator)
    path = as_path(path)
    check_place(path, overwrite)
    writer = Writer(KINDS, graphs=onnx)
    text = {"estimator": writer.node(estimator, type(estimator).__name__), "versions": _versions()}
    parts = {**writer.parts, TEXT: bytes_as_tensor(json.dumps(text).encode())}
    facts = {"estimator": type(estimator).__name__, "versions": json.dumps(_versions())}
    write_atomically(path, seal(parts, facts, as_key(key)))


def load(
    path: PathLike,
    *,
    network: Any = None,
    trusted: Iterable[Any] = (),
    key: str | bytes | None = None,
) -> Any:
    """Load an estimator that :func:`save` wrote.

    The checksum is compared before anything is read. Then nothing in the file is executed: objects
    are made from their attributes, and classes are looked up only in this package, among those of
    torch, skorch and scikit-learn that only compute, and in ``trusted``. Networks are put on the
    CPU.

    Parameters
    ----------
    path : str or path
        The file.
    network : nn.Module, skorch net, FrozenEstimator or "onnx", optional
        A network of the same architecture as the saved one, for a class of your own. A copy of it
        gets the saved weights. "onnx": the graph of ``save(onnx=True)``, which only predicts, with
        its own last bits.
    trusted : iterable of str, class or function, optional
        What else may be imported and used, such as ``"mypackage.nets.Net"`` or the class itself.
        The error of a load without it lists what is needed. Name only code that you know.
    key : str or bytes, optional
        The key that the file was saved with.

    Returns
    -------
    estimator : estimator
        Fitted as the saved one was: the same predictions (to the bit with the same versions on the
        same kind of machine), report, history and exports.

    Raises
    ------
    DamagedModelError
        The file was altered, is not complete, or is none of :func:`save`.
    UntrustedError
        Code is needed that is not in ``trusted``, or ``key`` is missing or is not the file's.
    ModelFileError
        The file is of a later version, or ``network`` has another architecture.

    See Also
    --------
    save : The way there.
    """
    names = Names([*as_list(trusted), *lent_classes(network)])
    given = as_module(network)
    path = as_path(path)
    data = bytes_of(path)
    try:
        parts = unseal(data, as_key(key))
        node = _estimator_of(parts)
        node = node if given is not None or network is None else _by_graphs(node)
        return _read(node, Reader(KINDS, parts, names, given))
    except ModelFileError as error:
        raise type(error)(f"path={str(path)!r}: {error}") from error


def _read(node: Node, reader: Reader) -> Any:
    network = reader.network
    try:
        _check_trust(node, reader.names, network is not None)
        estimator = reader.value(node)
    except ModelFileError as error:
        raise type(error)(f"{_at(reader)}{error}.") from error
    except ImportError:
        raise  # a library is missing here, and the file may be whole
    except Exception as error:
        # The checksum fits, so the file was made to be wrong, in whatever way.
        what = f"{type(error).__name__}: {error}"
        text = f"{_at(reader)}the content is not valid ({what})."
        raise DamagedModelError(text) from error
    if not holds_own(estimator):
        raise DamagedModelError("the file holds no estimator of this package.")
    if network is not None and not reader.grafted:
        raise ModelFileError(
            "network= is not of the architecture of any network in the file, which needs none: "
            "leave it away, or pass one of the same class."
        )
    return estimator


def _at(reader: Reader) -> str:
    return f"at {reader.place}: " if reader.place else ""


def _check_trust(node: Node, names: Names, has_network: bool) -> None:
    """Name at once everything that the file needs and may not use."""
    lacking = sorted({path for path in _paths(node, has_network) if not names.knows(path)})
    if lacking:
        raise UntrustedError(
            "the file needs code that load may not use by itself: pass "
            f"trusted={tuple(lacking)!r} if you trust it, or, for a network, network=, one of the "
            "same architecture"
        )


def _paths(node: Node, has_network: bool) -> Iterator[str]:
    """Yield the classes and functions that a tree names, but for what ``network=`` brings."""
    if isinstance(node, list):
        for each in node:
            yield from _paths(each, has_network)
    elif isinstance(node, dict):
        kind = node.get("kind")
        if "path" in node and not (has_network and kind == "module"):
            yield str(node["path"])
        yield from node.get("paths", ())
        skipped = None
        if kind == "net" and (has_network or "module_" in node):
            skipped = "module"  # a class, which the network itself stands in for
        elif kind == "module" and has_network:
            skipped = "settings"  # they come along with the network
        for name, each in node.items():
            if name != skipped:
                yield from _paths(each, has_network)


def _estimator_of(parts: dict[str, Tensor]) -> Node:
    if TEXT not in parts:
        raise DamagedModelError(f"the part {TEXT!r} is missing.")
    try:
        text = json.loads(parts[TEXT].numpy().tobytes(), object_pairs_hook=without_repeats)
        return text["estimator"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamagedModelError(f"the part {TEXT!r} is not valid ({error}).") from error


def _by_graphs(node: Node) -> Node:
    try:
        node, count = with_graphs(node)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamagedModelError(f"the part {TEXT!r} is not valid ({error}).") from error
    if count == 0:
        raise ModelFileError("the file holds no ONNX graph: save with onnx=True.")
    return node


def _versions() -> dict[str, str]:
    libraries = {"numpy": np, "scikit-learn": sklearn, "skorch": skorch, "torch": torch}
    versions = {name: str(library.__version__) for name, library in libraries.items()}
    return {"fairsvd": __version__, "python": platform.python_version(), **versions}
