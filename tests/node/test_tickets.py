"""A hash alone opens nothing: who names a blob has shown its content, for that tenant."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from coterie.core.access import ADMIN, SUBMITTER
from coterie.core.commands import ConfigureCluster
from coterie.core.nouns import Policy
from coterie.node.blob_errors import BlobMismatch
from coterie.node.blob_exchange import receive_blob
from coterie.node.blobs import BlobStore
from coterie.node.errors import ApiError
from coterie.node.security.principal import NOBODY, Principal, enter
from coterie.node.security.tickets import Tickets
from coterie.v1 import tasks_pb2
from tests.core.builders import CoreCluster

NAME, OTHER = sha256(b"one").hexdigest(), sha256(b"two").hexdigest()
SHOP, BANK = (Principal(f"token:{tenant}", tenant, frozenset({SUBMITTER})) for tenant in ("shop", "bank"))


@pytest.fixture(autouse=True)
def nobody_calls() -> Iterator[None]:
    yield
    enter(NOBODY)


def sealed(seal: bytes) -> Tickets:
    core = CoreCluster()
    core.do(ConfigureCluster("c", "c", Policy(), seal))
    return Tickets(lambda: core.state)


def refusal(tickets: Tickets, name: str, ticket: str) -> str:
    try:
        tickets.check_caller(name, ticket)
    except ApiError as error:
        return error.reason
    return ""


def test_a_ticket_is_good_for_its_tenant_its_content_and_its_cluster() -> None:
    tickets = sealed(b"seal")
    enter(SHOP)
    ticket = tickets.give(NAME)
    assert refusal(tickets, NAME, ticket) == ""
    assert refusal(tickets, OTHER, ticket) == refusal(tickets, NAME, "") == "BLOB_NOT_FOUND"
    assert refusal(tickets, NAME, "ä" * 64) == refusal(sealed(b"other"), NAME, ticket) == "BLOB_NOT_FOUND"
    enter(BANK)
    assert refusal(tickets, NAME, ticket) == "BLOB_NOT_FOUND"


def test_what_an_admin_stored_is_good_for_the_tenant_it_is_handed_to() -> None:
    tickets = sealed(b"seal")
    enter(Principal("user:admin", roles=frozenset({ADMIN})))
    ticket = tickets.give(NAME)
    assert refusal(tickets, NAME, "") == "", "who sees everything names everything"
    tickets.check("shop", NAME, ticket)


def test_without_a_seal_nothing_is_given_out_and_nothing_opens() -> None:
    tickets = sealed(b"")
    enter(SHOP)
    with pytest.raises(ApiError, match="does not know the seal"):
        tickets.give(NAME)
    for ticket in (tickets._for("shop", NAME), "", "of another seal"):
        assert refusal(tickets, NAME, ticket) == "NOT_READY", "said again later, it may be good"


def test_the_first_seal_is_kept() -> None:
    core = CoreCluster()
    for seal in (b"", b"first", b"second", b""):
        core.do(ConfigureCluster("c", "c", Policy(), seal))
    assert core.state.meta.seal == b"first" and "first" not in repr(core.state.meta)


async def chunks(name: str, size: int, *parts: bytes) -> AsyncIterator[tasks_pb2.BlobChunk]:
    yield tasks_pb2.BlobChunk(ref=tasks_pb2.BlobRef(sha256=name, size_bytes=size))
    for part in parts:
        yield tasks_pb2.BlobChunk(data=part)


@pytest.mark.parametrize(
    ("size", "parts"),
    [(3, ()), (3, (b"two",)), (3, (b"on",)), (3, (b"one", b"x")), (2, (b"on",)), (4, (b"one",))],
)
async def test_who_only_knows_the_hash_of_what_is_here_is_refused_as_if_it_were_not(
    tmp_path: Path, size: int, parts: tuple[bytes, ...]
) -> None:
    empty, full = await BlobStore.open(tmp_path / "a"), await BlobStore.open(tmp_path / "b")
    await full.put_bytes(b"one")
    told = []
    for store in (empty, full):
        with pytest.raises(BlobMismatch) as caught:
            await receive_blob(store, chunks(NAME, size, *parts), shown=True)
        told.append(str(caught.value))
    assert told[0] == told[1]
    assert not await empty.has(NAME)
    for store in (empty, full):
        await receive_blob(store, chunks(NAME, 3, b"o", b"ne"), shown=True)
        assert await store.get(NAME) == b"one"
