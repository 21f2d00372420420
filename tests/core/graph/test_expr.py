"""Expressions and references: what they mean, and that text of strangers stays text."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.core.graph.evaluate import Values, evaluate, holds
from coterie.core.graph.expr import (
    TREE_DEPTH_MAX,
    all_names_in,
    looks_at_ends,
    names_in,
    nodes_asked_for,
    parse,
)
from coterie.core.graph.refs import PARTS_MAX, fill, references, whole
from coterie.core.graph.values import ValueFault, read_json, weight, write_json

SCOPE = Values(
    {"a": {"b": [1, 2, {"c": "x"}]}, "n": 3, "f": 1.5, "s": "text", "t": True, "none": None, "l": [3]}
)


def bracketed(levels: int) -> str:
    """Within the bounds of brackets and of operators in a row, and deeper than both."""
    text = "1"
    for _ in range(levels):
        text = f"({text}{'+1' * 38})"
    return text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("10 - 4 - 3", 3),
        ("-7 / 2", -3),
        ("-7 % 2", -1),
        ("7.0 / 2", 3.5),
        ("a.b[2].c", "x"),
        ("a['b'][-1]['c'] + '!'", "x!"),
        ("n in [1, 3]", True),
        ("'b' in a", True),
        ("n == 3 && !(s == 'other')", True),
        ("false || n > 2", True),
        ("t ? 'yes' : 'no'", "yes"),
        ("1 == 1.0", True),
        ("1 == true", False),
        ("[1, true] == [true, 1]", False),
        ("{'k': n}.k", 3),
        ("has(a.z)", False),
        ("has(a.b)", True),
        ("default(a.z, 5)", 5),
        ("default(nothing, s)", "text"),
        ("size(a.b) + size(s)", 7),
        ("int('42') + int(1.9)", 43),
        ("double('1.5')", 1.5),
        ("string(t) + string(n)", "true3"),
        ("type(none)", "null"),
        ("lower('ABCÄ')", "abcÄ"),
        ("startsWith(s, 'te') && endsWith(s, 'xt') && contains(s, 'ex')", True),
        ("false && missing", False),
        ("'\\n\\'' == \"\\n'\"", True),
        ("{'k': [n]} == {'k': [3]}", True),
        ("{'k': 1} == {'k': true}", False),
        ("{'k': 1} == {'j': 1}", False),
        ("double(n)", 3.0),
    ],
)
def test_an_expression_has_its_value(text: str, value: Any) -> None:
    found = evaluate(text, SCOPE)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("missing", "MISSING_VALUE"),
        ("a.z.y", "MISSING_VALUE"),
        ("a.b[9]", "MISSING_VALUE"),
        ("true + 1", "TYPE_ERROR"),
        ("'a' * 3", "TYPE_ERROR"),
        ("n && t", "TYPE_ERROR"),
        ("s < 1", "TYPE_ERROR"),
        ("n[0]", "TYPE_ERROR"),
        ("a[1]", "TYPE_ERROR"),
        ("-s", "TYPE_ERROR"),
        ("1 / 0", "DIVIDE_BY_ZERO"),
        ("1 % 0", "DIVIDE_BY_ZERO"),
        ("9223372036854775807 + 1", "OVERFLOW"),
        ("1e308 * 10", "OVERFLOW"),
        ("__import__('os').system('id')", "BAD_EXPRESSION"),
        ("().__class__", "BAD_EXPRESSION"),
        ("a.__class__", "MISSING_VALUE"),
        ("lambda: 1", "BAD_EXPRESSION"),
        ("open('/etc/passwd')", "BAD_EXPRESSION"),
        ("[x for x in l]", "BAD_EXPRESSION"),
        ("n = 4", "BAD_EXPRESSION"),
        ("s; s", "BAD_EXPRESSION"),
        ("{{ n }} > 2", "BAD_EXPRESSION"),
        ("99999999999999999999", "BAD_EXPRESSION"),
        ("1 +", "BAD_EXPRESSION"),
        ("a.", "BAD_EXPRESSION"),
        ("a.5", "BAD_EXPRESSION"),
        ("a.'b'", "BAD_EXPRESSION"),
        ("", "BAD_EXPRESSION"),
        ("size()", "BAD_EXPRESSION"),
        ("(" * 60 + "1" + ")" * 60, "BAD_EXPRESSION"),
        ("1" + "+1" * 3_000, "BAD_EXPRESSION"),
        ("1" + "+1" * 60, "BAD_EXPRESSION"),
        ("a" + ".b" * 60, "BAD_EXPRESSION"),
        (bracketed(3), "BAD_EXPRESSION"),
        (bracketed(13), "BAD_EXPRESSION"),
        (bracketed(40), "BAD_EXPRESSION"),
        ("!" * 30 + "(" + "!" * 30 + "(" + "!" * 30 + "(" + "!" * 30 + "t)))", "BAD_EXPRESSION"),
        (
            "default(" * 30 + "a" + ".b" * 39 + "[" * 9 + "1" + "+1" * 39 + "]" * 9 + ",1)" * 30,
            "BAD_EXPRESSION",
        ),
        ("1 in 'text'", "TYPE_ERROR"),
        ("1 in {'k': 1}", "TYPE_ERROR"),
        ("has(n.x)", "TYPE_ERROR"),
        ("default(1 / 0, 2)", "DIVIDE_BY_ZERO"),
        ("l['0']", "TYPE_ERROR"),
        ("l[true]", "TYPE_ERROR"),
        ("1.5 % 2", "TYPE_ERROR"),
        ("size(n)", "TYPE_ERROR"),
        ("int('four')", "TYPE_ERROR"),
        ("int(l)", "TYPE_ERROR"),
        ("double('four')", "TYPE_ERROR"),
        ("double(none)", "TYPE_ERROR"),
        ("string(l)", "TYPE_ERROR"),
    ],
)
def test_what_is_wrong_has_a_code(text: str, code: str) -> None:
    with pytest.raises(ValueFault) as caught:
        evaluate(text, SCOPE)
    assert caught.value.code == code


def test_a_condition_is_true_or_false_and_nothing_else() -> None:
    assert holds("n > 2", SCOPE)
    with pytest.raises(ValueFault, match="not true or false"):
        holds("n", SCOPE)


def test_an_evaluation_is_bounded() -> None:
    big = Values({"l": list(range(9_000)), "x": "y" * 60_000})
    assert evaluate("8999 in l", big) is True
    for text in ("-1 in l || -1 in l", "x + x"):
        with pytest.raises(ValueFault) as caught:
            evaluate(text, big)
        assert caught.value.code == "TOO_COSTLY"


BIG = Values({"x": "y" * 900_000, "l": list(range(9_000)), "o": {"k": "v" * 900_000}, "n": 10**300})


@pytest.mark.parametrize(
    "text", ["[" + "x, " * 900 + "x]", "{'k': [l, [x]], 'm': [[x]]}", f"[{'n, ' * 40}o, x]"]
)
def test_an_expression_makes_nothing_of_a_size_that_no_value_may_have(text: str) -> None:
    """Its parts are shared until it is written: a few letters could become gigabytes on every node."""
    with pytest.raises(ValueFault) as caught:
        evaluate(text, BIG)
    assert caught.value.code == "VALUE_TOO_LARGE"


@pytest.mark.parametrize("piece", ["{{ x }}", "{{ o }}", "{{ o.k }} and {{ x }}"])
def test_a_template_makes_nothing_of_a_size_that_no_value_may_have(piece: str) -> None:
    with pytest.raises(ValueFault) as caught:
        fill(write_json({"a": [piece] * 3_000}).decode(), BIG)
    assert caught.value.code == "VALUE_TOO_LARGE"
    with pytest.raises(ValueFault) as caught:
        fill(write_json(piece * 3_000).decode(), BIG)
    assert caught.value.code == "VALUE_TOO_LARGE"
    assert fill('["{{ x }}", "{{ x }}", "{{ l }}"]', BIG) == [BIG.value("x"), BIG.value("x"), BIG.value("l")]


@given(st.recursive(st.sampled_from("xlon"), lambda inner: st.builds(list, st.lists(inner, max_size=9))))
def test_shared_parts_are_weighed_as_often_as_they_are_written(shape: Any) -> None:
    def made(part: Any) -> Any:
        return SMALL[part] if isinstance(part, str) else [made(one) for one in part]

    value, size = made(shape), len(write_json(made(shape)))
    assert weight(value, 1 << 30) <= size <= 3 * weight(value, 1 << 30)
    assert weight(value, 10) <= 10 or size > 10


@pytest.mark.parametrize("number", [0, 7, 8, 9, 10, 15, 16, 99, -8, 10**15, 10**400, 1 << 4_000])
def test_a_number_is_weighed_as_no_more_than_it_is_written_in(number: int) -> None:
    assert weight([number] * 9, 1 << 30) <= len(write_json([number] * 9))


SMALL: dict[str, Any] = {"x": "y" * 50, "l": [1, 22, 333], "o": {"k": "v"}, "n": 10**30}


def test_the_names_of_an_expression() -> None:
    tree = parse("has(a.x) && default(b, c) == d.e[f] && failed('n1') || skipped()")
    assert names_in(tree) == {"c", "d", "f"} and all_names_in(tree) == set("abcdf")
    assert looks_at_ends(tree) and nodes_asked_for(tree) == {"n1"}
    assert not looks_at_ends(parse("a.failed > 1"))


@given(st.text(max_size=60))
def test_any_text_is_an_expression_or_a_fault(text: str) -> None:
    try:
        evaluate(text, SCOPE)
    except ValueFault as fault:
        assert fault.code and fault.text


@given(st.text(alphabet="ab.[]{}()|\"'0123,:?!&<>=+-*/% \\n", max_size=60))
def test_any_punctuation_is_an_expression_or_a_fault(text: str) -> None:
    template = write_json(text).decode()
    for work in (evaluate, fill):
        try:
            work(text if work is evaluate else template, SCOPE)
        except ValueFault as fault:
            assert fault.code


# --- references


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ('"{{ a.b }}"', [1, 2, {"c": "x"}]),
        ('"{{n}}"', 3),
        ('"n is {{ n }}, {{ a.b[2][\\"c\\"] }}, {{ t }}, {{ l }}"', "n is 3, x, true, [3]"),
        ('{"deep": ["{{ none }}", 7]}', {"deep": [None, 7]}),
        ('"{{ nothing | n }}"', 3),
        ('"{{ nothing | \\"a | b\\" }}"', "a | b"),
        ('"{{ a.z | [] }}"', []),
        ('"no } references { at all"', "no } references { at all"),
        ('"{{ \\"{{ n }}\\" }}"', "{{ n }}"),
    ],
)
def test_references_are_filled_in_and_keep_their_type(template: str, value: Any) -> None:
    assert fill(template, SCOPE) == value


@pytest.mark.parametrize(
    ("template", "code"),
    [
        ('"{{ missing }}"', "MISSING_VALUE"),
        ('"{{ missing.deep | also.missing }}"', "MISSING_VALUE"),
        ('"{{ 1 + 1 }}"', "BAD_REFERENCE"),
        ('"{{ n"', "BAD_REFERENCE"),
        ('"{{ }}"', "BAD_REFERENCE"),
        ('"{{ f() }}"', "BAD_REFERENCE"),
        ('"{{ 1 | n }}"', "BAD_REFERENCE"),
        ('{"{{ n }}": 1}', "BAD_REFERENCE"),
        ('["{{ n"]', "BAD_REFERENCE"),
        (f'"{{{{ n{".x" * (PARTS_MAX + 1)} }}}}"', "BAD_REFERENCE"),
    ],
)
def test_a_bad_reference_has_a_code(template: str, code: str) -> None:
    with pytest.raises(ValueFault) as caught:
        references(template)
        fill(template, SCOPE)
    assert caught.value.code == code


@given(st.text(max_size=80), st.text(max_size=20))
def test_values_bring_no_references(value: str, around: str) -> None:
    hostile = value + "{{ secret }}{{ n }}" + value
    scope = Values({"v": hostile, "secret": "S", "n": 1})
    around = around.replace("{{", "")
    template = write_json([around.rstrip("{") + " {{ v }}", "{{ v }}"]).decode()
    assert fill(template, scope) == [around.rstrip("{") + " " + hostile, hostile]


def test_what_a_template_reads() -> None:
    template = '{"x": "{{ a.b }} and {{ c | 1 }}", "y": "{{ d | e }}"}'
    assert [[path.name for path in ref.paths] for ref in references(template)] == [["a"], ["c"], ["d", "e"]]
    assert [ref.needed for ref in references(template)] == [True, False, True]
    in_lists = references('[["{{ a }}"], {"x": ["{{ b }}", 1]}]')
    assert [path.name for ref in in_lists for path in ref.paths] == ["a", "b"]
    assert whole('"{{ a }}"') is not None and whole('"{{ a }}!"') is None and whole('{"x": 1}') is None


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a ? b : c", {"a", "b", "c"}),
        ("[a, 1, [b]]", {"a", "b"}),
        ("{'k': a, 'l': {'m': b}}.k", {"a", "b"}),
        ("{b: -a}", {"a", "b"}),
    ],
)
def test_names_are_found_wherever_they_stand(text: str, names: set[str]) -> None:
    assert names_in(parse(text)) == all_names_in(parse(text)) == names


@pytest.mark.parametrize("text", ["[failed('a')]", "{'x': failed('a')}", "t ? failed('a') : t"])
def test_who_asks_how_nodes_ended_is_found_wherever_that_stands(text: str) -> None:
    assert looks_at_ends(parse(text)) and set(nodes_asked_for(parse(text))) == {"a"}


def test_plain_values_know_of_no_node_that_has_ended() -> None:
    assert evaluate("failed('a')", SCOPE) is False and evaluate("[failed('a')]", SCOPE) == [False]


# --- JSON


@pytest.mark.parametrize(
    "raw", [b"NaN", b"[Infinity]", b"1e999", b"{", b"\xff", b"[" * 65 + b"]" * 65, b"1" * 500, b'"\\ud800"']
)
def test_what_is_not_a_value_everywhere_is_none_here(raw: bytes) -> None:
    with pytest.raises(ValueFault):
        write_json(read_json(raw))


def test_brackets_inside_of_texts_are_not_depth() -> None:
    text = '["' + "[" * 100 + '\\"{"]'
    assert read_json(text) == ["[" * 100 + '"{']


def test_a_value_has_one_form_and_a_size() -> None:
    assert write_json({"b": 1, "a": [1.0, "ä"]}) == '{"a":[1.0,"ä"],"b":1}'.encode()
    with pytest.raises(ValueFault, match="the limit is"):
        write_json("x" * (1 << 20))


def test_an_expression_may_be_deep_within_its_bound() -> None:
    assert evaluate(bracketed(2), SCOPE) == 77
    with pytest.raises(ValueFault, match=f"deeper than {TREE_DEPTH_MAX}"):
        parse(bracketed(3))


def test_an_expression_for_which_the_stack_is_too_small_is_too_costly() -> None:
    """A last net: the bound of the tree is meant to come first."""
    too_deep = patch("coterie.core.graph.evaluate._Evaluation.of", side_effect=RecursionError)
    with too_deep, pytest.raises(ValueFault) as caught:
        evaluate("1", SCOPE)
    assert caught.value.code == "TOO_COSTLY"
