"""Errors reach their callers whole, or cut: never as something else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from coterie.client.errors import ClusterError, InvalidRequest
from coterie.client.rpc_errors import decode_rpc_error
from coterie.node.concise import TRAILERS_BYTES_MAX, concise, trailer_bytes
from coterie.node.errors import ApiError, Violation, invalid, not_found
from coterie.node.rpc import abort

METHOD = "/coterie.v1.Test/Fail"
MANY = [Violation(f"nodes[{number}].with", "names no node of this workflow " * 5) for number in range(900)]


class Failing(grpc.GenericRpcHandler):
    """Ends every call with one error."""

    def __init__(self) -> None:
        self.error = invalid(MANY)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        async def fail(request: bytes, context: Any) -> bytes:
            await abort(context, self.error)

        return grpc.unary_unary_rpc_method_handler(fail)


@pytest.fixture
async def node() -> AsyncIterator[tuple[Failing, Any]]:
    failing, server = Failing(), grpc.aio.server()
    server.add_generic_rpc_handlers((failing,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield failing, channel.unary_unary(METHOD)
    await server.stop(0)


async def heard(node: tuple[Failing, Any], error: ApiError) -> ClusterError:
    node[0].error = error
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await node[1](b"", timeout=30)
    return decode_rpc_error(caught.value)


async def test_a_request_with_very_many_faults_is_still_told_to_be_one(node: tuple[Failing, Any]) -> None:
    told = await heard(node, invalid(MANY, "BAD_WORKFLOW"))
    assert isinstance(told, InvalidRequest) and told.reason == "BAD_WORKFLOW"
    said = [(one.field, one.description) for one in MANY]
    assert len(told.violations) > 10 and told.violations[:-1] == said[: len(told.violations) - 1]
    assert told.violations[-1] == ("", f"and {901 - len(told.violations)} more")
    assert str(told).endswith(" more")


@pytest.mark.parametrize("name", ["x" * 9_000, "%" * 9_000, "\U0001f600" * 9_000, "x" * 5_000_000])
async def test_a_long_name_is_told_back_cut(node: tuple[Failing, Any], name: str) -> None:
    told = await heard(node, not_found("TASK", name))
    assert (told.code, told.reason) == ("NOT_FOUND", "TASK_NOT_FOUND")
    assert told.message.startswith(f"no task '{name[:50]}") and told.message.endswith("characters)")
    assert told.metadata == {}


async def test_what_fits_is_told_as_it_is(node: tuple[Failing, Any]) -> None:
    error = ApiError(grpc.StatusCode.ABORTED, "FENCED", "äöü " * 150, metadata={"a": "b"}, retry_after_ms=70)
    assert concise(error) is error
    told = await heard(node, error)
    assert (told.message, told.metadata, told.retry_after) == (error.message, {"a": "b"}, 0.07)


@pytest.mark.parametrize("text", ["x" * 40, "ä%" * 3_000, "\U0001f600" * 700])
def test_every_cut_error_keeps_to_the_room(text: str) -> None:
    for count in (0, 1, 7, 60, 5_000):
        error = invalid([Violation(text, text, 5)] * count) if count else not_found("BLOB", text * 300)
        assert trailer_bytes(concise(error)) <= TRAILERS_BYTES_MAX


async def test_halves_of_characters_do_not_make_another_error_of_it(node: tuple[Failing, Any]) -> None:
    """Protobuf writes none."""
    told = await heard(node, invalid([Violation("a\ud800", "b\udfff", 3)], "BAD_INPUT"))
    assert isinstance(told, InvalidRequest) and told.reason == "BAD_INPUT"
    assert told.message == "a?: b?" and told.violations == [("a?", "b?")]
