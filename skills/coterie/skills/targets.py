"""The entries of a skill's network list."""

from __future__ import annotations

import re
from dataclasses import dataclass

DEFAULT_PORTS = frozenset({80, 443})
NAME_CHARS_MAX = 253
_HOST = re.compile(r"(\*\.)?([a-z0-9_]([a-z0-9_-]{0,62})\.?)+|\[[0-9a-f:.]+\]")


@dataclass(frozen=True, slots=True)
class Target:
    """One entry of a skill's list: `api.example.org`, `*.example.org`, `example.org:8443`."""

    host: str
    port: int  # 0: the usual ones

    def covers(self, host: str, port: int) -> bool:
        """Whether a connection to there is meant."""
        if port not in DEFAULT_PORTS if self.port == 0 else port != self.port:
            return False
        if self.host.startswith("*."):
            return host.endswith(self.host[1:])
        return host == self.host


def parse_target(text: str) -> Target:
    """Raises ValueError for what is no host name with an optional port."""
    host, colon, port = text.strip().lower().rpartition(":")
    if not colon or host.endswith(":") or port.endswith("]"):
        host, port = text.strip().lower(), "0"
    if not _HOST.fullmatch(host) or len(host) > NAME_CHARS_MAX or not port.isdecimal() or int(port) > 65_535:
        raise ValueError(f'{text!r} is not a host; write "api.example.org", "*.example.org" or "host:8443"')
    return Target(host.rstrip("."), int(port))
