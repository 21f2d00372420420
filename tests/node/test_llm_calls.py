"""ctx.llm over the real calls, rules and library against a scripted provider; only the nodes are left out."""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from pydantic import BaseModel

from coterie.core.breaker_commands import ResetBreaker
from coterie.core.breakers import BreakerState
from coterie.core.commands import Command, ConfigureCluster, ExpireTask, Outcome, SuspendTask
from coterie.core.llm.commands import SetLlmBudget
from coterie.core.llm.nouns import LlmBudget
from coterie.core.nouns import ExpiryKind, TaskId, TaskState, WaitReason
from coterie.node.breakers import Breakers
from coterie.node.config import LlmSettings, ProviderSettings
from coterie.node.demo.llmserver.http import Exchange, Request
from coterie.node.demo.llmserver.script import Script
from coterie.node.demo.llmserver.server import LlmServer
from coterie.node.llm.calls import LlmCaller
from coterie.node.llm.retrying import RetryBudget
from coterie.node.llm.tokens import TokenHub
from coterie.node.skillhost.nouns import Suspended
from coterie.skills import CallFailed, CallRefused, LlmAnswer, SkillContext
from tests.node.family_bench import FamilyBench
from tests.node.test_breakers import FakeClock, FakeProposer

PROVIDER = ProviderSettings(
    name="main",
    base_url="",
    api_key="sk-main",
    model="m",
    responses_api=False,
    background=False,
    idempotency_keys=False,
    price_in=1_000_000,
    price_out=2_000_000,
    timeout_ms=20_000,
    stall_timeout_ms=20_000,
    tries_max=20,
    output_tokens_max=100,
    bytes_per_token=1,
)
BREAKER = {"breaker_failures": 3, "breaker_recovery_ms": 60_000, "breaker_probes": 1}


class Listening(LlmServer):
    """A provider that notes what it is asked for."""

    async def serve(self, request: Request, exchange: Exchange) -> None:
        asked.append((request.path, dict(request.query), request.headers.get("authorization", "")))
        keys.append(request.headers.get("idempotency-key", ""))
        bodies.append(json.loads(request.body or b"null"))
        if len(keys) > 1 and refusals:
            await exchange.json(refusals.pop(0), {})
        else:
            await super().serve(request, exchange)


asked: list[tuple[str, dict[str, str], str]] = []
keys: list[str] = []
bodies: list[Any] = []
refusals: list[int] = []  # statuses of the requests after the first one


class AheadClock(FakeClock):
    """Ten minutes before everybody else's."""

    def now_ms(self) -> int:
        return super().now_ms() + 600_000


class World:
    """Two nodes that use the same providers, and one task at a time."""

    def __init__(self, server: LlmServer, url: str, **policy: int) -> None:
        self.server, self.bench = server, FamilyBench(lambda kind, payload: None, {"x": _nothing}, **policy)
        main = replace(PROVIDER, base_url=url)
        self.settings = LlmSettings(
            "main",
            "retry",
            {
                "main": main,
                "back": replace(main, name="back", responses_api=True, background=True),
                "keyed": replace(main, name="keyed", idempotency_keys=True),
                "other": replace(main, name="other", api_key="sk-other", model="n"),
                "hasty": replace(main, name="hasty", timeout_ms=3_000),
                "brief": replace(main, name="brief", stall_timeout_ms=300),
            },
        )
        self.nodes = [self.caller(), self.caller()]

    def caller(self, clock: FakeClock | None = None) -> LlmCaller:
        core = self.bench.core
        proposer: Any = FakeProposer(core)
        clock = clock or FakeClock(core)
        return LlmCaller(self.settings, Breakers(lambda: core.state, proposer, clock), clock, TokenHub())

    async def ask(self, prompt: str, node: int = 0, **options: Any) -> LlmAnswer:
        async def run(ctx: SkillContext) -> LlmAnswer:
            return await ctx.llm(prompt, **options)

        self.bench.handlers = self.nodes[node].handlers
        answer: LlmAnswer = await self.bench.attempt(run)
        return answer

    def script(self, *rules: dict[str, Any], chunk_ms: int = 0, first_ms: int = 0) -> None:
        self.server.script = Script(list(rules), chunk_ms, first_ms)

    @property
    def bills(self) -> int:
        return sum(bill["billed"] for bill in self.server.bills)


async def _nothing(run: Any, args: Any) -> None:
    return None


@pytest.fixture
async def world() -> AsyncIterator[World]:
    for noted in (asked, keys, bodies, refusals):
        noted.clear()
    server = Listening()
    listener = await server.start("127.0.0.1", 0)
    made = World(server, f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1", **BREAKER)
    for name in ("chat", "responses"):  # takes its time on a busy machine, and calls have little
        await asyncio.to_thread(importlib.import_module, f"openai.resources.{name}")
    yield made
    for node in made.nodes:
        await node.close()
    listener.close()
    await listener.wait_closed()


async def test_a_broken_line_goes_on_after_the_last_event_for_one_bill(world: World) -> None:
    world.script({"times": 1, "disconnect": 2})
    answer = await world.ask("one two three four five six", model="back")
    assert answer.text == "You said: one two three four five six" and world.bills == 1
    again = [query for path, query, _ in asked if path != "/v1/responses"]
    assert len(again) == 1 and again[0]["stream"] == "true" and int(again[0]["starting_after"]) >= 1


@pytest.mark.parametrize("statuses", [[409], [503], []])
async def test_what_may_have_been_billed_is_asked_for_again_under_its_key_alone(
    world: World, statuses: list[int]
) -> None:
    world.script({"times": 1, "disconnect": 0})
    refusals[:] = statuses
    answer = await world.ask("twice?", model="keyed")
    assert answer.text == "You said: twice?" and world.bills == 1
    assert len(keys) == 2 + len(statuses) and len(set(keys)) == 1
    assert not world.bench.core.state.llm.doubtful


async def test_a_call_that_was_left_open_keeps_its_key_over_a_refusal(world: World) -> None:
    keyed = replace(world.settings.providers["keyed"], tries_max=1)  # every fault ends the attempt
    world.settings = replace(world.settings, providers={"keyed": keyed})
    world.nodes.append(world.caller())
    world.script({"times": 1, "disconnect": 0})
    refusals[:] = [429]
    for _ in range(2):
        with pytest.raises(CallFailed):
            await world.ask("twice?", node=2, model="keyed")
    assert (await world.ask("twice?", node=2, model="keyed")).text == "You said: twice?"
    assert world.bills == 1 and len(keys) == 3 and len(set(keys)) == 1


async def test_what_was_sent_and_is_then_refused_stands_in_the_ledger(world: World) -> None:
    world.script({"times": 1, "disconnect": 0})
    refusals[:] = [400, 400]
    with pytest.raises(CallRefused) as refused:
        await world.ask("twice?", model="keyed")
    assert refused.value.code == "LLM_REFUSED" and world.bills == 1
    assert [one.number for one in world.bench.core.state.llm.doubtful.values()] == [1]
    [sums] = world.bench.core.state.llm.usage.values()
    assert (sums.in_doubt, sums.failed) == (1, 1)


@pytest.mark.parametrize(
    ("model", "sent"),
    [
        ("main", {"reasoning_effort": "low", "top_k": 5}),
        ("back", {"reasoning": {"effort": "low"}, "top_k": 5}),
    ],
)
async def test_further_parameters_are_given_on_in_the_words_of_the_api(
    world: World, model: str, sent: dict[str, Any]
) -> None:
    extra = {"reasoning_effort": "low", "top_k": 5}
    assert (await world.ask("well?", model=model, extra=extra)).text == "You said: well?"
    assert bodies[0].items() >= sent.items() and ("reasoning_effort" in bodies[0]) == (model == "main")
    assert world.bills == 1 and not world.bench.core.state.llm.doubtful


@pytest.mark.parametrize(
    "extra",
    [
        *({"n": 5}, {"model": "dear"}, {"max_completion_tokens": 10**6}, {"previous_response_id": "r"}),
        *({"extra_body": {"n": 5}}, {"timeout": 1}),
    ],
)
async def test_no_parameter_lets_a_call_cost_more_than_was_set_aside(
    world: World, extra: dict[str, Any]
) -> None:
    with pytest.raises(CallRefused, match=f"extra: .*{next(iter(extra))}") as refused:
        await world.ask("more?", extra=extra)
    assert refused.value.code == "BAD_LLM_CALL" and not bodies


@pytest.mark.parametrize(("model", "word"), [("main", "response_format"), ("back", "text")])
async def test_the_calls_own_parameters_stand_before_further_ones(
    world: World, model: str, word: str
) -> None:
    schema = {"type": "object"}
    extra = {word: {"verbosity": "low", "type": "text", "format": 1}, "temperature": 2}
    await world.ask("well?", model=model, extra=extra, temperature=0, schema=schema)
    assert '"schema": {"type": "object"}' in json.dumps(bodies[0][word])
    assert bodies[0][word]["verbosity"] == "low" and bodies[0]["temperature"] == 0


async def test_providers_have_keys_and_models_of_their_own(world: World) -> None:
    for model, provider, name, key in (
        (None, "main", "m", "sk-main"),
        ("other", "other", "n", "sk-other"),
        ("other/large", "other", "large", "sk-other"),
        ("large", "main", "large", "sk-main"),
    ):
        answer = await world.ask(f"{model}?", name=f"{provider}-{name}", model=model)
        assert (answer.provider, world.server.bills[-1]["model"]) == (provider, name)
        assert asked[-1][2] == f"Bearer {key}"


async def test_retries_are_no_more_than_their_budget(world: World) -> None:
    policy = replace(world.bench.core.state.meta.policy, breaker_failures=0)
    world.bench.core.do(ConfigureCluster("c", "c", policy))
    world.script({"fail": {"status": 500}})
    with pytest.raises(CallFailed) as failed:
        await world.ask("anybody?")
    assert failed.value.code == "LLM_FAILED"
    assert len(world.server.bills) == 1 + RetryBudget.FULL
    with pytest.raises(CallFailed):
        await world.ask("and now?", name="later")
    assert len(world.server.bills) == 2 + RetryBudget.FULL, "nothing is left for a retry"
    assert world.bills == 0


@pytest.mark.parametrize(
    ("model", "rule", "code"),
    [("hasty", {"first_ms": 60_000}, "no answer in 3000 ms"), ("brief", {"stall": 2}, "no token for 0.3 s")],
)
async def test_what_takes_too_long_may_have_been_billed(
    world: World, model: str, rule: dict[str, Any], code: str
) -> None:
    world.script(rule)
    with pytest.raises(CallRefused, match=code) as refused:
        await world.ask("slow?", model=model, on_unknown="fail")
    assert refused.value.code == "LLM_IN_DOUBT" and world.bills == 1
    [doubtful] = world.bench.core.state.llm.doubtful.values()
    assert code in doubtful.reason


async def test_the_breaker_of_a_provider_is_that_of_all_nodes_and_of_it_alone(world: World) -> None:
    world.script({"when": {"model": "m"}, "fail": {"status": 503}})
    with pytest.raises(CallFailed) as failed:
        await world.ask("down?")
    assert failed.value.code == "CIRCUIT_OPEN" and len(world.server.bills) == 3
    assert world.bench.core.state.breakers["provider:main"].state is BreakerState.OPEN
    assert (await world.ask("another?", node=1, name="c", model="other")).provider == "other"
    with pytest.raises(Suspended):
        await world.ask("on the other node?", node=1, name="b")
    assert len(world.server.bills) == 4, "nobody asked"


async def test_a_task_sleeps_behind_the_breaker_of_a_provider_and_uses_up_no_attempt(world: World) -> None:
    world.script({"times": 3, "fail": {"status": 503}})
    with pytest.raises(CallFailed):  # its own calls have failed
        await world.ask("down?")
    with pytest.raises(Suspended):
        await world.ask("still down?")
    core = world.bench.core
    task = core.task("p")
    assert task.state is TaskState.WAITING and task.wait is not None and task.failures == 0
    assert (task.wait.reason, task.wait.name) == (WaitReason.CIRCUIT_OPEN, "provider:main")
    assert 55_000 < task.wait.until_ms - core.now_ms < 80_000
    core.do(ResetBreaker("provider:main"))
    assert core.task("p").state is TaskState.PENDING, "who closes it wakes those who wait"
    core.assign("p")
    assert (await world.ask("still down?")).text == "You said: still down?" and world.bills == 1


async def test_who_slept_behind_a_breaker_probes_when_its_time_has_come(world: World) -> None:
    world.script({"times": 3, "fail": {"status": 503}})
    with pytest.raises(CallFailed):
        await world.ask("down?")
    with pytest.raises(Suspended):
        await world.ask("still down?")
    core = world.bench.core
    wait = core.task("p").wait
    assert wait is not None
    core.now_ms = wait.until_ms
    core.do(ExpireTask(TaskId("p"), core.task("p").attempt, ExpiryKind.WAIT))
    core.assign("p")
    assert (await world.ask("still down?")).text == "You said: still down?"
    assert core.state.breakers["provider:main"].state is BreakerState.CLOSED


async def test_a_budget_that_is_raised_as_a_task_goes_to_sleep_lets_it_ask_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = world.bench.core
    core.do(SetLlmBudget(LlmBudget("b", requests=1)))
    await world.ask("the first", name="a")
    do, waits = core.do, list[SuspendTask]()

    def raised(command: Command) -> Outcome:
        if isinstance(command, SuspendTask):
            waits.append(command)
            do(SetLlmBudget(LlmBudget("b", requests=2)))
        return do(command)

    monkeypatch.setattr(core, "do", raised)
    assert (await world.ask("the second", name="b")).text == "You said: the second"
    assert [wait.reason for wait in waits] == [WaitReason.BUDGET]
    with pytest.raises(Suspended):  # the budget is the same as when it was asked
        await world.ask("the third", name="c")


async def test_equal_requests_are_answered_by_what_is_kept_and_that_is_counted(world: World) -> None:
    options: dict[str, Any] = {"cache_ttl": 60, "temperature": 0}
    first = await world.ask("the same", name="a", **options)
    second = await world.ask("the same", node=1, name="b", **options)
    assert (first.cached, second.cached, world.bills) == (False, True, 1)
    assert (await world.ask("the same", name="c", cache_ttl=60, temperature=1)).cached is False
    assert (await world.ask("the same", name="d", model="other", **options)).cached is False
    assert (await world.ask("the same", name="e")).cached is False, "and not where nobody asked for it"
    here, there = (node.gauges() for node in world.nodes)
    assert here['llm_cache_lookups_total{result="miss"}'] == 3 and here["llm_cache_hit_ratio"] == 0
    assert there['llm_cache_lookups_total{result="hit"}'] == 1 and there["llm_cache_hit_ratio"] == 1
    world.bench.core.now_ms += 61_000
    assert (await world.ask("the same", node=1, name="f", **options)).cached is False
    assert world.nodes[1].gauges()["llm_cache_hit_ratio"] == 0.5


async def test_an_answer_is_kept_by_the_time_of_the_log_whatever_the_clock_of_a_node_says(
    world: World,
) -> None:
    """A node that does not know yet of an answer, or takes it for old, asks nobody: the log tells it."""
    await world.ask("the same", cache_ttl=60, temperature=0)
    world.nodes.append(world.caller(AheadClock(world.bench.core)))
    answer = await world.ask("the same", node=2, name="b", cache_ttl=60, temperature=0)
    assert answer.cached and world.bills == 1


class Count(BaseModel):
    """An answer in a form."""

    n: int


async def test_an_answer_that_does_not_fit_its_schema_is_sent_back_once(world: World) -> None:
    wrong, right = {"text": "seven"}, {"text": json.dumps({"n": 7})}
    world.script({"when": {"contains": "does not fit"}, "answer": right}, {"answer": wrong})
    answer = await world.ask("count", schema=Count)
    assert answer.data == Count(n=7)
    steps = [step.key for step in world.bench.core.state.steps["p"]]  # type: ignore[index]
    assert steps == ["llm", "llm.repair1"] and world.bills == 2
