"""Measuring and removing folders that were made to be hard to measure and to remove."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from coterie.node.skillhost.trees import DEPTH_MAX, ENDLESS, bytes_used, remove_tree, unlinked_bytes

NOBODY = 65_534


def nest(folder: Path, depth: int) -> None:
    """Folders in folders, deeper than any path may be long; a file at the bottom."""
    fd = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("deeper", dir_fd=fd)
        below = os.open("deeper", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


def test_what_lies_beneath_is_counted(tmp_path: Path) -> None:
    place = tmp_path / "a" / "b"
    place.mkdir(parents=True)
    before = bytes_used(tmp_path)
    (place / "file").write_bytes(b"x" * 1_000_000)
    (place / "link").symlink_to("/")
    assert 1_000_000 <= bytes_used(tmp_path) - before < 1_100_000
    assert bytes_used(tmp_path / "nowhere") == 0


def test_what_is_nested_too_deep_is_endless(tmp_path: Path) -> None:
    nest(tmp_path, DEPTH_MAX - 10)
    assert bytes_used(tmp_path) < ENDLESS
    other = tmp_path / "other"
    other.mkdir()
    nest(other, 1_500)
    assert bytes_used(tmp_path) == ENDLESS
    remove_tree(other)


def test_no_depth_and_no_mode_keeps_a_folder(tmp_path: Path) -> None:
    place = tmp_path / "place"
    for name in ("a", "moved-0", "moved-1/moved-2/moved-3"):
        (place / name / "x").mkdir(parents=True)
        (place / name / "x" / "file").write_text("kept")
    (place / "link").symlink_to(tmp_path)
    nest(place / "a", 1_500)
    (place / "moved-0" / "x").chmod(0)
    (place / "moved-0").chmod(0o500)
    place.chmod(0)
    (tmp_path / "untouched").write_text("here")
    remove_tree(place)
    assert [path.name for path in tmp_path.iterdir()] == ["untouched"]
    remove_tree(place)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
def test_modes_keep_nothing_from_an_owner_who_is_not_root(tmp_path: Path) -> None:
    made = subprocess.run(
        [sys.executable, "-c", NOT_ROOT, *filter(None, sys.path)], capture_output=True, text=True, check=False
    )
    assert made.stdout == "True False\n", made.stderr


NOT_ROOT = f"""
import sys; sys.path[:0] = sys.argv[1:]
import os, tempfile
from pathlib import Path
from coterie.node.skillhost.trees import ENDLESS, bytes_used, remove_tree
os.setresgid({NOBODY}, {NOBODY}, {NOBODY}); os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
place = Path(tempfile.mkdtemp())
(place / "a/b/c").mkdir(parents=True)
for name in ("a/b/c", "a/b", "a"):
    (place / name).chmod(0)
endless = bytes_used(place) == ENDLESS
remove_tree(place)
print(endless, place.exists())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="shown to root")
def test_a_file_without_a_name_is_counted_once(tmp_path: Path) -> None:
    before = unlinked_bytes(os.getpid(), 0)
    with open(tmp_path / "file", "wb") as file:
        file.write(b"x" * 1_000_000)
        file.flush()
        assert unlinked_bytes(os.getpid(), 0) == before
        os.unlink(file.name)
        again = os.dup(file.fileno())
        assert 1_000_000 <= unlinked_bytes(os.getpid(), 0) - before < 1_100_000
        assert unlinked_bytes(os.getpid(), NOBODY) == 0
        os.close(again)
    assert unlinked_bytes(os.getpid(), 0) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="shown to root")
def test_a_file_that_a_process_has_sent_to_itself_cannot_be_measured(tmp_path: Path) -> None:
    near, far = socket.socketpair()
    with near, far:
        with open(tmp_path / "file", "wb") as file:
            socket.send_fds(near, [b"x"], [file.fileno()])
        assert unlinked_bytes(os.getpid(), 0) == ENDLESS
        _, fds, _, _ = socket.recv_fds(far, 1, 1)
        os.close(fds[0])
        assert unlinked_bytes(os.getpid(), 0) < ENDLESS


SYS_EXIT = {"x86_64": 60, "aarch64": 93}  # of one thread
MAPPED = """
import ctypes, os, sys, threading
path, sys_exit = sys.argv[1:]
fd = os.open(path, os.O_CREAT | os.O_RDWR)
os.write(fd, b"x" * 1_000_000)
os.unlink(path)
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.mmap(None, 4096, 1, 1, fd, 0)  # PROT_READ, MAP_SHARED
os.close(fd)
def last():
    print("mapped", flush=True)
    sys.stdin.read()
    os._exit(0)
threading.Thread(target=last).start()
libc.syscall(int(sys_exit), 0)
"""


@pytest.mark.skipif(os.geteuid() != 0 or platform.machine() not in SYS_EXIT, reason="shown to root")
def test_what_is_mapped_is_counted_also_when_the_first_thread_has_ended(tmp_path: Path) -> None:
    words = [sys.executable, "-c", MAPPED, str(tmp_path / "file"), str(SYS_EXIT[platform.machine()])]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"mapped\n"
        while "(zombie)" not in Path(f"/proc/{process.pid}/status").read_text():
            assert process.poll() is None
        assert unlinked_bytes(process.pid, 0) >= 1_000_000
        process.stdin.close()
