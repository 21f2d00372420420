"""Figures of real source files; what is analysed is never run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.skills.shipped.support import Journal, hide, refusal, value

SKILL = "python-analysis"
SOURCE = '''"""A module."""
import os
import json as codec
from . import sibling
from ..up import thing
from yaml import safe_load


def plain(a, *rest, b=1, **more):
    # a comment
    return undefined_name


class Known:
    """Documented."""

    def method(self, values):
        """Documented, too."""
        for one in values:
            if one and self:
                pass

        def inner(x):
            return [y for y in x if y]

        return inner

    def _private(self):
        pass

    class Inner:
        async def deep(cls):
            try:
                pass
            except ValueError:
                pass
'''


async def one(source: str, **more: Any) -> Any:
    found = await value(SKILL, {"source": source, **more})
    assert len(found["files"]) == 1
    return found["files"][0]


async def test_functions_are_measured() -> None:
    found = await one(SOURCE, name="m.py")
    told = [(f["name"], f["complexity"], f["parameters"]) for f in found["functions"]]
    assert told == [
        ("plain", 1, 4), ("Known.method", 4, 1), ("Known.method.inner", 3, 1),
        ("Known._private", 1, 0), ("Known.Inner.deep", 2, 0),
    ]  # fmt: skip
    assert [f["length"] for f in found["functions"]][:3] == [3, 10, 2]
    assert (found["lines"], found["comments"], 0 < found["maintainability"] <= 100) == (36, 1, True)
    assert found["code"] + found["blank"] <= found["lines"]


async def test_imports_problems_and_docstrings_are_told() -> None:
    found = await one(SOURCE)
    assert found["imports"] == {"standard": ["json", "os"], "other": ["yaml"], "relative": [".", "..up"]}
    kinds = [(p["line"], p["kind"]) for p in found["problems"]]
    assert (2, "UnusedImport") in kinds and (11, "UndefinedName") in kinds
    missing = [one["name"] for one in found["docstrings"]["missing"]]
    assert missing == ["plain", "Known.Inner", "Known.Inner.deep"]
    assert (found["docstrings"]["public"], found["docstrings"]["documented"]) == (6, 3)


async def test_nothing_of_the_source_runs(tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    source = (
        f"open({str(witness)!r}, 'w')\nimport no_such_module_anywhere\nexec('1/0')\nraise SystemExit(3)\n"
    )
    found = await one(source)
    assert found["imports"]["other"] == ["no_such_module_anywhere"]
    assert not witness.exists() and "no_such_module_anywhere" not in sys.modules


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("x = 1\ny = (", "line 2: "),
        ("x = '\0'", "null bytes"),
        ("(" * 5_000 + ")" * 5_000, "line 1: "),
        ("-" * 100_000 + "1", "nested too deeply"),
    ],
)
async def test_what_is_no_python_has_an_error_instead(source: str, error: str) -> None:
    found = await value(SKILL, {"source": source})
    assert set(found["files"][0]) == {"path", "error"} and error in found["files"][0]["error"]
    assert (found["total"]["errors"], found["total"]["files"]) == (1, 1)


@pytest.mark.parametrize(
    "source", ["", "\ufeffx = 1\n", "x = '\\d'\n", "# only\n", "\n\n", "x = 1\r\ny = 2\r\n"]
)
async def test_odd_sources_are_no_errors(source: str) -> None:
    assert "error" not in await one(source)


async def test_a_folder_is_walked_and_summed(tmp_path: Path) -> None:
    (tmp_path / "pkg" / "gen").mkdir(parents=True)
    (tmp_path / "pkg" / "a.py").write_text(SOURCE)
    (tmp_path / "pkg" / "b.py").write_text("import os\nprint(os)\n")
    (tmp_path / "pkg" / "broken.py").write_text("def (:\n")
    (tmp_path / "pkg" / "big.py").write_text("#" * 2_000)
    (tmp_path / "pkg" / "notes.txt").write_text("no")
    (tmp_path / "pkg" / "gen" / "c.py").write_text("import secret\n")
    (tmp_path / "pkg" / "away.py").symlink_to("/etc/hostname")
    settings = {"paths": [str(tmp_path)], "fileBytesMax": 1_500}
    given = {"path": "pkg", "exclude": ["gen"], "limit": 1, "worst": 2}
    found = await value(SKILL, given, settings)
    total = found["total"]
    assert (total["files"], total["errors"], total["functions_count"], total["complexity_max"]) == (
        3,
        1,
        5,
        4,
    )
    assert total["imports"] == {"os": 2, "json": 1, "yaml": 1}
    assert [one["name"] for one in found["most_complex"]] == ["Known.method", "Known.method.inner"]
    assert (len(found["files"]), found["truncated"]) == (1, True)
    assert len(found["skipped"]) == 1 and "big.py" in found["skipped"][0]
    alone = await value(SKILL, {"path": "pkg/b.py"}, settings)
    assert alone["total"]["files"] == 1
    few = await value(SKILL, {"path": "pkg"}, {**settings, "filesMax": 2})
    assert few["total"]["files"] == 2 and "more than 2 files" in few["skipped"]


async def test_what_may_not_be_is_refused(tmp_path: Path) -> None:
    given = {"path": "/etc"}
    assert (await refusal(SKILL, given)).code == "BAD_SETTINGS"
    assert (await refusal(SKILL, given, {"paths": [str(tmp_path)]})).code == "NOT_ALLOWED"
    assert (await refusal(SKILL, {"path": "none"}, {"paths": [str(tmp_path)]})).code == "NOT_FOUND"
    assert (await refusal(SKILL, {})).code == "BAD_INPUT"
    assert (await refusal(SKILL, {"source": "", "path": "x"})).code == "BAD_INPUT"
    journal = Journal()
    journal.permissions = {
        "file_access": False,
        "paths": [],
        "network_access": False,
        "allowed_endpoints": [],
    }
    outcome = await refusal(SKILL, {"path": "."}, {"paths": [str(tmp_path)]}, journal=journal)
    assert outcome.code == "NOT_ALLOWED"


@pytest.mark.parametrize("library", ["radon", "pyflakes.checker"])
async def test_the_libraries_may_be_missing(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    if library == "radon":
        monkeypatch.setitem(sys.modules, "radon.metrics", None)
    hide(monkeypatch, library, "python_analysis", "measuring")
    outcome = await refusal(SKILL, {"source": "x = 1"})
    assert outcome.code == "MISSING_EXTRA" and "pip install 'coterie[code]'" in outcome.message
