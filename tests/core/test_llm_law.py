"""The law of budgets, against books that are kept the simple way."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.core.commands import Accepted, CancelTask, FinishTask
from coterie.core.llm.accounts import DIMENSIONS
from coterie.core.llm.commands import SetLlmBudget
from coterie.core.llm.nouns import Amount, LlmBudget, LlmCall, LlmVerdict
from coterie.core.nouns import NO_DATA, Constraints, TaskId
from coterie.raft import codec
from tests.core.builders import CoreCluster
from tests.core.llm_calls import begin, lose, settle

ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["begin", "begin", "done", "failed", "doubt", "lose", "end", "time", "family"]),
        st.integers(0, 5),
        st.integers(0, 60),
    ),
    max_size=60,
)
BUDGETS = [
    LlmBudget("all", tokens=300, window_ms=40),
    LlmBudget("each", tenant="*", tokens=120, requests=4),
    LlmBudget("tree", task="*", micro_usd=150, requests=5),
    LlmBudget("session", session="*", tokens=100, micro_usd=90, window_ms=100),
]


class Books:
    """What ought to be in the accounts, kept the simple way: every spending, with the window it began in."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str, str, int], tuple[LlmCall, Amount, bool]] = {}

    def note(self, call: LlmCall, amount: Amount, is_open: bool) -> None:
        self.entries[call.task_id, call.key, call.number] = (call, amount, is_open)

    def sums(self) -> dict[tuple[str, int, bool], Amount]:
        found: dict[tuple[str, int, bool], Amount] = defaultdict(Amount)
        for call, amount, is_open in self.entries.values():
            for hold in call.holds:
                key = (hold.account, hold.window, is_open)
                parts = {name: getattr(found[key], name) + getattr(amount, name) for name in DIMENSIONS}
                found[key] = Amount(**parts)
        return found


def check(cluster: CoreCluster, books: Books) -> None:
    sums = books.sums()
    for account in cluster.state.llm.accounts.values():
        assert account.billed == sums[account.name, account.window, False]
        assert account.reserved == sums[account.name, account.window, True]
        budget = cluster.state.llm.budgets[account.name.partition("\0")[0]]
        for name in DIMENSIONS:
            most = getattr(budget, name)
            assert not most or getattr(account.billed, name) + getattr(account.reserved, name) <= most


def live(cluster: CoreCluster, number: int) -> TaskId | None:
    ids = list(cluster.state.tasks)
    return ids[number % len(ids)] if ids else None


def act(cluster: CoreCluster, books: Books, action: str, number: int, amount: int) -> None:
    if action == "time":
        cluster.now_ms += amount
        return
    task_id = live(cluster, number)
    if action == "family" or task_id is None:
        if task_id and cluster.task(task_id).cancel_requested:
            return  # it takes no children any more
        name = f"t{cluster.index}"
        tenant = cluster.task(task_id).tenant if task_id else f"tenant{number % 2}"
        place = Constraints(session=f"s{number % 2}")
        cluster.running(name, tenant=tenant, constraints=place, parent_id=task_id or TaskId(""))
        return
    if action == "lose":
        if cluster.task(task_id).cancel_requested:
            return
        lose(cluster, task_id)
    elif action == "end":
        opened = [call for call in cluster.state.llm.calls.get(task_id, ()) if call.open]
        cluster.do(CancelTask(task_id))
        cluster.do(FinishTask(task_id, cluster.task(task_id).attempt, NO_DATA))
        books_close(cluster, books, opened)
    elif action == "begin":
        known = cluster.state.llm.find(task_id, f"k{number % 3}")
        next_number = (known.number if known else 0) + 1
        key = f"k{number % 3}" if known else f"k{cluster.index}"
        done = begin(cluster, task_id, key=key, number=next_number, tokens=amount, micro_usd=amount)
        if isinstance(done, Accepted):
            call = cluster.state.llm.find(task_id, key)
            assert call is not None
            books.note(call, call.reserved, True)
    else:
        finish_one(cluster, books, task_id, action, amount)


def books_close(cluster: CoreCluster, books: Books, opened: list[LlmCall]) -> None:
    for call in list(books.entries.values()):
        if call[2] and cluster.state.llm.find(call[0].task_id, call[0].key) is None:
            books.note(call[0], call[0].reserved, False)  # in doubt: the worst case


def finish_one(cluster: CoreCluster, books: Books, task_id: TaskId, action: str, amount: int) -> None:
    call = next((call for call in cluster.state.llm.calls.get(task_id, ()) if call.open), None)
    if call is None:
        return
    asked = {"key": call.key, "number": call.number}
    if action == "done":
        tokens, money = min(amount, call.reserved.tokens), min(amount, call.reserved.micro_usd)
        settle(cluster, task_id, **asked, tokens_in=tokens, tokens_out=0, micro_usd=money)
        books.note(call, Amount(tokens, money, 1), False)
    else:
        verdict = LlmVerdict.FAILED if action == "failed" else LlmVerdict.IN_DOUBT
        settle(cluster, task_id, **asked, verdict=verdict, result=NO_DATA)
        books.note(call, Amount(requests=1) if action == "failed" else call.reserved, False)


@settings(max_examples=150, deadline=None)
@given(ACTIONS)
def test_billed_and_reserved_never_exceed_a_budget(actions: list[tuple[str, int, int]]) -> None:
    cluster, books = CoreCluster().with_node("n1", capacity=500), Books()
    for budget in BUDGETS:
        cluster.do(SetLlmBudget(budget))
    for action, number, amount in actions:
        act(cluster, books, action, number, amount)
        check(cluster, books)
    image = codec.decode_state(codec.encode_state(cluster.state.copy()))
    assert image.llm == cluster.state.llm
    assert (image.llm.flights, image.llm.cache_bytes) == (
        cluster.state.llm.flights,
        cluster.state.llm.cache_bytes,
    )
