"""Where the time of a node goes under load: samples from py-spy, summed up per function.

pip install py-spy
python -m bench.profile                 64 outstanding no-op tasks
python -m bench.profile --callers 1     one at a time"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from bench import proc
from bench.figures import WorkNotDone
from bench.nodes import CpuBooks, Fleet, Outcome, client_of, ready, running
from bench.options import Options, add_arguments, options_of

SAMPLES_PER_S = 200
SHOWN = 30
OURS = "coterie/"
SETTLE_S = 1.0
MARGIN_S = 4.0


@dataclass(frozen=True, slots=True)
class Profile:
    """Samples of one process: `blamed` on the innermost function of ours, libraries it called included;
    `files` is the same by file; `with_callees` counts while the function was on the stack."""

    total: int
    blamed: Counter[str]
    files: Counter[str]
    with_callees: Counter[str]


def read_collapsed(text: str) -> Profile:
    """py-spy's raw format: frames from the outermost inwards, separated by ";", then a blank and a count."""
    blamed: Counter[str] = Counter()
    files: Counter[str] = Counter()
    with_callees: Counter[str] = Counter()
    for line in text.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [_short(frame) for frame in stack.split(";")]
        ours = next((frame for frame in reversed(frames) if OURS in frame), frames[-1])
        blamed[ours] += int(count)
        files[ours.partition("  ")[2].partition(":")[0]] += int(count)
        for frame in set(frames):
            with_callees[frame] += int(count)
    return Profile(blamed.total(), blamed, files, with_callees)


def print_profile(title: str, profile: Profile, seconds: float) -> None:
    """Three lists: which function of ours spent the time, which file, and who was on the stack."""
    busy = profile.total / (SAMPLES_PER_S * seconds)
    print(f"\n== {title}: {profile.total} samples, busy {100 * busy:.0f} % of the time")
    lists = {
        "innermost of ours": profile.blamed,
        "by file": profile.files,
        "on the stack": profile.with_callees,
    }
    for heading, counts in lists.items():
        print(f"   -- {heading}")
        shown = [(frame, count) for frame, count in counts.most_common(2 * SHOWN) if frame.strip()]
        for frame, count in shown[:SHOWN]:
            print(f"   {100 * count / max(1, profile.total):5.1f} %  {frame}")


async def profile(options: Options, callers: int, native: bool) -> None:
    """Sample the leader, a follower, its zygote's busiest child and the client while tasks run."""
    async with running(options) as cluster:
        leader = await ready(cluster)
        follower = next(node_id for node_id in cluster.node_ids if node_id != leader)
        plan = {"skill": "echo", "callers": callers, "seconds": options.seconds + SETTLE_S + MARGIN_S}
        async with Fleet(cluster, 1, plan) as fleet, client_of(cluster):
            await fleet.warm_up()
            pids = {"leader": cluster.pid(leader), "follower": cluster.pid(follower), "client": fleet.pids[0]}
            children = proc.descendants(cluster.pid(follower))
            if children:
                pids["skill process"] = max(children, key=lambda pid: proc.cpu_s([pid]))
            cpu = CpuBooks(cluster)
            fleet.go()
            await asyncio.sleep(SETTLE_S)
            profiles = await asyncio.gather(*(_record(pid, options.seconds, native) for pid in pids.values()))
            outcome = await fleet.outcome()
            outcome.check()
            used = cpu.used_s()
    for title, found in zip(pids, profiles, strict=True):
        print_profile(title, found, options.seconds)
    print(f"\n{_summary(outcome, used, leader)}")


async def _record(pid: int, seconds: float, native: bool) -> Profile:
    with tempfile.NamedTemporaryFile(suffix=".txt") as file:
        command = [_py_spy(), "record", "--pid", str(pid), "--format", "raw", "--output", file.name]
        command += ["--duration", str(round(seconds)), "--rate", str(SAMPLES_PER_S), "--function"]
        command += ["--full-filenames"]
        command += ["--native"] if native else ["--gil"]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
        if done.returncode:
            raise WorkNotDone(f"py-spy failed on process {pid}: {done.stderr.strip()}")
        return read_collapsed(await asyncio.to_thread(Path(file.name).read_text))


def _py_spy() -> str:
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if not found:
        sys.exit("py-spy is not installed: pip install py-spy")
    return found


def _short(frame: str) -> str:
    """'fn (/long/path/coterie/raft/x.py:12)' as 'fn  coterie/raft/x.py:12'."""
    name, _, place = frame.rstrip(")").partition(" (")
    for root in (OURS, "site-packages/", "lib/python"):
        _, found, after = place.partition(root)
        if found:
            return f"{name}  {root if root == OURS else ''}{after}"
    return frame


def _summary(outcome: Outcome, used: tuple[dict[str, float], float], leader: str) -> str:
    nodes, skills = used
    per_task = 1000 / outcome.finished
    followers = ", ".join(f"{nodes[n] * per_task:.2f}" for n in nodes if n != leader)
    return (
        f"{outcome.finished / outcome.seconds:,.0f} tasks/s while sampled; CPU ms per task: leader "
        f"{nodes[leader] * per_task:.2f}, followers {followers}, skill processes {skills * per_task:.2f}, "
        f"client {outcome.cpu_s * per_task:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.profile")
    add_arguments(parser)
    parser.add_argument("--callers", type=int, default=64, help="outstanding tasks")
    parser.add_argument("--native", action="store_true", help="sample C code too (slower)")
    arguments = parser.parse_args()
    asyncio.run(profile(options_of(arguments), arguments.callers, arguments.native))


if __name__ == "__main__":
    main()
