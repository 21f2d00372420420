"""Good inputs made bad: flips, cuts, repetitions, splices, wrong lengths, and what attackers like to send."""

from __future__ import annotations

import pickle
import random
from collections.abc import Sequence

CHANGES_MAX = 6
BYTES_MAX = 1 << 16


class Explosive:
    """Unpickling it would run code: it sets off `Explosive.went_off`."""

    went_off = False

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return setattr, (Explosive, "went_off", True)


ATTACKS: tuple[bytes, ...] = (
    b"",
    b"\x00",
    b"\xff" * 64,
    pickle.dumps(Explosive()),
    pickle.dumps(Explosive(), protocol=0),
    b"\x01" + bytes(24) + pickle.dumps(Explosive()),
    b"\x0a" * 5_000,  # a protobuf message in a message in a message
    b'{"op":' + b"[" * 20_000,
    b'{"op":"x","n":' + b"9" * 5_000 + b"}",
    b"\xff\xff\xff\x7f" + b"A" * 100,  # a length of two gigabytes
    b"\x12\xff\xff\xff\xff\x0f",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "\ud800".encode("utf-16", "surrogatepass") * 10,
)


def mutated(corpus: Sequence[bytes], rng: random.Random) -> bytes:
    """One input of the corpus with some changes; now and then an attack, or noise."""
    dice = rng.random()
    if dice < 0.02:
        return rng.choice(ATTACKS)
    if dice < 0.05:
        return rng.randbytes(rng.choice([1, 8, 60, 900]))
    data = bytearray(rng.choice(corpus))
    for _ in range(rng.randint(1, CHANGES_MAX)):
        rng.choice(_CHANGES)(data, corpus, rng)
    return bytes(data[:BYTES_MAX])


def _flip(data: bytearray, corpus: Sequence[bytes], rng: random.Random) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set(data: bytearray, corpus: Sequence[bytes], rng: random.Random) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.choice([0, 1, 0x7F, 0x80, 0xFE, 0xFF])


def _cut(data: bytearray, corpus: Sequence[bytes], rng: random.Random) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _drop(data: bytearray, corpus: Sequence[bytes], rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    del data[at : at + rng.randint(1, 16)]


def _insert(data: bytearray, corpus: Sequence[bytes], rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.randbytes(rng.randint(1, 16))


def _repeat(data: bytearray, corpus: Sequence[bytes], rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = data[at : at + rng.randint(1, 200)] * rng.randint(1, 4)


def _splice(data: bytearray, corpus: Sequence[bytes], rng: random.Random) -> None:
    other = rng.choice(corpus)
    data[rng.randrange(len(data) + 1) :] = other[rng.randrange(len(other) + 1) :]


def _attack(data: bytearray, corpus: Sequence[bytes], rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.choice(ATTACKS)


_CHANGES = (_flip, _flip, _flip, _set, _set, _cut, _drop, _insert, _repeat, _splice, _attack)
