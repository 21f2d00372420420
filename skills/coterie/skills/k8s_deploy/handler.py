"""Deployments to Kubernetes. See SKILL.md."""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from coterie.skills import Effect, SkillContext
from coterie.skills.errors import BadInput, NonRetryable
from coterie.skills.k8s_deploy.kinds import Ref, Standing, standing_of
from coterie.skills.k8s_deploy.repeat import apply_again, content, roll_back_again, seen
from coterie.skills.k8s_deploy.request import DeployRequest, DeploySettings, Target, manifests_of
from coterie.skills.outbound import NotAllowed
from coterie.skills.shipped import needs_extra, permissions_of, settings_of

if TYPE_CHECKING:
    from coterie.skills.k8s_deploy.cluster import Api

Found = dict[str, Any]


class NotReady(NonRetryable):
    """What was deployed is not ready in time, or cannot be."""

    code = "NOT_READY"


async def run(ctx: SkillContext, input: DeployRequest) -> Found:
    """Raises BadInput, NotAllowed, Refused (CONFLICT, NOT_FOUND …), NotReady, ClusterFailed, MissingExtra."""
    target = _target(settings_of(ctx, "k8s-deploy", DeploySettings), input)
    permissions = await permissions_of(ctx)
    if permissions is not None and not permissions["network_access"]:
        raise NotAllowed("the agent may not use the network (agent.permissions.network_access)")
    with needs_extra("k8s"):
        from coterie.skills.k8s_deploy.cluster import Api
    api = await ctx.call_in_thread(lambda: Api(target))
    return await _OPERATIONS[input.operation](ctx, api, target, input)


def _target(settings: DeploySettings, request: DeployRequest) -> Target:
    name = request.cluster or next(iter(settings.clusters))
    if name not in settings.clusters:
        raise BadInput(f"cluster: there is no {name!r}; known: {', '.join(settings.clusters)}")
    target = settings.clusters[name]
    if not target.allows(request.namespace):
        said = f"namespace: {request.namespace!r} is not among the operator's: {', '.join(target.namespaces)}"
        raise NotAllowed(said)
    return target


async def _apply(ctx: SkillContext, api: Api, target: Target, request: DeployRequest) -> Found:
    manifests = manifests_of(request, target)
    tried: list[list[Found]] = await ctx.step("try", _tried, api, manifests, request.force)
    if request.dry_run:
        return {"dry_run": True, "objects": [would for would, _ in tried]}
    objects = []
    for place, ((ref, manifest), (would, was)) in enumerate(zip(manifests, tried, strict=True)):
        first = functools.partial(api.apply, ref, manifest, force=request.force, dry_run=False)
        again = functools.partial(apply_again, api, ref, manifest, was, force=request.force)
        objects.append({**would, **await _effect(ctx, f"apply{place}", _kept_of(first), _kept_of(again))})
    return {"objects": objects, **await _ready(ctx, api, [ref for ref, _ in manifests], request)}


def _tried(api: Api, manifests: Sequence[tuple[Ref, Found]], force: bool) -> list[tuple[Found, Found | None]]:
    """What the API would make of all of it, and what is there now."""
    tried: list[tuple[Found, Found | None]] = []
    for ref, manifest in manifests:
        was = api.get(ref)
        would = api.apply(ref, manifest, force=force, dry_run=True)
        change = "new" if was is None else "same" if content(was) == content(would) else "changed"
        told = {"kind": ref.kind.kind, "name": ref.name, "change": change, **_kept(would)}
        tried.append((told, seen(was)))
    return tried


async def _status(ctx: SkillContext, api: Api, target: Target, request: DeployRequest) -> Found:
    ref = Ref(target.kind(request.kind), request.namespace, request.name)
    if request.wait_s:
        return {"kind": request.kind, "name": request.name, **await _ready(ctx, api, [ref], request)}
    found: Found | None = await ctx.call_in_thread(lambda: api.get(ref))
    if found is None:
        raise _no(ref)
    return _described(ref, found)


async def _list(ctx: SkillContext, api: Api, target: Target, request: DeployRequest) -> Found:
    ref = Ref(target.kind(request.kind), request.namespace)
    found: list[Found] = await ctx.call_in_thread(lambda: api.all_of(ref, request.selector))
    return {"objects": [_described(ref, one) for one in found]}


async def _rollback(ctx: SkillContext, api: Api, target: Target, request: DeployRequest) -> Found:
    """To which revision is found out once: a second rollback to "the one before" would undo the first."""
    ref = Ref(target.kind("Deployment"), request.namespace, request.name)
    chosen: Found = await ctx.step("choose", _chosen, api, ref, request.revision)
    replace = functools.partial(api.replace_template, ref, chosen["uid"], chosen["template"])
    first = functools.partial(replace, dry_run=request.dry_run)
    again = first if request.dry_run else functools.partial(roll_back_again, api, ref, chosen)
    done = await _effect(ctx, "rollback", _kept_of(first), _kept_of(again))
    if request.dry_run:
        return {"dry_run": True, "revision": chosen["revision"], **done}
    return {"revision": chosen["revision"], **done, **await _ready(ctx, api, [ref], request)}


def _chosen(api: Api, ref: Ref, revision: int | None) -> Found:
    deployment = api.get(ref)
    if deployment is None:
        raise _no(ref)
    number, template = api.template_of(deployment, revision)
    uid = deployment["metadata"]["uid"]
    return {"revision": number, "uid": uid, "template": template, "seen": seen(deployment)}


async def _delete(ctx: SkillContext, api: Api, target: Target, request: DeployRequest) -> Found:
    """By its uid, so that a repeat leaves alone what somebody made under the same name since."""
    ref = Ref(target.kind(request.kind), request.namespace, request.name)
    uid: str = await ctx.step("find", lambda: ((api.get(ref) or {}).get("metadata") or {}).get("uid", ""))
    if uid:
        work = functools.partial(api.delete, ref, uid, dry_run=request.dry_run)
        await _effect(ctx, "delete", lambda: {"deleted": work()})
    told = {"dry_run": True} if request.dry_run else {}
    return {"kind": request.kind, "name": request.name, "deleted": bool(uid), **told}


async def _effect(
    ctx: SkillContext, name: str, work: Callable[[], Found], again: Callable[[], Found] | None = None
) -> Found:
    """A refusal is an answer, and recorded. `again` is done where an earlier try is in doubt."""
    from coterie.skills.k8s_deploy.cluster import Refused

    def settled(effect: Effect) -> Found:
        try:
            return again() if again is not None and effect.tries > 1 else work()
        except Refused as error:
            return {"refused": str(error), "code": error.code}

    done: Found = await ctx.effect(name, settled)
    if "refused" in done:
        raise Refused(done["refused"], code=done["code"])
    return done


async def _ready(ctx: SkillContext, api: Api, refs: Sequence[Ref], request: DeployRequest) -> Found:
    """Wait for all of them; the time counts from the first attempt that came here. Raises NotReady."""
    if not request.wait_s:
        return {}
    began = await ctx.now()
    now_ms = await ctx._link.call("clock.now", {})
    until = time.monotonic() + request.wait_s - (now_ms / 1_000 - began.timestamp())
    for place, ref in enumerate(refs):
        await ctx.progress(100 * place / len(refs), f"waiting for {ref}")
        standing: Standing = await ctx.call_in_thread(functools.partial(api.wait_ready, ref, until))
        if not standing.ready:
            late = "" if standing.failed else f" within {request.wait_s:g} s"
            raise NotReady(f"{ref} is not ready{late}: {standing.why}")
    return {"ready": True}


def _described(ref: Ref, found: Found) -> Found:
    standing = standing_of(ref.kind.kind, found)
    why = {} if standing.ready else {"why": standing.why}
    name = found["metadata"]["name"]
    return {"kind": ref.kind.kind, "name": name, "ready": standing.ready, **why, **_kept(found)}


def _kept(found: Found) -> Found:
    """What is told of an object."""
    metadata = found["metadata"]
    told = {"uid": metadata.get("uid"), "generation": metadata.get("generation")}
    return {"version": metadata.get("resourceVersion"), **{k: v for k, v in told.items() if v is not None}}


def _kept_of(work: Callable[[], Found]) -> Callable[[], Found]:
    return lambda: _kept(work())


def _no(ref: Ref) -> NonRetryable:
    return NonRetryable(f"{ref}: is not there", code="NOT_FOUND")


_OPERATIONS: Mapping[str, Callable[[SkillContext, Api, Target, DeployRequest], Awaitable[Found]]] = {
    "apply": _apply,
    "status": _status,
    "list": _list,
    "rollback": _rollback,
    "delete": _delete,
}
