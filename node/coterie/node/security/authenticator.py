"""From what a connection proves and a call carries to the principal, by the replicated state."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from coterie.core.access import ADMIN, EVERY_TENANT, RUNNER
from coterie.core.state import ClusterState
from coterie.node.config.secret_files import SecretFileError, read_secret
from coterie.node.errors import ApiError
from coterie.node.identity import caller as certificate_of
from coterie.node.security.principal import STRANGER, Principal
from coterie.node.security.tokens import BOOTSTRAP, Parsed, parse

HEADER = "authorization"
SCHEME = "bearer "
FIRST_USER = "admin"  # what `coterie tls init` makes; an admin until the state says otherwise
_NODE = frozenset({RUNNER, ADMIN})  # it could put anything into the log by itself
_NO_TOKEN = "the token is not one of this cluster, or has been forgotten"
_STRANGER = frozenset({STRANGER})
Context = grpc.aio.ServicerContext[Any, Any]


class UnknownToken(ApiError):
    """This node does not have it: it may have been made on another one a moment ago."""


@dataclass(frozen=True, slots=True)
class Authenticator:
    """Knows callers by their token, else by their certificate."""

    state: Callable[[], ClusterState]
    now_ms: Callable[[], int]
    admits: Callable[[str], bool]  # whether a node of that id belongs to the cluster
    bootstrap: Path  # this node's own secret; the file need not be there

    def principal(self, context: Context) -> Principal:
        """Raises ApiError UNAUTHENTICATED for a token that is none, and for a caller without any proof."""
        said = next((value for key, value in context.invocation_metadata() or () if key == HEADER), None)
        if said is not None:
            return self._by_token(str(said))
        who = certificate_of(context)
        if who.node:
            known = self.admits(who.node)
            return Principal(f"node:{who.node}", EVERY_TENANT if known else "", _NODE if known else _STRANGER)
        if who.user:
            return self._by_user(who.user)
        raise _unknown("NO_CREDENTIALS", "the call carries no token, and no certificate of a user")

    def _by_token(self, header: str) -> Principal:
        text = header[len(SCHEME) :] if header.lower().startswith(SCHEME) else ""
        parsed = parse(text.strip())
        if parsed is None:
            raise _unknown("BAD_TOKEN", "the token is not one of this cluster; send Bearer cot_…")
        if parsed.token_id == BOOTSTRAP:
            return self._by_file(parsed)
        token = self.state().tokens.get(parsed.token_id)
        if token is None:
            raise UnknownToken(grpc.StatusCode.UNAUTHENTICATED, "BAD_TOKEN", _NO_TOKEN)
        if not hmac.compare_digest(token.digest, parsed.digest):
            raise _unknown("BAD_TOKEN", _NO_TOKEN)
        if token.ended(max(self.now_ms(), self.state().meta.clock_ms)):
            why = "was revoked" if token.revoked_at_ms else "has expired"
            raise _unknown("TOKEN_ENDED", f"token {token.token_id} {why}; ask an admin for another one")
        return Principal(f"token:{token.token_id}", token.tenant, frozenset(token.roles))

    def _by_file(self, parsed: Parsed) -> Principal:
        try:
            kept = parse(read_secret(self.bootstrap))
        except SecretFileError:
            kept = None
        if kept is None or not hmac.compare_digest(kept.digest, parsed.digest):
            text = "this node has no such bootstrap token; `coterie token bootstrap` makes one, on its host"
            raise _unknown("BAD_TOKEN", text)
        return Principal("bootstrap", EVERY_TENANT, frozenset({ADMIN}))

    def _by_user(self, name: str) -> Principal:
        user = self.state().users.get(name)
        if user is not None:
            return Principal(f"user:{name}", user.tenant, frozenset(user.roles))
        roles = frozenset({ADMIN}) if name == FIRST_USER else frozenset()
        return Principal(f"user:{name}", EVERY_TENANT if roles else "", roles)


def _unknown(reason: str, message: str) -> ApiError:
    return ApiError(grpc.StatusCode.UNAUTHENTICATED, reason, message)
