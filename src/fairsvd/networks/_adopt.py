"""Turn any kind of network from the user into a trained module of our own."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from skorch import NeuralNet, NeuralNetClassifier, NeuralNetRegressor
from torch import Tensor, nn

from .._messages import listed
from ..arrays import Batches, LabelledRows, to_device
from ..caching import Cache
from ..exceptions import NetworkError
from ._outputs import OutputKey, last_leaf, output_layer, raw_output, to_logits
from ._trained import train_own_net, train_users_net

__all__ = ["AdoptedNetwork", "adopt", "known_classes"]


@dataclass(frozen=True)
class AdoptedNetwork:
    """A trained network in evaluation mode, not shared with the user.

    Attributes
    ----------
    module : nn.Module
    kind : {"logits", "one_logit", "probabilities", "one_probability"}
        Kind of the module's output.
    output_layer : str
        Name of the layer that makes the logits.
    net : skorch net or None
        The net that the module came from, or None for a bare module.
    frozen : bool
        Whether the network came trained, possibly on unknown rows.
    notes : tuple of str
        Notes for the user on how the network was read.
    output_key : str, int or None
        Place of the scores in the module's output.
    """

    module: nn.Module
    kind: str
    output_layer: str
    net: Any
    frozen: bool
    notes: tuple[str, ...] = ()
    output_key: OutputKey = None

    @property
    def reading(self) -> dict[str, Any]:
        """Arguments of :func:`to_logits` for the module's output."""
        return {"kind": self.kind, "key": self.output_key}

    def to_logits(self, output: Any) -> Tensor:
        """Convert an output of the module to logits (n, n_classes)."""
        return to_logits(output, **self.reading)


def known_classes(network: Any, labels: NDArray[Any]) -> NDArray[Any]:
    """Return the class of each output column: from the frozen net, else the sorted labels.

    A net that was trained on codes 0..K-1 does not know the labels, and one whose parameters were
    loaded from a file has no classes.
    """
    inner = network.estimator if isinstance(network, FrozenEstimator) else None
    if not isinstance(inner, NeuralNet):
        return labels
    classes = np.asarray(getattr(inner, "classes_", labels))
    if set(labels.tolist()) <= set(classes.tolist()):
        return classes
    codes = np.arange(len(classes))
    if classes.dtype.kind in "UO" and set(labels.tolist()) <= set(codes.tolist()):
        return codes  # skorch trains on codes, whatever class names it was given
    if len(classes) == len(labels) and np.array_equal(classes, codes):
        return labels
    raise NetworkError(
        f"y holds the labels [{listed(labels.tolist(), show=repr)}], but the frozen network was "
        f"trained for [{listed(classes.tolist(), show=repr)}]. Encode y as it was when the network "
        "was trained."
    )


def adopt(
    network: Any,
    rows: LabelledRows,
    classes: NDArray[Any],
    *,
    batch_size: int,
    rng: np.random.Generator,
    device: str | None = None,
    cache: Cache | None = None,
    output_key: OutputKey = None,
) -> AdoptedNetwork:
    """Get a trained module from ``network``, and train it on ``rows`` if it is not trained.

    Parameters
    ----------
    network : None, skorch net, FrozenEstimator(skorch net) or nn.Module
        None: the default network is built and trained. A skorch net: a clone of it is trained. A
        frozen net or a module: it is copied, not trained.
    rows : LabelledRows
        Training rows.
    classes : ndarray of shape (n_classes,)
        Classes of the codes in ``rows.y``.
    batch_size : int
        Batch size of the default network.
    rng : numpy.random.Generator
        The only source of randomness.
    device : str, optional
        Device of the copy; None: that of the network.
    cache : Cache, optional
        Keeps the result of the training; its scope identifies the rows.
    output_key : str, int or None, default=None
        Place of the scores in the network's output; see :func:`raw_output`.

    Returns
    -------
    adopted : AdoptedNetwork

    Raises
    ------
    NetworkError
        If the object is not one of these, or does not fit the rows or the classes.
    """
    cache = cache or Cache()
    inner = network.estimator if isinstance(network, FrozenEstimator) else network
    if isinstance(inner, NeuralNetRegressor):
        raise NetworkError(
            f"network is a {type(inner).__name__}, which predicts numbers and not classes: pass a "
            "NeuralNetClassifier with an output for each class."
        )
    if network is None:
        net = train_own_net(rows, classes, batch_size, rng, device or "cpu", cache)
        adopted = AdoptedNetwork(net.module_, "logits", "", net, frozen=False)
    elif isinstance(network, FrozenEstimator):
        adopted = _adopt_frozen(network.estimator)
    elif isinstance(network, NeuralNet):
        net = train_users_net(network, rows, rng, device, cache)
        adopted = AdoptedNetwork(net.module_, _kind_of_net(net), "", net, frozen=False)
    elif isinstance(network, nn.Module):
        adopted = AdoptedNetwork(copy.deepcopy(network), "logits", "", None, frozen=True)
    else:
        raise NetworkError(_not_a_network(network))
    module = adopted.module.eval()
    if device is not None:
        module = module.to(device)
    adopted = replace(adopted, module=module, output_key=output_key)
    return _inspect(adopted, rows.X, len(classes))


def _not_a_network(network: Any) -> str:
    hint = ""
    if isinstance(network, BaseEstimator) and hasattr(network, "steps"):
        hint = (
            " Take only the network from the Pipeline, and put its scaler, frozen, before this "
            "estimator: make_pipeline(FrozenEstimator(scaler), Editor(FrozenEstimator(net)))."
        )
    elif isinstance(network, type):
        hint = " A class was passed: pass an instance."
    return (
        "network must be None, a skorch net, FrozenEstimator(skorch net) or a torch.nn.Module; got "
        f"{type(network).__name__}.{hint}"
    )


def _adopt_frozen(inner: Any) -> AdoptedNetwork:
    if isinstance(inner, nn.Module):
        return AdoptedNetwork(copy.deepcopy(inner), "logits", "", None, frozen=True)
    if not isinstance(inner, NeuralNet):
        raise NetworkError(_not_a_network(inner))
    if not getattr(inner, "initialized_", False):
        raise NetworkError(
            "network is FrozenEstimator(net), but the net was never fitted or initialised: fit "
            "it, or pass it unfrozen to train it here."
        )
    # Copied first, since a forward pass in training mode changes normalisation statistics.
    module = copy.deepcopy(inner.module_)
    return AdoptedNetwork(module, _kind_of_net(inner), "", inner, frozen=True)


def _kind_of_net(net: Any) -> str:
    criterion = getattr(net, "criterion_", None)
    if isinstance(criterion, nn.NLLLoss) and isinstance(net, NeuralNetClassifier):
        return "probabilities"
    if isinstance(criterion, nn.BCELoss):
        return "one_probability"
    return "one_logit" if isinstance(criterion, nn.BCEWithLogitsLoss) else "logits"


def _inspect(adopted: AdoptedNetwork, X: Batches, n_classes: int) -> AdoptedNetwork:
    """Run a few rows through the network and record the properties of its output."""
    probe = probe_rows(adopted.module, X)
    output = _try_forward(adopted, probe, X.item_shape)
    _check_width(output, n_classes)
    kind = _kind_of_output(adopted, output, probe)
    notes = list(adopted.notes)
    if adopted.frozen:
        notes.append(
            "The network came trained, possibly on these rows. Rows that it was trained on make "
            "the choice among candidates too optimistic."
        )
    if "probabilit" in kind:
        notes.append("The network returns probabilities; they are converted to log-probabilities.")
    name = output_layer(adopted.module, probe, adopted.output_key)
    if name is None:
        raise NetworkError(
            "network has no Linear or Conv2d layer that runs, so there is nothing to edit."
        )
    _check_finite(to_logits(output, kind))
    return replace(adopted, kind=kind, output_layer=name, notes=tuple(notes))


def probe_rows(module: nn.Module, X: Batches, n_rows: int = 32) -> Tensor:
    """Read a few rows in the module's dtype and on its device."""
    parameter = next(module.parameters(), torch.zeros(()))
    return to_device(X[:n_rows], parameter.device, parameter.dtype)


def _try_forward(adopted: AdoptedNetwork, probe: Tensor, item_shape: tuple[int, ...]) -> Tensor:
    module = adopted.module
    try:
        with torch.no_grad():
            output = raw_output(module, probe, adopted.output_key)
    except NetworkError:
        raise
    except (RuntimeError, ValueError, IndexError) as error:
        first = next((m for m in module.modules() if isinstance(m, (nn.Linear, nn.Conv2d))), None)
        raise NetworkError(
            f"the network failed on rows of X of shape {item_shape} each; its first layer is "
            f"{first}. Pass X as the network was trained on it (same columns, same scaling). "
            f"The network said: {error}"
        ) from error
    if output.ndim != 2:
        raise NetworkError(
            f"the network must return (n, n_classes) scores; it returned {tuple(output.shape)}."
        )
    return output


def _check_width(output: Tensor, n_classes: int) -> None:
    width = output.shape[1]
    if width != n_classes and not (width == 1 and n_classes == 2):
        raise NetworkError(
            f"the network has {width} outputs, but y holds {n_classes} classes. It must have one "
            "output per class (or one for two classes): pass rows of every class of the network, "
            "or another network."
        )


def _check_finite(logits: Tensor) -> None:
    if not torch.isfinite(logits).all():
        raise NetworkError(
            "the network returns NaN or infinite logits on X: its training diverged, or X is not "
            "scaled as in training."
        )


def _kind_of_output(adopted: AdoptedNetwork, output: Tensor, probe: Tensor) -> str:
    """Tell logits from probabilities by the net's criterion, else by the returned values."""
    if output.shape[1] == 1:
        if adopted.kind in ("one_logit", "one_probability"):
            return adopted.kind
        sigmoid = isinstance(last_leaf(adopted.module, probe), nn.Sigmoid)
        return "one_probability" if sigmoid else "one_logit"
    if adopted.kind == "probabilities":
        return "probabilities"
    sums = output.sum(dim=1)
    in_range = bool((output >= 0).all() and (output <= 1).all())
    adds_up = torch.allclose(sums, torch.ones_like(sums), atol=1e-4)
    return "probabilities" if in_range and adds_up else "logits"
