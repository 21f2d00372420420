"""A small assembler for classic BPF, the language of seccomp filters (linux/filter.h).

Jumps name labels and go forward only, as the machine wants it. A filter looks at one system call:
its number, the machine, six arguments of 64 bits.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

LOAD_WORD, AND, RETURN = 0x20, 0x54, 0x06
JUMP_EQUAL, JUMP_GREATER_EQUAL, JUMP_ANY_BIT, JUMP = 0x15, 0x35, 0x45, 0x05

AT_NUMBER, AT_ARCH, AT_ARGUMENTS = 0, 4, 16

ALLOW = 0x7FFF0000
KILL = 0x80000000
ERRNO = 0x00050000  # with the number of the error; with 0 the call is not made, and says that it was

JUMP_MAX = 255
INSTRUCTIONS_MAX = 4_096


@dataclass(frozen=True, slots=True)
class _Line:
    code: int
    value: int
    if_true: str = ""  # a label; empty: the next line
    if_false: str = ""


class Program:
    """Lines with labels; `assemble` makes bytes of them."""

    def __init__(self) -> None:
        self._lines: list[_Line] = []
        self._labels: dict[str, int] = {}

    def label(self, name: str) -> None:
        """The next line is called so."""
        if name in self._labels:
            raise ValueError(f"label {name!r} twice")
        self._labels[name] = len(self._lines)

    def load(self, offset: int) -> None:
        """Look at the word there."""
        self._lines.append(_Line(LOAD_WORD, offset))

    def load_argument(self, number: int) -> None:
        """Look at the low half of an argument, 0..5; both machines are little-endian. Of what the kernel
        takes as an int it looks at no more itself."""
        self.load(AT_ARGUMENTS + 8 * number)

    def load_high_half(self, number: int) -> None:
        """Look at the high half of an argument, which those of 64 bits have: pointers, lengths."""
        self.load(AT_ARGUMENTS + 8 * number + 4)

    def mask(self, bits: int) -> None:
        """Keep only these bits of what is looked at."""
        self._lines.append(_Line(AND, bits))

    def jump_if(self, code: int, value: int, if_true: str = "", if_false: str = "") -> None:
        """Go to a label, or on to the next line where none is named."""
        self._lines.append(_Line(code, value, if_true, if_false))

    def answer(self, action: int) -> None:
        """The verdict on the call."""
        self._lines.append(_Line(RETURN, action))

    def assemble(self) -> bytes:
        """The instructions. Raises ValueError for a jump that the machine cannot make."""
        if len(self._lines) > INSTRUCTIONS_MAX:
            raise ValueError(f"{len(self._lines)} instructions, at most {INSTRUCTIONS_MAX} are allowed")
        packed = []
        for number, line in enumerate(self._lines):
            true, false = self._distance(number, line.if_true), self._distance(number, line.if_false)
            packed.append(struct.pack("=HBBI", line.code, true, false, line.value))
        return b"".join(packed)

    def _distance(self, number: int, label: str) -> int:
        if not label:
            return 0
        distance = self._labels[label] - number - 1
        if not 0 <= distance <= JUMP_MAX:
            raise ValueError(f"jump of {distance} lines to {label!r}")
        return distance
