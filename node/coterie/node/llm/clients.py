"""Calls of the providers, through their library. Its retries are off: who retries must know of the bill.

Everything here runs on a loop of its own, see node.side_loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from coterie.core.llm.nouns import LlmVerdict
from coterie.node.config import ProviderSettings
from coterie.node.llm.collecting import ChatCollector, ResponseCollector
from coterie.node.llm.completion import CallFault, Completion, Gone, OnText
from coterie.node.llm.request import LlmRequest
from coterie.node.llm.shapes import chat_arguments, responses_arguments

if TYPE_CHECKING:
    from openai import AsyncOpenAI

OnHandle = Callable[[str], Awaitable[None]]
CONNECT_S = 10.0
RESUMES_MAX = 5
RESUME_PAUSE_S = 0.2
NO_KEY = "none"  # the library insists on one
RETRYABLE = frozenset({408, 409, 425, 429})


class Client:
    """One provider, on the side loop."""

    def __init__(self, settings: ProviderSettings) -> None:
        self.settings = settings
        self._openai: AsyncOpenAI | None = None

    async def prepare(self) -> None:
        """Have the library import what a first call would."""
        made = self._library()
        assert made.chat.completions and made.responses

    async def close(self) -> None:
        """Let go of the connections."""
        if self._openai is not None:
            await self._openai.close()

    async def ask(
        self, request: LlmRequest, headers: Mapping[str, str], on_text: OnText, on_handle: OnHandle
    ) -> Completion:
        """Call the provider. `on_handle` is awaited with the answer's id where it can be asked for again.
        Raises CallFault."""
        if self.settings.responses_api:
            return await self._respond(request, headers, on_text, on_handle)
        return await self._chat(request, headers, on_text)

    async def resume(self, handle: str, on_text: OnText) -> Completion:
        """The whole answer of that id, from its first word. Raises CallFault, or Gone."""
        return await self._follow(handle, ResponseCollector(on_text))

    # --- chat

    async def _chat(self, request: LlmRequest, headers: Mapping[str, str], on_text: OnText) -> Completion:
        collector = ChatCollector(on_text)
        async with _faults(sent=False) as stage:
            stream: Any = await self._library().chat.completions.create(
                **chat_arguments(request), extra_headers=dict(headers)
            )
            stage.sent = True
            async for _ in self._taken(stream, collector):
                """It keeps what it needs."""
            return collector.completion()

    # --- responses

    async def _respond(
        self, request: LlmRequest, headers: Mapping[str, str], on_text: OnText, on_handle: OnHandle
    ) -> Completion:
        collector = ResponseCollector(on_text)
        try:
            async with _faults(sent=False) as stage:
                stream: Any = await self._library().responses.create(
                    **responses_arguments(request), extra_headers=dict(headers)
                )
                stage.sent = True
                async for event in self._taken(stream, collector):
                    if request.provider.background and event.type == "response.created":
                        await on_handle(collector.response_id)
                return collector.completion()
        except CallFault as fault:
            unclear = fault.verdict is LlmVerdict.IN_DOUBT
            if not (unclear and request.provider.background and collector.response_id):
                raise
            return await self._follow(collector.response_id, collector)

    async def _follow(self, handle: str, collector: ResponseCollector) -> Completion:
        """What is missing of an answer that is made in the background, however often the line breaks."""
        failures = 0
        while not collector.over:
            before = collector.newest
            try:
                await self._follow_once(handle, collector)
                failures = 0 if collector.newest > before else failures + 1
                last: CallFault | None = None
            except CallFault as fault:
                failures = 1 if collector.newest > before else failures + 1
                last = fault
            if failures > RESUMES_MAX:
                raise last or CallFault("the answer does not go on", LlmVerdict.IN_DOUBT)
            if not collector.over:
                await asyncio.sleep(RESUME_PAUSE_S * failures)
        async with _faults(sent=True):
            return collector.completion()

    async def _follow_once(self, handle: str, collector: ResponseCollector) -> None:
        from openai import NotFoundError

        async with _faults(sent=True):
            try:
                after = {"starting_after": collector.newest} if collector.newest >= 0 else {}
                if not after:
                    collector.restart()
                stream: Any = await self._library().responses.retrieve(handle, stream=True, **after)  # type: ignore[call-overload]
            except NotFoundError as error:
                raise Gone(handle) from error
            async for _ in self._taken(stream, collector):
                """It keeps what it needs."""

    # --- inside

    async def _taken(self, stream: Any, collector: ChatCollector | ResponseCollector) -> AsyncIterator[Any]:
        """The items of a stream, as the collector takes them; a stall ends it, and an answer without end."""
        limit_s = self.settings.stall_timeout_ms / 1000
        items = aiter(stream)
        try:
            while not collector.full:
                try:
                    item = await asyncio.wait_for(anext(items), limit_s)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    text = f"no token for {limit_s:g} s"
                    raise CallFault(text, LlmVerdict.IN_DOUBT, code="LLM_STALLED") from None
                collector.take(item)
                yield item
        finally:
            await stream.close()

    def _library(self) -> AsyncOpenAI:
        if self._openai is None:
            from openai import AsyncOpenAI, Timeout

            self._openai = AsyncOpenAI(
                base_url=self.settings.base_url,
                api_key=self.settings.api_key or NO_KEY,
                max_retries=0,
                timeout=Timeout(self.settings.timeout_ms / 1000, connect=CONNECT_S),
            )
        return self._openai


class _faults:
    """Turns the library's errors into CallFault. `sent`: the request may have been billed."""

    def __init__(self, sent: bool) -> None:
        self.sent = sent

    async def __aenter__(self) -> _faults:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, CallFault | Gone) or not isinstance(error, Exception):
            return
        raise fault_of(error, self.sent) from error


def fault_of(error: Exception, sent: bool) -> CallFault:
    """What an error of the library means for the bill: refused, never sent, or nobody knows."""
    import httpx2
    from openai import APIConnectionError, APIStatusError

    cause: BaseException = error
    if isinstance(error, APIConnectionError) and error.__cause__ is not None:
        cause = error.__cause__
    text = str(error)[:500] or type(error).__name__
    if isinstance(error, APIStatusError) and not sent:
        return _refusal(error, text)
    if not sent and isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout):
        return CallFault(text, LlmVerdict.UNSENT, code="LLM_UNREACHABLE")
    if not sent and isinstance(error, TypeError | ValueError):  # what the library does not take
        return CallFault(text, LlmVerdict.UNSENT, code="BAD_LLM_CALL", permanent=True)
    return CallFault(text, LlmVerdict.IN_DOUBT, code="LLM_CUT_OFF")


def _refusal(error: Any, text: str) -> CallFault:
    status: int = error.status_code
    passing = status >= 500 or status in RETRYABLE
    code = "LLM_RATE_LIMITED" if status == 429 else "LLM_FAILED" if passing else "LLM_REFUSED"
    after = _seconds(error.response.headers.get("retry-after"))
    return CallFault(text, LlmVerdict.FAILED, code=code, permanent=not passing, retry_after_s=after)


def _seconds(value: str | None) -> float | None:
    try:
        return max(0.0, float(value)) if value is not None else None
    except ValueError:
        return None
