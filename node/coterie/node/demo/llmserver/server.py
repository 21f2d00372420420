"""The server: routes, the bill of every request that arrived, and idempotency keys."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import unquote

from coterie.node.demo.llmserver import chat, responses
from coterie.node.demo.llmserver.http import Exchange, Hangup, Request, serve_connection
from coterie.node.demo.llmserver.script import Question, Reply, Script

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"


@dataclass(slots=True)
class LlmServer:
    """Answers by its script. `bills` has one record per request that arrived; a `key` is asked for."""

    script: Script = field(default_factory=Script)
    key: str = ""
    chunk_chars: int = 8
    ledger: str = ""  # a file that every bill is appended to, as JSON lines
    bills: list[dict[str, Any]] = field(default_factory=list)
    running: dict[str, responses.Running] = field(default_factory=dict)
    known: dict[str, tuple[str, Reply]] = field(default_factory=dict)  # answers by idempotency key

    async def start(self, host: str, port: int) -> asyncio.Server:
        return await asyncio.start_server(partial(self._connected), host, port)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await serve_connection(reader, writer, self.serve)

    async def serve(self, request: Request, exchange: Exchange) -> None:
        """One request."""
        if request.path.startswith("/_"):
            await self._control(request, exchange)
        elif self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            await exchange.json(401, _error("invalid_api_key", "no such key"))
        elif request.method == "POST" and request.path in (CHAT, RESPONSES):
            await self._answer(request, exchange)
        elif request.path.startswith(f"{RESPONSES}/"):
            await self._again(request, exchange)
        elif request.path == "/v1/models":
            await exchange.json(200, {"object": "list", "data": [{"id": "scripted", "object": "model"}]})
        else:
            await exchange.json(404, _error("not_found", request.path))

    async def _control(self, request: Request, exchange: Exchange) -> None:
        """For those who run the server: look at the bills, change the script."""
        if request.path == "/_script" and request.method == "POST":
            given = json.loads(request.body)
            self.script = Script(given["rules"], given.get("chunk_ms", 0), given.get("first_ms", 0))
            await exchange.json(200, {})
        else:
            await exchange.json(200, {"bills": self.bills})

    async def _answer(self, request: Request, exchange: Exchange) -> None:
        try:
            body = json.loads(request.body)
            module = chat if request.path == CHAT else responses
            question: Question = module.question_of(request.path, body)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            await exchange.json(400, _error("invalid_request", f"{type(error).__name__}: {error}"))
            return
        answer_id, reply, first = self._reply(request, question)
        self._bill(request, body, answer_id, reply, first)
        if reply.fail is not None:
            await _refuse(exchange, reply.fail)
        elif request.path == CHAT:
            await self._chat(exchange, answer_id, body, reply)
        else:
            await self._respond(exchange, answer_id, body, reply)

    def _reply(self, request: Request, question: Question) -> tuple[str, Reply, bool]:
        """The answer; the same one as before for a key that was used before."""
        key = request.headers.get("idempotency-key", "")
        if key in self.known:
            return (*self.known[key], False)
        prefix = "chatcmpl" if request.path == CHAT else "resp"
        reply = self.script.reply(question)
        answer_id = f"{prefix}_{len(self.bills) + 1}_{os.urandom(4).hex()}"
        if key and reply.fail is None:
            calm = Reply(reply.answer, chunk_ms=reply.chunk_ms, first_ms=reply.first_ms)
            self.known[key] = (answer_id, calm)
        return answer_id, reply, True

    def _bill(
        self, request: Request, body: dict[str, Any], answer_id: str, reply: Reply, first: bool
    ) -> None:
        """On arrival: what happens to the answer is no concern of whoever sends the bill."""
        bill = {
            "number": len(self.bills) + 1,
            "billed": reply.fail is None and first,
            "path": request.path,
            "sha256": hashlib.sha256(request.body).hexdigest(),
            "model": body["model"],
            "metadata": body.get("metadata") or {},
            "user": body.get("user", ""),
            "request_id": unquote(request.headers.get("x-client-request-id", "")),
            "idempotency_key": request.headers.get("idempotency-key", ""),
            "id": answer_id,
            "tokens_in": reply.answer.tokens_in,
            "tokens_out": reply.answer.tokens_out,
            "stream": bool(body.get("stream")),
            "background": bool(body.get("background")),
        }
        self.bills.append(bill)
        if self.ledger:
            with open(self.ledger, "a", encoding="utf-8") as file:
                file.write(json.dumps(bill) + "\n")

    async def _chat(self, exchange: Exchange, answer_id: str, body: dict[str, Any], reply: Reply) -> None:
        if body.get("stream"):
            await chat.stream(exchange, answer_id, body, reply, self.chunk_chars)
            return
        count = sum(1 for _ in chat.pieces(reply.answer, self.chunk_chars))
        for number in range(count):
            await chat.hurdle(reply, number)
        await exchange.json(200, chat.whole(answer_id, body["model"], reply.answer))

    async def _respond(self, exchange: Exchange, answer_id: str, body: dict[str, Any], reply: Reply) -> None:
        running = self.running.get(answer_id)
        if running is None:
            running = self.running[answer_id] = responses.Running(answer_id, body, reply, self.chunk_chars)
            running.task = asyncio.create_task(running.run(faults=not body.get("background")))
            if reply.disconnect == 0:
                raise Hangup
        if body.get("stream"):
            await responses.stream(exchange, running, -1, reply)
        else:
            if not body.get("background") and running.task is not None:
                await running.task
            await exchange.json(200, running.document())

    async def _again(self, request: Request, exchange: Exchange) -> None:
        """A response that was begun before."""
        response_id, _, verb = request.path.removeprefix(f"{RESPONSES}/").partition("/")
        running = self.running.get(response_id)
        if running is None:
            await exchange.json(404, _error("not_found", f"no response {response_id}"))
            return
        if verb == "cancel":
            await running.cancel()
        if request.query.get("stream") == "true":
            await responses.stream(exchange, running, int(request.query.get("starting_after", "-1")))
        else:
            await exchange.json(200, running.document())


async def _refuse(exchange: Exchange, fail: dict[str, Any]) -> None:
    if fail.get("hang"):
        raise Hangup
    status = int(fail.get("status", 500))
    headers = {"retry-after": str(fail["retry_after"])} if "retry_after" in fail else {}
    await exchange.json(status, _error(str(fail.get("code", "scripted")), "by the script"), headers)


def _error(code: str, message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": code, "code": code, "param": None}}
