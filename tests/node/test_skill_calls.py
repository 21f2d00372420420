"""The table of what running skills may ask for."""

from __future__ import annotations

from typing import Any, cast

import grpc
import pytest

from coterie.core.ports import NotCommitted
from coterie.node.errors import ApiError
from coterie.node.skill_calls import Handlers, Run, answer, confirmed, refused
from coterie.skills import CallFailed, CallRefused, Fenced

RUN = cast(Run, object())


def handlers(result: Any = None, error: Exception | None = None) -> Handlers:
    async def handle(run: Run, args: Any) -> Any:
        assert run is RUN
        if error is not None:
            raise error
        return result if result is not None else args

    return {"echo": handle}


async def test_the_handler_gets_the_arguments_and_its_answer_goes_back() -> None:
    assert await answer(handlers(), RUN, "echo", b'{"a": 1}') == b'{"a":1}'


async def test_unknown_calls_and_arguments_that_are_not_json_are_refused() -> None:
    with pytest.raises(CallRefused, match="does not know the call 'nope'") as refusal:
        await answer(handlers(), RUN, "nope", b"{}")
    assert refusal.value.code == "UNKNOWN_CALL"
    with pytest.raises(CallRefused, match="not JSON"):
        await answer(handlers(), RUN, "echo", b"{")


@pytest.mark.parametrize(
    ("error", "raised", "code"),
    [
        (refused("BAD_KEY", "key: too long"), CallRefused, "BAD_KEY"),
        (ApiError(grpc.StatusCode.RESOURCE_EXHAUSTED, "FULL", "full"), CallFailed, "FULL"),
        (Fenced("attempt 2 runs"), Fenced, "FENCED"),
    ],
)
async def test_errors_of_a_handler_keep_their_code(
    error: Exception, raised: type[CallFailed | CallRefused | Fenced], code: str
) -> None:
    with pytest.raises(raised) as caught:
        await answer(handlers(error=error), RUN, "echo", b"{}")
    assert caught.value.code == code


async def test_a_proposal_without_a_majority_may_be_tried_again_later() -> None:
    with pytest.raises(CallFailed):
        await answer(handlers(error=NotCommitted("unknown")), RUN, "echo", b"{}")


async def test_what_this_node_has_not_heard_of_is_refused_only_by_a_fresh_replica() -> None:
    fresh: list[str] = []

    async def handle(run: Run, args: Any) -> Any:
        if not fresh or args == "never":
            raise refused(args if args.isupper() else "UNKNOWN_SKILL", "no such skill")
        return "done"

    async def barrier() -> None:
        fresh.append("barrier")

    calls = confirmed({"spawn": handle}, barrier)
    with pytest.raises(CallRefused):
        await answer(calls, RUN, "spawn", b'"BAD_CHILD"')
    assert not fresh, "what is wrong in itself needs nobody else"
    assert await answer(calls, RUN, "spawn", b'"soon"') == b'"done"'
    with pytest.raises(CallRefused, match="no such skill"):
        await answer(calls, RUN, "spawn", b'"never"')
    assert len(fresh) == 2
