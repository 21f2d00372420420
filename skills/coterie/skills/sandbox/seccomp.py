"""Which system calls a confined skill may not make, and the filter that says so to the kernel.

Denied are: other processes (making, signalling, tracing, reading, re-prioritising them, living on without the
zygote), sockets of any kind but pairs, namespaces and mounts, kernel modules, keys, BPF, io_uring and its
forerunner, shared memory by name, anonymous files, clocks; what Landlock leaves to the owner of a file,
whoever that is; and whatever is newer than what we know. A denied call gets EPERM: Python raises
PermissionError.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from dataclasses import dataclass
from functools import cache

from coterie.skills.sandbox import bpf, kernel, landlock
from coterie.skills.sandbox.bpf import Program

DENIED = (
    "fork", "vfork", "execve", "execveat", "ptrace", "process_vm_readv", "process_vm_writev",
    "process_madvise", "kcmp", "pidfd_open", "pidfd_getfd", "pidfd_send_signal", "rt_sigqueueinfo",
    "rt_tgsigqueueinfo", "tkill", "setsid", "setpgid", "setpriority", "ioprio_set", "sched_setparam",
    "sched_setscheduler", "sched_setattr", "sched_setaffinity", "migrate_pages", "move_pages",
    "mount", "umount2", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount", "fspick",
    "mount_setattr", "pivot_root", "chroot", "unshare", "setns", "name_to_handle_at", "open_by_handle_at",
    "fanotify_init", "quotactl", "acct", "swapon", "swapoff", "vhangup", "statmount", "listmount",
    "init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot",
    "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register",
    "add_key", "request_key", "keyctl", "syslog", "lookup_dcookie", "personality", "modify_ldt", "uselib",
    "iopl", "ioperm", "capset", "seccomp",
    "shmget", "shmat", "shmctl", "semget", "semop", "semtimedop", "semctl", "msgget", "msgsnd", "msgrcv",
    "msgctl", "mq_open", "mq_unlink", "memfd_create", "memfd_secret",
    "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "sethostname", "setdomainname",
    "chown", "fchown", "lchown", "fchownat", "quotactl_fd", "io_setup",
    "inotify_init", "inotify_init1", "inotify_add_watch",  # names in folders that cannot be listed
)  # fmt: skip
DENIED_WITHOUT_NETWORK = ("socket", "connect", "bind", "listen", "accept", "accept4")
DENIED_WITH_NETWORK = ("bind", "listen", "accept", "accept4")
# Answered as by a file system that has no attributes: libraries go on without them.
ATTRIBUTES = tuple(
    f"{verb}xattr" for name in ("set", "get", "list", "remove") for verb in (name, f"l{name}", f"f{name}")
)
# Where the files of others have the run's user id, these are not made, and say that they were: whoever copies
# a file sets its mode and times, and takes no for the end of it. Times that are not given mean now; there no
# is the better answer, because whoever touches a file then makes one.
MODES = ("chmod", "fchmod", "fchmodat", "fchmodat2")
TIMES = {"utime": 1, "utimes": 1, "futimesat": 2, "utimensat": 2}  # and which argument they are
# What may be asked of a descriptor. Not who gets its signals: that would signal anybody of the same user. Not
# leases, which keep others from a file, not flags of files, which are their owner's, nor larger pipes, which
# are counted for the user. Requests that are newer than this list may be of that kind.
_FCNTL = {
    "F_DUPFD": 0, "F_GETFD": 1, "F_SETFD": 2, "F_GETFL": 3, "F_SETFL": 4, "F_GETLK": 5, "F_SETLK": 6,
    "F_SETLKW": 7, "F_OFD_GETLK": 36, "F_OFD_SETLK": 37, "F_OFD_SETLKW": 38, "F_DUPFD_CLOEXEC": 1030,
    "F_GETPIPE_SZ": 1032, "F_GET_SEALS": 1034,
}  # fmt: skip
_IOCTL = {
    "TCGETS": 0x5401, "TCGETS2": 0x802C_542A, "TIOCOUTQ": 0x5411, "TIOCGWINSZ": 0x5413, "FIONREAD": 0x541B,
    "FIONBIO": 0x5421, "FIONCLEX": 0x5450, "FIOCLEX": 0x5451,
}  # fmt: skip

_ACCESS_MODE, _NEITHER, _O_TRUNC = 0o3, 0o3, 0o1000
_TRUNCATE_SINCE = 3  # version of Landlock
_X32 = 0x4000_0000  # numbers of the x32 interface, under which every call has a second name
_CLONE_THREAD = 0x0001_0000
_AF_INET, _AF_INET6, _SOCK_STREAM, _SOCK_TYPE_BITS = 2, 10, 1, 0xF
_MODE_FILTER = 2
_LINE, _VALUE_AT = struct.Struct("=HBBI"), 4
_SOME_PID = 0x7ABC_DEF1  # above what any machine allows


def available() -> bool:
    """Whether this kernel takes filters, and we know its machine."""
    if kernel.MACHINE not in kernel.NUMBERS:
        return False
    try:
        kernel.prctl(kernel.PR_GET_SECCOMP)
    except OSError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Terms:
    """What else there is around the run, which the filter goes by."""

    network: bool = False
    own_user: bool = True
    """Files of its user id are its own; else there may be some of the node, or of the system."""
    cut_by_name: bool = True
    """Landlock says which files may be cut by their name."""


def terms(network: bool, own_user: bool) -> Terms:
    """Those on this kernel."""
    return Terms(network, own_user, landlock.abi() >= _TRUNCATE_SINCE)


@cache
def prepared(given: Terms) -> tuple[bytes, tuple[int, ...]]:
    """A filter for no process yet, and where its number belongs. To be asked for before the fork: assembling
    takes longer than all the system calls of the walls together."""
    code = build(_SOME_PID, given)
    lines = range(0, len(code), _LINE.size)
    places = tuple(at + _VALUE_AT for at in lines if _LINE.unpack_from(code, at)[3] == _SOME_PID)
    return code, places


def filter_for(pid: int, given: Terms) -> bytes:
    """What `build` makes of it, from what is prepared."""
    code, places = prepared(given)
    made = bytearray(code)
    for at in places:
        struct.pack_into("=I", made, at, pid)
    return bytes(made)


def restrict(given: Terms) -> None:
    """Put the filter on this process, for good. Needs no_new_privs. Raises OSError."""
    instructions = filter_for(os.getpid(), given)
    code = ctypes.create_string_buffer(instructions, len(instructions))
    header = struct.pack("@HxxxxxxQ", len(instructions) // 8, ctypes.addressof(code))
    program = ctypes.create_string_buffer(header, len(header))
    kernel.prctl(kernel.PR_SET_SECCOMP, _MODE_FILTER, program)


def build(pid: int, given: Terms, machine: str = kernel.MACHINE) -> bytes:
    """The filter for the process `pid` on that machine."""
    numbers, program = kernel.NUMBERS[machine], Program()
    program.load(bpf.AT_ARCH)
    program.jump_if(bpf.JUMP_EQUAL, kernel.AUDIT_ARCH[machine], if_false="end")
    program.load(bpf.AT_NUMBER)
    program.jump_if(bpf.JUMP_GREATER_EQUAL, _X32, if_true="end")
    program.jump_if(bpf.JUMP_GREATER_EQUAL, kernel.NEWEST_KNOWN + 1, if_true="unknown")
    for name, label in _judged(given).items():
        if name in numbers:
            program.jump_if(bpf.JUMP_EQUAL, numbers[name], if_true=label)
    program.answer(bpf.ALLOW)
    _judge_files(program, given)
    _judge_processes(program, pid)
    _judge_sockets(program, given)
    for label, action in (
        ("allow", bpf.ALLOW),
        ("deny", bpf.ERRNO | errno.EPERM),
        ("unknown", bpf.ERRNO | errno.ENOSYS),
        ("no attributes", bpf.ERRNO | errno.EOPNOTSUPP),
        ("no terminal", bpf.ERRNO | errno.ENOTTY),
        ("as if done", bpf.ERRNO | 0),
        ("end", bpf.KILL),
    ):
        program.label(label)
        program.answer(action)
    return program.assemble()


def _judged(given: Terms) -> dict[str, str]:
    """The calls that are not simply allowed, and the label where it goes on with each; the frequent first."""
    found = {name: name for name in ("openat", "open", "fcntl", "ioctl")}
    found |= {name: name for name in ("clone", "kill", "tgkill", "prlimit64", "prctl", "socketpair")}
    if given.network:
        found["socket"] = "socket"
    # The C library tries clone3 first, whose flags no filter can see; told so, it takes clone. As openat2.
    found |= dict.fromkeys(("clone3", "openat2"), "unknown")
    found |= dict.fromkeys(ATTRIBUTES, "no attributes")
    if not given.own_user:
        found |= dict.fromkeys(MODES, "as if done")
        found |= {name: f"times in {argument}" for name, argument in TIMES.items()}
    if not given.cut_by_name:
        found["truncate"] = "deny"
    denied = (*DENIED, *(DENIED_WITH_NETWORK if given.network else DENIED_WITHOUT_NETWORK))
    return found | dict.fromkeys(denied, "deny")


def _judge_files(program: Program, given: Terms) -> None:
    """What is asked of files and of descriptors."""
    for name, flags in (("openat", 2), ("open", 1)):
        program.label(name)
        program.load_argument(flags)
        program.mask(_ACCESS_MODE | _O_TRUNC)
        # Landlock asks no right of who wants neither to read nor to write, though the file can be cut and
        # held so; and who only reads may cut it, before it has a right for that.
        for refused in (_NEITHER, _NEITHER | _O_TRUNC, os.O_RDONLY | _O_TRUNC):
            program.jump_if(bpf.JUMP_EQUAL, refused, if_true="deny")
        program.answer(bpf.ALLOW)
    for name, requests, otherwise in (("fcntl", _FCNTL, "deny"), ("ioctl", _IOCTL, "no terminal")):
        program.label(name)
        program.load_argument(1)
        *others, last = requests.values()
        for request in others:
            program.jump_if(bpf.JUMP_EQUAL, request, if_true="allow")
        program.jump_if(bpf.JUMP_EQUAL, last, "allow", otherwise)
    if not given.own_user:
        for argument in sorted(set(TIMES.values())):
            program.label(f"times in {argument}")
            program.load_argument(argument)
            program.jump_if(bpf.JUMP_EQUAL, 0, if_false="as if done")
            program.load_high_half(argument)
            program.jump_if(bpf.JUMP_EQUAL, 0, "deny", "as if done")


def _judge_processes(program: Program, pid: int) -> None:
    """Threads yes, processes no; signals and limits for itself only; death with its parent for good."""
    program.label("clone")
    program.load_argument(0)
    program.jump_if(bpf.JUMP_ANY_BIT, _CLONE_THREAD, "allow", "deny")
    for name in ("kill", "tgkill"):  # abort(), raise()
        program.label(name)
        program.load_argument(0)
        program.jump_if(bpf.JUMP_EQUAL, pid, "allow", "deny")
    program.label("prlimit64")
    program.load_argument(0)
    program.jump_if(bpf.JUMP_EQUAL, 0, "allow", "deny")
    program.label("prctl")
    program.load_argument(0)
    program.jump_if(bpf.JUMP_EQUAL, kernel.PR_SET_PDEATHSIG, "deny", "allow")


def _judge_sockets(program: Program, given: Terms) -> None:
    """Pairs; and with a network TCP, which Landlock confines to the proxy's port."""
    program.label("socketpair")  # a pair of datagram sockets could be turned towards others
    program.load_argument(1)
    program.mask(_SOCK_TYPE_BITS)
    program.jump_if(bpf.JUMP_EQUAL, _SOCK_STREAM, "allow", "deny")
    if given.network:
        program.label("socket")
        program.load_argument(0)
        program.jump_if(bpf.JUMP_EQUAL, _AF_INET, if_true="stream")
        program.jump_if(bpf.JUMP_EQUAL, _AF_INET6, if_false="deny")
        program.label("stream")
        program.load_argument(1)
        program.mask(_SOCK_TYPE_BITS)
        program.jump_if(bpf.JUMP_EQUAL, _SOCK_STREAM, "allow", "deny")
