"""The Security service: tokens and users, for admins; and who one is."""

from __future__ import annotations

import re
from collections.abc import Callable

from coterie.core import commands
from coterie.core.access import CLUSTER_WIDE, EVERY_TENANT, Token, User, grant_fault
from coterie.core.access_commands import CreateToken, DeleteUser, RevokeToken, SetUser
from coterie.core.commands import Rejected
from coterie.core.state import ClusterState
from coterie.node.admission import DEFAULT_TENANT, DURATION_MS_MAX, LABEL_CHARS_MAX, tenant_fault
from coterie.node.errors import Violation, from_rejection, invalid
from coterie.node.proposer import Proposer
from coterie.node.reads import Reader
from coterie.node.rpc import Context, Gate, propose_seconds, seconds_left, unary
from coterie.node.security.authenticator import FIRST_USER
from coterie.node.security.principal import caller
from coterie.node.security.tokens import mint, parse
from coterie.v1 import security_pb2 as pb
from coterie.v1 import security_pb2_grpc, tasks_pb2

_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")  # as certificates are made for
VALID_MS_MAX = 10 * DURATION_MS_MAX
_FIRST_STAYS = (
    f"{FIRST_USER} is what `coterie tls init` makes, and an admin wherever nothing is set for it: set less "
    f"(`coterie user set {FIRST_USER} --role viewer --tenant NAME`), or make a new authority"
)


class SecurityService(security_pb2_grpc.SecurityServicer):
    """Any node; what was changed holds on every node that has applied it."""

    def __init__(
        self, state: Callable[[], ClusterState], reader: Reader, proposer: Proposer, gate: Gate
    ) -> None:
        self._state, self._reader, self._proposer, self.gate = state, reader, proposer, gate

    @unary
    async def CreateToken(self, request: pb.CreateTokenRequest, context: Context) -> pb.CreateTokenResponse:
        roles = tuple(sorted(set(request.roles)))
        wide = not CLUSTER_WIDE.isdisjoint(roles)
        tenant = request.tenant or (EVERY_TENANT if wide else DEFAULT_TENANT)
        wrong = _grant_faults(tenant, roles)
        if len(request.note) > LABEL_CHARS_MAX:
            wrong.append(Violation("note", f"has more than {LABEL_CHARS_MAX} characters"))
        if not 0 <= request.valid_for_ms <= VALID_MS_MAX:
            text = f"{request.valid_for_ms} is not in 0..{VALID_MS_MAX} ms (0: until it is revoked)"
            wrong.append(Violation("valid_for_ms", text))
        if wrong:
            raise invalid(wrong)
        secret = mint()
        parsed = parse(secret)
        assert parsed is not None  # it was made one line above
        token = Token(parsed.token_id, parsed.digest, tenant, roles, request.note)
        await self._commit(CreateToken(token, request.valid_for_ms), context)
        made = self._state().tokens.get(token.token_id, token)
        return pb.CreateTokenResponse(token=_token_to_pb(made), secret=secret)

    @unary
    async def ListTokens(self, request: pb.ListTokensRequest, context: Context) -> pb.ListTokensResponse:
        await self._reader.barrier(tasks_pb2.LINEARIZABLE, seconds_left(context))
        tokens = sorted(
            self._state().tokens.values(), key=lambda token: (token.created_at_ms, token.token_id)
        )
        return pb.ListTokensResponse(tokens=[_token_to_pb(token) for token in tokens])

    @unary
    async def RevokeToken(self, request: pb.RevokeTokenRequest, context: Context) -> pb.Token:
        await self._commit(RevokeToken(request.token_id), context)
        return _token_to_pb(self._state().tokens[request.token_id])

    @unary
    async def SetUser(self, request: pb.SetUserRequest, context: Context) -> pb.User:
        roles = tuple(sorted(set(request.user.roles)))
        wide = not CLUSTER_WIDE.isdisjoint(roles)
        tenant = request.user.tenant or (EVERY_TENANT if wide else DEFAULT_TENANT)
        wrong = _grant_faults(tenant, roles, "user.")
        if not _USER.fullmatch(request.user.name):
            text = f"{request.user.name!r} is not a user name: letters, digits, and . _ @ -, at most 64"
            wrong.append(Violation("user.name", text))
        if wrong:
            raise invalid(wrong)
        user = User(request.user.name, tenant, roles)
        await self._commit(SetUser(user), context)
        return _user_to_pb(user)

    @unary
    async def ListUsers(self, request: pb.ListUsersRequest, context: Context) -> pb.ListUsersResponse:
        await self._reader.barrier(tasks_pb2.LINEARIZABLE, seconds_left(context))
        users = sorted(self._state().users.values(), key=lambda user: user.name)
        return pb.ListUsersResponse(users=[_user_to_pb(user) for user in users])

    @unary
    async def DeleteUser(self, request: pb.DeleteUserRequest, context: Context) -> pb.DeleteUserResponse:
        if request.name == FIRST_USER:
            raise invalid([Violation("name", _FIRST_STAYS)])
        await self._commit(DeleteUser(request.name), context)
        return pb.DeleteUserResponse()

    @unary
    async def WhoAmI(self, request: pb.WhoAmIRequest, context: Context) -> pb.WhoAmIResponse:
        who = caller()
        return pb.WhoAmIResponse(principal=who.name, tenant=who.tenant, roles=sorted(who.roles))

    async def _commit(self, command: commands.Command, context: Context) -> None:
        await self._reader.connected()
        outcome = await self._proposer.one(command, propose_seconds(context))
        if isinstance(outcome, Rejected):
            raise from_rejection(outcome)


def _grant_faults(tenant: str, roles: tuple[str, ...], at: str = "") -> list[Violation]:
    wrong = [] if tenant == EVERY_TENANT else tenant_fault(f"{at}tenant", tenant)
    text = grant_fault(tenant, roles)
    return [*wrong, Violation(f"{at}roles", text)] if text and not wrong else wrong


def _token_to_pb(token: Token) -> pb.Token:
    message = pb.Token(token_id=token.token_id, tenant=token.tenant, roles=token.roles, note=token.note)
    message.create_time.FromMilliseconds(token.created_at_ms)
    if token.expires_at_ms:
        message.expire_time.FromMilliseconds(token.expires_at_ms)
    if token.revoked_at_ms:
        message.revoke_time.FromMilliseconds(token.revoked_at_ms)
    return message


def _user_to_pb(user: User) -> pb.User:
    return pb.User(name=user.name, tenant=user.tenant, roles=user.roles)
