"""Tokens and users for programs without asyncio: the same methods, blocking."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator

from coterie.client import audit, security
from coterie.client.sync_queueing import Run
from coterie.client.units import Duration


class Security:
    """See `coterie.client.security.Security`."""

    def __init__(self, run: Run, calls: security.Security) -> None:
        self._run, self._calls = run, calls

    def create_token(
        self, roles: Iterable[str], *, tenant: str = "", valid_for: Duration | None = None, note: str = ""
    ) -> security.TokenInfo:
        """See `coterie.client.security.Security.create_token`."""
        return self._run(self._calls.create_token(roles, tenant=tenant, valid_for=valid_for, note=note))

    def tokens(self) -> security.Tokens:
        """See `coterie.client.security.Security.tokens`."""
        return self._run(self._calls.tokens())

    def revoke_token(self, token_id: str) -> security.TokenInfo:
        """See `coterie.client.security.Security.revoke_token`."""
        return self._run(self._calls.revoke_token(token_id))

    def set_user(self, name: str, roles: Iterable[str], *, tenant: str = "") -> security.UserInfo:
        """See `coterie.client.security.Security.set_user`."""
        return self._run(self._calls.set_user(name, roles, tenant=tenant))

    def users(self) -> security.Users:
        """See `coterie.client.security.Security.users`."""
        return self._run(self._calls.users())

    def remove_user(self, name: str) -> None:
        """See `coterie.client.security.Security.remove_user`."""
        self._run(self._calls.remove_user(name))

    def whoami(self) -> security.WhoAmI:
        """See `coterie.client.security.Security.whoami`."""
        return self._run(self._calls.whoami())


class Audit:
    """See `coterie.client.audit.Audit`."""

    def __init__(
        self,
        run: Run,
        each: Callable[[AsyncGenerator[audit.AuditEntry, None]], Iterator[audit.AuditEntry]],
        log: audit.Audit,
    ) -> None:
        self._run, self._each, self._log = run, each, log

    def head(self) -> audit.AuditHead:
        """See `coterie.client.audit.Audit.head`."""
        return self._run(self._log.head())

    def entries(self, *, after: int = 0) -> Iterator[audit.AuditEntry]:
        """See `coterie.client.audit.Audit.entries`."""
        return self._each(self._log.entries(after=after))
