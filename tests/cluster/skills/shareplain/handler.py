"""Every call of coordination from a plain function."""

from __future__ import annotations

from typing import Any

from coterie.skills import LockHeld, VersionMismatch


def run(ctx: Any, input: dict[str, Any]) -> dict[str, Any]:
    kv, said = ctx.kv, {}
    with ctx.lock("plain", ttl=5.0) as token:
        said["token"] = token > 0
        try:
            with ctx.lock("plain", ttl=5.0, timeout=0.1):
                said["held"] = False
        except LockHeld:
            said["held"] = True
    version = kv.put("plain/a", [1], ttl=60.0)
    try:
        kv.cas("plain/a", 2, version + 1)
    except VersionMismatch:
        said["mismatch"] = True
    kv.cas("plain/a", {"n": 2}, version)
    kv.cas("plain/b", None, 0)
    said["listed"] = [(one.key, one.value) for one in kv.list("plain/")]
    said["gone"] = kv.delete("plain/a") > 0 and kv.delete("plain/a") == 0 and kv.get("plain/a", "no") == "no"
    said["position"] = ctx.publish("plain.said", input) > 0
    said["year"] = ctx.now().year
    return said
