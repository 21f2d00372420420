"""Files in a real tree: nothing outside is reached, writes are whole, and what was done is not done twice."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from coterie.skills.file_management.scope import Place
from tests.skills.shipped.support import Journal, attempt, refusal, value

SKILL = "file-management"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """data/ may be written, library/ be read, and secret is nobody's business."""
    for name in ("data/deep/er", "library"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "data/a.txt").write_text("one\ntwo words\nthree\n")
    (tmp_path / "data/deep/b.csv").write_text("x,y\n1,two\n")
    (tmp_path / "data/deep/er/blob.bin").write_bytes(b"\0two\xff")
    (tmp_path / "library/book.md").write_text("# Two\n")
    (tmp_path / "secret").write_text("two")
    (tmp_path / "data/out").symlink_to(tmp_path)
    (tmp_path / "data/steal").symlink_to(tmp_path / "secret")
    return tmp_path


def settings(tree: Path, **more: Any) -> dict[str, Any]:
    return {"paths": [{"path": str(tree / "data"), "write": True}, str(tree / "library")], **more}


async def do(tree: Path, operation: str, path: str = "", **more: Any) -> Any:
    return await value(SKILL, {"operation": operation, "path": path, **more}, settings(tree))


async def code(tree: Path, operation: str, path: str = "", **more: Any) -> str:
    return (await refusal(SKILL, {"operation": operation, "path": path, **more}, settings(tree))).code


def snapshot(tree: Path) -> dict[str, bytes | str]:
    """All there is, links as where they point."""
    return {
        str(path.relative_to(tree)): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else "/"
        for path in sorted(tree.rglob("*"))
    }


async def test_a_folder_is_listed(tree: Path) -> None:
    roots = (await do(tree, "list"))["entries"]
    assert [(one["path"], one["write"]) for one in roots] == [
        (str(tree / "data"), True),
        (str(tree / "library"), False),
    ]
    entries = (await do(tree, "list", "."))["entries"]
    assert [(Path(one["path"]).name, one["kind"], one.get("size")) for one in entries] == [
        ("a.txt", "file", 20),
        ("deep", "folder", None),
        ("out", "link", None),
        ("steal", "link", None),
    ]
    deep = await do(tree, "list", "deep", recursive=True, pattern="b*")
    assert [Path(one["path"]).name for one in deep["entries"]] == ["b.csv", "blob.bin"]
    assert await do(tree, "list", ".", recursive=True, limit=1) == {"entries": entries[:1], "truncated": True}


async def test_a_file_is_read_in_parts(tree: Path) -> None:
    (tree / "data/u.txt").write_text("añb")
    first = await do(tree, "read", "u.txt", limit=2)
    assert (first["content"], first["next_offset"], first["size"]) == ("a", 1, 4)
    rest = await do(tree, "read", str(tree / "data/u.txt"), offset=1)
    assert rest["content"] == "ñb" and "next_offset" not in rest
    blob = await do(tree, "read", "deep/er/blob.bin", encoding="base64")
    assert base64.b64decode(blob["content"]) == b"\0two\xff"
    assert await code(tree, "read", "deep/er/blob.bin") == "NOT_TEXT"
    given = {"operation": "read", "path": "a.txt"}
    assert (await value(SKILL, given, settings(tree, readBytesMax=3)))["content"] == "one"


async def test_text_is_searched(tree: Path) -> None:
    found = await do(tree, "search", ".", query="two")
    assert [(Path(one["path"]).name, one["line"], one["text"]) for one in found["matches"]] == [
        ("a.txt", 2, "two words"),
        ("b.csv", 2, "1,two"),
    ]
    assert (found["searched"], found["skipped"]) == (2, 1)
    assert len((await do(tree, "search", ".", query="^t", regex=True))["matches"]) == 2
    assert (await do(tree, "search", ".", query="t", limit=1))["truncated"] is True
    assert (await do(tree, "search", ".", query="two", pattern="*.md"))["matches"] == []
    assert (await do(tree, "search", "a.txt", query="three"))["searched"] == 1
    assert await code(tree, "search", ".", query="(", regex=True) == "BAD_INPUT"


async def test_a_file_is_written_copied_moved_and_deleted(tree: Path) -> None:
    made = await do(tree, "write", "new.txt", content="hello")
    digest = hashlib.sha256(b"hello").hexdigest()
    assert (made["bytes"], made["sha256"]) == (5, digest)
    assert (await do(tree, "info", "new.txt"))["sha256"] == digest
    assert await code(tree, "write", "new.txt", content="other") == "EXISTS"
    (tree / "data/new.txt").chmod(0o640)
    await do(tree, "write", "new.txt", content="aGk=", encoding="base64", overwrite=True)
    assert ((tree / "data/new.txt").read_text(), (tree / "data/new.txt").stat().st_mode & 0o777) == (
        "hi",
        0o640,
    )
    await do(tree, "make_folder", "some/where")
    await do(tree, "copy", "new.txt", to="some/where/copy.txt")
    await do(tree, "copy", str(tree / "library/book.md"), to="book.md")
    await do(tree, "move", "new.txt", to="some/moved.txt")
    await do(tree, "move", "some", to="other")
    assert (tree / "data/other/where/copy.txt").read_text() == "hi"
    assert await code(tree, "delete", "other") == "NOT_EMPTY"
    await do(tree, "delete", "other", recursive=True)
    await do(tree, "delete", "book.md")
    await do(tree, "delete", "steal")
    assert sorted(one.name for one in (tree / "data").iterdir()) == ["a.txt", "deep", "out"]
    assert (tree / "secret").read_text() == "two"


@pytest.mark.parametrize(
    ("operation", "path", "more", "expected"),
    [
        ("read", "../secret", {}, "NOT_ALLOWED"),
        ("read", "deep/../../secret", {}, "NOT_ALLOWED"),
        ("read", "/etc/passwd", {}, "NOT_ALLOWED"),
        ("read", "{tree}/secret", {}, "NOT_ALLOWED"),
        ("read", "{tree}/data/../secret", {}, "NOT_ALLOWED"),
        ("read", "{tree}/database", {}, "NOT_ALLOWED"),
        ("read", "steal", {}, "NOT_ALLOWED"),
        ("read", "out/secret", {}, "NOT_ALLOWED"),
        ("list", "out", {}, "NOT_ALLOWED"),
        ("list", "out/library", {}, "NOT_ALLOWED"),
        ("search", "out", {"query": "two"}, "NOT_ALLOWED"),
        ("write", "out/planted", {"content": "x"}, "NOT_ALLOWED"),
        ("write", "steal", {"content": "x", "overwrite": True}, "EXISTS"),
        ("write", "{tree}/library/new", {"content": "x"}, "NOT_ALLOWED"),
        ("write", ".", {"content": "x"}, "NOT_ALLOWED"),
        ("delete", ".", {"recursive": True}, "NOT_ALLOWED"),
        ("delete", "out/secret", {}, "NOT_ALLOWED"),
        ("delete", "out/library", {"recursive": True}, "NOT_ALLOWED"),
        ("copy", "steal", {"to": "mine"}, "NOT_ALLOWED"),
        ("copy", "a.txt", {"to": "out/planted"}, "NOT_ALLOWED"),
        ("copy", "a.txt", {"to": "../planted"}, "NOT_ALLOWED"),
        ("move", "{tree}/library/book.md", {"to": "mine"}, "NOT_ALLOWED"),
        ("move", "a.txt", {"to": "out/planted"}, "NOT_ALLOWED"),
        ("move", "steal", {"to": "mine"}, "NOT_ALLOWED"),
        ("move", "deep", {"to": "deep/er/deeper"}, "BAD_INPUT"),
        ("make_folder", "out/planted", {}, "NOT_ALLOWED"),
        ("make_folder", "a.txt/x", {}, "NOT_A_FOLDER"),
        ("read", "nothing", {}, "NOT_FOUND"),
        ("read", "deep", {}, "NOT_A_FILE"),
        ("read", "a\0b", {}, "NOT_ALLOWED"),
        ("copy", "deep", {"to": "x"}, "NOT_A_FILE"),
        ("delete", "nothing", {}, "NOT_FOUND"),
        ("move", "nothing", {"to": "x"}, "NOT_FOUND"),
        ("move", "a.txt", {"to": "deep/b.csv"}, "EXISTS"),
        ("move", "a.txt", {"to": "deep", "overwrite": True}, "EXISTS"),
        ("write", "nothing/x", {"content": "x"}, "NOT_FOUND"),
        ("write", "x", {"content": "?", "encoding": "base64"}, "BAD_INPUT"),
        ("write", "x", {}, "BAD_INPUT"),
        ("search", ".", {}, "BAD_INPUT"),
        ("burn", "x", {}, "BAD_INPUT"),
        ("list", ".", {"depth": 1}, "BAD_INPUT"),
    ],
)
async def test_what_may_not_be_is_refused_and_changes_nothing(
    tree: Path, operation: str, path: str, more: dict[str, Any], expected: str
) -> None:
    before = snapshot(tree)
    assert await code(tree, operation, path.format(tree=tree), **more) == expected
    assert snapshot(tree) == before


async def test_a_pipe_is_refused_without_waiting(tree: Path) -> None:
    os.mkfifo(tree / "data/pipe")
    assert await code(tree, "read", "pipe") == "NOT_A_FILE"


async def test_a_link_that_appears_meanwhile_leads_nowhere(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is replaced by a link after the path was looked at and before it is opened."""
    real = os.open
    done: list[Any] = []

    def open_after_swap(path: Any, *args: Any, **kwargs: Any) -> int:
        if path == "deep" and not done:
            done.append(path)
            (tree / "data/deep").rename(tree / "data/was")
            (tree / "data/deep").symlink_to(tree)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", open_after_swap)
    assert await code(tree, "write", "deep/planted", content="x") == "NOT_ALLOWED"
    assert done and not (tree / "planted").exists()


@pytest.mark.parametrize(
    ("operation", "path", "more"),
    [
        ("write", "new", {"content": "x"}),
        ("write", "a.txt", {"content": "x", "overwrite": True}),
        ("copy", "a.txt", {"to": "copy"}),
        ("move", "a.txt", {"to": "moved"}),
        ("move", "deep", {"to": "moved"}),
        ("delete", "a.txt", {}),
        ("delete", "deep", {"recursive": True}),
        ("make_folder", "x/y", {}),
    ],
)
async def test_an_effect_in_doubt_is_found_done(
    tree: Path, operation: str, path: str, more: dict[str, Any]
) -> None:
    journal = Journal()
    journal.crash_before_record = True
    given = {"operation": operation, "path": path, **more}
    assert (await attempt(SKILL, given, settings(tree), journal)).kind == "fenced"
    after = snapshot(tree)
    journal.crash_before_record = False
    await value(SKILL, given, settings(tree), journal=journal)
    assert (snapshot(tree), journal.attempt) == (after, 2)


async def test_a_move_that_stopped_between_its_two_names_is_finished(tree: Path) -> None:
    journal = Journal()
    journal.crash_before_record = True
    given = {"operation": "move", "path": "a.txt", "to": "moved"}
    await attempt(SKILL, given, settings(tree), journal)
    os.link(tree / "data/moved", tree / "data/a.txt")
    journal.crash_before_record = False
    await value(SKILL, given, settings(tree), journal=journal)
    assert not (tree / "data/a.txt").exists() and (tree / "data/moved").read_text().startswith("one")


async def test_another_file_under_the_old_name_is_left_alone(tree: Path) -> None:
    journal = Journal()
    journal.crash_before_record = True
    given = {"operation": "move", "path": "a.txt", "to": "moved"}
    await attempt(SKILL, given, settings(tree), journal)
    (tree / "data/a.txt").write_text("newer")
    journal.crash_before_record = False
    await value(SKILL, given, settings(tree), journal=journal)
    assert (tree / "data/a.txt").read_text() == "newer"


async def test_a_write_that_fails_leaves_the_old_file_and_no_litter(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    before = snapshot(tree)
    given = {"operation": "write", "path": "a.txt", "content": "x", "overwrite": True}
    outcome = await attempt(SKILL, given, settings(tree))
    assert (outcome.code, outcome.retryable) == ("DISK_FAILED", True)
    assert snapshot(tree) == before


async def test_litter_of_a_killed_attempt_goes_and_is_never_shown(tree: Path) -> None:
    journal = Journal()
    journal.crash_before_record = True
    given = {"operation": "write", "path": "new", "content": "x"}
    await attempt(SKILL, given, settings(tree), journal)
    key = hashlib.sha256(b"task-1/write").hexdigest()[:20]
    (tree / f"data/.coterie-{key}-1").write_text("half")
    assert len((await do(tree, "list", "."))["entries"]) == 5
    journal.crash_before_record = False
    await value(SKILL, given, settings(tree), journal=journal)
    assert not list((tree / "data").glob(".coterie-*"))


async def test_where_there_are_no_second_names_files_are_moved_all_the_same(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    await do(tree, "write", "new", content="x")
    await do(tree, "move", "new", to="newer")
    assert (tree / "data/newer").read_text() == "x" and not (tree / "data/new").exists()
    assert await code(tree, "move", "newer", to="a.txt") == "EXISTS"


@pytest.mark.parametrize(
    ("permissions", "allowed"),
    [
        ({"file_access": True, "paths": ["{tree}/data/deep"]}, True),
        ({"file_access": True, "paths": ["{tree}/data/deep/*"]}, True),
        ({"file_access": True, "paths": ["{tree}/*/deep/*.csv"]}, True),
        ({"file_access": True, "paths": []}, True),
        ({"file_access": True, "paths": ["{tree}/data/dee"]}, False),
        ({"file_access": True, "paths": ["/elsewhere"]}, False),
        ({"file_access": False, "paths": []}, False),
    ],
)
async def test_an_agent_touches_what_both_allow(
    tree: Path, permissions: dict[str, Any], allowed: bool
) -> None:
    journal = Journal()
    journal.permissions = {**permissions, "paths": [one.format(tree=tree) for one in permissions["paths"]]}
    given = {"operation": "read", "path": "deep/b.csv"}
    outcome = await attempt(SKILL, given, settings(tree), journal)
    assert outcome.code == ("" if allowed else "NOT_ALLOWED")
    outside = await refusal(SKILL, {**given, "path": str(tree / "secret")}, settings(tree), journal=journal)
    assert outside.code == "NOT_ALLOWED"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, "paths: Field required"),
        ({"paths": ["data"]}, "paths.0"),
        ({"path": ["/x"]}, "path: Extra inputs"),
    ],
)
async def test_settings_are_checked(given: dict[str, Any], named: str) -> None:
    outcome = await refusal(SKILL, {"operation": "list"}, given)
    assert outcome.code == "BAD_SETTINGS" and named in outcome.message


async def test_too_much_is_refused(tree: Path) -> None:
    for given in (
        {"operation": "write", "content": "xxxx"},
        {"operation": "copy", "path": "a.txt", "to": "b"},
    ):
        limits = settings(tree, writeBytesMax=3, copyBytesMax=3)
        assert (await refusal(SKILL, {"path": "new", **given}, limits)).code == "TOO_LARGE"


def test_a_place_is_shown_whole() -> None:
    assert Place("/data", ("a", "b")).path == "/data/a/b"


async def test_a_refusal_is_recorded_so_that_nothing_is_in_doubt(tree: Path) -> None:
    for given in ({"operation": "delete", "path": "none"}, {"operation": "copy", "path": "a.txt", "to": "b"}):
        journal = Journal()
        await refusal(SKILL, given, settings(tree, copyBytesMax=3), journal=journal)
        assert list(journal.steps) == list(journal.begun) == [given["operation"]]
