"""What the sandbox costs, and what it holds: start of a run without and with it, and the table of attacks.

python -m bench.sandbox [--runs 200] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from coterie.node.skillhost import SkillHost, SkillHostOptions, SkillJob
from coterie.node.skillhost.nouns import ConfinedSkill
from coterie.skills.limits import Limits
from tests.skills.attack_range import SECRET, SECRET_NAME, Finding, attack_range, try_all
from tests.skills.support import RecordingPort

WARM_UP = 10
PAUSE_S = 0.05  # a process is made ahead within it
HANDLER = "def run(ctx, given):\n    return given\n"
MANIFEST = """---
name: plain
description: Gives back its input.
metadata:
  coterie:
    handler: handler.py:run
---
"""


def percentiles(taken: list[float]) -> dict[str, float]:
    """p50, p95 and the longest, in milliseconds."""
    taken = sorted(taken)
    return {
        "p50_ms": round(taken[len(taken) // 2], 2),
        "p95_ms": round(taken[len(taken) * 95 // 100], 2),
        "max_ms": round(taken[-1], 2),
    }


async def timed(run: Callable[[int], Awaitable[None]], runs: int, pause_s: float) -> dict[str, float]:
    """One run at a time."""
    taken = []
    for number in range(-WARM_UP, runs):
        began = time.perf_counter()
        await run(number)
        if number >= 0:
            taken.append((time.perf_counter() - began) * 1_000)
        await asyncio.sleep(pause_s)
    return percentiles(taken)


def write_skill(place: Path) -> Path:
    """The same for all."""
    folder = place / "skills" / "plain"
    folder.mkdir(parents=True)
    place.chmod(0o755)
    (folder / "SKILL.md").write_text(MANIFEST)
    (folder / "handler.py").write_text(HANDLER)
    return folder


async def start_costs(place: Path, runs: int) -> dict[str, dict[str, float]]:
    """The same skill: in a process that is there, in one forked for it, and confined; that on a node that has
    time to make processes ahead, and on one where each run follows the one before at once."""
    folder = write_skill(place)
    plain = ConfinedSkill(folder=folder, handler="handler.py:run", name="plain")
    networked = ConfinedSkill(folder=folder, handler="handler.py:run", name="plain", network=("example.org",))
    found = {}
    for name, runs_max, skill, pause_s in (
        ("trusted, process used again", 1_000_000, None, 0.0),
        ("trusted, process forked for the run", 1, None, 0.0),
        ("confined", 1, plain, PAUSE_S),
        ("confined, with a network", 1, networked, PAUSE_S),
        ("confined, without a pause", 1, plain, 0.0),
        ("confined, with a network, no pause", 1, networked, 0.0),
    ):
        limits = Limits(runs_max=runs_max)
        host = SkillHost.spawn(
            SkillHostOptions(skill_dirs=(place / "skills",), node_id="bench", max_children=2, limits=limits)
        )
        await host.start()

        async def run(number: int, host: SkillHost = host, skill: ConfinedSkill | None = skill) -> None:
            job = SkillJob(f"task-{number}", 1, "plain", b"1", {}, None, 0, confined=skill)
            outcome = await host.run(job, RecordingPort())
            assert outcome.kind == "succeeded", outcome

        found[name] = await timed(run, runs, pause_s)
        await host.stop()
    return found


async def measure(runs: int) -> tuple[dict[str, dict[str, float]], list[str], list[Finding]]:
    """Costs, the walls of this machine, and what became of each attack."""
    with tempfile.TemporaryDirectory(prefix="bench-sandbox-") as place:
        costs = await start_costs(Path(place, "costs"), runs)
    with tempfile.TemporaryDirectory(prefix="bench-sandbox-") as place:
        async with attack_range(Path(place)) as (host, told):
            layers = [
                f"{layer.name}: {layer.detail}" + ("" if layer.active else " (missing)")
                for layer in host.layers
            ]
            findings = await try_all(host, told)
    return costs, layers, findings


def show(costs: dict[str, dict[str, float]], layers: list[str], findings: list[Finding]) -> None:
    """For people."""
    print(f"walls here (uid {os.getuid()}):", *layers, sep="\n  ")
    print("\nattack                       without network                    with network")
    by_attack: dict[str, list[Finding]] = {}
    for finding in findings:
        by_attack.setdefault(finding.attack, []).append(finding)
    for attack, pair in by_attack.items():
        cells = [f"WON {finding.won}" if finding.won else finding.ended for finding in pair]
        print(f"{attack:28} {cells[0][:34]:34} {cells[1][:34]}")
    print("\nstart to end of a run that does nothing")
    for name, figures in costs.items():
        print(f"  {name:38} " + "  ".join(f"{key} {value:7.2f}" for key, value in figures.items()))


def main() -> None:
    """Measure and print; the exit code says whether an attack won."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=200, help="runs of each kind")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    options = parser.parse_args()
    os.environ[SECRET_NAME] = SECRET
    costs, layers, findings = asyncio.run(measure(options.runs))
    won = [finding.attack for finding in findings if finding.won]
    idle = [finding.attack for finding in findings if not finding.made]  # these prove nothing
    forked = costs["trusted, process forked for the run"]["p95_ms"]
    extra = costs["confined, without a pause"]["p95_ms"] - forked
    start = max(costs[name]["p95_ms"] for name in ("confined", "confined, with a network"))
    if options.json:
        told = {"attacks": len(findings), "won": won, "never_made": idle}
        print(json.dumps({"costs": costs, "layers": layers} | told))
    else:
        show(costs, layers, findings)
        print(f"\nattacks {len(findings)}, won {len(won)} {won or ''}, never made {len(idle)} {idle or ''}")
        print(
            f"p95 of a start {start:.2f} ms (aim: <= 10); made only when due, the walls cost {extra:.2f} ms"
        )
    raise SystemExit(1 if won or idle else 0)


if __name__ == "__main__":
    main()
