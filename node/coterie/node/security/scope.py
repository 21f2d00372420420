"""What a caller of one tenant may name: requests without a tenant get theirs, others are refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import cache
from typing import Any

import grpc

from coterie.node.convert import NAME_PREFIX
from coterie.node.errors import ApiError
from coterie.node.security.principal import Principal

# How requests say whose things they are about; those of a list, one level down.
_FIELDS = {"parent": NAME_PREFIX, "tenant": ""}


@cache
def _scoped(descriptor: Any) -> tuple[str, ...]:
    """The fields of a message that name a tenant."""
    return tuple(
        field.name
        for field in descriptor.fields
        if field.name in _FIELDS and field.type == field.TYPE_STRING and not field.is_repeated
    )


@cache
def _lists(descriptor: Any) -> tuple[str, ...]:
    """The repeated fields whose items name a tenant."""
    return tuple(
        field.name
        for field in descriptor.fields
        if field.is_repeated and field.message_type is not None and _scoped(field.message_type)
    )


def confine(principal: Principal, request: Any) -> None:
    """Make the request one of the principal's tenant. Raises ApiError when it names another one."""
    descriptor = getattr(request, "DESCRIPTOR", None)
    if principal.everywhere or descriptor is None:
        return
    _confine(principal, request, descriptor)
    for name in _lists(descriptor):
        for item in getattr(request, name):
            _confine(principal, item, item.DESCRIPTOR)


def _confine(principal: Principal, message: Any, descriptor: Any) -> None:
    for name in _scoped(descriptor):
        own, said = _FIELDS[name] + principal.tenant, getattr(message, name)
        if not said:
            setattr(message, name, own)
        elif said not in (own, principal.tenant):
            mine = principal.tenant
            text = (
                f"{name}: {said!r} is not the caller's tenant, {mine}; write coterie --tenant {mine}, "
                f"COTERIE_TENANT={mine} or Cluster(tenant={mine!r})"
            )
            raise ApiError(grpc.StatusCode.PERMISSION_DENIED, "TENANT_DENIED", text)


async def confined(principal: Principal, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The same for a stream of requests."""
    async for request in requests:
        confine(principal, request)
        yield request
