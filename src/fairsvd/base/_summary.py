"""The report of a fit as its reader gets it, in tables and in plain sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils import Bunch

from ..metrics import disparity_frame
from ._html import report_html

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["OVERALL", "RATE_NAMES", "THRESHOLD_ONLY", "FairnessReport"]

# Rows of ``groups`` after those of the groups.
OVERALL, THRESHOLD_ONLY = "overall", "threshold only"
RATE_NAMES = {
    "tpr": "true positive rate",
    "tnr": "true negative rate",
    "selection_rate": "selection rate",
}
# Changes that a sentence lists.
SHOWN = 6


class FairnessReport(Bunch):
    """What a fit changed, for whom, and how sure that is, on the validation rows.

    Attributes
    ----------
    groups : DataFrame
        Number of rows, selection rate, true and false positive rate and accuracy of every group,
        each before, after and its change. Then the row "overall", all rows together, and the row
        "threshold only": what the chosen threshold does to the untouched network, overall.
    gaps : DataFrame
        Every gap before, with the threshold only, and after; ``low`` and ``high``, a 95 % interval
        of the gap after; ``upper``, a one-sided 95 % bound; ``noise_floor``, the mean gap of equal
        treatment on that many rows; ``tolerance``; ``met``; with ``flip_rate=`` ``true_low`` and
        ``true_high``, bounds of the gap between the true groups. Empty without groups.
    groups_by_attribute, gaps_by_attribute : DataFrame
        With several attributes: the tables ``groups`` and ``gaps`` of each attribute alone, of some
        of them together, and of all, in one; where an attribute is not looked at the index reads
        "(all)". ``few_rows`` names labels of which a group has fewer than 100 rows. Empty for one
        attribute.
    constraints : DataFrame
        Everything that was asked, by its name: measured before and after, where smaller is better;
        ``upper``, the one-sided 95 % bound that a certificate would be judged by (NaN of a
        :class:`CountLimit`, and of :class:`NoHarm` on weighted rows); the limit; and whether it is
        met on these rows, which were chosen by: see ``upper`` for others. Empty without groups.
    certificate : Certificate or None
        With ``confidence=``: what is promised, on how many rows, and how many it would take.
    harm : DataFrame
        Every rate whose fall is harm: its change, the rows it lost and gained, and the verdict
        "fell", "rose" or "within noise".
    measures : DataFrame
        Every measure of every group and of all rows ("overall"), indexed (measure, group): before,
        after, its change, and ``low`` and ``high``, a 95 % interval of the value after. The names
        are those of :func:`fairsvd.fairness_score`; measures of probabilities are of those that
        ``predict_proba`` gives.
    compared : tuple
        What :meth:`disparities` is computed from.
    positive : str
        Which label is the positive one.
    lost, gained : list
        Labels of the groups of which a rate fell or rose beyond noise.
    traded : bool
        Whether a group lost while another gained.
    constant : bool
        Whether the network predicts one class only; then no gap is met.
    notes : list of str
        What was assumed, and every warning of the fit.
    rows : str
        Which rows these are: "validation ", or "" for others.
    """

    def _repr_html_(self) -> str:
        return report_html(self)

    def disparities(self, level: float = 0.95) -> pd.DataFrame:
        """Tabulate how far groups differ in every measure, before and after.

        Parameters
        ----------
        level : float in (0, 1), default=0.95
            Confidence of the intervals.

        Returns
        -------
        table : DataFrame
            The columns of :func:`fairsvd.metrics.disparity_table` after the edit, and
            difference_before, ratio_before and worst_before.
        """
        before, after = self.compared
        table = disparity_frame(after, np.random.default_rng(0), level=level)
        for kind in ("difference", "ratio"):
            table[f"{kind}_before"] = [before.size(name, kind) for name in table.index]
        table["worst_before"] = [before.worst(name) for name in table.index]
        return table

    def summary(self) -> str:
        """Say in plain sentences what the edit did and who pays for it.

        Returns
        -------
        text : str
            A paragraph of sentences, one line each.
        """
        lines = [str(self.positive), *self._describe_all()]
        if len(self.gaps):
            asked = self.gaps["tolerance"].notna().any()
            lines += self._describe_gap() if asked else self._describe_constraints()
            lines += self._describe_harm()
            if self.certificate is not None:
                lines.append(str(self.certificate))
        else:
            lines.append("There are no groups to compare: the method ran for utility alone.")
        if self.constant:
            lines.append("The network predicts one class only, so it is of no use.")
        if self.notes:
            lines.append(f"report_.notes says what was assumed and warned of ({len(self.notes)}).")
        return "\n".join(lines)

    def _describe_all(self) -> list[str]:
        both = self.groups.loc[OVERALL]
        alone = self.groups.loc[THRESHOLD_ONLY]
        old, new = both["accuracy", "before"], both["accuracy", "after"]
        lines = [
            f"On {both['', 'n']:.0f} {self.rows}rows the accuracy was {old:.3f} and is {new:.3f}.",
        ]
        if alone["accuracy", "after"] != old:
            lines.append(
                f"The chosen threshold alone would make it {alone['accuracy', 'after']:.3f}."
            )
        place = "calibration_error", OVERALL
        if place in self.measures.index:
            error = self.measures.loc[place]
            lines.append(
                f"The calibration error of the probabilities was {error['before']:.3f} and is "
                f"{error['after']:.3f}."
            )
        return lines

    def _describe_gap(self) -> list[str]:
        row = self.gaps[self.gaps["tolerance"].notna()].iloc[0]
        name = str(row.name).replace("_", " ")
        if row["after"] != row["after"]:
            return [f"The gap in {name} cannot be measured on these rows."]
        alone = ""
        if row["threshold_only"] != row["before"]:
            alone = f"; the threshold alone would make it {row['threshold_only']:.3f}"
        return [
            f"The gap in {name} was {row['before']:.3f} and is {row['after']:.3f}{alone}.",
            f"On all rows of this kind it is at most {row['upper']:.3f} with 95 % confidence; the "
            f"two-sided interval goes from {row['low']:.3f} to {row['high']:.3f}.",
            f"Exactly equal treatment would show {row['noise_floor']:.3f} on that many rows, by "
            f"chance{'; the gap cannot be told from 0' if row['low'] <= 0 else ''}.",
            self._describe_verdict(row),
        ]

    def _describe_constraints(self) -> list[str]:
        lines = []
        for name, row in self.constraints.iterrows():
            text = (
                f"Asked: {name} at most {row['limit']:.3g}; it was {row['before']:.3f} and is "
                f"{row['after']:.3f}, which {'meets' if row['met'] else 'does not meet'} it"
            )
            if row["met"] and row["upper"] <= row["limit"]:
                text += ", also at the upper bound"
            elif row["met"] and row["upper"] > row["limit"]:
                text += (
                    " on these rows, but they are too few to be sure: on all rows of this kind it "
                    f"is at most {row['upper']:.3f} with 95 % confidence"
                )
            lines.append(f"{text}.")
        return lines

    def _describe_verdict(self, row: Any) -> str:
        tolerance = f"the tolerance of {row['tolerance']:.3g}"
        if self.constant:
            return f"A network that predicts one class only never meets {tolerance}."
        if not row["met"]:
            return f"This does not meet {tolerance}."
        if row["upper"] <= row["tolerance"]:
            return f"This meets {tolerance}, also at the upper bound."
        return f"This meets {tolerance} on these rows, but the rows are too few to be sure."

    def _describe_harm(self) -> list[str]:
        lines = []
        for verdict, verb in (("fell", "lost"), ("rose", "gained")):
            rows = self.harm[self.harm["verdict"] == verdict]
            rows = rows.reindex(rows["change"].abs().sort_values(ascending=False).index)
            entries = [
                f"group {group} {verb} {abs(change):.3f} of its {rate}"
                for (group, rate), change in rows["change"].items()
            ]
            if entries:
                more = len(entries) - SHOWN
                end = f", and {more} more" if more > 0 else ""
                text = ", ".join(entries[:SHOWN]) + end
                lines.append(text[0].upper() + text[1:] + ".")
        if not self.lost:
            lines.append("No rate of any group fell beyond noise.")
        elif self.traded:
            lines.append("So a group lost while another gained.")
        else:
            lines.append("So groups lost, and no other group gained.")
        return lines
