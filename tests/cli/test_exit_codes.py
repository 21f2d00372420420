"""Every way a command can end has its exit code, its one line, and its one document."""

from __future__ import annotations

import pytest

from coterie import client
from tests.cli.fakes import FakeCluster, document, run, status_info, task_info

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
