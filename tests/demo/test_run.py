"""The demo itself, on real processes, with a small input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]


def command(out: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "coterie.node.demo", "--plain", "--out", str(out), *arguments]


def environment(tmp_path: Path) -> dict[str, str]:
    """A temporary directory of its own, by which the processes of this run are known."""
    return {**os.environ, "TMPDIR": str(tmp_path)}


def processes_of(tmp_path: Path) -> list[str]:
    """Command lines of living processes that belong to this run."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            # A process that has ended has no environment any more.
            inside = f"TMPDIR={tmp_path}".encode() in (entry / "environ").read_bytes().split(b"\0")
            if entry.name.isdigit() and inside:
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def wait_for_no_process(tmp_path: Path) -> None:
    deadline = time.monotonic() + 30
    while left := processes_of(tmp_path):
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.05)


def test_a_small_run_keeps_every_promise_while_two_nodes_are_killed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = subprocess.run(
        command(out, "--limit", "240"), env=environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((out / "report.json").read_text())
    assert report["totals"]["documents"] == report["run"]["acknowledged"] == 240
    assert [kill["role"] for kill in report["run"]["kills"]] == ["leader", "follower"]
    assert all(kill["write_gap_seconds"] is not None for kill in report["run"]["kills"])
    found = {check["name"]: check["value"] for check in report["proof"]}
    assert found["steps recorded"] == "1,200"
    assert found["steps run again after completion"] == "0"
    assert (out / "report.md").read_text().startswith("# Documents read by the demo")
    wait_for_no_process(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    demo = subprocess.Popen(
        command(tmp_path / "out", "--limit", "240"),
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Whoever runs the tests in the background of a shell has them ignore SIGINT, and what they start too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert demo.stdout is not None
    with demo, demo.stdout:
        assert any("nodes are ready" in line for line in demo.stdout)
        demo.send_signal(number)
        rest = demo.stdout.read()
        assert demo.wait(60) == (130 if number != signal.SIGKILL else -signal.SIGKILL), rest
    wait_for_no_process(tmp_path)


def test_a_folder_of_ones_own_without_kills(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "a.md").write_text("# A\n\nSome words about clusters.\n")
    (folder / "b.go").write_text("// TODO: write it\npackage main\n")
    done = subprocess.run(
        command(tmp_path / "out", "--path", str(folder), "--no-kill", "--nodes", "1"),
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row["path"] for row in report["documents"]] == ["a.md", "b.go"]
    assert report["run"]["kills"] == []
    wait_for_no_process(tmp_path)
