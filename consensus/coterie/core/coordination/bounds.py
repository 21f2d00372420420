"""How much of everything there may be: part of the rules, hence equal on all nodes."""

from __future__ import annotations

NAME_CHARS_MAX = 256  # of a lock, a topic, a group, a schedule, an owner
LOCKS_MAX = 10_000  # held at once in the cluster
WAITERS_MAX = 1_000  # for one lock
LEASE_MS_MAX = 24 * 3_600_000
WAITER_MS_MAX = 600_000  # that a waiter stays in the queue without asking again

KEY_CHARS_MAX = 512
VALUE_BYTES_MAX = 64 * 1024
KEYS_MAX = 10_000  # of one tenant
KEYS_BYTES_MAX = 16 * 1024 * 1024  # of one tenant, keys and values
ALL_KEYS_MAX = 50_000
ALL_KEYS_BYTES_MAX = 64 * 1024 * 1024
KEY_OVERHEAD_BYTES = 200
TOMBSTONES_MAX = 10_000  # deleted keys that watchers can still be told of one by one
TTL_MS_MAX = 366 * 24 * 3_600_000

TOPICS_MAX = 1_000  # of one tenant
ALL_TOPICS_MAX = 10_000
BODY_BYTES_MAX = 64 * 1024
MESSAGE_OVERHEAD_BYTES = 200
KEPT_COUNT = 1_000  # messages of a topic, unless it says otherwise
KEPT_COUNT_MAX = 10_000
KEPT_BYTES = 4 * 1024 * 1024
KEPT_BYTES_MAX = 16 * 1024 * 1024
KEPT_MS = 24 * 3_600_000
MESSAGES_MAX = 50_000  # in the cluster; then the oldest of all leaves first
MESSAGES_BYTES_MAX = 64 * 1024 * 1024
GROUPS_MAX = 1_000  # of one tenant
ALL_GROUPS_MAX = 10_000
UNACKED_MAX = 1_000  # of one group
FETCH_MAX = 256
ACK_WAIT_MS_MAX = 24 * 3_600_000

SCHEDULES_MAX = 1_000  # of one tenant
ALL_SCHEDULES_MAX = 10_000
TEMPLATE_BYTES_MAX = 64 * 1024
RUNS_MAX = 100  # of one schedule that are watched for overlap, or wait for their turn
NOMINALS_MAX = 500  # of one backfill

ANSWERS_MAX = 20_000  # to request ids, of all the above
ANSWERS_MS = 900_000
