"""Bids of agents: who fits, who is free, who has done well; and words in which requests and skills meet."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.core.bidding import FULL, Bid, Candidate, Selection, bids, winner, words_of

TRAINER = Candidate("trainer", ("machine_learning", "model_deployment"), capacity=4)
DESIGNER = Candidate("designer", ("system_architecture", "shared/web-search"), capacity=4)


def order(
    *wanted: str, how: Selection = Selection.CONTRACT_NET, among: tuple[Candidate, ...] = ()
) -> list[Bid]:
    return bids(wanted, among or (DESIGNER, TRAINER), how)


@pytest.mark.parametrize(
    ("wanted", "agent"),
    [
        ("machine learning", "trainer"),
        ("deploy the models of last week", "trainer"),
        ("an architecture for our systems", "designer"),
        ("search the web", "designer"),
    ],
)
def test_words_meet_whatever_their_endings(wanted: str, agent: str) -> None:
    for how in Selection:
        assert winner(order(wanted, how=how)) == agent


def test_scripts_without_spaces_meet_in_pairs_of_characters() -> None:
    assert words_of("系统架构") == {"系统", "统架", "架构"}
    chinese = Candidate("a", ("架构设计",))
    assert winner(bids(["请设计系统架构"], [chinese], Selection.SCORE)) == "a"


def test_who_can_do_nothing_of_it_declines_and_says_why() -> None:
    found = order("bake bread")
    assert [bid.declined for bid in found] == ["nothing it can do is wanted"] * 2 and winner(found) == ""
    paused = Candidate("trainer", TRAINER.labels, declines="it is paused")
    first, last = order("machine learning", "web search", among=(paused, DESIGNER))
    assert (first.agent_id, last.declined) == ("designer", "it is paused")
    assert winner([]) == ""


def test_a_busy_expert_loses_to_an_idle_one_only_in_a_contract_net() -> None:
    wanted = ("machine learning", "robots", "vision", "speech")
    busy = Candidate("busy", wanted, running=8, queued=8, capacity=4)
    idle = Candidate("idle", wanted[:3], capacity=4)
    for how, best in ((Selection.SCORE, "busy"), (Selection.CONTRACT_NET, "idle")):
        assert winner(order(*wanted, how=how, among=(busy, idle))) == best
    equal = Candidate("equal", wanted, capacity=4)
    assert winner(order(*wanted, how=Selection.SCORE, among=(busy, equal))) == "equal", "load decides"


def test_who_fails_bids_less() -> None:
    good, bad = (Candidate(name, ("ml",), succeeded=8, failed=n) for name, n in (("good", 0), ("bad", 8)))
    found = order("ml", among=(bad, good))
    assert [bid.agent_id for bid in found] == ["good", "bad"]
    assert (found[0].success, found[1].success) == (FULL, 529)


candidates = st.builds(
    Candidate,
    st.text(min_size=1, max_size=5),
    st.lists(st.text(max_size=10), max_size=4).map(tuple),
    *(st.integers(0, 50) for _ in range(2)),
    st.integers(0, 20),
    *(st.integers(0, 50) for _ in range(2)),
)


@given(
    st.lists(st.text(max_size=20), max_size=4),
    st.lists(candidates, max_size=6, unique_by=lambda one: one.agent_id),
    st.sampled_from(Selection),
)
def test_bids_are_in_bounds_and_do_not_depend_on_the_order_of_the_agents(
    wanted: list[str], known: list[Candidate], how: Selection
) -> None:
    found = bids(wanted, known, how)
    assert found == bids(wanted, known[::-1], how)
    for bid in found:
        assert all(0 <= number <= FULL for number in (bid.score, bid.fit, bid.load, bid.success))
    assert {bid.agent_id for bid in found} == {one.agent_id for one in known}
