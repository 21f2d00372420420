"""The KeyValue service: values with versions, and watching them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from coterie.core.commands import Rejected
from coterie.core.coordination import kv
from coterie.core.coordination.bounds import KEY_CHARS_MAX, TTL_MS_MAX, VALUE_BYTES_MAX
from coterie.core.coordination.commands import DeleteKey, PutKey
from coterie.core.coordination.look_ups import name_key
from coterie.core.coordination.nouns import KvEntry, Tombstone
from coterie.node.admission import PAGE_DEFAULT, PAGE_MAX, request_id_faults
from coterie.node.coordination.desk import (
    Desk,
    accepted,
    check,
    key_faults,
    mismatch,
    not_there,
    range_faults,
)
from coterie.node.errors import Violation
from coterie.node.rpc import Context, Gate, streaming, unary
from coterie.v1 import kv_pb2, kv_pb2_grpc

HEARTBEAT_S = 5.0
PAGE_BYTES_MAX = 2 << 20  # of one answer


class KeyValueService(kv_pb2_grpc.KeyValueServicer):
    def __init__(self, desk: Desk, gate: Gate) -> None:
        self._desk, self.gate = desk, gate

    @unary
    async def GetKey(self, request: kv_pb2.GetKeyRequest, context: Context) -> kv_pb2.KeyEntry:
        tenant = check(request.parent, key_faults(request.key, KEY_CHARS_MAX))
        await self._desk.look(context, request.read_mode)
        entry = kv.get(self._desk.state(), tenant, request.key, self._desk.time.now_ms())
        if entry is None:
            raise not_there("KEY", request.key)
        return entry_to_pb(entry)

    @unary
    async def PutKey(self, request: kv_pb2.PutKeyRequest, context: Context) -> kv_pb2.KeyEntry:
        size = f", the limit is {VALUE_BYTES_MAX}: keep large things elsewhere and their name here"
        large = [Violation("value", f"{len(request.value)} bytes{size}")]
        tenant = check(
            request.parent,
            key_faults(request.key, KEY_CHARS_MAX),
            large if len(request.value) > VALUE_BYTES_MAX else [],
            range_faults("ttl_ms", request.ttl_ms, 0, TTL_MS_MAX),
            request_id_faults(request.request_id),
        )
        expected = request.expected_version if request.HasField("expected_version") else kv.ANY_VERSION
        mark = self._desk.mark(
            request.request_id, "put", request.key, request.value, expected, request.ttl_ms
        )
        command = PutKey(tenant, request.key, request.value, expected, request.ttl_ms, *mark)
        outcome = await self._desk.propose(command, context)
        if isinstance(outcome, Rejected) and outcome.code == "VERSION_MISMATCH":
            raise mismatch(outcome, self._version(tenant, request.key))
        version = accepted(outcome).number
        now = self._desk.state().kv.get(name_key(tenant, request.key))
        if now is not None and now.version == version:
            return entry_to_pb(now)
        return kv_pb2.KeyEntry(key=request.key, value=request.value, version=version)

    @unary
    async def DeleteKey(self, request: kv_pb2.DeleteKeyRequest, context: Context) -> kv_pb2.DeleteKeyResponse:
        tenant = check(
            request.parent, key_faults(request.key, KEY_CHARS_MAX), request_id_faults(request.request_id)
        )
        expected = request.expected_version if request.HasField("expected_version") else kv.ANY_VERSION
        mark = self._desk.mark(request.request_id, "delete", request.key, expected)
        outcome = await self._desk.propose(DeleteKey(tenant, request.key, expected, *mark), context)
        if isinstance(outcome, Rejected) and outcome.code == "VERSION_MISMATCH":
            raise mismatch(outcome, self._version(tenant, request.key))
        return kv_pb2.DeleteKeyResponse(version=accepted(outcome).number)

    @unary
    async def ListKeys(self, request: kv_pb2.ListKeysRequest, context: Context) -> kv_pb2.ListKeysResponse:
        size = range_faults("page_size", request.page_size, 0, PAGE_MAX)
        tenant = check(request.parent, size)
        await self._desk.look(context, request.read_mode)
        state, now_ms = self._desk.state(), self._desk.time.now_ms()
        answer = kv_pb2.ListKeysResponse(version=state.meta.kv_version)
        keys = state.coordination.keys_from(tenant, request.prefix, request.page_token)
        held = 0
        for key in keys:
            entry = kv.get(state, tenant, key, now_ms)
            if entry is None:
                continue
            held += len(key) + (0 if request.keys_only else len(entry.value))
            if len(answer.entries) >= (request.page_size or PAGE_DEFAULT) or held > PAGE_BYTES_MAX:
                answer.next_page_token = answer.entries[-1].key
                break
            answer.entries.append(entry_to_pb(entry, with_value=not request.keys_only))
        return answer

    @streaming
    async def WatchKeys(
        self, request: kv_pb2.WatchKeysRequest, context: Context
    ) -> AsyncIterator[kv_pb2.KeyChange]:
        """Level-triggered: what is told is what the state shows since the version told last."""
        wrong = key_faults(request.prefix, KEY_CHARS_MAX, "prefix") if request.exact or request.prefix else []
        low = range_faults("after_version", request.after_version, 0, 1 << 62)
        tenant = check(request.parent, wrong, low)
        await self._desk.look(context)
        seen, told_at, synced = request.after_version, 0.0, False
        loop = asyncio.get_running_loop()
        while True:
            meta = self._desk.state().meta
            if (seen and seen < meta.kv_forgotten) or seen > meta.kv_version:
                seen, synced = 0, False
                yield kv_pb2.KeyChange(reset=True, version=0)
            to = meta.kv_version
            for change in self._changes(tenant, request, seen):
                yield change
            if to > seen or not synced or loop.time() - told_at >= HEARTBEAT_S:
                yield kv_pb2.KeyChange(synced=True, version=to)
                told_at = loop.time()
            seen, synced = to, True
            await self._desk.reader.still_connected()
            if self._desk.state().meta.kv_version == seen:
                await self._desk.tide.wait("key", HEARTBEAT_S)

    def _changes(self, tenant: str, request: kv_pb2.WatchKeysRequest, after: int) -> list[kv_pb2.KeyChange]:
        found, gone = kv.changes(self._desk.state(), tenant, request.prefix, after)
        if not after:
            gone = []  # who knows nothing need not be told of what is gone
        both: list[KvEntry | Tombstone] = sorted([*found, *gone], key=lambda one: one.version)
        return [_change(one) for one in both if not request.exact or one.key == request.prefix]

    def _version(self, tenant: str, key: str) -> int:
        entry = self._desk.state().kv.get(name_key(tenant, key))
        return entry.version if entry is not None else 0


def entry_to_pb(entry: KvEntry, *, with_value: bool = True) -> kv_pb2.KeyEntry:
    return kv_pb2.KeyEntry(
        key=entry.key,
        value=entry.value if with_value else b"",
        version=entry.version,
        created_at_ms=entry.created_at_ms,
        changed_at_ms=entry.changed_at_ms,
        expires_at_ms=entry.expires_at_ms,
    )


def _change(one: KvEntry | Tombstone) -> kv_pb2.KeyChange:
    if isinstance(one, KvEntry):
        return kv_pb2.KeyChange(entry=entry_to_pb(one), version=one.version)
    entry = kv_pb2.KeyEntry(key=one.key, version=one.version, changed_at_ms=one.at_ms)
    return kv_pb2.KeyChange(entry=entry, deleted=True, expired=one.expired, version=one.version)
