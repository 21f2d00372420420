"""Texts that are small and stand for much are refused before anything is made of them."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml

from coterie.node.config.yaml_text import parse_yaml
from coterie.skills.validation import validate
from coterie.skills.yaml_extent import DEPTH_MAX, TooMuch, check_extent

VALUES_MAX = 1_000
BOMB = "a: &a [" + "x," * 9 + "]\n"
for _before, _name in ("ab", "bc", "cd"):
    BOMB += f"{_name}: &{_name} [{f'*{_before},' * 9}]\n"


@pytest.mark.parametrize("text", ["[" * 100_000, "a: " + "{b: " * 100_000, "- " * 100_000, "? " * 100_000])
def test_a_text_of_many_levels_does_not_end_the_process(text: str) -> None:
    program = (
        "import sys; from coterie.node.config.yaml_text import parse_yaml; found = [];"
        "parse_yaml(sys.stdin.read(), 'x', found); print(found)"
    )
    done = subprocess.run([sys.executable, "-c", program], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"or {DEPTH_MAX} levels" in done.stdout


def test_levels_are_counted_as_before() -> None:
    found: list[str] = []
    assert parse_yaml("a: " + "[" * 29 + "1" + "]" * 29, "x", found) is not None and not found
    assert parse_yaml("a: " + "[" * 30 + "1" + "]" * 30, "x", found) is None and "levels" in found[0]


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        "a: &a [1, *a]",
        "[" + "1," * VALUES_MAX + "]",
        "a: &a {x: 1, y: 2, z: 3}\nb: [" + "{<<: *a}," * 200 + "]",
        "- &a x\n" + "- *a\n" * VALUES_MAX,
    ],
)
def test_more_values_than_may_be_are_refused(text: str) -> None:
    with pytest.raises(TooMuch):
        check_extent(text, VALUES_MAX)


def test_what_is_small_is_taken() -> None:
    check_extent("a: &a {b: [1, 2]}\nc: *a\nd: [*a, *a]\n", 25)
    with pytest.raises(TooMuch):
        check_extent("a: &a {b: [1, 2]}\nc: *a\nd: [*a, *a]\n", 24)
    with pytest.raises(yaml.YAMLError):
        check_extent("a: [", VALUES_MAX)


def test_a_manifest_that_stands_for_much_is_refused_in_few_words() -> None:
    for metadata in ("*d", "{coterie: {effects: *d}}", "&e [*e]"):
        text = f"---\nname: s\ndescription: d\n{BOMB}compatibility: [*d, *d, *d]\nmetadata: {metadata}\n---\n"
        ((_, said),) = validate("s", {"SKILL.md": text.encode()}).faults
        assert "too much" in said and len(said) < 200
    text = "---\nname: s\ndescription: !!timestamp soon\n---\n"
    ((_, said),) = validate("s", {"SKILL.md": text.encode()}).faults
    assert "tag" in said
