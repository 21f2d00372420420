"""What a history says, in every form, of tasks and runs whose events went through a real ledger."""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coterie.core.commands import FailAttempt, FinishTask, RecordStep, SignalTask, SuspendTask
from coterie.core.epochs import Epoch, begin_epoch
from coterie.core.nouns import Data, Step, TaskError, TaskId, WaitReason
from coterie.core.runs.run import RUN_ID_MAX
from coterie.node import turns
from coterie.node.debugger.gather import call_of
from coterie.node.debugger.model import Happening, ModelCall
from coterie.node.debugger.pictures import bare, gantt_of, label, mermaid_of_history
from coterie.node.debugger.refold import replay_of
from coterie.node.debugger.story import story_of
from coterie.node.debugger.timeline import text_of
from coterie.node.debugger.words import PHRASES, call_words, said
from coterie.node.ledger.family import FamilyLimits, FamilyRows
from coterie.node.ledger.feed import feed
from coterie.node.llm.completion import OBJECT
from tests.core.builders import submit_command
from tests.core.runs.world import RUN, echo
from tests.node.debugger.mermaid import check
from tests.node.debugger.recorded import Recorded, answer_of_model
from tests.sim.workflows.drive import Drive
from tests.sim.workflows.graphs import random_graph

GOLDEN = Path(__file__).parent / "golden"
T1 = TaskId("t1")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Recorded]:
    async with Recorded.at(tmp_path) as opened:
        yield opened


def moved_task(world: Recorded) -> None:
    """Lost with its node, failed, waited, then done: with an answer of a model, and one in a blob."""
    world.with_node("n1").with_node("n2")
    world.do(submit_command("t1", type="echo", request_id="q1"))
    world.start("t1", "n1")
    world.do(RecordStep(T1, 1, "ask", Data(answer_of_model("yes", 300))))
    world.now_ms += 5_000
    world.lose("t1", 'node n1 was lost: "no reports"; for <5 s>')
    world.start("t1", "n2")
    world.do(FailAttempt(T1, 2, TaskError("SKILL_FAILED", "it broke"), 0))
    world.now_ms += 90_000
    world.start("t1", "n2")
    large = answer_of_model("long", 700, attempt=3)
    digest = hashlib.sha256(large).hexdigest()
    world.blobs[digest] = large
    world.do(RecordStep(T1, 3, "ask#2", Data(sha256=digest, size_bytes=len(large))))
    world.do(SuspendTask(T1, 3, WaitReason.SIGNAL, "go"))
    world.now_ms += 1_000
    world.do(SignalTask(T1, "go", Data(b"1"), "s1"))
    world.start("t1", "n1")
    world.do(FinishTask(T1, 4, Data(b'"done"')))


def branched_run(world: Recorded) -> None:
    """One node fails twice over, one is skipped, and its handler succeeds."""
    high = {"id": "high", "type": "condition", "expr": "score > 5", "depends_on": ["read"]}
    low = echo("low", ["high", "false"])
    top = echo("top", ["high", "true"])
    world.run(
        echo("read", output_var="ticket"),
        high,
        low,
        top,
        name="tickets",
        on_failure="skip-dependents",
        given={"score": 9},
        inputs=[{"name": "score"}],
    )
    world.give("read", {"score": 9})
    world.fail("top", "SKILL_FAILED")


def golden(name: str, text: str) -> None:
    """Equal to what is kept; write a missing file and look at it."""
    path = GOLDEN / name
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        pytest.fail(f"{path} was made; look at it")
    assert text == path.read_text(encoding="utf-8")


async def test_the_history_of_a_task_that_moved(world: Recorded) -> None:
    moved_task(world)
    history = await world.history("t1")
    golden("task.txt", text_of(history))
    golden("task.mmd", mermaid_of_history(history))
    golden("task.gantt", gantt_of(history))
    golden("task.story", story_of(history))
    assert check(mermaid_of_history(history))["message"] > 10
    assert check(gantt_of(history))["bar"] == 8
    assert history.paid == (2, 200, 40, 1_000)
    ends = [(one.number, one.node, one.end) for one in history.root.attempts]
    assert ends == [(1, "n1", "released"), (2, "n2", "retry"), (3, "n2", "waiting"), (4, "n1", "succeeded")]


async def test_the_history_of_a_run(world: Recorded) -> None:
    branched_run(world)
    history = await world.history(RUN)
    golden("run.txt", text_of(history))
    golden("run.mmd", mermaid_of_history(history))
    golden("run.gantt", gantt_of(history))
    golden("run.story", story_of(history))
    assert check(mermaid_of_history(history)) == {"node": 4, "edge": 3, "class": 3}
    assert check(gantt_of(history))["section"] == 3
    assert [record.task.task_id for record in history.below] == ["r~read~0", "r~top~0"]


async def test_a_live_task_is_told_as_far_as_it_is(world: Recorded) -> None:
    world.with_node("n1")
    world.do(submit_command("t1"))
    assert "It has not ended: it is PENDING." in story_of(await world.history("t1"))
    world.start("t1")
    history = await world.history("t1")
    assert [one.end for one in history.root.attempts] == [""]
    assert check(gantt_of(history))["bar"] == 2
    assert "attempt 1 on n1 goes on" in gantt_of(history)
    assert await world.refusal("nobody") == "TASK_NOT_FOUND"


async def test_who_is_below_a_task_is_said_by_parents_not_by_names(world: Recorded) -> None:
    branched_run(world)
    world.do(submit_command("r~stranger"))
    world.do(submit_command("r~foreign", tenant="acme", parent_id=TaskId("r")))
    names = [record.task.task_id for record in (await world.history(RUN)).records]
    assert names == ["r", "r~read~0", "r~top~0"]


async def test_runs_inside_of_runs_with_long_names_are_found(world: Recorded) -> None:
    body = {"nodes": [{"id": "in", "type": "workflow", "body": {"nodes": [echo("leaf-" + "x" * 40)]}}]}
    world.run({"id": "out-" + "y" * RUN_ID_MAX, "type": "workflow", "body": body})
    history = await world.history(RUN)
    assert len(history.records) == len(world.state.tasks) == 4
    assert history.records[-1].task.type == "echo"


async def test_what_is_missing_is_counted(world: Recorded) -> None:
    world.run(*(echo(f"n{number}") for number in range(6)))
    short = await world.history(RUN, tasks_max=4)
    assert (len(short.below), short.truncated) == (4, True) and "more tasks" in text_of(short)
    world.with_node("n1")
    world.do(submit_command("t1"))
    feed, world.ledger.append = world.ledger.append, lambda *args: None  # type: ignore[method-assign]
    world.start("t1")
    world.ledger.append = feed  # type: ignore[method-assign]
    world.do(FinishTask(T1, 1, Data(b"1")))
    history = await world.history("t1")
    assert history.holes == 2 and "2 events not in the history of this node" in text_of(history)


@pytest.mark.parametrize("flushed", [True, False])
async def test_a_history_is_read_within_its_bytes(world: Recorded, flushed: bool) -> None:
    world.run(*(echo(f"n{number}") for number in range(8)))
    for number in range(8):
        world.give(f"n{number}", "x" * 10_000)
    if flushed:
        await world.ledger.flush(world.index)
    rows = await world.ledger.family(RUN, FamilyLimits(100, 1_000, 35_000))
    assert rows.more and len(rows.tasks) == 3 and rows.size <= 35_000
    world.historian = replace(world.historian, bytes_max=35_000)
    short = await world.history(RUN)
    assert short.truncated and [one.task.task_id for one in short.below] == [f"r~n{at}~0" for at in range(3)]
    world.historian = replace(world.historian, bytes_max=32 << 20)
    assert len((await world.history(RUN)).below) == 8


async def test_the_limits_of_a_history_hold_for_all_its_runs_together(world: Recorded) -> None:
    body = {"nodes": [{"id": "in", "type": "workflow", "body": {"nodes": [echo("leaf-" + "x" * 40)]}}]}
    names = [f"out{at}-" + "y" * RUN_ID_MAX for at in range(3)]
    world.run(*({"id": name, "type": "workflow", "body": body} for name in names))
    asked: list[FamilyLimits] = []
    family = world.ledger.family

    async def counted(task_id: str, limits: FamilyLimits) -> FamilyRows:
        asked.append(limits)
        return await family(task_id, limits)

    world.ledger.family = counted  # type: ignore[method-assign]
    history = await world.history(RUN, tasks_max=20)
    assert len(history.below) == 9 and not history.truncated
    assert [one.tasks for one in asked] == sorted((one.tasks for one in asked), reverse=True)
    assert asked[-1].events < asked[0].events and asked[-1].size < asked[0].size
    assert asked[-1].tasks < asked[0].tasks == 20


async def test_a_damaged_or_foreign_blob_leaves_only_its_call_out(world: Recorded) -> None:
    moved_task(world)
    assert [call.step for call in (await world.history("t1")).root.calls] == ["ask", "ask#2"]
    digest = next(iter(world.blobs))
    world.damaged.add(digest)
    assert [call.step for call in (await world.history("t1")).root.calls] == ["ask"]
    world.damaged.clear()
    world.blobs[digest] += b" "
    assert [call.step for call in (await world.history("t1")).root.calls] == ["ask"]


DEEP = f'{{"object": "{OBJECT}", "x": {"[" * 100_000}'


@pytest.mark.parametrize(
    "more",
    [
        {"call": 2**31},
        {"call": float("inf")},
        {"call": -1},
        {"provider": "\ud800"},
        {"model": ["m"]},
        {"usage": {"tokens_in": 2**63, "tokens_out": 1, "micro_usd": 1}},
        {"usage": {"tokens_in": 1, "tokens_out": 1, "micro_usd": 1e308}},
        {"usage": []},
        {},
    ],
    ids=str,
)
async def test_what_only_looks_like_the_answer_of_a_model_is_no_call(
    world: Recorded, more: dict[str, Any]
) -> None:
    """Of a skill, which may record what it likes: it must not spoil the history of all that is above it."""
    moved_task(world)
    task = (await world.history("t1")).root.task
    step = Step("ask", 1, Data(), task.created_at_ms + 1)
    assert call_of(task, step, answer_of_model("x", 1)) is not None
    forged = answer_of_model("x", 1, **more) if more else DEEP.encode()
    assert call_of(task, step, forged) is None


def test_the_name_of_a_model_does_not_steer_the_terminal() -> None:
    call = ModelCall("s", 1, 1, "main\x1b[2J", "m\n-1", "answered", 0)
    assert call_words(call).startswith("main [2J/m -1 answered")


async def test_a_step_taken_over_is_not_paid_again(world: Recorded) -> None:
    world.with_node("n1")
    world.do(submit_command("t1"))
    world.start("t1")
    world.do(RecordStep(T1, 1, "ask", Data(answer_of_model("yes", 300))))
    steps = tuple(world.state.steps[T1])
    world.do(submit_command("t2", retry_of=T1, steps=steps))
    history = await world.history("t2")
    assert history.paid == (0, 0, 0, 0) and [call.outcome for call in history.root.calls] == ["taken over"]
    assert "From there it took over 1 result: ask; these were not done again." in story_of(history)


@pytest.mark.parametrize("seed", range(12))
async def test_every_random_run_is_drawn_as_valid_mermaid(seed: int, tmp_path: Path) -> None:
    async with Recorded.at(tmp_path) as world:
        drive = Drive(seed, random_graph(seed), cluster=world)
        drive.go()
        for task_id in list(drive.ended)[:20]:
            history = await world.history(task_id)
            check(mermaid_of_history(history))
            check(gantt_of(history))
            assert not history.holes and story_of(history) and text_of(history)
            assert "as it was recorded" in replay_of(history)


def test_no_label_ends_its_line_or_begins_markup() -> None:
    dice = random.Random(7)
    nasty = "end;#<>\"'&%{}[]()|:\n\t\\`~-é\x00%%{init}end click subgraph "
    for _ in range(300):
        text = "".join(dice.choice(nasty) for _ in range(40))
        check(f"sequenceDiagram\n    participant p0 as {label(text)}\n    p0->>p0: {label(text)}")
        check(f"gantt\n    title {bare(text)}\n    section {bare(text)}\n    {bare(text)} :done, b1, 1, 2")


async def test_a_task_that_was_restored_from_a_backup_reads_as_one_story(world: Recorded) -> None:
    world.with_node("n1")
    world.do(submit_command("t1", type="echo"))
    world.start("t1", "n1")
    begin_epoch(
        world.state, Epoch("e", "new", "prod-2", "restored from the backup of prod at 9"), world.index
    )
    feed(world.ledger, world.index, world.state.outbox)
    world.state.outbox.clear()
    world.with_node("n1", 2)
    world.start("t1", "n1")
    attempt = world.task("t1").attempt
    world.do(FinishTask(T1, attempt, Data(b"1")))
    history = await world.history("t1")
    assert "restored from the backup of prod at 9; further attempts have numbers above" in text_of(history)
    assert story_of(history).count(f"Attempt {attempt} started on n1") == 1
    assert "as it was recorded" in replay_of(history)
    check(mermaid_of_history(history))
    check(gantt_of(history))


def test_every_type_of_event_has_its_words() -> None:
    documented = (Path(__file__).parents[3] / "docs" / "events.md").read_text(encoding="utf-8")
    columns = [line.split("|")[1] for line in documented.splitlines() if line.startswith("| `")]
    types = {one for column in columns for one in re.findall(r"`([a-z_]+)`", column)}
    assert len(types) > 30 and types - PHRASES.keys() == set()
    assert (
        said(Happening("t", 1, "step_begun", 0, 0, detail="a\nb")) == "step a b begun: its intent is recorded"
    )


async def test_the_states_follow_from_the_events(world: Recorded) -> None:
    moved_task(world)
    history = await world.history("t1")
    whole = replay_of(history)
    assert whole.endswith("every state follows from them, as it was recorded\n")
    part = replay_of(history, 9)
    assert part.startswith(whole[: whole.index("\n")]) and "t1: SCHEDULED, 1 step recorded" in part
    lines = whole.splitlines()
    assert "[PENDING -> SCHEDULED]" in lines[1] and "[SCHEDULED -> RUNNING]" in lines[2]


async def test_a_history_that_does_not_fit_its_end_is_told(world: Recorded) -> None:
    branched_run(world)
    history = await world.history(RUN)
    assert "as it was recorded" in replay_of(history)
    root = history.root
    steps = [event for event in root.events if event.detail != "read"]
    lost = replace(history, root=replace(root, events=tuple(steps)))
    assert "differ: node read: its events say RUNNING, recorded is SUCCEEDED" in replay_of(lost)
    [read, top] = history.below
    jumped = replace(read, events=read.events[:1] + read.events[-1:] + read.events[1:-1])
    moved = tuple(replace(event, index=at, place=0) for at, event in enumerate(jumped.events))
    wrong = replace(history, below=(replace(read, events=moved), top))
    assert "is not followed by" in replay_of(wrong)


async def test_the_loop_has_its_turns_while_a_long_history_is_read(
    world: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.run(*(echo(f"n{number}") for number in range(10)))
    for number in range(10):
        world.give(f"n{number}")
    monkeypatch.setattr(turns, "SLICE_S", 0.0)
    seen = 0

    async def other() -> None:
        nonlocal seen
        while True:
            seen += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(other())
    history = await world.history(RUN)
    beside.cancel()
    assert seen >= sum(len(record.events) for record in history.records)
