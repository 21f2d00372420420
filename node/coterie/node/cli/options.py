"""The options that every command takes about the way to the cluster."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class GlobalOptions:
    """As they were given: empty where they were not. `timeout` in seconds."""

    endpoint: str = ""
    tls_dir: str = ""
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    token: str = ""
    tenant: str = ""
    insecure: bool = False
    timeout: float | None = None
