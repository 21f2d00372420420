"""The death of the node, of the zygote, and of the lease: what must die does, what may live does."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import pkgutil
import resource
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from coterie.node.skillhost import SkillHost, SkillHostError
from tests.skills.conftest import MakeBench
from tests.skills.support import WAIT_S, Bench, RecordingPort, alive, children_of, open_fds, options, until

ROOT = Path(__file__).resolve().parents[2]
LEASE_MS = 3_000  # its owner is busy for a while, and may not end its own runs by that


class Owner:
    """A separate process that owns a host."""

    def __init__(self, process: asyncio.subprocess.Process, pids: dict[str, Any]) -> None:
        self.process = process
        self.pid = process.pid
        self.zygote: int = pids["zygote"]
        self.children: list[int] = pids["children"]
        self.family: list[int] = pids["family"]

    async def hear(self) -> dict[str, Any]:
        """The next line it says."""
        return await hear(self.process)


async def hear(process: asyncio.subprocess.Process) -> dict[str, Any]:
    """The next line of a process."""
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), WAIT_S)
    assert line, "the owner of the host ended early"
    value: dict[str, Any] = json.loads(line)
    return value


StartOwner = Callable[..., Awaitable[Owner]]


@pytest_asyncio.fixture
async def start_owner() -> AsyncIterator[StartOwner]:
    """Starts owners; kills them at the end."""
    processes: list[asyncio.subprocess.Process] = []

    async def start(
        *, busy: list[str], idle: int = 0, lease_ms: int = 0, use_uvloop: bool = False, confined: str = ""
    ) -> Owner:
        wanted = {"busy": busy, "idle": idle, "lease_ms": lease_ms, "uvloop": use_uvloop}
        wanted["confined"] = confined
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__).with_name("host_process.py")),
            json.dumps(wanted),
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, _roots()))},
        )
        processes.append(process)
        return Owner(process, await hear(process))

    yield start
    for process in processes:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _roots() -> list[Path]:
    return [ROOT, *(ROOT / room for room in ("proto", "consensus", "node", "skills"))]


@pytest.mark.parametrize("use_uvloop", [False, True])
async def test_kill_9_of_the_node_leaves_no_process(start_owner: StartOwner, use_uvloop: bool) -> None:
    owner = await start_owner(busy=["spin", "block", "family"], idle=1, use_uvloop=use_uvloop)
    doomed = [owner.zygote, *owner.children, *owner.family]
    assert len(owner.children) == 4 and all(map(alive, doomed))
    owner.process.kill()
    await until(lambda: not any(map(alive, doomed)), "zygote, children and their families are dead")


async def test_kill_9_of_the_zygote_kills_children_though_the_node_cannot_act(
    start_owner: StartOwner,
) -> None:
    owner = await start_owner(busy=["spin", "block"], idle=1)
    os.kill(owner.pid, signal.SIGSTOP)
    os.kill(owner.zygote, signal.SIGKILL)
    await until(lambda: not any(map(alive, owner.children)), "all children are dead")


async def test_sigterm_of_the_zygote_sweeps_and_the_host_makes_a_new_one(bench: Bench) -> None:
    await _lose_zygote(bench, signal.SIGTERM)


async def test_kill_9_of_the_zygote_ends_its_runs_and_the_host_makes_a_new_one(bench: Bench) -> None:
    await _lose_zygote(bench, signal.SIGKILL)


async def _lose_zygote(bench: Bench, signum: signal.Signals) -> None:
    tasks = [(await bench.begin(skill))[0] for skill in ("wait", "spin", "block")]
    old, children = bench.host.zygote_pid, bench.host.child_pids
    os.kill(old, signum)
    outcomes = [await asyncio.wait_for(task, WAIT_S) for task in tasks]
    assert {(outcome.kind, outcome.retryable) for outcome in outcomes} == {("crashed", True)}
    await until(lambda: not any(map(alive, children)), "the running children are dead")
    assert await bench.value("echo", 1) == 1
    assert bench.host.zygote_pid != old
    assert bench.host.stats.restarts == 1


async def test_a_new_zygote_does_not_take_over_how_many_files_the_node_may_open(bench: Bench) -> None:
    """Whoever closes all that may be open looks at each number in turn, where the kernel cannot do it."""
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        old = bench.host.zygote_pid
        os.kill(old, signal.SIGKILL)
        await until(lambda: not alive(old), "the zygote is dead")
        assert await bench.value("echo", 1) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))
    assert bench.host.zygote_pid != old
    assert resource.prlimit(bench.host.zygote_pid, resource.RLIMIT_NOFILE) == (min(4_096, hard), hard)


@pytest.mark.parametrize("call", ["socket.socketpair", "os.pipe", "subprocess.Popen"])
async def test_a_zygote_that_cannot_be_made_at_once_is_made_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """As when the node has as many files open as it may."""
    makes, failures = pkgutil.resolve_name(call), [OSError(errno.EMFILE, "Too many open files")] * 2

    def fails_at_first(*args: Any, **options: Any) -> Any:
        if failures:
            raise failures.pop()
        return makes(*args, **options)

    old, before = bench.host.zygote_pid, open_fds()
    monkeypatch.setattr(call, fails_at_first)
    os.kill(old, signal.SIGKILL)
    await until(lambda: bench.host.zygote_pid != old, "there is a new zygote")
    assert bench.host.stats.restarts == 3
    assert await bench.value("echo", 1) == 1
    assert open_fds() == before + 2 * len(bench.host.child_pids)


async def test_a_run_asked_for_while_the_zygote_is_away_waits_for_the_new_one(bench: Bench) -> None:
    old = bench.host.zygote_pid
    os.kill(old, signal.SIGKILL)
    await until(lambda: not alive(old), "the zygote is dead")
    values = await asyncio.gather(*(bench.value("echo", n) for n in range(8)))
    assert values == list(range(8))


async def test_a_stopped_node_loses_its_running_skills_and_keeps_idle_processes(
    start_owner: StartOwner,
) -> None:
    owner = await start_owner(busy=["spin", "wait"], idle=2, lease_ms=LEASE_MS)
    os.kill(owner.pid, signal.SIGSTOP)
    await until(lambda: sum(map(alive, owner.children)) == 2, "the two running children are dead")
    assert alive(owner.zygote)
    os.kill(owner.pid, signal.SIGCONT)
    heard = [await owner.hear(), await owner.hear()]
    assert heard == [{"kind": "lease_lost", "code": "LEASE_LOST"}] * 2
    assert (await owner.hear())["again"] in ("succeeded", "lease_lost")
    assert sum(map(alive, owner.children)) == 2


async def test_an_extended_lease_keeps_skills_running(bench: Bench) -> None:
    task, job = await bench.begin("wait")
    for _ in range(12):
        bench.host.extend_lease(2_000)
        await asyncio.sleep(0.25)
    assert not task.done()
    bench.host.extend_lease(60_000)
    bench.host.cancel(job.task_id, job.attempt, 60_000)
    assert (await task).kind == "cancelled"


async def test_a_lease_that_is_not_extended_ends_runs_and_refuses_new_ones(bench: Bench) -> None:
    assert await bench.value("echo", 1) == 1
    task, _ = await bench.begin("spin")
    bench.host.extend_lease(300)
    outcome = await asyncio.wait_for(task, WAIT_S)
    assert (outcome.kind, outcome.code, outcome.retryable) == ("lease_lost", "LEASE_LOST", True)
    assert (await bench.run("echo", 1)).kind == "lease_lost"
    bench.host.extend_lease(60_000)
    assert await bench.value("echo", 1) == 1


async def test_a_revoked_lease_ends_runs_at_once(bench: Bench) -> None:
    task, _ = await bench.begin("block")
    bench.host.extend_lease(0)
    assert (await asyncio.wait_for(task, WAIT_S)).kind == "lease_lost"


async def test_a_new_zygote_knows_the_lease(bench: Bench) -> None:
    bench.host.extend_lease(8_000)  # it must not end while the new one loads
    old = bench.host.zygote_pid
    os.kill(old, signal.SIGKILL)
    await until(lambda: bench.host.zygote_pid != old, "a new zygote")
    task, _ = await bench.begin("spin")
    assert (await asyncio.wait_for(task, WAIT_S)).kind == "lease_lost"


async def test_stopping_ends_runs_in_flight_and_all_processes(make_bench: MakeBench) -> None:
    bench = await make_bench(max_children=1)
    task, _ = await bench.begin("spin")
    waiting = asyncio.create_task(bench.run("echo", 1))
    await until(lambda: bench.host.running == 2, "the second run is queued")
    family = {bench.host.zygote_pid} | children_of(bench.host.zygote_pid)
    await bench.host.stop()
    assert ((await task).code, (await waiting).code) == ("HOST_STOPPED", "HOST_STOPPED")
    assert not any(map(alive, family))
    assert (await bench.run("echo", 1)).code == "HOST_STOPPED"
    await bench.host.stop()


async def test_stopping_a_host_that_never_started_ends_its_zygote() -> None:
    host = SkillHost.spawn(options())
    await host.stop()
    assert not alive(host.zygote_pid)


async def test_spawning_from_another_thread_is_refused() -> None:
    with pytest.raises(SkillHostError, match="main thread"):
        await asyncio.to_thread(SkillHost.spawn, options())


async def test_warm_children_wait_from_the_start(make_bench: MakeBench) -> None:
    bench = await make_bench(warm_children=3)
    await until(lambda: len(bench.host.child_pids) == 3, "three children")
    warm = set(bench.host.child_pids)
    assert await bench.value("pid") in warm


async def test_a_host_that_cannot_get_ready_says_why() -> None:
    host = SkillHost.spawn(options(ready_timeout_ms=1))
    with pytest.raises(SkillHostError, match="not ready within 1 ms"):
        await host.start()
    assert not alive(host.zygote_pid)
    await host.stop()


async def test_runs_are_served_to_a_port_of_their_own(bench: Bench) -> None:
    ports = [RecordingPort() for _ in range(12)]
    names = [[f"s{n}-{k}" for k in range(5)] for n in range(12)]
    await asyncio.gather(
        *(bench.value("steps", given, port=port) for given, port in zip(names, ports, strict=True))
    )
    assert [list(port.steps) for port in ports] == names
