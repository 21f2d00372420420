"""The files of a published skill on a node: all of them, or none."""

from __future__ import annotations

import compileall
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from coterie.node.bundles import _lay_out
from coterie.skills import bundle

FILES = {name: bundle.File(name.encode()) for name in ("SKILL.md", "handler.md", "more/data.txt")}
CONTENT = bundle.pack(FILES)
REVISION = bundle.revision_of(CONTENT)
WAIT_S = 30


def laid_out(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}


def test_an_attempt_that_was_cancelled_spoils_nothing_for_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread goes on: here it is done when the next one has laid out a part."""
    first_may, second_may, first_is, second_is = (threading.Event() for _ in range(4))
    write, compile_dir = bundle.write, compileall.compile_dir

    def compiles(*given: Any, **more: Any) -> Any:
        if threading.current_thread().name == "first":
            first_is.set()
            assert first_may.wait(WAIT_S)
        return compile_dir(*given, **more)

    def writes(files: Mapping[str, bundle.File], folder: Path) -> None:
        if threading.current_thread().name == "first":
            write(files, folder)
            return
        first, *rest = files
        write({first: files[first]}, folder)
        second_is.set()
        assert second_may.wait(WAIT_S)
        for name in rest:
            target = folder / name
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(files[name].content)

    monkeypatch.setattr(compileall, "compile_dir", compiles)
    monkeypatch.setattr(bundle, "write", writes)
    folder, failed = tmp_path / REVISION, list[Exception]()

    def lay_out() -> None:
        try:
            _lay_out(CONTENT, REVISION, folder)
        except Exception as error:
            failed.append(error)

    first, second = (threading.Thread(target=lay_out, name=name) for name in ("first", "second"))
    first.start()
    assert first_is.wait(WAIT_S)
    second.start()
    assert second_is.wait(WAIT_S)
    first_may.set()
    first.join(WAIT_S)
    second_may.set()
    second.join(WAIT_S)
    assert laid_out(folder) == {name: file.content for name, file in FILES.items()}
    assert not failed and [path.name for path in tmp_path.iterdir()] == [REVISION]


def test_what_cannot_be_laid_out_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: Any, **more: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(compileall, "compile_dir", full)
    with pytest.raises(OSError, match="no space"):
        _lay_out(CONTENT, REVISION, tmp_path / REVISION)
    assert not list(tmp_path.iterdir())
