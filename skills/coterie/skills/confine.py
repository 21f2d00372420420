"""What a skill process may do to its machine: death with its parent, limits, descriptors, priorities."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import threading

from coterie.skills.limits import Limits

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_OOM_SCORE = b"500"
OPEN_FILES_MAX = 4_096  # of the process that starts all others; they set their own
THREAD_NAME = "coterie-step"  # how the names of our own threads begin

# Loaded before any fork, so that children pay nothing for it.
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent(parent_pid: int, signum: signal.Signals) -> None:
    """Get `signum` when the parent dies. Exits at once if it is dead already. Linux only, else nothing.

    The kernel ties this to the *thread* that forked us: parents fork from their main thread only.
    """
    _prctl(_PR_SET_PDEATHSIG, int(signum))
    if os.getppid() != parent_pid:
        os._exit(0)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies, so that they can be found and killed."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def renounce_privileges() -> None:
    """No program started from here can gain privileges by set-uid bits (it is inherited)."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def open_few_files() -> None:
    """A node may open a great many; whoever closes all that may be open here looks at each number in turn."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft > OPEN_FILES_MAX:
        resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES_MAX, hard))


def limit_resources(limits: Limits) -> None:
    """Apply the resource limits and the niceness to this process, for good."""
    set_limit(resource.RLIMIT_CORE, 0)
    if limits.memory_bytes_max is not None:
        set_limit(resource.RLIMIT_AS, limits.memory_bytes_max)
    if limits.open_files_max is not None:
        set_limit(resource.RLIMIT_NOFILE, limits.open_files_max)
    if limits.processes_max is not None:
        set_limit(resource.RLIMIT_NPROC, limits.processes_max)
    if limits.nice:
        os.nice(limits.nice)
    _prefer_as_oom_victim()


def take_over_stdio(output_fd: int) -> None:
    """Read from nothing, write stdout and stderr to `output_fd`, which is closed."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(output_fd, 1)
    os.dup2(output_fd, 2)
    for fd in (nothing, output_fd):
        if fd > 2:
            os.close(fd)


def peak_rss_bytes() -> int:
    """The most memory this process ever had resident."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def lowest_free_fd() -> int:
    """The next descriptor number: it creeps up when a skill leaks descriptors."""
    fd = os.dup(0)
    os.close(fd)
    return fd


def has_children() -> bool:
    """Whether any child process of ours is alive or not yet waited for."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def has_foreign_threads() -> bool:
    """Whether there are threads that the skill made itself."""
    if threading.active_count() == 1:
        return False
    main = threading.main_thread()
    return any(
        thread is not main and not thread.name.startswith(THREAD_NAME) for thread in threading.enumerate()
    )


def child_pids() -> list[int]:
    """Our direct children, alive or dead; empty where the system does not tell (not Linux)."""
    me = os.getpid()
    try:
        with open(f"/proc/self/task/{me}/children") as listing:
            return [int(pid) for pid in listing.read().split()]
    except OSError:
        return _children_by_scan(me)


def _children_by_scan(parent: int) -> list[int]:
    found: list[int] = []
    try:
        names = [name for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return found
    for name in names:
        try:
            with open(f"/proc/{name}/stat") as stat:
                # The command name may hold spaces and brackets; the parent is the 2nd field after it.
                fields = stat.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(name))
    return found


def set_limit(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))


def _prefer_as_oom_victim() -> None:
    """When memory runs out, the kernel should take a skill, never the node."""
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.write(fd, _OOM_SCORE)
    except OSError:
        # An even higher score was set for us; that serves the purpose too.
        pass
    finally:
        os.close(fd)


def _prctl(option: int, value: int) -> None:
    if _libc is not None and _libc.prctl(option, value, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}): {os.strerror(error)}")
