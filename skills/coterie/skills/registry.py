"""Skills found on disk, and their handlers imported, each in a package of its own."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
import types
import typing
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coterie.skills.decorator import Handler, SkillMark, mark_of
from coterie.skills.manifest import (
    Manifest,
    ManifestError,
    check_effects,
    check_name,
    parse_duration_ms,
    read_manifest,
)

MANIFEST_FILE = "SKILL.md"
DEPTH_MAX = 6
SKIPPED_FOLDERS = frozenset({".git", "node_modules", "__pycache__", ".venv"})
SKILLS_MAX = 1_000
MANUAL_CHARS_MAX = 2_000
SCHEMA_CHARS_MAX = 8 * 1024  # all skills together must fit one frame
DEFAULT_EFFECTS = "idempotent"
SHIPPED_DIR = Path(__file__).parent
RETURNED = -1


class LoadError(Exception):
    """A handler that cannot be used; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a skill on disk. `skipped`: the skill is not offered."""

    path: str
    message: str
    skipped: bool = True


@dataclass(frozen=True, slots=True)
class Source:
    """Where the handler of one skill is: `function` (empty: the marked one) of `module` inside `folder`."""

    name: str
    manifest: Manifest
    folder: Path
    module: str
    function: str

    @property
    def path(self) -> Path:
        """The handler's file."""
        return self.folder.joinpath(*self.module.split(".")).with_suffix(".py")


@dataclass(frozen=True, slots=True)
class Skill:
    """A skill ready to run. `model` is the pydantic class its input is made into, when it asks for one."""

    name: str
    version: str
    description: str
    timeout_ms: int | None
    """Of one attempt; 0 is none, None: it says nothing."""
    effects: str
    handler: Handler
    model: type | None
    input: str = ""
    """JSON schema of the input; empty: anything."""
    manual: str = ""
    """The beginning of SKILL.md's body."""
    returns: type | None = None
    """The pydantic class that its result must be, when it says one."""
    output: str = ""
    """JSON schema of the result, where SKILL.md has one; empty: anything that `returns` takes."""


def discover(skill_dirs: Sequence[Path]) -> tuple[list[Source], list[Problem]]:
    """All skills with a handler under the folders (or `.py` files with `@skill` functions), earlier first.

    Nothing is imported. Of two skills of one name the first is kept.
    """
    sources: dict[str, Source] = {}
    problems: list[Problem] = []
    for place in skill_dirs:
        for source in _sources_in(place, problems):
            if source.name in sources:
                problems.append(Problem(str(source.path), f"another skill is called {source.name!r} already"))
            elif len(sources) >= SKILLS_MAX:
                problems.append(Problem(str(source.path), f"more than {SKILLS_MAX} skills"))
            else:
                sources[source.name] = source
    return list(sources.values()), problems


def load(source: Source) -> list[Skill]:
    """Import the handler: one skill, or several from a `.py` file of marked functions. Raises LoadError."""
    module = _import(source)
    if not source.manifest.name:
        return [_from_mark(handler, mark) for handler, mark in _marked(module)]
    handler = _find_handler(source, module)
    _check_signature(handler)
    mark = mark_of(handler) or SkillMark("", "", "", None, "")
    manifest = source.manifest
    timeout_ms = _mark_timeout_ms(mark) if manifest.timeout_ms is None else manifest.timeout_ms
    return [
        Skill(
            name=source.name,
            version=manifest.version or mark.version,
            description=manifest.description,
            timeout_ms=timeout_ms,
            effects=manifest.effects or mark.effects or DEFAULT_EFFECTS,
            handler=handler,
            model=(model := _model_of(handler, 1)),
            input=_schema(manifest.input, source.folder, model),
            returns=_model_of(handler, RETURNED),
            output=_schema(manifest.output, source.folder, None),
            manual=manifest.body.strip()[:MANUAL_CHARS_MAX],
        )
    ]


def load_one(fields: Mapping[str, Any]) -> Skill:
    """Import the handler of a skill whose description the node has read already: `folder` and `handler`, with
    the manifest's name, version, timeout_ms and effects. Raises LoadError."""
    folder = Path(fields["folder"])
    manifest = Manifest(
        name=fields["name"],
        description=fields["name"],
        version=fields["version"],
        handler=fields["handler"],
        timeout_ms=fields["timeout_ms"],
        effects=fields["effects"],
    )
    try:
        source = _source(folder.parent, folder, manifest)
    except ManifestError as error:
        raise LoadError(str(error)) from error
    if source is None:
        raise LoadError("the skill has no handler: it is instructions only")
    return load(source)[0]


def _sources_in(place: Path, problems: list[Problem]) -> Iterator[Source]:
    if place.is_file() and place.suffix == ".py":
        yield Source(str(place), Manifest(name="", description=""), place.parent, place.stem, "")
        return
    if not place.is_dir():
        problems.append(Problem(str(place), "no such folder; correct skill_dirs"))
        return
    for path in sorted(_manifests(place)):
        try:
            manifest = read_manifest(path)
            source = _source(place, path.parent, manifest)
        except ManifestError as error:
            problems.append(Problem(str(path), str(error)))
            continue
        problems.extend(Problem(str(path), warning, skipped=False) for warning in manifest.warnings)
        if source is not None:
            yield source


def _manifests(root: Path) -> Iterator[Path]:
    for folder, subfolders, files in os.walk(root):
        depth = len(Path(folder).relative_to(root).parts)
        subfolders[:] = [] if depth >= DEPTH_MAX else sorted(set(subfolders) - SKIPPED_FOLDERS)
        if MANIFEST_FILE in files:
            yield Path(folder, MANIFEST_FILE)


def _source(root: Path, folder: Path, manifest: Manifest) -> Source | None:
    if not manifest.handler:
        return None
    file_name, _, function = manifest.handler.partition(":")
    relative = Path(file_name)
    if relative.is_absolute() or ".." in relative.parts or relative.suffix != ".py":
        raise ManifestError(
            f"metadata.coterie.handler: {manifest.handler!r} is not a file of the skill; "
            'write "handler.py:run"'
        )
    if not (folder / relative).is_file():
        raise ManifestError(f"metadata.coterie.handler: there is no file {file_name!r} in the skill's folder")
    # Folders between the root and the skill are its namespace: shared/web-search.
    namespace = folder.relative_to(root).parts[:-1]
    module = ".".join(relative.with_suffix("").parts)
    return Source("/".join((*namespace, manifest.name)), manifest, folder, module, function)


def _import(source: Source) -> types.ModuleType:
    # Each skill is a package of its own, so that `from .words import count` works and two skills may
    # both have a file called words.py.
    readable = "".join(c if c.isalnum() else "_" for c in source.name)
    package = f"coterie_skill_{readable}_{zlib.crc32(f'{source.folder}:{source.name}'.encode()):08x}"
    if package not in sys.modules:
        root = types.ModuleType(package)
        root.__path__ = [str(source.folder)]
        sys.modules[package] = root
    try:
        return importlib.import_module(f"{package}.{source.module}")
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        raise LoadError(f"importing {source.path.name} failed: {type(error).__name__}: {error}") from error


def _find_handler(source: Source, module: types.ModuleType) -> Handler:
    if not source.function:
        marked = _marked(module)
        if len(marked) != 1:
            raise LoadError(
                f"{source.path.name} has {len(marked)} functions marked with @skill; "
                'name one in metadata.coterie.handler as "file.py:function"'
            )
        return marked[0][0]
    handler = getattr(module, source.function, None)
    if not callable(handler):
        raise LoadError(f"{source.path.name} has no function {source.function!r}")
    return typing.cast(Handler, handler)


def _marked(module: types.ModuleType) -> list[tuple[Handler, SkillMark]]:
    found = []
    for value in vars(module).values():
        mark = mark_of(value)
        if mark is not None and value.__module__ == module.__name__:
            found.append((typing.cast(Handler, value), mark))
    return found


def _from_mark(handler: Handler, mark: SkillMark) -> Skill:
    _check_signature(handler)
    if problem := check_name(mark.name):
        raise LoadError(problem)
    if not mark.description:
        raise LoadError(f"{mark.name}: description: missing; write a docstring or description=")
    return Skill(
        name=mark.name,
        version=mark.version,
        description=mark.description,
        timeout_ms=_mark_timeout_ms(mark),
        effects=mark.effects or DEFAULT_EFFECTS,
        handler=handler,
        model=(model := _model_of(handler, 1)),
        input=_schema(None, Path(), model),
        returns=_model_of(handler, RETURNED),
    )


def _mark_timeout_ms(mark: SkillMark) -> int | None:
    try:
        check_effects(mark.effects)
        return None if mark.timeout is None else parse_duration_ms(mark.timeout, "timeout")
    except ManifestError as error:
        raise LoadError(str(error)) from error


def _check_signature(handler: Handler) -> None:
    try:
        inspect.signature(handler).bind(None, None)
    except TypeError as error:
        raise LoadError(f"{handler.__name__} must take (ctx, input): {error}") from error


def _schema(given: Any, folder: Path, model: type | None) -> str:
    """As the manifest says, else as its class does; what is too large to be shown is left out."""
    try:
        if isinstance(given, str):
            given = json.loads(Path(folder, given).read_bytes()[: 2 * SCHEMA_CHARS_MAX])
        if given is None and model is not None:
            given = model.model_json_schema()  # type: ignore[attr-defined]
    except (OSError, ValueError, AttributeError):
        return ""  # `coterie skills validate` says what is wrong with it
    text = json.dumps(given) if isinstance(given, dict) else ""
    return text if len(text) <= SCHEMA_CHARS_MAX else ""


def _model_of(handler: Handler, place: int) -> type | None:
    """The class annotated on the parameter at that place, or RETURNED, when it validates like a pydantic
    model."""
    signature = inspect.signature(handler)
    parameters = list(signature.parameters.values())
    if place == RETURNED:
        name, given = "return", signature.return_annotation
    elif len(parameters) > place:
        name, given = parameters[place].name, parameters[place].annotation
    else:
        return None
    # Only this hint is resolved: others may name things that are imported for type checkers alone.
    only = types.SimpleNamespace(__annotations__={name: given})
    try:
        annotation = typing.get_type_hints(only, getattr(handler, "__globals__", {})).get(name)
    except (NameError, TypeError, AttributeError):
        return None
    is_model = isinstance(annotation, type) and callable(getattr(annotation, "model_validate", None))
    return annotation if is_model else None
