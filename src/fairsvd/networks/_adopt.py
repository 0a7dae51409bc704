"""Turn any kind of network from the user into a trained module of our own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from skorch import NeuralNet, NeuralNetClassifier, NeuralNetRegressor
from torch import Tensor, nn

from .._messages import listed
from ..arrays import Fields, LabelledRows
from ..caching import Cache
from ..exceptions import NetworkError
from ._copy import unwrapped
from ._explain import explaining
from ._fields import take_packed
from ._look import Question, look
from ._modules import MLP
from ._plain import make_plain, plain_copy
from ._scores import OutputKey, to_logits
from ._trained import train_own_net, train_users_net
from ._usable import check_usable

__all__ = ["AdoptedNetwork", "adopt", "known_classes"]

CAME_TRAINED = (
    "The network came trained, possibly on these rows. Rows that it was trained on make the choice "
    "among candidates too optimistic."
)

VALIDATED_UNWEIGHTED = (
    "The network was trained on rows drawn by sample_weight; its own validation (train_split) "
    "counted every row once."
)


@dataclass(frozen=True)
class AdoptedNetwork:
    """A trained network in evaluation mode, not shared with the user.

    Attributes
    ----------
    module : nn.Module
    kind : {"logits", "one_logit", "probabilities", "one_probability", "sigmoids"}
        Kind of the module's output; see :func:`to_logits`.
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
    fields : Fields or None
        The inputs that a packed row has for it; None: it takes one tensor.
    """

    module: nn.Module
    kind: str
    output_layer: str
    net: Any
    frozen: bool
    notes: tuple[str, ...] = ()
    output_key: OutputKey = None
    fields: Fields | None = None

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
    output_kind: str = "auto",
    of_table: type[nn.Module] = MLP,
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
    output_kind : {"auto", "logits", "probabilities"}, default="auto"
        What the scores are.
    of_table : type, default=MLP
        Class of the default network of a table.

    Returns
    -------
    adopted : AdoptedNetwork

    Raises
    ------
    NetworkError
        If the object is not one of these, or does not fit the rows or the classes.
    """
    cache = cache or Cache()
    with explaining():
        found = _find(network, rows, classes, batch_size, rng, device, cache, of_table)
        module = found.module.eval()
        if rows.X.fields is not None:
            take_packed(module, rows.X.fields)
        if device is not None:
            module = module.to(device)
        question = Question(rows.X, len(classes), output_key, output_kind, found.told)
        answer = look(module, question, found.given)
    notes = (*found.notes, *answer.notes)
    if found.frozen:
        notes = (*notes, CAME_TRAINED)
    return AdoptedNetwork(
        module,
        answer.kind,
        answer.layer,
        found.net,
        found.frozen,
        notes,
        output_key,
        rows.X.fields,
    )


@dataclass(frozen=True)
class _Found:
    """A trained network before its output is known.

    Attributes
    ----------
    module, net, frozen, notes
        As of :class:`AdoptedNetwork`.
    told : {"logits", "probabilities"} or None
        What the criterion of its training takes its output for.
    given : nn.Module or None
        The user's own module, of which ``module`` is a copy.
    """

    module: nn.Module
    net: Any
    frozen: bool
    notes: tuple[str, ...] = ()
    told: str | None = None
    given: nn.Module | None = field(default=None, repr=False)


def _find(
    network: Any,
    rows: LabelledRows,
    classes: NDArray[Any],
    batch_size: int,
    rng: np.random.Generator,
    device: str | None,
    cache: Cache,
    of_table: type[nn.Module],
) -> _Found:
    inner = network.estimator if isinstance(network, FrozenEstimator) else network
    if isinstance(inner, NeuralNetRegressor):
        raise NetworkError(
            f"network is a {type(inner).__name__}, which predicts numbers and not classes: pass a "
            "NeuralNetClassifier with an output for each class."
        )
    if network is None and rows.X.fields is not None:
        raise NetworkError(
            "network=None makes a network for tables or images, but X has the inputs "
            f"[{listed(rows.X.fields.names)}]: pass a network that is called by these names."
        )
    if network is None:
        net = train_own_net(rows, classes, batch_size, rng, device or "cpu", cache, of_table)
        return _Found(net.module_, net, frozen=False)
    if isinstance(inner, nn.Module):
        module, notes = plain_copy(inner)
        return _Found(module, None, frozen=True, notes=notes, given=inner)
    if not isinstance(inner, NeuralNet):
        raise NetworkError(_not_a_network(inner))
    if inner is not network:
        return _find_frozen(inner)
    net = train_users_net(inner, rows, rng, device, cache)
    module = unwrapped(net.module_)
    check_usable(module)
    notes = make_plain(module)
    if rows.weights is not None and net.train_split:
        notes = (*notes, VALIDATED_UNWEIGHTED)
    return _Found(module, net, frozen=False, notes=notes, told=_told_by(net))


def _not_a_network(network: Any) -> str:
    hint = ""
    if isinstance(network, BaseEstimator) and hasattr(network, "steps"):
        hint = (
            " Take only the network from the Pipeline, and put its scaler, frozen, before this "
            "estimator: make_pipeline(FrozenEstimator(scaler), Editor(FrozenEstimator(net)))."
        )
    elif type(network).__module__.startswith("torch.export"):
        hint = " Pass the module that was exported."
    elif isinstance(network, type):
        hint = " A class was passed: pass an instance."
    return (
        "network must be None, a skorch net, FrozenEstimator(skorch net) or a torch.nn.Module; got "
        f"{type(network).__name__}.{hint}"
    )


def _find_frozen(net: Any) -> _Found:
    if not getattr(net, "initialized_", False):
        raise NetworkError(
            "network is FrozenEstimator(net), but the net was never fitted or initialised: fit "
            "it, or pass it unfrozen to train it here."
        )
    # Copied first, since a forward pass in training mode changes normalisation statistics.
    module, notes = plain_copy(net.module_)
    return _Found(module, net, True, notes, _told_by(net), given=net.module_)


def _told_by(net: Any) -> str | None:
    criterion = getattr(net, "criterion_", None)
    # For this criterion skorch's classifier takes the logarithm of what its module returns.
    takes_log = isinstance(criterion, nn.NLLLoss) and isinstance(net, NeuralNetClassifier)
    if takes_log or isinstance(criterion, nn.BCELoss):
        return "probabilities"
    return "logits" if isinstance(criterion, nn.BCEWithLogitsLoss) else None
