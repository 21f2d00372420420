"""The configuration that the cluster has agreed on: what it says, what it said, and changing it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from coterie.client.connection import Connection
from coterie.v1 import config_pb2


@dataclass(frozen=True, slots=True)
class ConfigRevision:
    """A configuration, and who put it in force, when and why.

    - `given`: what was set, by keys such as distribution.taskQueue.maxPending.
    - `full`: every key of that part of a cluster file, set or by default."""

    revision: int
    by: str
    note: str
    at: datetime | None
    given: Mapping[str, Any] = field(default_factory=dict)
    full: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, raw: config_pb2.ConfigRevision) -> ConfigRevision:
        """The dataclass for a message."""
        at = datetime.fromtimestamp(raw.at_ms / 1000, UTC) if raw.at_ms else None
        return cls(raw.revision, raw.by, raw.note, at, _values(raw.given), _values(raw.full))


@dataclass(frozen=True, slots=True)
class AppliedConfig:
    """What an apply or a rollback did, or would do: `changes` has the value before and after, by key."""

    config: ConfigRevision
    changes: Mapping[str, tuple[Any, Any]]

    @classmethod
    def of(cls, raw: config_pb2.ApplyConfigResponse) -> AppliedConfig:
        """The dataclass for a message."""
        changes = {one.key: (json.loads(one.before), json.loads(one.after)) for one in raw.changes}
        return cls(ConfigRevision.of(raw.config), changes)


class ClusterConfig:
    """Limits, queue, retry, routing, breakers of the cluster, changed while it runs: `cluster.config`."""

    def __init__(self, opened: Callable[[], Connection]) -> None:
        self._opened = opened

    async def get(self, revision: int = 0) -> ConfigRevision:
        """The newest revision, or another one that is kept. Raises NotFound."""
        request = config_pb2.GetConfigRequest(revision=revision)
        return ConfigRevision.of(await self._opened().caller.unary(lambda e: e.config.GetConfig, request))

    async def history(self) -> list[ConfigRevision]:
        """The revisions that are kept, the newest first, without what they say."""
        request = config_pb2.ListConfigRevisionsRequest()
        answer = await self._opened().caller.unary(lambda e: e.config.ListConfigRevisions, request)
        return [ConfigRevision.of(raw) for raw in answer.revisions]

    async def apply(
        self,
        document: str | Mapping[str, Any],
        *,
        reset: Sequence[str] = (),
        expected_revision: int = 0,
        validate_only: bool = False,
        note: str = "",
        request_id: str = "",
    ) -> AppliedConfig:
        """Sets what the document says, as YAML, JSON or nested mappings in the form of a cluster file; the
        rest stays, and the keys or sections in `reset` get their defaults again. `validate_only`: only say
        what would change. Raises InvalidRequest with all that is wrong, and Aborted when
        `expected_revision` does not hold any more."""
        request = config_pb2.ApplyConfigRequest(
            document=document if isinstance(document, str) else json.dumps(document),
            reset=reset,
            expected_revision=expected_revision,
            validate_only=validate_only,
            note=note,
            request_id=request_id or uuid.uuid4().hex,
        )
        return AppliedConfig.of(await self._opened().caller.unary(lambda e: e.config.ApplyConfig, request))

    async def roll_back(
        self,
        revision: int,
        *,
        expected_revision: int = 0,
        validate_only: bool = False,
        note: str = "",
        request_id: str = "",
    ) -> AppliedConfig:
        """Puts in force again what an earlier revision said, as a new one. Raises NotFound and Aborted."""
        request = config_pb2.RollBackConfigRequest(
            revision=revision,
            expected_revision=expected_revision,
            validate_only=validate_only,
            note=note,
            request_id=request_id or uuid.uuid4().hex,
        )
        return AppliedConfig.of(await self._opened().caller.unary(lambda e: e.config.RollBackConfig, request))


def _values(texts: Mapping[str, str]) -> dict[str, Any]:
    return {key: json.loads(texts[key]) for key in sorted(texts)}
