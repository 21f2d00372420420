"""Every way a command can end has its exit code, its one line, and its one document."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from coterie import client
from coterie.node.cli.history import read_changes
from coterie.node.cli.main import cli
from coterie.node.cli.runs import _inputs as run_inputs
from coterie.node.cli.session import Session
from coterie.v1 import tasks_pb2
from tests.cli.fakes import ENDPOINT, FakeCluster, document, run, status_info, task_info

BAD = client.InvalidRequest(
    "type: no such skill; priority: 'x' is none",
    violations=[("type", "no such skill"), ("priority", "'x' is none"), ("labels", "too many")],
    reason="BAD_FIELD",
)
FAILURES: list[tuple[BaseException, int, str]] = [
    (BAD, 2, "INVALID_ARGUMENT"),
    (client.ConfigError("endpoint 'x': write host:port"), 2, "INVALID_ARGUMENT"),
    (
        client.Unavailable("no node answered", endpoints={"h:1": "refused"}, reason="NO_LEADER"),
        3,
        "UNAVAILABLE",
    ),
    (client.DataLoss("the blob is damaged"), 3, "DATA_LOSS"),
    (client.NotFound("no task 't1'", reason="TASK_NOT_FOUND"), 4, "NOT_FOUND"),
    (client.PermissionDenied("your role may not"), 4, "PERMISSION_DENIED"),
    (client.FailedPrecondition("it is finished", reason="TASK_TERMINAL"), 4, "FAILED_PRECONDITION"),
    (
        client.QueueFull("10000 tasks are pending", reason="QUEUE_FULL", retry_after=0.5),
        4,
        "RESOURCE_EXHAUSTED",
    ),
    (client.Aborted("somebody was first"), 4, "ABORTED"),
    (client.ClusterError("too slow", code="DEADLINE_EXCEEDED"), 5, "DEADLINE_EXCEEDED"),
    (client.WaitTimeout("not finished within 1s; it goes on"), 5, "DEADLINE_EXCEEDED"),
    (client.ClusterError("a node has a defect", code="INTERNAL"), 70, "INTERNAL"),
    (ZeroDivisionError("division by zero"), 70, "INTERNAL"),
    (client.TaskFailed(task_info("t1", "FAILED")), 1, "FAILED"),
    (client.TaskDeadLettered(task_info("t1", "DEAD_LETTERED")), 1, "DEAD_LETTERED"),
]
NAMES = [f"{type(error).__name__}-{code}" for error, code, _ in FAILURES]
COMMANDS = [
    ("submit", ["submit", "echo"]),
    ("get", ["task", "show", "t1"]),
    ("wait", ["task", "wait", "t1"]),
    ("watch", ["task", "watch", "t1"]),
    ("cancel", ["task", "cancel", "t1"]),
    ("list", ["tasks"]),
    ("nodes", ["nodes"]),
    ("drain", ["drain", "node-1"]),
    ("undrain", ["node", "undrain", "node-1"]),
    ("transfer", ["leader", "transfer"]),
    ("explain", ["why", "t1"]),
]


@pytest.mark.parametrize(("error", "exit_code", "code"), FAILURES, ids=NAMES)
def test_an_error_of_the_client_has_its_code_and_one_line(
    error: BaseException, exit_code: int, code: str
) -> None:
    result = run(FakeCluster(failures={"wait": error}), "task", "wait", "t1")
    assert result.exit_code == exit_code
    assert result.stdout == ""
    assert result.stderr.startswith("coterie: ") and "Traceback" not in result.stderr


@pytest.mark.parametrize(("error", "exit_code", "code"), FAILURES, ids=NAMES)
def test_with_json_it_is_one_document(error: BaseException, exit_code: int, code: str) -> None:
    result = run(FakeCluster(failures={"wait": error}), "--json", "task", "wait", "t1")
    assert result.exit_code == exit_code
    found = document(result)
    assert found["ok"] is False
    assert found["error"]["code"] == code
    assert {"code", "reason", "message", "violations"} <= set(found["error"])


@pytest.mark.parametrize(("method", "arguments"), COMMANDS, ids=[" ".join(a) for _, a in COMMANDS])
def test_every_command_says_in_json_that_nobody_answered(method: str, arguments: list[str]) -> None:
    error = client.Unavailable("no node answered in time", endpoints={"127.0.0.1:7101": "refused"})
    result = run(FakeCluster(failures={method: error}), *arguments, "--json")
    assert result.exit_code == 3
    assert document(result)["error"]["endpoints"] == {"127.0.0.1:7101": "refused"}


def test_all_violations_are_named_and_none_twice() -> None:
    result = run(FakeCluster(failures={"submit": BAD}), "submit", "echo")
    assert result.stderr.splitlines() == [
        "coterie: type: no such skill; priority: 'x' is none",
        "coterie: labels: too many",
    ]
    found = document(run(FakeCluster(failures={"submit": BAD}), "submit", "echo", "--json"))
    assert [item["field"] for item in found["error"]["violations"]] == ["type", "priority", "labels"]


def test_a_defect_shows_its_traceback_only_on_request() -> None:
    failing = FakeCluster(failures={"nodes": ZeroDivisionError("division by zero")})
    assert "--debug" in run(failing, "nodes").stderr
    assert "Traceback" in run(failing, "nodes", "--debug").stderr


def test_ctrl_c_is_quiet() -> None:
    failing = FakeCluster(failures={"wait": KeyboardInterrupt()})
    result = run(failing, "task", "wait", "t1")
    assert (result.exit_code, result.stdout, result.stderr.strip()) == (130, "", "")
    assert document(run(failing, "task", "wait", "t1", "--json"))["error"]["reason"] == "INTERRUPTED"


def test_an_unknown_outcome_says_how_to_ask_again() -> None:
    error = client.Unavailable("no node answered in time", request_id="r-7")
    assert "--request-id r-7" in run(FakeCluster(failures={"submit": error}), "submit", "echo").stderr


@pytest.mark.parametrize(("method", "arguments"), COMMANDS, ids=[" ".join(a) for _, a in COMMANDS])
def test_no_command_is_told_to_use_an_option_that_it_has_not(method: str, arguments: list[str]) -> None:
    error = client.Unavailable("no node answered in time", request_id="r-7")
    told = run(FakeCluster(failures={method: error}), *arguments).stderr
    assert "no node answered in time; it may have been accepted" in told
    assert ("--request-id" in told) == ("--request-id" in run(FakeCluster(), *arguments, "--help").stdout)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["sumbit"], "did you mean 'submit'?"),
        (["task", "cancle", "t1"], "did you mean 'cancel'?"),
        (["frobnicate"], "there are"),
        (["task"], "Missing command"),
        (["submit"], "TYPE"),
        (["submit", "echo", "--priority", "urgent"], "urgent"),
        (["submit", "echo", "--label", "novalue"], "key=value"),
        (["submit", "echo", "--max-attempts", "0"], "--max-attempts"),
        (["submit", "echo", "--timeout", "5 parsecs"], "5 parsecs"),
        (["submit", "echo", "--timeout", "-1"], "-1"),
        (["tasks", "--state", "SLEEPING"], "SLEEPING"),
        (["tasks", "--limit", "0"], "--limit"),
        (["--timeout", "0", "nodes"], "leaves no time"),
        (["nodes", "--colour"], "--colour"),
        (["submit", "echo", "--label", "a=1", "--label", "a=2"], "'1' and '2'"),
        (["status", "--watch", "--json"], "--watch"),
        (["--insecure", "--tls-ca", "ca.crt", "nodes"], "contradicts"),
    ],
    ids=str,
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], word: str) -> None:
    cluster = FakeCluster()
    result = run(cluster, *arguments)
    assert result.exit_code == 2
    text = result.stderr or document(result)["error"]["message"]
    assert word in text and len(text.splitlines()) == 1
    in_json = run(cluster, *arguments, "--json")
    assert in_json.exit_code == 2
    assert word in document(in_json)["error"]["message"]
    assert cluster.calls == []


HUGE, DEEP, NO_TEXT = "9" * 20, "[" * 100_000, "a\udcff"


@pytest.mark.parametrize(
    "arguments",
    [
        ["limits", "set", "x", "--rate", HUGE],
        ["tenants", "set", "x", "--weight", HUGE],
        ["budgets", "set", "x", "--tokens", HUGE],
        ["budgets", "set", "x", "--usd", "inf"],
        ["budgets", "set", "x", "--usd", "nan"],
        ["lock", "release", "x", HUGE],
        ["kv", "put", "k", "1", "--expect", HUGE],
        ["kv", "watch", "--after", HUGE],
        ["bus", "keep", "t", "--bytes", HUGE],
        ["state", "--at", HUGE],
        ["replay", "t1", "--until", str(2**31)],
        ["config", "show", "--revision", HUGE],
        ["config", "rollback", "1", "--expected", HUGE],
        ["workflow", "apply", __file__, "--revision", HUGE],
        ["audit", "export", "--out", "x", "--after", HUGE],
    ],
    ids=" ".join,
)
def test_a_number_that_no_message_carries_is_wrong_usage(arguments: list[str]) -> None:
    cluster = FakeCluster()
    result = run(cluster, *arguments)
    assert result.exit_code == 2 and " is more than " in result.stderr and cluster.calls == []


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["kv", "put", "k", "{"], "VALUE"),
        (["kv", "put", "k", "@no-such-file"], "VALUE"),
        (["bus", "pub", "t", "{"], "BODY"),
        (["submit", "echo", "--payload", "{"], "--payload"),
        (["submit", "--goal", "@no-such-file"], "--goal"),
        (["submit", "--goal", "x", "--context", "@no-such-file"], "--context"),
        (["workflow", "run", "--kept", "x", "--inputs", "{"], "--inputs"),
        (["map-reduce", "--map", "x", "--documents", "@no-such-file"], "--documents"),
        (["map-reduce", "--map", "x", "--reduce-input", "{", __file__], "--reduce-input"),
        (["task", "resolve", "t1", "s", "--done", "{"], "--done"),
    ],
    ids=str,
)
def test_what_cannot_be_read_is_named_as_it_was_given(arguments: list[str], name: str) -> None:
    found = document(run(FakeCluster(), *arguments, "--json"))["error"]
    assert found["violations"][0]["field"] == name and found["message"].startswith(f"{name}: ")


def test_an_argument_that_is_no_text_is_wrong_usage() -> None:
    wrong = UnicodeEncodeError("utf-8", NO_TEXT, 1, 2, "surrogates not allowed")
    result = run(FakeCluster(failures={"get": wrong}), "task", "show", NO_TEXT)
    assert result.exit_code == 2 and "'a\\udcff' is no UTF-8 text" in result.stderr


def test_a_value_that_is_too_deep_for_json_is_a_text() -> None:
    assert read_changes((("a", DEEP),)) == {"a": DEEP}
    assert run_inputs(None, (("a", DEEP),)) == {"a": DEEP}


def test_a_workflow_to_keep_that_is_no_text_is_wrong_input(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_bytes(b"\xff")
    result = run(FakeCluster(), "workflow", "apply", str(tmp_path / "w.yaml"))
    assert result.exit_code == 2 and "w.yaml" in result.stderr


def test_what_a_terminal_cannot_show_is_escaped() -> None:
    task = task_info("t1", "FAILED", error=tasks_pb2.TaskError(code="BAD", message="größer"))
    cluster: Any = FakeCluster(tasks={"t1": task})
    environment = {"COTERIE_ENDPOINT": ENDPOINT}
    given = Session(connect=lambda target: cluster)
    result = CliRunner(charset="ascii").invoke(cli, ["task", "show", "t1"], env=environment, obj=given)
    assert result.exit_code == 0 and "gr\\xf6\\xdfer" in result.stdout


def test_a_closed_output_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster: Any = FakeCluster()
    monkeypatch.setenv("COTERIE_ENDPOINT", ENDPOINT)
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    given = Session(connect=lambda target: cluster)
    assert cli.main(["tasks"], standalone_mode=False, obj=given) == 0
    for name in ("stdin", "stdout", "stderr"):
        getattr(sys, name).close()


@pytest.mark.parametrize(
    ("arguments", "stream", "code"),
    [(["version"], "stdout", 141), (["--help"], "stdout", 141), (["no-such"], "stderr", 2)],
)
def test_where_nobody_reads_the_code_does_not_say_that_a_task_failed(
    arguments: list[str], stream: str, code: int
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "coterie.node.cli", *arguments]
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | {stream: writing}
    try:
        done = subprocess.run(command, **streams, timeout=60, check=False)
    finally:
        os.close(writing)
    assert (done.returncode, done.stdout or b"", done.stderr or b"") == (code, b"", b"")


def test_no_arguments_show_the_help() -> None:
    result = run(FakeCluster())
    assert result.exit_code == 0
    assert "Exit codes" in result.stdout


def test_status_without_a_quorum_shows_what_is_known_and_ends_with_3() -> None:
    error = client.Unavailable("no leader", reason="NO_LEADER")
    cluster = FakeCluster(failures={"status": error}, stale_status=status_info(quorum=False))
    result = run(cluster, "status")
    assert result.exit_code == 3
    assert "NO QUORUM" in result.stdout and "no quorum" in result.stderr
    found = document(run(cluster, "status", "--json"))
    assert found["error"]["reason"] == "NO_QUORUM"
    assert found["error"]["status"]["has_quorum"] is False


def test_status_with_nobody_there_keeps_the_first_error() -> None:
    error = client.Unavailable("no node answered", endpoints={"h:1": "refused"})
    other = client.Unavailable("second")
    result = run(FakeCluster(failures={"status": error, "stale_status": other}), "status")
    assert result.exit_code == 3
    assert "h:1: refused" in result.stderr
