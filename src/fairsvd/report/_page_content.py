"""The content of a report, of which every format is made."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ._evaluate import Evaluation
from ._page_words import Facts
from ._slices import calibration_by_slice, slice_frame

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Content"]

WEIGHTED = (
    "Rows are weighted: every rate, gap and measure is that of the weighted rows, n counts rows, "
    "and intervals, noise floors and the test of losses use the number of rows of equal weight "
    "that tell as much (Kish's effective number)."
)


@dataclass(frozen=True)
class Content:
    """What a report says.

    Attributes
    ----------
    evaluation : Evaluation
    facts : dict of section to list of (name, text)
    intended_use, owner : str
    """

    evaluation: Evaluation
    facts: dict[str, Facts]
    intended_use: str
    owner: str

    @cached_property
    def table(self) -> pd.DataFrame:
        """Every measure of every slice in each state."""
        return slice_frame(self.evaluation)

    @property
    def gaps(self) -> pd.DataFrame:
        """Every gap in each state, by each attribute and by the intersections."""
        import pandas as pd

        tables = {name: fit.gaps for name, fit in self.evaluation.fits.items()}
        return pd.concat(tables, names=["attribute"])

    @property
    def harm(self) -> pd.DataFrame:
        """Every rate whose fall is harm, by each attribute and by the intersections."""
        import pandas as pd

        tables = {name: fit.harm for name, fit in self.evaluation.fits.items()}
        return pd.concat(tables, names=["attribute"])

    @cached_property
    def calibration(self) -> pd.DataFrame:
        """How far each slice's probabilities are calibrated in each state, and what would mend."""
        return calibration_by_slice(self.evaluation)

    def summary(self) -> str:
        """Say in sentences what the edit did on these rows and who pays for it."""
        text: str = self.evaluation.fit.summary()
        return text if self.evaluation.weights is None else f"{WEIGHTED}\n{text}"
