"""What ordinary skills do with the standard library in their own folder. Each errand returns what it made."""

from __future__ import annotations

import asyncio
import concurrent.futures
import fcntl
import gzip
import importlib
import logging.handlers
import mmap
import os
import selectors
import shelve
import shutil
import socket
import sqlite3
import ssl
import sys
import tarfile
import tempfile
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ERRANDS: dict[str, Callable[[], Any]] = {}
TEXT = "some text\n"


def errand(function: Callable[[], Any]) -> Callable[[], Any]:
    """Register it under its name."""
    ERRANDS[function.__name__] = function
    return function


def run(ctx: Any, given: Any) -> Any:
    """All errands, each in a folder of its own; for each name what it made, or the error."""
    found, here = {}, os.getcwd()
    for name, function in ERRANDS.items():
        os.mkdir(name)
        os.chdir(name)
        try:
            Path("from").write_text(TEXT)
            found[name] = function()
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
        finally:
            os.chdir(here)
    return found


@errand
def copy() -> Any:
    shutil.copy("from", "plain")
    shutil.copy2("from", "with_times")
    shutil.copymode("from", "plain")
    shutil.copystat("from", "plain")
    return Path("plain").read_text() + Path("with_times").read_text() == TEXT * 2


@errand
def copy_from_the_libraries() -> Any:
    shutil.copy2(os.__file__, "os.py")
    return Path("os.py").read_bytes() == Path(os.__file__).read_bytes()


@errand
def copy_a_tree() -> Any:
    os.makedirs("tree/inner")
    Path("tree/inner/leaf").write_text(TEXT)
    shutil.copytree("tree", "copied")
    shutil.move("copied", "moved")
    shutil.rmtree("tree")
    return os.listdir() and Path("moved/inner/leaf").read_text() == TEXT


@errand
def replace_and_link() -> Any:
    Path("new").write_text("new")
    os.replace("new", "from")
    os.link("from", "linked")
    os.symlink("linked", "pointed")
    os.rename("from", "renamed")
    return Path("pointed").read_text() == "new"


@errand
def touch() -> Any:
    Path("touched").touch()
    Path("touched").touch()
    Path("touched").unlink()
    Path("from").touch()
    return Path("from").read_text() == TEXT and not Path("touched").exists()


@errand
def modes_and_times() -> Any:
    Path("from").chmod(0o600)
    os.utime("from", (1_000_000_000, 1_000_000_000))
    with open("from", "rb") as file:
        os.fchmod(file.fileno(), 0o600)
        os.utime(file.fileno(), (1, 1))
    return True


@errand
def cut() -> Any:
    with open("from", "r+") as file:
        file.truncate(4)
        os.ftruncate(file.fileno(), 2)
    with open("from", "w") as file:
        file.write("a")
    os.truncate(os.open("from", os.O_RDWR | os.O_TRUNC), 3)
    return Path("from").read_bytes() == b"\0\0\0"


@errand
def tar() -> Any:
    with tarfile.open("pack.tar.gz", "w:gz") as pack:
        pack.add("from")
    with tarfile.open("pack.tar.gz") as pack:
        pack.errorlevel = 2  # every trouble is an error
        pack.extractall("whole")
    return Path("whole/from").read_text() == TEXT


@errand
def zip_and_unpack() -> Any:
    with zipfile.ZipFile("pack.zip", "w", zipfile.ZIP_DEFLATED) as pack:
        pack.write("from")
    with zipfile.ZipFile("pack.zip") as pack:
        pack.extractall("out")
    shutil.unpack_archive("pack.zip", "again")
    return Path("out/from").read_text() + Path("again/from").read_text() == TEXT * 2


@errand
def temporary() -> Any:
    with tempfile.TemporaryDirectory() as place, tempfile.TemporaryFile() as nameless:
        nameless.write(b"x")
        Path(place, "one").write_text(TEXT)
        os.mkdir(os.path.join(place, "inner"))
    with tempfile.NamedTemporaryFile("w") as named, tempfile.SpooledTemporaryFile(1) as spooled:
        named.write(TEXT)
        spooled.write(b"more than one")
    handle, name = tempfile.mkstemp()
    os.close(handle)
    os.unlink(name)
    os.rmdir(tempfile.mkdtemp())
    return not os.path.exists(place)


@errand
def database() -> Any:
    found = []
    for journal in ("delete", "wal", "truncate", "persist"):
        base = sqlite3.connect(f"{journal}.db")
        with base:
            assert base.execute(f"PRAGMA journal_mode={journal}").fetchone() == (journal,)
            base.execute("CREATE TABLE things (name TEXT)")
            base.executemany("INSERT INTO things VALUES (?)", [(str(number),) for number in range(100)])
        found.append(base.execute("SELECT count(*) FROM things").fetchone()[0])
        base.execute("VACUUM")
        base.close()
    with shelve.open("shelf") as shelf:
        shelf["one"] = 1
    with shelve.open("shelf") as shelf:
        return [*found, shelf["one"]] == [100] * 4 + [1]


@errand
def logs() -> Any:
    handler = logging.handlers.RotatingFileHandler("log", maxBytes=50, backupCount=2)
    for _ in range(4):
        handler.emit(logging.LogRecord("a", logging.INFO, "", 0, "x" * 40, None, None))
    handler.close()
    return sorted(name for name in os.listdir() if name.startswith("log")) == ["log", "log.1", "log.2"]


@errand
def descriptors() -> Any:
    with open("from", "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        fcntl.lockf(file, fcntl.LOCK_EX)
        os.set_inheritable(file.fileno(), True)
        with mmap.mmap(file.fileno(), 0) as memory:
            memory[:4] = b"more"
        again = os.dup(file.fileno())
        os.lseek(again, 0, os.SEEK_SET)
        os.isatty(again)
    shutil.get_terminal_size()
    with gzip.open("packed", "wt") as packed:
        packed.write(TEXT)
    return os.read(again, 4) == b"more"


@errand
def sockets() -> Any:
    here, there = socket.socketpair()
    here.settimeout(1)
    there.setblocking(False)
    os.set_blocking(there.fileno(), True)
    with selectors.DefaultSelector() as selector:
        selector.register(here, selectors.EVENT_READ)
        there.send(b"hello")
        return bool(selector.select(1)) and here.recv(5) == b"hello"


@errand
def threads() -> Any:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda number: number**2, range(4))) == [0, 1, 4, 9]


@errand
def event_loop() -> Any:
    async def work() -> Any:
        reader, writer = os.pipe()
        loop, came = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(reader, came.set)
        await asyncio.to_thread(os.write, writer, b"x")
        await asyncio.wait_for(came.wait(), 5)
        return await asyncio.gather(asyncio.sleep(0, 1), asyncio.to_thread(sum, (1, 1)))

    return asyncio.run(work()) == [1, 2]


@errand
def modules() -> Any:
    Path("written_here.py").write_text("value = 7\n")
    sys.path.insert(0, os.getcwd())
    try:
        value = importlib.import_module("written_here").value
    finally:
        sys.path.pop(0)
    ssl.create_default_context()
    return value == 7 and uuid.uuid1() != uuid.uuid4()
