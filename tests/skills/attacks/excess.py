"""Too much of everything."""

from __future__ import annotations

import array
import ctypes
import gc
import os
import signal
import time
from pathlib import Path
from typing import Any

from .kit import MIB, attack, syscall


@attack
def memory(given: Any) -> Any:
    return len(bytearray(3 * 1024 * MIB))


@attack
def processor_time(given: Any) -> Any:
    while True:
        pass


@attack
def sleep_for_ever(given: Any) -> Any:
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))
    time.sleep(3_600)


@attack
def big_file(given: Any) -> Any:
    with open("big", "wb") as file:
        for _ in range(1_024):
            file.write(b"x" * MIB)
    return "1 GiB"


@attack
def many_files(given: Any) -> Any:
    for number in range(1_000):
        Path(str(number)).write_bytes(b"x" * MIB)
        time.sleep(0.01)
    return "1 GB"


@attack
def many_descriptors(given: Any) -> Any:
    return len([os.open("/dev/null", os.O_RDONLY) for _ in range(5_000)])


@attack
def big_result(given: Any) -> Any:
    return "x" * (50 * MIB)


@attack
def flood_of_output(given: Any) -> Any:
    for _ in range(200_000):
        os.write(1, b"x" * 100 + b"\n")


@attack
def crash(given: Any) -> Any:
    ctypes.string_at(0)


@attack
def semaphores(given: Any) -> Any:
    return 1 + syscall(64, 0, 1, 0o1000 | 0o600)


@attack
def shared_memory(given: Any) -> Any:
    return 1 + syscall(29, 0, 4096, 0o1000 | 0o600)


@attack
def stolen_page(given: Any) -> Any:
    """Not one of the walls: Python objects of the zygote may be read, but no secret is among them."""
    words = array.array("b", given["secret"].encode()).tobytes().decode()
    own = {id(given), id(given["secret"]), id(words)}
    return [
        type(thing).__name__
        for thing in gc.get_objects()
        if isinstance(thing, dict)
        and id(thing) not in own
        and any(value == words for key, value in list(thing.items()) if key != "secret")
        and "words" not in thing
    ]


@attack
def contexts_of_the_machine(given: Any) -> Any:
    """Of those for asynchronous access to files there are only so many, for all users together."""
    return 1 + syscall(206, 64, ctypes.byref(ctypes.c_ulong(0)))
