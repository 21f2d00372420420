"""The standard health service: answers of now, and changes for those who watch.

Not the one that comes with gRPC: there a watcher that leaves takes the news of all others with it, and one
that does not read what it is sent holds up whoever sets an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

Answer = health_pb2.HealthCheckResponse
Context = grpc.aio.ServicerContext[Any, Any]
WATCHES_MAX: Final = 500  # nobody is asked who they are: places must be left for calls


class HealthService(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Tells whoever asks. Setting an answer waits for nobody."""

    def __init__(self, watches_max: int = WATCHES_MAX) -> None:
        self._watches_max = watches_max
        self._answers = {"": Answer.SERVING}
        self._bells: set[asyncio.Event] = set()
        self._ended = False

    def set(self, name: str, serving: bool) -> None:
        """What is said of a service from now on; nothing any more after `end`."""
        if not self._ended:
            self._say({name: Answer.SERVING if serving else Answer.NOT_SERVING})

    def end(self) -> None:
        """Nothing is served any more."""
        self._say(dict.fromkeys(self._answers, Answer.NOT_SERVING))
        self._ended = True

    def _say(self, answers: dict[str, Any]) -> None:
        self._answers |= answers
        for bell in self._bells:
            bell.set()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> Any:
        answer = self._answers.get(request.service)
        if answer is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no service of that name is known")
        return Answer(status=answer)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> AsyncIterator[Any]:
        """The answer, and each later one; a caller that reads slowly gets the newest."""
        if len(self._bells) >= self._watches_max:
            text = "too many watch the health of this node; use Check, or another node"
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
        bell, told = asyncio.Event(), None
        self._bells.add(bell)
        try:
            while True:
                bell.clear()
                answer = self._answers.get(request.service, Answer.SERVICE_UNKNOWN)
                if answer != told:
                    told = answer
                    yield Answer(status=answer)
                else:
                    await bell.wait()
        finally:
            self._bells.discard(bell)
