"""A place for attacks: victims, and a host that runs each attack in its sandbox and says what it won.

python -m tests.skills.attack_range [--landlock-abi N] [ATTACK ...]
prints one line of JSON per attack, of all or of these; also as another user, and as on an older kernel
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coterie.node.skillhost import SkillHost, SkillHostOptions, SkillJob, SkillOutcome
from coterie.node.skillhost.nouns import ConfinedSkill, SandboxOptions
from coterie.skills.limits import Limits
from tests.skills.attacks import handler, kit
from tests.skills.older_kernel import with_landlock
from tests.skills.support import RecordingPort

FOLDER = Path(__file__).with_name("attacks")
SECRET = "hunter2-hunter2"  # what the victims have
SECRET_NAME = "RANGE_SECRET"
TIMEOUT_MS = 8_000  # only two of the attacks wait for it; the others may begin late on a busy machine
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


def skill(network: bool, folder: Path) -> ConfinedSkill:
    """The attacker, with or without a network list."""
    hosts = ("example.org", "localhost:1024", "169.254.169.254") if network else ()
    return ConfinedSkill(folder=folder, handler="handler.py:run", name="attacks", network=hosts)


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
    code = shutil.copytree(FOLDER, base / "attacks", ignore=shutil.ignore_patterns("__pycache__"))
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
            "code_dir": str(code),
            **_property(base / "property", code),
            **stack.enter_context(_signalled(base)),
        }


def _property(place: Path, code: Path) -> dict[str, str]:
    """Files of the node that no other user may open; one is among the attacker's code, which it may read."""
    told = {name: place / name for name in ("mode_file", "times_file", "cut_file")}
    told |= {"code_file": code / "notes.txt", "mode_dir": place / "mode_dir"}
    told["mode_dir"].mkdir(parents=True)
    for path in (place, told["mode_dir"]):
        path.chmod(0o755)
    for name, path in told.items():
        if name != "mode_dir":
            path.write_text(SECRET)
            path.chmod(0o644 if name == "code_file" else 0o600)
    with contextlib.suppress(OSError):  # not every file system has attributes
        os.setxattr(told["times_file"], "user.given", b"1")
    return {name: str(path) for name, path in told.items()}


@contextlib.contextmanager
def _signalled(base: Path) -> Iterator[dict[str, Any]]:
    """A process of the node's user that keeps a diary of one kind of signal."""
    diary = base / "diary"
    diary.touch()
    script = 'trap "echo >> $0" USR1; echo ready; while :; do sleep 0.02; done'
    with subprocess.Popen(["/bin/sh", "-c", script, str(diary)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        try:
            yield {"signal_pid": process.pid, "signal_diary": str(diary)}
        finally:
            process.kill()


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


async def try_all(host: SkillHost, told: dict[str, Any], names: Sequence[str] = ()) -> list[Finding]:
    """All attacks, or these, in the sandbox, without and with a network, a few at a time."""
    room = asyncio.Semaphore(AT_ONCE)
    said: dict[str, list[str]] = {}
    host.on_skill_log = lambda task_id, attempt, level, text: said.setdefault(task_id, []).append(text)

    async def one(name: str, network: bool) -> Finding:
        async with room:
            confined = skill(network, Path(told["code_dir"]))
            outcome = await attempt(host, {**told, "attack": name}, confined)
        ended = f"{outcome.code or outcome.kind}: {outcome.message}"[:160]
        return Finding(name, network, won(outcome), ended, began(name, said.get(task_of(name, network), [])))

    wanted = [(name, network) for name in names or attack_names() for network in (False, True)]
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


async def main(names: Sequence[str]) -> None:
    """All attacks, or these; the exit code says whether one won."""
    with tempfile.TemporaryDirectory(prefix="attack-range-") as place:
        async with attack_range(Path(place)) as (host, told):
            for layer in host.layers:
                print(json.dumps({"layer": layer.name, "active": layer.active, "detail": layer.detail}))
            findings = await try_all(host, told, names)
        left = os.listdir(Path(place, "scratch"))
    for finding in findings:
        print(json.dumps(finding.__dict__))
    winners, idle = ([f.attack for f in findings if f.won], [f.attack for f in findings if not f.made])
    if winners or idle or left != ["neighbour"]:
        sys.exit(f"won: {winners}; never made: {idle}; left behind: {left}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--landlock-abi", type=int, help="as on a kernel that has this version")
    parser.add_argument("attacks", nargs="*")
    asked = parser.parse_args()
    os.environ[SECRET_NAME] = SECRET
    with with_landlock(asked.landlock_abi):
        asyncio.run(main(asked.attacks))
