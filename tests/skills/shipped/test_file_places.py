"""Folders inside of folders, empty files, and names and characters that are cut or odd."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.skills.shipped.support import refusal, value

SKILL = "file-management"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """All may be changed but books and deep/er."""
    for name in ("books", "deep/er"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "one").write_text("1")
    return tmp_path


def settings(tree: Path, **more: Any) -> dict[str, Any]:
    paths = [{"path": str(tree), "write": True}, str(tree / "books"), str(tree / "deep/er")]
    return {"paths": paths, **more}


async def do(tree: Path, operation: str, path: str, **more: Any) -> Any:
    return await value(SKILL, {"operation": operation, "path": path, **more}, settings(tree))


async def code(tree: Path, operation: str, path: str, **more: Any) -> str:
    return (await refusal(SKILL, {"operation": operation, "path": path, **more}, settings(tree))).code


@pytest.mark.parametrize("prefix", ["", "{tree}/"])
async def test_the_innermost_folder_decides_however_the_path_is_written(tree: Path, prefix: str) -> None:
    at = prefix.replace("{tree}", str(tree))
    assert await code(tree, "write", f"{at}books/two", content="2") == "NOT_ALLOWED"
    assert await code(tree, "delete", f"{at}books/one") == "NOT_ALLOWED"
    assert await code(tree, "delete", f"{at}books", recursive=True) == "NOT_ALLOWED"
    await do(tree, "write", f"{at}deep/two", content="2")
    assert (tree / "deep/two").read_text() == "2" and os.listdir(tree / "books") == ["one"]


async def test_what_holds_an_allowed_folder_is_neither_moved_nor_deleted(tree: Path) -> None:
    for more in ({"operation": "delete", "recursive": True}, {"operation": "move", "to": "else"}):
        ended = await refusal(SKILL, {"path": "deep", **more}, settings(tree))
        assert (ended.code, str(tree / "deep/er") in ended.message) == ("NOT_ALLOWED", True)
    assert (tree / "deep/er/one").read_text() == "1"
    await do(tree, "copy", "deep/er/one", to="deep/copy")
    await do(tree, "make_folder", "deep")


async def test_an_empty_file_is_written(tree: Path) -> None:
    assert (await do(tree, "write", "empty", content=""))["bytes"] == 0
    assert (tree / "empty").read_bytes() == b""
    assert await code(tree, "write", "none") == "BAD_INPUT"


async def test_a_name_that_is_no_text_hides_no_other(tree: Path) -> None:
    (tree / os.fsdecode(b"\xff.txt")).write_text("two")
    listed = await do(tree, "list", ".", pattern="*.txt")
    assert [Path(one["path"]).name for one in listed["entries"]] == ["?.txt"]
    found = await do(tree, "search", ".", query="two", pattern="*.txt")
    assert [Path(one["path"]).name for one in found["matches"]] == ["?.txt"]


async def test_a_limit_below_a_character_is_refused_and_not_taken_for_the_end(tree: Path) -> None:
    (tree / "u").write_text("añ")
    assert await code(tree, "read", "u", offset=1, limit=1) == "BAD_INPUT"
    assert (await do(tree, "read", "u", offset=1, limit=4))["content"] == "ñ"
    assert (await do(tree, "read", "u", offset=3, limit=1))["content"] == ""


async def test_a_file_that_grows_while_it_is_copied_stops_at_the_limit(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    monkeypatch.setattr(os, "read", lambda fd, size: read.append(size) or b"x" * 100)  # type: ignore[func-returns-value]
    given = {"operation": "copy", "path": "books/one", "to": "copy"}
    ended = await refusal(SKILL, given, settings(tree, copyBytesMax=1_000))
    assert (ended.code, len(read)) == ("TOO_LARGE", 11)
    assert sorted(os.listdir(tree)) == ["books", "deep"]
