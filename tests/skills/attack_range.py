"""A place for attacks: victims, and a host that runs each attack in its sandbox and says what it won.

python -m tests.skills.attack_range   prints one line of JSON per attack; also as another user
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coterie.node.skillhost import SkillHost, SkillHostOptions, SkillJob, SkillOutcome
from coterie.node.skillhost.nouns import ConfinedSkill, SandboxOptions
from coterie.skills.limits import Limits
from tests.skills.attacks import handler, kit
from tests.skills.support import RecordingPort

FOLDER = Path(__file__).with_name("attacks")
SECRET = "hunter2-hunter2"  # what the victims have
SECRET_NAME = "RANGE_SECRET"
TIMEOUT_MS = 3_000
AT_ONCE = 3
# What these do to a process without walls is not to be seen on a developer's machine.
NOT_WITHOUT_WALLS = frozenset(
    {"fork_bomb", "thread_bomb", "memory", "big_file", "many_files", "exec_in_place", "crash"}
    | {"kill_everybody", "raise_limits", "slow_the_node", "pin_the_node", "set_the_clock", "limits_of_node"}
    | {"processor_time", "mount", "sleep_for_ever", "forged_frames", "change_own_code"}
)


@dataclass(frozen=True)
class Finding:
    """How an attack ended; `won` is empty when it got nothing. `made`: it began, behind the walls; one that
    was never made proves nothing."""

    attack: str
    network: bool
    won: str
    ended: str
    made: bool


def attack_names() -> list[str]:
    """All attacks."""
    return [name for name in kit.ATTACKS if handler.CHAPTERS]


def skill(network: bool) -> ConfinedSkill:
    """The attacker, with or without a network list."""
    hosts = ("example.org", "localhost:1024", "169.254.169.254") if network else ()
    return ConfinedSkill(folder=FOLDER, handler="handler.py:run", name="attacks", network=hosts)


@contextlib.contextmanager
def victims(base: Path) -> Iterator[dict[str, Any]]:
    """Listening sockets, readable files, a neighbour's folder; what the attacker is told of them."""
    secret, shared, neighbour = base / "secret", base / "shared", base / "scratch" / "neighbour"
    for folder in (shared, neighbour):
        folder.mkdir(parents=True)
    secret.write_text(SECRET)
    (neighbour / "note").write_text(SECRET)
    for path, mode in ((base, 0o755), (secret, 0o644), (shared, 0o777), (neighbour, 0o777)):
        path.chmod(mode)
    with contextlib.ExitStack() as stack:

        def listener(kind: int, family: int, address: Any) -> socket.socket:
            made = stack.enter_context(socket.socket(family, kind))
            made.bind(address)
            if kind == socket.SOCK_STREAM:
                made.listen()
            return made

        tcp = listener(socket.SOCK_STREAM, socket.AF_INET, ("127.0.0.1", 0))
        udp = listener(socket.SOCK_DGRAM, socket.AF_INET, ("127.0.0.1", 0))
        abstract = f"\0attack-range-{os.getpid()}"
        listener(socket.SOCK_STREAM, socket.AF_UNIX, abstract)
        listener(socket.SOCK_STREAM, socket.AF_UNIX, str(shared / "stream"))
        listener(socket.SOCK_DGRAM, socket.AF_UNIX, str(shared / "datagram"))
        for name in ("stream", "datagram"):
            (shared / name).chmod(0o777)
        yield {
            "secret": SECRET,
            "secret_file": str(secret),
            "open_dir": str(shared),
            "other_dir": str(neighbour),
            "node_pid": os.getpid(),
            "tcp_port": tcp.getsockname()[1],
            "udp_port": udp.getsockname()[1],
            "abstract": abstract,
            "unix_path": str(shared / "stream"),
            "unix_datagram": str(shared / "datagram"),
            "host_address": "127.0.0.1",
        }


def options(base: Path, *skill_dirs: Path) -> SkillHostOptions:
    """A small host with tight limits."""
    return SkillHostOptions(
        skill_dirs=skill_dirs,
        node_id="range",
        max_children=AT_ONCE,
        limits=Limits(result_bytes_max=1024 * 1024),
        env_allow=(SECRET_NAME,),
        sandbox=SandboxOptions(
            scratch_dir=base / "scratch", disk_bytes_max=64 * 1024 * 1024, watch_interval_s=0.1
        ),
    )


def task_of(name: str, network: bool) -> str:
    """Whose log says that the attack began."""
    return f"{name} {network}"


async def attempt(host: SkillHost, given: dict[str, Any], confined: ConfinedSkill | None) -> SkillOutcome:
    """One attack."""
    payload = json.dumps(given).encode()
    task_id = task_of(given["attack"], bool(confined and confined.network))
    job = SkillJob(task_id, 1, "attacks", payload, {}, None, TIMEOUT_MS, confined=confined)
    return await host.run(job, RecordingPort())


async def try_all(host: SkillHost, told: dict[str, Any]) -> list[Finding]:
    """All attacks in the sandbox, without and with a network, a few at a time."""
    room = asyncio.Semaphore(AT_ONCE)
    said: dict[str, list[str]] = {}
    host.on_skill_log = lambda task_id, attempt, level, text: said.setdefault(task_id, []).append(text)

    async def one(name: str, network: bool) -> Finding:
        async with room:
            outcome = await attempt(host, {**told, "attack": name}, skill(network))
        ended = f"{outcome.code or outcome.kind}: {outcome.message}"[:160]
        return Finding(name, network, won(outcome), ended, began(name, said.get(task_of(name, network), [])))

    wanted = [(name, network) for name in attack_names() for network in (False, True)]
    return list(await asyncio.gather(*(one(*each) for each in wanted)))


def began(name: str, said: list[str]) -> bool:
    """Whether the attack said, before anything else, that it stood behind the walls."""
    first = json.loads(said[0]) if said and said[0].startswith("{") else {}
    own_user = os.geteuid() != 0 or first.get("uid", 0) != 0
    return first.get("began") == name and bool(first["walls"]) and own_user


def won(outcome: SkillOutcome) -> str:
    """What the attack returned; empty when it failed, was ended, or got nothing."""
    if outcome.kind != "succeeded":
        return ""
    got = json.loads(outcome.result)["won"]
    return json.dumps(got)[:80] if got else ""


@contextlib.asynccontextmanager
async def attack_range(base: Path, *skill_dirs: Path) -> AsyncIterator[tuple[SkillHost, dict[str, Any]]]:
    """A started host and its victims."""
    with victims(base) as told:
        host = SkillHost.spawn(options(base, *skill_dirs))
        await host.start()
        try:
            yield host, told
        finally:
            await host.stop()


async def main() -> None:
    """All attacks; the exit code says whether one won."""
    with tempfile.TemporaryDirectory(prefix="attack-range-") as place:
        async with attack_range(Path(place)) as (host, told):
            for layer in host.layers:
                print(json.dumps({"layer": layer.name, "active": layer.active, "detail": layer.detail}))
            findings = await try_all(host, told)
        left = os.listdir(Path(place, "scratch"))
    for finding in findings:
        print(json.dumps(finding.__dict__))
    winners, idle = ([f.attack for f in findings if f.won], [f.attack for f in findings if not f.made])
    if winners or idle or left != ["neighbour"]:
        sys.exit(f"won: {winners}; never made: {idle}; left behind: {left}")


if __name__ == "__main__":
    os.environ[SECRET_NAME] = SECRET
    asyncio.run(main())
