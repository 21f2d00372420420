"""Who is calling: the identity in the caller's certificate, or nobody on an insecure loopback."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

from coterie.node.errors import ApiError
from coterie.node.tls import NODE_URI, USER_URI


@dataclass(frozen=True, slots=True)
class Caller:
    """`node` or `user` is set, from a certificate our CA signed; neither on an insecure connection."""

    node: str = ""
    user: str = ""
    secure: bool = False


def caller(context: grpc.aio.ServicerContext[Any, Any]) -> Caller:
    """The caller's identity by the subject alternative names of its certificate."""
    auth = context.auth_context()
    names = [name.decode(errors="replace") for name in auth.get("x509_subject_alternative_name", ())]
    if not auth.get("transport_security_type"):
        return Caller()
    node = next((name.removeprefix(NODE_URI) for name in names if name.startswith(NODE_URI)), "")
    user = next((name.removeprefix(USER_URI) for name in names if name.startswith(USER_URI)), "")
    return Caller(node, user, secure=True)


def require_node(
    context: grpc.aio.ServicerContext[Any, Any], admits: Callable[[str], bool], claimed: str
) -> str:
    """The peer that calls. With TLS its certificate must name it; without, loopback takes its word."""
    who = caller(context)
    name = who.node if who.secure else claimed
    if not name or not admits(name) or (claimed and claimed != name):
        raise ApiError(
            grpc.StatusCode.PERMISSION_DENIED,
            "NOT_A_PEER",
            f"the certificate names {who.node or who.user or 'nobody'!r}, the call claims {claimed!r}",
        )
    return name
