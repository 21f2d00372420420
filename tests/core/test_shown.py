"""Texts of users in messages are the same on every node, whichever Python runs it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import coterie.core
from coterie.core.graph.values import ValueFault, read_json
from coterie.core.nouns import Data
from coterie.core.shown import shown
from tests.core.runs.world import World, echo

FACE = "\U0001fae8"  # Unicode 15.0: to Python 3.11 it is not printable


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("", "''"),
        ("plain", "'plain'"),
        ("it's", '"it\'s"'),
        ('it\'s "so"', "'it\\'s \"so\"'"),
        ("größe 数", "'größe 数'"),
        (FACE, f"'{FACE}'"),
        ("a\\b\n\x7f\x85\xa0", r"'a\\b\n\x7f\x85\xa0'"),
        ("\u202eabc\ud800\ue000\ufeff\U000e0001", r"'\u202eabc\ud800\ue000\ufeff\U000e0001'"),
        (1.5, "1.5"),
        (None, "None"),
        ([True, {"ä": FACE}], r"[True, {'\xe4': '\U0001fae8'}]"),
    ],
)
def test_how_a_value_is_shown(value: object, text: str) -> None:
    assert shown(value) == text


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"[1,]", "not JSON"),
        (b'{"a":1,}', "not JSON"),
        (b'{"a": [1, "b"', "not JSON"),
        (b"", "not JSON"),
        (b'"a\nb"', "not JSON"),
        (b"\xff", "not JSON: it is not UTF-8"),
        (b"[NaN,]", "not JSON: NaN is no number of JSON"),
        (b"1e999", "not JSON: a number beyond all limits"),
    ],
)
def test_what_is_no_json_is_told_in_our_own_words(raw: bytes, text: str) -> None:
    with pytest.raises(ValueFault) as caught:
        read_json(raw)
    assert caught.value.text == text


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        (b'{"x":1,}', "not JSON"),
        (f'{{"{FACE}":1}}'.encode(), f"{{{{ a.x }}}}: there is no 'x' in it; there is '{FACE}'"),
        (b'{"\xc2\xad":1}', "{{ a.x }}: there is no 'x' in it; there is '\\xad'"),
    ],
)
def test_what_is_kept_of_a_wrong_answer_depends_on_the_answer_alone(answer: bytes, kept: str) -> None:
    world = World()
    world.run(echo("a"), echo("b", "a", input={"t": "{{ a.x }}"}))
    world.give("a", Data(answer))
    assert world.table()["b"]["message"] == kept


def test_no_message_of_the_state_machine_is_made_by_repr() -> None:
    found = {
        path.name
        for path in Path(coterie.core.__path__[0]).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FormattedValue) and node.conversion == ord("r")
    }
    assert not found
