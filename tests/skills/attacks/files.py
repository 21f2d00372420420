"""Files that are not its own."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path
from typing import Any

from .kit import attack, syscall


@attack
def read_passwd(given: Any) -> Any:
    return Path("/etc/passwd").read_text()[:20]


@attack
def read_secret_file(given: Any) -> Any:
    return Path(given["secret_file"]).read_text()


@attack
def symlink_to_secret(given: Any) -> Any:
    os.symlink(given["secret_file"], "link")
    return Path("link").read_text()


@attack
def hardlink_to_secret(given: Any) -> Any:
    os.link(given["secret_file"], "link")
    return Path("link").read_text()


@attack
def list_root(given: Any) -> Any:
    return os.listdir("/")


@attack
def list_home(given: Any) -> Any:
    return os.listdir("/root") or os.listdir("/home")


@attack
def write_outside(given: Any) -> Any:
    Path(given["open_dir"], "evil").write_text("x")
    return "written"


@attack
def write_dev_shm(given: Any) -> Any:
    Path("/dev/shm/evil").write_text("x")
    os.unlink("/dev/shm/evil")
    return "written"


@attack
def change_own_code(given: Any) -> Any:
    Path(__file__).with_name("planted.py").write_text("x = 1")
    return "planted"


@attack
def dir_of_other_task(given: Any) -> Any:
    return os.listdir(given["other_dir"])


@attack
def parent_of_work_dir(given: Any) -> Any:
    return os.listdir("..")


@attack
def open_by_handle(given: Any) -> Any:
    handle = struct.pack("=IiQ", 8, 1, 2)
    root = os.open(".", os.O_RDONLY)
    return syscall(304, root, ctypes.create_string_buffer(handle, 256), os.O_RDONLY)
