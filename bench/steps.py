"""What durability costs a running task: the overhead of a recorded step, and what an idle agent weighs.

A step is timed inside the skill, from the call to its return, less the time of its function: the way to the
node, the commit on a majority's disks (fsync), and the way back. An idle agent is a task that has recorded
a few answers and waits for a signal: it holds neither process nor slot, so its weight is what is replicated
of it."""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from pathlib import Path

from bench import proc
from bench.figures import Aim, Section, WorkNotDone, percentile
from bench.nodes import client_of, running
from bench.options import Options, run_alone
from coterie.client import Cluster, Job
from coterie.core.commands import (
    AssignTask,
    Command,
    RecordStep,
    RegisterNode,
    StartTask,
    SubmitTask,
    SuspendTask,
)
from coterie.core.nouns import Data, NodeId, RetryPolicy, SkillRef, TaskId, WaitReason
from coterie.raft import codec
from coterie.raft.replica import Replica

NAME = "steps"
SKILLS = Path(__file__).with_name("skills")
OVERHEAD_AIM, WEIGHT_AIM = Aim("<", 2.0), Aim("<", 20.0)
STEPS, WARM_UP = 400, 50
AGENTS, PAYLOAD_BYTES, ANSWERS, ANSWER_BYTES = 1_000, 1_024, 4, 2_048
CONTENT_KIB = (PAYLOAD_BYTES + ANSWERS * ANSWER_BYTES) / 1024
IDLE_S, SETTLE_S = 600.0, 3.0
KIB = 1024
NODE = NodeId("node-1")


async def measure(options: Options) -> Section:
    """Steps of one task at a time on the leader's node and on a follower's; then many idle agents."""
    section = Section(NAME, f"Steps: what a recorded step costs, {options.nodes} nodes, with fsync")
    async with running(options, skills=SKILLS) as cluster, client_of(cluster) as client:
        for _ in range(options.runs):
            leader = await cluster.wait_ready()
            follower = next(node_id for node_id in cluster.node_ids if node_id != leader)
            for where, node_id in (("leader", leader), ("follower", follower)):
                taken = await _overheads(client, node_id)
                _add(section, where, taken)
        pids = [cluster.pid(node_id) for node_id in cluster.node_ids]
        before = [proc.rss_mib(pid) for pid in pids]
        agents = await _idle_agents(client)
        await asyncio.sleep(SETTLE_S)  # not a condition: what is left when all is quiet is what is measured
        grown = [(proc.rss_mib(pid) - had) * KIB / AGENTS for pid, had in zip(pids, before, strict=True)]
        await _wake(agents)
    encoded, held = await asyncio.to_thread(_weigh)
    title = f"{AGENTS} idle agents with {CONTENT_KIB:g} KiB each of payload and answers"
    section.add("idle.encoded", f"{title}: replicated state, encoded", "KiB each", [encoded], WEIGHT_AIM)
    section.add("idle.held", f"{title}: replicated state, in memory", "KiB each", [held], WEIGHT_AIM)
    section.add("idle.rss", f"{title}: growth of a node process", "KiB each", grown)
    section.notes.append(
        "The growth of a process also holds what came with the making: buffers, and the entries of the log "
        "since the last snapshot."
    )
    return section


def _add(section: Section, where: str, taken: list[float]) -> None:
    """One more sample of both figures of that place."""
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        key = f"{section.name}.{where}.{name}"
        known = next((one for one in section.figures if one.key == key), None)
        samples = [*(known.samples if known else ()), percentile(taken, share)]
        if known is not None:
            section.figures.remove(known)
        aim = OVERHEAD_AIM if name == "p50" else None
        section.add(f"{where}.{name}", f"a step of a task on the {where}'s node: {name}", "ms", samples, aim)


async def _overheads(client: Cluster, node_id: str) -> list[float]:
    """Milliseconds of each step of one task there."""
    payload = {"steps": WARM_UP + STEPS}
    job = await client.submit_task(type="steady", payload=payload, target_node=node_id)
    taken = await job.wait(timeout=120)
    task = await job.get()
    if len(taken) != WARM_UP + STEPS or task.node != node_id or task.attempt != 1:
        raise WorkNotDone(f"{len(taken)} steps on {task.node}, attempt {task.attempt}")
    return [us / 1_000 for us in taken[WARM_UP:]]


async def _idle_agents(client: Cluster) -> list[Job]:
    """Submitted, and all waiting."""
    payload = {"steps": ANSWERS, "bytes": ANSWER_BYTES, "wait": True, "note": "x" * PAYLOAD_BYTES}
    jobs = await asyncio.gather(*(client.submit_task(type="steady", payload=payload) for _ in range(AGENTS)))
    deadline = time.monotonic() + IDLE_S
    while (await client.get_status()).tasks_by_state.get("WAITING", 0) < AGENTS:
        if time.monotonic() > deadline:
            raise WorkNotDone(f"not all of {AGENTS} agents were waiting after {IDLE_S:g} s")
        await asyncio.sleep(0.5)
    return list(jobs)


async def _wake(agents: list[Job]) -> None:
    """They are alive: a few of them end when they are told to."""
    for job in agents[:10]:
        await job.signal("go")
        taken = await job.wait(timeout=60)
        if len(taken) != ANSWERS:
            raise WorkNotDone(f"{job.id} ended with {len(taken)} steps")


def _weigh() -> tuple[float, float]:
    """KiB an agent: of a snapshot, and of memory; by the state machine alone, fed with what the log holds."""
    replica = Replica(lambda index, events: None, lambda index: None)
    node = RegisterNode(NODE, "127.0.0.1:1", 1, 16, skills=(SkillRef("steady", "1"),))
    replica.apply(1, 1, codec.encode_batch([node]))
    gc.collect()
    tracemalloc.start()
    empty_bytes = sum(map(len, codec.encode_state(replica.state)))
    before, _ = tracemalloc.get_traced_memory()
    for number in range(AGENTS):
        entry = codec.encode_batch(_agent(TaskId(f"agent-{number}")))
        replica.apply(number + 2, number + 2, entry)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    waiting = sum(task.wait is not None for task in replica.state.tasks.values())
    if waiting != AGENTS:
        raise WorkNotDone(f"{waiting} of {AGENTS} agents wait")
    encoded = sum(map(len, codec.encode_state(replica.state))) - empty_bytes
    return encoded / KIB / AGENTS, (after - before) / KIB / AGENTS


def _agent(task_id: TaskId) -> list[Command]:
    """From its submit to its wait."""
    payload = Data(task_id.encode().ljust(PAYLOAD_BYTES, b"x"))
    answers = [Data(f"{task_id}:{number}".encode().ljust(ANSWER_BYTES, b"x")) for number in range(ANSWERS)]
    steps = [RecordStep(task_id, 1, f"llm#{number}", data) for number, data in enumerate(answers)]
    return [
        SubmitTask(task_id, "default", "steady", payload, 3, RetryPolicy(), request_id=task_id),
        AssignTask(task_id, NODE, 1, 1),
        StartTask(task_id, 1),
        *steps,
        SuspendTask(task_id, 1, WaitReason.SIGNAL, "go", 0, 0),
    ]


if __name__ == "__main__":
    run_alone(NAME, measure)
