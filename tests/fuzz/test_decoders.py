"""Strangers' bytes for every decoder: refused by name, or read; nothing else, and no code runs.

`python -m tests.tools.fuzz --minutes 5` does the same for longer."""

from __future__ import annotations

import contextlib
import json
import pickle
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.mutate import ATTACKS, Explosive
from tests.fuzz.run import fuzz
from tests.fuzz.targets import TARGETS, Target

ROOT = Path(__file__).resolve().parents[2]
EXECUTIONS = 1_500
UNPICKLING = re.compile(
    r"\b(?:pickle|cPickle|marshal|shelve|dill|jsonpickle|cloudpickle)\s*\.\s*\w+\s*\(|^\s*(?:import|from)\s+"
    r"(?:pickle|marshal|shelve|dill)\b|(?<![\w.])(?:eval|exec|compile)\(|yaml\.(?:unsafe_|full_)?load\(",
    re.MULTILINE,
)


@pytest.mark.parametrize("name", TARGETS)
async def test_changed_inputs(name: str) -> None:
    tally = fuzz(name, 7, executions=EXECUTIONS)
    assert tally.failures == []
    assert tally.executions == EXECUTIONS


@pytest.mark.parametrize("name", TARGETS)
async def test_what_attackers_like_to_send(name: str) -> None:
    target = TARGETS[name]
    for data in ATTACKS:
        with contextlib.suppress(*target.refusals):
            target.read(data)
    assert not Explosive.went_off


# Links need an event loop; all other decoders are plain functions.
PLAIN = [name for name in TARGETS if name != "raft connection"]


@pytest.mark.parametrize("name", PLAIN)
@given(data=st.binary(max_size=300))
def test_any_bytes(name: str, data: bytes) -> None:
    target = TARGETS[name]
    with contextlib.suppress(*target.refusals):
        target.read(data)


async def test_a_decoder_that_fails_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(data: bytes) -> None:
        json.loads(data)

    monkeypatch.setitem(TARGETS, "careless", Target(lambda: [b"[1]"], read, ()))
    assert fuzz("careless", 1, executions=50).failures


async def test_a_decoder_that_unpickles_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(data: bytes) -> None:
        if data.startswith(b"\x80"):
            pickle.loads(data)

    monkeypatch.setitem(TARGETS, "careless", Target(lambda: [b"x"], read, (Exception,)))
    try:
        with pytest.raises(AssertionError, match="ran code"):
            fuzz("careless", 1, executions=5_000)
    finally:
        Explosive.went_off = False


def product_files() -> list[Path]:
    rooms = ("consensus", "node/coterie/node", "node/coterie/client", "skills")
    return [path for room in rooms for path in sorted((ROOT / room).rglob("*.py"))]


def test_nothing_that_talks_or_stores_can_unpickle_or_evaluate() -> None:
    files = product_files()
    assert len(files) > 100
    found = {
        str(path.relative_to(ROOT)): match[0].strip()
        for path in files
        if (match := UNPICKLING.search(path.read_text("utf-8")))
    }
    assert found == {}


@pytest.mark.parametrize(
    "text",
    ["import pickle\n", "x = pickle.loads(y)", "eval(text)", "yaml.load(f)", "from marshal import loads\n"],
)
def test_a_planted_one_is_found(text: str) -> None:
    assert UNPICKLING.search(text)
