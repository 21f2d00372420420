"""Language models behind real nodes: paid once, whatever dies, through the provider's library over HTTP."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from coterie.client import Cluster, Job, TaskFailed
from coterie.node.demo.llmserver.process import LlmServerProcess
from coterie.node.localcluster import LocalCluster
from tests.cluster.conftest import KEY, until
from tests.cluster.test_failover import running_on

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

# Calls that are to be killed last long: a busy machine may take seconds from their bill to the kill. The
# answer comes in pieces of eight characters.
LONG = ", and so on" * 8


async def think(client: Cluster, *asks: dict[str, Any], **more: Any) -> Job:
    return await client.submit_task(type="think", payload={"asks": list(asks), **more})


def billed(server: LlmServerProcess, job: Job) -> Counter[str]:
    """How often each step of the task was billed."""
    names = [bill["request_id"].split("/") for bill in server.bills]
    return Counter(step for task, step, _ in names if task == job.id)


async def arrived(server: LlmServerProcess, job: Job, count: int = 1) -> None:
    async def there() -> bool:
        return sum(billed(server, job).values()) >= count

    await until(there, f"{count} calls of {job.id} have arrived")


async def kill_its_node(nodes: LocalCluster, job: Job) -> str:
    node = await running_on(job)
    nodes.kill_node(node)
    return node


@pytest.mark.parametrize("provider", ["plain", "background", "keyed"])
async def test_answers_are_steps(server: LlmServerProcess, client: Cluster, provider: str) -> None:
    shape = {"type": "object", "properties": {"n": {"type": "integer"}}}
    tool = {"name": "clock", "description": "the time", "parameters": {"type": "object", "properties": {}}}
    server.script({"when": {"contains": "time"}, "answer": {"tool_calls": [{"name": "clock"}]}})
    job = await think(
        client,
        {"prompt": "Hello ä", "model": provider},
        {"prompt": "Count", "model": provider, "schema": shape},
        {"prompt": "What time?", "model": provider, "tools": [tool]},
    )
    hello, count, clock = (await job.wait(timeout=60))["answers"]
    assert hello["text"] == "You said: Hello ä" and hello["tokens"] > 0
    assert count["data"] == {"n": 1}
    assert clock["tool_calls"] == [["clock", {}]]
    assert billed(server, job) == {"llm": 1, "llm#2": 1, "llm#3": 1}
    steps = (await job.get(include_steps=True)).steps
    assert [step.name for step in steps] == ["llm", "llm#2", "llm#3"]


@pytest.mark.parametrize("provider", ["background", "keyed"])
async def test_a_node_killed_in_mid_call_costs_nothing_where_the_provider_can_be_asked_again(
    nodes: LocalCluster, server: LlmServerProcess, client: Cluster, provider: str
) -> None:
    text = "one two three four five six seven eight nine ten"
    server.script({"when": {"contains": f"{text} 1"}, "times": 1, "chunk_ms": 500})
    asks = [{"prompt": f"{text} {number}", "model": provider} for number in range(3)]
    job = await think(client, *asks)
    await arrived(server, job, 2)
    await asyncio.sleep(2.5)  # the second answer has begun
    killed = await kill_its_node(nodes, job)
    result = await job.wait(timeout=60)
    nodes.start_node(killed)
    assert result["attempt"] == 2
    assert [answer["text"] for answer in result["answers"]] == [f"You said: {text} {n}" for n in range(3)]
    assert billed(server, job) == {"llm": 1, "llm#2": 1, "llm#3": 1}


async def test_a_call_in_the_background_that_has_no_name_yet_stands_in_the_ledger(
    nodes: LocalCluster, server: LlmServerProcess, client: Cluster
) -> None:
    server.script({"times": 1, "first_ms": 15_000})  # the provider has the request, and has not said its id
    job = await think(client, {"prompt": "no name yet", "model": "background"})
    await arrived(server, job)
    killed = await kill_its_node(nodes, job)
    result = await job.wait(timeout=60)
    nodes.start_node(killed)
    assert (result["attempt"], result["answers"][0]["text"]) == (2, "You said: no name yet")
    assert billed(server, job) == {"llm": 2}
    [doubtful] = [one for one in await client.usage.in_doubt() if one.task_id == job.id]
    assert (doubtful.step, doubtful.call, doubtful.provider) == ("llm", 1, "background")


async def test_else_the_call_is_in_doubt_and_made_again(
    nodes: LocalCluster, server: LlmServerProcess, client: Cluster
) -> None:
    server.script({"when": {"contains": "second"}, "times": 1, "chunk_ms": 700})
    prompts = ["first", f"second of these two{LONG}", "third"]
    job = await think(client, *({"prompt": prompt} for prompt in prompts))
    await arrived(server, job, 2)
    killed = await kill_its_node(nodes, job)
    result = await job.wait(timeout=60)
    nodes.start_node(killed)
    assert [answer["text"][10:] for answer in result["answers"]] == prompts
    assert billed(server, job) == {"llm": 1, "llm#2": 2, "llm#3": 1}, "only what was in the air comes twice"


async def test_on_unknown_fail_never_pays_twice(
    nodes: LocalCluster, server: LlmServerProcess, client: Cluster
) -> None:
    server.script({"times": 1, "chunk_ms": 700})
    job = await think(client, {"prompt": f"once and never again{LONG}", "on_unknown": "fail"})
    await arrived(server, job)
    killed = await kill_its_node(nodes, job)
    with pytest.raises(TaskFailed) as failed:
        await job.wait(timeout=60)
    nodes.start_node(killed)
    assert failed.value.task.error is not None and failed.value.task.error.code == "LLM_IN_DOUBT"
    assert billed(server, job) == {"llm": 1}
    [doubtful] = [one for one in await client.usage.in_doubt() if one.task_id == job.id]
    assert (doubtful.step, doubtful.call, doubtful.provider) == ("llm", 1, "plain") and doubtful.tokens > 0


async def test_on_unknown_ask_waits_for_a_word(
    nodes: LocalCluster, server: LlmServerProcess, client: Cluster
) -> None:
    server.script({"when": {"contains": "shall I"}, "times": 1, "disconnect": 2})
    job = await think(client, {"prompt": "shall I do it again?", "on_unknown": "ask"})

    async def waits() -> bool:
        return (await job.get()).wait_reason == "APPROVAL"

    await until(waits, "the task waits for an approval")
    await job.signal("llm/llm/1", {"retry": True})
    assert (await job.wait(timeout=60))["answers"][0]["text"] == "You said: shall I do it again?"
    assert billed(server, job) == {"llm": 2}


async def test_failures_of_the_provider_are_retried(server: LlmServerProcess, client: Cluster) -> None:
    server.script(
        {"times": 1, "fail": {"status": 500}},
        {"times": 1, "fail": {"status": 429, "retry_after": 0.2}},
        {"times": 1, "stall": 3},
    )
    job = await think(client, {"prompt": "anybody there?"})
    assert (await job.wait(timeout=60))["answers"][0]["text"] == "You said: anybody there?"
    assert billed(server, job) == {"llm": 2}, "refusals are free, a stall is not"


async def test_what_the_provider_refuses_fails_the_task_at_once(
    server: LlmServerProcess, client: Cluster
) -> None:
    server.script({"fail": {"status": 400}})
    for ask, code in (
        ({"prompt": "x"}, "LLM_REFUSED"),
        ({"prompt": "x", "budget": 5}, "BUDGET_EXHAUSTED"),
        ({"prompt": "x", "temperature": "hot"}, "BAD_LLM_CALL"),
    ):
        job = await think(client, ask)
        with pytest.raises(TaskFailed) as failed:
            await job.wait(timeout=60)
        assert failed.value.task.error is not None and failed.value.task.error.code == code
        assert failed.value.task.failures == 1 and KEY not in str(failed.value.task.error)


async def test_equal_requests_share_one_call_across_nodes(
    nodes: LocalCluster, server: LlmServerProcess, client: Cluster
) -> None:
    server.script(chunk_ms=50)
    ask = {"prompt": "the same for all", "cache_ttl": 60, "temperature": 0}
    payload = {"asks": [ask]}
    jobs = [
        await client.submit_task(type="think", payload=payload, target_node=nodes.node_ids[number % 3])
        for number in range(8)
    ]
    results = [(await job.wait(timeout=60))["answers"][0] for job in jobs]
    assert {result["text"] for result in results} == {"You said: the same for all"}
    assert sum(sum(billed(server, job).values()) for job in jobs) == 1
    assert sum(result["cached"] for result in results) == 7
    assert {(await job.get()).node for job in jobs} == set(nodes.node_ids)
