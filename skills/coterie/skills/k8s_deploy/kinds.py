"""Kinds of objects, where the API has them, and when they are ready."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import quote

from pydantic import Field

from coterie.skills.shipped import Settings


class Kind(Settings):
    """One kind of objects in namespaces."""

    kind: Annotated[str, Field(min_length=1, max_length=100)]
    api_version: Annotated[str, Field(pattern=r"^([a-z0-9.-]+/)?v[a-z0-9]+$")]
    plural: Annotated[str, Field(pattern=r"^[a-z0-9]+$")]


@dataclass(frozen=True, slots=True)
class Ref:
    """One object; without a name all of the kind."""

    kind: Kind
    namespace: str
    name: str = ""

    @property
    def path(self) -> str:
        """Of the API."""
        version = self.kind.api_version
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        name = f"/{quote(self.name, safe='')}" if self.name else ""
        return f"{root}/namespaces/{quote(self.namespace, safe='')}/{self.kind.plural}{name}"

    def __str__(self) -> str:
        return f"{self.kind.kind} {self.namespace}/{self.name}"


# Those without Secrets and what grants rights; an operator may list them.
KINDS: Mapping[str, Kind] = {
    kind: Kind(kind=kind, api_version=version, plural=plural)
    for kind, version, plural in (
        ("Deployment", "apps/v1", "deployments"),
        ("StatefulSet", "apps/v1", "statefulsets"),
        ("DaemonSet", "apps/v1", "daemonsets"),
        ("Job", "batch/v1", "jobs"),
        ("CronJob", "batch/v1", "cronjobs"),
        ("Service", "v1", "services"),
        ("ConfigMap", "v1", "configmaps"),
        ("PersistentVolumeClaim", "v1", "persistentvolumeclaims"),
        ("Ingress", "networking.k8s.io/v1", "ingresses"),
        ("NetworkPolicy", "networking.k8s.io/v1", "networkpolicies"),
        ("HorizontalPodAutoscaler", "autoscaling/v2", "horizontalpodautoscalers"),
        ("PodDisruptionBudget", "policy/v1", "poddisruptionbudgets"),
    )
}
REPLICA_SETS = Kind(kind="ReplicaSet", api_version="apps/v1", plural="replicasets")


@dataclass(frozen=True, slots=True)
class Standing:
    """`failed`: it will not become ready by itself."""

    ready: bool
    why: str = ""
    failed: bool = False


READY = Standing(True)


def standing_of(kind: str, found: Mapping[str, Any]) -> Standing:
    """Whether an object is ready, as its controller says. What has none is ready when it is there."""
    status = found.get("status") or {}
    if kind in _JUDGES and int(status.get("observedGeneration", 0)) < int(
        found["metadata"].get("generation", 0)
    ):
        return Standing(False, "its controller has not seen this version yet")
    judge = _JUDGES.get(kind) or _OTHERS.get(kind)
    return judge(found.get("spec") or {}, status) if judge else READY


def _deployment(spec: Mapping[str, Any], status: Mapping[str, Any]) -> Standing:
    wanted = int(spec.get("replicas", 1))
    progress = _condition(status, "Progressing")
    if progress.get("reason") == "ProgressDeadlineExceeded":
        return Standing(False, str(progress.get("message", "it makes no progress")), failed=True)
    updated, total = _count(status, "updatedReplicas"), _count(status, "replicas")
    if updated < wanted:
        return Standing(False, f"{updated} of {wanted} replicas are updated")
    if total > updated:
        return Standing(False, f"{total - updated} old replicas are to end")
    available = _count(status, "availableReplicas")
    return (
        READY if available >= wanted else Standing(False, f"{available} of {wanted} replicas are available")
    )


def _stateful_set(spec: Mapping[str, Any], status: Mapping[str, Any]) -> Standing:
    wanted = int(spec.get("replicas", 1))
    updated, ready = _count(status, "updatedReplicas"), _count(status, "readyReplicas")
    if min(updated, ready) >= wanted:
        return READY
    return Standing(False, f"{updated} of {wanted} replicas are updated, {ready} are ready")


def _daemon_set(spec: Mapping[str, Any], status: Mapping[str, Any]) -> Standing:
    wanted = _count(status, "desiredNumberScheduled")
    updated, available = _count(status, "updatedNumberScheduled"), _count(status, "numberAvailable")
    if min(updated, available) >= wanted:
        return READY
    return Standing(False, f"{updated} of {wanted} nodes are updated, {available} are available")


def _job(spec: Mapping[str, Any], status: Mapping[str, Any]) -> Standing:
    failed = _condition(status, "Failed")
    if failed.get("status") == "True":
        return Standing(False, f"failed: {failed.get('message', failed.get('reason', ''))}", failed=True)
    done = _condition(status, "Complete").get("status") == "True"
    return READY if done else Standing(False, f"{_count(status, 'succeeded')} pods have succeeded")


def _claim(spec: Mapping[str, Any], status: Mapping[str, Any]) -> Standing:
    phase = str(status.get("phase", "Pending"))
    return READY if phase == "Bound" else Standing(False, f"is {phase}", failed=phase == "Lost")


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(
        (one for one in status.get("conditions") or () if one["type"] == kind), {}
    )
    return found


def _count(status: Mapping[str, Any], name: str) -> int:
    return int(status.get(name) or 0)


Judge = Callable[[Mapping[str, Any], Mapping[str, Any]], Standing]
_JUDGES: Mapping[str, Judge] = {  # those that say which version they have seen
    "Deployment": _deployment,
    "StatefulSet": _stateful_set,
    "DaemonSet": _daemon_set,
}
_OTHERS: Mapping[str, Judge] = {"Job": _job, "PersistentVolumeClaim": _claim}
