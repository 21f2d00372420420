"""A skill's files, checked strictly and without running any of them. `coterie skills validate` prints it all.

Nodes read more leniently (see manifest); nothing is published that is not without fault here.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from coterie.skills.described import Described, Fault, described
from coterie.skills.manifest import (
    DESCRIPTION_CHARS_MAX,
    FILE_BYTES_MAX,
    ManifestError,
    check_name,
    our_metadata,
    split_front_matter,
)
from coterie.skills.registry import MANIFEST_FILE

COMPATIBILITY_CHARS_MAX = 500
BODY_CHARS_ADVISED = 20_000  # some 5,000 tokens
STANDARD_KEYS = ("name", "description", "license", "compatibility", "metadata", "allowed-tools")
OTHER_CLIENTS_KEYS = (
    "homepage",
    "user-invocable",
    "disable-model-invocation",
    "command-dispatch",
    "command-tool",
    "command-arg-mode",
)


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. `faults` keep a skill from being published; `advice` does not."""

    name: str
    described: Described
    faults: tuple[Fault, ...]
    advice: tuple[Fault, ...]


def validate(folder_name: str, files: Mapping[str, bytes]) -> Report:
    """Check the files of a skill in a folder of that name: all faults at once."""
    faults: list[Fault] = []
    try:
        text = files[MANIFEST_FILE].decode("utf-8-sig")
        fields, body = split_front_matter(text)
    except (KeyError, UnicodeDecodeError, ManifestError) as error:
        said = f"there is no {MANIFEST_FILE}" if isinstance(error, KeyError) else str(error)
        return Report("", Described(), ((MANIFEST_FILE, said),), ())
    faults += _as_yaml(text) + _front_matter(fields, folder_name)
    if len(files[MANIFEST_FILE]) > FILE_BYTES_MAX:
        faults.append((MANIFEST_FILE, f"{len(files[MANIFEST_FILE])} bytes, the limit is {FILE_BYTES_MAX}"))
    found, ours_faults = _ours(fields, files)
    faults += ours_faults + _python(files)
    if found.handler and found.handler.partition(":")[0] in files:
        faults += _handler(found.handler, files)
    metadata = fields.get("metadata")
    version = str(metadata.get("version", "")) if isinstance(metadata, Mapping) else ""
    found = replace(
        found, version=version, description=str(fields.get("description", "")), folder_name=folder_name
    )
    advice = [(at, text) for at, text in _advice(found, body, metadata) if at not in dict(faults)]
    return Report(str(fields.get("name", "")), found, tuple(faults), tuple(advice))


def _as_yaml(text: str) -> list[Fault]:
    """What only lenient readers understand, as we are where no skill is published."""
    try:
        split_front_matter(text, strict=True)
    except ManifestError as error:
        return [(MANIFEST_FILE, f"{error}; put quotes around the value")]
    return []


def _version(metadata: object) -> list[Fault]:
    """YAML makes numbers of what looks like one, and 1.1 of 1.10."""
    version = metadata.get("version", "") if isinstance(metadata, Mapping) else ""
    if isinstance(version, str):
        return []
    said = f'is read as the number {version}; write it in quotes, as in "1.1.0"'
    return [("metadata.version", said if isinstance(version, int | float) else f"{version!r} is not text")]


def _front_matter(fields: Mapping[str, Any], folder_name: str) -> list[Fault]:
    faults: list[Fault] = []
    known = (*STANDARD_KEYS, *OTHER_CLIENTS_KEYS)
    for key in fields:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean {near[0]!r}?" if near else "what is ours goes under metadata.coterie"
            faults.append((str(key), f"unknown key; {hint}"))
    faults += _text(fields, "name", 64, required=True)
    faults += _text(fields, "description", DESCRIPTION_CHARS_MAX, required=True)
    faults += _text(fields, "license", COMPATIBILITY_CHARS_MAX)
    faults += _text(fields, "compatibility", COMPATIBILITY_CHARS_MAX)
    faults += _text(fields, "allowed-tools", COMPATIBILITY_CHARS_MAX)
    faults += _version(fields.get("metadata"))
    name = fields.get("name")
    if isinstance(name, str) and name:
        if problem := check_name(name):
            faults.append(("name", problem.removeprefix("name: ")))
        elif name.replace("_", "-") != folder_name.replace("_", "-"):
            faults.append(("name", f"{name!r} differs from its folder {folder_name!r}"))
    return faults


def _text(fields: Mapping[str, Any], key: str, chars_max: int, required: bool = False) -> list[Fault]:
    value = fields.get(key)
    if value is None or value == "":
        return [(key, "missing")] if required else []
    if not isinstance(value, str):
        return [(key, f"{value!r} is not text")]
    if len(value) > chars_max:
        return [(key, f"{len(value)} characters, the limit is {chars_max}")]
    return []


def _ours(fields: Mapping[str, Any], files: Mapping[str, bytes]) -> tuple[Described, list[Fault]]:
    metadata = fields.get("metadata") or {}
    if not isinstance(metadata, Mapping):
        return Described(), [("metadata", f"{metadata!r} is not a map; write keys under it")]
    try:
        return described(our_metadata(metadata), files)
    except ManifestError as error:
        field, _, said = str(error).partition(": ")
        return Described(), [(field, said)]


def _python(files: Mapping[str, bytes]) -> list[Fault]:
    faults: list[Fault] = []
    for path, content in files.items():
        if path.endswith(".py"):
            try:
                ast.parse(content, path)
            except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
                faults.append((path, f"is not Python: {error}"))
    return faults


def _handler(handler: str, files: Mapping[str, bytes]) -> list[Fault]:
    """The function is there and takes (ctx, input)."""
    path, _, function = handler.partition(":")
    at = "metadata.coterie.handler"
    try:
        tree = ast.parse(files[path], path)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []  # said already
    functions = {
        node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    if not function:
        marked = [node for node in functions.values() if any(_is_mark(one) for one in node.decorator_list)]
        if len(marked) != 1:
            return [(at, f"{path} has {len(marked)} functions marked with @skill; name one: {path}:run")]
        return _signature(at, marked[0])
    if function not in functions:
        imported = any(isinstance(node, ast.ImportFrom | ast.Assign) for node in tree.body)
        known = ", ".join(functions) or "none"
        missing = [(at, f"{path} has no function {function!r}; it has: {known}")]
        return [] if imported and not functions else missing
    return _signature(at, functions[function])


def _is_mark(decorator: ast.expr) -> bool:
    target = decorator.func if isinstance(decorator, ast.Call) else decorator
    return getattr(target, "id", getattr(target, "attr", "")) == "skill"


def _signature(at: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[Fault]:
    arguments = node.args
    positional = len(arguments.posonlyargs) + len(arguments.args)
    needed = positional - len(arguments.defaults)
    keywords = sum(default is None for default in arguments.kw_defaults)
    if needed <= 2 and (positional >= 2 or arguments.vararg is not None) and not keywords:
        return []
    return [(at, f"{node.name} (line {node.lineno}) must take (ctx, input)")]


def _advice(found: Described, body: str, metadata: object) -> list[Fault]:
    advice: list[Fault] = []
    if len(body) > BODY_CHARS_ADVISED:
        said = f"{len(body)} characters; move details to references/, which are read on demand"
        advice.append(("body", said))
    if isinstance(metadata, Mapping) and isinstance(metadata.get("coterie"), Mapping):
        advice.append(("metadata.coterie", "is a map; other clients want text: write it as a JSON string"))
    if found.handler and not found.timeout_ms and isinstance(metadata, Mapping):
        given = our_metadata(metadata).get("timeout")
        text = "not said: attemptTimeout of the cluster counts"
        if given is not None:
            text = f"{given!r}: no end on a node's disk; where it is published, attemptTimeout of the cluster"
        advice.append(("metadata.coterie.timeout", text))
    if found.handler and not found.effects:
        advice.append(("metadata.coterie.effects", 'not said: "idempotent" is assumed'))
    return advice
