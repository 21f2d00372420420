"""One call of a model as a step of a task: begun in the log, made once, settled in the log.

What an earlier attempt left open is resolved first: asked for again where the provider can tell, else in
doubt: sent, and nobody knows whether it was answered; then it counts at its worst."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from coterie.core.commands import Accepted, Outcome, RecordStep, Rejected
from coterie.core.llm.commands import BeginLlmCall, NoteLlmHandle, SettleLlmCall
from coterie.core.llm.nouns import LlmCall, LlmVerdict
from coterie.core.nouns import NO_DATA
from coterie.core.ports import NotCommitted
from coterie.node.breakers import Breakers, CircuitOpen, Permit
from coterie.node.clock import Clock
from coterie.node.llm.completion import CallFault, Completion, Gone, OnText, Usage, in_doubt
from coterie.node.llm.provider import Provider
from coterie.node.llm.request import LlmRequest, cost
from coterie.node.llm.retrying import RetryBudget, pause_s
from coterie.node.llm.waiting import wait_for_flight, wait_for_provider, wait_for_room
from coterie.node.skill_calls import Run
from coterie.node.skillhost.nouns import SkillWait
from coterie.skills import CallFailed, CallRefused

HEADER_CHARS_MAX = 500
REASON_CHARS_MAX = 200


@dataclass(frozen=True, slots=True)
class Desk:
    """What calls share on a node."""

    provider: Callable[[str], Provider | None]
    breakers: Breakers
    budgets: Mapping[str, RetryBudget]
    clock: Clock
    open_stream: Callable[[str, str, int, int], OnText]
    counts: Counter[str]
    tokens: Counter[str]
    cache: Counter[str]


class OneCall:
    """One step. `policy` says what follows a doubt: retry, ask or fail."""

    def __init__(self, desk: Desk, run: Run, request: LlmRequest, policy: str) -> None:
        self._desk, self._run, self._request, self._policy = desk, run, request, policy
        self._key = request.args.key
        self._failures = self._streams = 0

    async def answer(self) -> dict[str, Any]:
        """The recorded answer. Raises CallRefused, CallFailed, Fenced, Suspended."""
        known = self._run.state.llm.find(self._run.task_id, self._key)
        number = known.number if known is not None else 0
        if known is not None and not known.open:
            await self._ponder(known)
        elif known is not None:
            found = await self._resolve(known)
            if found is not None:
                return found
        while True:
            number += 1
            kept = await self._begin(number)
            if kept is not None:
                return kept
            found = await self._try(number, "new")
            if found is not None:
                return found

    # --- what an earlier attempt left

    async def _resolve(self, known: LlmCall) -> dict[str, Any] | None:
        """An open call: its answer if there is one to be had. Else it is in doubt, and the policy decides."""
        client = self._desk.provider(known.provider)
        if client is not None and known.handle:
            try:
                writer = self._writer()
                completion = await client.resume(known.handle, writer)
                return await self._settle(known.number, completion, "resumed")
            except (CallFault, Gone) as fault:
                await self._doubt(known.number, f"its answer is not to be had: {fault}")
                return None
        same = (
            known.request_hash == self._request.request_hash and known.provider == self._request.provider.name
        )
        if client is not None and same and client.settings.idempotency_keys:
            return await self._try(known.number, "resumed")
        await self._doubt(known.number, f"attempt {known.attempt} ended while it was in the air")
        return None

    async def _ponder(self, known: LlmCall) -> None:
        """A call that was in doubt when an earlier attempt began to wait for somebody's word on it."""
        name = f"{known.task_id}\0{known.key}\0{known.number}"
        if self._policy == "ask" and name in self._run.state.llm.doubtful:
            await self._ask_somebody(known.number)

    async def _doubt(self, number: int, reason: str) -> None:
        """Put it in the ledger. Returns where the call may be made again."""
        self._desk.counts["in_doubt"] += 1
        await self._close(number, LlmVerdict.IN_DOUBT, reason)
        if self._policy == "fail":
            text = f"call {number} of step {self._key} may have been billed ({reason}), and onUnknown is fail"
            raise CallRefused(text, code="LLM_IN_DOUBT")
        if self._policy == "ask":
            await self._ask_somebody(number)

    async def _ask_somebody(self, number: int) -> None:
        """Suspends until the signal llm/<step>/<number> says {"retry": true} or anything else."""
        name = f"llm/{self._key.replace('#', '.')}/{number}"
        signal = await self._run.await_signal(SkillWait("APPROVAL", name, 0, 0))
        said = json.loads(await self._run.load(signal.payload) or b"null")
        if not (isinstance(said, dict) and said.get("retry") is True):
            raise CallRefused(f"signal {name} does not say retry: true", code="LLM_IN_DOUBT")

    # --- a new call

    async def _begin(self, number: int) -> dict[str, Any] | None:
        """Commit the intent with its reservation. An answer: that of an equal request."""
        request, run = self._request, self._run
        alone = told = False
        while True:
            kept = await self._cached(number, told=told)
            if kept is not None:
                return kept
            budgets = run.state.llm.mark  # before the question: a change since then ends the wait
            outcome = await run.commit_own(
                BeginLlmCall(
                    run.task_id,
                    run.attempt,
                    self._key,
                    number,
                    request.provider.name,
                    request.model,
                    request.request_hash,
                    request.tokens_max,
                    request.micro_usd_max,
                    request.cache_key,
                    alone,
                )
            )
            if isinstance(outcome, Accepted):
                self._desk.cache["miss"] += bool(request.cache_key)
                return None
            told = outcome.code == "LLM_ANSWER_KEPT"
            if told:
                continue
            if outcome.code == "LLM_IN_FLIGHT":
                self._desk.counts["joined"] += 1
                alone = not await wait_for_flight(run, request)
            elif outcome.code == "BUDGET_WAIT":
                await wait_for_room(run, outcome, budgets, self._desk.clock)
            else:
                raise _refusal(outcome)

    async def _cached(self, number: int, *, told: bool) -> dict[str, Any] | None:
        """A kept answer to an equal request, recorded as this step. `told`: by the log, whose time counts."""
        request, run = self._request, self._run
        kept = run.state.llm.cache.get(request.cache_key) if request.cache_key else None
        now_ms = 0 if told else max(run.state.meta.clock_ms, self._desk.clock.now_ms())
        if kept is None or kept.until_ms <= now_ms:
            return None
        record: dict[str, Any] = {**json.loads(kept.result.inline), "cached": True}
        self._streams += 1  # it makes void what was seen of a try before it
        record |= {"attempt": run.attempt, "stream": self._streams, "call": number}
        self._believe(
            await run.commit_own(
                RecordStep(
                    run.task_id,
                    run.attempt,
                    self._key,
                    await run.keep(_bytes(record)),
                    request.args.beside,
                )
            )
        )
        self._desk.counts["cached"] += 1
        self._desk.cache["hit"] += 1
        run.step_recorded()
        return record

    async def _try(self, number: int, outcome: str) -> dict[str, Any] | None:
        """Call the provider. None: the call is settled without an answer, and another may be begun. One that
        may have been billed under its key is never held for unbilled, whatever becomes of its repetition."""
        sent = outcome == "resumed"
        while True:
            try:
                completion = await self._ask(number)
            except CallFault as fault:
                sent = sent or fault.verdict is LlmVerdict.IN_DOUBT
                same_again = sent and self._request.provider.idempotency_keys and not fault.permanent
                if not same_again:
                    await self._fail(number, in_doubt(fault) if sent else fault)
                await self._pause(fault)
                if not same_again:
                    return None
            else:
                return await self._settle(number, completion, outcome)

    async def _ask(self, number: int) -> Completion:
        request = self._request
        client = self._desk.provider(request.provider.name)
        assert client is not None, "the request was read from the same settings"
        permit = await self._permit()
        try:
            completion = await self._ask_client(client, number)
        except CallFault as fault:
            theirs = not fault.permanent and fault.retry_after_s is None
            await (permit.failed(str(fault)) if theirs else permit.unused())
            raise
        except BaseException:
            await permit.unused()
            raise
        await permit.passed()
        return completion

    async def _permit(self) -> Permit:
        """Of the provider's breaker. Raises CallFault."""
        provider = self._request.provider
        try:
            return await self._desk.breakers.allow(f"provider:{provider.name}", provider.timeout_ms)
        except (CircuitOpen, NotCommitted) as error:
            text = f"provider {provider.name}: {error}"
            left_ms = error.retry_after_ms if isinstance(error, CircuitOpen) else None
            after_s = left_ms / 1000 if left_ms else None
            raise CallFault(text, LlmVerdict.UNSENT, code="CIRCUIT_OPEN", retry_after_s=after_s) from error

    async def _ask_client(self, client: Provider, number: int) -> Completion:
        request = self._request
        limit_ms = request.args.timeout_ms or request.provider.timeout_ms
        try:
            async with asyncio.timeout(limit_ms / 1000):
                return await client.ask(
                    request, self._headers(number), self._writer(), lambda h: self._handle(number, h)
                )
        except TimeoutError:
            raise CallFault(
                f"no answer in {limit_ms} ms", LlmVerdict.IN_DOUBT, code="LLM_TIMED_OUT"
            ) from None

    def _headers(self, number: int) -> dict[str, str]:
        name = quote(f"{self._run.task_id}/{self._key}/{number}", safe="/#")[:HEADER_CHARS_MAX]
        headers = {"X-Client-Request-Id": name}
        if self._request.provider.idempotency_keys:
            headers["Idempotency-Key"] = hashlib.sha256(name.encode()).hexdigest()
        return headers

    def _writer(self) -> OnText:
        self._streams += 1
        if not self._request.args.stream:
            return lambda text: None
        return self._desk.open_stream(self._run.task_id, self._key, self._run.attempt, self._streams)

    async def _handle(self, number: int, handle: str) -> None:
        run = self._run
        self._believe(
            await run.commit_own(NoteLlmHandle(run.task_id, run.attempt, self._key, number, handle))
        )

    # --- the end of a call

    async def _settle(self, number: int, completion: Completion, outcome: str) -> dict[str, Any]:
        request, run = self._request, self._run
        usage = completion.usage or Usage(request.tokens_in_max, request.max_tokens)
        price = cost(request.provider, usage.tokens_in, usage.tokens_out)
        facts = {
            "provider": request.provider.name,
            "call": number,
            "attempt": run.attempt,
            "stream": self._streams,
            "usage": {
                "tokens_in": usage.tokens_in,
                "tokens_out": usage.tokens_out,
                "tokens_cached": usage.tokens_cached,
                "micro_usd": price,
                "estimated": completion.usage is None,
            },
        }
        if request.cache_key:
            facts["kept_as"] = request.cache_key
        record = completion.record(facts)
        settled = SettleLlmCall(
            run.task_id,
            run.attempt,
            self._key,
            number,
            LlmVerdict.DONE,
            await run.keep(_bytes(record)),
            usage.tokens_in,
            usage.tokens_out,
            usage.tokens_cached,
            price,
            request.args.cache_ttl_ms,
            beside=request.args.beside,
        )
        self._believe(await run.commit_own(settled))
        self._count(usage, outcome)
        run.step_recorded()
        return record

    def _count(self, usage: Usage, outcome: str) -> None:
        self._desk.budgets[self._request.provider.name].answered()
        self._desk.counts[outcome] += 1
        self._desk.tokens["in"] += usage.tokens_in
        self._desk.tokens["out"] += usage.tokens_out

    async def _fail(self, number: int, fault: CallFault) -> None:
        """Settle a call that went wrong. Raises where it would again, or where nobody may repeat it."""
        if fault.verdict is LlmVerdict.IN_DOUBT:
            await self._doubt(number, str(fault))
            return
        self._desk.counts["failed"] += 1
        await self._close(number, fault.verdict, str(fault))
        if fault.permanent:
            raise CallRefused(str(fault), code=fault.code)

    async def _pause(self, fault: CallFault) -> None:
        """Before the next try. Raises CallFailed where there shall be none: the task's own retries follow.
        Behind a breaker that others opened it sleeps: failing would use up attempts while nobody asks."""
        provider = self._request.provider
        if fault.code == "CIRCUIT_OPEN" and fault.retry_after_s and not self._failures:
            name = f"provider:{provider.name}"
            await wait_for_provider(self._run, name, round(fault.retry_after_s * 1000))
            return
        self._failures += 1
        if (
            fault.code == "CIRCUIT_OPEN"
            or self._failures >= provider.tries_max
            or not self._desk.budgets[provider.name].take()
        ):
            raise CallFailed(str(fault), code=fault.code)
        await asyncio.sleep(pause_s(self._failures, self._desk.clock.dice(), fault.retry_after_s))

    async def _close(self, number: int, verdict: LlmVerdict, reason: str) -> None:
        run = self._run
        settled = SettleLlmCall(
            run.task_id, run.attempt, self._key, number, verdict, NO_DATA, reason=reason[:REASON_CHARS_MAX]
        )
        self._believe(await run.commit_own(settled))

    def _believe(self, outcome: Outcome) -> None:
        if isinstance(outcome, Rejected):
            raise _refusal(outcome)


def _refusal(outcome: Rejected) -> CallRefused:
    return CallRefused(outcome.reason, code=outcome.code)


def _bytes(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
