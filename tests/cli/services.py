"""A cluster whose services keep what they are asked and answer what a test gave them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from click.testing import Result

from tests.cli.fakes import FakeCluster, run

STREAMS = frozenset({"watch", "subscribe", "list_keys"})


@dataclass
class Service:
    """`answers[method]`: a value to return, an exception to raise, or the items of a stream as a tuple, one
    of which may be an exception, too."""

    answers: dict[str, Any] = field(default_factory=dict)
    calls: list[tuple[Any, ...]] = field(default_factory=list)

    def __getattr__(self, method: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            self.calls.append((method, *arguments, options))
            answer = self.answers[method]
            return _items(answer) if isinstance(answer, tuple) else _one(answer)

        return call


async def _one(answer: Any) -> Any:
    if isinstance(answer, BaseException):
        raise answer
    return answer


async def _items(answer: tuple[Any, ...]) -> AsyncIterator[Any]:
    for item in answer:
        yield await _one(item)


def call(name: str, answers: dict[str, Any], *words: str) -> tuple[Result, Service]:
    """Run the program against a cluster that has this one service under that name."""
    cluster, service = FakeCluster(), Service(answers)
    setattr(cluster, name, service)
    return run(cluster, *words), service
