"""A request in the words of the two APIs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.node.llm.request import LlmRequest, Message, Tool

ANSWER_NAME, EFFORT = "answer", "reasoning_effort"
WORDS = {"auto", "none", "required"}


def chat_arguments(request: LlmRequest) -> dict[str, Any]:
    """For chat completions."""
    args = request.args
    given: dict[str, Any] = {
        "model": request.model,
        "messages": [_chat_message(message) for message in args.messages],
        "max_completion_tokens": request.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if args.tools:
        given["tools"] = [{"type": "function", "function": _function(tool)} for tool in args.tools]
    if args.tool_choice is not None:
        named = {"type": "function", "function": {"name": args.tool_choice}}
        given["tool_choice"] = args.tool_choice if args.tool_choice in WORDS else named
    if args.output_schema is not None:
        shape = {"name": ANSWER_NAME, "schema": args.output_schema}
        given["response_format"] = {"type": "json_schema", "json_schema": shape}
    if args.temperature is not None:
        given["temperature"] = args.temperature
    return _with_extra(given, args.extra)


def _with_extra(given: dict[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Further parameters go into the body, also those the library does not know. The call's own stand."""
    body = {name: value for name, value in extra.items() if name not in given}
    for name in extra.keys() & given.keys():
        if isinstance(extra[name], dict) and isinstance(given[name], dict):
            body[name] = {**extra[name], **given[name]}
    return {**given, "extra_body": body}


def _function(tool: Tool) -> dict[str, Any]:
    return {"name": tool.name, "description": tool.description, "parameters": tool.parameters}


def _chat_message(message: Message) -> dict[str, Any]:
    said: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        said["tool_calls"] = [
            {"id": use.id, "type": "function", "function": {"name": use.name, "arguments": use.arguments}}
            for use in message.tool_calls
        ]
    if message.tool_call_id is not None:
        said["tool_call_id"] = message.tool_call_id
    return said


def responses_arguments(request: LlmRequest) -> dict[str, Any]:
    """For responses."""
    args = request.args
    given: dict[str, Any] = {
        "model": request.model,
        "input": [item for message in args.messages for item in _items(message)],
        "max_output_tokens": request.max_tokens,
        "stream": True,
        "store": request.provider.background,
    }
    if request.provider.background:
        given["background"] = True
    if args.tools:
        given["tools"] = [{"type": "function", "strict": False, **_function(tool)} for tool in args.tools]
    if args.tool_choice is not None:
        named = {"type": "function", "name": args.tool_choice}
        given["tool_choice"] = args.tool_choice if args.tool_choice in WORDS else named
    if args.output_schema is not None:
        shape = {"type": "json_schema", "name": ANSWER_NAME, "schema": args.output_schema}
        given["text"] = {"format": shape}
    if args.temperature is not None:
        given["temperature"] = args.temperature
    return _with_extra(given, _in_words_of_responses(args.extra))


def _in_words_of_responses(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Skills and agents ask for an effort as chat completions call it."""
    given = dict(extra)
    effort = given.pop(EFFORT, None)
    return {"reasoning": {"effort": effort}, **given} if effort is not None else given


def _items(message: Message) -> list[dict[str, Any]]:
    if message.role == "tool":
        return [
            {
                "type": "function_call_output",
                "call_id": message.tool_call_id or "",
                "output": message.content or "",
            }
        ]
    said = [{"role": message.role, "content": message.content}] if message.content is not None else []
    calls = [
        {"type": "function_call", "call_id": use.id, "name": use.name, "arguments": use.arguments}
        for use in message.tool_calls
    ]
    return [*said, *calls]
