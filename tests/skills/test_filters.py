"""The system call filter, run by a machine of our own: also for processors that are not here."""

from __future__ import annotations

import errno
import itertools
import struct
import sys
import sysconfig
from pathlib import Path

import pytest

from coterie.skills.sandbox import box, bpf, kernel, seccomp
from coterie.skills.sandbox.seccomp import Terms

PID = 4_711
EPERM, ENOSYS = bpf.ERRNO | errno.EPERM, bpf.ERRNO | errno.ENOSYS
AS_IF_DONE = bpf.ERRNO
MACHINES = sorted(kernel.NUMBERS)
TERMS = [Terms(*each) for each in itertools.product((False, True), repeat=3)]
POINTER = 0x7FFC_0000_0000  # whose low half is zero


def verdict(program: bytes, machine: str, number: int, *arguments: int) -> int:
    """What the filter says of one call."""
    words = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("=iIQ6Q", number, kernel.AUDIT_ARCH[machine], 0, *words)
    lines = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    at = value = 0
    while True:
        code, true, false, constant = lines[at]
        at += 1
        if code == bpf.LOAD_WORD:
            (value,) = struct.unpack_from("=I", data, constant)
        elif code == bpf.AND:
            value &= constant
        elif code == bpf.RETURN:
            return int(constant)
        else:
            met = {
                bpf.JUMP_EQUAL: value == constant,
                bpf.JUMP_GREATER_EQUAL: value >= constant,
                bpf.JUMP_ANY_BIT: bool(value & constant),
            }[code]
            at += true if met else false


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("terms", TERMS)
def test_every_denied_call_is_denied_and_the_usual_ones_are_not(machine: str, terms: Terms) -> None:
    numbers, program = kernel.NUMBERS[machine], seccomp.build(PID, terms, machine)
    outside = seccomp.DENIED_WITH_NETWORK if terms.network else seccomp.DENIED_WITHOUT_NETWORK
    denied = {*seccomp.DENIED, *outside}
    known = {name: numbers[name] for name in denied if name in numbers}
    assert {name: verdict(program, machine, number) for name, number in known.items()} == dict.fromkeys(
        known, EPERM
    )
    usual = {"x86_64": [0, 1, 3, 9, 11, 202, 257], "aarch64": [63, 64, 57, 222, 215, 98, 56]}[machine]
    assert {verdict(program, machine, number) for number in usual} == {bpf.ALLOW}


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_are_judged_by_their_arguments(machine: str) -> None:
    numbers, program = kernel.NUMBERS[machine], seccomp.build(PID, Terms(), machine)

    def judge(name: str, *arguments: int) -> int:
        return verdict(program, machine, numbers[name], *arguments)

    assert judge("clone", 0x0001_0000 | 0x100) == bpf.ALLOW
    assert judge("clone", 17) == EPERM
    assert judge("clone3") == ENOSYS
    assert judge("kill", PID, 6) == bpf.ALLOW
    assert judge("kill", PID + 1, 9) == EPERM
    assert judge("kill", 2**64 - 1, 9) == EPERM
    assert judge("tgkill", 1, 1, 9) == EPERM
    assert judge("prlimit64", 0, 7) == bpf.ALLOW
    assert judge("prlimit64", 1, 7) == EPERM
    assert judge("prctl", 15) == bpf.ALLOW
    assert judge("prctl", kernel.PR_SET_PDEATHSIG) == EPERM
    assert judge("prctl", 1 << 32 | kernel.PR_SET_PDEATHSIG) == EPERM
    assert judge("socketpair", 1, 1 | 0o2000000) == bpf.ALLOW
    assert judge("socketpair", 1, 2) == EPERM


@pytest.mark.parametrize("machine", MACHINES)
def test_descriptors_have_no_owner_no_lease_and_no_flags(machine: str) -> None:
    numbers, program = kernel.NUMBERS[machine], seccomp.build(PID, Terms(), machine)
    told = {
        name: [
            request
            for request in (*range(0x30), *range(1_024, 1_060), 0x5401, 0x541B, 0x5421, 0x8901, 0x8902)
            if verdict(program, machine, numbers[name], 0, request) == bpf.ALLOW
        ]
        for name in ("fcntl", "ioctl")
    }
    assert told["fcntl"] == [0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1_030, 1_032, 1_034]
    assert told["ioctl"] == [0x5401, 0x541B, 0x5421]
    # The kernel looks at the low half, too: the high one turns nothing into something else.
    assert verdict(program, machine, numbers["fcntl"], 0, 1 << 32 | 8) == EPERM
    assert verdict(program, machine, numbers["ioctl"], 0, 1 << 32 | 0x8901) == bpf.ERRNO | errno.ENOTTY


@pytest.mark.parametrize("machine", MACHINES)
def test_opening_is_for_reading_or_writing_and_cuts_only_what_it_writes(machine: str) -> None:
    numbers, program = kernel.NUMBERS[machine], seccomp.build(PID, Terms(), machine)
    cut, close_on_exec = 0o1000, 0o2000000
    for name, at in (("open", 1), ("openat", 2)):
        if name in numbers:
            said = {
                flags: verdict(program, machine, numbers[name], *([0] * at), flags | close_on_exec)
                for flags in (0, 1, 2, 3, cut, cut | 1, cut | 2, cut | 3)
            }
            refused = [flags for flags, answer in said.items() if answer == EPERM]
            assert refused == [3, cut, cut | 3]
            assert {said[flags] for flags in (0, 1, 2, cut | 1, cut | 2)} == {bpf.ALLOW}
    assert verdict(program, machine, numbers["openat2"]) == ENOSYS


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("terms", TERMS)
def test_what_an_owner_may_is_left_to_one_who_owns_nothing_else(machine: str, terms: Terms) -> None:
    numbers, program = kernel.NUMBERS[machine], seccomp.build(PID, terms, machine)

    def judge(name: str, *arguments: int) -> set[int]:
        return {verdict(program, machine, numbers[name], *arguments)} if name in numbers else set()

    mine = {bpf.ALLOW} if terms.own_user else {AS_IF_DONE}
    assert set().union(*map(judge, ("chmod", "fchmod", "fchmodat", "fchmodat2"))) == mine
    for name, at in (("utime", 1), ("utimes", 1), ("futimesat", 2), ("utimensat", 2)):
        assert judge(name, *([1] * at), POINTER) <= mine
        assert judge(name, *([1] * at), 8) <= mine
        assert judge(name, *([1] * at), 0) <= ({bpf.ALLOW} if terms.own_user else {EPERM})
    assert judge("truncate") == ({bpf.ALLOW} if terms.cut_by_name else {EPERM})
    assert set().union(*map(judge, seccomp.ATTRIBUTES)) == {bpf.ERRNO | errno.EOPNOTSUPP}


def test_every_name_is_one_of_a_call() -> None:
    known = set().union(*kernel.NUMBERS.values())
    judged = {name for terms in TERMS for name in seccomp._judged(terms)}
    assert judged <= known and len(seccomp.ATTRIBUTES) == len({*seccomp.ATTRIBUTES} & known) == 12


@pytest.mark.parametrize("machine", MACHINES)
def test_a_network_is_tcp_alone(machine: str) -> None:
    numbers, program = kernel.NUMBERS[machine], seccomp.build(PID, Terms(network=True), machine)
    allowed = [
        (family, kind)
        for family in range(46)
        for kind in range(1, 7)
        if verdict(program, machine, numbers["socket"], family, kind) == bpf.ALLOW
    ]
    assert allowed == [(2, 1), (10, 1)]


@pytest.mark.parametrize("machine", MACHINES)
def test_other_machines_and_unknown_calls_get_nowhere(machine: str) -> None:
    program = seccomp.build(PID, Terms(), machine)
    assert verdict(program, machine, 0x4000_0000 + 39) == bpf.KILL
    assert verdict(program, machine, kernel.NEWEST_KNOWN + 1) == ENOSYS
    other = next(name for name in MACHINES if name != machine)
    assert verdict(program, other, 0) == bpf.KILL


@pytest.mark.skipif(kernel.MACHINE not in kernel.NUMBERS, reason="no filters for this machine")
@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("pid", [1, PID, 4_194_304])
def test_what_was_prepared_before_the_fork_is_the_same_filter(pid: int, terms: Terms) -> None:
    assert seccomp.filter_for(pid, terms) == seccomp.build(pid, terms)


def test_libraries_lie_in_no_other_and_hold_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lib" / "inner").mkdir(parents=True)
    (tmp_path / "library").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "lib" / "inner")
    places = [str(tmp_path / name) for name in ("lib", "lib/inner", "library", "link", "missing")]
    sysconfig.get_paths()  # it imports a module when it is first asked
    monkeypatch.setattr(sys, "path", [*places, "", "relative", "/", "/root", "/tmp"])
    found = box.libraries.__wrapped__(False)
    assert {path for path in found if path.is_relative_to(tmp_path)} == {
        tmp_path / "lib",
        tmp_path / "library",
    }
    assert not {Path("/"), Path("/root"), Path("/tmp"), Path.cwd()} & set(found)


def test_a_jump_too_far_is_refused() -> None:
    program = bpf.Program()
    program.jump_if(bpf.JUMP_EQUAL, 1, if_true="far")
    for _ in range(bpf.JUMP_MAX + 1):
        program.answer(bpf.ALLOW)
    program.label("far")
    program.answer(bpf.KILL)
    with pytest.raises(ValueError, match="jump of 256 lines to 'far'"):
        program.assemble()
