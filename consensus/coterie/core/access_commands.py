"""Commands about access, and the envelope that says who asked for a command."""

from __future__ import annotations

from dataclasses import dataclass

from coterie.core.access import Token, User


@dataclass(frozen=True, slots=True)
class CreateToken:
    token: Token  # its times come from the log
    expires_after_ms: int = 0  # 0: never


@dataclass(frozen=True, slots=True)
class RevokeToken:
    token_id: str


@dataclass(frozen=True, slots=True)
class SetUser:
    user: User


@dataclass(frozen=True, slots=True)
class DeleteUser:
    name: str


@dataclass(frozen=True, slots=True)
class NoteCall:
    """A call that changed something beside the state, such as the membership: for the audit log only."""

    target: str
    code: str
