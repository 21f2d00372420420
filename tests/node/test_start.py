"""What a process gives itself before it starts as a node."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coterie.core.nouns import NodeId
from coterie.node import app, start
from coterie.node.blob_errors import BlobStorageFailed
from coterie.node.ledger import LedgerError
from coterie.node.skillhost import SkillHost, SkillHostError, SkillHostOptions
from coterie.node.skillhost.scratch import RUNS, SKILLS, Scratch, scratch_name
from coterie.node.tls import TlsMaterial
from coterie.raft.errors import DiskFailed

_RAISED = """
import resource, sys
from coterie.node.start import OPEN_FILES_MAX, allow_many_open_files
soft, hard = (int(word) for word in sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
allow_many_open_files()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(("soft", "hard"), [(256, 1_024), (1_024, 1_024)])
def test_a_node_may_open_as_many_files_as_it_is_allowed_to(soft: int, hard: int) -> None:
    command = [sys.executable, "-c", _RAISED, str(soft), str(hard)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == [str(hard), str(hard)], done.stderr


def settings_of(data_dir: Path, tls: Any = None) -> Any:
    """As far as a start looks at them before it has its processes for skills."""
    limits = SimpleNamespace(result_max=1, step_result_max=1, checkpoint_max=1)
    fields = {"skill_dirs": (), "capacity": 1, "skill_networks": (), "skill_settings": {}}
    return SimpleNamespace(
        node_id="n1", data_dir=data_dir, tls=tls, limits=limits, confined_settings={}, **fields
    )


class Unsound(app.NodeApp):
    """Starts well; what its loops do is up to the test."""

    def __init__(self, *_: Any) -> None:
        self.settings: Any = SimpleNamespace(advertise="n1:1")
        self.fatal, self._stop = None, asyncio.Event()

    async def _start(self, undo: Any) -> None:
        pass

    async def _shut_down(self, running: Any) -> None:
        pass


@pytest.mark.parametrize(("days", "said"), [(29, True), (31, False)])
def test_a_node_says_at_its_start_that_its_certificate_ends_soon(
    days: int,
    said: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def spawn(options: SkillHostOptions) -> SkillHost:
        raise SkillHostError("seen")

    tls = TlsMaterial(b"", b"", b"", datetime.now(UTC) + timedelta(days=days))
    monkeypatch.setattr(start, "load_tls", lambda paths, node_id: tls)
    monkeypatch.setattr(SkillHost, "spawn", spawn)
    assert start.start(settings_of(tmp_path / "data", tls=True)) == start.EXIT_BAD_CONFIG
    assert ("the certificate ends soon" in caplog.text) == said


@pytest.mark.parametrize(
    "error", [BlobStorageFailed("no more files"), LedgerError("no room"), OSError("EIO")]
)
def test_what_ends_a_node_that_had_started_is_worth_a_restart(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A supervisor starts a node again that exits with 1, and leaves one alone that exits with 2."""

    async def fails() -> None:
        raise error

    monkeypatch.setattr(app, "loops", lambda _: [fails()])
    monkeypatch.setattr(app, "NodeApp", Unsound)
    monkeypatch.setattr(start, "calm_the_collector", lambda: None)
    nothing: Any = None
    assert start._run(nothing, nothing, nothing, nothing) == start.EXIT_FAILED
    assert str(error) in capsys.readouterr().err


@pytest.mark.parametrize("ends", ["_fatal", "refused"])
def test_a_node_that_cannot_go_on_ends_also_when_its_last_resort_fails(ends: str) -> None:
    """It needs a thread, which a process may not get: a node that stood still would never be restarted."""

    def no_thread(error: Exception) -> None:
        raise RuntimeError("can't start new thread")

    node = Unsound()
    node.me, node.last_resort = NodeId("n1"), no_thread
    with pytest.raises(RuntimeError, match="thread"):
        getattr(node, ends)(DiskFailed("EIO"))
    assert node._stop.is_set() and node.fatal is not None


def test_a_process_that_may_have_no_more_threads_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    ended: list[tuple[Exception, int]] = []
    monkeypatch.setattr(start, "_end", lambda error, code: ended.append((error, code)))
    monkeypatch.setattr(threading.Timer, "start", no_thread)
    error = DiskFailed("EIO")
    start._exit_soon(error)
    assert ended == [(error, start.EXIT_FAILED)]


def test_a_start_tidies_up_after_a_process_that_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    data_dir = tmp_path / "data"
    left = [Scratch(part, scratch_name("n1", data_dir)).folder() for part in (RUNS, SKILLS)]

    def spawn(options: SkillHostOptions) -> SkillHost:
        assert not any(place.exists() for place in left)
        assert Scratch(RUNS, options.sandbox.scratch_name).folder() == left[0]
        raise SkillHostError("seen")

    monkeypatch.setattr(SkillHost, "spawn", spawn)
    assert start.start(settings_of(data_dir)) == start.EXIT_BAD_CONFIG
