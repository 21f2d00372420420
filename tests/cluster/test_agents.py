"""Agents on real nodes: a scripted model behind the provider's library, tools as tasks, nodes killed."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from coterie.client import Cluster, InvalidRequest, Job, TaskFailed
from coterie.client.agents import Agent
from coterie.node.demo.llmserver.process import LlmServerProcess
from coterie.node.localcluster import LocalCluster
from tests.cluster.conftest import READY_S, client_of, llm_options, new_cluster, until
from tests.cluster.test_failover import running_on
from tests.cluster.test_mcp import SERVER as MCP_SERVER

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

ADD = {"name": "add-up", "arguments": {"results": [1, 2, 3]}}


@pytest.fixture(scope="module")
def nodes(server: LlmServerProcess, key_file: Path) -> Iterator[LocalCluster]:
    command = [sys.executable, MCP_SERVER, "--ledger", str(key_file.with_name("ledger"))]
    toolbox = {"command": command, "allow": ["add", "send", "fail"], "class": "idempotent"}
    options = {**llm_options(server, key_file), "mcp": {"servers": {"toolbox": toolbox}}}
    with new_cluster(options=options) as cluster:
        asyncio.run(cluster.wait_ready(READY_S))
        yield cluster


async def applied(
    client: Cluster,
    name: str,
    *skills: str,
    percent: int = 100,
    tools: Any = None,
    registry: Any = None,
    **config: Any,
) -> Agent:
    bound = [{"skill_id": skill} for skill in skills]
    document = {"agent": {"id": name, "skills": bound, **config}}
    files = {"config.yaml": yaml.safe_dump(document), "SOUL.md": f"# Who I Am\nI am {name}."}
    if tools is not None:
        files["tools-config.json"] = json.dumps(tools)
    if registry is not None:
        files["registry.json"] = json.dumps({"id": name, **registry})
    return await client.agents.apply(files, percent=percent)


async def ask(client: Cluster, agent: str, prompt: str, **more: Any) -> Job:
    return await client.submit_task(type="agent", agent=agent, payload={"prompt": prompt, **more})


def calls(*tools: dict[str, Any]) -> dict[str, Any]:
    return {"tool_calls": list(tools)}


def handoff(part: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": "handoff", "arguments": {**part, **more}}


def asked(server: LlmServerProcess, job: Job) -> Counter[str]:
    names = [bill["request_id"].split("/") for bill in server.bills]
    return Counter(step for task, step, _ in names if task == job.id)


async def test_an_agent_thinks_acts_and_answers(server: LlmServerProcess, client: Cluster) -> None:
    await applied(client, "adder", "shared/add-up")
    server.script(
        {"when": {"turn": 0}, "answer": calls(ADD, {**ADD, "arguments": {"results": [4]}})},
        {"when": {"tool": "*"}, "answer": {"text": "The last sum is {last}."}},
    )
    job = await ask(client, "adder", "Add these up", context={"rows": [1, 2]})
    result = await job.wait(timeout=60)
    assert result["answer"].startswith("The last sum is ") and result["finish"] == "answer"
    assert (result["turns"], result["calls"], result["agent"]) == (2, 2, "adder")
    assert result["usage"]["tokens_in"] > 0 and result["revision"] == (await client.agents.get("adder")).live
    assert asked(server, job) == {"think1": 1, "think2": 1}


async def test_what_goes_wrong_in_a_tool_is_told_to_the_model(
    server: LlmServerProcess, client: Cluster
) -> None:
    await applied(client, "clumsy", "add-up")
    server.script(
        {"when": {"turn": 0}, "answer": calls({"name": "fly", "arguments": {}})},
        {"when": {"contains": "there is no tool 'fly'"}, "answer": calls({**ADD, "arguments": {"x": 1}})},
        {"when": {"contains": "error: "}, "answer": {"text": "I give up: {last}"}},
    )
    result = await (await ask(client, "clumsy", "go")).wait(timeout=60)
    assert result["finish"] == "answer" and result["turns"] == 3
    assert result["answer"].startswith("I give up: error: ")


async def test_killed_in_mid_thought_it_goes_on_and_pays_no_completed_thought_again(
    nodes: LocalCluster, server: LlmServerProcess, client: Cluster
) -> None:
    await applied(client, "patient", "add-up", model={"provider": "background", "name": "m"})
    thoughts: list[dict[str, Any]] = [{"when": {"turn": turn}, "answer": calls(ADD)} for turn in range(4)]
    thoughts[1]["chunk_ms"] = 700  # before each of the eight events or more of a thought that is to be killed
    last = {"answer": {"text": "done after all that was said and done"}, "chunk_ms": 700}
    server.script(*thoughts, last)
    job = await ask(client, "patient", "Take your time")

    for turn in (2, 5):

        async def there(turn: int = turn) -> bool:
            return asked(server, job)[f"think{turn}"] > 0

        await until(there, f"thought {turn} has begun")
        await asyncio.sleep(2.5)  # the cluster knows the provider's name for it
        killed = await running_on(job)
        nodes.kill_node(killed)
        await asyncio.sleep(1)
        nodes.start_node(killed)
    result = await job.wait(timeout=90)
    assert (result["turns"], result["calls"]) == (5, 4)
    assert asked(server, job) == {f"think{turn}": 1 for turn in range(1, 6)}


async def test_no_more_steps_than_it_may_take(server: LlmServerProcess, client: Cluster) -> None:
    await applied(client, "restless", "add-up", loop={"max_steps": 3})
    server.script(
        {"when": {"contains": "no more tools"}, "answer": {"text": "so far: 6"}}, {"answer": calls(ADD)}
    )
    result = await (await ask(client, "restless", "never stop")).wait(timeout=60)
    assert (result["finish"], result["answer"], result["turns"]) == ("max_steps", "so far: 6", 3)


async def test_a_budget_of_tokens_ends_it(server: LlmServerProcess, client: Cluster) -> None:
    await applied(client, "thrifty", "add-up", loop={"budget_tokens": 10})
    server.script(
        {"when": {"contains": "no more tools"}, "answer": {"text": "enough"}}, {"answer": calls(ADD)}
    )
    result = await (await ask(client, "thrifty", "spend it all")).wait(timeout=60)
    assert (result["finish"], result["turns"]) == ("budget", 2)


async def test_a_tool_may_end_the_run(server: LlmServerProcess, client: Cluster) -> None:
    await applied(client, "finisher", "add-up", loop={"stop": ["add-up"]})
    server.script({"answer": calls(ADD)})
    result = await (await ask(client, "finisher", "sum")).wait(timeout=60)
    assert result["finish"] == "stop" and result["turns"] == 1 and result["data"] is not None


async def test_when_its_window_fills_it_goes_on_from_its_notes(
    server: LlmServerProcess, client: Cluster
) -> None:
    small = {"window": 1_000, "result_chars": 600}
    tools = {"mcpServers": {"toolbox": {"allow": ["send"]}}}
    await applied(client, "forgetful", tools=tools, model={"max_tokens": 100}, loop=small)
    long = {"name": "toolbox__send", "arguments": {"text": "{turn} " + "x" * 900}}
    server.script(
        {"when": {"contains": "Put the work so far into few words"}, "answer": {"text": "NOTES of mine"}},
        {"when": {"anywhere": "NOTES of mine"}, "answer": {"text": "done, by my notes"}},
        {"answer": calls(long)},
    )
    job = await ask(client, "forgetful", "send them all")
    result = await job.wait(timeout=60)
    assert (result["answer"], result["finish"]) == ("done, by my notes", "answer")
    steps = [step.name for step in (await job.get(include_steps=True)).steps]
    notes = [name for name in steps if name.startswith("notes")]
    assert len(notes) == 1 and steps[-2:] == [notes[0], f"think{result['turns']}"]
    assert result["calls"] == result["turns"] - 1 >= 3


async def test_calls_of_one_thought_run_side_by_side_and_no_more_of_them_than_it_may(
    server: LlmServerProcess, client: Cluster, tmp_path: Path
) -> None:
    await applied(client, "handful", "wait", loop={"parallel": 2})
    arguments = {"witness": str(tmp_path / "lines"), "signals": ["go"]}
    server.script(
        {"when": {"turn": 0}, "answer": calls(*[{"name": "wait", "arguments": arguments}] * 3)},
        {"answer": {"text": "all three"}},
    )
    job = await ask(client, "handful", "wait for them")

    async def children(count: int) -> list[str]:
        live = [one async for one in client.list_tasks(filter='type="wait" AND state=WAITING')]
        mine = [one.id for one in live if one.id.startswith(f"{job.id}~")]
        return mine if len(mine) == count else []

    first = await until(lambda: children(2), "two of the three wait")
    assert (await job.get()).state in ("WAITING", "RUNNING")
    for child in first:
        await client.job(child).signal("go")
    [third] = [one for one in await until(lambda: children(1), "the third one waits") if one not in first]
    await client.job(third).signal("go")
    assert (await job.wait(timeout=60))["answer"] == "all three"


async def test_a_colleague_does_a_part_or_all_the_rest(server: LlmServerProcess, client: Cluster) -> None:
    await applied(client, "writer", capabilities=["prose"])
    await applied(client, "boss", loop={"handoff": ["writer"]})
    part = {"agent": "writer", "task": "write it up", "context": {"sum": 6}}
    server.script(
        {"when": {"anywhere": "I am writer."}, "answer": {"text": "A fine text."}},
        {
            "when": {"contains": "all of it"},
            "answer": calls({"name": "handoff", "arguments": {**part, "final": True}}),
        },
        {"when": {"contains": "a part"}, "answer": calls({"name": "handoff", "arguments": part})},
        {"when": {"tool": "handoff"}, "answer": {"text": "The writer says: {last}"}},
    )
    part_result = await (await ask(client, "boss", "a part of it")).wait(timeout=60)
    assert part_result["finish"] == "answer" and "A fine text." in part_result["answer"]
    whole = await (await ask(client, "boss", "all of it")).wait(timeout=60)
    assert (whole["finish"], whole["answer"], whole["turns"]) == ("handoff", "A fine text.", 1)


async def test_what_people_must_approve_waits_for_them(server: LlmServerProcess, client: Cluster) -> None:
    await applied(client, "careful", "add-up", tools={"approve": ["add-*"]})
    server.script(
        {"when": {"turn": 0}, "answer": calls(ADD)},
        {"when": {"contains": "a person said no"}, "answer": {"text": "then not"}},
        {"answer": {"text": "did it"}},
    )
    for verdict, said in (("approve", "did it"), ("reject", "then not")):
        job = await ask(client, "careful", verdict)

        async def waiting(job: Job = job) -> Any:
            return [one for one in await client.approvals.list() if one.task == job.id]

        [approval] = await until(waiting, "somebody is asked")
        assert approval.call == {"tool": "add-up", "arguments": ADD["arguments"]}
        await getattr(client.approvals, verdict)(approval, "because", principal="ann")
        assert (await job.wait(timeout=60))["answer"] == said


async def test_a_person_is_asked(server: LlmServerProcess, client: Cluster) -> None:
    await applied(client, "curious", loop={"ask_human": True})
    server.script(
        {"when": {"turn": 0}, "answer": calls({"name": "ask_human", "arguments": {"question": "Which?"}})},
        {"answer": {"text": "They said: {last}"}},
    )
    job = await ask(client, "curious", "ask me")

    async def waits() -> bool:
        return (await job.get()).wait_reason == "SIGNAL"

    await until(waits, "it waits")
    await job.signal("answer", "the blue one")
    assert (await job.wait(timeout=60))["answer"] == "They said: the blue one"


async def test_memories_outlive_runs_and_belong_to_users(server: LlmServerProcess, client: Cluster) -> None:
    await applied(client, "elephant", memory={"type": "persistent", "ttl": 3_600})
    keep = {"name": "remember", "arguments": {"text": "Ann's favourite colour is teal"}}
    server.script(
        {"when": {"anywhere": "colour is teal", "turn": 0}, "answer": {"text": "teal"}},
        {"when": {"contains": "remember this"}, "answer": calls(keep)},
        {"when": {"tool": "remember"}, "answer": {"text": "{last}"}},
        {"answer": {"text": "no idea"}},
    )
    kept = await (await ask(client, "elephant", "remember this", user="ann")).wait(timeout=60)
    assert kept["answer"] == "Kept."
    for user, said in (("ann", "teal"), ("bob", "no idea")):
        result = await (await ask(client, "elephant", "What is my favourite colour?", user=user)).wait(
            timeout=60
        )
        assert result["answer"] == said


async def test_tools_of_servers_are_called_by_the_files_of_the_agent_and_of_the_operator(
    server: LlmServerProcess, client: Cluster
) -> None:
    tools = {"mcpServers": {"toolbox": {"allow": ["a*", "s*", "fail"]}}, "deny": ["toolbox__send"]}
    await applied(client, "handy", tools=tools)
    add = {"name": "toolbox__add", "arguments": {"a": 20, "b": 22}}
    denied = {"name": "toolbox__send", "arguments": {"text": "x"}}
    broken = {"name": "toolbox__fail", "arguments": {"text": "badly"}}
    server.script(
        {"when": {"turn": 0}, "answer": calls(add, denied, broken)}, {"answer": {"text": "{results}"}}
    )
    job = await ask(client, "handy", "use your tools")
    told = (await job.wait(timeout=60))["answer"]
    assert told.startswith("42\n") and "there is no tool 'toolbox__send'" in told
    assert "error: " in told and "badly" in told
    steps = [step.name for step in (await job.get(include_steps=True)).steps]
    assert steps == ["begin", "think1", "mcp1.0", "mcp1.2", "think2"]


async def test_the_answer_has_the_form_that_was_asked_for(server: LlmServerProcess, client: Cluster) -> None:
    await applied(client, "formal", "add-up")
    shape = {"type": "object", "properties": {"total": {"type": "integer"}}, "required": ["total"]}
    server.script({"when": {"turn": 0}, "answer": calls(ADD)}, {"answer": {"json": {"total": 6}}})
    result = await (await ask(client, "formal", "sum", schema=shape)).wait(timeout=60)
    assert result["data"] == {"total": 6}


async def test_a_run_keeps_its_revision_while_another_goes_live(
    nodes: LocalCluster, server: LlmServerProcess, client: Cluster
) -> None:
    question = {"name": "ask_human", "arguments": {"question": "?"}}
    first = await applied(client, "pinned", loop={"ask_human": True})
    server.script(
        {
            "when": {"turn": 0, "anywhere": "old"},
            "answer": calls(question),
        },
        {"answer": {"text": "ok"}},
    )
    old = await ask(client, "pinned", "old")

    async def waits() -> bool:
        return (await old.get()).wait_reason == "SIGNAL"

    await until(waits, "it waits")
    second = await applied(client, "pinned", loop={"ask_human": True, "max_steps": 7})
    assert second.live != first.live
    new = await (await ask(client, "pinned", "new")).wait(timeout=60)
    await old.signal("answer", "go on")
    assert (await old.wait(timeout=60))["revision"] == first.live
    assert new["revision"] == second.live
    back = await client.agents.roll_back("pinned")
    assert back.live == first.live


async def _knows(client: Cluster, agent: str) -> bool:
    return agent in [one.id for one in await client.agents.list()]


async def test_bad_requests_are_refused(nodes: LocalCluster, client: Cluster) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await applied(client, "wrong", model={"temperature": 9}, loop={"max_steps": 0})
    assert "temperature" in str(refused.value) and "max_steps" in str(refused.value)
    await applied(client, "adder", "shared/add-up")
    for node in nodes.node_ids:  # one that has heard of no agent yet finds none unknown
        async with client_of(nodes, node) as one:
            await until(partial(_knows, one, "adder"), f"{node} knows the agent")
    for agent, payload, says in (
        ("nobody", {"prompt": "x"}, "task.agent: no agent 'nobody'; known: .*adder"),
        ("", {"prompt": "x"}, "task.agent: is missing: name one, agent=ID; known: .*adder"),
        ("adder", {"promt": "x"}, "'promt' is not a field; did you mean 'prompt'"),
    ):
        with pytest.raises(InvalidRequest, match=says):
            await client.submit_task(type="agent", agent=agent, payload=payload)
    job = await client.submit_task(type="agent", agent="adder", payload={"context": 1})
    with pytest.raises(TaskFailed, match="BAD_INPUT: prompt, messages: give one of them"):
        await job.wait(timeout=60)


async def test_every_node_tells_the_same_of_an_agent(
    nodes: LocalCluster, server: LlmServerProcess, client: Cluster
) -> None:
    registry = {"slo": {"availability": "99%", "response_time_p99": "1h"}, "autoscaling": {"enabled": True}}
    await applied(client, "judged", "add-up", registry=registry)
    server.script(
        {"when": {"turn": 0}, "answer": calls(ADD)},
        {"answer": {"text": "done"}},
    )
    assert (await (await ask(client, "judged", "well")).wait(timeout=60))["answer"] == "done"
    with pytest.raises(TaskFailed):
        await (await client.submit_task(type="agent", agent="judged", payload={})).wait(timeout=60)
    told = []
    for node in nodes.node_ids:
        async with client_of(nodes, node) as one:
            told.extend(await one.agents.status("judged"))
    status = told[0]
    for other in told:  # but for the advice: it goes by the time of the question
        assert replace(other, advice=None) == replace(status, advice=None)
    figures, unbegun = status.revisions
    assert (figures.succeeded, figures.failed, figures.success) == (1, 0, 1.0)
    assert figures.llm_calls == 2 and figures.tokens_in > 0 and figures.p50_ms > 0
    assert figures.revision == (await client.agents.get("judged")).live
    assert (unbegun.revision, unbegun.refused, unbegun.errors) == ("", 1, {"BAD_INPUT": 1})
    assert [(one.slo, one.runs, one.bad) for one in status.objectives] == [
        ("availability", 1, 0),
        ("response_time", 1, 0),
    ]
    assert status.advice is not None and status.advice.replicas == 1
