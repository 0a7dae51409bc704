"""scikit-learn's own estimators, such as the scaler of a Pipeline, through skops."""

from __future__ import annotations

from typing import Any

from sklearn.base import BaseEstimator

from ..exceptions import UntrustedError
from ._kind import Kind, Node, Reader, Writer, bytes_as_tensor, unsavable

__all__ = ["STEPS"]

# What only the kinds of this package can save; inside a ColumnTransformer they are out of reach.
OURS = ("fairsvd.", "skorch.", "torch.")

# What only holds values or selects columns, which skops asks about all the same: a SimpleImputer
# keeps a dtype, a ColumnTransformer a selector of columns by type or name.
HARMLESS = {"numpy.dtype", "sklearn.compose._column_transformer.make_column_selector"}


def _takes_step(value: Any) -> bool:
    return isinstance(value, BaseEstimator) and type(value).__module__.startswith("sklearn.")


def _skops() -> Any:
    try:
        import skops.io
    except ImportError as error:
        raise ImportError(
            "the preprocessing of a Pipeline is saved and loaded through skops: pip install "
            "fairsvd[pipelines]"
        ) from error
    return skops.io


def _write_step(value: BaseEstimator, writer: Writer) -> dict[str, Node]:
    skops = _skops()
    try:
        data: bytes = skops.dumps(value)
        needed = skops.get_untrusted_types(data=data)
    except Exception as error:
        # skops has errors of many classes for what it cannot write.
        raise unsavable(writer, value, f"skops cannot write it ({error})") from error
    wrong = [name for name in needed if name.startswith(OURS) or "<" in name]
    if wrong:
        raise unsavable(writer, value, f"skops cannot write what it holds: {', '.join(wrong)}")
    return {"part": writer.part(bytes_as_tensor(data)), "paths": sorted(set(needed) - HARMLESS)}


def _read_step(node: dict[str, Node], reader: Reader) -> Any:
    skops = _skops()
    data = reader.part(node["part"]).numpy().tobytes()
    # Asked anew, since the list in the file may say anything.
    needed = skops.get_untrusted_types(data=data)
    lacking = [name for name in needed if name not in {*reader.names.trusted, *HARMLESS}]
    if lacking:
        raise UntrustedError(f"skops would import {', '.join(lacking)}, which nobody allowed")
    return skops.loads(data, trusted=needed)


STEPS = (Kind("step", _takes_step, _write_step, _read_step),)
