"""Whom a call is made for. The guard of the listener sets it; everything that runs for the call can ask."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from coterie.core.access import ADMIN, CLUSTER_WIDE, EVERY_TENANT, OPERATOR, SUBMITTER, VIEWER, Origin

STRANGER = "stranger"  # what the certificate of a node gives that does not belong to the cluster
# What holds of a role holds of those after it too.
INCLUDES = {
    VIEWER: frozenset({VIEWER, SUBMITTER, OPERATOR, ADMIN}),
    SUBMITTER: frozenset({SUBMITTER, OPERATOR, ADMIN}),
    OPERATOR: frozenset({OPERATOR, ADMIN}),
    ADMIN: frozenset({ADMIN}),
}


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody, with what they were granted."""

    name: str  # user:<name>, token:<id>, node:<id>, bootstrap, or anonymous
    tenant: str = EVERY_TENANT
    roles: frozenset[str] = frozenset()
    method: str = ""  # of the call that is made
    audited: bool = False

    @property
    def everywhere(self) -> bool:
        """Whether every tenant's things are visible."""
        return self.tenant == EVERY_TENANT or not CLUSTER_WIDE.isdisjoint(self.roles)

    def sees(self, tenant: str) -> bool:
        return self.everywhere or tenant == self.tenant

    def has(self, role: str) -> bool:
        """Whether a role is held, by itself or within another."""
        return not INCLUDES[role].isdisjoint(self.roles)

    @property
    def origin(self) -> Origin | None:
        """What goes into the log with a command of this call; None: nothing."""
        if not self.audited:
            return None
        return Origin(self.name, self.method, "" if self.everywhere else self.tenant)


# What runs for no call of a client: the node's own loops, and calls where nobody is asked who they are.
NOBODY = Principal("anonymous", roles=frozenset({ADMIN}))
_CALLER: ContextVar[Principal] = ContextVar("caller", default=NOBODY)


def caller() -> Principal:
    """Whom the call at hand is made for."""
    return _CALLER.get()


def enter(principal: Principal) -> None:
    """From here on, in this task and those it starts, the call is made for that principal."""
    _CALLER.set(principal)
