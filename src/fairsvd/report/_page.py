"""The report page: everything about an edited model on given rows, in one file."""

from __future__ import annotations

from html import escape
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._evaluate import evaluate
from ._page_content import Content
from ._page_formats import as_json, ll144_frame, markdown_sections, text_tables
from ._page_html import page
from ._page_words import facts_of
from ._plot_groups import draw_scores

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FairnessReport"]


class FairnessReport:
    """A report of an edited model on rows that it was not fitted on.

    It measures the untouched network, the same with the threshold of the edit, and the edited one,
    for every group and every intersection, and says what was done, with which data, who lost what,
    and what this cannot promise. These are fields that model cards, Annex IV of the European
    Union's AI Act and New York City's Local Law 144 ask for; the report is no legal advice.

    Parameters
    ----------
    estimator : NetworkEditor, or Pipeline or search that ends in one
        Fitted.
    X : as in ``predict``
    y : array-like of shape (n,)
        True labels, all known to the model.
    sensitive_features : array-like of shape (n,) or (n, n_columns)
        At least two groups; several columns are intersected. Rows with a missing value count in no
        group.
    sample_weight : array-like of shape (n,), default=None
        How often every row counts, at least 0. Every table and chart is then that of weighted rows,
        and the page says so; n counts rows. None: every row counts once.
    intended_use, owner : str, default=""
        What the model is for, and who answers for it.

    Attributes
    ----------
    table : DataFrame
        One row for each slice (all rows, each group, each intersection) and state ("before",
        "threshold only", "after"): n, n_positive, and each measure with its 95 % interval.
    gaps : DataFrame
        Index: attribute, gap. Every gap in each state; of the last the interval, the upper bound,
        the noise floor, the tolerance and whether it was met.
    calibration : DataFrame
        Index: attribute, group, state. The columns of :func:`fairsvd.metrics.calibration_table`:
        the calibration error, slope and intercept with intervals, and the error that a map for all
        rows, or a map within each group, would leave.
    harm : DataFrame
        Index: attribute, group, rate. Every rate whose fall is harm, and whether it fell or rose
        beyond noise.

    Raises
    ------
    ValueError
        If the estimator is none of these, or the rows do not fit it.
    NotFittedError
        If the estimator is not fitted.

    Notes
    -----
    Measures and intervals are those of :func:`fairsvd.metrics.group_table`. Probabilities are those
    of ``predict_proba``, which the threshold shifts by default, so that calibration after an edit
    is that of the shifted ones.

    Examples
    --------
    >>> from fairsvd import GapFineTuner
    >>> from fairsvd.datasets import make_biased_classification
    >>> from fairsvd.report import FairnessReport
    >>> task = make_biased_classification(900, random_state=0)
    >>> X, y, group = task.data, task.target, task.sensitive_features
    >>> editor = GapFineTuner(max_steps=20, random_state=0)
    >>> editor = editor.fit(X[:600], y[:600], sensitive_features=group[:600])
    >>> report = FairnessReport(editor, X[600:], y[600:], group[600:], owner="the lending team")
    >>> report.table.query("group == 'all rows'")["state"].tolist()
    ['before', 'threshold only', 'after']
    >>> report.save("report.html")  # doctest: +SKIP
    """

    def __init__(
        self,
        estimator: Any,
        X: Any,
        y: Any,
        sensitive_features: Any,
        *,
        sample_weight: Any = None,
        intended_use: str = "",
        owner: str = "",
    ) -> None:
        evaluation = evaluate(estimator, X, y, sensitive_features, sample_weight)
        weights = () if sample_weight is None else (sample_weight,)
        facts = facts_of(evaluation, X, y, sensitive_features, *weights)
        self._content = Content(evaluation, facts, str(intended_use), str(owner))

    @property
    def table(self) -> pd.DataFrame:
        """Every measure of every slice in each state."""
        return self._content.table

    @property
    def gaps(self) -> pd.DataFrame:
        """Every gap in each state, by each attribute and by the intersections."""
        return self._content.gaps

    @property
    def harm(self) -> pd.DataFrame:
        """Every rate whose fall is harm, by each attribute and by the intersections."""
        return self._content.harm

    @property
    def calibration(self) -> pd.DataFrame:
        """How far each slice's probabilities are calibrated in each state, and what would mend."""
        return self._content.calibration

    def summary(self) -> str:
        """Say in plain sentences what the edit did on these rows and who pays for it.

        Returns
        -------
        text : str
            A sentence a line.
        """
        return self._content.summary()

    def to_html(self) -> str:
        """Write the page: one file without requests, for screens, phones and paper."""
        return page(self._content)

    def _repr_html_(self) -> str:
        # In a frame of its own, so that neither its style nor that of the notebook leaks.
        return (
            '<iframe title="fairness report" style="width:100%;height:640px;border:1px solid #ccc" '
            f'sandbox srcdoc="{escape(self.to_html(), quote=True)}"></iframe>'
        )

    def to_markdown(self) -> str:
        """Write the report as Markdown with the section names of skops' model cards."""
        parts = []
        for name, text in self.to_sections().items():
            level, title = name.count("/") + 1, name.rsplit("/", 1)[-1]
            parts.append(
                f"{'#' * level} {title}\n\n{text}\n" if text else f"{'#' * level} {title}\n"
            )
        return "\n".join(parts)

    def to_sections(self) -> dict[str, str]:
        """Return the Markdown of each section, by name.

        The names are those of ``skops.card.Card``, so that ``card.add(**report.to_sections())``
        puts the report into a model card.
        """
        return markdown_sections(self._content)

    def to_json(self) -> str:
        """Write every measure as JSON.

        Returns
        -------
        text : str
            An object with ``about`` and ``measures``, a list of objects with metric, attribute,
            slice, state, value, threshold (the limit it is held against, or null), interval (two
            numbers or null) and n.
        """
        return as_json(self._content)

    def to_ll144_csv(self) -> str:
        """Write the table that New York City's Local Law 144 asks bias audits to publish.

        Returns
        -------
        text : str
            Comma-separated: category, group, applicants, selected, selection rate, impact ratio,
            and a note where a group has less than 2 % of the applicants.

        Raises
        ------
        ValueError
            If there are more than two classes, so that nothing is a selection, or rows are
            weighted, so that they are no applicants.
        """
        return ll144_frame(self._content).to_csv(index=False, lineterminator="\n")

    def to_text(self) -> str:
        """Write the main tables and sentences as plain text, for a terminal."""
        return text_tables(self._content)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the report to a file, in the format of its ending.

        Parameters
        ----------
        path : str or path
            Ends in ``.html``, ``.md``, ``.json`` or ``.csv`` (the table of Local Law 144).

        Raises
        ------
        ValueError
            If it ends otherwise.
        OSError
            If it cannot be written.
        """
        path = Path(path).expanduser()
        formats = {
            ".html": self.to_html,
            ".md": self.to_markdown,
            ".json": self.to_json,
            ".csv": self.to_ll144_csv,
        }
        if path.suffix.lower() not in formats:
            raise ValueError(f"path={str(path)!r} must end in one of {', '.join(formats)}.")
        path.write_text(formats[path.suffix.lower()](), encoding="utf-8")

    def plot_errors(self, *, ax: Any = None) -> Any:
        """Plot each group's errors on these rows, before and after, with 95 % intervals.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw into. None: a new figure of pyplot.

        Returns
        -------
        ax : matplotlib Axes
        """
        from ._page_charts import errors_of

        return errors_of(self._content.evaluation, ax=ax)

    def plot_scores(self, *, axes: Any = None) -> Any:
        """Plot how the predicted probability is spread in each group, before and after.

        Parameters
        ----------
        axes : sequence of two matplotlib Axes, default=None
            Axes to draw into. None: a new figure of pyplot.

        Returns
        -------
        axes : ndarray of two Axes

        Raises
        ------
        ValueError
            If there are more than two classes.
        """
        if self._content.evaluation.positive is None:
            raise ValueError("plot_scores shows one probability: the model has more classes.")
        return draw_scores(self._content.evaluation, axes=axes)
