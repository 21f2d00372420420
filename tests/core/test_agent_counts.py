"""What the runs of an agent come to, and what it says of its objectives: all from the state alone."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from coterie.core.agent_slo import Live, Room, Standing, advice, quantile_ms, standings
from coterie.core.agentbook import REVISIONS_MAX, AgentRevision, ApplyAgent, PinAgentRun, Pledge, RemoveAgent
from coterie.core.agentstats import (
    COARSE_KEPT,
    COARSE_MS,
    DAY_MS,
    ERRORS_MAX,
    FINE_KEPT,
    FINE_MS,
    HOUR_MS,
    MINUTE_MS,
    AgentLoad,
    AgentTally,
    ErrorCount,
    counted,
    noted,
    tally_name,
    with_error,
)
from coterie.core.canonical import state_hash
from coterie.core.commands import (
    Accepted,
    AssignTask,
    CancelTask,
    ExpireTask,
    FailAttempt,
    FinishTask,
    Rejected,
    SpawnChild,
    SuspendTask,
)
from coterie.core.families import child_id
from coterie.core.llm.commands import BeginLlmCall, SettleLlmCall
from coterie.core.llm.nouns import LlmVerdict
from coterie.core.nouns import (
    Constraints,
    Data,
    ExpiryKind,
    NodeId,
    RetryPolicy,
    TaskError,
    TaskId,
    WaitReason,
)
from coterie.core.skill_commands import SetSkillPolicy
from coterie.core.skillbook import SkillPolicy
from coterie.raft.codec import decode_state, encode_state
from tests.core.builders import CoreCluster, register_command, submit_command

A, B = f"{1:064x}", f"{2:064x}"
NOW = 100 * DAY_MS


def applied(pledge: Pledge | None = None, revision: str = A) -> ApplyAgent:
    return ApplyAgent(
        "a", AgentRevision(revision, "", Data(b"{}"), pledge=pledge or Pledge()), aliases=("al",)
    )


def core_with(pledge: Pledge | None = None) -> CoreCluster:
    core = CoreCluster()
    core.do(register_command(capacity=100))
    core.do(applied(pledge))
    return core


def begin(core: CoreCluster, name: str, agent: str = "a", revision: str = A) -> TaskId:
    run = TaskId(name)
    core.do(submit_command(name, type="agent", agent=agent, retry=RetryPolicy(1)))
    assert isinstance(core.do(AssignTask(run, NodeId("n1"), 1, 1)), Accepted)
    assert core.do(PinAgentRun(run, 1, revision)) == Accepted(run)
    return run


def end(core: CoreCluster, run: TaskId, code: str = "", after_ms: int = 0) -> None:
    core.now_ms += after_ms
    if code:
        core.do(FailAttempt(run, 1, TaskError(code, "", retryable=False)))
    else:
        core.do(FinishTask(run, 1, Data(b"{}")))


def tally(core: CoreCluster, revision: str = A) -> AgentTally:
    return core.state.agent_tallies[tally_name("a", revision)]


def test_runs_are_counted_by_revision_and_end() -> None:
    core = core_with()
    end(core, begin(core, "r1"), after_ms=1_000)
    end(core, begin(core, "r2", "al"), "BOOM", after_ms=5)
    old = begin(core, "r3")
    core.do(applied(revision=B))
    end(core, begin(core, "r4", revision=B), "BAD_INPUT")
    end(core, old, after_ms=3_000)
    first, second = tally(core), tally(core, B)
    assert (first.succeeded, first.failed, first.bad, first.refused) == (2, 1, 1, 0)
    assert (second.succeeded, second.refused, second.bad) == (0, 1, 0), (
        "an input that is wrong is no fault of it"
    )
    assert first.errors == (ErrorCount("BOOM", 1),)
    assert 4_000 <= first.latency_ms <= 4_020 and sum(first.latencies) == 2
    load = core.state.agent_loads["a"]
    assert sum(span.runs for span in load.fine) == 3 and sum(span.bad for span in load.fine) == 1
    assert sum(span.arrived for span in load.fine) == 4
    assert not core.state.agent_runs


def test_a_run_that_never_began_counts_and_one_that_was_called_off_does_not() -> None:
    core = core_with()
    core.do(submit_command("late", type="agent", agent="a", deadline_after_ms=10))
    core.do(submit_command("off", type="agent", agent="a"))
    core.do(CancelTask(TaskId("off"), ""))
    core.now_ms += 20
    core.do(ExpireTask(TaskId("late"), 0, ExpiryKind.DEADLINE))
    assert (tally(core, "").timed_out, tally(core, "").cancelled) == (1, 1)
    [span] = core.state.agent_loads["a"].fine
    assert (span.runs, span.bad, span.arrived) == (1, 1, 2)


def test_a_run_that_was_called_off_before_its_time_takes_no_history_away() -> None:
    core = core_with()
    end(core, begin(core, "r1"))
    core.do(submit_command("later", type="agent", agent="a", start_delay_ms=300 * DAY_MS))
    core.do(CancelTask(TaskId("later"), ""))
    end(core, begin(core, "r2"))
    load = core.state.agent_loads["a"]
    assert [sum(span.runs for span in spans) for spans in (load.fine, load.coarse)] == [2, 2]


def test_what_is_unwatched_is_not_counted_and_what_is_removed_is_forgotten() -> None:
    core = core_with(Pledge(unwatched=True))
    end(core, begin(core, "r1"))
    assert not core.state.agent_tallies and not core.state.agent_loads
    core = core_with()
    end(core, begin(core, "r1"))
    core.do(RemoveAgent("a"))
    assert not core.state.agent_tallies and not core.state.agent_loads


def spend(core: CoreCluster, task_id: TaskId, verdict: LlmVerdict = LlmVerdict.DONE, key: str = "k") -> None:
    core.do(BeginLlmCall(task_id, 1, key, 1, "p", "m", "h", tokens=100, micro_usd=50))
    core.do(
        SettleLlmCall(
            task_id, 1, key, 1, verdict, tokens_in=7, tokens_out=3, micro_usd=20, result=Data(b"{}")
        )
    )


def test_what_its_tools_spend_is_the_runs_and_what_a_colleague_spends_is_not() -> None:
    core = core_with()
    core.do(ApplyAgent("b", AgentRevision(B, "", Data(b"{}"))))
    run = begin(core, "r1")
    spend(core, run)
    spend(core, run, LlmVerdict.FAILED, "k2")
    for name, kind, agent in (("tool", "echo", "a"), ("mate", "agent", "b")):
        child = TaskId(child_id(run, name))
        core.do(
            SpawnChild(
                1,
                "g",
                len(core.state.tasks) - 1,
                submit_command(child, type=kind, agent=agent, parent_id=run),
            )
        )
        assert isinstance(core.do(AssignTask(child, NodeId("n1"), 1, 1)), Accepted)
        spend(core, child)
    live = core.state.agent_runs[run]
    assert (live.llm_calls, live.llm_failed) == (2, 1)
    assert (live.tokens_in, live.tokens_out, live.micro_usd) == (14, 6, 40)
    end(core, run)
    assert (tally(core).llm_calls, tally(core).tokens_in, tally(core).micro_usd) == (2, 14, 40)


def test_counts_survive_a_snapshot_byte_for_byte() -> None:
    core = core_with(Pledge(availability_ppm=999_000, response_ms=10, scaling=True, replicas_max=3))
    end(core, begin(core, "r1"), after_ms=50)
    begin(core, "r2")
    again = decode_state(encode_state(core.state))
    assert again.agent_tallies == core.state.agent_tallies and again.agent_loads == core.state.agent_loads
    assert again.agent_runs == core.state.agent_runs and state_hash(again) == state_hash(core.state)
    assert sum(span.slow for span in again.agent_loads["a"].fine) == 1
    again.agent_tallies.clear()
    assert state_hash(again) != state_hash(core.state)


def test_errors_of_many_kinds_are_counted_in_bounds() -> None:
    errors: tuple[ErrorCount, ...] = ()
    for number in range(ERRORS_MAX + 5):
        errors = with_error(errors, f"E{number}")
    assert len(errors) == ERRORS_MAX + 1 and errors[-1] == ErrorCount("(others)", 5)
    assert with_error(errors, "E0")[0].count == 2


def test_spans_are_kept_in_bounds_whatever_comes_in_which_order() -> None:
    dice, load, count = random.Random(7), AgentLoad("a"), 0
    for _ in range(3_000):
        at_ms = NOW + dice.randrange(40 * DAY_MS)
        load = noted(load, at_ms, runs=1)
        count += 1
        for spans, length, kept in ((load.fine, FINE_MS, FINE_KEPT), (load.coarse, COARSE_MS, COARSE_KEPT)):
            begins = [span.begin_ms for span in spans]
            assert begins == sorted(set(begins)) and all(begin % length == 0 for begin in begins)
            assert begins[0] > begins[-1] - kept * length
    assert sum(span.runs for span in load.coarse) < count


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99])
def test_quantiles_are_near_the_true_ones(share: float) -> None:
    dice = random.Random(3)
    latencies: tuple[int, ...] = ()
    values = sorted(int(dice.lognormvariate(8, 1)) for _ in range(2_000))
    for value in values:
        latencies = counted(latencies, value)
    true = values[int(share * len(values)) - 1]
    assert abs(quantile_ms(latencies, share) / true - 1) < 0.2
    assert quantile_ms((), share) == 0


def load_of(*spans: tuple[int, int, int]) -> AgentLoad:
    """(ms ago, runs, bad)"""
    load = AgentLoad("a")
    for ago_ms, runs, bad in sorted(spans, reverse=True):
        load = noted(load, NOW - ago_ms, runs=runs, bad=bad, arrived=runs, held_ms=runs * 6_000)
    return load


def availability(load: AgentLoad, ppm: int = 990_000) -> Standing:
    [one] = standings(Pledge(availability_ppm=ppm), load, NOW)
    return one


def test_attainment_and_budget_are_those_of_the_window() -> None:
    one = availability(load_of((10 * DAY_MS, 900, 4), (40 * DAY_MS, 500, 500), (DAY_MS, 100, 1)))
    assert (one.runs, one.bad) == (1_000, 5), "what is older than 28 days counts no more"
    assert one.attained == pytest.approx(0.995) and one.budget_left == pytest.approx(0.5)
    assert one.burning is None
    idle = availability(AgentLoad("a"))
    assert (idle.attained, idle.budget_left, idle.burning) == (1, 1, None)


def test_a_fast_burn_warns_and_ends_when_it_is_over() -> None:
    now = availability(load_of((2 * MINUTE_MS, 20, 10), (5 * DAY_MS, 2_000, 0)))
    assert now.burning is not None and now.burning.window_ms == HOUR_MS
    assert now.burning.rate == pytest.approx(50) and now.burning.limit == pytest.approx(13.44)
    over = availability(load_of((40 * MINUTE_MS, 20, 10), (2 * MINUTE_MS, 20, 0), (5 * DAY_MS, 2_000, 0)))
    assert over.burns[0].rate > over.burns[0].limit and not over.burns[0].burning, "it has stopped"
    few = availability(load_of((2 * MINUTE_MS, 3, 2)))
    assert few.burning is None, "two bad runs are no trend"


def test_a_slow_burn_over_days_warns_too() -> None:
    one = availability(load_of(*((hours * HOUR_MS, 100, 4) for hours in range(1, 72, 6))))
    assert one.burning is not None and one.burning.window_ms == 3 * DAY_MS


def test_only_answers_can_be_slow() -> None:
    load = noted(AgentLoad("a"), NOW, runs=10, bad=5, slow=1)
    slow = list(standings(Pledge(response_ms=5_000, window_ms=HOUR_MS), load, NOW))
    assert [(one.slo, one.runs, one.bad, one.objective) for one in slow] == [("response_time", 5, 1, 0.99)]


ROOM = Room(nodes=3, slots=12, free=6)
SCALED = Pledge(scaling=True, replicas=3, replicas_min=1, replicas_max=10)


def test_advice_follows_arrivals_and_slot_time() -> None:
    load = load_of(*((minutes * MINUTE_MS, 20, 0) for minutes in range(1, 30)))
    found = advice(SCALED, load, Live(running=2), ROOM, NOW)
    assert found.arrivals_per_hour == pytest.approx(1_160) and found.run_ms == 6_000
    assert found.replicas == 3, "1.93 busy slots, of which 70 % may be: 2.8"
    assert found.nodes_more == 0 and "1.16e+03 runs an hour arrive" in found.reason
    crowded = advice(SCALED, load, Live(waiting=20, running=3), replace(ROOM, free=0), NOW)
    assert crowded.replicas == 5 and crowded.nodes_more == 1, (
        "20 waiting runs of 6 s are gone in a minute by 2 more"
    )


def test_advice_keeps_to_its_bounds_and_says_so() -> None:
    busy = load_of((MINUTE_MS, 10_000, 0))
    found = advice(SCALED, busy, Live(), ROOM, NOW)
    assert found.replicas == 10 and "held to max_replicas 10" in found.reason
    calm = advice(replace(SCALED, replicas_min=2), load_of((MINUTE_MS, 1, 0)), Live(), ROOM, NOW)
    assert calm.replicas == 2 and "held to min_replicas 2" in calm.reason


def test_advice_counts_what_is_pledged_and_the_memory_of_a_node() -> None:
    load = load_of((MINUTE_MS, 1, 0))
    pledged = replace(SCALED, runs_per_hour=6_000, slots_percent=50, replicas_max=100)
    found = advice(pledged, load, Live(), ROOM, NOW)
    assert found.replicas == 20 and "6e+03 runs an hour are pledged" in found.reason
    assert found.nodes_more == 4, "14 of the 20 find no free slot; a node has 4"
    heavy = replace(pledged, memory_bytes=4, memory_percent=75)
    assert advice(heavy, load, Live(), replace(ROOM, memory_bytes=16), NOW).nodes_more == 5, "3 fit on a node"
    assert advice(pledged, load, Live(), Room(0, 0, 0), NOW).nodes_more == 0, "like which node?"


def test_without_a_run_there_is_nothing_to_reckon_with() -> None:
    found = advice(SCALED, AgentLoad("a"), Live(waiting=4, arrived=4), ROOM, NOW)
    assert found.replicas == 3 and "no run has ended yet" in found.reason


def test_a_run_sets_aside_the_memory_its_registry_says() -> None:
    core = core_with(Pledge(memory_bytes=64))
    run = begin(core, "r1")
    core.do(submit_command("own", type="agent", agent="a", constraints=Constraints(memory_bytes=8)))
    core.do(submit_command("tool", agent="a"))
    assert [core.task(name).constraints.memory_bytes for name in (run, "own", "tool")] == [64, 8, 0]


def test_a_task_takes_no_gpus_that_its_agent_may_not_have() -> None:
    core = core_with(Pledge(gpus=2))
    run = begin(core, "r1")
    core.do(applied(Pledge(gpus=0), B))
    wanted = Constraints(gpus=2)
    mine = submit_command(child_id(run, "t"), agent="a", parent_id=run, constraints=wanted)
    assert isinstance(core.do(SpawnChild(1, "g", 0, mine)), Accepted), "its run began with two"
    refused = core.do(submit_command("t", agent="a", constraints=wanted))
    assert isinstance(refused, Rejected) and refused.code == "AGENT_FORBIDS"
    assert "may use 0 GPUs" in refused.reason and TaskId("t") not in core.state.tasks
    assert isinstance(core.do(submit_command("u", agent="nobody", constraints=wanted)), Accepted)
    over = submit_command(child_id(run, "u"), agent="a", parent_id=run, constraints=Constraints(gpus=3))
    assert isinstance(core.do(SpawnChild(1, "g", 1, over)), Rejected)


def test_a_private_skill_is_private_to_children_too() -> None:
    core = core_with()
    core.do(SetSkillPolicy("mine", SkillPolicy(owner="a", private=True)))
    run = begin(core, "r1")
    core.do(applied(revision=B))
    theirs = submit_command(child_id(run, "t"), type="mine", agent="b", parent_id=run)
    refused = core.do(SpawnChild(1, "g", 0, theirs))
    assert isinstance(refused, Rejected) and refused.code == "SKILL_PRIVATE"
    own = submit_command(child_id(run, "t"), type="mine", agent="a", parent_id=run)
    assert isinstance(core.do(SpawnChild(1, "g", 0, own)), Accepted)


def test_slot_time_and_waits_are_those_of_all_attempts() -> None:
    core = core_with()
    core.do(submit_command("r1", type="agent", agent="a"))
    core.now_ms += 2_000
    run = TaskId("r1")
    for attempt in (1, 2):
        core.do(AssignTask(run, NodeId("n1"), 1, attempt))
        core.do(PinAgentRun(run, attempt, A))
        core.now_ms += 5_000
        ending = (SuspendTask(run, 1, WaitReason.TIMER, "t", 0, 10_000), FinishTask(run, 2, Data(b"{}")))
        assert isinstance(core.do(ending[attempt - 1]), Accepted)
        core.now_ms += 30_000
        core.do(ExpireTask(run, 1, ExpiryKind.WAIT))
    [span] = [span for span in core.state.agent_loads["a"].fine if span.runs]
    assert 10_000 <= span.held_ms <= 10_050, "not while it sleeps"
    assert 2_000 <= span.queue_ms <= 2_050


def test_figures_go_with_their_revisions() -> None:
    core = core_with()
    end(core, begin(core, "r1"))
    end(core, begin(core, "r2"))
    for number in range(REVISIONS_MAX + 1):
        core.do(applied(revision=f"{number + 10:064x}"))
    assert tally_name("a", A) not in core.state.agent_tallies
    core.do(submit_command("r3", type="agent", agent="a"))
    assert sum(span.runs for span in core.state.agent_loads["a"].fine) == 2, "what the agent did stays"
