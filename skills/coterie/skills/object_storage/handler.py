"""Objects in S3-compatible stores. See SKILL.md."""

from __future__ import annotations

from typing import Any

from coterie.skills import SkillContext
from coterie.skills.errors import BadInput
from coterie.skills.object_storage.request import ObjectRequest, Store, StoreSettings
from coterie.skills.outbound import NotAllowed
from coterie.skills.shipped import needs_extra, permissions_of, settings_of


async def run(ctx: SkillContext, input: ObjectRequest) -> dict[str, Any]:
    """Raises BadInput, NotAllowed, Refused (NOT_FOUND, EXISTS …), StoreFailed (retry it), MissingExtra."""
    stores = settings_of(ctx, "object-storage", StoreSettings).stores
    name = input.store or next(iter(stores))
    if name not in stores:
        raise BadInput(f"store: there is no {name!r}; known: {', '.join(stores)}")
    permissions = await permissions_of(ctx)
    if permissions is not None and not permissions["network_access"]:
        raise NotAllowed("the agent may not use the network (agent.permissions.network_access)")
    store = stores[name]
    _check(store, input)
    with needs_extra("s3"):
        from coterie.skills.object_storage.store import Refused, change, read
    if not input.changes:
        found: dict[str, Any] = await ctx.call_in_thread(lambda: read(store, input))
        return found
    done: dict[str, Any] = await ctx.effect(input.operation, change, store, input)
    if "refused" in done:
        raise Refused(done["refused"], code=done["code"])
    return done


def _check(store: Store, request: ObjectRequest) -> None:
    """All that is touched must be allowed. Raises NotAllowed."""
    reads = request.operation not in ("put", "delete")
    key = request.prefix if request.operation == "list" else request.key
    touched = [(request.bucket, key, not reads)]
    touched += [(request.to_bucket, request.to_key, True)] if request.operation == "copy" else []
    for bucket, name, write in touched:
        if not store.allows(bucket, name, write=write):
            verb = "changed" if write else "read"
            raise NotAllowed(f"{bucket}/{name}: may not be {verb}; the operator's settings name what may")
