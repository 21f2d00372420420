"""A large state on disk: what snapshots, restarts and catching up cost, and how long the loop stands still.

Three processes with the real engine, journal, transport and state machine; the third one starts empty when
the others hold the state. Pauses are given by the clock, which also counts what other programs on the machine
took, and in processor time of the event loop's own thread."""

from __future__ import annotations

import asyncio
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from bench.figures import Aim, Section, WorkNotDone
from bench.options import Options, run_alone
from bench.processes import Helper
from coterie.node.localcluster import free_addresses
from coterie.node.tls import init_tls, node_paths

NAME = "storage"
STATE_BYTES = 100_000_000
PAYLOAD_BYTES = 2_000
OUTSTANDING = 16
LOOK_S, PATIENCE_S = 0.02, 120.0
NAMES = ("member-1", "member-2", "member-3")
PAUSE_MS_AIM, RESTART_S_AIM, CATCH_UP_S_AIM = 20.0, 3.0, 10.0


class Members:
    """Members that can be started and stopped one by one, on directories that stay."""

    def __init__(self, directory: Path, tls: bool) -> None:
        self._addresses = dict(zip(NAMES, free_addresses(len(NAMES)), strict=True))
        self._directory, self._tls = directory, tls
        self._stacks: dict[str, AsyncExitStack] = {}
        self.running: dict[str, Helper] = {}
        if tls:
            init_tls(directory / "tls", list(NAMES), hosts=["127.0.0.1", "localhost"])

    async def start(self, name: str) -> float:
        """Seconds from the start of the process until its engine runs."""
        began = time.monotonic()
        stack = self._stacks[name] = AsyncExitStack()
        member = self.running[name] = await stack.enter_async_context(Helper("bench.storage_member"))
        paths = node_paths(self._directory / "tls", name)
        tls = {"ca": str(paths.ca), "cert": str(paths.cert), "key": str(paths.key)}
        plan = {"id": name, "addresses": self._addresses, "directory": str(self._directory / name)}
        await member.ask(plan | {"tls": tls if self._tls else None})
        return time.monotonic() - began

    async def stop(self, *names: str) -> None:
        for name in names:
            del self.running[name]
            await self._stacks.pop(name).aclose()  # kill -9

    async def stand(self, name: str) -> dict[str, Any]:
        return await self.running[name].ask({"ask": "stand"})

    async def leader(self) -> str:
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            stands = [await self.stand(name) for name in self.running]
            leaders = {stand["leader"] for stand in stands if stand["has_quorum"]}
            if len(leaders) == 1 and all(stand["has_quorum"] for stand in stands):
                return str(leaders.pop())
            await asyncio.sleep(LOOK_S)
        raise WorkNotDone("the members had no common leader")

    async def reaches(self, name: str, index: int) -> float:
        """Seconds until the member has applied `index`."""
        began = time.monotonic()
        while (await self.stand(name))["applied"] < index:
            if time.monotonic() - began > PATIENCE_S:
                raise WorkNotDone(f"{name} did not apply {index} within {PATIENCE_S:g} s")
            await asyncio.sleep(LOOK_S)
        return time.monotonic() - began


async def measure(options: Options) -> Section:
    """One round: fill, snapshot, catch-up of an empty member, restart. The states must be equal then."""
    section = Section(NAME, f"A state of {STATE_BYTES / 1e6:.0f} MB in tasks of {PAYLOAD_BYTES} B, on disk")
    with tempfile.TemporaryDirectory(prefix="bench-storage-") as folder:
        members = Members(Path(folder), options.tls)
        try:
            for name in NAMES[:2]:
                await members.start(name)
            leader = await members.leader()
            question = {"ask": "fill", "bytes": STATE_BYTES, "payload_bytes": PAYLOAD_BYTES}
            await members.running[leader].ask(question)
            await _make(section, members, leader)
            await _catch_up(section, members, leader)
            await _restart(section, members)
            await _compare(section, members)
        finally:
            await members.stop(*list(members.running))
    return section


async def _make(section: Section, members: Members, leader: str) -> None:
    """A snapshot on an idle leader: the pause is all its own."""
    helper = members.running[leader]
    await helper.ask({"ask": "pause"})
    made = await helper.ask({"ask": "snapshot"})
    pause = await helper.ask({"ask": "pause"})
    section.add("snapshot_mb", "snapshot", "MB", [made["snapshot_bytes"] / 1e6])
    section.add("log_mb", "log behind it", "MB", [made["log_bytes"] / 1e6])
    section.add("make_s", "made in", "s", [made["seconds"]])
    _pauses(section, "make", "longest pause while making", pause)


async def _catch_up(section: Section, members: Members, leader: str) -> None:
    """An empty member comes while the others commit."""
    helper = members.running[leader]
    quiet = await helper.ask({"ask": "load", "outstanding": OUTSTANDING, "seconds": 2})
    await members.start(NAMES[2])
    await members.running[NAMES[2]].ask({"ask": "pause"})  # its start is not meant
    index = (await members.stand(leader))["commit"]
    # The leader answers one question at a time: its load runs while the new member is watched.
    helper.tell({"ask": "load", "outstanding": OUTSTANDING, "seconds": CATCH_UP_S_AIM})
    took_s = await members.reaches(NAMES[2], index)
    pause = await members.running[NAMES[2]].ask({"ask": "pause"})
    busy = await helper.hear()
    section.add("quiet_per_s", "commits with two members", "commits/s", [quiet["commits"] / quiet["seconds"]])
    section.add("catch_up_s", "an empty member has it all", "s", [took_s], Aim("<", CATCH_UP_S_AIM))
    section.add("busy_per_s", "commits meanwhile", "commits/s", [busy["commits"] / busy["seconds"]])
    section.add("busy_worst_ms", "slowest commit meanwhile", "ms", [busy["worst_ms"]])
    _pauses(section, "install", "longest pause while installing", pause)
    await members.reaches(NAMES[2], (await members.stand(leader))["commit"])


async def _restart(section: Section, members: Members) -> None:
    """kill -9, and until it has applied what it had applied before."""
    leader = await members.leader()
    name = next(name for name in NAMES if name != leader)
    before = (await members.stand(name))["applied"]
    await members.stop(name)
    started_s = await members.start(name)
    took_s = started_s + await members.reaches(name, before)
    section.add(
        "restart_s", "a member restarts from snapshot and log", "s", [took_s], Aim("<", RESTART_S_AIM)
    )
    section.add("start_s", "of that, until its engine ran", "s", [started_s])


async def _compare(section: Section, members: Members) -> None:
    await members.leader()
    stands = [await members.stand(name) for name in NAMES]
    for name in NAMES:
        await members.reaches(name, max(stand["commit"] for stand in stands))
    answers = [await members.running[name].ask({"ask": "hash"}) for name in NAMES]
    if (
        len({answer["hash"] for answer in answers}) != 1
        or answers[0]["tasks"] != STATE_BYTES // PAYLOAD_BYTES
    ):
        raise WorkNotDone(f"the states differ, or tasks are missing: {answers}")
    section.notes.append(
        f"In the end all three held the same {answers[0]['tasks']} tasks (equal state hash)."
    )


def _pauses(section: Section, key: str, title: str, pause: dict[str, float]) -> None:
    section.add(f"{key}_pause_ms", f"{title}: by the clock", "ms", [pause["wall_ms"]], Aim("<", PAUSE_MS_AIM))
    section.add(f"{key}_own_ms", f"{title}: its own work", "ms", [pause["own_ms"]], Aim("<", PAUSE_MS_AIM))


if __name__ == "__main__":
    run_alone(NAME, measure)
