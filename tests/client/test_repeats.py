"""What becomes of a change whose answer is lost: the safe ones are asked for again, the others are not."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import grpc
import grpc.aio
import pytest

from coterie import v1
from coterie.client import Cluster, FailedPrecondition, Limit, Tenant, Timeouts, Unavailable
from coterie.client.bus import Message
from coterie.client.caller import Caller, RetryBudget
from coterie.client.decisions import Approval
from coterie.client.endpoints import Endpoint, Pool
from coterie.client.skills import SkillPolicy
from coterie.client.usage import Budget
from tests.client.conftest import PATIENT
from tests.client.fake import Fault

Call = Callable[[Cluster], Awaitable[Any]]
NOON = datetime(2030, 1, 2, 12, tzinfo=UTC)
APPROVAL = Approval("a1", "t1", "may I?", {}, "00", 1, "PENDING", NOON)
MESSAGE = Message("orders", 7, 1, {})

# Done twice, each of these is something else than done once. What to say of them: where to look.
ONCE: dict[str, tuple[str, Call, str]] = {
    "agents.roll_back": ("RollBackAgent", lambda c: c.agents.roll_back("tutor"), "agents.get"),
    "skills.roll_back": ("RollBackSkill", lambda c: c.skills.roll_back("search"), "skills.get"),
    "create_token": ("CreateToken", lambda c: c.security.create_token(["viewer"]), "security.tokens"),
    "add_nodes": ("AddNodes", lambda c: c.workflows.add_nodes("t1", "nodes: []"), "workflows.get"),
    "effects.done": ("ResolveStep", lambda c: c.effects.done("t1", "pay", 1), "effects.doubts"),
    "effects.retry": ("ResolveStep", lambda c: c.effects.retry("t1", "pay"), "effects.doubts"),
    "effects.fail": ("ResolveStep", lambda c: c.effects.fail("t1", "pay"), "effects.doubts"),
    "bus.nack": ("Ack", lambda c: c.bus.nack("billing", [MESSAGE]), "ack_wait"),
}

# Done twice, these are as done once: they set what they name, or the cluster knows who asks, or a docstring
# says what it costs.
AGAIN: dict[str, Call] = {
    "ApplyAgent": lambda c: c.agents.apply({"config.yaml": ""}),
    "ResetBreaker": lambda c: c.breakers.reset("node:n1"),
    "SetTopic": lambda c: c.bus.set_topic("orders"),
    "SetGroup": lambda c: c.bus.set_group("billing", "orders"),
    "Ack": lambda c: c.bus.ack("billing", [MESSAGE]),
    "Seek": lambda c: c.bus.seek("billing", 0),
    "Fetch": lambda c: c.bus.fetch("billing", wait=0),
    "AddNode": lambda c: c.add_node("n4", "h:1"),
    "PromoteNode": lambda c: c.promote_node("n4"),
    "MoveNode": lambda c: c.move_node("n4", "h:2"),
    "TransferLeadership": lambda c: c.transfer_leadership(),
    "ResolveApproval": lambda c: c.approvals.approve(APPROVAL, principal="ann"),
    "RenewLock": lambda c: c.locks.renew("stock", 7),
    "ReleaseLock": lambda c: c.locks.release("stock", 7),
    "PublishSkill": lambda c: c.skills.publish("search", b"x"),
    "ApproveSkill": lambda c: c.skills.approve("search", "1.0.0"),
    "RevokeSkill": lambda c: c.skills.revoke("search", "1.0.0"),
    "RouteSkill": lambda c: c.skills.route("search", "1.0.0"),
    "SetSkillPolicy": lambda c: c.skills.set_policy("search", SkillPolicy()),
    "PauseSchedule": lambda c: c.schedules.pause("nightly"),
    "ResumeSchedule": lambda c: c.schedules.resume("nightly"),
    "RevokeToken": lambda c: c.security.revoke_token("k1"),
    "SetUser": lambda c: c.security.set_user("ann", ["viewer"]),
    "PurgeDeadLetters": lambda c: c.dead_letters.purge(["t1"]),
    "SetLimit": lambda c: c.limits.set(Limit(id="search", concurrent=2)),
    "SetTenant": lambda c: c.limits.set_tenant(Tenant("acme")),
    "TakeTokens": lambda c: c.limits.take("search"),
    "SetBudget": lambda c: c.usage.set_budget(Budget("b1", usd=1)),
    "ApplyWorkflow": lambda c: c.workflows.apply("nightly", "nodes: []"),
}
# The same, but the fake below gives no answer that says enough: see the tests of their own.
ELSEWHERE = {"RemoveNode", "AcquireLock", "ApplySchedule", "PutBlob", "BatchSubmitTasks"}
READS = ("Get", "List", "Watch", "Wait", "Plan", "Match", "Subscribe", "WhoAmI", "CreateBackup")
READS_TOO = {"RouteTask", "RouteGoal"}


class Willing(grpc.GenericRpcHandler):
    """A node that does whatever it is asked, with empty answers, of which it loses those it is told to."""

    def __init__(self) -> None:
        self.address = ""
        self.done: list[str] = []
        self.faults: list[Fault] = []

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        async def answer(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            fault = self.faults.pop(0) if self.faults else None
            if fault is None or fault.after:
                self.done.append(details.method.rpartition("/")[2])
            if fault is not None:
                await fault.strike(context)
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture
async def node() -> AsyncIterator[Willing]:
    willing = Willing()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((willing,))
    willing.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield willing
    await server.stop(None)


def client_of(node: Willing, *more: str) -> Cluster:
    return Cluster([*more, node.address], auto_discovery=False, timeouts=PATIENT)


AMBIGUOUS = [
    Fault(after=True, message="Socket closed"),
    Fault(after=True, reason="NO_LEADER", message="not known to be committed in time", retry_after=0.25),
    Fault(after=True, reason="NODE_UNREACHABLE", message="another node did not answer: Connection refused"),
    Fault(grpc.StatusCode.ABORTED, after=True, reason="LEADERSHIP_LOST_UNKNOWN_OUTCOME"),
    Fault(grpc.StatusCode.DEADLINE_EXCEEDED, after=True),
    Fault(grpc.StatusCode.CANCELLED, after=True),
]


@pytest.mark.parametrize("name", ONCE)
async def test_what_is_not_safe_to_repeat_is_done_once_and_the_error_says_so(
    node: Willing, name: str
) -> None:
    method, call, look = ONCE[name]
    for fault in AMBIGUOUS:
        node.done.clear()
        node.faults = [fault]
        async with client_of(node) as client:
            with pytest.raises(Unavailable, match="may have been done") as told:
                await call(client)
        assert node.done == [method]
        assert look in told.value.message and told.value.retry_after is None
        assert told.value.reason == fault.reason and node.address in told.value.endpoints


@pytest.mark.parametrize("name", ONCE)
async def test_what_reached_nobody_is_asked_for_elsewhere(node: Willing, name: str) -> None:
    method, call, _ = ONCE[name]
    async with client_of(node, "127.0.0.1:1", "127.0.0.1:2") as client:
        for _ in range(3):
            await call(client)
    assert node.done == [method] * 3


@pytest.mark.parametrize("method", AGAIN)
async def test_what_is_safe_to_repeat_is_asked_for_again(node: Willing, method: str) -> None:
    node.faults = [AMBIGUOUS[1]]
    async with client_of(node) as client:
        await AGAIN[method](client)
    assert node.done == [method] * 2


async def test_a_refusal_for_good_is_told_as_it_is(node: Willing) -> None:
    node.faults = [
        Fault(grpc.StatusCode.FAILED_PRECONDITION, "nothing was live before", reason="NO_PREVIOUS")
    ]
    async with client_of(node) as client:
        with pytest.raises(FailedPrecondition, match="nothing was live before"):
            await client.skills.roll_back("search")
    assert node.done == []


def test_every_rpc_without_a_request_id_is_judged() -> None:
    """A new one: may it be done twice? If not, its call says where to `look`."""
    judged = {method for method, _, _ in ONCE.values()} | set(AGAIN) | ELSEWHERE | READS_TOO
    unjudged = {name for name in rpcs_without_id() if not name.startswith(READS)} - judged
    assert {name for name in unjudged if not name.startswith(("Delete", "Remove"))} == set()
    assert judged <= rpcs_without_id()


def rpcs_without_id() -> set[str]:
    names = [one.name for one in pkgutil.iter_modules(v1.__path__) if one.name.endswith("_pb2")]
    files = [importlib.import_module(f"coterie.v1.{name}").DESCRIPTOR for name in names]
    services = [one for file in files for one in file.services_by_name.values() if one.name != "Peer"]
    rpcs = [rpc for service in services for rpc in service.methods]
    return {rpc.name for rpc in rpcs if "request_id" not in rpc.input_type.fields_by_name}


async def test_a_node_gets_no_time_to_do_it_twice() -> None:
    """It proposes a command anew when that was not committed in five seconds."""
    caller = Caller(Pool(["h:1"], None), Timeouts(attempt=20.0))
    given: list[float] = []

    async def attempt(endpoint: Endpoint, seconds: float) -> None:
        given.append(seconds)

    await caller.run(attempt)
    await caller.run(attempt, look="look")
    assert given[0] > 5 >= given[1]


async def test_the_renewal_of_a_lease_waits_for_no_token(node: Willing) -> None:
    node.faults = [Fault()]
    async with client_of(node) as client:
        caller = client._open.caller
        caller.budget = RetryBudget(burst=1, per_second=1e-9, per_success=0, pause_max=1e9)
        await client.locks.renew("stock", 7)
        assert caller.budget.spend(0.0) == 0.0
