"""The engine alone: commits per second of three processes over the real gRPC transport, synced to disk.

Commands are proposed inside the leader's process, one log entry each: what the cluster could do at most if
clients, skills and the state machine cost nothing."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from bench import proc
from bench.figures import Section, WorkNotDone, percentile
from bench.options import Options, run_alone
from bench.processes import Helper
from coterie.node.localcluster import free_addresses
from coterie.node.tls import init_tls, node_paths

NAME = "raft_engine"
ENTRY_BYTES = 64
OUTSTANDING = (1, 64, 512)
ELECTION_S, SAME_S = 30.0, 30.0
LOOK_S = 0.05

Members = dict[str, Helper]


async def measure(options: Options) -> Section:
    """Commits per second and latency at 1, 64 and 512 outstanding proposals."""
    title = f"Raft engine alone: {options.nodes} processes, synced commits of {ENTRY_BYTES} B"
    section = Section(NAME, title)
    async with running_members(options) as members:
        leader = await common_leader(members)
        await load(members, leader, 64, 1.0)  # warm-up
        for outstanding in OUTSTANDING:
            rounds = [
                await load(members, leader, outstanding, options.seconds / 2) for _ in range(options.runs)
            ]
            per_s = [len(one["latencies_ms"]) / one["seconds"] for one in rounds]
            name = f"{outstanding} outstanding"
            section.add(f"{outstanding}.per_s", name, "commits/s", per_s)
            for share in (50, 99):
                took = [percentile(one["latencies_ms"], share / 100) for one in rounds]
                section.add(f"{outstanding}.p{share}", f"{name}: p{share}", "ms", took)
            section.notes.append(f"{name}: CPU ms per commit {rounds[-1]['cost']}")
    section.notes.append("After each load every member had applied the same entries (count and digest).")
    return section


@asynccontextmanager
async def running_members(
    options: Options, sync_delay_ms: float = 0.0, module: str = "bench.raft_member"
) -> AsyncIterator[Members]:
    """Engine processes that know each other; `sync_delay_ms` is added to every fsync of theirs."""
    names = [f"member-{number}" for number in range(1, options.nodes + 1)]
    addresses = dict(zip(names, free_addresses(options.nodes), strict=True))
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-raft-")))
        if options.tls:
            init_tls(directory / "tls", names, hosts=["127.0.0.1", "localhost"])
        members = {name: await stack.enter_async_context(Helper(module)) for name in names}
        for name, member in members.items():
            paths = node_paths(directory / "tls", name)
            tls = {"ca": str(paths.ca), "cert": str(paths.cert), "key": str(paths.key)}
            plan: dict[str, Any] = {"id": name, "addresses": addresses, "directory": str(directory / name)}
            plan |= {"sync_delay_ms": sync_delay_ms}
            await member.ask(plan | {"tls": tls if options.tls else None})
        yield members


async def _states(members: Members) -> dict[str, dict[str, Any]]:
    return {name: await member.ask({"ask": "state"}) for name, member in members.items()}


async def common_leader(members: Members) -> str:
    """The member all follow; waits for it."""
    deadline = time.monotonic() + ELECTION_S
    while time.monotonic() < deadline:
        states = await _states(members)
        leaders = {state["leader"] for state in states.values() if state["has_quorum"]}
        if len(leaders) == 1 and all(state["has_quorum"] for state in states.values()):
            return str(leaders.pop())
        await asyncio.sleep(LOOK_S)
    raise WorkNotDone(f"the engines had no common leader after {ELECTION_S:g} s")


async def load(members: Members, leader: str, outstanding: int, seconds: float) -> dict[str, Any]:
    """Proposals inside the leader's process; afterwards every member has applied the same."""
    before = (await _states(members))[leader]["applied"]
    cpu = {name: proc.cpu_s([member.pid]) for name, member in members.items()}
    plan = {"ask": "load", "outstanding": outstanding, "seconds": seconds, "entry_bytes": ENTRY_BYTES}
    answer = await members[leader].ask(plan)
    commits = len(answer["latencies_ms"])
    await _same(members, before + commits)
    used = {name: 1000 * (proc.cpu_s([member.pid]) - cpu[name]) / commits for name, member in members.items()}
    followers = [f"{cost:.3f}" for name, cost in used.items() if name != leader]
    return answer | {"cost": f"leader {used[leader]:.3f}, followers {', '.join(followers)}"}


async def _same(members: Members, applied: int) -> None:
    """Every acked entry is applied once, on every member."""
    deadline = time.monotonic() + SAME_S
    while True:
        states = await _states(members)
        counts = {name: state["applied"] for name, state in states.items()}
        digests = {state["digest"] for state in states.values()}
        if len(digests) == 1 and set(counts.values()) == {applied}:
            return
        if time.monotonic() > deadline:
            raise WorkNotDone(f"{applied} entries were acked, but the members applied {counts}")
        await asyncio.sleep(LOOK_S)


if __name__ == "__main__":
    run_alone(NAME, measure)
