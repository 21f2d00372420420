"""The Config service: the configuration that the cluster has agreed on, its history, and changing it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc

from coterie.core.cluster_config import NOTE_CHARS_MAX, newest
from coterie.core.commands import Rejected
from coterie.core.config_commands import ApplyConfig, ConfigRevision
from coterie.core.state import ClusterState
from coterie.node.admission import request_id_faults
from coterie.node.config import ConfigError
from coterie.node.config.document import Document, document_of
from coterie.node.config.replicated import config_of, in_full, merged, read
from coterie.node.errors import ApiError, Violation, from_rejection, invalid, not_found
from coterie.node.live import LiveSettings, policy_of
from coterie.node.proposer import Proposer
from coterie.node.reads import Reader
from coterie.node.rpc import Context, Gate, propose_seconds, seconds_left, unary
from coterie.node.security.principal import caller
from coterie.v1 import config_pb2 as pb
from coterie.v1 import config_pb2_grpc, tasks_pb2

TRIES = 5  # of a change that does not say from which revision it was made


@dataclass(frozen=True, slots=True)
class Change:
    """What a caller asks for, whatever the revision it meets."""

    make: Callable[[Document], Document]  # raises ConfigError
    expected: int
    note: str
    request_id: str
    digest: bytes


class ConfigService(config_pb2_grpc.ConfigServicer):
    """Any node; what was changed holds on every node that has applied it."""

    def __init__(
        self,
        state: Callable[[], ClusterState],
        reader: Reader,
        proposer: Proposer,
        live: LiveSettings,
        gate: Gate,
    ) -> None:
        self._state, self._reader, self._proposer, self.gate = state, reader, proposer, gate
        self._live = live

    @unary
    async def GetConfig(self, request: pb.GetConfigRequest, context: Context) -> pb.ConfigRevision:
        await self._look(context)
        if request.revision:
            return _to_pb(self._kept(request.revision), full=True)
        last = newest(self._state())
        return _to_pb(last, full=True) if last is not None else pb.ConfigRevision()

    @unary
    async def ListConfigRevisions(
        self, request: pb.ListConfigRevisionsRequest, context: Context
    ) -> pb.ListConfigRevisionsResponse:
        await self._look(context)
        kept = self._state().config
        found = [_to_pb(kept[number], full=False) for number in sorted(kept, reverse=True)]
        return pb.ListConfigRevisionsResponse(revisions=found)

    @unary
    async def ApplyConfig(self, request: pb.ApplyConfigRequest, context: Context) -> pb.ApplyConfigResponse:
        _check(request.note, request.request_id)
        reset = tuple(request.reset)
        try:
            given = document_of(read(request.document))
        except ConfigError as error:
            raise _refused(error) from error
        digest = _digest("apply", given, reset)
        change = Change(
            lambda base: merged(base, given, reset),
            request.expected_revision,
            request.note,
            request.request_id,
            digest,
        )
        return await self._carry_out(change, request.validate_only, context)

    @unary
    async def RollBackConfig(
        self, request: pb.RollBackConfigRequest, context: Context
    ) -> pb.ApplyConfigResponse:
        _check(request.note, request.request_id)
        await self._look(context)
        document: Document = json.loads(self._kept(request.revision).document)
        note = request.note or f"back to revision {request.revision}"
        digest = _digest("roll back", request.revision)
        change = Change(lambda base: document, request.expected_revision, note, request.request_id, digest)
        return await self._carry_out(change, request.validate_only, context)

    # --- changing

    async def _carry_out(
        self, change: Change, validate_only: bool, context: Context
    ) -> pb.ApplyConfigResponse:
        for _ in range(TRIES):
            await self._look(context)
            last = newest(self._state())
            if last is None:
                text = "the cluster is at its first start and has no configuration yet; try again"
                raise ApiError(grpc.StatusCode.UNAVAILABLE, "NOT_READY", text, retry_after_ms=200)
            if change.expected not in (0, last.revision):
                raise _moved(last.revision)
            answer = self._prepared(change, last)
            if validate_only:
                return answer
            command = ApplyConfig(
                json.dumps(dict(sorted(_values(answer.config.given).items()))),
                policy_of(self._live(), _values(answer.config.given)),
                last.revision,
                caller().name,
                change.note,
                change.request_id,
                change.digest,
            )
            outcome = await self._proposer.one(command, propose_seconds(context))
            if not isinstance(outcome, Rejected):
                answer.config.CopyFrom(_to_pb(self._kept(outcome.number), full=True))
                return answer
            if outcome.code != "REVISION_MISMATCH":
                raise from_rejection(outcome)
        raise _moved(self._state().meta.config_revision)

    def _prepared(self, change: Change, last: ConfigRevision) -> pb.ApplyConfigResponse:
        """What it would be. Raises ApiError with everything that is wrong."""
        before: Document = json.loads(last.document)
        try:
            after = change.make(before)
            old, new = in_full(before), in_full(after)
            config_of(after)
        except ConfigError as error:
            raise _refused(error) from error
        changes = [
            pb.ConfigChange(key=key, before=_text(old.get(key)), after=_text(new.get(key)))
            for key in sorted({*old, *new})
            if old.get(key) != new.get(key)
        ]
        config = pb.ConfigRevision(revision=last.revision, given=_texts(after), full=_texts(new))
        return pb.ApplyConfigResponse(config=config, changes=changes)

    async def _look(self, context: Context) -> None:
        await self._reader.barrier(tasks_pb2.LINEARIZABLE, seconds_left(context))

    def _kept(self, number: int) -> ConfigRevision:
        kept = self._state().config.get(number)
        if kept is None:
            raise not_found("CONFIG_REVISION", str(number))
        return kept


def _check(note: str, request_id: str) -> None:
    wrong = request_id_faults(request_id)
    if len(note) > NOTE_CHARS_MAX:
        wrong.append(Violation("note", f"has more than {NOTE_CHARS_MAX} characters"))
    if wrong:
        raise invalid(wrong)


def _refused(error: ConfigError) -> ApiError:
    """Each problem names its key."""
    split = [problem.partition(": ") for problem in error.problems]
    return invalid([Violation(key, text or key) for key, _, text in split], "BAD_CONFIG")


def _moved(revision: int) -> ApiError:
    text = f"the configuration is at revision {revision} meanwhile; look at what it says, and try again"
    return ApiError(grpc.StatusCode.ABORTED, "REVISION_MISMATCH", text, metadata={"revision": str(revision)})


def _digest(*parts: object) -> bytes:
    return hashlib.sha256(repr(parts).encode()).digest()[:16]


def _text(value: Any) -> str:
    return json.dumps(value)


def _texts(document: Mapping[str, Any]) -> dict[str, str]:
    return {key: _text(value) for key, value in document.items()}


def _values(texts: Mapping[str, str]) -> Document:
    return {key: json.loads(text) for key, text in texts.items()}


def _to_pb(revision: ConfigRevision, *, full: bool) -> pb.ConfigRevision:
    message = pb.ConfigRevision(
        revision=revision.revision, by=revision.by, note=revision.note, at_ms=revision.at_ms
    )
    if full:
        document: Document = json.loads(revision.document)
        message.given.update(_texts(document))
        message.full.update(_texts(in_full(document)))
    return message
