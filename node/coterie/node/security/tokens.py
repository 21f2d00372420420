"""Bearer tokens as text: `cot_<id>_<secret>`, 256 random bits, of which only a hash is ever kept."""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Final, NamedTuple

PREFIX: Final = "cot"
BOOTSTRAP: Final = "bootstrap"  # the id of the one token that a node knows from a file of its own
SECRET_BYTES: Final = 32
_TOKEN: Final = re.compile(r"cot_([a-z0-9]{1,32})_([A-Za-z0-9_-]{43})")
_ID_BYTES: Final = 6


class Parsed(NamedTuple):
    token_id: str
    digest: bytes  # SHA-256 of the whole token


def mint(token_id: str = "") -> str:
    """A new token, the only place where it is whole."""
    return f"{PREFIX}_{token_id or secrets.token_hex(_ID_BYTES)}_{secrets.token_urlsafe(SECRET_BYTES)}"


def parse(text: str) -> Parsed | None:
    """Which token a text is; None: none at all."""
    found = _TOKEN.fullmatch(text)
    return Parsed(found[1], hashlib.sha256(text.encode()).digest()) if found else None
