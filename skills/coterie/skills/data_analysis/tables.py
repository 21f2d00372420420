"""Tables by polars: reading, filtering, statistics."""

from __future__ import annotations

import datetime
import decimal
import io
import json
import math
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

import polars as pl

from coterie.skills.data_analysis.request import COLUMNS_MAX, AnalysisRequest, Filter, Measure
from coterie.skills.errors import BadInput

INFER_ROWS = 10_000
TOP_VALUES = 10
TEXT_CHARS_MAX = 500
FORMATS = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")

_MEASURES: dict[str, Callable[[pl.Expr], pl.Expr]] = {
    "count": lambda column: column.count(),
    "sum": lambda column: column.sum(),  # of whole numbers: see _sum
    "mean": lambda column: column.mean(),
    "median": lambda column: column.median(),
    "min": lambda column: column.min(),
    "max": lambda column: column.max(),
    "std": lambda column: column.std(),
    "distinct": lambda column: column.drop_nulls().n_unique(),
}
_NUMBERS_ONLY = frozenset({"sum", "mean", "median", "std"})
_COMPARE: dict[str, Callable[[pl.Expr, Any], pl.Expr]] = {
    "==": lambda column, value: column == value,
    "!=": lambda column, value: column != value,
    "<": lambda column, value: column < value,
    "<=": lambda column, value: column <= value,
    ">": lambda column, value: column > value,
    ">=": lambda column, value: column >= value,
    "in": lambda column, value: column.is_in(value),
    "contains": lambda column, value: column.cast(pl.String).str.contains(str(value), literal=True),
    "null": lambda column, value: column.is_null(),
    "not null": lambda column, value: column.is_not_null(),
}


def read_file(file: BinaryIO, name: str, separator: str | None) -> pl.DataFrame:
    """The table of a file, by the end of its name. Raises BadInput."""
    kind = name[name.rfind(".") :].lower() if "." in name else ""
    if kind not in FORMATS:
        raise BadInput(f"path: {name!r} is none of {', '.join(FORMATS)}")
    try:
        if kind == ".parquet":
            return pl.read_parquet(file)
        if kind in (".jsonl", ".ndjson"):
            return _inferred(lambda rows: pl.read_ndjson(file, infer_schema_length=rows), file)
        if kind == ".json":
            return read_rows(json.load(file))
        return _read_csv(file, separator or ("\t" if kind == ".tsv" else ","))
    except RecursionError as error:
        raise BadInput(f"path: {name}: is nested too deeply") from error
    except (pl.exceptions.PolarsError, ValueError, OSError) as error:
        raise BadInput(f"path: {name}: is no table that can be read: {_line(error)}") from error


def read_text(text: str, separator: str | None) -> pl.DataFrame:
    """The table of CSV text. Raises BadInput."""
    try:
        return _read_csv(io.BytesIO(text.encode()), separator or ",")
    except (pl.exceptions.PolarsError, ValueError) as error:
        raise BadInput(f"csv: cannot be read: {_line(error)}") from error


def read_rows(rows: Any) -> pl.DataFrame:
    """The table of a list of objects. Raises BadInput."""
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BadInput("the JSON is no list of objects, one for each row")
    try:
        return pl.from_dicts(rows, infer_schema_length=None) if rows else pl.DataFrame()
    except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
        raise BadInput(f"rows: make no table: {_line(error)}") from error


def chosen(table: pl.DataFrame, request: AnalysisRequest) -> pl.DataFrame:
    """The rows for which all conditions hold. Raises BadInput."""
    for place, condition in enumerate(request.where):
        _check(table, (condition.column,), f"where[{place}].column")
        try:
            table = table.filter(_expression(table, condition))
        except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
            kind = table.schema[condition.column]
            said = f"{condition.column} is of type {kind}: {_line(error)}"
            raise BadInput(f"where[{place}].value: {condition.value!r} cannot be compared; {said}") from error
    return table


def describe(table: pl.DataFrame, columns: Sequence[str]) -> dict[str, Any]:
    """What is in each column."""
    names = _check(table, columns, "columns") or table.columns
    return {"rows": table.height, "columns": [_describe(table[name]) for name in names]}


def rows_of(table: pl.DataFrame, request: AnalysisRequest) -> dict[str, Any]:
    """The rows in the order that is wanted, as objects."""
    names = _check(table, request.columns, "columns")
    ordered = _sorted(table, request)
    shown = (ordered.select(names) if names else ordered).head(request.limit)
    rows = [{name: plain(value) for name, value in row.items()} for row in shown.iter_rows(named=True)]
    return {"rows": rows, "of": table.height, "truncated": table.height > len(rows)}


def grouped(table: pl.DataFrame, by: Sequence[str], measures: Sequence[Measure]) -> pl.DataFrame:
    """A row for each group, by the groups' names. Raises BadInput."""
    _check(table, by, "by")
    found = [_measure(table, measure, place) for place, measure in enumerate(measures)]
    titles = [*by, *(measure.title for measure in measures)]
    if len(set(titles)) < len(titles):
        raise BadInput(f"measures: two results have one name: {', '.join(titles)}; give them names")
    return table.group_by(by).agg(found).sort(by, nulls_last=True) if by else table.select(found)


def correlations(table: pl.DataFrame, columns: Sequence[str]) -> dict[str, Any]:
    """Pearson's coefficient of each pair of columns of numbers; None where one of them does not vary."""
    names = _check(table, columns, "columns") or [
        name for name, kind in table.schema.items() if kind.is_numeric()
    ]
    if len(names) > COLUMNS_MAX:
        raise BadInput(f"columns: {len(names)} columns of numbers; name at most {COLUMNS_MAX} of them")
    for name in names:
        _check_number(table, name, "columns")
    pairs = []
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            both = table.select(first, second).drop_nulls()
            found = both.select(pl.corr(first, second)).item() if both.height > 1 else None
            pairs.append({"columns": [first, second], "pearson": plain(found), "rows": both.height})
    return {"pairs": pairs}


def column_values(table: pl.DataFrame, name: str, where: str, *, number: bool) -> list[Any]:
    """One column for a chart. Raises BadInput."""
    _check(table, (name,), where)
    if number:
        _check_number(table, name, where)
        return [plain(value) for value in table[name].to_list()]  # what is not finite has no place
    return table[name].to_list()


def plain(value: Any) -> Any:
    """The value as JSON has it: no NaN, no infinity, times as ISO 8601."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")[:TEXT_CHARS_MAX]
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return value


def _read_csv(file: BinaryIO, separator: str) -> pl.DataFrame:
    def read(rows: int | None) -> pl.DataFrame:
        return pl.read_csv(
            file,
            separator=separator,
            infer_schema_length=rows,
            try_parse_dates=True,
            null_values=["", "NA"],
        )

    return _inferred(read, file)


def _inferred(read: Callable[[int | None], pl.DataFrame], file: BinaryIO) -> pl.DataFrame:
    """By the first rows, which is soon done; where later ones are otherwise, by all of them."""
    try:
        return read(INFER_ROWS)
    except pl.exceptions.ComputeError:
        file.seek(0)
        return read(None)


def _describe(column: pl.Series) -> dict[str, Any]:
    values = column.drop_nulls().alias("value")
    found: dict[str, Any] = {"name": column.name, "type": str(column.dtype), "nulls": column.null_count()}
    if isinstance(column.dtype, pl.List | pl.Struct | pl.Array | pl.Object):
        return found
    found["distinct"] = values.n_unique()
    if column.dtype.is_numeric() and values.len():
        quartiles = [values.quantile(share, "linear") for share in (0.25, 0.5, 0.75)]
        numbers: dict[str, Any] = dict(zip(("p25", "median", "p75"), quartiles, strict=True))
        numbers |= {"min": values.min(), "max": values.max(), "mean": values.mean(), "std": values.std()}
        numbers["sum"] = values.to_frame().select(_sum(values.dtype, pl.col("value"))).item()
        return found | {name: plain(value) for name, value in numbers.items()}
    if column.dtype.is_temporal() and values.len():
        return found | {"min": plain(values.min()), "max": plain(values.max())}
    counts = values.value_counts(name="rows").sort(["rows", "value"], descending=[True, False])
    top = counts.head(TOP_VALUES).iter_rows(named=True)
    return found | {"top": [{"value": _short(row["value"]), "rows": row["rows"]} for row in top]}


def _short(value: Any) -> Any:
    return value[:TEXT_CHARS_MAX] if isinstance(value, str) else plain(value)


def _sorted(table: pl.DataFrame, request: AnalysisRequest) -> pl.DataFrame:
    if request.sort is None:
        return table
    _check(table, (request.sort,), "sort")
    return table.sort(request.sort, descending=request.descending, nulls_last=True, maintain_order=True)


def _measure(table: pl.DataFrame, measure: Measure, place: int) -> pl.Expr:
    if measure.column is None:
        return pl.len().alias(measure.title)
    where = f"measures[{place}].column"
    _check(table, (measure.column,), where)
    if measure.function in _NUMBERS_ONLY:
        _check_number(table, measure.column, where)
    column, kind = pl.col(measure.column), table.schema[measure.column]
    found = _sum(kind, column) if measure.function == "sum" else _MEASURES[measure.function](column)
    return found.alias(measure.title)


def _sum(kind: pl.DataType, column: pl.Expr) -> pl.Expr:
    """Of 64 bits a sum would begin again at their end."""
    return (column.cast(pl.Int128) if kind.is_integer() else column).sum()


def _expression(table: pl.DataFrame, condition: Filter) -> pl.Expr:
    value, column, kind = condition.value, pl.col(condition.column), table.schema[condition.column]
    if condition.is_ == "in" and not isinstance(value, list):
        raise ValueError("in wants a list of values")
    if condition.is_ not in ("in", "null", "not null") and not isinstance(value, str | int | float):
        raise ValueError("a text, a number, true or false is wanted; null and not null want none")
    if kind.is_temporal() and condition.is_ not in ("contains", "null", "not null"):
        # Times are compared as times, however they are written; a date is its first moment.
        column = column.cast(pl.Datetime) if kind == pl.Date else column
        kind = pl.Datetime() if kind == pl.Date else kind
        value = [_moment(one, kind) for one in value] if isinstance(value, list) else _moment(value, kind)
    return _COMPARE[condition.is_](column, value)


def _moment(value: Any, kind: pl.DataType) -> Any:
    given = pl.Series([value], dtype=pl.String).str
    return given.to_time()[0] if kind == pl.Time else given.to_datetime().cast(kind)[0]


def _check(table: pl.DataFrame, names: Sequence[str], where: str) -> list[str]:
    """The names, all of them columns."""
    for name in names:
        if name not in table.columns:
            known = ", ".join(table.columns[:50]) or "none"
            raise BadInput(f"{where}: there is no column {name!r}; the columns are: {known}")
    if len(set(names)) < len(names):
        raise BadInput(f"{where}: a column is named twice: {', '.join(names)}")
    return list(names)


def _check_number(table: pl.DataFrame, name: str, where: str) -> None:
    kind = table.schema[name]
    if not (kind.is_numeric() or kind == pl.Boolean):
        raise BadInput(f"{where}: {name} is of type {kind}; numbers are needed")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
