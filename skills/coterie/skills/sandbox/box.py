"""The walls around one run of an untrusted skill, put up by its own process before it reads the skill.

They go up in two parts. What is the same for every skill stands as soon as the process is there, which may be
long before anybody wants a run; what depends on the skill, and the filter that forbids to change any of it,
follows when its run has come, before a byte of that is looked at.
"""

from __future__ import annotations

import itertools
import os
import resource
import signal
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from coterie.skills import confine
from coterie.skills.sandbox import identity, kernel, landlock, loopback, seccomp

MIB = 1024 * 1024
SYSTEM_FILES = (
    "/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo",
    "/etc/localtime", "/usr/share/fonts", "/etc/fonts", "/dev/urandom", "/dev/null",
)  # fmt: skip
CERTIFICATES = ("/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/usr/share/ca-certificates", "/etc/pki/tls")
DEVICES = ("/dev/null",)  # that may be written


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """What a confined process gets whatever it will run. JSON-encodable by `asdict`."""

    work_dir: str
    """Its own; the current directory, HOME and TMPDIR. Empty at the start, removed afterwards."""
    cpu_s_max: int = 3_600
    file_bytes_max: int = 64 * MIB
    open_files_max: int = 256
    threads_max: int = 64
    own_user: bool = True
    """Run as a user of its own where the node is root."""
    network: bool = False
    """Reach the node's proxy, and nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What its skill adds to that. JSON-encodable by `asdict`."""

    code_dirs: tuple[str, ...] = ()
    """Read-only: the folders of the skill."""
    memory_bytes_max: int = 1024 * MIB
    """Address space: allocations beyond it raise MemoryError."""
    cpus: int = 0
    """Processors it may use at once; 0: all."""


def grant_from(fields: Mapping[str, Any]) -> Grant:
    """The grant that was sent as JSON."""
    return Grant(**{**fields, "code_dirs": tuple(fields["code_dirs"])})


class Walls:
    """The walls of this process, which must have one thread and be fresh from its fork. Made: all stand but
    what depends on the skill. Raises OSError: then run nothing.

    The order matters: what needs rights comes before the rights go; the filter comes last, because it
    forbids the others. Nothing of another's may run here before `close`.
    """

    def __init__(self, box: Box, keep_fds: frozenset[int], parent: int) -> None:
        _close_all_but(keep_fds)
        os.chown(box.work_dir, *_owner(box))
        os.chdir(box.work_dir)
        counted_alone = _leave_namespaces(box)
        self.door = loopback.open_door() if box.network else None
        """To be handed to the node's proxy, if there is a network."""
        keep_reading = False
        own_user = _is_own_user(box)
        if own_user:
            keep_reading = not others_read_python()
            identity.become(identity.own_uid())
            counted_alone = True
        identity.drop_capabilities(keep_reading)
        # A change of user takes this back; and nobody may look into a process that cannot be dumped.
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
        confine.die_with_parent(parent, signal.SIGKILL)
        confine.renounce_privileges()
        _limit(box, counted_alone)
        _set_environment(box)
        self._terms = seccomp.terms(box.network, own_user)
        self._files = landlock.Ruleset((loopback.PROXY_PORT,) if box.network else ())
        self._files.allow(readable=libraries(box.network), writable=map(Path, (box.work_dir, *DEVICES)))

    def close(self, grant: Grant) -> None:
        """Put up the rest, for good. Raises OSError: then run nothing."""
        _limit_cpus(grant.cpus)
        self._files.allow(readable=map(Path, grant.code_dirs))
        self._files.restrict()
        confine.set_limit(resource.RLIMIT_AS, grant.memory_bytes_max)
        seccomp.restrict(self._terms)


def prepare() -> None:
    """Find out before any fork what is the same for all boxes."""
    for network in (False, True):
        for own_user in {False, os.geteuid() == 0}:
            seccomp.prepared(seccomp.terms(network, own_user))
        libraries(network)
    others_read_python()


@cache
def libraries(network: bool) -> tuple[Path, ...]:
    """Python, its libraries, the system's: where they really are, and nothing that lies beneath another."""
    prefixes = {sys.prefix, sys.base_prefix, sys.exec_prefix} - {"/usr", "/"}
    python = {*prefixes, *sysconfig.get_paths().values()}
    found = {path for path in (*python, *sys.path) if path and _is_library(path)}
    certificates = CERTIFICATES if network else ()
    real = {os.path.realpath(path) for path in (*found, *SYSTEM_FILES, *certificates) if os.path.exists(path)}
    return tuple(Path(path) for path in sorted(real) if not any(path.startswith(f"{one}/") for one in real))


@cache
def others_read_python() -> bool:
    """Whether a user without rights can read the files of Python."""
    return identity.can_others_read(os.__file__)


def _is_library(path: str) -> bool:
    """Not a place that holds more than code: the root, a home, a temporary or the current directory."""
    return os.path.isabs(path) and path not in {"/", "/home", "/root", "/tmp", "/var", "/etc", "/usr"}


def _is_own_user(box: Box) -> bool:
    return os.geteuid() == 0 and box.own_user


def _owner(box: Box) -> tuple[int, int]:
    if _is_own_user(box):
        return identity.own_uid(), identity.own_uid()
    return os.geteuid(), os.getegid()


def _close_all_but(keep: frozenset[int]) -> None:
    fds = [-1, *sorted(keep | {0, 1, 2}), resource.getrlimit(resource.RLIMIT_NOFILE)[0]]
    for before, after in itertools.pairwise(fds):
        if before + 1 < after:  # Python takes an empty range at 0 for all descriptors
            os.closerange(before + 1, after)


def _leave_namespaces(box: Box) -> bool:
    """Whether the processes of this user are counted for this run alone from now on."""
    if os.geteuid() == 0:
        if box.network:
            identity.own_namespace(network=True)
        return False
    try:
        identity.own_namespace(box.network)
    except OSError:
        if box.network:
            raise  # there would be no wall between the skill and the network
        return False
    return True


def _limit_cpus(count: int) -> None:
    if count:
        usable = sorted(os.sched_getaffinity(0))
        # Not everybody on the first ones.
        start = os.getpid() % len(usable)
        os.sched_setaffinity(0, {usable[(start + n) % len(usable)] for n in range(min(count, len(usable)))})


def _limit(box: Box, counted_alone: bool) -> None:
    limits = {
        resource.RLIMIT_CPU: box.cpu_s_max,
        resource.RLIMIT_FSIZE: box.file_bytes_max,
        resource.RLIMIT_NOFILE: box.open_files_max,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
    }
    if counted_alone:
        limits[resource.RLIMIT_NPROC] = box.threads_max
    for which, value in limits.items():
        confine.set_limit(which, value)


def _set_environment(box: Box) -> None:
    os.environ.clear()
    os.environ.update(HOME=box.work_dir, TMPDIR=box.work_dir, LANG="C.UTF-8", PATH="")
    if box.network:
        proxy = f"http://{loopback.PROXY_HOST}:{loopback.PROXY_PORT}"
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            os.environ[name] = os.environ[name.lower()] = proxy
