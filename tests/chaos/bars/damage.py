"""Bar 10: bits flip and bytes go missing in the files of a minority, while its nodes run or do not."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field as data_field
from pathlib import Path

from tests.chaos.bars.bar import Bar, Setting
from tests.chaos.field import READY_S, Field
from tests.chaos.load import Load, Record
from tests.chaos.lookout import ANSWER_S, Lookout
from tests.chaos.report import Report
from tests.chaos.tools import needs
from tests.chaos.verdict import agreed_hashes, judge

JOURNAL, SNAPSHOT, SYNCED = "raft.journal", "raft.snapshot", "raft.synced"
FILES = {JOURNAL: 6, SNAPSHOT: 3, SYNCED: 1}  # how often each is hit
KINDS = ("flip", "flip", "cut", "torn tail", "zeros", "garbage at the end", "delete")
KINDS_RUNNING = ("flip", "zeros")  # what a disk does to a file in use; it is not cut under a writer
VICTIMS_MAX = 2  # of five
ROUNDS_AT_ONCE = 4  # then the states are compared
OPTIONS = {"cluster": {"consensus": {"snapshotEvery": 300}}}
OFFSET_WORD, REMEDY_WORD = "is damaged at byte", "resync"
NO_CHANGES_YET = "cannot be changed"  # then the operator has a backup

Undo = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Hit:
    """One damage, and what it hit."""

    node_id: str
    file: str
    kind: str
    running: bool

    def __str__(self) -> str:
        state = "running" if self.running else "stopped"
        return f"{self.kind} of {self.file} of {self.node_id} ({state})"


@dataclass(slots=True)
class Scene:
    """What the rounds work with."""

    field: Field
    lookout: Lookout
    dice: random.Random
    report: Report
    outcomes: Counter[str] = data_field(default_factory=Counter)
    hits: list[Hit] = data_field(default_factory=list)
    can_resync: bool = True
    undo: dict[str, Undo] = data_field(default_factory=dict)  # by node: its files as before the damage

    def damage(self, hit: Hit) -> None:
        """Do it, and remember how to take it back."""
        folder = _raft(self.field, hit.node_id)
        path = folder / hit.file
        if hit.running:
            self.undo[hit.node_id] = _damage_in_use(path, hit.kind, self.dice)
        else:
            self.undo[hit.node_id] = _undo_copy(folder)
            _damage(path, hit.kind, self.dice)


async def run(setting: Setting, report: Report) -> None:
    """Rounds of: damage one or two nodes of five, start them, repair those that refuse; then judge."""
    damages, acked = (40, 2_000) if setting.full else (10, 300)
    witness = setting.base_dir / "witness"
    with Field(setting.base_dir, options=OPTIONS) as field:
        await field.wait_ready(READY_S)
        async with Lookout(field) as lookout, field.client() as client:
            scene = Scene(field, lookout, setting.dice("damage"), report)
            record = Record()
            while len(scene.hits) < damages:
                async with Load(client, witness, submitters=6, pause_s=0.03, record=record):
                    await _snapshots_made(field)
                    for _ in range(ROUNDS_AT_ONCE):
                        await _round(scene, record)
                await _compare(scene)
            well = time.monotonic()
            await judge(field, record, witness, report, since=well)
        field.stop()
    _conclude(scene)
    report.require("acked", len(record.acks), acked)
    report.require("damages", len(scene.hits), damages)
    report.require("refusals", scene.outcomes["refused"], damages // 4)


async def _snapshots_made(field: Field) -> None:
    """Work until every node has a snapshot that can be damaged."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if all((_raft(field, node_id) / SNAPSHOT).exists() for node_id in field.node_ids):
            return
        await asyncio.sleep(0.1)
    raise RuntimeError(f"no snapshots after {READY_S:g} s")


async def _round(scene: Scene, record: Record) -> None:
    """Some work, some damage, and everybody is back."""
    field, dice = scene.field, scene.dice
    await asyncio.sleep(dice.uniform(0.2, 1.0))
    victims = dice.sample(field.node_ids, dice.randint(1, VICTIMS_MAX))
    hits = [_choose(dice, node_id) for node_id in victims]
    for hit in hits:
        if hit.running:
            scene.damage(hit)
            await record.next_ack(time.monotonic(), READY_S)  # it goes on with what it has in memory
        if field.alive(hit.node_id):  # one that reads what was damaged may have stopped by itself
            field.kill_node(hit.node_id)
        if not hit.running:
            scene.damage(hit)
    field.sweep_dead()
    applied = max(sight.applied_index for sight in scene.lookout.last.values())
    for hit in hits:
        await _come_back(scene, hit, applied)
    scene.hits += hits


def _choose(dice: random.Random, node_id: str) -> Hit:
    [file] = dice.choices(list(FILES), list(FILES.values()))
    running = dice.random() < 0.4
    return Hit(node_id, file, dice.choice(KINDS_RUNNING if running else KINDS), running)


async def _come_back(scene: Scene, hit: Hit, applied: int) -> None:
    """The node starts, or says why it does not and is repaired as it says."""
    field = scene.field
    began, said_before = time.monotonic(), len(field.log_path(hit.node_id).read_bytes())
    scene.lookout.last.pop(hit.node_id, None)  # what was seen of it before it was killed says nothing
    field.start_node(hit.node_id)
    if await _settled(scene, hit.node_id, applied):
        scene.outcomes["went on"] += 1
        leads_early = [
            sight
            for sight in scene.lookout.seen
            if sight.at > began
            and sight.node_id == sight.leader == hit.node_id
            and sight.applied_index < applied
        ]
        scene.report.demand(not leads_early, f"{hit}: it led before it had caught up")
        return
    scene.outcomes["refused"] += 1
    said = field.log_path(hit.node_id).read_bytes()[said_before:].decode(errors="replace")
    scene.report.demand(REMEDY_WORD in said, f"{hit}: it named no remedy but said {said[-300:]!r}")
    if hit.kind != "delete":
        named = OFFSET_WORD in said and hit.file in said
        scene.report.demand(named, f"{hit}: it named neither file nor offset but said {said[-300:]!r}")
    await _repair(scene, hit.node_id, applied)


async def _settled(scene: Scene, node_id: str, applied: int) -> bool:
    """True when the node has caught up, False when its process has ended."""
    called = time.monotonic()
    deadline = called + READY_S
    while time.monotonic() < deadline:
        if not scene.field.alive(node_id):
            return False
        sight = scene.lookout.last.get(node_id)
        if (
            sight
            and sight.at - called > ANSWER_S  # earlier ones may be answers of the killed process
            and time.monotonic() - sight.at < 1.0
            and sight.applied_index >= applied
            and sight.has_quorum
        ):
            return True
        await asyncio.sleep(0.05)
    raise RuntimeError(f"{node_id} neither caught up nor stopped\n{scene.field.log_tail(node_id)}")


async def _repair(scene: Scene, node_id: str, applied: int) -> None:
    """What the message says, as an operator would."""
    field = scene.field
    field.sweep_dead()
    if scene.can_resync:
        scene.can_resync = await _resync(field, node_id)
    if scene.can_resync:
        scene.outcomes["resynced"] += 1
    else:
        scene.undo[node_id]()
        scene.outcomes["restored"] += 1
    scene.lookout.last.pop(node_id, None)
    field.start_node(node_id)
    if not await _settled(scene, node_id, applied):
        raise RuntimeError(f"{node_id} stopped after its resync\n{field.log_tail(node_id)}")
    async with field.client() as client:
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            nodes = {node.id: node for node in await client.list_nodes()}
            if node_id in nodes and nodes[node_id].role == "VOTER" and nodes[node_id].state == "ACTIVE":
                return
            await asyncio.sleep(0.1)
    raise RuntimeError(
        f"{node_id} does not vote again {READY_S:g} s after its resync\n{field.log_tail(node_id)}"
    )


async def _resync(field: Field, node_id: str) -> bool:
    """False when this version cannot take a node in anew."""
    command = [str(Path(sys.executable).with_name("coterie")), "node", "resync"]
    command += ["--config", str(field.config_path), "--id", node_id]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=READY_S, env=dict(os.environ)
    )
    if done.returncode != 0 and NO_CHANGES_YET not in done.stderr:
        raise RuntimeError(f"resync of {node_id} failed: {done.stderr[-500:]}{done.stdout[-500:]}")
    return done.returncode == 0


async def _compare(scene: Scene) -> None:
    hashes = await agreed_hashes(scene.field)
    shown = scene.hits[-VICTIMS_MAX * ROUNDS_AT_ONCE :]
    same = len(set(hashes.values())) == 1
    ended = {
        node_id: scene.field.log_tail(node_id)
        for node_id in scene.field.node_ids
        if not scene.field.alive(node_id)
    }
    scene.report.demand(same, f"states differ after {', '.join(map(str, shown))}: {hashes} {ended}")


def _undo_copy(folder: Path) -> Undo:
    """Of a stopped node: everything as it is now."""
    backup = folder.with_name("raft.backup")
    shutil.rmtree(backup, ignore_errors=True)
    shutil.copytree(folder, backup)

    def undo() -> None:
        shutil.rmtree(folder)
        shutil.copytree(backup, folder)

    return undo


def _damage_in_use(path: Path, kind: str, dice: random.Random) -> Undo:
    """Of a running node; it may put another file in the place of this one at any time. Undoing changes only
    the bytes that were hit: what the node writes later stays."""
    if not path.exists():
        return lambda: None
    file = path.open("r+b", buffering=0)  # kept open: no other file can get its inode
    size = os.fstat(file.fileno()).st_size
    at = dice.randrange(size)
    before = os.pread(file.fileno(), 1 if kind == "flip" else 512, at)
    os.pwrite(file.fileno(), _damaged(before, kind, dice), at)

    def undo() -> None:
        if path.exists() and _is_open_as(path, file.fileno()):
            os.pwrite(file.fileno(), before, at)
        file.close()

    return undo


def _is_open_as(path: Path, fd: int) -> bool:
    return os.path.samestat(path.stat(), os.fstat(fd))


def _damaged(before: bytes, kind: str, dice: random.Random) -> bytes:
    if kind == "zeros":
        return bytes(len(before))
    return bytes([before[0] ^ (1 << dice.randrange(8))])


def _damage(path: Path, kind: str, dice: random.Random) -> None:
    """Of a stopped node."""
    if not path.exists():
        return
    size = path.stat().st_size
    if kind == "delete":
        path.unlink()
    elif kind in ("cut", "torn tail"):
        os.truncate(path, dice.randrange(size) if kind == "cut" else max(0, size - dice.randint(1, 20)))
    elif kind == "garbage at the end":
        with path.open("ab") as file:
            file.write(dice.randbytes(dice.randint(1, 200)))
    else:
        _damage_in_use(path, kind, dice)


def _raft(field: Field, node_id: str) -> Path:
    return field.data_dir(node_id) / "raft"


def _conclude(scene: Scene) -> None:
    figures, outcomes = scene.report.figures, scene.outcomes
    figures |= {
        "damages": len(scene.hits),
        "outcomes": dict(outcomes),
        "hits": dict(Counter(f"{hit.kind} of {hit.file}" for hit in scene.hits).most_common()),
        "of running nodes": sum(hit.running for hit in scene.hits),
    }
    scene.report.text = (
        f"{len(scene.hits)} damages ({figures['of running nodes']} of running nodes): {outcomes['refused']} "
        f"refused with file and offset and repaired, {outcomes['went on']} went on; silently wrong "
        f"{figures['unlike']}, acked {figures['acked']:,}, lost {figures['lost']}"
    )


BAR = Bar(10, "damaged files of a minority", run, needs.APART)
