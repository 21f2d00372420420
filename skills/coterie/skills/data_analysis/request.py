"""What data-analysis is asked, and what its operator says."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from coterie.skills.file_management.request import AllowedPath, PathText
from coterie.skills.shipped import Input, Settings

MIB = 1024**2
COLUMNS_MAX = 500
ROWS_MAX = 10_000

Column = Annotated[str, Field(min_length=1, max_length=300)]
Columns = Annotated[tuple[Column, ...], Field(max_length=COLUMNS_MAX)]
Function = Literal["count", "sum", "mean", "median", "min", "max", "std", "distinct"]


class Filter(Input):
    """A condition; all must hold."""

    column: Column
    is_: Literal["==", "!=", "<", "<=", ">", ">=", "in", "contains", "null", "not null"] = Field(alias="is")
    value: Any = Field(None, description="a list for in; nothing for null and not null")


class Measure(Input):
    """A number for each group."""

    function: Function
    column: Column | None = Field(None, description="not needed for count")
    name: Annotated[str, Field(max_length=300)] = Field("", description="of the result; else column_function")

    @model_validator(mode="after")
    def _has_column(self) -> Measure:
        if self.column is None and self.function != "count":
            raise ValueError(f"{self.function} needs a column")
        return self

    @property
    def title(self) -> str:
        """What its column is called."""
        return self.name or (f"{self.column}_{self.function}" if self.column else self.function)


class Chart(Input):
    """A picture."""

    kind: Literal["line", "bar", "scatter", "histogram", "box"]
    x: Column | None = Field(None, description="column along the bottom; histogram: the one that is counted")
    y: Annotated[tuple[Column, ...], Field(max_length=12)] = Field((), description="columns that are drawn")
    title: Annotated[str, Field(max_length=300)] = ""
    x_label: Annotated[str, Field(max_length=100)] = ""
    y_label: Annotated[str, Field(max_length=100)] = ""
    format: Literal["png", "svg"] = "png"
    width: Annotated[int, Field(ge=200, le=4_000)] = Field(900, description="pixels")
    height: Annotated[int, Field(ge=150, le=4_000)] = Field(500, description="pixels")
    bins: Annotated[int, Field(ge=2, le=500)] = Field(20, description="of a histogram")

    @model_validator(mode="after")
    def _has_columns(self) -> Chart:
        if self.kind == "histogram" and self.x is None:
            raise ValueError("a histogram needs x, the column that is counted")
        if self.kind != "histogram" and not self.y:
            raise ValueError(f"a {self.kind} chart needs y, the columns that are drawn")
        if self.kind in ("line", "bar", "scatter") and self.x is None:
            raise ValueError(f"a {self.kind} chart needs x")
        return self


class AnalysisRequest(Input):
    """One question to one table."""

    operation: Literal["describe", "table", "group", "correlate", "chart"]
    path: PathText | None = Field(None, description="of the file with the table")
    csv: Annotated[str, Field(max_length=8 * MIB)] | None = Field(None, description="the table as CSV text")
    rows: list[dict[str, Any]] | None = Field(None, description="the table as objects")
    separator: Annotated[str, Field(min_length=1, max_length=1)] | None = Field(
        None, description="between the values of CSV; comma, and tab in .tsv"
    )
    columns: Columns = Field((), description="only these; none: all")
    where: Annotated[tuple[Filter, ...], Field(max_length=50)] = ()
    by: Annotated[tuple[Column, ...], Field(max_length=10)] = Field(
        (), description="columns that make groups"
    )
    measures: Annotated[tuple[Measure, ...], Field(max_length=50)] = ()
    sort: Column | None = None
    descending: bool = False
    limit: Annotated[int, Field(ge=1, le=ROWS_MAX)] = Field(100, description="rows in the answer")
    chart: Chart | None = None
    save_to: PathText | None = Field(None, description="chart: write it to this file instead of answering it")

    @model_validator(mode="after")
    def _has_all(self) -> AnalysisRequest:
        if [self.path, self.csv, self.rows].count(None) != 2:
            raise ValueError("give the table in one way: path, csv or rows")
        if self.operation == "group" and not self.measures:
            raise ValueError("group needs measures, such as [{'function': 'count'}]")
        if (self.operation == "chart") != (self.chart is not None):
            raise ValueError("operation chart and the key chart go together")
        if self.measures and self.operation not in ("group", "chart"):
            raise ValueError(f"measures mean nothing to {self.operation}; ask for group or chart")
        if self.save_to is not None and self.chart is None:
            raise ValueError("save_to is for charts")
        return self


class AnalysisSettings(Settings):
    """`skills.settings.data-analysis`. Sizes are bytes."""

    paths: tuple[AllowedPath | Annotated[str, Field(pattern="^/")], ...] = ()
    file_bytes_max: Annotated[int, Field(ge=1)] = 256 * MIB
    chart_bytes_max: Annotated[int, Field(ge=1, le=8 * MIB)] = MIB

    @property
    def allowed(self) -> tuple[AllowedPath, ...]:
        """Those given as text may be read only."""
        return tuple(AllowedPath(path=one) if isinstance(one, str) else one for one in self.paths)
