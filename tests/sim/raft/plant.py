"""What a planted bug is, and how it gets into a process and out again.

The members with planted bugs are all called SyncObj, for the reason given in coterie.raft.seam: so they
override private methods."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

from coterie.raft.member import Member

MEMBER_USERS = ("coterie.raft.engine", "tests.raft.group")


@dataclass(frozen=True, slots=True)
class Plant:
    """A bug. `member` has it, or what `patches` put in the place of (module or class, name).

    `found_by` names the test that fails with it; without one, random runs must find it."""

    member: type[Member] = Member
    patches: tuple[tuple[str, str, Any], ...] = ()
    found_by: str = ""

    @contextlib.contextmanager
    def patched(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for owner, name, value in self.patches:
                stack.enter_context(mock.patch.object(_find(owner), name, value))
            yield

    @contextlib.contextmanager
    def everywhere(self) -> Iterator[None]:
        """Also where tests and the engine take their members from."""
        with contextlib.ExitStack() as stack:
            for user in MEMBER_USERS:
                stack.enter_context(mock.patch.object(importlib.import_module(user), "Member", self.member))
            stack.enter_context(self.patched())
            yield


def _find(owner: str) -> Any:
    """`package.module:Class`, or a module."""
    module, _, name = owner.partition(":")
    found = importlib.import_module(module)
    return getattr(found, name) if name else found
