"""The listener's guard: every call is somebody's, and one that its caller may make."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any, cast

import grpc
import grpc.aio

from coterie.core.access import RUNNER
from coterie.core.access_commands import NoteCall
from coterie.core.ports import NotCommitted
from coterie.node.errors import STATUS_DETAILS_KEY, ApiError, reason_in
from coterie.node.observability import get_logger
from coterie.node.rpc import PROPOSE_MAX_S, Context, abort
from coterie.node.security.authenticator import Authenticator, UnknownToken
from coterie.node.security.principal import STRANGER, Principal, enter
from coterie.node.security.scope import confine, confined
from coterie.node.security.table import ANYONE, RULES, Rule
from coterie.node.security.tokens import BOOTSTRAP

log = get_logger(__name__)

Note = Callable[[NoteCall, float], Awaitable[Any]]
CatchUp = Callable[[float], Awaitable[Any]]
CATCH_UP_S = 2.0
CATCHING_UP_MAX = 16  # calls with tokens that nobody knows cost this node no more than so many at once
UNLISTED = Rule("")
UNKNOWN = "UNKNOWN"  # it may have been done: the caller hung up, or the node could not tell
_TARGETS = ("node_id", "name", "target")
_GRANTED = frozenset({RUNNER, STRANGER})  # by a certificate alone, at the beginning of a stream


class Guard(grpc.aio.ServerInterceptor):
    """Refuses what is not allowed before a handler sees it, and tells the handlers who calls."""

    def __init__(self, authenticator: Authenticator, note: Note, catch_up: CatchUp) -> None:
        """`note` proposes the record of a call that no command stands for; after `catch_up` this node shows
        what was committed before."""
        self._authenticator, self._note, self._catch_up = authenticator, note, catch_up
        self._catching_up = 0
        self._recording: set[asyncio.Task[None]] = set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler: Any = await continuation(handler_call_details)
        method = str(handler_call_details.method)
        rule = RULES.get(method, UNLISTED)
        if handler is None or rule.role == ANYONE:
            return handler
        if handler.unary_unary is not None:
            return handler._replace(unary_unary=self._unary(handler.unary_unary, method, rule))
        if handler.stream_unary is not None:
            return handler._replace(stream_unary=self._unary(handler.stream_unary, method, rule))
        if handler.unary_stream is not None:
            return handler._replace(unary_stream=self._stream(handler.unary_stream, method, rule))
        return handler._replace(stream_stream=self._stream(handler.stream_stream, method, rule))

    def admit(self, context: Context, method: str, rule: Rule) -> Principal:
        """The caller. Raises ApiError when they may not call this."""
        principal = self._authenticator.principal(context)
        if rule.role == RUNNER:
            allowed = RUNNER in principal.roles
        else:
            allowed = bool(rule.role) and principal.has(rule.role)
        if not allowed and not (rule.strangers and STRANGER in principal.roles):
            raise _denied(principal, method, rule)
        name = method.rpartition(".")[2]
        return replace(principal, method=name, audited=RUNNER not in principal.roles)

    async def _admitted(self, context: Context, method: str, rule: Rule) -> Principal:
        """A token that this node does not know is looked for again in what the others know."""
        try:
            return self.admit(context, method, rule)
        except UnknownToken:
            if self._catching_up >= CATCHING_UP_MAX:
                raise
        self._catching_up += 1
        try:
            await self._catch_up(CATCH_UP_S)
        except NotCommitted as error:
            log.debug("no majority to ask about a token", extra={"error": str(error)})
        finally:
            self._catching_up -= 1
        return self.admit(context, method, rule)

    async def _enter(self, request: Any, context: Context, method: str, rule: Rule) -> tuple[Principal, Any]:
        """The caller, and the request within what they may name; ends the call when that cannot be."""
        try:
            principal = await self._admitted(context, method, rule)
            if STRANGER in principal.roles:
                _for_itself(principal, request)
            if not hasattr(request, "__aiter__"):
                confine(principal, request)
            elif not principal.everywhere:
                request = confined(principal, request)
        except ApiError as error:
            log.warning("a call was refused", extra={"method": method, "reason": error.reason})
            await abort(context, error)
        enter(principal)
        return principal, request

    def _unary(
        self, call: Callable[[Any, Any], Awaitable[Any]], method: str, rule: Rule
    ) -> Callable[[Any, Any], Awaitable[Any]]:
        async def guarded(request: Any, context: Context) -> Any:
            principal, request = await self._enter(request, context, method, rule)
            if not (rule.noted and principal.audited):
                return await call(request, context)
            target = next((str(v) for name in _TARGETS if (v := getattr(request, name, ""))), "")
            try:
                answer = await call(request, context)
            except BaseException as error:
                if STRANGER not in principal.roles:  # else a node that is turned away would fill the log
                    self._begin_record(NoteCall(target, _code(context, error)))
                raise
            await asyncio.shield(self._begin_record(NoteCall(target, "OK")))
            return answer

        return guarded

    def _begin_record(self, note: NoteCall) -> asyncio.Task[None]:
        """In a task of its own: a caller that hangs up must not take the record along, and one that was
        refused does not wait for it."""
        recording = asyncio.create_task(self._record(note), name="audit-note")
        self._recording.add(recording)
        recording.add_done_callback(self._recording.discard)
        return recording

    async def _record(self, note: NoteCall) -> None:
        """What was done is done: that it could not be recorded must not look like a failure of it."""
        try:
            await self._note(note, PROPOSE_MAX_S)
        except Exception as error:
            log.error("a call is missing from the audit log", extra={"call": note.target}, exc_info=error)

    def _stream(
        self, call: Callable[[Any, Any], AsyncIterator[Any]], method: str, rule: Rule
    ) -> Callable[[Any, Any], AsyncIterator[Any]]:
        async def guarded(request: Any, context: Context) -> AsyncIterator[Any]:
            principal, request = await self._enter(request, context, method, rule)
            async with aclosing(cast("Any", call(request, context))) as answers:
                async for answer in answers:
                    await self._still(principal, context, method, rule)
                    yield answer

        return guarded

    async def _still(self, principal: Principal, context: Context, method: str, rule: Rule) -> None:
        """Ends a stream whose caller may not hear any more of it."""
        if principal.name == BOOTSTRAP or not _GRANTED.isdisjoint(principal.roles):
            return
        try:
            now = self.admit(context, method, rule)
            if (now.tenant, now.everywhere) != (principal.tenant, principal.everywhere):
                text = f"what {now.name} may see was changed; call again"
                raise ApiError(grpc.StatusCode.UNAVAILABLE, "GRANT_CHANGED", text)
        except ApiError as error:
            log.info("a stream was ended", extra={"method": method, "reason": error.reason})
            await abort(context, error)


def _code(context: Context, error: BaseException) -> str:
    """What came of a call that ended so, as far as its caller was told."""
    if isinstance(error, grpc.aio.AbortError):
        for key, value in context.trailing_metadata() or ():
            if key == STATUS_DETAILS_KEY and isinstance(value, bytes):
                return reason_in(value) or UNKNOWN
    return UNKNOWN


def _for_itself(principal: Principal, request: Any) -> None:
    """Raises ApiError when a node that is no member names another one."""
    named = getattr(request, "node_id", "")
    if named and f"node:{named}" != principal.name:
        text = f"{principal.name} does not belong to the cluster: it may ask for itself, not for {named}"
        raise ApiError(grpc.StatusCode.PERMISSION_DENIED, "NOT_ITSELF", text)


def _denied(principal: Principal, method: str, rule: Rule) -> ApiError:
    held = ", ".join(sorted(principal.roles)) or "no role"
    needs = rule.role or "nobody's role: the call is not in the table"
    name = method.rpartition("/")[2]
    text = f"{name} needs {needs}, and {principal.name} has {held}"
    return ApiError(grpc.StatusCode.PERMISSION_DENIED, "ROLE_MISSING", text)
