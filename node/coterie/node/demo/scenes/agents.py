"""Four agents analyse data and write a report with charts, while nodes are killed in mid-call."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coterie.client import Job
from coterie.node.demo.facts import write_modules
from coterie.node.demo.llmserver.process import LlmServerProcess
from coterie.node.demo.proof import Check
from coterie.node.demo.stage import PATIENT, Asked, Scene, Setting, Stage
from coterie.node.demo.team import ANALYST, COLLECTOR, VISUALIZER, WRITER, Table, agent_files, look_at, script

THOUGHTS = 10  # of the script
KILL_AFTER = (2, 6)  # answers
TIMEOUT_S = 240.0
FIRST_MS = 1_500  # so long a thought is in the air at least: nodes are killed in the middle of it
BACK_MAX_S = 90.0
POLL_S = 0.1
_CHART = re.compile(r"\(([\w.-]+\.svg)\)")


@dataclass(frozen=True, slots=True)
class Props:
    """The data, where the report goes, and the scripted model; None: a real one was given."""

    table: Table
    report: Path
    server: LlmServerProcess | None


@contextmanager
def set_up(out: Path, asked: Asked) -> Iterator[Setting]:
    """A folder with the data, and a model to ask."""
    folder = (out / "agents").resolve()
    folder.mkdir(exist_ok=True)
    path = folder / "data.csv"
    if asked.data is None:
        write_modules(path)
    else:
        shutil.copyfile(asked.data, path)
    table, report = look_at(path), folder / "report.md"
    with ExitStack() as stack:
        server = None if asked.model_url else stack.enter_context(LlmServerProcess())
        if server is not None:
            server.script(*script(table, report), chunk_ms=4, first_ms=FIRST_MS)
        yield Setting(_options(folder, server, asked), Props(table, report, server))


def _options(folder: Path, server: LlmServerProcess | None, asked: Asked) -> dict[str, Any]:
    provider: dict[str, Any] = {
        "baseUrl": asked.model_url,
        "model": asked.model,
        "apiKey": {"env": "OPENAI_API_KEY"},
    }
    if server is not None:
        provider = {"baseUrl": server.url, "model": "scripted", "api": "responses", "idempotencyKeys": True}
    paths = [{"path": str(folder), "write": True}]
    settings = {name: {"paths": paths} for name in ("file-management", "data-analysis")}
    llm = {"default": "main", "providers": {"main": {**provider, "price": {"in": 0.15, "out": 0.6}}}}
    return {"llm": llm, "skills": {"settings": settings}}


async def play(stage: Stage) -> Sequence[Check]:
    """One request to the one who leads the team; the rest is theirs."""
    props: Props = stage.setting.props
    for agent_id in (COLLECTOR, ANALYST, VISUALIZER, WRITER):
        await stage.cluster.agents.apply(agent_files(agent_id, "main", props.report.parent))
    stage.say(f"four agents are applied; the data: {props.table.rows} rows in {props.table.path}")
    stage.journal.total, stage.journal.phase = THOUGHTS, "thinking"
    prompt = f"Analyse the table {props.table.path} and write a report with charts into {props.report}."
    job = await stage.cluster.submit_task(
        type="agent", agent=WRITER, payload={"prompt": prompt}, max_attempts=20
    )
    killed: list[str] = []
    breaking = asyncio.create_task(_kill_in_mid_call(stage, killed))
    try:
        result = await job.wait(timeout=TIMEOUT_S)
    finally:
        breaking.cancel()
        await asyncio.wait([breaking])
    if not breaking.cancelled() and (error := breaking.exception()) is not None:
        raise error
    stage.say(f"{result['agent']} says: {result['answer']}")
    return [*await _paid(stage, props, len(killed)), *_written(props), *await _ran(stage, job)]


async def _kill_in_mid_call(stage: Stage, killed: list[str]) -> None:
    """After some answers the node that runs the next thought; it comes back before the next one goes."""
    for count in KILL_AFTER:
        await _until_answered(stage, count)
        node = await _thinking_node(stage)
        stage.nodes.kill_node(node)
        killed.append(node)
        stage.say(f"kill -9 {node} in the middle of a call, after {count} answers")
        await asyncio.sleep(1.0)
        stage.nodes.start_node(node)
        await stage.nodes.wait_ready(BACK_MAX_S)


async def _until_answered(stage: Stage, count: int) -> None:
    """And until the next thought is in the air."""
    while True:
        await asyncio.sleep(3 * POLL_S)
        if await _answers(stage) >= count:
            return


async def _answers(stage: Stage) -> int:
    """How many thoughts are paid and recorded; the bar follows."""
    answers = sum(row.calls for row in await stage.cluster.usage.rows("tenant"))
    for number in range(stage.journal.done, answers):
        stage.journal.finish(f"thought {number}")
    return answers


async def _thinking_node(stage: Stage) -> str:
    while True:
        async for task in stage.cluster.list_tasks(filter='state=RUNNING AND type="agent"'):
            if task.node and stage.nodes.alive(task.node):
                return task.node
        await asyncio.sleep(POLL_S / 2)


async def _paid(stage: Stage, props: Props, killed: int) -> list[Check]:
    """The bills of the provider, and the cluster's own ledger."""
    await _answers(stage)
    [row] = await stage.cluster.usage.rows("tenant")
    money = f"{row.tokens_in + row.tokens_out:,} tokens, ${row.micro_usd / 1e6:.4f}"
    checks = [
        Check("nodes killed in mid-call", f"{killed}", killed == len(KILL_AFTER), "kill -9"),
        Check("calls in the ledger", f"{row.calls}", row.calls >= 1, money),
    ]
    if props.server is None:
        return checks
    bills = Counter("/".join(bill["request_id"].split("/")[:2]) for bill in props.server.bills)
    repeated, steps = bills.total() - len(bills), f"{len(bills)} distinct steps"
    return [
        *checks,
        Check("calls billed", f"{bills.total()}", bills.total() == row.calls, steps),
        Check("thoughts paid again", f"{repeated}", repeated == 0 == row.in_doubt, "the provider's bills"),
    ]


def _written(props: Props) -> list[Check]:
    """The report is there, with its charts, and tells what the data hold."""
    text = props.report.read_text(encoding="utf-8") if props.report.exists() else ""
    charts = [name for name in dict.fromkeys(_CHART.findall(text)) if (props.report.parent / name).exists()]
    counted = f'"rows": {props.table.rows}' in text or str(props.table.rows) in text
    return [
        Check("charts in the report", f"{len(charts)}", len(charts) >= 1, ", ".join(charts)),
        Check("rows that the report speaks of", f"{props.table.rows}", counted, str(props.report)),
    ]


async def _ran(stage: Stage, job: Job) -> list[Check]:
    """Every agent and tool ended once."""
    tasks = [task async for task in stage.cluster.list_tasks()]
    moved = sum(task.losses for task in tasks)
    bad = [task.id for task in tasks if task.state != "SUCCEEDED" and task.type != "data-analysis"]
    agents = sum(task.type == "agent" for task in tasks)
    found = f"{agents} agent runs, {len(tasks) - agents} tool calls, {moved} attempts lost with their nodes"
    return [Check("tasks that did not succeed", f"{len(bad)}", not bad and job.id != "", found)]


SCENE = Scene(
    title="A data team of four agents writes a report while nodes are killed in mid-call.",
    play=play,
    unit="thoughts",
    capacity=8,
    options=PATIENT,
    set_up=set_up,
)
