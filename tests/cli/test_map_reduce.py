"""`coterie map-reduce`: what it asks for, and what it says about the end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from coterie.node.cli.map_reduce import _read_documents
from tests.cli.console import Console
from tests.client.conftest import fake as fake
from tests.client.fake import FakeCluster as Nodes

RESULT = {
    "result": {"sum": 3},
    "documents": 3,
    "failed": [{"document": 1, "task": "t1~m1", "state": "FAILED", "code": "BROKEN", "message": "a bad one"}],
}


@pytest.fixture
async def console(fake: Nodes) -> AsyncIterator[Console]:
    yield Console(fake)


def asked(console: Console) -> tuple[dict[str, Any], list[Any]]:
    """The payload of the one task, and the documents in its blobs."""
    [task] = console.nodes.tasks.values()
    assert task.type == "map-reduce"
    payload = json.loads(task.payload.inline)
    lines = [console.nodes.blobs[batch["sha256"]].split(b"\n") for batch in payload.pop("batches")]
    return payload, [json.loads(line) for batch in lines for line in batch]


async def test_files_become_documents_and_every_option_arrives(console: Console, tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(f"text of {name}")
    files = [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]
    options = ["--reducer", "tree", "--fan-in", "4", "--window", "7", "--results-as", "documents"]
    more = ["--reduce-input", '{"title": "T"}', "--max-attempts", "2", "--skip", "50%"]
    done = await console("map-reduce", "--map", "words", "--reduce", "add", *options, *more, *files)
    assert done.stdout == "t1\n", done.output
    payload, documents = asked(console)
    assert documents == [{"path": path, "text": f"text of {Path(path).name}"} for path in files]
    assert payload == {
        "map": "words",
        "reduce": "add",
        "reducer": "tree",
        "window": 7,
        "fan_in": 4,
        "results_as": "documents",
        "reduce_input": {"title": "T"},
        "map_options": {"max_attempts": 2},
        "on_map_failure": "skip",
        "failures_max": 1,
    }


@pytest.mark.parametrize("inside", ["\u2028", "\u0085", "\u2029"])
def test_only_the_end_of_a_line_ends_a_document(tmp_path: Path, inside: str) -> None:
    lines = [json.dumps({"text": f"one{inside}document"}, ensure_ascii=False), '"two"']
    (tmp_path / "given").write_text("\r\n".join(lines), encoding="utf-8", newline="")
    found = _read_documents(f"@{tmp_path / 'given'}")
    assert found == [{"text": f"one{inside}document"}, "two"]


@pytest.mark.parametrize("text", ['[1, "two", {"n": 3}]', '1\n"two"\n \n{"n": 3}\n'])
async def test_documents_come_as_a_list_or_as_lines(console: Console, tmp_path: Path, text: str) -> None:
    (tmp_path / "given").write_text(text)
    source = f"@{tmp_path / 'given'}"
    found = await console.json("map-reduce", "--map", "echo", "--documents", source, "--dead-letter")
    assert found["task"]["type"] == "map-reduce"
    payload, documents = asked(console)
    assert documents == [1, "two", {"n": 3}]
    assert (payload["on_map_failure"], payload["reduce"], payload["window"]) == ("dead-letter", "", 64)


async def test_staying_prints_the_result_and_what_is_missing_from_it(
    console: Console, tmp_path: Path
) -> None:
    (tmp_path / "given").write_text("[1, 2, 3]")

    async def finish(task_id: str) -> None:
        await console.nodes.until(lambda: task_id in console.nodes.tasks)
        await console.nodes.finish(task_id, RESULT)

    words = ["map-reduce", "--map", "x", "--documents", f"@{tmp_path / 'given'}", "--skip", "1", "--wait"]
    done, _ = await asyncio.gather(console(*words), finish("t1"))
    assert json.loads(done.stdout) == {"sum": 3}
    assert "document 1 has no result: BROKEN: a bad one" in done.stderr
    said, _ = await asyncio.gather(console.json(*words), finish("t2"))
    assert said["result"]["value"] == {"sum": 3} and said["result"]["failed"][0]["task"] == "t1~m1"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give files or --documents"),
        (["--documents", "lines"], "write @FILE"),
        (["--documents", "-", "--skip", "some"], "no number and no percentage"),
        (["--documents", "-", "--skip", "101%"], "up to 100"),
        (["--documents", "-", "--skip", "1", "--dead-letter"], "either --skip or --dead-letter"),
    ],
)
async def test_what_makes_no_sense_is_refused(console: Console, words: list[str], said: str) -> None:
    done = await console("map-reduce", "--map", "echo", *words)
    assert done.exit_code == 2 and said in done.output
    assert not console.nodes.tasks


async def test_a_line_that_is_no_json_is_named(console: Console, tmp_path: Path) -> None:
    (tmp_path / "given").write_text("1\n{broken\n")
    done = await console("map-reduce", "--map", "echo", "--documents", f"@{tmp_path / 'given'}")
    assert done.exit_code == 2 and "line 2" in done.output
