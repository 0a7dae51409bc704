"""Predictions and exports of a fitted editor."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.utils.validation import check_is_fitted
from torch import nn

from ..metrics import OWN_SHARE
from ..networks import (
    AdoptedNetwork,
    CalibratedNetwork,
    all_features,
    all_logits,
    called_by_fields,
    copied,
    explaining,
    fold_offset,
)
from ._classifying import ClassifiesByLogits
from ._export import net_around, net_on
from ._inputs import read_predict_inputs
from ._report_data import ReportData
from ._request import as_device
from ._shared import OUTPUTS

__all__ = ["Predictor"]


class Predictor(ClassifiesByLogits):
    """Predictions of a network at a threshold.

    Attributes
    ----------
    module_, offset_, classes_
        As of :class:`NetworkEditor`, which sets them in ``fit``.
    """

    module_: nn.Module
    offset_: float
    threshold_: float | None
    output: Any
    threshold: Any
    shift_probabilities: bool
    calibrate: str | None
    _report: ReportData
    _adopted: AdoptedNetwork
    _untouched: AdoptedNetwork
    _probe: Any
    _feature_width: int
    _fitted_threshold: Any

    @property
    def _n_features_out(self) -> int:
        """Columns of :meth:`transform`, also if ``output`` was set after ``fit``."""
        self._check_output()
        return self._feature_width if self.output == "features" else len(self.classes_)

    def _check_output(self) -> None:
        if self.output not in OUTPUTS:
            raise ValueError(f"output={self.output!r}: wanted one of {', '.join(OUTPUTS)}.")

    def _check_calibrate(self) -> None:
        if self.calibrate is not None and self.shift_probabilities:
            raise ValueError(
                f"calibrate={self.calibrate!r} needs shift_probabilities=False: probabilities that "
                "the threshold has shifted are not calibrated."
            )

    def _check_fitted(self) -> None:
        """Check that there is a result, and that it is one of the threshold asked for."""
        check_is_fitted(self, "module_")
        self._check_calibrate()
        fitted = self._report.calibration and self._report.calibration.method
        if self.calibrate != fitted:
            raise ValueError(
                f"calibrate={self.calibrate!r} was set after fit, which ran with {fitted!r}: fit "
                "again, or set it back."
            )
        if self.threshold != self._fitted_threshold:
            raise ValueError(
                f"threshold={self.threshold!r} was set after fit, which ran with "
                f"{self._fitted_threshold!r} and chose the network for threshold_="
                f"{self.threshold_!r}: fit again, or set threshold back and wrap the editor in "
                "sklearn.model_selection.FixedThresholdClassifier for another one."
            )

    def _logits(self, X: Any, shift: bool = True) -> NDArray[np.float64]:
        self._check_fitted()
        batches = read_predict_inputs(self, X, self._adopted.fields)
        with explaining():
            found = all_logits(self.module_, batches, **self._adopted.reading)
        logits = found.double().numpy()
        if shift:
            logits[:, 1] -= self.offset_
        return logits

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Compute probabilities, shifted by the threshold unless ``shift_probabilities=False``.

        With ``calibrate=`` they are mapped as the validation rows say.

        Parameters
        ----------
        X : as in ``decision_function``

        Returns
        -------
        probabilities : ndarray of shape (n, n_classes), float64
            In the order of ``classes_``. Shifted ones are not calibrated, and the largest is the
            prediction; otherwise ``classes_[1]`` is predicted above ``threshold_``.
        """
        logits = self._logits(X, self.shift_probabilities)
        calibration = self._report.calibration
        return softmax(logits, axis=1) if calibration is None else calibration.shares(logits)

    def transform(self, X: Any) -> NDArray[Any]:
        """Map rows to what ``output`` names.

        Parameters
        ----------
        X : as in ``decision_function``

        Returns
        -------
        Z : ndarray of shape (n, n_outputs)
            "features": the inputs of the layer that makes the logits, float32 (float64 for a
            network in double precision); "logits" and "probabilities": float64, shifted by the
            threshold as in :meth:`predict_proba`. ``calibrate`` maps probabilities alone.

        Raises
        ------
        ValueError
            The network returns NaN or infinite numbers for some rows, which the message names.
        """
        self._check_fitted()
        self._check_output()
        if self.output == "logits":
            return self._logits(X, self.shift_probabilities)
        if self.output == "probabilities":
            return self.predict_proba(X)
        batches = read_predict_inputs(self, X, self._adopted.fields)
        with explaining():
            return all_features(self.module_, batches, self._adopted.output_layer).numpy()

    def to(self, device: Any) -> Self:
        """Move the fitted network to another device, where it then predicts.

        What was passed as ``network`` stays where it is, and so does the parameter ``device``,
        which says where the next ``fit`` edits.

        Parameters
        ----------
        device : str or torch.device

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            The device is not on this machine.
        """
        check_is_fitted(self, "module_")
        device = as_device(device)
        self.module_.to(device)
        self._untouched.module.to(device)
        self._probe = self._probe.to(device)
        adopted = self._adopted
        if adopted.net is not None and not adopted.frozen:
            # A frozen net is the user's own.
            self._adopted = replace(adopted, net=net_on(self.module_, adopted.net))
        return self

    def to_module(self, *, calibrated: bool = False) -> nn.Module:
        """Copy the edited network with the threshold folded in: its argmax is ``predict``.

        It is called as the network that was passed in. If no bias of the network can absorb the
        threshold, the network is wrapped and returns a tensor.

        Parameters
        ----------
        calibrated : bool, default=False
            True: the network without the threshold, and the map of ``calibrate=`` behind it. It
            returns the probabilities (n, n_classes) of :meth:`predict_proba` in double precision;
            of two classes the second is predicted above ``threshold_``.

        Returns
        -------
        module : nn.Module

        Raises
        ------
        ValueError
            ``calibrated=True`` was asked of an editor that was fitted with ``calibrate=None``.
        """
        self._check_fitted()
        if calibrated:
            return called_by_fields(self._calibrated_module())
        offset, probe = self.offset_, self._probe
        with explaining():
            folded = fold_offset(self.module_, offset=offset, probe=probe, **self._adopted.reading)
        return called_by_fields(folded)

    def _calibrated_module(self) -> nn.Module:
        found = self._report.calibration
        if found is None:
            raise ValueError("calibrated=True needs an editor that was fitted with calibrate=.")
        points, values = found.points.tolist(), found.values.tolist()
        kind, key = self._adopted.kind, self._adopted.output_key
        copy = copied(self.module_)
        made = CalibratedNetwork(copy, kind, key, found.factor, points, values, OWN_SHARE)
        return made.to(self._probe.device)

    def to_skorch(self) -> Any:
        """Wrap :meth:`to_module` as a skorch net like the one passed in, ready to train on.

        Its ``predict`` returns class codes (positions in ``classes_``), as skorch's nets do. Its
        probabilities are shifted by the threshold, and no map calibrates them.
        """
        return net_around(self.to_module(), self._adopted, self.classes_)
