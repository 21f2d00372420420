"""Nouns of who may do what: tokens, users, and on whose behalf a command was proposed.

Invariants: of a token's secret the state holds the SHA-256 only; a token or user that holds admin or operator
is of every tenant; a revoked token stays revoked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

EVERY_TENANT = "*"
ADMIN, OPERATOR, SUBMITTER, VIEWER, RUNNER = "admin", "operator", "submitter", "viewer", "runner"
GRANTED = (ADMIN, OPERATOR, SUBMITTER, VIEWER)  # runner is what a node's certificate gives, and nothing else
CLUSTER_WIDE = frozenset({ADMIN, OPERATOR})


@dataclass(frozen=True, slots=True)
class Token:
    """What the cluster knows of a bearer token."""

    token_id: str
    digest: bytes  # SHA-256 of the secret, which has 256 random bits of its own: no salt is needed
    tenant: str
    roles: tuple[str, ...]
    note: str = ""
    created_at_ms: int = 0
    expires_at_ms: int = 0  # 0: never
    revoked_at_ms: int = 0  # 0: not

    def ended(self, now_ms: int) -> bool:
        """Whether it opens nothing any more."""
        return bool(self.revoked_at_ms) or 0 < self.expires_at_ms <= now_ms


@dataclass(frozen=True, slots=True)
class User:
    """What the holder of a certificate may do."""

    name: str
    tenant: str
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """Who asked for a command, by which call, and whose things they may touch."""

    principal: str
    method: str
    tenant: str = ""  # empty: every tenant's


# Of the state: the name of the dict, what is in it, and under which key.
TABLES: tuple[tuple[str, type, Callable[[Any], str]], ...] = (
    ("tokens", Token, attrgetter("token_id")),
    ("users", User, attrgetter("name")),
)


def grant_fault(tenant: str, roles: tuple[str, ...]) -> str:
    """What is wrong with a grant; empty: nothing."""
    unknown = [role for role in roles if role not in GRANTED]
    if unknown or not roles:
        return f"roles {', '.join(unknown) or 'are missing'}: give some of {', '.join(GRANTED)}"
    if not tenant:
        return f"tenant is empty: name one, or {EVERY_TENANT} for every tenant"
    if tenant != EVERY_TENANT and not CLUSTER_WIDE.isdisjoint(roles):
        return f"admin and operator act on the whole cluster: their tenant is {EVERY_TENANT}, not {tenant}"
    return ""
