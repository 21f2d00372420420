"""Figures about Python code. See SKILL.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from coterie.skills import SkillContext
from coterie.skills.file_management.reading import contents
from coterie.skills.file_management.scope import Place, Scope, as_skill_error
from coterie.skills.python_analysis.request import CodeRequest, CodeSettings
from coterie.skills.shipped import BadSettings, needs_extra, permissions_of, settings_of

SKIPPED_MAX = 100
TOP_IMPORTS = 100
_SUMMED = ("lines", "code", "comments", "blank", "functions_count")

Found = dict[str, Any]


async def run(ctx: SkillContext, input: CodeRequest) -> dict[str, Any]:
    """Raises BadInput, Refused (NOT_ALLOWED, NOT_FOUND …), BadSettings, MissingExtra."""
    settings = settings_of(ctx, "python-analysis", CodeSettings)
    place = await _place(ctx, input, settings) if input.path is not None else None
    with needs_extra("code"):
        from coterie.skills.python_analysis.measuring import measured
    try:
        found: dict[str, Any] = await ctx.call_in_thread(lambda: _answer(input, settings, place, measured))
    except OSError as error:
        raise as_skill_error(error, input.path or "") from error
    return found


async def _place(ctx: SkillContext, request: CodeRequest, settings: CodeSettings) -> Place:
    if not settings.paths:
        raise BadSettings("skills.settings.python-analysis.paths: no folder is allowed; list some")
    return Scope(settings.allowed, await permissions_of(ctx)).place(request.path or "")


def _answer(
    request: CodeRequest,
    settings: CodeSettings,
    place: Place | None,
    measured: Callable[[str, str], Found],
) -> dict[str, Any]:
    skipped: list[str] = []
    texts = [(request.name, request.source or "")]
    files: Iterable[tuple[str, str]] = texts if place is None else _texts(place, request, settings, skipped)
    found: list[Found] = []
    for path, text in files:
        if len(found) >= settings.files_max:
            skipped.append(f"more than {settings.files_max} files")
            break
        found.append(measured(path, text))
    worst = sorted(_named(found), key=lambda one: (-one["complexity"], one["path"], one["line"]))
    return {
        "files": found[: request.limit],
        "truncated": len(found) > request.limit,
        "skipped": skipped[:SKIPPED_MAX],
        "total": _total(found),
        "most_complex": worst[: request.worst],
    }


def _texts(
    place: Place, request: CodeRequest, settings: CodeSettings, skipped: list[str]
) -> Iterator[tuple[str, str]]:
    for at, text in contents(place, "*.py", settings.file_bytes_max, request.exclude):
        if text is None:
            skipped.append(f"{at.path}: above {settings.file_bytes_max} bytes, or no text")
        else:
            yield at.path, text


def _named(found: Iterable[Found]) -> Iterator[Found]:
    for file in found:
        for function in file.get("functions", ()):
            yield {"path": file["path"], **function}


def _total(found: Sequence[Found]) -> dict[str, Any]:
    sound = [one for one in found if "error" not in one]
    complexities = [function["complexity"] for function in _named(sound)]
    public = sum(one["docstrings"]["public"] for one in sound)
    documented = sum(one["docstrings"]["documented"] for one in sound)
    imports = Counter(top for one in sound for top in _top_level(one["imports"]))
    return {
        "files": len(found),
        "errors": len(found) - len(sound),
        **{name: sum(one[name] for one in sound) for name in _SUMMED},
        "complexity_mean": round(sum(complexities) / len(complexities), 2) if complexities else 0,
        "complexity_max": max(complexities, default=0),
        "problems": sum(len(one["problems"]) for one in sound),
        "documented_percent": round(100 * documented / public, 1) if public else 100.0,
        "imports": dict(imports.most_common(TOP_IMPORTS)),
    }


def _top_level(imports: dict[str, list[str]]) -> set[str]:
    return {name.partition(".")[0] for origin in ("standard", "other") for name in imports[origin]}
