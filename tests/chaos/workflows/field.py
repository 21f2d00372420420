"""A cluster with everything the shipped workflows need, and what is checked of a run on it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coterie.client import Cluster, Job, TaskError, Workflow
from coterie.node.demo.llmserver.process import LlmServerProcess
from coterie.node.localcluster import LocalCluster
from tests.chaos.field import KILLED_BY_US
from tests.chaos.workflows.cases import AGENTS, SCRIPT, Case
from tests.cluster.conftest import new_cluster

SKILLS = Path(__file__).parent / "stand_ins.py"
WITNESSES = (
    *("no-k8s-deploy", "feishu-message", "collect", "statistics"),
    *("page-on-call", "review-draft", "send-reply"),
)
KEY = "sk-of-the-tests"


@contextmanager
def field(directory: Path, nodes: int = 3) -> Iterator[tuple[LocalCluster, Path]]:
    """Some nodes, a language model that follows the script, and the file that the skills write to."""
    witness, key = directory / "witness", directory / "llm.key"
    key.write_text(KEY + "\n")
    with LlmServerProcess("--key", KEY) as server:
        server.script(*SCRIPT, chunk_ms=10)
        provider = {
            "baseUrl": server.url,
            "apiKey": {"file": str(key)},
            "model": "m",
            "idempotencyKeys": True,
        }
        settings = {name: {"witness": str(witness)} for name in WITNESSES}
        options = {
            "llm": {"default": "scripted", "providers": {"scripted": provider}},
            "skills": {"dirs": [str(SKILLS)], "settings": settings},
            **KILLED_BY_US,
        }
        with new_cluster(options=options, nodes=nodes) as cluster:
            yield cluster, witness


async def prepared(client: Cluster) -> None:
    """The agents that ship, applied."""
    for directory in sorted(path.parent for path in AGENTS.glob("*/config.yaml")):
        await client.agents.apply(directory)


async def begun(client: Cluster, case: Case) -> Job:
    """A run of the case, with its signals sent."""
    job = await client.workflows.run(Workflow.from_yaml(case.text, name=case.workflow), case.inputs)
    for name, payload in case.signals:
        await job.signal(name, payload, request_id=f"{job.id}-{name}")
    return job


async def faults_of(client: Cluster, job: Job, case: Case, timeout: float) -> list[str]:
    """Everything in which an ended run is not as it must be."""
    result: Any = None
    try:
        result = await job.wait(timeout=timeout)
    except TaskError as error:
        if case.result is not None:
            return [f"it ended as {error}"]
    run = await client.workflows.get(job.id)
    states = {node.id: node.state for node in run.nodes}
    faults = [] if run.task.state == case.state else [f"it ended as {run.task.state}, not as {case.state}"]
    if states != case.states:
        faults.append(f"its nodes ended as {states}, meant is {case.states}")
    if case.result is not None and not case.gives(result):
        faults.append(f"it gave {result!r}")
    return faults


async def ran_again(client: Cluster, witness: Path) -> list[str]:
    """Tasks of which an attempt began after the one that ended them, or began twice."""
    found = []
    for task_id, seen in _began(witness).items():
        task = await client.job(task_id).get()
        twice = [attempt for attempt, count in Counter(seen).items() if count > 1]
        if not task.done or max(seen) > task.attempt or twice:
            found.append(f"{task_id} is {task.state} by attempt {task.attempt}, and began {sorted(seen)}")
    return found


def _began(witness: Path) -> dict[str, list[int]]:
    attempts: defaultdict[str, list[int]] = defaultdict(list)
    for line in witness.read_text().splitlines() if witness.exists() else ():
        task_id, _, attempt = line.rpartition(" ")
        attempts[task_id].append(int(attempt))
    return attempts
