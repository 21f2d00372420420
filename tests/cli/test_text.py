"""Values as texts for people, and the live views."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from coterie import client
from coterie.client.tokens import TokenChunk
from coterie.node.cli import text
from coterie.node.cli.following import Words, print_end
from coterie.node.cli.live import Rate, Screen, StatusView
from coterie.node.cli.output import console
from coterie.node.cli.session import Session
from coterie.v1 import tasks_pb2
from tests.cli.fakes import FakeCluster, node_info, run, status_info, task_info

NOW = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0.0s"),
        (0.44, "0.4s"),
        (3.9, "3s"),
        (60, "1m"),
        (125, "2m 5s"),
        (3_600, "1h"),
        (10_860, "3h 1m"),
        (187_200, "2d 4h"),
    ],
)
def test_spans(seconds: float, shown: str) -> None:
    assert text.span(seconds) == shown


def test_times_are_relative() -> None:
    assert text.ago(NOW - timedelta(seconds=3), NOW) == "3s ago"
    assert text.ago(NOW + timedelta(hours=1), NOW) == "just now"
    assert text.ago(None) == "-"


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (80 << 20, "80 MiB"), (5 << 40, "5120 GiB")],
)
def test_sizes(count: int, shown: str) -> None:
    assert text.size(count) == shown


def test_control_characters_are_shown_not_obeyed() -> None:
    assert text.clean("a\x1b[2Jb\r\x07\tc\nd") == "a�[2Jb��\tc\nd"
    assert text.one_line("a\n b" + "x" * 100, 10) == "a bxxxxxx…"
    assert text.pairs({"b": "2", "a": "1"}) == "a=1 b=2" and text.pairs({}) == "-"


def test_a_rate_is_taken_between_two_readings() -> None:
    times = iter([10.0, 12.0, 13.0, 13.0])
    rate = Rate(lambda: next(times))
    assert [rate.of(count) for count in (100, 150, 20, 30)] == [None, 25.0, None, None]


def screen_text(view: StatusView, processes: dict[str, str] | None = None) -> str:
    out = Console(file=io.StringIO(), width=80, markup=False)
    out.print(view.render(processes))
    written = out.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(written, str)
    return written


async def test_the_live_view_keeps_the_last_answer_and_says_what_is_wrong() -> None:
    cluster = FakeCluster()
    view = StatusView(cluster)  # type: ignore[arg-type]
    assert "asking" in screen_text(view)
    await view.refresh()
    assert "leader node-1" in screen_text(view)
    gone = client.Unavailable("no node answered in time")
    cluster.failures.update(status=gone, stale_status=gone)
    await view.refresh()
    shown = screen_text(view, {"node-1": "pid 7"})
    assert "leader node-1" in shown and "no node answered" in shown and "pid 7" in shown
    assert "no node answered" in view.brief()


async def test_the_live_table_of_dev_fits_80_columns() -> None:
    busy = [
        node_info(f"node-{n}", "DRAINING", running=16, cpu=1.0, rss_bytes=900 << 20, report_age_ms=800).raw
        for n in (1, 2, 3)
    ]
    view = StatusView(FakeCluster(status=status_info(nodes=busy, commit_index=10**6)))  # type: ignore[arg-type]
    await view.refresh()
    shown = screen_text(view, {f"node-{n}": "pid 123456" for n in (1, 2, 3)})
    assert "pid 123456" in shown and "DRAINING" in shown and "…" not in shown


async def test_without_a_terminal_a_line_is_printed_when_something_changed() -> None:
    cluster = FakeCluster()
    view = StatusView(cluster)  # type: ignore[arg-type]
    out = Console(file=io.StringIO(), width=200, markup=False)
    with Screen(out, view) as screen:
        for term in (3, 3, 4):
            cluster.status = status_info(term=term)
            await view.refresh()
            screen.draw()
    lines = out.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [line.split("term ")[1][0] for line in lines] == ["3", "4"]


@pytest.mark.parametrize(
    "kept", ["日本\u3000語", "10\u202f000\u00a0€", "👩\u200d💻", "auf\u200clage", "Zucker\u00adrübe"]
)
def test_what_other_scripts_write_stays_as_it_is(kept: str) -> None:
    assert text.clean(kept) == kept


def test_lines_of_other_systems_end_as_lines_do() -> None:
    assert text.clean("a\r\nb\rc\u202e") == "a\nb�c�"


HOSTILE = "\x1b]0;gone\x07\x1b[2J"


def test_nothing_that_is_printed_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console().print(f"failed: {HOSTILE}", soft_wrap=True)
    words = Words(to_stderr=False)
    words.print(TokenChunk(f"think{HOSTILE}", 1, 1, 0, f"a{HOSTILE}b", False))
    words.end()
    shown = capsys.readouterr().out
    assert "failed: �]0;gone��[2J" in shown and "a�]0;gone��[2Jb" in shown
    assert "\x1b" not in shown and "\x07" not in shown


def test_bytes_go_to_files_and_pipes_and_not_to_a_terminal(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    session = Session()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coterie.node.cli.output.console", lambda: Console(force_terminal=True))
        print_end(session, task_info(), HOSTILE.encode())
    print_end(session, task_info(), b"\x00\x1b")
    assert capfdbinary.readouterr().out == b"%d bytes\n\x00\x1b" % len(HOSTILE)


def test_the_error_of_a_skill_is_shown_not_obeyed() -> None:
    error = tasks_pb2.TaskError(code="BAD", message=HOSTILE)
    task = task_info("t1", "FAILED", error=error)
    for command in (["why", "t1"], ["task", "show", "t1"], ["tasks"]):
        result = run(FakeCluster(tasks={"t1": task}), *command)
        assert result.exit_code == 0, result.stderr
        assert "gone" in result.stdout and "\x1b" not in result.stdout
