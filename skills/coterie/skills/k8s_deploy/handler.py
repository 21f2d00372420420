"""Deployments to Kubernetes. See SKILL.md."""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from coterie.skills import SkillContext
from coterie.skills.errors import BadInput, NonRetryable
from coterie.skills.k8s_deploy.kinds import Ref, Standing, standing_of
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
    tried: list[Found] = await ctx.step("try", _tried, api, manifests, request.force)
    if request.dry_run:
        return {"dry_run": True, "objects": tried}
    objects = []
    for place, ((ref, manifest), would) in enumerate(zip(manifests, tried, strict=True)):
        work = functools.partial(api.apply, ref, manifest, force=request.force, dry_run=False)
        done = await _effect(ctx, f"apply{place}", functools.partial(_kept_of, work))
        objects.append({**would, **done})
    return {"objects": objects, **await _ready(ctx, api, [ref for ref, _ in manifests], request)}


def _tried(api: Api, manifests: Sequence[tuple[Ref, Found]], force: bool) -> list[Found]:
    """What the API would make of all of it, and what is there now."""
    tried = []
    for ref, manifest in manifests:
        was = api.get(ref)
        would = api.apply(ref, manifest, force=force, dry_run=True)
        change = "new" if was is None else "same" if _same(was, would) else "changed"
        tried.append({"kind": ref.kind.kind, "name": ref.name, "change": change, **_kept(would)})
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
    work = functools.partial(replace, dry_run=request.dry_run)
    done = await _effect(ctx, "rollback", functools.partial(_kept_of, work))
    if request.dry_run:
        return {"dry_run": True, "revision": chosen["revision"], **done}
    return {"revision": chosen["revision"], **done, **await _ready(ctx, api, [ref], request)}


def _chosen(api: Api, ref: Ref, revision: int | None) -> Found:
    deployment = api.get(ref)
    if deployment is None:
        raise _no(ref)
    number, template = api.template_of(deployment, revision)
    return {"revision": number, "uid": deployment["metadata"]["uid"], "template": template}


async def _delete(ctx: SkillContext, api: Api, target: Target, request: DeployRequest) -> Found:
    """By its uid, so that a repeat leaves alone what somebody made under the same name since."""
    ref = Ref(target.kind(request.kind), request.namespace, request.name)
    uid: str = await ctx.step("find", lambda: ((api.get(ref) or {}).get("metadata") or {}).get("uid", ""))
    if uid:
        work = functools.partial(api.delete, ref, uid, dry_run=request.dry_run)
        await _effect(ctx, "delete", lambda: {"deleted": work()})
    told = {"dry_run": True} if request.dry_run else {}
    return {"kind": request.kind, "name": request.name, "deleted": bool(uid), **told}


async def _effect(ctx: SkillContext, name: str, work: Callable[[], Found]) -> Found:
    """A refusal is an answer, and recorded."""
    from coterie.skills.k8s_deploy.cluster import Refused

    def settled() -> Found:
        try:
            return work()
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


def _kept_of(work: Callable[[], Found]) -> Found:
    return _kept(work())


def _same(was: Found, would: Found) -> bool:
    return _content(was) == _content(would)


def _content(found: Found) -> Found:
    """Without what the API counts and notes."""
    own = ("resourceVersion", "generation", "managedFields")
    metadata = {name: value for name, value in found["metadata"].items() if name not in own}
    return {**{name: value for name, value in found.items() if name != "status"}, "metadata": metadata}


def _no(ref: Ref) -> NonRetryable:
    return NonRetryable(f"{ref}: is not there", code="NOT_FOUND")


_OPERATIONS: Mapping[str, Callable[[SkillContext, Api, Target, DeployRequest], Awaitable[Found]]] = {
    "apply": _apply,
    "status": _status,
    "list": _list,
    "rollback": _rollback,
    "delete": _delete,
}
