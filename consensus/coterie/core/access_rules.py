"""Rules about access: tokens, users, and what a caller of one tenant may not touch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from coterie.core.access import Origin, grant_fault
from coterie.core.access_commands import CreateToken, DeleteUser, NoteCall, RevokeToken, SetUser
from coterie.core.audit import DUPLICATE, OK, next_record, request_of, target_of
from coterie.core.bounds64 import later_ms
from coterie.core.commands import Accepted, Command, Outcome, Rejected, SubmitTask
from coterie.core.nouns import TaskId, evolve
from coterie.core.state import ClusterState, Moment

TOKENS_MAX = 10_000
USERS_MAX = 10_000
DIGEST_BYTES = 32


def create_token(state: ClusterState, command: CreateToken, moment: Moment) -> Outcome:
    token = command.token
    wrong = grant_fault(token.tenant, token.roles)
    if wrong or not token.token_id or len(token.digest) != DIGEST_BYTES or command.expires_after_ms < 0:
        return Rejected("BAD_GRANT", wrong or "a token has an id, a SHA-256 and a time that is not negative")
    known = state.tokens.get(token.token_id)
    if known is not None:
        if known.digest == token.digest:
            return Accepted(duplicate=True)
        return Rejected("TOKEN_EXISTS", f"there is a token {token.token_id} already")
    if len(state.tokens) >= TOKENS_MAX and not _forget_ended(state, moment.at_ms):
        return Rejected("TOO_MANY_TOKENS", f"there are {TOKENS_MAX} tokens that hold; revoke some")
    spell_ms = command.expires_after_ms
    expires_at_ms = later_ms(moment.at_ms, spell_ms) if spell_ms else 0
    state.tokens[token.token_id] = replace(
        token, created_at_ms=moment.at_ms, expires_at_ms=expires_at_ms, revoked_at_ms=0
    )
    return Accepted()


def _forget_ended(state: ClusterState, now_ms: int) -> bool:
    """Drop the tokens that open nothing any more; whether there were any."""
    ended = [token_id for token_id, token in state.tokens.items() if token.ended(now_ms)]
    for token_id in ended:
        del state.tokens[token_id]
    return bool(ended)


def revoke_token(state: ClusterState, command: RevokeToken, moment: Moment) -> Outcome:
    token = state.tokens.get(command.token_id)
    if token is None:
        return Rejected("TOKEN_NOT_FOUND", f"no token {command.token_id}")
    if token.revoked_at_ms:
        return Accepted(duplicate=True)
    state.tokens[token.token_id] = replace(token, revoked_at_ms=max(1, moment.at_ms))
    return Accepted()


def set_user(state: ClusterState, command: SetUser, moment: Moment) -> Outcome:
    user = command.user
    wrong = grant_fault(user.tenant, user.roles)
    if wrong or not user.name:
        return Rejected("BAD_GRANT", wrong or "a user has a name")
    if user.name not in state.users and len(state.users) >= USERS_MAX:
        return Rejected("TOO_MANY_USERS", f"there are at most {USERS_MAX} users")
    duplicate = state.users.get(user.name) == user
    state.users[user.name] = user
    return Accepted(duplicate=duplicate)


def delete_user(state: ClusterState, command: DeleteUser, moment: Moment) -> Outcome:
    if state.users.pop(command.name, None) is None:
        return Rejected("USER_NOT_FOUND", f"no user {command.name}")
    return Accepted()


def note_call(state: ClusterState, command: NoteCall, moment: Moment) -> Outcome:
    """The record of it is all there is to it."""
    return Accepted()


def hidden(state: ClusterState, command: Command, origin: Origin) -> Rejected | None:
    """The refusal of a command that touches another tenant's things: in the words for what is not there."""
    if not origin.tenant:
        return None
    tenant = getattr(command, "tenant", "")
    if isinstance(tenant, str) and tenant and tenant != origin.tenant:
        return Rejected("TENANT_DENIED", f"the caller is of tenant {origin.tenant}")
    if isinstance(command, SubmitTask):
        return None
    for name in ("task_id", "parent_id"):
        task_id = TaskId(getattr(command, name, ""))
        if task_id and _owner(state, task_id) not in ("", origin.tenant):
            return Rejected("TASK_NOT_FOUND", f"no live task {task_id}")
    return None


def _owner(state: ClusterState, task_id: TaskId) -> str:
    """The tenant of a task that the state still has."""
    task = state.task(task_id)
    if task is None:
        letter = state.dead_letters.get(task_id)
        task = letter.task if letter is not None else None
    return task.tenant if task is not None else ""


def tenant_of(state: ClusterState, command: Command, origin: Origin) -> str:
    """Whose things a command is about; empty: the cluster's."""
    tenant = getattr(command, "tenant", "")
    if isinstance(tenant, str) and tenant:
        return tenant
    task_id = TaskId(getattr(command, "task_id", ""))
    return (_owner(state, task_id) if task_id else "") or origin.tenant


def record(
    state: ClusterState, command: Command, origin: Origin, outcome: Outcome, moment: Moment, tenant: str
) -> None:
    """Add to the audit log what a caller asked for and what came of it."""
    code = OK
    if isinstance(command, NoteCall):
        code = command.code
    elif isinstance(outcome, Rejected):
        code = outcome.code
    elif outcome.duplicate:
        code = DUPLICATE
    meta = state.meta
    texts = (origin.principal, tenant, origin.method, target_of(command), request_of(command), code)
    made = next_record(meta.audit_count + 1, meta.audit_head, moment.index, moment.at_ms, texts)
    state.meta = evolve(meta, audit_count=made.sequence, audit_head=made.digest)
    state.noted.append(made)


RULES: dict[type, Callable[[ClusterState, Any, Moment], Outcome]] = {
    CreateToken: create_token,
    RevokeToken: revoke_token,
    SetUser: set_user,
    DeleteUser: delete_user,
    NoteCall: note_call,
}
