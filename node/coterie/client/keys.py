"""Small values under keys: versions, compare-and-set, times to live, watching."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from coterie.client.connection import Connection
from coterie.client.endpoints import Endpoint
from coterie.client.errors import NotFound
from coterie.client.spec import encode_payload
from coterie.client.streams import resumed
from coterie.client.units import Duration
from coterie.client.values import decode, milliseconds, moment, new_request_id
from coterie.v1 import kv_pb2, tasks_pb2


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """A key and what is under it. `version` grows with every change of any key; `data` are the bytes as they
    are."""

    key: str
    value: Any
    version: int
    data: bytes = b""
    changed: datetime | None = None
    expires: datetime | None = None

    @classmethod
    def of(cls, raw: kv_pb2.KeyEntry) -> KeyEntry:
        """The dataclass for a message."""
        changed, expires = moment(raw.changed_at_ms), moment(raw.expires_at_ms)
        return cls(raw.key, decode(raw.value), raw.version, raw.value, changed, expires)


@dataclass(frozen=True, slots=True)
class KeyChange:
    """What became of a key. `kind`: "put", "deleted", "expired"; "reset": forget all keys, they follow anew;
    "synced": what there was has been told. A watch goes on after `version`."""

    kind: str
    version: int
    key: str = ""
    value: Any = None


class Keys:
    """Small values under keys: `cluster.kv`. Values are JSON, or bytes."""

    def __init__(self, opened: Callable[[], Connection]) -> None:
        self._opened = opened

    async def get(self, key: str, default: Any = None) -> Any:
        """The value, or the default."""
        entry = await self.entry(key)
        return default if entry is None else entry.value

    async def entry(self, key: str, *, stale: bool = False) -> KeyEntry | None:
        """The key with its version; None: there is no such key. `stale=True` reads one node as it is."""
        mode = tasks_pb2.STALE if stale else tasks_pb2.LINEARIZABLE
        request = kv_pb2.GetKeyRequest(parent=self._parent, key=key, read_mode=mode)
        try:
            return KeyEntry.of(await self._opened().caller.unary(lambda e: e.keys.GetKey, request))
        except NotFound:
            return None

    async def put(
        self,
        key: str,
        value: Any,
        *,
        ttl: Duration | None = None,
        expected_version: int | None = None,
        request_id: str = "",
    ) -> int:
        """Sets the value; returns the new version. `ttl`: then it is gone. `expected_version`: only if the
        key is at that version, 0 if it does not exist; else VersionMismatch is raised, with the version there
        is."""
        request = kv_pb2.PutKeyRequest(
            parent=self._parent,
            key=key,
            value=encode_payload(value),
            ttl_ms=milliseconds("ttl", ttl),
            request_id=new_request_id(request_id),
        )
        if expected_version is not None:
            request.expected_version = expected_version
        return (await self._opened().caller.unary(lambda e: e.keys.PutKey, request)).version

    async def cas(self, key: str, value: Any, version: int, *, ttl: Duration | None = None) -> int:
        """`put` with that expected version."""
        return await self.put(key, value, ttl=ttl, expected_version=version)

    async def delete(self, key: str, *, expected_version: int | None = None, request_id: str = "") -> bool:
        """Whether it was there. Raises VersionMismatch as `put` does."""
        request = kv_pb2.DeleteKeyRequest(parent=self._parent, key=key, request_id=new_request_id(request_id))
        if expected_version is not None:
            request.expected_version = expected_version
        return bool((await self._opened().caller.unary(lambda e: e.keys.DeleteKey, request)).version)

    async def list(
        self, prefix: str = "", *, keys_only: bool = False, page_size: int = 200
    ) -> AsyncGenerator[KeyEntry, None]:
        """The keys that begin so, in order, page by page as they are read."""
        request = kv_pb2.ListKeysRequest(
            parent=self._parent, prefix=prefix, keys_only=keys_only, page_size=page_size
        )
        while True:
            page = await self._opened().caller.unary(lambda e: e.keys.ListKeys, request)
            for raw in page.entries:
                yield KeyEntry.of(raw)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def watch(
        self, prefix: str = "", *, exact: bool = False, after_version: int = 0
    ) -> AsyncGenerator[KeyChange, None]:
        """The keys that begin so as they are, then what becomes of them, whatever happens to nodes. Of
        changes that follow quickly on each other only the last may be told. With `after_version` only what
        came after it."""
        connection, seen = self._opened(), after_version

        def open_call(endpoint: Endpoint) -> Any:
            return endpoint.keys.WatchKeys(
                kv_pb2.WatchKeysRequest(
                    parent=f"tenants/{connection.tenant}", prefix=prefix, exact=exact, after_version=seen
                )
            )

        told_sync = False
        async for raw in resumed(connection.caller, open_call, kv_pb2.KeyChange):
            change = _change(raw)
            seen = change.version if change.kind != "reset" else 0
            if change.kind != "synced" or not told_sync:
                yield change
            told_sync = change.kind == "synced" or (told_sync and change.kind != "reset")

    @property
    def _parent(self) -> str:
        return f"tenants/{self._opened().tenant}"


def _change(raw: kv_pb2.KeyChange) -> KeyChange:
    if raw.reset or raw.synced:
        return KeyChange("reset" if raw.reset else "synced", raw.version)
    if raw.deleted:
        return KeyChange("expired" if raw.expired else "deleted", raw.version, raw.entry.key)
    return KeyChange("put", raw.version, raw.entry.key, decode(raw.entry.value))
