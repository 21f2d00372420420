"""PySyncObj is what the overrides were written for, to the letter."""

from __future__ import annotations

import hashlib
import inspect
import random
import threading
from pathlib import Path

import pysyncobj
import pytest
from pysyncobj import syncobj as library
from pysyncobj.version import VERSION

from coterie.raft import seam
from coterie.raft.member import Member
from tests.raft.group import Group

# Library methods that run as they are, beneath ours. A changed body may break what ours rely on.
INHERITED = (
    "_onTick",
    "_SyncObj__onMessageReceived",
    "_SyncObj__onBecomeLeader",
    "_SyncObj__setCurrentTerm",
    "_SyncObj__setState",
    "_SyncObj__connectedToAnyone",
    "__init__",
)
INHERITED_DIGEST = "6658c4f7b742ee406785c7393992e7a1c8be1ad18ded67bf6115c0bbd024ef10"


def test_the_version_is_the_pinned_one() -> None:
    assert seam.PINNED_VERSION == VERSION
    text = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text()
    assert f"pysyncobj=={VERSION}" in text


@pytest.mark.parametrize(("name", "parameters"), seam.RELIED_ON_METHODS.items())
def test_a_method_is_there_with_its_parameters(name: str, parameters: tuple[str, ...]) -> None:
    method = getattr(pysyncobj.SyncObj, name)
    assert tuple(inspect.signature(method).parameters) == parameters


def test_the_fields_are_there() -> None:
    group = Group(1)
    stock = library.SyncObj(
        seam.Node("n1"),
        [],
        seam._library_conf(group.options("n1")),
        transport=seam.LibraryTransport(lambda node, message: True),
    )
    assert [name for name in seam.RELIED_ON_FIELDS if not hasattr(stock, name)] == []


@pytest.mark.parametrize("name", seam.RELIED_ON_GLOBALS)
def test_a_name_of_the_module_is_there(name: str) -> None:
    assert hasattr(library, name)


def test_the_code_beneath_ours_has_not_changed() -> None:
    source = "".join(inspect.getsource(getattr(pysyncobj.SyncObj, name)) for name in sorted(INHERITED))
    assert hashlib.sha256(source.encode()).hexdigest() == INHERITED_DIGEST


def test_every_private_name_in_our_code_is_listed() -> None:
    listed = set(seam.RELIED_ON_METHODS) | set(seam.RELIED_ON_FIELDS)
    used: set[str] = set()
    for layer in Member.__mro__:
        if layer is library.SyncObj:
            break
        for value in vars(layer).values():
            code = getattr(value, "__code__", None) or getattr(getattr(value, "fget", None), "__code__", None)
            if code is not None:
                used |= {name for name in code.co_names if name.startswith("_SyncObj__")}
                used |= {name for name in vars(layer) if name.startswith("_SyncObj__")}
    assert sorted(used - listed) == []


def test_a_member_has_no_thread_and_no_open_socket_or_pipe() -> None:
    before = threading.active_count()
    group = Group(3)
    assert threading.active_count() == before
    for member in group.members.values():
        assert not hasattr(member, "_SyncObj__pipeNotifier")
        assert isinstance(member._poller, seam.NullPoller)


def test_election_timeouts_are_random_within_bounds() -> None:
    member = Group(3).members["n1"]
    member._rng = random.Random(1)
    drawn = [member._SyncObj__generateRaftTimeout() for _ in range(200)]
    assert 0.1 <= min(drawn) < 0.11
    assert 0.19 < max(drawn) < 0.2
