"""Which walls this machine can put up, found out by putting them up around a throw-away process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from coterie.skills import confine
from coterie.skills.sandbox import identity, kernel, landlock, loopback, seccomp

REQUIRED = ("no_new_privs", "limits", "capabilities", "landlock", "seccomp")
"""Without one of these no untrusted skill is run."""
NETWORK = "network"
"""Without this one, no untrusted skill that wants to reach the network."""
OWN_USER = "own_user"
"""Without this one threads are limited by memory alone."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One wall: whether it stands here, and what there is to say about it."""

    name: str
    active: bool
    detail: str = ""


def probe() -> list[Layer]:
    """Try all layers in a forked process. Call it from a process with one thread."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        _report(writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return [Layer(**json.loads(line)) for line in said.splitlines()]


def _report(pipe: int) -> NoReturn:
    """Each layer, in the order in which a skill's process puts them up; one line of JSON each."""
    try:
        os.setsid()
        signal.alarm(10)  # a probe that hangs is a probe that failed
        for name, attempt in (
            (NETWORK, _network),
            (OWN_USER, _own_user),
            ("capabilities", _capabilities),
            ("no_new_privs", _no_new_privs),
            ("limits", _limits),
            ("landlock", _landlock),
            ("seccomp", _seccomp),
        ):
            layer = _tried(name, attempt)
            os.write(pipe, json.dumps(asdict(layer)).encode() + b"\n")
    finally:
        os._exit(0)


def _tried(name: str, attempt: Callable[[], str]) -> Layer:
    try:
        return Layer(name, True, attempt())
    except (OSError, ValueError, KeyError) as error:
        return Layer(name, False, str(error))


def _network() -> str:
    identity.own_namespace(network=True)
    loopback.open_door().close()
    return "a network namespace with nothing but the node's proxy in it"


def _own_user() -> str:
    if os.geteuid() != 0:
        if _in_first_user_namespace():
            raise OSError(1, "user namespaces are not allowed here")
        return "processes counted in a user namespace of the run's own"
    os.setresuid(identity.own_uid(), 0, 0)  # tried here, taken by the layer after this
    return "a user id of the run's own"


def _in_first_user_namespace() -> bool:
    return Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]


def _capabilities() -> str:
    keep_reading = os.geteuid() == 0 and not identity.can_others_read(os.__file__)
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):  # the layer before this one has said so
            identity.become(identity.own_uid())
    identity.drop_capabilities(keep_reading)
    return "none but reading Python, which other users cannot" if keep_reading else "none"


def _no_new_privs() -> str:
    confine.renounce_privileges()
    return "set-uid programs give nothing"


def _limits() -> str:
    return "memory, processor time, file size, descriptors, threads"


def _landlock() -> str:
    version = landlock.abi()
    files = landlock.Ruleset()
    files.allow(readable=[Path("/usr/lib")])
    files.restrict()
    try:
        os.listdir("/etc")
    except PermissionError:
        return f"files; ABI {version}" + ("" if version >= 6 else ", signals not scoped")
    raise OSError(1, "restricted, and /etc could still be listed")


def _seccomp() -> str:
    seccomp.restrict(seccomp.terms(network=False, own_user=False))
    try:
        kernel.call("unshare", 0)
    except PermissionError:
        return f"system calls of {kernel.MACHINE}"
    raise OSError(1, "restricted, and unshare was still allowed")
