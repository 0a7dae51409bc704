"""Errors and warnings of the package, each a subclass of what scikit-learn users already catch."""

from __future__ import annotations

__all__ = [
    "CacheWarning",
    "ConstantPredictionsWarning",
    "ConstraintNotMetWarning",
    "DamagedModelError",
    "DatasetNotFoundError",
    "FairsvdWarning",
    "GroupError",
    "IgnoredWeightsWarning",
    "ImageFileError",
    "InterruptedFitWarning",
    "LevellingDownWarning",
    "MissingSensitiveFeaturesWarning",
    "ModelFileError",
    "NetworkError",
    "OutOfMemoryWarning",
    "OutputKindWarning",
    "OverfittedNetworkWarning",
    "RankWarning",
    "SkippedRowsWarning",
    "SmallCellWarning",
    "UntrustedError",
]


class GroupError(ValueError):
    """The sensitive features cannot be used: missing, unknown, or of one group only."""


class NetworkError(ValueError):
    """The network does not fit the data, or has nothing that could be edited."""


class DatasetNotFoundError(OSError):
    """A data set's files are neither in the folder that was searched nor could be downloaded."""


class ImageFileError(ValueError):
    """An image file, named in the message, is missing, unreadable, or does not fit the others."""


class ModelFileError(ValueError):
    """A model cannot be saved, or a file of one cannot be loaded here as it was asked for."""


class DamagedModelError(ModelFileError):
    """The file of a model was altered, is not complete, or is none."""


class UntrustedError(ModelFileError):
    """The file of a model needs code, or a proof of its origin, that the caller has to allow."""


class FairsvdWarning(UserWarning):
    """Base class of every warning of this package, so that one filter reaches them all."""


class CacheWarning(FairsvdWarning):
    """A result cannot be cached under ``memory=``, or a cached entry was damaged."""


class MissingSensitiveFeaturesWarning(FairsvdWarning):
    """``fit`` got no sensitive features, so the method optimised utility alone."""


class ConstraintNotMetWarning(FairsvdWarning):
    """No candidate kept the gap within the tolerance at an acceptable utility."""


class ConstantPredictionsWarning(FairsvdWarning):
    """The chosen network predicts a single class on the validation rows."""


class LevellingDownWarning(FairsvdWarning):
    """The gap closed partly because the network serves some group worse than before."""


class SmallCellWarning(FairsvdWarning):
    """A (label, group) cell holds too few rows to measure or certify the tolerance."""


class OutputKindWarning(FairsvdWarning):
    """A network's output was taken for probabilities, but it could be logits."""


class OutOfMemoryWarning(FairsvdWarning):
    """A device's memory did not hold a batch, so that smaller ones were taken."""


class OverfittedNetworkWarning(FairsvdWarning):
    """The network fits its training rows far better than unseen ones."""


class IgnoredWeightsWarning(FairsvdWarning):
    """A fitted network was passed without freezing it, so its weights are not used."""


class InterruptedFitWarning(FairsvdWarning):
    """A fit under ``on_interrupt="keep"`` was interrupted and chose among its candidates so far."""


class RankWarning(FairsvdWarning):
    """A rank has a form that is easily mistaken for another."""


class SkippedRowsWarning(FairsvdWarning):
    """A loader under ``on_error="skip"`` left out rows whose image or label cannot be used."""
