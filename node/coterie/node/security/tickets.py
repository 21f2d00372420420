"""Who may name a blob: whoever has shown its content to a node, with the ticket that was given for it.

Blobs are kept by their hash, once, whoever stored them. A hash alone must open nothing: it may be told, or be
found by guessing short contents. A ticket is HMAC-SHA256, under the seal of the cluster, of the tenant for
which the content was shown, and the hash. Every node can check it, and none has to remember it."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Final

import grpc

from coterie.core.access import EVERY_TENANT
from coterie.core.state import ClusterState
from coterie.node.errors import ApiError, not_found
from coterie.node.security.principal import caller

SEAL_BYTES: Final = 32


class Tickets:
    """Gives them out and checks them, by the seal in the state."""

    def __init__(self, state: Callable[[], ClusterState]) -> None:
        self._state = state

    def give(self, sha256: str) -> str:
        """To the caller, who has shown the content. Raises ApiError NOT_READY while it knows no seal."""
        who = caller()
        self._refuse_without_seal()
        return self._for(EVERY_TENANT if who.everywhere else who.tenant, sha256)

    def check_caller(self, sha256: str, ticket: str) -> None:
        """Raises ApiError BLOB_NOT_FOUND when the caller may not name the blob, be it there or not, and
        NOT_READY where this node cannot know."""
        who = caller()
        if not who.everywhere:
            self.check(who.tenant, sha256, ticket)

    def check(self, tenant: str, sha256: str, ticket: str) -> None:
        """The same for what runs for a tenant."""
        self._refuse_without_seal()
        given = ticket.encode("utf-8", "replace")
        opens = [
            hmac.compare_digest(self._for(one, sha256).encode(), given) for one in (tenant, EVERY_TENANT)
        ]
        if not any(opens):
            raise not_found("BLOB", sha256)

    def _refuse_without_seal(self) -> None:
        """So it is at the first start of a cluster, and of a node that has not heard of the others since its
        own: a ticket may be good and yet not be known here."""
        if not self._state().meta.seal:
            text = "this node does not know the seal of the cluster's tickets yet; try again"
            raise ApiError(grpc.StatusCode.UNAVAILABLE, "NOT_READY", text, retry_after_ms=200)

    def _for(self, tenant: str, sha256: str) -> str:
        said = f"{tenant}\n{sha256}".encode()
        return hmac.new(self._state().meta.seal, said, hashlib.sha256).hexdigest()
