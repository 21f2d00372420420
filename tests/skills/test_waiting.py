"""Processes made ahead of need: they know nothing of anybody, serve one run, and end with their makers."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

from coterie.node.skillhost.child import Child
from coterie.node.skillhost.confined import ConfinedPool
from coterie.node.skillhost.nouns import ConfinedSkill, SandboxOptions
from coterie.skills.runframe import pack_run
from tests.skills.conftest import MakeBench
from tests.skills.support import WAIT_S, Bench, alive, until
from tests.skills.test_death import StartOwner, start_owner

__all__ = ["start_owner"]
HOME = """
import os

async def run(ctx, given):
    if given == "stay":
        with open("note", "w") as note:
            note.write("of the first")
        os.environ["LEFT"] = "by the first"
        await ctx.checkpoint([os.getpid(), os.getcwd(), os.environ["HOME"]])
        await ctx.progress(1)
        import asyncio
        await asyncio.sleep(60)
    return os.getpid()
"""
PRYING = """
import os, sys

def tried(attempt, *args):
    try:
        return attempt(*args)
    except OSError as error:
        return type(error).__name__

def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True

def run(ctx, given):
    return {
        "pid": os.getpid(),
        "here": os.getcwd(),
        "mine": os.listdir(),
        "note": tried(open, given["cwd"] + "/note"),
        "its folder": tried(os.listdir, given["cwd"]),
        "all folders": tried(os.listdir, os.path.dirname(given["cwd"])),
        "its code": tried(open, given["code"] + "/handler.py"),
        "to signal": tried(os.kill, given["pid"], 0),
        "env": sorted(os.environ),
        "modules": [name for name in sys.modules if "home" in name],
        "fds": sum(map(is_open, range(256))),
        "walls": [tried(open, "/proc/self/maps"), tried(os.listdir, "/")],
    }
"""
# Its three streams, the socket of the node, and the event loop's three.
OPEN_FDS = 7


def skill(folder: Path, source: str, **changes: Any) -> ConfinedSkill:
    """A skill of these lines."""
    folder.mkdir(mode=0o755)
    (folder / "handler.py").write_text(source)
    return ConfinedSkill(folder=folder, handler="handler.py:run", name=folder.name, **changes)


def pool_of(bench: Bench) -> ConfinedPool:
    """The confined one of this host."""
    assert bench.host._confined is not None
    return bench.host._confined


def waiting(bench: Bench) -> list[Child]:
    """Its children that were made ahead."""
    return list(pool_of(bench)._idle)


def parent_of(pid: int) -> int:
    """Who forked it."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def filled(bench: Bench, number: int) -> list[int]:
    """Wait until so many wait; their process ids."""
    await until(
        lambda: len(waiting(bench)) >= number and all(child.pid for child in waiting(bench)),
        f"{number} processes made ahead",
    )
    return [child.pid for child in waiting(bench)]


async def test_a_waiting_child_sees_nothing_of_another_run(make_bench: MakeBench, tmp_path: Path) -> None:
    bench = await make_bench()
    home, prying = skill(tmp_path / "home", HOME), skill(tmp_path / "prying", PRYING)
    await bench.value("home", confined=home)
    before = await filled(bench, 2)
    first, _ = await bench.begin("home", "stay", confined=home)
    [[pid, cwd, own]] = bench.port.checkpoints
    told = {"pid": pid, "cwd": cwd, "code": str(home.folder)}
    seen = await bench.value("prying", told, confined=prying)
    assert not first.done() and "note" in os.listdir(cwd)  # there was something to be seen
    first.cancel()
    await asyncio.wait([first])
    assert {pid, seen["pid"]} <= set(before) and pid != seen["pid"] and cwd == own != seen["here"]
    refused = {key: seen[key] for key in ("note", "its folder", "all folders", "its code", "to signal")}
    assert set(refused.values()) == {"PermissionError"}, refused
    assert seen["walls"] == ["PermissionError", "PermissionError"]
    assert (seen["mine"], seen["modules"]) == ([], [])
    assert seen["env"] == ["HOME", "LANG", "PATH", "TMPDIR"]
    assert seen["fds"] <= OPEN_FDS


async def test_a_waiting_child_serves_one_run(make_bench: MakeBench, tmp_path: Path) -> None:
    bench = await make_bench()
    home = skill(tmp_path / "home", HOME)
    pids = []
    for _ in range(6):
        pids.append(await bench.value("home", confined=home))
        await filled(bench, 1)
    assert len(set(pids)) == 6
    await until(lambda: not any(map(alive, pids)), "the processes of runs that are over are dead")


async def test_a_new_revision_runs_in_a_child_that_waited_before_it(
    make_bench: MakeBench, tmp_path: Path
) -> None:
    bench = await make_bench()
    source = "import os\n\ndef run(ctx, given):\n    return ['{}', os.getpid()]\n"
    old = skill(tmp_path / "old", source.format("old"))
    assert (await bench.value("old", confined=old))[0] == "old"
    before = await filled(bench, 1)
    new = skill(tmp_path / "new", source.format("new"))
    revision, pid = await bench.value("old", confined=new)
    assert revision == "new" and pid in before


async def test_there_are_as_many_as_were_asked_for_of_the_kinds_in_use(
    make_bench: MakeBench, tmp_path: Path
) -> None:
    bench = await make_bench(max_children=2, sandbox=SandboxOptions(waiting_children=2))
    plain = skill(tmp_path / "plain", HOME)
    outward = skill(tmp_path / "outward", HOME, network=("example.org",))
    await asyncio.gather(*(bench.value("plain", confined=plain) for _ in range(6)))
    await filled(bench, 2)
    assert [child.cell.box.network for child in waiting(bench) if child.cell] == [False, False]
    assert await bench.value("outward", confined=outward) not in [child.pid for child in waiting(bench)]
    pids = await filled(bench, 4)
    await asyncio.sleep(0.1)  # not one more
    assert len(waiting(bench)) == 4 and len(bench.host.child_pids) == 4
    assert await bench.value("outward", confined=outward) in pids
    none = await make_bench(sandbox=SandboxOptions(waiting_children=0))
    await none.value("plain", confined=plain)
    await asyncio.sleep(0.1)
    assert not waiting(none)


async def test_a_waiting_child_that_dies_is_forgotten(make_bench: MakeBench, tmp_path: Path) -> None:
    bench = await make_bench(sandbox=SandboxOptions(waiting_children=1))
    home = skill(tmp_path / "home", HOME)
    await bench.value("home", confined=home)
    (pid,) = await filled(bench, 1)
    folder = next(child.cell.folder for child in waiting(bench) if child.cell)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not waiting(bench), "its death is noticed")
    assert await bench.value("home", confined=home) != pid
    await until(lambda: not folder.exists(), "its folder is removed")


async def test_no_run_begins_before_the_walls_are_closed(make_bench: MakeBench, tmp_path: Path) -> None:
    bench = await make_bench(sandbox=SandboxOptions(waiting_children=1))
    home = skill(tmp_path / "home", HOME)
    await bench.value("home", confined=home)
    (pid,) = await filled(bench, 1)
    (child,) = waiting(bench)
    open_dir = tmp_path / "open"
    open_dir.mkdir()
    open_dir.chmod(0o777)
    early = skill(tmp_path / "early", f"open('{open_dir}/began', 'w')\n{HOME}")
    facts = {"skill": "early", "task_id": "t", "attempt": 1, "node_id": "n", "source": early.as_source()}
    child._frames.send_parts(*pack_run(facts, b"1", None, {}))
    await asyncio.wait_for(child.exited, WAIT_S)
    assert not alive(pid) and os.listdir(open_dir) == []


async def test_waiting_children_end_with_the_lease_and_with_the_zygote(
    make_bench: MakeBench, tmp_path: Path
) -> None:
    bench = await make_bench()
    home = skill(tmp_path / "home", HOME)
    bench.host.extend_lease(60_000)
    await bench.value("home", confined=home)
    pids = await filled(bench, 2)
    bench.host.extend_lease(0)
    await until(lambda: not any(map(alive, pids)) and not waiting(bench), "none outlives the lease")
    bench.host.extend_lease(60_000)
    await bench.value("home", confined=home)
    pids = await filled(bench, 2)
    killed = pool_of(bench).zygote_pid
    os.kill(killed, signal.SIGKILL)
    await until(lambda: not any(map(alive, pids)), "none outlives the zygote")
    await until(lambda: pool_of(bench).zygote_pid != killed, "another one is there")
    assert await bench.value("home", confined=home) not in pids


async def test_waiting_children_die_with_the_node(start_owner: StartOwner, tmp_path: Path) -> None:
    home = skill(tmp_path / "home", HOME)
    owner = await start_owner(busy=[], confined=str(home.folder))
    assert owner.family and all(map(alive, owner.family))
    os.kill(owner.pid, signal.SIGKILL)
    await until(lambda: not any(map(alive, owner.family)), "none outlives the node")


async def test_waiting_children_die_with_the_zygote_though_the_node_cannot_act(
    start_owner: StartOwner, tmp_path: Path
) -> None:
    home = skill(tmp_path / "home", HOME)
    owner = await start_owner(busy=[], confined=str(home.folder))
    zygote = parent_of(owner.family[0])
    assert zygote not in (owner.pid, owner.zygote)
    os.kill(owner.pid, signal.SIGSTOP)
    os.kill(zygote, signal.SIGKILL)
    await until(lambda: not any(map(alive, owner.family)), "none outlives the zygote")
