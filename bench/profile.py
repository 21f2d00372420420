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
SETTLE_S = 1.0
MARGIN_S = 4.0


@dataclass(frozen=True, slots=True)
class Profile:
    """Samples of one process: `own` while the function itself ran, `with_callees` while it was on the stack."""

    total: int
    own: Counter[str]
    with_callees: Counter[str]


def read_collapsed(text: str) -> Profile:
    """py-spy's raw format: frames from the outermost inwards, separated by ";", then a blank and a count."""
    own: Counter[str] = Counter()
    with_callees: Counter[str] = Counter()
    for line in text.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [_short(frame) for frame in stack.split(";")]
        own[frames[-1]] += int(count)
        for frame in set(frames):
            with_callees[frame] += int(count)
    return Profile(own.total(), own, with_callees)


def print_profile(title: str, profile: Profile, seconds: float) -> None:
    """Two lists: where the time was spent, and under whom."""
    busy = profile.total / (SAMPLES_PER_S * seconds)
    print(f"\n== {title}: {profile.total} samples, busy {100 * busy:.0f} % of the time")
    for heading, counts in (("own time", profile.own), ("with callees", profile.with_callees)):
        print(f"   -- {heading}")
        for frame, count in counts.most_common(SHOWN):
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
    """'fn (/long/path/coterie/raft/x.py:12)' with the path from its last known root on, without the line."""
    for root in ("coterie/", "site-packages/", "lib/python"):
        before, found, after = frame.partition(root)
        if found:
            return f"{before.partition(' (')[0]}  {root if root == 'coterie/' else ''}{after.rstrip(')')}"
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
