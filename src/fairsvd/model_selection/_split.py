"""Cross-validation in which every fold holds every (label, group) cell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import BaseCrossValidator
from sklearn.utils import check_random_state

from .._messages import listed
from ..containers import count_rows, label_codes
from ..groups import BIN_IT, MANY_GROUPS, Groups, cell_codes, encode_groups, find_sensitive

__all__ = ["JointStratifiedKFold"]


class JointStratifiedKFold(BaseCrossValidator):
    """K folds, each with its share of every (label, group) cell.

    A fold that lacks a cell has no true or false positive rate for that group, so its gap is
    missing or looks too small.

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds, at least 2.
    shuffle : bool, default=False
        Whether to shuffle the rows of each cell before they are dealt to the folds.
    random_state : int, RandomState instance or None, default=None
        Source of the shuffle; used only if ``shuffle=True``.
    sensitive_columns : str, int or list of these, default=None
        Where the attribute is if ``split`` gets none: names (or positions) of columns of X,
        else levels of X's index, else of y's index. It needs no metadata routing.

    See Also
    --------
    fairness_scorer : Gaps as scores, found in the same places.

    Notes
    -----
    With metadata routing on, ``sensitive_features`` is requested without ``set_split_request``.
    Rows whose group is missing are dealt evenly too, but need not reach every fold.

    Examples
    --------
    >>> import numpy as np
    >>> from fairsvd import JointStratifiedKFold
    >>> y, sex = np.repeat([0, 1], 6), np.tile(["f", "m"], 6)
    >>> folds = JointStratifiedKFold(3)
    >>> for _, test in folds.split(np.zeros((12, 1)), y, sensitive_features=sex):
    ...     print(y[test], sex[test])
    [0 0 1 1] ['f' 'm' 'f' 'm']
    [0 0 1 1] ['f' 'm' 'f' 'm']
    [0 0 1 1] ['f' 'm' 'f' 'm']
    """

    __metadata_request__split = {"sensitive_features": True}  # noqa: RUF012 (scikit-learn's form)

    def __init__(
        self,
        n_splits: int = 5,
        *,
        shuffle: bool = False,
        random_state: int | np.random.RandomState | None = None,
        sensitive_columns: str | int | list[str | int] | None = None,
    ) -> None:
        if isinstance(n_splits, bool) or not isinstance(n_splits, (int, np.integer)):
            raise ValueError(f"n_splits={n_splits!r}: wanted an integer of at least 2.")
        if n_splits < 2:
            raise ValueError(f"n_splits={n_splits}: at least 2 folds are needed, one to test on.")
        self.n_splits = n_splits
        self.shuffle = shuffle
        self.random_state = random_state
        self.sensitive_columns = sensitive_columns

    def split(
        self, X: Any, y: Any = None, groups: Any = None, *, sensitive_features: Any = None
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Generate the rows of each split.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Its rows are counted (of y, if it is None); its columns or index hold the attribute if
            ``sensitive_columns`` names them.
        y : array-like of shape (n_samples,)
            Class labels.
        groups : array-like of shape (n_samples,) or None, default=None
            The sensitive feature, used if neither ``sensitive_features`` nor
            ``sensitive_columns`` is given.
        sensitive_features : array-like of shape (n_samples,) or (n_samples, n_columns), \
                default=None
            The sensitive features; several columns are intersected.

        Yields
        ------
        train, test : ndarray of int64
            Row positions, ascending.

        Raises
        ------
        ValueError
            If y or the sensitive features are missing, or a cell has fewer than ``n_splits`` rows.
        """
        encoded, labels, y_codes = self._read(X, y, groups, sensitive_features)
        self._check_cells(encoded, labels, y_codes)
        fold = self._deal(y_codes, encoded)
        for k in range(self.n_splits):
            yield np.flatnonzero(fold != k), np.flatnonzero(fold == k)

    def get_n_splits(
        self, X: Any = None, y: Any = None, groups: Any = None, **metadata: Any
    ) -> int:
        """Return the number of folds; every argument is ignored.

        Parameters
        ----------
        X : object, default=None
            Ignored.
        y : object, default=None
            Ignored.
        groups : object, default=None
            Ignored.
        **metadata : object
            Ignored; scikit-learn 1.9 passes what ``split`` requests here too.

        Returns
        -------
        n_splits : int
            The number of folds.
        """
        return int(self.n_splits)

    def _read(
        self, X: Any, y: Any, groups: Any, sensitive_features: Any
    ) -> tuple[Groups, list[Any], NDArray[np.int64]]:
        if y is None:
            raise ValueError("y is None: JointStratifiedKFold needs the labels to stratify on.")
        names = None
        if sensitive_features is None and self.sensitive_columns is not None:
            located = find_sensitive(X, y, self.sensitive_columns)
            sensitive_features, names = located.values, located.names
        sensitive_features = groups if sensitive_features is None else sensitive_features
        if sensitive_features is None:
            raise ValueError(
                "JointStratifiedKFold got no sensitive features: pass sensitive_features= (with "
                "metadata routing on, to the search or to cross_validate), or name them in "
                "sensitive_columns=, or pass groups=."
            )
        labels, y_codes = label_codes(y)
        n_rows = len(y_codes) if X is None else count_rows(X)
        encoded = encode_groups(sensitive_features, n_rows, missing="ignore", names=names)
        if len(y_codes) != n_rows:
            raise ValueError(
                f"y has shape {y_codes.shape}, X has {n_rows} rows: one class label for each "
                "row was wanted."
            )
        return encoded, labels, y_codes

    def _check_cells(self, encoded: Groups, labels: list[Any], y_codes: NDArray[np.int64]) -> None:
        """Refuse a cell with fewer rows than folds; cells without any row are ignored."""
        cells = cell_codes(y_codes, encoded.codes, encoded.n_groups)
        counts = np.bincount(cells[cells >= 0], minlength=len(labels) * encoded.n_groups)
        small = np.flatnonzero((counts > 0) & (counts < self.n_splits))
        if len(small):
            which = listed(
                f"(y={labels[cell // encoded.n_groups]!r}, "
                f"group={encoded.labels[cell % encoded.n_groups]!r}): {counts[cell]} rows"
                for cell in small
            )
            fewest = int(counts[small].min())
            advice = f" {BIN_IT}" if encoded.n_groups > MANY_GROUPS else ""
            fewer = f"Use fewer splits (at most {fewest}), merge" if fewest > 1 else "Merge"
            raise ValueError(
                f"n_splits={self.n_splits} is more than the rows of {len(small)} (label, group) "
                f"cell(s), which cannot be in every fold: {which}. {fewer} groups, or leave these "
                f"rows out.{advice}"
            )

    def _deal(self, y_codes: NDArray[np.int64], encoded: Groups) -> NDArray[np.int64]:
        """Sort the rows by cell and deal them to the folds in turn, like cards.

        So the rows of a cell per fold differ by at most one, and so do the sizes of the folds.
        """
        rows = np.arange(len(y_codes))
        if self.shuffle:
            check_random_state(self.random_state).shuffle(rows)
        # Code -1 (missing) sorts before the groups of its class.
        by_cell = rows[np.lexsort((encoded.codes[rows], y_codes[rows]))]
        fold = np.empty(len(y_codes), dtype=np.int64)
        fold[by_cell] = np.arange(len(y_codes)) % self.n_splits
        return fold
