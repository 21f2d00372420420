"""What k8s-deploy is asked, and the clusters of its operator."""

from __future__ import annotations

import fnmatch
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, model_validator

from coterie.skills.errors import BadInput
from coterie.skills.k8s_deploy.kinds import KINDS, Kind, Ref
from coterie.skills.shipped import Input, Settings

MANIFESTS_MAX = 100
YAML_CHARS_MAX = 1024**2
WRITTEN_CHARS_MAX = 4 * YAML_CHARS_MAX  # with aliases written out
WAIT_S_MAX = 1_700  # within the time of a task of this skill
NAME = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
_NEEDS = {"status": ("kind", "name"), "delete": ("kind", "name"), "rollback": ("name",), "list": ("kind",)}

Name = Annotated[str, Field(max_length=253, pattern=f"{NAME}|^$")]


class DeployRequest(Input):
    """One operation in one namespace."""

    operation: Literal["apply", "status", "list", "rollback", "delete"]
    namespace: Annotated[str, Field(min_length=1, max_length=63, pattern=NAME)]
    cluster: Annotated[str, Field(max_length=100)] = Field(
        "", description="a name of the operator's; none: the first"
    )
    manifests: Annotated[tuple[dict[str, Any], ...], Field(max_length=MANIFESTS_MAX)] = ()
    yaml: Annotated[str, Field(max_length=YAML_CHARS_MAX)] = Field("", description="apply: documents of YAML")
    kind: Annotated[str, Field(max_length=100)] = ""
    name: Name = ""
    selector: Annotated[str, Field(max_length=1_000)] = Field("", description="list: labels, as app=web")
    revision: Annotated[int, Field(ge=1)] | None = Field(None, description="rollback: to this one")
    dry_run: bool = Field(False, description="apply, delete, rollback: let the API say what it would do")
    force: bool = Field(False, description="apply: take over fields that others have set")
    wait_s: Annotated[float, Field(ge=0, le=WAIT_S_MAX)] = Field(0, description="until it is ready")

    @model_validator(mode="after")
    def _has_all(self) -> DeployRequest:
        missing = [name for name in _NEEDS.get(self.operation, ()) if not getattr(self, name)]
        if missing:
            raise ValueError(f"{self.operation} needs {' and '.join(missing)}")
        if (self.operation == "apply") != (bool(self.manifests) != bool(self.yaml)):
            raise ValueError("apply needs manifests or yaml, one of them; nothing else takes them")
        return self


class Target(Settings):
    """A cluster."""

    server: Annotated[str, Field(pattern="^https?://")]
    token: str = Field("", repr=False)
    token_file: Path | None = None  # read anew for each task: such tokens change
    cert_file: Path | None = None
    key_file: Path | None = None
    ca_file: Path | None = None
    namespaces: Annotated[tuple[str, ...], Field(min_length=1)]  # globs
    kinds: Annotated[tuple[str | Kind, ...], Field(min_length=1)] = tuple(KINDS)
    field_manager: Annotated[str, Field(min_length=1, max_length=128)] = "coterie"
    timeout_s: Annotated[float, Field(gt=0, le=100)] = 30.0

    @model_validator(mode="after")
    def _knows_its_kinds(self) -> Target:
        unknown = [one for one in self.kinds if isinstance(one, str) and one not in KINDS]
        if unknown:
            raise ValueError(
                f"kinds: {unknown[0]!r} needs more than a name: {{kind, apiVersion, plural}};"
                f" known by name: {', '.join(KINDS)}"
            )
        return self

    def kind(self, name: str) -> Kind:
        """Raises BadInput where the operator does not let anybody touch it."""
        allowed = {one.kind: one for one in (KINDS[k] if isinstance(k, str) else k for k in self.kinds)}
        if name not in allowed:
            raise BadInput(
                f"kind: {name!r} is not allowed by the operator; allowed: {', '.join(allowed)}",
                code="NOT_ALLOWED",
            )
        return allowed[name]

    def allows(self, namespace: str) -> bool:
        """Whether anything there may be touched."""
        return any(fnmatch.fnmatchcase(namespace, one) for one in self.namespaces)


class DeploySettings(Settings):
    """`skills.settings.k8s-deploy`."""

    clusters: Annotated[dict[str, Target], Field(min_length=1)]


def manifests_of(request: DeployRequest, target: Target) -> list[tuple[Ref, dict[str, Any]]]:
    """The objects to be applied, in their order. Raises BadInput for the first that cannot be."""
    given = list(request.manifests) or _documents(request.yaml)
    found: dict[Ref, dict[str, Any]] = {}
    for place, one in enumerate(given):
        ref, manifest = _checked(one, f"manifests[{place}]", request, target)
        if ref in found:
            raise BadInput(f"manifests[{place}]: {ref} is there twice")
        found[ref] = manifest
    return list(found.items())


def _documents(text: str) -> list[Any]:
    try:
        found = [one for one in yaml.safe_load_all(text) if one is not None]
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise BadInput(f"yaml: {error}") from error
    if not 1 <= len(found) <= MANIFESTS_MAX:
        raise BadInput(f"yaml: has {len(found)} documents; give 1 to {MANIFESTS_MAX}")
    _check_plain(found)
    return found


def _check_plain(documents: list[Any]) -> None:
    """They are JSON, and no more of it than such a text should be: aliases are written out when it is sent,
    and a few lines of them can stand for gigabytes, or for themselves. Raises BadInput."""
    left, room = list(documents), WRITTEN_CHARS_MAX
    while left:
        one = left.pop()
        inner: list[Any] = []
        if isinstance(one, dict):
            inner = [*one, *one.values()]
        elif isinstance(one, list):
            inner = one
        elif isinstance(one, str):
            room -= len(one)
        elif not (one is None or isinstance(one, int) or (isinstance(one, float) and math.isfinite(one))):
            raise BadInput(
                f"yaml: {str(one)[:80]} is a {type(one).__name__}, no value of JSON; put it in quotes"
            )
        room -= 1 + len(inner)
        if room < 0:
            raise BadInput(
                f"yaml: stands for more than {WRITTEN_CHARS_MAX} characters; repeat less by aliases"
            )
        left += inner


def _checked(given: Any, where: str, request: DeployRequest, target: Target) -> tuple[Ref, dict[str, Any]]:
    if not isinstance(given, dict) or not isinstance(given.get("metadata"), dict):
        raise BadInput(f"{where}: is no object with apiVersion, kind and metadata")
    kind, metadata = target.kind(str(given.get("kind", ""))), given["metadata"]
    if given.get("apiVersion") != kind.api_version:
        raise BadInput(f"{where}.apiVersion: {given.get('apiVersion')!r}; {kind.kind} is {kind.api_version}")
    name = metadata.get("name")
    if not isinstance(name, str) or not name:
        raise BadInput(f"{where}.metadata.name: missing; an apply needs one (generateName does not do)")
    if name in (".", "..") or "/" in name or "%" in name:
        raise BadInput(f"{where}.metadata.name: {name[:253]!r} cannot be a name: no . or .., no / and %")
    if metadata.get("namespace", request.namespace) != request.namespace:
        raise BadInput(
            f"{where}.metadata.namespace: {metadata['namespace']!r} is not {request.namespace!r};"
            " a task is for one namespace"
        )
    manifest = {**given, "metadata": {**metadata, "namespace": request.namespace}}
    return Ref(kind, request.namespace, name), manifest
