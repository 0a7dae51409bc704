"""pandas' tables, columns, indices, types and single values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..exceptions import DamagedModelError
from ._kind import Kind, Node, Reader, Writer, unsavable

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FRAMES"]

# Types of columns that are written value by value, of those that are no numpy types.
BY_VALUE = ("boolean Int8 Int16 Int32 Int64 UInt8 UInt16 UInt32 UInt64 Float32 Float64").split()


def _named(name: str) -> Any:
    """Make the test for a class of pandas, without an import of pandas for other values."""

    def test(value: Any) -> bool:
        kinds = type(value).__mro__
        return any(k.__name__ == name and k.__module__.split(".")[0] == "pandas" for k in kinds)

    return test


def _values_of(data: Any) -> Any:
    """Return a column's or an index's values: a numpy array where they are one."""
    return data.to_numpy() if isinstance(data.dtype, np.dtype) else data.array


def _write_frame(value: pd.DataFrame, writer: Writer) -> dict[str, Node]:
    columns = [writer.node(_values_of(value.iloc[:, k]), f"[{k}]") for k in range(value.shape[1])]
    return {
        "columns": writer.node(value.columns, ".columns"),
        "index": writer.node(value.index, ".index"),
        "values": columns,
        "attrs": writer.node(value.attrs, ".attrs"),
    }


def _read_frame(node: dict[str, Node], reader: Reader) -> pd.DataFrame:
    import pandas as pd

    index, arrays = reader.value(node["index"]), reader.value(node["values"])
    series = [pd.Series(array, index=index, dtype=array.dtype) for array in arrays]
    frame = pd.concat(series, axis=1) if series else pd.DataFrame(index=index)
    frame.columns = reader.value(node["columns"])
    frame.attrs = reader.value(node["attrs"])
    return frame


def _write_series(value: pd.Series, writer: Writer) -> dict[str, Node]:
    return {
        "array": writer.node(_values_of(value)),
        "index": writer.node(value.index, ".index"),
        "name": writer.node(value.name, ".name"),
    }


def _read_series(node: dict[str, Node], reader: Reader) -> pd.Series:
    import pandas as pd

    array, index = reader.value(node["array"]), reader.value(node["index"])
    name = reader.value(node["name"])
    return pd.Series(array, index=index, dtype=array.dtype, name=name)


def _write_index(value: pd.Index, writer: Writer) -> dict[str, Node]:
    import pandas as pd

    names = writer.node(list(value.names), ".names")
    if isinstance(value, pd.RangeIndex):
        return {"names": names, "range": [value.start, value.stop, value.step]}
    if isinstance(value, pd.MultiIndex):
        levels = [writer.node(level, ".levels") for level in value.levels]
        codes = [writer.node(np.asarray(each), ".codes") for each in value.codes]
        return {"names": names, "levels": levels, "codes": codes}
    freq = getattr(value, "freqstr", None)
    return {"names": names, "array": writer.node(_values_of(value)), "freq": freq}


def _read_index(node: dict[str, Node], reader: Reader) -> pd.Index:
    import pandas as pd

    names = reader.value(node["names"])
    if "range" in node:
        start, stop, step = node["range"]
        return pd.RangeIndex(start, stop, step, name=names[0])
    if "levels" in node:
        levels, codes = reader.value(node["levels"]), reader.value(node["codes"])
        return pd.MultiIndex(levels, codes, names=names)
    array = reader.value(node["array"])
    index = pd.Index(array, dtype=array.dtype, name=names[0])
    if node["freq"] is not None and not isinstance(index, pd.PeriodIndex):
        index.freq = node["freq"]
    return index


def _wraps_numpy(array: Any) -> bool:
    return type(array).__name__ == "NumpyExtensionArray"


def _write_array(value: Any, writer: Writer) -> dict[str, Node]:
    import pandas as pd

    # The type of an array that wraps a numpy array.
    dtype = value.to_numpy().dtype if _wraps_numpy(value) else value.dtype
    node = {"dtype": writer.node(dtype)}
    if isinstance(dtype, np.dtype):
        return {**node, "values": writer.node(np.asarray(value))}
    if isinstance(dtype, pd.CategoricalDtype):
        return {**node, "values": writer.node(np.asarray(value.codes))}
    if isinstance(dtype, (pd.DatetimeTZDtype, pd.PeriodDtype)):
        return {**node, "values": writer.node(value.asi8)}
    if isinstance(dtype, pd.IntervalDtype):
        sides = {side: writer.node(getattr(value, side), f".{side}") for side in ("left", "right")}
        return {**node, **sides}
    if dtype.name in BY_VALUE or isinstance(dtype, pd.StringDtype):
        missing = np.asarray(value.isna())
        known = value[~missing].astype(object).tolist()
        return {**node, "missing": writer.node(missing), "known": writer.node(known)}
    raise unsavable(writer, dtype, f"the pandas type {dtype} is none that a file can hold")


def _read_array(node: dict[str, Node], reader: Reader) -> Any:
    import pandas as pd

    dtype = reader.value(node["dtype"])
    if "missing" in node:
        items = reader.value(node["missing"]).astype(object)
        missing = items.astype(bool)
        items[missing] = pd.NA
        items[~missing] = reader.value(node["known"])
        return pd.array(items, dtype=dtype)
    if "left" in node:
        left, right = reader.value(node["left"]), reader.value(node["right"])
        return pd.arrays.IntervalArray.from_arrays(left, right, closed=dtype.closed, dtype=dtype)
    values = reader.value(node["values"])
    if isinstance(dtype, pd.CategoricalDtype):
        return pd.Categorical.from_codes(values, dtype=dtype)
    if isinstance(dtype, pd.DatetimeTZDtype):
        ticks = values.view(f"M8[{dtype.unit}]")
        return pd.DatetimeIndex(ticks).tz_localize("UTC").tz_convert(dtype.tz).array
    if isinstance(dtype, pd.PeriodDtype):
        return pd.arrays.PeriodArray(values, dtype=dtype)
    return pd.Series(values, dtype=dtype).array


def _write_dtype(dtype: Any, writer: Writer) -> dict[str, Node]:
    import pandas as pd

    if isinstance(dtype, pd.CategoricalDtype):
        categories = None if dtype.categories is None else writer.node(dtype.categories)
        return {"categories": categories, "ordered": dtype.ordered}
    if isinstance(dtype, pd.IntervalDtype):
        return {"subtype": writer.node(dtype.subtype), "closed": dtype.closed}
    if isinstance(dtype, pd.StringDtype):
        missing = "NA" if dtype.na_value is pd.NA else "NaN"
        return {"storage": dtype.storage, "missing": missing}
    if isinstance(dtype, (pd.DatetimeTZDtype, pd.PeriodDtype)) or dtype.name in BY_VALUE:
        return {"text": str(dtype)}
    raise unsavable(writer, dtype, f"the pandas type {dtype} is none that a file can hold")


def _read_dtype(node: dict[str, Node], reader: Reader) -> Any:
    import pandas as pd

    if "categories" in node:
        return pd.CategoricalDtype(reader.value(node["categories"]), ordered=node["ordered"])
    if "closed" in node:
        return pd.IntervalDtype(reader.value(node["subtype"]), closed=node["closed"])
    if "storage" in node:
        missing = pd.NA if node["missing"] == "NA" else np.nan
        return pd.StringDtype(node["storage"], na_value=missing)
    return pd.api.types.pandas_dtype(str(node["text"]))


def _write_moment(value: Any, writer: Writer) -> dict[str, Node]:
    zone = None if getattr(value, "tz", None) is None else str(value.tz)
    return {"type": type(value).__name__, "ticks": value._value, "unit": value.unit, "zone": zone}


def _read_moment(node: dict[str, Node], reader: Reader) -> Any:
    import pandas as pd

    if node["type"] == "Timedelta":
        return pd.Timedelta(np.timedelta64(node["ticks"], node["unit"]))
    moment = pd.Timestamp(np.datetime64(node["ticks"], node["unit"]))
    return moment if node["zone"] is None else moment.tz_localize("UTC").tz_convert(node["zone"])


def _write_interval(value: Any, writer: Writer) -> dict[str, Node]:
    sides = writer.node(value.left), writer.node(value.right)
    return {"left": sides[0], "right": sides[1], "closed": value.closed}


def _read_interval(node: dict[str, Node], reader: Reader) -> Any:
    import pandas as pd

    return pd.Interval(reader.value(node["left"]), reader.value(node["right"]), node["closed"])


def _read_missing(node: dict[str, Node], reader: Reader) -> Any:
    import pandas as pd

    if node["name"] not in ("NA", "NaT"):
        raise DamagedModelError(f"{node['name']!r} is no missing value")
    return getattr(pd, node["name"])


def _is_missing(value: Any) -> bool:
    return type(value).__name__ in ("NAType", "NaTType")


def _is_moment(value: Any) -> bool:
    return _named("Timestamp")(value) or _named("Timedelta")(value)


FRAMES = (
    Kind("missing", _is_missing, lambda v, w: {"name": type(v).__name__[:-4]}, _read_missing),
    Kind("moment", _is_moment, _write_moment, _read_moment),
    Kind("interval", _named("Interval"), _write_interval, _read_interval),
    Kind(
        "period",
        _named("Period"),
        lambda v, w: {"ordinal": v.ordinal, "freq": v.freqstr},
        lambda n, r: _period(n),
    ),
    Kind("frame", _named("DataFrame"), _write_frame, _read_frame),
    Kind("series", _named("Series"), _write_series, _read_series),
    Kind("index", _named("Index"), _write_index, _read_index),
    Kind("pandas dtype", _named("ExtensionDtype"), _write_dtype, _read_dtype),
    Kind("pandas array", _named("ExtensionArray"), _write_array, _read_array),
)


def _period(node: dict[str, Node]) -> Any:
    import pandas as pd

    return pd.Period(ordinal=node["ordinal"], freq=node["freq"])
