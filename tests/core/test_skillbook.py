"""The skill book: publication, approval, canaries, rollback, and what a task is bound to."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from coterie.core.canonical import state_hash
from coterie.core.commands import Accepted, Outcome, RegisterNode, Rejected, SubmitTask
from coterie.core.machine import apply
from coterie.core.nouns import Constraints, Data, NodeId, RetryPolicy, TaskId
from coterie.core.routing.filters import refusal as node_refusal
from coterie.core.skill_commands import (
    DecideSkill,
    PublishSkill,
    RemoveSkill,
    RollBackSkill,
    RouteSkill,
    SetSkillPolicy,
    SkillCommand,
)
from coterie.core.skillbook import (
    PIN,
    REVISIONS_MAX,
    RevisionState,
    SkillEntry,
    SkillPolicy,
    SkillRevision,
    pin_of,
    share_of,
)
from coterie.core.state import ClusterState, Moment
from coterie.raft.codec import decode_state, encode_state

SKILL = "search"


class Book:
    """A state and short ways to change it."""

    def __init__(self) -> None:
        self.state = ClusterState()
        self.index = 0

    def do(self, command: object) -> Outcome:
        self.index += 1
        return apply(self.state, command, Moment(self.index, 1_000 + self.index))  # type: ignore[arg-type]

    def publish(self, revision: str, version: str = "") -> Outcome:
        return self.do(PublishSkill(SKILL, SkillRevision(revision, version, Data(sha256=revision))))

    def live(self, revision: str) -> None:
        for command in (
            PublishSkill(SKILL, SkillRevision(revision)),
            DecideSkill(SKILL, revision, True),
            RouteSkill(SKILL, revision, 100),
        ):
            assert isinstance(self.do(command), Accepted)

    def submit(self, task_id: str, wanted: str = "", agent: str = "") -> Outcome:
        return self.do(
            SubmitTask(
                TaskId(task_id),
                "default",
                SKILL,
                Data(),
                2,
                RetryPolicy(),
                agent=agent,
                constraints=Constraints(skill_version=wanted),
            )
        )

    def bound(self, task_id: str) -> str:
        assert isinstance(self.submit(task_id), Accepted)
        return self.state.tasks[TaskId(task_id)].constraints.skill_version

    @property
    def entry(self) -> SkillEntry:
        return self.state.skillbook[SKILL]


@pytest.fixture
def book() -> Book:
    return Book()


def code(outcome: Outcome) -> str:
    return outcome.code if isinstance(outcome, Rejected) else "ok"


def test_a_revision_is_quarantined_then_approved_then_live(book: Book) -> None:
    book.publish("a")
    assert book.entry.revisions[0].state is RevisionState.QUARANTINED
    assert book.bound("t1") == ""  # nobody gets it
    assert code(book.do(RouteSkill(SKILL, "a", 100))) == "SKILL_NOT_APPROVED"
    assert code(book.submit("t2", wanted=PIN + "a")) == "SKILL_NOT_LIVE"
    book.do(DecideSkill(SKILL, "a", True, "ann"))
    assert book.bound("t3") == ""
    assert (book.entry.revisions[0].decided_by, book.entry.revisions[0].decided_at_ms) == ("ann", 1_005)
    book.do(RouteSkill(SKILL, "a", 100))
    assert book.bound("t4") == PIN + "a"


def test_publishing_the_same_files_again_changes_nothing(book: Book) -> None:
    book.live("a")
    before = book.entry
    again = book.publish("a")
    assert isinstance(again, Accepted) and again.duplicate and book.entry == before


def test_a_task_keeps_its_revision_while_newer_ones_are_live(book: Book) -> None:
    book.live("a")
    assert book.bound("old") == PIN + "a"
    book.live("b")
    assert book.bound("new") == PIN + "b"
    assert book.state.tasks[TaskId("old")].constraints.skill_version == PIN + "a"
    assert code(book.do(RemoveSkill(SKILL, "a"))) == "SKILL_IN_USE"


def test_a_canary_gets_its_share_and_always_the_same_tasks(book: Book) -> None:
    book.live("a")
    book.publish("b")
    book.do(DecideSkill(SKILL, "b", True))
    assert isinstance(book.do(RouteSkill(SKILL, "b", 20)), Accepted)
    ids = [f"task-{number}" for number in range(2_000)]
    got = {task_id: book.bound(task_id) for task_id in ids}
    assert all((revision == PIN + "b") == (share_of(task_id) < 20) for task_id, revision in got.items())
    assert 320 <= sum(revision == PIN + "b" for revision in got.values()) <= 480
    book.do(RollBackSkill(SKILL))
    assert (book.entry.canary, book.entry.live) == ("", "a")


def test_a_rollback_goes_back_to_what_was_live(book: Book) -> None:
    assert code(book.do(RollBackSkill(SKILL))) == "SKILL_NOT_FOUND"
    book.live("a")
    assert code(book.do(RollBackSkill(SKILL))) == "NO_PREVIOUS"
    book.live("b")
    book.do(RollBackSkill(SKILL))
    assert book.entry.live == "a"
    assert book.bound("t") == PIN + "a"


def test_a_revoked_revision_is_live_nowhere_and_never_again(book: Book) -> None:
    book.live("a")
    book.live("b")
    book.do(DecideSkill(SKILL, "b", False))
    assert (book.entry.live, book.entry.previous) == ("a", "")
    assert code(book.do(DecideSkill(SKILL, "b", True))) == "SKILL_REVOKED"
    assert code(book.publish("b")) == "SKILL_REVOKED"
    book.do(DecideSkill(SKILL, "a", False))
    assert book.entry.live == ""


def test_a_task_may_ask_for_a_version_or_a_hash(book: Book) -> None:
    for revision, version in (("a", "1.0.0"), ("b", "1.0.0"), ("c", "2.0.0")):
        book.publish(revision, version)
        book.do(DecideSkill(SKILL, revision, True))
    book.do(RouteSkill(SKILL, "c", 100))
    for task_id, wanted, got in (("t1", "1.0.0", "b"), ("t2", PIN + "a", "a"), ("t3", "", "c")):
        book.submit(task_id, wanted=wanted)
        assert book.state.tasks[TaskId(task_id)].constraints.skill_version == PIN + got


def test_a_private_skill_is_for_its_owner(book: Book) -> None:
    book.do(SetSkillPolicy(SKILL, SkillPolicy(owner="agent-1", private=True, aliases=("engineer",))))
    assert code(book.submit("t1")) == "SKILL_PRIVATE"
    assert code(book.submit("t2", agent="other")) == "SKILL_PRIVATE"
    assert code(book.submit("t3", agent="agent-1")) == "ok"
    assert code(book.submit("t4", agent="engineer")) == "ok"
    assert code(book.do(SetSkillPolicy("x", SkillPolicy(private=True)))) == "BAD_SKILL"


def test_what_a_skill_needs_is_set_aside(book: Book) -> None:
    book.do(SetSkillPolicy(SKILL, SkillPolicy(memory_bytes=7, gpus=1, version="1.2")))
    book.submit("t1")
    wanted = book.state.tasks[TaskId("t1")].constraints
    assert (wanted.memory_bytes, wanted.gpus, wanted.skill_version) == (7, 1, "1.2")


def test_only_a_node_with_a_sandbox_runs_a_published_skill(book: Book) -> None:
    for name, confines in (("n1", True), ("n2", False)):
        book.do(RegisterNode(NodeId(name), "", 1, 4, confines=confines))
    book.live("a")
    book.submit("t")
    task = book.state.tasks[TaskId("t")]
    refusals = [node_refusal(task.type, task.constraints, node) for node in book.state.nodes.values()]
    assert refusals == ["", f"n2 has no sandbox for the published skill {SKILL}"]


def test_there_is_an_end_to_revisions(book: Book) -> None:
    for number in range(REVISIONS_MAX):
        book.publish(f"r{number}")
    assert code(book.publish("one-more")) == "TOO_MANY_REVISIONS"
    assert code(book.do(RemoveSkill(SKILL, "r0"))) == "ok"
    assert code(book.publish("one-more")) == "ok"


def random_commands(seed: int) -> Iterator[SkillCommand]:
    dice = random.Random(seed)
    for _ in range(120):
        skill, revision = dice.choice(["s1", "s2"]), dice.choice("abcde")
        orders: list[SkillCommand] = [
            PublishSkill(skill, SkillRevision(revision)),
            DecideSkill(skill, revision, dice.random() < 0.8),
            RouteSkill(skill, revision, dice.choice([0, 5, 50, 100, 100, 101])),
            RollBackSkill(skill),
            RemoveSkill(skill, dice.choice([revision, revision, ""])),
            SetSkillPolicy(skill, SkillPolicy(title=revision)),
        ]
        yield dice.choice(orders)


@pytest.mark.parametrize("seed", range(60))
def test_what_new_tasks_get_is_always_approved(seed: int) -> None:
    book = Book()
    for command in random_commands(seed):
        book.do(command)
        for entry in book.state.skillbook.values():
            for name in (entry.live, entry.canary):
                found = entry.find(name) if name else None
                assert not name or (found is not None and found.state is RevisionState.APPROVED)
            assert bool(entry.canary) == (0 < entry.canary_percent < 100)
            assert entry.live != entry.canary or not entry.live
            names = [one.revision for one in entry.revisions]
            assert len(names) == len(set(names))
    restored = decode_state(encode_state(book.state.copy()))
    assert state_hash(restored) == state_hash(book.state)
    changed = replace(book.state.copy())
    changed.skillbook["more"] = SkillEntry("more")
    assert state_hash(changed) != state_hash(book.state)


def test_a_canary_that_becomes_live_by_a_revocation_is_no_canary(book: Book) -> None:
    book.live("b")
    book.live("a")
    book.do(RouteSkill(SKILL, "b", 5))
    book.do(DecideSkill(SKILL, "a", False))
    assert (book.entry.live, book.entry.canary, book.entry.canary_percent) == ("b", "", 0)


def test_a_pin_is_told_from_a_version() -> None:
    assert pin_of(Constraints(skill_version=PIN + "a" * 64)) == "a" * 64
    assert pin_of(Constraints(skill_version="1.0")) == pin_of(Constraints()) == ""


@pytest.mark.parametrize("policy", [SkillPolicy(), SkillPolicy(owner="ann")])
def test_only_a_policy_that_was_set_before_is_a_duplicate(policy: SkillPolicy) -> None:
    book = Book()
    for duplicate in (False, True):
        outcome = book.do(SetSkillPolicy("fresh", policy))
        assert isinstance(outcome, Accepted) and outcome.duplicate is duplicate
