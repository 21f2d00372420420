"""The working folders of confined runs, and what becomes of runs while the sandbox begins."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from coterie.node.skillhost.cell import Cell
from coterie.node.skillhost.nouns import ConfinedSkill, SandboxOptions
from coterie.node.skillhost.scratch import RUNS, SKILLS, Scratch, clear_scratch, scratch_name
from tests.skills.conftest import MakeBench
from tests.skills.support import RecordingPort, alive, children_of, open_fds, until


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """A folder that runs, users of their own, can go through."""
    for place in (tmp_path, made := tmp_path / "scratch"):
        place.mkdir(exist_ok=True)
        place.chmod(0o711)
    return made


def guest(folder: Path, source: str) -> ConfinedSkill:
    """A confined skill of these lines."""
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "handler.py").write_text(source)
    return ConfinedSkill(folder=folder, handler="handler.py:run", name="guest")


async def test_a_run_that_is_cancelled_while_the_sandbox_begins_never_runs(
    make_bench: MakeBench, tmp_path: Path
) -> None:
    bench = await make_bench()
    skill = guest(tmp_path / "guest", "async def run(ctx, given):\n    await ctx.progress(1)")
    port, job = RecordingPort(), bench.job("guest", confined=skill)
    run = asyncio.create_task(bench.host.run(job, port))
    await until(lambda: bench.host._starting.locked(), "the sandbox begins")
    with pytest.raises(ValueError, match="running already"):
        await bench.host.run(job, port)
    bench.host.cancel(job.task_id, job.attempt, 60_000)
    assert (await run).kind == "cancelled"
    assert port.progress == []
    assert (await bench.run("guest", port=port, confined=skill)).kind == "succeeded"


async def test_a_process_that_cannot_be_made_leaves_no_descriptor(
    make_bench: MakeBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot be made when there are too many open already."""

    def too_many() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    bench = await make_bench()
    skill = replace(guest(tmp_path / "guest", "def run(ctx, given): return given"), network=("example.org",))
    begun = await bench.run("guest", 1, confined=skill)
    if begun.code == "SANDBOX_MISSING":
        pytest.skip(f"no network of its own for a run here: {begun.message}")
    pool = bench.host._confined
    assert pool is not None
    await until(lambda: len(pool._idle) == len(pool._children) == 4 and not pool._closing, "all others wait")
    monkeypatch.setattr("coterie.node.skillhost.child._open_ends", too_many)
    for _ in range(4):
        before, cells = open_fds(), len(os.listdir(pool._scratch.folder()))
        with pytest.raises(OSError, match="Too many"):
            pool._confined_child(network=True)
        await asyncio.gather(*pool._closing)
        assert (open_fds(), len(os.listdir(pool._scratch.folder()))) == (before, cells)


def test_a_cell_without_a_gate_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socketpair", lambda: os.open("", os.O_RDONLY))
    with pytest.raises(OSError):
        Cell(tmp_path / "1", SandboxOptions(), own_user=False, network=True)
    assert os.listdir(tmp_path) == []


async def test_a_sandbox_that_cannot_begin_leaves_no_process(make_bench: MakeBench, tmp_path: Path) -> None:
    nowhere = tmp_path / "full"
    bench = await make_bench(sandbox=SandboxOptions(scratch_dir=nowhere))
    skill = guest(tmp_path / "guest", "def run(ctx, given): return given")
    before = children_of(os.getpid())
    for _ in range(2):
        outcome = await bench.run("guest", 1, confined=skill)
        assert (outcome.kind, outcome.code) == ("crashed", "SKILL_START_FAILED")
        assert children_of(os.getpid()) == before
    nowhere.mkdir()
    assert await bench.value("guest", 1, confined=skill) == 1


DISK = """
import os, time

kept = []

def nested():
    fd = os.open(".", os.O_RDONLY)
    for _ in range(1_200):
        os.mkdir("deeper", dir_fd=fd)
        below = os.open("deeper", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below

def named():
    for number in range(4):
        with open(str(number), "wb") as file:
            file.write(b"x" * 1_000_000)

def unnamed():
    for _ in range(4):
        kept.append(open("file", "wb"))
        os.unlink("file")
        kept[-1].write(b"x" * 1_000_000)
        kept[-1].flush()

def run(ctx, given):
    globals()[given]()
    time.sleep(60)
"""


@pytest.mark.parametrize(
    "how",
    [
        "nested",
        pytest.param("unnamed", marks=pytest.mark.skipif(os.geteuid() != 0, reason="shown to root")),
    ],
)
async def test_the_disk_limit_holds_for_every_run(
    make_bench: MakeBench, tmp_path: Path, scratch: Path, how: str
) -> None:
    limited = SandboxOptions(scratch_dir=scratch, disk_bytes_max=3_000_000, watch_interval_s=0.05)
    bench = await make_bench(sandbox=limited)
    skill = guest(tmp_path / "guest", DISK)
    for what in (how, "named"):
        outcome = await bench.run("guest", what, confined=skill, timeout_ms=15_000)
        assert outcome.code == "TOO_MUCH_DISK", outcome
        assert ("nested" in outcome.message) == (what == "nested")
    await bench.host.stop()
    assert os.listdir(scratch) == []


async def test_a_run_that_cannot_be_measured_keeps_no_other_from_it(
    make_bench: MakeBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = SandboxOptions(disk_bytes_max=3_000_000, watch_interval_s=0.05)
    bench = await make_bench(sandbox=limited)
    skill = guest(tmp_path / "guest", DISK)
    measure, failed = Cell.bytes_used, list[Cell]()

    def first_fails(cell: Cell, pid: int) -> int:
        failed[:] = failed or [cell]
        if cell in failed:
            raise OSError("no descriptors are left")
        return measure(cell, pid)

    monkeypatch.setattr(Cell, "bytes_used", first_fails)
    unseen = asyncio.create_task(bench.run("guest", "named", confined=skill))
    await until(lambda: bool(failed), "it was to be measured")
    assert (await bench.run("guest", "named", confined=skill, timeout_ms=15_000)).code == "TOO_MUCH_DISK"
    unseen.cancel()


async def test_the_trusted_processes_end_even_if_the_others_cannot(
    make_bench: MakeBench, tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = await make_bench(sandbox=SandboxOptions(scratch_dir=scratch))
    assert await bench.value(
        "guest", 1, confined=guest(tmp_path / "guest", "def run(c, given): return given")
    )

    def broken(scratch: Scratch) -> None:
        raise RecursionError

    monkeypatch.setattr(Scratch, "clear", broken)
    with contextlib.suppress(RecursionError):
        await bench.host.stop()
    assert not alive(bench.host.zygote_pid)


async def test_a_folder_that_was_tidied_away_is_made_again(
    make_bench: MakeBench, tmp_path: Path, scratch: Path
) -> None:
    sandbox = SandboxOptions(scratch_dir=scratch, scratch_name="mine", waiting_children=1)
    bench = await make_bench(sandbox=sandbox)
    skill = guest(
        tmp_path / "guest", "import os\ndef run(ctx, given):\n    open('x', 'w').close(); return os.getcwd()"
    )
    assert (await bench.value("guest", confined=skill)).startswith(str(scratch / f"mine-{RUNS}"))
    pool = bench.host._confined
    assert pool is not None
    await until(lambda: bool(pool._idle), "a process waits in a folder of its own")
    for _ in range(2):
        shutil.rmtree(scratch / f"mine-{RUNS}")
        assert (await bench.value("guest", confined=skill)).startswith(str(scratch))


def test_what_a_killed_node_left_is_gone_after_its_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    names = [scratch_name("n1", tmp_path / data) for data in ("mine", "another's")]
    left = [Scratch(part, name).folder() for name in names for part in (RUNS, SKILLS)]
    for place in left:
        (place / "1").mkdir()
    clear_scratch(names[0])
    assert [place.exists() for place in left] == [False, False, True, True]
    again = Scratch(RUNS, names[1])
    assert again.folder() == left[2] and os.listdir(left[2]) == []
    (left[2] / "2").mkdir()
    assert again.folder() == left[2] and os.listdir(left[2]) == ["2"], "emptied once only"


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "file").write_text("kept")
    for name in ("link", "file"):
        place = tmp_path / f"{name}-{RUNS}"
        place.symlink_to(theirs) if name == "link" else place.write_text("here")
        mine = Scratch(RUNS, name, tmp_path)
        made = mine.folder()
        assert made.is_dir() and made not in (place, theirs) and not any(made.iterdir())
        mine.clear()
        assert place.exists() and not made.exists()
    assert os.listdir(theirs) == ["file"]
