"""What the files of certificates are called, what they say, and how a fault in them is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from coterie.node.config.findings import ConfigError
from coterie.node.config.settings import TlsPaths

NODE_URI: Final = "coterie://node/"
USER_URI: Final = "coterie://user/"
CA_CERT: Final = "ca.crt"
CA_KEY: Final = "ca.key"


class TlsError(ConfigError):
    """A certificate, key or authority cannot be used: one line, naming the file and the remedy."""

    def __init__(self, problem: str) -> None:
        super().__init__([problem])


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """What gRPC needs, in PEM, checked. The key is left out of repr."""

    ca: bytes
    cert: bytes
    key: bytes = field(repr=False)
    expires_at: datetime  # of the certificate or its authority, whichever is first; UTC


def node_paths(directory: Path, node_id: str) -> TlsPaths:
    """The files of a node in a directory made by `init_tls`."""
    return TlsPaths(directory / CA_CERT, directory / f"{node_id}.crt", directory / f"{node_id}.key")


def user_paths(directory: Path, name: str) -> TlsPaths:
    """The files of a user in a directory made by `init_tls`. The dot keeps them apart from node ids."""
    return TlsPaths(directory / CA_CERT, directory / f"user.{name}.crt", directory / f"user.{name}.key")
