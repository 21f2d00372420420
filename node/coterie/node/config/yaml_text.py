"""YAML files to plain values that remember their lines, without the surprises of YAML 1.1.

PyYAML's C parser reads; the tags are ours: only true and false are booleans (`NO` is Norway, `on` is text),
`12:30:45` and `2026-05-11` are text, `010` is text and not eight. A key given twice is an error."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from coterie.skills.yaml_extent import DEPTH_MAX, TooMuch, check_extent

FILE_BYTES_MAX: Final = 1024 * 1024
_VALUES_MAX: Final = 100_000  # of one file, aliases counted each time: a bomb of aliases stays small
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True)
class Entry:
    """A key of a mapping as it was written, and its value."""

    key: str
    line: int
    value: Value


@dataclass(frozen=True, slots=True)
class Value:
    """A scalar, a list of values, or the entries of a mapping, and the line it begins on."""

    line: int
    data: str | int | float | bool | list[Value] | list[Entry] | None
    is_mapping: bool = False


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's shape)


for _name, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ("~", "n", "N", "")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(f"{_TAG}{_name}", re.compile(f"^(?:{_pattern})$"), list(_first))


def read_yaml(file: Path, problems: list[str]) -> Value | None:
    """The mapping in `file`. What is wrong with it is added to `problems`; None when nothing is usable."""
    try:
        with file.open("rb") as stream:
            raw = stream.read(FILE_BYTES_MAX + 1)
        if len(raw) > FILE_BYTES_MAX:
            problems.append(f"{file}: larger than {FILE_BYTES_MAX} bytes; a configuration is not that long")
            return None
        return parse_yaml(raw.decode("utf-8-sig"), str(file), problems)
    except OSError as error:
        problems.append(f"{file}: cannot be read: {error.strerror}; give an existing, readable file")
    except UnicodeDecodeError as error:
        problems.append(f"{file}: not UTF-8 text (byte {error.start}); save it as UTF-8")
    return None


def parse_yaml(text: str, name: str, problems: list[str]) -> Value | None:
    """Like `read_yaml`, for text; `name` stands for the file in messages."""
    try:
        check_extent(text, 2 * _VALUES_MAX)  # keys included
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        problems.append(f"{name}{line}: not valid YAML: {error.problem or error.context}")
        return None
    except yaml.YAMLError as error:
        problems.append(f"{name}: not valid YAML: {' '.join(str(error).split())}")
        return None
    except TooMuch:
        problems.append(_too_much(name))
        return None
    if node is None:
        return Value(1, [], is_mapping=True)
    if not isinstance(node, yaml.MappingNode):
        problems.append(f"{name}:{node.start_mark.line + 1}: expected keys and values at the top of the file")
        return None
    try:
        return _Builder(name, problems).build(node, 0)
    except TooMuch:
        problems.append(_too_much(name))
        return None


def _too_much(name: str) -> str:
    return f"{name}: more than {_VALUES_MAX} values or {DEPTH_MAX} levels; repeat less by aliases"


class _Builder:
    """Turns PyYAML's nodes into values, with limits and complaints."""

    def __init__(self, name: str, problems: list[str]) -> None:
        self._name = name
        self._problems = problems
        self._count = 0

    def build(self, node: yaml.Node, depth: int) -> Value | None:
        self._count += 1
        if self._count > _VALUES_MAX or depth > DEPTH_MAX:
            raise TooMuch
        line = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            return Value(line, self._entries(node, depth), is_mapping=True)
        if isinstance(node, yaml.SequenceNode):
            items = [self.build(item, depth + 1) for item in node.value]
            return Value(line, [item for item in items if item is not None])
        return self._scalar(node)

    def _entries(self, node: yaml.MappingNode, depth: int) -> list[Entry]:
        entries: dict[str, Entry] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode) or key == "<<":
                self._complain(key_node, "keys are plain text; merge keys (<<) and complex keys are not read")
            elif key in entries:
                self._complain(
                    key_node, f"{key}: given twice (first in line {entries[key].line}); remove one"
                )
            elif (value := self.build(value_node, depth + 1)) is not None:
                entries[key] = Entry(key, key_node.start_mark.line + 1, value)
        return list(entries.values())

    def _scalar(self, node: yaml.Node) -> Value | None:
        line = node.start_mark.line + 1
        kind = node.tag.removeprefix(_TAG)
        text: str = node.value
        try:
            match kind:
                case "str":
                    return Value(line, text)
                case "null":
                    return Value(line, None)
                case "bool":
                    return Value(line, {"true": True, "false": False}[text.lower()])
                case "int":
                    return Value(line, int(text))
                case "float":
                    return Value(line, float(text))
        except (KeyError, ValueError):  # an explicit tag that does not fit, or an absurdly long number
            self._complain(node, f"{text[:40]!r} does not fit its tag !!{kind}")
            return None
        self._complain(node, f"the tag {node.tag} is not read here; write plain text, numbers or true/false")
        return None

    def _complain(self, node: yaml.Node, text: str) -> None:
        self._problems.append(f"{self._name}:{node.start_mark.line + 1}: {text}")
