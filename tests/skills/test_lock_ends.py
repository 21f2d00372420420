"""What leaving a lock raises: what went wrong inside of it comes first."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.skills.coordination import SkillLock
from coterie.skills.errors import BadInput, CallFailed, LockLost


class FakeLink:
    """A node that gives every lock, and answers to its release as it is told."""

    def __init__(self, released: Any) -> None:
        self._released = released

    async def call(self, name: str, args: Any) -> Any:
        if name == "lock.acquire":
            return {"token": 7, "left_ms": 30_000}
        if isinstance(self._released, Exception):
            raise self._released
        return self._released


def lock(released: Any) -> SkillLock:
    return SkillLock(FakeLink(released), "stock", 1, 30.0, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("released", [True, False, CallFailed("no leader")])
async def test_an_error_inside_is_told_whatever_becomes_of_the_release(released: Any) -> None:
    with pytest.raises(BadInput, match="inside"):
        async with lock(released):
            raise BadInput("inside")


async def test_without_one_the_release_counts() -> None:
    async with lock(True) as token:
        assert token == 7
    with pytest.raises(LockLost):
        async with lock(False):
            pass
    with pytest.raises(CallFailed):
        async with lock(CallFailed("no leader")):
            pass
