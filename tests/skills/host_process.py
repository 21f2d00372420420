"""A process that owns a skill host, for tests that stop or kill it. Talks JSON lines on stdout.

argv: a JSON object {"busy": [skill names], "idle": int, "lease_ms": int or 0, "uvloop": bool,
"confined": folder of a skill or ""}
First line: the pids, once all busy skills run. Then one line per outcome of a busy run.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from coterie.node.skillhost import SkillHost, SkillJob
from coterie.node.skillhost.nouns import ConfinedSkill
from tests.skills.support import RecordingPort, options, until


def say(value: Any) -> None:
    """One line to the test."""
    print(json.dumps(value), flush=True)


def job(task_id: str, skill: str, given: Any = None) -> SkillJob:
    """An attempt without limits."""
    return SkillJob(task_id, 1, skill, json.dumps(given).encode(), {}, None, 0)


async def extend(host: SkillHost, lease_ms: int) -> None:
    """What a worker does while it hears from a majority."""
    while True:
        host.extend_lease(lease_ms)
        await asyncio.sleep(lease_ms / 5_000)


async def waiting_children(host: SkillHost, folder: Path) -> list[int]:
    """The processes that are made ahead once a confined skill has run."""
    skill = ConfinedSkill(folder=folder, handler="handler.py:run", name=folder.name)
    before = set(host.child_pids)
    asked = SkillJob("confined", 1, folder.name, b"1", {}, None, 0, confined=skill)
    ran = json.loads((await host.run(asked, RecordingPort())).result)

    def made() -> set[int]:
        return set(host.child_pids) - before - {ran}

    await until(lambda: bool(made()), "a process waits")
    return sorted(made())


async def own(host: SkillHost, wanted: dict[str, Any]) -> None:
    """Make some children idle and others busy, say who they are, and wait."""
    await host.start()
    tasks = []
    if wanted["lease_ms"]:
        tasks.append(asyncio.create_task(extend(host, wanted["lease_ms"])))
    total = wanted["idle"] + len(wanted["busy"])
    naps = (host.run(job(f"idle-{n}", "sleep", 0.05), RecordingPort()) for n in range(total))
    await asyncio.gather(*naps)
    before = set(host.child_pids)
    ports = [RecordingPort() for _ in wanted["busy"]]
    runs = [
        asyncio.create_task(host.run(job(f"busy-{n}", skill), port))
        for n, (skill, port) in enumerate(zip(wanted["busy"], ports, strict=True))
    ]
    await asyncio.gather(*(port.reported.wait() for port in ports))
    family = [pid for port in ports for state in port.checkpoints for pid in state]
    if wanted["confined"]:
        family += await waiting_children(host, Path(wanted["confined"]))
    say({"zygote": host.zygote_pid, "children": sorted(before), "family": family})
    for run in asyncio.as_completed(runs):
        outcome = await run
        say({"kind": outcome.kind, "code": outcome.code})
    again = await host.run(job("again", "pid"), RecordingPort())
    say({"again": again.kind})
    await asyncio.gather(*tasks)


def main() -> None:
    """Spawn first, then the loop, as a node does."""
    wanted = json.loads(sys.argv[1])
    host = SkillHost.spawn(options())
    if wanted["uvloop"]:
        import uvloop

        uvloop.run(own(host, wanted))
    else:
        asyncio.run(own(host, wanted))


if __name__ == "__main__":
    main()
