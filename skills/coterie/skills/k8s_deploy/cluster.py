"""The API of a cluster by its official client. Repeats are ours: the client makes one attempt."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import urllib3
from kubernetes import client, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import DynamicApiError

from coterie.skills.errors import NonRetryable, SkillError
from coterie.skills.k8s_deploy.kinds import REPLICA_SETS, Ref, Standing, standing_of
from coterie.skills.k8s_deploy.request import Target
from coterie.skills.shipped import BadSettings

APPLY = "application/apply-patch+yaml"
JSON_PATCH = "application/json-patch+json"
REVISION = "deployment.kubernetes.io/revision"
WATCH_S_MAX = 15  # then it is looked at afresh: a watch that died in silence costs no more
PAUSE_S = 0.5
SAID_CHARS_MAX = 1_000
_CODES = {401: "NOT_ALLOWED", 403: "NOT_ALLOWED", 404: "NOT_FOUND", 409: "CONFLICT", 410: "GONE"}
_PASSING = frozenset({408, 429})

Found = dict[str, Any]


class Refused(NonRetryable):
    """The API refuses; `code` says why."""

    code = "REFUSED"


class ClusterFailed(SkillError):
    """The API does not answer as it should; a later attempt may fare better."""

    code = "CLUSTER_FAILED"


class Api:
    """One cluster. All calls block, and raise Refused and ClusterFailed."""

    def __init__(self, target: Target) -> None:
        self._target = target
        # The static table of kinds stands for the client's discovery, and its cache in a shared folder.
        talker = client.ApiClient(_configuration(target))
        self._client: Any = DynamicClient(talker, discoverer=lambda *_: None)  # type: ignore[no-untyped-call]

    def apply(self, ref: Ref, manifest: Found, *, force: bool, dry_run: bool) -> Found:
        """Server-side apply."""
        return self._ask(
            "patch", ref, manifest, content_type=APPLY, field_manager=self._target.field_manager,
            force_conflicts=force, **_dry(dry_run),
        )  # fmt: skip

    def get(self, ref: Ref) -> Found | None:
        """None: it is not there."""
        try:
            return self._ask("get", ref)
        except Refused as error:
            if error.code == "NOT_FOUND":
                return None
            raise

    def all_of(self, ref: Ref, selector: str = "") -> list[Found]:
        """All of a kind in a namespace."""
        found: list[Found] = []
        more: dict[str, Any] = {"label_selector": selector} if selector else {}
        while True:
            page = self._ask("get", ref, limit=500, **more)
            found += page.get("items") or ()
            if not (token := (page.get("metadata") or {}).get("continue")):
                return found
            more["_continue"] = token

    def delete(self, ref: Ref, uid: str, *, dry_run: bool) -> bool:
        """The object of this uid, and what belongs to it. False: it was gone already."""
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        try:
            self._ask("delete", ref, {**body, "preconditions": {"uid": uid}}, **_dry(dry_run))
        except Refused as error:
            if error.code in ("NOT_FOUND", "CONFLICT"):  # gone, or another one of the same name
                return False
            raise
        return True

    def template_of(self, deployment: Found, revision: int | None) -> tuple[int, Found]:
        """The template of an earlier revision; None: the one before the present. Raises Refused."""
        metadata = deployment["metadata"]
        sets = self.all_of(Ref(REPLICA_SETS, metadata["namespace"]))
        mine = {
            int(one["metadata"]["annotations"][REVISION]): one
            for one in sets
            if REVISION in (one["metadata"].get("annotations") or {}) and _owned(one, metadata["uid"])
        }
        now = int((metadata.get("annotations") or {}).get(REVISION, 0))
        wanted = revision if revision is not None else max((one for one in mine if one < now), default=0)
        if wanted not in mine:
            known = ", ".join(map(str, sorted(mine))) or "none"
            said = (
                f"there is no revision {revision or 'before this one'} of {metadata['name']}; known: {known}"
            )
            raise Refused(said, code="NOT_FOUND")
        template: Found = json.loads(json.dumps(mine[wanted]["spec"]["template"]))
        template["metadata"].get("labels", {}).pop("pod-template-hash", None)
        return wanted, template

    def replace_template(
        self, ref: Ref, uid: str, template: Found, *, dry_run: bool, version: str = ""
    ) -> Found:
        """Of the Deployment with this uid, and only of this version where one is given."""
        patch = [
            {"op": "test", "path": "/metadata/uid", "value": uid},
            {"op": "replace", "path": "/spec/template", "value": template},
        ]
        if version:
            patch.insert(1, {"op": "test", "path": "/metadata/resourceVersion", "value": version})
        manager = self._target.field_manager
        return self._ask("patch", ref, patch, content_type=JSON_PATCH, field_manager=manager, **_dry(dry_run))

    def wait_ready(self, ref: Ref, until: float) -> Standing:
        """How it stands when it is ready, has failed, or at `until` (monotonic seconds)."""
        while True:
            found = self.get(ref)
            standing = standing_of(ref.kind.kind, found) if found else Standing(False, "is not there")
            if found:
                standing = self._watched(ref, found, standing, until)
            if standing.ready or standing.failed or time.monotonic() >= until:
                return standing
            time.sleep(min(PAUSE_S, max(0.0, until - time.monotonic())))

    def _watched(self, ref: Ref, found: Found, standing: Standing, until: float) -> Standing:
        """How it stands after some time of watching it."""
        left = until - time.monotonic()
        if standing.ready or standing.failed or left <= 0:
            return standing
        watcher: Any = watch.Watch()  # type: ignore[no-untyped-call]
        given = {
            "field_selector": f"metadata.name={ref.name}",
            "resource_version": found["metadata"]["resourceVersion"],
            "timeout_seconds": max(1, min(WATCH_S_MAX, int(left))),
        }
        everything = Ref(ref.kind, ref.namespace)

        def events(**more: Any) -> Any:
            more.pop("_preload_content", None)
            return self._client.request(
                "get", everything.path, serialize=False, _request_timeout=self._time(left), **more
            )

        try:
            with _said(str(ref)):
                for event in watcher.stream(events, **given):
                    if event["type"] == "DELETED":
                        return Standing(False, "was deleted")
                    standing = standing_of(ref.kind.kind, event["raw_object"])
                    if standing.ready or standing.failed:
                        watcher.stop()
        except (ClusterFailed, Refused):
            return standing  # the watch ended; the next look says how it stands, or what is wrong
        return standing

    def _time(self, left: float) -> tuple[float, float]:
        return self._target.timeout_s, min(WATCH_S_MAX, max(1.0, left)) + self._target.timeout_s

    def _ask(self, method: str, ref: Ref, body: Any = None, **query: Any) -> Found:
        with _said(str(ref)):
            answer = self._client.request(
                method, ref.path, body=body, serialize=False, _request_timeout=self._target.timeout_s, **query
            )
            found: Found = json.loads(answer.data)
            return found


def _configuration(target: Target) -> client.Configuration:
    configuration = client.Configuration(host=target.server.rstrip("/"))
    token = target.token
    try:
        token = target.token_file.read_text().strip() if target.token_file else token
    except OSError as error:
        said = f"skills.settings.k8s-deploy: tokenFile {target.token_file}: {error.strerror}"
        raise BadSettings(said) from error
    if token:
        configuration.api_key = {"BearerToken": token, "authorization": token}
        configuration.api_key_prefix = {"BearerToken": "Bearer", "authorization": "Bearer"}
    configuration.ssl_ca_cert = str(target.ca_file) if target.ca_file else None
    configuration.cert_file = str(target.cert_file) if target.cert_file else None
    configuration.key_file = str(target.key_file) if target.key_file else None
    configuration.retries = urllib3.Retry(total=0, redirect=0)
    return configuration


@contextmanager
def _said(what: str) -> Iterator[None]:
    """What the client raises, as errors of the skill."""
    try:
        yield
    except (ApiException, DynamicApiError) as error:
        said = f"{what}: {_message(error)}"
        if error.status is None or error.status >= 500 or error.status in _PASSING or error.status < 200:
            raise ClusterFailed(said) from error
        raise Refused(said, code=_CODES.get(error.status, Refused.code)) from error
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        raise ClusterFailed(f"{what}: {error}"[:SAID_CHARS_MAX]) from error


def _message(error: Any) -> str:
    """The API's own words."""
    body = error.body
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body or "")
    try:
        text = json.loads(text)["message"]
    except (ValueError, KeyError, TypeError):
        text = text or str(error.reason)
    return f"{error.status}: {text}"[:SAID_CHARS_MAX]


def _dry(dry_run: bool) -> dict[str, str]:
    return {"dry_run": "All"} if dry_run else {}


def _owned(one: Found, uid: str) -> bool:
    return any(owner.get("uid") == uid for owner in one["metadata"].get("ownerReferences") or ())
