"""What the commands ask of the cluster, and what they print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coterie import client
from coterie.node.cli.payloads import read_payload
from coterie.node.cli.tasks import join_filters
from coterie.v1 import tasks_pb2
from tests.cli.fakes import FakeCluster, document, event, node_info, run, status_info, task_info


def submitted(cluster: FakeCluster) -> dict[str, Any]:
    (options,) = [call[1] for call in cluster.calls if call[0] == "submit"]
    assert isinstance(options, dict)
    return options


def test_submit_prints_the_id_alone() -> None:
    cluster = FakeCluster(tasks={"t1": task_info("t1", "PENDING")})
    result = run(cluster, "submit", "echo")
    assert (result.exit_code, result.stdout) == (0, "t1\n")
    assert cluster.calls[-1] == ("closed",)


def test_submit_passes_every_option() -> None:
    cluster = FakeCluster()
    result = run(
        cluster,
        *["submit", "map", "--payload", '{"n": [1, 2.5, null]}', "--priority", "HIGH", "--timeout", "1m30s"],
        *["--deadline", "2h", "--label", "a=1", "--label", "b=x=y", "--require-gpu", "--node", "node-2"],
        *["--request-id", "r1", "--max-attempts", "4", "--no-checkpoint"],
        *["--key", "k", "--agent", "a", "--parent", "p", "--dead-letter", "--delay", "10m"],
        *["--constraint", "memory=2GiB", "--constraint", 'zones=["a"]', "--constraint", "session=17"],
        *["--constraint", "gpus=1", "--constraint", "prefer_same_zone=true"],
        *["--initial-backoff", "1s", "--max-backoff", "1m", "--non-retryable", "X", "--non-retryable", "Y"],
    )
    assert result.exit_code == 0, result.stderr
    assert submitted(cluster) == {
        "type": "map",
        "payload": {"n": [1, 2.5, None]},
        "priority": "high",
        "timeout": 90.0,
        "deadline": 7200.0,
        "labels": {"a": "1", "b": "x=y"},
        "constraints": {
            "memory": "2GiB",
            "zones": ["a"],
            "session": "17",
            "gpus": 1,
            "prefer_same_zone": True,
            "require_gpu": True,
        },
        "start_delay": 600.0,
        "target_node": "node-2",
        "request_id": "r1",
        "max_attempts": 4,
        "checkpoint": False,
        "key": "k",
        "agent": "a",
        "parent": "p",
        "retry": {
            "initial_backoff": 1.0,
            "max_backoff": 60.0,
            "dead_letter": True,
            "non_retryable": ["X", "Y"],
        },
    }
    assert cluster.target is not None and cluster.target.call_s == 30.0  # --timeout was the task's own


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["memory"], "write key=value"),
        (["memory="], "write key=value"),
        (["zones=[a]"], "zones, '[a]', is not JSON"),
        (["zone=a", "zone=b"], "give it once"),
    ],
)
def test_a_constraint_that_is_none_is_refused(given: list[str], said: str) -> None:
    result = run(FakeCluster(), "submit", "echo", *[w for one in given for w in ("--constraint", one)])
    assert result.exit_code == 2 and said in result.stderr


def test_options_of_submit_are_those_of_the_client() -> None:
    cluster = FakeCluster()
    run(cluster, "submit", "echo")
    known = {*client.TaskSpec.__dataclass_fields__, "type"}
    assert set(submitted(cluster)) <= known


def test_submit_wait_prints_the_result_on_stdout_and_progress_on_stderr() -> None:
    cluster = FakeCluster(result={"a": "é"}, progress=[client.Progress(50, "half")])
    result = run(cluster, "submit", "echo", "--wait")
    assert json.loads(result.stdout) == {"a": "é"}
    assert "50% half" in result.stderr and "submitted t1" in result.stderr


def test_submit_wait_json_is_one_document_with_the_result() -> None:
    cluster = FakeCluster(result=[1, float("nan"), b"\xff\x00"], progress=[client.Progress(50, "half")])
    found = document(run(cluster, "submit", "echo", "--wait", "--json"))
    assert found["ok"] is True
    assert found["result"] == [1, None, {"base64": "/wA="}]
    assert found["task"]["state"] == "SUCCEEDED"
    assert "raw" not in found["task"]


def test_a_result_of_bytes_comes_out_as_it_is() -> None:
    result = run(FakeCluster(result=b"\x00\xff"), "task", "wait", "t1")
    assert result.stdout_bytes == b"\x00\xff"


def test_stream_prints_events_then_the_result() -> None:
    events = [event(1, "submitted"), event(2, "step", "fetch", node="node-1"), event(3, "succeeded")]
    result = run(FakeCluster(result="done", events=events), "submit", "echo", "--stream")
    lines = result.stdout.splitlines()
    assert [line.split()[1] for line in lines[:3]] == ["submitted", "step", "succeeded"]
    assert lines[3] == "done"
    in_json = run(FakeCluster(result="done", events=events), "submit", "echo", "--stream", "--json")
    assert [item["type"] for item in document(in_json)["events"]] == ["submitted", "step", "succeeded"]
    assert "fetch" in in_json.stderr


@pytest.mark.parametrize("method", ["wait", "submit"])
def test_a_failed_task_is_exit_code_1(method: str) -> None:
    error = client.TaskFailed(
        task_info("t1", "FAILED", error=tasks_pb2.TaskError(code="SKILL_FAILED", message="boom"))
    )
    arguments = ["task", "wait", "t1"] if method == "wait" else ["submit", "echo", "--wait"]
    result = run(FakeCluster(failures={"wait": error}), *arguments, "--json")
    assert result.exit_code == 1
    found = document(result)["error"]
    assert (found["code"], found["reason"]) == ("FAILED", "SKILL_FAILED")
    assert found["task"]["error"]["message"] == "boom"


def test_wait_is_bounded_by_a_timeout_that_was_given() -> None:
    cluster = FakeCluster()
    run(cluster, "task", "wait", "t1", "--timeout", "1500ms")
    run(cluster, "--timeout", "2", "task", "wait", "t1")
    run(cluster, "task", "wait", "t1")
    assert [call[2] for call in cluster.calls if call[0] == "wait"] == ["1500ms", "2s", None]


def test_watch_of_a_failed_task_ends_with_1_and_keeps_the_events() -> None:
    cluster = FakeCluster(tasks={"t1": task_info("t1", "CANCELLED")}, events=[event(1, "cancelled")])
    result = run(cluster, "task", "watch", "t1", "--json", "--resume-token", "token-0")
    assert result.exit_code == 1
    assert document(result)["error"]["events"][0]["resume_token"] == "token-1"
    assert ("watch", "t1", "token-0") in cluster.calls


def test_payload_from_a_file_and_from_stdin(tmp_path: Path) -> None:
    path = tmp_path / "in.json"
    path.write_text('{"k": "ü"}', encoding="utf-8")
    assert read_payload(f"@{path}") == {"k": "ü"}
    assert read_payload(None) is None
    cluster = FakeCluster()
    run(cluster, "submit", "echo", "--payload", "-", stdin="[1]")
    assert submitted(cluster)["payload"] == [1]


@pytest.mark.parametrize("payload", ["{", "NaN", "hello", "@missing.json", "[" * 100_000, ""])
def test_a_bad_payload_names_itself_and_the_remedy(payload: str) -> None:
    cluster = FakeCluster()
    result = run(cluster, "submit", "echo", "--payload", payload)
    assert result.exit_code == 2
    assert result.stderr.startswith("coterie: --payload: ") and len(result.stderr) < 400
    assert cluster.calls == []


def test_a_payload_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "in.bin"
    path.write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in run(FakeCluster(), "submit", "echo", "--payload", f"@{path}").stderr


def test_filters_are_joined() -> None:
    assert join_filters((), "") == ""
    assert join_filters(("RUNNING", "FAILED"), ' type="a" ') == 'state=RUNNING OR state=FAILED AND type="a"'
    cluster = FakeCluster()
    run(cluster, "tasks", "--state", "running", "--filter", "labels.x=1", "--limit", "7")
    assert cluster.calls[0] == ("list", "state=RUNNING AND labels.x=1", 7, 7)


def test_a_joined_filter_means_what_it_says_to_the_node() -> None:
    from coterie.node.filters import parse_filter

    query = parse_filter(join_filters(("RUNNING", "FAILED"), 'type="map"'))
    assert query.states == frozenset({"RUNNING", "FAILED"})


def test_tasks_are_listed_one_a_line_and_hostile_text_cannot_steer_the_terminal() -> None:
    hostile = tasks_pb2.TaskError(code="X", message="\x1b[2J[bold]red[/bold]\nnext")
    cluster = FakeCluster(
        tasks={"t1": task_info("t1", "FAILED", error=hostile), "t2": task_info("t2", "RUNNING")}
    )
    result = run(cluster, "tasks")
    assert len(result.stdout.splitlines()) == 3
    assert "\x1b" not in result.stdout
    assert "[bold]red[/bold]" in result.stdout
    assert document(run(cluster, "tasks", "--json"))["tasks"][0]["error"]["message"].startswith("\x1b")


def test_show_has_the_steps_and_the_result() -> None:
    raw = task_info("t1", step_count=1, steps=[tasks_pb2.Step(name="fetch", attempt=2)])
    result = run(FakeCluster(tasks={"t1": raw}, result={"words": 3}), "task", "show", "t1")
    assert "fetch" in result.stdout and '"words": 3' in result.stdout
    found = document(run(FakeCluster(tasks={"t1": raw}, result=1), "task", "show", "t1", "--json"))
    assert found["result"] == 1 and found["task"]["steps"][0]["name"] == "fetch"


def test_nodes_and_status_fit_a_terminal() -> None:
    for command in ("nodes", "status"):
        result = run(FakeCluster(), command)
        assert result.exit_code == 0
        assert all(len(line.rstrip()) <= 80 for line in result.stdout.splitlines())
        assert "node-2" in result.stdout
    status = run(FakeCluster(status=status_info()), "status").stdout
    assert "leader node-1" in status and "pending 4" in status and "term 3" in status


def test_status_in_json_has_nodes_and_numbers() -> None:
    found = document(run(FakeCluster(), "status", "--json"))["status"]
    assert found["tasks_by_state"] == {"PENDING": 4, "RUNNING": 2}
    assert [node["id"] for node in found["nodes"]] == ["node-1", "node-2"]


@pytest.mark.parametrize("prefix", [[], ["node"]], ids=["top", "node"])
def test_drain_and_undrain(prefix: list[str]) -> None:
    cluster = FakeCluster()
    assert "DRAINING" in run(cluster, *prefix, "drain", "node-1", "--deadline", "5m").stdout
    assert document(run(cluster, *prefix, "undrain", "node-1", "--json"))["node"]["state"] == "ACTIVE"
    assert [call[:3] for call in cluster.calls if call[0] != "closed"] == [
        ("drain", "node-1", 300.0),
        ("undrain", "node-1"),
    ]


def test_drain_wait_stays_until_the_node_is_empty() -> None:
    cluster = FakeCluster(nodes=[node_info("node-1", "DRAINED")])
    assert document(run(cluster, "drain", "node-1", "--wait", "--json"))["node"]["state"] == "DRAINED"


def test_drain_wait_ends_with_a_node_that_is_gone() -> None:
    words = ("drain", "node-1", "--wait", "--timeout", "20s")
    down = run(FakeCluster(nodes=[node_info("node-1", "DOWN")]), *words)
    assert down.exit_code == 0 and "DOWN, 0 running" in down.stdout
    removed = run(FakeCluster(nodes=[node_info("node-2")]), *words)
    assert removed.exit_code == 4 and "removed meanwhile" in removed.stderr


def test_drain_wait_gives_up_when_it_is_told_to() -> None:
    cluster = FakeCluster(nodes=[node_info("node-1", "DRAINING", running=1)])
    result = run(cluster, "drain", "node-1", "--wait", "--timeout", "50ms")
    assert result.exit_code == 5
    assert "it goes on" in result.stderr


def test_leadership_moves_to_a_node_or_anywhere() -> None:
    cluster = FakeCluster()
    assert run(cluster, "leader", "transfer", "node-3").stdout == "leader node-3\n"
    assert document(run(cluster, "leader", "transfer", "--json"))["leader"] == "node-2"


def test_cancel_says_whether_it_is_over() -> None:
    cluster = FakeCluster(tasks={"t1": task_info("t1", "RUNNING")})
    assert "told to stop" in run(cluster, "task", "cancel", "t1", "--reason", "wrong").stdout
    assert cluster.calls[0] == ("cancel", "t1", "wrong")


def test_why_shows_every_node_with_what_counts() -> None:
    task = task_info("t1", "PENDING", wait_reason=tasks_pb2.QUEUED)
    route = tasks_pb2.Route(strategy="adaptive", decided_by="node-1", applied_index=77, node="node-2")
    route.wait_reason, route.wait_detail = tasks_pb2.NO_NODE, "no node has a GPU"
    best = route.candidates.add(node_id="node-2", fit=True, chosen=True, cost=120.0, held=3, capacity=16)
    best.terms.add(name="service", amount=80.0, factor=1.0, detail="measured 80 ms")
    best.terms.add(name="zone", factor=1.5, detail="in zone b, not a")
    full = route.candidates.add(node_id="node-3", fit=True)
    full.objections.add(filter="capacity", reason="is full (16 of 16 slots)")
    route.candidates.add(node_id="node-1").objections.add(filter="gpu", reason="has no GPU")
    cluster = FakeCluster(tasks={"t1": task}, route=route)
    found = document(run(cluster, "why", "t1", "--json"))
    assert (found["reason"], found["chosen"], found["applied_index"]) == ("NO_NODE", "node-2", 77)
    assert "no node has a GPU" in found["summary"]
    chosen, busy, unfit = found["nodes"]
    assert chosen["chosen"] and chosen["cost"] == 120.0 and len(chosen["terms"]) == 2
    assert busy["fits"] and busy["cost"] is None
    assert unfit["against"] == [{"filter": "gpu", "reason": "has no GPU"}] and not unfit["fits"]
    shown = run(cluster, "why", "t1").stdout
    assert "service +80 (measured 80 ms)" in shown and "zone x1.5" in shown and "index 77" in shown


@pytest.mark.parametrize("state", ["RUNNING", "SCHEDULED", "SUCCEEDED", "WAITING"])
def test_why_answers_for_every_state(state: str) -> None:
    result = run(FakeCluster(tasks={"t1": task_info("t1", state, node="node-1")}), "why", "t1")
    assert result.exit_code == 0 and result.stdout.startswith("t1 (echo): it ")
