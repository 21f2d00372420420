"""The answers to all operations; imported when the first is asked for, because its libraries are large."""

from __future__ import annotations

import os
from typing import Any

import polars as pl

from coterie.skills.data_analysis import tables
from coterie.skills.data_analysis.request import AnalysisRequest, AnalysisSettings
from coterie.skills.errors import BadInput, TooLarge
from coterie.skills.file_management.scope import Place, opened
from coterie.skills.shipped import needs_extra


def answer(
    request: AnalysisRequest, settings: AnalysisSettings, source: Place | None
) -> dict[str, Any] | bytes:
    """What was asked; bytes: a picture. Raises BadInput, TooLarge, MissingExtra, OSError."""
    try:
        return _answered(request, settings, source)
    except pl.exceptions.PolarsError as error:  # such as the least of a column of lists
        said = " ".join(str(error).split())[:300]
        raise BadInput(f"{request.operation}: cannot be done with these columns: {said}") from error


def _answered(
    request: AnalysisRequest, settings: AnalysisSettings, source: Place | None
) -> dict[str, Any] | bytes:
    table = tables.chosen(_table(request, settings, source), request)
    if request.operation == "describe":
        return tables.describe(table, request.columns)
    if request.operation == "correlate":
        return tables.correlations(table, request.columns)
    if request.measures:
        table = tables.grouped(table, request.by, request.measures)
    if request.chart is None:
        return tables.rows_of(table, request)
    with needs_extra("data"):
        from coterie.skills.data_analysis import charts

    picture = charts.draw(table, request.chart)
    if len(picture) > settings.chart_bytes_max:
        most = settings.chart_bytes_max
        raise TooLarge(f"the chart has {len(picture)} bytes, the limit is {most}; make it smaller, or PNG")
    return picture


def _table(request: AnalysisRequest, settings: AnalysisSettings, source: Place | None) -> pl.DataFrame:
    if source is None:
        if request.csv is not None:
            return tables.read_text(request.csv, request.separator)
        return tables.read_rows(request.rows)
    with opened(source) as fd, os.fdopen(os.dup(fd), "rb") as file:
        size = os.fstat(fd).st_size
        if size > settings.file_bytes_max:
            raise TooLarge(f"{source.path}: {size} bytes, the limit is {settings.file_bytes_max}")
        return tables.read_file(file, source.path, request.separator)
