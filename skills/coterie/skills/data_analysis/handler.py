"""Statistics and charts of tables. See SKILL.md."""

from __future__ import annotations

import base64
from typing import Any

from coterie.skills import SkillContext
from coterie.skills.data_analysis.request import AnalysisRequest, AnalysisSettings
from coterie.skills.file_management import changing
from coterie.skills.file_management.scope import Place, Refused, Scope, as_skill_error
from coterie.skills.shipped import BadSettings, needs_extra, permissions_of, settings_of


async def run(ctx: SkillContext, input: AnalysisRequest) -> dict[str, Any]:
    """One operation. Raises BadInput, Refused (NOT_ALLOWED, NOT_FOUND …), TooLarge, MissingExtra."""
    settings = settings_of(ctx, "data-analysis", AnalysisSettings)
    scope = None
    if input.path is not None or input.save_to is not None:
        if not settings.paths:
            raise BadSettings("skills.settings.data-analysis.paths: no folder is allowed; list some")
        scope = Scope(settings.allowed, await permissions_of(ctx))
    source = scope.place(input.path) if scope and input.path is not None else None
    target = scope.place(input.save_to, write=True) if scope and input.save_to is not None else None
    with needs_extra("data"):
        from coterie.skills.data_analysis.answering import answer
    try:
        done = await ctx.call_in_thread(lambda: answer(input, settings, source))
    except OSError as error:
        raise as_skill_error(error, input.path or "") from error
    if not isinstance(done, bytes):
        found: dict[str, Any] = done
        return found
    return await _delivered(ctx, input, done, target)


async def _delivered(
    ctx: SkillContext, request: AnalysisRequest, picture: bytes, target: Place | None
) -> dict[str, Any]:
    assert request.chart is not None
    kind = {"media_type": "image/png" if request.chart.format == "png" else "image/svg+xml"}
    if target is None:
        if request.chart.format == "svg":
            return {**kind, "encoding": "utf-8", "content": picture.decode(), "bytes": len(picture)}
        content = base64.b64encode(picture).decode()
        return {**kind, "encoding": "base64", "content": content, "bytes": len(picture)}
    # The file is this picture, whatever was there: a second time makes no difference.
    save = changing.settled(lambda effect: changing.write(target, picture, True, effect), target.path)
    saved: dict[str, Any] = await ctx.effect("save", save)
    if "refused" in saved:
        raise Refused(saved["refused"], code=saved["code"])
    return {**kind, **saved}
