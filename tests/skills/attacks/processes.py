"""The node, the zygote, and other processes."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import resource
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from .kit import attack, libc, syscall


@attack
def proc_of_node(given: Any) -> Any:
    return Path(f"/proc/{given['node_pid']}/environ").read_bytes()[:20].hex()


@attack
def proc_listing(given: Any) -> Any:
    return os.listdir("/proc")[:3]


@attack
def proc_own_memory_map(given: Any) -> Any:
    return Path("/proc/self/maps").read_text()[:20]


@attack
def secret_in_environment(given: Any) -> Any:
    block = ctypes.POINTER(ctypes.c_char_p).in_dll(libc, "environ")
    at, seen = 0, dict(os.environ)
    while block and block[at]:
        name, _, value = block[at].decode().partition("=")
        seen[name] = value
        at += 1
    return [name for name, value in seen.items() if value == given["secret"]]


@attack
def kill_node(given: Any) -> Any:
    os.kill(given["node_pid"], 0)
    return "could signal"


@attack
def kill_zygote(given: Any) -> Any:
    os.kill(os.getppid(), 0)
    return "could signal"


@attack
def kill_everybody(given: Any) -> Any:
    os.kill(-1, 0)
    return "could signal"


@attack
def thread_kill_node(given: Any) -> Any:
    return 1 + syscall(234, given["node_pid"], given["node_pid"], 0)


@attack
def queue_signal_to_node(given: Any) -> Any:
    return 1 + syscall(424, syscall(434, given["node_pid"], 0), 0, None, 0)


@attack
def ptrace_node(given: Any) -> Any:
    return 1 + syscall(101, 16, given["node_pid"], 0, 0)


@attack
def read_memory_of_zygote(given: Any) -> Any:
    buffer = ctypes.create_string_buffer(8)
    local = struct.pack("=QQ", ctypes.addressof(buffer), 8)
    return 1 + syscall(310, os.getppid(), local, 1, local, 1, 0)


@attack
def limits_of_node(given: Any) -> Any:
    return [resource.prlimit(given["node_pid"], resource.RLIMIT_NOFILE, (16, 16))]


@attack
def slow_the_node(given: Any) -> Any:
    os.setpriority(os.PRIO_PROCESS, given["node_pid"], 19)
    return "niced"


@attack
def pin_the_node(given: Any) -> Any:
    os.sched_setaffinity(given["node_pid"], {0})
    return "pinned"


@attack
def forge_the_lease(given: Any) -> Any:
    for thing in gc.get_objects():
        if type(thing).__name__ == "LeaseBoard":
            return thing.deadline
    shared = [thing for thing in gc.get_objects() if isinstance(thing, mmap.mmap) and not thing.closed]
    return [len(memory) for memory in shared]


@attack
def inherited_descriptors(given: Any) -> Any:
    found = []
    for fd in range(3, 1_024):
        try:
            other = socket.socket(fileno=os.dup(fd))
        except OSError:
            continue
        with other:
            if other.family == socket.AF_UNIX and other.type == socket.SOCK_STREAM:
                continue  # the node's own end of this very run, and asyncio's
            found.append(fd)
    return found


@attack
def forged_frames(given: Any) -> Any:
    for fd in range(3, 64):
        try:
            other = socket.socket(fileno=os.dup(fd))
            other.send(b"\xff" * 64)
        except OSError:
            continue
    time.sleep(30)
    return "the node went on listening"


@attack
def fork(given: Any) -> Any:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    return pid


@attack
def fork_bomb(given: Any) -> Any:
    made = 0
    for _ in range(10_000):
        pid = os.fork()
        if pid == 0:
            time.sleep(0.5)
            os._exit(0)
        made += 1
    return made


@attack
def shell(given: Any) -> Any:
    return subprocess.run(["/bin/sh", "-c", "id"], capture_output=True, text=True, check=True).stdout


@attack
def spawn(given: Any) -> Any:
    return os.posix_spawn("/bin/true", ["true"], {})


@attack
def exec_in_place(given: Any) -> Any:
    os.execv("/bin/sh", ["sh", "-c", "id; sleep 5"])


@attack
def exec_from_memory(given: Any) -> Any:
    fd = os.memfd_create("evil")
    os.write(fd, Path("/bin/true").read_bytes())
    return fd


@attack
def thread_bomb(given: Any) -> Any:
    threading.stack_size(32 * 1024)
    stop, threads = threading.Event(), []
    try:
        for _ in range(2_000):
            thread = threading.Thread(target=stop.wait, daemon=True)
            thread.start()
            threads.append(thread)
    except RuntimeError:
        return None
    finally:
        stop.set()
    return len(threads)


@attack
def outlive_the_node(given: Any) -> Any:
    """Ask not to be killed when the zygote dies: its node may be dead by then."""
    return 1 + syscall(157, 1, 0, 0, 0, 0)
