"""Errors and warnings of the package, each a subclass of what scikit-learn users already catch."""

from __future__ import annotations

__all__ = [
    "CacheWarning",
    "ConstantPredictionsWarning",
    "ConstraintNotMetWarning",
    "DatasetNotFoundError",
    "FairsvdWarning",
    "GroupError",
    "IgnoredWeightsWarning",
    "ImageFileError",
    "InterruptedFitWarning",
    "LevellingDownWarning",
    "MissingSensitiveFeaturesWarning",
    "NetworkError",
    "OverfittedNetworkWarning",
    "RankWarning",
    "SkippedRowsWarning",
    "SmallCellWarning",
]


class GroupError(ValueError):
    """The sensitive features cannot be used as they came (missing, unknown, one group only)."""


class NetworkError(ValueError):
    """The network does not fit the data, or has nothing that could be edited."""


class DatasetNotFoundError(OSError):
    """A data set's files are not where they were looked for, and could not be downloaded."""


class ImageFileError(ValueError):
    """An image file is missing, cannot be read, or does not fit the others; it is named."""


class FairsvdWarning(UserWarning):
    """Base class of every warning of this package, so that one filter reaches them all."""


class CacheWarning(FairsvdWarning):
    """``memory=`` cannot be used for something, or an entry of it was damaged."""


class MissingSensitiveFeaturesWarning(FairsvdWarning):
    """``fit`` got no sensitive features: the method ran for utility alone."""


class ConstraintNotMetWarning(FairsvdWarning):
    """No candidate kept the gap within the tolerance at an acceptable utility."""


class ConstantPredictionsWarning(FairsvdWarning):
    """The chosen network predicts one class only on the validation rows."""


class LevellingDownWarning(FairsvdWarning):
    """The gap closed partly because some group is served worse than before."""


class SmallCellWarning(FairsvdWarning):
    """A (label, group) cell holds too few rows to measure or certify the tolerance."""


class OverfittedNetworkWarning(FairsvdWarning):
    """The network fits its training rows far better than unseen ones."""


class IgnoredWeightsWarning(FairsvdWarning):
    """A fitted network was passed unfrozen, so that its weights are not used."""


class InterruptedFitWarning(FairsvdWarning):
    """A fit was interrupted under ``on_interrupt="keep"``: it chose among what it had so far."""


class RankWarning(FairsvdWarning):
    """A rank was given in a form that is easily mistaken for another."""


class SkippedRowsWarning(FairsvdWarning):
    """A loader left out rows whose image or label cannot be used, as ``on_error="skip"`` asks."""
