"""The Raft engine in all its sizes, beside stock PySyncObj and etcd in the same run.

    python -m bench.engine       3 and 5 members; 1, 16, 256 outstanding; 0, 5, 50 ms added to fsync
    python -m bench.engine --seconds 2 --runs 1

Commands are proposed inside the leader's process, one log entry each. Ours and etcd sync every commit to
disk and talk mutual TLS between peers; stock PySyncObj does neither, so delays do not apply to it. Ours are
delayed in the disk's thread, etcd's by strace."""

from __future__ import annotations

import itertools
import shutil
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

from bench import etcd, raft_engine
from bench.figures import Aim, Section, percentile
from bench.options import Options, run_alone
from bench.raft_engine import Members, common_leader, load, running_members

NAME = "engine"
SIZES = (3, 5)
OUTSTANDING = (1, 16, 256)
SYNC_DELAYS_MS = (0.0, 5.0, 50.0)
AIMS = {"16.per_s": Aim(">", 12_000.0), "1.p50": Aim("<", 1.5)}
ENTRY_BYTES = raft_engine.ENTRY_BYTES


async def measure(options: Options) -> Section:
    """Commits per second, p50 and p99 of every combination; then the ratios to the yardsticks."""
    section = Section(NAME, f"Raft engines, commits of {ENTRY_BYTES} B proposed on the leader")
    for nodes in SIZES:
        for delay_ms in SYNC_DELAYS_MS:
            ours = running_members(replace(options, nodes=nodes), sync_delay_ms=delay_ms)
            label = f"ours, {nodes} nodes, fsync + {delay_ms:g} ms"
            await _measure(section, f"ours.{nodes}.{delay_ms:g}", label, ours, options)
        stock = running_members(replace(options, nodes=nodes, tls=False), module="bench.stock_member")
        label = f"stock PySyncObj, {nodes} nodes, no fsync"
        await _measure(section, f"stock.{nodes}", label, stock, options)
        for delay_ms in SYNC_DELAYS_MS:
            await _measure_etcd(section, nodes, delay_ms, options)
    _compare(section)
    section.notes.append("After each load every member had applied the same number of entries.")
    return section


async def _measure(
    section: Section, key: str, label: str, running: AbstractAsyncContextManager[Members], options: Options
) -> None:
    async with running as members:
        leader = await common_leader(members)
        await load(members, leader, 64, 1.0)  # warm-up
        for outstanding in OUTSTANDING:
            rounds = [
                await load(members, leader, outstanding, options.seconds / 4) for _ in range(options.runs)
            ]
            _enter(section, f"{key}.{outstanding}", f"{label}, {outstanding} outstanding", rounds)


def _enter(section: Section, key: str, title: str, rounds: list[dict[str, Any]]) -> None:
    aims = AIMS if key.startswith("ours.3.0.") else {}
    outstanding = key.rpartition(".")[2]
    per_s = [len(one["latencies_ms"]) / one["seconds"] for one in rounds]
    section.add(f"{key}.per_s", title, "commits/s", per_s, aims.get(f"{outstanding}.per_s"))
    for share in (50, 99):
        took = [percentile(one["latencies_ms"], share / 100) for one in rounds]
        section.add(f"{key}.p{share}", f"  p{share}", "ms", took, aims.get(f"{outstanding}.p{share}"))


async def _measure_etcd(section: Section, nodes: int, delay_ms: float, options: Options) -> None:
    if not etcd.version():
        section.notes.append(f"etcd is not installed; to have the yardstick: {etcd.INSTALL}")
        return
    if delay_ms and not shutil.which("strace"):
        section.notes.append("strace, which delays etcd's syncs, is not installed: apt-get install strace")
        return
    puts = await etcd.puts_of(nodes, OUTSTANDING, replace(options, seconds=options.seconds / 2), delay_ms)
    for outstanding, rounds in puts.items():
        key = f"etcd.{nodes}.{delay_ms:g}.{outstanding}"
        title = f"etcd, {nodes} members, fsync + {delay_ms:g} ms, {outstanding} outstanding"
        section.add(f"{key}.per_s", title, "puts/s", [one.per_second for one in rounds])
        section.add(f"{key}.p50", "  p50", "ms", [one.p50_ms for one in rounds])
        section.add(f"{key}.p99", "  p99", "ms", [one.p99_ms for one in rounds])


def _compare(section: Section) -> None:
    """Our commits per second divided by theirs, with the same delay; stock PySyncObj knows none."""
    medians = {figure.key: figure.median for figure in section.figures}
    for nodes, delay_ms, outstanding in itertools.product(SIZES, SYNC_DELAYS_MS, OUTSTANDING):
        load = f"{nodes}.{delay_ms:g}.{outstanding}"
        ours = medians[f"{NAME}.ours.{load}.per_s"]
        others = {"etcd": f"etcd.{load}"} | ({} if delay_ms else {"stock": f"stock.{nodes}.{outstanding}"})
        for other, key in others.items():
            theirs = medians.get(f"{NAME}.{key}.per_s")
            if theirs:
                title = f"ours : {other}, {nodes} nodes, fsync + {delay_ms:g} ms, {outstanding} outstanding"
                section.add(f"ratio.{other}.{load}", title, "x", [ours / theirs])


if __name__ == "__main__":
    run_alone(NAME, measure)
