"""Files and folders of the node, inside the folders that its operator allows. See SKILL.md."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from coterie.skills import SkillContext
from coterie.skills.file_management import changing, reading
from coterie.skills.file_management.request import FileRequest, FileSettings
from coterie.skills.file_management.scope import Place, Refused, Scope, as_skill_error
from coterie.skills.shipped import permissions_of, settings_of

READS: dict[str, Callable[[Place, FileRequest, FileSettings], dict[str, Any]]] = {
    "list": reading.list_folder,
    "info": reading.info,
    "read": reading.read,
    "search": reading.search,
}


async def run(ctx: SkillContext, input: FileRequest) -> dict[str, Any]:
    """One operation. Raises Refused (code NOT_FOUND, NOT_ALLOWED, EXISTS …), TooLarge, BadSettings."""
    settings = settings_of(ctx, "file-management", FileSettings)
    scope = Scope(settings.allowed, await permissions_of(ctx))
    read = READS.get(input.operation)
    if read is None:
        return await _changed(ctx, input, scope, settings)
    if input.operation == "list" and not input.path:
        return {"entries": scope.roots, "truncated": False}
    place = scope.place(input.path)
    try:
        found: dict[str, Any] = await ctx.call_in_thread(lambda: read(place, input, settings))
    except OSError as error:
        raise as_skill_error(error, input.path) from error
    return found


async def _changed(
    ctx: SkillContext, request: FileRequest, scope: Scope, settings: FileSettings
) -> dict[str, Any]:
    """A refusal is recorded like a result: the effect is not in doubt."""
    goes = request.operation in ("move", "delete")
    place = scope.place(request.path, write=request.operation != "copy", whole=goes)
    change = await _change(ctx, request, place, scope, settings)
    done: dict[str, Any] = await ctx.effect(request.operation, changing.settled(change, request.path))
    if "refused" in done:
        raise Refused(done["refused"], code=done["code"])
    return done


async def _change(
    ctx: SkillContext, request: FileRequest, place: Place, scope: Scope, settings: FileSettings
) -> changing.Change:
    if request.operation == "write":
        data = changing.content_of(request, settings)
        return lambda effect: changing.write(place, data, request.overwrite, effect)
    if request.operation == "make_folder":
        return lambda effect: changing.make_folder(place, effect)
    if request.operation == "delete":
        return lambda effect: changing.delete(place, request.recursive, effect)
    to = scope.place(request.to, write=True)
    if request.operation == "copy":
        most = settings.copy_bytes_max
        return lambda effect: changing.copy(place, to, request.overwrite, most, effect)
    was = await _identity(ctx, place)
    return lambda effect: changing.move(place, to, was, request.overwrite, effect)


def _identity(ctx: SkillContext, place: Place) -> Coroutine[Any, Any, list[int]]:
    def identity() -> list[int]:
        try:
            return changing.identity(place)
        except OSError as error:
            raise as_skill_error(error, place.path) from error

    return ctx.step("identity", identity)
