"""A Kubernetes API on loopback, as far as deployments need it: server-side apply with owners of fields, dry
runs, lists in pages, watches, JSON patches, deletes with preconditions, and a controller of Deployments."""

from __future__ import annotations

import contextlib
import copy
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

TOKEN = "secret-of-the-tests"
REVISION = "deployment.kubernetes.io/revision"
Found = dict[str, Any]
Leaves = dict[tuple[str, ...], Any]


class Fault(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = {
            "kind": "Status",
            "status": "Failure",
            "reason": reason,
            "message": message,
            "code": status,
        }


@dataclass
class State:
    """What the API holds. `rollout` says what becomes of a Deployment: ready, slow, stuck or failed."""

    rollout: str = "ready"
    page_max: int = 500
    watches_end: bool = False
    fail_next: list[int] = field(default_factory=list)
    fail_applies: int = 0
    objects: dict[tuple[str, str, str], Found] = field(default_factory=dict)
    owners: dict[tuple[str, str, str], dict[tuple[str, ...], str]] = field(default_factory=dict)
    events: list[tuple[int, str, str, Found]] = field(default_factory=list)
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    clock: int = 100
    changed: threading.Condition = field(default_factory=threading.Condition)

    def put(self, plural: str, found: Found, event: str = "MODIFIED") -> Found:
        """Store a new version and tell the watches."""
        with self.changed:
            self.clock += 1
            found["metadata"]["resourceVersion"] = str(self.clock)
            metadata = found["metadata"]
            self.objects[plural, metadata["namespace"], metadata["name"]] = found
            self.events.append((self.clock, plural, event, copy.deepcopy(found)))
            self.changed.notify_all()
        return found

    def get(self, plural: str, namespace: str, name: str) -> Found:
        """Raises Fault."""
        found = self.objects.get((plural, namespace, name))
        if found is None:
            raise Fault(404, "NotFound", f'{plural} "{name}" not found')
        return found

    # --- changes

    def apply(self, place: tuple[str, str, str], given: Found, query: dict[str, str]) -> Found:
        """Server-side apply. Raises Fault."""
        plural, namespace, _ = place
        _validate(given)
        manager, was = query["fieldManager"], self.objects.get(place)
        version = given["metadata"].get("resourceVersion")
        if version is not None and (was is None or was["metadata"]["resourceVersion"] != version):
            raise Fault(409, "Conflict", "the object has been modified")
        owners = dict(self.owners.get(place, {}))
        wanted, now = leaves(given), leaves(was or {})
        clashes = [
            path for path, value in wanted.items()
            if owners.get(path, manager) != manager and now.get(path) != value
        ]  # fmt: skip
        if clashes and query.get("force") not in ("true", "True"):
            said = ", ".join(f'conflict with "{owners[path]}": .{".".join(path)}' for path in clashes)
            raise Fault(409, "Conflict", f"Apply failed with {len(clashes)} conflict: {said}")
        result = copy.deepcopy(was) if was else {"metadata": {"uid": f"uid-{self.clock}", "generation": 0}}
        for path in [path for path, owner in owners.items() if owner == manager and path not in wanted]:
            _drop(result, path)
            del owners[path]
        _merge(result, given)
        result["metadata"]["namespace"] = namespace
        owners |= dict.fromkeys(wanted, manager)
        if "dryRun" in query:
            return result
        if self.fail_applies:
            self.fail_applies -= 1
            raise Fault(503, "Trouble", "not now")
        self.owners[place] = owners
        return self._settled(plural, was, result)

    def patch(self, place: tuple[str, str, str], given: list[Found], query: dict[str, str]) -> Found:
        """A JSON patch of tests and replacements. Raises Fault."""
        was = self.get(*place)
        result = copy.deepcopy(was)
        for one in given:
            *way, last = one["path"].strip("/").split("/")
            inner = result
            for part in way:
                inner = inner[part]
            if one["op"] == "test" and inner.get(last) != one["value"]:
                raise Fault(422, "Invalid", f"test of {one['path']} failed")
            inner[last] = one["value"]
        if "dryRun" in query:
            return result
        changed = {path for path, value in leaves(result).items() if leaves(was).get(path) != value}
        self.owners.setdefault(place, {}).update(dict.fromkeys(changed, f"{query['fieldManager']} (patch)"))
        return self._settled(place[0], was, result)

    def delete(self, place: tuple[str, str, str], options: Found, query: dict[str, str]) -> Found:
        """Raises Fault."""
        found = self.get(*place)
        wanted = options.get("preconditions", {}).get("uid", found["metadata"]["uid"])
        if wanted != found["metadata"]["uid"]:
            raise Fault(409, "Conflict", f"the UID in the precondition ({wanted}) does not match")
        if "dryRun" not in query:
            self.put(place[0], copy.deepcopy(found), "DELETED")
            del self.objects[place]
        return {"kind": "Status", "status": "Success"}

    def _settled(self, plural: str, was: Found | None, result: Found) -> Found:
        if was is not None and leaves(was) == leaves(result):
            return was
        if was is None or was.get("spec") != result.get("spec"):
            result["metadata"]["generation"] += 1
        stored = self.put(plural, result, "MODIFIED" if was else "ADDED")
        if plural == "deployments":
            return self._roll_out(stored)
        return stored

    # --- the controller

    def _roll_out(self, deployment: Found) -> Found:
        metadata, template = deployment["metadata"], deployment["spec"]["template"]
        mine = [
            one for (plural, _, _), one in self.objects.items()
            if plural == "replicasets" and one["metadata"]["ownerReferences"][0]["uid"] == metadata["uid"]
        ]  # fmt: skip
        highest = max((int(one["metadata"]["annotations"][REVISION]) for one in mine), default=0)
        same = [one for one in mine if _bare(one["spec"]["template"]) == template]
        if not same or int(same[0]["metadata"]["annotations"][REVISION]) < highest:
            highest += 1
            one = same[0] if same else _replica_set(deployment, template, highest)
            one["metadata"]["annotations"][REVISION] = str(highest)
            self.put("replicasets", one)
        deployment = copy.deepcopy(deployment)
        deployment["metadata"].setdefault("annotations", {})[REVISION] = str(highest)
        if self.rollout == "slow":
            threading.Timer(0.3, self.finish, (deployment,)).start()
        if self.rollout == "failed":
            reason = {"reason": "ProgressDeadlineExceeded", "message": "has timed out progressing"}
            conditions = [{"type": "Progressing", "status": "False", **reason}]
            deployment["status"] = {"observedGeneration": metadata["generation"], "conditions": conditions}
        return self.finish(deployment) if self.rollout == "ready" else self.put("deployments", deployment)

    def finish(self, deployment: Found) -> Found:
        """All replicas run the newest template."""
        count = deployment["spec"].get("replicas", 1)
        names = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
        generation = deployment["metadata"]["generation"]
        status = {"observedGeneration": generation, **dict.fromkeys(names, count)}
        return self.put("deployments", {**copy.deepcopy(deployment), "status": status})


def leaves(found: Any, path: tuple[str, ...] = ()) -> Leaves:
    """Every value that is no object, by where it is; not what names the object, nor what the API writes."""
    told: Leaves = {}
    for name, value in found.items():
        at = (*path, name)
        if at in _UNOWNED:
            continue
        told |= leaves(value, at) if isinstance(value, dict) and value else {at: value}
    return told


_API = ("uid", "generation", "resourceVersion", "name", "namespace")
_UNOWNED = {("apiVersion",), ("kind",), ("status",), *(("metadata", name) for name in _API)}
_UNOWNED.add(("metadata", "annotations", REVISION))


def _validate(given: Found) -> None:
    if given["kind"] == "Deployment" and "selector" not in given.get("spec", {}):
        raise Fault(422, "Invalid", "Deployment is invalid: spec.selector: Required value")


def _merge(into: Found, given: Found) -> None:
    for name, value in given.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = copy.deepcopy(value)


def _drop(found: Found, path: tuple[str, ...]) -> None:
    inner = found
    for part in path[:-1]:
        inner = inner.get(part, {})
    inner.pop(path[-1], None)


def _replica_set(deployment: Found, template: Found, revision: int) -> Found:
    metadata = deployment["metadata"]
    pods = copy.deepcopy(template)
    pods["metadata"]["labels"]["pod-template-hash"] = f"hash{revision}"
    return {
        "metadata": {
            "name": f"{metadata['name']}-{revision}",
            "namespace": metadata["namespace"],
            "uid": f"rs-{metadata['uid']}-{revision}",
            "annotations": {},
            "ownerReferences": [{"uid": metadata["uid"]}],
        },
        "spec": {"template": pods},
    }


def _bare(template: Found) -> Found:
    bare = copy.deepcopy(template)
    bare["metadata"]["labels"].pop("pod-template-hash", None)
    return bare


class Handler(BaseHTTPRequestHandler):
    state: State
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.state.asked.append((self.command, parts.path, query))
        try:
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise Fault(401, "Unauthorized", "Unauthorized")
            if self.state.fail_next:
                raise Fault(self.state.fail_next.pop(0), "Trouble", "not now")
            found = self._find(parts.path, query, json.loads(body) if body else {})
            if found is not None:
                self._say(200, found)
        except Fault as fault:
            self._say(fault.status, fault.body)

    def _find(self, path: str, query: dict[str, str], body: Any) -> Found | None:
        _, _, rest = path.partition("/namespaces/")
        namespace, plural, *name = rest.split("/")
        if not name:
            if "watch" not in query:
                return self._list(plural, namespace, query)
            self._watch(plural, query)
            return None
        place = (plural, namespace, name[0])
        if self.command == "GET":
            return self.state.get(*place)
        if self.command == "DELETE":
            return self.state.delete(place, body, query)
        if self.headers["Content-Type"] == "application/json-patch+json":
            return self.state.patch(place, body, query)
        assert self.headers["Content-Type"] == "application/apply-patch+yaml"
        return self.state.apply(place, body, query)

    def _list(self, plural: str, namespace: str, query: dict[str, str]) -> Found:
        wanted = dict(one.split("=") for one in query.get("labelSelector", "").split(",") if one)
        found = [
            one for (p, n, _), one in sorted(self.state.objects.items())
            if (p, n) == (plural, namespace) and wanted.items() <= one["metadata"].get("labels", {}).items()
        ]  # fmt: skip
        start = int(query.get("continue", 0))
        end = start + min(self.state.page_max, int(query.get("limit", 500)))
        more = {"continue": str(end)} if end < len(found) else {}
        return {"items": found[start:end], "metadata": {"resourceVersion": str(self.state.clock), **more}}

    def _watch(self, plural: str, query: dict[str, str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        seen, name = int(query["resourceVersion"]), query["fieldSelector"].partition("=")[2]
        until = time.monotonic() + (0 if self.state.watches_end else float(query["timeoutSeconds"]))
        with contextlib.suppress(OSError):
            while (left := until - time.monotonic()) > 0:
                with self.state.changed:
                    new = [one for one in self.state.events if one[0] > seen and one[1] == plural]
                    if not new:
                        self.state.changed.wait(min(left, 0.2))
                for version, _, event, found in new:
                    seen = version
                    if found["metadata"]["name"] == name:
                        self._chunk(json.dumps({"type": event, "object": found}).encode() + b"\n")
            if self.state.watches_end:
                error = {"type": "ERROR", "object": Fault(410, "Expired", "too old").body}
                self._chunk(json.dumps(error).encode() + b"\n")
            self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _say(self, status: int, found: Found) -> None:
        data = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(data)

    do_GET = do_PATCH = do_DELETE = do_POST = do_PUT = _answer

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def api() -> Iterator[tuple[str, State]]:
    """Its address and its state, until the block ends."""
    state = State()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"state": state}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
