"""The tools of the bars do what they say, and say what they cannot do."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.bars import BARS
from tests.chaos.report import Report, spread
from tests.chaos.tools import needs
from tests.chaos.tools.clocks import Clocks
from tests.chaos.tools.shim import Shim
from tests.chaos.workflows.strikes import victim

ROOT = Path(__file__).resolve().parents[2]

_ONE_WAY = """
import socket, subprocess, sys
from tests.chaos.tools.network import HERE, Network

SOCKET = "import socket; s = socket.socket(type=socket.SOCK_DGRAM);"

def hears(network, host, source):
    "Whether a datagram from one host arrives at another, before one from itself that is sent later."
    listen = "s.bind(('', 9)); print(1, flush=True); print(s.recv(9))"
    command = network.enter(host) + [sys.executable, "-c", SOCKET + listen]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    for place, word in ((source, "other"), (host, "own")):
        say = SOCKET + "s.sendto(b'%s', ('%s', 9))" % (word, network.address(host))
        subprocess.run(network.enter(place) + [sys.executable, "-c", say], check=True)
    return "other" in process.communicate()[0]

network = Network(2)
assert hears(network, 1, 2) and hears(network, 1, HERE)
first = network.cut([1], [1, 2])
second = network.cut_both([1], [2])
assert not hears(network, 1, 2) and not hears(network, 2, 1) and hears(network, 1, HERE)
network.heal(second)
assert not hears(network, 1, 2) and hears(network, 2, 1)
network.heal(first)
assert hears(network, 1, 2)
network.cut([HERE], [2]); assert not hears(network, HERE, 2)
network.heal_all(); assert hears(network, HERE, 2)
"""
_POWER = """
import os, sys
from pathlib import Path
from tests.chaos.tools.disks import Ext4

base = Path(sys.argv[1])
disk = Ext4(base / "image", base / "mount", size_mb=16)
kept, lost = disk.mount_point / "kept", disk.mount_point / "lost"
with kept.open("wb") as file:
    file.write(b"k" * 9000); file.flush(); os.fsync(file.fileno())
lost.write_bytes(b"l" * 9000)
disk.power_off()
try:
    lost.write_bytes(b"more")
except OSError:
    pass
else:
    raise SystemExit("a disk without power took a write")
disk.unmount(); disk.mount()
assert kept.read_bytes() == b"k" * 9000
assert not lost.exists() or lost.stat().st_size == 0
disk.unmount()
"""
_FULL = """
import sys
from pathlib import Path
from tests.chaos.tools.disks import Tmpfs

disk = Tmpfs(Path(sys.argv[1]) / "mount", size_mb=1)
assert disk.fill() > 900_000 and disk.free_bytes() == 0
try:
    (disk.mount_point / "x").write_bytes(b"x")
except OSError:
    pass
else:
    raise SystemExit("a full disk took a write")
disk.free()
(disk.mount_point / "x").write_bytes(b"x")
"""


def need(*wanted: Callable[[], str]) -> None:
    if lacks := needs.missing(*wanted):
        pytest.skip(f"this machine lacks {lacks}")


def run_apart(script: str, *arguments: str) -> None:
    command = ["unshare", "--mount", "--net", "--propagation", "private", sys.executable, "-c", script]
    done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr


def test_packets_are_dropped_in_one_direction_and_pass_again() -> None:
    need(*needs.NETWORK)
    run_apart(_ONE_WAY)


def test_a_power_loss_takes_what_was_not_synced_and_nothing_else(tmp_path: Path) -> None:
    need(*needs.DISKS)
    run_apart(_POWER, str(tmp_path))


def test_a_full_disk_is_full(tmp_path: Path) -> None:
    need(*needs.DISKS)
    run_apart(_FULL, str(tmp_path))


def test_fsyncs_fail_where_they_should(tmp_path: Path) -> None:
    need(*needs.SHIM)
    shim = Shim(tmp_path / "shim", ["n"])
    script = "import os, sys; f = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY); os.fdatasync(f)"

    def synced(path: Path) -> bool:
        command = [sys.executable, "-c", script, str(path)]
        return subprocess.run(command, env=shim.env("n"), stderr=subprocess.DEVNULL).returncode == 0

    assert synced(tmp_path / "log")
    shim.fail("n", percent=100, only="log")
    assert not synced(tmp_path / "log") and synced(tmp_path / "other")
    assert [Path(path).name for _, path in shim.failures("n")] == ["log"]
    shim.lie("n")
    assert synced(tmp_path / "log")


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_process_is_killed_at_the_sync_that_is_named(tmp_path: Path, when: str) -> None:
    need(*needs.SHIM)
    shim = Shim(tmp_path / "shim", ["n"])
    shim.kill("n", when, 2, only="log")
    script = """
import os, sys
f = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
for number in range(3):
    os.fdatasync(f)
    print(number, flush=True)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "log")]
    done = subprocess.run(command, env=shim.env("n"), capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (-9, ["0"])
    command[-1] = str(tmp_path / "other")
    assert subprocess.run(command, env=shim.env("n"), capture_output=True).returncode == 0


def test_a_bar_that_cannot_run_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert needs.missing(needs.tools("sh"), needs.tools("no-such-program", "nor-this")) in (
        "the program no-such-program, the program nor-this",
        "Linux",
    )
    report = Report(9, "power loss", skipped="root")
    assert (
        report.verdict == "skipped"
        and report.line() == "bar 9: SKIPPED (power loss): this machine lacks root"
    )


def test_too_little_work_fails() -> None:
    report = Report(3, "faults", text="12 faults")
    report.require("faults", 12, 12)
    assert report.verdict == "passed" and report.line() == "bar 3: 12 faults"
    report.require("acked", 1_999, 5_000)
    assert report.verdict == "failed"
    assert report.line() == "bar 3: 12 faults · TOO LITTLE WORK: acked: 1,999 of at least 5,000"
    report.demand(False, "3 lost")
    assert report.line().startswith("bar 3: 12 faults · FAILED: 3 lost · TOO LITTLE WORK")
    assert report.as_json()["verdict"] == "failed"


def test_spread_is_said_in_words() -> None:
    assert spread([]) == "never"
    assert spread([3.0, 1.0, 2.0]) == "p50 2.0 s max 3.0 s"


def test_every_bar_has_its_number() -> None:
    assert all(bar.number == number for number, bar in BARS.items())


def test_a_wall_clock_jumps_and_the_monotonic_clock_does_not(tmp_path: Path) -> None:
    need(*needs.SHIM)
    clocks = Clocks(tmp_path / "clocks", ["n"])
    script = """
import sys, time
wall, steady = time.time(), time.monotonic()
print(flush=True)
sys.stdin.readline()
print(round((time.time() - wall) / 3600), round((time.monotonic() - steady) / 3600))
"""
    command = [sys.executable, "-c", script]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=clocks.env("n"), stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin and process.stdout
        process.stdout.readline()
        clocks.set("n", -3_600)
        process.stdin.write("\n")
        process.stdin.close()
        assert process.stdout.read().split() == ["-1", "0"]


def test_blows_fall_where_a_majority_is_left_or_else_anywhere() -> None:
    def struck(count: int, up: str) -> str:
        dice = random.Random(1)
        return "".join(sorted({victim(dice, "abcde"[:count], up) for _ in range(200)}))

    assert struck(3, "abc") == "abc"
    assert struck(5, "bcde") == "bcde"  # the fifth is still starting
    assert struck(3, "ab") == struck(3, "") == "abc"
