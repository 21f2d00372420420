"""Rules of keys and values: every change has a version that only grows, on which compare-and-set goes.

Invariants: `kv` is in the order of versions; a version is used once, also over deletes; what is expired at
the entry's time is not there; a tombstone's key does not exist; keys and bytes of a tenant stay within their
bounds."""

from __future__ import annotations

from coterie.core.bounds64 import later_ms
from coterie.core.commands import Accepted, Outcome, Rejected
from coterie.core.coordination import bounds
from coterie.core.coordination.answers import answered, name_fault, remember
from coterie.core.coordination.commands import DeleteKey, PutKey
from coterie.core.coordination.look_ups import entry_bytes, name_key
from coterie.core.coordination.nouns import KvEntry, Tombstone
from coterie.core.nouns import evolve
from coterie.core.state import ClusterState, Moment

ANY_VERSION = -1


def put(state: ClusterState, command: PutKey, moment: Moment) -> Outcome:
    """`number` of the answer is the new version."""
    request = f"{command.tenant}/key/{command.request_id}" if command.request_id else ""
    known = answered(state, request, command.digest)
    if known is not None:
        return known
    name = name_key(command.tenant, command.key)
    before = expire(state, name, moment)
    refused = _put_refused(state, command, before)
    if refused is not None:
        return refused
    version = state.meta.kv_version + 1
    expires_at_ms = later_ms(moment.at_ms, command.ttl_ms) if command.ttl_ms else 0
    created_at_ms = before.created_at_ms if before is not None else moment.at_ms
    after = KvEntry(
        command.tenant, command.key, command.value, version, created_at_ms, moment.at_ms, expires_at_ms
    )
    _store(state, name, before, after)
    if request:
        remember(state, request, command.digest, version, moment)
    return Accepted(number=version)


def _put_refused(state: ClusterState, command: PutKey, before: KvEntry | None) -> Rejected | None:
    refused = name_fault("tenant", command.tenant, bounds.NAME_CHARS_MAX)
    refused = refused or name_fault("key", command.key, bounds.KEY_CHARS_MAX)
    if refused is not None:
        return refused
    if len(command.value) > bounds.VALUE_BYTES_MAX or not 0 <= command.ttl_ms <= bounds.TTL_MS_MAX:
        text = f"a value has at most {bounds.VALUE_BYTES_MAX} bytes, ttl_ms is in 0..{bounds.TTL_MS_MAX}"
        return Rejected("BAD_KEY", text)
    return _mismatch(command.key, command.expected_version, before) or _full(state, command, before)


def _mismatch(key: str, expected: int, before: KvEntry | None) -> Rejected | None:
    found = before.version if before is not None else 0
    if expected in (ANY_VERSION, found):
        return None
    return Rejected("VERSION_MISMATCH", f"key {key} is at version {found}, not {expected}")


def _full(state: ClusterState, command: PutKey, before: KvEntry | None) -> Rejected | None:
    look_ups = state.coordination
    more = len(command.key) + len(command.value) + bounds.KEY_OVERHEAD_BYTES
    more -= entry_bytes(before) if before is not None else 0
    if look_ups.key_bytes.get(command.tenant, 0) + more > bounds.KEYS_BYTES_MAX:
        return Rejected("KV_FULL", f"keys and values of a tenant hold at most {bounds.KEYS_BYTES_MAX} bytes")
    if before is None and len(look_ups.keys.get(command.tenant, ())) >= bounds.KEYS_MAX:
        return Rejected("KV_FULL", f"a tenant has at most {bounds.KEYS_MAX} keys")
    over = look_ups.all_key_bytes + more > bounds.ALL_KEYS_BYTES_MAX
    if over or (before is None and len(state.kv) >= bounds.ALL_KEYS_MAX):
        return Rejected("KV_FULL", "the keys of all tenants together leave no room")
    return None


def delete(state: ClusterState, command: DeleteKey, moment: Moment) -> Outcome:
    """`number` of the answer is the version of the change; 0: the key was not there."""
    request = f"{command.tenant}/key/{command.request_id}" if command.request_id else ""
    known = answered(state, request, command.digest)
    if known is not None:
        return known
    name = name_key(command.tenant, command.key)
    before = expire(state, name, moment)
    refused = _mismatch(command.key, command.expected_version, before)
    if refused is not None:
        return refused
    version = _bury(state, name, before, moment) if before is not None else 0
    if request:
        remember(state, request, command.digest, version, moment)
    return Accepted(number=version, duplicate=before is None)


def expire(state: ClusterState, name: str, moment: Moment) -> KvEntry | None:
    """The key as it is at this moment."""
    entry = state.kv.get(name)
    if entry is None or not entry.expires_at_ms or entry.expires_at_ms > moment.at_ms:
        return entry
    _bury(state, name, entry, moment, expired=True)
    return None


def _bury(state: ClusterState, name: str, entry: KvEntry, moment: Moment, expired: bool = False) -> int:
    version = state.meta.kv_version + 1
    _store(state, name, entry, None)
    state.tombstones.pop(name, None)
    state.tombstones[name] = Tombstone(entry.tenant, entry.key, version, moment.at_ms, expired)
    state.meta = evolve(state.meta, kv_version=version)
    if len(state.tombstones) > bounds.TOMBSTONES_MAX:
        _, oldest = state.tombstones.popitem(last=False)
        state.meta = evolve(state.meta, kv_forgotten=oldest.version)
    return version


def _store(state: ClusterState, name: str, before: KvEntry | None, after: KvEntry | None) -> None:
    """What changed last stands last."""
    if before is not None:
        del state.kv[name]
    if after is not None:
        state.kv[name] = after
        state.tombstones.pop(name, None)
        state.meta = evolve(state.meta, kv_version=after.version)
    state.coordination.key_changed(name, before, after)


# --- reading


def get(state: ClusterState, tenant: str, key: str, now_ms: int) -> KvEntry | None:
    """The key, unless its time is over."""
    entry = state.kv.get(name_key(tenant, key))
    over = entry is not None and 0 < entry.expires_at_ms <= now_ms
    return None if over else entry


def changes(
    state: ClusterState, tenant: str, prefix: str, after: int
) -> tuple[list[KvEntry], list[Tombstone]]:
    """What became of the keys with that prefix since a version, each in the order of versions. Of several
    changes of one key only the last shows. Right only while `after` is not below `kv_forgotten`."""
    found, gone = [], []
    for entry in reversed(state.kv.values()):
        if entry.version <= after:
            break
        if entry.tenant == tenant and entry.key.startswith(prefix):
            found.append(entry)
    for tombstone in reversed(state.tombstones.values()):
        if tombstone.version <= after:
            break
        if tombstone.tenant == tenant and tombstone.key.startswith(prefix):
            gone.append(tombstone)
    return found[::-1], gone[::-1]
