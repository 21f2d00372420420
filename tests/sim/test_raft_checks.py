"""What the simulator's book takes for a lie, and what for an honest answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from coterie.core.ports import ChangeRefused, DemoteMember, NoQuorum, NotCommitted
from coterie.raft.errors import NoSpace, TransferFailed
from tests.sim.raft.checks import Asked, Book, HandOver, Read, Violation, Wish
from tests.sim.raft.timeline import SECOND
from tests.sim.raft.world import World


def led_world() -> World:
    world = World(1, 3)
    assert world.run_until(2 * SECOND, stop=lambda: bool(world.leader()))
    return world


def test_a_call_that_is_not_answered_is_found_at_the_end_unless_its_node_died() -> None:
    book = Book(lease_us=0)
    book.others = [Read("n1", 0, lost=True), Read("n1", 0, answers=[3])]
    book.close(set())
    book.others.append(Read("n2", 0))
    assert book.is_waited_for()
    with pytest.raises(Violation, match="never answered"):
        book.close(set())


@pytest.mark.parametrize("answer", [4, NoQuorum("late"), RuntimeError("what is this?")])
def test_a_read_is_answered_once_with_an_index_or_a_refusal(answer: int | Exception) -> None:
    book, read = Book(lease_us=0), Read("n1", 4)
    if isinstance(answer, RuntimeError):
        with pytest.raises(Violation, match="was answered with"):
            book.has_read(read, answer)
        return
    book.has_read(read, answer)
    assert (book.reads, book.refused_reads) == ((1, 0) if answer == 4 else (0, 1))
    with pytest.raises(Violation, match="more than once"):
        book.has_read(read, answer)


def test_what_is_turned_away_says_so_and_is_in_no_log() -> None:
    book = Book(lease_us=0)
    book.refused(Asked("n1", b"one"), NoSpace("full"))
    book.close({b"two"})
    with pytest.raises(Violation, match="and appended it"):
        book.close({b"one", b"two"})
    with pytest.raises(Violation, match="does not say what became of it"):
        book.refused(Asked("n1", b"three"), NotCommitted("perhaps"))


@pytest.mark.parametrize(
    ("target", "answer", "is_honest"),
    [
        ("n2", "n2", True),
        ("n2", "n3", False),
        ("", "n3", True),
        ("", "n1", False),
        ("", "", False),
        ("n2", TransferFailed("late"), True),
        ("n2", KeyError("n2"), False),
    ],
)
def test_a_hand_over_goes_where_it_was_wished(target: str, answer: str | Exception, is_honest: bool) -> None:
    book = Book(lease_us=0, leaders={7: "n2", 8: "n3"})
    call = HandOver("n1", target, "n1", 1.0)
    if is_honest:
        book.handed_over(call, answer, 7 if answer == "n2" else 8)
        book.close(set())
    else:
        with pytest.raises(Violation):
            book.handed_over(call, answer, 7)


def test_whoever_is_named_as_the_new_leader_leads_that_term() -> None:
    book = Book(lease_us=0, leaders={7: "n2"})
    book.handed_over(HandOver("n1", "n3", "n1", 1.0), "n3", 7)
    with pytest.raises(Violation, match="told that n3 leads term 7"):
        book.close(set())


@pytest.mark.parametrize("answer", [(), ChangeRefused("no"), NotCommitted("late"), "done"])
def test_a_wish_for_a_change_is_answered_once_with_the_members_or_a_refusal(answer: Any) -> None:
    book, wish = Book(lease_us=0), Wish("n1", DemoteMember("n2"))
    if answer == "done":
        with pytest.raises(Violation, match="was answered with"):
            book.changed(wish, answer)
        return
    book.changed(wish, answer)
    with pytest.raises(Violation, match="more than once"):
        book.changed(wish, answer)


def test_a_hand_over_that_is_possible_is_not_given_up_before_its_time() -> None:
    def gives_up(target: str, timeout_s: float, done: Callable[[Exception], None]) -> None:
        done(TransferFailed("no"))

    world = led_world()
    leader = world.nodes[world.leader()]
    leader.member.transfer = gives_up
    world.transfer(leader.node_id, "nobody", 0.5)
    with pytest.raises(Violation, match="before its time"):
        world.transfer(leader.node_id, "", 0.5)
