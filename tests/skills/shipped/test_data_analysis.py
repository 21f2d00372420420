"""Figures of real files, compared with Python's own; charts that are pictures; mistakes that are named."""

from __future__ import annotations

import base64
import io
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import polars
import pytest
from PIL import Image

from tests.skills.shipped.support import Journal, attempt, hide, refusal, value

SKILL = "data-analysis"
CITIES = ("Rome", "Oslo", "Lima")
ROWS: list[dict[str, Any]] = [
    {
        "city": CITIES[n % 3],
        "day": f"2026-01-{n % 28 + 1:02}",
        "price": n * 1.5,
        "sold": None if n % 7 == 0 else n,
    }
    for n in range(60)
]
CHART = {"kind": "bar", "x": "city", "y": ["price_mean"], "title": "Prices"}
BY_CITY = {"by": ["city"], "measures": [{"function": "mean", "column": "price"}]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    table = polars.DataFrame(ROWS)
    table.write_csv(tmp_path / "t.csv")
    table.write_csv(tmp_path / "t.tsv", separator="\t")
    table.write_parquet(tmp_path / "t.parquet")
    table.write_ndjson(tmp_path / "t.jsonl")
    (tmp_path / "t.json").write_text(json.dumps(ROWS))
    (tmp_path / "broken.parquet").write_text("no")
    (tmp_path / "notes.txt").write_text("no")
    return tmp_path


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    return {"paths": [{"path": str(folder), "write": True}], **more}


def litter(folder: Path) -> list[Path]:
    return list(folder.glob(".coterie-*"))


async def ask(operation: str, **more: Any) -> Any:
    table = {} if more.keys() & {"path", "csv"} else {"rows": ROWS}
    return await value(SKILL, {"operation": operation, **table, **more})


async def test_columns_are_described_as_python_would() -> None:
    found = await ask("describe")
    city, day, price, sold = found["columns"]
    prices = [row["price"] for row in ROWS]
    assert (found["rows"], city["distinct"], city["top"][0]) == (60, 3, {"value": "Lima", "rows": 20})
    assert day["distinct"] == 28
    assert price["mean"] == pytest.approx(statistics.fmean(prices))
    assert price["std"] == pytest.approx(statistics.stdev(prices))
    assert (price["min"], price["max"], price["sum"]) == (0, 88.5, sum(prices))
    quartiles = statistics.quantiles(prices, n=4, method="inclusive")
    assert [price["p25"], price["median"], price["p75"]] == pytest.approx(quartiles)
    assert (sold["nulls"], sold["distinct"]) == (9, 51)
    assert [one["name"] for one in (await ask("describe", columns=["price"]))["columns"]] == ["price"]


async def test_all_formats_give_the_same(folder: Path) -> None:
    wanted = {**BY_CITY, "operation": "group"}
    answers = [
        await value(SKILL, {**wanted, "path": f"t.{kind}"}, settings(folder))
        for kind in ("csv", "tsv", "json", "jsonl", "parquet")
    ]
    means = {city: statistics.fmean([row["price"] for row in ROWS if row["city"] == city]) for city in CITIES}
    assert answers[0]["rows"] == [{"city": city, "price_mean": means[city]} for city in sorted(CITIES)]
    assert all(answer == answers[0] for answer in answers)
    text = (folder / "t.csv").read_text().replace(",", ";")
    assert await ask("group", csv=text, separator=";", **BY_CITY) == answers[0]


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        (("price", "==", 3), lambda row: row["price"] == 3),
        (("price", "!=", 3), lambda row: row["price"] != 3),
        (("price", "<", 3), lambda row: row["price"] < 3),
        (("price", "<=", 3), lambda row: row["price"] <= 3),
        (("price", ">", 80), lambda row: row["price"] > 80),
        (("price", ">=", 81), lambda row: row["price"] >= 81),
        (("city", "in", ["Rome", "Nowhere"]), lambda row: row["city"] == "Rome"),
        (("city", "contains", "o"), lambda row: "o" in row["city"]),
        (("city", "contains", "."), lambda row: False),
        (("sold", "null", None), lambda row: row["sold"] is None),
        (("sold", "not null", None), lambda row: row["sold"] is not None),
    ],
)
async def test_rows_are_filtered(condition: tuple[str, str, Any], holds: Any) -> None:
    column, test, wanted = condition
    found = await ask("table", where=[{"column": column, "is": test, "value": wanted}])
    assert found["rows"] == [row for row in ROWS if holds(row)]


async def test_times_in_files_are_compared_as_times(folder: Path) -> None:
    later = {"column": "day", "is": ">=", "value": "2026-01-27"}
    given = {"operation": "table", "path": "t.csv", "columns": ["day"], "where": [later]}
    rows = (await value(SKILL, given, settings(folder)))["rows"]
    assert [row["day"] for row in rows] == [row["day"] for row in ROWS if str(row["day"]) >= "2026-01-27"]
    given["where"] = [{**later, "value": "soon"}]
    assert "where[0].value: 'soon'" in (await refusal(SKILL, given, settings(folder))).message


async def test_rows_are_sorted_and_cut() -> None:
    found = await ask("table", columns=["sold"], sort="sold", descending=True, limit=3)
    assert found == {"rows": [{"sold": 59}, {"sold": 58}, {"sold": 57}], "of": 60, "truncated": True}


async def test_groups_have_all_measures() -> None:
    functions = ("count", "sum", "mean", "median", "min", "max", "std", "distinct")
    measures = [{"function": one, "column": "sold", "name": one} for one in functions]
    found = await ask("group", by=["city"], measures=[*measures, {"function": "count", "name": "rows"}])
    rome = next(row for row in found["rows"] if row["city"] == "Rome")
    sold = [int(row["sold"]) for row in ROWS if row["city"] == "Rome" and row["sold"] is not None]
    assert [rome[one] for one in functions[:6]] == pytest.approx(
        [len(sold), sum(sold), statistics.fmean(sold), statistics.median(sold), min(sold), max(sold)]
    )
    assert [rome["std"], rome["distinct"]] == pytest.approx([statistics.stdev(sold), len(set(sold))])
    assert rome["rows"] == 20
    whole = await ask("group", measures=[{"function": "sum", "column": "price"}])
    assert whole["rows"] == [{"price_sum": sum(row["price"] for row in ROWS)}]


async def test_columns_are_correlated() -> None:
    rows = [{"a": n, "b": -2 * n, "c": 1, "d": "x"} for n in range(9)]
    found = await value(SKILL, {"operation": "correlate", "rows": rows})
    assert [(pair["columns"], pair["pearson"]) for pair in found["pairs"]] == [
        (["a", "b"], pytest.approx(-1)),
        (["a", "c"], None),
        (["b", "c"], None),
    ]


@pytest.mark.parametrize(
    "chart",
    [
        {"kind": "line", "x": "day", "y": ["price", "sold"]},
        {"kind": "bar", "x": "day", "y": ["price", "sold"]},
        {"kind": "scatter", "x": "price", "y": ["sold"]},
        {"kind": "histogram", "x": "price"},
        {"kind": "box", "y": ["price", "sold"]},
    ],
    ids=lambda chart: chart["kind"],
)
async def test_charts_are_pictures_and_the_same_each_time(chart: dict[str, Any]) -> None:
    given = {**chart, "title": "All of it", "width": 640, "height": 480}
    png = await ask("chart", chart=given)
    picture = Image.open(io.BytesIO(base64.b64decode(png["content"])))
    assert (picture.format, picture.size, png["encoding"]) == ("PNG", (640, 480), "base64")
    assert len(picture.convert("RGB").getcolors(1 << 20) or ()) > 10, "something is drawn"
    svg = await ask("chart", chart={**given, "format": "svg"})
    assert ElementTree.fromstring(svg["content"]).tag.endswith("svg") and "All of it" in svg["content"]
    assert await ask("chart", chart={**given, "format": "svg"}) == svg


async def test_a_chart_of_groups_shows_the_groups() -> None:
    svg = (await ask("chart", chart={**CHART, "format": "svg"}, **BY_CITY))["content"]
    assert all(f">{city}<" in svg for city in CITIES)


async def test_a_chart_is_saved_once(folder: Path) -> None:
    given = {"operation": "chart", "rows": ROWS, "chart": CHART, **BY_CITY, "save_to": "c.png"}
    (folder / "c.png").write_text("an older picture")
    journal = Journal()
    journal.crash_before_record = True
    assert (await attempt(SKILL, given, settings(folder), journal)).kind == "fenced"
    journal.crash_before_record = False
    saved = await value(SKILL, given, settings(folder), journal=journal)
    assert (saved["path"], saved["media_type"]) == (str(folder / "c.png"), "image/png")
    assert (folder / "c.png").read_bytes()[:4] == b"\x89PNG" and not litter(folder)
    nowhere = await refusal(SKILL, {**given, "save_to": "no/where.png"}, settings(folder))
    assert nowhere.code == "NOT_FOUND"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, "give the table in one way"),
        ({"rows": [], "csv": "a"}, "give the table in one way"),
        (
            {"rows": ROWS, "columns": ["prize"]},
            "columns: there is no column 'prize'; the columns are: city, day",
        ),
        ({"rows": ROWS, "operation": "group"}, "group needs measures"),
        ({"rows": ROWS, "measures": BY_CITY["measures"]}, "mean nothing to describe"),
        ({"rows": ROWS, "operation": "table", "sort": "x"}, "sort: there is no column 'x'"),
        (
            {"rows": ROWS, "operation": "group", "measures": [{"function": "mean", "column": "city"}]},
            "measures[0].column: city is of type String; numbers are needed",
        ),
        ({"rows": ROWS, "operation": "group", "measures": [{"function": "sum"}]}, "sum needs a column"),
        (
            {
                "rows": ROWS,
                "operation": "group",
                "by": ["city"],
                "measures": [{"function": "count", "name": "city"}],
            },
            "two results have one name",
        ),
        ({"rows": ROWS, "operation": "chart"}, "go together"),
        ({"rows": ROWS, "operation": "chart", "chart": {"kind": "line", "x": "day"}}, "needs y"),
        (
            {"rows": ROWS, "operation": "chart", "chart": {"kind": "box", "y": ["city"]}},
            "chart.y: city is of type String",
        ),
        (
            {"rows": [], "operation": "chart", "chart": {"kind": "box", "y": ["a"]}},
            "no rows are left to draw",
        ),
        ({"rows": [{"a": 1}, {"a": [2]}]}, "rows: make no table"),
        ({"csv": 'a,b\n"1,2\n3'}, "csv: cannot be read"),
        (
            {"rows": ROWS, "where": [{"column": "city", "is": "<", "value": 3}]},
            "where[0].value: 3 cannot be compared",
        ),
        ({"rows": ROWS, "where": [{"column": "city", "is": "in", "value": "R"}]}, "in wants a list"),
        ({"rows": ROWS, "where": [{"column": "city", "is": "like", "value": "R"}]}, "where.0.is"),
    ],
)
async def test_a_mistake_is_named(given: dict[str, Any], named: str) -> None:
    outcome = await refusal(SKILL, {"operation": "describe", **given})
    assert outcome.code == "BAD_INPUT" and named in outcome.message, outcome.message


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("broken.parquet", "BAD_INPUT"),
        ("notes.txt", "BAD_INPUT"),
        ("none.csv", "NOT_FOUND"),
        ("../x.csv", "NOT_ALLOWED"),
        ("t.csv", "TOO_LARGE"),
    ],
)
async def test_files_are_read_where_they_may(folder: Path, path: str, code: str) -> None:
    given = {"operation": "describe", "path": path}
    assert (await refusal(SKILL, given, settings(folder, fileBytesMax=100))).code == code
    assert (await refusal(SKILL, given)).code == "BAD_SETTINGS"


async def test_a_large_chart_is_refused() -> None:
    given = {"operation": "chart", "rows": ROWS, "chart": CHART, **BY_CITY}
    assert (await refusal(SKILL, given, {"chartBytesMax": 1_000})).code == "TOO_LARGE"


@pytest.mark.parametrize("missing", ["polars", "matplotlib"])
async def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    hide(monkeypatch, missing, "data_analysis", "answering", "tables", "charts")
    given = {"operation": "chart", "rows": ROWS, "chart": CHART, **BY_CITY}
    outcome = await refusal(SKILL, given)
    assert outcome.code == "MISSING_EXTRA"
    assert f"{missing} is not installed on this node; run: pip install 'coterie[data]'" in outcome.message


def test_loading_the_skills_loads_none_of_the_large_libraries() -> None:
    code = (
        "import sys; from coterie.skills.registry import SHIPPED_DIR, discover, load\n"
        "for source in discover([SHIPPED_DIR])[0]: load(source)\n"
        "large = {'polars', 'matplotlib', 'numpy', 'boto3', 'botocore', 'kubernetes', 'lark_oapi', 'radon'}\n"
        "print(sorted(large & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
