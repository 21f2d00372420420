"""Where an expression means something in CEL, it means the same here: compared with a library of CEL."""

from __future__ import annotations

from typing import Any

import celpy
import pytest
from celpy import celtypes
from celpy.adapter import json_to_cel
from celpy.evaluation import CELEvalError
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.core.graph.evaluate import Values, evaluate
from coterie.core.graph.values import ValueFault

VALUES: dict[str, Any] = {"n": 3, "m": -4, "s": "text", "t": True, "l": [1, 2, 3], "o": {"k": 5, "w": "deep"}}
ENVIRONMENT = celpy.Environment()
LEAVES = {
    "int": ["0", "1", "7", "9223372036854775807", "n", "m", "o.k", "l[1]"],
    "bool": ["true", "false", "t"],
    "text": ["''", "'a'", '"ä b"', "s", "o.w", "o['w']"],
    "list": ["[]", "[1, 2]", "l"],
}


def _of(kind: str, children: dict[str, st.SearchStrategy[str]]) -> st.SearchStrategy[str]:
    """Expressions of one type, made of smaller ones."""
    ints, bools, texts, lists = (children[name] for name in ("int", "bool", "text", "list"))
    plain = st.sampled_from(LEAVES["text"])  # the library's sums of texts have no methods
    choice = st.builds("({} ? {} : {})".format, bools, children[kind], children[kind])
    made = {
        "int": [
            st.builds("({} {} {})".format, ints, st.sampled_from("+-*/%"), ints),
            st.builds("(-{})".format, ints),
            st.builds("size({})".format, st.one_of(texts, lists)),
        ],
        "bool": [
            st.builds("({} {} {})".format, ints, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), ints),
            st.builds("({} {} {})".format, texts, st.sampled_from(["<", "==", "!="]), texts),
            st.builds("({} {} {})".format, bools, st.sampled_from(["&&", "||"]), bools),
            st.builds("(!{})".format, bools),
            st.builds("({} in {})".format, ints, lists),
            st.builds(
                "{}.{}({})".format, plain, st.sampled_from(["startsWith", "endsWith", "contains"]), texts
            ),
        ],
        "text": [st.builds("({} + {})".format, texts, texts)],
        "list": [st.builds("({} + {})".format, lists, lists), st.builds("[{}]".format, ints)],
    }
    return st.one_of(choice, *made[kind])


def expressions(kind: str, depth: int = 3) -> st.SearchStrategy[str]:
    leaves = st.sampled_from(LEAVES[kind])
    if depth == 0:
        return leaves
    return st.one_of(leaves, _of(kind, {name: expressions(name, depth - 1) for name in LEAVES}))


def by_the_library(text: str) -> Any:
    """The value as JSON has it; None when it is an error."""
    program = ENVIRONMENT.program(ENVIRONMENT.compile(text))
    given_values = {name: json_to_cel(value) for name, value in VALUES.items()}
    try:
        return _plain(program.evaluate(given_values))
    except (CELEvalError, IndexError):  # the latter from its text of an error within an error
        return None


def _plain(value: Any) -> Any:
    if isinstance(value, celtypes.BoolType):
        return bool(value)
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return int(value) if isinstance(value, int) else str(value)


def ours(text: str) -> Any:
    try:
        return evaluate(text, Values(VALUES))
    except ValueFault as fault:
        assert fault.code in ("DIVIDE_BY_ZERO", "OVERFLOW"), (text, fault.code)
        return None


@settings(max_examples=400, deadline=None)
@given(st.one_of(*(expressions(kind) for kind in LEAVES)))
def test_both_come_to_the_same_value(text: str) -> None:
    found, meant = ours(text), by_the_library(text)
    if found is None and ("&&" in text or "||" in text):
        return  # ruling: from left to right; in CEL what is on the right may make up for an error on the left
    assert found == meant and type(found) is type(meant), text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-7 / 2", -3),
        ("-7 % 2", -1),
        ("7 % -2", 1),
        ("'b' in {'b': 1}", True),
        ("{'k': n}.k", 3),
        ("1 / 0", None),
        ("0 / (0 / size([]))", None),
        ("s.startsWith('te') && s.size() == 4", True),
    ],
)
def test_the_places_where_languages_differ(text: str, value: Any) -> None:
    assert ours(text) == by_the_library(text) == value
