"""The parts that decide about retries, on fake time and loaded dice."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise

import grpc
import grpc.aio
import pytest
from google.rpc import status_pb2

from coterie.client import ClusterClosed, ClusterError, InvalidRequest, QueueFull, Timeouts, Unavailable
from coterie.client.caller import Backoff, Caller, RetryBudget
from coterie.client.endpoints import Endpoint, Pool
from coterie.client.rpc_errors import Verdict, decode_rpc_error, decode_status, explain, verdict_of
from tests.client.fake import Fault

REFUSED = ClusterError("connection refused", code="UNAVAILABLE")


class Time:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def pool_of(count: int) -> tuple[Pool, Time]:
    time = Time()
    return Pool([f"h:{n}" for n in range(1, count + 1)], None, clock=time, dice=lambda: 0.5), time


def picks(pool: Pool, count: int) -> list[str]:
    return [pool.pick().address for _ in range(count)]


async def test_the_pool_goes_round() -> None:
    pool, _ = pool_of(3)
    assert picks(pool, 6) == ["h:1", "h:2", "h:3"] * 2


async def test_clients_begin_at_different_endpoints() -> None:
    dice = iter([0.1, 0.9, 0.5])
    pool = Pool(["h:1", "h:2", "h:3"], None, dice=lambda: next(dice))
    assert picks(pool, 3) == ["h:2", "h:3", "h:1"]


async def test_a_refusing_endpoint_rests_shortly_and_a_silent_one_longer() -> None:
    pool, time = pool_of(3)
    first, second = pool.pick(), pool.pick()
    pool.failed(first, REFUSED, Verdict.BACK_OFF)
    pool.failed(second, REFUSED, Verdict.TIMED_OUT)
    assert set(picks(pool, 4)) == {"h:3"}
    time.now += 0.3
    assert set(picks(pool, 4)) == {"h:1", "h:3"}
    time.now += 10
    assert set(picks(pool, 6)) == {"h:1", "h:2", "h:3"}


async def test_rests_grow_to_a_limit_and_end_with_an_answer() -> None:
    pool, time = pool_of(1)
    endpoint = pool.pick()
    rests = []
    for _ in range(10):
        pool.failed(endpoint, REFUSED, Verdict.BACK_OFF)
        rests.append(endpoint.rests_until - time.now)
        time.now = endpoint.rests_until
    assert rests[0] == 0.25 and rests[-1] == 5.0 and all(a <= b for a, b in pairwise(rests))
    pool.succeeded(endpoint)
    pool.failed(endpoint, REFUSED, Verdict.BACK_OFF)
    assert endpoint.rests_until - time.now == 0.25


async def test_when_all_rest_the_first_due_is_tried() -> None:
    pool, time = pool_of(2)
    one, two = pool.pick(), pool.pick()
    pool.failed(one, REFUSED, Verdict.TIMED_OUT)
    time.now += 1
    pool.failed(two, REFUSED, Verdict.TIMED_OUT)
    assert pool.pick() is one and pool.pick(avoid=one) is two


async def test_an_answering_node_without_leader_does_not_rest_but_the_next_is_asked() -> None:
    pool, _ = pool_of(2)
    first = pool.pick()
    pool.failed(first, ClusterError("x", code="UNAVAILABLE", reason="NO_LEADER"), Verdict.MOVE_ON)
    assert pool.pick(avoid=first) is not first
    assert first.rests_until == 0.0 and first.last_error == "NO_LEADER: x"


async def test_members_come_and_go_and_given_endpoints_stay() -> None:
    pool, _ = pool_of(1)
    pool.set_members({"h:1": True, "m:1": True, "m:2": False})
    assert list(pool.addresses) == ["h:1", "m:1", "m:2"] and set(picks(pool, 6)) == {"h:1", "m:1"}
    pool.set_members({"m:2": True})
    assert list(pool.addresses) == ["h:1", "m:2"]
    await pool.close_retired()
    await pool.close()


def test_backoff_grows_with_full_jitter_and_keeps_what_was_asked() -> None:
    full = Backoff(dice=lambda: 1.0)
    assert [full.pause() for _ in range(7)] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    full.reset()
    assert full.pause() == 0.05
    assert Backoff(dice=lambda: 0.0).pause() == 0.0
    asked = ClusterError("x", reason="NO_LEADER", retry_after=2.0)
    assert Backoff(dice=lambda: 0.0).pause(asked) == 2.0
    endless = ClusterError("x", retry_after=1e9)
    assert Backoff(dice=lambda: 0.0).pause(endless) == 10.0
    leaving = ClusterError("x", reason="SHUTTING_DOWN", retry_after=2.0)
    assert Backoff(dice=lambda: 0.0).pause(leaving) == 0.0


def test_the_budget_slows_retries_of_many_callers() -> None:
    budget = RetryBudget(burst=10, per_second=5, per_success=0.5)
    waits = [budget.spend(0.0) for _ in range(20)]
    assert waits[:10] == [0.0] * 10 and waits[-1] == pytest.approx(2.0)
    for _ in range(20):
        budget.earn()
    assert budget.spend(0.0) == pytest.approx(0.2)
    assert budget.spend(1000.0) == 0.0
    assert [budget.spend(1000.0) for _ in range(10)][-1] == pytest.approx(0.2)


def test_however_many_retry_none_waits_for_long() -> None:
    budget = RetryBudget(pause_max=2.0)
    pauses = [budget.spend(0.0) for _ in range(2000)]
    assert max(pauses) <= 2.0
    crowd = pauses[120:]
    assert min(crowd) >= 1.0 and len(set(crowd)) > len(crowd) / 2, "they do not come back all at once"
    assert budget.spend(2.5) == 0.0, "what the crowd wanted is no debt of those who come later"


NO_LEADER = Fault(grpc.StatusCode.UNAVAILABLE, "no leader", reason="NO_LEADER", retry_after=0.25)


async def test_a_leader_change_is_a_pause_however_many_calls_are_under_way() -> None:
    caller = Caller(Pool(["h:1", "h:2", "h:3"], None), Timeouts())
    ends: Counter[str] = Counter()

    async def one() -> None:
        tries = 0

        async def attempt(endpoint: Endpoint, seconds: float) -> str:
            nonlocal tries
            tries += 1
            if tries == 1:
                raise rpc_error(NO_LEADER)
            return "answered"

        try:
            ends[await caller.run(attempt)] += 1
        except Unavailable as error:
            ends[error.message] += 1

    await asyncio.gather(*(one() for _ in range(1500)))
    assert ends == {"answered": 1500}


async def test_the_budget_alone_makes_no_call_give_up() -> None:
    """It has less time left than the budget asks for, and more than its own back-off does."""
    clock = Time()
    caller = Caller(Pool(["h:1"], None), Timeouts(), clock)
    for _ in range(2000):
        caller.budget.spend(clock())
    await caller.before_retry(REFUSED, Backoff(dice=lambda: 0.0), clock() + 0.1)


async def test_who_gives_up_takes_nothing_from_the_budget() -> None:
    clock = Time()
    caller = Caller(Pool(["h:1"], None), Timeouts(), clock)
    caller.budget = RetryBudget(burst=1)
    for _ in range(50):
        with pytest.raises(Unavailable, match="no node answered in time"):
            await caller.before_retry(REFUSED, Backoff(dice=lambda: 1.0), clock() + 0.01)
    assert caller.budget.spend(clock()) == 0.0


async def test_who_waits_for_the_next_try_is_told_at_once_that_the_cluster_was_closed() -> None:
    caller = Caller(Pool(["h:1"], None), Timeouts())
    busy = ClusterError("x", code="UNAVAILABLE", reason="NO_LEADER", retry_after=10.0)
    resting = [
        asyncio.create_task(caller.before_retry(busy, Backoff(), caller.clock() + 60)),
        asyncio.create_task(caller.rest(60)),
    ]
    await asyncio.sleep(0)
    caller.close()
    for _ in range(10):
        await asyncio.sleep(0)
    assert all(task.done() for task in resting)
    for task in resting:
        with pytest.raises(ClusterClosed):
            await task
    with pytest.raises(ClusterClosed):
        await caller.rest(0)


async def test_what_is_urgent_waits_for_no_token_and_takes_none() -> None:
    caller = Caller(Pool(["h:1"], None), Timeouts(), Time())
    caller.budget = RetryBudget(burst=1)
    failures = [rpc_error(Fault())]

    async def attempt(endpoint: Endpoint, seconds: float) -> str:
        if failures:
            raise failures.pop()
        return "answered"

    assert await caller.run(attempt, urgent=True) == "answered"
    assert caller.budget.spend(caller.clock()) == 0.0


@pytest.mark.parametrize(
    ("code", "reason", "message", "verdict"),
    [
        ("UNAVAILABLE", "", "connection refused", Verdict.BACK_OFF),
        ("UNAVAILABLE", "NO_LEADER", "", Verdict.MOVE_ON),
        ("UNAVAILABLE", "NO_QUORUM", "", Verdict.BACK_OFF),
        ("UNAVAILABLE", "", "Ssl handshake failed: CERTIFICATE_VERIFY_FAILED", Verdict.BAD_TLS),
        ("DEADLINE_EXCEEDED", "", "", Verdict.TIMED_OUT),
        ("CANCELLED", "", "", Verdict.BACK_OFF),
        ("ABORTED", "LEADERSHIP_LOST_UNKNOWN_OUTCOME", "", Verdict.MOVE_ON),
        ("ABORTED", "ETAG_MISMATCH", "", Verdict.FATAL),
        ("INTERNAL", "", "Received RST_STREAM with error code 2", Verdict.BACK_OFF),
        ("INTERNAL", "", "Internal error from Core", Verdict.BACK_OFF),
        ("INTERNAL", "BUG", "Internal error from Core", Verdict.FATAL),
        ("INTERNAL", "", "bug", Verdict.FATAL),
        ("UNKNOWN", "", "Stream removed", Verdict.BACK_OFF),
        ("UNKNOWN", "", "", Verdict.FATAL),
        ("RESOURCE_EXHAUSTED", "QUEUE_FULL", "", Verdict.FATAL),
        ("INVALID_ARGUMENT", "", "", Verdict.FATAL),
        ("UNIMPLEMENTED", "", "", Verdict.FATAL),
    ],
)
def test_verdicts(code: str, reason: str, message: str, verdict: Verdict) -> None:
    assert verdict_of(ClusterError(message, code=code, reason=reason)) is verdict


def rpc_error(fault: Fault, *more: tuple[str, str | bytes]) -> grpc.aio.AioRpcError:
    metadata = grpc.aio.Metadata(("grpc-status-details-bin", fault.status().SerializeToString()), *more)
    return grpc.aio.AioRpcError(fault.code, grpc.aio.Metadata(), metadata, details=fault.message)


def test_every_detail_of_a_status_is_read() -> None:
    violations = [("task.type", "'x' is unknown"), ("task.priority", "9 is no priority")]
    fault = Fault(
        grpc.StatusCode.INVALID_ARGUMENT,
        "two faults",
        reason="BAD_FIELD",
        retry_after=0.25,
        violations=violations,
    )
    for failure in (decode_rpc_error(rpc_error(fault)), decode_status(fault.status().SerializeToString())):
        assert isinstance(failure, InvalidRequest)
        assert (failure.code, failure.reason, failure.message) == (
            "INVALID_ARGUMENT",
            "BAD_FIELD",
            "two faults",
        )
        assert failure.violations == violations and failure.retry_after == 0.25
        assert "task.priority: 9 is no priority" in str(failure)


def test_pushback_sets_the_pause() -> None:
    fault = Fault(grpc.StatusCode.RESOURCE_EXHAUSTED, reason="QUEUE_FULL")
    failure = decode_rpc_error(rpc_error(fault, ("grpc-retry-pushback-ms", "700")))
    assert isinstance(failure, QueueFull) and failure.retry_after == 0.7
    for stop in ("-1", "soon"):
        stopped = decode_rpc_error(rpc_error(Fault(), ("grpc-retry-pushback-ms", stop)))
        assert verdict_of(stopped) is Verdict.FATAL


def test_garbage_in_a_status_is_no_crash() -> None:
    garbage = grpc.aio.Metadata(("grpc-status-details-bin", b"\xff\xff\xff"))
    error = grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), garbage, details=None)
    assert decode_rpc_error(error).code == "NOT_FOUND"
    assert decode_status(b"\xff\xff\xff").code == "UNKNOWN"
    assert decode_status(status_pb2.Status(code=99).SerializeToString()).code == "CODE_99"


@pytest.mark.parametrize(
    ("message", "secure", "text"),
    [
        ("failed to connect: Connection refused", False, "no node listens there"),
        ("Socket closed", False, "if the cluster uses TLS"),
        ("Connection reset by peer", True, "may want a client certificate"),
        ("something   else\n entirely", False, "something else entirely"),
    ],
)
def test_transport_errors_are_explained(message: str, secure: bool, text: str) -> None:
    assert text in explain(ClusterError(message, code="UNAVAILABLE"), secure=secure)
