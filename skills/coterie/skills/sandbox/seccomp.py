"""Which system calls a confined skill may not make, and the filter that says so to the kernel.

Denied are: other processes (making, signalling, tracing, reading, re-prioritising them), sockets of any kind
but pairs, namespaces and mounts, kernel modules, keys, BPF, io_uring, shared memory by name, anonymous files,
clocks; and whatever is newer than what we know. A denied call gets EPERM: Python raises PermissionError.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from functools import cache

from coterie.skills.sandbox import bpf, kernel
from coterie.skills.sandbox.bpf import Program

DENIED = (
    "fork", "vfork", "execve", "execveat", "ptrace", "process_vm_readv", "process_vm_writev",
    "process_madvise", "kcmp", "pidfd_open", "pidfd_getfd", "pidfd_send_signal", "rt_sigqueueinfo",
    "rt_tgsigqueueinfo", "tkill", "setsid", "setpgid", "setpriority", "ioprio_set", "sched_setparam",
    "sched_setscheduler", "sched_setattr", "sched_setaffinity", "migrate_pages", "move_pages",
    "mount", "umount2", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount", "fspick",
    "mount_setattr", "pivot_root", "chroot", "unshare", "setns", "name_to_handle_at", "open_by_handle_at",
    "fanotify_init", "quotactl", "acct", "swapon", "swapoff", "vhangup",
    "init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot",
    "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register",
    "add_key", "request_key", "keyctl", "syslog", "lookup_dcookie", "personality", "modify_ldt", "uselib",
    "iopl", "ioperm", "capset", "seccomp",
    "shmget", "shmat", "shmctl", "semget", "semop", "semtimedop", "semctl", "msgget", "msgsnd", "msgrcv",
    "msgctl", "mq_open", "mq_unlink", "memfd_create", "memfd_secret",
    "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "sethostname", "setdomainname",
)  # fmt: skip
DENIED_WITHOUT_NETWORK = ("socket", "connect", "bind", "listen", "accept", "accept4")
DENIED_WITH_NETWORK = ("bind", "listen", "accept", "accept4")

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


@cache
def prepared(network: bool) -> tuple[bytes, tuple[int, ...]]:
    """A filter for no process yet, and where its number belongs. To be asked for before the fork: assembling
    takes longer than all the system calls of the walls together."""
    code = build(_SOME_PID, network)
    lines = range(0, len(code), _LINE.size)
    places = tuple(at + _VALUE_AT for at in lines if _LINE.unpack_from(code, at)[3] == _SOME_PID)
    return code, places


def filter_for(pid: int, network: bool) -> bytes:
    """What `build` makes of it, from what is prepared."""
    code, places = prepared(network)
    made = bytearray(code)
    for at in places:
        struct.pack_into("=I", made, at, pid)
    return bytes(made)


def restrict(network: bool) -> None:
    """Put the filter on this process, for good. Needs no_new_privs. Raises OSError."""
    instructions = filter_for(os.getpid(), network)
    code = ctypes.create_string_buffer(instructions, len(instructions))
    header = struct.pack("@HxxxxxxQ", len(instructions) // 8, ctypes.addressof(code))
    program = ctypes.create_string_buffer(header, len(header))
    kernel.prctl(kernel.PR_SET_SECCOMP, _MODE_FILTER, program)


def build(pid: int, network: bool, machine: str = kernel.MACHINE) -> bytes:
    """The filter for the process `pid` on that machine."""
    numbers, program = kernel.NUMBERS[machine], Program()
    program.load(bpf.AT_ARCH)
    program.jump_if(bpf.JUMP_EQUAL, kernel.AUDIT_ARCH[machine], if_false="end")
    program.load(bpf.AT_NUMBER)
    program.jump_if(bpf.JUMP_GREATER_EQUAL, _X32, if_true="end")
    program.jump_if(bpf.JUMP_GREATER_EQUAL, kernel.NEWEST_KNOWN + 1, if_true="unknown")
    for name in ("clone", "kill", "tgkill", "prlimit64", "socketpair"):
        program.jump_if(bpf.JUMP_EQUAL, numbers[name], if_true=name)
    if network:
        program.jump_if(bpf.JUMP_EQUAL, numbers["socket"], if_true="socket")
    # The C library tries clone3 first, whose flags no filter can see; told so, it takes clone.
    program.jump_if(bpf.JUMP_EQUAL, numbers["clone3"], if_true="unknown")
    for name in (*DENIED, *(DENIED_WITH_NETWORK if network else DENIED_WITHOUT_NETWORK)):
        if name in numbers:
            program.jump_if(bpf.JUMP_EQUAL, numbers[name], if_true="deny")
    program.answer(bpf.ALLOW)
    _add_conditions(program, pid, network)
    for label, action in (
        ("allow", bpf.ALLOW),
        ("deny", bpf.ERRNO | errno.EPERM),
        ("unknown", bpf.ERRNO | errno.ENOSYS),
        ("end", bpf.KILL),
    ):
        program.label(label)
        program.answer(action)
    return program.assemble()


def _add_conditions(program: Program, pid: int, network: bool) -> None:
    """Calls that depend on their arguments."""
    program.label("clone")  # threads yes, processes no
    program.load_argument(0)
    program.jump_if(bpf.JUMP_ANY_BIT, _CLONE_THREAD, "allow", "deny")
    for name in ("kill", "tgkill"):  # itself only: abort(), raise()
        program.label(name)
        program.load_argument(0)
        program.jump_if(bpf.JUMP_EQUAL, pid, "allow", "deny")
    program.label("prlimit64")  # its own limits only
    program.load_argument(0)
    program.jump_if(bpf.JUMP_EQUAL, 0, "allow", "deny")
    program.label("socketpair")  # a pair of datagram sockets could be turned towards others
    program.load_argument(1)
    program.mask(_SOCK_TYPE_BITS)
    program.jump_if(bpf.JUMP_EQUAL, _SOCK_STREAM, "allow", "deny")
    if network:
        program.label("socket")  # TCP, which Landlock confines to the proxy's port
        program.load_argument(0)
        program.jump_if(bpf.JUMP_EQUAL, _AF_INET, if_true="stream")
        program.jump_if(bpf.JUMP_EQUAL, _AF_INET6, if_false="deny")
        program.label("stream")
        program.load_argument(1)
        program.mask(_SOCK_TYPE_BITS)
        program.jump_if(bpf.JUMP_EQUAL, _SOCK_STREAM, "allow", "deny")
