"""The Security service itself, and that tools are shown every service there is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from coterie.core.access import VIEWER, User
from coterie.core.access_commands import SetUser
from coterie.core.commands import Command, Outcome
from coterie.node.rpc import Gate
from coterie.node.security.service import SecurityService
from coterie.node.security.table import RULES
from coterie.node.server import SERVICES
from coterie.v1 import security_pb2
from tests.core.builders import CoreCluster


class Refused(Exception):
    """What the caller is told."""


class World:
    """The service over the rules of the core."""

    def __init__(self) -> None:
        self.core = CoreCluster()
        reader: Any = SimpleNamespace(connected=self._connected)
        proposer: Any = SimpleNamespace(one=self._one)
        self.service = SecurityService(lambda: self.core.state, reader, proposer, Gate(9))
        self.context: Any = SimpleNamespace(time_remaining=lambda: 9.0, abort=self._abort)

    async def delete(self, name: str) -> None:
        await self.service.DeleteUser(security_pb2.DeleteUserRequest(name=name), self.context)

    async def _one(self, command: Command, timeout_s: float) -> Outcome:
        return self.core.do(command)

    async def _connected(self) -> None:
        """It is."""

    async def _abort(self, code: grpc.StatusCode, message: str, **_: object) -> None:
        raise Refused(f"{code.name} {message}")


async def test_the_first_user_is_not_taken_out_for_it_would_be_an_admin_again() -> None:
    """Whoever wants it out means to take everything from it."""
    world = World()
    for name in ("admin", "ann"):
        world.core.do(SetUser(User(name, "shop", (VIEWER,))))
    await world.delete("ann")
    with pytest.raises(Refused, match=r"INVALID_ARGUMENT name: .*user set admin --role viewer"):
        await world.delete("admin")
    assert set(world.core.state.users) == {"admin"}


def test_every_service_of_ours_is_shown_by_reflection_and_has_its_health() -> None:
    known = {method.split("/")[1] for method in RULES}
    assert set(SERVICES) == {name for name in known if name.startswith("coterie.")}
