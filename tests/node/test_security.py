"""Who is let in: every rpc is in the table, tokens and certificates give what the state says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import Default
from grpc_health.v1 import health_pb2  # noqa: F401 - its services are in the pool
from grpc_reflection.v1alpha import reflection_pb2  # noqa: F401

from coterie.core.access import ADMIN, OPERATOR, RUNNER, SUBMITTER, VIEWER, Token, User
from coterie.core.access_commands import CreateToken, RevokeToken, SetUser
from coterie.core.commands import FinishTask
from coterie.core.nouns import Data, Event, TaskId
from coterie.core.ports import NoQuorum
from coterie.node.config.secret_files import SecretFileError, read_secret, write_secret
from coterie.node.errors import ApiError, not_found
from coterie.node.hub import Hub
from coterie.node.security.authenticator import Authenticator
from coterie.node.security.guard import CatchUp, Guard
from coterie.node.security.principal import NOBODY, STRANGER, Principal, caller, enter
from coterie.node.security.scope import confine
from coterie.node.security.table import RULES
from coterie.node.security.tokens import BOOTSTRAP, mint, parse
from coterie.node.waits import Waits
from coterie.v1 import cluster_pb2, tasks_pb2
from tests.core.builders import CoreCluster

PROTO = Path(__file__).resolve().parents[2] / "proto" / "coterie" / "v1"
OTHERS = ("grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection")
ROLES = (VIEWER, SUBMITTER, OPERATOR, ADMIN)


def methods() -> set[str]:
    """Every method of every service, ours and the borrowed ones."""
    files = [f"coterie/v1/{path.name}" for path in sorted(PROTO.glob("*.proto"))]
    pool = Default()
    ours = [service for name in files for service in pool.FindFileByName(name).services_by_name.values()]
    services = [*ours, *(pool.FindServiceByName(name) for name in OTHERS)]
    return {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}


def load_all_protos() -> None:
    import importlib

    for path in PROTO.glob("*.proto"):
        importlib.import_module(f"coterie.v1.{path.stem}_pb2")


def test_every_rpc_of_every_service_is_in_the_table_and_nothing_else() -> None:
    load_all_protos()
    assert set(RULES) == methods()


def test_a_role_holds_in_those_above_it_and_runner_stands_alone() -> None:
    for place, role in enumerate(ROLES):
        held = Principal("x", roles=frozenset({role}))
        assert [held.has(wanted) for wanted in ROLES] == [at <= place for at in range(len(ROLES))]
    assert not any(Principal("x", roles=frozenset({RUNNER})).has(role) for role in ROLES)


class Call:
    """What the guard sees of a call: its metadata and the certificate behind it."""

    def __init__(self, token: str = "", uri: str = "") -> None:
        self._token, self._uri = token, uri

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return [("authorization", f"Bearer {self._token}")] if self._token else []

    def auth_context(self) -> dict[str, list[bytes]]:
        names = [self._uri.encode()] if self._uri else []
        return {"transport_security_type": [b"ssl"], "x509_subject_alternative_name": names}

    async def abort(self, code: grpc.StatusCode, details: str, trailing_metadata: Any = ()) -> None:
        raise Aborted(code)


class Aborted(Exception):
    pass


class Door:
    """An authenticator over a state of its own."""

    def __init__(self, folder: Path) -> None:
        self.core = CoreCluster()
        self.now_ms = 1_000
        self.bootstrap = folder / "bootstrap.token"
        self.knows = Authenticator(
            lambda: self.core.state, lambda: self.now_ms, {"n1"}.__contains__, self.bootstrap
        )

    def token(self, tenant: str = "a", *roles: str, valid_ms: int = 0) -> str:
        secret = mint()
        parsed = parse(secret)
        assert parsed is not None
        made = Token(parsed.token_id, parsed.digest, tenant, roles or (SUBMITTER,))
        self.core.do(CreateToken(made, valid_ms))
        return secret

    def who(self, **call: str) -> Principal:
        return self.knows.principal(Call(**call))  # type: ignore[arg-type]

    def refuses(self, **call: str) -> str:
        with pytest.raises(ApiError) as caught:
            self.who(**call)
        assert caught.value.code is grpc.StatusCode.UNAUTHENTICATED
        return caught.value.reason


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(tmp_path)


def test_a_token_gives_what_was_granted(door: Door) -> None:
    secret = door.token("shop", SUBMITTER)
    who = door.who(token=secret)
    assert (who.tenant, who.roles) == ("shop", frozenset({SUBMITTER}))
    assert who.name == f"token:{secret.split('_')[1]}"
    assert secret not in repr(door.core.state.tokens)


def test_a_wrong_secret_of_a_known_token_opens_nothing(door: Door) -> None:
    secret = door.token()
    other = "_".join([*secret.split("_")[:2], mint().split("_", 2)[2]])
    assert door.refuses(token=other) == "BAD_TOKEN"
    assert door.refuses(token="nonsense") == "BAD_TOKEN"
    assert door.refuses(token=mint()) == "BAD_TOKEN"


def test_a_token_ends_by_time_and_by_revocation(door: Door) -> None:
    brief, revoked = door.token(valid_ms=500), door.token()
    door.who(token=brief)
    door.now_ms = door.core.now_ms + 500
    assert door.refuses(token=brief) == "TOKEN_ENDED"
    door.core.do(RevokeToken(revoked.split("_")[1]))
    assert door.refuses(token=revoked) == "TOKEN_ENDED"


def test_a_bad_token_is_not_made_up_for_by_a_certificate(door: Door) -> None:
    assert door.refuses(token=mint(), uri="coterie://user/admin") == "BAD_TOKEN"


def test_users_have_what_the_state_says_and_only_the_first_one_has_something_before(door: Door) -> None:
    assert door.who(uri="coterie://user/ann").roles == frozenset()
    assert door.who(uri="coterie://user/admin").has(ADMIN)
    door.core.do(SetUser(User("ann", "shop", (VIEWER,))))
    door.core.do(SetUser(User("admin", "shop", (VIEWER,))))
    for name in ("ann", "admin"):
        who = door.who(uri=f"coterie://user/{name}")
        assert (who.tenant, who.roles) == ("shop", frozenset({VIEWER}))


def test_a_node_is_known_by_its_certificate_while_it_belongs_to_the_cluster(door: Door) -> None:
    assert RUNNER in door.who(uri="coterie://node/n1").roles
    assert door.who(uri="coterie://node/n9").roles == {STRANGER}
    assert door.refuses() == "NO_CREDENTIALS"


async def test_a_node_that_is_no_member_may_knock_and_ask_to_be_taken_in_itself_and_nothing_else(
    door: Door,
) -> None:
    stranger = "coterie://node/n9"
    open_to_it = {method for method in RULES if await code_of(door, method, uri=stranger) == "OK"}
    assert {method.rpartition(".")[2] for method in open_to_it} == {
        "Cluster/AddNode",
        "Peer/Raft",
        "Peer/GetRaftAddress",
        "Health/Check",
        "Health/Watch",
    }
    add = "/coterie.v1.Cluster/AddNode"
    itself, another = (cluster_pb2.AddNodeRequest(node_id=name) for name in ("n9", "n8"))
    assert (await asked(door, add, itself, uri=stranger)).name == "node:n9"
    with pytest.raises(Aborted, match="PERMISSION_DENIED"):
        await asked(door, add, another, uri=stranger)
    assert (await asked(door, add, another, uri="coterie://node/n1")).has(ADMIN)
    with pytest.raises(Aborted, match="PERMISSION_DENIED"):
        await asked(door, add, itself, uri="coterie://user/n9")


def test_the_bootstrap_token_is_good_where_its_file_is(door: Door) -> None:
    secret = mint(BOOTSTRAP)
    assert door.refuses(token=secret) == "BAD_TOKEN"
    write_secret(door.bootstrap, secret)
    assert door.who(token=secret).has(ADMIN)
    assert door.refuses(token=mint(BOOTSTRAP)) == "BAD_TOKEN"
    door.bootstrap.chmod(0o644)
    assert door.refuses(token=secret) == "BAD_TOKEN"


def test_a_secret_file_is_for_its_owner_and_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "new" / "s"
    write_secret(path, "abc")
    assert path.stat().st_mode & 0o777 == 0o600 and read_secret(path) == "abc"
    with pytest.raises(SecretFileError, match="is there already"):
        write_secret(path, "def")
    path.write_text("two\nlines\n", encoding="ascii")
    with pytest.raises(SecretFileError, match="one line"):
        read_secret(path)


async def nothing(note: object, timeout_s: float) -> None:
    return None


async def no_news(timeout_s: float) -> None:
    return None


async def asked(
    door: Door, method: str, request: Any = None, catch_up: CatchUp = no_news, **call: str
) -> Principal:
    """Whom a handler of that method sees. Raises Aborted."""

    async def handler(request: Any, context: Any) -> Principal:
        return caller()

    async def found(details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(handler)

    details: Any = type("Details", (), {"method": method})()
    guarded = await Guard(door.knows, nothing, catch_up).intercept_service(found, details)
    answer: Principal = await guarded.unary_unary(request, Call(**call))
    return answer


async def test_a_token_that_was_made_a_moment_ago_on_another_node_is_found(door: Door) -> None:
    secret, method = mint(), "/coterie.v1.Security/WhoAmI"
    parsed = parse(secret)
    assert parsed is not None
    token = Token(parsed.token_id, parsed.digest, "shop", (VIEWER,))

    async def news(timeout_s: float) -> None:
        door.core.do(CreateToken(token, 0))

    async def cut_off(timeout_s: float) -> None:
        raise NoQuorum("cut off")

    for catch_up in (no_news, cut_off):
        with pytest.raises(Aborted, match="UNAUTHENTICATED"):
            await asked(door, method, catch_up=catch_up, token=secret)
    assert (await asked(door, method, catch_up=news, token=secret)).tenant == "shop"


async def code_of(door: Door, method: str, **call: str) -> str:
    try:
        await asked(door, method, None, no_news, **call)
    except Aborted as error:
        return str(error.args[0].name)
    return "OK"


async def heard(door: Door, **call: str) -> AsyncIterator[int]:
    """What comes of a stream without end. Raises Aborted."""

    async def handler(request: Any, context: Any) -> AsyncIterator[int]:
        for number in range(1_000):
            yield number

    async def found(details: Any) -> Any:
        return grpc.unary_stream_rpc_method_handler(handler)

    method = (
        "/coterie.v1.Peer/FetchBlob" if "node/" in call.get("uri", "") else "/coterie.v1.KeyValue/WatchKeys"
    )
    details: Any = type("Details", (), {"method": method})()
    guarded = await Guard(door.knows, nothing, no_news).intercept_service(found, details)
    async for answer in guarded.unary_stream(None, Call(**call)):
        yield answer


async def test_a_stream_ends_with_the_token_that_opened_it(door: Door) -> None:
    revoked, brief, kept = door.token(), door.token(valid_ms=500), door.token()
    streams = [heard(door, token=secret) for secret in (revoked, brief, kept)]
    assert [await anext(stream) for stream in streams] == [0, 0, 0]
    door.core.do(RevokeToken(revoked.split("_")[1]))
    door.now_ms = door.core.now_ms + 500
    for stream in streams[:2]:
        with pytest.raises(Aborted, match="UNAUTHENTICATED"):
            await anext(stream)
    assert await anext(streams[2]) == 1


async def test_a_stream_ends_when_what_its_user_may_see_was_changed(door: Door) -> None:
    door.core.do(SetUser(User("ann", "shop", (VIEWER,))))
    ann, node = (heard(door, uri=f"coterie://{who}") for who in ("user/ann", "node/n1"))
    assert [await anext(ann), await anext(node)] == [0, 0]
    door.core.do(SetUser(User("ann", "shop", (VIEWER, SUBMITTER))))
    assert [await anext(ann), await anext(node)] == [1, 1]
    door.core.do(SetUser(User("ann", "bank", (VIEWER,))))
    with pytest.raises(Aborted, match="UNAVAILABLE"):
        await anext(ann)
    assert await anext(node) == 2


async def test_each_method_is_open_to_its_roles_only(door: Door) -> None:
    secrets = {role: door.token("*" if role in (ADMIN, OPERATOR) else "a", role) for role in ROLES}
    for method, rule in RULES.items():
        if rule.role == "anyone":
            continue
        least = ROLES.index(rule.role) if rule.role in ROLES else len(ROLES)
        for place, role in enumerate(ROLES):
            expected = "OK" if place >= least else "PERMISSION_DENIED"
            assert (method, role, await code_of(door, method, token=secrets[role])) == (
                method,
                role,
                expected,
            )
        assert await code_of(door, method) == "UNAUTHENTICATED"
        assert await code_of(door, method, uri="coterie://user/ann") == "PERMISSION_DENIED"


async def test_a_call_that_is_not_in_the_table_is_refused_to_everybody(door: Door) -> None:
    secret = door.token("*", ADMIN)
    assert await code_of(door, "/coterie.v1.Tasks/Undreamt", token=secret) == "PERMISSION_DENIED"


async def test_handlers_see_who_calls_and_the_log_hears_of_clients_only(door: Door) -> None:
    secret = door.token("shop", SUBMITTER)
    who = await asked(door, "/coterie.v1.Tasks/CancelTask", token=secret)
    origin = who.origin
    assert origin is not None and (origin.tenant, origin.method) == ("shop", ["Tasks/CancelTask"][-1])
    node = await asked(door, "/coterie.v1.Peer/Ping", uri="coterie://node/n1")
    assert node.origin is None and NOBODY.origin is None


def test_requests_are_confined_to_the_callers_tenant() -> None:
    shop = Principal("x", "shop", frozenset({SUBMITTER}))
    request = tasks_pb2.BatchSubmitTasksRequest(requests=[tasks_pb2.SubmitTaskRequest() for _ in range(2)])
    confine(shop, request)
    assert [one.parent for one in request.requests] == ["tenants/shop"] * 2
    request.requests[1].parent = "tenants/bank"
    with pytest.raises(ApiError) as caught:
        confine(shop, request)
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.PERMISSION_DENIED, "TENANT_DENIED")
    assert "write coterie --tenant" in str(caught.value)
    untouched = tasks_pb2.ListTasksRequest(parent="tenants/bank")
    confine(Principal("x", "*", frozenset({VIEWER})), untouched)
    confine(Principal("x", "shop", frozenset({OPERATOR})), untouched)
    assert untouched.parent == "tenants/bank"


class Slow:
    """A reader that takes its time, while the task that is asked for ends."""

    def __init__(self, hub: Hub, event: Event) -> None:
        self._hub, self._event = hub, event

    def peek(self, task_id: TaskId) -> None:
        return None

    async def get(self, task_id: TaskId, timeout_s: float) -> None:
        self._hub.publish([self._event])
        raise not_found("TASK", task_id)


async def test_the_end_of_anothers_task_is_not_heard_by_who_waits_for_its_name() -> None:
    """The wait is put up before it is known whose the task is."""
    core = CoreCluster().with_node()
    task = core.running("t1", tenant="bank")
    core.do(FinishTask(task.task_id, task.attempt, Data(b"secret")))
    hub = Hub()
    enter(Principal("x", "shop", frozenset({VIEWER})))
    waits = Waits(hub, Slow(hub, core.events[-1]))  # type: ignore[arg-type]
    enter(NOBODY)
    await waits.add(["t1"])
    answer = await waits.next()
    assert (list(answer.tasks), list(answer.not_found)) == ([], ["t1"])
