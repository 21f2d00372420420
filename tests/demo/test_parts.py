"""The smaller parts of the demo: journal, choice of victims, views, report, command line."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from coterie.client import NodeInfo, Status
from coterie.node.demo import output, view
from coterie.node.demo.__main__ import main
from coterie.node.demo.documents import Choice, Document
from coterie.node.demo.faults import choose_victim
from coterie.node.demo.journal import Journal, Kill
from coterie.node.demo.proof import Check
from coterie.node.demo.work import batches
from coterie.v1 import cluster_pb2


def node(node_id: str, state: str = "ACTIVE", running: int = 0) -> cluster_pb2.Node:
    return cluster_pb2.Node(
        node_id=node_id, state=cluster_pb2.NodeState.Value(state), running=running, capacity=8, cpu=0.5
    )


def journal() -> Journal:
    seen = Journal(total=10)
    raw = cluster_pb2.ClusterStatus(
        leader="node-1", term=3, nodes=[node("node-1", running=2), node("node-2", "DOWN")]
    )
    raw.tasks_by_state["PENDING"] = 7
    seen.status = Status.of(raw)
    seen.processes = {"node-1": "running", "node-2": "dead"}
    seen.say("kill -9 node-2 [not markup]")
    return seen


async def test_waiting_for_progress_ends_with_the_progress() -> None:
    seen = Journal(total=4)
    seen.acked = dict.fromkeys(("a", "b", "c"), "path")
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        done = group.create_task(seen.until_done(2))
        room = group.create_task(seen.until_open_below(2))
        await asyncio.sleep(0)
        seen.finish("a", {"lines": 1})
        await asyncio.sleep(0)
        assert not done.done()
        seen.finish("b", failure="it broke")
    assert room.done()
    assert (seen.done, seen.results, seen.failures) == (2, {"a": {"lines": 1}}, {"b": "it broke"})


def test_victims() -> None:
    nodes = [NodeInfo.of(n) for n in (node("node-1"), node("node-2", running=9), node("node-3", running=1))]
    assert choose_victim(nodes, "node-1", "leader", []).id == "node-1"
    assert choose_victim(nodes, "node-1", "follower", []).id == "node-2"
    assert choose_victim(nodes, "node-1", "follower", ["node-2"]).id == "node-3"
    down = [nodes[0], nodes[1], NodeInfo.of(node("node-3", "DOWN"))]
    assert choose_victim(down, "node-1", "follower", ["node-2"]).id == "node-2"


def test_batches_hold_every_document_once() -> None:
    documents = [Document(str(number), "") for number in range(7)]
    assert [len(batch) for batch in batches(documents, 3)] == [3, 3, 1]
    assert [document for batch in batches(documents, 3) for document in batch] == documents


def test_the_plain_line_and_the_picture_show_nodes_queue_and_events() -> None:
    seen = journal()
    line = view.plain_line(seen)
    assert "0/10 documents" in line
    assert "queue    7" in line
    assert "leader node-1" in line
    assert "processes 1/2" in line
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(view.picture(seen))
    text = console.export_text()
    rows = [row.split() for row in text.splitlines()]
    assert ["node-1", "ACTIVE", "leader", "2/8", "50%", "0", "MB"] in rows
    assert ["node-2", "killed"] in rows
    assert "kill -9 node-2 [not markup]" in text


def test_a_picture_before_anything_is_known() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(view.picture(Journal(total=0)))
    assert "starting" in console.export_text()


def test_the_report_holds_the_figures_and_the_proof(tmp_path: Path) -> None:
    seen = journal()
    seen.kills = [
        Kill("node-2", "leader", 0.0, 0.0, 3, 2, gap_s=0.5, back_s=3.0, resumed=[1.0, 2.0]),
        Kill("node-1", "follower", 0.0, 0.0, 6, 0),
    ]
    numbers = output.figures(seen, Choice(documents=[Document("a", "x")]))
    checks = [Check("results received", "1 of 1", True, "counted"), Check("duplicates", "2", False, "listed")]
    merged = {"markdown": "# T\n", "report": {"title": "T"}, "index": {"term": [[0, 1]]}}
    output.write_reports(tmp_path, merged, numbers, checks)
    text = (tmp_path / "report.md").read_text()
    assert "next write acknowledged after 0.50 s; 2 of its tasks went on elsewhere after 1.50 s" in text
    assert "no write acknowledged afterwards; it was running no task; it did not come back" in text
    assert "| duplicates | 2 | **broken** | listed |" in text
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["index"] == {"term": [[0, 1]]}
    assert [check["kept"] for check in document["proof"]] == [True, False]
    console = Console(width=120, record=True, file=io.StringIO())
    output.print_summary(console, numbers, checks, tmp_path)
    assert "BROKEN  duplicates" in console.export_text()


def test_logs_are_kept(tmp_path: Path) -> None:
    log = tmp_path / "node-1.log"
    log.write_text("a line\n")
    folder = output.keep_logs(tmp_path / "out", [log, tmp_path / "missing.log"])
    assert [path.name for path in folder.iterdir()] == ["node-1.log"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nodes", "0"], "--nodes"),
        (["--nodes", "2"], "give 3 or more, or --no-kill"),
        (["--limit", "-1"], "--limit"),
        (["--path", "no/such/folder"], "no/such/folder"),
        (["--path", "{empty}"], "no text or source file"),
        (["--out", "{file}/below", "--limit", "1"], "--out"),
        (["--colour"], "--colour"),
    ],
)
def test_bad_usage_is_refused_with_exit_code_2(tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    places = {"empty": str(tmp_path / "empty"), "file": str(tmp_path / "file")}
    result = CliRunner().invoke(main, [argument.format(**places) for argument in arguments])
    assert result.exit_code == 2
    assert said in result.output
    assert "Traceback" not in result.output
