"""How the cluster and its nodes come, trip, get lost and go."""

from __future__ import annotations

from dataclasses import replace

from coterie.core.breaker_commands import EndProbe, ResetBreaker, TakeProbe, TripBreaker
from coterie.core.commands import (
    AssignTask,
    BeginLeadership,
    ConfigureCluster,
    ForgetNode,
    MarkNode,
    MoveTask,
    SetDrain,
)
from coterie.core.config_commands import ApplyConfig
from coterie.core.nouns import STOPPING, Label, NodeStatus, Policy, SkillRef
from tests.core.builders import register_command, submit_command
from tests.core.story.stage import N1, N2, N3, N4, Stage

# None at its default, and wide enough for the story, but for one: a tenant has three dead letters.
POLICY = Policy(
    pending_tasks_max=9_001,
    live_bytes_max=90_000_002,
    finished_tasks_kept_max=2_003,
    finished_bytes_kept_max=30_000_004,
    requests_kept_max=190_005,
    requests_kept_ms=23 * 3_600_006,
    steps_per_task_max=9_007,
    task_bytes_max=30_000_008,
    losses_max=99,
    ageing_ms=61_010,
    tenant_pending_percent=90,
    dead_letters_max=3,
    dead_letter_bytes_max=60_000_013,
    crash_nodes_max=4,
    node_losses_max=11,
    signals_per_task_max=916,
    limits_max=917,
    breaker_failures=2,
    breaker_recovery_ms=1_500,
    breaker_probes=2,
    flap_memory_ms=600_021,
    attempt_ms_min=7,
)


def found(stage: Stage) -> None:
    """Four nodes, of which the first does the work of the story; some hours after the clock began, so that
    windows of hours have numbers."""
    stage.pass_ms(25_000_000)
    stage.do(ConfigureCluster("c1", "the story", POLICY, b"a seal of sixteen"))
    for revision, ageing_ms in enumerate((59_010, 58_010)):
        configured = replace(POLICY, ageing_ms=ageing_ms)
        document, asked = f'{{"queue.ageing_ms": {ageing_ms}}}', (f"config-{revision}", b"digest of config")
        stage.do(ApplyConfig(document, configured, revision, "ann", "age sooner", *asked))
    stage.do(
        register_command(
            "n1",
            incarnation=11,
            capacity=400,
            zone="z1",
            labels=(Label("disk", "ssd"), Label("rack", "7")),
            skills=(SkillRef("echo", "1.0"), SkillRef("agent", "2.1")),
            version="0.1.0",
            memory_bytes=64 << 30,
            gpus=8,
            confines=True,
        )
    )
    for number, node_id in enumerate((N2, N3, N4), 12):
        stage.do(register_command(node_id, incarnation=number, zone="z2", standby=node_id == N4))
    stage.do(BeginLeadership(N1, 3))


def trip(stage: Stage) -> None:
    """Breakers: one that is open with its probes out, one that was closed again."""
    for key in ("provider:acme", "provider:other"):
        stage.do(TripBreaker(key, 0, "too much of it failed", 123_456_789))
    stage.pass_ms(3_000)
    for place in (1, 2):
        stage.do(TakeProbe("provider:acme", f"p{place}", 5_000))
        stage.do(TakeProbe("provider:other", f"p{place}", 5_000))
    stage.do(EndProbe("provider:acme", "p1", ok=True, failed=False))
    stage.do(EndProbe("provider:other", "p1", ok=False, failed=True, reason="it failed again"))


def lose(stage: Stage) -> None:
    """A node is lost with what it held, one stops, one is drained to be removed."""
    stage.do(submit_command("lost", type="alone"))
    stage.do(AssignTask(stage.task("lost").task_id, N2, 12, 1, turn=5, if_first=True))
    stage.do(MoveTask(stage.task("lost").task_id, 1, "there is more room"))
    stage.do(MarkNode(N2, 12, NodeStatus.DOWN, "not heard of for a while", term=3))
    stage.do(MarkNode(N3, 13, NodeStatus.DOWN, STOPPING))
    stage.do(SetDrain(N4, draining=True, deadline_after_ms=70_000, number=1, leaving=True))


def part(stage: Stage) -> None:
    """The lost one comes back as another process, the drained one is forgotten."""
    stage.do(register_command("n2", incarnation=22, version="0.1.1"))
    stage.do(MarkNode(N2, 22, NodeStatus.UP, "heard of again", term=3))
    stage.do(SetDrain(N4, draining=False, number=2))
    stage.do(ForgetNode(N4, 14))
    stage.do(ResetBreaker("provider:other"))
    number = stage.state.breakers["provider:other"].number
    stage.do(TripBreaker("provider:other", number, "and again", 9))
