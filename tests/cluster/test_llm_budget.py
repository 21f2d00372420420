"""Budgets of language models on real nodes: never overshot, whoever dies; and what is told about them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from coterie.client import Budget, Cluster, InvalidRequest, NotFound, TaskFailed
from coterie.node.demo.llmserver.process import LlmServerProcess
from coterie.node.localcluster import LocalCluster
from tests.chaos.budget import race
from tests.cluster.conftest import READY_S, client_of, new_cluster, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def server() -> Iterator[LlmServerProcess]:
    with LlmServerProcess() as process:
        yield process


@pytest.fixture(scope="module")
def nodes(server: LlmServerProcess) -> Iterator[LocalCluster]:
    provider = {"baseUrl": server.url, "model": "m", "price": {"in": 1.0, "out": 2.0}}
    with new_cluster(options={"llm": {"providers": {"main": provider}}}) as cluster:
        asyncio.run(cluster.wait_ready(READY_S))
        yield cluster


@pytest.fixture
async def client(nodes: LocalCluster) -> AsyncIterator[Cluster]:
    async with client_of(nodes) as opened:
        yield opened


def asks(*prompts: str, **options: Any) -> dict[str, Any]:
    return {"asks": [{"prompt": prompt, "max_tokens": 20, **options} for prompt in prompts]}


async def test_a_task_waits_for_a_budget_without_a_process_and_goes_on_when_there_is_more(
    server: LlmServerProcess, client: Cluster
) -> None:
    before = len(server.bills)
    await client.usage.set_budget(Budget("wait", requests=2, agent="thrifty"))
    job = await client.submit_task(type="think", payload=asks("a", "b", "c"), agent="thrifty")

    async def waits() -> bool:
        return (await job.get()).wait_reason == "BUDGET"

    await until(waits, "the task waits for its budget")
    [budget] = await client.usage.budgets()
    assert [(one.requests, one.requests_reserved) for one in budget.accounts] == [(2, 0)]
    assert len(server.bills) == before + 2
    await client.usage.set_budget(Budget("wait", requests=10, agent="thrifty"))
    assert len((await job.wait(timeout=60))["answers"]) == 3
    assert len(server.bills) == before + 3, "what was answered is not asked again"
    await client.usage.remove_budget("wait")
    with pytest.raises(NotFound):
        await client.usage.remove_budget("wait")


async def test_a_budget_per_family_fails_its_calls_where_it_says_so(client: Cluster) -> None:
    await client.usage.set_budget(Budget("family", usd=0.000_36, task="*", fail=True))
    job = await client.submit_task(type="think", payload=asks("x" * 200, "y" * 200))
    with pytest.raises(TaskFailed) as failed:
        await job.wait(timeout=60)
    assert failed.value.task.error is not None and failed.value.task.error.code == "BUDGET_EXHAUSTED"
    other = await client.submit_task(type="think", payload=asks("x"))
    assert len((await other.wait(timeout=60))["answers"]) == 1
    await client.usage.remove_budget("family")


async def test_usage_is_told_by_whom_and_what_for(client: Cluster) -> None:
    job = await client.submit_task(type="think", payload=asks("how much?"), agent="counted")
    await job.wait(timeout=60)
    [row] = [row for row in await client.usage.rows() if row.agent == "counted"]
    assert (row.tenant, row.model, row.calls, row.in_doubt) == ("default", "m", 1, 0)
    assert row.micro_usd == row.tokens_in + 2 * row.tokens_out > 0
    by_agent = {row.agent: row for row in await client.usage.rows("agent")}
    assert by_agent["counted"].calls == 1 and by_agent["counted"].model == ""


async def test_all_that_is_wrong_with_a_budget_is_said_at_once(client: Cluster) -> None:
    with pytest.raises(InvalidRequest) as wrong:
        await client.usage.set_budget(Budget("a b", tokens=-1))
    assert {"budget.budget_id", "budget.tokens"} <= set(dict(wrong.value.violations))


def test_the_command_line_tells_it(nodes: LocalCluster) -> None:
    assert nodes.client_tls is not None
    where = ["--endpoint", nodes.endpoints, "--tls-dir", str(nodes.client_tls.ca.parent)]

    def said(*words: str) -> Any:
        command = [sys.executable, "-m", "coterie.node.cli", *where, "--json", *words]
        return json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)

    assert said("budgets", "set", "cli", "--tokens", "1000", "--window", "day")["budget"]["window"] == 86_400
    assert [one["id"] for one in said("budgets", "list")["budgets"]] == ["cli"]
    assert said("budgets", "rm", "cli")["removed"] == "cli"
    assert isinstance(said("usage", "--by", "model")["usage"], list)
    assert said("usage", "--in-doubt")["in_doubt"] == []


async def test_a_budget_is_never_overshot_while_a_leader_dies() -> None:
    figures = await race(callers=60, kills=1, width=10, pause_s=1.0)
    assert figures.faults == [] and figures.overshoot == 0
    assert figures.kills == 1 and figures.looks > 5
    assert 60 <= figures.bills <= 60 + figures.in_doubt
