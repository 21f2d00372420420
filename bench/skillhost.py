"""What running a skill costs: no-op runs per second, latency of one run, fork cost, start-up, memory.

python bench/skillhost.py [--seconds 3] [--children 4] [--outstanding 16]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

from coterie.node.skillhost import SkillHost, SkillHostOptions, SkillJob
from coterie.node.skillhost.nouns import SkillWait
from coterie.skills.limits import Limits
from coterie.skills.registry import SHIPPED_DIR


class NoPort:
    """A port of a worker that records nothing."""

    async def record_step(self, key: str, result: bytes, beside: Sequence[str] = ()) -> None:
        """Accept."""

    async def save_checkpoint(self, state: bytes) -> None:
        """Accept."""

    async def wait(self, wait: SkillWait) -> bytes | None:
        """Nothing comes."""

    async def call(self, name: str, args: bytes) -> bytes:
        return b"null"

    def report_progress(self, percent: float, message: str) -> None:
        """Accept."""


def job(number: int, skill: str = "echo", payload: bytes = b'{"n":1}') -> SkillJob:
    """One no-op attempt."""
    return SkillJob(f"task-{number}", 1, skill, payload, {}, None, 0)


async def throughput(host: SkillHost, seconds: float, outstanding: int) -> float:
    """Runs per second with so many outstanding."""
    count, give_up_at = 0, time.perf_counter() + seconds

    async def client(number: int) -> None:
        nonlocal count
        while time.perf_counter() < give_up_at:
            outcome = await host.run(job(number), NoPort())
            assert outcome.kind == "succeeded", outcome
            count += 1

    began = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(outstanding)))
    return count / (time.perf_counter() - began)


async def latencies_ms(host: SkillHost, runs: int, skill: str, payload: bytes) -> list[float]:
    """One run at a time, sorted."""
    taken = []
    for _ in range(runs):
        began = time.perf_counter()
        outcome = await host.run(job(0, skill, payload), NoPort())
        taken.append((time.perf_counter() - began) * 1_000)
        assert outcome.kind == "succeeded", outcome
    return sorted(taken)


def rss_kib(pid: int) -> int:
    """Resident memory of a process, where /proc tells."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
    return 0


async def measure(host: SkillHost, began: float, options: argparse.Namespace) -> dict[str, object]:
    """All figures as one JSON-ready object."""
    await host.start()
    ready_ms = (time.perf_counter() - began) * 1_000
    first = await latencies_ms(host, 1, "echo", b"1")
    warm = await latencies_ms(host, 3_000, "echo", b"1")
    ten_steps = await latencies_ms(host, 200, "sleep", b'{"seconds":0,"steps":10}')
    per_second = await throughput(host, options.seconds, options.outstanding)
    figures = {
        "ready_ms": round(ready_ms, 1),
        "first_run_ms": round(first[0], 3),
        "run_p50_ms": round(warm[len(warm) // 2], 3),
        "run_p99_ms": round(warm[len(warm) * 99 // 100], 3),
        "ten_steps_p50_ms": round(ten_steps[len(ten_steps) // 2], 3),
        "runs_per_second": round(per_second),
        "fork_mean_ms": round(host.stats.fork_us_total / max(1, host.stats.forks) / 1_000, 3),
        "forks": host.stats.forks,
        "zygote_rss_kib": rss_kib(host.zygote_pid),
        "children_rss_kib": [rss_kib(pid) for pid in host.child_pids],
    }
    await host.stop()
    return figures


def main() -> None:
    """Measure on uvloop when it is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="length of the throughput run")
    parser.add_argument("--children", type=int, default=4, help="skill processes")
    parser.add_argument("--outstanding", type=int, default=16, help="runs at the same time")
    parser.add_argument("--runs-max", type=int, default=1_000, help="runs per process before it is replaced")
    options = parser.parse_args()
    began = time.perf_counter()
    host = SkillHost.spawn(
        SkillHostOptions(
            skill_dirs=(SHIPPED_DIR,),
            node_id="bench",
            max_children=options.children,
            limits=Limits(runs_max=options.runs_max),
        )
    )
    # Imported after the zygote was started, as a node does.
    import uvloop

    figures = uvloop.run(measure(host, began, options))
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
