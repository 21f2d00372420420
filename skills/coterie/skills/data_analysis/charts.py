"""Charts by matplotlib, drawn without a screen and the same each time."""

from __future__ import annotations

import datetime
import decimal
import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import polars as pl
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from coterie.skills.data_analysis.request import Chart
from coterie.skills.data_analysis.tables import column_values, plain
from coterie.skills.errors import BadInput

DPI = 100
POINTS_MAX = 200_000
BARS_MAX = 200
LABEL_CHARS_MAX = 40


def draw(table: pl.DataFrame, chart: Chart) -> bytes:
    """The picture. Raises BadInput."""
    if table.height == 0:
        raise BadInput("chart: no rows are left to draw; look at where")
    if table.height > POINTS_MAX:
        raise BadInput(f"chart: {table.height} rows, at most {POINTS_MAX} can be drawn; use by and measures")
    # Nothing of the picture may depend on when or where it was drawn.
    with rc_context({"svg.hashsalt": "coterie", "svg.fonttype": "none", "text.parse_math": False}):
        figure = Figure(figsize=(chart.width / DPI, chart.height / DPI), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        _KINDS[chart.kind](axes, table, chart)
        axes.set_title(chart.title)
        axes.set_xlabel(chart.x_label or chart.x or "")
        axes.set_ylabel(chart.y_label or (chart.y[0] if len(chart.y) == 1 else ""))
        if len(chart.y) > 1 and chart.kind != "box":
            axes.legend()
        out = io.BytesIO()
        figure.savefig(out, format=chart.format, metadata={"Date": None} if chart.format == "svg" else None)
    return out.getvalue()


def _line(axes: Axes, table: pl.DataFrame, chart: Chart) -> None:
    assert chart.x is not None
    ordered = table.drop_nulls(chart.x).sort(chart.x) if chart.x in table.columns else table
    along = [_shown(value) for value in column_values(ordered, chart.x, "chart.x", number=False)]
    for name in chart.y:
        axes.plot(along, _numbers(ordered, name), marker="o" if len(along) <= 50 else None, label=name)
    if along and isinstance(along[0], str):
        _turn(axes, along)


def _shown(value: Any) -> Any:
    """What matplotlib knows no axis for is shown as text."""
    return (
        value if isinstance(value, str | int | float | decimal.Decimal | datetime.date) else str(plain(value))
    )


def _bar(axes: Axes, table: pl.DataFrame, chart: Chart) -> None:
    assert chart.x is not None
    if table.height > BARS_MAX:
        raise BadInput(f"chart: {table.height} bars, at most {BARS_MAX} can be drawn; use by and measures")
    names = [str(value)[:LABEL_CHARS_MAX] for value in column_values(table, chart.x, "chart.x", number=False)]
    width = 0.8 / len(chart.y)
    for place, name in enumerate(chart.y):
        shift = (place - (len(chart.y) - 1) / 2) * width
        heights = [value or 0 for value in _numbers(table, name)]
        axes.bar([at + shift for at in range(len(names))], heights, width, label=name)
    axes.set_xticks(range(len(names)), names)
    _turn(axes, names)


def _scatter(axes: Axes, table: pl.DataFrame, chart: Chart) -> None:
    assert chart.x is not None
    table = table.drop_nulls(chart.x) if chart.x in table.columns else table
    along = [math.nan if x is None else x for x in column_values(table, chart.x, "chart.x", number=True)]
    for name in chart.y:
        axes.scatter(along, _numbers(table, name), s=12, label=name)


def _histogram(axes: Axes, table: pl.DataFrame, chart: Chart) -> None:
    assert chart.x is not None
    values = column_values(table, chart.x, "chart.x", number=True)
    axes.hist([value for value in values if value is not None], bins=chart.bins)


def _box(axes: Axes, table: pl.DataFrame, chart: Chart) -> None:
    values = [[value for value in _numbers(table, name) if value is not None] for name in chart.y]
    axes.boxplot(values, tick_labels=list(chart.y))


def _numbers(table: pl.DataFrame, name: str) -> list[Any]:
    return column_values(table, name, "chart.y", number=True)


def _turn(axes: Axes, names: Sequence[object]) -> None:
    """Long or many names stand upright."""
    if len(names) > 8 or any(len(str(name)) > 12 for name in names):
        axes.tick_params(axis="x", rotation=90)


_KINDS: dict[str, Callable[[Axes, pl.DataFrame, Chart], None]] = {
    "line": _line,
    "bar": _bar,
    "scatter": _scatter,
    "histogram": _histogram,
    "box": _box,
}
