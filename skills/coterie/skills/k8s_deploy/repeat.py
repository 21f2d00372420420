"""A change that is made a second time, because nobody can say whether its first attempt came through.

Meanwhile somebody may have changed the object, and that later wish shall win. So the repeat looks first: what
is already as wanted is left alone, what is as it was when the task first looked is changed on condition that
it still is, and everything else is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from coterie.skills.k8s_deploy.kinds import Ref

if TYPE_CHECKING:
    from coterie.skills.k8s_deploy.cluster import Api

Found = dict[str, Any]
LOOKS = 5  # status changes of a controller may come between a look and the change


def seen(found: Mapping[str, Any] | None) -> Found | None:
    """What tells later whether somebody has changed the object; None: it was not there."""
    if found is None:
        return None
    metadata = found["metadata"]
    counted = "generation" in metadata  # by the API, at each change of what is wanted
    return {
        "uid": metadata.get("uid"),
        "change": metadata["generation"] if counted else metadata.get("resourceVersion"),
        "content": hashlib.sha256(json.dumps(content(found), sort_keys=True).encode()).hexdigest(),
    }


def content(found: Mapping[str, Any]) -> Found:
    """Without what the API counts and notes."""
    own = ("resourceVersion", "generation", "managedFields")
    metadata = {name: value for name, value in found["metadata"].items() if name not in own}
    return {**{name: value for name, value in found.items() if name != "status"}, "metadata": metadata}


def apply_again(api: Api, ref: Ref, manifest: Found, was: Found | None, *, force: bool) -> Found:
    """Server-side apply, unless a later change would be lost. Raises Refused, with the code CONFLICT then."""

    def holds(now: Found | None) -> bool:
        if now is None:
            return False
        return content(now) == content(api.apply(ref, manifest, force=force, dry_run=True))

    def change(now: Found | None) -> Found:
        version = {"resourceVersion": now["metadata"]["resourceVersion"]} if now is not None else {}
        under = {**manifest, "metadata": {**manifest["metadata"], **version}}
        return api.apply(ref, under, force=force, dry_run=False)

    return _again(api, ref, was, holds, change)


def roll_back_again(api: Api, ref: Ref, chosen: Found) -> Found:
    """The template of the chosen revision, unless a later change would be lost. Raises Refused."""

    def holds(now: Found | None) -> bool:
        return now is not None and bool(now["spec"]["template"] == chosen["template"])

    def change(now: Found | None) -> Found:
        version = now["metadata"]["resourceVersion"] if now is not None else ""
        return api.replace_template(ref, chosen["uid"], chosen["template"], version=version, dry_run=False)

    return _again(api, ref, chosen["seen"], holds, change)


def _again(
    api: Api,
    ref: Ref,
    was: Found | None,
    holds: Callable[[Found | None], bool],
    change: Callable[[Found | None], Found],
) -> Found:
    from coterie.skills.k8s_deploy.cluster import Refused

    for look in range(LOOKS):
        now = api.get(ref)
        if now is not None and holds(now):
            return now
        if seen(now) != was:
            said = (
                f"{ref}: an earlier attempt may have changed it, and somebody else has changed it since; it "
                "is left as it is. Look at it, and submit the task anew if its change shall win"
            )
            raise Refused(said, code="CONFLICT")
        try:
            return change(now)
        except Refused as error:
            late = error.code in ("CONFLICT", "REFUSED") and look + 1 < LOOKS
            if not late or seen_version(api.get(ref)) == seen_version(now):
                raise
    raise AssertionError("the last look returns or raises")


def seen_version(found: Found | None) -> str:
    """Of the object, status and all."""
    return str(found["metadata"].get("resourceVersion", "")) if found is not None else ""
