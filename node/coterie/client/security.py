"""Tokens and users, and whom the cluster takes the caller for: `cluster.security`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from coterie.client.rpc_errors import invalid
from coterie.client.units import Duration, duration_ms
from coterie.v1 import security_pb2

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from coterie.client.connection import Connection

Opened = Callable[[], "Connection"]


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """What the cluster knows of a token. `secret` is there in the answer of `create_token` only."""

    id: str
    tenant: str
    roles: tuple[str, ...]
    note: str
    created_at: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None
    secret: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class UserInfo:
    """What the holder of a certificate coterie://user/<name> may do."""

    name: str
    tenant: str
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WhoAmI:
    principal: str
    tenant: str
    roles: tuple[str, ...]


Tokens = list[TokenInfo]
Users = list[UserInfo]


class Security:
    """For admins, but for `whoami`. Raises PermissionDenied where the caller is none."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened

    async def create_token(
        self, roles: Iterable[str], *, tenant: str = "", valid_for: Duration | None = None, note: str = ""
    ) -> TokenInfo:
        """A new token. Its `secret` is in this answer and nowhere else. `tenant` is "*" for every tenant, by
        default for admin and operator; else "default". When the answer is lost no other one is made:
        Unavailable says that there may be one whose secret nobody has. Raises InvalidRequest."""
        request = security_pb2.CreateTokenRequest(
            roles=roles, tenant=tenant, valid_for_ms=_milliseconds(valid_for), note=note
        )
        look = "look with security.tokens for a new one, and revoke it, for nobody has its secret"
        answer = await self._opened().caller.unary(lambda e: e.security.CreateToken, request, look=look)
        return _token(answer.token, answer.secret)

    async def tokens(self) -> Tokens:
        """All tokens, the oldest first."""
        request = security_pb2.ListTokensRequest()
        answer = await self._opened().caller.unary(lambda e: e.security.ListTokens, request)
        return [_token(token) for token in answer.tokens]

    async def revoke_token(self, token_id: str) -> TokenInfo:
        """From now on it opens nothing. Raises NotFound."""
        request = security_pb2.RevokeTokenRequest(token_id=token_id)
        return _token(await self._opened().caller.unary(lambda e: e.security.RevokeToken, request))

    async def set_user(self, name: str, roles: Iterable[str], *, tenant: str = "") -> UserInfo:
        """What the user of that name may do from now on. Raises InvalidRequest."""
        request = security_pb2.SetUserRequest(user=security_pb2.User(name=name, tenant=tenant, roles=roles))
        return _user(await self._opened().caller.unary(lambda e: e.security.SetUser, request))

    async def users(self) -> Users:
        """The users that were set, by name."""
        request = security_pb2.ListUsersRequest()
        answer = await self._opened().caller.unary(lambda e: e.security.ListUsers, request)
        return [_user(user) for user in answer.users]

    async def remove_user(self, name: str) -> None:
        """Raises NotFound; InvalidRequest for `admin`, which is an admin wherever nothing is set for it."""
        request = security_pb2.DeleteUserRequest(name=name)
        await self._opened().caller.delete(lambda e: e.security.DeleteUser, request)

    async def whoami(self) -> WhoAmI:
        """Whom the cluster takes this client for."""
        request = security_pb2.WhoAmIRequest()
        answer = await self._opened().caller.unary(lambda e: e.security.WhoAmI, request)
        return WhoAmI(answer.principal, answer.tenant, tuple(answer.roles))


def _token(raw: security_pb2.Token, secret: str = "") -> TokenInfo:
    return TokenInfo(
        raw.token_id,
        raw.tenant,
        tuple(raw.roles),
        raw.note,
        _time(raw.create_time),
        _time(raw.expire_time),
        _time(raw.revoke_time),
        secret,
    )


def _user(raw: security_pb2.User) -> UserInfo:
    return UserInfo(raw.name, raw.tenant, tuple(raw.roles))


def _time(stamp: Timestamp) -> datetime | None:
    return stamp.ToDatetime(UTC) if stamp.seconds or stamp.nanos else None


def _milliseconds(valid_for: Duration | None) -> int:
    if valid_for is None:
        return 0
    try:
        return duration_ms(valid_for)
    except ValueError as error:
        raise invalid([("valid_for", str(error))]) from error
