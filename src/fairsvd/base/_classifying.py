"""Predictions that follow from logits, the same for every classifier of the package."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

__all__ = ["ClassifiesByLogits"]


class ClassifiesByLogits:
    """Predictions of a classifier whose logits hold its threshold already.

    A subclass implements ``_logits``.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels, in the order of the columns of the logits.
    """

    classes_: NDArray[Any]

    def _logits(self, X: Any) -> NDArray[Any]:
        """Compute logits (n, n_classes), float64, of which the largest is the prediction."""
        raise NotImplementedError

    def decision_function(self, X: Any) -> NDArray[Any]:
        """Compute the margin minus the threshold, or the logits of several classes.

        Parameters
        ----------
        X : as in ``fit``
            With or without the sensitive columns that ``fit`` took out.

        Returns
        -------
        margin : ndarray of shape (n,) for two classes, else (n, n_classes), float64
        """
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict(self, X: Any) -> NDArray[Any]:
        """Predict the label that is most probable after the threshold's shift.

        Parameters
        ----------
        X : as in ``decision_function``

        Returns
        -------
        labels : ndarray of shape (n,), of the labels' dtype

        Raises
        ------
        ValueError
            A network returns NaN or infinite logits for some rows, which the message names.
        """
        codes = self._logits(X).argmax(axis=1)
        return self.classes_[codes]
