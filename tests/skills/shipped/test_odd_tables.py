"""Tables that are odd and legal: large numbers, missing values, times, names that something else has too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coterie.skills.data_analysis import tables
from tests.skills.shipped.support import refusal, value

SKILL = "data-analysis"
AB = [{"a": 1, "b": "x"}, {"a": 2, "b": None}]
TIMES = "at,day,n\n10:00:00,2024-01-15,1\n11:30:00,2024-01-16,2\n"


async def ask(operation: str, **more: Any) -> Any:
    return await value(SKILL, {"operation": operation, **more})


async def test_the_sum_of_whole_numbers_is_exact_whatever_they_are() -> None:
    rows = [{"g": n % 2, "a": 2**62} for n in range(8)]
    found = await ask("group", rows=rows, by=["g"], measures=[{"column": "a", "function": "sum"}])
    assert [row["a_sum"] for row in found["rows"]] == [2**64, 2**64]
    whole = await ask("group", rows=rows, measures=[{"column": "a", "function": "sum"}])
    assert whole["rows"] == [{"a_sum": 2**65}]
    (column,) = (await ask("describe", rows=rows, columns=["a"]))["columns"]
    assert column["sum"] == 2**65


@pytest.mark.parametrize(
    ("condition", "named"),
    [
        ({"column": "b", "is": "=="}, "where[0].value: None cannot be compared"),
        ({"column": "b", "is": "contains"}, "null and not null want none"),
        ({"column": "a", "is": "==", "value": {"x": 1}}, "where[0].value"),
        ({"column": "a", "is": "<", "value": [1, 2]}, "where[0].value"),
    ],
)
async def test_a_condition_without_a_value_is_refused(condition: Any, named: str) -> None:
    ended = await refusal(SKILL, {"operation": "table", "rows": AB, "where": [condition]})
    assert ended.code == "BAD_INPUT" and named in ended.message, ended.message


@pytest.mark.parametrize(
    ("column", "sign", "given", "found"),
    [
        ("at", "==", "10:00:00", [1]),
        ("at", ">", "10:00", [2]),
        ("at", "in", ["11:30:00"], [2]),
        ("day", "<", "2024-01-15T12:00:00", [1]),
        ("day", "==", "2024-01-16", [2]),
        ("day", ">=", "2024-01-15T00:00:01", [2]),
        ("day", "in", ["2024-01-16", "2024-01-17"], [2]),
    ],
)
async def test_times_and_days_are_compared(column: str, sign: str, given: Any, found: list[int]) -> None:
    where = [{"column": column, "is": sign, "value": given}]
    assert [row["n"] for row in (await ask("table", csv=TIMES, where=where))["rows"]] == found


async def test_a_column_may_be_called_as_it_likes() -> None:
    rows = [{"rows": "x", "value": 1, "count": "y"}, {"rows": "x", "value": 2, "count": "z"}]
    first, second, third = (await ask("describe", rows=rows))["columns"]
    assert (first["name"], first["top"]) == ("rows", [{"value": "x", "rows": 2}])
    assert (second["name"], second["sum"], third["distinct"]) == ("value", 3, 2)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"operation": "table", "rows": AB, "columns": ["a", "a"]}, "columns: a column is named twice"),
        ({"operation": "correlate", "rows": AB, "columns": ["a", "a"]}, "columns: a column is named twice"),
        (
            {"operation": "group", "rows": [{"a": [1]}], "measures": [{"column": "a", "function": "min"}]},
            "group: cannot be done with these columns",
        ),
        (
            {"operation": "correlate", "rows": [{f"c{n}": n for n in range(501)}]},
            "columns: 501 columns of numbers; name at most 500",
        ),
    ],
)
async def test_what_cannot_be_answered_is_refused(given: dict[str, Any], named: str) -> None:
    ended = await refusal(SKILL, given)
    assert ended.code == "BAD_INPUT" and named in ended.message, ended.message


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
async def test_later_rows_may_be_otherwise_than_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(tables, "INFER_ROWS", 3)
    lines = ["a", *"1111", "1.5"] if kind == "csv" else [f'{{"a": {n}}}' for n in (1, 1, 1, 1, 1.5)]
    (tmp_path / f"t.{kind}").write_text("\n".join(lines) + "\n")
    given = {"operation": "group", "path": f"t.{kind}", "measures": [{"column": "a", "function": "sum"}]}
    assert (await value(SKILL, given, {"paths": [str(tmp_path)]}))["rows"] == [{"a_sum": 5.5}]


async def test_a_file_that_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text("[" * 100_000)
    given = {"operation": "describe", "path": "deep.json"}
    ended = await refusal(SKILL, given, {"paths": [str(tmp_path)]})
    assert (ended.code, "nested too deeply" in ended.message) == ("BAD_INPUT", True)


@pytest.mark.parametrize(
    ("csv", "chart"),
    [
        ("a\n1\ninf\nNaN\n3\n", {"kind": "histogram", "x": "a"}),
        ("a,b\n1,1\n,2\ninf,3\n2,inf\n", {"kind": "scatter", "x": "a", "y": ["b"]}),
        ("a,b\nx,1\ny,inf\n", {"kind": "bar", "x": "a", "y": ["b"]}),
        ("a,b\nx,1\n,2\ny,3\n", {"kind": "line", "x": "a", "y": ["b"]}),
        (TIMES, {"kind": "line", "x": "at", "y": ["n"]}),
        (TIMES, {"kind": "line", "x": "day", "y": ["n"], "title": "from $5_{ to $6"}),
    ],
)
async def test_a_chart_is_drawn_of_what_has_a_place(csv: str, chart: dict[str, Any]) -> None:
    drawn = await ask("chart", csv=csv, chart={**chart, "format": "svg"})
    assert chart.get("title", "svg") in drawn["content"]
