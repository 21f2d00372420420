"""The scripted model server, through the real client library."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from openai import APIConnectionError, APIStatusError, AsyncOpenAI, AuthenticationError

from coterie.node.demo.llmserver.process import LlmServerProcess

ASK: list[Any] = [{"role": "user", "content": "What is the time?"}]
TOOL: dict[str, Any] = {"name": "clock", "parameters": {"type": "object", "properties": {}}}


@pytest.fixture(scope="module")
def server() -> Iterator[LlmServerProcess]:
    with LlmServerProcess("--key", "secret") as process:
        yield process


@pytest.fixture
async def client(server: LlmServerProcess) -> Any:
    server.script()
    async with AsyncOpenAI(base_url=server.url, api_key="secret", max_retries=0, timeout=20) as opened:
        yield opened


async def test_an_answer_is_billed_on_arrival_with_its_metadata(
    server: LlmServerProcess, client: AsyncOpenAI
) -> None:
    before = len(server.bills)
    answer = await client.chat.completions.create(model="m", messages=ASK, metadata={"task": "t1"})
    assert answer.choices[0].message.content == "You said: What is the time?"
    [bill] = server.bills[before:]
    assert bill["metadata"] == {"task": "t1"} and len(bill["sha256"]) == 64
    assert answer.usage is not None and answer.usage.completion_tokens == bill["tokens_out"]


async def test_without_the_key_nobody_is_answered(server: LlmServerProcess) -> None:
    before = len(server.arrived)
    async with AsyncOpenAI(base_url=server.url, api_key="guess", max_retries=0) as stranger:
        with pytest.raises(AuthenticationError):
            await stranger.chat.completions.create(model="m", messages=ASK)
    assert len(server.arrived) == before


async def test_a_chat_stream_joins_to_the_text_and_ends_with_usage(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="m", messages=ASK, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "You said: What is the time?"
    assert chunks[-1].usage is not None and chunks[-1].usage.total_tokens > 0


@pytest.mark.parametrize("streamed", [False, True])
async def test_rules_answer_with_tool_calls_and_see_their_results(
    server: LlmServerProcess, client: AsyncOpenAI, streamed: bool
) -> None:
    call = {"when": {"turn": 0}, "answer": {"tool_calls": [{"name": "clock", "arguments": {"zone": "UTC"}}]}}
    server.script(call, {"when": {"tool": "clock"}, "answer": {"text": "It is {last}."}})
    tools: Any = [{"type": "function", "function": TOOL}]
    name = arguments = call_id = ""
    if streamed:
        stream = await client.chat.completions.create(model="m", messages=ASK, tools=tools, stream=True)
        async for chunk in stream:
            for part in chunk.choices[0].delta.tool_calls or ():
                assert part.function is not None
                call_id, name = part.id or call_id, name + (part.function.name or "")
                arguments += part.function.arguments or ""
    else:
        answer = await client.chat.completions.create(model="m", messages=ASK, tools=tools)
        calls: Any = answer.choices[0].message.tool_calls
        made = calls[0]
        assert made.type == "function" and answer.choices[0].finish_reason == "tool_calls"
        call_id, name, arguments = made.id, made.function.name, made.function.arguments
    assert (name, arguments) == ("clock", '{"zone": "UTC"}')
    said: Any = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
    told: Any = [{"role": "assistant", "tool_calls": [said]}]
    told.append({"role": "tool", "tool_call_id": call_id, "content": "noon"})
    last = await client.chat.completions.create(model="m", messages=[*ASK, *told], tools=tools)
    assert last.choices[0].message.content == "It is noon."


async def test_a_schema_gets_json_that_fits(client: AsyncOpenAI) -> None:
    shape = {"type": "object", "properties": {"n": {"type": "integer"}, "names": {"type": "array"}}}
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "out", "schema": shape}}
    answer = await client.chat.completions.create(model="m", messages=ASK, response_format=wanted)
    assert answer.choices[0].message.content == '{"n": 1, "names": [{}]}'


async def test_faults_come_by_script(server: LlmServerProcess, client: AsyncOpenAI) -> None:
    server.script(
        {"times": 1, "fail": {"status": 429, "retry_after": 3}},
        {"times": 1, "disconnect": 0},
        {"times": 1, "disconnect": 2},
    )
    before = len(server.bills)
    with pytest.raises(APIStatusError) as refused:
        await client.chat.completions.create(model="m", messages=ASK)
    assert refused.value.status_code == 429 and refused.value.response.headers["retry-after"] == "3"
    assert len(server.bills) == before, "a refusal costs nothing"
    with pytest.raises(APIConnectionError):
        await client.chat.completions.create(model="m", messages=ASK)
    got = []
    with pytest.raises(Exception, match=r"peer closed|incomplete|Connection|disconnect"):
        async for chunk in await client.chat.completions.create(model="m", messages=ASK, stream=True):
            got.append(chunk)  # noqa: PERF401 (what came before the end counts)
    assert len(got) == 2 and len(server.bills) == before + 2


async def test_the_same_idempotency_key_gets_the_same_answer_for_one_bill(
    server: LlmServerProcess, client: AsyncOpenAI
) -> None:
    before = len(server.bills)
    header = {"Idempotency-Key": "k1"}
    one = await client.chat.completions.create(model="m", messages=ASK, extra_headers=header)
    two = await client.chat.completions.create(model="m", messages=ASK, extra_headers=header)
    assert one.id == two.id and len(server.bills) == before + 1


async def test_a_background_response_goes_on_without_its_client(
    server: LlmServerProcess, client: AsyncOpenAI
) -> None:
    server.script(chunk_ms=20)
    stream = await client.responses.create(model="m", input="hello there", background=True, stream=True)
    seen = []
    response_id = ""
    async for event in stream:
        seen.append(event)
        if event.type == "response.created":
            response_id = event.response.id
        if len(seen) == 4:
            await stream.close()
            break
    before = len(server.bills)
    rest: Any = await client.responses.retrieve(response_id, stream=True, starting_after=3)
    seen += [event async for event in rest]
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    text = "".join(event.delta for event in seen if event.type == "response.output_text.delta")
    whole = await client.responses.retrieve(response_id)
    assert text == whole.output_text == "You said: hello there" and whole.status == "completed"
    assert len(server.bills) == before, "asking for it again costs nothing"


async def test_responses_answer_with_tool_calls_and_schemas(
    server: LlmServerProcess, client: AsyncOpenAI
) -> None:
    server.script({"when": {"turn": 0}, "answer": {"tool_calls": [{"name": "clock"}]}})
    tools: Any = [{"type": "function", **TOOL}]
    first = await client.responses.create(model="m", input="time?", tools=tools)
    [call] = first.output
    assert call.type == "function_call" and call.name == "clock"
    items: Any = [{"role": "user", "content": "time?"}, call.model_dump(exclude_none=True)]
    items.append({"type": "function_call_output", "call_id": call.call_id, "output": "noon"})
    shape: Any = {"type": "json_schema", "name": "out", "schema": {"type": "string"}}
    last = await client.responses.create(model="m", input=items, tools=tools, text={"format": shape})
    assert last.output_text == '"text"'
