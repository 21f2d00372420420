"""Files and environment to one tree of known keys, each remembering where it was written.

The model's fields decide which keys exist: unknown ones are refused with a suggestion, camelCase and
snake_case meet in one spelling. Later sources overlay earlier ones: mappings merge, lists and plain values
replace what was there."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from coterie.node.config.findings import KeyPath
from coterie.node.config.kinds import RELATIVE
from coterie.node.config.model import ClusterConfig
from coterie.node.config.support import REFUSED_KEYS, REFUSED_LISTS
from coterie.node.config.yaml_text import Entry, Value, parse_yaml, read_yaml

ENVIRONMENT: Final[Mapping[str, KeyPath]] = {
    "COTERIE_STORAGE_DIR": ("storage", "dir"),
    "COTERIE_LISTEN_GRPC": ("listen", "grpc"),
    "COTERIE_LISTEN_HTTP": ("listen", "http"),
    "COTERIE_ADVERTISE": ("listen", "advertise"),
    "COTERIE_TLS_DIR": ("security", "tls", "dir"),
    "COTERIE_LOG_LEVEL": ("observability", "log", "level"),
    "COTERIE_LOG_FORMAT": ("observability", "log", "format"),
}
"""Variables that overlay the files, for what differs from machine to machine."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was written: `cluster.nodes[1].capacity`, `cluster.yaml:12`."""

    written: str
    place: str


@dataclass(slots=True)
class Tree:
    """Plain values by known snake_case keys, and the origin of each."""

    values: dict[str, object] = field(default_factory=dict)
    origins: dict[KeyPath, Origin] = field(default_factory=dict)
    complete: bool = True  # False: a file could not be read, so what seems to be missing may be in it

    def where(self, path: KeyPath) -> Origin:
        """The origin of that value, or of the nearest thing around it that was written."""
        for length in range(len(path), 0, -1):
            origin = self.origins.get(path[:length])
            if origin is not None:
                rest = written_path(path[length:])
                dot = "." if rest and not rest.startswith("[") else ""
                return Origin(f"{origin.written}{dot}{rest}", origin.place)
        return Origin(written_path(path), "")

    def overlay(self, other: Tree) -> None:
        """Lay `other` over this tree."""
        _merge(self.values, other.values, (), self.origins)
        self.origins.update(other.origins)


def read_tree(paths: Sequence[Path], env: Mapping[str, str], problems: list[str]) -> Tree:
    """All sources in order, later ones over earlier ones. What is wrong is added to `problems`."""
    tree = Tree()
    files = list(_files(paths, problems))
    for file in files:
        value = read_yaml(file, problems)
        if value is not None:
            tree.overlay(_Reader(str(file), file.parent, problems).read(value))
        tree.complete &= value is not None
    tree.complete &= bool(files)
    for name, path in ENVIRONMENT.items():
        if env.get(name):
            tree.overlay(_from_environment(name, path, env[name]))
    return tree


def read_text(text: str, name: str, problems: list[str]) -> Tree:
    """The same for one text, without the environment."""
    value = parse_yaml(text, name, problems)
    return Tree(complete=False) if value is None else _Reader(name, Path.cwd(), problems).read(value)


def camel(key: str) -> str:
    """`max_pending` -> `maxPending`."""
    return re.sub(r"_([a-z0-9])", lambda match: match[1].upper(), key)


def written_path(path: KeyPath) -> str:
    """A path as people write it: `cluster.nodes[1].httpPort`."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{camel(part)}" for part in path]
    return "".join(parts).removeprefix(".")


def section_of(info: FieldInfo) -> type[BaseModel] | None:
    """The model of a field that is a section, an optional section or a list of sections."""
    for candidate in _annotations(info.annotation):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _annotations(annotation: object) -> Iterator[object]:
    yield annotation
    for inner in get_args(annotation):
        yield from _annotations(inner)


def _files(paths: Sequence[Path], problems: list[str]) -> Iterator[Path]:
    """Each file once, directories opened: their *.yaml and *.yml by name, hidden files left out."""
    if not paths:
        problems.append("no configuration file given; name one with --config")
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        found = sorted(
            file for file in path.iterdir() if file.suffix in {".yaml", ".yml"} and file.name[0] != "."
        )
        if not found:
            problems.append(f"{path}: no *.yaml file in this directory")
        yield from found


def _merge(
    base: dict[str, object], top: Mapping[str, object], at: KeyPath, origins: dict[KeyPath, Origin]
) -> None:
    for key, value in top.items():
        path = (*at, key)
        below = base.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            _merge(below, value, path, origins)
            continue
        for stale in [known for known in origins if known[: len(path)] == path]:
            del origins[stale]
        base[key] = value


def _from_environment(name: str, path: KeyPath, text: str) -> Tree:
    info: FieldInfo | None = None
    section: type[BaseModel] | None = ClusterConfig
    for key in path:
        assert section is not None
        info = section.model_fields[str(key)]
        section = section_of(info)
    value: object = text
    if info is not None and _is_relative(info):
        value = str(Path.cwd() / Path(text).expanduser())
    for key in reversed(path):
        value = {str(key): value}
    assert isinstance(value, dict)
    return Tree(value, {path: Origin(written_path(path), f"environment variable {name}")})


def _is_relative(info: FieldInfo) -> bool:
    return RELATIVE in info.metadata or RELATIVE in _annotations(info.annotation)


class _Reader:
    """Checks the keys of one file against the model, and gives them their one spelling."""

    def __init__(self, name: str, directory: Path, problems: list[str]) -> None:
        self._name = name
        self._directory = directory
        self._problems = problems
        self._tree = Tree()

    def read(self, value: Value) -> Tree:
        self._tree.values = self._mapping(value, ClusterConfig, (), "")
        return self._tree

    def _mapping(
        self, value: Value, section: type[BaseModel], path: KeyPath, written: str
    ) -> dict[str, object]:
        names = {spelling: name for name in section.model_fields for spelling in (name, camel(name))}
        found: dict[str, object] = {}
        seen: dict[str, Entry] = {}
        for entry in _entries(value):
            name = names.get(entry.key)
            where = f"{written}.{entry.key}".removeprefix(".")
            if name is None:
                self._refuse(entry, section, path, where)
            elif name in seen:
                other = seen[name]
                text = f"given twice, as {other.key} in line {other.line} too; remove one"
                self._problems.append(f"{where}: {text} ({self._name}:{entry.line})")
            else:
                seen[name] = entry
                self._take(found, entry, section.model_fields[name], (*path, name), where)
        return found

    def _take(
        self, found: dict[str, object], entry: Entry, info: FieldInfo, path: KeyPath, written: str
    ) -> None:
        if entry.value.data is None:  # a key without a value is a key not given
            return
        self._tree.origins[path] = Origin(written, f"{self._name}:{entry.line}")
        found[str(path[-1])] = self._value(entry.value, info, path, written)

    def _value(self, value: Value, info: FieldInfo, path: KeyPath, written: str) -> object:
        section = section_of(info)
        many = _is_list(info.annotation)
        if value.is_mapping and section is not None and not many:
            if _is_named(info.annotation):
                return self._named(value, info, path, written)
            return self._mapping(value, section, path, written)
        refusal = REFUSED_LISTS.get(tuple(part for part in path if isinstance(part, str)))
        if refusal is not None and isinstance(value.data, list):
            self._problems.append(f"{written}: {refusal} ({self._name}:{value.line})")
            return {}
        if not many or value.is_mapping or not isinstance(value.data, list):
            return self._path(value.data) if _is_relative(info) else self._free(value)
        return [
            self._item(item, info, (*path, place), f"{written}[{place}]") for place, item in _items(value)
        ]

    def _named(self, value: Value, info: FieldInfo, path: KeyPath, written: str) -> object:
        """Sections by names of the author's choice, such as providers."""
        return {
            entry.key: self._item(entry.value, info, (*path, entry.key), f"{written}.{entry.key}")
            for entry in _entries(value)
        }

    def _item(self, value: Value, info: FieldInfo, path: KeyPath, written: str) -> object:
        self._tree.origins[path] = Origin(written, f"{self._name}:{value.line}")
        section = section_of(info)
        if value.is_mapping and section is not None:
            return self._mapping(value, section, path, written)
        return self._path(value.data) if _is_relative(info) else self._free(value)

    def _path(self, data: object) -> object:
        if not isinstance(data, str) or not data:
            return data
        return os.path.normpath(self._directory.absolute() / Path(data).expanduser())

    def _free(self, value: Value) -> object:
        """A value whose shape the model does not walk into, such as labels."""
        if value.is_mapping:
            return {entry.key: self._free(entry.value) for entry in _entries(value)}
        if isinstance(value.data, list):
            return [self._free(item) for _, item in _items(value)]
        return value.data

    def _refuse(self, entry: Entry, section: type[BaseModel], path: KeyPath, written: str) -> None:
        keys = tuple(part for part in path if isinstance(part, str))
        snake = re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", entry.key).lower()
        reason = REFUSED_KEYS.get((*keys, snake))
        if reason is None:
            reason = f"unknown key; {_suggest(snake, section)}"
        elif entry.value.data is None:
            return
        self._problems.append(f"{written}: {reason} ({self._name}:{entry.line})")


def _entries(value: Value) -> list[Entry]:
    data = value.data if isinstance(value.data, list) else []
    return [entry for entry in data if isinstance(entry, Entry)]


def _items(value: Value) -> list[tuple[int, Value]]:
    data = value.data if isinstance(value.data, list) else []
    return [(place, item) for place, item in enumerate(data) if isinstance(item, Value)]


def _is_list(annotation: object) -> bool:
    return any(getattr(part, "__origin__", None) is tuple for part in _annotations(annotation))


def _is_named(annotation: object) -> bool:
    return any(getattr(part, "__origin__", None) is dict for part in _annotations(annotation))


def _suggest(key: str, section: type[BaseModel]) -> str:
    """Did you mean a sibling, or the same key in another section?"""
    near = difflib.get_close_matches(key, list(section.model_fields), n=1, cutoff=0.6)
    if near:
        return f"did you mean {camel(near[0])}?"
    elsewhere = [path for path in _all_paths(ClusterConfig, ()) if path[-1] == key]
    if elsewhere:
        return f"did you mean {written_path(elsewhere[0])}?"
    return "known here: " + ", ".join(sorted(camel(name) for name in section.model_fields))


def _all_paths(section: type[BaseModel], at: KeyPath) -> Iterator[KeyPath]:
    for name, info in section.model_fields.items():
        yield (*at, name)
        inner = section_of(info)
        if inner is not None:
            yield from _all_paths(inner, (*at, name))
